"""Small folders of shards, and a server of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from acmix.config import Config, Data, validate
from acmix.data import train_loader
from acmix.tools.shard import shard


def config(place: str | Path, **data: Any) -> Config:
    """A run that reads shards of two classes."""
    return validate(
        {
            "model": {"num_classes": 2},
            "data": {"dir": str(place), "img_size": 16, "workers": 0, "shuffle_shards": 1, **data},
            "augment": {"mixup": 0, "cutmix": 0},
            "train": {"batch_size": 4},
        }
    )


def images(settings: Config) -> torch.Tensor:
    """The images of its first epoch, (n, 3, H, W)."""
    return torch.cat([batch.images for batch in train_loader(settings).epoch(0)])


def write_shards(source: Path, destination: Path, *, samples: int = 5, **options: Any) -> Path:
    """Shards of a folder's images; returns their folder."""
    options.setdefault("workers", 0)
    list(shard(Data(dir=str(source)), destination, samples=samples, **options))
    return destination


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder; `before` may answer a request itself, and then returns True."""

    before: Callable[[Any], object] = staticmethod(lambda request: False)

    def do_GET(self) -> None:
        if not type(self).before(self):
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path, before: Callable[[Any], object] = lambda request: False) -> Iterator[str]:
    """The URL of a folder."""
    handler = type("Handler", (Quiet,), {"before": staticmethod(before)})
    server = ThreadingHTTPServer(("localhost", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
