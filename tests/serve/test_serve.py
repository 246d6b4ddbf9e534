"""`acmix serve`: a real process, spoken to over a socket."""

from __future__ import annotations

import base64
import io
import json
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from acmix.tools.predict import predict
from tests.support.checks import one_error
from tests.support.downstream import DIGITS, detection_config, segmentation_config, write_downstream_run
from tests.support.pages import blocks, commands
from tests.support.paths import ROOT
from tests.support.saved import NAMES, write_checkpoint
from tests.support.service import BOUNDARY, FORM, Served, answer, form, posted, serving
from tests.support.tiny import CLASSES

LIMITS = ["--upload-timeout", "1.5", "--max-mib", "1", "--max-megapixels", "1", "--max-files", "3", "--drain", "0"]


@pytest.fixture(scope="module")
def classifier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with drawn weights."""
    return write_checkpoint(tmp_path_factory.mktemp("served") / "best.pt", data)


@pytest.fixture(scope="module")
def served(classifier: Path) -> Iterator[Served]:
    with serving(classifier, *LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def photos(data: Path) -> list[Path]:
    return sorted((data / "val" / "class_00").iterdir())


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 90).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A few bytes that say they are 2.5 thousand million pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
    written = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def test_answers_are_those_of_predict(served: Served, classifier: Path, photos: list[Path]) -> None:
    files = [(path.name, path.read_bytes()) for path in photos]
    found = served.post(form(*files))
    assert found.status == 200
    expected = predict(classifier, photos)
    told = found.told["predictions"]
    assert [each["image"] for each in told] == [path.name for path in photos]
    for ours, theirs in zip(told, expected, strict=True):
        assert [name for name, _ in ours["classes"]] == [name for name, _ in theirs.classes]
        assert [share for _, share in ours["classes"]] == pytest.approx([share for _, share in theirs.classes])
    texts = [base64.b64encode(content).decode() for _, content in files]
    again = served.post(json.dumps({"images": texts}, indent=4).encode(), "application/json").told["predictions"]
    assert [each["image"] for each in again] == ["image 0", "image 1", "image 2"]
    assert [each["classes"][0][0] for each in again] == [each["classes"][0][0] for each in told]


def test_one_broken_image_of_several_has_an_error_of_its_own(served: Served) -> None:
    found = served.post(form(("good.png", png(40, 30)), ("bad.png", b"nonsense")))
    good, bad = found.told["predictions"]
    assert (found.status, good["error"], bad["classes"]) == (200, None, [])
    assert bad["error"].startswith("cannot read image bad.png: not an image")


def test_the_name_of_an_upload_is_no_path_to_look_at(served: Served, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("/etc", str(tmp_path / "empty")):
        found = served.post(form((name, jpeg()[:-300])))
        assert (found.status, "truncated" in found.told["error"]) == (422, True)


GOOD = form(("a.png", png(8, 8)))
MANY = b'{"images": [' + b"[]," * 300_000 + b"[]]}"
BAD: dict[str, tuple[int, str, Callable[[Served], Any]]] = {
    "no image": (422, "not an image", lambda it: it.post(form(("a.png", b"nonsense")))),
    "an empty file": (422, "is empty", lambda it: it.post(form(("a.png", b"")))),
    "half an image": (422, "truncated", lambda it: it.post(form(("a.jpg", jpeg()[:-300])))),
    "too many pixels": (422, "too many pixels", lambda it: it.post(form(("a.png", png(1200, 1000))))),
    "a bomb": (422, "too many pixels", lambda it: it.post(form(("a.png", bomb())))),
    "nothing": (400, "no image", lambda it: it.post(form())),
    "another field": (400, "in the field 'x'", lambda it: it.post(form(("a.png", png(8, 8)), field="x"))),
    "too many files": (413, "more than 3", lambda it: it.post(form(*[("a.png", png(8, 8))] * 4))),
    "half a form": (400, "before its last boundary", lambda it: it.post(GOOD[:-20])),
    "no boundary": (400, "boundary", lambda it: it.post(GOOD, "multipart/form-data")),
    "another type": (415, "text/plain", lambda it: it.post(b"hello", "text/plain")),
    "compressed": (415, "compressed", lambda it: it.post(GOOD, more="Content-Encoding: gzip\r\n")),
    "no JSON": (400, "no JSON", lambda it: it.post(b"{", "application/json")),
    "deep JSON": (400, "100,000 brackets", lambda it: it.post(b"[" * 100_000, "application/json")),
    "JSON of many lists": (400, "brackets", lambda it: it.post(MANY, "application/json")),
    "another key in JSON": (400, "a key 'z'", lambda it: it.post(b'{"images": [], "z": 1}', "application/json")),
    "no number in JSON": (400, "x is true", lambda it: it.post(b'{"images": [], "x": true}', "application/json")),
    "a huge number in JSON": (
        400,
        "from 0 to 1",
        lambda it: it.post(b'{"images": ["aaaa"], "x": 1' + b"0" * 6000 + b"}", "application/json", "/attention"),
    ),
    "no image in JSON": (422, "image 0: not", lambda it: it.post(b'{"images": ["aaaa"]}', "application/json")),
    "other JSON": (400, "no list", lambda it: it.post(b'{"images": 7}', "application/json")),
    "no base64": (400, "no base64", lambda it: it.post(b'{"images": ["?"]}', "application/json")),
    "too many bytes, told": (413, "larger than 1 MiB", lambda it: it.send(posted(b"")[:-5] + b"9" * 12 + b"\r\n\r\n")),
    "too many bytes, sent": (413, "larger than 1 MiB", lambda it: it.post(form(("a.png", bytes(1_100_000))))),
    "too many bytes, in chunks": (413, "larger than 1 MiB", lambda it: it.send(endless())),
    "a chunk without a length": (400, "no request", lambda it: it.send(chunked() + b"hello\r\n")),
    "no HTTP": (400, "no request", lambda it: it.send(b"\x16\x03\x01\x02\r\n\r\n")),
    "a long head": (400, "head is too long", lambda it: it.send(b"GET / HTTP/1.1\r\nA: " + b"a" * 50_000)),
    "another path": (404, "is not served", lambda it: it.get("/else")),
    "a slash too many": (404, "is not served", lambda it: it.get("/labels/")),
    "another method": (405, "is not served", lambda it: it.get("/predict")),
    "half a head": (408, "no whole request", lambda it: it.send(b"POST /predict HT")),
    "half a body": (408, "the upload took", lambda it: it.send(posted(GOOD)[:-30])),
    "two lengths": (400, "both a content-length", lambda it: it.send(chunked()[:-2] + b"Content-Length: 5\r\n\r\n0")),
    "a place in other digits": (400, "from 0 to 1", lambda it: it.post(with_fields(x="0_1"), path="/attention")),
    "a place outside": (400, "from 0 to 1", lambda it: it.post(with_fields(x="2"), path="/attention")),
    "two places": (400, "takes one image", lambda it: it.post(form(*[("a.png", png(8, 8))] * 2), path="/attention")),
    "another block": (404, "no block 'x'", lambda it: it.get("/paths?block=x")),
    "another channel": (400, "from 0 on", lambda it: it.get("/paths?block=x&channel=-1")),
}  # fmt: skip


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(file, "JPEG")
    return file.getvalue()


def chunked() -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode()


def endless() -> bytes:
    begin = BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    return chunked() + f"{len(begin):x}\r\n".encode() + begin + b"\r\n" + chunk * 20


def with_fields(**values: str) -> bytes:
    parts = [
        BOUNDARY + f'\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in values.items()
    ]
    return b"".join(parts) + form(("a.png", png(8, 8)))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_answered_with_its_reason(served: Served, name: str) -> None:
    status, why, send = BAD[name]
    found = send(served)
    assert (found.status, found.headers["content-type"]) == (status, "application/json")
    assert why in found.told["error"]
    assert "\n" not in found.told["error"]


def test_nothing_is_read_behind_a_body_with_two_lengths(served: Served) -> None:
    behind = b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: test\r\n\r\n"
    with served.connect() as connection:
        connection.sendall(chunked()[:-2] + b"Content-Length: 5\r\n\r\n" + behind)
        assert answer(connection).status == 400
        assert connection.recv(1) == b""


def test_after_all_that_it_serves(served: Served, photos: list[Path]) -> None:
    assert served.post(form(("a.jpg", photos[0].read_bytes()))).status == 200
    assert (served.process.folder / "0.err").read_text() == ""
    lines = served.get("/metrics").body.decode().splitlines()
    counts = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
    assert counts['acmix_requests_total{path="/predict",status="200"}'] >= 1
    assert not [name for name in counts if 'status="500"' in name or 'status="503"' in name]
    assert counts["acmix_queue_images"] == counts["acmix_held_bytes"] == 0
    assert counts["acmix_batch_images_count"] >= 1


def test_the_requests_of_the_guide_work(
    served: Served, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "other.jpg"):
        shutil.copy(photos[0], name)
    page = (
        (ROOT / "docs" / "serve.md").read_text(encoding="utf-8").replace("127.0.0.1:8000", f"127.0.0.1:{served.port}")
    )
    [code] = [block.text for block in blocks(page) if block.language == "python"]
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["answer"]["predictions"][0]["classes"]) == CLASSES
    lines = [line for block in blocks(page) if block.language == "bash" for line in commands(block.text)]
    [line] = [line for line in lines if line.startswith("curl ")]
    if shutil.which("curl"):
        done = subprocess.run(shlex.split(line), capture_output=True, check=True)
        assert [each["image"] for each in json.loads(done.stdout)["predictions"]] == ["photo.jpg", "other.jpg"]


def test_it_tells_what_it_is(served: Served) -> None:
    told = served.get("/labels").told
    assert (told["task"], told["classes"], told["has_attention"]) == ("classify", NAMES, True)
    assert [served.get(path).told["status"] for path in ("/health", "/ready")] == ["ok", "ready"]
    page = served.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert not [word for word in ("http://", "https://", "@import", "url(") if word in page.body.decode()]


def test_it_tells_of_its_blocks(served: Served) -> None:
    told = served.get("/paths").told
    block = told["blocks"][0]
    assert (block["attention"], block["conv"], block["share"]) == (0.5, 0.5, 0.5)
    assert [np.shape(block["kernels"][name]) for name in "qkv"] == [(3, 3)] * 3
    one = served.get(f"/paths?block={block['name']}&channel=1").told
    assert one["head"] == 1 % len(one["kernels"]["q"])
    in_json = {"images": [base64.b64encode(png(40, 40)).decode()], "x": 1, "y": 0.0}
    for body, kind in ((with_fields(x="1", y="0"), FORM), (json.dumps(in_json).encode(), "application/json")):
        pixels = {tuple(each["pixel"]) == (0, each["grid"][1] - 1)
                  for each in served.post(body, kind, "/attention").told["blocks"]}  # fmt: skip
        assert pixels == {True}
    found = served.post(form(("a.png", png(40, 40))), path="/attention").told
    assert {each["name"] for each in found["blocks"]} == {each["name"] for each in told["blocks"]}
    assert Image.open(io.BytesIO(base64.b64decode(found["view"]))).size == tuple(reversed(found["size"]))
    for each in found["blocks"]:
        weights = np.frombuffer(base64.b64decode(each["weights"]), np.uint8)
        assert (len(weights), weights.max()) == (np.prod(each["shape"]), 255)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_detectors_and_segmenters_answer_as_predict_prints(task: str, tmp_path: Path, photos: list[Path]) -> None:
    config = detection_config(tmp_path) if task == "detect" else segmentation_config(tmp_path)
    classes = DIGITS if task == "detect" else ["ground", *DIGITS]
    metric = {"box_ap": 12.0, "mask_ap": 9.0} if task == "detect" else {"miou": 12.0}
    run = write_downstream_run(tmp_path / "run", config, classes, metric)
    options = ["--score", "0"] if task == "detect" else []
    with serving(run, "--drain", "0", *options) as it:
        told = it.post(form(*[(path.name, path.read_bytes()) for path in photos])).told["predictions"]
        seen = it.post(form((photos[0].name, photos[0].read_bytes())), path="/attention")
    assert seen.status == 200
    for one, expected in zip(told, predict(run, photos, score=0 if options else None), strict=True):
        rows = [{**row, "image": one["image"]} for row in expected.as_coco()]
        assert json.loads(json.dumps(rows)) == one["objects" if task == "detect" else "regions"]
        if task == "segment":
            labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["labels"]))))
            assert np.array_equal(labels, expected.labels)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_assumed_of_a_foreign_export_is_said(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    traced: Any = torch.jit.trace(network, torch.zeros(1, 3, 32, 32))
    traced.save(tmp_path / "traced.pt")
    with serving(tmp_path / "traced.pt", "--drain", "0") as it:
        said = (it.process.folder / "0.out").read_text()
    assert "note: the export does not tell mean, std and crop" in said
    assert said.index("note: ") < said.index("serving ")


def test_a_full_queue_says_when_to_come_again(classifier: Path) -> None:
    slow = ["--queue", "1", "--max-files", "1", "--batch-size", "8", "--window-ms", "1500", "--drain", "0"]
    with serving(classifier, *slow) as it, it.connect() as first, it.connect() as half:
        # takes no place
        half.sendall(posted(GOOD)[:-30])
        first.sendall(posted(GOOD))
        it.process.wait_for(lambda: b"acmix_queue_images 1.0" in it.get("/metrics").body)
        found = it.post(GOOD)
        assert (found.status, found.headers["retry-after"]) == (429, "1")
        assert answer(first).status == 200


def test_a_signal_to_stop_loses_nothing(classifier: Path) -> None:
    with serving(classifier, *["--batch-size", "8", "--window-ms", "1000", "--drain", "0.5"]) as it:
        with it.connect() as taken, it.connect() as half:
            taken.sendall(posted(GOOD))
            half.sendall(posted(GOOD)[:-40])
            it.process.wait_for(lambda: b"acmix_queue_images 1.0" in it.get("/metrics").body)
            it.process.signal(signal.SIGTERM)
            it.process.wait_for(lambda: it.get("/ready").status == 503)
            half.sendall(posted(GOOD)[-40:])
            assert (answer(taken).status, answer(half).status) == (200, 200)
        [end] = it.process.finish()
    assert (end.status, end.errors) == (0, "")
    assert end.output.splitlines()[-1].startswith("stopping")


@pytest.mark.slow
def test_a_second_signal_ends_at_once(classifier: Path) -> None:
    with (
        serving(classifier, *["--batch-size", "8", "--window-ms", "60000", "--drain", "60"]) as it,
        it.connect() as taken,
    ):
        taken.sendall(posted(GOOD))
        it.process.signal(signal.SIGINT)
        it.process.wait_for(lambda: it.get("/ready").status == 503)
        it.process.signal(signal.SIGINT)
        [end] = it.process.finish()
    assert (end.status, end.errors) == (-signal.SIGINT, "")


def test_what_cannot_start_says_why(acmix: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, why in (
            (["gone.pt"], "there is no checkpoint gone.pt"),
            ([file, "--queue", "0"], "--queue 0: expected at least 1"),
            ([file, "--port", "99999"], "--port 99999: expected 0 to 65535"),
            ([file, "--port", port], f"port {port}: Address already in use"),
        ):
            status, output, errors = acmix("serve", *arguments)
            assert (status, output) == (2, "")
            one_error(errors, why)
