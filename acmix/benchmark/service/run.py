"""2,000 requests from 16 clients to `acmix serve`, mixed with bad ones; a stop in the middle; batched and one by one.

python benchmarks/service.py CHECKPOINT IMAGE [--requests N] [--clients N] [--rounds N]

Good requests come from `hey` (a Debian package), bad ones from three threads beside it. Printed and written are
statuses, times, requests a second, memory before and after, what a stop in the middle lost, and the ratio of
requests a second with batches to those one by one (A B A B).

->  benchmarks/results/service.csv
"""

from __future__ import annotations

import argparse
import io
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from acmix.benchmark.record import measured_with, write_table
from acmix.benchmark.service.server import Load, form, load, load_in_words, serving
from acmix.benchmark.service.spoilers import EXPECTED, Spoilers
from acmix.errors import UsageError

COLUMNS = (
    "date", "commit", "machine", "torch", "timm", "model", "part", "clients", "requests", "statuses", "no_answer",
    "p50_ms", "p99_ms", "requests_per_second", "memory_before_mib", "memory_after_mib", "ratio", "wrong",
)  # fmt: skip
LIMITS = ("--max-mib", "4", "--max-megapixels", "4", "--upload-timeout", "2", "--timeout", "60", "--drain", "0.5")
BATCHED = ("--batch-size", "16", "--window-ms", "5")
ONE_BY_ONE = ("--batch-size", "1", "--window-ms", "0")


def main(root: Path) -> int:
    """Reads the command line; the exit status: 1 where something was answered otherwise than it should.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a run, a checkpoint or an export")
    parser.add_argument("image", type=Path, help="that every good request sends")
    parser.add_argument("--requests", type=int, metavar="N", default=2000, help="good ones (default: 2000)")
    parser.add_argument("--clients", type=int, metavar="N", default=16, help="at a time (default: 16)")
    parser.add_argument("--rounds", type=int, metavar="N", default=4, help="of batched and one by one (default: 4)")
    parser.add_argument("--csv", type=Path, default=root / "benchmarks" / "results" / "service.csv", help="the table")
    given = parser.parse_args()
    if min(given.requests, given.clients, given.rounds) < 1 or given.requests < given.clients:
        raise UsageError("--requests, --clients and --rounds: expected at least 1, and a request for each client")
    try:
        image = given.image.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {given.image}: {error.strerror}; give an image") from None
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(form(given.image.name, image))
        rows = [
            *mixed(given.checkpoint, image, body, given.requests, given.clients),
            stopped(given.checkpoint, body, given.requests, given.clients),
            *batched(given.checkpoint, body, max(given.clients, given.requests // 4), given.clients, given.rounds),
        ]
    common = {**measured_with(torch.device("cpu")), "model": Path(given.checkpoint).name, "clients": given.clients}
    write_table(given.csv, COLUMNS, [{**dict.fromkeys(COLUMNS, ""), **common, **row} for row in rows])
    print(f"written: {given.csv}")
    return 1 if any(row["wrong"] for row in rows) else 0


def mixed(source: str, image: bytes, body: Path, requests: int, clients: int) -> list[dict[str, Any]]:
    """Good requests beside bad ones."""
    many = io.BytesIO()
    Image.new("L", (3000, 3000)).save(many, "PNG")
    with serving(source, *LIMITS, *BATCHED) as served:
        # what is made once is made
        load(served, body, max(clients, requests // 10), clients)
        before = served.memory_mib()
        with Spoilers(served, image, many.getvalue(), 4 * 2**20, pause=0.1) as spoilers:
            found = load(served, body, requests, clients)
        after, counts = served.memory_mib(), served.metrics()
        served.signal(signal.SIGTERM)
        _, errors = served.process.communicate(timeout=60)
    batches = counts["acmix_batch_images_sum"] / counts["acmix_batch_images_count"]
    print(f"images a batch, mean: {batches:.2f}")
    wrong = set(found.statuses) != {"200"} or bool(found.errors) or bool(errors) or served.process.returncode != 0
    rows = [{**told("good", found), "memory_before_mib": round(before, 1), "memory_after_mib": round(after, 1)}]
    rows[0]["wrong"] = int(wrong)
    for name in EXPECTED:
        statuses = spoilers.found[name]
        row = {"part": name, "requests": sum(statuses.values()), "statuses": in_words(statuses)}
        rows.append({**row, "wrong": int(spoilers.is_wrong(name))})
    for row in rows:
        show(row)
    if errors:
        print(f"standard error: {errors}", file=sys.stderr)
    return rows


def stopped(source: str, body: Path, requests: int, clients: int) -> dict[str, Any]:
    """A stop in the middle: what was taken is answered, and later connections are refused."""
    with serving(source, *LIMITS, *BATCHED) as served:
        done: list[Load] = []
        thread = threading.Thread(
            target=lambda: done.append(load_in_words(served, body, requests, clients, "-disable-keepalive"))
        )
        thread.start()
        while served.metrics().get('acmix_requests_total{path="/predict",status="200"}', 0) < requests // 8:
            if not thread.is_alive():
                raise UsageError("the load tool ended before an eighth of its requests was answered; see what it said")
            time.sleep(0.01)
        served.signal(signal.SIGTERM)
        _, errors = served.process.communicate(timeout=120)
        thread.join()
    found = done[0]
    lost = sum(count for reason, count in found.errors.items() if reason != "connection refused")
    wrong = lost or set(found.statuses) != {"200"} or served.process.returncode != 0 or errors
    row = {"part": "stopped", "requests": requests, "statuses": in_words(found.statuses), "wrong": int(bool(wrong))}
    row["no_answer"] = in_words(found.errors)
    show(row)
    return row


def batched(source: str, body: Path, requests: int, clients: int, rounds: int) -> list[dict[str, Any]]:
    """Batches and single images in turn, one service idle while the other works."""
    found: dict[str, list[Load]] = {"batched": [], "one by one": []}
    with serving(source, *LIMITS, *BATCHED) as first, serving(source, *LIMITS, *ONE_BY_ONE) as second:
        for served in (first, second):
            load(served, body, max(clients, requests // 10), clients)
        for _ in range(rounds):
            found["batched"].append(load(first, body, requests, clients))
            found["one by one"].append(load(second, body, requests, clients))
    pairs = zip(found["batched"], found["one by one"], strict=True)
    ratio = statistics.median(one.per_second / other.per_second for one, other in pairs)
    rows = []
    for name, loads in found.items():
        together = Load(sum(each.seconds for each in loads))
        for each in loads:
            together.times_ms += each.times_ms
            together.statuses += each.statuses
            together.errors += each.errors
        wrong = set(together.statuses) != {"200"} or bool(together.errors)
        rows.append({**told(name, together), "wrong": int(wrong)})
    rows[0]["ratio"] = round(ratio, 3)
    for row in rows:
        show(row)
    return rows


def told(part: str, found: Load) -> dict[str, Any]:
    """A row of the table."""
    return {
        "part": part,
        "requests": len(found.times_ms) + sum(found.errors.values()),
        "statuses": in_words(found.statuses),
        "no_answer": in_words(found.errors),
        "p50_ms": round(found.quantile_ms(0.5), 2),
        "p99_ms": round(found.quantile_ms(0.99), 2),
        "requests_per_second": round(found.per_second, 1),
    }


def in_words(counts: Counter[str]) -> str:
    """Counts as a cell."""
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def show(row: dict[str, Any]) -> None:
    """Prints a row as a line."""
    print("  ".join(f"{name}={value}" for name, value in row.items() if value != ""), flush=True)
