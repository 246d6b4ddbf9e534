"""A file at a URL: opened, or a line on why not.

`http://` and `https://` are read by Python itself, every other scheme by fsspec and its packages.
"""

from __future__ import annotations

import base64
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from acmix.errors import UsageError
from acmix.extras import install
from acmix.names import shortened, without_secrets

# seconds without an answer, and bytes a second below which a server is as good as gone
PATIENCE, SLOWEST = 60.0, 1024
PIECE = 2**20
# answers of a server that may be others a moment later, and of one that wants to know who asks
PASSING, WHO_ASKS = (408, 425, 429, 500, 502, 503, 504), (401, 403)
# what the packages behind fsspec's schemes raise that is none of Python's own errors: a module, and a class in it
OF_PACKAGES = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
    ("paramiko", "SSHException"),
    ("ftplib", "Error"),
    # before Python 3.11 it is none of OSError's
    ("asyncio", "TimeoutError"),
)
# most characters of what a package says
LONGEST = 400


class CannotFetch(UsageError):
    """A shard cannot be had: the run ends, as the images in it are not unreadable."""

    def __init__(self, message: str) -> None:
        # from a reading process it comes with that process's traceback before it
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class Passing(Exception):
    """What may go well a moment later."""


class OfTheCache(Exception):
    """Carries an OSError of the cache past those of the server."""


def joined(url: str, name: str) -> str:
    """The address of a file in a folder; a query stays at the end."""
    if is_http(url):
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{name}", parts.query, ""))
    return f"{url.rstrip('/')}/{name}"


def is_http(url: str) -> bool:
    """Whether Python itself reads it."""
    return urlsplit(url).scheme in ("http", "https")


def check_address(url: str) -> None:
    """Refuses what is no address of a folder.

    Raises:
        UsageError: says what is wrong with it.
    """
    shown = without_secrets(url)
    if not url.lower().startswith(("http:", "https:")):
        if "::" in url:
            raise UsageError(
                f"data.dir={shown} is a chain of addresses; expected a single one, such as s3://bucket/shards"
            )
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://.", url):
            raise UsageError(f"data.dir={shown} is no address; expected one such as s3://bucket/shards")
        return
    try:
        parts = urlsplit(url)
        # computed, and checked, where it is asked for
        is_whole = parts.hostname and parts.port != 0
    except ValueError as error:
        raise UsageError(f"data.dir={shown} is no address: {error}; expected https://HOST/FOLDER") from None
    if not is_whole:
        raise UsageError(f"data.dir={shown} names no server; expected https://HOST/FOLDER")


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """Opens a file at a URL.

    Raises:
        CannotFetch: it cannot be had, and no later try will change that.
        Passing: another try may.
    """
    shown = without_secrets(url)
    try:
        with stream(url) as file:
            yield file
    except (UsageError, Passing, OfTheCache):
        raise
    except urllib.error.HTTPError as error:
        raise of_status(shown, error.code) from None
    except FileNotFoundError:
        raise CannotFetch(f"there is no {shown}; check the address") from None
    except PermissionError as error:
        raise CannotFetch(f"cannot fetch {shown}: {error}; check the credentials") from None
    except ImportError as error:
        # fsspec says which package a scheme needs
        raise CannotFetch(f"cannot fetch {shown}: {error}; run {install('remote')}") from None
    except (ValueError, http.client.InvalidURL) as error:
        raise CannotFetch(f"cannot fetch {shown}: {in_a_line(error)}; check the address") from None
    except errors_of_reading() as error:
        raise Passing(in_a_line(error)) from None


def errors_of_reading() -> tuple[type[Exception], ...]:
    """What a server's trouble may raise, and a package that was asked in a way it does not understand."""
    of_packages = [getattr(sys.modules[name], kind) for name, kind in OF_PACKAGES if name in sys.modules]
    of_python = (OSError, EOFError, RuntimeError, TypeError, AttributeError, LookupError, AssertionError)
    return (*of_python, http.client.HTTPException, *of_packages)


def of_status(shown: str, status: int) -> Exception:
    """What an answer other than the file means."""
    if status in PASSING:
        return Passing(f"HTTP status {status}")
    what = f"cannot fetch {shown}: HTTP status {status}"
    if status in WHO_ASKS:
        return CannotFetch(f"{what}; check the credentials, of which a run keeps none: give the whole address again")
    if 300 <= status < 400:
        return CannotFetch(f"{what}, which leads to an address that is not followed; give that of the files themselves")
    return CannotFetch(f"{what}; check the address")


def in_a_line(error: Exception) -> str:
    """What an error says, without its class where it says something."""
    why = error.reason if isinstance(error, urllib.error.URLError) else error
    said = getattr(why, "strerror", None) or str(why)
    return shortened(" ".join(str(said).split()), LONGEST) or type(error).__name__


def stream(url: str) -> Any:
    """An open file, as a context."""
    if is_http(url):
        return urllib.request.build_opener(Redirects).open(request(url), timeout=PATIENCE)
    try:
        import fsspec
    except ImportError:
        raise CannotFetch(f"{without_secrets(url)} needs the package fsspec; run {install('remote')}") from None
    return fsspec.open(url, "rb")


def request(url: str) -> urllib.request.Request:
    """The request for a file: a user and a password go to the server that they are for, in a line of their own."""
    parts = urlsplit(url)
    who, _, server = parts.netloc.rpartition("@")
    # what is quoted already stays so
    path, query = (quote(part, safe="%/:@!$&'()*+,;=~?") for part in (parts.path, parts.query))
    asked = urllib.request.Request(urlunsplit((parts.scheme, server, path, query, "")))
    if who:
        user, _, password = who.partition(":")
        pair = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        asked.add_unredirected_header("Authorization", f"Basic {pair}")
    return asked


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to other addresses of http and https, but never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The next request, or HTTPError."""
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def pieces(file: IO[bytes], most: int) -> Iterator[bytes]:
    """The first bytes of an open file, `most` at most.

    Raises:
        Passing: it ends before the server said it would, or comes so slowly that it may never end.
    """
    # of a server, as much as has come
    read = getattr(file, "read1", file.read)
    began, left = time.monotonic(), most
    while left and (piece := read(min(PIECE, left))):
        yield piece
        left -= len(piece)
        passed = time.monotonic() - began
        if passed > PATIENCE and (most - left) / passed < SLOWEST:
            raise Passing(f"{most - left} bytes came in {passed:.0f} s")
    # what http.client still waits for
    missing = getattr(file, "length", None)
    if left and isinstance(missing, int) and missing > 0:
        raise Passing(f"it ended {missing} bytes before it should have")
