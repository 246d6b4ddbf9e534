"""A connection that waits for no client: half a request line is answered with 408, nonsense with 400, both in JSON.

An answer that the client does not take in time ends the connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from acmix.serve.metrics import Metrics
from acmix.serve.options import Options
from acmix.serve.refused import Refused

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

# seconds that a client may go on sending what was refused, so that it comes to read why
LINGER = 5.0


def protocol(options: Options, metrics: Metrics) -> type[H11Protocol]:
    """The connections of a service, for uvicorn."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        # what ends a connection whose request has no whole head, and one that goes on sending what was answered
        of_head: asyncio.TimerHandle | None = None
        of_rest: asyncio.TimerHandle | None = None
        # what ends one whose answer is not taken
        of_answer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # writing is paused whenever a byte waits for the client, also while the connection is being closed
            transport.set_write_buffer_limits(high=0)
            if len(self.connections) > options.connections:
                self.refuse(Refused(429, "too many connections are open; try again", retry_after=1))
                return
            self.of_head = self.loop.call_later(options.upload_timeout, self.give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self.of_head, self.of_rest, self.of_answer):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.of_answer = self.loop.call_later(options.upload_timeout, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.of_answer is not None:
                self.of_answer.cancel()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self.of_rest is not None and not self.has_rest():
                self.of_rest.cancel()
                self.of_rest = None
            if self.conn.their_state is not h11.IDLE:
                if self.of_head is not None:
                    self.of_head.cancel()
                    self.of_head = None
            elif self.of_head is None:
                self.of_head = self.loop.call_later(options.upload_timeout, self.give_up)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.of_rest is None and self.has_rest():
                self.of_rest = self.loop.call_later(LINGER, self.transport.close)

        def has_rest(self) -> bool:
            """Whether a body that was answered already is still on its way."""
            return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

        def send_400_response(self, msg: str) -> None:
            cycle = self.cycle
            is_running = cycle is not None and not cycle.response_complete
            if is_running:
                has_begun = cycle.response_started
                cycle.disconnected = True
                cycle.message_event.set()
                if has_begun:
                    self.transport.close()
                    return
            # a request that runs is counted where it ends
            why = "this is no request of HTTP/1.1, or its head is too long"
            self.refuse(Refused(400, why), is_counted=not is_running)

        def give_up(self) -> None:
            """Ends a connection on which no whole head of a request has come."""
            if self.conn.trailing_data[0]:
                self.refuse(Refused(408, f"no whole request came within {options.upload_timeout:g} s; try again"))
            elif not self.transport.is_closing():
                # nothing was said: a browser that connects ahead
                self.transport.close()

        def refuse(self, refused: Refused, *, is_counted: bool = True) -> None:
            """Answers outside of any request, and hangs up."""
            if self.transport.is_closing():
                return
            if is_counted:
                metrics.requests.labels("other", str(refused.status)).inc()
            self.transport.write(refused.raw())
            self.transport.close()

    return Connection
