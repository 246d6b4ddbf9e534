"""What a loop measures while it runs, without waiting for the device that computes."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Loss, gradient norm and speed, kept where they were made and read only when asked for."""

    def __init__(self, device: torch.device) -> None:
        # of the loss and its parts, since they were last read
        self.sums: dict[str, Tensor] = {}
        self.norm = torch.zeros((), device=device)
        self.bad = torch.zeros((), dtype=torch.int64, device=device)
        # losses of steps that no one has read yet; they are summed in float64 on the CPU, which some devices lack
        self.unread: list[Tensor] = []
        self.epoch_sum = 0.0
        self.steps = self.images = self.epoch_steps = 0
        self.seconds = self.epoch_seconds = 0.0
        self.run_steps, self.run_seconds = 0, 0.0
        self.start()

    def start(self) -> None:
        """Starts the clock, before a run of steps."""
        self.before = time.monotonic()

    def start_epoch(self) -> None:
        """Forgets the epoch before."""
        self.unread, self.epoch_sum = [], 0.0
        self.epoch_steps, self.epoch_seconds = 0, 0.0

    def add(self, losses: dict[str, Tensor], norm: Tensor, finite: Tensor, *, step: int, images: int) -> None:
        """Takes in one step; `step` counts from 1, `finite` says whether training may go on after it.

        `losses` has the loss as "loss", and its parts by their names.
        """
        for name, loss in losses.items():
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss
        self.unread.append(losses["loss"])
        self.norm = norm
        self.bad = torch.where((self.bad == 0) & ~finite, torch.full_like(self.bad, step), self.bad)
        self.steps += 1
        self.epoch_steps += 1
        self.run_steps += 1
        self.images += images
        self.tick()

    def tick(self) -> None:
        """Adds the time since the last tick."""
        now = time.monotonic()
        self.seconds += now - self.before
        self.epoch_seconds += now - self.before
        self.run_seconds += now - self.before
        self.before = now

    def sum_up(self) -> float:
        """The sum of the epoch's losses so far; waits for the device."""
        for loss in torch.stack(self.unread).tolist() if self.unread else []:
            self.epoch_sum += loss
        self.unread = []
        return self.epoch_sum

    def first_bad_step(self) -> int:
        """The first step that was not finite, or 0; waits for the device."""
        return int(self.bad.item())

    def read(self) -> tuple[dict[str, float], float, float]:
        """Mean losses by name, last gradient norm and images a second since the last call."""
        losses = {name: total.item() / max(self.steps, 1) for name, total in self.sums.items()}
        norm = self.norm.item()
        # the device has only now come to the end of these steps
        self.sum_up()
        self.tick()
        speed = self.images / max(self.seconds, 1e-9)
        self.sums = {}
        self.steps = self.images = 0
        self.seconds = 0.0
        return losses, norm, speed

    def whole_epoch(self, images_per_step: int) -> tuple[float, float, float]:
        """Mean loss, seconds, and images a second of the epoch's steps."""
        loss = self.sum_up() / max(self.epoch_steps, 1)
        return loss, self.epoch_seconds, self.epoch_steps * images_per_step / max(self.epoch_seconds, 1e-9)

    def whole_run(self, images_per_step: int) -> float | None:
        """Images a second of all steps, those before a stop too; None where there were none."""
        return self.run_steps * images_per_step / max(self.run_seconds, 1e-9) if self.run_steps else None

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of an epoch under way, and of the run."""
        epoch = dict(loss_sum=self.sum_up(), steps=self.epoch_steps, seconds=self.epoch_seconds)
        return epoch | dict(run_steps=self.run_steps, run_seconds=self.run_seconds)

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes over what a checkpoint kept."""
        self.unread, self.epoch_sum = [], float(state["loss_sum"])
        self.epoch_steps, self.epoch_seconds = state["steps"], state["seconds"]
        # older checkpoints know the epoch under way alone
        self.run_steps, self.run_seconds = (state.get(f"run_{key}", state[key]) for key in ("steps", "seconds"))
