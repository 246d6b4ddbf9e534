"""`replace_conv` in ultralytics: the layers are wherever it builds a network, as a user meets them."""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.integrations.rates import acmix_parameters
from acmix.integrations.ultralytics import example, register, replace_conv
from acmix.layers import ACmix2d
from tests.support.paths import ROOT
from tests.support.yolo import SMALL, needs_onnx, needs_ultralytics, result, run

SELECT = "model.22.m.0.*.cv2.conv"
NAMES = ["model.22.m.0.m.0.cv2.conv", "model.22.m.0.m.1.cv2.conv"]
MODULE = ("-m", "acmix.integrations.ultralytics")
COUNT = """
from acmix.layers import ACmix2d
def count(model):
    return sum(isinstance(each, ACmix2d) for each in model.modules())
"""


def yolo(model: Any = "yolo11n.yaml") -> Any:
    """A YOLO of ultralytics."""
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    return YOLO(model)


def count(model: nn.Module) -> int:
    """How many ACmix2d a network has."""
    return sum(isinstance(each, ACmix2d) for each in model.modules())


def largest_difference(ours: nn.Module, theirs: nn.Module) -> float:
    """Between the outputs for the same images."""
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((ours.eval()(x)[0] - theirs.eval()(x)[0]).abs().max())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a plain network."""
    file = tmp_path_factory.mktemp("weights") / "plain.pt"
    yolo().save(file)
    return file


@needs_ultralytics
@pytest.mark.parametrize("part", ["", "model", "model.model"])
def test_the_general_replace_conv_warns_and_names_the_way(part: str) -> None:
    model = yolo()
    for name in filter(None, part.split(".")):
        model = getattr(model, name)
    with pytest.warns(UserWarning, match=r"acmix\.integrations\.ultralytics\.replace_conv\(YOLO") as warned:
        acmix.replace_conv(model, "*22.m.0.*.cv2.conv")
    assert count(model) == 2
    assert len(warned) == 1
    assert warned[0].filename == __file__


def test_a_fork_s_network_is_warned_of_too_and_others_are_not() -> None:
    model: Any = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        acmix.replace_conv(copy.deepcopy(model))
    model.yaml = {"backbone": [], "head": []}
    with pytest.warns(UserWarning, match=r"acmix\.integrations\.yolov5"):
        acmix.replace_conv(model)


@needs_ultralytics
def test_identity_keeps_the_output_and_takes_plain_weights_before_and_after(plain: Path) -> None:
    start = yolo()
    model = replace_conv(copy.deepcopy(start), SELECT, identity=True)
    assert count(model.model) == 2
    assert largest_difference(model.model, start.model) == 0
    assert model.load(plain) is model
    assert largest_difference(model.model, yolo(plain).model) == 0
    built = type(model.model)(model.model.yaml, verbose=False)  # as a trainer does
    built.load(model.model, verbose=False)
    assert largest_difference(built, model.model) == 0
    assert count(built) == 2


@needs_ultralytics
def test_names_and_patterns_add_up_and_what_is_replaced_already_stays() -> None:
    model = yolo()
    assert replace_conv(model, NAMES[0]) is model
    first = model.model.get_submodule(NAMES[0])
    replace_conv(model.model, SELECT + "*", identity=True, heads=2, attention_size=5)
    assert count(model.model) == 1
    replace_conv(model, NAMES[1], identity=True, heads=2, attention_size=5)
    replace_conv(model, NAMES)
    assert model.model.get_submodule(NAMES[0]) is first
    built = type(model.model)(model.model.yaml, verbose=False)
    second = built.get_submodule(NAMES[1])
    assert (second.start, second.acmix.heads, second.acmix.attention_size) == ("gated", 2, 5)
    assert type(built.get_submodule(NAMES[0])) is ACmix2d


@needs_ultralytics
def test_parts_of_the_head_taken_from_another_class_count_get_their_layers_again() -> None:
    from ultralytics.nn.tasks import DetectionModel  # pyright: ignore[reportMissingImports]

    many = yolo("yolov8n.yaml")
    few = replace_conv(DetectionModel("yolov8n.yaml", nc=3, verbose=False), "model.22.cv3.*.0.conv", identity=True)
    few.load(many.model, verbose=False)
    assert count(few) == 3
    kept = few.get_submodule("model.22.cv3.0.0.conv").conv.weight
    assert torch.equal(kept, many.model.get_submodule("model.22.cv3.0.0.conv").weight)


@needs_ultralytics
@pytest.mark.parametrize("identity", [True, False])
def test_fusing_for_inference_leaves_the_layers_and_the_output(identity: bool) -> None:
    model = replace_conv(yolo(), SELECT, identity=identity).model
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            assert each.running_mean is not None
            assert each.running_var is not None
            nn.init.uniform_(each.running_mean, -0.1, 0.1)
            nn.init.uniform_(each.running_var, 0.5, 1.5)
    fused = copy.deepcopy(model).eval().fuse(verbose=False)
    assert fused.is_fused()
    assert count(fused) == 2
    assert largest_difference(fused, model) < 1e-3


@needs_ultralytics
def test_a_wrong_choice_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match=r"expected a YOLO .* acmix\.replace_conv"):
        replace_conv(nn.Conv2d(3, 3, 3))
    with pytest.raises(UsageError, match="matches no convolution"):
        replace_conv(yolo(), "model.99.*")
    with pytest.raises(UsageError, match="groups="):
        replace_conv(yolo(), "model.23.cv3.*")
    with pytest.raises(UsageError, match="part of a block whose convolutions ultralytics merges"):
        replace_conv(yolo("yolov9t.yaml"), "model.*.conv1.conv")
    fused = yolo()
    fused.fuse()
    with pytest.raises(UsageError, match="fused for inference"):
        replace_conv(fused, SELECT)


@needs_ultralytics
def test_all_convolutions_are_those_that_can_be_replaced() -> None:
    model = replace_conv(yolo("yolov9t.yaml")).model
    merged = [each for each in model.modules() if type(each).__name__ == "RepConv"]
    assert merged
    assert not any(map(count, merged))
    assert count(model) > 20
    assert largest_difference(copy.deepcopy(model).fuse(verbose=False), model) < 1e-3


@needs_ultralytics
@pytest.mark.parametrize("name", ["SGD", "AdamW", "MuSGD"])
@pytest.mark.parametrize("form", ["row", "replace_conv"])
def test_rates_and_gates_are_trained_and_not_decayed(name: str, form: str, squares: Path, tmp_path: Path) -> None:
    from ultralytics.models.yolo.detect import DetectionTrainer  # pyright: ignore[reportMissingImports]

    register()
    given = dict(data=str(squares), device="cpu", optimizer=name, project=str(tmp_path), plots=False)
    trainer = DetectionTrainer(overrides={"model": example("yolo11n-acmix-neck"), **given})
    row = form == "row"
    model = yolo(example("yolo11n-acmix-neck")) if row else replace_conv(yolo(), SELECT, identity=True)
    optimizer = trainer.build_optimizer(model=model.model, name=name, decay=0.1)
    groups = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    assert len(groups) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert set(groups) == {id(each) for each in model.model.parameters()}
    found = {name: [] for name in ("rate_attention", "rate_conv", "gate", "kernels", "weight")}
    for name, parameter in acmix_parameters(model.model):
        found.get(name, []).append(groups[id(parameter)])
    rates = [*found["rate_attention"], *found["rate_conv"], *found["gate"]]
    assert len(rates) == (2 if row else 6)
    assert {group["weight_decay"] for group in rates} == {0}
    assert {group["param_group"] for group in rates} == {"bn"}  # biases warm up from a high rate
    assert all(group["weight_decay"] == 0.1 for kind in ("kernels", "weight") for group in found[kind])


SCRIPT_STOPS = """
import sys
from ultralytics.utils import callbacks
def stop(trainer):
    sys.exit(3)
callbacks.default_callbacks["on_model_save"].append(stop)
"""

LOOK = f"""
import json, sys, torch
from ultralytics import YOLO
model = YOLO(sys.argv[1])
early = "acmix.integrations.ultralytics" in sys.modules
{COUNT}
import onnx
weights = [each.name for each in onnx.load(sys.argv[2]).graph.initializer]
traced = torch.jit.load(model.export(format="torchscript", imgsz=64))
x = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    off = (traced(x)[0] - YOLO(sys.argv[1]).model.eval()(x)[0]).abs().max()
print("RESULT", json.dumps({{
    "best": count(model.model), "onnx": sum(each.endswith("query.weight") for each in weights),
    "torchscript": [each.original_name for each in traced.modules()].count("ACmix2d"), "off": off.item()}}))
"""


@needs_ultralytics
@needs_onnx
def test_the_script_of_the_page_stops_resumes_validates_and_exports(squares: Path, plain: Path, tmp_path: Path) -> None:
    """As it stands, but for the number of epochs and the size of images; the weights and the data lie beside it."""
    text = (ROOT / "docs" / "in_your_model.md").read_text(encoding="utf-8")
    [script] = re.findall(r"<!-- script: yolo -->\n```python\n(.*?)```", text, flags=re.DOTALL)
    script = script.replace("epochs=100, imgsz=640", f"epochs=2, {SMALL}")
    page = script
    script += COUNT + 'print("RESULT", count(model.model), count(model.trainer.model), count(model.trainer.ema.ema))'
    (tmp_path / "yolo11n.pt").write_bytes(plain.read_bytes())
    (tmp_path / "coco8.yaml").write_text(squares.read_text(encoding="utf-8"), encoding="utf-8")
    run("-c", SCRIPT_STOPS + script, folder=tmp_path, status=3)
    weights = tmp_path / "runs" / "acmix" / "weights"
    assert sorted(each.name for each in weights.iterdir()) == ["best.pt", "last.pt"]
    printed = run("-c", script, folder=tmp_path)
    assert "Resuming training" in printed
    assert result(printed) == "2 2 2"
    seen = json.loads(result(run("-c", LOOK, weights / "best.pt", weights / "best.onnx")))
    assert (seen["best"], seen["onnx"], seen["torchscript"]) == (2, 2, 2)
    assert seen["off"] < 1e-3
    # ultralytics would train a run that ended anew, for 100 epochs
    printed = run("-c", page + COUNT + 'print("RESULT", count(model.model), model.trainer)', folder=tmp_path)
    assert result(printed) == "2 None"


@needs_ultralytics
def test_the_command_writes_a_file_that_yolo_itself_trains(squares: Path, plain: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.pt"
    printed = run(*MODULE, "replace", plain, ours, SELECT, "--identity", "--heads", "4")
    assert f"ACmix2d in the place of {', '.join(NAMES)}" in printed
    assert largest_difference(yolo(ours).model, yolo(plain).model) == 0
    small = SMALL.replace('"', "").split(", ")
    where = [f"project={tmp_path}", "name=run"]
    run("-m", "ultralytics.cfg.__init__", "train", f"model={ours}", f"data={squares}", "epochs=1", *small, *where)
    best = tmp_path / "run" / "weights" / "best.pt"
    model = yolo(best).model
    assert count(model) == 2
    gates = [each.gate for each in model.modules() if hasattr(each, "gate")]
    assert all(bool(each.detach().abs() > 0) for each in gates)
    picture = squares.parent / "images" / "val" / "4.png"
    run("-m", "ultralytics.cfg.__init__", "predict", f"model={best}", f"source={picture}", *where)


@needs_ultralytics
def test_the_command_is_yolo_with_rows_and_errors_are_one_line(squares: Path, tmp_path: Path) -> None:
    small = SMALL.replace('"', "").split(", ")
    model = f"model={example('yolo11n-acmix-neck')}"
    given = [f"data={squares}", "epochs=1", *small, f"project={tmp_path}", "name=run"]
    printed = run(*MODULE, "train", model, *given)
    assert "2 rates and gates of ACmix layers are not decayed" in printed
    assert count(yolo(tmp_path / "run" / "weights" / "best.pt").model) == 1
    assert "usage:" in run(*MODULE, "--help")
    for wrong, said in [
        (["replace", "yolo11n.yaml", "ours.onnx", SELECT], "expected a name that ends with .pt"),
        (["replace", "yolo11n.yaml", "ours.pt", "model.99.*"], "matches no convolution"),
        (["replace", "yolo11n.yaml", "ours.pt", SELECT, "--heads", "7"], "heads=7"),
    ]:
        printed = run(*MODULE, *wrong, folder=tmp_path, status=2)
        assert "Traceback" not in printed
        [line] = [line for line in printed.splitlines() if line.startswith("acmix: error: ")]
        assert said in line


WORKERS = f"""
import json, os, sys
from ultralytics import YOLO
from tests.support.yolo_workers import GlooTrainer
from acmix.integrations.ultralytics import example, register, replace_conv
{COUNT}
form, data, project = sys.argv[1:]
if form == "row":
    register()
    model = YOLO(example("yolo11n-acmix-neck"))
else:
    model = replace_conv(YOLO("yolo11n.yaml"), {SELECT!r}, identity=True)
def look(trainer):
    from acmix.integrations.rates import acmix_parameters, RATES
    rates = [each for name, each in acmix_parameters(trainer.model) if name in RATES]
    decays = {{g["weight_decay"] for g in trainer.optimizer.param_groups for p in g["params"] for r in rates if p is r}}
    found = [count(trainer.model), type(trainer.model).__name__, len(rates), sorted(decays)]
    with open(f"{{project}}/{{os.environ['RANK']}}.json", "w") as file:
        json.dump(found, file)
model.add_callback("on_pretrain_routine_end", look)
model.train(trainer=GlooTrainer, data=data, project=project, name="run", epochs=1, {SMALL})
print("RESULT", count(model.model))
"""


@needs_ultralytics
@pytest.mark.parametrize(("form", "layers", "rates"), [("row", 1, 2), ("replace_conv", 2, 6)])
def test_the_processes_of_several_gpus_have_the_layers(
    form: str, layers: int, rates: int, squares: Path, tmp_path: Path
) -> None:
    """ultralytics starts two processes by its own launcher and script; see the trainer for what is not as on GPUs."""
    assert result(run("-c", WORKERS, form, squares, tmp_path)) == str(layers)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        assert found == [layers, "OnProcessors", rates, [0.0]]
