"""Requests that are too large, broken, slow or never finished, sent while others are answered."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from acmix.benchmark.service.server import BOUNDARY, FORM, PATIENCE, Served, form

# what each kind may be answered with
EXPECTED = {"huge, told": "413", "huge, sent": "413", "huge, in chunks": "413", "many pixels": "422"}
EXPECTED |= {"broken": "422", "half an image": "422", "broken form": "400", "broken JSON": "400"}
EXPECTED |= {"slow": "408", "half sent": "408", "no HTTP": "400", "hung up": "none"}


def head(length: int | None, kind: str = FORM) -> bytes:
    """The first lines of a request; without a length its body comes in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST /predict HTTP/1.1\r\nHost: benchmark\r\nContent-Type: {kind}\r\n{size}\r\n\r\n".encode()


def whole(body: bytes, kind: str = FORM) -> list[bytes]:
    """A request."""
    return [head(len(body), kind), body]


class Spoilers:
    """Sends bad requests from threads of its own until it is told to stop.

    Args:
        served: the service.
        image: a good one.
        many_pixels: an image file with more pixels than the service takes.
        max_bytes: of a request.
        pause: seconds between two parts of a slow upload.
    """

    def __init__(self, served: Served, image: bytes, many_pixels: bytes, max_bytes: int, pause: float) -> None:
        self.served, self.pause = served, pause
        self.found: dict[str, Counter[str]] = {name: Counter() for name in EXPECTED}
        self.unexplained: Counter[str] = Counter()
        self.end = threading.Event()
        good = form("good.png", image)
        begun = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
        part = bytes(2**16)

        def chunks() -> Iterator[bytes]:
            yield head(None)
            yield f"{len(begun):x}\r\n".encode() + begun + b"\r\n"
            for _ in range(max_bytes // len(part) + 16):
                yield f"{len(part):x}\r\n".encode() + part + b"\r\n"

        def drops() -> Iterator[bytes]:
            yield head(len(good))
            for place in range(len(good)):
                time.sleep(self.pause)
                yield good[place : place + 1]

        kinds: dict[str, Callable[[], Iterator[bytes] | list[bytes]]] = {
            "huge, told": lambda: [head(10 * max_bytes)],
            "huge, sent": lambda: whole(form("a.png", bytes(max_bytes + 1))),
            "huge, in chunks": chunks,
            "many pixels": lambda: whole(form("a.png", many_pixels)),
            "broken": lambda: whole(form("a.png", b"not an image" * 100)),
            "half an image": lambda: whole(form("a.png", image[: len(image) // 3])),
            "broken form": lambda: whole(good[:-30]),
            "broken JSON": lambda: whole(b'{"images": [', "application/json"),
            "slow": drops,
            "half sent": lambda: [head(len(good)), good[: len(good) // 2]],
            "no HTTP": lambda: [b"\x16\x03\x01 hello\r\n\r\n"],
            "hung up": lambda: [head(len(good)), good[: len(good) // 2]],
        }
        # those that wait for the service's patience have threads of their own
        patient = ("slow", "half sent")
        groups = [[name] for name in patient] + [[name for name in kinds if name not in patient]]
        self.threads = [threading.Thread(target=self.send, args=({k: kinds[k] for k in group},)) for group in groups]

    def __enter__(self) -> Spoilers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join()

    def send(self, kinds: dict[str, Callable[[], Iterator[bytes] | list[bytes]]]) -> None:
        """One bad request after the other; every kind at least once."""
        for number, (name, parts) in enumerate(itertools.cycle(kinds.items())):
            if self.end.is_set() and number >= len(kinds):
                return
            status, reason = self.answer(parts(), hangs_up=name == "hung up")
            self.found[name][status] += 1
            if status not in ("none", "200") and not is_a_line(reason):
                self.unexplained[name] += 1
            self.end.wait(0.02)

    def answer(self, parts: Iterator[bytes] | list[bytes], *, hangs_up: bool) -> tuple[str, bytes]:
        """The status of a request, and what was said."""
        with socket.create_connection(("127.0.0.1", self.served.port), timeout=PATIENCE) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
            except OSError:
                # answered and closed already
                pass
            if hangs_up:
                return "none", b""
            try:
                file = connection.makefile("rb")
                line = file.readline().split()
                length = 0
                while header := file.readline().strip().lower():
                    if header.startswith(b"content-length:"):
                        length = int(header.partition(b":")[2])
                return (line[1].decode(), file.read(length)) if len(line) > 1 else ("none", b"")
            except OSError:
                return "none", b""

    def is_wrong(self, name: str) -> bool:
        """Whether a kind was answered otherwise than it should."""
        return set(self.found[name]) != {EXPECTED[name]} or bool(self.unexplained[name])


def is_a_line(body: bytes) -> bool:
    """Whether an answer is JSON with its reason in one line."""
    try:
        why = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(why, str) and bool(why) and "\n" not in why
