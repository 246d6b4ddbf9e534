"""The report page says what a run's folder, checkpoint and images say, and a browser shows it without complaint."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from acmix.config import Config, validate
from acmix.data import val_loader
from acmix.errors import UsageError
from acmix.models.build import build_model
from acmix.tools import charts, report_sections
from acmix.tools.charts import COLOURS
from acmix.tools.predictions import Predictions, collect_predictions
from acmix.tools.report import environment, predicted_sections, report
from acmix.train import checkpoint, plots
from acmix.train.plots import read_log
from tests.support.images import make_image_folder
from tests.support.page import Page, browse, browser, layout
from tests.support.runs import BLOCKS, log_lines, write_run

CLASSES = 4
VAL_PER_CLASS = 5
# none of these holds a slash, so each can name a file
HOSTILE = '"><script>alert(1)<'
HOSTILE_FILE = "'<img onerror=x> & {{ 7 * 7 }} [🐢].JPEG"
HOSTILE_RUN = '<b onclick="x">&amp; 🚀'


def make_config(data: Path, classes: int = CLASSES) -> Config:
    """A network of two blocks for images of 32 pixels."""
    shape = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
    return validate(
        {
            "model": {"num_classes": classes, "args": shape},
            "data": {"dir": str(data), "img_size": 32, "workers": 0},
            "train": {"epochs": 6, "batch_size": 8},
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real JPEG files in four classes, one of which, and its files, have ill-meant names."""
    root = make_image_folder(tmp_path_factory.mktemp("report") / "data", CLASSES, 1, VAL_PER_CLASS, size=40)
    for split in ("train", "val"):
        folder = (root / split / "class_03").rename(root / split / HOSTILE)
        for number, file in enumerate(sorted(folder.iterdir())):
            file.rename(folder / f"{number}{HOSTILE_FILE}")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A finished run with a real checkpoint of a real model."""
    config = make_config(data)
    folder = tmp_path_factory.mktemp("report") / HOSTILE_RUN
    write_run(folder, config=config, lines=log_lines(unreadable=["train/<b>torn</b>.JPEG"]))
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    names = sorted(path.name for path in (data / "train").iterdir())
    contents = {"config": config.model_dump(mode="json"), "classes": names, "step": 60, "epoch": 6, "metrics": {}}
    checkpoint.save(folder / "checkpoints" / "best.pt", {**contents, "model": build_model(config).state_dict()})
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def html(finished: Path) -> str:
    """The finished run's page."""
    return report(finished).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    """The finished run's page, read."""
    return Page(html)


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def small_classifier() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES)).eval()


def test_every_readable_image_counts_once_in_the_confusion_matrix(data, tmp_path):
    data = Path(shutil.copytree(data, tmp_path / "data"))
    broken = sorted((data / "val" / "class_00").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:50])
    loader = val_loader(make_config(data))
    names = loader.dataset.classes
    model = small_classifier()
    predictions = collect_predictions(model, loader, names, limit=6)

    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for index in range(len(loader.dataset)):
        row = loader.dataset[index]
        if row.weight:
            expected[row.target, model(row.image[None]).argmax()] += 1
    assert torch.equal(predictions.confusion, expected)
    assert int(expected.sum()) == CLASSES * VAL_PER_CLASS - 1


def test_samples_are_the_surest_mistakes_then_right_answers_with_their_own_file_and_image(data):
    loader = val_loader(make_config(data))
    model = small_classifier()
    every = collect_predictions(model, loader, loader.dataset.classes, limit=100).samples
    chosen = collect_predictions(model, loader, loader.dataset.classes, limit=6).samples
    wrong = [sample for sample in every if sample.target != sample.predicted]
    assert len(every) == CLASSES * VAL_PER_CLASS
    assert [s.confidence for s in wrong] == sorted((s.confidence for s in wrong), reverse=True)
    assert [s.name for s in chosen[:3]] == [s.name for s in wrong[:3]]
    assert all(s.target == s.predicted for s in chosen[3:])
    assert len(chosen) == 6
    rows = {loader.dataset.name(index): loader.dataset[index] for index in range(len(loader.dataset))}
    for sample in chosen:
        row = rows[sample.name]
        assert torch.equal(sample.image, row.image)
        assert sample.target == row.target
        assert sample.image.untyped_storage().nbytes() == sample.image.nbytes


def test_a_model_of_other_classes_is_refused(data):
    loader = val_loader(make_config(data))
    with pytest.raises(UsageError, match="has 4 classes, but 3 class names"):
        collect_predictions(small_classifier(), loader, ["a", "b", "c"], limit=1)


def test_the_page_holds_the_figures_the_curves_and_every_block(page):
    for said in (
        "97.78",
        "226,412",
        "acmix_swin_tiny_patch4_window7_224",
        "3099cd1",
        "Finished after 6 epochs",
    ):
        assert said in page.words
    assert all(block in page.words for block in BLOCKS)
    said = "First half (2 blocks): convolution leads in 2. Second half (2 blocks): attention leads in 2."
    assert said in page.words
    assert "with embed_dim 16, depths [1, 1], num_heads [2, 4], window_size 4" in page.words
    assert "train/<b>torn</b>.JPEG" in page.words
    assert len([svg for svg in page.all("svg") if svg.get("role") == "img"]) == 3 + 1 + len(BLOCKS)


@pytest.mark.parametrize(
    ("times", "said"), [(0, "6 epochs; "), (1, "6 epochs, resumed once; "), (2, ", resumed 2 times; ")]
)
def test_the_page_says_how_often_a_run_was_resumed(data, tmp_path, times, said):
    log = dataclasses.replace(read_log(write_run(tmp_path, config=make_config(data))), resumed=times)
    assert said in report_sections.status(log, {"epochs": 6}, make_config(data))


def test_every_value_of_a_curve_is_told_under_the_pointer(finished, html):
    log = read_log(finished)
    epochs = re.findall(r"<title>epoch (\S+): training (\S+), validation (\S+)</title>", html)
    expected = [(f"{number}", record["train_loss"], record["val_loss"]) for number, record in enumerate(log.epochs, 1)]
    assert epochs == [(epoch, f"{train:.4g}", f"{val:.4g}") for epoch, train, val in expected]
    assert html.count(": Learning rate ") == len(log.steps)
    for block, history in log.rates().items():
        drawing = html[html.index(f'aria-label="Rates of {block}"') :]
        told = [f"<title>epoch {at:g}: α {alpha:.4g}, β {beta:.4g}</title>" for at, alpha, beta in history]
        assert re.findall(r"<title>.*?</title>", drawing)[: len(told)] == told


def test_drawings_take_their_colours_from_the_style_sheet(html):
    drawings = "".join(re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL))
    assert re.findall(r"#[0-9a-fA-F]{6}", drawings) == []
    assert {name for name in COLOURS if f"var(--{name})" in drawings} == set(COLOURS)
    assert all(html.count(f"--{name}: ") == 2 for name in COLOURS), "one colour on light, one on dark"


@pytest.mark.slow
def test_a_line_of_very_many_points_keeps_the_page_small():
    steps = np.arange(100_000)
    noise = np.random.default_rng(0).normal(size=len(steps))
    drawn = charts.chart("noise", lambda axes: plots.plot(axes, steps.tolist(), noise.tolist(), color=plots.INK))
    assert len(drawn.drawing) < 200_000
    assert len(drawn.bands) <= charts.MOST_BANDS


def test_the_matrix_counts_every_validation_image(html):
    cells = re.findall(r'<td class="(?:none|hit|miss)[^>]*>([\d,]+)</td>', html)
    assert len(cells) == CLASSES * CLASSES
    assert sum(map(int, cells)) == CLASSES * VAL_PER_CLASS


def test_names_from_outside_cannot_become_markup(page):
    assert HOSTILE in page.words
    assert HOSTILE_RUN in page.words
    assert any(HOSTILE_FILE in (picture["title"] or "") for picture in page.all("img"))
    assert page.all("script") == []
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_page_needs_no_other_file_and_makes_no_request(page, html):
    links = [value for _, tag in page.tags for key, value in tag.items() if key in ("src", "href", "data", "srcset")]
    assert links
    assert all(link is not None and link.startswith("data:") for link in links)
    # a drawing refers to pieces of its own page alone
    references = [value for _, tag in page.tags for key, value in tag.items() if key == "xlink:href"]
    assert all(each is not None and each.startswith("#") for each in references)
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert "default-src 'none'" in html


@pytest.mark.slow
def test_what_is_seen_is_also_said_for_those_who_do_not_see_it(run):
    page = read(report(run, samples=8))
    pictures = page.all("img")
    assert len(pictures) == 8
    assert all("predicted" in (picture["alt"] or "") for picture in pictures)
    assert page.words.count("✓ right") + page.words.count("✗ wrong") == 8
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert page.words.count("Rates of every block") == len(
        [tag for tag in page.all("table") if tag["class"] == "rates"]
    )


@pytest.mark.slow
def test_the_page_says_that_the_data_is_gone_and_takes_it_from_elsewhere(run, data, tmp_path):
    settings, gone, elsewhere = run / "config.yaml", tmp_path / "gone", tmp_path / "elsewhere"
    settings.write_text(settings.read_text(encoding="utf-8").replace(str(data), str(gone)), encoding="utf-8")
    page = read(report(run))
    assert "No predictions could be made" in page.words
    assert page.all("img") == []
    assert "97.78" in page.words
    shutil.copytree(data, elsewhere)
    assert len(read(report(run, data=str(elsewhere), samples=4)).all("img")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_the_page_says_that_the_checkpoint_is_missing_or_damaged(run, damage):
    best = run / "checkpoints" / "best.pt"
    content = best.read_bytes()
    best.unlink()
    if damage == "truncated":
        best.write_bytes(content[: len(content) // 2])
    words = read(report(run)).words
    assert ("holds no checkpoint" if damage == "missing" else "No predictions could be made") in words
    assert "97.78" in words


@pytest.mark.slow
def test_the_page_says_that_the_data_has_other_classes(run, tmp_path):
    other = make_image_folder(tmp_path / "other", CLASSES, 1, 1, size=40)
    assert "was trained on other classes than those of" in read(report(run, data=str(other))).words


@pytest.mark.slow
def test_a_run_folder_cannot_have_its_images_fetched(run, monkeypatch):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"\n  dir: .*", "\n  dir: http://localhost:1/images", config))
    monkeypatch.setattr("acmix.data.shards.address.stream", lambda url: pytest.fail(f"asked for {url}"))
    page = report(run).read_text(encoding="utf-8")
    assert "the images are at http://localhost:1/images; say that you want them, with --data" in page


def test_an_unfinished_baseline_run_is_reported_too(tmp_path, data):
    run = write_run(tmp_path / "run", config=make_config(data), lines=log_lines(epochs=2, blocks=[]))
    (run / "summary.json").unlink()
    words = read(report(run)).words
    assert "Not finished: 2 of 6 epochs so far" in words
    assert "This run has no path rates" in words
    assert "226,412" in words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ended", "why"),
    [
        ("no better top-1 for 2 epochs", "no better top-1 for 2 epochs"),
        ("patience", "no better top-1 than that of epoch 2 for long enough (train.patience)"),
    ],
)
def test_a_run_that_was_stopped_early_says_why(tmp_path, data, ended, why):
    run = write_run(tmp_path / "run", config=make_config(data), lines=log_lines(epochs=4))
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    (run / "summary.json").write_text(json.dumps(summary | {"ended": ended, "best_epoch": 2}), encoding="utf-8")
    assert f"Stopped early at epoch 4 of 6: {why}; attention and" in read(report(run)).words


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "told"), [(5, False), (6, True)])
def test_a_top_5_accuracy_of_five_classes_or_fewer_is_not_told(tmp_path, data, classes, told):
    config = make_config(data, classes)
    lines = log_lines()
    lines[0]["config"] = config.model_dump(mode="json")
    page = report(write_run(tmp_path / "run", config=config, lines=lines)).read_text(encoding="utf-8")
    for said in ("<dt>Top-5</dt>", ">Top-5 %</th>", ", top-5 "):
        assert (said in page) is told
    assert "<dt>Top-1</dt>" in page


@pytest.mark.slow
def test_rates_that_differ_by_less_than_their_noise_are_not_called_larger(tmp_path, data):
    lines = log_lines()
    for line in lines:
        for number, block in enumerate(line.get("rates", ())):
            line["rates"][block] = [0.501, 0.499] if number else [0.499, 0.501]
    words = read(report(write_run(tmp_path / "run", config=make_config(data), lines=lines))).words
    assert (
        "Neither path leads: α and β are less than 5 % apart, which another seed can turn round, in 4 blocks of 4."
        in words
    )
    assert "leads in" not in words
    assert words.count("≈") == len(BLOCKS) + 1


def test_a_run_without_an_epoch_is_reported_too(tmp_path, data):
    run = write_run(tmp_path / "run", config=make_config(data), lines=log_lines(epochs=0))
    assert "The log holds no step yet" in read(report(run)).words


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is not a run folder: no config\.yaml and no log\.jsonl"):
        report(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_summary_that_somebody_changed_is_refused(run, content):
    (run / "summary.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"summary\.json is not JSON"):
        report(run)


def test_many_classes_show_the_pairs_most_often_confused_instead_of_a_matrix():
    names = [f"name {index}" for index in range(40)]
    confusion = 10 * torch.eye(40, dtype=torch.int64)
    confusion[3, 7], confusion[7, 3], confusion[5, 5] = 6, 2, 0
    predicted = Predictions(names, confusion, [])
    assert report_sections.matrix(predicted) is None
    pairs = [(pair.true, pair.said, pair.images, pair.share) for pair in report_sections.confused_pairs(predicted)]
    assert pairs == [("name 3", "name 7", 6, 6 / 16), ("name 7", "name 3", 2, 2 / 12)]
    hardest = report_sections.classes(predicted)
    assert [(row.name, row.share) for row in hardest[:3]] == [("name 3", 10 / 16), ("name 7", 10 / 12), ("name 0", 1.0)]
    assert hardest[-1].share is None

    words = rendered(predicted).words
    assert words.index("name 3name 7637.5 %") < words.index("name 7name 3216.7 %")
    assert words.index("name 31610 62.5 %") < words.index("name 71210 83.3 %") < words.index("name 01010 100.0 %")
    assert "40 classes are too many for a matrix" in words
    assert "no images" in words
    assert "All 40 classes" in words


def test_no_confusion_of_many_classes_is_said():
    predicted = Predictions([f"{index}" for index in range(40)], torch.eye(40, dtype=torch.int64), [])
    assert "No image was confused with another class." in rendered(predicted).words


def rendered(predicted: Predictions) -> Page:
    """The page of a run of which nothing but the predictions is known."""
    absent = dict.fromkeys(["model", "network", "run", "status", "curves", "paths", "config"])
    empty: dict[str, list[Any]] = {"figures": [], "origin": [], "unreadable": []}
    known = predicted_sections(predicted, validate({}))
    return Page(environment().get_template("report.html").render(colours=COLOURS, **absent, **empty, **known))


@pytest.mark.parametrize(("channels", "size", "kind"), [(1, 32, "png"), (3, 32, "png"), (3, 96, "jpeg")])
def test_pictures_are_shown_as_they_were_before_normalisation(channels, size, kind):
    import base64
    import io

    import numpy as np
    from PIL import Image

    pixels = torch.linspace(0, 1, size).expand(channels, size, size)
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.25][:channels]
    normalised = (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    head, _, body = report_sections.data_uri(normalised, mean, std).partition(",")
    assert head == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as picture:
        shown = np.asarray(picture.convert("L"), dtype=float)
    assert np.abs(shown - 255 * pixels[0].numpy()).max() < (1.0 if kind == "png" else 8.0)


needs_browser = pytest.mark.skipif(browser() is None, reason="no chromium or chrome on PATH")


@needs_browser
def test_a_real_browser_shows_the_page_and_its_console_stays_silent(run, tmp_path):
    seen = browse(report(run, samples=6), tmp_path)
    assert "CONSOLE" not in seen.stderr
    assert seen.stdout.count('class="picture') == 6
    assert "<h2>Predictions on validation images</h2>" in seen.stdout
    assert (tmp_path / "page.png").stat().st_size > 20_000

    # the same look at a page that fails shows that silence means something
    (tmp_path / "failing.html").write_text("<script>throw new Error('seen')</script>", encoding="utf-8")
    assert "CONSOLE" in browse(tmp_path / "failing.html", tmp_path).stderr


@pytest.fixture(scope="module")
def unwieldy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run in which every name, path and command is long, and of thirty classes."""
    folder = tmp_path_factory.mktemp("unwieldy")
    images = make_image_folder(folder / "data", 30, 1, 1, size=40)
    for split in ("train", "val"):
        for number, shown in enumerate(sorted((images / split).iterdir())):
            kind = shown.rename(images / split / f"a bird of {number:02d}, {'subspecies_without_a_space' * 3}")
            for file in kind.iterdir():
                file.rename(kind / f"IMG_{'x' * 90}.JPEG")
    config = make_config(images, 30)
    lines = log_lines(unreadable=[f"train/{'y' * 150}.JPEG"])
    lines[0] |= {"command": f"acmix train --data /{'z' * 200} {'model.args.key=1 ' * 40}", "device": "a card " * 20}
    run = write_run(folder / ("a_run_without_any_space_" * 4), config=config, lines=lines)
    (run / "checkpoints").mkdir()
    names = sorted(path.name for path in (images / "train").iterdir())
    contents = {"config": config.model_dump(mode="json"), "classes": names, "step": 60, "epoch": 6, "metrics": {}}
    weights = build_model(config).state_dict()
    # always the first class: of one all images are right, the widest figure there is
    weights["head.fc.bias"][0] = 1e3
    checkpoint.save(run / "checkpoints" / "best.pt", {**contents, "model": weights})
    return report(run)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 420])
def test_nothing_is_cut_off_in_a_wide_and_a_narrow_window(unwieldy, tmp_path, width):
    seen = layout(unwieldy, tmp_path, width)
    assert (seen["beyond"], seen["out"]) == (0, [])
    if width == 1200:
        assert seen["scrolled"] == []
