"""The released modules and ResNets become ours and go back, to the bit; golden outputs and gradients are reached."""

import json
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import acmix
from acmix.errors import UsageError
from acmix.layers import ACmix2d
from acmix.released.safe_load import safe_load
from acmix.released.weight_keys_resnet import BEFORE, BEHIND, LAYER, PLAIN, RESNET_END, RESNET_START, SHORTCUT
from acmix.released.weights import architecture, from_official, to_official
from acmix.tools.convert import convert
from acmix.train.checkpoint import restore_model
from tests.support.paths import DATA

CASES = ["basic", "stride2", "widen_rect_k5", "one_head_k3"]
SIZES = [26, 38, 50]
SMALL: dict[str, Any] = dict(layers=(1, 2, 1, 1), width=8, heads=2, num_classes=5)


def golden(case):
    """The constructor's settings, and the tensors, of a golden file of one module."""
    with safe_open(DATA / f"acmix2d_{case}.safetensors", framework="pt") as file:
        settings = json.loads(file.metadata()["case"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
    arguments = dict(
        in_channels=settings["in_channels"],
        out_channels=settings["out_channels"],
        heads=settings["head"],
        attention_size=settings["kernel_att"],
        conv_size=settings["kernel_conv"],
        stride=settings["stride"],
    )
    return arguments, tensors


def under(tensors, prefix):
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def released_keys(size):
    return json.loads((DATA / f"official_keys_resnet{size}.json").read_text())


def released_weights(size, **kwargs):
    """Weights of the released layout, drawn by our initialisation."""
    name = f"acmix_resnet{size}"
    model = acmix.create_model(name, **kwargs)
    return to_official(model.state_dict(), name), model


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return released_weights(26, **SMALL)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("case", CASES)
def test_a_lone_module_reaches_the_golden_output_and_every_golden_gradient(case, dtype, bound):
    arguments, tensors = golden(case)
    layer = ACmix2d(**arguments).to(dtype)
    layer.load_state_dict(from_official(under(tensors, "weight/"), "acmix2d"))
    x = tensors["input"].to(dtype).requires_grad_()
    out = layer(x)
    out.backward(tensors["grad_output"].to(dtype))
    expected = from_official(under(tensors, "grad_weight/"), "acmix2d") | {"input": tensors["grad_input"]}
    found = {name: parameter.grad for name, parameter in layer.named_parameters()} | {"input": x.grad}
    assert found.keys() == expected.keys()
    assert (out - tensors["output"]).abs().max() <= bound * tensors["output"].abs().max()
    # a constant added to every position leaves the softmax as it is: this gradient is noise about zero on both sides
    largest = max(tensor.abs().max() for tensor in expected.values())
    for name, there in expected.items():
        scale = largest if name == "position.bias" else there.abs().max()
        assert (found[name] - there).abs().max() <= bound * scale, name


@pytest.mark.parametrize("case", CASES)
def test_a_lone_module_returns_from_a_round_trip_to_the_bit(case):
    arguments, tensors = golden(case)
    released = under(tensors, "weight/")
    back = to_official(from_official(released, "acmix2d"), "acmix2d")
    assert back.keys() == released.keys()
    for key, tensor in released.items():
        assert torch.equal(back[key], tensor), key
    sizes = architecture(released)
    assert sizes == {key: arguments[key] for key in ("in_channels", "out_channels", "heads", "conv_size")}
    assert architecture(from_official(released, "acmix2d")) == sizes


@pytest.mark.parametrize("size", SIZES)
def test_keys_shapes_and_parameters_are_those_of_the_released_models(size):
    name = f"acmix_resnet{size}"
    with torch.device("meta"):
        model = acmix.create_model(name)
    theirs = to_official({key: torch.empty(value.shape) for key, value in model.state_dict().items()}, name)
    expected = released_keys(size)
    assert [(key, list(value.shape)) for key, value in theirs.items()] == list(expected["keys"].items())
    ours = from_official(theirs, name)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]


def test_a_released_resnet_loads_and_returns_to_the_bit(small):
    released, model = small
    again = acmix.create_model("acmix_resnet26", **SMALL)
    again.load_state_dict(
        from_official({"state_dict": {f"module.{k}": v for k, v in released.items()}}, "acmix_resnet26")
    )
    x = torch.randn(2, 3, 40, 33)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model.eval()(x))
    back = to_official(again.state_dict(), "acmix_resnet26")
    assert list(back) == list(released)
    assert all(torch.equal(back[key], tensor) for key, tensor in released.items())


@pytest.mark.slow
def test_timm_s_resnet50_is_read_as_the_baseline():
    theirs = timm.create_model("resnet50").state_dict()
    ours = from_official(theirs, "acmix_resnet50")
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    acmix.create_model("acmix_resnet50", conv_path=False).load_state_dict(ours)


@pytest.mark.parametrize("place", ["", "layer2.1.conv2."])
def test_a_bias_of_zeros_is_dropped_and_another_one_refused(small, place):
    released, name = (small[0], "acmix_resnet26") if place else (under(golden("basic")[1], "weight/"), "acmix2d")
    channels = released[f"{place}dep_conv.weight"].shape[0]
    zeros = {**released, f"{place}dep_conv.bias": torch.zeros(channels)}
    assert from_official(zeros, name).keys() == from_official(released, name).keys()
    ones = {**released, f"{place}dep_conv.bias": torch.ones(channels)}
    with pytest.raises(UsageError, match=f"{place}dep_conv.bias is not zero") as caught:
        from_official(ones, name)
    assert "\n" not in str(caught.value)


def test_a_rate_without_dimensions_is_taken(small):
    released = {k: v.reshape(()) if k.endswith(("rate1", "rate2")) else v for k, v in small[0].items()}
    ours = from_official(released, "acmix_resnet26")
    assert ours["layer1.0.conv2.rate_attention"].shape == (1,)
    assert all(torch.equal(ours[key], value) for key, value in small[1].state_dict().items())


@pytest.mark.parametrize(
    "key", ["conv1.weight", "bn1.running_var", "layer2.0.conv2.rate1", "layer3.0.conv2.fc.weight", "fc.bias"]
)
def test_a_missing_key_is_named(small, key):
    weights = {k: v for k, v in small[0].items() if k != key}
    with pytest.raises(UsageError, match=f"the file lacks: {key}"):
        from_official(weights, "acmix_resnet26")


def test_a_missing_stage_is_named(small):
    weights = {k: v for k, v in small[0].items() if not k.startswith("layer4.")}
    with pytest.raises(UsageError, match=r"the file lacks: layer4\.0\.conv1\.weight"):
        from_official(weights, "acmix_resnet26")


@pytest.mark.parametrize("key", ["rate2", "conv_p.bias", "fc.weight", "dep_conv.weight"])
def test_a_missing_key_of_a_lone_module_is_named(key):
    weights = {k: v for k, v in under(golden("widen_rect_k5")[1], "weight/").items() if k != key}
    with pytest.raises(UsageError, match=f"the file lacks: {key}"):
        from_official(weights, "acmix2d")


def test_unknown_keys_wrong_shapes_and_other_networks_are_refused(small):
    released, model = small
    with pytest.raises(UsageError, match=r"do not know: extra; "):
        from_official({**released, "extra": torch.ones(1)}, "acmix_resnet26")
    with pytest.raises(UsageError, match=r"conv2\.conv_p\.bias \(3,\), expected \(4,\)"):
        from_official({**released, "layer1.0.conv2.conv_p.bias": torch.ones(3)}, "acmix_resnet26")
    with pytest.raises(UsageError, match="already have acmix names"):
        from_official(model.state_dict(), "acmix_resnet26")
    with pytest.raises(UsageError, match=r"lacks: layer1\.0\.conv3\.weight"):
        from_official(timm.create_model("resnet18").state_dict(), "acmix_resnet50")
    with pytest.raises(UsageError, match="did you mean 'acmix_resnet50'"):
        from_official(released, "acmix_resnet51")
    with pytest.raises(UsageError, match=r"lacks: rate1, rate2.*conv1\.weight \(4, 4, 3, 3\), expected \(4, 4, 1, 1\)"):
        from_official({"conv1.weight": torch.ones(4, 4, 3, 3)}, "acmix2d")


def test_weights_of_another_depth_are_refused_with_the_name_to_give():
    weights = {key: torch.empty(shape) for key, shape in released_keys(38)["keys"].items()}
    with pytest.raises(UsageError, match=r"\(2, 3, 5, 2\).*\(3, 4, 6, 3\).*give the name acmix_resnet38"):
        from_official(weights, "acmix_resnet50")


def test_every_row_that_renames_or_drops_has_a_reason():
    rows = [*RESNET_START, *BEFORE, *LAYER, *PLAIN, *BEHIND, *SHORTCUT, *RESNET_END]
    changed = [row for row in rows if row.ours != row.official or row.shape not in ("", row.official_shape)]
    assert changed == list(LAYER)
    assert all(row.reason != "the same tensor" for row in changed)


@pytest.mark.slow
@pytest.mark.parametrize("conv_path", [True, False])
def test_files_are_converted_both_ways_with_the_name_and_sizes_read_off_the_weights(tmp_path, conv_path):
    released, model = released_weights(26, **{**SMALL, "layers": (1, 2, 4, 1), "conv_path": conv_path, "in_chans": 1})
    torch.save({"state_dict": released, "epoch": 90}, tmp_path / "released.pth")
    save_file(released, tmp_path / "released.safetensors")
    for source in ("released.pth", "released.safetensors"):
        done = convert(tmp_path / source, tmp_path / "ours.pt")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert f"acmix_resnet26, 5 classes, 224 pixels, {parameters:,} parameters" in done.summary
        restored = restore_model(tmp_path / "ours.pt")
        assert restored.config.model.conv_path == conv_path
        assert restored.config.optimizer.name == "momentum"
        state = restored.model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    convert(tmp_path / "ours.pt", tmp_path / "back.pth")
    back = safe_load(tmp_path / "back.pth")["model"]
    assert list(back) == list(released)
    assert all(torch.equal(back[key], tensor) for key, tensor in released.items())


def test_files_that_no_resnet_fits_are_refused_in_one_line(tmp_path, small):
    torch.save(small[0], tmp_path / "small.pth")
    save_file(under(golden("basic")[1], "weight/"), tmp_path / "layer.safetensors")
    for source, name, match in (
        ("small.pth", "acmix_swin_tiny_patch4_window7_224", r"they look like those of acmix_resnet\*"),
        ("small.pth", "acmix_resnet62", "did you mean 'acmix_resnet26'"),
        ("layer.safetensors", None, "holds a single layer, not a model"),
    ):
        with pytest.raises(UsageError, match=match) as caught:
            convert(tmp_path / source, tmp_path / "new.pt", name=name)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "new.pt").exists()
