"""All of a run that changes while it trains, and its way into the run's folder and back."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import nn

from acmix.config import Config
from acmix.config.architecture import check_architecture
from acmix.data import UnreadableFiles
from acmix.data.loader import worker_count
from acmix.errors import UsageError
from acmix.models.freezing import is_new
from acmix.names import composed
from acmix.ops import dispatch
from acmix.tasks import Task
from acmix.train import checkpoint
from acmix.train.distributed import World, together
from acmix.train.fields import ToGoOn, check_fields, check_moments
from acmix.train.files import versions
from acmix.train.fsdp import check_fsdp, is_sharded, sharded, shared_moments, shared_state, whole
from acmix.train.length import epochs_begun, total_steps
from acmix.train.meter import Meter
from acmix.train.optim import Precision, create_optimizer
from acmix.train.resume import describe_changes, refuse_another_network, refuse_another_run, settings_then
from acmix.train.starting import start
from acmix.train.sync_norm import synchronised
from acmix.train.words import output_option
from acmix.train.writer import Writer

# entries of last.pt that an early acmix does not write
SINCE = {"images"}


class State:
    """Model, average, optimizer and the place in the run, on one process.

    Args:
        config: the run.
        folder: of the run.
        world: this process's place.
        task: what the model learns.
        classes: names, in the order of the labels.
        steps_per_epoch: optimizer steps.
        images: the fingerprint of the training split; "" where it has none.

    Raises:
        UsageError: no such model or optimizer, or the weights to start from do not fit.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        world: World,
        *,
        task: Task,
        classes: list[str],
        steps_per_epoch: int,
        images: str = "",
    ) -> None:
        settings = config.train
        self.config, self.world, self.classes, self.task = config, world, classes, task
        self.steps_per_epoch, self.images = steps_per_epoch, images
        self.global_batch_size = settings.batch_size * settings.accumulation * world.size
        self.last, self.best_path = (folder / "checkpoints" / name for name in ("last.pt", "best.pt"))

        # what newer checkpoints than the one to go on from suffer from
        self.damaged: list[str] = []
        self.found = checkpoint.newest(self.last, self.damaged)
        begins = self.found is None
        # read by every process here, before the first puts it aside
        self.fault_of_best = "" if begins else checkpoint.fault_of(self.best_path)
        self.model = task.build(download=begins and not config.model.checkpoint)
        check_architecture(config, "a checkpoint of this run")
        # weights that are shared out lie in the usual order
        channels_last = False if settings.fsdp else settings.channels_last
        self.memory_format = memory_format(self.model, channels_last, world.device)
        self.started = start(self.model, config, classes) if begins and config.model.checkpoint else None
        if config.model.freeze and not begins:
            self.train_as_before()
        self.model.to(world.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.model = with_shared_statistics(self.model, config, world)
        if settings.gradient_checkpointing:
            keep_less_for_backward(self.model, config.model.name)
        self.precision = Precision(settings.precision, world.device)
        # shared and whole tensors do not go into one kernel
        self.average = (
            ModelEmaV3(self.model, decay=settings.ema_decay, foreach=not settings.fsdp) if settings.ema_decay else None
        )
        if settings.fsdp:
            check_fsdp(config, self.precision.name)
            self.model = sharded(self.model, world)
            if self.average is not None:
                self.average.module = sharded(self.average.module, world)
        self.optimizer = create_optimizer(self.model, config, self.global_batch_size)
        self.meter = Meter(world.device)
        self.unreadable = UnreadableFiles()

        # optimizer steps that are done; epochs that are trained, evaluated and recorded
        self.step = self.epochs_ended = 0
        self.best: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.saved_at: tuple[int, int] | None = None
        self.writer = Writer()
        # lines on settings that differ from those of last.pt
        self.changes: list[str] = []

    @property
    def evaluated_model(self) -> nn.Module:
        """The averaged weights where an average is kept, else the model itself."""
        return self.model if self.average is None else self.average.module

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def ended(self) -> str:
        """Which of `train.epochs`, `train.steps` and `train.patience` has ended the run; "" while none has.

        It follows from what last.pt holds alone, so a resumed run ends where one that went on does.
        """
        settings = self.config.train
        if self.epochs_ended >= epochs_begun(self.config, self.steps_per_epoch):
            return "epochs" if settings.steps is None else "steps"
        # patience is asked where an epoch has just been evaluated
        is_measured = self.metrics.get(self.task.metric) is not None
        at_an_end = self.step == self.epochs_ended * self.steps_per_epoch and is_measured
        if settings.patience is not None and at_an_end and self.best:
            return "patience" if self.epochs_ended - self.best["epoch"] >= settings.patience else ""
        return ""

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that are not frozen."""
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def train_as_before(self) -> None:
        """Freezes what last.pt says was frozen; before it said so, that was all but the convolution paths."""
        assert self.found is not None
        trained = self.found[1].get("trained")
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained if isinstance(trained, list) else is_new(name))

    def choices(self) -> dict[str, Any]:
        """What was chosen for this machine, as configured or by default; operators by the name in `acmix.ops.use`."""
        settings, dtype = self.config.train, self.precision.dtype or torch.float32
        return dict(
            precision=self.precision.name,
            optimizer=self.config.optimizer.name,
            fused=bool(self.optimizer.defaults.get("fused")),
            channels_last=self.memory_format == torch.channels_last,
            compile=settings.compile,
            workers=worker_count(self.config),
            operators={
                name: dispatch.choose(name, dispatch.usual(name, self.world.device.type, dtype)).name
                for name in dispatch.OPERATORS
            },
        )

    # --- into the folder --------------------------------------------------------------------------------------------

    def save_last(self) -> None:
        """Writes all that a later call needs to go on as if nothing had happened; every process calls it.

        The file is there a moment later: see `finish_writing`.

        Raises:
            UsageError: on every process, where the first could not write.
        """
        place = self.step, self.epochs_ended
        if self.saved_at == place:
            return
        with together(self.world):
            # where weights are shared out, all give theirs
            if self.world.is_first or is_sharded(self.model):
                contents = whole({**self.described(), **self.to_go_on()}, is_kept=self.world.is_first)
                if self.world.is_first:
                    self.writer.write(self.last, contents, keep=self.config.train.keep_checkpoints)
        self.saved_at = place

    def save_best(self) -> None:
        """Writes the weights that were just evaluated; every process calls it.

        Raises:
            UsageError: on every process, where the first could not write.
        """
        with together(self.world):
            if self.world.is_first or is_sharded(self.model):
                contents = {**self.described(), "model": self.evaluated_model.state_dict()}
                contents = whole(contents, is_kept=self.world.is_first)
                if self.world.is_first:
                    self.writer.write(self.best_path, contents)

    def finish_writing(self) -> None:
        """Waits until what was saved is on the disk; every process calls it.

        Raises:
            UsageError: on every process, where the first could not write.
        """
        with together(self.world):
            self.writer.finish()

    def described(self) -> dict[str, Any]:
        """What every checkpoint of a run holds, but for the weights."""
        return dict(
            config=self.config.model_dump(mode="json"),
            classes=self.classes,
            processes=self.world.size,
            device=self.world.device.type,
            step=self.step,
            epoch=self.step // self.steps_per_epoch,
            metrics=self.metrics,
            trained=self.trained if self.config.model.freeze else None,
        )

    def to_go_on(self) -> dict[str, Any]:
        """What last.pt holds beside that."""
        return dict(
            model=self.model.state_dict(),
            average=None if self.average is None else self.average.module.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.precision.scaler.state_dict(),
            epochs_ended=self.epochs_ended,
            best=self.best,
            meter=self.meter.state(),
            unreadable={split: sorted(names) for split, names in self.unreadable.by_split.items()},
            unreadable_of=dict(self.unreadable.sizes),
            steps_per_epoch=self.steps_per_epoch,
            images=self.images,
            global_batch_size=self.global_batch_size,
        )

    # --- and back ---------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Goes on from last.pt, or the one before it where it is damaged, if there is any; every process calls it.

        Raises:
            UsageError: it cannot be read, or belongs to another model, optimizer, data or batch.
        """
        with together(self.world):
            if self.found is not None:
                place, saved = self.found
                self.check_fits(saved, str(place))
                self.take(saved, str(place))
                self.tell_of_damage(place)
                self.miss_best()
            self.found = None
        if self.world.size > 1:
            steps: list[Any] = [None] * self.world.size
            dist.all_gather_object(steps, self.step, group=self.world.control)
            if len(set(steps)) > 1:
                raise UsageError(
                    f"the processes found different checkpoints in {self.last.parent}, of steps {sorted(set(steps))}; "
                    "put the output folder where every machine sees the same files"
                )

    def tell_of_damage(self, place: Path) -> None:
        """Says which newer checkpoints are damaged; the first process puts them aside, so that none goes for them."""
        for said in self.damaged:
            self.changes.append(f"{said.partition(';')[0]}: going on from {place.name}, of step {self.step}")
        if self.damaged and self.world.is_first:
            for each in versions(self.last):
                if each == place:
                    break
                os.replace(each, each.with_name(f"damaged-{each.name}"))

    def miss_best(self) -> None:
        """Notices that best.pt is gone or damaged: the best from here on takes its place."""
        if not (self.best and self.fault_of_best):
            self.fault_of_best = ""
            return
        self.fault_of_best += f": the best epoch to come takes its place, not that of epoch {self.best.get('epoch')}"
        self.changes.append(self.fault_of_best)
        self.best = {}
        if self.world.is_first and self.best_path.is_file():
            os.replace(self.best_path, self.best_path.with_name(f"damaged-{self.best_path.name}"))

    def check_fits(self, saved: dict[str, Any], where: str) -> None:
        """Refuses a checkpoint that this run cannot resume from, and notes the settings that changed."""
        now, hint = self.config, f"choose another {output_option()}, or move this folder away"
        if lacking := sorted(({"step", "metrics"} | self.to_go_on().keys()) - saved.keys() - SINCE):
            raise UsageError(f"{where} holds only weights, without {', '.join(lacking)}; {hint}")
        check_fields(saved, ToGoOn, where)
        then = settings_then(saved["config"], now, self.steps_per_epoch, where)
        refuse_another_run(then, now, where)
        batch, steps = saved["global_batch_size"], saved["steps_per_epoch"]
        mend = f"set train.batch_size x train.accumulation x processes to {batch} again"
        for what, was, asked, mended in (
            ("global batch size", batch, self.global_batch_size, mend),
            ("steps per epoch", steps, self.steps_per_epoch, "train on as many images as then"),
        ):
            if was != asked:
                raise UsageError(f"{where} was trained with {what} {was}, now it would be {asked}; {mended}, or {hint}")
        if [*map(composed, saved["classes"])] != [*map(composed, self.classes)]:
            raise UsageError(
                f"{where} was trained on other classes than those of {now.data.shown_dir}: "
                f"{first_difference(saved['classes'], self.classes)}; {hint}"
            )
        then_images = saved.get("images", "")
        if then_images and self.images and then_images != self.images:
            raise UsageError(
                f"{where} was trained on other images than those of {now.data.shown_dir}, or in another order or with "
                f"other labels; give those again, or choose another {output_option()} and add model.checkpoint={where}"
            )
        misfit = None
        try:
            self.load(self.model, saved["model"], where)
        except UsageError as error:
            misfit = error
        refuse_another_network(then, now, where, misfit)
        self.changes = describe_changes(then, now, saved["step"], self.steps_per_epoch, self.global_batch_size)
        if (processes := saved.get("processes", self.world.size)) != self.world.size:
            effect = "dropout, drop path and mixup draw other numbers, and sums round differently"
            if now.train.reduction == "exact":
                effect = "the same sums by train.reduction=exact, with as many threads in each"
            self.changes.append(f"processes {processes} → {self.world.size}: {effect}")
        if (device := saved.get("device", self.world.device.type)) != self.world.device.type:
            self.changes.append(
                f"device {device} → {self.world.device.type}: sums round differently, dropout and drop path draw other "
                "numbers"
            )

    def load(self, model: nn.Module, saved: dict[str, Any], where: str) -> None:
        """Loads weights, which must fit exactly; every process calls it."""
        checkpoint.check_weights(model, saved, where)
        model.load_state_dict(shared_state(model, saved) if is_sharded(model) else saved)

    def take(self, saved: dict[str, Any], where: str) -> None:
        """Takes over what a checkpoint holds beside the weights, which are loaded already."""
        if self.average is not None:
            self.load(self.average.module, saved["average"], where)
        load_optimizer(self.optimizer, saved["optimizer"], where)
        # another precision may have had no scaler
        if saved["scaler"]:
            self.precision.scaler.load_state_dict(saved["scaler"])
        # an epoch that `train.steps` cut short goes on where there are to be more
        self.step = saved["step"]
        self.epochs_ended = min(saved["epochs_ended"], self.step // self.steps_per_epoch)
        if self.step >= total_steps(self.config, self.steps_per_epoch):
            self.epochs_ended = saved["epochs_ended"]
        self.best, self.metrics = saved["best"], saved["metrics"]
        self.meter.load_state(saved["meter"])
        self.unreadable.by_split = {split: set(names) for split, names in saved["unreadable"].items()}
        self.unreadable.sizes.update(saved["unreadable_of"])
        self.saved_at = self.step, self.epochs_ended


def with_shared_statistics(model: nn.Module, config: Config, world: World) -> nn.Module:
    """The model whose batch norms see the images of all processes, by `train.sync_batchnorm`."""
    wanted = config.train.sync_batchnorm
    if world.size == 1 or not (config.task.name != "classify" if wanted is None else wanted):
        return model
    return synchronised(model, world.size, heads_alone=wanted is None)


def first_difference(was: list[str], now: list[str]) -> str:
    """Where two lists of class names part."""
    for label in range(min(len(was), len(now))):
        if composed(was[label]) != composed(now[label]):
            return f"label {label} was {was[label]!r}, now it would be {now[label]!r}"
    return f"{len(was)} classes then, {len(now)} now"


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], where: str) -> None:
    """Takes over an optimizer's moments; weight decay, betas, ... stay as configured now.

    Raises:
        UsageError: the parameters are grouped in another way.
    """
    now, then = optimizer.state_dict()["param_groups"], saved["param_groups"]
    if [len(group["params"]) for group in now] != [len(group["params"]) for group in then]:
        raise UsageError(
            f"{where} has other parameter groups, since optimizer.weight_decay, optimizer.no_decay, "
            "optimizer.layer_decay or model.freeze changed; set it as it was, or choose another output folder"
        )
    check_moments(optimizer, saved, where)
    saved = shared_moments((each for group in optimizer.param_groups for each in group["params"]), saved)
    # some optimizers count their steps in the groups; the schedule sets lr
    groups = [{**old, **new, "lr": old["lr"]} for old, new in zip(then, now, strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})


def memory_format(model: nn.Module, channels_last: bool | None, device: torch.device) -> torch.memory_format:
    """As configured; else channels last where tensor cores read convolutions' maps, without transposing them first.

    A network of convolutions is one with norms over maps: a transformer convolves its image once.
    """
    if channels_last is None:
        channels_last = device.type == "cuda" and any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    return torch.channels_last if channels_last else torch.contiguous_format


def keep_less_for_backward(model: nn.Module, name: str) -> None:
    """Turns gradient checkpointing on."""
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise UsageError(f"{name} has no gradient checkpointing; set train.gradient_checkpointing=false") from None


def make_folder(output: Path) -> None:
    """Makes a run's folder and proves that it can be written to.

    Raises:
        UsageError: it cannot be written to.
    """
    checkpoints = output / "checkpoints"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        probe = output / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to the output folder {output}: {error.strerror}; choose another folder"
        ) from error


def remove_unfinished(output: Path) -> None:
    """Removes the checkpoints that a killed run left half written; only who holds the folder may, or another's go."""
    with suppress(OSError):
        for unfinished in (output / "checkpoints").glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)
