"""A connection that waits for no client: half a request line is answered with 408, nonsense with 400, both in JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from acmix.serve.metrics import Metrics
from acmix.serve.options import Options
from acmix.serve.refused import Refused

# seconds that a client may go on sending what was refused, so that it comes to read why
LINGER = 5.0


def protocol(options: Options, metrics: Metrics) -> type[H11Protocol]:
    """The connections of a service, for uvicorn."""

    class Connection(H11Protocol):
        timer: asyncio.TimerHandle | None = None
        is_half = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > options.connections:
                self.refuse(Refused(429, "too many connections are open; try again", retry_after=1))
                return
            self.set_timer(options.upload_timeout, self.give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self.unset_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            was_half, self.is_half = self.is_half, self.conn.their_state is h11.IDLE
            if self.is_half and not was_half:
                self.set_timer(options.upload_timeout, self.give_up)
            elif was_half and not self.is_half:
                self.unset_timer()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.unset_timer()
            if self.conn.their_state is h11.SEND_BODY:
                self.set_timer(LINGER, self.transport.close)

        def send_400_response(self, msg: str) -> None:
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete:
                has_begun = cycle.response_started
                cycle.disconnected = True
                cycle.message_event.set()
                if has_begun:
                    self.transport.close()
                    return
            self.refuse(Refused(400, "this is no request of HTTP/1.1; see docs/serve.md"))

        def give_up(self) -> None:
            """Ends a connection whose request does not come to its body."""
            if not self.is_half:
                # nothing was said at all: a browser that connects ahead
                self.transport.close()
                return
            self.refuse(Refused(408, f"no whole request came within {options.upload_timeout:g} s; try again"))

        def refuse(self, refused: Refused) -> None:
            """Answers outside of any request, and hangs up."""
            if self.transport.is_closing():
                return
            metrics.requests.labels("other", str(refused.status)).inc()
            self.transport.write(refused.raw())
            self.transport.close()

        def set_timer(self, seconds: float, call: Any) -> None:
            """Calls after so many seconds; what was to be called before is not."""
            self.unset_timer()
            self.timer = self.loop.call_later(seconds, call)

        def unset_timer(self) -> None:
            """Calls nothing."""
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return Connection
