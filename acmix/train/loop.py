"""The only training loop: one process or many, from the first step or from where the last call stopped.

Every draw of chance is a function of the seed and the step (dropout, mixup) or of the seed, the epoch and the image
(order, augmentation), so a run that was stopped and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import os
import random
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from acmix.config import Config, dump
from acmix.data import Batch, train_loader, val_loader
from acmix.data.classes import as_trained
from acmix.data.dataset import OtherClasses
from acmix.errors import UsageError
from acmix.layers import path_rates
from acmix.models.build import check_model
from acmix.names import to_json
from acmix.tasks import Classification, Evaluation
from acmix.tasks.classify import evaluate, tells_top5
from acmix.train.device import device_name, peak_memory_mib, pins_memory
from acmix.train.distributed import Agreement, World, join, together
from acmix.train.files import held, write_atomically
from acmix.train.log import RunLog, duration, read_summary
from acmix.train.opening import announce, counted
from acmix.train.optim import Schedule, odd_rates
from acmix.train.plots import draw_curves, draw_paths
from acmix.train.preparation import settle
from acmix.train.resume import of_a_run
from acmix.train.run_folder import DefaultFolder, ask_for
from acmix.train.signals import Stopped, StopRequest
from acmix.train.state import State, make_folder
from acmix.train.trial import try_forward

# Pictures of a run under way are no older than this and an epoch; drawing them takes a second.
DRAW_SECONDS = 60.0


def train(config: Config, output: Path | DefaultFolder) -> dict[str, Any]:
    """Trains as configured, or resumes the run in the output folder.

    Args:
        config: the run; `data.dir` says where the images are.
        output: the run's folder, made if it is not there; or one to be found that no other run has.

    Returns:
        What `summary.json` holds, on every process.

    Raises:
        UsageError: something in the configuration, the data or the folder is not fit, or training diverged.
        Stopped: Ctrl-C or SIGTERM came; a checkpoint was written.
    """
    with StopRequest() as stop, join(config.train.device) as world, ExitStack() as held_open:
        folder = output.take(config, world, held_open) if isinstance(output, DefaultFolder) else output
        run = Run(config, folder, world, stop, held_open)
        try:
            return run.to_the_end()
        finally:
            run.log.close()


class Run:
    """One run on one process.

    Args:
        config: the run.
        output: its folder.
        world: this process's place.
        stop: where a signal to stop is noted.
        held_open: what the run holds until it ends.
    """

    def __init__(self, config: Config, output: Path, world: World, stop: StopRequest, held_open: ExitStack) -> None:
        self.output, self.world, self.stop = output, world, stop
        settings = config.train
        if settings.deterministic:
            # cuBLAS reads it when it is first used
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(settings.deterministic)
        # every training batch has the same shape: the search for the fastest convolution happens once
        torch.backends.cudnn.benchmark = not settings.deterministic
        with together(world):
            check_model(config.model)
            config, self.notes = settle(config, output)
            self.config = config
            loader_arguments: Any = dict(rank=world.rank, world_size=world.size, pin_memory=pins_memory(world.device))
            try:
                self.train_batches = train_loader(config, **loader_arguments)
            except OtherClasses as error:
                raise of_a_run(error, output / "checkpoints" / "last.pt") from error
            classes = list(self.train_batches.dataset.classes)
            self.val_batches = val_loader(config, **loader_arguments, trained=as_trained(config.data, classes))
            self.steps_per_epoch = self.train_batches.steps_per_epoch
            self.total_steps = settings.epochs * self.steps_per_epoch
            self.odd = odd_rates(config, self.steps_per_epoch)
            seed_everything(settings.seed)
            self.state = State(config, output, world, classes=classes, steps_per_epoch=self.steps_per_epoch)
            self.global_batch_size = self.state.global_batch_size
            self.schedule = Schedule(self.state.optimizer, config, self.steps_per_epoch, self.global_batch_size)
            self.task = Classification(config)
            try_forward(self.state.model, config, world, self.state.precision)
            if world.is_first:
                make_folder(output)
                held_open.enter_context(held(output))
        self.state.resume()
        self.first_step = self.state.step
        self.is_finished = bool(self.state.ended)
        self.log = RunLog(
            output,
            active=world.is_first,
            keep=not self.is_finished,
            tensorboard=settings.tensorboard,
            total_steps=self.total_steps,
            first_step=self.first_step,
            has_top5=tells_top5(config.model.num_classes),
        )
        self.agreement = Agreement(world, 3)
        self.too_many_unreadable = False
        self.drawn = time.monotonic()
        self.in_step = self.wrap()

    def wrap(self) -> nn.Module:
        """The model as a step calls it: compiled if asked for, its gradients averaged over the processes."""
        model = self.state.model
        module = torch.compile(model) if self.config.train.compile else model
        if self.world.size == 1:
            return module  # type: ignore[return-value]
        device_ids = None if self.world.device.type == "cpu" else [self.world.device]
        return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)  # type: ignore[arg-type]

    # --- the loop ---------------------------------------------------------------------------------------------------

    def to_the_end(self) -> dict[str, Any]:
        """Trains the epochs that are left, and writes what came of it."""
        summary_file = self.output / "summary.json"
        if self.is_finished:
            self.log.say(
                f"{self.output}: this run is finished, after {counted(self.state.step, 'step')}{self.ending()}; "
                f"to go on, raise train.{self.state.ended} and {ask_for(self.output)}; to train anew, name another "
                "folder"
            )
            written = read_summary(summary_file)
            if written.get("steps") == self.state.step:
                return written
        self.announce()
        began = time.monotonic()
        while not self.state.ended:
            self.train_epoch()
            self.end_epoch()
        summary = self.summary()
        if self.world.is_first:
            write_atomically(summary_file, to_json(summary, indent=2).encode())
            self.log.write("end", **summary)
            self.log.progress.stop()
            self.draw()
            took = duration(time.monotonic() - began)
            self.log.say(f"trained {counted(self.state.step - self.first_step, 'step')} in {took}{self.ending()}")
            self.log.list_unreadable(self.state.unreadable.names)
        return summary

    def ending(self) -> str:
        """Why a run is over before its last epoch, to follow a sentence; "" where it is not."""
        state, settings = self.state, self.config.train
        if state.ended != "patience":
            return ""
        return (
            f": ended early, after epoch {state.epochs_ended} of {settings.epochs}, with no better top-1 than that of "
            f"epoch {state.best['epoch']} for {counted(state.epochs_ended - state.best['epoch'], 'epoch')} "
            f"(train.patience {settings.patience})"
        )

    def train_epoch(self) -> None:
        """Takes the steps that are left of the current epoch."""
        settings, state = self.config.train, self.state
        epoch = state.epochs_ended
        done = state.step - epoch * self.steps_per_epoch
        if done == 0:
            state.meter.start_epoch()
        state.meter.start()
        self.in_step.train()
        batches = self.train_batches.epoch(epoch, done) if done < self.steps_per_epoch else iter(())
        for number in range(done + 1, self.steps_per_epoch + 1):
            micro_batches = [next(batches) for _ in range(settings.accumulation)]
            for batch in micro_batches:
                self.note_unreadable(batch, self.train_batches.dataset)
            lr = self.take_step(micro_batches)
            to_log = state.step % settings.log_every_steps == 0 or number == self.steps_per_epoch
            to_save = settings.checkpoint_every_steps and state.step % settings.checkpoint_every_steps == 0
            # never log or save what comes after a step that was not finite
            self.listen(now=bool(to_log or to_save))
            if to_log:
                self.log_step(lr)
            if to_save:
                state.save_last()

    def take_step(self, micro_batches: list[Batch]) -> float:
        """One step, that waits for the device nowhere: nothing it computes is read. Returns the learning rate."""
        state = self.state
        lr = self.schedule.apply(state.step)
        seed_everything(self.config.train.seed, state.step, self.world.rank)
        loss, norm = self.one_step(micro_batches)
        state.step += 1
        state.meter.add(loss, norm, self.is_finite(loss, norm), step=state.step, images=self.global_batch_size)
        return lr

    def one_step(self, micro_batches: list[Batch]) -> tuple[Tensor, Tensor]:
        """Forward and backward over every micro-batch, then one move of the weights; the loss and the gradient norm."""
        state = self.state
        total = torch.zeros((), device=self.world.device)
        for i, cpu_batch in enumerate(micro_batches):
            batch = cpu_batch.to(self.world.device)
            batch = batch._replace(images=batch.images.contiguous(memory_format=state.memory_format))
            if isinstance(self.in_step, DistributedDataParallel):
                # gradients travel once a step, with the last micro-batch
                self.in_step.require_backward_grad_sync = i == len(micro_batches) - 1
            with state.precision.autocast():
                loss = self.task.loss(self.in_step, batch) / len(micro_batches)
            state.precision.backward(loss)
            total += loss.detach()
        norm = state.precision.step(state.optimizer, state.model.parameters(), self.config.train.clip_grad)
        if state.average is not None:
            state.average.update(state.model, step=state.step)
        return total, norm

    def is_finite(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether training can go on after a step; with fp16 the scaler leaves out a step whose gradient is not."""
        finite = torch.isfinite(loss)
        return finite if self.state.precision.scaler.is_enabled() else finite & torch.isfinite(norm)

    def listen(self, *, now: bool = False) -> None:
        """Stops, on all processes at the same place, for a signal, a loss that is no number or too many bad files.

        Args:
            now: wait for what the others say, and on a GPU for the steps it has not come to yet; otherwise one learns
                of it at the next call, or where the next one waits.
        """
        # on a CPU the loss is there at no cost
        bad_step = self.state.meter.first_bad_step() if now or self.world.device.type == "cpu" else 0
        agreed = self.agreement.exchange(self.stop.signal, bad_step, int(self.too_many_unreadable))
        if now:
            agreed = self.agreement.settle()
        signal, bad_step, too_many = agreed
        if bad_step:
            self.give_up(f"the loss or the gradient of step {bad_step}")
        if too_many:
            self.state.unreadable.gather()
            self.state.unreadable.check()
        if signal and not now:
            self.listen(now=True)
        if signal:
            self.state.save_last()
            message = f"stopped after step {self.state.step} of {self.total_steps}; run the same command again to go on"
            self.log.progress.stop()
            self.log.say(message)
            raise Stopped(signal, message)

    def give_up(self, what: str) -> None:
        """Ends a run that has diverged."""
        last = self.state.last
        kept = f"{last} is from before it" if last.is_file() else "nothing was saved yet"
        raise UsageError(
            f"{what} (epoch {self.state.epochs_ended + 1}) is not finite; {kept}; "
            "try a lower optimizer.lr, more schedule.warmup_epochs, or train.precision=fp32"
        )

    def log_step(self, lr: float) -> None:
        """Records the steps since the last record; every process calls it."""
        loss, norm, speed = self.state.meter.read()
        if self.world.size > 1:
            mean = torch.tensor(loss, dtype=torch.float64)
            dist.all_reduce(mean, group=self.world.control)
            loss = mean.item() / self.world.size
        self.log.step(
            self.state.step,
            self.total_steps,
            epoch=self.state.epochs_ended + 1,
            loss=loss,
            lr=lr,
            grad_norm=norm,
            images_per_second=speed,
            processes=self.world.size,
            memory_mib=peak_memory_mib(self.world.device),
            eta_seconds=(self.total_steps - self.state.step) * self.global_batch_size / speed,
        )

    # --- the end of an epoch ----------------------------------------------------------------------------------------

    def end_epoch(self) -> None:
        """Evaluates, records and saves."""
        settings, state = self.config.train, self.state
        number = state.epochs_ended + 1
        to_measure = number == settings.epochs or number % settings.evaluate_every_epochs == 0
        result = self.evaluate() if to_measure else None
        state.unreadable.gather()
        state.unreadable.check()
        state.epochs_ended = number
        is_best = self.record(number, result)
        if is_best:
            state.save_best()
        last = bool(state.ended)
        if last or number % settings.checkpoint_every_epochs == 0:
            state.save_last()
            if self.world.is_first and not last and time.monotonic() - self.drawn > DRAW_SECONDS:
                self.draw()

    def evaluate(self) -> Evaluation:
        """Measures the model on the validation images; ends the run where its loss is no number."""

        def on_batch(batch: Batch) -> None:
            self.note_unreadable(batch, self.val_batches.dataset)
            self.listen()

        result = evaluate(
            self.state.evaluated_model,
            self.val_batches,
            self.world.device,
            autocast=self.state.precision.autocast,
            memory_format=self.state.memory_format,
            on_batch=on_batch,
        )
        if not math.isfinite(result.loss):
            # the last step made weights that no longer compute: keep the checkpoint that does
            self.give_up(f"the validation loss after step {self.state.step}")
        return result

    def record(self, number: int, result: Evaluation | None) -> bool:
        """Writes an epoch's numbers; `number` counts epochs from 1. Returns whether it is the best one so far."""
        state = self.state
        train_loss, seconds, speed = state.meter.whole_epoch(self.global_batch_size)
        values = asdict(result) if result else dict(top1=None, top5=None, loss=None)
        state.metrics = dict(top1=values["top1"], top5=values["top5"], val_loss=values["loss"], images_per_second=speed)
        self.log.epoch(
            self.config.train.epochs,
            result.images if result else None,
            epoch=number,
            step=state.step,
            train_loss=train_loss,
            val_loss=values["loss"],
            top1=values["top1"],
            top5=values["top5"],
            seconds=seconds,
            images_per_second=speed,
            rates=path_rates(state.evaluated_model),
            unreadable=state.unreadable.names,
        )
        is_best = result is not None and result.top1 > state.best.get("top1", -1.0)
        if is_best:
            state.best = dict(top1=values["top1"], top5=values["top5"], epoch=number)
        return is_best

    def draw(self) -> None:
        """Draws what the log holds so far."""
        self.drawn = time.monotonic()
        try:
            draw_curves(self.output)
            draw_paths(self.output)
        except ImportError as error:
            self.log.say(f"curves.png and paths.png are not drawn, as matplotlib cannot be imported ({error})")

    def note_unreadable(self, batch: Batch, dataset: Any) -> None:
        """Keeps the names of files that could not be read, and notes where they are too many."""
        if (batch.failed >= 0).any():
            self.state.unreadable.add(batch, dataset)
            try:
                self.state.unreadable.check()
            except UsageError:
                # the other processes hear of it when they next listen, and end with this one
                self.too_many_unreadable = True

    def announce(self) -> None:
        """Says what is about to run, and keeps it in the folder."""
        if not self.world.is_first:
            return
        write_atomically(self.output / "config.yaml", dump(self.config).encode())
        datasets = self.train_batches.dataset, self.val_batches.dataset
        announce(self.log, self.config, self.state, datasets, notes=self.notes, odd=self.odd)
        if self.first_step:
            self.log.say(f"{self.output}: resuming after step {self.first_step} of {self.total_steps}")
        for change in self.state.changes:
            self.log.say(f"  {change}")

    def summary(self) -> dict[str, Any]:
        """The run in numbers; top1 and top5 are those of best.pt, images a second those of all its steps.

        `ended` names the setting that ended it: "epochs", or "patience" where it stopped early.
        """
        state = self.state
        return dict(
            model=self.config.model.name,
            top1=state.best.get("top1"),
            top5=state.best.get("top5"),
            best_epoch=state.best.get("epoch"),
            last_top1=state.metrics.get("top1"),
            images_per_second=state.meter.whole_run(self.global_batch_size),
            epochs=state.epochs_ended,
            ended=state.ended,
            steps=state.step,
            parameters=state.parameters,
            device=device_name(self.world.device),
            processes=self.world.size,
            precision=state.precision.name,
            unreadable=state.unreadable.names,
        )


def seed_everything(*parts: int) -> None:
    """Seeds Python's, numpy's and torch's generators with one number made of several."""
    seed = int(np.random.SeedSequence(parts).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
