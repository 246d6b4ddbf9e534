"""timm's mixup and cutmix, with its draws and to its bits, in fewer passes over the images."""

from __future__ import annotations

from typing import Any

from timm.data import Mixup
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor


class Mixing(Mixup):
    """Mixes each image with the one at its place from the end; arguments are timm's."""

    def _mix_batch(self, x: Tensor) -> Any:
        """Mixes images (b, C, H, W) in place, all alike, and gives the share that each keeps."""
        share, is_cut = self._params_per_batch()
        if share == 1.0:
            return 1.0
        if is_cut:
            (top, bottom, left, right), share = cutmix_bbox_and_lam(
                x.shape, share, ratio_minmax=self.cutmix_minmax, correct_lam=self.correct_lam
            )
            part = x[:, :, top:bottom, left:right]
            part.copy_(part.flip(0))
        elif x.device.type == "cpu":
            # two images at a time, which lie in the processor's cache
            for number in range(len(x) // 2):
                first, last = x[number], x[-1 - number]
                of_first, of_last = first * (1.0 - share), last * (1.0 - share)
                first.mul_(share).add_(of_last)
                last.mul_(share).add_(of_first)
        else:
            flipped = x.flip(0).mul_(1.0 - share)
            x.mul_(share).add_(flipped)
        return share
