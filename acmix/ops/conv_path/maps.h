// The maps f of the convolution path, one row at a time: out[q] = Σ_r weight[r, q]·in[r] + bias[q] for every pixel.
#pragma once

#include "shape.h"

namespace acmix::conv_path {

// Rows of planes of vectors: `at(row, plane)` is where column 0 lies, behind `pad` columns of zeros. Only the last
// `kept` rows are there.
struct RowBuffer {
    Vec* start;
    int64_t kept, planes, width, pad;

    int64_t plane() const { return width + 2 * pad; }
    int64_t row() const { return planes * plane(); }
    int64_t size() const { return kept * row(); }
    Vec* at(int64_t y, int64_t p) const { return start + y % kept * row() + p * plane() + pad; }

    void clear_sides(int64_t y) const {
        for (int64_t p = 0; p < planes; p++)
            for (int64_t x = 0; x < pad; x++) at(y, p)[x - pad] = at(y, p)[width + x] = Vec{};
    }
};

// Where vectors come from: number r of pixel x lies at `start + r·plane + x·pixel`.
template <class E>
struct Source {
    const E* start;
    int64_t plane, pixel;

    Source at(int64_t x) const { return {start + x * pixel, plane, pixel}; }
    Vec get(int64_t r, int64_t x) const { return load(start + r * plane + x * pixel); }
    void fetch(int64_t r, int64_t x) const { __builtin_prefetch(start + r * plane + x * pixel); }
};

// Where vectors go, in the same way.
template <class E>
struct Sink {
    E* start;
    int64_t plane, pixel;

    Sink at(int64_t x) const { return {start + x * pixel, plane, pixel}; }
    Sink from(int64_t r) const { return {start + r * plane, plane, pixel}; }
    void put(int64_t r, int64_t x, Vec v) const { store(start + r * plane + x * pixel, v); }
};

inline Sink<float> sink_of(Vec* planes, int64_t plane) {
    return {reinterpret_cast<float*>(planes), plane * LANES, LANES};
}

inline Source<float> source_of(const Vec* planes, int64_t plane) {
    return {reinterpret_cast<const float*>(planes), plane * LANES, LANES};
}

// Pieces of one pixel lie too far apart for the processor to foresee; those of a pixel so far ahead are asked for.
constexpr int AHEAD = 3;

template <int Q, int X, class E, class F>
ACMIX_INLINE void fc_pixels(Source<E> in, int64_t count, const float* weight, int64_t row, const float* bias, Sink<F> out) {
    Vec acc[Q][X];
    ACMIX_UNROLL
    for (int q = 0; q < Q; q++) {
        ACMIX_UNROLL
        for (int x = 0; x < X; x++) acc[q][x] = broadcast(bias ? bias[q] : 0.0f);
    }
    for (int64_t r = 0; r < count; r++) {
        Vec v[X];
        ACMIX_UNROLL
        for (int x = 0; x < X; x++) v[x] = in.get(r, x);
        ACMIX_UNROLL
        for (int x = 0; x < X; x++) in.fetch(r, x + AHEAD);
        ACMIX_UNROLL
        for (int q = 0; q < Q; q++) {
            float w = weight[r * row + q];
            ACMIX_UNROLL
            for (int x = 0; x < X; x++) acc[q][x] += v[x] * w;
        }
    }
    ACMIX_UNROLL
    for (int q = 0; q < Q; q++) {
        ACMIX_UNROLL
        for (int x = 0; x < X; x++) out.put(q, x, acc[q][x]);
    }
}

template <int Q, class E, class F>
void fc_row(Source<E> in, int64_t count, int64_t width, const float* weight, int64_t row, const float* bias,
            Sink<F> out) {
    constexpr int MOST = (ACCUMULATORS + 3) / Q, X = MOST < 1 ? 1 : MOST < 4 ? MOST : 4;
    if (width < X)
        for (int64_t x = 0; x < width; x++) fc_pixels<Q, 1>(in.at(x), count, weight, row, bias, out.at(x));
    else
        for (int64_t done = 0; done < width; done += X) {
            int64_t x = at_most(done, width - X);
            fc_pixels<Q, X>(in.at(x), count, weight, row, bias, out.at(x));
        }
}

// `weight` is (count, outs).
template <class E, class F>
void apply_fc(Source<E> in, int64_t count, int64_t width, const float* weight, int64_t outs, const float* bias,
              Sink<F> out) {
    static constexpr decltype(&fc_row<1, E, F>) by_size[] = {fc_row<1, E, F>, fc_row<2, E, F>, fc_row<3, E, F>,
                                                      fc_row<4, E, F>, fc_row<5, E, F>, fc_row<6, E, F>,
                                                      fc_row<7, E, F>, fc_row<8, E, F>, fc_row<9, E, F>};
    for (int64_t q = 0; q < outs;) {
        int64_t size = even_piece(outs - q, 9);
        by_size[size - 1](in, count, width, weight + q, outs, bias ? bias + q : nullptr, out.from(q));
        q += size;
    }
}

// One row of pieces as planes; the row and its columns are those of the rolled map.
template <class E>
void read_pieces(const Shape& s, const E* pieces, int64_t b, int64_t y, int64_t block, Vec* planes) {
    const E* row = pieces + b * s.step_b + s.rolled_row(y) * s.step_y + block * LANES;
    for (int64_t x = 0; x < s.width; x++) {
        const E* pixel = row + s.rolled_column(x) * s.step_x;
        for (int64_t p = 0; p < s.pieces; p++) planes[p * s.width + x] = load(pixel + p * s.step_p, s.lanes(block));
    }
}

// The maps f of one row.
template <class E>
void make_maps(const Shape& s, const E* pieces, const float* fc, const float* bias, int64_t b, int64_t y, int64_t block,
               Vec* planes, const RowBuffer& f) {
    if (s.lanes(block) < LANES) {
        read_pieces(s, pieces, b, y, block, planes);
        apply_fc(source_of(planes, s.width), s.pieces, s.width, fc, s.maps, bias, sink_of(f.at(y, 0), f.plane()));
    } else {
        Source<E> row{pieces + b * s.step_b + s.rolled_row(y) * s.step_y + block * LANES, s.step_p, s.step_x};
        int64_t seam = s.width - s.shift_x;
        apply_fc(row.at(s.shift_x), s.pieces, seam, fc, s.maps, bias, sink_of(f.at(y, 0), f.plane()));
        apply_fc(row, s.pieces, s.shift_x, fc, s.maps, bias, sink_of(f.at(y, 0) + seam, f.plane()));
    }
    f.clear_sides(y);
}

}  // namespace acmix::conv_path
