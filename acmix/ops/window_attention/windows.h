// A window between the map and a thread's memory, and the weights of its heads.
#pragma once

#include <cmath>

#include "product.h"
#include "shape.h"

namespace acmix::window_attention {

// B for each head: (N, L, columns); −∞ in the columns behind the last pixel, which hides them.
inline void expand_bias(const Shape& s, const float* table, int64_t head, Vec* bias) {
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
struct HeadRows {
    Vec* start;
    int64_t parts, size;  // size: vectors of one piece

    Vec* at(int64_t head, int64_t part) const { return start + (head * parts + part) * size; }
};

// Copies pieces of some heads out of a map; zeros for padding.
template <class E>
void read_rows(const Shape& s, const Window& window, const E* from, int64_t step_b, int64_t step_y, int64_t step_x,
               int64_t step_part, int64_t step_head, int64_t heads, int64_t first, int64_t last, const HeadRows& rows) {
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
void write_rows(const Shape& s, const Window& window, const HeadRows& rows, int64_t heads, E* to) {
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

// Turns logits into e^(logit − largest of the row), which times the row's inverse sum is the softmax. J vectors a row
// where J is not 0, to be kept in registers.
template <int J>
void softmax_rows(const Shape& s, const Window& window, const Vec* bias, Vec* logits, float* inverse_sums) {
    const int64_t columns = J ? J : s.columns();
    const Int* region = reinterpret_cast<const Int*>(window.region);
    // in two passes, so that no row waits for another's horizontal steps
    for (int64_t i = 0; i < s.pixels(); i++) {
        Vec* row = logits + i * columns;
        Vec largest = broadcast(-INFINITY);
        for (int64_t j = 0; j < columns; j++) {
            Vec logit = row[j] + bias[i * columns + j];
            if (window.is_masked) logit = region[j] == window.region[i] ? logit : broadcast(-INFINITY);
            row[j] = logit;
            largest = max_of(largest, logit);
        }
        inverse_sums[i] = largest_of(largest);  // until the second pass
    }
    for (int64_t i = 0; i < s.pixels(); i++) {
        Vec* row = logits + i * columns;
        Vec sum{};
        for (int64_t j = 0; j < columns; j++) sum += row[j] = exp_of(row[j] - inverse_sums[i]);
        inverse_sums[i] = 1.0f / sum_of(sum);
    }
    for (int64_t i = 0; i < (window.is_masked ? s.pixels() : 0); i++) {
        if (window.y[i] >= 0) continue;
        for (int64_t j = 0; j < columns; j++) logits[i * columns + j] = Vec{};
        inverse_sums[i] = 0;
    }
}

inline void softmax_rows(const Shape& s, const Window& window, const Vec* bias, Vec* logits, float* inverse_sums) {
    static constexpr decltype(&softmax_rows<0>) by_size[] = {softmax_rows<0>, softmax_rows<1>, softmax_rows<2>,
                                                      softmax_rows<3>, softmax_rows<4>};
    by_size[s.columns() <= 4 ? s.columns() : 0](s, window, bias, logits, inverse_sums);
}

// Multiplies every row by a number of its own.
inline void scale_rows(Vec* rows, int64_t count, int64_t width, const float* by) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < width; j++) rows[i * width + j] *= by[i];
}

// A thread's memory.
struct Workspace {
    int64_t heads;     // copied at once
    HeadRows in, out;  // q, k, v and, for the gradient, that of the output; the output, or the gradients of q, k and v
    Vec *transposed, *weights, *grad_weights;
    float inverse_sums[MOST_WINDOW_PIXELS];

    Workspace(const Shape& s, Scratch& scratch, bool gradient) {
        int64_t size = s.columns() * LANES * s.depth();
        heads = at_most(s.heads, at_least(1, 256 / (s.depth() * LANES)));
        in = {nullptr, gradient ? 4 : 3, size}, out = {nullptr, gradient ? 3 : 1, size};
        int64_t size_in = heads * in.parts * size, size_out = heads * out.parts * size;
        Vec* memory = scratch.vectors(size_in + size_out + size + 2 * s.logits());
        // rows behind the last pixel stay zeros
        std::memset(memory, 0, size_in * sizeof(Vec));
        in.start = memory, out.start = memory + size_in, transposed = out.start + size_out;
        weights = transposed + size, grad_weights = weights + s.logits();
    }

    // Calls `with(first, count)` for heads that are copied at once.
    template <class F>
    void for_heads(const Shape& s, F with) const {
        for (int64_t head = 0; head < s.heads; head += heads) with(head, at_most(heads, s.heads - head));
    }
};

// (L, D) to (D, L).
inline void transpose_head(const Shape& s, const Vec* rows, Vec* transposed) {
    int64_t row_width = s.columns() * LANES;
    transpose(reinterpret_cast<const float*>(rows), s.depth() * LANES, row_width, s.depth(),
              reinterpret_cast<float*>(transposed), row_width);
}

// The weights of one head, yet to be multiplied by the rows' inverse sums; q is scaled.
inline void attention_weights(const Shape& s, const Window& window, const Vec* bias, float scale, int64_t head,
                              Workspace& workspace) {
    Vec *q = workspace.in.at(head, 0), *k = workspace.in.at(head, 1);
    for (int64_t i = 0; i < s.pixels() * s.depth(); i++) q[i] *= scale;
    transpose_head(s, k, workspace.transposed);
    product(q, s.depth() * LANES, 1, s.pixels(), s.channels, workspace.transposed, s.columns(), workspace.weights);
    softmax_rows(s, window, bias, workspace.weights, workspace.inverse_sums);
}

}  // namespace acmix::window_attention
