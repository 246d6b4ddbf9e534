"""Checks the built site and prints its counts: `python scripts/site_check.py [FOLDER]`, `site/` by default.

Every link and picture within the site must lead to a file, and every anchor to an element; nothing that a browser
loads by itself (scripts, styles, pictures, fonts, frames) may lie elsewhere. Links that a reader follows to other sites
are counted and not called, so that the check needs no network.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

ROOT = Path(__file__).resolve().parent.parent
# what a browser loads without being asked, by element and attribute
LOADED = {
    ("audio", "src"),
    ("embed", "src"),
    ("iframe", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("use", "href"),
}
# links in the head that a browser does not load
FOLLOWED = {"alternate", "canonical", "next", "prev"}
IN_STYLE = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


@dataclass
class Found:
    """What a page holds."""

    loaded: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    ids: Counter[str] = field(default_factory=Counter)
    code_blocks: int = 0
    pictures_without_words: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Collects what a page links, loads and names."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Found()
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.found.ids[values["id"]] += 1
        if tag == "a" and "name" in values:
            self.found.anchors.add(values["name"])
        if tag == "a" and "href" in values:
            self.found.links.append(values["href"])
        if tag == "link":
            followed = FOLLOWED & set(values.get("rel", "").split())
            (self.found.links if followed else self.found.loaded).append(values.get("href", ""))
        self.found.loaded += [value for name, value in values.items() if (tag, name) in LOADED]
        self.found.loaded += in_style(values.get("style", ""))
        self.found.code_blocks += tag == "pre"
        if tag == "img" and not values.get("alt"):
            self.found.pictures_without_words.append(values.get("src", ""))
        self.in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.found.loaded += in_style(data)

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False


@dataclass
class Site:
    """The pages of a built site, and what is wrong with it."""

    folder: Path
    pages: dict[Path, Found]
    inner: int = 0
    outer: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Follows every link, and looks at everything that is loaded."""
        for path, page in self.pages.items():
            where = path.relative_to(self.folder).as_posix()
            self.wrong += [f"{where}: two elements have the id {name}" for name, n in page.ids.items() if n > 1]
            self.wrong += [f"{where}: {picture} has no alt text" for picture in page.pictures_without_words]
            for link in page.links:
                self.follow(where, path, link)
            for target in page.loaded:
                self.expect_own(where, path, target)
        for path in sorted(self.folder.rglob("*.css")):
            where = path.relative_to(self.folder).as_posix()
            for target in in_style(path.read_text(encoding="utf-8")):
                self.expect_own(where, path, target)

    def follow(self, where: str, path: Path, link: str) -> None:
        """A link that a reader may follow."""
        if urlsplit(link).scheme in ("http", "https", "mailto"):
            self.outer.add(link)
            return
        self.inner += 1
        place, anchor = urldefrag(link)
        target = self.target(path, place)
        if target is None:
            self.wrong.append(f"{where}: {link} leads nowhere")
        elif anchor and target in self.pages:
            page = self.pages[target]
            if unquote(anchor) not in page.ids and unquote(anchor) not in page.anchors:
                self.wrong.append(f"{where}: {link} has no such anchor")

    def expect_own(self, where: str, path: Path, target: str) -> None:
        """Something that a browser loads by itself."""
        if target.startswith(("data:", "#")):
            return
        if urlsplit(target).scheme or target.startswith("//"):
            self.wrong.append(f"{where}: loads {target} from elsewhere")
        elif self.target(path, urldefrag(target)[0]) is None:
            self.wrong.append(f"{where}: loads {target}, which is not there")

    def target(self, path: Path, place: str) -> Path | None:
        """The file that a link leads to, if there is one within the site."""
        place = unquote(urlsplit(place).path)
        found = (self.folder / place.lstrip("/") if place.startswith("/") else path.parent / place).resolve()
        if not place:
            return path
        if found.is_dir():
            found /= "index.html"
        return found if found.is_file() and found.is_relative_to(self.folder) else None

    def counts(self) -> str:
        """One line for a reader."""
        sources = sum(path.relative_to(self.folder).parts[0] == "source" for path in self.pages)
        blocks = sum(page.code_blocks for path, page in self.pages.items())
        return (
            f"{len(self.pages)} pages, of them {sources} of source code; {blocks} blocks of code; "
            f"{self.inner} links within the site, {len(self.outer)} places elsewhere; {len(self.wrong)} wrong"
        )


def read(folder: Path) -> Site:
    """The pages of a folder, followed through."""
    folder = folder.resolve()
    pages = {}
    for path in sorted(folder.rglob("*.html")):
        reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        pages[path] = reader.found
    site = Site(folder, pages)
    site.check()
    return site


def in_style(text: str) -> Iterator[str]:
    """What a style loads."""
    for match in IN_STYLE.finditer(text):
        yield match[1] or match[2]


def main() -> int:
    """Prints what is wrong and the counts; returns whether anything is wrong."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    if not (folder / "index.html").is_file():
        print(f"{folder} holds no site; build it with: bash scripts/site.sh", file=sys.stderr)
        return 2
    site = read(folder)
    for line in site.wrong:
        print(line)
    print(site.counts())
    return 1 if site.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
