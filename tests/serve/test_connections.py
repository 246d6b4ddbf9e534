"""Connections and the guard before an application, without a model: over sockets, in one process."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from acmix.serve import protocol as connections
from acmix.serve.guard import Guard
from acmix.serve.metrics import Metrics
from acmix.serve.options import Options
from acmix.serve.refused import GONE, Refused

POST = b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"
GET = b"GET /labels HTTP/1.1\r\nHost: test\r\n\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers a POST with its body; /labels is late, /paths is large, and /attention is refused unread."""
    if scope["path"] == "/labels":
        await asyncio.sleep(60)
    if scope["path"] == "/attention":
        raise Refused(404, "no attention")
    body = bytes(2**23) if scope["path"] == "/paths" else b""
    while scope["method"] == "POST":
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(GONE, "the client went away")
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def spoken(talk: Callable[[int, set[Any]], Awaitable[Any]], **options: Any) -> dict[str, float]:
    """Has a client talk to the port of an application, given also its connections; what was counted by status."""
    import uvicorn
    from uvicorn.server import ServerState

    metrics, limits = Metrics(), Options(**options)
    config = uvicorn.Config(Guard(application, limits, metrics), ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    made = connections.protocol(limits, metrics)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: made(config, state, {}), "127.0.0.1", 0)
        try:
            await asyncio.wait_for(talk(server.sockets[0].getsockname()[1], state.connections), 10)
            while state.connections or state.tasks:
                await asyncio.sleep(0.01)
        finally:
            server.close()

    asyncio.run(run())
    [family] = [each for each in metrics.requests.collect()]
    return {each.labels["status"]: each.value for each in family.samples if each.name.endswith("_total")}


async def status_of(reader: asyncio.StreamReader) -> int:
    """Reads an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    await reader.readexactly(int(length.partition(b":")[2]))
    return int(head.split()[1])


@pytest.mark.parametrize(("request_", "status"), [(GET, 503), (POST, 408), (POST + bytes(10), 200)])
def test_whoever_is_late_is_named(request_: bytes, status: int) -> None:
    async def talk(port: int, _: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_)
        assert await status_of(reader) == status
        writer.close()

    assert spoken(talk, timeout=0.1) == {str(status): 1}


def test_a_connection_goes_on_once_the_rest_of_what_was_refused_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER", 0.1)

    async def talk(port: int, _: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST.replace(b"/predict", b"/attention") + bytes(5))
        assert await status_of(reader) == 404
        writer.write(bytes(5) + POST + bytes(5))
        await asyncio.sleep(0.3)
        writer.write(bytes(5))
        assert await status_of(reader) == 200
        # and ends where the rest does not come
        writer.write(POST.replace(b"/predict", b"/attention") + bytes(5))
        assert await status_of(reader) == 404
        assert await reader.read() == b""
        writer.close()

    assert spoken(talk) == {"404": 2, "200": 1}


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_an_answer_that_is_not_taken_ends_the_connection(close: bytes) -> None:
    async def talk(port: int, open_: set[Any]) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall((GET[:-2].replace(b"/labels", b"/paths") + close + b"\r\n") * 20)
            begun = time.monotonic()
            await asyncio.sleep(0.1)
            while open_:
                await asyncio.sleep(0.01)
            assert time.monotonic() - begun < 2

    spoken(talk, upload_timeout=0.3)


@pytest.mark.parametrize("sent", [POST + bytes(5), POST.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked")])
def test_a_client_that_breaks_off_is_counted_once(sent: bytes) -> None:
    async def talk(port: int, _: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await asyncio.sleep(0.05)
        if b"chunked" in sent:
            writer.write(b"no length\r\n")
            assert await status_of(reader) == 400
        writer.close()

    assert spoken(talk) == {str(GONE): 1}
