"""How the packages of an extra are installed, by a command that works from where this package came.

acmix is in no package index, so `pip install 'acmix[yolo]'` fetches nothing, or a stranger's package. This module
imports nothing of ours; every other may import it.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

# of a checkout, where this is one
ROOT = Path(__file__).resolve().parent.parent


def install(extra: str) -> str:
    """The command that installs an extra: `demo`, `detect`, `export`, `readers`, `remote`, `serve` or `yolo`.

    From a checkout it is `pip install -e 'FOLDER[extra]'`, from a wheel `pip install 'acmix[extra] @ file:///...whl'`;
    where neither is at hand any more, the packages of the extra.
    """
    if (ROOT / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{ROOT}[{extra}]')}"
    try:
        installed = distribution("acmix")
    except PackageNotFoundError:
        return f"pip install the packages of the extra {extra!r} in acmix's pyproject.toml"
    origin = source(installed)
    if origin:
        return f"pip install {shlex.quote(f'acmix[{extra}] @ {origin}')}"
    return f"pip install {' '.join(shlex.quote(each) for each in packages(installed, extra))}"


def source(installed: Distribution) -> str:
    """The URL that a package was installed from, where it can be again; "" where it came from an index or is gone."""
    said: dict[str, Any] = json.loads(installed.read_text("direct_url.json") or "{}")
    url = str(said.get("url", ""))
    if "vcs_info" in said:
        return f"{said['vcs_info']['vcs']}+{url}@{said['vcs_info']['commit_id']}"
    parts = urlparse(url)
    return "" if parts.scheme == "file" and not Path(unquote(parts.path)).exists() else url


def packages(installed: Distribution, extra: str) -> list[str]:
    """The requirements of an extra, as the package's metadata state them."""
    wanted = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    return [each.partition(";")[0].strip() for each in installed.requires or [] if wanted.search(each)]
