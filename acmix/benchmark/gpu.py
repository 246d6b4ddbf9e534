"""Proves and measures this library on the GPU of this machine, in one command.

python benchmarks/gpu.py [--quick] [--only PART ...] [--results FOLDER]
python benchmarks/gpu.py --ahead [DTYPE ...] [--results FOLDER]

First every kernel's output and gradients in three formats against float64, then models and operators beside their
peers, the original recipe's table, where the time of a step goes, and two loss curves from one seed. Each part runs in
a process of its own within its share of the time; one that fails or runs out of it is reported, then the next starts.
Writes gpu_<card>.csv, gpu_<card>_correct.csv, gpu_<card>_recipe.csv, gpu_<card>_curves.png and gpu_<card>.png.

--ahead needs no GPU: it compiles every kernel for several kinds of GPU, and says what each takes.

Ends with status 0 where everything is right, 1 where a part failed or a result is wrong, 2 where nothing could start.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from acmix.errors import UsageError
from acmix.ops.dispatch import OPERATORS
from acmix.tools.guard import guarded

QUICK_SECONDS = 470.0
# how a part's process says that it ran well and found something wrong; Python's own failures end with 1
WRONG = 3


@dataclass(frozen=True)
class Part:
    """A part of the whole, and how many seconds it may take, quick and in full.

    Args:
        name: what --only takes, and what `gpu_parts` runs.
        beside: parts that run at the same time, since nothing of theirs is timed.
    """

    name: str
    quick_seconds: float
    seconds: float
    beside: str | None = None


PARTS = (
    *(
        Part(f"correct:{operator}:{dtype}", 90, 900, beside="correct")
        for operator in OPERATORS
        for dtype in ("float32", "bfloat16", "float16")
    ),
    Part("train:swin", 45, 300),
    Part("infer:swin", 25, 200),
    Part("operators", 45, 600),
    Part("train:resnet", 40, 300),
    Part("recipe", 35, 300),
    Part("profile", 25, 120),
    Part("curves", 40, 400),
    Part("infer:resnet", 25, 200),
    # compiling takes longest, so it comes last and takes what is left
    Part("compiled:swin", 100, 900),
    Part("compiled:resnet", 0, 900),
)


@dataclass
class Running:
    """A part's process."""

    part: Part
    process: subprocess.Popen[bytes]
    until: float


def main(root: Path) -> int:
    """Does what the command line asks for; the exit status.

    Args:
        root: of the repository.

    Raises:
        UsageError: there is no GPU, and --ahead is not asked for.
    """
    told = arguments(root)
    if told.ahead is not None:
        if told.quick or told.only:
            raise UsageError("--ahead compiles everything; leave out --quick and --only")
        from acmix.benchmark.ahead.command import main as compile_ahead

        return compile_ahead(told.results, told.ahead or ("bfloat16",))
    if told.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"PyTorch {torch.__version__} finds no GPU here; run this where there is one, or see --device in --help"
        )
    return 1 if run_parts(told) else 0


def run_parts(told: argparse.Namespace) -> int:
    """Runs parts, prints what each came to, and returns how many failed."""
    chosen = [part for part in PARTS if wanted(part, told)]
    card = card_name(told.device)
    print(f"{card}: {len(chosen)} parts, results in {told.results}", flush=True)
    began, outcomes = time.monotonic(), {}
    while chosen:
        # what is not timed runs side by side, everything else alone
        beside = chosen[0].beside
        together = [part for part in chosen if part.beside == beside] if beside else chosen[:1]
        chosen = chosen[len(together) :]
        left = QUICK_SECONDS - (time.monotonic() - began) if told.quick else float("inf")
        outcomes |= run_together(together, told, card, left)
    merge(sorted(told.results.glob(f"gpu_{card}_correct_*.csv")), told.results / f"gpu_{card}_correct.csv")
    print(f"--- {time.monotonic() - began:.0f} s in all")
    for name, outcome in outcomes.items():
        print(f"{name:<36} {outcome}")
    return sum(outcome != "right" for outcome in outcomes.values())


def wanted(part: Part, told: argparse.Namespace) -> bool:
    """Whether a part is asked for: by its name or the word before its first colon."""
    if told.only:
        return part.name in told.only or part.name.split(":")[0] in told.only
    return part.quick_seconds > 0 or not told.quick


def run_together(parts: list[Part], told: argparse.Namespace, card: str, left: float) -> dict[str, str]:
    """Runs parts at the same time, each within its seconds; what each came to."""
    if left < 10:
        return {part.name: "not run: the time is used up" for part in parts}
    running = []
    for part in parts:
        seconds = min(left, part.quick_seconds or part.seconds) if told.quick else part.seconds
        print(f"--- {part.name}, within {seconds:.0f} s", flush=True)
        running.append(Running(part, start(part, seconds, told, card), time.monotonic() + seconds))
    return {each.part.name: outcome(each) for each in running}


def start(part: Part, seconds: float, told: argparse.Namespace, card: str) -> subprocess.Popen[bytes]:
    """Starts a part's process, in a session of its own, so that it can be ended with all that it started."""
    command = [sys.executable, "-W", "ignore", "-m", "acmix.benchmark.gpu_parts", part.name]
    # a part is told less than it has, so that it can end by itself and keep what it found
    command += [f"--seconds={0.85 * seconds:.0f}", f"--results={told.results}", f"--card={card}"]
    command += [f"--device={told.device}", *(["--quick"] if told.quick else [])]
    environment = {**os.environ, "ACMIX_CPU_KERNELS": "0", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def outcome(running: Running) -> str:
    """Waits for a part, ends it where its time is over, and says in words what it came to."""
    try:
        status = running.process.wait(max(0.0, running.until - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
        return "ended: its time was over; what it had measured is in the file"
    words = {0: "right", WRONG: "WRONG: its words are above"}
    return words.get(status, f"failed with status {status}: its words are above")


def merge(parts: list[Path], whole: Path) -> None:
    """Puts CSV files with the same first line into one, and removes them."""
    if parts:
        texts = [part.read_text(encoding="utf-8").splitlines(keepends=True) for part in parts]
        whole.write_text("".join([texts[0][0], *(line for text in texts for line in text[1:])]), encoding="utf-8")
        for part in parts:
            part.unlink()


def card_name(device: str) -> str:
    """The card's name as a part of file names."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def arguments(root: Path) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within 8 minutes: fewer cases, shapes and models")
    parser.add_argument(
        "--ahead", nargs="*", choices=("bfloat16", "float16", "float32"), metavar="DTYPE",
        help="compile the kernels for several GPUs, in bfloat16 or these formats; needs no GPU, --quick or --only",
    )  # fmt: skip
    names = sorted({part.name.split(":")[0] for part in PARTS} | {part.name for part in PARTS})
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder to write to")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu tries this script with tiny sizes and the reference operators; its figures mean nothing",
    )
    return parser.parse_args()


if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path.cwd())))
