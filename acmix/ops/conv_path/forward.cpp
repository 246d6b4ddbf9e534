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
#include "outputs.h"

namespace acmix::conv_path {
namespace {

// What is added to the outputs, and lies as they do; null where nothing is.
template <class E>
struct Added {
    const E* plus;
    const float* bias;
};

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
void forward_rows(const Shape& s, const E* pieces, const float* fc, const float* bias, const Vec* packed,
                  const Added<E>& added, E* out, int64_t b, int64_t from, int64_t to) {
    thread_local Scratch scratch;
    int64_t blocks = s.blocks(), taps = s.taps(), width = s.out_width(), pixel = s.channels * s.outputs;
    int64_t per_pass = rows_per_pass(s), kept = per_pass * s.stride + 2 * s.pad_y();
    RowBuffer f{nullptr, kept, s.maps, s.width, s.pad_x()};
    int64_t size = f.size();
    Vec* memory = scratch.vectors(blocks * size + s.pieces * s.width + (per_pass * width + 1) * s.outputs);
    Vec *planes = memory + blocks * size, *sums_of_pass = planes + s.pieces * s.width,
        *work = sums_of_pass + per_pass * width * s.outputs;

    int64_t maps_done = at_least(0, from * s.stride - s.pad_y());
    for (int64_t y0 = from; y0 < to; y0 += per_pass) {
        int64_t y1 = at_most(to, y0 + per_pass), maps_end = at_most(s.height, (y1 - 1) * s.stride + s.pad_y() + 1);
        for (; maps_done < maps_end; maps_done++)
            for (int64_t block = 0; block < blocks; block++) {
                f.start = memory + block * size;
                make_maps(s, pieces, fc, bias, b, maps_done, block, planes, f);
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
                    Sums row{sums_of_pass + ((y - y0) * s.outputs + m) * width, width, 1};
                    for (int64_t done = 0; done < width; done += pixels)
                        correlate(pixels, sums, visible, at_most(done, width - pixels), s.stride, s.maps, f.plane(),
                                  row);
                }
                m += sums;
                weight += sums * s.maps * taps;
            }
            int64_t first = block * LANES * s.outputs;
            for (int64_t y = y0; y < y1; y++)
                for (int64_t x = 0; x < width; x++) {
                    int64_t at = s.out_image(b) + (s.rolled_row(y) * width + s.rolled_column(x)) * pixel + first;
                    write_outputs(out + at, added.plus ? added.plus + at : nullptr,
                                  added.bias ? added.bias + first : nullptr,
                                  sums_of_pass + (y - y0) * s.outputs * width + x, width, s.outputs, s.lanes(block),
                                  work);
                }
        }
    }
}

// Rows of tokens without a place, to which the path adds nothing.
template <class E>
void copy_tokens(const Shape& s, const Added<E>& added, E* out, int64_t b) {
    int64_t pixel = s.channels * s.outputs;
    for (int64_t token = 0; token < s.tokens; token++) {
        int64_t at = s.out_image(b) - (s.tokens - token) * pixel;
        for (int64_t i = 0; i < pixel; i += LANES) {
            int count = int(at_most(LANES, pixel - i));
            Vec v = load(added.plus + at + i, count);
            if (added.bias) v += load(added.bias + i, count);
            store(out + at + i, v, count);
        }
    }
}

template <class E>
void forward(const Shape& s, const E* pieces, const float* fc, const float* bias, const float* kernels,
             const Added<E>& added, E* out, int threads) {
    int64_t blocks = s.blocks(), size = s.outputs * s.maps * s.taps();
    int64_t rows = rows_of_task(s, 2 * threads), strips = ceil_div(s.out_height(), rows);
    thread_local Scratch scratch;
    Vec* packed = scratch.vectors(blocks * size);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) pack_kernels(s, kernels, block, packed + block * size);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * strips; task++) {
            int64_t b = task / strips, strip = task % strips;
            if (strip == 0) copy_tokens(s, added, out, b);
            forward_rows(s, pieces, fc, bias, packed, added, out, b, strip * rows,
                         at_most(s.out_height(), (strip + 1) * rows));
        }
    }
}

}  // namespace

// `sizes` are Shape's members in their order. fc is (P, T), transposed; bias (T) or null; kernels (M·D, T, ky, kx);
// plus, as out, or null; plus_bias (M·D) or null. Parameters are float32; pieces, plus and out float32 or bfloat16.
// out is (B, tokens + Ho·Wo, M·D); tokens go with a plus.
ACMIX_ENTRY int acmix_conv_path(int is_bfloat16, const void* pieces, const float* fc, const float* bias,
                                const float* kernels, const void* plus, const float* plus_bias, void* out,
                                const int64_t* sizes, int64_t count, int threads) {
    return with_shape<Shape>(sizes, count, [&](const Shape& s) {
        with_dtype(is_bfloat16, [&](auto number) {
            using E = decltype(number);
            forward(s, static_cast<const E*>(pieces), fc, bias, kernels,
                    Added<E>{static_cast<const E*>(plus), plus_bias}, static_cast<E*>(out), threads);
        });
    });
}

}  // namespace acmix::conv_path
