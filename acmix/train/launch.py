"""`python -m acmix.train.launch N CONFIG DATA_DIR [key=value ...]`: one run in N processes, as torchrun does it.

From the environment: OUTPUT, the run's folder (by default as `acmix.train.run_folder` says); NNODES, NODE_RANK and
RDZV_ENDPOINT=HOST:PORT where several machines take part, each starting N processes with the same command; RDZV_ID, a
name of the run, where several runs could meet at one port (by default Slurm's number of the job).

Exit status: 0, the failed process's status, 2 where the input is wrong, 130 or 143 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from acmix.data.worker import cores
from acmix.errors import UsageError
from acmix.released import load_config
from acmix.train.early import save_later
from acmix.train.words import LAUNCHER, LAUNCHER_PROCESS

if TYPE_CHECKING:
    from acmix.config import Train
    from acmix.train.agent import Machines

USAGE = "bash run.sh N CONFIG DATA_DIR [key=value ...]"
# what a stopped run may take to write its checkpoint
GRACE_SECONDS = 600
MOST_PORT = 65535
# processes that may share a CPU, a core and at least: each takes memory, and more of them only wait
PROCESSES_A_CORE, LEAST_BOUND = 8, 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts the processes that the command line asks for and returns the exit status."""
    save_later()
    # what PyTorch's own code meets comes as an exception too
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    try:
        processes, command, machines, settings = parse(sys.argv[1:] if arguments is None else arguments)
        notice = check_processors(processes, settings.device)
    except UsageError as error:
        print(f"acmix: error: {error}", file=sys.stderr)
        return 2
    if notice:
        print(f"acmix: {notice}", file=sys.stderr)
    return launch(processes, command, machines=machines, restarts=settings.restarts)


def launch(
    processes: int,
    command: Sequence[str],
    *,
    machines: Machines | None = None,
    grace_seconds: int = GRACE_SECONDS,
    restarts: int = 0,
) -> int:
    """Runs `command` in N processes that find each other through torchrun's environment variables.

    A process that stops over wrong input says so by `write_worker_error`; the line is printed once, here. SIGINT and
    SIGTERM go on to the processes, which may then checkpoint.

    Args:
        processes: N, on this machine.
        command: the program and its arguments, the same for every process.
        machines: where this machine stands among several; None: it is alone.
        grace_seconds: after a stop signal, how long the processes may take to end before they are killed.
        restarts: how often all are started again when one fails, but for wrong input.

    Returns:
        An exit status: 0, the first failed process's, 2 for wrong input, 128 + the number of a stop signal.
    """
    from acmix.train.agent import Machines, address_towards, interface_of, run_workers

    told = {LAUNCHER: USAGE.split()[1], LAUNCHER_PROCESS: str(os.getpid())}
    if restarts:
        # torch 2.15 shares one store between all starts, and the second finds the addresses of the first in it
        told["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if machines is not None and machines.count > 1:
        # gloo asks what the machine's name stands for, which may be 127.0.0.1
        interface = os.environ.get("GLOO_SOCKET_IFNAME") or interface_of(address_towards(machines.endpoint))
        told |= {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    with threads_shared_out(processes), variables(**told):
        outcome = run_workers(processes, command, machines or Machines(), grace_seconds, restarts)
    if outcome.message:
        print(f"acmix: error: {outcome.message}", file=sys.stderr)
    return outcome.status


def parse(arguments: Sequence[str]) -> tuple[int, list[str], Machines, Train]:
    """Reads the command line and the environment: N, a process's command, this machine's place, the loop's settings."""
    if len(arguments) < 3:
        raise UsageError(f"{len(arguments)} arguments; expected at least 3: {USAGE}")
    processes, source, data, *overrides = arguments
    count = positive(processes, "N, the number of processes,")
    settings = load_config(source, overrides)
    if settings.data.format == "auto" and not os.path.isdir(os.path.expanduser(data)):
        raise UsageError(f"no data folder {data}; expected a folder with train/<class>/ and val/<class>/")
    output = os.environ.get("OUTPUT")
    place = ["--output", output] if output else []
    command = [sys.executable, "-m", "acmix", "train", source, "--data", data, *place, *overrides]
    # now that the settings are read: this loads torch
    from acmix.train.distributed import check_shared

    machines = machines_from_environment()
    check_shared(settings.train.device, count * machines.count)
    return count, command, machines, settings.train


def machines_from_environment() -> Machines:
    """This machine's place, from NNODES, NODE_RANK and RDZV_ENDPOINT."""
    from acmix.train.agent import Machines

    count = positive(os.environ.get("NNODES") or "1", "NNODES")
    if count == 1:
        return Machines()
    rank, endpoint = os.environ.get("NODE_RANK", ""), os.environ.get("RDZV_ENDPOINT", "")
    if not rank.isdecimal() or int(rank) >= count:
        raise UsageError(
            f"NODE_RANK={rank!r} with NNODES={count}; set it to 0 ... {count - 1}, a different number on each machine"
        )
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port[:10]) <= MOST_PORT:
        raise UsageError(
            f"RDZV_ENDPOINT={endpoint!r} with NNODES={count}; set it to HOST:PORT of machine 0, a port from 1 to "
            f"{MOST_PORT}"
        )
    # two jobs of one user may name the same port
    run = os.environ.get("RDZV_ID") or os.environ.get("SLURM_JOB_ID") or "acmix"
    return Machines(count, int(rank), endpoint, run)


def positive(text: str, what: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{what} is {text!r}; expected a whole number, at least 1: {USAGE}")
    return int(text)


def check_processors(processes: int, device: str = "auto") -> str:
    """Refuses more processes than this machine has GPUs; on the CPU, returns the notice that it is used.

    Args:
        processes: on this machine.
        device: as `train.device`.
    """
    import torch

    from acmix.train.device import this_device

    if this_device(device).type != "cpu":
        present = torch.accelerator.device_count()
        if processes > present:
            raise UsageError(
                f"{processes} processes need {processes} GPUs; this machine has {present}; N can be 1 to {present}"
            )
        return ""
    if processes > (most := max(LEAST_BOUND, PROCESSES_A_CORE * cores())):
        raise UsageError(f"{processes} processes on {cores()} cores; expected at most {most}")
    threads = threads_each(processes)
    each = "1 thread" if threads == 1 else f"{threads} threads"
    why = "no GPU found" if device == "auto" else f"device {device}"
    return f"{why}: {processes} process{'es'[: processes * 2 - 2]} on the CPU over gloo, {each} each"


def threads_each(processes: int) -> int:
    """CPU threads for each process: the user's choice, else the cores shared out."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    return int(chosen) if chosen.isdecimal() else max(1, cores() // processes)


@contextmanager
def threads_shared_out(processes: int) -> Iterator[None]:
    """Sets the processes' CPU threads while the block runs, where the user has not."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    with variables(OMP_NUM_THREADS=chosen or str(threads_each(processes))):
        yield


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Sets environment variables while the block runs."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # all is done: PyTorch's threads, which wait for other machines, could abort this process on its way out
    os._exit(ended)
