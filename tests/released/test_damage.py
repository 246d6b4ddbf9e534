"""A checkpoint that is not as it was written is refused by every way of reading it, wherever the damage is."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acmix.errors import UsageError
from acmix.released.digest import DIGEST, digest_of
from acmix.released.safe_load import safe_load
from acmix.tools.convert import convert
from acmix.train.checkpoint import save
from tests.support.paths import DATA

TOY = DATA / "official_checkpoint_toy.pth"
CONTENT: dict[str, Any] = {
    "config": {"model": {"name": "x", "args": {"depths": [2, 2]}}, "lr": 1e-3, "empty": None},
    "classes": ["a", "ü", "\udcff"],
    "model": {"weight": torch.arange(1000.0).reshape(10, 100), "half": torch.ones(7, dtype=torch.bfloat16)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.999)}]},
}


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    save(tmp_path / "last.pt", CONTENT)
    return tmp_path / "last.pt"


def rewritten(file: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Writes an archive anew, with other bytes and checksums that are right."""
    with zipfile.ZipFile(file) as archive:
        records = {each.filename: archive.read(each) for each in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


def refusal(file: Path) -> str:
    with pytest.raises(UsageError) as caught:
        safe_load(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_flipped_bit_of_a_value_is_seen(ours: Path) -> None:
    whole = ours.read_bytes()
    with zipfile.ZipFile(ours) as archive:
        places = []
        for record in archive.infolist():
            # 30 bytes and the name, and what aligns a record
            head = record.header_offset + 30 + len(record.filename)
            start = head + int.from_bytes(whole[record.header_offset + 28 : record.header_offset + 30], "little")
            places += range(start, start + record.file_size)
    draw = random.Random(0)
    for place in draw.sample(places, 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        ours.write_bytes(damaged)
        try:
            content = safe_load(ours)
        except UsageError:
            continue
        # what is not refused is the same: a record that nobody reads, or a name that means nothing
        assert digest_of(content) == content[DIGEST], place
        assert torch.equal(content["model"]["weight"], CONTENT["model"]["weight"]), place
    ours.write_bytes(whole)
    assert safe_load(ours)["classes"] == CONTENT["classes"]


@pytest.mark.parametrize("length", [0, 1, 100, 3000, -1, -30])
def test_truncations_are_seen(ours: Path, length: int) -> None:
    ours.write_bytes(ours.read_bytes()[:length])
    assert "is empty" in (said := refusal(ours)) or "is truncated" in said


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("byteorder", lambda content: b"big"),
        ("data/0", lambda content: bytes(len(content))),
        ("data.pkl", lambda content: content.replace(b"weight", b"weighs")),
    ],
)
def test_damage_with_right_checksums_is_seen(ours: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    rewritten(ours, lambda each, content: change(content) if each.endswith(f"/{name}") else content)
    assert f"{ours} is damaged" in refusal(ours)


def test_damage_in_safetensors_of_ours_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "ours.safetensors"
    convert(TOY, file)
    content = safe_load(file)
    assert content[DIGEST] == digest_of(content)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:])
    assert f"{file} is damaged" in refusal(file)
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["acmix"])
    metadata["classes"][0] = "another"
    file.write_bytes(whole)
    save_file(load_file(file), file, {"acmix": json.dumps(metadata)})
    assert f"{file} is damaged" in refusal(file)


@pytest.mark.parametrize("bit", range(7))
def test_damage_to_the_digest_s_name_in_safetensors_of_ours_is_seen(tmp_path: Path, bit: int) -> None:
    file = tmp_path / "ours.safetensors"
    convert(TOY, file)
    content = bytearray(file.read_bytes())
    content[content.index(DIGEST.encode()) + 1] ^= 1 << bit
    file.write_bytes(content)
    assert f"{file} " in refusal(file)


def test_damage_in_a_file_without_digest_is_seen_by_the_archive_s_checksums(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"model": {"weight": torch.arange(1000.0)}}, file)
    whole = file.read_bytes()
    place = whole.index(torch.arange(500.0, 600).numpy().tobytes())
    file.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    assert "weights/data/0 is not as it was written" in refusal(file)


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"weight": torch.arange(1000.0), "bias": torch.ones(3)}, file)
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(safe_load(file)["weight"], torch.arange(1000.0))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**40),
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.empty(2**40, device="meta"),
    ],
    ids=["repeated", "sparse", "quantised", "meta"],
)
def test_tensors_that_no_checkpoint_of_ours_holds_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    file = tmp_path / "last.pt"
    torch.save({"format": "acmix", DIGEST: "0" * 64, "model": {"weight": tensor}}, file)
    assert "is not as acmix wrote it: a sparse, quantised, nested, empty, negated or repeated tensor" in refusal(file)


def test_the_digest_is_of_values_types_and_names_and_of_no_order() -> None:
    one: dict[Any, Any] = {"a": 1, "b": [2.0, (True, None)], 3: torch.ones(2, 3)}
    same: dict[Any, Any] = {3: torch.ones(3, 2).T, "b": [2.0, (True, None)], "a": 1, DIGEST: "x"}
    assert digest_of(one) == digest_of(same)
    others: list[dict[Any, Any]] = [
        {**one, "a": 1.0},
        {**one, "a": True},
        {**one, "a": "1"},
        {**one, "b": (2.0, (True, None))},
        {**one, "b": [2.0, True, (None,)]},
        {**one, 3: torch.ones(3, 2)},
        {**one, 3: torch.ones(2, 3, dtype=torch.float64)},
        {"a": 1, "b": one["b"], "3": one[3]},
        {**one, "c": None},
    ]
    assert len({digest_of(each) for each in (one, *others)}) == len(others) + 1


def nested(pieces: int) -> Any:
    """Tuples of two, each twice in the next: small in a file, 2^pieces values when walked."""
    value: Any = (1,)
    for _ in range(pieces):
        value = (value, value)
    return value


class Allocates:
    """Pickles as so many bytes, which the file does not hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (2_500_000_000,)


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (nested(40), "holds more than 2,000,000 values"),
        (deep(200), "holds values more than 64 deep"),
        (Allocates(), "asks for a bytearray"),
    ],
    ids=["shared", "deep", "bytearray"],
)
@pytest.mark.parametrize("archive", [True, False])
def test_small_files_that_cost_without_bound_are_refused(tmp_path: Path, value: Any, said: str, archive: bool) -> None:
    file = tmp_path / "small.pth"
    buffer = io.BytesIO()
    torch.save({"format": "acmix", "model": value}, buffer, _use_new_zipfile_serialization=archive)
    file.write_bytes(buffer.getvalue())
    assert file.stat().st_size < 10_000
    assert said in refusal(file)
