"""Pages, read as text and opened in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.support.processes import PATIENCE

# HTML elements without an end; SVG ones say so themselves
VOID = {"meta", "link", "img", "wbr"}


class Page(HTMLParser):
    """Reads a page, insisting that what opens also closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a name."""
        return [attributes for name, attributes in self.tags if name == tag]


# what a page tells of its own layout: how wide it is, which texts stick out, and which boxes have to be scrolled
PROBE = """<script>addEventListener("load", () => {
  const width = document.documentElement.clientWidth, out = [], boxes = [...document.querySelectorAll(".scroll")];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement, range = document.createRange();
    if (parent.closest(".scroll, pre, svg, script") || !node.textContent.trim()) continue;
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) if (box.right > width + 1 || box.left < -1) out.push(node.textContent);
  }
  const scrolled = boxes.filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.ariaLabel);
  document.title = JSON.stringify({beyond: document.documentElement.scrollWidth - width, out, scrolled});
})</script>"""
FRAME = """<iframe id="it" src="inner.html" style="width:{width}px;height:3000px;border:0"></iframe>
<script>onload = () => document.title = it.contentDocument.title</script>"""


def layout(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """How a page lies in a window of so many pixels.

    Returns:
        How many pixels it goes "beyond" the window, texts that stick "out" of it, and the names of "scrolled" boxes.
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    (folder / "inner.html").write_text(text.replace("</head>", f"{PROBE}</head>", 1), encoding="utf-8")
    # a headless window is never narrower than 500 pixels, a frame is
    (folder / "frame.html").write_text(FRAME.replace("{width}", str(width)), encoding="utf-8")
    seen = browse(folder / "frame.html", folder, "--allow-file-access-from-files", "--virtual-time-budget=5000")
    found = re.search("<title>(.*?)</title>", seen.stdout)
    assert found is not None, seen.stderr
    return json.loads(html.unescape(found[1]))  # type: ignore[no-any-return]


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Opens a page in a browser of its own; the drawn page comes on stdout, the console on stderr."""
    program = browser()
    assert program is not None
    arguments = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    arguments += " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --window-size=1200,2400"
    places = [
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={folder / 'page.png'}",
        "--dump-dom",
        page.as_uri(),
    ]
    command = [program, *arguments.split(), *options, *places]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
