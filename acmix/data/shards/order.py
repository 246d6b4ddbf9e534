"""The order of an epoch over shards: each process reads few of them, nearly from front to back.

The shards are permuted, and the images shuffled within windows of a few shards in a row. The windows, end to end, are
cut into L lanes of equal length, and every step of G images takes a L-th of its images from each lane, in the lane's
order: position q of a step comes from lane q·L // G. As process r of W computes on positions r·G/W to (r+1)·G/W of a
step (see `acmix.data.loader`), it reads from L/W lanes, that is from L/W windows at a time.

The order depends on the seed (of the run and the epoch) and on G; on neither W nor the number of reading workers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

# lanes are what a step is mixed from, so many rather than few; more processes than that share them
LANES = 64


def shard_order(shards: np.ndarray, *, seed: int, step: int, window: int, lanes: int = LANES) -> torch.Tensor:
    """Permutes the images of a split.

    Args:
        shards: number of the shard that each image lies in, (n,).
        seed: of this epoch.
        step: images a step (G); the last n % G positions of the order are in no step.
        window: shards whose images are shuffled together.
        lanes: most lanes.

    Returns:
        The images' indices, each once, int64 (n,).
    """
    generator = torch.Generator().manual_seed(seed)
    by_shard = np.argsort(shards, kind="stable")
    rows = np.split(by_shard, np.flatnonzero(np.diff(shards[by_shard])) + 1)
    chosen = torch.randperm(len(rows), generator=generator).tolist()
    line = []
    for first in range(0, len(rows), window):
        together = torch.from_numpy(np.concatenate([rows[each] for each in chosen[first : first + window]]))
        line.append(together[torch.randperm(len(together), generator=generator)])
    return dealt(torch.cat(line), step, lane_count(len(rows), step, window, lanes))


def lane_count(shards: int, step: int, window: int, lanes: int = LANES) -> int:
    """How many lanes there are: a window at least for each, and an image a step."""
    return max(1, min(lanes, step, -(-shards // window)))


def dealt(line: torch.Tensor, step: int, lanes: int) -> torch.Tensor:
    """Cuts a line of images into lanes, and deals each step its share of every lane."""
    steps = len(line) // step
    columns, first = [], 0
    for begin, end in pairwise(lane * step // lanes for lane in range(lanes + 1)):
        share = end - begin
        columns.append(line[first : first + steps * share].view(steps, share))
        first += steps * share
    return torch.cat([torch.cat(columns, dim=1).flatten(), line[first:]])
