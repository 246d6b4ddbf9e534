"""A timm model gets convolution paths beside its attention: the same output at first, then a few steps of fine-tuning.

`acmix.add_conv_path(name)` downloads timm's weights, and `pretrained="weights.safetensors"` reads a file of them. This
example needs no network: a small DeiT that is built here stands in the place of a pretrained one.
"""

from typing import Any

import timm
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate

import acmix

STEPS = 100


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    digits = load_digits()
    images = interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, size=32)
    images, labels = images.expand(-1, 3, -1, -1), torch.tensor(digits.target)

    small: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=64, depth=3, num_heads=2, num_classes=10)
    plain = timm.create_model("deit_tiny_patch16_224", **small).eval()
    model = acmix.add_conv_path(plain).eval()  # a copy, with the same weights
    with torch.inference_mode():
        difference = (model(images[:8]) - plain(images[:8])).abs().max().item()
    print(f"largest difference before training: {difference:.1e}")

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(STEPS):
        batch = torch.randint(0, 1437, (64,))
        loss = cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 24:
            print(f"step {step + 1}: loss {loss.item():.3f}")

    model.eval()
    with torch.inference_mode():
        right = (model(images[1437:]).argmax(1) == labels[1437:]).float().mean().item()
    print(f"{right:.1%} of 360 held-out digits")
    for name, rates in acmix.path_rates(model).items():
        print(f"{name}: α {rates.attention:.3f}, β {rates.conv:.3f}")
    return difference, right


if __name__ == "__main__":
    main()
