// What both directions of local attention know of a call. Letters as in acmix/ops/README.md.
#pragma once

#include "lanes.h"

namespace acmix::local_attention {

constexpr int64_t MOST_SIDE = ACMIX_MOST_SIDE;  // from spec.py

struct Shape {
    int64_t batch, height, width, heads, channels, ky, kx, stride, dilation;
    int64_t step_b, step_y, step_x, step_s, step_n;  // of qkv, in numbers; a head's channels are adjacent

    int64_t out_height() const { return (height - 1) / stride + 1; }
    int64_t out_width() const { return (width - 1) / stride + 1; }
    int64_t pad_y() const { return ky / 2 * dilation; }
    int64_t pad_x() const { return kx / 2 * dilation; }
    int64_t padded_height() const { return height + 2 * pad_y(); }
    int64_t padded_width() const { return width + 2 * pad_x(); }
    int64_t depth() const { return ceil_div(channels, LANES); }  // vectors in a pixel's channels
    int64_t padded_channels() const { return depth() * LANES; }
    int64_t padded_out_width() const {
        return ceil_div(out_width(), LANES) * LANES;
    }  // a row of queries in whole vectors
    int64_t taps() const { return ky * kx; }
    int64_t rows_per_group() const { return stride == 1 && dilation == 1 ? 3 : 1; }
};

constexpr int MOST_ROWS_PER_GROUP = 3;

inline int64_t columns_size(const Shape& s) { return ceil_div(2 * s.padded_width(), LANES); }

// A thread's memory, handed out piece by piece.
struct Workspace {
    Vec* next;

    Vec* vectors(int64_t count) { return next += count, next - count; }
    float* numbers(int64_t count) { return reinterpret_cast<float*>(vectors(ceil_div(count, LANES))); }
    int64_t* columns(const Shape& s) { return reinterpret_cast<int64_t*>(vectors(columns_size(s))); }
};

}  // namespace acmix::local_attention
