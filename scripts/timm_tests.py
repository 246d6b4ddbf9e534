"""Runs timm's own tests/test_models.py over the names of acmix, and fails where a test fails that is not listed here.

`python scripts/timm_tests.py [NAME …] [-- PYTEST'S ARGUMENTS]`, where NAME may hold wildcards and is every name by
default. pip fetches the source archive of the timm that is installed; nothing of it is kept, and its file runs as it
is: this module is also the pytest plugin that lets timm's `list_models` give our names alone.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm

import acmix

# The tests that our models do not pass, and why; docs/models.md shows the same table.
EXCEPTIONS = {
    "test_model_forward_torchscript": "torch.jit.script is deprecated; our models say in one line to trace instead",
    "test_model_forward_fx_torchscript": "the same, behind fx",
    "test_model_default_cfgs": "asks for a map behind the last layer; DeiT and PVT have tokens, and run "
    "test_model_default_cfgs_non_std, as timm's own DeiT does",
}
TOKENS = ("deit_*", "pvt_*")
NAMES = "ACMIX_TIMM_NAMES"
NOT_FETCHED = 3
SETTINGS = "[pytest]\nmarkers =\n    {}\n"
MARKERS = ("base", "cfg", "cfg_nonstd", "forward", "backward", "torchscript", "features", "fxforward", "fxbackward")


def fetched(version: str, folder: Path) -> Path:
    """Puts test_models.py of that version of timm's source archive into a folder and gives its path."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest"]
    if subprocess.run([*pip, str(folder), f"timm=={version}"]).returncode:
        print(f"timm {version} has no source archive that pip can fetch; see above")
        sys.exit(NOT_FETCHED)
    (archive,) = folder.glob("timm-*.tar.gz")
    top = f"timm-{version}"
    if archive.name != f"{top}.tar.gz":
        raise SystemExit(f"{archive.name}: expected the archive of timm {version}, which is installed")
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"{top}/tests/test_models.py")
        assert member is not None
        path = folder / "test_models.py"
        path.write_bytes(member.read())
    archive.unlink()
    return path


def listed(
    filter: str | list[str] = "",
    module: Any = "",
    pretrained: bool = False,
    exclude_filters: str | list[str] = "",
    name_matches_cfg: bool = False,
    include_tags: bool | None = None,
) -> list[str]:
    """timm's `list_models` for our names; filters read `acmix_deit_…` as `deit_…`, modules are not asked for."""
    if pretrained:
        return []
    wanted, unwanted = ([each] if isinstance(each, str) else list(each) for each in (filter, exclude_filters))
    # of the two tests of configurations one takes what the other leaves
    for patterns in (wanted, unwanted) if include_tags else ():
        patterns.extend(TOKENS if "deit*" in patterns else ())
    unwanted = unwanted if include_tags else [each for each in unwanted if each != "deit*"]
    return [
        name
        for name in os.environ[NAMES].split()
        if (not any(wanted) or matches(name, wanted)) and not matches(name, unwanted)
    ]


def matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name.removeprefix("acmix_"), pattern) for pattern in patterns if pattern)


def pytest_configure(config: pytest.Config) -> None:
    if NAMES in os.environ:
        timm.list_models = listed


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # the other tests name timm's own models
    ours = [item for item in items if "acmix_" in item.name]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours


class Tally:
    """Counts what became of every test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid.rpartition("::")[2]] = report.outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], help="names of models, with wildcards; all by default")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    patterns, more = parser.parse_args(sys.argv[1:cut]).names, sys.argv[cut + 1 :]
    names = [name for name in acmix.list_models() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        parser.error(f"no model is named {' or '.join(patterns)}")
    os.environ[NAMES] = " ".join(names)
    # workers of pytest-xdist import this module by its name
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(Path(__file__).parent))
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary:
        path = fetched(timm.__version__, Path(temporary))
        settings = path.with_name("pytest.ini")
        settings.write_text(SETTINGS.format("\n    ".join([*MARKERS, "timeout"])))
        options = ["-c", str(settings), "-p", "timm_tests", "-p", "no:cacheprovider", "-q", "--tb", "short"]
        pytest.main([*options, *more, str(path)], plugins=[tally])
    count = Counter(tally.outcomes.values())
    failed = [name for name, outcome in tally.outcomes.items() if outcome == "failed"]
    unexpected = [name for name in failed if name.partition("[")[0] not in EXCEPTIONS]
    print(f"timm {timm.__version__}, {len(names)} names: ", end="")
    print(", ".join(f"{count[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped")))
    for test, why in EXCEPTIONS.items():
        print(f"{sum(name.startswith(test + '[') for name in failed):4d} failed as listed: {test}: {why}")
    print(f"{len(unexpected):4d} failed besides", *unexpected, sep="\n     ")
    return int(bool(unexpected) or not tally.outcomes)


if __name__ == "__main__":
    sys.exit(main())
