"""Batch norms over two gloo processes give what one process gives with both batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from acmix.errors import UsageError
from acmix.heads.segmenters import create_segmenter
from acmix.models.checkpointing import checkpointed
from acmix.train.sync_norm import SynchronisedBatchNorm2d, is_synchronised, synchronised
from tests.heads.tiny import TINY
from tests.support.processes import Forked

RESNET = "acmix_resnet26"
# images of each of two processes
SHARES = (2, 1)


def segmenter(head: str) -> Any:
    torch.manual_seed(0)
    narrow: dict[str, Any] = {"upernet": dict(auxiliary_channels=8), "semantic_fpn": dict(pyramid_channels=8)}[head]
    return create_segmenter(head, RESNET, num_classes=3, channels=8, dropout=0.0, backbone_args=TINY[RESNET], **narrow)


def stack(**norm: Any) -> nn.Module:
    """Two norms one behind the other."""
    torch.manual_seed(0)
    first, second = (nn.BatchNorm2d(4, **norm) for _ in range(2))
    return nn.Sequential(nn.Conv2d(3, 4, 3), first, nn.ReLU(), nn.Conv2d(4, 4, 1), second)


FORMS: dict[str, Callable[[], nn.Module]] = {
    "stack": stack,
    "upernet": lambda: segmenter("upernet"),
    "semantic_fpn": lambda: segmenter("semantic_fpn"),
    "without weights": lambda: stack(affine=False),
    "cumulative": lambda: stack(momentum=None),
    "no running statistics": lambda: stack(track_running_stats=False),
}


def learning(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In training, but for a backbone's norms, which no process shares."""
    model.to(dtype).train()
    if (features := getattr(model, "features", None)) is not None:
        features.eval()
    return model


def step(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The loss, summed over the images, with its gradients."""
    out: Any = model(images)
    parts = list(out.values()) if isinstance(out, dict) else [out]
    loss = torch.stack([(each - targets).square().mean((1, 2, 3)).sum() for each in parts]).sum()
    loss.backward()
    return loss.detach()


def batch(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Images whose mean lies far from 0, and what the logits are compared with."""
    generator = torch.Generator().manual_seed(7)
    images = 5 + torch.randn(count, 3, 33, 33, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64).to(dtype)


def found(model: nn.Module, loss: Tensor, factor: float = 1.0) -> dict[str, Tensor]:
    """The loss, the gradients times a factor, and the running statistics, by name."""
    gradients = {f"{name}.grad": each.grad * factor for name, each in model.named_parameters()}
    return {"loss": loss, **gradients, **dict(model.named_buffers())}


def take_part(form: str, dtype: torch.dtype, shares: tuple[int, ...], checkpointing: bool, file: str) -> None:
    """Two steps of one process on its share of a batch; the first process writes what all found."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model = synchronised(learning(FORMS[form](), dtype), world)
    if checkpointing:
        model: Any = Checkpointed(model)
    wrapped = DistributedDataParallel(model)
    images, targets = batch(sum(shares), dtype)
    mine = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    step(wrapped, images[mine], targets[mine])
    wrapped.zero_grad()
    loss = step(wrapped, images[mine], targets[mine])
    dist.all_reduce(loss)
    # DistributedDataParallel takes the mean over processes
    torch.save(found(model, loss, factor=world), f"{file}.{rank}")
    dist.destroy_process_group()


class Checkpointed(nn.Module):
    """A model whose forward pass is computed again in the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return checkpointed(self.model, x)


def expect_one_process(
    form: str, tmp_path: Path, dtype: torch.dtype, shares: tuple[int, ...], *, checkpointing: bool = False
) -> None:
    file = str(tmp_path / "found")
    ends = Forked(take_part, form, dtype, shares, checkpointing, file, processes=len(shares)).finish()
    assert [end.status for end in ends] == [0] * len(shares), ends
    ranks = [torch.load(f"{file}.{rank}") for rank in range(len(shares))]
    model = learning(FORMS[form](), dtype)
    images, targets = batch(sum(shares), dtype)
    step(model, images, targets)
    model.zero_grad()
    loss = step(model, images, targets)
    expected = found(model, loss)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for theirs in ranks:
        theirs = {name.removeprefix("model."): each for name, each in theirs.items()}
        assert theirs.keys() == expected.keys()
        for name, each in expected.items():
            scale = each.double().abs().max().clamp(min=1)
            difference = (theirs[name].double() - each.double()).abs().max() / scale
            assert difference < tolerance, f"{name}: {difference:.1e}"
    # statistics are the same on every process, to the bit
    for name, each in ranks[0].items():
        if "running" in name or name == "loss":
            assert torch.equal(each, ranks[1][name]), name


def test_two_processes_give_the_loss_the_gradients_and_the_statistics_of_one(tmp_path):
    expect_one_process("stack", tmp_path, torch.float64, SHARES)


@pytest.mark.slow
@pytest.mark.parametrize("form", list(FORMS)[1:])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_heads_and_other_norms_give_those_of_one_process_too(tmp_path, form, dtype):
    expect_one_process(form, tmp_path, dtype, SHARES)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(3, 0), (0, 3), (1, 1, 2)], ids=str)
def test_a_process_without_images_takes_part_and_there_may_be_three(tmp_path, shares):
    expect_one_process("stack", tmp_path, torch.float64, shares)


@pytest.mark.slow
def test_a_norm_that_is_computed_again_counts_the_batch_once(tmp_path):
    expect_one_process("stack", tmp_path, torch.float64, SHARES, checkpointing=True)


def test_only_the_norms_of_the_heads_are_changed_and_all_where_that_is_wanted():
    plain = segmenter("upernet")
    keys, count = list(plain.state_dict()), sum(isinstance(each, nn.BatchNorm2d) for each in plain.modules())
    heads = synchronised(segmenter("upernet"), 2)
    whole = synchronised(segmenter("upernet"), 2, heads_alone=False)
    of_heads, of_whole = (
        [name for name, each in model.named_modules() if is_synchronised(each)] for model in (heads, whole)
    )
    assert of_heads
    assert not [name for name in of_heads if name.startswith("features.")]
    assert len(of_whole) == count > len(of_heads)
    for model in (heads, whole):
        assert list(model.state_dict()) == keys
        plain.load_state_dict(model.state_dict())


def test_one_process_alone_keeps_its_norms_and_in_evaluation_they_are_batch_norms():
    model = segmenter("upernet")
    assert synchronised(model, 1) is model
    assert not any(map(is_synchronised, model.modules()))
    other = synchronised(copy.deepcopy(model), 2)
    # no group of processes: it counts its own batch
    for mode in (True, False):
        model.train(mode)
        other.train(mode)
        torch.manual_seed(1)
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)


def test_a_norm_keeps_its_tensors_and_its_mode():
    norm = nn.BatchNorm2d(3, eps=0.1, momentum=0.3).eval()
    new: Any = synchronised(norm, 2)
    assert isinstance(new, SynchronisedBatchNorm2d)
    assert (new.weight, new.running_mean, new.training) == (norm.weight, norm.running_mean, False)
    assert (new.eps, new.momentum, new.num_features) == (0.1, 0.3, 3)
    assert synchronised(new, 2) is new


def test_a_norm_of_another_kind_is_refused_in_one_line():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UsageError, match=r"^1 is a BatchNorm1d, .* expected BatchNorm2d") as caught:
        synchronised(model, 2)
    assert "\n" not in str(caught.value)


def one_value(sizes: tuple[int, int]) -> None:
    """A step in which the processes have these numbers of values a channel."""
    dist.init_process_group("gloo")
    norm = synchronised(nn.BatchNorm2d(3), 2)
    norm(torch.randn(sizes[dist.get_rank()], 3, 1, 1)).sum().backward()
    assert norm.weight.grad is not None
    dist.destroy_process_group()


@pytest.mark.slow
def test_one_value_a_channel_in_all_processes_is_refused_and_one_in_each_is_not():
    for sizes, status in (((1, 1), 0), ((1, 0), 1), ((0, 0), 0)):
        for end in Forked(one_value, sizes, processes=2).finish():
            assert end.status == status, end
            assert ("all processes together leave a batch norm one value a channel" in end.errors) == bool(status)
