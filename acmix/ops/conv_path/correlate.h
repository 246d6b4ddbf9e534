// Correlation of planes with kernels: sum j of pixel x = Σ_tap Σ_plane in[plane][x + tap]·weight[tap][plane][j].
#pragma once

#include "shape.h"

namespace acmix::conv_path {

struct Taps {
    int64_t count = 0;
    const Vec* in[MOST_TAPS];      // column 0 of plane 0, as the tap sees it
    const Vec* weight[MOST_TAPS];  // (planes, J)
};

// Where sums go: sum j of pixel x to `start[j·plane + x·step]`.
struct Sums {
    Vec* start;
    int64_t plane, step;
};

// Sums of large kernels are made of sums of so many products, which keeps their rounding errors small.
constexpr int64_t PRODUCTS_AT_ONCE = 48;

template <int X, int J>
void correlate_taps(const Taps& taps, int64_t first, int64_t last, int64_t x0, int64_t step, int64_t planes,
                    int64_t plane, const Sums& to) {
    Vec acc[X][J] = {};
    for (int64_t k = first; k < last; k++) {
        const Vec* in = taps.in[k] + x0 * step;
        const Vec* weight = taps.weight[k];
        for (int64_t p = 0; p < planes; p++, in += plane, weight += J) {
            Vec w[J];
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) w[j] = weight[j];
            if (step == 1) {
                ACMIX_UNROLL
                for (int x = 0; x < X; x++) {
                    Vec v = in[x];
                    keep_in_register(v);
                    ACMIX_UNROLL
                    for (int j = 0; j < J; j++) acc[x][j] += v * w[j];
                }
            } else {
                ACMIX_UNROLL
                for (int x = 0; x < X; x++) {
                    Vec v = in[x * step];
                    keep_in_register(v);
                    ACMIX_UNROLL
                    for (int j = 0; j < J; j++) acc[x][j] += v * w[j];
                }
            }
        }
    }
    ACMIX_UNROLL
    for (int j = 0; j < J; j++) {
        Vec* row = to.start + j * to.plane + x0 * to.step;
        ACMIX_UNROLL
        for (int x = 0; x < X; x++) row[x * to.step] = first ? row[x * to.step] + acc[x][j] : acc[x][j];
    }
}

template <int X, int J>
void correlate_pixels(const Taps& taps, int64_t x0, int64_t step, int64_t planes, int64_t plane, const Sums& to) {
    int64_t first = 0;
    do {
        int64_t last = at_most(taps.count, first + at_least(1, PRODUCTS_AT_ONCE / planes));
        correlate_taps<X, J>(taps, first, last, x0, step, planes, plane, to);
        first = last;
    } while (first < taps.count);
}

template <int J>
void correlate(int64_t pixels, const Taps& taps, int64_t x0, int64_t step, int64_t planes, int64_t plane, const Sums& to) {
    static constexpr decltype(&correlate_pixels<1, J>) by_size[] = {
        correlate_pixels<1, J>, correlate_pixels<2, J>, correlate_pixels<3, J>, correlate_pixels<4, J>,
        correlate_pixels<5, J>, correlate_pixels<6, J>, correlate_pixels<7, J>, correlate_pixels<8, J>};
    by_size[pixels - 1](taps, x0, step, planes, plane, to);
}

constexpr int MOST_PIXELS = 8;

inline void correlate(int64_t pixels, int64_t sums, const Taps& taps, int64_t x0, int64_t step, int64_t planes,
                      int64_t plane, const Sums& to) {
    static constexpr decltype(&correlate<1>) by_size[] = {correlate<1>, correlate<2>, correlate<3>, correlate<4>};
    by_size[sums - 1](pixels, taps, x0, step, planes, plane, to);
}

inline int64_t pixels_per_pass(int64_t width, int64_t sums) {
    return even_piece(width, at_most(MOST_PIXELS, at_least(1, ACCUMULATORS / sums)));
}

}  // namespace acmix::conv_path
