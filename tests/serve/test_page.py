"""The page of a service, in a real browser, by keyboard alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Window, window
from tests.support.page import browser
from tests.support.saved import write_checkpoint
from tests.support.service import Served, form, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser() is None or os.name != "posix", reason="no chromium or chrome on PATH, or no pipes"),
]
STATUS = "document.getElementById('status').textContent"
LOOKED = "document.getElementById('attention-said').textContent"
KERNELS = "document.getElementById('kernels-said').textContent"


@pytest.fixture(scope="module")
def served(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("page") / "best.pt", data)
    with serving(checkpoint, "--drain", "0") as found:
        yield found


@pytest.fixture
def page(served: Served, tmp_path: Path) -> Iterator[Window]:
    """The page, once the model has said what it is; nothing may be in the console, and nobody else be asked."""
    here = f"http://127.0.0.1:{served.port}/"
    with window(tmp_path) as found:
        found.call("Page.navigate", url=here)
        found.wait_for("document.readyState === 'complete' && document.getElementById('block')?.length > 0")
        yield found
        assert found.said() == []
        assert [each for each in found.asked() if not each.startswith((here, "blob:", "data:"))] == []


def column(page: Window) -> tuple[int, int]:
    """The column that the page says was asked about, from 1 on, and how many there are."""
    words = page.value(LOOKED).split("column ")[1].split(";")[0].split(" of ")
    return int(words[0]), int(words[1])


def test_everything_is_reached_by_keyboard(page: Window, served: Served, data: Path) -> None:
    photo = min((data / "val" / "class_00").iterdir())
    page.tab_to("it.id === 'file'")
    page.choose(photo)
    page.wait_for(f"{STATUS}.includes(' ms')")
    expected = served.post(form((photo.name, photo.read_bytes()))).told["predictions"][0]["classes"]
    rows = page.value("[...document.querySelectorAll('#rows li')].map(each => each.innerText)")
    assert len(rows) == len(expected)
    assert all(name in row for (name, _), row in zip(expected, rows, strict=True))
    page.wait_for(f"{LOOKED} !== ''")

    page.tab_to("it.id === 'view'")
    before, columns = column(page)
    page.press("ArrowLeft")
    page.wait_for(f"{LOOKED}.includes('column {before - 1} of')")
    # held down: what comes last is what is shown, however many answers were not waited for
    page.press(*["ArrowRight"] * (columns + 5))
    page.wait_for(f"{LOOKED}.includes('column {columns} of {columns}')")
    assert f"{photo.name}: " in page.value(STATUS)

    page.tab_to("it.closest('#blocks li:nth-child(2)')")
    shown = page.value(LOOKED)
    page.press("Enter")
    assert page.value("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert page.value(LOOKED) != shown

    page.tab_to("it.id === 'block'")
    page.press("ArrowDown")
    page.wait_for("document.getElementById('block').selectedIndex === 1")
    page.tab_to("it.id === 'channel'")
    page.press("3", "Tab")
    page.wait_for(f"{KERNELS}.includes('output channel 3 of')")
    assert page.value("document.activeElement.id") == "all"
    page.press("Enter")
    page.wait_for(f"{KERNELS}.includes('root mean square')")


def test_what_is_no_image_is_said_and_the_next_one_works(page: Window, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno more")
    page.tab_to("it.id === 'file'")
    page.choose(broken)
    page.wait_for(f"{STATUS}.includes('cannot')")
    # the browser itself notes an answer of 422
    noted = page.said()
    assert all("422" in str(each) for each in noted)
    page.events = [each for each in page.events if each.get("params") not in noted]
    page.choose(min((data / "val" / "class_01").iterdir()))
    page.wait_for(f"{STATUS}.includes(' ms')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_shows_all_of_it(page: Window, data: Path, scheme: str) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=False)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.tab_to("it.id === 'file'")
    page.choose(min((data / "val" / "class_00").iterdir()))
    page.wait_for(f"{LOOKED} !== ''")
    assert page.value("document.documentElement.scrollWidth") <= 360
    ground = page.value("getComputedStyle(document.body).backgroundColor").partition("(")[2].rstrip(")").split(",")
    brightness = sum(map(int, ground[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
