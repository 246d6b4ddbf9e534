"""A timm model that has learned gets convolution paths beside attention: the same output at first, then fine-tuning.

`acmix.add_conv_path(name)` downloads timm's weights. This example needs no network: it first trains a small DeiT on
scikit-learn's digits, in the place of pretrained weights. `python examples/upgrade_timm.py` takes half a minute.
"""

from typing import Any

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import acmix

SMALL: dict[str, Any] = dict(img_size=16, patch_size=4, in_chans=1, embed_dim=64, depth=3, num_heads=2, num_classes=10)
SEEN = 1437  # of 1,797 digits; the others are held out


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        batch = torch.randint(0, SEEN, (64,))
        optimizer.zero_grad()
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model(images[SEEN:]).argmax(1) == labels[SEEN:]).float().mean().item()


def main(steps: int = 200) -> tuple[float, float, float]:
    torch.manual_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    images = interpolate(torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, size=16)
    labels = torch.tensor(digits)

    plain = timm.create_model("deit_tiny_patch16_224", **SMALL)
    train(plain, images, labels, steps)
    before = accuracy(plain, images, labels)
    model = acmix.add_conv_path(plain).eval()  # a copy, with the same weights; α = 1, β = 0
    with torch.inference_mode():
        difference = (model(images[:8]) - plain(images[:8])).abs().max().item()
    print(f"timm's DeiT: {before:.1%} of {len(labels) - SEEN} held-out digits")
    print(f"with convolution paths: largest difference {difference:.1e} before training")

    train(model, images, labels, steps // 2)
    after = accuracy(model, images, labels)
    print(f"after {steps // 2} steps more: {after:.1%}")
    for name, rates in acmix.path_rates(model).items():
        print(f"{name}: α {rates.attention:.3f}, β {rates.conv:.3f}")
    return difference, before, after


if __name__ == "__main__":
    main()
