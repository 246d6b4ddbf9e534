"""An image of any size has logits at its original size: at once, in windows, at several scales, mirrored."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.tasks.segment import inference
from acmix.tasks.segment.inference import best_classes, logits_at_its_size, logits_of, resized, windows

CLASSES = 5


class Pointwise(nn.Module):
    """Logits that depend on a pixel alone, so that windows change nothing; it notes the sizes it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(0))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return F.conv2d(images, self.weight)


class Counter(nn.Module):
    """Gives 1, 2, 3 … to one window after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return torch.full((1, 2, *images.shape[-2:]), float(self.calls))


def image(height: int, width: int) -> Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


@pytest.mark.parametrize("size", [(20, 30), (33, 41), (7, 5)])
def test_logits_are_resized_bilinearly_to_the_original_size(size: tuple[int, int]) -> None:
    model, x = Pointwise(), image(20, 30)
    expected = F.interpolate(model(x[None]), size=size, mode="bilinear", align_corners=False)[0]
    assert torch.equal(logits_of(model, x, size), expected)


@pytest.mark.parametrize("size", [(20, 30), (16, 16), (17, 16), (1, 50), (50, 1), (1, 1), (40, 9)])
@pytest.mark.parametrize("stride", [None, 5, 16, (3, 16)])
def test_windows_give_what_the_whole_image_gives_where_a_pixel_stands_alone(
    size: tuple[int, int], stride: int | tuple[int, int] | None
) -> None:
    model, x = Pointwise(), image(*size)
    whole = logits_of(model, x, size)
    model.seen.clear()
    assert torch.allclose(logits_of(model, x, size, crop=16, stride=stride), whole, atol=1e-5)
    assert {*model.seen} == {(1, 3, 16, 16)}


def test_overlapping_windows_are_averaged_and_the_last_is_moved_inside() -> None:
    # columns 0-3, 3-6 and, moved inside, 4-7
    result = windows(Counter(), torch.zeros(1, 3, 4, 8), (4, 4), (4, 3))[0, 0]
    assert result.tolist() == [1, 1, 1, 1.5, 2.5, 2.5, 2.5, 3]


def test_an_image_is_padded_below_and_to_the_right_and_the_padding_cut_off() -> None:
    model = Pointwise()
    assert windows(model, image(3, 5)[None], (8, 8), (8, 8)).shape == (CLASSES, 3, 5)
    assert model.seen == [(1, 3, 8, 8)]


def test_scales_and_mirrors_average_probabilities() -> None:
    model, x = Pointwise(), image(12, 10)
    shares = []
    for scale in (0.5, 1.0, 1.5):
        for mirrored in (False, True):
            seen = F.interpolate(
                x[None], size=(round(12 * scale), round(10 * scale)), mode="bilinear", align_corners=False
            )
            logits = model(seen.flip(-1) if mirrored else seen)
            logits = logits.flip(-1) if mirrored else logits
            shares.append(F.interpolate(logits, size=(12, 10), mode="bilinear", align_corners=False).softmax(dim=1)[0])
    expected = torch.stack(shares).mean(dim=0)
    given = logits_at_its_size(model, x, scales=(0.5, 1.0, 1.5), flip=True)
    assert torch.allclose(given.exp(), expected, atol=1e-6)
    assert torch.allclose(given.exp().sum(dim=0), torch.ones(12, 10), atol=1e-5)


def test_a_probability_of_zero_is_a_finite_logit() -> None:
    class Certain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([0.0, 1e6]).view(1, 2, 1, 1).expand(1, 2, *images.shape[-2:])

    assert logits_of(Certain(), image(4, 4), (9, 9), flip=True).isfinite().all()


@pytest.mark.parametrize("elements", [1, 2 * 90, 2**26])
def test_best_classes_are_found_some_at_a_time(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MOST_ELEMENTS", elements)
    logits = torch.randn(CLASSES, 4, 5, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    assert torch.equal(best_classes(logits, (9, 10)), resized(logits, (9, 10)).argmax(dim=0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(crop=8, stride=9), r"stride=9 with crop=8: give a stride of 1 to the crop's side"),
        (dict(crop=8, stride=0), r"stride=0 with crop=8"),
        (dict(scales=()), r"scales=\(\): give at least one factor"),
        (dict(scales=(1.0, -1.0)), r"scales=\(1.0, -1.0\)"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        logits_of(Pointwise(), image(8, 8), (8, 8), **settings)  # pyright: ignore[reportArgumentType]
