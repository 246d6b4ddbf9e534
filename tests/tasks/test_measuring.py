"""Processes put together what each of them measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

from acmix.errors import UsageError
from acmix.tasks import measuring as module
from acmix.tasks.measuring import by_first, gathered, measuring, processes, told_to_all
from tests.support.processes import Forked


def test_a_process_alone_needs_no_group() -> None:
    assert processes() == 1
    assert gathered([1, 2]) == [1, 2]
    assert told_to_all("x") == ["x"]
    assert by_first(lambda: 3) == 3


@pytest.mark.parametrize("training", [False, True])
def test_a_model_s_mode_is_put_back_after_an_error(training: bool) -> None:
    model = nn.Dropout().train(training)

    def fail() -> None:
        with measuring(model):
            assert not model.training
            raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        fail()
    assert model.training == training


def of_a_process(folder: str) -> None:
    """Says what it was given by each."""
    dist.init_process_group("gloo")
    module.CHUNK = 2
    rank, said = dist.get_rank(), ""

    def fail() -> int:
        raise UsageError(f"met by {rank}")

    try:
        by_first(fail)
    except UsageError as error:
        said = str(error)
    group = dist.new_group([0, 1], backend="gloo")
    told: list[Any] = [
        gathered([f"{rank}.{number}" for number in range(5 * rank)], group),
        gathered([]),
        told_to_all(rank, group),
        by_first(lambda: f"of {rank}"),
        said,
    ]
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


@pytest.mark.slow
def test_items_arrive_at_the_first_and_results_and_errors_at_all(tmp_path: Path) -> None:
    ends = Forked(of_a_process, str(tmp_path), processes=2).finish()
    assert [(end.status, end.errors) for end in ends] == [(0, "")] * 2
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    rest = [[], [0, 1], "of 0", "met by 0"]
    assert first == [["1.0", "1.1", "1.2", "1.3", "1.4"], *rest]
    assert second == [[], *rest]
