"""The only training loop: one process or many, from the first step or from where the last call stopped.

Every draw of chance is a function of the seed and the step (dropout, mixup) or of the seed, the epoch and the image
(order, augmentation), so a run that was stopped and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from acmix.config import Config, dump, without_effect
from acmix.data.classes import as_trained
from acmix.data.dataset import OtherClasses
from acmix.data.worker import READER_LOST, from_readers, kill_readers
from acmix.errors import UsageError
from acmix.models.freezing import keep_statistics
from acmix.names import to_json
from acmix.tasks import Evaluation, task_of
from acmix.train.closing import diverged, ending, summed_up
from acmix.train.device import peak_memory_mib, pins_memory
from acmix.train.distributed import Agreement, World, join, together
from acmix.train.epoch_end import Pictures, measured, record
from acmix.train.files import write_atomically
from acmix.train.length import end_of_epoch, epochs_begun, total_steps
from acmix.train.lock import held
from acmix.train.log import RunLog, duration, read_summary
from acmix.train.opening import announce, counted, keep_settings, odd_statistics
from acmix.train.optim import Schedule, check_rates, odd_rates
from acmix.train.preparation import settle
from acmix.train.resume import of_a_run
from acmix.train.run_folder import DefaultFolder, ask_for
from acmix.train.signals import Stopped, StopRequest
from acmix.train.size import check_size
from acmix.train.state import State, make_folder, remove_unfinished
from acmix.train.step import Step, seed_everything
from acmix.train.terminal import new_console, say
from acmix.train.trial import try_forward
from acmix.train.worker_error import Failed

# what PyTorch says of reading processes that give nothing
READERS_SILENT = "DataLoader timed out after"


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
        Failed: a process that belongs to the run is gone.
    """
    try:
        # signals end a process that waits for the others to start
        with (
            join(config.train.device, config.train.timeout_minutes) as world,
            StopRequest() as stop,
            ExitStack() as held_open,
        ):
            folder = output.take(config, world, held_open) if isinstance(output, DefaultFolder) else output
            run = Run(config, folder, world, stop, held_open)
            try:
                return run.to_the_end()
            finally:
                run.state.writer.close()
                run.log.close()
    except RuntimeError as error:
        # PyTorch raises it wherever the process is at work, while it tidies up, too
        if READERS_SILENT in str(error):
            kill_readers()
            raise Failed(
                f"no images came from the reading processes for {config.train.timeout_minutes:g} minutes "
                "(train.timeout_minutes): the storage is slow or gone, or one of them hangs; run the same command "
                "again to go on"
            ) from error
        if READER_LOST not in str(error):
            raise
        raise reader_ended(" ".join(str(error).split("\n")[0].split())) from error
    except (EOFError, ConnectionError) as error:
        # the pipe to a reader that was killed is closed before PyTorch knows of its end
        if not from_readers(error):
            raise
        raise reader_ended("DataLoader worker (pid unknown) closed its pipe") from error


def reader_ended(said: str) -> Failed:
    """The error of a run one of whose readers is gone."""
    return Failed(
        f"a process that reads images ended ({said}); the machine may have run out of memory: a smaller "
        "data.workers takes less; run the same command again to go on"
    )


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
        # where every training batch has the same shape, the search for the fastest convolution happens once
        torch.backends.cudnn.benchmark = not settings.deterministic and config.task.name != "detect"
        with together(world):
            task_of(config).check()
            check_rates(config)
            check_size(config)
            in_vain = without_effect(config)
            config, notes = settle(config, output)
            self.notes = [*in_vain, *notes]
            self.config, self.task = config, task_of(config)
            loader_arguments: Any = dict(rank=world.rank, world_size=world.size, pin_memory=pins_memory(world.device))
            try:
                self.train_batches = self.task.train_loader(**loader_arguments)
            except OtherClasses as error:
                raise of_a_run(error, config, output / "checkpoints" / "last.pt") from error
            classes = list(self.train_batches.dataset.classes)
            self.val_batches = self.task.val_loader(**loader_arguments, trained=as_trained(config.data, classes))
            self.steps_per_epoch = self.train_batches.steps_per_epoch
            self.total_steps = total_steps(config, self.steps_per_epoch)
            self.epochs = epochs_begun(config, self.steps_per_epoch)
            self.odd = [*odd_rates(config, self.steps_per_epoch), *odd_statistics(config)]
            # a stream lists no images
            fingerprint = getattr(self.train_batches.dataset, "fingerprint", str)
            seed_everything(settings.seed)
            self.state = State(
                config,
                output,
                world,
                task=self.task,
                classes=classes,
                steps_per_epoch=self.steps_per_epoch,
                images=fingerprint(),
            )
            self.global_batch_size = self.state.global_batch_size
            self.schedule = Schedule(self.state.optimizer, config, self.steps_per_epoch, self.global_batch_size)
            self.odd += self.task.remarks(self.state.model, self.train_batches)
            try_forward(self.state.model, self.task, config, world, self.state.precision)
            if world.is_first:
                make_folder(output)
                held_open.enter_context(held(output, partial(say, new_console())))
                remove_unfinished(output)
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
            shown=self.task.shown,
        )
        self.agreement = Agreement(world, 5)
        self.saved, self.is_due = time.monotonic(), False
        self.too_many_unreadable = False
        self.pictures = Pictures(output, self.log)
        self.in_step = Step(config, self.state, world)

    # --- the loop ---------------------------------------------------------------------------------------------------

    def to_the_end(self) -> dict[str, Any]:
        """Trains the epochs that are left, and writes what came of it."""
        summary_file = self.output / "summary.json"
        if self.is_finished:
            done = f"{counted(self.state.step, 'step')}{ending(self.config, self.state)}"
            self.log.say(
                f"{self.output}: this run is finished, after {done}; to go on, raise train.{self.state.ended} and "
                f"{ask_for(self.output)}; to train anew, name another folder"
            )
            if self.state.fault_of_best:
                self.log.say(self.state.fault_of_best)
            written = read_summary(summary_file)
            if written.get("steps") == self.state.step:
                return written
        self.announce()
        began = time.monotonic()
        while not self.state.ended:
            self.train_epoch()
            self.end_epoch()
        self.state.finish_writing()
        summary = summed_up(self.config, self.state)
        if self.world.is_first:
            write_atomically(summary_file, to_json(summary, indent=2).encode())
            self.log.write("end", **summary)
            self.log.progress.stop()
            self.pictures.draw()
            steps, took = counted(self.state.step - self.first_step, "step"), duration(time.monotonic() - began)
            self.log.say(f"trained {steps} in {took}{ending(self.config, self.state)}")
            unreadable = self.state.unreadable
            self.log.list_unreadable(unreadable.names, unreadable.reasons.values())
        return summary

    def train_epoch(self) -> None:
        """Takes the steps that are left of the current epoch."""
        settings, state = self.config.train, self.state
        epoch = state.epochs_ended
        done = state.step - epoch * self.steps_per_epoch
        if done == 0:
            state.meter.start_epoch()
        state.meter.start()
        self.in_step.module.train()
        if settings.freeze_statistics:
            # of a detector or segmenter, those of its network; a classifier may have a method of that name
            model: Any = state.model
            keep_statistics(model if self.config.task.name == "classify" else model.features)
        to_do = end_of_epoch(self.config, self.steps_per_epoch, epoch + 1) - epoch * self.steps_per_epoch
        batches = self.train_batches.epoch(epoch, done) if done < to_do else iter(())
        for number in range(done + 1, to_do + 1):
            self.world.signs.doing = f"reading the images of step {state.step + 1}"
            micro_batches = [next(batches) for _ in range(settings.accumulation)]
            self.world.signs.doing = f"in step {state.step + 1}"
            for batch in micro_batches:
                self.note_unreadable(batch, self.train_batches.dataset)
            lr = self.take_step(micro_batches)
            to_log = state.step % settings.log_every_steps == 0 or number == to_do
            to_save = settings.checkpoint_every_steps and state.step % settings.checkpoint_every_steps == 0
            # never log or save what comes after a step that was not finite
            self.listen(now=bool(to_log or to_save))
            if self.is_due and not (to_log or to_save):
                self.listen(now=True)
            if to_log:
                self.log_step(lr)
            if to_save or self.is_due:
                self.save()

    def save(self) -> None:
        """Writes last.pt beside what follows; every process calls it."""
        self.world.signs.doing = f"saving after step {self.state.step}"
        self.state.save_last()
        self.saved, self.is_due, self.stop.is_save = time.monotonic(), False, False

    def take_step(self, micro_batches: list[Any]) -> float:
        """One step, that waits for the device nowhere: nothing it computes is read. Returns the learning rate."""
        state = self.state
        lr = self.schedule.apply(state.step)
        losses, norm = self.in_step.take(micro_batches)
        state.step += 1
        finite = self.is_finite(losses, norm)
        state.meter.add(losses, norm, finite, step=state.step, images=self.global_batch_size)
        return lr

    def is_finite(self, losses: dict[str, Tensor], norm: Tensor) -> Tensor:
        """Whether training can go on after a step; with fp16 the scaler leaves out a step whose gradient is not."""
        finite = torch.isfinite(losses["loss"])
        return finite if self.state.precision.scaler.is_enabled() else finite & torch.isfinite(norm)

    def listen(self, *, now: bool = False) -> None:
        """Stops, on all processes at the same place, for a signal, a loss that is no number or too many bad files.

        Args:
            now: wait for what the others say, and on a GPU for the steps it has not come to yet; otherwise one learns
                of it at the next call, or where the next one waits.
        """
        # on a CPU the loss is there at no cost
        bad_step = self.state.meter.first_bad_step() if now or self.world.device.type == "cpu" else 0
        state, minutes = self.state, self.config.train.checkpoint_every_minutes
        is_due = self.stop.is_save or (
            self.world.is_first and minutes is not None and time.monotonic() - self.saved > 60 * minutes
        )
        agreed = self.agreement.exchange(
            self.stop.signal, bad_step, int(self.too_many_unreadable), int(is_due), int(state.writer.has_failed)
        )
        if now:
            agreed = self.agreement.settle()
        signal, bad_step, too_many, self.is_due, has_failed = *agreed[:3], bool(agreed[3]), agreed[4]
        if bad_step:
            self.give_up(f"the loss or the gradient of step {bad_step}", bad_step)
        if too_many:
            self.state.unreadable.gather()
            self.state.unreadable.check()
        if has_failed:
            state.finish_writing()
        if signal and not now:
            self.listen(now=True)
        if signal:
            self.state.save_last()
            self.state.finish_writing()
            message = f"stopped after step {self.state.step} of {self.total_steps}; run the same command again to go on"
            self.log.progress.stop()
            self.log.say(message)
            raise Stopped(signal, message)

    def give_up(self, what: str, step: int) -> None:
        """Ends a run that has diverged with a step."""
        self.state.finish_writing()
        raise diverged(self.config, self.state, what, step)

    def log_step(self, lr: float) -> None:
        """Records the steps since the last record; every process calls it."""
        losses, norm, speed = self.state.meter.read()
        if self.world.size > 1:
            means = torch.tensor(list(losses.values()), dtype=torch.float64)
            dist.all_reduce(means, group=self.world.control)
            losses = dict(zip(losses, (means / self.world.size).tolist(), strict=True))
        loss = losses.pop("loss")
        self.log.step(
            self.state.step,
            self.total_steps,
            epoch=self.state.epochs_ended + 1,
            loss=loss,
            **({"losses": losses} if losses else {}),
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
        to_measure = number == self.epochs or number % settings.evaluate_every_epochs == 0
        result = self.evaluate() if to_measure else None
        state.unreadable.gather()
        state.unreadable.check()
        state.epochs_ended = number
        if record(self.log, state, number, self.epochs, result):
            state.save_best()
        last = bool(state.ended)
        if last or number % settings.checkpoint_every_epochs == 0:
            self.save()
            if self.world.is_first and not last:
                self.pictures.draw_if_old()

    def evaluate(self) -> Evaluation:
        """Measures the model on the validation images; ends the run where its loss is no number."""

        self.world.signs.doing = f"evaluating after step {self.state.step}"
        # the readers are forked now: the fewer threads are at work then, the better, see docs/LOG.md of 2026-11-26
        self.agreement.settle()

        def on_batch(batch: Any) -> None:
            self.note_unreadable(batch, self.val_batches.dataset)
            self.listen()

        result = measured(self.config, self.state, self.val_batches, on_batch)
        if result.loss is not None and not math.isfinite(result.loss):
            # the last step made weights that no longer compute: keep the checkpoint that does
            self.give_up(f"the validation loss after step {self.state.step}", self.state.step)
        return result

    def note_unreadable(self, batch: Any, dataset: Any) -> None:
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
        keep_settings(self.output, dump(self.config), self.first_step)
        datasets = self.train_batches.dataset, self.val_batches.dataset
        announce(self.log, self.config, self.state, datasets, notes=self.notes, odd=self.odd)
        if self.first_step:
            self.log.say(f"{self.output}: resuming after step {self.first_step} of {self.total_steps}")
        for change in self.state.changes:
            self.log.say(f"  {change}")
