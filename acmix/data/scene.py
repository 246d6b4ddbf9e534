"""Draws a scene: real small pictures in colour on a textured ground, at several sizes, overlapping."""

# H W height and width of a scene in pixels, h w those of an object within it

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from acmix.data.sprites import Source

# by how much an object is brighter than the ground around it: a small network then learns in minutes
LEAST_CONTRAST = 0.25
# draws of a place before an object is left out
TRIES = 8
# red, green and blue in what the eye takes for brightness
BRIGHTNESS = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Kind:
    """What scenes look like; sides are shares of the longer side of the image."""

    objects: tuple[int, int]
    sides: tuple[float, float]
    # Of an object's pixels, what those put on it later leave: less, and they are put elsewhere. So nothing is in an
    # image that is not in its annotations.
    least_visible: float
    # shares of all images
    empty: float = 0.0
    crowded: float = 0.0
    # side of one member of a crowd
    crowd_side: float = 0.08


@dataclass
class Thing:
    """An object, or a crowd of small ones of one class, and the pixels of it that can be seen."""

    # id of the class
    category: int
    # source and index of each picture in it
    pictures: list[tuple[int, int]]
    # bool (H, W)
    mask: np.ndarray
    # pixels of it before others were put on it
    drawn: int
    crowd: bool = False


@dataclass
class Scene:
    """An image and what is in it, the lowest first."""

    # uint8 (H, W, 3)
    image: np.ndarray
    things: list[Thing]
    # float32 (H, W): 1 in an object, 0 in the ground, between them at an edge
    cover: np.ndarray


def draw_scene(sources: Sequence[Source], *, part: str, size: int, kind: Kind, seed: Sequence[int]) -> Scene:
    """Draws one scene; every draw depends on the seed alone.

    Args:
        sources: the pictures.
        part: "train" or "val": which of the pictures.
        size: pixels of the longer side.
        kind: how many objects, and how large.
        seed: non-negative integers.
    """
    # the legacy generator's draws are frozen for good
    rng = np.random.RandomState(list(seed))
    shape = [(size, size), (size, size), (size * 3 // 4, size), (size, size * 3 // 4)][rng.randint(4)]
    ground = draw_ground(rng, shape)
    scene = Scene(ground, [], np.zeros(shape, np.float32))
    if rng.random_sample() < kind.crowded:
        add_crowd(scene, rng, sources, part, round(size * kind.crowd_side))
    if rng.random_sample() >= kind.empty:
        for _ in range(rng.randint(kind.objects[0], kind.objects[1] + 1)):
            # logarithmic, so that each doubling has as many
            side = size * np.exp(rng.uniform(*np.log(kind.sides)))
            add_object(scene, rng, sources, part, side, kind.least_visible)
    noisy = scene.image + rng.normal(0, rng.uniform(0, 0.03), scene.image.shape)
    scene.image = (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8)
    return scene


def draw_ground(rng: np.random.RandomState, shape: tuple[int, int]) -> np.ndarray:
    """Two colours mixed by noise of four octaves, a gradient and, in half of the grounds, stripes; (H, W, 3)."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(shape)  # (H, W) each
    texture = rng.uniform(0, 1) * (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1))
    for cells in (3, 6, 12, 24):
        noise = Image.fromarray(rng.random_sample((cells, cells)).astype(np.float32))
        smooth = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
        texture += smooth * rng.uniform(0, 1) * (3 / cells) ** 0.5
    angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(3, 12), rng.uniform(0, 2 * np.pi)
    stripes = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    texture += stripes * rng.uniform(0.1, 0.5) * rng.randint(2)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    colour = rng.uniform(0, 0.5, 3)
    other = colour + rng.uniform(-0.3, 0.3, 3)
    return np.clip(colour + texture[..., None] * (other - colour), 0, 1).astype(np.float32)


def add_object(
    scene: Scene, rng: np.random.RandomState, sources: Sequence[Source], part: str, side: float, least_visible: float
) -> None:
    """Puts one picture where it leaves enough to be seen of those below it; leaves it out where no place is found."""
    which, index = choose_picture(rng, sources, part)
    wide, turn = np.exp(rng.uniform(-0.15, 0.15)), rng.uniform(-12, 12)
    alpha, shade = sources[which].cut_out(index, round(side * wide), round(side / wide), turn)
    for _ in range(TRIES):
        # a few pixels may be beyond the image
        top, left = (rng.randint(-2, max(a - b + 2, -1)) for a, b in zip(scene.cover.shape, alpha.shape, strict=True))
        window, piece = overlap(scene.cover.shape, alpha.shape, top, left)
        mask = np.zeros(scene.cover.shape, bool)
        mask[window] = alpha[piece] >= 0.5
        if mask.any() and all(still_seen(thing, mask, least_visible) for thing in scene.things):
            put(scene, mask, window, alpha[piece], shade[piece], choose_colour(rng, scene.image[window]))
            scene.things.append(Thing(class_of(sources, which, index), [(which, index)], mask, int(mask.sum())))
            return


def add_crowd(scene: Scene, rng: np.random.RandomState, sources: Sequence[Source], part: str, side: int) -> None:
    """Puts a dozen small pictures of one class side by side, in one colour."""
    which, index = choose_picture(rng, sources, part)
    source = sources[which]
    alike = getattr(source, part)[source.labels[getattr(source, part)] == source.labels[index]]
    rows, columns = 3, 4
    height, width = scene.cover.shape
    top, left = rng.randint(height - rows * side), rng.randint(width - columns * side)
    block = np.s_[top : top + rows * side, left : left + columns * side]
    colour, members = choose_colour(rng, scene.image[block]), rng.choice(alike, rows * columns)
    whole = np.zeros(scene.cover.shape, bool)
    for place, member in enumerate(members):
        alpha, shade = source.cut_out(int(member), side, side, 0.0)
        y, x = top + place // columns * side, left + place % columns * side
        window, piece = overlap(scene.cover.shape, alpha.shape, y, x)
        mask = np.zeros(scene.cover.shape, bool)
        mask[window] = alpha[piece] >= 0.5
        put(scene, mask, window, alpha[piece], shade[piece], colour)
        whole |= mask
    pictures = [(which, int(member)) for member in members]
    scene.things.append(Thing(class_of(sources, which, index), pictures, whole, int(whole.sum()), crowd=True))


def put(
    scene: Scene,
    mask: np.ndarray,
    window: tuple[slice, slice],
    alpha: np.ndarray,
    shade: np.ndarray,
    colour: np.ndarray,
) -> None:
    """Paints an object over what is there."""
    paint = colour * (0.5 + 0.5 * shade[..., None])  # (h, w, 3)
    scene.image[window] += alpha[..., None] * (paint - scene.image[window])
    scene.cover[window] = np.maximum(scene.cover[window], alpha)
    for thing in scene.things:
        thing.mask &= ~mask


def still_seen(thing: Thing, mask: np.ndarray, least: float) -> bool:
    """Whether a share of an object is left once `mask` (H, W) covers it."""
    return (thing.mask & ~mask).sum() >= least * thing.drawn


def choose_picture(rng: np.random.RandomState, sources: Sequence[Source], part: str) -> tuple[int, int]:
    """A source, and one of its pictures."""
    which = rng.randint(len(sources))
    return which, int(rng.choice(getattr(sources[which], part)))


def class_of(sources: Sequence[Source], which: int, index: int) -> int:
    """The id of a picture's class."""
    return sources[which].first_id + int(sources[which].labels[index])


def choose_colour(rng: np.random.RandomState, ground: np.ndarray) -> np.ndarray:
    """A colour (3,) that is brighter than a ground (h, w, 3), mixed with white where need be."""
    least = min(float((ground @ BRIGHTNESS).mean()) + LEAST_CONTRAST, 1.0)
    colour = rng.random_sample(3).astype(np.float32)
    brightness = float(colour @ BRIGHTNESS)
    white = max(0.0, (least - brightness) / (1 - brightness))
    return colour + white * (1 - colour)


def overlap(
    scene: tuple[int, ...], thing: tuple[int, ...], top: int, left: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where an object lies in a scene, and which part of the object is in it."""
    starts = [
        (max(at, 0), min(at + length, whole), at) for at, length, whole in zip((top, left), thing, scene, strict=True)
    ]
    (y0, y1, y), (x0, x1, x) = starts
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
