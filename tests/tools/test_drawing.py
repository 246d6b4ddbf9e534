"""Drawings hold what was found: boxes and texts on the picture, masks in their colour, a legend of a label map."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from acmix.tools import drawing
from acmix.tools.drawing import Tagged, colour_of, draw, draw_tags, free_place, overlap, short
from acmix.tools.found import Detected, FoundObject, Segmented, regions_of
from acmix.tools.run_length import mask_to_text

GREY = (128, 128, 128)


def found(name: str = "cat", label: int = 1, mask: np.ndarray | None = None, **more: float) -> FoundObject:
    box = (more.get("left", 100.0), more.get("top", 100.0), more.get("right", 300.0), more.get("bottom", 200.0))
    return FoundObject(
        name, label, more.get("score", 0.9), box, (400, 600), None if mask is None else mask_to_text(mask)
    )


def difference(picture: Image.Image, other: Image.Image) -> np.ndarray:
    return (np.asarray(picture, int) - np.asarray(other, int) != 0).any(-1)


def test_a_box_is_drawn_where_it_is_and_its_text_above_it() -> None:
    plain = Image.new("RGB", (600, 400), GREY)
    drawn = draw(Detected("x", [found()], (400, 600)), plain)
    assert drawn.size == plain.size
    assert plain.getpixel((100, 100)) == GREY
    assert drawn.getpixel((100, 150)) == drawn.getpixel((299, 150)) == drawn.getpixel((200, 199)) == colour_of(0)
    assert drawn.getpixel((200, 150)) == drawn.getpixel((301, 150)) == GREY
    changed = difference(drawn, plain)
    assert changed[85:99, 100:150].all()
    assert not changed[:75].any()


def test_a_mask_has_its_colour_inside_a_firm_edge_and_nothing_outside() -> None:
    mask = np.zeros((400, 600), bool)
    mask[120:180, 120:280] = True
    drawn = draw(Detected("x", [found(mask=mask)], (400, 600)), Image.new("RGB", (600, 400), GREY))
    inside, edge = drawn.getpixel((200, 150)), drawn.getpixel((120, 150))
    for pixel, share in ((inside, 0.5), (edge, 0.9)):
        assert pixel == pytest.approx([(1 - share) * 128 + share * channel for channel in colour_of(0)], abs=2)
    assert drawn.getpixel((118, 150)) == GREY


def test_texts_do_not_cover_each_other_while_there_is_room() -> None:
    size = (600, 400)
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(3):
        taken.append(free_place((100, 100, 300, 200), 120, 20, size, taken))
    assert not any(overlap(one, other) for one, other in combinations(taken, 2))
    # none leaves the picture
    for box in ((0, 0, 5, 5), (590, 390, 600, 400), (-50, -50, 900, 900)):
        left, top, right, bottom = free_place(box, 120, 20, size, [])
        assert 0 <= left < right <= 600
        assert 0 <= top < bottom <= 400


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (7, 9), (900, 700)])
def test_pictures_of_any_size_and_mode_are_drawn_on(size: tuple[int, int]) -> None:
    width, height = size
    mask = np.ones((height, width), bool)
    one = FoundObject("a long name of a class", 3, 0.5, (0, 0, width, height), (height, width), mask_to_text(mask))
    beyond = FoundObject("beyond", 4, 0.6, (-9, -9, width + 9, height + 9), (height, width))
    point = FoundObject("point", 5, 0.7, (0.5, 0.5, 0.5, 0.5), (height, width))
    drawn = draw(Detected("x", [one, beyond, point], (height, width)), Image.new("L", size))
    factor = max(1, -(-480 // max(size)))
    assert drawn.size == (width * factor, height * factor)
    labels = np.zeros((height, width), np.uint8)
    with_legend = draw(Segmented("x", labels, regions_of(labels, ["sky"])), Image.new("RGBA", size))
    assert with_legend.width == max(480, width * factor)
    assert with_legend.height > height * factor
    assert draw(Detected("x", [], (height, width)), Image.new("RGB", size)).size == drawn.size


def test_classes_have_colours_of_their_own_and_a_label_map_shows_them() -> None:
    assert len({colour_of(label) for label in range(150)}) == 150
    for one, other in combinations(range(12), 2):
        assert sum(abs(a - b) for a, b in zip(colour_of(one), colour_of(other), strict=True)) > 40
    labels = np.repeat([[0, 1, 2]], 3, axis=0).repeat(200, 0).repeat(200, 1)
    drawn = draw(Segmented("x", labels, regions_of(labels, ["a", "b", "c"])), Image.new("RGB", (600, 600), GREY))
    assert len({drawn.getpixel((x, 300)) for x in (100, 300, 500)}) == 3
    # the legend's swatches have nearly the colour of the picture
    legend = np.asarray(drawn, int)[600:]
    for x in (100, 300, 500):
        assert (np.abs(legend - np.array(drawn.getpixel((x, 300)))).sum(-1) < 20).any()


def test_names_stay_on_one_line_and_many_are_told_by_their_number() -> None:
    assert short("a\nb") == r"a\nb"
    assert len(short("x" * 99)) == 32
    labels = np.arange(150, dtype=np.uint8).reshape(10, 15)
    drawn = draw(
        Segmented("x", labels, regions_of(labels, [f"class {i}" for i in range(150)])), Image.new("RGB", (15, 10))
    )
    assert drawn.height < 1200


def test_dashes_leave_gaps() -> None:
    drawn = draw_tags(Image.new("RGB", (600, 400), GREY), [Tagged((50, 50, 550, 350), "", (255, 0, 0), is_dashed=True)])
    row = np.asarray(drawn)[50, 60:540]
    share = (row == (255, 0, 0)).all(-1).mean()
    assert 0.3 < share < 0.7


def test_a_very_large_picture_is_drawn_at_a_fraction_of_its_size(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_DRAWN", 300 * 200)
    picture, labels = Image.new("RGB", (1199, 800), (90, 90, 90)), np.zeros((800, 1199), dtype=np.uint8)
    labels[400:] = 1
    half = drawing.veiled(picture, labels)
    # and small ones enlarged
    assert half.size == (600, 400)
    whole = drawing.veiled(picture.reduce(4), labels[::4, ::4])
    assert np.array_equal(np.asarray(half), np.asarray(whole))
