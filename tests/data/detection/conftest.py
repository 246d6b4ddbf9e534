"""What several tests of a detector's data stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.coco import make_split


@pytest.fixture(scope="package")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    make_split(root, "train", 23)
    make_split(root, "val", 5)
    return root
