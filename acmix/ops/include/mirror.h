// Borders that are mirrors, by index.
#pragma once

#include <cstdint>

namespace acmix {

// The pixel that stands at a place left of, on or right of a line of `side` pixels mirrored at both ends.
inline int64_t mirrored(int64_t place, int64_t side) {
    if (side == 1) return 0;
    int64_t period = 2 * (side - 1), at = place % period;
    if (at < 0) at += period;
    return at < side ? at : period - at;
}

}  // namespace acmix
