// The convolution path: forward and gradient. Letters as in acmix/ops/README.md.
//
// The D channels of a piece are the lanes: a "block" is LANES of them, and every number of a block is one vector.
// Maps, outputs and gradients of a pixel are then sums of vector × scalar (fc) or vector × vector (kernels), without
// a horizontal step. A task is one image, one block and some rows; what lies between the input and the output is
// written to a thread's scratch memory as planes of rows of vectors, and stays in its cache.
//
// The roll is arithmetic on the rows and columns that are read and written.

#include "lanes.h"

namespace acmix {
namespace {

struct Shape {
    int64_t batch, height, width, pieces, channels, maps, outputs, ky, kx, stride, dilation, shift_y, shift_x;
    int64_t step_b, step_y, step_x, step_p;  // of the pieces, in numbers; a piece's channels are adjacent

    int64_t out_height() const { return (height - 1) / stride + 1; }
    int64_t out_width() const { return (width - 1) / stride + 1; }
    int64_t taps() const { return ky * kx; }
    int64_t pad_y() const { return ky / 2 * dilation; }
    int64_t pad_x() const { return kx / 2 * dilation; }
    int64_t blocks() const { return ceil_div(channels, LANES); }
    int lanes(int64_t block) const { return int(at_most(LANES, channels - block * LANES)); }
    int64_t rolled_row(int64_t y) const { return (y + shift_y) % height; }
    int64_t rolled_column(int64_t x) const { return x + shift_x < width ? x + shift_x : x + shift_x - width; }
};

// Rows of planes of vectors: `at(row, plane)` is where column 0 lies, behind `pad` columns of zeros. Only the last
// `kept` rows are there.
struct Rows {
    Vec* start;
    int64_t kept, planes, width, pad;

    int64_t plane() const { return width + 2 * pad; }
    int64_t row() const { return planes * plane(); }
    int64_t room() const { return kept * row(); }
    Vec* at(int64_t y, int64_t p) const { return start + y % kept * row() + p * plane() + pad; }

    void clear_sides(int64_t y) const {
        for (int64_t p = 0; p < planes; p++)
            for (int64_t x = 0; x < pad; x++) at(y, p)[x - pad] = at(y, p)[width + x] = Vec{};
    }
};

// How a number of things is cut into pieces of at most `most`, as evenly as can be.
inline int64_t even_piece(int64_t left, int64_t most) { return ceil_div(left, ceil_div(left, most)); }

// --- fc: out[q] = Σ_r weight[r, q]·in[r] + bias[q], pixel by pixel

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

Sink<float> sink_of(Vec* planes, int64_t plane) { return {reinterpret_cast<float*>(planes), plane * LANES, LANES}; }

Source<float> source_of(const Vec* planes, int64_t plane) {
    return {reinterpret_cast<const float*>(planes), plane * LANES, LANES};
}

// Pieces of one pixel lie too far apart for the processor to foresee; those of a pixel so far ahead are asked for.
constexpr int AHEAD = 3;

template <int Q, int X, class E, class F>
void mix_pixels(Source<E> in, int64_t count, const float* weight, int64_t row, const float* bias, Sink<F> out) {
    Vec acc[Q][X];
    ACMIX_UNROLL
    for (int q = 0; q < Q; q++)
        ACMIX_UNROLL
        for (int x = 0; x < X; x++) acc[q][x] = broadcast(bias ? bias[q] : 0.0f);
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
    for (int q = 0; q < Q; q++)
        ACMIX_UNROLL
        for (int x = 0; x < X; x++) out.put(q, x, acc[q][x]);
}

template <int Q, class E, class F>
void mix_row(Source<E> in, int64_t count, int64_t width, const float* weight, int64_t row, const float* bias,
             Sink<F> out) {
    constexpr int MOST = (ACCUMULATORS + 3) / Q, X = MOST < 1 ? 1 : MOST < 4 ? MOST : 4;
    if (width < X)
        for (int64_t x = 0; x < width; x++) mix_pixels<Q, 1>(in.at(x), count, weight, row, bias, out.at(x));
    else
        for (int64_t done = 0; done < width; done += X) {
            int64_t x = at_most(done, width - X);
            mix_pixels<Q, X>(in.at(x), count, weight, row, bias, out.at(x));
        }
}

// `weight` is (count, outs).
template <class E, class F>
void mix(Source<E> in, int64_t count, int64_t width, const float* weight, int64_t outs, const float* bias,
         Sink<F> out) {
    constexpr decltype(&mix_row<1, E, F>) by_size[] = {mix_row<1, E, F>, mix_row<2, E, F>, mix_row<3, E, F>,
                                                       mix_row<4, E, F>, mix_row<5, E, F>, mix_row<6, E, F>,
                                                       mix_row<7, E, F>, mix_row<8, E, F>, mix_row<9, E, F>};
    for (int64_t q = 0; q < outs;) {
        int64_t size = even_piece(outs - q, 9);
        by_size[size - 1](in, count, width, weight + q, outs, bias ? bias + q : nullptr, out.from(q));
        q += size;
    }
}

// --- kernels: acc[x][j] = Σ_tap Σ_plane in[plane][x + tap]·weight[tap][plane][j]

struct Taps {
    int64_t count = 0;
    const Vec* in[256];      // column 0 of plane 0, as the tap sees it
    const Vec* weight[256];  // (planes, J)
};

// Sums of large kernels are made of sums of so many products, which keeps their rounding errors small.
constexpr int64_t PRODUCTS_AT_ONCE = 48;

template <int X, int J>
void correlate_taps(const Taps& taps, int64_t first, int64_t last, int64_t x0, int64_t step, int64_t planes,
                    int64_t plane, Vec* result) {
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
                    ACMIX_UNROLL
                    for (int j = 0; j < J; j++) acc[x][j] += v * w[j];
                }
            } else {
                ACMIX_UNROLL
                for (int x = 0; x < X; x++) {
                    Vec v = in[x * step];
                    ACMIX_UNROLL
                    for (int j = 0; j < J; j++) acc[x][j] += v * w[j];
                }
            }
        }
    }
    ACMIX_UNROLL
    for (int x = 0; x < X; x++)
        ACMIX_UNROLL
        for (int j = 0; j < J; j++) result[x * J + j] = first ? result[x * J + j] + acc[x][j] : acc[x][j];
}

template <int X, int J>
void correlate_pixels(const Taps& taps, int64_t x0, int64_t step, int64_t planes, int64_t plane, Vec* result) {
    int64_t first = 0;
    do {
        int64_t last = at_most(taps.count, first + at_least(1, PRODUCTS_AT_ONCE / planes));
        correlate_taps<X, J>(taps, first, last, x0, step, planes, plane, result);
        first = last;
    } while (first < taps.count);
}

template <int J>
void correlate(int64_t pixels, const Taps& taps, int64_t x0, int64_t step, int64_t planes, int64_t plane, Vec* result) {
    constexpr decltype(&correlate_pixels<1, J>) by_size[] = {
        correlate_pixels<1, J>, correlate_pixels<2, J>, correlate_pixels<3, J>, correlate_pixels<4, J>,
        correlate_pixels<5, J>, correlate_pixels<6, J>, correlate_pixels<7, J>, correlate_pixels<8, J>};
    by_size[pixels - 1](taps, x0, step, planes, plane, result);
}

constexpr int MOST_PIXELS = 8;

void correlate(int64_t pixels, int64_t sums, const Taps& taps, int64_t x0, int64_t step, int64_t planes, int64_t plane,
               Vec* result) {
    constexpr decltype(&correlate<1>) by_size[] = {correlate<1>, correlate<2>, correlate<3>, correlate<4>};
    by_size[sums - 1](pixels, taps, x0, step, planes, plane, result);
}

int64_t pixels_at_once(int64_t width, int64_t sums) {
    return even_piece(width, at_most(MOST_PIXELS, at_least(1, ACCUMULATORS / sums)));
}

// How many of M outputs or T maps one pass makes, of `left` that are left: 3 leave registers for 8 pixels, of which
// most widths are multiples or nearly so; else 4, since they are stored by four.
int64_t sums_at_once(int64_t all, int64_t left) { return at_most(left, all % 3 == 0 ? 3 : 4); }

// --- gradients of weights: total[i][j] += Σ_pixels a[i]·b[j]

// Rows of pixels in which both are looked at.
template <class E>
struct Pairs {
    int64_t rows, width;
    const Vec* a[64];
    Source<E> b[64];
};

template <int I, int J, class E>
void outer_pixels(const Pairs<E>& pairs, int64_t i0, int64_t a_plane, int64_t j0, Vec* total, int64_t step_i,
                  int64_t step_j) {
    // from zero, since a sum of sums rounds less than one long sum
    Vec acc[I][J] = {};
    for (int64_t row = 0; row < pairs.rows; row++) {
        const Vec* a = pairs.a[row] + i0 * a_plane;
        const Source<E>& b = pairs.b[row];
        for (int64_t x = 0; x < pairs.width; x++) {
            Vec u[I];
            ACMIX_UNROLL
            for (int i = 0; i < I; i++) u[i] = a[i * a_plane + x];
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) {
                Vec v = b.get(j0 + j, x);
                ACMIX_UNROLL
                for (int i = 0; i < I; i++) acc[i][j] += u[i] * v;
            }
        }
    }
    ACMIX_UNROLL
    for (int i = 0; i < I; i++)
        ACMIX_UNROLL
        for (int j = 0; j < J; j++) total[i * step_i + j * step_j] += acc[i][j];
}

template <int I, class E>
void outer_some(const Pairs<E>& pairs, int64_t i, int64_t a_plane, int64_t count_b, Vec* total, int64_t step_i,
                int64_t step_j) {
    constexpr int MOST = ACCUMULATORS / I < 1 ? 1 : ACCUMULATORS / I < 5 ? ACCUMULATORS / I : 5;
    constexpr decltype(&outer_pixels<I, 1, E>) by_size[] = {
        outer_pixels<I, 1, E>, outer_pixels<I, (MOST > 1 ? 2 : 1), E>, outer_pixels<I, (MOST > 2 ? 3 : 1), E>,
        outer_pixels<I, (MOST > 3 ? 4 : 1), E>, outer_pixels<I, (MOST > 4 ? 5 : 1), E>};
    for (int64_t j = 0; j < count_b;) {
        int64_t size = even_piece(count_b - j, MOST);
        by_size[size - 1](pairs, i, a_plane, j, total + j * step_j, step_i, step_j);
        j += size;
    }
}

// At most `most` of a's planes, up to 9, go together; b's are read once for each time.
template <class E>
void outer(const Pairs<E>& pairs, int64_t most, int64_t count_a, int64_t a_plane, int64_t count_b, Vec* total,
           int64_t step_i, int64_t step_j) {
    constexpr decltype(&outer_some<1, E>) by_size[] = {outer_some<1, E>, outer_some<2, E>, outer_some<3, E>,
                                                       outer_some<4, E>, outer_some<5, E>, outer_some<6, E>,
                                                       outer_some<7, E>, outer_some<8, E>, outer_some<9, E>};
    for (int64_t i = 0; i < count_a;) {
        int64_t size = even_piece(count_a - i, most);
        by_size[size - 1](pairs, i, a_plane, count_b, total + i * step_i, step_i, step_j);
        i += size;
    }
}

// --- between memory and scratch

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
void make_maps(const Shape& s, const E* pieces, const float* fc, const float* bias, int64_t b, int64_t y,
               int64_t block, Vec* planes, const Rows& f) {
    if (s.lanes(block) < LANES) {
        read_pieces(s, pieces, b, y, block, planes);
        mix(source_of(planes, s.width), s.pieces, s.width, fc, s.maps, bias,
            sink_of(f.at(y, 0), f.plane()));
    } else {
        Source<E> row{pieces + b * s.step_b + s.rolled_row(y) * s.step_y + block * LANES, s.step_p, s.step_x};
        int64_t seam = s.width - s.shift_x;
        mix(row.at(s.shift_x), s.pieces, seam, fc, s.maps, bias, sink_of(f.at(y, 0), f.plane()));
        mix(row, s.pieces, s.shift_x, fc, s.maps, bias, sink_of(f.at(y, 0) + seam, f.plane()));
    }
    f.clear_sides(y);
}

#if defined(__AVX512F__) && !defined(__clang__)
// Three vectors in turn, a lane of each at a time: to[3·d + j] = acc[j][d].
template <class E>
inline void write_threes(E* to, const Vec* acc) {
    const Int first[3] = {{0, 16, 2, 1, 17, 5, 2, 18, 8, 3, 19, 11, 4, 20, 14, 5},
                          {21, 1, 6, 22, 4, 7, 23, 7, 8, 24, 10, 9, 25, 13, 10, 26},
                          {0, 11, 27, 3, 12, 28, 6, 13, 29, 9, 14, 30, 12, 15, 31, 15}};
    const Int second[3] = {{0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15},
                           {0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15},
                           {26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31}};
    ACMIX_UNROLL
    for (int j = 0; j < 3; j++)
        store(to + j * LANES, __builtin_shuffle(__builtin_shuffle(acc[0], acc[1], first[j]), acc[2], second[j]));
}

template <class E>
inline void read_threes(const E* from, Vec* result) {
    const Int first[3] = {{0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0},
                          {1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0},
                          {2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0}};
    const Int second[3] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29},
                           {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30},
                           {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31}};
    Vec in[3] = {load(from), load(from + LANES), load(from + 2 * LANES)};
    ACMIX_UNROLL
    for (int j = 0; j < 3; j++)
        result[j] = __builtin_shuffle(__builtin_shuffle(in[0], in[1], first[j]), in[2], second[j]);
}
#define ACMIX_THREES
#endif

// Writes J outputs of each lane's channel, of which `made` are there: lane d's lie at to[d·M …].
template <int J, class E>
inline void write_outputs(E* to, int64_t outputs, int lanes, const Vec* acc, int made = J) {
    alignas(64) E tile[4][LANES];
    Vec q[4];
    ACMIX_UNROLL
    for (int j = 0; j < 4; j++) q[j] = j < made ? acc[j] : Vec{};
    transpose_quads(q);
    ACMIX_UNROLL
    for (int j = 0; j < 4; j++) store(tile[j], q[j]);
    ACMIX_UNROLL
    for (int d = 0; d < lanes; d++) std::memcpy(to + d * outputs, &tile[d % 4][d / 4 * 4], J * sizeof(E));
}

// `more`: the next output of each channel is yet to be written, and may be overwritten now.
template <class E>
inline void write_outputs(E* to, int64_t outputs, int64_t sums, int lanes, const Vec* acc, bool more) {
#if defined(ACMIX_THREES)
    if (lanes == LANES && outputs == 3) return write_threes(to, acc);
#endif
    if (lanes == LANES && sums == 4) return write_outputs<4>(to, outputs, LANES, acc);
    if (lanes == LANES && sums == 3 && more) return write_outputs<4>(to, outputs, LANES, acc, 3);
    if (lanes == LANES && sums == 3) return write_outputs<3>(to, outputs, LANES, acc);
    if (sums == 4) return write_outputs<4>(to, outputs, lanes, acc);
    if (sums == 3) return write_outputs<3>(to, outputs, lanes, acc);
    if (sums == 2) return write_outputs<2>(to, outputs, lanes, acc);
    write_outputs<1>(to, outputs, lanes, acc);
}

// Reads J outputs of each lane's channel.
template <int J, class E>
inline void read_outputs(const E* from, int64_t outputs, int lanes, Vec* result) {
    alignas(64) E tile[4][LANES] = {};
    for (int d = 0; d < lanes; d++) std::memcpy(&tile[d % 4][d / 4 * 4], from + d * outputs, J * sizeof(E));
    Vec q[4];
    for (int j = 0; j < 4; j++) q[j] = load(tile[j]);
    transpose_quads(q);
    ACMIX_UNROLL
    for (int j = 0; j < J; j++) result[j] = q[j];
}

template <class E>
inline void read_outputs(const E* from, int64_t outputs, int64_t sums, int lanes, Vec* result) {
#if defined(ACMIX_THREES)
    if (lanes == LANES && outputs == 3) return read_threes(from, result);
#endif
    if (lanes == LANES && sums == 4) return read_outputs<4>(from, outputs, LANES, result);
    if (lanes == LANES && sums == 3) return read_outputs<3>(from, outputs, LANES, result);
    if (sums == 4) return read_outputs<4>(from, outputs, lanes, result);
    if (sums == 3) return read_outputs<3>(from, outputs, lanes, result);
    if (sums == 2) return read_outputs<2>(from, outputs, lanes, result);
    read_outputs<1>(from, outputs, lanes, result);
}

// --- forward

// A block's kernels as vectors: for each group of sums, (tap, t, sum).
void pack_forward(const Shape& s, const float* kernels, int64_t block, Vec* packed) {
    int64_t taps = s.taps(), size = s.maps * taps, step = sums_at_once(s.outputs, s.outputs);
    if (s.lanes(block) < LANES) std::memset(packed, 0, s.outputs * size * sizeof(Vec));
    for (int64_t m = 0; m < s.outputs; m++) {
        int64_t first = m / step * step, sums = sums_at_once(s.outputs, s.outputs - first);
        float* to = reinterpret_cast<float*>(packed + first * size + (m - first));
        for (int lane = 0; lane < s.lanes(block); lane++) {
            const float* from = kernels + ((block * LANES + lane) * s.outputs + m) * size;
            for (int64_t t = 0; t < s.maps; t++)
                for (int64_t tap = 0; tap < taps; tap++)
                    to[(tap * s.maps + t) * sums * LANES + lane] = from[t * taps + tap];
        }
    }
}

// Rows of outputs that are made at a time: so many that the kernels, which pass through the cache for each time, are
// used for a good number of pixels.
int64_t rows_at_once(const Shape& s) { return at_least(1, 48 / s.out_width()); }

// Rows of one task: all, unless there are fewer images than threads; each further task makes a few maps once more.
int64_t rows_of_task(const Shape& s, int64_t tasks) {
    return even_piece(s.out_height(), at_least(at_most(s.out_height(), 4), s.out_height() * s.batch / tasks));
}

template <class E>
void forward_rows(const Shape& s, const E* pieces, const float* fc, const float* bias, const Vec* packed, E* out,
                  int64_t b, int64_t from, int64_t to) {
    thread_local Scratch scratch;
    int64_t blocks = s.blocks(), taps = s.taps(), width = s.out_width(), pixel = s.channels * s.outputs;
    int64_t at_once = rows_at_once(s), kept = at_once * s.stride + 2 * s.pad_y();
    Rows f{nullptr, kept, s.maps, s.width, s.pad_x()};
    int64_t room = f.room();
    Vec* memory = scratch.vectors(blocks * room + s.pieces * s.width);
    Vec result[MOST_PIXELS * 4];

    int64_t made = at_least(0, from * s.stride - s.pad_y());
    for (int64_t y0 = from; y0 < to; y0 += at_once) {
        int64_t y1 = at_most(to, y0 + at_once), seen_to = at_most(s.height, (y1 - 1) * s.stride + s.pad_y() + 1);
        for (; made < seen_to; made++)
            for (int64_t block = 0; block < blocks; block++) {
                f.start = memory + block * room;
                make_maps(s, pieces, fc, bias, b, made, block, memory + blocks * room, f);
            }
        for (int64_t block = 0; block < blocks; block++) {
            f.start = memory + block * room;
            const Vec* weight = packed + block * s.outputs * s.maps * taps;
            for (int64_t m = 0; m < s.outputs;) {
                int64_t sums = sums_at_once(s.outputs, s.outputs - m), pixels = pixels_at_once(width, sums);
                for (int64_t y = y0; y < y1; y++) {
                    Taps seen;
                    for (int64_t ty = 0; ty < s.ky; ty++) {
                        int64_t in = y * s.stride + ty * s.dilation - s.pad_y();
                        if (in < 0 || in >= s.height) continue;
                        for (int64_t tx = 0; tx < s.kx; tx++) {
                            seen.in[seen.count] = f.at(in, 0) + tx * s.dilation - s.pad_x();
                            seen.weight[seen.count++] = weight + (ty * s.kx + tx) * s.maps * sums;
                        }
                    }
                    E* row = out + (b * s.out_height() + s.rolled_row(y)) * width * pixel + block * LANES * s.outputs;
                    for (int64_t done = 0; done < width; done += pixels) {
                        int64_t x0 = at_most(done, width - pixels);
                        correlate(pixels, sums, seen, x0, s.stride, s.maps, f.plane(), result);
                        for (int64_t x = 0; x < pixels; x++)
                            write_outputs(row + s.rolled_column(x0 + x) * pixel + m, s.outputs, sums, s.lanes(block),
                                          result + x * sums, m + sums < s.outputs);
                    }
                }
                m += sums;
                weight += sums * s.maps * taps;
            }
        }
    }
}

template <class E>
void forward(const Shape& s, const E* pieces, const float* fc, const float* bias, const float* kernels, E* out,
             int threads) {
    int64_t blocks = s.blocks(), size = s.outputs * s.maps * s.taps();
    int64_t rows = rows_of_task(s, 2 * threads), strips = ceil_div(s.out_height(), rows);
    thread_local Scratch scratch;
    Vec* packed = scratch.vectors(blocks * size);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) pack_forward(s, kernels, block, packed + block * size);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * strips; task++)
            forward_rows(s, pieces, fc, bias, packed, out, task / strips, task % strips * rows,
                         at_most(s.out_height(), (task % strips + 1) * rows));
    }
}

// --- gradient

// A block's kernels for the gradient of the maps: for each group of maps, (tap, m, map).
void pack_backward(const Shape& s, const float* kernels, int64_t block, Vec* packed) {
    int64_t taps = s.taps(), size = s.maps * taps, step = sums_at_once(s.maps, s.maps);
    if (s.lanes(block) < LANES) std::memset(packed, 0, s.outputs * size * sizeof(Vec));
    for (int64_t m = 0; m < s.outputs; m++)
        for (int lane = 0; lane < s.lanes(block); lane++) {
            const float* from = kernels + ((block * LANES + lane) * s.outputs + m) * size;
            for (int64_t t = 0; t < s.maps; t++) {
                int64_t first = t / step * step, sums = sums_at_once(s.maps, s.maps - first);
                float* to = reinterpret_cast<float*>(packed + first * s.outputs * taps + m * sums + (t - first));
                for (int64_t tap = 0; tap < taps; tap++)
                    to[tap * s.outputs * sums * LANES + lane] = from[t * taps + tap];
            }
        }
}

// Sums over pixels that a chunk of tasks makes, a vector for each number and block.
struct Sums {
    Vec* kernels;  // (M, T, taps)
    Vec* fc;       // (T, P)
    Vec* bias;     // (T)

    static int64_t room(const Shape& s) {
        return s.outputs * s.maps * s.taps() + s.maps * s.pieces + s.maps;
    }
    Sums(const Shape& s, Vec* memory)
        : kernels(memory), fc(memory + s.outputs * s.maps * s.taps()), bias(fc + s.maps * s.pieces) {}
};

// The gradient of row y of the maps, from the rows of the output's gradient.
void grad_maps_row(const Shape& s, const Rows& g, const Vec* packed, int64_t y, Vec* grad_maps) {
    int64_t taps = s.taps(), out_height = s.out_height();
    Vec result[MOST_PIXELS * 4];
    for (int64_t t = 0; t < s.maps;) {
        int64_t sums = sums_at_once(s.maps, s.maps - t);
        for (int64_t phase = 0; phase < at_most(s.stride, s.width); phase++) {
            Taps seen;  // pixels phase, phase + stride, … see neighbouring outputs
            for (int64_t ty = 0; ty < s.ky; ty++) {
                int64_t down = y + s.pad_y() - ty * s.dilation;
                if (down < 0 || down % s.stride || down / s.stride >= out_height) continue;
                for (int64_t tx = 0; tx < s.kx; tx++) {
                    int64_t right = phase + s.pad_x() - tx * s.dilation;
                    if (floor_div(right, s.stride) * s.stride != right) continue;
                    seen.in[seen.count] = g.at(down / s.stride, 0) + floor_div(right, s.stride);
                    seen.weight[seen.count++] =
                        packed + t * s.outputs * taps + (ty * s.kx + tx) * s.outputs * sums;
                }
            }
            int64_t width = ceil_div(s.width - phase, s.stride), pixels = pixels_at_once(width, sums);
            for (int64_t done = 0; done < width; done += pixels) {
                int64_t x0 = at_most(done, width - pixels);
                correlate(pixels, sums, seen, x0, 1, s.outputs, g.plane(), result);
                for (int64_t j = 0; j < sums; j++)
                    for (int64_t x = 0; x < pixels; x++)
                        grad_maps[(t + j) * s.width + phase + (x0 + x) * s.stride] = result[x * sums + j];
            }
        }
        t += sums;
    }
}

template <class E>
void read_grad(const Shape& s, const E* grad, int64_t b, int64_t y, int64_t block, const Rows& g) {
    int64_t width = s.out_width(), pixel = s.channels * s.outputs;
    const E* row = grad + (b * s.out_height() + s.rolled_row(y)) * width * pixel + block * LANES * s.outputs;
    for (int64_t m = 0; m < s.outputs;) {
        int64_t sums = sums_at_once(s.outputs, s.outputs - m);
        for (int64_t x = 0; x < width; x++) {
            Vec v[4];
            read_outputs(row + s.rolled_column(x) * pixel + m, s.outputs, sums, s.lanes(block), v);
            for (int64_t j = 0; j < sums; j++) g.at(y, m + j)[x] = v[j];
        }
        m += sums;
    }
    g.clear_sides(y);
}

// What one row of input adds to the gradients of pieces and fc.
template <class E>
void backward_row(const Shape& s, const E* pieces, const float* fc_rows, const Vec* grad_maps, Vec* planes,
                  E* grad_pieces, const Sums& sums, int64_t b, int64_t y, int64_t block) {
    E* grad_row = grad_pieces + (b * s.height + s.rolled_row(y)) * s.width * s.pieces * s.channels + block * LANES;
    Source<float> in = source_of(grad_maps, s.width);
    int64_t seam = s.width - s.shift_x;
    if (s.lanes(block) == LANES && s.width <= 16) {
        Sink<E> to{grad_row, s.channels, s.pieces * s.channels};
        mix(in, s.maps, seam, fc_rows, s.pieces, nullptr, to.at(s.shift_x));
        mix(in.at(seam), s.maps, s.shift_x, fc_rows, s.pieces, nullptr, to);
    } else {
        // long rows are written pixel by pixel, in the order they lie in
        mix(in, s.maps, s.width, fc_rows, s.pieces, nullptr, sink_of(planes, s.width));
        for (int64_t x = 0; x < s.width; x++)
            for (int64_t p = 0; p < s.pieces; p++)
                store(grad_row + (s.rolled_column(x) * s.pieces + p) * s.channels, planes[p * s.width + x],
                      s.lanes(block));
    }
    if (s.lanes(block) < LANES) {
        read_pieces(s, pieces, b, y, block, planes);
        Pairs<float> pairs{1, s.width, {grad_maps}, {source_of(planes, s.width)}};
        outer(pairs, 9, s.maps, s.width, s.pieces, sums.fc, s.pieces, 1);
    } else {
        Source<E> all{pieces + b * s.step_b + s.rolled_row(y) * s.step_y + block * LANES, s.step_p, s.step_x};
        Pairs<E> before{1, seam, {grad_maps}, {all.at(s.shift_x)}}, behind{1, s.shift_x, {grad_maps + seam}, {all}};
        outer(before, 9, s.maps, s.width, s.pieces, sums.fc, s.pieces, 1);
        outer(behind, 9, s.maps, s.width, s.pieces, sums.fc, s.pieces, 1);
    }
    for (int64_t t = 0; t < s.maps; t++) {
        Vec total{};
        for (int64_t x = 0; x < s.width; x++) total += grad_maps[t * s.width + x];
        sums.bias[t] += total;
    }
}

// What rows of outputs add to the gradient of the kernels.
void backward_kernels(const Shape& s, const Rows& f, const Rows& g, int64_t from, int64_t to, Vec* total) {
    for (int64_t ty = 0; ty < s.ky; ty++)
        for (int64_t tx = 0; tx < s.kx; tx++) {
            Pairs<float> pairs;
            pairs.rows = 0;
            pairs.width = g.width;
            for (int64_t y = from; y < to; y++) {
                int64_t in = y * s.stride + ty * s.dilation - s.pad_y();
                if (in < 0 || in >= s.height) continue;
                Source<float> seen = source_of(f.at(in, 0) + tx * s.dilation - s.pad_x(), f.plane());
                seen.pixel = s.stride * LANES;
                pairs.a[pairs.rows] = g.at(y, 0);
                pairs.b[pairs.rows++] = seen;
            }
            outer(pairs, 4, s.outputs, g.plane(), s.maps, total + ty * s.kx + tx, s.maps * s.taps(), s.taps());
        }
}

template <class E>
void backward_rows(const Shape& s, const E* grad, const E* pieces, const float* fc, const float* fc_rows,
                   const float* bias, const Vec* packed, E* grad_pieces, Vec* sums, int64_t b, int64_t from,
                   int64_t to) {
    thread_local Scratch scratch;
    int64_t blocks = s.blocks(), pad = s.pad_y(), at_once = rows_at_once(s), out_height = s.out_height();
    Rows f{nullptr, at_once * s.stride + 2 * pad, s.maps, s.width, s.pad_x()};
    Rows g{nullptr, at_once + 2 * (pad / s.stride + 1), s.outputs, s.out_width(), s.pad_x()};
    int64_t room_f = f.room(), room_g = g.room();
    Vec* memory = scratch.vectors(blocks * (room_f + room_g) + (s.pieces + s.maps) * s.width);
    Vec *planes = memory + blocks * (room_f + room_g), *grad_maps = planes + s.pieces * s.width;
    auto choose = [&](int64_t block) {
        f.start = memory + block * room_f;
        g.start = memory + blocks * room_f + block * room_g;
    };
    int64_t made = at_least(0, from * s.stride - pad), read = at_least(0, ceil_div(from * s.stride - pad, s.stride));
    for (int64_t y0 = from; y0 < to; y0 += at_once) {
        int64_t y1 = at_most(to, y0 + at_once), in_to = at_most(s.height, y1 * s.stride);
        int64_t seen_to = at_most(s.height, (y1 - 1) * s.stride + pad + 1);
        int64_t seeing_to = at_least(y1, at_most(out_height, (in_to - 1 + pad) / s.stride + 1));
        for (; made < seen_to; made++)
            for (int64_t block = 0; block < blocks; block++) {
                choose(block);
                make_maps(s, pieces, fc, bias, b, made, block, planes, f);
            }
        for (; read < seeing_to; read++)
            for (int64_t block = 0; block < blocks; block++) {
                choose(block);
                read_grad(s, grad, b, read, block, g);
            }
        for (int64_t block = 0; block < blocks; block++) {
            choose(block);
            Sums total(s, sums + block * Sums::room(s));
            for (int64_t y = y0 * s.stride; y < in_to; y++) {
                grad_maps_row(s, g, packed + block * s.outputs * s.maps * s.taps(), y, grad_maps);
                backward_row(s, pieces, fc_rows, grad_maps, planes, grad_pieces, total, b, y, block);
            }
            backward_kernels(s, f, g, y0, y1, total.kernels);
        }
    }
}

// Sums of gradients over tasks are made in so many parts, whatever the threads, and so always in the same order.
constexpr int64_t MOST_PARTS = 32;

template <class E>
void backward(const Shape& s, const E* grad, const E* pieces, const float* fc, const float* fc_rows, const float* bias,
              const float* kernels, E* grad_pieces, float* grad_fc, float* grad_bias, float* grad_kernels,
              int threads) {
    int64_t blocks = s.blocks(), size = s.outputs * s.maps * s.taps(), room = Sums::room(s);
    // each part costs sums as large as the kernels, so small maps get fewer
    int64_t rows = rows_of_task(s, s.out_height() * s.out_width() < 512 ? 8 : 16), strips = ceil_div(s.out_height(), rows), tasks = s.batch * strips;
    int64_t parts = at_most(tasks, MOST_PARTS);
    thread_local Scratch packed_memory, sums_memory;
    Vec* packed = packed_memory.vectors(blocks * size);
    Vec* sums = sums_memory.vectors(parts * blocks * room);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) pack_backward(s, kernels, block, packed + block * size);
#pragma omp for schedule(dynamic)
        for (int64_t part = 0; part < parts; part++) {
            Vec* memory = sums + part * blocks * room;
            std::memset(memory, 0, blocks * room * sizeof(Vec));
            for (int64_t task = tasks * part / parts; task < tasks * (part + 1) / parts; task++)
                backward_rows(s, grad, pieces, fc, fc_rows, bias, packed, grad_pieces, memory, task / strips,
                              task % strips * rows, at_most(s.out_height(), (task % strips + 1) * rows));
        }
        // sum over parts, into the first; then a lane's sums go to its channel's kernels
#pragma omp for schedule(static)
        for (int64_t task = 0; task < blocks * s.outputs; task++) {
            int64_t block = task / s.outputs, m = task % s.outputs, count = s.maps * s.taps();
            Vec* total = sums + block * room + m * count;
            for (int64_t part = 1; part < parts; part++)
                for (int64_t i = 0; i < count; i++) total[i] += total[part * blocks * room + i];
            for (int lane = 0; lane < s.lanes(block); lane++) {
                float* to = grad_kernels + ((block * LANES + lane) * s.outputs + m) * count;
                const float* from = reinterpret_cast<const float*>(total) + lane;
                for (int64_t i = 0; i < count; i++) to[i] = from[i * LANES];
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.maps * s.pieces + s.maps; i++) {
            double total = 0;
            for (int64_t part = 0; part < parts * blocks; part++) total += sum_of(sums[part * room + size + i]);
            (i < s.maps * s.pieces ? grad_fc[i] : grad_bias[i - s.maps * s.pieces]) = float(total);
        }
    }
}

Shape shape_of(const int64_t* sizes) {
    Shape s;
    std::memcpy(&s, sizes, sizeof s);
    return s;
}

}  // namespace
}  // namespace acmix

using namespace acmix;

// `sizes` are Shape's members in their order. fc is (P, T), transposed; bias (T) or null; kernels (M·D, T, ky, kx).
// All parameters are float32; pieces and out are float32 or, where `half`, bfloat16. out is (B, Ho, Wo, M·D).
extern "C" void acmix_conv_path(int half, const void* pieces, const float* fc, const float* bias, const float* kernels,
                                void* out, const int64_t* sizes, int threads) {
    Shape s = shape_of(sizes);
    if (half)
        forward(s, static_cast<const bfloat16*>(pieces), fc, bias, kernels, static_cast<bfloat16*>(out), threads);
    else
        forward(s, static_cast<const float*>(pieces), fc, bias, kernels, static_cast<float*>(out), threads);
}

// grad is (B, Ho, Wo, M·D), adjacent; fc_rows is fc as (T, P). grad_pieces is (B, H, W, P, D), adjacent.
extern "C" void acmix_conv_path_backward(int half, const void* grad, const void* pieces, const float* fc,
                                         const float* fc_rows, const float* bias, const float* kernels,
                                         void* grad_pieces, float* grad_fc, float* grad_bias, float* grad_kernels,
                                         const int64_t* sizes, int threads) {
    Shape s = shape_of(sizes);
    if (half)
        backward(s, static_cast<const bfloat16*>(grad), static_cast<const bfloat16*>(pieces), fc, fc_rows, bias,
                 kernels, static_cast<bfloat16*>(grad_pieces), grad_fc, grad_bias, grad_kernels, threads);
    else
        backward(s, static_cast<const float*>(grad), static_cast<const float*>(pieces), fc, fc_rows, bias, kernels,
                 static_cast<float*>(grad_pieces), grad_fc, grad_bias, grad_kernels, threads);
}
