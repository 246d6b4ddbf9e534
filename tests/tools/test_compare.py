"""`acmix compare`: figures of runs with the noise of their differences, and one page that needs nothing else."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acmix.config import Config, validate
from acmix.errors import UsageError
from acmix.tools import compare_page
from acmix.tools.compare import Difference, compare, standard_error
from acmix.tools.compare_page import DARK, LIGHT, html, style_of, write_page
from acmix.tools.runs import distinct_names
from acmix.train import checkpoint
from tests.support.page import Page, browser, layout
from tests.support.runs import BLOCKS, log_lines, write_run

SMALL = {"model": {"num_classes": 10}, "train": {"epochs": 6, "batch_size": 8}}


def settings(**sections: dict[str, Any]) -> Config:
    """The settings of a run that differ in some from the others'."""
    return validate({name: SMALL.get(name, {}) | sections.get(name, {}) for name in {*SMALL, *sections}})


def make_run(
    folder: Path, *, images: int | None = 400, better: float = 0.0, epochs: int = 6, **sections: dict[str, Any]
) -> Path:
    """A run that ended `better` points above the others."""
    config = settings(**sections)
    lines = log_lines(epochs=epochs, blocks=BLOCKS if config.model.conv_path else [])
    lines[0]["config"] = config.model_dump(mode="json")
    for line in lines:
        if line["event"] == "epoch":
            line["top1"] += better
            if images is not None:
                line["val_images"] = images
    write_run(folder, config=config, lines=lines)
    if epochs < config.train.epochs:
        (folder / "summary.json").unlink()
    return folder


def test_figures_and_settings_that_differ_stand_side_by_side(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", optimizer={"lr": 1e-3})
    other = make_run(tmp_path / "b", better=-9.0, optimizer={"lr": 2e-3}, model={"conv_path": False})
    found = compare([first, other])
    assert found.settings == {"model.conv_path": ["true", "false"], "optimizer.lr": ["0.001", "0.002"]}
    head, rows = found.figures()
    ours, theirs = (dict(zip(head, row, strict=True)) for row in rows)
    assert (ours["run"], ours["top-1 %"], ours["− #1, points"]) == ("a", "97.53", "–")
    assert (theirs["run"], theirs["top-1 %"], theirs["state"]) == ("b", "88.53", "6 of 6 epochs")
    # 6 epochs of 10 steps of 8 images
    assert (theirs["images seen"], theirs["parameters"], theirs["best epoch"]) == ("480", "226,412", "6")
    assert re.fullmatch(r"-9\.00 ± 3\.\d\d", theirs["− #1, points"])
    assert found.grouped_settings() == [
        ["model.conv_path", "true", "#1"],
        ["", "false", "#2"],
        ["optimizer.lr", "0.001", "#1"],
        ["", "0.002", "#2"],
    ]
    told = json.loads(json.dumps(found.as_json()))
    assert [run["name"] for run in told["runs"]] == ["a", "b"]
    assert told["runs"][1]["difference"] == pytest.approx(-9.0)
    assert told["settings"]["optimizer.lr"] == ["0.001", "0.002"]


def test_a_difference_below_its_noise_is_called_noise(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a")
    found = compare([first, make_run(tmp_path / "b", better=0.4), make_run(tmp_path / "c", better=-20.0)])
    near, far = found.differences[1], found.differences[2]
    assert near is not None
    assert far is not None
    assert near.is_noise
    assert not far.is_noise
    _, rows = found.figures()
    assert re.fullmatch(r"\+0\.40 ± 2\.\d\d \(noise\)", rows[1][3])
    assert rows[2][3].startswith("-20.00 ± ")
    assert not rows[2][3].endswith("(noise)")
    assert any("95 % interval of a difference measured on 400 images" in note for note in found.notes)
    page = html(found)
    assert "Best top-1: b, 97.93 %. Within its noise: a." in page


def test_the_standard_error_is_the_binomial_one_and_never_nothing() -> None:
    # √(0.25/10,000 + 0.25/10,000)
    assert standard_error(50.0, 50.0, 10_000) == pytest.approx(100 * (0.5 / 10_000) ** 0.5, rel=1e-3)
    assert standard_error(100.0, 100.0, 12) > 5.0
    counts = np.random.default_rng(0).binomial(500, [[0.9], [0.85]], size=(2, 20_000))
    assert standard_error(90.0, 85.0, 500) == pytest.approx(np.std((counts[0] - counts[1]) / 5), rel=0.03)


def test_runs_of_other_images_or_of_unknown_numbers_of_them_make_no_claim(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", images=None),
        make_run(tmp_path / "c", images=77),
        make_run(tmp_path / "d", epochs=0),
    ]
    found = compare(runs)
    assert found.differences == [None, Difference(0.0, None), None, None]
    said = " ".join(found.notes)
    assert "A difference without ± has an unknown noise" in said
    assert "Accuracies on other numbers of images do not compare (a: 400, c: 77)" in said
    assert "Not evaluated yet: d." in said
    _, rows = found.figures()
    assert rows[3][2:4] == ["–", "–"]
    assert Page(html(found)).words.count("Not evaluated yet") == 1


def test_unfinished_and_resumed_runs_and_checkpoints_alone_are_compared_too(tmp_path: Path) -> None:
    unfinished = make_run(tmp_path / "unfinished", epochs=2)
    lines = (unfinished / "log.jsonl").read_text(encoding="utf-8")
    # taken up again, and killed within a line
    (unfinished / "log.jsonl").write_text(lines.splitlines()[0] + "\n" + lines + '{"event": "ep', encoding="utf-8")
    contents = {"config": settings().model_dump(mode="json"), "classes": ["a"], "model": {"w": torch.zeros(1)}}
    metrics = {"top1": 50.0, "top5": 90.0, "val_loss": 1.5, "images_per_second": 10.0}
    checkpoint.save(tmp_path / "alone.pt", {**contents, "step": 30, "epoch": 3, "metrics": metrics})
    stopped = make_run(tmp_path / "stopped", epochs=4)
    (stopped / "summary.json").write_text('{"ended": "patience", "epochs": 4, "best_epoch": 2}', encoding="utf-8")
    _, rows = compare([unfinished, tmp_path / "alone.pt", stopped]).figures()
    assert [row[7] for row in rows] == [
        "2 of 6 epochs, not finished, resumed 1×",
        "a checkpoint",
        "4 of 6 epochs: no better top-1 than that of epoch 2 for long enough (train.patience)",
    ]
    assert rows[1][1:3] == ["alone.pt", "50.00"]
    assert rows[1][8] == "240"


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "epoch"}',
        '{"event": "epoch", "epoch": "x", "step": 1}',
        '{"event": "epoch", "epoch": 9, "step": 90, "top1": "z"}',
        '{"event": "epoch", "epoch": 9, "step": 90, "rates": {"a": 1}}',
        '{"event": "step", "epoch": 9}',
        "[]",
    ],
)
def test_lines_of_a_log_that_somebody_changed_are_left_out(tmp_path: Path, line: str) -> None:
    runs = [make_run(tmp_path / name) for name in "ab"]
    with (runs[1] / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")
    _, rows = compare(runs).figures()
    assert rows[0][2:] != rows[1][2:]
    assert [rows[0][2], *rows[0][4:]] == [rows[1][2], *rows[1][4:]]


def test_a_run_given_twice_is_shown_once_and_alone_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.pt").write_bytes(b"never read")
    monkeypatch.chdir(tmp_path)
    found = compare(["a", run / "checkpoints" / "best.pt", make_run(tmp_path / "b"), "./b/../a"])
    assert [record.name for record in found.runs] == ["a", "b"]
    assert found.notes[:2] == [
        f"{run / 'checkpoints' / 'best.pt'} is given twice; it is shown once",
        "b/../a is given twice; it is shown once",
    ]
    for given in (["a"], ["a", run]):
        with pytest.raises(UsageError, match="give two or more; `acmix report RUN` shows one"):
            compare(given)
    with pytest.raises(UsageError, match=r"is not a run folder: no config\.yaml and no log\.jsonl; give"):
        compare(["a", tmp_path])
    with pytest.raises(UsageError, match="there is no checkpoint"):
        compare(["a", "nothing"])


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / place / "digits") for place in ("x", "y")]
    assert [run.name for run in compare([*runs, make_run(tmp_path / "z")]).runs] == ["x/digits", "y/digits", "z"]
    assert distinct_names([Path("/a/b/c"), Path("/x/b/c"), Path("/c")]) == ["a/b/c", "x/b/c", "/c"]
    assert distinct_names([Path("/a"), Path("/a")]) == ["/a", "/a"]


@pytest.mark.slow
def test_the_page_holds_every_run_and_needs_no_other_file(tmp_path: Path) -> None:
    hostile = "<script>alert(1)<"
    runs = [make_run(tmp_path / f"run {number}", better=-number, train={"seed": number}) for number in range(11)]
    runs.append(make_run(tmp_path / hostile, train={"batch_size": 16}))
    text = html(compare(runs))
    page = Page(text)
    assert page.words.count(hostile) >= 2
    assert page.all("script") == []
    assert all(f"#{number} run {number - 1}" in page.words for number in range(1, 12))
    drawings = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    titles = [svg["aria-label"] for svg in drawings]
    wanted = ["Top-1, %", "Validation loss", "Training loss", "Learning rate"]
    assert titles[:8] == [f"{title} against {axis}" for axis in ("epoch", "images seen") for title in wanted]
    links = [value for _, tag in page.tags for key, value in tag.items() if key in ("src", "href", "data", "srcset")]
    assert links == ["data:,"]
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    drawn = "".join(re.findall(r'<svg class="chart".*?</svg>', text, re.DOTALL))
    assert re.findall(r"#[0-9a-fA-F]{6}", drawn) == []
    assert re.search(r"<title>epoch 1: #1 \S+, #2 \S+, .*#12 \S+</title>", drawn)
    assert "data.dir" not in page.words


def test_equal_batches_are_drawn_once_and_equal_settings_said(tmp_path: Path) -> None:
    page = Page(html(compare([make_run(tmp_path / "a"), make_run(tmp_path / "b")])))
    assert "against images seen" not in page.words
    assert "Every setting is the same in all runs." in page.words


def test_a_file_of_somebody_else_is_not_written_over(tmp_path: Path) -> None:
    found = compare([make_run(tmp_path / "a"), make_run(tmp_path / "b")])
    page = tmp_path / "new" / "compare.html"
    assert write_page(found, page) == f"page: {page}"
    assert write_page(found, page) == f"page: {page}, in place of an earlier comparison"
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is no page of `acmix compare`; delete it, or choose another --output"):
        write_page(found, page)
    assert page.read_text(encoding="utf-8") == "mine"
    with pytest.raises(UsageError, match="is a folder"):
        write_page(found, tmp_path)


def lab(colour: str, vision: np.ndarray) -> np.ndarray:
    """A colour in CIE L*a*b*, as one sees it."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(vision @ linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# what is left of colours, in linear sRGB (Machado, Oliveira and Fernandes 2009, severity 1)
VISIONS = {
    "all": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_are_told_apart_by_readers_who_do_not_see_all(colours: tuple[str, ...], vision: str) -> None:
    seen = [lab(colour, VISIONS[vision]) for colour in colours]
    # a difference of 2.3 is just noticeable
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 20


def test_runs_beyond_the_colours_have_dashes_and_shapes_of_their_own() -> None:
    styles = [style_of(index) for index in range(108)]
    assert len({(style.colour, style.dash, style.marker) for style in styles}) == 108
    assert len({style.colour for style in styles[:6]}) == 6
    assert len(compare_page.SHAPES) == len(compare_page.MARKERS)


@pytest.mark.skipif(browser() is None, reason="no chromium or chrome on PATH")
@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 420])
def test_nothing_is_cut_off_in_a_wide_and_a_narrow_window(tmp_path: Path, width: int) -> None:
    data = {"dir": "q" * 120}
    runs = [make_run(tmp_path / f"{'a_long_name' * 5}_{number}", train={"seed": number}) for number in range(3)]
    page = tmp_path / "compare.html"
    write_page(compare([*runs, make_run(tmp_path / "b", data=data, epochs=2)]), page)
    seen = layout(page, tmp_path, width)
    assert (seen["beyond"], seen["out"]) == (0, [])
    if width == 1200:
        assert seen["scrolled"] == []
