// The convolution path, backward: memory is laid out as in forward.cpp.
//
// The maps are made once more. A task sums the gradients of the parameters over its rows, a vector for each number.

#include "correlate.h"
#include "entry.h"
#include "maps.h"
#include "outputs.h"

namespace acmix::conv_path {
namespace {

// Rows of pixels over which total[i][j] += Σ a[i]·b[j] goes.
template <class E>
struct PixelRows {
    int64_t rows, width;
    const Vec* a[MOST_ROWS_PER_PASS];
    Source<E> b[MOST_ROWS_PER_PASS];
};

template <int I, int J, class E>
void add_outer_products_block(const PixelRows<E>& pairs, int64_t i0, int64_t a_plane, int64_t j0, Vec* total,
                              int64_t step_i, int64_t step_j) {
    // from zero, since a sum of sums rounds less than one long sum
    Vec acc[I][J] = {};
    for (int64_t row = 0; row < pairs.rows; row++) {
        const Vec* a = pairs.a[row] + i0 * a_plane;
        const Source<E>& b = pairs.b[row];
        for (int64_t x = 0; x < pairs.width; x++) {
            Vec u[I];
            ACMIX_UNROLL
            for (int i = 0; i < I; i++) {
                u[i] = a[i * a_plane + x];
                keep_in_register(u[i]);
            }
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) {
                Vec v = b.get(j0 + j, x);
                keep_in_register(v);
                ACMIX_UNROLL
                for (int i = 0; i < I; i++) acc[i][j] += u[i] * v;
            }
        }
    }
    ACMIX_UNROLL
    for (int i = 0; i < I; i++) {
        ACMIX_UNROLL
        for (int j = 0; j < J; j++) total[i * step_i + j * step_j] += acc[i][j];
    }
}

template <int I, class E>
void add_outer_products_rows(const PixelRows<E>& pairs, int64_t i, int64_t a_plane, int64_t count_b, Vec* total,
                             int64_t step_i, int64_t step_j) {
    constexpr int MOST = ACCUMULATORS / I < 1 ? 1 : ACCUMULATORS / I < 5 ? ACCUMULATORS / I : 5;
    static constexpr decltype(&add_outer_products_block<I, 1, E>) by_size[] = {
        add_outer_products_block<I, 1, E>, add_outer_products_block<I, (MOST > 1 ? 2 : 1), E>,
        add_outer_products_block<I, (MOST > 2 ? 3 : 1), E>, add_outer_products_block<I, (MOST > 3 ? 4 : 1), E>,
        add_outer_products_block<I, (MOST > 4 ? 5 : 1), E>};
    for (int64_t j = 0; j < count_b;) {
        int64_t size = even_piece(count_b - j, MOST);
        by_size[size - 1](pairs, i, a_plane, j, total + j * step_j, step_i, step_j);
        j += size;
    }
}

// At most `most` of a's planes, up to 9, go together; b's are read once for each time.
template <class E>
void add_outer_products(const PixelRows<E>& pairs, int64_t most, int64_t count_a, int64_t a_plane, int64_t count_b,
                        Vec* total, int64_t step_i, int64_t step_j) {
    static constexpr decltype(&add_outer_products_rows<1, E>) by_size[] = {
        add_outer_products_rows<1, E>, add_outer_products_rows<2, E>, add_outer_products_rows<3, E>,
        add_outer_products_rows<4, E>, add_outer_products_rows<5, E>, add_outer_products_rows<6, E>,
        add_outer_products_rows<7, E>, add_outer_products_rows<8, E>, add_outer_products_rows<9, E>};
    for (int64_t i = 0; i < count_a;) {
        int64_t size = even_piece(count_a - i, most);
        by_size[size - 1](pairs, i, a_plane, count_b, total + i * step_i, step_i, step_j);
        i += size;
    }
}

// A block's kernels for the gradient of the maps: (tap, output, map) for each group of maps that one pass makes.
void pack_kernels_transposed(const Shape& s, const float* kernels, int64_t block, Vec* packed) {
    int64_t taps = s.taps(), size = s.maps * taps, step = sums_per_pass(s.maps, s.maps);
    if (s.lanes(block) < LANES) std::memset(packed, 0, s.outputs * size * sizeof(Vec));
    for (int64_t m = 0; m < s.outputs; m++)
        for (int lane = 0; lane < s.lanes(block); lane++) {
            const float* from = kernels + ((block * LANES + lane) * s.outputs + m) * size;
            for (int64_t t = 0; t < s.maps; t++) {
                int64_t first = t / step * step, sums = sums_per_pass(s.maps, s.maps - first);
                float* to = reinterpret_cast<float*>(packed + first * s.outputs * taps + m * sums + (t - first));
                for (int64_t tap = 0; tap < taps; tap++)
                    to[tap * s.outputs * sums * LANES + lane] = from[t * taps + tap];
            }
        }
}

// Sums over pixels that a chunk of tasks makes, a vector for each number and block.
struct GradSums {
    Vec* kernels;  // (M, T, taps)
    Vec* fc;       // (T, P)
    Vec* bias;     // (T)

    static int64_t size(const Shape& s) { return s.outputs * s.maps * s.taps() + s.maps * s.pieces + s.maps; }
    GradSums(const Shape& s, Vec* memory)
        : kernels(memory), fc(memory + s.outputs * s.maps * s.taps()), bias(fc + s.maps * s.pieces) {}
};

// The gradient of row y of the maps, from the rows of the output's gradient.
void maps_gradient(const Shape& s, const RowBuffer& g, const Vec* packed, int64_t y, Vec* grad_maps) {
    int64_t taps = s.taps(), out_height = s.out_height();
    for (int64_t t = 0; t < s.maps;) {
        int64_t sums = sums_per_pass(s.maps, s.maps - t);
        for (int64_t phase = 0; phase < at_most(s.stride, s.width); phase++) {
            Taps visible;  // pixels phase, phase + stride, … see neighbouring outputs
            for (int64_t ty = 0; ty < s.ky; ty++) {
                int64_t down = y + s.pad_y() - ty * s.dilation;
                if (down < 0 || down % s.stride || down / s.stride >= out_height) continue;
                for (int64_t tx = 0; tx < s.kx; tx++) {
                    int64_t right = phase + s.pad_x() - tx * s.dilation;
                    if (floor_div(right, s.stride) * s.stride != right) continue;
                    visible.in[visible.count] = g.at(down / s.stride, 0) + floor_div(right, s.stride);
                    visible.weight[visible.count++] =
                        packed + t * s.outputs * taps + (ty * s.kx + tx) * s.outputs * sums;
                }
            }
            int64_t width = ceil_div(s.width - phase, s.stride), pixels = pixels_per_pass(width, sums);
            Sums row{grad_maps + t * s.width + phase, s.width, s.stride};
            for (int64_t done = 0; done < width; done += pixels)
                correlate(pixels, sums, visible, at_most(done, width - pixels), 1, s.outputs, g.plane(), row);
        }
        t += sums;
    }
}

template <class E>
void read_output_gradient(const Shape& s, const E* grad, int64_t b, int64_t y, int64_t block, Vec* work,
                          const RowBuffer& g) {
    int64_t width = s.out_width(), pixel = s.channels * s.outputs;
    const E* row = grad + s.out_image(b) + s.rolled_row(y) * width * pixel + block * LANES * s.outputs;
    for (int64_t x = 0; x < width; x++)
        read_outputs(row + s.rolled_column(x) * pixel, g.at(y, 0) + x, g.plane(), s.outputs, s.lanes(block), work);
    g.clear_sides(y);
}

// What one row of input adds to the gradients of pieces and fc.
template <class E>
void pieces_and_fc_gradient(const Shape& s, const E* pieces, const float* fc_rows, const Vec* grad_maps, Vec* planes,
                            E* grad_pieces, const GradSums& sums, int64_t b, int64_t y, int64_t block) {
    E* grad_row = grad_pieces + (b * s.height + s.rolled_row(y)) * s.width * s.pieces * s.channels + block * LANES;
    Source<float> in = source_of(grad_maps, s.width);
    int64_t seam = s.width - s.shift_x;
    if (s.lanes(block) == LANES && s.width <= 16 && !s.onto) {
        Sink<E> to{grad_row, s.channels, s.pieces * s.channels};
        apply_fc(in, s.maps, seam, fc_rows, s.pieces, nullptr, to.at(s.shift_x));
        apply_fc(in.at(seam), s.maps, s.shift_x, fc_rows, s.pieces, nullptr, to);
    } else {
        // long rows are written pixel by pixel, in the order they lie in
        apply_fc(in, s.maps, s.width, fc_rows, s.pieces, nullptr, sink_of(planes, s.width));
        for (int64_t x = 0; x < s.width; x++)
            for (int64_t p = 0; p < s.pieces; p++) {
                E* to = grad_row + (s.rolled_column(x) * s.pieces + p) * s.channels;
                Vec v = planes[p * s.width + x];
                if (s.onto) v += load(to, s.lanes(block));
                store(to, v, s.lanes(block));
            }
    }
    if (s.lanes(block) < LANES) {
        read_pieces(s, pieces, b, y, block, planes);
        PixelRows<float> pairs{1, s.width, {grad_maps}, {source_of(planes, s.width)}};
        add_outer_products(pairs, 9, s.maps, s.width, s.pieces, sums.fc, s.pieces, 1);
    } else {
        Source<E> all{pieces + b * s.step_b + s.rolled_row(y) * s.step_y + block * LANES, s.step_p, s.step_x};
        PixelRows<E> before{1, seam, {grad_maps}, {all.at(s.shift_x)}}, behind{1, s.shift_x, {grad_maps + seam}, {all}};
        add_outer_products(before, 9, s.maps, s.width, s.pieces, sums.fc, s.pieces, 1);
        add_outer_products(behind, 9, s.maps, s.width, s.pieces, sums.fc, s.pieces, 1);
    }
    for (int64_t t = 0; t < s.maps; t++) {
        Vec total{};
        for (int64_t x = 0; x < s.width; x++) total += grad_maps[t * s.width + x];
        sums.bias[t] += total;
    }
}

// What rows of outputs add to the gradient of the kernels.
void kernels_gradient(const Shape& s, const RowBuffer& f, const RowBuffer& g, int64_t from, int64_t to, Vec* total) {
    for (int64_t ty = 0; ty < s.ky; ty++)
        for (int64_t tx = 0; tx < s.kx; tx++) {
            PixelRows<float> pairs;
            pairs.rows = 0;
            pairs.width = g.width;
            for (int64_t y = from; y < to; y++) {
                int64_t in = y * s.stride + ty * s.dilation - s.pad_y();
                if (in < 0 || in >= s.height) continue;
                Source<float> visible = source_of(f.at(in, 0) + tx * s.dilation - s.pad_x(), f.plane());
                visible.pixel = s.stride * LANES;
                pairs.a[pairs.rows] = g.at(y, 0);
                pairs.b[pairs.rows++] = visible;
            }
            add_outer_products(pairs, 4, s.outputs, g.plane(), s.maps, total + ty * s.kx + tx, s.maps * s.taps(),
                               s.taps());
        }
}

template <class E>
void backward_rows(const Shape& s, const E* grad, const E* pieces, const float* fc, const float* fc_rows,
                   const float* bias, const Vec* packed, E* grad_pieces, Vec* sums, int64_t b, int64_t from,
                   int64_t to) {
    thread_local Scratch scratch;
    int64_t blocks = s.blocks(), pad = s.pad_y(), per_pass = rows_per_pass(s), out_height = s.out_height();
    RowBuffer f{nullptr, per_pass * s.stride + 2 * pad, s.maps, s.width, s.pad_x()};
    RowBuffer g{nullptr, per_pass + 2 * (pad / s.stride + 1), s.outputs, s.out_width(), s.pad_x()};
    int64_t size_f = f.size(), size_g = g.size();
    Vec* memory = scratch.vectors(blocks * (size_f + size_g) + (s.pieces + s.maps) * s.width + s.outputs);
    Vec *planes = memory + blocks * (size_f + size_g), *grad_maps = planes + s.pieces * s.width,
        *work = grad_maps + s.maps * s.width;
    auto select_block = [&](int64_t block) {
        f.start = memory + block * size_f;
        g.start = memory + blocks * size_f + block * size_g;
    };
    int64_t maps_done = at_least(0, from * s.stride - pad),
            grads_done = at_least(0, ceil_div(from * s.stride - pad, s.stride));
    for (int64_t y0 = from; y0 < to; y0 += per_pass) {
        int64_t y1 = at_most(to, y0 + per_pass), in_to = at_most(s.height, y1 * s.stride);
        int64_t maps_end = at_most(s.height, (y1 - 1) * s.stride + pad + 1);
        int64_t grads_end = at_least(y1, at_most(out_height, (in_to - 1 + pad) / s.stride + 1));
        for (; maps_done < maps_end; maps_done++)
            for (int64_t block = 0; block < blocks; block++) {
                select_block(block);
                make_maps(s, pieces, fc, bias, b, maps_done, block, planes, f);
            }
        for (; grads_done < grads_end; grads_done++)
            for (int64_t block = 0; block < blocks; block++) {
                select_block(block);
                read_output_gradient(s, grad, b, grads_done, block, work, g);
            }
        for (int64_t block = 0; block < blocks; block++) {
            select_block(block);
            GradSums total(s, sums + block * GradSums::size(s));
            for (int64_t y = y0 * s.stride; y < in_to; y++) {
                maps_gradient(s, g, packed + block * s.outputs * s.maps * s.taps(), y, grad_maps);
                pieces_and_fc_gradient(s, pieces, fc_rows, grad_maps, planes, grad_pieces, total, b, y, block);
            }
            kernels_gradient(s, f, g, y0, y1, total.kernels);
        }
    }
}

// Sums of gradients over tasks are made in so many parts, whatever the threads, and so always in the same order.
constexpr int64_t PARTS = 32;

template <class E>
void backward(const Shape& s, const E* grad, const E* pieces, const float* fc, const float* fc_rows, const float* bias,
              const float* kernels, E* grad_pieces, float* grad_fc, float* grad_bias, float* grad_kernels,
              int threads) {
    int64_t blocks = s.blocks(), size = s.outputs * s.maps * s.taps(), sums_size = GradSums::size(s);
    // each part costs sums as large as the kernels, so small maps get fewer
    int64_t rows = rows_of_task(s, s.out_height() * s.out_width() < 512 ? 8 : 16),
            strips = ceil_div(s.out_height(), rows), tasks = s.batch * strips;
    int64_t parts = at_most(tasks, PARTS);
    thread_local Scratch packed_memory, sums_memory;
    Vec* packed = packed_memory.vectors(blocks * size);
    Vec* sums = sums_memory.vectors(parts * blocks * sums_size);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++)
            pack_kernels_transposed(s, kernels, block, packed + block * size);
#pragma omp for schedule(dynamic)
        for (int64_t part = 0; part < parts; part++) {
            Vec* memory = sums + part * blocks * sums_size;
            std::memset(memory, 0, blocks * sums_size * sizeof(Vec));
            for (int64_t task = tasks * part / parts; task < tasks * (part + 1) / parts; task++)
                backward_rows(s, grad, pieces, fc, fc_rows, bias, packed, grad_pieces, memory, task / strips,
                              task % strips * rows, at_most(s.out_height(), (task % strips + 1) * rows));
        }
        // sum over parts, into the first; then a lane's sums go to its channel's kernels
#pragma omp for schedule(static)
        for (int64_t task = 0; task < blocks * s.outputs; task++) {
            int64_t block = task / s.outputs, m = task % s.outputs, count = s.maps * s.taps();
            Vec* total = sums + block * sums_size + m * count;
            for (int64_t part = 1; part < parts; part++)
                for (int64_t i = 0; i < count; i++) total[i] += total[part * blocks * sums_size + i];
            for (int lane = 0; lane < s.lanes(block); lane++) {
                float* to = grad_kernels + ((block * LANES + lane) * s.outputs + m) * count;
                const float* from = reinterpret_cast<const float*>(total) + lane;
                for (int64_t i = 0; i < count; i++) to[i] = from[i * LANES];
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.maps * s.pieces + s.maps; i++) {
            double total = 0;
            for (int64_t part = 0; part < parts * blocks; part++) total += sum_of(sums[part * sums_size + size + i]);
            (i < s.maps * s.pieces ? grad_fc[i] : grad_bias[i - s.maps * s.pieces]) = float(total);
        }
    }
}

}  // namespace

// grad is (B, tokens + Ho·Wo, M·D), adjacent; fc_rows is fc as (T, P). grad_pieces is (B, H, W, P, D), adjacent;
// where Shape says so, it holds numbers that are added to.
ACMIX_ENTRY int acmix_conv_path_backward(int is_bfloat16, const void* grad, const void* pieces, const float* fc,
                                         const float* fc_rows, const float* bias, const float* kernels,
                                         void* grad_pieces, float* grad_fc, float* grad_bias, float* grad_kernels,
                                         const int64_t* sizes, int64_t count, int threads) {
    return with_shape<Shape>(sizes, count, [&](const Shape& s) {
        with_dtype(is_bfloat16, [&](auto number) {
            using E = decltype(number);
            backward(s, static_cast<const E*>(grad), static_cast<const E*>(pieces), fc, fc_rows, bias, kernels,
                     static_cast<E*>(grad_pieces), grad_fc, grad_bias, grad_kernels, threads);
        });
    });
}

}  // namespace acmix::conv_path
