"""Every command, in the order of `acmix --help`."""

from acmix.cli.app import app

# each adds its commands
# isort: off
from acmix.cli import train as _train  # noqa: F401
from acmix.cli import use as _use  # noqa: F401
from acmix.cli import export as _export  # noqa: F401
from acmix.cli import hub as _hub  # noqa: F401
from acmix.cli import serve as _serve  # noqa: F401
from acmix.cli import look as _look  # noqa: F401
from acmix.cli import models as _models  # noqa: F401
from acmix.cli import paper as _paper  # noqa: F401
from acmix.cli import benchmark as _benchmark  # noqa: F401
from acmix.cli import config as _config  # noqa: F401
from acmix.cli import data as _data  # noqa: F401
from acmix.cli import demo as _demo  # noqa: F401

__all__ = ["app"]
