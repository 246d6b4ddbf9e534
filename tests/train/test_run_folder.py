"""Where `--output` names no folder, no run takes another one's, and the same command goes on with its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from acmix.config import Config, dump
from acmix.train.checkpoint import read
from acmix.train.run_folder import choose, forget
from tests.support.checks import one_error
from tests.support.images import make_image_folder
from tests.support.paths import ROOT
from tests.support.processes import Forked, command, run_module
from tests.support.tiny import CLASSES, PLAIN, tiny_config, write_config

QUICK = (*PLAIN, "train.epochs=1", "train.batch_size=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run_folder")
    return make_image_folder(root / "images", CLASSES, train_per_class=2, val_per_class=1, size=24)


@pytest.fixture
def here(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a configuration."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "tiny.yaml", data, *QUICK)
    return tmp_path


def chosen(config: Config, name: str = "tiny", processes: int = 1) -> tuple[str, str]:
    """The folder for a run, below runs/, and the line about it."""
    folder, _, line = choose(Path("runs"), name, config, processes)
    return folder.relative_to("runs").as_posix(), line


def left(folder: str, config: Config, processes: int = 1) -> None:
    """Leaves in a folder what a run leaves that was started."""
    place = Path("runs") / folder
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(dump(config), encoding="utf-8")
    start = {"event": "start", "processes": processes, "config": config.model_dump(mode="json")}
    (place / "log.jsonl").write_text(json.dumps(start) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_the_same_command_goes_on_and_another_one_gets_a_folder_of_its_own(here: Path) -> None:
    first = command("train", "tiny.yaml").finish()[0]
    assert first.output.splitlines()[-1].endswith("results in runs/tiny")
    again = command("train", "tiny.yaml").finish()[0].output
    assert (
        "runs/tiny: this run is finished, after 2 steps; to go on, raise train.epochs and add --output runs/tiny"
        in again
    )
    other = command("train", "tiny.yaml", "train.epochs=2").finish()[0]
    assert other.output.splitlines()[0] == (
        "runs/tiny holds a run with train.epochs 1 (now 2): writing to runs/tiny-2; to go on with that one, add "
        "--output runs/tiny"
    )
    assert other.output.splitlines()[-1].endswith("results in runs/tiny-2")
    # what the line says can be done
    on = command("train", "tiny.yaml", "train.epochs=2", "--output", "runs/tiny").finish()[0]
    assert (on.status, on.errors) == (0, "")
    assert "runs/tiny: resuming after step 2 of 4" in on.output
    assert sorted(os.listdir("runs")) == ["tiny", "tiny-2"]
    assert read("runs/tiny-2/checkpoints/last.pt")["step"] == 4


@pytest.mark.slow
def test_a_run_that_is_named_goes_on_where_it_is(here: Path) -> None:
    assert command("train", "tiny.yaml").finish()[0].status == 0
    for number, name in enumerate(("runs/tiny", "runs/tiny/config.yaml"), 2):
        on = command("train", name, f"train.epochs={number}").finish()[0]
        assert (on.status, on.errors) == (0, "")
        assert f"runs/tiny: resuming after step {2 * number - 2} of {2 * number}" in on.output
    assert os.listdir("runs") == ["tiny"]
    # settings alone are no run
    shutil.copy("runs/tiny/config.yaml", "config.yaml")
    assert command("train", "config.yaml").finish()[0].output.splitlines()[-1].endswith("results in runs/config")


def test_of_several_runs_the_last_with_the_same_settings_goes_on(here: Path) -> None:
    left("tiny", tiny_config("d"))
    left("tiny-2", tiny_config("d", "train.epochs=9"))
    left("tiny-3", tiny_config("d"))
    left("tiny-10", tiny_config("d", "train.seed=3"))
    assert chosen(tiny_config("d")) == ("tiny-3", "")
    assert chosen(tiny_config("d", "train.epochs=9")) == ("tiny-2", "")
    # the nearest run is named
    folder, line = chosen(tiny_config("d", "train.epochs=8"))
    assert folder == "tiny-4"
    assert line.startswith("runs/tiny-3 holds a run with train.epochs 2 (now 8): writing to runs/tiny-4; to go on")
    # none of these is a run of this name
    for name in ("tiny-1", "tiny-02", "tiny-x", "tiny.yaml", "atiny"):
        left(name, tiny_config("d", "train.epochs=7"))
    assert chosen(tiny_config("d", "train.epochs=7"))[0] == "tiny-5"


@pytest.mark.parametrize(
    "change",
    [
        *("data.workers=3", "train.device=cpu", "train.compile=true", "train.log_every_steps=7"),
        *("train.tensorboard=true", "train.checkpoint_every_steps=5", "train.checkpoint_every_epochs=2"),
        *("data.dir=./d/", "data.dir=d/../d", "train.channels_last=true", "train.gradient_checkpointing=true"),
    ],
)
def test_settings_without_effect_on_the_result_make_no_other_run(here: Path, change: str) -> None:
    left("tiny", tiny_config("d"))
    assert chosen(tiny_config("d", change)) == ("tiny", "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("train.seed=5",), "train.seed 0 (now 5)"),
        (("data.dir=other",), "data.dir d (now other)"),
        (("data.split=0.2",), "data.split null (now 0.2)"),
        (("model.conv_path=false",), "model.conv_path true (now false)"),
        (("train.batch_size=8",), "train.batch_size 4 (now 8)"),
        (
            ("train.seed=5", "optimizer.lr=1", "train.epochs=3", "train.batch_size=8", "data.dir=x"),
            'data.dir d (now x), optimizer.lr 0.002 (now 1.0), train.epochs 2 (now 3) and 2 more settings',
        ),
    ],
)  # fmt: skip
def test_a_run_that_cannot_surely_go_on_is_not_offered(here: Path, changes: tuple[str, ...], said: str) -> None:
    left("tiny", tiny_config("d"))
    assert chosen(tiny_config("d", *changes)) == (
        "tiny-2",
        f"runs/tiny holds a run with {said}: writing to runs/tiny-2",
    )


def test_another_number_of_processes_is_another_run_unless_a_step_takes_as_many_images(here: Path) -> None:
    left("tiny", tiny_config("d"), processes=2)
    assert chosen(tiny_config("d"), processes=2) == ("tiny", "")
    line = "runs/tiny holds a run with images a step 16 (now 8): writing to runs/tiny-2"
    assert chosen(tiny_config("d")) == ("tiny-2", line)


def test_what_weights_decide_makes_no_other_run(here: Path) -> None:
    start = tiny_config("d", "model.checkpoint=a.pt")
    settled = start.model_copy(update={"data": start.data.model_copy(update={"mean": (0.5, 0.5, 0.5)})})
    left("tiny", settled)
    assert chosen(start) == ("tiny", "")
    assert chosen(tiny_config("d", "model.checkpoint=a.pt", "data.mean=[0.1, 0.1, 0.1]"))[0] == "tiny-2"


def test_a_folder_that_is_no_run_is_left_alone(here: Path) -> None:
    Path("runs/tiny").mkdir(parents=True)
    Path("runs/tiny/notes.txt").write_text("mine")
    Path("runs/tiny-2").write_text("a file")
    # nothing is lost in an empty one
    Path("runs/tiny-3").mkdir()
    assert chosen(tiny_config("d")) == ("tiny-3", "runs/tiny is not the folder of a run: writing to runs/tiny-3")
    assert os.listdir("runs/tiny") == ["notes.txt"]
    Path("runs/tiny/log.jsonl").write_text("{}")
    assert chosen(tiny_config("d", "train.epochs=3"))[1].startswith(
        "runs/tiny-3 holds a run with train.epochs 2 (now 3)"
    )
    for number in (3, 4):
        shutil.rmtree(f"runs/tiny-{number}")
    assert chosen(tiny_config("d"))[1].startswith("runs/tiny holds a run whose settings cannot be read: writing to")


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_by_the_same_command(here: Path) -> None:
    assert command("train", "tiny.yaml").finish()[0].status == 0
    for forget_file in (False, True):
        file = Path("runs/tiny/config.yaml")
        if forget_file:
            file.unlink()
        else:
            tree = yaml.safe_load(file.read_text())
            for key in ("device", "patience"):
                tree["train"].pop(key, None)
            for key in ("split", "split_seed"):
                del tree["data"][key]
            file.write_text(yaml.safe_dump(tree))
        assert "runs/tiny: this run is finished" in command("train", "tiny.yaml").finish()[0].output
    assert os.listdir("runs") == ["tiny"]


@pytest.mark.slow
def test_several_processes_agree_on_a_folder_that_one_of_them_chose(here: Path) -> None:
    left("tiny", tiny_config("d"))
    ends = command("train", "tiny.yaml", "train.batch_size=2", processes=2).finish()
    assert [(end.status, end.errors) for end in ends] == [(0, ""), (0, "")]
    assert ends[0].output.splitlines()[0].endswith(": writing to runs/tiny-2")
    assert ends[1].output == ""
    assert sorted(os.listdir("runs/tiny-2/checkpoints")) == ["best.pt", "last.pt"]
    assert sorted(os.listdir("runs")) == ["tiny", "tiny-2"]
    # and go on in it
    assert (
        "runs/tiny-2: this run is finished"
        in command("train", "tiny.yaml", "train.batch_size=2", processes=2).finish()[0].output
    )


@pytest.mark.slow
def test_runs_that_start_at_one_moment_each_have_a_folder(here: Path) -> None:
    runs = [command("train", "tiny.yaml", f"train.seed={seed}") for seed in range(4)]
    ends = [run.finish()[0] for run in runs]
    assert [(end.status, end.errors) for end in ends] == [(0, "")] * 4
    assert sorted(os.listdir("runs")) == ["tiny", "tiny-2", "tiny-3", "tiny-4"]
    seeds = {read(folder / "checkpoints" / "last.pt")["config"]["train"]["seed"] for folder in Path("runs").iterdir()}
    assert seeds == {0, 1, 2, 3}


@pytest.mark.slow
def test_a_folder_is_taken_by_one_of_many_at_once(here: Path) -> None:
    configs = [tiny_config("d", f"train.seed={seed}") for seed in range(12)]
    ends = [Forked(print_choice, dump(config), environment={"PWD": str(here)}) for config in configs]
    folders = [end.finish()[0].output.strip() for end in ends]
    assert sorted(folders) == sorted({*folders})
    assert {*folders} == {"tiny", *(f"tiny-{number}" for number in range(2, 13))}


def print_choice(text: str) -> None:
    """Chooses a folder in a process of its own."""
    os.chdir(os.environ["PWD"])
    Path(f"{os.getpid()}.yaml").write_text(text)
    from acmix.config import load

    print(chosen(load(f"{os.getpid()}.yaml"))[0], flush=True)


@pytest.mark.slow
def test_a_run_that_never_began_leaves_no_folder(here: Path) -> None:
    end = command("train", "tiny.yaml", "model.num_classes=7").finish()[0]
    one_error(end.errors, "add model.num_classes=4")
    assert os.listdir("runs") == []
    # so that the command, mended, has the first name
    assert command("train", "tiny.yaml").finish()[0].output.splitlines()[-1].endswith("results in runs/tiny")
    end = command("train", "tiny.yaml", "model.num_classes=7").finish()[0]
    assert os.listdir("runs") == ["tiny"]


def test_a_folder_where_another_process_is_at_work_is_not_removed(here: Path) -> None:
    folder = here / "runs" / "tiny"
    choose(Path("runs"), "tiny", tiny_config("d"), 1)
    code = f"""
import sys, time
from pathlib import Path
from acmix.train.lock import held
with held(Path({str(folder)!r})):
    Path("ready").touch()
    while not Path("go").exists():
        time.sleep(0.02)
"""
    other = Forked(run_code_in, code, environment={"PWD": str(here)})
    other.wait_for((here / "ready").exists)
    forget(folder)
    assert (folder / "config.yaml").is_file()
    (here / "go").touch()
    assert other.finish()[0].status == 0
    forget(folder)
    assert not folder.exists()


def run_code_in(code: str) -> None:
    os.chdir(os.environ["PWD"])
    exec(code, {})


@pytest.mark.slow
def test_the_launcher_leaves_the_choice_to_its_first_process(here: Path, data: Path) -> None:
    left("tiny", tiny_config("d"))
    variables = dict.fromkeys(("OUTPUT", "NNODES", "OMP_NUM_THREADS"))
    ends = Forked(
        run_module,
        "acmix.train.launch",
        ["2", "tiny.yaml", str(data), "train.batch_size=2", "train.log_every_steps=1", "data.workers=0"],
        environment={**variables, "PYTHONPATH": str(ROOT)},
    ).finish()
    assert ends[0].status == 0, ends[0].errors
    assert ends[0].output.splitlines()[0].endswith(": writing to runs/tiny-2")
    assert ends[0].output.splitlines()[-1].endswith("results in runs/tiny-2")
    again = Forked(
        run_module,
        "acmix.train.launch",
        ["2", "tiny.yaml", str(data), "train.batch_size=2"],
        environment={**variables, "PYTHONPATH": str(ROOT)},
    ).finish()
    assert "raise train.epochs and set OUTPUT=runs/tiny-2" in again[0].output


def test_a_folder_that_cannot_be_made_is_one_line(here: Path) -> None:
    Path("runs").write_text("a file")
    one_error(command("train", "tiny.yaml").finish()[0].errors, "runs", "choose another --output")
