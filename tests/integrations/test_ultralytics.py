"""Rows of ACmix2d in ultralytics: its model files, training, checkpoints and export, as a user meets them.

ultralytics comes with the extra `yolo` alone; without it these tests are skipped.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from acmix.integrations.ultralytics import EXAMPLES, example, register
from acmix.layers import ACmix2d
from tests.support import processes
from tests.support.yolo import needs_onnx, needs_ultralytics, result, run

ROWS = {"neck": 23, "backbone": 9}


def build(place: str = "neck", scale: str = "n", **row: Any) -> Any:
    """A model of an example, with what ACmix2d's row should have instead."""
    from ultralytics.nn.tasks import DetectionModel  # pyright: ignore[reportMissingImports]

    register()
    model = yaml.safe_load((EXAMPLES / f"yolo11-acmix-{place}.yaml").read_text(encoding="utf-8"))
    rows = model["backbone"] + model["head"]
    for name, value in row.items():
        rows[ROWS[place]][["source", "repeats", "module", "arguments"].index(name)] = value
    return DetectionModel({**model, "scale": scale}, nc=3, verbose=False)


@needs_ultralytics
@pytest.mark.parametrize("scale", list("nsmlx"))
@pytest.mark.parametrize("place", ["neck", "backbone"])
def test_every_scale_builds_runs_halves_and_copies(place: str, scale: str) -> None:
    torch.manual_seed(0)
    model = build(place, scale).eval()
    layer = model.model[ROWS[place]]
    channels = {"n": 256, "s": 512, "m": 512, "l": 512, "x": 768}[scale]
    assert isinstance(layer, ACmix2d)
    assert (layer.in_channels, layer.out_channels, layer.i, layer.f) == (channels, channels, ROWS[place], -1)
    assert layer.np == sum(each.numel() for each in layer.parameters())
    x = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        expected = model(x)[0]
        assert expected.shape == (1, 7, 8 * 4 + 4 * 2 + 2)
        copied = copy.deepcopy(model)
        assert torch.equal(copied(x)[0], expected)
        half = copied.half()(x.half())[0]
        assert half.dtype == torch.float16
        assert torch.allclose(half.float(), expected, atol=0.1, rtol=0.02)


@needs_ultralytics
def test_a_row_takes_its_input_from_any_row_and_repeats() -> None:
    layers = build("neck", source=19, arguments=[1024, {"heads": "auto", "stride": 2}]).model
    assert (layers[23].in_channels, layers[23].out_channels, layers[23].heads, layers[23].f) == (128, 256, 8, 19)
    twice = build("neck", repeats=4, arguments=[512]).model[23]  # half as many at this scale
    assert [(each.in_channels, each.out_channels) for each in twice] == [(256, 128), (128, 128)]


@needs_ultralytics
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"arguments": [1024, 1024]}, r"row 23: .* 1024 looks like a channel count, .* expected \[channels\]"),
        ({"arguments": [1024, 7, 4]}, "row 23: .* options have names"),
        ({"arguments": []}, r"row 23: .* expected \[channels\]"),
        ({"arguments": ["c2"]}, r"row 23: .* expected \[channels\]"),
        ({"arguments": [1024, {"attention_size": 1024}]}, "row 23: attention_size=1024 looks like a channel count"),
        ({"arguments": [1024, {"head": 4}]}, "row 23: .* no option 'head'; did you mean 'heads'"),
        ({"arguments": [1024, {"heads": 7}]}, "row 23: heads=7 does not divide 256 channels"),
        ({"source": [19, 22]}, "row 23: .* expected the number of one row"),
    ],
)
def test_a_wrong_row_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("neck", **row)


@needs_ultralytics
def test_registering_twice_wraps_once() -> None:
    from ultralytics.nn import tasks  # pyright: ignore[reportMissingImports]

    register()
    once = tasks.parse_model
    register()
    assert tasks.parse_model is once


def test_without_ultralytics_register_says_what_to_install() -> None:
    code = """
import sys
sys.modules["ultralytics"] = None
from acmix.integrations.ultralytics import register
try:
    register()
except ValueError as error:
    print(error)
"""
    assert "[yolo]'" in processes.python(code).output


def test_an_example_has_a_path_for_every_scale() -> None:
    assert example("yolo11x-acmix-neck").endswith("yolo11x-acmix-neck.yaml")
    with pytest.raises(ValueError, match="yolo11n-acmix-backbone"):
        example("yolo11-neck")


STOP = """
import sys
from ultralytics import YOLO
from acmix.integrations.ultralytics import example, register
register()
data, runs = sys.argv[1:]
model = YOLO(example("yolo11n-acmix-neck"))
def stop(trainer):
    raise KeyboardInterrupt
model.add_callback("on_model_save", stop)
try:
    model.train(data=data, epochs=2, imgsz=64, batch=4, device="cpu", workers=0, plots=False, amp=False, project=runs,
                name="run", exist_ok=True, pretrained=False, verbose=False, mosaic=0.0)
except KeyboardInterrupt:
    print("RESULT stopped")
"""

RESUME = """
import json, sys, torch
from ultralytics import YOLO
from acmix.integrations.ultralytics import register
register()
model = YOLO(sys.argv[1])
before = model.ckpt["epoch"]
model.train(resume=True, device="cpu")
x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    out = YOLO(model.trainer.best).model.eval()(x)[0]
print("RESULT", json.dumps({"epochs": [before, model.trainer.epoch], "sum": out.double().abs().sum().item()}))
"""

RELOAD = """
import json, sys, torch
from ultralytics import YOLO
from ultralytics.nn.tasks import torch_safe_load
from acmix.integrations.ultralytics import register
from acmix.layers import ACmix2d
register()
data, weights, image = sys.argv[1:]
model = YOLO(weights)
x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    out = model.model.eval()(x)[0]
metrics = model.val(data=data, imgsz=64, batch=4, device="cpu", workers=0, plots=False, verbose=False)
shown = model.predict(image, imgsz=64, device="cpu", conf=0.0, verbose=False)
safe, _ = torch_safe_load(weights, safe_only=True)
print("RESULT", json.dumps({
    "layer": isinstance(model.model.model[23], ACmix2d),
    "safe": isinstance((safe["ema"] or safe["model"]).model[23], ACmix2d),
    "map50": metrics.box.map50, "boxes": len(shown[0].boxes), "sum": out.double().abs().sum().item()}))
"""

EXPORT = """
import json, sys
import onnxruntime, torch
from ultralytics import YOLO
from acmix.integrations.ultralytics import register
register()
model = YOLO(sys.argv[1])
torch.manual_seed(0)
plain = YOLO(sys.argv[1]).model.eval()
file = model.export(format="onnx", imgsz=64, dynamic=True, simplify=False, device="cpu")
session = onnxruntime.InferenceSession(file)
errors = {}
for shape in ((1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 96, 64)):
    x = torch.rand(shape)
    with torch.no_grad():
        expected = plain(x)[0]
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    errors[str(shape)] = ((found - expected).abs().max() / expected.abs().max()).item()
print("RESULT", json.dumps(errors))
"""


@pytest.fixture(scope="module")
def resumed(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The weights of a run that was stopped after its first epoch and resumed by another process, and what that saw."""
    runs = tmp_path_factory.mktemp("runs")
    assert result(run("-c", STOP, squares, runs)) == "stopped"
    weights = runs / "run" / "weights"
    return weights / "best.pt", json.loads(result(run("-c", RESUME, weights / "last.pt")))


@needs_ultralytics
def test_a_stopped_run_resumes_in_a_fresh_process(resumed: tuple[Path, dict[str, Any]]) -> None:
    assert resumed[1]["epochs"] == [0, 1]


@needs_ultralytics
def test_a_checkpoint_reloads_in_a_fresh_process_validates_and_predicts(
    squares: Path, resumed: tuple[Path, dict[str, Any]]
) -> None:
    weights, before = resumed
    seen = json.loads(result(run("-c", RELOAD, squares, weights, squares.parent / "images" / "val" / "4.png")))
    assert seen["layer"]
    assert seen["safe"]
    assert seen["sum"] == pytest.approx(before["sum"], rel=1e-6)
    assert seen["boxes"] > 0
    assert 0 <= seen["map50"] <= 1


@needs_ultralytics
@needs_onnx
def test_onnx_gives_equal_numbers_at_other_batches_and_sizes(resumed: tuple[Path, dict[str, Any]]) -> None:
    errors = json.loads(result(run("-c", EXPORT, resumed[0])))
    assert len(errors) == 3
    assert max(errors.values()) < 1e-4, errors
