// Sums of neighbours' channels by weight, channels as lanes.
#pragma once

#include "shape.h"

namespace acmix::local_attention {

// A sum over neighbours, for pixels x, x + 1, …: Σ_row Σ_column weight·channels, both counted from those of pixel 0.
struct WindowSum {
    int64_t rows = 0, columns = 0, weight_step, from_step;  // steps: from one pixel to the next
    const float* weight[MOST_SIDE];
    const Vec* from[MOST_SIDE];
    int64_t weight_at[MOST_SIDE], from_at[MOST_SIDE];  // of a column
};

// Pixels that are summed up at once, with J vectors of channels each.
constexpr int pixels_per_pass(int j) { return ACCUMULATORS / j < 8 ? ACCUMULATORS / j : 8; }

// Neighbours that one accumulator adds up at most; with more, rounding would grow with the neighbourhood.
constexpr int64_t TAPS_PER_PART = 64;

// Some rows and columns of a sum.
struct Part {
    int64_t first_row, last_row, first_column, last_column;  // the last are outside
};

// J vectors of channels, from number d0, of as many pixels as go together. `adjacent`: they are all a pixel has, and
// the pixels neighbours, so that the compiler knows where everything lies.
template <int J, bool adjacent>
void sum_part(const WindowSum& terms, const Part& part, int64_t x, int64_t d0, Vec* to) {
    constexpr int I = pixels_per_pass(J);
    const int64_t from_step = adjacent ? J : terms.from_step;
    Vec acc[I][J] = {};
    for (int64_t row = part.first_row; row < part.last_row; row++)
        for (int64_t column = part.first_column; column < part.last_column; column++) {
            const float* weight = terms.weight[row] + terms.weight_at[column] + x * terms.weight_step;
            const Vec* from = terms.from[row] + terms.from_at[column] + x * from_step + d0;
            ACMIX_UNROLL
            for (int k = 0; k < I; k++) {
                float w = weight[k * terms.weight_step];
                ACMIX_UNROLL
                for (int d = 0; d < J; d++) acc[k][d] += from[k * from_step + d] * w;
            }
        }
    ACMIX_UNROLL
    for (int k = 0; k < I; k++) {
        ACMIX_UNROLL
        for (int d = 0; d < J; d++) to[k * J + d] = acc[k][d];
    }
}

// The same of all neighbours.
template <int J, bool adjacent>
void sum_pixels(const WindowSum& terms, int64_t x, int64_t d0, Vec* to) {
    constexpr int SIZE = pixels_per_pass(J) * J;
    if (terms.rows * terms.columns <= TAPS_PER_PART)
        return sum_part<J, adjacent>(terms, {0, terms.rows, 0, terms.columns}, x, d0, to);
    int64_t columns = at_most(TAPS_PER_PART, terms.columns), rows = TAPS_PER_PART / columns;
    for (int i = 0; i < SIZE; i++) to[i] = Vec{};
    for (int64_t row = 0; row < terms.rows; row += rows)
        for (int64_t column = 0; column < terms.columns; column += columns) {
            Vec more[SIZE];
            Part part{row, at_most(terms.rows, row + rows), column, at_most(terms.columns, column + columns)};
            sum_part<J, adjacent>(terms, part, x, d0, more);
            for (int i = 0; i < SIZE; i++) to[i] += more[i];
        }
}

// Calls `with(x, d, vector)` for pixels from `first` to `last` and all their channels.
template <int J, class F>
void sum_channels(const WindowSum& terms, int64_t first, int64_t last, int64_t d0, F with) {
    constexpr int I = pixels_per_pass(J);
    Vec result[I * J];
    for (int64_t x = first; x < last; x += I) {
        (terms.from_step == J ? sum_pixels<J, true> : sum_pixels<J, false>)(terms, x, d0, result);
        for (int64_t k = 0; k < at_most(I, last - x); k++)
            for (int d = 0; d < J; d++) with(x + k, d0 + d, result[k * J + d]);
    }
}

template <class F>
void sum_windows(const Shape& s, const WindowSum& terms, int64_t first, int64_t last, F with) {
    for (int64_t d = 0; d < s.depth();) {
        int64_t size = ceil_div(s.depth() - d, ceil_div(s.depth() - d, 4));
        if (size == 4) sum_channels<4>(terms, first, last, d, with);
        if (size == 3) sum_channels<3>(terms, first, last, d, with);
        if (size == 2) sum_channels<2>(terms, first, last, d, with);
        if (size == 1) sum_channels<1>(terms, first, last, d, with);
        d += size;
    }
}

// The terms that queries of row y gather from a map with margins; pixel x's weight for tap t is weights[x·step + t].
inline void gather_window(const Shape& s, const Vec* map, int64_t y, const float* weights, int64_t step,
                          WindowSum& terms) {
    terms.rows = s.ky, terms.columns = s.kx, terms.weight_step = step, terms.from_step = s.stride * s.depth();
    for (int64_t i = 0; i < s.ky; i++) {
        terms.weight[i] = weights + i * s.kx;
        terms.from[i] = map + (y * s.stride + i * s.dilation) * s.padded_width() * s.depth();
    }
    for (int64_t j = 0; j < s.kx; j++) terms.weight_at[j] = j, terms.from_at[j] = j * s.dilation * s.depth();
}

inline int64_t map_size(const Shape& s) { return s.padded_height() * s.padded_width() * s.depth(); }

// Pixels are read by four, and summed as many as go together, so there have to be a few behind the last.
inline int64_t map_capacity(const Shape& s) { return map_size(s) + (pixels_per_pass(1) + 4) * s.stride * s.depth(); }

}  // namespace acmix::local_attention
