// What both directions of the convolution path know of a call. Letters as in acmix/ops/README.md.
#pragma once

#include "lanes.h"

namespace acmix::conv_path {

constexpr int64_t MOST_TAPS = ACMIX_MOST_TAPS;  // from spec.py

struct Shape {
    int64_t batch, height, width, pieces, channels, maps, outputs, ky, kx, stride, dilation, shift_y, shift_x;
    int64_t onto;    // 1 where the gradient of the pieces is added to what lies there, else 0
    int64_t tokens;                          // rows of an image's outputs before those of its pixels
    int64_t step_b, step_y, step_x, step_p;  // of the pieces, in numbers; a piece's channels are adjacent

    int64_t out_height() const { return (height - 1) / stride + 1; }
    int64_t out_width() const { return (width - 1) / stride + 1; }
    // Where the outputs of an image's pixels begin.
    int64_t out_image(int64_t b) const {
        return ((b + 1) * tokens + b * out_height() * out_width()) * channels * outputs;
    }
    int64_t taps() const { return ky * kx; }
    int64_t pad_y() const { return ky / 2 * dilation; }
    int64_t pad_x() const { return kx / 2 * dilation; }
    int64_t blocks() const { return ceil_div(channels, LANES); }
    int lanes(int64_t block) const { return int(at_most(LANES, channels - block * LANES)); }
    int64_t rolled_row(int64_t y) const { return (y + shift_y) % height; }
    int64_t rolled_column(int64_t x) const { return x + shift_x < width ? x + shift_x : x + shift_x - width; }
};

// How a number of things is cut into pieces of at most `most`, as evenly as can be.
inline int64_t even_piece(int64_t left, int64_t most) { return ceil_div(left, ceil_div(left, most)); }

// How many of M outputs or T maps one pass makes, of `left` that are left: 3 leave registers for 8 pixels, of which
// most widths are multiples or nearly so; else at most 4, so that the last pass has not one alone.
inline int64_t sums_per_pass(int64_t all, int64_t left) {
    return at_most(left, all % 3 == 0 ? 3 : even_piece(all, 4));
}

// Rows of outputs of one pass: so many that the kernels, which go through the cache in each pass, are used for a good
// number of pixels.
constexpr int64_t MOST_ROWS_PER_PASS = 48;

inline int64_t rows_per_pass(const Shape& s) { return at_least(1, MOST_ROWS_PER_PASS / s.out_width()); }

// Rows of one task: all, unless there are fewer images than threads; each further task makes a few maps once more.
inline int64_t rows_of_task(const Shape& s, int64_t tasks) {
    return even_piece(s.out_height(), at_least(at_most(s.out_height(), 4), s.out_height() * s.batch / tasks));
}

}  // namespace acmix::conv_path
