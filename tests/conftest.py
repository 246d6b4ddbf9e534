"""What every test stands on: one thread a process, marks, and fixtures that several folders use."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that is not `slow` as `fast`; `all` are both."""
    for item in items:
        item.add_marker("all")
        if item.get_closest_marker("slow") is None:
            item.add_marker("fast")


def pytest_collection_finish() -> None:
    """Leaves what was imported and collected out of Python's collections: benchmarks ask for one a round."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Gives it back: some libraries name on standard error what they find at the end."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_reader_is_left() -> Iterator[None]:
    """Ends the reading processes of a test with it: others would count them."""
    before = readers()
    yield
    if readers() - before:
        # an exception that came from a reader holds, in a circle, the loader that it ended
        gc.collect()
    assert not readers() - before


def readers() -> set[Any]:
    """Reading processes of this one; a process that runs a command is none."""
    return {each for each in multiprocessing.active_children() if each.daemon}


@pytest.fixture
def empty_is_nan() -> Iterator[None]:
    """Fills what `torch.empty` and its like return with NaN, so that an element a kernel forgets fails the test."""
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    settings.fill_uninitialized_memory = before[1]


@pytest.fixture
def acmix(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the entry point: status, standard output, standard error."""

    from acmix import cli

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["acmix", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        code = end.value.code
        output, errors = capfd.readouterr()
        return 0 if code is None else int(code), output, errors

    return call


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 training images in four classes, and 12 to validate on."""
    from tests.support.images import make_image_folder

    root = tmp_path_factory.mktemp("train")
    return make_image_folder(root / "images", classes=4, train_per_class=4, val_per_class=3, size=40)
