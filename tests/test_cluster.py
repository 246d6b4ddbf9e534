"""The files for batch systems: held to the schema and the linter of their kind, and run with stand-ins for Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SBATCH = ROOT / "cluster" / "train.sbatch"
SCRIPTS = [SBATCH, ROOT / "run.sh", ROOT / "test.sh", *sorted((ROOT / "scripts").glob("*.sh"))]


def lost(given: Any, kept: Any, place: str = "") -> list[str]:
    """What a schema did not take over."""
    if isinstance(given, dict):
        return [line for key in given for line in lost(given[key], (kept or {}).get(key), f"{place}/{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [
            line
            for number, pair in enumerate(zip(given, kept, strict=True))
            for line in lost(*pair, f"{place}/{number}")
        ]
    return [] if given == kept else [f"{place}: {given!r} became {kept!r}"]


@pytest.mark.slow
def test_the_kubernetes_manifest_holds_to_its_schema() -> None:
    """Kubeflow's own models of a TrainJob drop a key that they do not know."""
    models = pytest.importorskip("kubeflow_trainer_api.models")
    tree = yaml.safe_load((ROOT / "cluster" / "trainjob.yaml").read_text(encoding="utf-8"))
    assert lost(tree, models.TrainerV1alpha1TrainJob.from_dict(tree).to_dict()) == []
    tree["spec"]["trainer"]["numNode"] = 2
    assert lost(tree, models.TrainerV1alpha1TrainJob.from_dict(tree).to_dict()) == [
        "/spec/trainer/numNode: 2 became None"
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shell_scripts_pass_their_linter(script: Path) -> None:
    linter = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("shellcheck comes with the extra dev")
    end = subprocess.run([linter, str(script)], capture_output=True, text=True)
    assert (end.returncode, end.stdout) == (0, "")


# stand-ins: what Slurm starts on machine 1 of two, and what it would be asked
SRUN = """#!/usr/bin/env bash
[[ $1 == --kill-on-bad-exit=1 ]] && echo -n "${2#--cpus-per-task=} cores: "
shift 2
SLURM_NODEID=1 "$@"
"""
SCONTROL = """#!/usr/bin/env bash
[[ $1 == show ]] && printf 'node7\\nnode8\\n' || echo "scontrol $*"
"""
RUN = """#!/usr/bin/env bash
echo "$NNODES $NODE_RANK $RDZV_ENDPOINT $OUTPUT: $*"
exit "${ENDS:-0}"
"""


@pytest.mark.parametrize(("ends", "asked"), [(0, ""), (1, ""), (138, "scontrol requeue 31234\n")])
def test_the_slurm_script_tells_each_machine_its_place_and_requeues_what_slurms_warning_stopped(
    tmp_path: Path, ends: int, asked: str
) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("run.sh", RUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = dict(
        SLURM_JOB_NODELIST="node[7-8]",
        SLURM_JOB_NUM_NODES="2",
        SLURM_JOB_ID="31234",
        SLURM_GPUS_ON_NODE="4",
        SLURM_CPUS_PER_TASK="16",
    )
    environment = {**os.environ, **job, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "ENDS": str(ends)}
    environment.pop("OUTPUT", None)
    command = ["bash", str(SBATCH), "a.yaml", "/my images", "train.epochs=3"]
    end = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = "16 cores: 2 1 node7:31234 runs/slurm-31234: 4 a.yaml /my images train.restarts=3 train.epochs=3\n"
    assert (end.stdout, end.stderr) == (said + asked, "")
    assert end.returncode == (0 if asked else ends)


def test_the_slurm_script_says_what_it_expects() -> None:
    end = subprocess.run(["bash", str(SBATCH), "a.yaml"], capture_output=True, text=True)
    assert (end.returncode, end.stdout) == (2, "")
    assert end.stderr.startswith("acmix: error: 1 arguments; expected: sbatch cluster/train.sbatch CONFIG DATA_DIR")
