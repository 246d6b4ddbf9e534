"""Exports come back as they left, and nothing in such a file is executed."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx.experimental._config as sizes_settings
import torchvision  # noqa: F401  its operators read and write files
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.tools.load import load
from acmix.tools.predict import predict
from acmix.tools.rates import rates_of
from tests.support.checks import Hostile

# exporting the models that they share takes ten seconds
pytestmark = pytest.mark.slow

# torch adds `patch` to it at run time
sizes_config: Any = sizes_settings

FREE = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
SIZE = 32


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4)
    swin = acmix.create_model("acmix_swin_tiny_patch4_window7_224", num_classes=5, img_size=SIZE, **sizes)
    return acmix.fold(swin.eval())


@pytest.fixture(scope="module")
def files(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model in every format, of free sizes and of fixed ones."""
    folder = tmp_path_factory.mktemp("exports")
    files = {name: folder / name for name in ("free.pt2", "fixed.pt2", "script.pt", "free.onnx", "fixed.onnx")}
    images = torch.randn(2, 3, SIZE, SIZE)
    with sizes_config.patch(backed_size_oblivious=True):
        torch.export.save(torch.export.export(model, (images,), dynamic_shapes=(FREE,)), files["free.pt2"])
    torch.export.save(torch.export.export(model, (images,)), files["fixed.pt2"])
    names = {"images": {0: "batch", 2: "height", 3: "width"}}
    with torch.no_grad():
        traced: Any = torch.jit.trace(model, images)
        traced.save(files["script.pt"])
        torch.onnx.export(
            model, (images,), files["free.onnx"], dynamo=False, input_names=["images"], dynamic_axes=names
        )
        torch.onnx.export(model, (images,), files["fixed.onnx"], dynamo=False)
    return files


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["free.pt2", "fixed.pt2", "script.pt", "free.onnx", "fixed.onnx"])
def test_an_export_gives_what_the_model_gave(model: nn.Module, files: dict[str, Path], name: str) -> None:
    fixed = name.startswith("fixed")
    export, info = load(files[name], img_size=None if fixed else SIZE)
    assert (info.img_size, info.in_chans, info.classes, info.are_named) == (SIZE, 3, list("01234"), False)
    assert any("names its classes" in note or "does not name its classes" in note for note in info.notes)
    # three images, also where the export takes two at a time
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(export(images), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(copy.deepcopy(export)(images), expected, atol=1e-5, rtol=1e-5)
    assert len(predict(export, images, 2)) == 3
    if not fixed:
        assert load(files[name], classes=list("abcde"))[1].classes == list("abcde")
        assert load(files[name])[1].img_size == 224
        other = torch.randn(1, 3, 40, 21)
        with torch.inference_mode():
            torch.testing.assert_close(export(other), model(other), atol=1e-5, rtol=1e-5)
        return
    with pytest.raises(UsageError, match="takes images of 3 × 32 × 32 alone"):
        export(torch.randn(1, 3, 40, 21))
    with pytest.raises(UsageError, match="takes images of 32 pixels a side alone, not 64"):
        load(files[name], img_size=64)


@pytest.mark.filterwarnings("ignore")
def test_names_of_exports_may_be_no_utf_8(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("fixed.pt2", "script.pt", "fixed.onnx"):
        odd = tmp_path / os.fsdecode(b"odd \xff\n" + name.encode())
        shutil.copy(files[name], odd)
        assert load(odd)[1].path == odd


def test_an_export_tells_no_rates(files: dict[str, Path]) -> None:
    for name in ("fixed.pt2", "script.pt", "fixed.onnx"):
        with pytest.raises(UsageError, match="its rates are part of its weights; give the checkpoint"):
            rates_of(files[name])


@pytest.mark.parametrize("record", ["data.pkl", "code/x.py"])
def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path, record: str) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/version", "3")
        archive.writestr(f"x/{record}", bytes(2**27))
    with pytest.raises(UsageError, match="far more than its own size: refused"):
        load(tmp_path / "bomb.pt")


def test_wrong_names_for_an_export_are_one_line(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="2 classes are given for the 5 outputs"):
        load(files["fixed.pt2"], classes=["a", "b"])


def changed(source: Path, target: Path, change: Callable[[str, bytes], bytes], **extra: bytes) -> Path:
    """A copy of an archive with other records; one that is the same would prove nothing."""
    differs = bool(extra)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(name, content))
            differs |= change(name, content) != content
        root = old.namelist()[0].partition("/")[0]
        for name, content in extra.items():
            new.writestr(f"{root}/{name}", content)
    assert differs
    return target


def in_json(change: Callable[[Any], None], record: str) -> Callable[[str, bytes], bytes]:
    """A change of one of an archive's JSON records."""

    def changed_record(name: str, content: bytes) -> bytes:
        if not name.endswith(record):
            return content
        tree = json.loads(content)
        change(tree)
        return json.dumps(tree).encode()

    return changed_record


def target(name: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        tree["graph_module"]["graph"]["nodes"][3]["target"] = name

    return change


def all_pickled(tree: Any) -> None:
    for content in tree["config"].values():
        content["use_pickle"] = True


WEIGHTS, GRAPH = "model_weights_config.json", "models/model.json"


@pytest.mark.parametrize(
    ("record", "change", "said"),
    [
        (GRAPH, target("torch.os.system"), "asks for 'torch.os.system': refused, nothing was executed"),
        (GRAPH, target("torch.ops.aten.from_file.default"), "from_file"),
        (GRAPH, target("torch.ops.image.write_file.default"), "write_file"),
        (GRAPH, target("torch.ops.aten.__class__.__name__"), "refused"),
        (GRAPH, target("_operator.methodcaller"), "refused"),
        (GRAPH, target("math.__loader__.load_module"), "refused"),
        (WEIGHTS, all_pickled, "to be unpickled: refused"),
        (GRAPH, lambda tree: tree.pop("graph_module"), "is damaged, or not what torch.export.save"),
        (GRAPH, lambda tree: tree["graph_module"]["graph"]["nodes"].append({}), "is damaged"),
    ],
)
def test_a_hostile_program_is_refused(
    files: dict[str, Path], tmp_path: Path, record: str, change: Callable[[Any], None], said: str
) -> None:
    file = changed(files["fixed.pt2"], tmp_path / "x.pt2", in_json(change, record))
    with pytest.raises(UsageError) as caught:
        load(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def first(target: str, result: str, *values: dict[str, Any]) -> Callable[[Any], None]:
    """Another call before those of a program; the values are its arguments, in the schema's order."""
    names = ("size", "fill_value")

    def change(tree: Any) -> None:
        given = [{"name": name, "arg": value, "kind": 1} for name, value in zip(names, values, strict=True)]
        made = {result: {"name" if result == "as_tensor" else "as_name": "more"}}
        node = {"target": target, "inputs": given, "outputs": [made], "metadata": {}}
        tree["graph_module"]["graph"]["nodes"].insert(0, node)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (first("torch.ops.aten.full.default", "as_tensor", {"as_ints": [2**50]}, {"as_float": 1.0}), "GiB"),
        (first("_operator.pow", "as_sym_int", {"as_int": 10}, {"as_int": 10**12}), "64 bits"),
        (first("_operator.lshift", "as_sym_int", {"as_int": 1}, {"as_int": 10**15}), "64 bits"),
        (first("_operator.mul", "as_sym_int", {"as_int": 2**62}, {"as_int": 2**62}), "64 bits"),
        (first("_operator.mul", "as_sym_int", {"as_string": "a"}, {"as_int": 10**15}), "no number"),
        (first("_operator.mod", "as_sym_int", {"as_string": "%99999999999d"}, {"as_int": 1}), "no number"),
    ],
)
def test_a_program_takes_no_memory_or_time_without_bound(
    files: dict[str, Path], tmp_path: Path, change: Callable[[Any], None], said: str
) -> None:
    file = changed(files["fixed.pt2"], tmp_path / "x.pt2", in_json(change, GRAPH))
    with pytest.raises(UsageError, match=said) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_memory_is_refused_before_it_is_taken(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acmix.tools.limits.memory", lambda: 2.0**21)
    load(files["fixed.pt2"])
    # of ordinary size, and yet more than the half of this machine's memory
    full = first("torch.ops.aten.full.default", "as_tensor", {"as_ints": [2**19]}, {"as_float": 1.0})
    with pytest.raises(UsageError, match="more than half of this machine's memory"):
        load(changed(files["fixed.pt2"], tmp_path / "x.pt2", in_json(full, GRAPH)))


def test_what_pytorch_would_execute_in_a_program_is_never_read(
    model: nn.Module, files: dict[str, Path], tmp_path: Path
) -> None:
    """Pickles of example inputs, text that guards and sizes are computed from, names that become code."""
    executed = tmp_path / "executed"
    pickled = io.BytesIO()
    torch.save(Hostile(executed), pickled)
    code = f"__import__('os').mkdir({str(executed)!r})"

    def change(tree: Any) -> None:
        tree["guards_code"] = [code]
        tree["range_constraints"] = {code: {"min_val": 0, "max_val": None}}
        for values in tree["graph_module"]["graph"]["tensor_values"].values():
            for size in values["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    def hostile(name: str, content: bytes) -> bytes:
        if name.endswith("sample_inputs/model.pt"):
            return pickled.getvalue()
        return in_json(change, GRAPH)(name, content)

    export, _ = load(changed(files["free.pt2"], tmp_path / "x.pt2", hostile), img_size=SIZE)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(export(images), model(images), atol=1e-5, rtol=1e-5)
    assert not executed.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_script_that_reaches_files_is_refused_before_it_is_read(tmp_path: Path) -> None:
    written = tmp_path / "written"

    class Saves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, "written")
            return x

    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.image.read_file("secret").to(x)

    class Maps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_file("written", True, 8)

    for number, module in enumerate((Saves(), Reads(), Maps())):
        file = tmp_path / f"{number}.pt"
        torch.jit.script(module).save(file)
        with pytest.raises(UsageError, match="refused, nothing was executed"):
            load(file)
    assert not written.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "line",
    [
        r'getattr(torch, "\x73ave")(argument_1, "written")',
        'getattr(torch, "sa" "ve")(argument_1, "written")',
        "torch.\\\nsave(argument_1, 'written')",
        "ops . image . write_file('written', argument_1)",
        "ops.\\\n  image.write_file('written', argument_1)",
        "writer = ops.image\n    _0 = writer.write_file('written', argument_1)",
        "__torch__.torch.classes.rnn.CellParamsBase",
    ],
)
def test_a_script_cannot_hide_what_it_calls(files: dict[str, Path], tmp_path: Path, line: str) -> None:
    def hostile(name: str, content: bytes) -> bytes:
        # a second trace of the class in one process lies in swin/___torch_mangle_N.py
        if not re.search(r"acmix/models/swin(/___torch_mangle_\d+)?\.py$", name) or b"-> Tensor:\n" not in content:
            return content
        head, body = content.split(b"-> Tensor:\n", 1)
        return head + b"-> Tensor:\n    " + line.encode() + b"\n" + body

    file = changed(files["script.pt"], tmp_path / "x.pt", hostile)
    with pytest.raises(UsageError, match="refused, nothing was executed"):
        load(file)


def test_damaged_exports_are_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    for name, file in files.items():
        for part in (0, 100, file.stat().st_size // 2):
            torn = tmp_path / f"{part}_{name}"
            torn.write_bytes(file.read_bytes()[:part])
            with pytest.raises(UsageError) as caught:
                load(torn)
            assert "\n" not in str(caught.value)


def test_compiled_packages_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/archive_format", b"pt2")
        archive.writestr("x/data/aotinductor/model/x.so", pickle.dumps(1))
    with pytest.raises(UsageError, match="compiled code, which would be run: refused"):
        load(file)
