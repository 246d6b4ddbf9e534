"""Cases for what CPU kernels do and no odd case of an operator reaches: whole vectors, and tables that are full."""

from __future__ import annotations

from typing import Any

from acmix.ops.conv_path.cases import Case as ConvCase
from acmix.ops.conv_path.spec import MOST_TAPS
from acmix.ops.local_attention.cases import Case as LocalCase
from acmix.ops.local_attention.spec import MOST_SIDE
from acmix.ops.window_attention.cases import Case as WindowCase
from acmix.ops.window_attention.spec import MOST_WINDOW_PIXELS

MOST_SIDE_OF_KERNEL = int(MOST_TAPS**0.5)

# by operator; 16 channels are the widest vector, and one, two, three, four, six outputs a channel,
# and multiples of four, have ways of their own into the order of memory
WIDE_CASES: dict[str, tuple[Any, ...]] = {
    "conv_path": (
        ConvCase("whole vectors, 3 heads", map_size=(1, 8, 9), heads=3, head_dim=32, shift=(3, 2)),
        ConvCase("whole vectors, 5 heads", map_size=(1, 4, 5), heads=5, head_dim=16),
        ConvCase("whole vectors, stride 2", map_size=(1, 7, 20), heads=4, head_dim=16, stride=2),
        *(
            ConvCase(f"{heads} outputs a channel", map_size=(1, 3, 5), heads=heads, head_dim=32, plus=plus)
            for heads, plus in ((1, ""), (2, "map"), (4, ""), (6, "map"), (7, ""), (8, "tokens"), (12, ""), (24, ""))
        ),
        ConvCase("six outputs a channel, a vector and some", map_size=(1, 3, 5), heads=6, head_dim=21, plus="map"),
        ConvCase("a vector and one channel", map_size=(1, 5, 6), heads=3, head_dim=17, shift=(1, 4)),
    ),
    "window_attention": (
        WindowCase("whole vectors", map_size=(1, 14, 14), heads=3, head_dim=32, window=(7, 7), shift=(3, 3)),
        WindowCase("more heads than are copied at once", map_size=(1, 4, 4), heads=9, head_dim=40),
        WindowCase("more than 64 pixels", map_size=(1, 9, 10), heads=2, head_dim=16, window=(9, 9), shift=(4, 4)),
    ),
    "local_attention": (
        LocalCase("whole vectors", map_size=(1, 9, 20), heads=2, head_dim=32, size=(7, 7)),
        LocalCase("whole vectors, stride 2", map_size=(1, 9, 20), heads=2, head_dim=80, size=(7, 7), stride=2),
    ),
}

# by operator; as large as the tables of fixed size allow
FULL_CASES: dict[str, tuple[Any, ...]] = {
    "conv_path": (
        ConvCase("most taps", map_size=(1, 9, 8), heads=1, conv_size=MOST_SIDE_OF_KERNEL),
        ConvCase("most taps, stride 2", map_size=(1, 4, 9), heads=1, conv_size=MOST_SIDE_OF_KERNEL, stride=2),
    ),
    "window_attention": (
        WindowCase(
            "most pixels, one row", map_size=(1, 1, MOST_WINDOW_PIXELS + 5), heads=1, window=(1, MOST_WINDOW_PIXELS)
        ),
        WindowCase(
            "most pixels, one column", map_size=(1, 9, 1), heads=1, window=(MOST_WINDOW_PIXELS, 1), shift=(3, 0)
        ),
    ),
    "local_attention": (
        LocalCase("longest side", map_size=(1, 3, 20), heads=1, size=(1, MOST_SIDE)),
        LocalCase("longest side, upright", map_size=(1, 20, 3), heads=1, size=(MOST_SIDE, 3)),
    ),
}
