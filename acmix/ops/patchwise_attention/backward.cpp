// Patchwise attention, backward, in float32.
//
// A pixel's gradient is added to the values of its neighbours, each thread over the channels of a group of its own.

#include "shape.h"

namespace acmix::patchwise_attention {
namespace {

// The gradients of one group's weights and values in one image. SIZE: its channels where they are known when this is
// compiled, else 0.
template <int SIZE>
void backward_group(const Shape& s, const NeighbourOffsets& offsets, const float* grad, const float* image,
                    const float* weights, float* grad_image, float* grad_weights, int64_t g) {
    const int64_t size = SIZE ? SIZE : s.group_size(), groups = s.groups, first = g * size;
    for (int64_t y = 0; y < s.height; y++) {
        for (int64_t x = 0; x < s.width; x++) {
            const int64_t pixel = y * s.width + x;
            const float* upstream = grad + pixel * s.channels + first;
            int64_t entry = pixel * s.taps() * groups + g;
            for (int64_t i = 0; i < s.ky; i++) {
                for (int64_t j = 0; j < s.kx; j++, entry += groups) {
                    const int64_t neighbour = offsets.rows[y + i] + offsets.columns[x + j] + first;
                    const float weight = weights[entry];
                    float sum = 0.0f;
                    for (int64_t c = 0; c < size; c++) sum += upstream[c] * image[neighbour + c];
                    for (int64_t c = 0; c < size; c++) grad_image[neighbour + c] += weight * upstream[c];
                    grad_weights[entry] = sum;
                }
            }
        }
    }
}

void backward(const Shape& s, const float* grad, const float* values, const float* weights, float* grad_values,
              float* grad_weights, int threads) {
    const NeighbourOffsets offsets(s);
    const auto group = s.group_size() == 8 ? backward_group<8> : backward_group<0>;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t part = 0; part < s.batch * s.groups; part++) {
        const int64_t b = part / s.groups, at = b * s.image(), at_weights = b * s.image_weights();
        group(s, offsets, grad + at, values + at, weights + at_weights, grad_values + at, grad_weights + at_weights,
              part % s.groups);
    }
}

}  // namespace

// grad is laid out as values, and grad_values, which has to be zero, too.
ACMIX_ENTRY int acmix_patchwise_attention_backward(int, const float* grad, const float* values, const float* weights,
                                                   float* grad_values, float* grad_weights, const int64_t* sizes,
                                                   int64_t count, int threads) {
    return with_shape<Shape>(
        sizes, count, [&](const Shape& s) { backward(s, grad, values, weights, grad_values, grad_weights, threads); });
}

}  // namespace acmix::patchwise_attention
