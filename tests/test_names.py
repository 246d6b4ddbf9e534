"""Names that somebody else chose: shown as they are, on one line, wherever they are printed, logged or drawn."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from acmix.config import Config, apply_override, complete
from acmix.errors import UsageError
from acmix.names import shown, to_json
from acmix.tools.guard import guarded
from acmix.train.checkpoint import read
from acmix.train.terminal import new_console, say
from acmix.yaml_text import quoted
from tests.support.checks import one_error
from tests.support.images import make_image_folder
from tests.support.paths import ROOT
from tests.support.processes import command
from tests.support.tiny import write_config

NO_UTF_8 = os.fsdecode(b"caf\xe9")
# a name, and how it is shown
NAMES = {
    "[red]x[bold]": "[red]x[bold]",
    ":smile: \u202eevil": r":smile: \u202eevil",
    "\U0001f600\nline\x1b[31m": "\U0001f600\\nline\\x1b[31m",
    f"{NO_UTF_8} $x_1$ & <b>": r"caf\xe9 $x_1$ & <b>",
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_a_name_is_shown_on_one_line(name, expected):
    assert shown(name) == expected
    assert shown(expected) == expected
    assert str(UsageError(f"no {name}")) == f"no {expected}"


def test_letters_of_every_script_and_composed_emoji_are_shown_as_they_are():
    for name in ("naïve", "日本語　名", "שלום", "عربي", "👩\u200d👧", "می\u200cخواهم", "a\u00a0b", "\ue000", "C:\\x"):
        assert shown(name) == name
    for character in ("\u200e", "\u2066", "\u2028", "\u0085", "\ufeff", "\t", "\r", "\x7f", "\ud83d"):
        assert shown(character).isascii()
        assert shown(character).startswith("\\")


def test_json_is_utf_8_whatever_the_names_are():
    text = to_json({NO_UTF_8: ["\U0001f600\n", NO_UTF_8, ("a", 1, None)]})
    assert json.loads(text.encode()) == {r"caf\xe9": ["\U0001f600\n", r"caf\xe9", ["a", 1, None]]}
    assert not re.search(r"\\ud[c-f]..(?<!\\ud[89ab]..\\ud[c-f]..)", text)


@pytest.mark.parametrize(
    "path", ["/data/[a]", "/a #b", "~/b", "yes,no", "{a", '/a"b', "[red]x", NO_UTF_8, "\U0001f600", "a'", "@x", "%"]
)
def test_a_path_in_an_override_is_what_was_typed(path):
    for override in (f"data.dir={path}", f"data.dir={quoted(path)}", f"model.checkpoint={quoted(path)}"):
        section, key = override.partition("=")[0].split(".")
        tree: dict = {}
        apply_override(tree, override)
        assert tree[section][key] == path.strip()
    assert complete({}, [f"data.dir={quoted(path)}"], "").data.dir == path


@pytest.mark.parametrize("path", ["/x: y", "[a]", "~", "1", "1e5", "- a", "yes"])
def test_a_path_that_yaml_takes_for_something_else_is_found_in_quotes(path):
    assert complete({}, [f"data.dir={quoted(path)}"], "").data.dir == path
    with pytest.raises(UsageError, match=r"data\.dir"):
        complete({}, [f"data.dir={path}"], "")


def test_other_values_of_overrides_are_yaml():
    typed = ["model.checkpoint=null", "model.pretrained=true", "model.args={depth: 3}"]
    settings = complete({}, [*typed, "data.background=[1, 2, 3]", "augment.auto_augment='null'"], "")
    assert settings.model.checkpoint is None
    assert settings.model.pretrained is True
    assert settings.data.background == (1, 2, 3)
    assert settings.model.args == {"depth": 3}
    assert settings.augment.auto_augment == "null"
    assert isinstance(settings, Config)


def test_one_module_alone_makes_consoles():
    for path in (ROOT / "acmix").rglob("*.py"):
        if path.name != "terminal.py":
            assert not re.search(r"\bConsole\(|\bmarkup=True|json\.dumps\(.*(names|classes)", path.read_text()), path


def test_a_terminal_that_lacks_a_character_shows_its_number(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    guarded(lambda: say(new_console(), "\U0001f600 [/x] :smile: é"))
    sys.stdout.flush()
    assert written.getvalue() == b"\\U0001f600 [/x] :smile: \\xe9\n"


def ran(*arguments: str | Path, status: int = 0) -> str:
    """What a command prints on standard output, or on standard error where it fails; without a traceback."""
    [end] = command(*arguments).finish()
    assert end.status == status, end.errors
    assert "Traceback" not in end.errors
    assert "\x1b" not in end.output + end.errors
    return end.errors if status else end.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images whose folders and files have such names, in a folder of such a name."""
    base = tmp_path_factory.mktemp("names") / f"[bold] :fire: \U0001f431 {NO_UTF_8}\n"
    data = make_image_folder(base / "data", len(NAMES), 4, 3, 40)
    for split in ("train", "val"):
        for number, name in enumerate(NAMES):
            (data / split / f"class_{number:02d}").rename(data / split / name)
    (data / "train" / next(iter(NAMES)) / "[x]\n.txt").write_text("")
    config = write_config(base / "conf[i].yaml")
    said = ran("train", config, "--data", data, "--output", base / "run[o]", "train.epochs=1", "train.tensorboard=true")
    assert "TensorBoard" in said.splitlines()[0]
    assert r"train: 1 file is no image and is left out: [red]x[bold]/[x]\n.txt" in said
    assert said.splitlines()[-1].endswith(rf"results in {shown(base)}/run[o]")
    return base


@pytest.mark.slow
def test_every_command_shows_odd_names_as_they_are(place):
    data, run = place / "data", place / "run[o]"
    best = run / "checkpoints" / "best.pt"
    assert read(best)["classes"] == sorted(NAMES, key=lambda name: read(best)["classes"].index(name))
    odd = next((data / "val" / ":smile: \u202eevil").iterdir())
    shutil.copy(odd, odd := place / os.fsdecode(b"[odd]\xff:smile:\n.JPEG"))

    lines = ran("predict", best, odd, "--top", "4").splitlines()
    assert lines[0] == rf"{shown(place)}/[odd]\xff:smile:\n.JPEG"
    assert {line[11:] for line in lines[1:]} == set(NAMES.values())
    answer = json.loads(ran("predict", best, odd, "--json"))
    assert {name for name, _ in answer["classes"]} == {name.replace("\udce9", "\\xe9") for name in NAMES}
    one_error(ran("predict", best, place / "[" / "absent].png", status=2), "/[/absent].png: no such file")

    empty = data / "val" / "[red]x[bold]" / os.fsdecode(b"[bad]\xff:smile:.JPEG")
    empty.write_bytes(b"")
    said = ran("evaluate", best, "--data", data, status=2)
    one_error(said, r"[red]x[bold]/[bad]\xff:smile:.JPEG: the file is empty")
    empty.unlink()
    assert json.loads(ran("evaluate", best, "--data", data, "--json"))["images"] == 12

    converted = place / "[c].safetensors"
    assert f"{shown(best)} -> {shown(converted)}: " in ran("convert", best, converted)
    assert {line[11:] for line in ran("predict", converted, odd).splitlines()[1:]} == set(NAMES.values())

    assert ran("report", run) == f"report: {shown(run)}/report.html\n"
    page = (run / "report.html").read_text(encoding="utf-8")
    for name in NAMES.values():
        assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    for line in (run / "log.jsonl").read_bytes().decode().splitlines():
        assert not re.search(r"[\ud800-\udfff]", str(json.loads(line)))


@pytest.mark.slow
def test_mistakes_about_odd_names_end_in_one_line(place):
    config, run = place / "conf[i].yaml", place / "other"
    for arguments, said in (
        (["train", config, f"data.dir={place}/[a] x #y", "--output", run], "/[a] x #y; expected a folder"),
        (["train", place / "[" / "none].yaml"], "/[/none].yaml': neither a file, a run folder nor a shipped name"),
        (["evaluate", place / "[" / "none].pt", "--data", place], "/[/none].pt; check the path"),
        (["convert", place / "[" / "none].pt", place / "x.pt"], "/[/none].pt to convert"),
        (["report", place / "[" / "none]"], "/[/none] is not a run folder"),
        (["train", config, f"data.{NO_UTF_8}\n=1"], "data.caf\\xe9\\n=1: data="),
        (["train", config, f"--{NO_UTF_8}"], r"caf\xe9"),
        (["models", "[/red"], "no model matches '[/red'"),
        (["evaluate", 300 * "a", "--data", "x"], "there is no checkpoint aaa"),
        (["train", 300 * "a"], "no configuration 'aaa"),
        (["train", config, "--data", 300 * "a"], "no data folder aaa"),
    ):
        one_error(ran(*arguments, status=2), said)


@pytest.mark.slow
def test_a_data_folder_with_characters_beyond_the_first_plane_is_found(data, tmp_path):
    images = tmp_path / "\U0001f600 \U00020000"
    os.symlink(data, images)
    said = ran(
        "train", write_config(tmp_path / "a.yaml"), "--data", images, "--output", tmp_path / "o", "train.epochs=1"
    )
    assert "16 training images" in said
