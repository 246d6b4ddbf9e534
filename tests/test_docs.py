"""What the documents say is what the code and the result files say."""

import csv
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def saved(name):
    with open(ROOT / "benchmarks" / "results" / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_readme_s_table_of_models_is_the_saved_one():
    from models import markdown

    assert markdown(saved("models.csv")) in read("README.md")


def test_the_saved_table_of_models_is_what_is_counted_now():
    from models import rows

    assert rows() == saved("models.csv")


def test_the_readme_s_python_runs():
    (code,) = re.findall(r"```python\n(.*?)```", read("README.md"), flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert names["logits"].shape == (2, 10)
    assert [tuple(each.shape) for each in names["maps"]] == [
        (1, 96, 80, 50),
        (1, 192, 40, 25),
        (1, 384, 20, 13),
        (1, 768, 10, 7),
    ]


@pytest.mark.parametrize("page", ["README.md", *[f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]])
def test_every_link_to_a_file_leads_to_one(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", read(page)):
        assert target.startswith("http") or (folder / target).exists(), f"{page} links to {target}"


def test_the_costs_of_the_layer_are_the_measured_ones():
    page = read("docs/in_your_model.md")
    table = page.partition("<!-- costs:")[2].partition("<!-- end of costs -->")[0]
    shown = dict(re.findall(r"^\| (.*?) \| ([\d.]+) \|$", table, flags=re.MULTILINE))
    measured = {row["what"]: row["value"] for row in saved("acmix2d.csv") if "MiB" not in row["what"]}
    assert shown == measured


def test_the_readme_s_accuracy_of_the_demo_is_the_saved_one():
    (demo,) = [row for row in saved("digits.csv") if row["run"] == "ACmix-Swin"]
    assert f"reached {demo['top1']} % top-1" in read("README.md")
