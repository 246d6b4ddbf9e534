"""What is answered in place of a result: a status, and why, in one line of JSON."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from acmix.names import shortened, shown, to_json

if TYPE_CHECKING:
    from starlette.responses import Response

# characters of a reason
LONGEST = 500
# of a client that went away, as nginx counts it; never sent
GONE = 499


class Refused(Exception):
    """A request that gets no result.

    Args:
        status: of HTTP.
        why: what was wrong, what was expected and what to do next.
        retry_after: seconds after which it may be sent again; None where that would not help.
    """

    def __init__(self, status: int, why: str, retry_after: int | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.retry_after = status, why, retry_after

    def response(self) -> Response:
        """The answer."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return as_json({"error": one_line(self.why)}, self.status, headers)

    def raw(self) -> bytes:
        """The answer for a connection on which no request has arrived as a whole; it is closed behind it."""
        body = to_json({"error": one_line(self.why)}).encode()
        head = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *([] if self.retry_after is None else [f"retry-after: {self.retry_after}"]),
        ]
        return "\r\n".join([*head, "", ""]).encode() + body


def one_line(text: object) -> str:
    """A reason that can be shown."""
    return shown(shortened(str(text), LONGEST))


def as_json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON, as `acmix predict --json` writes it."""
    from starlette.responses import Response

    return Response(to_json(value), status, headers, "application/json")
