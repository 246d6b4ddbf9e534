"""A service as a user starts it, and a client that may send anything."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.processes import PATIENCE, Forked, command

BOUNDARY = b"--boundary-of-the-tests"
FORM = f"multipart/form-data; boundary={BOUNDARY[2:].decode()}"


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Served(NamedTuple):
    """A service that runs."""

    process: Forked
    port: int

    def connect(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def get(self, path: str) -> Answer:
        """What a path gives."""
        return self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())

    def post(self, body: bytes, kind: str = FORM, path: str = "/predict", more: str = "") -> Answer:
        """What a body gives."""
        return self.send(posted(body, kind, path, more))

    def send(self, content: bytes) -> Answer:
        """What the bytes of a request give."""
        with self.connect() as connection:
            connection.sendall(content)
            return answer(connection)


def posted(body: bytes, kind: str = FORM, path: str = "/predict", more: str = "") -> bytes:
    """A request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def form(*files: tuple[str, bytes], field: str = "file") -> bytes:
    """Files as a browser sends them."""
    parts = [
        BOUNDARY + f'\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + content
        for name, content in files
    ]
    return b"\r\n".join([*parts, BOUNDARY + b"--\r\n"])


def answer(connection: socket.socket) -> Answer:
    """Reads an answer to its end."""
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    headers = {}
    while line := file.readline().strip().decode():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(status, headers, file.read(int(headers["content-length"])))


@contextmanager
def serving(source: Path, *options: str) -> Iterator[Served]:
    """`acmix serve` on a port that is free, until the block ends."""
    process = command("serve", source, "--port", "0", *options)
    place = process.folder / "0.out"
    found: list[str] = []

    def is_ready() -> bool:
        found[:] = re.findall(r"at http://127\.0\.0\.1:(\d+);", place.read_text()) if place.exists() else []
        return bool(found)

    process.wait_for(is_ready)
    try:
        yield Served(process, int(found[0]))
    finally:
        if process.is_alive():
            process.signal(15)
            time.sleep(0.05)
            process.signal(15)
        if process.folder.exists():
            process.finish()
