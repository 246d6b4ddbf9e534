"""`acmix` as one types it: what it prints, and with which status it ends."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from PIL import Image

from acmix.train.loop import train
from tests.support.checks import Hostile, one_error
from tests.support.images import make_image_folder
from tests.support.paths import DATA
from tests.support.processes import command
from tests.support.tiny import CLASSES, tiny_config, write_config

COMMANDS = ["train", "evaluate", "predict", "convert", "report", "models", "benchmark", "config"]
TOY = DATA / "official_checkpoint_toy.pth"


@pytest.fixture(scope="module")
def best(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint."""
    output = tmp_path_factory.mktemp("cli") / "run"
    train(tiny_config(data, "train.epochs=1"), output)
    return output / "checkpoints" / "best.pt"


def test_every_help_fits_one_screen(acmix) -> None:
    status, said, _ = acmix()
    assert status == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in said] == []
    for name in COMMANDS:
        status, said, errors = acmix(name, "--help")
        assert (status, errors) == (0, "")
        assert 5 < len(said.splitlines()) <= 40


def test_the_help_of_data_names_the_layouts_of_every_task(acmix) -> None:
    assert "COCO's or ADE20K's" in " ".join(acmix("train", "--help")[1].split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trai"], "No such command 'trai'"),
        (["train"], "Missing argument 'CONFIG'"),
        (["train", "--fast"], "No such option: --fast"),
        (["evaluate", "{best}"], "Missing option '--data'"),
        (["evaluate", "{best}", "--data", ".", "--batch-size", "0"], "--batch-size"),
        (["train", "nothing.yaml"], "no configuration 'nothing.yaml'"),
        (["train", "{tiny}", "--data", "/no/such/place"], "/no/such/place"),
        (["train", "{tiny}"], "add --data DIR"),
        (["train", "{tiny}", "--data", "{data}", "train.epoch=3"], "did you mean 'train.epochs'?"),
        (["train", "{tiny}", "--data", "{data}", "train.epochs=many"], "train.epochs=many: input"),
        (["train", "{tiny}", "--data", "{data}", "epochs"], "is not of the form section.key=value"),
        (["train", "{tiny}", "--data", "{data}", "model.num_classes=9"], "add model.num_classes=4"),
        (["train", "{tiny}", "--data", "{data}", "train.precision=fp16"], "needs a GPU"),
        # the name before the data
        (["train", "{tiny}", "--data", "{data}", "model.name=acmix_swin_tny", "train.batch_size=99"], "no such model"),
        (["train", "{tiny}", "--data", "{data}", "--output", "{tiny}/x"], "cannot write to the output folder"),
        (["evaluate", "nothing.pt", "--data", "{data}"], "there is no checkpoint nothing.pt"),
        (["evaluate", "{best}", "--data", "{data}", "--precision", "fp16"], "needs a GPU"),
        (["evaluate", "{best}", "--data", "{data}", "--precision", "fp8"], "expected auto, fp32, bf16, fp16"),
        (["evaluate", "{toy}", "--data", "{data}"], "run `acmix convert {toy} NEW.pt` first"),
        (["predict", "{best}", "{image}", "--top", "0"], "--top 0: expected at least 1"),
        (["predict", "{best}"], "Missing argument 'IMAGE...'"),
        (["predict", "{hostile}", "{image}"], "nothing was executed"),
        (["evaluate", "{hostile}", "--data", "{data}"], "nothing was executed"),
        (["predict", "{torn}", "{image}"], "is truncated or not a checkpoint"),
        (["models", "vgg"], "no model matches 'vgg'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    acmix, data: Path, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {
        "tiny": write_config(tmp_path / "tiny.yaml"),
        "data": data,
        "best": best,
        "toy": TOY,
        "image": next(data.rglob("*.JPEG")),
        "hostile": tmp_path / "hostile.pt",
        "torn": tmp_path / "torn.pt",
    }
    places["hostile"].write_bytes(pickle.dumps({"model": Hostile(tmp_path / "executed")}, protocol=2))
    places["torn"].write_bytes(best.read_bytes()[:9000])
    status, _, errors = acmix(*[argument.format(**places) for argument in arguments])
    assert status == 2
    one_error(errors, said.format(**places))
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_train_says_where_everything_lies(acmix, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "mine.yaml")
    status, said, errors = acmix("train", config, "--data", data, "train.epochs=1")
    assert (status, errors) == (0, "")
    assert said.splitlines()[-1].startswith("top-1 ")
    assert said.splitlines()[-1].endswith("results in runs/mine")
    assert (tmp_path / "runs" / "mine" / "summary.json").is_file()
    status, said, _ = acmix("train", config, "--data", data, "train.epochs=1")
    assert status == 0
    assert "this run is finished" in said


def test_evaluate_measures_what_training_measured(acmix, data: Path, best: Path) -> None:
    summary = json.loads((best.parent.parent / "summary.json").read_text())
    status, said, errors = acmix("evaluate", best, "--data", data, "--json")
    measured = json.loads(said)
    assert (status, errors) == (0, "")
    assert (measured["top1"], measured["top5"], measured["images"]) == (summary["top1"], summary["top5"], 12)
    status, said, _ = acmix("evaluate", best, "--data", data, "--batch-size", "5", "--precision", "bf16")
    assert status == 0
    assert said.startswith("acmix_swin_tiny_patch4_window7_224: top-1 ")
    assert "12 images" in said


def test_evaluate_refuses_data_of_other_classes(acmix, data: Path, best: Path, tmp_path: Path) -> None:
    images = make_image_folder(tmp_path, CLASSES, train_per_class=1, val_per_class=1, size=32)
    for split in ("train", "val"):
        (images / split / "class_01").rename(images / split / "zebra")
    status, _, errors = acmix("evaluate", best, "--data", images)
    assert status == 2
    one_error(errors, "was trained on other classes", "it does not know 'zebra', but 'class_00', 'class_01'")


def test_a_converted_official_checkpoint_evaluates_and_predicts(acmix, data: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.pt"
    assert acmix("convert", TOY, ours)[0] == 0
    for checkpoint in (ours, TOY):
        status, said, errors = acmix("predict", checkpoint, next(data.rglob("*.JPEG")), "--top", "1", "--json")
        assert (status, errors) == (0, "")
        assert json.loads(said)["classes"][0][0].isdigit()


def test_predict_names_classes_of_any_kind_of_picture(acmix, data: Path, best: Path, tmp_path: Path) -> None:
    picture = Image.open(next((data / "val" / "class_00").iterdir()))
    files = []
    for mode in ("L", "RGBA", "CMYK", "I;16", "1"):
        files.append(tmp_path / f"picture_{mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}")
        grey = picture.convert("L").point(lambda value: value * 257, "I").convert("I;16") if mode == "I;16" else None
        (grey or picture.convert(mode)).save(files[-1])
    status, said, errors = acmix("predict", best, *files, "--top", "2")
    assert (status, errors) == (0, "")
    lines = said.splitlines()
    assert lines[::3] == [str(file) for file in files]
    assert all("%  class_0" in line for line in lines[1::3] + lines[2::3])


def test_predict_goes_on_past_an_unreadable_picture(acmix, data: Path, best: Path, tmp_path: Path) -> None:
    good = sorted((data / "val" / "class_00").iterdir())[:2]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG but no picture")
    status, said, errors = acmix("predict", best, good[0], bad, tmp_path / "absent.png", good[1], "--json")
    assert status == 2
    answers = [json.loads(line) for line in said.splitlines()]
    assert [Path(answer["image"]).name for answer in answers] == ["0000.JPEG", "bad.png", "absent.png", "0001.JPEG"]
    assert [answer["error"] is None for answer in answers] == [True, False, False, True]
    assert len(answers[0]["classes"]) == CLASSES
    assert sum(probability for _, probability in answers[0]["classes"]) == pytest.approx(1, abs=1e-5)
    assert [line.startswith("acmix: error: ") for line in errors.splitlines()] == [True, True]


def test_python_dash_m_acmix_is_the_command() -> None:
    [end] = command("train", "nothing.yaml").finish()
    assert (end.status, end.output) == (2, "")
    one_error(end.errors, "no configuration 'nothing.yaml'")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["infer", "acmix_resnet26", "--seconds", "-1"], "--seconds -1; expected a number of seconds from 1"),
        (["train", "--seconds", "nan"], "--seconds nan; expected"),
        (["ops", "--seconds", "inf"], "--seconds inf; expected"),
        (["data", "--seconds", "-1"], "--seconds -1; expected"),
        (["data", "--img-size", "0"], "--img-size 0; expected at least one pixel"),
        (["infer", "--img-size", "-3"], "--img-size -3; expected at least one pixel"),
        (["infer", "--gpus", "0"], "0 processes; expected at least one"),
        (["infer", "--batch-size", "0"], "batch size 0; expected at least one image"),
        (["ops", "--csv", "{file}/x.csv"], "cannot write {file}/x.csv: "),
        (["train", "--profile", "{folder}"], "{folder} is a folder; expected a file"),
    ],
)
def test_a_benchmark_that_cannot_be_measured_is_one_line_before_it_begins(
    acmix, tmp_path: Path, arguments: list[str], said: str
) -> None:
    places = {"file": tmp_path / "file", "folder": tmp_path}
    places["file"].write_text("kept")
    status, output, errors = acmix("benchmark", *[argument.format(**places) for argument in arguments])
    assert (status, output) == (2, "")
    one_error(errors, said.format(**places))


@pytest.mark.slow
def test_rates_prints_a_table_and_draws_it(acmix, best: Path) -> None:
    run = best.parent.parent
    status, said, errors = acmix("rates", run)
    assert (status, errors) == (0, "")
    assert said.splitlines()[0].startswith(f"{run}: α of the attention and β of the convolution after epoch ")
    assert "layers.0.blocks.0.attn" in said
    assert said.splitlines()[-1] == f"drawn: {run / 'paths.png'}"
    status, said, errors = acmix("rates", best, "--json")
    assert (status, errors) == (0, "")
    assert json.loads(said)["blocks"].keys() == {"layers.0.blocks.0.attn", "layers.1.blocks.0.attn"}
    assert not list(best.parent.glob("*.png"))
    status, said, errors = acmix("rates", run.parent / "nothing")
    assert (status, said) == (2, "")
    assert errors.startswith("acmix: error: there is no checkpoint ")


@pytest.mark.slow
def test_compare_prints_two_tables_and_writes_a_page(acmix, best: Path, tmp_path: Path) -> None:
    run = best.parent.parent
    other = Path(shutil.copytree(run, tmp_path / "other"))
    settings = other / "config.yaml"
    settings.write_text(
        settings.read_text(encoding="utf-8").replace("\n  seed: 0\n", "\n  seed: 1\n"), encoding="utf-8"
    )
    page = tmp_path / "page.html"
    status, said, errors = acmix("compare", best, other, "--output", page)
    assert (status, errors) == (0, "")
    assert "+0.00 ± " in said
    assert "(noise)" in said
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert {"train.seed 0 #1", "1 #2", f"page: {page}"} <= {*lines}
    status, said, errors = acmix("compare", run, other, "--json")
    assert (status, errors) == (0, "")
    assert json.loads(said)["settings"] == {"train.seed": ["0", "1"]}
    status, said, errors = acmix("compare", run)
    assert (status, said) == (2, "")
    assert errors.startswith("acmix: error: `acmix compare` sets runs side by side: give two or more")
