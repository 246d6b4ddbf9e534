"""An extra is asked for by a command that works from where the package came."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from acmix import extras

ASKS = "acmix[yolo] @ "


class Installed:
    """What importlib knows of an installed package."""

    requires = ('onnx; extra == "export"', 'ultralytics>=8; extra == "yolo"', "torch>=2.9", "lap; extra == 'yolo'")

    def __init__(self, direct_url: dict[str, Any] | None) -> None:
        self.direct_url = direct_url

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return json.dumps(self.direct_url) if self.direct_url else None


def test_a_checkout_is_installed_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my code"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.setattr(extras, "ROOT", folder)
    assert shlex.split(extras.install("yolo")) == ["pip", "install", "-e", f"{folder}[yolo]"]


@pytest.mark.parametrize(
    ("direct_url", "command"),
    [
        ({"url": "file://{here}/acmix-0.1.0.whl", "archive_info": {}}, [ASKS + "file://{here}/acmix-0.1.0.whl"]),
        ({"url": "https://example.org/acmix.whl", "archive_info": {}}, [ASKS + "https://example.org/acmix.whl"]),
        (
            {"url": "https://example.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            [ASKS + "git+https://example.org/a.git@12ab"],
        ),
        # the wheel is gone, or nobody knows where the package came from
        ({"url": "file://{here}/gone.whl", "archive_info": {}}, ["ultralytics>=8", "lap"]),
        (None, ["ultralytics>=8", "lap"]),
    ],
)
def test_a_wheel_is_asked_for_again_and_else_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct_url: dict[str, Any] | None, command: list[str]
) -> None:
    (tmp_path / "acmix-0.1.0.whl").touch()
    if direct_url:
        direct_url = {**direct_url, "url": direct_url["url"].format(here=tmp_path)}
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    monkeypatch.setattr(extras, "distribution", lambda name: Installed(direct_url))
    expected = ["pip", "install", *(each.format(here=tmp_path) for each in command)]
    assert shlex.split(extras.install("yolo")) == expected


def test_a_package_without_metadata_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "ROOT", tmp_path)
    monkeypatch.setattr(extras, "distribution", missing)
    assert "pip install the packages of the extra 'yolo'" in extras.install("yolo")
