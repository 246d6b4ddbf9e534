"""last.pt is looked through before a run goes on from it: an entry of another type, or a moment of another shape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acmix.errors import UsageError
from acmix.train.checkpoint import DIGEST, restore_model, save
from acmix.train.loop import train
from tests.support.tiny import last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")
Change = Callable[[dict[str, Any]], Any]


def entry(*path: Any, value: Any) -> Change:
    """Sets an entry of a checkpoint."""

    def change(saved: dict[str, Any]) -> None:
        place: Any = saved
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def written(saved: dict[str, Any], change: Change, folder: Path) -> Path:
    """A checkpoint by hand, with a digest that is right."""
    changed = copy.deepcopy(saved)
    change(changed)
    file = folder / "checkpoints" / "last.pt"
    file.parent.mkdir(parents=True)
    save(file, {key: value for key, value in changed.items() if key not in (DIGEST, "format", "version")})
    return file


# entries of other names that are refused as those below
MORE: list[tuple[Change, str]] = [
    (entry("epochs_ended", value=1.5), "epochs_ended is not"),
    (entry("optimizer", "param_groups", 0, "lr", value="fast"), "optimizer.param_groups.0.lr"),
    (entry("optimizer", "param_groups", 0, "params", value=3), "optimizer.param_groups.0.params is not"),
    (entry("optimizer", "state", 0, "step", value=torch.tensor(3)), "step of parameter 0 is int64 (), and"),
    (entry("scaler", value={"scale": "big"}), "scaler.scale is not"),
    (entry("average", value=[1]), "average is not"),
    (entry("best", value=None), "best is not"),
    (entry("meter", "steps", value="many"), "meter.steps is not"),
    (entry("unreadable", value={"train": "a.png"}), "unreadable.train is not"),
    (entry("unreadable_of", value={"train": None}), "unreadable_of.train is not"),
    (entry("steps_per_epoch", value=0), "steps_per_epoch is not"),
    (entry("global_batch_size", value=None), "global_batch_size is not"),
    (entry("processes", value="two"), "processes is not"),
    (entry("trained", value=7), "trained is not"),
    (entry("metrics", value=[]), "metrics is not"),
    (entry("classes", value={}), "classes is not"),
    (entry("config", value="none"), "config is not"),
    (entry("model", value=torch.zeros(1)), "model is not"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (entry("step", value="5"), "step is not as acmix writes it (input should be a valid integer)"),
        (entry("step", value=-1), "step is not as acmix writes it (input should be greater than"),
        (entry("optimizer", value=[]), "optimizer is not"),
        (entry("optimizer", "state", value=None), "optimizer.state is not"),
        (entry("optimizer", "param_groups", 0, "params", 0, value=10**6), "are not numbered from 0 on"),
        (entry("optimizer", "state", 99, value={}), "the optimizer has no parameter 99"),
        (entry("optimizer", "state", 0, "exp_avg", value=torch.zeros(3)), "exp_avg of parameter 0 is float32 (3,), "),
        (entry("optimizer", "state", 0, "exp_avg_sq", value=1.0), "exp_avg_sq of parameter 0 is no tensor, but float"),
        (lambda saved: saved["optimizer"]["state"][0].pop("exp_avg"), "exp_avg of parameter 0 is missing"),
        (entry("average", value={}), "holds the weights of another model"),
        (entry("meter", "loss_sum", value=float("nan")), "meter.loss_sum is not"),
        (lambda saved: saved.pop("meter"), "holds only weights, without meter"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE),
    ],
)  # fmt: skip
def test_an_entry_by_hand_is_refused_in_a_line_and_the_file_is_kept(
    forty: Path, whole: Path, tmp_path: Path, change: Change, said: str
) -> None:
    file = written(last(whole), change, tmp_path)
    before = file.read_bytes()
    with pytest.raises(UsageError) as error:
        train(tiny_config(forty, "train.epochs=4"), tmp_path)
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == before


def test_what_is_left_as_it_was_goes_on(forty: Path, whole: Path, tmp_path: Path) -> None:
    written(last(whole), lambda saved: None, tmp_path)
    assert train(tiny_config(forty, "train.epochs=4"), tmp_path)["epochs"] == 4


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sgd", marks=pytest.mark.slow),
        "lion",
        pytest.param("adafactor", marks=pytest.mark.slow),
        pytest.param("lamb", marks=pytest.mark.slow),
        pytest.param("rmsprop", marks=pytest.mark.slow),
    ],
)
def test_other_optimizers_go_on_too(forty: Path, tmp_path: Path, name: str) -> None:
    for epochs in (1, 2):
        config = tiny_config(forty, f"train.epochs={epochs}", f"optimizer.name={name}")
        assert train(config, tmp_path)["epochs"] == epochs


@pytest.mark.parametrize("made", [torch.eye(3).to_sparse(), torch.zeros(1).expand(3)], ids=["sparse", "repeated"])
def test_weights_that_are_no_plain_tensors_are_refused_without_a_digest_too(
    whole: Path, tmp_path: Path, made: torch.Tensor
) -> None:
    saved = last(whole)
    del saved[DIGEST]
    saved["average"] = None
    saved["model"]["head.fc.bias"] = made
    torch.save(saved, tmp_path / "by_hand.pt")
    with pytest.raises(UsageError, match="1 no plain tensors"):
        restore_model(tmp_path / "by_hand.pt")
