// Window attention: forward and gradient. Letters as in acmix/ops/README.md.
//
// A task is a window. The q, k and v of some heads are copied out of the map, by the addresses that the roll gives
// them, into a thread's scratch memory, where everything else happens, a head at a time; the L pixels are rows, filled
// up to whole vectors with columns that nobody sees. Copying several heads at once reads the map in long runs, which
// the processor foresees. Nothing of the size L² leaves the cache, and nothing is kept for the gradient.

#include <cmath>

#include "lanes.h"
#include "product.h"

namespace acmix {
namespace {

struct Shape {
    int64_t batch, height, width, heads, channels, wh, ww, shift_y, shift_x;
    int64_t step_b, step_y, step_x, step_s, step_n;  // of qkv, in numbers; a head's channels are adjacent

    int64_t pixels() const { return wh * ww; }
    int64_t columns() const { return ceil_div(pixels(), LANES); }  // vectors in a row of logits
    int64_t depth() const { return ceil_div(channels, LANES); }    // vectors in a row of channels
    int64_t rows_of_windows() const { return ceil_div(height, wh); }
    int64_t columns_of_windows() const { return ceil_div(width, ww); }
    int64_t windows() const { return batch * rows_of_windows() * columns_of_windows(); }
    int64_t logits() const { return pixels() * columns(); }
};

// Where a window's pixels lie, and which of them see each other.
struct Window {
    int64_t batch;
    int64_t y[MOST_WINDOW_PIXELS], x[MOST_WINDOW_PIXELS];  // in the map; −1 for padding
    alignas(64) int32_t region[MOST_WINDOW_PIXELS + LANES];
    bool is_cut;  // holds more than one region

    Window(const Shape& s, int64_t number) {
        int64_t columns = s.columns_of_windows(), rows = s.rows_of_windows();
        batch = number / columns / rows;
        int64_t top = number / columns % rows * s.wh, left = number % columns * s.ww;
        is_cut = false;
        for (int64_t i = 0; i < s.wh; i++)
            for (int64_t j = 0; j < s.ww; j++) {
                int64_t at = i * s.ww + j, down = top + i, right = left + j;
                bool is_map = down < s.height && right < s.width;
                bool is_below = down >= s.height - s.shift_y, is_behind = right >= s.width - s.shift_x;
                y[at] = is_map ? down + s.shift_y - (is_below ? s.height : 0) : -1;
                x[at] = is_map ? right + s.shift_x - (is_behind ? s.width : 0) : -1;
                // what came over the seam is a region of its own, and so is padding
                region[at] = is_map ? is_below * 2 + is_behind : 4;
                is_cut = is_cut || region[at] != region[0] || !is_map;
            }
        for (int64_t at = s.pixels(); at < s.columns() * LANES; at++) region[at] = -1;
    }
};

// B for each head: (N, L, columns); −∞ in the columns behind the last pixel, which hides them.
void spread_bias(const Shape& s, const float* table, int64_t head, Vec* bias) {
    int64_t entries = (2 * s.wh - 1) * (2 * s.ww - 1), width = s.columns() * LANES;
    float reversed[(2 * MOST_WINDOW_PIXELS) * 2];
    for (int64_t i = 0; i < entries; i++) reversed[entries - 1 - i] = table ? table[i * s.heads + head] : 0.0f;
    for (int64_t i = 0; i < s.pixels(); i++) {
        float* row = reinterpret_cast<float*>(bias) + i * width;
        for (int64_t y = 0; y < s.wh; y++) {
            int64_t first = (i / s.ww - y + s.wh - 1) * (2 * s.ww - 1) + i % s.ww + s.ww - 1;
            std::memcpy(row + y * s.ww, reversed + entries - 1 - first, s.ww * sizeof(float));
        }
        for (int64_t j = s.pixels(); j < width; j++) row[j] = -INFINITY;
    }
}

// What is copied in and out at once: `heads` heads of `parts` pieces each, as (head, piece, L, D).
struct Rows {
    Vec* start;
    int64_t parts, size;  // size: vectors of one piece

    Vec* at(int64_t head, int64_t part) const { return start + (head * parts + part) * size; }
};

// Copies pieces of some heads out of a map; zeros for padding.
template <class E>
void read_rows(const Shape& s, const Window& window, const E* from, int64_t step_b, int64_t step_y, int64_t step_x,
               int64_t step_part, int64_t step_head, int64_t heads, int64_t first, int64_t last, const Rows& rows) {
    int64_t depth = s.depth();
    for (int64_t i = 0; i < s.pixels(); i++) {
        const E* pixel = from + window.batch * step_b + window.y[i] * step_y + window.x[i] * step_x;
        for (int64_t part = first; part < last; part++)
            for (int64_t head = 0; head < heads; head++) {
                Vec* to = rows.at(head, part) + i * depth;
                const E* at = pixel + (part - first) * step_part + head * step_head;
                if (window.y[i] < 0)
                    for (int64_t d = 0; d < depth; d++) to[d] = Vec{};
                else if (s.channels % LANES == 0)
                    for (int64_t d = 0; d < depth; d++) to[d] = load(at + d * LANES);
                else
                    for (int64_t d = 0; d < depth; d++)
                        to[d] = load(at + d * LANES, int(at_most(LANES, s.channels - d * LANES)));
            }
    }
}

// Writes them into a map of (parts, N, D) numbers a pixel, which lie adjacent.
template <class E>
void write_rows(const Shape& s, const Window& window, const Rows& rows, int64_t heads, E* to) {
    int64_t depth = s.depth(), inner = s.heads * s.channels;
    for (int64_t i = 0; i < s.pixels(); i++) {
        if (window.y[i] < 0) continue;
        E* pixel = to + ((window.batch * s.height + window.y[i]) * s.width + window.x[i]) * rows.parts * inner;
        for (int64_t part = 0; part < rows.parts; part++)
            for (int64_t head = 0; head < heads; head++) {
                const Vec* from = rows.at(head, part) + i * depth;
                E* at = pixel + part * inner + head * s.channels;
                if (s.channels % LANES == 0)
                    for (int64_t d = 0; d < depth; d++) store(at + d * LANES, from[d]);
                else
                    for (int64_t d = 0; d < depth; d++)
                        store(at + d * LANES, from[d], int(at_most(LANES, s.channels - d * LANES)));
            }
    }
}

// From logits, in place, e^(logit − largest) of every row; the softmax is that times the row's share. J vectors a row
// where J is not 0, to be kept in registers.
template <int J>
void make_weights(const Shape& s, const Window& window, const Vec* bias, Vec* logits, float* shares) {
    const int64_t columns = J ? J : s.columns();
    const Int* region = reinterpret_cast<const Int*>(window.region);
    // in two passes, so that no row waits for another's horizontal steps
    for (int64_t i = 0; i < s.pixels(); i++) {
        Vec* row = logits + i * columns;
        Vec largest = broadcast(-INFINITY);
        for (int64_t j = 0; j < columns; j++) {
            Vec logit = row[j] + bias[i * columns + j];
            if (window.is_cut) logit = region[j] == window.region[i] ? logit : broadcast(-INFINITY);
            row[j] = logit;
            largest = max_of(largest, logit);
        }
        shares[i] = largest_of(largest);
    }
    for (int64_t i = 0; i < s.pixels(); i++) {
        Vec* row = logits + i * columns;
        Vec sum{};
        for (int64_t j = 0; j < columns; j++) sum += row[j] = exp_of(row[j] - shares[i]);
        shares[i] = 1.0f / sum_of(sum);
    }
    for (int64_t i = 0; i < (window.is_cut ? s.pixels() : 0); i++) {
        if (window.y[i] >= 0) continue;
        for (int64_t j = 0; j < columns; j++) logits[i * columns + j] = Vec{};
        shares[i] = 0;
    }
}

void make_weights(const Shape& s, const Window& window, const Vec* bias, Vec* logits, float* shares) {
    constexpr decltype(&make_weights<0>) by_size[] = {make_weights<0>, make_weights<1>, make_weights<2>,
                                                      make_weights<3>, make_weights<4>};
    by_size[s.columns() <= 4 ? s.columns() : 0](s, window, bias, logits, shares);
}

// Multiplies every row by a number of its own.
void scale_rows(Vec* rows, int64_t count, int64_t width, const float* by) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < width; j++) rows[i * width + j] *= by[i];
}

// A thread's memory.
struct Room {
    int64_t heads;  // copied at once
    Rows in, out;   // q, k, v and, for the gradient, that of the output; the output, or the gradients of q, k and v
    Vec *turned, *weights, *grad_weights;
    float shares[MOST_WINDOW_PIXELS];

    Room(const Shape& s, Scratch& scratch, bool gradient) {
        int64_t size = s.columns() * LANES * s.depth();
        heads = at_most(s.heads, at_least(1, 256 / (s.depth() * LANES)));
        in = {nullptr, gradient ? 4 : 3, size}, out = {nullptr, gradient ? 3 : 1, size};
        int64_t room_in = heads * in.parts * size, room_out = heads * out.parts * size;
        Vec* memory = scratch.vectors(room_in + room_out + size + 2 * s.logits());
        // rows behind the last pixel stay zeros
        std::memset(memory, 0, room_in * sizeof(Vec));
        in.start = memory, out.start = memory + room_in, turned = out.start + room_out;
        weights = turned + size, grad_weights = weights + s.logits();
    }

    // Calls `with(first, count)` for heads that are copied at once.
    template <class F>
    void for_heads(const Shape& s, F with) const {
        for (int64_t head = 0; head < s.heads; head += heads) with(head, at_most(heads, s.heads - head));
    }
};

// (L, D) to (D, L).
void turn_rows(const Shape& s, const Vec* rows, Vec* turned) {
    int64_t wide = s.columns() * LANES;
    turn(reinterpret_cast<const float*>(rows), s.depth() * LANES, wide, s.depth(), reinterpret_cast<float*>(turned),
         wide);
}

// The weights of one head, but for the rows' shares; q is scaled.
void attend(const Shape& s, const Window& window, const Vec* bias, float scale, int64_t head, Room& room) {
    Vec *q = room.in.at(head, 0), *k = room.in.at(head, 1);
    for (int64_t i = 0; i < s.pixels() * s.depth(); i++) q[i] *= scale;
    turn_rows(s, k, room.turned);
    product(q, s.depth() * LANES, 1, s.pixels(), s.channels, room.turned, s.columns(), room.weights);
    make_weights(s, window, bias, room.weights, room.shares);
}

template <class E>
void forward_window(const Shape& s, const Window& window, const E* qkv, const Vec* bias, float scale, E* out,
                    Room& room) {
    room.for_heads(s, [&](int64_t first, int64_t heads) {
        read_rows(s, window, qkv + first * s.step_n, s.step_b, s.step_y, s.step_x, s.step_s, s.step_n, heads, 0, 3,
                  room.in);
        for (int64_t head = 0; head < heads; head++) {
            attend(s, window, bias + (first + head) * s.logits(), scale, head, room);
            Vec* result = room.out.at(head, 0);
            product(room.weights, s.columns() * LANES, 1, s.pixels(), s.pixels(), room.in.at(head, 2), s.depth(),
                    result);
            scale_rows(result, s.pixels(), s.depth(), room.shares);
        }
        write_rows(s, window, room.out, heads, out + first * s.channels);
    });
}

template <class E>
void forward(const Shape& s, const E* qkv, const float* table, E* out, float scale, int threads) {
    thread_local Scratch bias_memory;
    Vec* bias = bias_memory.vectors(s.heads * s.logits());
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t head = 0; head < s.heads; head++) spread_bias(s, table, head, bias + head * s.logits());
        thread_local Scratch scratch;
        Room room(s, scratch, false);
#pragma omp for schedule(dynamic)
        for (int64_t number = 0; number < s.windows(); number++)
            forward_window(s, Window(s, number), qkv, bias, scale, out, room);
    }
}

void backward_head(const Shape& s, const Window& window, const Vec* bias, float scale, int64_t head, Vec* grad_bias,
                   Room& room) {
    int64_t columns = s.columns(), depth = s.depth(), wide = columns * LANES, pixels = s.pixels();
    Vec *q = room.in.at(head, 0), *k = room.in.at(head, 1), *v = room.in.at(head, 2), *grad = room.in.at(head, 3);
    attend(s, window, bias, scale, head, room);
    scale_rows(room.weights, pixels, columns, room.shares);
    product(room.weights, 1, wide, pixels, pixels, grad, depth, room.out.at(head, 2));
    turn_rows(s, v, room.turned);
    product(grad, depth * LANES, 1, pixels, s.channels, room.turned, columns, room.grad_weights);
    for (int64_t i = 0; i < pixels; i++) {
        Vec *weights = room.weights + i * columns, *grads = room.grad_weights + i * columns;
        Vec sum{};
        for (int64_t j = 0; j < columns; j++) sum += grads[j] * weights[j];
        float mean = sum_of(sum);
        for (int64_t j = 0; j < columns; j++) {
            grads[j] = weights[j] * (grads[j] - mean);
            if (grad_bias) grad_bias[i * columns + j] += grads[j];
        }
    }
    Vec* grad_q = room.out.at(head, 0);
    product(room.grad_weights, wide, 1, pixels, pixels, k, depth, grad_q);
    for (int64_t i = 0; i < pixels * depth; i++) grad_q[i] *= scale;
    product(room.grad_weights, 1, wide, pixels, pixels, q, depth, room.out.at(head, 1));
}

template <class E>
void backward_window(const Shape& s, const Window& window, const E* grad, const E* qkv, const Vec* bias, float scale,
                     E* grad_qkv, Vec* grad_bias, Room& room) {
    int64_t inner = s.heads * s.channels;
    room.for_heads(s, [&](int64_t first, int64_t heads) {
        read_rows(s, window, qkv + first * s.step_n, s.step_b, s.step_y, s.step_x, s.step_s, s.step_n, heads, 0, 3,
                  room.in);
        read_rows(s, window, grad + first * s.channels, s.height * s.width * inner, s.width * inner, inner, 0,
                  s.channels, heads, 3, 4, room.in);
        for (int64_t head = 0; head < heads; head++)
            backward_head(s, window, bias + (first + head) * s.logits(), scale, head,
                          grad_bias ? grad_bias + (first + head) * s.logits() : nullptr, room);
        write_rows(s, window, room.out, heads, grad_qkv + first * s.channels);
    });
}

// The gradient of the table's column for one head, from the sums over windows.
void gather_bias(const Shape& s, const Vec* const* parts, int64_t count, int64_t head, float* grad_table) {
    int64_t entries = (2 * s.wh - 1) * (2 * s.ww - 1), width = s.columns() * LANES;
    double total[(2 * MOST_WINDOW_PIXELS) * 2] = {};
    for (int64_t i = 0; i < s.pixels(); i++)
        for (int64_t j = 0; j < s.pixels(); j++) {
            int64_t down = i / s.ww - j / s.ww + s.wh - 1, right = i % s.ww - j % s.ww + s.ww - 1;
            double sum = 0;
            for (int64_t part = 0; part < count; part++)
                sum += reinterpret_cast<const float*>(parts[part])[i * width + j];
            total[down * (2 * s.ww - 1) + right] += sum;
        }
    for (int64_t i = 0; i < entries; i++) grad_table[i * s.heads + head] = float(total[i]);
}

// The table's gradient is summed in so many parts, whatever the threads, and so always in the same order.
constexpr int64_t MOST_PARTS = 16;

template <class E>
void backward(const Shape& s, const E* grad, const E* qkv, const float* table, E* grad_qkv, float* grad_table,
              float scale, int threads) {
    int64_t size = s.heads * s.logits(), parts = at_most(s.windows(), MOST_PARTS);
    thread_local Scratch bias_memory, sums_memory;
    Vec* bias = bias_memory.vectors(size);
    Vec* sums = sums_memory.vectors(grad_table ? parts * size : 0);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t head = 0; head < s.heads; head++) spread_bias(s, table, head, bias + head * s.logits());
        thread_local Scratch scratch;
        Room room(s, scratch, true);
#pragma omp for schedule(dynamic)
        for (int64_t part = 0; part < parts; part++) {
            if (grad_table) std::memset(sums + part * size, 0, size * sizeof(Vec));
            for (int64_t number = s.windows() * part / parts; number < s.windows() * (part + 1) / parts; number++)
                backward_window(s, Window(s, number), grad, qkv, bias, scale, grad_qkv,
                                grad_table ? sums + part * size : nullptr, room);
        }
#pragma omp for schedule(static)
        for (int64_t head = 0; head < (grad_table ? s.heads : 0); head++) {
            const Vec* of_head[MOST_PARTS];
            for (int64_t part = 0; part < parts; part++) of_head[part] = sums + part * size + head * s.logits();
            gather_bias(s, of_head, parts, head, grad_table);
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

// `sizes` are Shape's members in their order. The table is float32 or null; qkv and out are float32 or, where `half`,
// bfloat16. out is (B, H, W, C), adjacent.
extern "C" void acmix_window_attention(int half, const void* qkv, const float* table, void* out, const int64_t* sizes,
                                       float scale, int threads) {
    Shape s = shape_of(sizes);
    if (half)
        forward(s, static_cast<const bfloat16*>(qkv), table, static_cast<bfloat16*>(out), scale, threads);
    else
        forward(s, static_cast<const float*>(qkv), table, static_cast<float*>(out), scale, threads);
}

// grad is (B, H, W, C) and grad_qkv (B, H, W, 3, N, D), both adjacent; grad_table is null where there is no table.
extern "C" void acmix_window_attention_backward(int half, const void* grad, const void* qkv, const float* table,
                                                void* grad_qkv, float* grad_table, const int64_t* sizes, float scale,
                                                int threads) {
    Shape s = shape_of(sizes);
    if (half)
        backward(s, static_cast<const bfloat16*>(grad), static_cast<const bfloat16*>(qkv), table,
                 static_cast<bfloat16*>(grad_qkv), grad_table, scale, threads);
    else
        backward(s, static_cast<const float*>(grad), static_cast<const float*>(qkv), table,
                 static_cast<float*>(grad_qkv), grad_table, scale, threads);
}
