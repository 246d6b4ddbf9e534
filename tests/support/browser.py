"""A browser that a test drives as a person does: keys, a chosen file, what is on the page and in the console.

It is spoken to by Chrome's DevTools protocol over two pipes.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.page import browser
from tests.support.processes import PATIENCE

# what the protocol calls a key, with its code of Windows
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
WRITTEN = {"Enter": "\r", " ": " "}
# the browser takes commands from its file 3, and answers in 4
PLACED = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
SPOKEN = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


class Window:
    """One page in a browser."""

    def __init__(self, out: int, into: int) -> None:
        self.out, self.into, self.buffer, self.number = out, into, b"", 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result."""
        self.number += 1
        sent: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            sent["sessionId"] = self.session
        os.write(self.out, json.dumps(sent).encode() + b"\0")
        while True:
            told = self.message()
            if told.get("id") == self.number:
                assert "error" not in told, (method, told)
                return told["result"]  # type: ignore[no-any-return]
            self.events.append(told)

    def message(self) -> dict[str, Any]:
        """The next of the browser's."""
        while b"\0" not in self.buffer:
            assert select.select([self.into], [], [], PATIENCE)[0], "the browser says nothing"
            read = os.read(self.into, 2**20)
            assert read, "the browser has ended"
            self.buffer += read
        one, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(one)  # type: ignore[no-any-return]

    def value(self, code: str) -> Any:
        """What a line of JavaScript gives."""
        told = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait_for(self, code: str) -> Any:
        """Waits until a line of JavaScript gives something true."""
        until = time.monotonic() + PATIENCE
        while not (found := self.value(code)):
            assert time.monotonic() < until, (code, self.value("document.body.innerText"), self.said())
            time.sleep(0.02)
        return found

    def press(self, *keys: str) -> None:
        """Presses keys, one after the other."""
        for key in keys:
            code = KEYS.get(key, ord(key[0].upper()))
            text = WRITTEN.get(key, key if len(key) == 1 else "")
            one = {"key": key, "windowsVirtualKeyCode": code, **({"text": text} if text else {})}
            self.call("Input.dispatchKeyEvent", type="keyDown", **one)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def tab_to(self, condition: str) -> None:
        """Presses Tab until the element that has the focus, `it`, is the one meant."""
        seen = []
        for _ in range(30):
            self.press("Tab")
            if self.value(f"(it => !!({condition}))(document.activeElement)"):
                return
            seen.append(self.value("document.activeElement.outerHTML.slice(0, 60)"))
        raise AssertionError(f"Tab does not reach {condition}: {seen}")

    def choose(self, file: Path) -> None:
        """Presses Enter on what has the focus, and chooses a file in the dialog that opens."""
        self.call("Page.setInterceptFileChooserDialog", enabled=True)
        self.press("Enter")
        until = time.monotonic() + PATIENCE
        while not (opened := [each for each in self.events if each.get("method") == "Page.fileChooserOpened"]):
            assert time.monotonic() < until, "no dialog opens"
            self.value("0")
        self.events.remove(opened[0])
        self.call("DOM.setFileInputFiles", files=[str(file)], backendNodeId=opened[0]["params"]["backendNodeId"])

    def said(self) -> list[dict[str, Any]]:
        """What is in the console so far."""
        return [each["params"] for each in self.events if each.get("method") in SPOKEN]

    def asked(self) -> list[str]:
        """The addresses that were asked so far."""
        return [
            each["params"]["request"]["url"]
            for each in self.events
            if each.get("method") == "Network.requestWillBeSent"
        ]


@contextmanager
def window(folder: Path) -> Iterator[Window]:
    """A browser with one page, until the block ends."""
    program = browser()
    assert program is not None
    (to_browser, out), (into, from_browser) = os.pipe(), os.pipe()
    arguments = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    arguments += " --disable-component-update --disable-sync --remote-debugging-pipe --window-size=1200,1600"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PLACED,
            str(to_browser),
            str(from_browser),
            program,
            *arguments.split(),
            f"--user-data-dir={folder / 'profile'}",
        ],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Window(out, into)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(out)
        os.close(into)
