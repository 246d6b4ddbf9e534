"""What servers, addresses and packages do wrong is one line, or tried again; credentials go to their server alone."""

import asyncio
import base64
import os
import shutil
import sys
import time
import urllib.error
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from acmix.config import dump, validate
from acmix.data import train_loader, val_loader
from acmix.data.shards import address, remote
from acmix.data.shards.address import CannotFetch, Redirects, check_address, request
from acmix.errors import UsageError
from acmix.names import without_secrets
from acmix.train.resume import changed_keys, describe_changes, refuse_another_run
from tests.support.shards import config, images, served


def answer(request: Any, content: bytes, length: int) -> bool:
    request.send_response(200)
    request.send_header("Content-Length", str(length))
    request.end_headers()
    request.wfile.write(content)
    return True


@pytest.mark.parametrize("name", ["_info.json", "train-index.safetensors", "train-000001.tar"])
def test_a_server_that_sends_less_than_it_says_is_asked_again(shards, name):
    asked = []

    def cut(request: Any) -> bool:
        if request.path != f"/{name}" or len(asked) == 2:
            return False
        asked.append(name)
        content = (shards / name).read_bytes()
        return answer(request, content[: len(content) // 2], len(content))

    with served(shards, cut) as url:
        assert torch.equal(images(config(url)), images(config(shards)))
    assert len(asked) == 2


def test_a_server_that_goes_away_in_the_middle_is_one_line(shards):
    def go_away(request: Any) -> bool:
        if request.path.endswith(".tar"):
            answer(request, b"half", 10_240)
        return request.path.endswith(".tar")

    with served(shards, go_away) as url:
        loader = train_loader(config(url))
        with pytest.raises(CannotFetch) as said:
            list(loader.epoch(0))
    assert str(said.value).startswith(f"cannot fetch {url}/train-0000")
    assert "it ended 10236 bytes before it should have (3 tries in 0 s); once it can be had" in str(said.value)


def test_a_server_that_hardly_sends_is_given_up(shards, monkeypatch):
    monkeypatch.setattr(address, "PATIENCE", 0.2)

    def trickle(request: Any) -> bool:
        answer(request, b"{", 10_000)
        for _ in range(50):
            try:
                request.wfile.write(b" ")
            except OSError:
                break
            time.sleep(0.02)
        return True

    began = time.monotonic()
    with served(shards, trickle) as url, pytest.raises(CannotFetch, match=r"bytes came in 0 s \(3 tries"):
        train_loader(config(url))
    assert time.monotonic() - began < 10


def test_a_server_may_send_on_to_another_but_to_no_file(shards):
    heard = []

    def elsewhere(request: Any) -> bool:
        request.send_response(302)
        request.send_header("Location", place + request.path)
        request.end_headers()
        return True

    with served(shards, lambda request: heard.append(request.headers.get("Authorization"))) as other:
        place = other
        with served(shards, elsewhere) as url:
            found = images(config(url.replace("://", "://me:word@")))
            assert torch.equal(found, images(config(shards)))
            place = f"file://{shards}"
            with pytest.raises(CannotFetch, match="HTTP status 302, which leads to an address that is not followed"):
                train_loader(config(url))
    assert set(heard) == {None}


def test_what_is_sent_on_from_https_stays_there():
    asked = request("https://host/a")
    follow: Any = Redirects().redirect_request
    assert follow(asked, None, 302, "", {}, "https://other/b").full_url == "https://other/b"
    for place in ("http://other/b", "ftp://other/b"):
        with pytest.raises(urllib.error.HTTPError):
            follow(asked, None, 302, "", {}, place)


def test_a_user_and_a_password_are_sent_and_never_said(shards):
    wanted = "Basic " + base64.b64encode(b"me:w@rd").decode()

    def guard(request: Any) -> bool:
        if request.headers.get("Authorization") == wanted:
            return False
        request.send_error(401)
        return True

    with served(shards, guard) as url:
        named = url.replace("://", "://me:w%40rd@")
        assert torch.equal(images(config(named)), images(config(shards)))
        with pytest.raises(CannotFetch, match=r"HTTP status 401; check the credentials, of which a run keeps none"):
            train_loader(config(url))
        with pytest.raises(CannotFetch) as said:
            train_loader(config(url.replace("://", "://me:wrong@")))
    assert "wrong" not in str(said.value)


def test_spaces_and_letters_of_any_alphabet_are_quoted(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "my données")
    with served(tmp_path) as url:
        assert torch.equal(images(config(f"{url}/my données")), images(config(shards)))
    assert request("https://host/a%20b/ü?sig=a%2Bb").full_url == "https://host/a%20b/%C3%BC?sig=a%2Bb"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("https://[::1/x", "data.dir=https://[::1/x is no address: Invalid IPv6 URL; expected https://HOST/FOLDER"),
        ("http://me:word@host:99999/x", "data.dir=http://host:99999/x is no address: Port out of range"),
        ("http:///x", "data.dir=http:///x names no server"),
        (
            "simplecache::s3://bucket/x",
            "data.dir=simplecache::s3://bucket/x is a chain of addresses; expected a single",
        ),
        ("zip://a::https://me:word@host/x?token=1", "data.dir=zip://a::https://host/x is a chain of addresses"),
        ("://", "data.dir=:// is no address; expected one such as s3://bucket/shards"),
        ("s3://", "data.dir=s3:// is no address"),
    ],
)
def test_what_is_no_address_is_one_line(place, said):
    with pytest.raises(UsageError) as raised:
        train_loader(config(place))
    assert str(raised.value).startswith(said)


def test_other_addresses_are_taken():
    for place in ("http://[::1]:8000/x", "https://host", "s3://bucket", "file:///a", "gs://b/c", "HTTPS://host/x"):
        check_address(place)


def test_what_packages_raise_is_one_line(monkeypatch):
    fsspec: Any = pytest.importorskip("fsspec")

    package: Any = ModuleType("gcsfs.retry")
    package.HttpError = type("HttpError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "gcsfs.retry", package)

    def fail(*_: Any) -> None:
        raise package.HttpError("no\nroute")

    monkeypatch.setattr(fsspec, "open", fail)
    with pytest.raises(CannotFetch, match=r"cannot fetch s3://bucket/_info.json: no route \(3 tries in 0 s\); once"):
        train_loader(config("s3://bucket"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_asynchronous_file_system_is_read_in_forked_processes(shards, workers):
    """As those of s3:// and gs:// are: their requests run in a thread, which a fork does not have."""
    fsspec: Any = pytest.importorskip("fsspec")
    asyn, spec = pytest.importorskip("fsspec.asyn"), pytest.importorskip("fsspec.spec")

    class File(spec.AbstractBufferedFile):
        def _fetch_range(self, start: int, end: int) -> bytes:
            return self.fs.cat_file(self.path, start=start, end=end)

    class Asynchronous(asyn.AsyncFileSystem):
        protocol = "asynchronous"

        async def _info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "size": os.path.getsize(self._strip_protocol(path)), "type": "file"}

        async def _cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
            await asyncio.sleep(0.01)
            return Path(self._strip_protocol(path)).read_bytes()[start:end]

        def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
            return File(self, path, mode)

    fsspec.register_implementation("asynchronous", Asynchronous, clobber=True)
    found = config(f"asynchronous://{shards}", workers=workers)
    loader = train_loader(found)
    for epoch in range(2):
        read = torch.cat([batch.images for batch in loader.epoch(epoch)])
        assert torch.equal(read, torch.cat([batch.images for batch in train_loader(config(shards)).epoch(epoch)]))
        assert sum(len(batch.images) for batch in val_loader(found)) == 6


def test_a_cache_of_somebody_else_is_read(shards, monkeypatch):
    with served(shards) as url:
        before = images(config(url))

        def locked(*_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(remote.os, "utime", locked)
        monkeypatch.setattr(remote, "locked", locked)
        assert torch.equal(images(config(url)), before)


def test_an_index_that_is_damaged_in_the_cache_is_fetched_again(shards, cache):
    with served(shards) as url:
        before = train_loader(config(url)).dataset.source.targets
        [file] = cache.glob("?" * 64)
        whole = file.read_bytes()
        file.write_bytes(whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:])
        assert train_loader(config(url)).dataset.source.targets.tolist() == before.tolist()
        assert file.read_bytes() == whole


def test_what_killed_processes_left_in_the_cache_is_removed(shards, cache):
    with served(shards) as url:
        images(config(url))
        files = [*cache.glob("?" * 64)]
        for file in files:
            file.unlink()
            for number in (1, 2):
                (cache / f".{file.name}.{number}.1.tmp").write_bytes(b"torn")
        images(config(url))
    assert not [*cache.glob(".*.tmp")]


def test_secrets_are_not_shown_and_not_kept(shards):
    assert without_secrets("s3://key:secret@bucket/a?b#c") == "s3://bucket/a"
    assert without_secrets("simplecache::https://me:word@host/a?token=1") == "simplecache::https://host/a"
    assert without_secrets("https://host/a@b") == "https://host/a@b"
    settings = config("https://me:word@host/a?token=1")
    assert settings.data.dir == "https://me:word@host/a?token=1"
    kept = validate(settings.model_dump(mode="json"))
    assert kept.data.dir == settings.data.shown_dir == "https://host/a"
    assert dump(settings) == dump(kept)
    # nor is one a change of the other
    assert changed_keys(kept, settings) == {}
    assert config("photos?#@x").data.shown_dir == "photos?#@x"


def test_the_same_shards_from_a_folder_are_another_order_unless_one_says_how_many_are_shuffled(shards):
    def run(place, window):
        return config(place, shuffle_shards=window)

    url = "https://host/shards"
    said = r"trained with data\.shuffle_shards 1, now it would be 4; set data\.shuffle_shards=1"
    with pytest.raises(UsageError, match=said):
        refuse_another_run(run(url, None), run(shards, None), "last.pt")
    for then, now in (
        (run(url, None), run(shards, 1)),
        (run(shards, None), run(url, 4)),
        (run(url, 4), run(shards, 4)),
    ):
        refuse_another_run(then, now, "last.pt")
    lines = describe_changes(run(url, None), run(url, 1), 1, 10, 4)
    assert lines == ["data.shuffle_shards null → 1: the same images in the same order"]
