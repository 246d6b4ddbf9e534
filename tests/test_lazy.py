"""The package and its command load what is used, and no more."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import acmix
import acmix.data
import acmix.released
from tests.support.paths import ROOT

HEAVY = {"torch", "timm", "torchvision", "numpy", "matplotlib", "PIL"}


def loaded(arguments: list[str], place: Path, **variables: str) -> tuple[str, set[str]]:
    """What a Python process printed to either stream, and the packages that it imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    times = [line for line in lines if line.startswith("import time:")]
    packages = {line.rpartition("|")[2].strip().split(".")[0] for line in times}
    return done.stdout + "\n".join(line for line in lines if line not in times), packages


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "Commands:"),
        pytest.param(["-h"], "Commands:", marks=pytest.mark.slow),
        pytest.param(["train", "-h"], "KEY=VALUE", marks=pytest.mark.slow),
        (["--version"], f"acmix {acmix.__version__}"),
        (["trai"], "Did you mean 'train'?"),
        pytest.param(["train", "acmix_swin_digit"], "acmix_swin_digits", marks=pytest.mark.slow),
        (["train", "acmix_swin_digits", "train.epoch=2"], "'train.epochs'"),
        pytest.param(["train", "acmix_swin_digits", "train.epochs=two"], "train.epochs=two: ", marks=pytest.mark.slow),
        (["train", "acmix_swin_digits", "--fast"], "No such option: --fast"),
        (["benchmark", "--help"], "Measure the speed"),
        pytest.param(["config"], "train.epochs", marks=pytest.mark.slow),
        pytest.param(["config", "train.epochs"], "300", marks=pytest.mark.slow),
        pytest.param(["config", "train.epoch"], "train.epochs", marks=pytest.mark.slow),
        (["evaluate", "nothing.pt", "--data", "."], "there is no checkpoint nothing.pt"),
        (["export", "acmix_pvt_tiny", "out.onnx", "--opset", "99"], "--opset 99: expected 18 to 23"),
        pytest.param(["export", "acmix_pvt_tiny", f"{'a' * 300}.pt2"], "too long; choose", marks=pytest.mark.slow),
        pytest.param(["predict", "nothing.pt", "x.jpg"], "there is no checkpoint nothing.pt", marks=pytest.mark.slow),
        pytest.param(["rates", "runs/nothing"], "there is no checkpoint runs/nothing", marks=pytest.mark.slow),
        pytest.param(["config"], "  train.epochs ", marks=pytest.mark.slow),
        pytest.param(["config", "optimizer.lr"], "Peak learning rate", marks=pytest.mark.slow),
        pytest.param(["config", "optimizer.lrr"], "did you mean 'optimizer.lr'?", marks=pytest.mark.slow),
        (["config", "show", "acmix_swin_digits"], "embed_dim: 48"),
    ],
)
def test_the_command_answers_without_torch(tmp_path: Path, arguments: list[str], said: str) -> None:
    output, packages = loaded(["-m", "acmix", *arguments], tmp_path)
    assert said in output
    assert packages & HEAVY == set()
    assert "Traceback" not in output


def test_the_launcher_answers_a_typo_without_torch(tmp_path: Path) -> None:
    output, packages = loaded(["-m", "acmix.train.launch", "2", "acmix_swin_digit", "photos"], tmp_path)
    assert "acmix_swin_digits" in output
    assert packages & HEAVY == set()


def test_the_installed_command_answers_without_torch(tmp_path: Path) -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="acmix")
    script = tmp_path / "acmix"
    script.write_text(f"import sys\nfrom {entry.module} import {entry.attr}\nsys.exit({entry.attr}())\n")
    output, packages = loaded([str(script), "--version"], tmp_path)
    assert output == f"acmix {acmix.__version__}\n"
    assert packages & HEAVY == set()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("acmix ev", {"evaluate"}),
        ("acmix train acmix_swin_d", {"acmix_swin_digits"}),
        pytest.param(
            "acmix train finetune/swin_tiny_patch4_w", {"finetune/swin_tiny_patch4_window7_224"}, marks=pytest.mark.slow
        ),
        # not one word alone, which bash ends with a space
        ("acmix train x.yaml train.epo", {"train.epochs=", "train.epochs=90"}),
        pytest.param(
            "acmix train x.yaml train.compi",
            {"train.compile=", "train.compile=true", "train.compile=false"},
            marks=pytest.mark.slow,
        ),
        pytest.param("acmix train x.yaml train.precision=b", {"train.precision=bf16"}, marks=pytest.mark.slow),
        pytest.param("acmix train x.yaml train.epochs=", {"train.epochs=90"}, marks=pytest.mark.slow),
        # bash takes an equals sign for a word
        ("acmix train x.yaml schedule.name = c", {"cosine", "constant"}),
        pytest.param(
            "acmix train x.yaml schedule.name =",
            {"cosine", "step", "multistep", "poly", "constant"},
            marks=pytest.mark.slow,
        ),
        pytest.param("acmix train x.yaml train.seed = 1 train.compile = t", {"true"}, marks=pytest.mark.slow),
        ("acmix config train.epo", {"train.epochs"}),
        pytest.param(
            "acmix config show acmix_resnet26_",
            {"acmix_resnet26_digits", "acmix_resnet26_fashion_mnist"},
            marks=pytest.mark.slow,
        ),
        pytest.param("acmix config show x.yaml train.compile = f", {"false"}, marks=pytest.mark.slow),
    ],
)
def test_the_shell_completes_without_torch(tmp_path: Path, typed: str, offered: set[str]) -> None:
    asked = {"_ACMIX_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    output, packages = loaded(["-m", "acmix"], tmp_path, **asked)
    assert {*output.split()} == offered
    assert packages & HEAVY == set()


@pytest.mark.parametrize("code", ["import acmix, timm", "import timm, acmix"])
@pytest.mark.slow
def test_importing_the_package_registers_its_models_with_timm(tmp_path: Path, code: str) -> None:
    output, packages = loaded(["-c", f"{code}; print(timm.is_model('acmix_resnet26'))"], tmp_path)
    assert output.split() == ["True"]
    assert "pydantic" not in packages


@pytest.mark.parametrize("package", [acmix, acmix.data, acmix.released])
def test_public_names_are_those_that_load(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert {*names} <= {*dir(package)}
    assert all(getattr(package, name) is not None for name in names)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_ctrl_c_while_torch_loads_ends_the_command_quietly(tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    command = [sys.executable, "-X", "importtime", "-m", "acmix", "evaluate", "best.pt", "--data", "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert any(" torch." in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "Traceback" not in rest


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["config"], ["config", "show", "acmix_resnet50"]])
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "acmix", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("acmix: error: No space left on device; free some space")
    assert done.stderr.count("\n") == 1
