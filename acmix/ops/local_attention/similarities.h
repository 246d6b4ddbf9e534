// Products of queries with their neighbours' keys, pixels as lanes, and the softmax over them.
#pragma once

#include <cmath>

#include "planes.h"

namespace acmix::local_attention {

// The queries that are looked at together: LANES pixels, from column x, in `rows` rows from row y of the output.
struct QueryGroup {
    int64_t y, x, rows;
};

// Numbers for each row of queries and tap, for LANES pixels each.
struct TapWeights {
    Vec* start;
    int64_t step;

    // four more, since rows of taps are read by four
    static int64_t size(const Shape& s) { return s.rows_per_group() * s.taps() + 4; }
    TapWeights(const Shape& s, Vec* memory) : start(memory), step(s.taps()) {
        for (int64_t i = 0; i < size(s); i++) start[i] = Vec{};
    }
    Vec* row(int64_t u) const { return start + u * step; }
};

// to[u][j] = Σ_d in[u][d]·plane[d][x + tap j] for U rows of queries and J taps of one row of neighbours.
template <int U, int J>
void similarity_block(const float* in, int64_t in_row, int64_t in_step, const float* plane, int64_t plane_step,
                      int64_t channels, const int64_t* taps, Vec* to, int64_t to_row) {
    for (int64_t d = 0; d < channels;) {
        Vec acc[U][J] = {};
        int64_t first = d, last = at_most(channels, d + PRODUCTS_AT_ONCE);
        for (; d < last; d++) {
            Vec v[U];
            ACMIX_UNROLL
            for (int u = 0; u < U; u++) v[u] = load(in + u * in_row + d * in_step);
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) {
                Vec key = load(plane + d * plane_step + taps[j]);
                ACMIX_UNROLL
                for (int u = 0; u < U; u++) acc[u][j] += v[u] * key;
            }
        }
        ACMIX_UNROLL
        for (int u = 0; u < U; u++) {
            Vec* row = to + u * to_row;
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) row[j] = first ? row[j] + acc[u][j] : acc[u][j];
        }
    }
}

template <int U>
void similarity_row(int64_t count, const float* in, int64_t in_row, int64_t in_step, const float* plane,
                    int64_t plane_step, int64_t channels, const int64_t* taps, Vec* to, int64_t to_row) {
    constexpr int MOST = ACCUMULATORS / U < 7 ? ACCUMULATORS / U : 7;
    static constexpr decltype(&similarity_block<U, 1>) by_size[] = {
        similarity_block<U, 1>, similarity_block<U, 2>, similarity_block<U, 3>, similarity_block<U, 4>,
        similarity_block<U, 5>, similarity_block<U, 6>, similarity_block<U, 7>};
    for (int64_t j = 0; j < count;) {
        int64_t size = ceil_div(count - j, ceil_div(count - j, MOST));
        by_size[size - 1](in, in_row, in_step, plane, plane_step, channels, taps + j, to + j, to_row);
        j += size;
    }
}

// The product of `in`, (rows, D, pixels of a row), with the neighbour at every tap, for every row of queries.
inline void similarities(const Shape& s, const QueryGroup& group, const float* in, const Planes& planes,
                         const int64_t* taps, const TapWeights& to) {
    static constexpr decltype(&similarity_row<1>) by_rows[] = {similarity_row<1>, similarity_row<2>, similarity_row<3>};
    int64_t in_row = s.padded_channels() * s.padded_out_width();
    for (int64_t r = 0; r < s.ky + group.rows - 1; r++) {
        int64_t first = at_least(0, r - s.ky + 1), last = at_most(group.rows - 1, r);
        by_rows[last - first](s.kx, in + first * in_row + group.x, in_row, s.padded_out_width(),
                              planes.row(group.y * s.stride + r * s.dilation, 0) + group.x, planes.step, s.channels,
                              taps, to.row(first) + (r - first) * s.kx, to.step - s.kx);
    }
}

// From products, in place, e^(scale·product − largest) over the taps of one row of queries; the sum's inverse.
inline Vec softmax_taps(const Shape& s, float scale, Vec* row) {
    const int64_t taps = s.taps();
    Vec largest = broadcast(-INFINITY), even{}, odd{};
    for (int64_t t = 0; t < taps; t++) largest = max_of(largest, row[t] * scale);
    // below, one fused step rounds scale·product only with `largest` taken off, and so misses `largest` by its rounding
    // (lanes behind a row's last pixel hold anything, a NaN too: each lane answers for itself)
    Int is_huge = (Int)(largest > 1e6f) | (Int)(largest < -1e6f);
    if (largest_of((Vec)((Bits)is_huge & (Bits)broadcast(1.0f))) > 0) {
        for (int64_t t = 0; t < taps; t++) row[t] *= scale;
        scale = 1;
    }
    int64_t t = 0;
    for (; t + 2 <= taps; t += 2) {
        even += row[t] = exp_of(row[t] * scale - largest);
        odd += row[t + 1] = exp_of(row[t + 1] * scale - largest);
    }
    if (t < taps) even += row[t] = exp_of(row[t] * scale - largest);
    return 1.0f / (even + odd);
}

}  // namespace acmix::local_attention
