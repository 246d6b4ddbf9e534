"""Files that the commands write: what is none of ours is left as it is, and that is said before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from acmix.paper.grid import read_grid
from acmix.paper.runs import kept
from tests.paper.test_ablation import written
from tests.paper.test_paths import AS_CLAIMED, write_run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def calls(tmp_path: Path) -> dict[str, list[str | Path]]:
    """Each command, ready to be run but for its outputs."""
    runs = [write_run(tmp_path / f"seed_{seed}", AS_CLAIMED) for seed in range(2)]
    grid, output = written(tmp_path), tmp_path / "runs"
    kept(read_grid(grid), output)
    return {
        "params": ["paper", "params"],
        "decompose": ["paper", "decompose", "--channels", "8", "--side", "4"],
        "paths": ["paper", "paths", *runs],
        "ablation": ["paper", "ablation", grid, "--output", output, "--status"],
        "train": ["paper", "ablation", grid, "--output", output, "--data", tmp_path],
        "speed": ["paper", "speed"],
        "figure": ["paper", "figure"],
    }


@pytest.mark.parametrize(
    "command",
    [
        *("decompose --picture", "paths --picture", "ablation --picture", "train --picture", "figure"),
        *("params --csv", "decompose --csv", "paths --csv", "ablation --csv", "train --csv", "speed --csv"),
    ],
)
@pytest.mark.parametrize("name", ["mine.txt", "mine.csv", "mine.png", "small.yaml"])
def test_a_file_of_somebody_else_is_left_alone(
    command: str, name: str, calls: dict[str, list[str | Path]], acmix: Call, tmp_path: Path
) -> None:
    file = tmp_path / name
    if not file.exists():
        file.write_text("name,age\nmine,3\n")
    before = file.read_bytes()
    call, *option = command.split()
    status, said, errors = acmix(*calls[call], *option, file)
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert name in errors
    assert file.read_bytes() == before


@pytest.mark.slow
def test_a_picture_and_a_table_of_ours_are_made_anew(
    calls: dict[str, list[str | Path]], acmix: Call, tmp_path: Path
) -> None:
    for _ in range(2):
        for call in ("decompose", "paths"):
            outputs = ["--csv", tmp_path / f"{call}.csv", "--picture", tmp_path / f"{call}.PNG"]
            assert acmix(*calls[call], *outputs)[::2] == (0, "")
    same = tmp_path / "new.png"
    status, said, errors = acmix(*calls["decompose"], "--csv", same, "--picture", same.parent / "." / same.name)
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert "a table and a picture" in errors
    # what stands at the default place is looked at, too
    (tmp_path / "runs" / "ablation.png").write_text("dear")
    status, said, errors = acmix(*calls["train"])
    assert (status, said) == (2, "")
    assert "is no PNG" in errors


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no such place")
@pytest.mark.parametrize("name", ["/proc/x", "/dev/null", f"{'x' * 300}"])
def test_a_place_where_nothing_can_be_written_is_refused_first(
    name: str, calls: dict[str, list[str | Path]], acmix: Call, tmp_path: Path
) -> None:
    for command in ("decompose --csv", "paths --csv", "train --csv", "speed --csv", "train --picture", "figure"):
        call, *option = command.split()
        ending = ".png" if option != ["--csv"] and name != "/dev/null" else ""
        status, said, errors = acmix(*calls[call], *option, f"{tmp_path / name}{ending}")
        assert (status, said, errors.count("\n")) == (2, "", 1)
