// Local attention, backward: memory is laid out as in forward.cpp. A task is a whole head.
//
// The weights are made once more, a few rows of queries at a time. Rows that still attend to a key are kept, and its
// gradient is summed when the last of them is there.

#include "entry.h"
#include "similarities.h"
#include "window_sum.h"

namespace acmix::local_attention {
namespace {

// The last rows of queries, pixel by pixel: weights for their taps and those weights' gradients, channels of the
// query and of the output's gradient. Zeros stand before and behind each row, for queries outside the map.
struct RecentQueries {
    int64_t rows, before, width, taps;  // width: pixels of a row with those outside; taps: numbers of a pixel
    float *weights, *grads;
    Vec *query, *upstream;

    explicit RecentQueries(const Shape& s, const Planes& planes) {
        int64_t attending = (s.ky - 1) * s.dilation / s.stride + 1;
        rows = (ceil_div(attending, s.rows_per_group()) + 1) * s.rows_per_group();
        before = (s.kx - 1) * s.dilation / s.stride + 1;
        width = before + at_least(s.padded_out_width(), planes.columns + pixels_per_pass(1));
        taps = ceil_div(s.taps(), 4) * 4;
    }
    int64_t size(const Shape& s) const { return 2 * rows * width * (ceil_div(taps, LANES) + s.depth()); }

    void place(const Shape& s, Vec* memory) {
        std::memset(memory, 0, size(s) * sizeof(Vec));
        query = memory, upstream = query + rows * width * s.depth();
        weights = reinterpret_cast<float*>(upstream + rows * width * s.depth()), grads = weights + rows * width * taps;
    }
    Vec* channels(const Shape& s, Vec* of, int64_t y) const { return of + (y % rows * width + before) * s.depth(); }
    float* of_taps(float* of, int64_t y) const { return of + (y % rows * width + before) * taps; }
};

// The terms by which queries reach the keys, or values, of row y: keys are those in columns with this remainder by the
// stride, and pixel x of the sum is the x-th of them.
void scatter_to_keys(const Shape& s, const RecentQueries& queries, float* weights, Vec* channels, int64_t y,
                     int64_t remainder, WindowSum& terms) {
    terms.rows = terms.columns = 0, terms.weight_step = queries.taps, terms.from_step = s.depth();
    int64_t first = ceil_div(at_least(0, y - (s.ky - 1) * s.dilation), s.stride);
    for (int64_t at = first; at < s.out_height() && at * s.stride <= y; at++) {
        int64_t down = y - at * s.stride;
        if (down % s.dilation) continue;
        terms.weight[terms.rows] = queries.of_taps(weights, at) + down / s.dilation * s.kx;
        terms.from[terms.rows++] = queries.channels(s, channels, at);
    }
    for (int64_t j = 0; j < s.kx; j++) {
        int64_t right = floor_div(remainder - j * s.dilation, s.stride);
        if (right * s.stride != remainder - j * s.dilation) continue;
        terms.weight_at[terms.columns] = right * queries.taps + j;
        terms.from_at[terms.columns++] = right * s.depth();
    }
}

// Adds row y of the padded map's gradient to the pixels that it holds or mirrors: `to` is (H, W, D).
void add_key_gradient(const Shape& s, int64_t y, const RecentQueries& queries, float* weights, Vec* channels,
                      const int64_t* columns, Vec* to) {
    Vec* row = to + mirrored(y - s.pad_y(), s.height) * s.width * s.depth();
    for (int64_t remainder = 0; remainder < at_most(s.stride, s.padded_width()); remainder++) {
        WindowSum terms;
        scatter_to_keys(s, queries, weights, channels, y, remainder, terms);
        sum_windows(s, terms, 0, ceil_div(s.padded_width() - remainder, s.stride),
                    [&](int64_t x, int64_t d, Vec v) { row[columns[remainder + x * s.stride] * s.depth() + d] += v; });
    }
}

// All bits of the lanes that stand for pixels of a row.
inline Int valid_lanes(const Shape& s, int64_t x) {
    Int at{};
    for (int i = 0; i < LANES; i++) at[i] = i;
    return at < int32_t(at_most(LANES, s.out_width() - x));
}

// From products and gradients of weights, in place, weights and gradients of products.
void softmax_gradient(const Shape& s, int64_t x, float scale, Vec* weights, Vec* grads) {
    Int is_pixel = valid_lanes(s, x);
    Vec inverse_sum = softmax_taps(s, scale, weights), sums[4] = {};
    for (int64_t t = 0; t < s.taps(); t++) {
        weights[t] = is_pixel ? weights[t] * inverse_sum : Vec{};
        grads[t] = is_pixel ? grads[t] : Vec{};
        sums[t % 4] += weights[t] * grads[t];
    }
    Vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int64_t t = 0; t < s.taps(); t++) grads[t] = weights[t] * (grads[t] - sum) * scale;
}

// Reads rows of queries and of the output's gradient: pixel by pixel for sums, channel by channel for products.
template <class E>
void read_queries(const Shape& s, const QueryGroup& group, const E* image, const E* grad, const RecentQueries& queries,
                  float* query, float* upstream) {
    int64_t inner = s.heads * s.channels, row_size = s.padded_channels() * s.padded_out_width();
    for (int64_t u = 0; u < group.rows; u++) {
        int64_t y = group.y + u;
        Vec *of_query = queries.channels(s, queries.query, y), *of_grad = queries.channels(s, queries.upstream, y);
        read_row(s, image + y * s.stride * s.step_y, s.stride * s.step_x, of_query);
        read_row(s, grad + y * s.out_width() * inner, inner, of_grad);
        transpose_row(s, of_query, query + u * row_size);
        transpose_row(s, of_grad, upstream + u * row_size);
    }
}

// Puts the weights of LANES pixels in a group's rows, and the gradients of their products, among those of recent
// queries.
void keep_weights(const Shape& s, const QueryGroup& group, float scale, const TapWeights& weights,
                  const TapWeights& grads, const RecentQueries& queries) {
    for (int64_t u = 0; u < group.rows; u++) {
        softmax_gradient(s, group.x, scale, weights.row(u), grads.row(u));
        float* of_weights = queries.of_taps(queries.weights, group.y + u) + group.x * queries.taps;
        float* of_grads = queries.of_taps(queries.grads, group.y + u) + group.x * queries.taps;
        transpose(reinterpret_cast<const float*>(weights.row(u)), LANES, s.taps(), 1, of_weights, queries.taps);
        transpose(reinterpret_cast<const float*>(grads.row(u)), LANES, s.taps(), 1, of_grads, queries.taps);
    }
}

// The gradient of a group's queries: sums over the keys that they attend to.
template <class E>
void write_query_gradient(const Shape& s, const QueryGroup& group, const Vec* keys, const RecentQueries& queries,
                          E* grad_image) {
    int64_t pixel = 3 * s.heads * s.channels;
    for (int64_t y = group.y; y < group.y + group.rows; y++) {
        WindowSum terms;
        gather_window(s, keys, y, queries.of_taps(queries.grads, y), queries.taps, terms);
        E* row = grad_image + y * s.stride * s.width * pixel;
        sum_windows(s, terms, 0, s.out_width(), [&](int64_t x, int64_t d, Vec v) {
            store(row + x * s.stride * pixel + d * LANES, v, int(at_most(LANES, s.channels - d * LANES)));
        });
    }
}

// Writes the sums for keys and values; what keys get, positions lose.
template <class E>
void write_key_gradients(const Shape& s, const Vec* grad_keys, const Vec* grad_values, E* grad_image,
                         float* grad_position) {
    int64_t inner = s.heads * s.channels;
    for (int64_t at = 0; at < s.height * s.width; at++) {
        write_channels(s, grad_keys + at * s.depth(), grad_image + at * 3 * inner + inner);
        write_channels(s, grad_values + at * s.depth(), grad_image + at * 3 * inner + 2 * inner);
        const float* of_pixel = reinterpret_cast<const float*>(grad_keys + at * s.depth());
        for (int64_t d = 0; d < (grad_position ? s.channels : 0); d++)
            grad_position[at * s.channels + d] -= of_pixel[d];
    }
}

template <class E>
void backward_head(const Shape& s, const E* grad, const E* qkv, const float* position, float scale, int64_t b,
                   int64_t head, E* grad_qkv, float* grad_position, Scratch& scratch) {
    Planes keys(s, nullptr), values(s, nullptr);
    RecentQueries queries(s, keys);
    int64_t planes_size = ceil_div(keys.size(s), LANES), grad_size = s.height * s.width * s.depth();
    int64_t rows_size = ceil_div(MOST_ROWS_PER_GROUP * s.padded_channels() * s.padded_out_width(), LANES);
    Workspace memory{scratch.vectors(2 * planes_size + map_capacity(s) + 2 * grad_size + 2 * rows_size +
                                     queries.size(s) + 2 * TapWeights::size(s) + columns_size(s))};
    keys.start = memory.numbers(planes_size * LANES), values.start = memory.numbers(planes_size * LANES);
    Vec* map = memory.vectors(map_capacity(s));
    Vec *grad_keys = memory.vectors(grad_size), *grad_values = memory.vectors(grad_size);
    float *query = memory.numbers(rows_size * LANES), *upstream = memory.numbers(rows_size * LANES);
    queries.place(s, memory.vectors(queries.size(s)));
    TapWeights weights(s, memory.vectors(TapWeights::size(s))), grads(s, memory.vectors(TapWeights::size(s)));
    int64_t taps[MOST_SIDE], *columns = memory.columns(s);
    for (int64_t j = 0; j < s.kx; j++) taps[j] = tap_column(s, keys, j);

    int64_t inner = s.heads * s.channels;
    const E* image = qkv + b * s.step_b + head * s.step_n;
    const E* grad_out = grad + b * s.out_height() * s.out_width() * inner + head * s.channels;
    E* grad_image = grad_qkv + b * s.height * s.width * 3 * inner + head * s.channels;
    mirror_columns(s, columns);
    fill_map(s, image + 2 * s.step_s, nullptr, columns, map);
    fill_planes(s, map, values);
    fill_map(s, image + s.step_s, position, columns, map);
    fill_planes(s, map, keys);
    std::memset(static_cast<void*>(grad_keys), 0, 2 * grad_size * sizeof(Vec));
    // with a stride, most pixels have no query
    if (s.stride > 1)
        for (int64_t at = 0; at < s.height * s.width; at++)
            std::memset(static_cast<void*>(grad_image + at * 3 * inner), 0, s.channels * sizeof(E));

    int64_t finished = 0;  // rows of keys whose gradient is complete
    for (int64_t y = 0; y < s.out_height(); y += s.rows_per_group()) {
        QueryGroup group{y, 0, at_most(s.rows_per_group(), s.out_height() - y)};
        read_queries(s, group, image, grad_out, queries, query, upstream);
        for (; group.x < s.out_width(); group.x += LANES) {
            similarities(s, group, query, keys, taps, weights);
            similarities(s, group, upstream, values, taps, grads);
            keep_weights(s, group, scale, weights, grads, queries);
        }
        write_query_gradient(s, group, map, queries, grad_image);
        bool is_last = y + group.rows == s.out_height();
        int64_t complete = is_last ? s.padded_height() : (y + group.rows) * s.stride;
        for (; finished < complete; finished++) {
            add_key_gradient(s, finished, queries, queries.grads, queries.query, columns, grad_keys);
            add_key_gradient(s, finished, queries, queries.weights, queries.upstream, columns, grad_values);
        }
    }
    write_key_gradients(s, grad_keys, grad_values, grad_image, grad_position);
}

// The positions' gradient is summed in so many parts, whatever the threads, and so always in the same order.
constexpr int64_t MOST_PARTS = 16;

template <class E>
void backward(const Shape& s, const E* grad, const E* qkv, const float* position, E* grad_qkv, float* grad_position,
              float scale, int threads) {
    int64_t heads = s.batch * s.heads, size = s.height * s.width * s.channels, parts = at_most(heads, MOST_PARTS);
    thread_local Scratch sums_memory;
    float* sums = reinterpret_cast<float*>(sums_memory.vectors(grad_position ? ceil_div(parts * size, LANES) : 0));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        thread_local Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int64_t part = 0; part < parts; part++) {
            float* sum = grad_position ? sums + part * size : nullptr;
            if (sum) std::memset(sum, 0, size * sizeof(float));
            for (int64_t head = heads * part / parts; head < heads * (part + 1) / parts; head++)
                backward_head(s, grad, qkv, position, scale, head / s.heads, head % s.heads, grad_qkv, sum, scratch);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (grad_position ? size : 0); i++) {
            float total = 0;
            for (int64_t part = 0; part < parts; part++) total += sums[part * size + i];
            grad_position[i] = total;
        }
    }
}

}  // namespace

// grad is (B, Ho, Wo, C) and grad_qkv (B, H, W, 3, N, D), both adjacent; grad_position is null where there is none.
ACMIX_ENTRY int acmix_local_attention_backward(int is_bfloat16, const void* grad, const void* qkv,
                                               const float* position, void* grad_qkv, float* grad_position,
                                               const int64_t* sizes, int64_t count, float scale, int threads) {
    return with_shape<Shape>(sizes, count, [&](const Shape& s) {
        with_dtype(is_bfloat16, [&](auto number) {
            using E = decltype(number);
            backward(s, static_cast<const E*>(grad), static_cast<const E*>(qkv), position, static_cast<E*>(grad_qkv),
                     grad_position, scale, threads);
        });
    });
}

}  // namespace acmix::local_attention
