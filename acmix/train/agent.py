"""torchrun's own agent, with three things changed: time to write a checkpoint, quiet failures, exact exit codes.

A stop signal reaches torchrun's agent as an exception, upon which it passes the signal on and waits 30 seconds, then
kills. A checkpoint on a network disk can take longer. This module is imported where processes are started, not before:
it costs a second.

`torch.distributed.launcher.api.launch_agent` would do most of this: its `ChildFailedError` carries every process's exit
code and error line. It can take this module's place once the oldest torch that acmix supports has these fields:

    dataclasses.fields(LaunchConfig)    torch 2.9    torch 2.15
    shutdown_timeout                    no           yes         how long a stopped process may write its checkpoint
    signals_to_handle                   no           yes         all but SIGHUP where nohup has it ignored

Two things are missing in 2.15 too. A second stop signal breaks off the wait for the checkpoint and starts it anew; a
third leaves the processes behind. SIGHUP and SIGQUIT go on to the processes as they are, and end them unsaved.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousHandler, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from acmix.train.worker_error import LOST_OTHERS

# Linux's SIOCGIFADDR
ADDRESS_OF_INTERFACE = 0x8915
# what a machine waits for the others
MEETING_SECONDS = 900
TAKEN = re.compile(r"EADDRINUSE|address already in use", re.IGNORECASE)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


@dataclass(frozen=True)
class Outcome:
    """How a group of processes ended: the launcher's exit status, and a line for the user if one is due."""

    status: int
    message: str = ""


@dataclass(frozen=True)
class Machines:
    """Which of how many machines this is.

    Args:
        count: of machines.
        rank: the number of this one; on the first all find each other.
        endpoint: HOST:PORT of machine 0, needed where there are several.
        run: a name that this run's machines share, and those of no other run.
    """

    count: int = 1
    rank: int = 0
    endpoint: str = ""
    run: str = "acmix"


def run_workers(
    processes: int, command: Sequence[str], machines: Machines, grace_seconds: int, restarts: int = 0
) -> Outcome:
    """Runs `command` in N processes under torchrun's environment variables and waits for all of them.

    Args:
        processes: N, on this machine.
        command: the program and its arguments, the same for every process; RANK, LOCAL_RANK, ... tell them apart.
        machines: where this machine stands among those of the run.
        grace_seconds: after a stop signal, how long the processes may take to end before they are killed.
        restarts: how often all are started again when one fails, but for wrong input and after a signal to stop. On
            several machines all start again, and wait for one that is gone to come back.
    """
    quieten_torchrun()
    with tempfile.TemporaryDirectory(prefix="acmix_launch_") as folder, ended_by_ctrl_c(machines.count > 1):
        try:
            spec = WorkerSpec(
                role="train",
                local_world_size=processes,
                entrypoint=command[0],
                # torchrun reads its arguments as templates, in which $$ means $
                args=tuple(argument.replace("$", "$$") for argument in command[1:]),
                rdzv_handler=meeting_point(machines),
                max_restarts=restarts,
                local_addr="localhost" if machines.count == 1 else None,
            )
            agent = PatientAgent(spec, DefaultLogsSpecs(log_dir=folder), grace_seconds, Path(folder))
            try:
                with stop_signals_handled(agent, interruptible=machines.count == 1):
                    result = cast(RunResult, agent.run())
            except SignalException as stop:
                result, agent.stopped_by = None, agent.stopped_by or stop.sigval
        except (RendezvousError, dist.DistError, ConnectionError, TimeoutError) as error:
            return Outcome(2, why_not_met(error, machines))
        return outcome_of(result, agent.stopped_by, Path(folder))


class PatientAgent(LocalElasticAgent):
    """torchrun's agent for one machine; a stopped run gets `grace_seconds` instead of 30 s to write its checkpoint."""

    def __init__(self, spec: WorkerSpec, logs_specs: DefaultLogsSpecs, grace_seconds: int, folder: Path) -> None:
        super().__init__(spec, logs_specs)
        self.grace_seconds, self.folder = grace_seconds, folder
        self.stopped_by: signal.Signals | None = None
        self.stop_signals: list[signal.Signals] = []

    def handle_stop_signals(self) -> None:
        """Installs the handlers below; none outside the main thread, where Python has no say in signals."""
        if not self.stop_signals:
            return
        for number in self.stop_signals:
            signal.signal(number, self.on_stop_signal)
        signal.signal(signal.SIGUSR2, self.on_save_signal)

    def on_stop_signal(self, number: int, frame: FrameType | None) -> None:
        """Starts the shutdown at the first signal; later ones only go on to the processes, which decide themselves."""
        if self.stopped_by is None:
            self.stopped_by = signal.Signals(number)
            raise SignalException(f"stopped by {self.stopped_by.name}", sigval=self.stopped_by)
        self.tell(friendly(signal.Signals(number)))

    def on_save_signal(self, number: int, frame: FrameType | None) -> None:
        """Has the processes save, and go on."""
        self.tell(signal.SIGUSR2)

    def tell(self, number: signal.Signals) -> None:
        """Sends a signal to the processes."""
        for process_id in list(self._pcontext.pids().values()) if self._pcontext else ():
            pass_on(process_id, number)

    # torchrun's timing decorator hides the method's type
    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.stop_signals:
            # which the processes inherit, until each listens to it
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        process_ids = super()._start_workers(worker_group)  # pyright: ignore[reportCallIssue]
        # torchrun has just put its own handlers in place of ours
        self.handle_stop_signals()
        return process_ids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:  # pyright: ignore[reportIncompatibleVariableOverride]
        result = cast(RunResult, super()._monitor_workers(worker_group))  # pyright: ignore[reportCallIssue]
        if result.is_failed() and self._remaining_restarts > 0:
            if first_worker_error(self.folder) or was_stopped(result):
                # another start would meet it again, or is not wanted
                self._remaining_restarts = 0
            else:
                count = worker_group.spec.max_restarts
                number = count - self._remaining_restarts + 1
                how = how_it_ended(first_failure(result)) or "a process failed"
                again = f"starting all again, from the newest checkpoint ({number} of {count})"
                print(f"acmix: {how}: {again}", file=sys.stderr)
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, *args: Any, **kwargs: Any) -> None:
        if self._pcontext and self.stopped_by is not None:
            self._pcontext.close(friendly(death_sig), self.grace_seconds)
        # processes that are still running have failed to end or used up their time
        super()._shutdown(death_sig, *args, **kwargs)


def pass_on(process_id: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended meanwhile."""
    try:
        os.kill(process_id, number)
    except ProcessLookupError:
        return


def friendly(number: signal.Signals) -> signal.Signals:
    """The signal to pass on: a closed terminal and Slurm's warning, too, ask the processes to checkpoint and end."""
    return number if number in (signal.SIGINT, signal.SIGTERM) else signal.SIGTERM


@contextmanager
def ended_by_ctrl_c(wanted: bool) -> Iterator[None]:
    """Lets Ctrl-C end the launcher at once in the block, within PyTorch's blocking calls, too, if so wanted."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stop_signals_handled(agent: PatientAgent, *, interruptible: bool) -> Iterator[None]:
    """Hands stop signals to the agent while the block runs; outside the main thread Python has no say in signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (*STOP_SIGNALS, signal.SIGUSR2)}
    # under nohup a closed terminal must stop neither us nor the processes, which inherit the choice
    agent.stop_signals = [
        number for number in STOP_SIGNALS if number != signal.SIGHUP or before[number] != signal.SIG_IGN
    ]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in agent.stop_signals)
    if interruptible:
        agent.handle_stop_signals()
    # otherwise machines wait for each other inside a blocking call, which only a signal's default action can end
    try:
        yield
    finally:
        del os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"]
        for number, handler in before.items():
            signal.signal(number, handler)


def meeting_point(machines: Machines) -> RendezvousHandler:
    """Where the processes find each other: a free port of this machine, or what the user named for several machines."""
    count = machines.count
    if count == 1:
        # a name of its own and port 0: two runs at once do not meet
        name = uuid.uuid4().hex
        parameters = RendezvousParameters("c10d", "localhost:0", name, 1, 1, local_addr="localhost", timeout=900)
    else:
        parameters = RendezvousParameters(
            *("c10d", machines.endpoint, machines.run, count, count),
            local_addr=address_towards(machines.endpoint),
            is_host=machines.rank == 0,
            join_timeout=MEETING_SECONDS,
            # machine 0 may start late
            read_timeout=MEETING_SECONDS,
        )
    return get_rendezvous_handler(parameters)


def address_towards(endpoint: str) -> str | None:
    """This machine's address in the network that leads to HOST:PORT; None where none is found.

    The machine's name may be known to itself alone, or stand for another of its networks.
    """
    host, _, port = endpoint.rpartition(":")
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe:
                # nothing is sent
                probe.connect(address)
                return str(probe.getsockname()[0])
    except OSError:
        return None
    return None


def interface_of(address: str | None) -> str:
    """The name of the network interface with an address (IPv4); "" where it is not found."""
    if address is None or sys.platform != "linux":
        return ""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), ADDRESS_OF_INTERFACE, asked)
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return ""


def why_not_met(error: BaseException, machines: Machines) -> str:
    """One line on machines that did not find each other."""
    causes: list[str] = []
    at: BaseException | None = error
    while at is not None:
        causes.append(" ".join(str(at).split()))
        at = at.__cause__ or at.__context__
    endpoint, said = machines.endpoint or "localhost", " ".join(causes)
    if TAKEN.search(said):
        return (
            f"port {endpoint.rpartition(':')[2]} of machine 0 is taken, maybe by another run; "
            "set RDZV_ENDPOINT to another port, on every machine"
        )
    return (
        f"the machines did not find each other at {endpoint}: {causes[-1][:300]}; check that machine 0 runs the same "
        f"command, that all of NNODES={machines.count} do, and that the port is open between them"
    )


def outcome_of(result: RunResult | None, stopped_by: signal.Signals | None, folder: Path) -> Outcome:
    """Reduces the processes' ends to one exit status: a usage error counts first, then the first failure."""
    message = first_worker_error(folder)
    if stopped_by is not None:
        return Outcome(128 + stopped_by, message)
    if result is None or not result.is_failed():
        return Outcome(0)
    if message:
        return Outcome(2, message)
    first = first_failure(result)
    return Outcome(128 - first.exitcode if first.exitcode < 0 else first.exitcode, how_it_ended(first))


def first_failure(result: RunResult) -> Any:
    """How the process ended that failed first; those that lost it failed by it."""
    failures = [*result.failures.values()]
    causes = [each for each in failures if each.exitcode != LOST_OTHERS] or failures
    return min(causes, key=lambda failure: failure.timestamp)


def was_stopped(result: RunResult) -> bool:
    """Whether the processes ended as a signal asked them to, on this machine or another, and saved."""
    return first_failure(result).exitcode in {128 + number for number in STOP_SIGNALS}


def how_it_ended(failure: Any) -> str:
    """What ended a process, where it cannot have said it itself."""
    if failure.exitcode == LOST_OTHERS:
        return f"process {failure.local_rank} lost the others, which ended without a word"
    if failure.exitcode >= 0:
        return ""
    number = -failure.exitcode
    hint = "; the machine may have run out of memory" if number == signal.SIGKILL else ""
    # most of the real-time signals have no name
    name = signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"
    return f"process {failure.local_rank} was ended by {name}{hint}"


def first_worker_error(folder: Path) -> str:
    """The line of the process that met a usage error first, or nothing."""
    notes = [json.loads(path.read_text(encoding="utf-8"))["message"] for path in folder.rglob("error.json")]
    notes.sort(key=lambda note: float(note["extraInfo"]["timestamp"]))
    return notes[0]["message"] if notes else ""


def quieten_torchrun() -> None:
    """Silences torchrun's loggers, each of which sets a level of its own: the launcher says what is to be said."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
