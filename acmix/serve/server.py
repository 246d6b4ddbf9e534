"""uvicorn, with our connections and our way to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from acmix.serve.app import application
from acmix.serve.protocol import protocol
from acmix.serve.service import Service
from acmix.serve.stop import Stop

if TYPE_CHECKING:
    import uvicorn

# seconds between the end of listening and the end of connections, in which what was sent before is read
LAST_READS = 0.2
# seconds beyond the longest request, after which connections that are left are broken off
LAST_WRITES = 5.0


def run(
    service: Service, listening: socket.socket, on_ready: Callable[[], object], on_stop: Callable[[str], object]
) -> None:
    """Serves until a signal, and returns once everything that was taken is answered."""
    import uvicorn

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

    def begin_to_stop() -> None:
        # whoever asks is told to send requests elsewhere
        service.is_stopping = guard.is_closing = True

    stop = Stop(begin_to_stop)
    stopping_server(config, service, stop, on_ready, on_stop).run(sockets=[listening])


def stopping_server(
    config: uvicorn.Config,
    service: Service,
    stop: Stop,
    on_ready: Callable[[], object],
    on_stop: Callable[[str], object],
) -> uvicorn.Server:
    """A server that stops in three steps: not ready but serving, no longer listening, then without connections."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
            with stop.handled():
                yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_ready()

        async def on_tick(self, counter: int) -> bool:
            if stop.time and time.monotonic() - stop.time >= service.options.drain:
                self.should_exit = True
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            pending = service.pending + service.coming
            on_stop(f"stopping: {pending} image{'s' * (pending != 1)} to be answered" if pending else "stopping")
            for each in self.servers:
                each.close()
            await asyncio.sleep(LAST_READS)
            end = asyncio.get_running_loop().call_later(service.options.timeout + LAST_WRITES, self.break_off)
            await super().shutdown(sockets)
            end.cancel()

        def break_off(self) -> None:
            """Ends connections whose clients do not take their answers."""
            for each in list(self.server_state.connections):
                each.transport.abort()

    return Server(config)
