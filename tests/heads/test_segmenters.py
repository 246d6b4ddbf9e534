"""Semantic FPN and UPerNet on every family: shapes, gradients, published figures, and the forms that models take."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.fx.experimental._config as config
import torch.nn.functional as F
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.heads.dense import enlarged
from acmix.heads.segmenters import HEADS
from acmix.heads.upernet import averaged
from acmix.layers import Mixed
from acmix.models.count import cost_of
from tests.heads.tiny import TINY

SWIN, RESNET, DEIT = (next(name for name in TINY if part in name) for part in ("swin", "resnet", "deit"))
NARROW: dict[str, dict[str, Any]] = {
    "semantic_fpn": dict(channels=8, pyramid_channels=8),
    "upernet": dict(channels=8, auxiliary_channels=8),
}
SIZES = [(64, 64), (33, 70), (5, 40), (1, 1)]
# what leaving PyTorch and compiling takes long for; the families alone are tested in tests/models
COMBINED = [("upernet", SWIN), ("upernet", DEIT), ("semantic_fpn", RESNET)]
every_head = pytest.mark.parametrize("head", HEADS)
every_family = pytest.mark.parametrize("name", TINY)
# two of them between commits
any_family = pytest.mark.parametrize(
    "name", [name if name in (SWIN, RESNET) else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
)


def tiny(head: str, name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    arguments = {**TINY[name], **kwargs.pop("backbone_args", {})}
    return acmix.create_segmenter(head, name, num_classes=5, backbone_args=arguments, **{**NARROW[head], **kwargs})


def images(count: int = 2, height: int = 64, width: int = 64, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3)).to(dtype)


def tuned(model: nn.Module) -> Any:
    """In evaluation mode, with norms that know one batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images(4))
    return model.eval()


def loss_of(out: Any) -> torch.Tensor:
    return torch.stack([each.square().mean() for each in (out.values() if isinstance(out, dict) else [out])]).sum()


@pytest.mark.slow
@every_head
@every_family
def test_it_labels_images_of_any_size_and_every_parameter_learns(head, name):
    model = tiny(head, name)
    for height, width in SIZES:
        model.zero_grad()
        out = model(images(2, height, width))
        found = out if isinstance(out, dict) else {"out": out}
        assert list(found) == (["out", "aux"] if head == "upernet" else ["out"])
        assert {tuple(each.shape) for each in found.values()} == {(2, 5, height, width)}
        loss_of(out).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
        with torch.no_grad():
            assert model.eval()(images(1, height, width)).shape == (1, 5, height, width)
        model.train()


# millions of parameters; 10⁹ multiply-adds at 512×2048
@pytest.mark.parametrize(
    ("size", "parameters", "gmacs"), [("tiny", 60, 945), pytest.param("small", 81, 1038, marks=pytest.mark.slow)]
)
def test_upernet_with_a_plain_swin_costs_what_is_published(size, parameters, gmacs):
    with torch.device("meta"):
        model = acmix.create_segmenter("upernet", f"acmix_swin_{size}_patch4_window7_224", conv_path=False)
    found = cost_of(model, (512, 2048))
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=0.015)
    assert found.gmacs == pytest.approx(gmacs, rel=0.015)


@every_head
def test_the_plain_form_has_no_convolution_path(head):
    mixed, plain = tiny(head, SWIN), tiny(head, SWIN, conv_path=False)
    assert [each for each in mixed.modules() if isinstance(each, Mixed) and each.conv_path is not None]
    assert not [each for each in plain.modules() if isinstance(each, Mixed) and each.conv_path is not None]
    assert set(plain.state_dict()) < set(mixed.state_dict())


def test_attributes_say_what_it_is():
    model = tiny("upernet", SWIN)
    assert (model.head_name, model.num_classes, model.auxiliary_weight) == ("upernet", 5, 0.4)
    assert model.features.strides == [4, 8, 16, 32]
    other = tiny("semantic_fpn", SWIN)
    assert (other.head_name, other.auxiliary_weight, other.auxiliary) == ("semantic_fpn", 0.0, None)
    alone = tiny("upernet", SWIN, auxiliary_weight=0)
    assert (alone.auxiliary_weight, alone.auxiliary) == (0, None)
    assert isinstance(alone(images()), torch.Tensor)


def test_swins_maps_have_norms_and_others_only_where_wanted():
    def count(name: str, **kwargs: Any) -> int:
        return sum(isinstance(each, nn.LayerNorm) for each in tiny("upernet", name, **kwargs).norms)

    assert (count(SWIN), count(RESNET)) == (4, 0)
    assert (count(SWIN, out_norms=False), count(RESNET, out_norms=True)) == (0, 4)


def test_the_auxiliary_head_reads_the_map_of_stride_16_or_the_last_but_one():
    for name, stride in ((SWIN, 16), (RESNET, 16), (DEIT, 16)):
        model = tiny("upernet", name)
        assert model.features.strides[model.auxiliary_place] == stride
    short = tiny("upernet", SWIN, backbone_args=dict(depths=(1, 1), num_heads=(1, 2)))
    assert (short.features.strides, short.auxiliary_place) == ([4, 8], 0)
    assert short(images())["aux"].shape == (2, 5, 64, 64)


def test_the_pyramid_over_a_plain_transformer_has_four_strides():
    for head in HEADS:
        assert tiny(head, DEIT).pyramid.strides == [4, 8, 16, 32]


@every_head
def test_timms_networks_are_backbones_too(head):
    model = acmix.create_segmenter(head, "resnet18", num_classes=5, **NARROW[head])
    assert loss_of(model(images(2, 40, 72))).isfinite()


@every_head
@any_family
def test_a_folded_segmenter_gives_the_same(head, name):
    model, x = tuned(tiny(head, name)).double(), images().double()
    with torch.no_grad():
        torch.testing.assert_close(acmix.fold(model)(x), model(x), rtol=1e-10, atol=1e-10)


@every_head
@any_family
def test_channels_last_gives_the_same(head, name):
    model = tuned(tiny(head, name))
    with torch.no_grad():
        expected = model(images())
        found = model.to(memory_format=torch.channels_last)(images().to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@every_head
@any_family
def test_it_trains_in_bfloat16(head, name):
    model = tiny(head, name)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images())
    loss = loss_of(out)
    loss.backward()
    assert loss.isfinite()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())


@every_head
@any_family
def test_checkpointed_blocks_give_the_same_gradients(head, name):
    models = [tiny(head, name, dropout=0.0) for _ in range(2)]
    models[1].set_grad_checkpointing()
    for model in models:
        loss_of(model(images())).backward()
    for (key, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=key)
    for one, other in zip(models[0].buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "name"), [("upernet", SWIN), ("semantic_fpn", RESNET)])
def test_it_compiles_into_one_graph_with_its_gradients(head, name):
    torch._dynamo.reset()
    model = tiny(head, name, dropout=0.0)
    compiled: Any = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    for each in (model, compiled):
        loss_of(each(images())).backward()
    theirs = dict(compiled._orig_mod.named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(theirs[key].grad, parameter.grad, rtol=1e-3, atol=1e-4, msg=key)


@torch.no_grad()
def expect_equal(run: Any, model: nn.Module) -> None:
    for count, (height, width) in enumerate(SIZES, 1):
        x = images(count, height, width)
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "name"), [("upernet", DEIT), ("semantic_fpn", RESNET)])
def test_an_exported_program_takes_any_batch_and_size(head, name):
    model = tuned(tiny(head, name))
    free = {dim: torch.export.Dim.DYNAMIC for dim in (0, 2, 3)}
    with config.patch(backed_size_oblivious=True), torch.no_grad():  # pyright: ignore[reportAttributeAccessIssue]
        program = torch.export.export(model, (images(),), dynamic_shapes=(free,))
    assert "acmix" not in str(program.graph)
    expect_equal(program.module(), model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("head", "name"), COMBINED)
def test_onnx_takes_any_batch_and_size(head, name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, file = tuned(tiny(head, name)), str(tmp_path / "model.onnx")
    axes = {"x": {0: "batch", 2: "rows", 3: "columns"}}
    with torch.no_grad():
        torch.onnx.export(model, (images(),), file, input_names=["x"], dynamo=False, dynamic_axes=axes)
    session = onnxruntime.InferenceSession(file)
    expect_equal(lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model)


def test_nothing_of_the_heads_is_decayed_but_what_the_backbone_names():
    model = tiny("upernet", SWIN)
    names = dict(model.named_parameters())
    found = model.no_weight_decay()
    assert found <= set(names)
    assert any(name.endswith("relative_position_bias_table") for name in found)
    assert any(name.endswith("rate_conv") for name in found)
    assert all(name.startswith("features.") for name in found)


def test_one_image_a_step_is_refused_where_a_norm_would_see_one_value():
    model = tiny("upernet", SWIN)
    with pytest.raises(UsageError, match=r"one image of 64 × 64 .* give it 2 images or more") as caught:
        model(images(1))
    assert "\n" not in str(caught.value)
    model.eval()(images(1))
    with pytest.raises(UsageError, match="one value a channel"):
        tiny("semantic_fpn", RESNET)(images(1, 32, 20))
    # a map of several pixels is enough where none is averaged
    loss_of(tiny("semantic_fpn", RESNET)(images(1, 33, 20))).backward()
    loss_of(tiny("upernet", SWIN, pools=(2, 3))(images(1))).backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(head="uppernet"), r"no segmentation head 'uppernet'; did you mean 'upernet'\?"),
        (dict(head="zzz"), "no segmentation head 'zzz'; there are semantic_fpn and upernet"),
        (dict(backbone="acmix_swin_tny_patch4_window7_224"), "did you mean 'acmix_swin_tiny_patch4_window7_224'"),
        (dict(backbone_args=dict(embed_dims=8)), "embed_dims=8: .* did you mean"),
        (dict(chanels=8), f"chanels=8: neither upernet nor {SWIN} takes it; did you mean 'channels'"),
        (dict(pyramid_channels=8), f"pyramid_channels=8: neither upernet nor {SWIN} takes it; "),
        (
            dict(score_thresh=0.5),
            f"score_thresh=0.5: neither upernet nor {SWIN} takes it; upernet takes channels, pools",
        ),
        (dict(image_mean=(0, 0, 0)), f"neither upernet nor {SWIN} takes it"),
        (dict(out_channels=8), "out_channels: torchvision's name; here it is channels"),
        (dict(weights="DEFAULT"), "weights: torchvision's name; here it is acmix.load, for a model of ours"),
        (dict(aux_loss=True), "aux_loss: torchvision's name; here it is auxiliary_weight"),
        (dict(num_classes=0), "num_classes=0; expected a whole number from 1 on"),
        (dict(channels=8.5), "channels=8.5; expected a whole number from 1 on"),
        (dict(pools=()), r"pools=\(\); expected whole numbers from 1 to 64"),
        (dict(pools=(1, 0)), r"pools=\(1, 0\); expected whole numbers"),
        (dict(pools=(1, 20_000)), "expected whole numbers from 1 to 64"),
        (dict(dropout=1.5), "dropout=1.5; expected a number from 0 to 1"),
        (dict(auxiliary_weight=-1), "auxiliary_weight=-1; expected a number from 0 on"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        acmix.create_segmenter(**{"head": "upernet", "backbone": SWIN, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 1, 64, 64)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(UsageError, match=r"expected \(B, 3, h, w\), normalised"):
        tiny("semantic_fpn", SWIN)(torch.randn(shape))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_enlarging_keeps_every_pixel_in_its_place(factor):
    x = images(1, 6, 5)
    whole = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    rows, columns = 6 * factor - factor + 1, 5 * factor
    assert torch.equal(enlarged(x, factor, (rows, columns)), whole[:, :, :rows, :columns])


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (6, 6), (13, 5)])
@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_means_over_fields_as_products_are_adaptive_pooling(size, side, monkeypatch):
    x = images(2, *size, dtype=torch.float64)
    expected = averaged(x, side)
    monkeypatch.setattr("acmix.heads.upernet.leaves_pytorch", lambda: True)
    torch.testing.assert_close(averaged(x, side), expected)


@every_head
def test_the_classes_of_a_fresh_narrow_head_are_unlike(head):
    """Where they start alike, objects are told from ground for a thousand steps, and not from one another."""
    torch.manual_seed(0)
    with torch.no_grad():
        logits = tiny(head, SWIN).train()(images())
    found = logits["out"] if isinstance(logits, dict) else logits
    assert found.std(1).mean() > 0.15
