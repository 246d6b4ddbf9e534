// Window attention, forward. Letters as in acmix/ops/README.md.
//
// A task is a window. The q, k and v of some heads are copied out of the map, by the addresses that the roll gives
// them, into a thread's scratch memory, where everything else happens, a head at a time; the L pixels are rows, filled
// up to whole vectors with columns of weight zero. Copying several heads at once reads the map in long runs, which
// the processor foresees. Nothing of the size L² leaves the cache, and nothing is kept for the gradient.

#include "entry.h"
#include "windows.h"

namespace acmix::window_attention {
namespace {

template <class E>
void forward_window(const Shape& s, const Window& window, const E* qkv, const Vec* bias, float scale, E* out,
                    Workspace& workspace) {
    workspace.for_heads(s, [&](int64_t first, int64_t heads) {
        read_rows(s, window, qkv + first * s.step_n, s.step_b, s.step_y, s.step_x, s.step_s, s.step_n, heads, 0, 3,
                  workspace.in);
        for (int64_t head = 0; head < heads; head++) {
            attention_weights(s, window, bias + (first + head) * s.logits(), scale, head, workspace);
            Vec* result = workspace.out.at(head, 0);
            product(workspace.weights, s.columns() * LANES, 1, s.pixels(), s.pixels(), workspace.in.at(head, 2),
                    s.depth(), result);
            scale_rows(result, s.pixels(), s.depth(), workspace.inverse_sums);
        }
        write_rows(s, window, workspace.out, heads, out + first * s.channels);
    });
}

template <class E>
void forward(const Shape& s, const E* qkv, const float* table, E* out, float scale, int threads) {
    thread_local Scratch bias_memory;
    Vec* bias = bias_memory.vectors(s.heads * s.logits());
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t head = 0; head < s.heads; head++) expand_bias(s, table, head, bias + head * s.logits());
        thread_local Scratch scratch;
        Workspace workspace(s, scratch, false);
#pragma omp for schedule(dynamic)
        for (int64_t number = 0; number < s.windows(); number++)
            forward_window(s, Window(s, number), qkv, bias, scale, out, workspace);
    }
}

}  // namespace

// `sizes` are Shape's members in their order. The table is float32 or null; qkv and out are float32 or bfloat16.
// out is (B, H, W, C), adjacent.
ACMIX_ENTRY int acmix_window_attention(int is_bfloat16, const void* qkv, const float* table, void* out,
                                       const int64_t* sizes, int64_t count, float scale, int threads) {
    return with_shape<Shape>(sizes, count, [&](const Shape& s) {
        with_dtype(is_bfloat16, [&](auto number) {
            using E = decltype(number);
            forward(s, static_cast<const E*>(qkv), table, static_cast<E*>(out), scale, threads);
        });
    });
}

}  // namespace acmix::window_attention
