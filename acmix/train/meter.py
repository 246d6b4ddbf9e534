"""What a loop measures while it runs, without waiting for the device that computes."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Meter:
    """Loss, gradient norm and speed, kept where they were made and read only when asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sum, self.bad = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        self.epoch_sum, self.epoch_steps = torch.zeros((), device=device), 0
        self.norm = torch.zeros((), device=device)
        self.steps = self.images = 0
        self.began = self.since = time.monotonic()

    def add(self, loss: Tensor, norm: Tensor, step: int, images: int) -> None:
        """Takes in one step; `step` counts from 1."""
        self.sum += loss
        self.epoch_sum += loss
        self.norm = norm
        self.bad = torch.where((self.bad == 0) & ~torch.isfinite(loss), torch.full_like(self.bad, step), self.bad)
        self.steps += 1
        self.epoch_steps += 1
        self.images += images

    def first_bad_step(self) -> int:
        """The first step whose loss was not finite, or 0; waits for the device."""
        return int(self.bad.item())

    def read(self) -> tuple[float, float, float]:
        """Mean loss, last gradient norm and images a second since the last call."""
        loss, norm = self.sum.item() / max(self.steps, 1), float(self.norm)
        now = time.monotonic()
        speed = self.images / max(now - self.since, 1e-9)
        self.sum.zero_()
        self.steps = self.images = 0
        self.since = now
        return loss, norm, speed

    def whole_epoch(self, images_per_step: int) -> tuple[float, float, float]:
        """Mean loss, seconds, and images a second since the epoch began."""
        loss = self.epoch_sum.item() / max(self.epoch_steps, 1)
        seconds = time.monotonic() - self.began
        return loss, seconds, self.epoch_steps * images_per_step / max(seconds, 1e-9)
