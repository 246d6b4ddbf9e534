"""The only training loop: one process or many, from the first step or from where the last call stopped.

Every draw of chance is a function of the seed and the step (dropout, mixup) or of the seed, the epoch and the image
(order, augmentation), so a run that was stopped and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from acmix.config import Config, dump
from acmix.data import Batch, TrainLoader, UnreadableFiles, ValLoader, train_loader, val_loader
from acmix.errors import UsageError
from acmix.tasks import Classification, Evaluation, build_model
from acmix.tasks.classify import evaluate
from acmix.train import checkpoint
from acmix.train.distributed import Agreement, World, join
from acmix.train.log import RunLog, device_name, duration, provenance
from acmix.train.meter import Meter
from acmix.train.optim import Precision, Schedule, create_optimizer
from acmix.train.plots import draw_curves, draw_paths, write_atomically
from acmix.train.signals import Stopped, StopRequest


def train(config: Config, output: Path) -> dict[str, Any]:
    """Trains as configured, or goes on with what an earlier call left in the output folder.

    Args:
        config: the run; `data.dir` says where the images are.
        output: the run's folder; made if it is not there.

    Returns:
        What `summary.json` holds, on every process.

    Raises:
        UsageError: something in the configuration, the data or the folder is not fit.
        Stopped: Ctrl-C or SIGTERM came; a checkpoint was written.
    """
    with StopRequest() as stop, join() as world:
        run = Run(config, output, world)
        try:
            return run.to_the_end(stop)
        finally:
            run.log.close()


class Run:
    """One run's state on one process.

    Args:
        config: the run.
        output: its folder.
        world: this process's place.
    """

    def __init__(self, config: Config, output: Path, world: World) -> None:
        self.config, self.output, self.world = config, output, world
        settings = config.train
        loader_arguments: Any = dict(rank=world.rank, world_size=world.size, pin_memory=world.device.type == "cuda")
        self.train_batches: TrainLoader = train_loader(config, **loader_arguments)
        self.val_batches: ValLoader = val_loader(config, **loader_arguments)
        self.classes = list(self.train_batches.dataset.classes)
        self.steps_per_epoch = self.train_batches.steps_per_epoch
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.global_batch_size = settings.batch_size * settings.accumulation * world.size
        self.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format

        torch.use_deterministic_algorithms(settings.deterministic)
        seed_everything(settings.seed)
        self.model = build_model(config)
        if config.model.checkpoint:
            checkpoint.load_start(self.model, config.model.checkpoint, config.model.name)
        self.model.to(world.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        if settings.gradient_checkpointing:
            self.model.set_grad_checkpointing(True)  # type: ignore[operator]
        self.precision = Precision(settings.precision, world.device)
        self.optimizer = create_optimizer(self.model, config, self.global_batch_size)
        self.schedule = Schedule(self.optimizer, config, self.steps_per_epoch, self.global_batch_size)
        self.average = ModelEmaV3(self.model, decay=settings.ema_decay) if settings.ema_decay else None
        self.task = Classification(config)
        self.unreadable = UnreadableFiles()

        self.step = 0
        self.best: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        if world.is_first:
            make_folder(output)
        self.resume()
        self.log = RunLog(
            output,
            active=world.is_first,
            tensorboard=settings.tensorboard,
            total_steps=self.total_steps,
            first_step=self.step,
        )
        self.in_step = self.wrap()

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self.step // self.steps_per_epoch

    def wrap(self) -> nn.Module:
        """The model as a step calls it: compiled if asked for, its gradients averaged over the processes."""
        module = torch.compile(self.model) if self.config.train.compile else self.model
        if self.world.size == 1:
            return module  # type: ignore[return-value]
        device_ids = [self.world.device] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)  # type: ignore[arg-type]

    # --- the loop ---------------------------------------------------------------------------------------------------

    def to_the_end(self, stop: StopRequest) -> dict[str, Any]:
        """Trains the epochs that are left, and writes what came of it."""
        began, first_step = time.monotonic(), self.step
        self.announce()
        while self.step < self.total_steps:
            self.one_epoch(stop)
        summary = self.summary()
        if self.world.is_first:
            text = json.dumps(summary, indent=2)
            write_atomically(self.output / "summary.json", text.encode())
            self.log.write("end", **summary)
            self.log.progress.stop()
            if self.step > first_step:
                draw_curves(self.output)
                draw_paths(self.output)
                self.log.say(f"trained {self.step - first_step} steps in {duration(time.monotonic() - began)}")
            self.tell_unreadable()
        return summary

    def one_epoch(self, stop: StopRequest) -> None:
        """Trains to the end of the current epoch, evaluates and saves."""
        settings, number = self.config.train, self.epoch
        agreement = Agreement(self.world, 2)
        meter = Meter(self.world.device)
        self.in_step.train()
        batches = self.train_batches.epoch(number, self.step % self.steps_per_epoch)
        for _ in range(self.step % self.steps_per_epoch, self.steps_per_epoch):
            micro_batches = [next(batches) for _ in range(settings.accumulation)]
            lr = self.schedule.apply(self.step)
            seed_everything(settings.seed, self.step, self.world.rank)
            loss, norm = self.one_step(micro_batches)
            self.step += 1
            meter.add(loss, norm, self.step, self.global_batch_size)
            # what is not finite is asked for at once on a CPU; on a GPU that would stop it, so with the log
            due = self.step % settings.log_every_steps == 0
            bad_step = meter.first_bad_step() if due or self.world.device.type == "cpu" else 0
            self.act_on(agreement.exchange(stop.signal, bad_step))
            if due:
                self.log_step(meter, lr)
            if settings.checkpoint_every_steps and self.step % settings.checkpoint_every_steps == 0:
                self.save_last()
        agreement.exchange(stop.signal, meter.first_bad_step())
        self.act_on(agreement.settle())
        self.end_epoch(number + 1, meter)

    def one_step(self, micro_batches: list[Batch]) -> tuple[Tensor, Tensor]:
        """Forward and backward over every micro-batch, then one move of the weights; the loss and the gradient norm."""
        total = torch.zeros((), device=self.world.device)
        for i, cpu_batch in enumerate(micro_batches):
            self.note_unreadable(cpu_batch, self.train_batches.dataset)
            batch = cpu_batch.to(self.world.device)
            batch = batch._replace(images=batch.images.contiguous(memory_format=self.memory_format))
            if isinstance(self.in_step, DistributedDataParallel):
                # gradients travel once a step, with the last micro-batch
                self.in_step.require_backward_grad_sync = i == len(micro_batches) - 1
            with self.precision.autocast():
                loss = self.task.loss(self.in_step, batch) / len(micro_batches)
            self.precision.backward(loss)
            total += loss.detach()
        norm = self.precision.step(self.optimizer, self.model.parameters(), self.config.train.clip_grad)
        if self.average is not None:
            self.average.update(self.model, step=self.step)
        return total, norm

    def act_on(self, agreed: list[int]) -> None:
        """Stops, on all processes at the same step, for a signal or a loss that is no number."""
        number, bad_step = agreed
        last = self.output / "checkpoints" / "last.pt"
        if bad_step:
            kept = f"{last} is from before it" if last.is_file() else "nothing was saved yet"
            epoch = (bad_step - 1) // self.steps_per_epoch + 1
            raise UsageError(
                f"the loss of step {bad_step} (epoch {epoch}) is not finite; {kept}; "
                "try a lower optimizer.lr, more schedule.warmup_epochs, or train.precision=fp32"
            )
        if number:
            self.save_last()
            message = f"stopped after step {self.step} of {self.total_steps}; run the same command again to go on"
            self.log.progress.stop()
            self.log.say(message)
            raise Stopped(number, message)

    def log_step(self, meter: Meter, lr: float) -> None:
        """Records the steps since the last record; collective."""
        loss, norm, speed = meter.read()
        if self.world.size > 1:
            mean = torch.tensor(loss, dtype=torch.float64)
            dist.all_reduce(mean, group=self.world.control)
            loss = mean.item() / self.world.size
        cuda = self.world.device.type == "cuda"
        self.log.step(
            self.step,
            self.total_steps,
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            loss=loss,
            lr=lr,
            grad_norm=norm,
            images_per_second=speed,
            processes=self.world.size,
            memory_mib=torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
            eta_seconds=(self.total_steps - self.step) * self.global_batch_size / speed,
        )

    # --- the end of an epoch ----------------------------------------------------------------------------------------

    def end_epoch(self, number: int, meter: Meter) -> None:
        """Evaluates, records and saves; `number` counts epochs from 1."""
        settings = self.config.train
        last = number == settings.epochs
        train_loss, seconds, speed = meter.whole_epoch(self.global_batch_size)
        result: Evaluation | None = None
        if last or number % settings.evaluate_every_epochs == 0:
            result = self.evaluate()
        self.unreadable.gather()
        self.unreadable.check()
        values = asdict(result) if result else dict(top1=None, top5=None, loss=None, images=0)
        self.metrics = dict(top1=values["top1"], top5=values["top5"], val_loss=values["loss"], images_per_second=speed)
        is_best = result is not None and result.top1 > self.best.get("top1", -1.0)
        if is_best:
            self.best = dict(top1=values["top1"], top5=values["top5"], epoch=number)
        self.log.epoch(
            epoch=number,
            step=self.step,
            train_loss=train_loss,
            val_loss=values["loss"],
            top1=values["top1"],
            top5=values["top5"],
            seconds=seconds,
            images_per_second=speed,
            rates=path_rates(self.evaluated_model()),
            unreadable=self.unreadable.names,
        )
        if result is not None:
            self.log.say(
                f"epoch {number}/{settings.epochs} · train loss {train_loss:.3f} · val loss {result.loss:.3f} · "
                f"top-1 {result.top1:.2f} % · top-5 {result.top5:.2f} % of {result.images} · "
                f"{speed:.0f} images/s · {duration(seconds)}"
            )
        if is_best and self.world.is_first:
            weights = self.evaluated_model().state_dict()
            checkpoint.save(self.output / "checkpoints" / "best.pt", {**self.contents(), "model": weights})
        if last or number % settings.checkpoint_every_epochs == 0:
            self.save_last()
            if self.world.is_first:
                draw_curves(self.output)
                draw_paths(self.output)

    def evaluated_model(self) -> nn.Module:
        """The averaged weights where an average is kept, else the model itself."""
        return self.model if self.average is None else self.average.module

    def evaluate(self) -> Evaluation:
        """Accuracy on the validation images."""
        return evaluate(
            self.evaluated_model(),
            self.val_batches,
            self.world.device,
            autocast=self.precision.autocast,
            memory_format=self.memory_format,
            on_batch=lambda batch: self.note_unreadable(batch, self.val_batches.dataset),
        )

    def note_unreadable(self, batch: Batch, dataset: Any) -> None:
        """Keeps the names of files that could not be read, and gives up where they are too many."""
        if (batch.failed >= 0).any():
            self.unreadable.add(batch, dataset)
            self.unreadable.check()

    def tell_unreadable(self) -> None:
        """Lists the files that could not be read."""
        if self.unreadable.names:
            self.log.say(f"{len(self.unreadable.names)} files could not be read and were left out:")
            for name in self.unreadable.names:
                self.log.say(f"  {name}")

    # --- what lies in the folder ------------------------------------------------------------------------------------

    def contents(self) -> dict[str, Any]:
        """What every checkpoint of this run holds, but for the weights."""
        return dict(
            config=self.config.model_dump(mode="json"),
            classes=self.classes,
            step=self.step,
            epoch=self.epoch,
            metrics=self.metrics,
        )

    def save_last(self) -> None:
        """Writes all that a later call needs to go on as if nothing had happened."""
        if self.world.is_first:
            checkpoint.save(
                self.output / "checkpoints" / "last.pt",
                {
                    **self.contents(),
                    "model": self.model.state_dict(),
                    "average": None if self.average is None else self.average.module.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.precision.scaler.state_dict(),
                    "best": self.best,
                    "unreadable": {split: sorted(names) for split, names in self.unreadable.by_split.items()},
                    "unreadable_of": dict(self.unreadable.sizes),
                    "steps_per_epoch": self.steps_per_epoch,
                    "global_batch_size": self.global_batch_size,
                },
            )
        if self.world.size > 1:
            dist.barrier(group=self.world.control)

    def resume(self) -> None:
        """Goes on from last.pt where there is one.

        Raises:
            UsageError: it belongs to another model or to other batches.
        """
        path = self.output / "checkpoints" / "last.pt"
        if self.world.size > 1:
            dist.barrier(group=self.world.control)
        if not path.is_file():
            return
        saved = checkpoint.read(path)
        hint = "choose another output folder, or move this one away"
        name = saved["config"]["model"]["name"]
        if name != self.config.model.name:
            raise UsageError(f"{path} holds {name}, the configuration asks for {self.config.model.name}; {hint}")
        for key, ours in (("global_batch_size", self.global_batch_size), ("steps_per_epoch", self.steps_per_epoch)):
            if saved[key] != ours:
                raise UsageError(f"{path} was trained with {key} {saved[key]}, now it would be {ours}; {hint}")
        checkpoint.load_weights(self.model, saved["model"], str(path))
        if (saved["average"] is None) != (self.average is None):
            raise UsageError(f"{path} was trained with another train.ema_decay; {hint}")
        if self.average is not None:
            checkpoint.load_weights(self.average.module, saved["average"], str(path))
        self.optimizer.load_state_dict(saved["optimizer"])
        self.precision.scaler.load_state_dict(saved["scaler"])
        self.step, self.best, self.metrics = saved["step"], saved["best"], saved["metrics"]
        self.unreadable.by_split = {split: set(names) for split, names in saved["unreadable"].items()}
        self.unreadable.sizes.update(saved["unreadable_of"])

    def announce(self) -> None:
        """Says what is about to run, and keeps it in the folder."""
        if not self.world.is_first:
            return
        write_atomically(self.output / "config.yaml", dump(self.config).encode())
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        made_by = provenance(self.world.device)
        self.log.write(
            "start",
            **made_by,
            processes=self.world.size,
            precision=self.precision.name,
            config=self.config.model_dump(mode="json"),
            parameters=parameters,
            steps_per_epoch=self.steps_per_epoch,
            first_step=self.step,
        )
        if self.step:
            state = "already at its end" if self.step >= self.total_steps else "going on"
            self.log.say(f"{self.output}: {state} after step {self.step} of {self.total_steps}")
        self.log.say(
            f"{self.config.model.name} · {parameters:,} parameters · {self.world.size} × {made_by['device']} · "
            f"{self.precision.name} · {self.global_batch_size} images a step · {self.steps_per_epoch} steps × "
            f"{self.config.train.epochs} epochs · {len(self.train_batches.dataset)} training images"
        )

    def summary(self) -> dict[str, Any]:
        """The run in numbers; top1 and top5 are those of best.pt."""
        return dict(
            model=self.config.model.name,
            top1=self.best.get("top1"),
            top5=self.best.get("top5"),
            best_epoch=self.best.get("epoch"),
            last_top1=self.metrics.get("top1"),
            images_per_second=self.metrics.get("images_per_second"),
            epochs=self.epoch,
            steps=self.step,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            device=device_name(self.world.device),
            processes=self.world.size,
            precision=self.precision.name,
            unreadable=self.unreadable.names,
        )


def seed_everything(*parts: int) -> None:
    """Seeds Python's, numpy's and torch's generators with one number made of several."""
    seed = int(np.random.SeedSequence(parts).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def path_rates(model: nn.Module) -> dict[str, list[float]]:
    """(attention, conv) rates of every block that mixes two paths, in the network's order."""
    named: Iterable[tuple[str, Any]] = model.named_modules()
    return {
        name: [module.rate_attention.item(), module.rate_conv.item()]
        for name, module in named
        if hasattr(module, "rate_attention") and hasattr(module, "rate_conv")
    }


def make_folder(output: Path) -> None:
    """Makes the run's folder and proves that it can be written to.

    Raises:
        UsageError: it cannot.
    """
    try:
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = output / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to the output folder {output}: {error.strerror}; choose another") from error
