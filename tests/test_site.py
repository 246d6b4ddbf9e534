"""The documentation site builds without a warning, its links lead somewhere, and it loads nothing from elsewhere."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

import acmix
from tests.support.paths import ROOT
from tests.support.processes import PATIENCE

# what GitHub and the site have to show alike
SHOWN = {"h1", "h2", "h3", "img", "li", "ol", "pre", "table", "tr", "ul"}
ABOVE = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "acmix/ops/README.md": "operators",
    "benchmarks/README.md": "benchmarks",
}
needs_docs = pytest.mark.skipif(find_spec("material") is None, reason="needs the extra docs")


def check() -> Any:
    """The script that checks a built site."""
    spec = spec_from_file_location("site_check", ROOT / "scripts" / "site_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["site_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `scripts/site.sh` builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@needs_docs
@pytest.mark.slow
def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    found = check().read(site)
    assert found.wrong == []
    assert found.inner > 1000
    assert all(place.startswith("https://") for place in found.outer)


@needs_docs
@pytest.mark.slow
def test_every_public_name_is_on_a_page_of_the_api(site: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    shown = set(re.findall(r' id="(acmix\.[\w.]+)"', pages))
    package = {name: getattr(acmix, name) for name in public("acmix")}
    names = [(module, name) for module in with_public_names() for name in public(module)]
    missing = {f"{module}.{name}" for module, name in names} - shown
    # what a folder gives to the package is on the package's page
    given = {f"{module}.{name}" for module, name in names if getattr(import_module(module), name) is package.get(name)}
    assert missing <= {"acmix.ops", *given}


@needs_docs
@pytest.mark.slow
def test_a_page_shows_the_lists_tables_and_blocks_that_it_shows_on_github(site: Path) -> None:
    places = {f"docs/{path.name}": path.stem for path in (ROOT / "docs").glob("*.md")}
    for origin, name in {**places, "docs/README.md": "index", **ABOVE}.items():
        there = MarkdownIt("commonmark").enable("table").render((ROOT / origin).read_text(encoding="utf-8"))
        page = (site / f"{name}.html").read_text(encoding="utf-8")
        (here,) = re.findall(r"<article.*?</article>", page, flags=re.DOTALL)
        assert elements(here) == elements(there), origin


@needs_docs
@pytest.mark.slow
def test_each_equation_links_the_line_of_its_name_and_the_chinese_page_says_its_language(site: Path) -> None:
    equations = (site / "equations.html").read_text(encoding="utf-8")
    rows = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8").count("| `acmix/")
    assert equations.count(".html#__codelineno-0-") == rows
    assert '<html lang="zh-Hans"' in (site / "zh.html").read_text(encoding="utf-8")


def test_every_module_with_public_names_has_a_page_of_the_api() -> None:
    named = re.findall(r"- api/([\w.]+)\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert set(with_public_names()) <= set(named)


def test_the_drawings_are_what_their_script_draws(tmp_path: Path) -> None:
    images = ROOT / "docs" / "images"
    for name in ("make_acmix_picture.py", "make_concepts.py"):
        shutil.copy(images / name, tmp_path)
    subprocess.run([sys.executable, "-X", "utf8", str(tmp_path / "make_concepts.py")], check=True)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 5
    for path in drawn:
        assert path.read_bytes() == (images / path.name).read_bytes(), path.name


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("@import 'https://a.example/b.css'; p { background: url(gone.png) }")
    (tmp_path / "other.html").write_text('<p id="here">')
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="style.css"><script src="//a.example/b.js"></script><img src="style.css">'
        '<a href="other.html#here">1</a><a href="other.html#there">2</a><a href="gone.html">3</a>'
        '<a href="../above.html">4</a><a href="https://a.example">5</a><p id="a"><p id="a">'
    )
    (tmp_path.parent / "above.html").write_text("")
    found = check().read(tmp_path)
    assert sorted(found.wrong) == [
        "index.html: ../above.html leads nowhere",
        "index.html: gone.html leads nowhere",
        "index.html: loads //a.example/b.js from elsewhere",
        "index.html: other.html#there has no such anchor",
        "index.html: style.css has no alt text",
        "index.html: two elements have the id a",
        "style.css: loads gone.png, which is not there",
        "style.css: loads https://a.example/b.css from elsewhere",
    ]
    assert found.counts().startswith("2 pages, of them 0 of source code; 0 blocks of code; 4 links within")


def with_public_names() -> list[str]:
    """The package and its folders that list their public names."""
    folders = [path.parent for path in (ROOT / "acmix").glob("*/__init__.py") if "\n__all__" in path.read_text("utf-8")]
    return ["acmix", *sorted(f"acmix.{folder.name}" for folder in folders)]


def public(module: str) -> list[str]:
    """The names that a module lists."""
    path = ROOT.joinpath(*module.split("."), "__init__.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(module)


class Counting(HTMLParser):
    """Counts elements."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.counts[tag] += tag in SHOWN


def elements(text: str) -> Counter[str]:
    """How many lists, tables and so on HTML holds."""
    counting = Counting()
    counting.feed(text)
    return +counting.counts
