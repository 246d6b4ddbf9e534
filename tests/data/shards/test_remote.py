"""Shards from a URL: fetched once, checked, in a cache of bounded size; what a server does wrong is one line."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from acmix.data import train_loader, val_loader
from acmix.data.shards.address import CannotFetch, joined
from acmix.data.shards.remote import Remote, Wanted, make_room
from acmix.data.shards.source import Shards
from acmix.errors import UsageError
from acmix.names import without_secrets
from tests.support.shards import config, images, served


def cached(cache: Path) -> list[str]:
    return sorted(file.name for file in cache.iterdir() if len(file.name) == 64)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_gives_the_same_batches_as_the_folder(shards, cache, workers):
    requests = []
    with served(shards, lambda request: requests.append(request.path)) as url:
        found = images(config(url, workers=workers))
        evaluated = torch.cat([batch.images for batch in val_loader(config(url)) if batch.weights.any()])
    assert torch.equal(found, images(config(shards)))
    assert len(evaluated) == 6
    # each shard once, though several processes and threads ask for it
    tars = [path for path in requests if path.endswith(".tar")]
    assert sorted(tars) == sorted({f"/train-{n:06d}.tar" for n in range(4)} | {f"/val-{n:06d}.tar" for n in range(2)})
    assert not list(cache.glob(".*.tmp"))


def test_a_second_start_fetches_no_shard_again(shards, cache):
    requests = []
    with served(shards, lambda request: requests.append(request.path)) as url:
        images(config(url))
        before = len(requests)
        images(config(url))
    assert [path for path in requests[before:] if path != "/_info.json"] == []


def test_fsspec_reads_other_schemes(shards):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for file in shards.iterdir():
        memory.pipe(f"/data/{file.name}", file.read_bytes())
    assert torch.equal(images(config("memory://data")), images(config(shards)))
    assert torch.equal(images(config(f"file://{shards}")), images(config(shards)))


def test_a_server_that_stumbles_is_asked_again(shards):
    answers = {}

    def stumble(request) -> bool:
        tries = answers[request.path] = answers.get(request.path, 0) + 1
        if tries == 1:
            request.send_error(503)
        elif tries == 2 and request.path.endswith(".tar"):
            # ends too early
            request.send_response(200)
            request.end_headers()
            request.wfile.write(b"half")
        return tries == 1 or (tries == 2 and request.path.endswith(".tar"))

    with served(shards, stumble) as url:
        assert torch.equal(images(config(url)), images(config(shards)))
    assert set(answers.values()) == {2, 3}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_fails_for_good_ends_the_run_with_one_line(shards, workers):
    with served(shards, lambda request: request.path.endswith(".tar") and not request.send_error(500)) as url:
        loader = train_loader(config(url, workers=workers))
        with pytest.raises(CannotFetch) as raised:
            list(loader.epoch(0))
    assert str(raised.value).startswith(f"cannot fetch {url}/train-")
    assert "HTTP status 500 (3 tries in 0 s); once it can be had, the same command goes on" in str(raised.value)


def test_another_shard_than_the_index_says_is_not_taken(shards, tmp_path, cache):
    shutil.copytree(shards, tmp_path / "other")
    shard = tmp_path / "other" / "train-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + b"x")
    with served(tmp_path / "other") as url, pytest.raises(CannotFetch, match="SHA-256 is not the one in the index"):
        images(config(url))
    assert not list(cache.glob("*.tmp"))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("http://localhost:1/x", "cannot fetch http://localhost:1/x/_info.json: .*refused"),
        ("memory://nothing", "there is no memory://nothing/_info.json; check the address"),
        ("nosuch://x", "cannot fetch nosuch://x/_info.json: Protocol not known.*check the address"),
        ("{url}/nothing", "HTTP status 404; check the address"),
    ],
)
def test_a_wrong_address_is_one_line(shards, place, said):
    with served(shards) as url, pytest.raises(UsageError, match=said):
        train_loader(config(place.format(url=url)))


def test_a_scheme_whose_package_is_missing_says_what_to_install(monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UsageError, match=r"cannot fetch s3://bucket/x/_info.json: .*s3fs.*run pip install .*remote"):
        train_loader(config("s3://bucket/x"))
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(UsageError, match=r"needs the package fsspec; run pip install .*remote"):
        train_loader(config("s3://bucket/x"))


def test_foreign_shards_behind_a_url_are_named(tmp_path):
    (tmp_path / "_info.json").write_text('{"splits": {}}')
    with served(tmp_path) as url, pytest.raises(UsageError, match="is not of `acmix data shard`; foreign shards"):
        train_loader(config(url))


@pytest.mark.slow
def test_the_cache_drops_what_was_used_longest_ago(shards, cache):
    with served(shards) as url:
        # the index and about two shards
        size = 3.5 * (shards / "train-000000.tar").stat().st_size / 2**30
        settings = config(url, cache_gib=size)
        loader = train_loader(settings)
        found = torch.cat([batch.images for batch in loader.epoch(0)])
        assert torch.equal(found, images(config(shards)))
        assert sum(file.stat().st_size for file in cache.iterdir()) <= size * 2**30
        with pytest.raises(CannotFetch, match=r"data\.cache_gib is .*; raise it"):
            images(config(url, cache_gib=1e-6))


def test_a_cache_smaller_than_what_is_read_at_a_time_is_told(shards):
    with served(shards) as url:
        source = train_loader(config(url, cache_gib=2e-5)).dataset.source
    assert isinstance(source, Shards)
    [note] = source.notes
    assert note.startswith("data.cache_gib=2e-05 is less than the ")
    assert "e-05 GiB of shards that are read at a time here" in note


def test_room_is_made_by_age_and_only_of_our_files(tmp_path):
    for number, name in enumerate(["a" * 64, "b" * 64, "c" * 64, "mine.tar"]):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (number, number))
    make_room(tmp_path, 15)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c" * 64, "mine.tar"]


def test_a_full_or_locked_cache_is_one_line(shards, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACMIX_CACHE", str(tmp_path / "file"))
    with (
        served(shards) as url,
        pytest.raises(CannotFetch, match=r"cannot write into the cache .*Not a directory; free"),
    ):
        train_loader(config(url))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("ACMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "replace", lambda *_: full(0))
    with served(shards) as url, pytest.raises(CannotFetch, match=r"No space left on device; free some space"):
        train_loader(config(url))


def test_threads_fetch_a_file_once(shards, tmp_path):
    requests = []

    def slow(request) -> None:
        requests.append(request.path)
        time.sleep(0.2)

    content = (shards / "train-000000.tar").read_bytes()
    wanted = Wanted("train-000000.tar", len(content), __import__("hashlib").sha256(content).hexdigest())
    with served(shards, slow) as url:
        place = Remote(url, tmp_path / "cache", 10**9)
        threads = [threading.Thread(target=place.fetch, args=(wanted,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(requests) == 1
    assert (tmp_path / "cache" / wanted.sha256).read_bytes() == content


def test_addresses_keep_their_query_and_lose_their_secrets():
    assert joined("https://host/a/?token=1", "x.tar") == "https://host/a/x.tar?token=1"
    assert joined("s3://bucket/a/", "x.tar") == "s3://bucket/a/x.tar"
    assert without_secrets("https://me:word@host/a?token=1") == "https://host/a"
