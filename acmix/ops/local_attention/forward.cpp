// Local attention, forward. Letters as in acmix/ops/README.md.
//
// For logits, neighbouring pixels are the lanes. A head's keys are copied, channel by channel, into planes of the map
// with its mirrored margins, so that the neighbours of LANES pixels in a row are LANES numbers in a row of a plane,
// moved by an amount that is the same for all channels: a tap. With a stride the planes are split into one for each
// remainder of row and column, where that holds again. Three rows of queries go together, since they share most of
// their neighbours. For sums over neighbours, channels are the lanes, and pixels lie one behind the other.
// Nothing of the size K²·C exists, and of the size K² only what K and a few rows of queries need.

#include "entry.h"
#include "similarities.h"
#include "window_sum.h"

namespace acmix::local_attention {
namespace {

template <class E>
void forward_head(const Shape& s, const E* qkv, const float* position, float scale, int64_t b, int64_t head,
                  int64_t from, int64_t to, E* out, Scratch& scratch) {
    Planes keys(s, nullptr);
    int64_t planes_size = ceil_div(keys.size(s), LANES), row_size = s.padded_channels() * s.padded_out_width(),
            step = ceil_div(s.taps(), 4) * 4;
    Workspace memory{scratch.vectors(planes_size + map_capacity(s) + s.padded_out_width() * s.depth() +
                                     TapWeights::size(s) + step + ceil_div(MOST_ROWS_PER_GROUP * row_size, LANES) +
                                     columns_size(s))};
    keys.start = memory.numbers(planes_size * LANES);
    Vec *map = memory.vectors(map_capacity(s)), *pixels = memory.vectors(s.padded_out_width() * s.depth());
    float *query = memory.numbers(MOST_ROWS_PER_GROUP * row_size), *of_pixels = memory.numbers(step * LANES);
    TapWeights weights(s, memory.vectors(TapWeights::size(s)));
    int64_t taps[MOST_SIDE], *columns = memory.columns(s), pixel = s.heads * s.channels;
    for (int64_t j = 0; j < s.kx; j++) taps[j] = tap_column(s, keys, j);

    const E* image = qkv + b * s.step_b + head * s.step_n;
    mirror_columns(s, columns);
    fill_map(s, image + s.step_s, position, columns, map);
    fill_planes(s, map, keys);
    fill_map(s, image + 2 * s.step_s, nullptr, columns, map);
    WindowSum terms;
    for (int64_t y = from; y < to; y += s.rows_per_group()) {
        QueryGroup group{y, 0, at_most(s.rows_per_group(), to - y)};
        for (int64_t u = 0; u < group.rows; u++) {
            read_row(s, image + (y + u) * s.stride * s.step_y, s.stride * s.step_x, pixels);
            transpose_row(s, pixels, query + u * row_size);
        }
        for (; group.x < s.out_width(); group.x += LANES) {
            similarities(s, group, query, keys, taps, weights);
            for (int64_t u = 0; u < group.rows; u++) {
                Vec inverse_sum = softmax_taps(s, scale, weights.row(u));
                transpose(reinterpret_cast<const float*>(weights.row(u)), LANES, s.taps(), 1, of_pixels, step);
                gather_window(s, map, y + u, of_pixels - group.x * step, step, terms);
                E* row = out + ((b * s.out_height() + y + u) * s.out_width()) * pixel + head * s.channels;
                sum_windows(s, terms, group.x, at_most(s.out_width(), group.x + LANES),
                            [&](int64_t x, int64_t d, Vec v) {
                                store(row + x * pixel + d * LANES, v * inverse_sum[x - group.x],
                                      int(at_most(LANES, s.channels - d * LANES)));
                            });
            }
        }
    }
}

template <class E>
void forward(const Shape& s, const E* qkv, const float* position, E* out, float scale, int threads) {
    int64_t heads = s.batch * s.heads, height = s.out_height();
    // a head's rows are shared out only where there are fewer heads than threads
    int64_t rows = at_least(s.rows_per_group(), ceil_div(height * heads, at_least(heads, threads)));
    rows = ceil_div(rows, s.rows_per_group()) * s.rows_per_group();
    int64_t strips = ceil_div(height, rows);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        thread_local Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < heads * strips; task++) {
            int64_t head = task / strips, strip = task % strips;
            forward_head(s, qkv, position, scale, head / s.heads, head % s.heads, strip * rows,
                         at_most(height, (strip + 1) * rows), out, scratch);
        }
    }
}

}  // namespace

// `sizes` are Shape's members in their order. position is (H, W, D) float32 or null; qkv and out are float32 or
// bfloat16. out is (B, Ho, Wo, C), adjacent.
ACMIX_ENTRY int acmix_local_attention(int is_bfloat16, const void* qkv, const float* position, void* out,
                                      const int64_t* sizes, int64_t count, float scale, int threads) {
    return with_shape<Shape>(sizes, count, [&](const Shape& s) {
        with_dtype(is_bfloat16, [&](auto number) {
            using E = decltype(number);
            forward(s, static_cast<const E*>(qkv), position, static_cast<E*>(out), scale, threads);
        });
    });
}

}  // namespace acmix::local_attention
