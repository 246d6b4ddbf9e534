"""A checkpoint from anywhere is read without running a thing; every bad one is refused in one line."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from acmix.errors import UsageError
from acmix.released.safe_load import safe_load
from tests.support.paths import DATA
from tests.support.processes import python

TOY = DATA / "official_checkpoint_toy.pth"


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refusal(path):
    """The message, which must be one line."""
    with pytest.raises(UsageError) as caught:
        safe_load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_toy_checkpoint_is_read_where_yacs_cannot_be_imported():
    code = (
        "import sys; sys.modules['yacs'] = None; sys.modules['yacs.config'] = None\n"
        "from acmix.released.safe_load import safe_load\n"
        f"content = safe_load({str(TOY)!r})\n"
        "assert type(content['config']) is dict and type(content['config']['MODEL']['SWIN']) is dict\n"
        "print(content['config']['MODEL']['SWIN']['DEPTHS'], content['epoch'], len(content['model']))\n"
    )
    assert python(code) == (0, "[2, 2] 3 89\n", "")


def test_a_home_folder_that_the_shell_left_unnamed_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"model": {}}, tmp_path / "a.pth")
    assert safe_load("~/a.pth") == {"model": {}}


def test_a_configuration_pickled_by_yacs_itself_is_read(tmp_path):
    yacs = pytest.importorskip("yacs.config")
    config = yacs.CfgNode({"MODEL": {"NAME": "x", "DEPTHS": [2, 2]}, "LR": 5e-4, "BETAS": (0.9, 0.999), "NONE": None})
    config.freeze()
    torch.save({"config": config, "model": {"a": torch.ones(2)}}, tmp_path / "file.pth")
    content = safe_load(tmp_path / "file.pth")
    assert content["config"] == {
        "MODEL": {"NAME": "x", "DEPTHS": [2, 2]},
        "LR": 5e-4,
        "BETAS": (0.9, 0.999),
        "NONE": None,
    }
    assert torch.equal(content["model"]["a"], torch.ones(2))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("kind", ["system", "eval", "exec", "popen"])
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path, how, kind):
    marker, path = tmp_path / "marker", tmp_path / "hostile.pth"
    code = f"open({str(marker)!r}, 'w').close()"
    hostile = {
        "system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, code),
        "exec": Runs(exec, code),
        "popen": Runs(subprocess.Popen, ["touch", str(marker)]),
    }[kind]
    content = {"model": {"norm.bias": torch.ones(1)}, "config": hostile}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    message = refusal(path)
    assert not marker.exists()
    assert "nothing was executed" in message


def test_the_hostile_pickles_of_these_tests_do_run_in_plain_unpickling(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {marker}")))
    assert marker.exists()


@pytest.mark.parametrize("value", [np.zeros(3), np.float64(3), torch.nn.Linear(1, 1), Path("x")])
def test_objects_beside_tensors_and_plain_values_are_refused(tmp_path, value):
    torch.save({"model": {"a": torch.ones(1)}, "extra": value}, tmp_path / "file.pth")
    assert "refused" in refusal(tmp_path / "file.pth")


@pytest.mark.parametrize("size", [1, 10, 1000, 20_000, -1000, -5])
def test_a_truncated_checkpoint_is_refused(tmp_path, size):
    path = tmp_path / "short.pth"
    path.write_bytes(TOY.read_bytes()[:size])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"hello\n" * 100, b"\xff\xd8\xff\xe0" * 100, b"\x00" * 100, b"PK\x03\x04", b"}q.", b"\x80"]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    refusal(path)


def test_a_missing_file_an_empty_file_and_a_folder_are_refused(tmp_path):
    assert "no checkpoint" in refusal(tmp_path / "absent.pth")
    assert "folder" in refusal(tmp_path)
    for suffix in (".pth", ".safetensors"):
        empty = tmp_path / f"empty{suffix}"
        empty.touch()
        assert "0 bytes" in refusal(empty)


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    loop = {}
    loop["self"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    refusal(tmp_path / "loop.pth")


@pytest.mark.parametrize("value", [[1], torch.ones(2), 3, None])
def test_a_file_without_a_dictionary_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "file.pth")
    assert type(value).__name__ in refusal(tmp_path / "file.pth")


def test_safetensors_give_the_tensors_and_our_metadata(tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.float16)}
    save_file(tensors, tmp_path / "bare.safetensors")
    save_file(tensors, tmp_path / "ours.safetensors", {"acmix": json.dumps({"format": "acmix", "step": 3})})
    bare, ours = safe_load(tmp_path / "bare.safetensors"), safe_load(tmp_path / "ours.safetensors")
    assert list(bare) == ["model"]
    assert (ours["format"], ours["step"]) == ("acmix", 3)
    assert all(torch.equal(bare["model"][key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("metadata", ["not json", "[1]", "3"])
def test_safetensors_with_broken_metadata_are_refused(tmp_path, metadata):
    save_file({"a": torch.ones(1)}, tmp_path / "file.safetensors", {"acmix": metadata})
    refusal(tmp_path / "file.safetensors")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS.*git lfs pull"),
        ("\n<!DOCTYPE html><title>404</title>", "a web page"),
        ("<html>", "a web page"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_a_download_leaves_in_the_place_of_a_file_is_named(content, said, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_text(content)
    with pytest.raises(UsageError, match=said):
        safe_load(path)
