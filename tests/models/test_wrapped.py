"""Hooks on every module of every family fire, and what is put on any module acts; alone and on two processes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import prune

import acmix
from acmix.errors import UsageError
from acmix.models.tokens import Tokens
from tests.models.test_models import FAMILIES, images, toy
from tests.support.processes import Forked
from tests.support.wrappers import LowRank, put, with_own_forward

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")
families = pytest.mark.parametrize("name", FAMILIES)
# timm's models with convolution paths: their sizes
UPGRADED: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": dict(img_size=32, depth=2, num_classes=5),
    "pvt_v2_b0": dict(depths=(1, 1, 1, 1), num_classes=5),
    "swin_tiny_patch4_window7_224": dict(img_size=32, depths=(1, 1, 1, 1), window_size=4, num_classes=5),
}
KINDS = ("forward", "forward_pre", "full_backward", "full_backward_pre")


def built(name: str, **kwargs: Any) -> Any:
    """One of our toys, or of timm's small models with convolution paths."""
    if name in UPGRADED:
        torch.manual_seed(0)
        return acmix.add_conv_path(name, pretrained=False, rates=(0.7, 0.4), **{**UPGRADED[name], **kwargs})
    return toy(name, **kwargs)


def never_called(name: str, module: nn.Module) -> bool:
    """Modules whose hooks nobody can expect to fire."""
    # a list has no forward; nothing reduces PVT's last map, and its class token could not take part
    if type(module) is nn.ModuleList or (type(module) is nn.Identity and ".attn." in name):
        return True
    # the last block of timm's ViT keeps timm's attention, whose fused operator takes the dropout as a number
    return name.endswith("attn_drop") and not isinstance(module, nn.Identity)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in FAMILIES),
        *((name, dict(conv_path=False)) for name in FAMILIES),
        ("acmix_san10", dict(attention="pairwise")),
        *((name, {}) for name in UPGRADED),
    ],
)
def test_hooks_on_every_module_fire(name, changes, kind):
    model = built(name, drop_path_rate=0.1, **changes)
    fired = set()
    for path, module in model.named_modules():
        register = getattr(module, f"register_{kind}_hook")
        register(lambda *_, path=path: fired.add(path))
    model(images().requires_grad_()).square().sum().backward()
    silent = {path: module for path, module in model.named_modules() if path not in fired}
    wrong = [path for path, module in silent.items() if not never_called(path, module)]
    assert not wrong
    # not the list of exceptions is what passes
    assert len(fired) > 0.7 * len(list(model.named_modules()))


@families
def test_hooks_of_every_kind_change_no_number(name):
    watched, model = built(name).double(), built(name).double()
    for module in watched.modules():
        for kind in KINDS:
            getattr(module, f"register_{kind}_hook")(lambda *_: None)
    outputs = []
    for each in (model, watched):
        outputs.append(each(images(dtype=torch.float64).requires_grad_()))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    for one, other in zip(watched.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)


@families
def test_maps_taken_by_hooks_are_those_taken_by_name(name):
    by_name = built(name, features_only=True).eval()
    with torch.no_grad():
        expected = by_name(images())
    inner, kept = by_name.model, []
    for info in by_name.feature_info.get_dicts():
        inner.get_submodule(info["module"]).register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        inner(images())
    if "deit" in name:
        kept = [Tokens(each, (4, 4)) for each in kept[-3:]]
    found = [inner.as_map(each, "NCHW") for each in kept]
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def wrappable(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)]


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in UPGRADED)])
def test_an_adapter_on_any_layer_changes_the_output_and_is_trained(name):
    model = built(name).eval()
    plain = model(images())
    for path in wrappable(model):
        at: Any = model.get_submodule(path)
        if at is None or (isinstance(at, nn.Conv2d) and at.kernel_size != (1, 1)):
            continue
        wrapped = put(model, path, LowRank)
        out = model(images())
        assert not torch.equal(out, plain), path
        out.square().sum().backward()
        for parameter in wrapped.parameters():
            assert parameter.grad is not None, path
        put(model, path, lambda wrapped: wrapped.base)
    assert torch.equal(model(images()), plain)


@families
def test_a_model_is_pruned_while_it_trains(name):
    model = built(name)
    for path in wrappable(model):
        prune.l1_unstructured(model.get_submodule(path), "weight", amount=0.3)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
    model(images())
    for path in wrappable(model):
        module: Any = model.get_submodule(path)
        assert torch.equal(module.weight, module.weight_orig * module.weight_mask), path
    model.eval()
    torch.testing.assert_close(acmix.fold(model)(images()), model(images()), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization", "ignore:torch.quantize_per")
@families
def test_dynamic_quantisation_comes_near(name):
    model = built(name).eval()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        exact = model(images())
        for each in (quantised, acmix.fold(quantised)):
            found = each(images())
            assert not torch.equal(found, exact)
            assert (found - exact).abs().max() < 0.2 * exact.abs().max()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "pvt_v2_b0"])
def test_adapters_on_a_model_of_timm_s_live_on_in_the_upgraded_one(name):
    import timm

    model: Any = timm.create_model(name, **UPGRADED[name]).eval()
    first = "blocks.0.attn" if name.startswith("vit") else "stages.0.blocks.0.attn"
    for child in ("proj", "qkv" if name.startswith("vit") else "q"):
        put(model, f"{first}.{child}", LowRank)
    torch.testing.assert_close(acmix.add_conv_path(model)(images()), model(images()))
    model.get_submodule(first).register_forward_hook(lambda *_: None)
    with pytest.raises(UsageError, match="'attn' has hooks or a parametrisation, which would be lost"):
        acmix.add_conv_path(model)


@pytest.mark.parametrize("wrap", [LowRank, with_own_forward])
def test_a_swin_of_timm_s_is_upgraded_before_it_is_wrapped(wrap):
    import timm

    name = "swin_tiny_patch4_window7_224"
    model = timm.create_model(name, **UPGRADED[name])
    put(model, "layers.0.blocks.0.attn.qkv", wrap)
    with pytest.raises(UsageError, match=r"'layers.0.blocks.0.attn.qkv' .* add the convolution paths first"):
        acmix.add_conv_path(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if "resnet" in name or "pvt" in name])
def test_a_wrapped_model_compiles_into_one_graph(name):
    torch._dynamo.reset()
    model = built(name).eval()
    for path in wrappable(model):
        if path.endswith((".proj", ".query", ".position", ".q", ".qkv")) and "patch_embed" not in path:
            put(model, path, LowRank)
    out = torch.compile(model, backend="aot_eager", fullgraph=True)(images())
    torch.testing.assert_close(out, model(images()), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["linear", "block", "step", "adapters"])
def test_two_processes_train_every_family_as_one_does(way):
    ends = Forked(train_on_two, way, processes=2).finish()
    for end in ends:
        assert end.status == 0, end.errors[-2000:]


def train_on_two(way: str) -> None:
    """Three steps in one process and the same three on two, sharded or replicated."""
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for name in FAMILIES:
        # running statistics are each process's own
        alone = built(name).eval()
        if way == "adapters":
            for path in wrappable(alone):
                if isinstance(alone.get_submodule(path), nn.Linear) or path.endswith((".query", ".position")):
                    put(alone, path, LowRank)
            alone.requires_grad_(False)
            for module in alone.modules():
                if isinstance(module, LowRank):
                    module.down.requires_grad_()
                    module.up.requires_grad_()
        shared: Any = copy.deepcopy(alone)
        if way == "adapters":
            shared = DistributedDataParallel(shared)
        else:
            for path, module in reversed(list(shared.named_modules())):
                block = (path.rpartition(".")[2].isdigit() and path.split(".")[-2] == "blocks") or path in shared.steps
                linear = type(module) in (nn.Linear, nn.Conv2d)
                if {"linear": linear, "block": block, "step": path in shared.steps}[way] and list(module.parameters()):
                    fully_shard(module, mesh=mesh)
            fully_shard(shared, mesh=mesh)
        batch = images(4)
        losses = []
        for model, part in ((alone, batch), (shared, batch.chunk(2)[dist.get_rank()])):
            optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.01)
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(part).square().mean()
                loss.backward()
                optimizer.step()
            loss = model(part).square().mean().detach()
            if model is shared:
                dist.all_reduce(loss)
                loss /= 2
            losses.append(loss.item())
        assert abs(losses[0] - losses[1]) <= 1e-3 * abs(losses[0]), (name, losses)
    dist.destroy_process_group()
