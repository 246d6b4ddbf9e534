"""A folder of shards, and a cache for those from a URL."""

from pathlib import Path

import pytest

from acmix.data.shards import remote
from tests.support.images import make_image_folder
from tests.support.shards import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    make_image_folder(root / "images", classes=2, train_per_class=8, val_per_class=3, size=24)
    return write_shards(root / "images", root / "shards", samples=4)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ACMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01))
    return tmp_path / "cache" / "shards"
