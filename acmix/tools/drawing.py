"""Draws what was found on the picture: boxes with names, masks, label maps with a legend."""

# h, w height and width of the picture, H, W of what is drawn: the same, or several times as large

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from acmix.names import shown
from acmix.tools.found import Detected, FoundObject, Region, Segmented

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
# pixels of a drawing; a larger picture is drawn at a fraction of its size
MOST_DRAWN = 2**25
# pixels that the longer side of a drawing has at least, so that names can be read on a small picture
LEGIBLE = 480
# how much of a colour covers the picture, within a mask and at its edge
VEIL, EDGE = 0.5, 0.9
# how much of a class's colour covers a label map's picture, which is pale and grey, so that colours stay alike
PAINT = 0.65
DARKEST, LIGHTEST = 90, 220
LONGEST_NAME = 32
MOST_IN_LEGEND = 40
PAPER, INK = (255, 255, 255), (25, 28, 32)
# turns of the hue, as a share of the circle, that never come close to each other
GOLDEN = 0.618034


@dataclass(frozen=True)
class Tagged:
    """A box with a text.

    Args:
        box: left, top, right, bottom in pixels of the picture.
        text: stands at it.
        colour: of both.
        is_dashed: whether the box is drawn in dashes.
    """

    box: Box
    text: str
    colour: Colour
    is_dashed: bool = False


def draw(found: Detected | Segmented, picture: Image.Image) -> Image.Image:
    """Draws a prediction of `acmix.predict`.

    Args:
        found: what was predicted.
        picture: the image it was predicted for, upright; of any mode.

    Returns:
        An RGB picture. Small pictures are enlarged; a label map gets a legend below.
    """
    if isinstance(found, Segmented):
        assert found.labels is not None
        return with_legend(veiled(picture, found.labels), found.regions)
    return draw_objects(picture, found.objects)


def draw_objects(picture: Image.Image, objects: Sequence[FoundObject]) -> Image.Image:
    """Boxes with names and scores, and masks where there are some; the surest on top."""
    step = pixels_left_out(picture)
    canvas, factor = enlarged(picture.reduce(step))
    tags = []
    for each in sorted(objects, key=lambda each: each.score):
        colour = colour_of(each.label - 1)
        if (mask := each.mask) is not None:
            cover(canvas, np.kron(mask[::step, ::step], np.ones((factor, factor), dtype=bool)), colour)
        tags.append(Tagged(each.box, f"{short(each.name)} {each.score:.2f}", colour))
    return draw_tags(canvas, tags, factor / step)


def veiled(picture: Image.Image, labels: np.ndarray[Any, Any], ignored: int | None = None) -> Image.Image:
    """The picture under the colours of its classes (h, w); pixels of the label `ignored` stay grey."""
    step = pixels_left_out(picture)
    (canvas, factor), labels = enlarged(picture.reduce(step)), labels[::step, ::step]
    colours = np.array([colour_of(label) for label in range(int(labels.max()) + 1)], dtype=np.float32)
    grey = np.asarray(canvas.convert("L"), dtype=np.float32)[..., None]  # (H, W, 1)
    pixels = np.broadcast_to(DARKEST + (LIGHTEST - DARKEST) / 255 * grey, (*grey.shape[:2], 3))
    whole = labels.repeat(factor, 0).repeat(factor, 1)  # (H, W)
    mixed = (1 - PAINT) * pixels + PAINT * colours[whole]
    if ignored is not None:
        mixed = np.where((whole == ignored)[..., None], 0.6 * pixels, mixed)
    return Image.fromarray(mixed.round().astype(np.uint8))


def with_legend(picture: Image.Image, regions: Sequence[Region]) -> Image.Image:
    """The picture, and below it the names, colours and shares of its classes."""
    entries = [(f"{short(each.name)} {percent(each.share)}", colour_of(each.label)) for each in regions]
    if len(entries) > MOST_IN_LEGEND:
        entries = [*entries[:MOST_IN_LEGEND], (f"and {len(entries) - MOST_IN_LEGEND} more", PAPER)]
    width = max(picture.width, LEGIBLE)
    size = font_size(width, picture.height)
    font, swatch, gap = font_of(size), size, size // 2
    places, x, y = [], gap, gap
    for text, colour in entries:
        wide = swatch + gap + round(font.getlength(text)) + 2 * gap
        if x > gap and x + wide > width:
            x, y = gap, y + size + gap
        places.append((x, y, text, colour))
        x += wide
    sheet = Image.new("RGB", (width, picture.height + y + size + gap + gap // 2), PAPER)
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for x, y, text, colour in places:
        top = picture.height + y
        pen.rectangle((x, top, x + swatch, top + swatch), fill=blended(colour))
        pen.text((x + swatch + gap, top + swatch / 2), text, fill=INK, font=font, anchor="lm")
    return sheet


def blended(colour: Colour) -> Colour:
    """A class's colour as it looks over the middle grey of a label map's picture."""
    middle = (DARKEST + LIGHTEST) / 2
    red, green, blue = (round((1 - PAINT) * middle + PAINT * channel) for channel in colour)
    return red, green, blue


def pixels_left_out(picture: Image.Image) -> int:
    """Of a picture too large to be looked at, every how many-th pixel of a side is drawn; 1: all of them."""
    return max(1, math.ceil(math.sqrt(picture.width * picture.height / MOST_DRAWN)))


def enlarged(picture: Image.Image) -> tuple[Image.Image, int]:
    """A copy in RGB to draw on, and how many times as large it is: as often as names need."""
    factor = max(1, -(-LEGIBLE // max(picture.size)))
    size = picture.width * factor, picture.height * factor
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if factor > 3 else None), factor


def cover(canvas: Image.Image, mask: np.ndarray[Any, Any], colour: Colour) -> None:
    """Lays a colour over the pixels of a mask (H, W), with a firm edge."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    line = line_width(*canvas.size)
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    inside = np.pad(mask[top:bottom, left:right], line)
    edge = (inside & ~eroded(inside, line))[line:-line, line:-line]
    inside = inside[line:-line, line:-line]
    weight = np.where(edge, np.uint8(255 * EDGE), inside * np.uint8(255 * VEIL))
    canvas.paste(colour, (int(left), int(top), int(right), int(bottom)), Image.fromarray(weight))


def eroded(mask: np.ndarray[Any, Any], by: int) -> np.ndarray[Any, Any]:
    """The pixels of a mask with so many of its pixels on each side; the outer ones of the array are none of it."""
    for axis in (0, 1):
        inner = mask.copy()
        for step in range(1, by + 1):
            inner &= np.roll(mask, step, axis) & np.roll(mask, -step, axis)
        mask = inner
    return mask


def draw_tags(canvas: Image.Image, tags: Iterable[Tagged], factor: float = 1) -> Image.Image:
    """Draws boxes, then their texts, which make room for each other; boxes are in pixels of the picture before."""
    pen = ImageDraw.Draw(canvas)
    size = font_size(*canvas.size)
    font, line = font_of(size), line_width(*canvas.size)
    scaled = [(tag, tuple(factor * side for side in tag.box)) for tag in tags]
    for tag, (left, top, right, bottom) in scaled:
        sides = (left, top, max(left, right - 1), max(top, bottom - 1))
        if tag.is_dashed:
            dashed(pen, sides, tag.colour, line)
        else:
            pen.rectangle(sides, outline=tag.colour, width=line)
    taken: list[Box] = []
    # the last one drawn is the surest, and chooses its place first
    for tag, box in reversed(scaled):
        if not tag.text:
            continue
        wide, high = font.getlength(tag.text) + size / 2, 1.25 * size
        place = free_place(box, wide, high, canvas.size, taken)
        taken.append(place)
        pen.rectangle(place, fill=tag.colour)
        middle = (place[0] + size / 4, (place[1] + place[3]) / 2)
        pen.text(middle, tag.text, fill=readable_on(tag.colour), font=font, anchor="lm")
    return canvas


def free_place(box: Sequence[float], wide: float, high: float, size: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Where a text of a size stands: above its box, within it or below, on the picture, and on no other if it can."""
    left, top, right, bottom = box
    corners = [
        (left, top - high),
        (left, bottom),
        (left, top),
        (right - wide, top - high),
        (right - wide, bottom - high),
    ]
    places = []
    for x, y in corners:
        x, y = min(max(0.0, x), max(0.0, size[0] - wide)), min(max(0.0, y), max(0.0, size[1] - high))
        places.append((x, y, x + wide, y + high))
    return min(places, key=lambda place: sum(overlap(place, other) for other in taken))


def overlap(one: Box, other: Box) -> float:
    """The area that two boxes share, in pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def dashed(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, line: int) -> None:
    """A rectangle in dashes."""
    left, top, right, bottom = box
    step = 4 * line
    for start in np.arange(left, right, 2 * step):
        end = min(right, start + step)
        pen.line([(start, top), (end, top)], fill=colour, width=line)
        pen.line([(start, bottom), (end, bottom)], fill=colour, width=line)
    for start in np.arange(top, bottom, 2 * step):
        end = min(bottom, start + step)
        pen.line([(left, start), (left, end)], fill=colour, width=line)
        pen.line([(right, start), (right, end)], fill=colour, width=line)


@cache
def colour_of(index: int) -> Colour:
    """The colour of a class: always the same, and unlike those of the classes before it."""
    lightness, saturation = ((0.5, 0.9), (0.62, 0.75), (0.4, 0.8))[index % 3]
    red, green, blue = colorsys.hls_to_rgb((0.02 + GOLDEN * index) % 1, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def readable_on(colour: Colour) -> Colour:
    """Ink or paper, whichever is read more easily on a colour."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in colour)
    # of equal contrast with black and white
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else PAPER


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def font_size(width: int, height: int) -> int:
    """Pixels of the letters on a drawing."""
    return min(64, max(13, round(0.018 * max(width, height))))


def line_width(width: int, height: int) -> int:
    """Pixels of the lines on a drawing."""
    return min(8, max(2, round(max(width, height) / 400)))


def short(name: str) -> str:
    """A name on one line that is no wall."""
    name = shown(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def percent(share: float) -> str:
    """A share; a tiny one is not 0."""
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
