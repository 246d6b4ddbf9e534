"""ACmix2d in a plain PyTorch network, trained on scikit-learn's 1,797 handwritten digits.

`ACmix2d(in, out, stride=2)` stands where `nn.Conv2d(in, out, 3, stride=2, padding=1)` would. Everything else is PyTorch
as you know it. It takes seconds on two CPU cores: `python examples/acmix2d_in_a_cnn.py`.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import acmix

EPOCHS = 6


def network() -> nn.Module:
    """(B, 1, 8, 8) -> (B, 10)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(acmix.ACmix2d(32, 64, heads=4, attention_size=5, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def main() -> float:
    torch.manual_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # 0 to 1
    labels = torch.tensor(digits)
    order = torch.randperm(len(labels))
    held_out, seen = order[:360], order[360:]

    model, right = network(), 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        model.train()
        for batch in seen[torch.randperm(len(seen))].split(64):
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            right = (model(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
        print(f"epoch {epoch + 1}: {right:.1%} of {len(held_out)} held-out digits")
    [(name, rates)] = acmix.path_rates(model).items()
    print(f"layer {name}: α {rates.attention:.3f} of the attention, β {rates.conv:.3f} of the convolution")
    return right


if __name__ == "__main__":
    main()
