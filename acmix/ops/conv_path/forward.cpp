// The convolution path, forward. Letters as in acmix/ops/README.md.
//
// The D channels of a piece are the lanes: a "block" is LANES of them, and every number of a block is one vector.
// Maps, outputs and gradients of a pixel are then sums of vector × scalar (fc) or vector × vector (kernels), without
// a horizontal step. A task is one image, one block and some rows; what lies between the input and the output is
// written to a thread's scratch memory as planes of rows of vectors, and stays in its cache.
//
// The roll is arithmetic on the rows and columns that are read and written.

#include "correlate.h"
#include "entry.h"
#include "maps.h"

namespace acmix::conv_path {
namespace {

#if defined(__AVX512F__) && !defined(__clang__)
// Three vectors in turn, a lane of each at a time: to[3·d + j] = acc[j][d].
template <class E>
inline void interleave_three(E* to, const Vec* acc) {
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

#define ACMIX_HAS_THREE
#endif

// Writes J outputs of each lane's channel, of which `valid` are there: lane d's lie at to[d·M …].
template <int J, class E>
inline void write_outputs(E* to, int64_t outputs, int lanes, const Vec* acc, int valid = J) {
    alignas(64) E tile[4][LANES];
    Vec q[4];
    ACMIX_UNROLL
    for (int j = 0; j < 4; j++) q[j] = j < valid ? acc[j] : Vec{};
    transpose_quads(q);
    ACMIX_UNROLL
    for (int j = 0; j < 4; j++) store(tile[j], q[j]);
    ACMIX_UNROLL
    for (int d = 0; d < lanes; d++) std::memcpy(to + d * outputs, &tile[d % 4][d / 4 * 4], J * sizeof(E));
}

// `more`: the next output of each channel is yet to be written, and may be overwritten now.
template <class E>
inline void write_outputs(E* to, int64_t outputs, int64_t sums, int lanes, const Vec* acc, bool more) {
#if defined(ACMIX_HAS_THREE)
    if (lanes == LANES && outputs == 3) return interleave_three(to, acc);
#endif
    if (lanes == LANES && sums == 4) return write_outputs<4>(to, outputs, LANES, acc);
    if (lanes == LANES && sums == 3 && more) return write_outputs<4>(to, outputs, LANES, acc, 3);
    if (lanes == LANES && sums == 3) return write_outputs<3>(to, outputs, LANES, acc);
    if (sums == 4) return write_outputs<4>(to, outputs, lanes, acc);
    if (sums == 3) return write_outputs<3>(to, outputs, lanes, acc);
    if (sums == 2) return write_outputs<2>(to, outputs, lanes, acc);
    write_outputs<1>(to, outputs, lanes, acc);
}

// A block's kernels as vectors: (tap, t, output) for each group of outputs that one pass makes.
void pack_kernels(const Shape& s, const float* kernels, int64_t block, Vec* packed) {
    int64_t taps = s.taps(), size = s.maps * taps, step = sums_per_pass(s.outputs, s.outputs);
    if (s.lanes(block) < LANES) std::memset(packed, 0, s.outputs * size * sizeof(Vec));
    for (int64_t m = 0; m < s.outputs; m++) {
        int64_t first = m / step * step, sums = sums_per_pass(s.outputs, s.outputs - first);
        float* to = reinterpret_cast<float*>(packed + first * size + (m - first));
        for (int lane = 0; lane < s.lanes(block); lane++) {
            const float* from = kernels + ((block * LANES + lane) * s.outputs + m) * size;
            for (int64_t t = 0; t < s.maps; t++)
                for (int64_t tap = 0; tap < taps; tap++)
                    to[(tap * s.maps + t) * sums * LANES + lane] = from[t * taps + tap];
        }
    }
}

template <class E>
void forward_rows(const Shape& s, const E* pieces, const float* fc, const float* bias, const Vec* packed, E* out,
                  int64_t b, int64_t from, int64_t to) {
    thread_local Scratch scratch;
    int64_t blocks = s.blocks(), taps = s.taps(), width = s.out_width(), pixel = s.channels * s.outputs;
    int64_t per_pass = rows_per_pass(s), kept = per_pass * s.stride + 2 * s.pad_y();
    RowBuffer f{nullptr, kept, s.maps, s.width, s.pad_x()};
    int64_t size = f.size();
    Vec* memory = scratch.vectors(blocks * size + s.pieces * s.width);
    Vec result[MOST_PIXELS * 4];

    int64_t maps_done = at_least(0, from * s.stride - s.pad_y());
    for (int64_t y0 = from; y0 < to; y0 += per_pass) {
        int64_t y1 = at_most(to, y0 + per_pass), maps_end = at_most(s.height, (y1 - 1) * s.stride + s.pad_y() + 1);
        for (; maps_done < maps_end; maps_done++)
            for (int64_t block = 0; block < blocks; block++) {
                f.start = memory + block * size;
                make_maps(s, pieces, fc, bias, b, maps_done, block, memory + blocks * size, f);
            }
        for (int64_t block = 0; block < blocks; block++) {
            f.start = memory + block * size;
            const Vec* weight = packed + block * s.outputs * s.maps * taps;
            for (int64_t m = 0; m < s.outputs;) {
                int64_t sums = sums_per_pass(s.outputs, s.outputs - m), pixels = pixels_per_pass(width, sums);
                for (int64_t y = y0; y < y1; y++) {
                    Taps visible;
                    for (int64_t ty = 0; ty < s.ky; ty++) {
                        int64_t in = y * s.stride + ty * s.dilation - s.pad_y();
                        if (in < 0 || in >= s.height) continue;
                        for (int64_t tx = 0; tx < s.kx; tx++) {
                            visible.in[visible.count] = f.at(in, 0) + tx * s.dilation - s.pad_x();
                            visible.weight[visible.count++] = weight + (ty * s.kx + tx) * s.maps * sums;
                        }
                    }
                    E* row = out + (b * s.out_height() + s.rolled_row(y)) * width * pixel + block * LANES * s.outputs;
                    for (int64_t done = 0; done < width; done += pixels) {
                        int64_t x0 = at_most(done, width - pixels);
                        correlate(pixels, sums, visible, x0, s.stride, s.maps, f.plane(), result);
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
        for (int64_t block = 0; block < blocks; block++) pack_kernels(s, kernels, block, packed + block * size);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * strips; task++)
            forward_rows(s, pieces, fc, bias, packed, out, task / strips, task % strips * rows,
                         at_most(s.out_height(), (task % strips + 1) * rows));
    }
}

}  // namespace

// `sizes` are Shape's members in their order. fc is (P, T), transposed; bias (T) or null; kernels (M·D, T, ky, kx).
// All parameters are float32; pieces and out are float32 or bfloat16. out is (B, Ho, Wo, M·D).
ACMIX_ENTRY int acmix_conv_path(int is_bfloat16, const void* pieces, const float* fc, const float* bias,
                                const float* kernels, void* out, const int64_t* sizes, int64_t count, int threads) {
    return with_shape<Shape>(sizes, count, [&](const Shape& s) {
        with_dtype(is_bfloat16, [&](auto number) {
            using E = decltype(number);
            forward(s, static_cast<const E*>(pieces), fc, bias, kernels, static_cast<E*>(out), threads);
        });
    });
}

}  // namespace acmix::conv_path
