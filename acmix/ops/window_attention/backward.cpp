// Window attention, backward: memory is laid out as in forward.cpp. The weights are made once more.

#include "entry.h"
#include "windows.h"

namespace acmix::window_attention {
namespace {

void backward_head(const Shape& s, const Window& window, const Vec* bias, float scale, int64_t head, Vec* grad_bias,
                   Workspace& workspace) {
    int64_t columns = s.columns(), depth = s.depth(), row_width = columns * LANES, pixels = s.pixels();
    Vec *q = workspace.in.at(head, 0), *k = workspace.in.at(head, 1), *v = workspace.in.at(head, 2),
        *grad = workspace.in.at(head, 3);
    attention_weights(s, window, bias, scale, head, workspace);
    scale_rows(workspace.weights, pixels, columns, workspace.inverse_sums);
    product(workspace.weights, 1, row_width, pixels, pixels, grad, depth, workspace.out.at(head, 2));
    transpose_head(s, v, workspace.transposed);
    product(grad, depth * LANES, 1, pixels, s.channels, workspace.transposed, columns, workspace.grad_weights);
    for (int64_t i = 0; i < pixels; i++) {
        Vec *weights = workspace.weights + i * columns, *grads = workspace.grad_weights + i * columns;
        Vec sum{};
        for (int64_t j = 0; j < columns; j++) sum += grads[j] * weights[j];
        float mean = sum_of(sum);
        for (int64_t j = 0; j < columns; j++) {
            grads[j] = weights[j] * (grads[j] - mean);
            if (grad_bias) grad_bias[i * columns + j] += grads[j];
        }
    }
    Vec* grad_q = workspace.out.at(head, 0);
    product(workspace.grad_weights, row_width, 1, pixels, pixels, k, depth, grad_q);
    for (int64_t i = 0; i < pixels * depth; i++) grad_q[i] *= scale;
    product(workspace.grad_weights, 1, row_width, pixels, pixels, q, depth, workspace.out.at(head, 1));
}

template <class E>
void backward_window(const Shape& s, const Window& window, const E* grad, const E* qkv, const Vec* bias, float scale,
                     E* grad_qkv, Vec* grad_bias, Workspace& workspace) {
    int64_t inner = s.heads * s.channels;
    workspace.for_heads(s, [&](int64_t first, int64_t heads) {
        read_rows(s, window, qkv + first * s.step_n, s.step_b, s.step_y, s.step_x, s.step_s, s.step_n, heads, 0, 3,
                  workspace.in);
        read_rows(s, window, grad + first * s.channels, s.height * s.width * inner, s.width * inner, inner, 0,
                  s.channels, heads, 3, 4, workspace.in);
        for (int64_t head = 0; head < heads; head++)
            backward_head(s, window, bias + (first + head) * s.logits(), scale, head,
                          grad_bias ? grad_bias + (first + head) * s.logits() : nullptr, workspace);
        write_rows(s, window, workspace.out, heads, grad_qkv + first * s.channels);
    });
}

// The gradient of the table's column for one head, from the sums over windows.
void bias_table_gradient(const Shape& s, const Vec* const* parts, int64_t count, int64_t head, float* grad_table) {
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
        for (int64_t head = 0; head < s.heads; head++) expand_bias(s, table, head, bias + head * s.logits());
        thread_local Scratch scratch;
        Workspace workspace(s, scratch, true);
#pragma omp for schedule(dynamic)
        for (int64_t part = 0; part < parts; part++) {
            if (grad_table) std::memset(sums + part * size, 0, size * sizeof(Vec));
            for (int64_t number = s.windows() * part / parts; number < s.windows() * (part + 1) / parts; number++)
                backward_window(s, Window(s, number), grad, qkv, bias, scale, grad_qkv,
                                grad_table ? sums + part * size : nullptr, workspace);
        }
#pragma omp for schedule(static)
        for (int64_t head = 0; head < (grad_table ? s.heads : 0); head++) {
            const Vec* of_head[MOST_PARTS];
            for (int64_t part = 0; part < parts; part++) of_head[part] = sums + part * size + head * s.logits();
            bias_table_gradient(s, of_head, parts, head, grad_table);
        }
    }
}

}  // namespace

// grad is (B, H, W, C) and grad_qkv (B, H, W, 3, N, D), both adjacent; grad_table is null where there is no table.
ACMIX_ENTRY int acmix_window_attention_backward(int is_bfloat16, const void* grad, const void* qkv, const float* table,
                                                void* grad_qkv, float* grad_table, const int64_t* sizes, int64_t count,
                                                float scale, int threads) {
    return with_shape<Shape>(sizes, count, [&](const Shape& s) {
        with_dtype(is_bfloat16, [&](auto number) {
            using E = decltype(number);
            backward(s, static_cast<const E*>(grad), static_cast<const E*>(qkv), table, static_cast<E*>(grad_qkv),
                     grad_table, scale, threads);
        });
    });
}

}  // namespace acmix::window_attention
