"""What every test of an integration stands on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.yolo import draw_squares


@pytest.fixture(scope="package", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """ultralytics with settings of its own, no network and no installing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("YOLO_OFFLINE", "true")
        patch.setenv("YOLO_AUTOINSTALL", "false")
        yield


@pytest.fixture(scope="package")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's file."""
    return draw_squares(tmp_path_factory.mktemp("squares"))
