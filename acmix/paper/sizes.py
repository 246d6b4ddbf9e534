"""The sizes of what `acmix paper decompose` takes apart, and how large they may be."""

from __future__ import annotations

from dataclasses import dataclass

from acmix.errors import UsageError
from acmix.layers.checks import WIDEST_NEIGHBOURHOOD

# numbers of one tensor: a gigabyte in float64
MOST = 2**27
# of the convolution, what the widest network of the table by width can be counted with
LARGEST = {"conv_size": 11, "attention_size": WIDEST_NEIGHBOURHOOD}


@dataclass(frozen=True)
class Sizes:
    """What is decomposed.

    Args:
        channels: C, in and out.
        side: H = W.
        conv_size: K of the convolution; odd.
        attention_size: K of the attention's neighbourhood; odd.
        heads: N.
        stride, dilation: of the convolution that is taken apart.
    """

    channels: int = 64
    side: int = 14
    conv_size: int = 3
    attention_size: int = 7
    heads: int = 4
    stride: int = 1
    dilation: int = 1

    def __post_init__(self) -> None:
        for name in ("conv_size", "attention_size"):
            side = getattr(self, name)
            if side < 1 or side % 2 == 0:
                raise UsageError(f"{name}={side}; expected an odd number, so that there is a middle")
        for name in ("channels", "side", "heads", "stride", "dilation"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}; expected at least 1")
        pixels, c = self.side**2, self.channels
        numbers = max(
            2 * self.conv_size**2 * c * pixels,  # the maps of stage I
            self.conv_size**2 * c**2,  # the kernel
            2 * self.heads * pixels**2,  # the weights of an attention over the whole map
            self.attention_size**2 * c * pixels,  # neighbourhoods
        )
        if numbers > MOST:
            raise UsageError(
                f"{c} channels in {self.heads} heads on a map of {self.side}×{self.side} with K = {self.conv_size} and "
                f"{self.attention_size} would need more than {MOST:.0e} numbers at once; expected smaller sizes"
            )
        for name, most in LARGEST.items():
            if getattr(self, name) > most:
                raise UsageError(f"{name}={getattr(self, name)}; expected at most {most}")
        for name in ("stride", "dilation"):
            if getattr(self, name) > self.side:
                raise UsageError(f"{name}={getattr(self, name)}; expected at most {self.side}, the side of the map")
        if self.channels % self.heads:
            raise UsageError(f"{self.channels} channels are no multiple of {self.heads} heads")
