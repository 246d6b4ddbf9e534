// What both directions of patchwise attention know of a call. Letters as in acmix/ops/README.md.
#pragma once

#include <vector>

#include "entry.h"
#include "mirror.h"

namespace acmix::patchwise_attention {

struct Shape {
    int64_t batch, height, width, channels, groups, ky, kx;

    int64_t group_size() const { return channels / groups; }
    int64_t taps() const { return ky * kx; }
    int64_t image() const { return height * width * channels; }                 // numbers of one image's values
    int64_t image_weights() const { return height * width * taps() * groups; }  // and of its weights
};

// For each place −reach … side − 1 + reach of a line the number of its pixel, times a step.
inline std::vector<int64_t> mirrored_offsets(int64_t side, int64_t reach, int64_t step) {
    std::vector<int64_t> offsets(side + 2 * reach);
    for (int64_t i = 0; i < int64_t(offsets.size()); i++) offsets[i] = mirrored(i - reach, side) * step;
    return offsets;
}

// Where a neighbour's row, and its column, lies in an image.
struct NeighbourOffsets {
    std::vector<int64_t> rows, columns;

    explicit NeighbourOffsets(const Shape& s)
        : rows(mirrored_offsets(s.height, s.ky / 2, s.width * s.channels)),
          columns(mirrored_offsets(s.width, s.kx / 2, s.channels)) {}
};

}  // namespace acmix::patchwise_attention
