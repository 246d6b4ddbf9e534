"""A service as a user starts it, and the load tool that drives it."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from acmix.errors import UsageError

BOUNDARY = "boundary-of-the-benchmark"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
# seconds
PATIENCE = 300


@dataclass(frozen=True)
class Served:
    """A service that runs."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        """Where images go."""
        return f"http://127.0.0.1:{self.port}/predict"

    def metrics(self) -> dict[str, float]:
        """Its counters."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    def memory_mib(self) -> float:
        """What of it is in memory."""
        return self.metrics()["process_resident_memory_bytes"] / 2**20

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.process.pid, number)


@contextmanager
def serving(source: str, *options: str) -> Iterator[Served]:
    """`acmix serve` at a free port, until the block ends.

    Raises:
        UsageError: it does not start.
    """
    command = [sys.executable, "-m", "acmix", "serve", source, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"at http://127\.0\.0\.1:(\d+);", line)
        if not found:
            raise UsageError(f"the service did not start: {process.communicate(timeout=PATIENCE)[1].strip()}")
        yield Served(process, int(found[1]))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)


def form(name: str, content: bytes) -> bytes:
    """A file as a browser sends it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass
class Load:
    """What became of requests.

    Args:
        seconds: of the whole.
        times_ms: of each that was answered.
        statuses: how many had which.
        errors: how many got no answer, by the reason.
    """

    seconds: float
    times_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return len(self.times_ms) / self.seconds

    def quantile_ms(self, share: float) -> float:
        """The time within which a share of the requests was answered."""
        ordered = sorted(self.times_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def load(served: Served, body: Path, requests: int, clients: int, *more: str) -> Load:
    """So many requests with one body from so many clients at a time, by `hey`.

    Raises:
        UsageError: it is not installed.
    """
    begun = time.monotonic()
    text = hey(served, body, requests, clients, "-o", "csv", *more)
    found = Load(time.monotonic() - begun)
    rows = list(csv.DictReader(io.StringIO(text)))
    for row in rows:
        found.times_ms.append(1e3 * float(row["response-time"]))
        found.statuses[row["status-code"]] += 1
    # hey makes whole rounds of its clients
    if (missing := requests // clients * clients - len(rows)) > 0:
        found.errors["no answer"] += missing
    return found


def load_in_words(served: Served, body: Path, requests: int, clients: int, *more: str) -> Load:
    """The same without single times, and with the reasons of what got no answer."""
    begun = time.monotonic()
    text = hey(served, body, requests, clients, *more)
    found = Load(time.monotonic() - begun)
    statuses, _, errors = text.partition("Error distribution:")
    for status, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", statuses):
        found.statuses[status] += int(count)
    for count, reason in re.findall(r"\[(\d+)\]\s+(.*)", errors):
        found.errors[reason.rpartition(": ")[2]] += int(count)
    return found


def hey(served: Served, body: Path, requests: int, clients: int, *more: str) -> str:
    """What the load tool prints."""
    program = shutil.which("hey")
    if program is None:
        raise UsageError("the load tool `hey` is not installed; install it (Debian and Ubuntu: apt install hey)")
    sent: Sequence[str] = ("-m", "POST", "-D", str(body), "-T", FORM, "-t", "60")
    command = [program, "-n", str(requests), "-c", str(clients), *sent, *more, served.url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600).stdout
