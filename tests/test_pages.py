"""Every block of code in the documents runs, with networks and photographs that take seconds.

`tests/support/page_rules.py` says how; what it leaves out is skipped here by name, with the reason.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from tests.support.downstream import (
    DIGITS,
    detection_config,
    segmentation_config,
    write_downstream_run,
)
from tests.support.images import draw_image, make_image_folder
from tests.support.page_rules import (
    ADDED,
    CHANGED,
    LEFT_OUT,
    OPTIONAL,
    PYTHON_LEFT_OUT,
    RUN,
    SCRIPTS,
    SMALL_SWIN,
    TINY_SWIN,
    TRAINING,
    TRANSLATIONS,
)
from tests.support.pages import PAGES, Block, blocks, commands
from tests.support.paths import DATA, ROOT
from tests.support.processes import PATIENCE, Ended, command, free_port

# what stands in for Slurm's commands and an installed acmix: two machines that are both this one
SLURM = {
    "scontrol": "printf 'localhost\\nlocalhost\\n'",
    "srun": """
while [[ $1 == --* ]]; do shift; done
for id in 0 1; do SLURM_NODEID=$id "$@" & jobs="${jobs:-} $!"; done
for job in $jobs; do wait "$job" || exit 1; done""",
    "python": f'exec {sys.executable} "$@"',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
}


def of_page(page: str, language: str) -> list[Block]:
    """A page's blocks in a language."""
    return [block for block in blocks((ROOT / page).read_text(encoding="utf-8")) if block.language == language]


def is_script(block: Block) -> bool:
    """Whether a block of shell runs as a whole."""
    return re.search(SCRIPTS, block.text) is not None


def shell() -> Iterator[tuple[str, str]]:
    """Every page's commands."""
    for page in PAGES:
        for block in of_page(page, "bash"):
            if not is_script(block):
                yield from ((page, line) for line in commands(block.text))


def why_left_out(line: str) -> str:
    """Why a command is not run; nothing where it is."""
    return next((why for pattern, why in LEFT_OUT.items() if re.search(pattern, bare(line))), "")


def bare(line: str) -> str:
    """A command without its comment."""
    return re.sub(r"\s+#(?![^']*'$).*", "", line)


def small(line: str) -> str:
    """A command as it is run here: with data and networks that take seconds."""
    line = changed(bare(line))
    return " ".join([line, *(text for pattern, text in ADDED.items() if re.search(pattern, line))])


def small_script(text: str) -> str:
    """A script as it is run here; its settings stand behind the data."""
    return changed(text.replace("<DATA_DIR>", f"<DATA_DIR> {TRAINING} {TINY_SWIN}"))


def changed(text: str) -> str:
    """A text with the names of data and networks that take seconds."""
    for pattern, other in CHANGED.items():
        text = re.sub(pattern, other, text)
    return text


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_language_that_this_test_knows(page: str) -> None:
    document = (ROOT / page).read_text(encoding="utf-8")
    assert {block.language for block in blocks(document)} <= {"python", "bash", "text", "yaml"}
    assert document.count("\n```") % 2 == 0


@pytest.mark.parametrize(("page", "line"), list(shell()))
def test_every_command_runs_or_is_left_out_for_a_reason(page: str, line: str) -> None:
    if why := why_left_out(line):
        pytest.skip(f"{bare(line)}: {why}")
    assert any(re.search(pattern, bare(line)) for pattern in RUN), f"{page}: no rule for {line}"


def without_comments(page: str) -> set[str]:
    """A page's commands and its lines of Python."""
    python = {bare(line).rstrip() for block in of_page(page, "python") for line in block.text.splitlines()}
    return python | {bare(line) for block in of_page(page, "bash") for line in commands(block.text)}


@pytest.mark.parametrize(("page", "original"), TRANSLATIONS.items())
def test_a_translation_has_no_code_but_that_of_its_original(page: str, original: str) -> None:
    assert without_comments(page)
    assert without_comments(page) <= without_comments(original)


def test_no_rule_is_left_over() -> None:
    lines = [bare(line) for _, line in shell()]
    scripts = [block.text for page in PAGES for block in of_page(page, "bash") if is_script(block)]
    scripts += [block.text for page in PAGES for block in of_page(page, "python")]
    for pattern in [*LEFT_OUT, *RUN]:
        assert any(re.search(pattern, line) for line in lines), pattern
    for pattern in CHANGED:
        assert any(re.search(pattern, text) for text in [*lines, *scripts]), pattern
    for pattern in ADDED:
        assert any(re.search(pattern, small(line)) for line in lines), pattern


def test_nearly_every_block_of_code_runs_at_least_in_part() -> None:
    code = [block for page in PAGES for language in ("python", "bash") for block in of_page(page, language)]
    run = [block for block in code if runs(block)]
    elsewhere = [block for block in code if not runs(block) and runs_elsewhere(block)]
    # for `pytest -s`
    print(f"{len(code)} blocks of code: {len(run)} run here, {len(elsewhere)} in other tests")
    assert len(run) + len(elsewhere) > 0.85 * len(code)


def runs(block: Block) -> bool:
    """Whether a block, or one command of it, is run where every optional package is there."""
    if block.language == "python":
        return not any(held in block.text for held in PYTHON_LEFT_OUT)
    return is_script(block) or not all(why_left_out(line) for line in commands(block.text))


def runs_elsewhere(block: Block) -> bool:
    """Whether another test, which the reason names, runs the like of a block."""
    lines = [block.text] if block.language == "python" else commands(block.text)
    reasons = [PYTHON_LEFT_OUT.get(held, "") for held in PYTHON_LEFT_OUT if held in block.text]
    reasons += [why_left_out(line) for line in lines if block.language == "bash"]
    named = [name for why in reasons for name in re.findall(r"tests/[\w/.]*\w", why)]
    assert all((ROOT / name).exists() for name in named)
    return bool(named)


OFFICIAL = """
MODEL: {TYPE: swin_acmix, SWIN: {EMBED_DIM: 12, DEPTHS: [1, 1], NUM_HEADS: [1, 2], WINDOW_SIZE: 4}}
DATA: {IMG_SIZE: 32}
"""


@pytest.fixture(scope="module")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that pages take for granted: photographs, files of weights, the scripts of this repository."""
    place = tmp_path_factory.mktemp("pages")
    for part, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("cats", "dogs", "owls")):
            (place / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                image = draw_image(label, 3, 40, np.random.default_rng([label, number]))
                image.save(place / "photos" / part / name / f"{number}.jpg")
    for folder in (place / "coco", place / "mine_coco"):
        write_detection_scenes(folder, images=(8, 4), size=64)
    for folder in (place / "ade20k", place / "mine"):
        write_segmentation_scenes(folder, images=(8, 4), size=64)
    rename_splits(place / "mine_coco", place / "mine")
    plain = timm.create_model("acmix_swin_tiny_patch4_window7_224", num_classes=3, conv_path=False, **SMALL_SWIN)
    torch.save(plain.state_dict(), place / "plain.pth")
    make_image_folder(place / "ten_classes", classes=10, train_per_class=1, val_per_class=1, size=40)
    runs, ap = place / "trained", {"box_ap": 4.0, "box_ap50": 9.0, "mask_ap": 3.0}
    write_downstream_run(runs / "coco", detection_config(place / "coco"), DIGITS, ap)
    write_downstream_run(runs / "ade20k", segmentation_config(place / "ade20k"), ["ground", *DIGITS], {"miou": 7.0})
    weights = timm.create_model("deit_tiny_patch16_224").state_dict()
    torch.save(weights, place / "weights.pth")
    save_file(weights, place / "weights.safetensors")
    shutil.copy(DATA / "official_checkpoint_toy.pth", place / "official.pth")
    (place / "official.yaml").write_text(OFFICIAL)
    shutil.copy(ROOT / "run.sh", place)
    program(place / "scripts" / "setup.sh", "exit 0")
    program(place / ".venv" / "bin" / "python", f'exec {sys.executable} "$@"')
    program(place / ".venv" / "bin" / "activate", "")
    for name, text in SLURM.items():
        program(place / "bin" / name, text)
    return place


@pytest.fixture(scope="module")
def run_of_photos(supplies: Path) -> Path:
    """The folder of a run that pages look at; those that train it themselves do without."""
    output = supplies / "trained" / "photos"
    line = small(f"acmix train acmix_swin_tiny_patch4_window7_224 --data {supplies}/photos --output {output}")
    [end] = command(*shlex.split(line)[1:]).finish()
    assert end.status == 0, end.errors
    return output


def rename_splits(coco: Path, mine: Path) -> None:
    """Moves data in COCO's format to another folder, with splits that are called train and val."""
    for split in ("train", "val"):
        (coco / f"{split}2017").rename(mine / split)
        (coco / "annotations" / f"instances_{split}2017.json").rename(mine / "annotations" / f"instances_{split}.json")


def program(path: Path, text: str) -> None:
    """Writes a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in TRANSLATIONS])
def test_every_block_of_a_page_runs(
    page: str, supplies: Path, run_of_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for supply in supplies.iterdir():
        if supply.name != "trained":
            (tmp_path / supply.name).symlink_to(supply)
    document = (ROOT / page).read_text(encoding="utf-8")
    if "--output runs/photos" not in document:
        shutil.copytree(run_of_photos, tmp_path / "runs" / "photos")
    for name in ("coco", "ade20k"):
        if f"runs/{name}" in document and f"--output runs/{name}" not in document:
            shutil.copytree(supplies / "trained" / name, tmp_path / "runs" / name)
    names: dict[str, object] = {}
    for block in blocks(document):
        if block.language == "python" and not left_out(block):
            exec(compile("\n" * block.line + changed(block.text), page, "exec"), names)
        elif block.language == "bash" and is_script(block):
            expect_success(f"{page}:{block.line}", in_bash(small_script(block.text)))
        elif block.language == "bash":
            for line in commands(block.text):
                if not why_left_out(line):
                    expect_success(f"{page}:{block.line}: {small(line)}", ended(small(line)))
    if page == "README.md":
        assert shape(names["logits"]) == (2, 10)
        maps: Any = names["maps"]
        assert [shape(each) for each in maps] == [(1, 96, 80, 50), (1, 192, 40, 25), (1, 384, 20, 13), (1, 768, 10, 7)]


def shape(found: Any) -> tuple[int, ...]:
    """Of a tensor."""
    return tuple(found.shape)


def left_out(block: Block) -> bool:
    """Whether Python is left out by name, or needs a package that is not here."""
    return any(held in block.text for held in PYTHON_LEFT_OUT) or any(
        name in block.text and find_spec(name) is None for name in OPTIONAL
    )


def ended(line: str) -> Ended:
    """How a command ended: one of ours in a forked process, others in a shell."""
    if not line.startswith("acmix "):
        return in_bash(line)
    words = [found for word in shlex.split(line)[1:] for found in sorted(glob.glob(word)) or [word]]
    return command(*words).finish()[0]


def in_bash(text: str) -> Ended:
    """How a shell ended; `acmix` is a function, and Slurm's programs stand in the folder `bin`."""
    port = str(free_port())
    place = {
        "PATH": f"{Path('bin').absolute()}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "localhost[0-1]",
        "SLURM_JOB_ID": str(int(port) - 20_000),
        "RDZV_ENDPOINT": f"localhost:{port}",
    }
    text = f'acmix() {{ {sys.executable} -m acmix "$@"; }}\n{text}'
    done = subprocess.run(
        ["bash", "-c", text],
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def expect_success(what: str, end: Ended) -> None:
    """Fails with what a command wrote."""
    assert end.status == 0, f"{what}\n{end.output}\n{end.errors}"
