"""`acmix serve`: from a model and a port to an end that loses nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from acmix.errors import UsageError
from acmix.extras import install
from acmix.serve.options import Options


def serve(
    source: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    options: Options = Options(),  # noqa: B008  frozen
    device: str = "auto",
    img_size: int | None = None,
    tell: Callable[[str], object] = print,
) -> None:
    """Serves a model until a signal ends it.

    Args:
        source: as `acmix.load` takes it.
        host: the address to listen at.
        port: 0 for any that is free.
        options: limits.
        device, img_size: as `acmix.load` takes them.
        tell: gets a line for each thing that had to be assumed, one where the service is ready, and one where it stops.

    Raises:
        UsageError: a package is missing, the address is taken, or the model cannot be used.
    """
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        try:
            __import__(package)
        except ImportError:
            raise UsageError(f"acmix serve needs {package}; install it: {install('serve')}") from None
    with listener(host, port):
        # a port that is taken is told before a model is loaded; meanwhile nobody is to wait there
        pass
    service = loaded(source, options, device, img_size)
    from acmix.serve.server import run
    from acmix.tools.predict_command import said_of

    for line in said_of(service.info):
        tell(line)

    count = len(service.info.classes)
    what = f"{service.info.model} ({service.info.task}, {count} class{'es' * (count != 1)})"
    try:
        with listener(host, port) as listening:
            where = address(listening)
            run(service, listening, lambda: tell(f"serving {what} at {where}; Ctrl-C stops"), tell)
    finally:
        service.close()


def loaded(source: str, options: Options, device: str, img_size: int | None) -> Any:
    """The service of a model that has computed its first image."""
    from PIL import Image

    from acmix.serve.service import Service
    from acmix.tools.load import load

    # of damaged forms, which are answered
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    # of this process alone; Python's filters belong to all threads
    warnings.simplefilter("ignore")
    # pictures within pictures, as in icons; Pillow refuses twice as many
    Image.MAX_IMAGE_PIXELS = max(1, options.max_pixels // 2)
    model, info = load(source, device=device, img_size=img_size)
    service = Service(model, info, options)
    service.warm_up()
    return service


@contextlib.contextmanager
def listener(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens.

    Raises:
        UsageError: it cannot.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: {getattr(error, 'strerror', None) or error}; expected an address") from None
    with found:
        try:
            # elsewhere it would let two processes listen at one port
            if os.name == "posix":
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(place)
            found.listen(2048)
        except OSError as error:
            raise UsageError(
                f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port, or 0 for any"
            ) from None
        yield found


def address(listening: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
