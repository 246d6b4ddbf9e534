"""Numbers that a layer cannot be made of, refused with those that it can."""

from __future__ import annotations

from acmix.errors import UsageError

# No neighbourhood is meant to be as wide as this; a number of channels in the wrong place is.
WIDEST_NEIGHBOURHOOD = 63


def divisors(channels: int) -> list[int]:
    """The numbers of heads that channels can be shared out among."""
    return [n for n in range(1, channels + 1) if channels % n == 0]


def head_dim_of(channels: int, heads: int) -> int:
    """D, the channels of each head."""
    if heads not in divisors(channels):
        raise UsageError(
            f"{heads} heads do not divide {channels} channels; numbers of heads that do: {divisors(channels)}"
        )
    return channels // heads


def choose_heads(channels: int, heads: int | str) -> int:
    """A number of heads that divides the channels: the given one, or the best where it is "auto"."""
    if heads == "auto":
        return max((n for n in divisors(channels) if n <= 8 and channels // n >= 8), default=1)
    if not isinstance(heads, int) or heads not in divisors(channels):
        raise UsageError(
            f"heads={heads!r} does not divide {channels} channels; use one of {divisors(channels)}, or 'auto'"
        )
    return heads


def check_numbers(
    in_channels: int, out_channels: int, attention_size: int, conv_size: int, stride: int, dilation: int
) -> None:
    """Refuses numbers that cannot work, in particular channel counts that slipped into the place of a size."""
    for name, value in {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "attention_size": attention_size,
        "conv_size": conv_size,
        "stride": stride,
        "dilation": dilation,
    }.items():
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name}={value!r}; expected a whole number, at least 1")
    for name, value, usual in (("attention_size", attention_size, 7), ("conv_size", conv_size, 3)):
        if value > WIDEST_NEIGHBOURHOOD:
            raise UsageError(f"{name}={value} looks like a channel count; it is a side in pixels, usually {usual}")
        if value % 2 == 0:
            raise UsageError(f"{name}={value} is even; expected an odd side: {value - 1} or {value + 1}")
