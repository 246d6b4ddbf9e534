"""The page of pain points names tests that there are."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "pain_points.md"
ROWS = re.findall(r"^\| (\d+) \| .*? \| (.*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
FILES = ("layers/test_acmix2d", "layers/test_acmix2d_costs")


def test_every_pain_point_has_a_test_or_says_not_yet() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 21))
    for number, holds in ROWS:
        assert "::test_" in holds or "not yet" in holds, f"row {number}"


def test_every_test_that_the_page_names_exists() -> None:
    for number, holds in ROWS:
        for file, test in re.findall(r"`([\w/]*test_\w+\.py)::(\w+)`", holds):
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", source, flags=re.MULTILINE), f"row {number}: {file}::{test}"


def test_rows_in_the_layer_s_tests_are_rows_of_the_page() -> None:
    """A comment `# row N` above a test and the page agree on which layer test holds which row at least once."""
    source = "".join((ROOT / "tests" / f"{name}.py").read_text(encoding="utf-8") for name in FILES)
    marked = {
        int(n) for line in re.findall(r"^# rows? ([\d, ]+)$", source, flags=re.MULTILINE) for n in line.split(",")
    }
    named = {int(number) for number, holds in ROWS if any(f"{name}.py::" in holds for name in FILES)}
    assert named == marked
