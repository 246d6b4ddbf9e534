"""What stands before every request: limits of bytes and time, counters, headers of safety, and no traceback behind.

Bytes are counted as they arrive, with or without a `content-length`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from acmix.serve.metrics import Metrics
from acmix.serve.options import MIB, Options
from acmix.serve.refused import GONE, Refused, one_line

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/", "/predict", "/attention", "/paths", "/labels", "/health", "/ready", "/metrics", "/openapi.json")
SAFE = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """An application behind its limits.

    Args:
        app: an ASGI application.
        options: its limits.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, options: Options, metrics: Metrics) -> None:
        self.app, self.options, self.metrics = app, options, metrics
        # bytes of all bodies that have arrived and not been answered
        self.held = 0
        # whether connections are to be closed behind their answers
        self.is_closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await Exchange(self, scope, receive, send).run()

    def hold(self, size: int) -> None:
        """Counts bytes that are held; fewer where `size` is negative.

        Raises:
            Refused: all requests together hold too many.
        """
        self.held += size
        self.metrics.held.set(self.held)
        if size > 0 and self.held > self.options.max_held:
            raise Refused(429, "the service holds as many uploads as it can; try again", retry_after=1)


class Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self.ask, self.tell = guard, scope, receive, send
        self.begun, self.size, self.status = time.monotonic(), 0, 0
        self.has_arrived = not has_body(scope)
        names = {name for name, _ in scope["headers"]}
        # a proxy may have read another end of the body, and what follows is then no request of its client
        self.is_ambiguous = {b"content-length", b"transfer-encoding"} <= names

    async def run(self) -> None:
        """Has the application answer, or says why there is no answer."""
        options = self.guard.options
        task = asyncio.ensure_future(self.guarded())
        try:
            await asyncio.wait({task}, timeout=options.timeout)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)
                status = 503 if self.has_arrived else 408
                why = f"no answer within {options.timeout:g} s; send fewer or smaller images, or try again"
                await self.refuse(Refused(status, why, retry_after=1))
            elif not task.cancelled() and (error := task.exception()) is not None:
                await self.refuse(self.of(error))
        finally:
            task.cancel()
            self.guard.hold(-self.size)
            path = self.scope["path"] if self.scope["path"] in PATHS else "other"
            metrics = self.guard.metrics
            metrics.requests.labels(path, str(self.status or GONE)).inc()
            metrics.seconds.labels(path).observe(time.monotonic() - self.begun)

    async def guarded(self) -> None:
        """The application, if the head of the request does not say already that it asks too much."""
        from starlette.datastructures import Headers

        headers = Headers(scope=self.scope)
        if self.is_ambiguous:
            raise Refused(400, "the request has both a content-length and a transfer-encoding; send one of them")
        said = headers.get("content-length", "0")
        if said.isascii() and said.isdigit() and int(said) > self.guard.options.max_bytes:
            raise self.too_large()
        await self.guard.app(self.scope, self.receive, self.send)

    def of(self, error: BaseException) -> Refused:
        """What is answered where the application failed: a line for the client, and one for the log."""
        if isinstance(error, Refused):
            return error
        print(f"acmix: error: {self.scope['path']}: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
        return Refused(503, "the service could not answer this request; its log says why")

    async def receive(self) -> Message:
        """The next part of the body, which has to arrive in time."""
        if self.has_arrived:
            return await self.ask()
        options = self.guard.options
        longest = min(options.upload_timeout, options.timeout)
        left = self.begun + longest - time.monotonic()
        try:
            message = await asyncio.wait_for(self.ask(), max(left, 0.001))
        except asyncio.TimeoutError:
            why = f"the upload took more than {longest:g} s; send a smaller image, or try again"
            raise Refused(408, why) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.size += size
            if self.size > options.max_bytes:
                self.size -= size
                raise self.too_large()
            self.guard.hold(size)
            self.has_arrived = not message.get("more_body", False)
        return message

    def too_large(self) -> Refused:
        """Of a body beyond the limit."""
        most = self.guard.options.max_bytes / MIB
        return Refused(413, f"the request is larger than {most:g} MiB; send smaller images, or fewer")

    async def send(self, message: Message) -> None:
        """Notes the status, and adds the headers that every answer has."""
        from starlette.datastructures import MutableHeaders

        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SAFE.items():
                headers.setdefault(name, value)
            if self.guard.is_closing or self.is_ambiguous:
                headers["connection"] = "close"
        await self.tell(message)

    async def refuse(self, refused: Refused) -> None:
        """Answers with a reason, unless an answer has begun."""
        if not self.status:

            async def nothing() -> Any:
                return {"type": "http.disconnect"}

            with contextlib.suppress(asyncio.TimeoutError):
                answer = refused.response()(self.scope, nothing, self.send)
                await asyncio.wait_for(answer, self.guard.options.upload_timeout)


def has_body(scope: Scope) -> bool:
    """Whether the head of a request tells of a body."""
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""
