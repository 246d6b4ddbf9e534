"""What the documents say is what the code and the result files say."""

import csv
import functools
import re
import runpy
import shlex
import shutil
from typing import Any

import pytest
import typer

from acmix import config
from acmix.benchmark.published import measured, speed_tables, targets
from acmix.benchmark.published.headline import costs, headline
from acmix.benchmark.record import COLUMNS, write_rows
from acmix.cli.commands import app
from acmix.models import count
from tests.support.pages import PAGES, commands
from tests.support.paths import ROOT
from tests.support.processes import script


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def saved(name):
    with open(ROOT / "benchmarks" / "results" / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_readme_s_table_of_models_is_the_saved_one():
    from acmix.benchmark.published.counts import markdown

    assert markdown(saved("models.csv")) in read("README.md")


@pytest.fixture(scope="module")
def counted_once():
    """Lets the two tables share what they count."""
    with pytest.MonkeyPatch.context() as patch:
        cost = functools.cache(count.cost)
        for module in ("acmix.benchmark.published.counts", "acmix.tools.paper"):
            patch.setattr(f"{module}.cost", cost)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("counted_once")
def test_the_saved_table_of_models_is_what_is_counted_now():
    from acmix.benchmark.published.counts import rows

    assert rows() == saved("models.csv")


@pytest.mark.slow
@pytest.mark.usefixtures("counted_once")
def test_the_table_beside_the_paper_is_the_saved_one_and_what_is_counted_now():
    from acmix.tools import paper

    rows = [paper.Row(**row) for row in saved("paper_params.csv")]
    assert paper.markdown(rows) in read("docs/models.md")
    assert paper.params() == rows


def test_the_speed_of_every_family_is_the_saved_one():
    from acmix.benchmark.published.families import table

    assert table(saved("family_speed_cpu.csv")) in read("docs/performance.md")


def test_the_table_of_exports_is_the_saved_one():
    from acmix.benchmark.published.exports import table

    found = saved("exports.csv")
    assert table(found) in read("docs/export.md")
    assert all(row["model"] for row in found)


def test_the_table_of_compiled_kernels_is_the_saved_one():
    from acmix.benchmark.ahead.before import START, table

    assert f"{START}\n{table(ROOT)}\n<" in read("acmix/ops/README.md")


def test_the_table_of_clients_is_the_saved_one():
    table = runpy.run_path(str(ROOT / "scripts" / "clients" / "table.py"))["table"]
    assert table(saved("clients.csv")) in read("docs/clients.md")


def commands_of(page):
    """The commands of a page's shell blocks, as lists of words; those with placeholders are left out."""
    for block in re.findall(r"```bash\n(.*?)```", read(page), flags=re.DOTALL):
        for line in commands(block):
            words = shlex.split(line, comments=True)
            if words and not {"...", "N"} & set(words):
                yield words


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_understood(page, monkeypatch):
    """Options, shipped configurations and settings exist; nothing is run, so no checkpoint has to be there."""
    monkeypatch.setattr("os.path.lexists", lambda path: True)
    group: Any = typer.main.get_command(app)
    for words in commands_of(page):
        if words[0] == "acmix":
            context, command, rest = group.make_context("acmix", words[1:]), group, words[1:]
            while hasattr(command, "resolve_command"):
                name, command, rest = command.resolve_command(context, rest)
                context = command.make_context(name, list(rest), parent=context)
        elif words[:2] == ["bash", "run.sh"] and len(words) > 2 and "path/to" not in words[3]:
            config.load(words[3], words[5:])


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_to_one(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", read(page)):
        assert target.startswith("http") or (folder / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_no_table_of_a_readme_has_a_row_without_a_figure(page):
    rows = [line for line in read(page).splitlines() if line.startswith("| ") and "---" not in line]
    assert [row for row in rows if "not measured" in row.lower() or "not trained" in row or "unknown" in row] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    for name in re.findall(r"(?<![\w/.<-])(?:acmix|benchmarks|docs|scripts|tests)/[\w./*-]*[\w*]", read(page)):
        assert any(ROOT.glob(name)), f"{page} names {name}"


def test_the_page_of_installing_lists_every_extra():
    listed = re.findall(r"^\| `(\w+)` \|", read("docs/install.md"), re.MULTILINE)
    project = read("pyproject.toml").partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert sorted(listed) == sorted(re.findall(r"^(\w+) = \[", project, re.MULTILINE))


def test_the_costs_of_the_layer_are_the_measured_ones():
    """The page and README.md show one measurement of the layer, and every ratio is the convolution's ÷ ACmix's."""
    rows = [line.strip("| ").split(" | ") for line in costs(measured.read(ROOT / "benchmarks" / "results"))]
    (times,) = [row for row in rows if row[0] == "`ACmix2d(64, 64)` at 80×80, one image" and "time" in row[1]]
    assert f"one image, over a 3×3 convolution | {times[4]} |" in read("README.md")
    assert f"| {' | '.join(times)} |" in read("docs/in_your_model.md")
    for _, figure, ours, theirs, ratio in rows[2:-2]:
        # the ratio of two medians is not quite the median of the ratios
        assert float(theirs) / float(ours) == pytest.approx(float(ratio), rel=0.05 if "time" in figure else 0.01)


def test_the_readme_s_accuracy_of_the_demo_is_the_saved_one():
    (demo,) = [row for row in saved("digits.csv") if row["run"] == "ACmix-Swin"]
    assert f"reached {demo['top1']} % top-1" in read("README.md")


@pytest.mark.slow
def test_the_tables_of_speed_are_the_measured_ones():
    found = measured.read(ROOT / "benchmarks" / "results")
    shown = set()
    assert found.rows
    for page in ("README.md", "README.zh.md", *[f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert speed_tables.filled(text, found) == text, f"{page}: run python benchmarks/speed.py --tables"
        shown |= set(re.findall(r"<!-- speed:(\w+) -->", text))
    assert {"headline", "targets", "ceilings", "floors", "groups"} <= shown


@pytest.mark.slow
def test_tables_are_made_again_without_measuring(tmp_path):
    for folder in ("benchmarks", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for page in ("README.md", "README.zh.md"):
        shutil.copy(ROOT / page, tmp_path / page)
    (tmp_path / "README.md").write_text("<!-- speed:headline -->\nold\n<!-- /speed:headline -->\n", encoding="utf-8")
    done = script(tmp_path / "benchmarks" / "speed.py", "--tables")
    assert done.status == 0, done.errors
    assert "--- targets" in done.output
    assert "ceilings here" not in done.output
    assert f"written: {tmp_path / 'README.md'}" in done.output
    assert "old" not in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_wrong_or_missing_result_is_never_a_target_that_was_met(tmp_path):
    def lines(**cells):
        row = {**dict.fromkeys(COLUMNS, ""), "line": "conv_path", "shape": "56x56 C 96 N 3", "dtype": "fp32", **cells}
        write_rows([{**row, "phase": "forward", "images": 8, "peer": "reference"}], tmp_path / "speed_cpu.csv")
        (line, *others) = targets.targets(measured.read(tmp_path))[2:]
        assert others == ["", f"Not measured: {len(targets.TARGETS) - 1} of {len(targets.TARGETS)} targets."]
        return line

    assert lines(speed_up=12.0, speed_up_low=11.9, speed_up_high=12.1).endswith("| 12.0 (11.9 to 12.1) | yes |")
    assert lines(speed_up=11.99, speed_up_low=11.9, speed_up_high=12.1).endswith("| **no** |")
    assert lines(speed_up="WRONG").endswith("| WRONG | **no** |")


def row(**cells):
    """A row of a model, as `speed.py` writes it."""
    found = {"subject": measured.SWIN, "phase": "infer", "candidate": "acmix", "speed_up": 1.5, **measured.FULL}
    known = {"machine": "A", "torch": "2", "timm": "1", "commit": "0123456789", "date": "2026-11-26 05:00"}
    return {**dict.fromkeys(COLUMNS, ""), **known, "dtype": "fp32", **found, **cells}


def test_the_headline_shows_what_is_measured_alone(tmp_path):
    assert headline(measured.read(tmp_path)) == []
    write_rows([row(peer="timm", dtype="fp32"), row(peer="plain", dtype="bf16")], tmp_path / "speed_cpu.csv")
    titles, _, *lines = headline(measured.read(tmp_path))
    assert titles == "| speed-up, 8 images | fp32 |"
    assert lines == [
        "| **ACmix-Swin-T over timm's Swin-T, inference** | 1.50 |",
        "",
        "A, torch 2, timm 1, commit `0123456`, 2026-11-26.",
    ]
    write_rows([row(peer="timm", dtype="fp32", speed_up="WRONG")], tmp_path / "speed_cpu.csv")
    assert headline(measured.read(tmp_path))[2] == "| **ACmix-Swin-T over timm's Swin-T, inference** | WRONG |"


def test_the_headline_splits_a_speed_up_into_the_better_model_and_the_cost_of_the_path(tmp_path):
    pair = [row(peer="timm", speed_up=1.32), row(peer="plain", speed_up=0.88)]
    write_rows([*pair, *[row(peer="timm", dtype="bf16", speed_up=1.2)]], tmp_path / "speed_cpu.csv")
    titles, _, *lines = headline(measured.read(tmp_path))
    assert titles.endswith("| fp32 |"), "bf16 lacks a cell"
    assert [line.split(" | ")[1] for line in lines[:3]] == ["1.32 |", "1.50 |", "0.880 |"]


def test_the_headline_never_mixes_machines(tmp_path):
    rows = [row(peer="timm"), row(peer="plain"), row(peer="timm", phase="train", machine="B")]
    write_rows(rows, tmp_path / "speed_cpu.csv")
    lines = headline(measured.read(tmp_path))
    assert "training" not in "".join(lines)
    assert lines[-1].startswith("A, ")
    both = speed_tables.machine(measured.read(tmp_path))
    assert [line.partition(",")[0] for line in both if line] == ["A", "B"]


@pytest.mark.slow
def test_multiply_adds_of_the_floors_are_those_of_the_saved_models():
    counted = {row["model"]: float(row["gmacs"]) for row in saved("models.csv")}
    for name in (measured.SWIN, measured.RESNET):
        assert speed_tables.gmacs_of(name, "infer") == pytest.approx(counted[name], abs=5e-4)
