"""uvicorn, with our connections and our way to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn

from acmix.serve.app import application
from acmix.serve.command import LAST_READS, Stop
from acmix.serve.guard import Guard
from acmix.serve.protocol import protocol
from acmix.serve.service import Service


class Server(uvicorn.Server):
    """Stops in three steps: not ready but serving, no longer listening, then without connections."""

    def __init__(self, config: uvicorn.Config, service: Service, guard: Guard) -> None:
        super().__init__(config)
        self.service, self.guard = service, guard
        self.stop = Stop(self.begin_to_stop)
        self.on_ready: Callable[[], object] = lambda: None
        self.on_stop: Callable[[str], object] = lambda line: None

    def begin_to_stop(self) -> None:
        """Tells whoever asks that requests are to be sent elsewhere."""
        self.service.is_stopping = self.guard.is_closing = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        with self.stop.handled():
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()

    async def on_tick(self, counter: int) -> bool:
        drain = self.service.options.drain
        if self.stop.time and time.monotonic() - self.stop.time >= drain:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        pending = self.service.pending + self.service.coming
        self.on_stop(f"stopping: {pending} image{'s' * (pending != 1)} to be answered" if pending else "stopping")
        for each in self.servers:
            each.close()
        await asyncio.sleep(LAST_READS)
        await super().shutdown(sockets)


def run(
    service: Service, listening: socket.socket, on_ready: Callable[[], object], on_stop: Callable[[str], object]
) -> None:
    """Serves until a signal, and returns once everything that was taken is answered."""
    guard = application(service)
    config = uvicorn.Config(
        guard,
        http=protocol(service.options, service.metrics),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=16 * 1024,
    )
    server = Server(config, service, guard)
    server.on_ready, server.on_stop = on_ready, on_stop
    server.run(sockets=[listening])
