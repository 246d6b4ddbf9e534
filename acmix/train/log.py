"""What a run tells: JSON lines and TensorBoard in its folder, a progress bar or plain lines on the terminal.

`log.jsonl` holds one object a line, told apart by "event": "start", "step", "epoch", "end".
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from acmix.errors import UsageError
from acmix.names import is_url, to_json, without_secrets
from acmix.tasks.evaluation import LABELS
from acmix.train.device import device_name
from acmix.train.terminal import new_console, say

# What an import ends in where a package is missing, or fits neither its own parts nor numpy or protobuf.
IMPORT_ERRORS = (ImportError, AttributeError, TypeError, ValueError, RuntimeError, OSError, SyntaxError)
# On a terminal that is no terminal, a line this often.
PLAIN_SECONDS = 10.0


def without_boards(before: Callable[[Any], object], met: Any) -> None:
    """A hook for what ends a thread: not for TensorBoard's, which hands an error on to `RunLog` as well.

    Args:
        before: the hook for all others.
        met: as `threading.excepthook` gets it.
    """
    if not (isinstance(met.exc_value, OSError) and type(met.thread).__module__.startswith("tensorboard.")):
        before(met)


class RunLog:
    """Writes a run's records; on every process but the first it writes nothing.

    Args:
        folder: of the run.
        active: whether this process writes.
        keep: whether it also writes to the folder.
        tensorboard: also write event files for TensorBoard.
        total_steps: of the whole run.
        first_step: where this call begins.
        shown: the metrics that lines and curves tell; `log.jsonl` holds all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        active: bool,
        keep: bool,
        tensorboard: bool,
        total_steps: int,
        first_step: int,
        shown: tuple[str, ...],
    ) -> None:
        self.folder, self.active, self.shown = folder, active, shown
        self.console = new_console(quiet=not active)
        self.last_line = time.monotonic()
        self.file = self.board = None
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        live = active and self.console.is_terminal
        self.progress = Progress(*columns, console=self.console, disable=not live)
        self.bar = self.progress.add_task("training", total=total_steps, completed=first_step, numbers="")
        self.is_live = live
        if active and keep:
            self.open(tensorboard, first_step)
            self.progress.start()

    def open(self, tensorboard: bool, first_step: int) -> None:
        """Opens the files, to go on behind what they hold."""
        try:
            self.file = open(self.folder / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115  closed by close()
            if tensorboard and (writer := self.tensorboard_writer()):
                threading.excepthook = partial(without_boards, threading.excepthook)
                # a killed run may have recorded later steps, which are recorded again
                self.board = writer(str(self.folder / "tensorboard"), purge_step=first_step + 1)
        except UnicodeEncodeError:
            self.say(
                "no event files for TensorBoard are written, as it cannot name a folder that is no UTF-8; log.jsonl has"
                " the same curves"
            )
        except OSError as error:
            raise UsageError(
                f"cannot write the log in {self.folder}: {error.strerror}; choose another folder"
            ) from error

    def tensorboard_writer(self) -> Any:
        """What writes event files; None, with a line, where tensorboard or what it stands on cannot be imported."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except IMPORT_ERRORS as error:
            said = " ".join(str(error).split())[:200] or type(error).__name__
            self.say(
                f"no event files for TensorBoard are written, as it cannot be imported ({said}); log.jsonl has the "
                "same curves; train.tensorboard=false leaves this line out"
            )
            return None
        return SummaryWriter

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        say(self.console, text)

    def show(self, table: Any) -> None:
        """Prints a table above the progress bar."""
        self.console.print(table, soft_wrap=False)

    def write(self, event: str, **fields: Any) -> None:
        """Appends a record at once, so that a kill loses none."""
        if self.file is not None:
            try:
                self.file.write(to_json({"event": event, "time": time.time(), **fields}) + "\n")
                self.file.flush()
            except OSError as error:
                raise UsageError(
                    f"cannot write {self.file.name}: {error.strerror}; the last checkpoint is intact"
                ) from error

    def step(self, step: int, total: int, **fields: Any) -> None:
        """Records a step and moves the bar to it; `step` counts the steps done."""
        self.write("step", step=step, **fields)
        self.board_scalars("train", step, {**fields, **fields.get("losses", {}), "losses": None})
        numbers = (
            f"loss {fields['loss']:.3f} · lr {fields['lr']:.1e} · norm {fields['grad_norm']:.2f} · "
            f"{fields['images_per_second']:.0f} images/s"
        )
        if fields["processes"] > 1:
            numbers += f" ({fields['images_per_second'] / fields['processes']:.0f} a process)"
        if fields["memory_mib"] is not None:
            numbers += f" · {fields['memory_mib']:.0f} MiB"
        self.progress.update(self.bar, completed=step, numbers=numbers, description=f"epoch {fields['epoch']}")
        now = time.monotonic()
        if self.active and not self.is_live and now - self.last_line > PLAIN_SECONDS:
            self.last_line = now
            left = duration(fields["eta_seconds"])
            self.say(f"step {step}/{total} · epoch {fields['epoch']} · {numbers} · {left} left")

    def epoch(self, total: int, images: int | None, **fields: Any) -> None:
        """Records an epoch of `total` and says how it went; `images` were evaluated, None where it was not."""
        self.write("epoch", **fields, val_images=images)
        numbers = {
            key: value
            for key, value in fields.items()
            if isinstance(value, (int, float)) and (key != "top5" or key in self.shown)
        }
        self.board_scalars("epoch", fields["step"], numbers)
        for block, (attention, conv) in fields["rates"].items():
            self.board_scalars("rates", fields["step"], {f"{block}/attention": attention, f"{block}/conv": conv})
        measured = ""
        if images is not None:
            loss = "" if fields["val_loss"] is None else f"val loss {fields['val_loss']:.3f} · "
            metrics = " · ".join(f"{LABELS[name]} {fields[name]:.2f} %" for name in self.shown)
            measured = f"{loss}{metrics} of {images} · "
        self.say(
            f"epoch {fields['epoch']}/{total} · train loss {fields['train_loss']:.3f} · {measured}"
            f"{fields['images_per_second']:.0f} images/s · {duration(fields['seconds'])}"
        )

    def board_scalars(self, group: str, step: int, values: dict[str, Any]) -> None:
        """Adds what is known of the values to TensorBoard, as `group/key`."""
        if self.board is not None:
            try:
                for key, value in values.items():
                    if value is not None:
                        self.board.add_scalar(f"{group}/{key}", value, step)
            except (OSError, RuntimeError) as error:
                self.leave_board(error)

    def leave_board(self, error: Exception) -> None:
        """Goes on without TensorBoard: a full disk, say, is met by what must be written."""
        self.board = None
        self.say(f"no more event files for TensorBoard are written ({error}); log.jsonl goes on with the same curves")

    def list_unreadable(self, names: list[str], reasons: Iterable[str]) -> None:
        """Names the files that were left out; `reasons` say what is wrong with some of them."""
        if names:
            self.say(f"{len(names)} file{'s' * (len(names) > 1)} left out, as unreadable:")
        for name in names:
            self.say(f"  {name}")
        for reason in filter(None, reasons):
            self.say(f"  ({reason})")

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self.progress.stop()
        if self.file is not None:
            # what it could not write has been said
            with suppress(OSError):
                self.file.close()
        if self.board is not None:
            try:
                self.board.close()
            except (OSError, RuntimeError) as error:
                self.leave_board(error)


def read_summary(path: Path) -> dict[str, Any]:
    """What an earlier call wrote into summary.json; {} where it wrote nothing yet.

    Raises:
        UsageError: it is not JSON.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError):
        summary = None
    if not isinstance(summary, dict):
        raise UsageError(f"{path} is not JSON; delete it and run the training command again, which writes it anew")
    return summary


def why_early(summary: dict[str, Any]) -> str:
    """Why a run ended before its last epoch, in words; its summary says it by the setting that ended it."""
    if summary["ended"] == "patience":
        metric = LABELS.get(str(summary.get("best_metric")), "top-1")
        return f"no better {metric} than that of epoch {summary.get('best_epoch')} for long enough (train.patience)"
    return str(summary["ended"])


def in_words(choices: dict[str, Any]) -> str:
    """What `State.choices` says, as a line."""
    ways: dict[str, list[str]] = {}
    for operator, name in choices["operators"].items():
        ways.setdefault(name, []).append(operator)
    operators = [name if len(ways) == 1 else f"{name} for {', '.join(given)}" for name, given in ways.items()]
    return (
        f"chosen: {choices['precision']} · {'fused ' if choices['fused'] else ''}{choices['optimizer']} · "
        f"channels {'last' if choices['channels_last'] else 'first'} · "
        f"{'compiled' if choices['compile'] else 'not compiled'} · {choices['workers']} reading processes · "
        f"operators: {'; '.join(operators)}"
    )


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 42 s, 3 min 10 s, 2 h 5 min, 3 d 4 h."""
    seconds = round(seconds)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // smaller} {smaller_unit}"
    return f"{seconds} s"


def provenance(device: torch.device) -> dict[str, Any]:
    """What made a run: command, commit, versions and machine."""
    import timm

    here = Path(__file__).parent.parent
    git = (
        subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
        if (here.parent / ".git").exists()
        else None
    )
    return dict(
        command=command(),
        commit=git.stdout.strip() if git is not None and git.returncode == 0 else None,
        versions=dict(python=platform.python_version(), torch=torch.__version__, timm=timm.__version__),
        device=device_name(device),
    )


def command() -> str:
    """The line that started this process, without the folders that programs lie in and the passwords of addresses."""
    program, *rest = (without_secrets(each) if is_url(each) else each for each in sys.orig_argv)
    if rest and Path(rest[0]).name == "acmix":
        return shlex.join(["acmix", *rest[1:]])
    return shlex.join([Path(program).name, *rest])
