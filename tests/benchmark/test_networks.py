"""Models alone and beside peers: one measurement, checked before it is timed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

import acmix
from acmix import ops
from acmix.benchmark import command, where
from acmix.benchmark.checks import faults
from acmix.benchmark.machine import Ceilings
from acmix.benchmark.networks import benchmark_networks
from acmix.benchmark.steps import Contestant, Setting, runner
from acmix.errors import UsageError
from acmix.tasks import Classification

CPU = torch.device("cpu")
CEILINGS = Ceilings({"fp32": 1e11, "bf16": 1e11}, 1e10)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "peers"), [("infer", ["timm", "plain", "reference"]), ("train", ["reference"])])
def test_a_model_is_measured_beside_its_peers(phase: str, peers: list[str]) -> None:
    found = benchmark_networks(
        ["acmix_resnet26"],
        phase=phase,
        against=peers,
        batch_size=2,
        img_size=32,
        seconds=0.0,
        device=CPU,
        ceilings=CEILINGS,
        say=len,
    )
    assert [each.wrong for each in found if each.speed is None] == []
    assert [each.peer for each in found if each.candidate == "acmix"] == peers


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["infer", "train"])
def test_with_and_without_a_peer_it_is_one_measurement(
    phase: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same batch, loss, checks, table and record; a peer adds its column."""
    fed: dict[str, list[tuple[Tensor, Tensor]]] = {"alone": [], "beside": []}
    checked: dict[str, list[str]] = {"alone": [], "beside": []}
    said: dict[str, list[str]] = {"alone": [], "beside": []}
    rows: dict[str, list[dict[str, str]]] = {}
    batch, check = Setting.batch, faults
    for form, against in (("alone", []), ("beside", ["plain"])):

        def fed_batch(self: Setting, images: int, form: str = form) -> tuple[Tensor, Tensor]:
            fed[form].append(batch(self, images))
            return fed[form][-1]

        def noted(contestant: Contestant, setting: Setting, form: str = form) -> list[str]:
            checked[form].append(contestant.name)
            return check(contestant, setting)

        monkeypatch.setattr(Setting, "batch", fed_batch)
        monkeypatch.setattr("acmix.benchmark.contestants.faults", noted)
        monkeypatch.setattr("acmix.benchmark.command.measured_ceilings", lambda *_, **__: CEILINGS)
        file = tmp_path / f"{form}.csv"
        options = dict(batch_size=2, img_size=32, seconds=1.0, against=against, csv=file, say=said[form].append)
        assert command.models(phase, ["acmix_resnet26"], **options)  # type: ignore[arg-type]
        rows[form] = list(csv.DictReader(file.open(encoding="utf-8")))
    assert fed["alone"]
    # the peer's batches come on top
    same_turns = fed["beside"][: len(fed["alone"])]
    for (alone, labels), (beside, theirs) in zip(fed["alone"], same_turns, strict=True):
        assert torch.equal(alone, beside)
        assert torch.equal(labels, theirs)
    assert [*checked["alone"], "plain"] == checked["beside"]
    tables = [[line for line in lines if line.startswith("card")] for lines in said.values()]
    assert tables[0] == tables[1]
    assert tables[0][0].split(" | ")[-2:] == ["batch_size", "Single Card"]
    assert rows["alone"][0].keys() == rows["beside"][0].keys()
    same = ("subject", "shape", "dtype", "phase", "images", "candidate", "machine", "commit")
    named = {form: {(row["dtype"], row["candidate"]): row for row in of_form} for form, of_form in rows.items()}
    # on a machine that is busy just now, the last lines may not fit into the bound any more
    measured = [line for line in named["alone"] if line in named["beside"]]
    assert ("fp32", "acmix") in measured
    for alone_row, beside_row in ((named["alone"][line], named["beside"][line]) for line in measured):
        assert [alone_row[key] for key in same] == [beside_row[key] for key in same]
        assert (alone_row["peer"], alone_row["speed_up"], beside_row["peer"]) == ("", "", "plain")
        assert float(alone_row["time_ms"]) > 0 < float(alone_row["images_per_second"])


def test_a_training_step_is_that_of_the_published_recipe() -> None:
    """Mixed images with soft labels, the recipe's loss, its clipping and optimizer; weights stay as they are."""
    setting = Setting("train", "fp32", 4, 32, CPU)
    images, labels = setting.batch(4)
    assert torch.equal(images, setting.batch(4)[0])
    assert labels.shape == (4, 1000)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    assert setting.loss()(logits, labels).item() == Classification(setting.recipe()).criterion(logits, labels).item()
    contestant = Contestant("timm", timm.create_model("test_vit", num_classes=1000, img_size=32))
    before = {name: tensor.clone() for name, tensor in contestant.model.state_dict().items()}
    run, resident_mib = runner(contestant, setting)
    run()
    assert all(torch.equal(tensor, before[name]) for name, tensor in contestant.model.state_dict().items())
    assert {value.grad for value in contestant.model.parameters()} == {None}
    bytes_held = sum(parameter.nbytes for parameter in contestant.model.parameters())
    assert resident_mib == pytest.approx(3 * bytes_held / 2**20, rel=0.01)


@pytest.mark.slow
def test_where_the_time_goes_is_told_and_drawn(tmp_path: Path) -> None:
    said: list[str] = []
    plot = tmp_path / "new" / "where.png"
    settings = dict(phase="infer", batch_size=1, img_size=32, plot=plot, device=CPU, say=said.append)
    (plain, folded) = benchmark_networks(["acmix_resnet26"], ceilings=CEILINGS, seconds=0.0, **settings)  # type: ignore[arg-type]
    assert [plain.candidate, folded.candidate] == ["acmix", "acmix folded"]
    assert plot.stat().st_size > 1000
    assert any(line.startswith("convolution path") for line in said)


@pytest.mark.slow
def test_a_model_that_computes_something_else_is_wrong() -> None:
    setting = Setting("infer", "fp32", 2, 32, CPU)
    torch.manual_seed(0)
    original, other = (acmix.create_model("acmix_resnet26", num_classes=10) for _ in range(2))
    assert faults(Contestant("same", original, original=original), setting) == []
    (fault,) = faults(Contestant("other", other, original=original), setting)
    assert fault.startswith("output is off by")


def test_an_operator_s_parts_count_as_the_operator() -> None:
    pieces, fc, kernels = torch.randn(1, 6, 6, 6, 4), torch.randn(9, 6), torch.randn(8, 9, 3, 3)
    with ops.use("reference"):
        spent = where.time_by_group(lambda: ops.conv_path(pieces, fc, None, kernels), CPU, runs=1)
    assert spent["convolution path"] > 0
    assert spent["convolutions"] == spent["matrix products"] == 0
    spent = where.time_by_group(lambda: torch.nn.functional.linear(fc, torch.eye(6)).relu(), CPU, runs=1)
    assert spent["matrix products"] > 0 < spent["activations"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(names=["resnet50"], against=["timm"]), "no model 'resnet50' in this library"),
        (dict(names=[], against=["natten"]), "no peer 'natten'; expected one of timm, plain, reference, or all"),
        (dict(names=[], against=["timm"], processes=2), "pairs are measured on one card"),
        (dict(names=[], compiled=True, processes=2), "pairs are measured on one card"),
        (dict(names=[], against=["timm"], batch_size=0), "batch size 0; expected at least one image"),
        (dict(names=[], batch_size=3), "choose an even number"),
        (dict(names=[], dtypes=["fp8"]), "--dtype fp8; there are fp32, bf16"),
        (dict(names=["no_such_model"]), "no model 'no_such_model' in this library"),
        (dict(names=["acmix_resnet26"], img_size=0), "--img-size 0; expected at least one pixel"),
    ],
    ids=str,
)
def test_options_that_cannot_be_measured_are_refused(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        command.models("train", **options)
