"""Tools that train: sharding, launchers, averages of weights."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from families import Family, change, images, loss, output
from figures import Count, Effect, Error, Figures
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

PROCESSES, STEPS, RATE = 2, 3, 0.01


def together(body: Callable[[int, Path], object]) -> Path:
    """Runs a body in two processes that find each other; it writes into the folder that comes back."""
    folder = Path(tempfile.mkdtemp())
    with socket.socket() as free:
        free.bind(("localhost", 0))
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(free.getsockname()[1]))
    os.environ.update(WORLD_SIZE=str(PROCESSES), LOCAL_WORLD_SIZE=str(PROCESSES))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=in_place, args=(body, rank, folder)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(said(folder))
    return folder


def in_place(body: Callable[[int, Path], object], rank: int, folder: Path) -> None:
    """A process's part."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    with (folder / f"{rank}.err").open("w") as file:
        os.dup2(file.fileno(), 2)
    body(rank, folder)


def said(folder: Path) -> str:
    """The last line that a process wrote before it failed."""
    from cells import last_error

    return next(filter(None, (last_error(file.read_text()) for file in sorted(folder.glob("*.err")))), "no message")


def alone(model: nn.Module) -> list[float]:
    """The losses of a few steps in one process, each the mean over the batches of all."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        value = torch.stack([loss(model, images(10 * step + rank)) for rank in range(PROCESSES)]).mean()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def furthest(a: list[float], b: list[float]) -> float:
    """The largest difference."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def sharded(family: Family, ours: bool, choose: Callable[[nn.Module], list[nn.Module]]) -> Figures:
    """FSDP2 on two processes: the losses of three steps are those of one process."""
    model = family.model(ours)
    expected = alone(copy.deepcopy(model))

    def body(rank: int, folder: Path) -> None:
        from torch.distributed.fsdp import fully_shard

        dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
        mesh = dist.init_device_mesh("cpu", (PROCESSES,))
        for module in choose(model):
            fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        losses = []
        for step in range(STEPS):
            optimizer.zero_grad()
            value = loss(model, images(10 * step + rank))
            value.backward()
            optimizer.step()
            value = value.detach()
            dist.all_reduce(value)
            losses.append(value.item() / PROCESSES)
        if rank == 0:
            torch.save(losses, folder / "losses")
        dist.barrier()
        dist.destroy_process_group()

    losses = torch.load(together(body) / "losses")
    return {"units": Count(len(choose(model)), len(choose(model))), "losses": Error(furthest(losses, expected), 1e-5)}


def fsdp_linear(family: Family, ours: bool) -> Figures:
    """One unit a linear layer, and a 1×1 convolution."""
    return sharded(family, ours, lambda model: [each for each in model.modules() if is_projection(each)])


def is_projection(module: nn.Module) -> bool:
    """A linear layer, or a convolution that is one."""
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.kernel_size == (1, 1))


def fsdp_block(family: Family, ours: bool) -> Figures:
    """One unit a block, and one a stage."""
    return sharded(family, ours, blocks)


def blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks, stages and sequences of them, children first, as FSDP2 wants them."""
    named = list(model.named_modules())[1:]
    chosen = [each for name, each in named if type(each).__name__.endswith(("Block", "Bottleneck", "Stage", "Blocks"))]
    chosen += [each for name, each in named if "." not in name and type(each) is nn.Sequential]
    return [each for _, each in reversed(named) if each in chosen and list(each.parameters())]


def accelerated(family: Family, ours: bool) -> Figures:
    """accelerate on two processes of a CPU: one step leaves the weights of a step in one process."""
    model = family.model(ours)
    one = copy.deepcopy(model)
    start = copy.deepcopy(one.state_dict())
    optimizer = torch.optim.SGD(one.parameters(), lr=RATE)
    torch.stack([loss(one, images(rank)) for rank in range(PROCESSES)]).mean().backward()
    optimizer.step()

    def body(rank: int, folder: Path) -> None:
        from accelerate import Accelerator  # pyright: ignore[reportMissingImports]

        accelerator = Accelerator(cpu=True)
        wrapped, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=RATE))
        accelerator.backward(loss(wrapped, images(rank)))
        optimizer.step()
        if accelerator.is_main_process:
            torch.save(accelerator.unwrap_model(wrapped).state_dict(), folder / "state")
        accelerator.wait_for_everyone()
        accelerator.end_training()

    state = torch.load(together(body) / "state")
    return step_figures(one, start, state)


def step_figures(one: nn.Module, start: dict[str, Tensor], state: dict[str, Tensor]) -> Figures:
    """How many of the parameters that one process moves are moved, and how far they end from where it took them."""
    expected = one.state_dict()
    names = [name for name, _ in one.named_parameters() if not torch.equal(expected[name], start[name])]
    moved = sum(not torch.equal(state[name], start[name]) for name in names)
    apart = max((state[name] - expected[name]).abs().max().item() for name in names)
    return {"parameters moved": Count(moved, len(names)), "weights": Error(apart, 1e-5)}


class Batches(Dataset[Tensor]):
    """Two of them."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return images(index)


def lightning(family: Family, ours: bool) -> Figures:
    """Lightning: two steps are those of a plain loop, and the checkpoint gives the outputs back."""
    import lightning.pytorch as pl  # pyright: ignore[reportMissingImports]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = family.model(ours)

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return loss(self.model.eval(), batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=RATE)

    one = family.model(ours)
    start = copy.deepcopy(one.state_dict())
    optimizer = torch.optim.SGD(one.parameters(), lr=RATE)
    for step in range(2):
        optimizer.zero_grad()
        loss(one, images(step)).backward()
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=2, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, default_root_dir=folder,
            enable_checkpointing=True, enable_model_summary=True,
        )  # fmt: skip
        module = Module()
        trainer.fit(module, DataLoader(Batches(), batch_size=None))
        trainer.save_checkpoint(f"{folder}/last.ckpt")
        again = Module.load_from_checkpoint(f"{folder}/last.ckpt")
    figures = step_figures(one, start, module.model.state_dict())
    return {**figures, "reloaded": Error(change(output(again.model.eval()), output(module.model.eval())), 0.0)}


def averaged(
    family: Family, ours: bool, average: Callable[[nn.Module], tuple[nn.Module, Callable[[nn.Module], None]]]
) -> Figures:
    """An average of weights after one step: half way between the two, and it computes with them."""
    model = family.model(ours)
    half = copy.deepcopy(model)
    start = output(model)
    ema, update = average(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loss(model, images()).backward()
    optimizer.step()
    update(model)
    with torch.no_grad():
        for mean, newest in zip(half.parameters(), model.parameters(), strict=True):
            mean.lerp_(newest, 0.5)
    return {
        "change": Effect(change(output(ema.eval()), start)),
        "against the mean written out": Error(change(output(ema.eval()), output(half)), 1e-5),
    }


def ema_timm(family: Family, ours: bool) -> Figures:
    from timm.utils import ModelEmaV3

    def average(model: nn.Module) -> tuple[nn.Module, Callable[[nn.Module], None]]:
        ema = ModelEmaV3(model, decay=0.5)
        return ema, ema.update

    return averaged(family, ours, average)


def ema_torch(family: Family, ours: bool) -> Figures:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    def average(model: nn.Module) -> tuple[nn.Module, Callable[[nn.Module], None]]:
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        ema.update_parameters(model)  # the first takes the weights as they are
        return ema, ema.update_parameters

    return averaged(family, ours, average)
