"""Measures a checkpoint on validation images, exactly, on any number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acmix.data import Trained, UnreadableFiles
from acmix.errors import UsageError
from acmix.tasks import Evaluation, task_of
from acmix.train.checkpoint import checkpoint_of, restore_model
from acmix.train.distributed import join
from acmix.train.optim import Precision


@dataclass(frozen=True)
class Evaluated:
    """What came out.

    Args:
        result: accuracy and loss.
        model: name of the network.
        unreadable: files that could not be read; they are not counted.
        notes: lines on what was left out of the split.
        is_first: whether this process is the one to print.
        metric: the one that the task goes by.
        shown: the metrics that a line tells.
    """

    result: Evaluation
    model: str
    unreadable: list[str]
    notes: list[str]
    is_first: bool
    metric: str
    shown: tuple[str, ...]


def evaluate_checkpoint(
    checkpoint: Path,
    data: str,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    precision: str = "auto",
    device: str = "auto",
) -> Evaluated:
    """Evaluates a checkpoint on a data folder's validation split; under torchrun the processes share it.

    Args:
        checkpoint: a run folder, best.pt, last.pt, or what `acmix convert` wrote.
        data: as for training. The checkpoint's names of classes decide: the split may lack some of them, and `train/`
            may be missing.
        batch_size: images a process and forward pass; the run's own by default.
        workers: reading processes; the run's own by default.
        precision: "auto", "fp32", "bf16" or "fp16".
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        UsageError: the checkpoint, the data or the device cannot be used.
    """
    with join(device) as world:
        checkpoint = checkpoint_of(checkpoint)
        restored = restore_model(checkpoint, world.device)
        updates: dict[str, object] = {"dir": data}
        if workers is not None:
            updates["workers"] = workers
        config = restored.config.model_copy(update={"data": restored.config.data.model_copy(update=updates)})
        trained = Trained(restored.classes, restored.are_named, str(checkpoint))
        task = task_of(config)
        loader = task.val_loader(rank=world.rank, world_size=world.size, batch_size=batch_size, trained=trained)
        unreadable = UnreadableFiles()
        try:
            result = task.evaluate(
                restored.model,
                loader,
                world.device,
                autocast=Precision(precision, world.device).autocast,
                on_batch=lambda batch: unreadable.add(batch, loader.dataset),
            )
        except UsageError:
            # where no image could be read, the files' own trouble says more
            unreadable.gather()
            unreadable.check()
            raise
        unreadable.gather()
        unreadable.check()
        return Evaluated(
            result=result,
            model=config.model.name,
            unreadable=unreadable.names,
            notes=list(loader.dataset.notes),
            is_first=world.is_first,
            metric=task.metric,
            shown=task.shown,
        )
