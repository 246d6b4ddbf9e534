"""Models are sent to a hub and fetched from it: a small one of our own, over HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http

import acmix
from acmix.errors import UsageError
from acmix.models.download import is_reachable
from acmix.tools.hub_push import pull
from tests.support.hub import TOKEN, Hub, running
from tests.support.paths import ROOT
from tests.support.saved import NAMES, write_classifier

NAME = "someone/digits"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    return acmix.save_pretrained(write_classifier(folder / "run", ""), folder / "saved")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the hub's client takes for its own, with an empty cache; its waits before new tries are left out."""
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # its other protocol for large files has servers of its own
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def outputs(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def test_what_is_pushed_is_pulled_bit_for_bit_by_timm_and_acmix(hub: Hub, saved: Path, tmp_path: Path) -> None:
    expected = outputs(acmix.load(saved)[0])
    done = acmix.push_to_hub(saved.with_name("run"), NAME, license="mit", message="First", private=True)
    assert done.url == f"{hub.address}/{NAME}/commit/{hub.commit_of(NAME)}"
    assert {*hub.repositories[NAME]} == {"config.json", "model.safetensors", "README.md"}
    assert [commit["summary"] for commit in hub.commits[NAME]] == ["First"]
    card = ModelCard(hub.repositories[NAME]["README.md"].decode())
    assert f'timm.create_model("hf-hub:{NAME}", pretrained=True)' in card.text
    assert card.data.to_dict()["license"] == "mit"

    model, info = acmix.from_pretrained(NAME)
    assert (info.classes, info.kind) == (NAMES, "published weights")
    assert torch.equal(outputs(model), expected)
    assert torch.equal(outputs(timm.create_model(f"hf-hub:{NAME}", pretrained=True).eval()), expected)
    assert torch.equal(outputs(acmix.load(f"hf-hub:{NAME}")[0]), expected)
    folder = pull(NAME, tmp_path / "pulled", revision=hub.commit_of(NAME))
    assert {each.name for each in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert torch.equal(outputs(acmix.from_pretrained(folder)[0]), expected)
    acmix.push_to_hub(folder, "other/one")
    card = ModelCard(hub.repositories["other/one"]["README.md"].decode())
    assert 'timm.create_model("hf-hub:other/one", pretrained=True)' in card.text
    assert 'from_pretrained("other/one")' in card.text


def test_what_was_fetched_before_needs_no_network(
    hub: Hub, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acmix.push_to_hub(saved, NAME)
    expected = outputs(acmix.from_pretrained(NAME)[0])
    hub.requests.clear()
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        offline.setenv("HF_HUB_OFFLINE", "1")
        assert torch.equal(outputs(acmix.from_pretrained(NAME)[0]), expected)
        for refused in (lambda: acmix.push_to_hub(saved, NAME), lambda: acmix.from_pretrained("someone/else")):
            with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
                refused()
    assert hub.requests == []
    # whoever answers there now is no hub
    hub.shutdown()
    hub.server_close()
    assert torch.equal(outputs(acmix.from_pretrained(NAME)[0]), expected)
    assert not constants.HF_HUB_OFFLINE


def test_a_card_that_somebody_wrote_is_kept(hub: Hub, saved: Path) -> None:
    acmix.push_to_hub(saved, NAME)
    assert f'from_pretrained("{NAME}")' in hub.repositories[NAME]["README.md"].decode()
    hub.repositories[NAME]["README.md"] = b"by hand"
    assert acmix.push_to_hub(saved, NAME).kept_card
    assert hub.repositories[NAME]["README.md"] == b"by hand"
    assert not acmix.push_to_hub(saved, NAME, replace_card=True).kept_card
    assert hub.repositories[NAME]["README.md"] != b"by hand"


PUSH_FAULTS: list[tuple[str, int | str, str]] = [
    ("/api/repos/create", 401, "answered 401: it does not accept the token"),
    ("/api/repos/create", 403, "answered 403: the token may not do this"),
    ("/preupload/", 404, "answered 404: there is no such repository"),
    ("/preupload/", 500, "answered 500: it has trouble; try again later"),
    ("/lfs/objects/batch", "cut", "the connection to http://127.0.0.1:.* failed"),
    ("/large/", 503, "answered 503: it has trouble"),
    ("/large/", "cut", "the connection to http://127.0.0.1:.* failed"),
    ("/commit/", "cut", "the connection to http://127.0.0.1:.* failed"),
    ("/commit/", 409, "answered 409: somebody else wrote at the same time"),
]
PULL_FAULTS: list[tuple[str, int | str, str]] = [
    ("config.json", 401, "answered 401: it does not accept the token"),
    ("config.json", 404, "answered 404: there is no such repository"),
    ("config.json", 502, "answered 502: it has trouble"),
    ("config.json", "cut", "check the connection"),
    ("model.safetensors", 500, "answered 500: it has trouble"),
    ("model.safetensors", "cut", "check the connection"),
]


@pytest.mark.slow
def test_what_goes_wrong_is_one_line_without_the_token(
    hub: Hub, saved: Path, tmp_path: Path, acmix: Callable[..., tuple[int, str, str]]
) -> None:
    place = tmp_path / "pulled"
    for part, fault, said in PUSH_FAULTS:
        hub.faults = {part: fault}
        check_one_line(*acmix("hub", "push", saved, NAME), said)
        assert not hub.repositories.get(NAME), "a part of the files was committed"
    hub.faults = {}
    status, output, errors = acmix("hub", "push", saved, NAME)
    assert (status, output, errors) == (0, f"sent: {hub.address}/{NAME}/commit/{hub.commit_of(NAME)}\n", "")
    for part, fault, said in PULL_FAULTS:
        hub.faults = {part: fault}
        check_one_line(*acmix("hub", "pull", NAME, place), said)
        assert not place.exists()
    hub.faults = {}
    assert acmix("hub", "pull", NAME, place)[:2] == (0, f"written: {place}\n")


def check_one_line(status: int, output: str, errors: str, said: str) -> None:
    """Asserts that a command failed as it should."""
    assert status == 2
    assert re.fullmatch(rf"acmix: error: .*{said}.*\n", errors), errors
    assert TOKEN not in output + errors
    assert output == ""


def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(
    hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cases: list[tuple[Any, str]] = [
        (lambda: acmix.push_to_hub(saved, "digits"), "expected OWNER/NAME"),
        (lambda: acmix.push_to_hub(saved, "../../x"), "expected OWNER/NAME"),
        (lambda: acmix.push_to_hub(saved, "a/..b--c"), "expected OWNER/NAME"),
        (lambda: acmix.from_pretrained("hf-hub:a b/c"), "expected OWNER/NAME"),
        (lambda: acmix.from_pretrained("./nothing"), "there is no folder ./nothing"),
        (lambda: acmix.from_pretrained(saved.with_name("run")), "of a model; give a folder of save_pretrained"),
        (lambda: acmix.from_pretrained(saved, revision="v1"), "is for a repository"),
        (lambda: pull(NAME, saved), "holds a config.json already"),
    ]
    for call, said in cases:
        with pytest.raises(UsageError, match=said):
            call()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UsageError, match="there is no token of the hub"):
        acmix.push_to_hub(saved, NAME)
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:secret@127.0.0.1:1")
    with pytest.raises(UsageError, match=r"cannot reach http://127\.0\.0\.1:1; ") as caught:
        acmix.push_to_hub(saved, NAME)
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match=r"cannot reach http://127\.0\.0\.1:1 for") as caught:
        acmix.load("resnet18.a1_in1k")
    assert "secret" not in str(caught.value)


def test_a_server_that_speaks_no_http_is_not_reached() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert not is_reachable(f"http://me:secret@127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert not is_reachable("https://me:secret@mirror.invalid")


def test_a_folder_without_safetensors_is_not_sent_without_its_weights(hub: Hub, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "pickled"))
    model = acmix.load(folder)[0]
    content = json.loads((folder / "config.json").read_text())
    del content["acmix"]
    (folder / "config.json").write_text(json.dumps(content))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="no other weights are sent; write one with"):
        acmix.push_to_hub(folder, NAME)
    assert not hub.repositories.get(NAME)
    assert (acmix.save_pretrained(folder, tmp_path / "new") / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_process_of_its_own_is_told_by_the_environment_alone(saved: Path, tmp_path: Path) -> None:
    load = (
        "import sys, acmix, timm, torch\n"
        f"model = timm.create_model('hf-hub:{NAME}', pretrained=True).eval()\n"
        f"again, info = acmix.load('hf-hub:{NAME}')\n"
        "x = torch.rand(2, 3, 32, 32)\n"
        "print(torch.equal(model(x), again(x)), info.classes[0])\n"
    )
    push = f"import sys, acmix\nacmix.push_to_hub(sys.argv[1], '{NAME}')\n"
    with running() as hub:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1",
                       "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}  # fmt: skip
        for code, offline in ((push + load, "0"), (load, "1")):
            before = len(hub.requests)
            command = [sys.executable, "-c", code, str(saved)]
            done = subprocess.run(
                command, env={**environment, "HF_HUB_OFFLINE": offline}, capture_output=True, text=True, check=False
            )
            assert (done.stdout, TOKEN in done.stderr) == (f"True {NAMES[0]}\n", False), done.stderr
            assert (len(hub.requests) == before) == (offline == "1")
