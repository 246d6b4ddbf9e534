// Patchwise attention: forward and gradient, in float32. Letters as in acmix/ops/README.md.
//
// A group's channels, of which SAN has eight, are the lanes. A pixel's sums stay in registers while its neighbours pass,
// and where a neighbour lies is looked up in tables of mirrored rows and columns: no margin and no neighbourhood is
// stored. Values' gradients are spread to the neighbours, each thread over channels of its own.

#include <cstdint>
#include <vector>

#include "mirror.h"

namespace acmix {
namespace {

struct Shape {
    int64_t batch, height, width, channels, groups, ky, kx;

    int64_t per_group() const { return channels / groups; }
    int64_t offsets() const { return ky * kx; }
};

// For each place −reach … side − 1 + reach of a line the number of its pixel, times a step.
std::vector<int64_t> places(int64_t side, int64_t reach, int64_t step) {
    std::vector<int64_t> found(side + 2 * reach);
    for (int64_t i = 0; i < int64_t(found.size()); i++) found[i] = mirrored(i - reach, side) * step;
    return found;
}

struct Tables {
    std::vector<int64_t> rows, columns;

    explicit Tables(const Shape& s)
        : rows(places(s.height, s.ky / 2, s.width * s.channels)), columns(places(s.width, s.kx / 2, s.channels)) {}
};

// PER: channels of a group where they are known when this is compiled, else 0.
template <int PER>
void forward_row(const Shape& s, const Tables& at, const float* image, const float* weights, float* out, int64_t y) {
    const int64_t per = PER ? PER : s.per_group(), groups = s.groups;
    for (int64_t x = 0; x < s.width; x++, weights += s.offsets() * groups, out += s.channels) {
        for (int64_t c = 0; c < s.channels; c++) out[c] = 0.0f;
        for (int64_t g = 0; g < groups; g++) {
            float sums[PER ? PER : 1] = {};
            float* into = PER ? sums : out + g * per;
            const float* weight = weights + g;
            for (int64_t i = 0; i < s.ky; i++) {
                const float* row = image + at.rows[y + i] + g * per;
                for (int64_t j = 0; j < s.kx; j++, weight += groups) {
                    const float* value = row + at.columns[x + j];
                    for (int64_t c = 0; c < per; c++) into[c] += *weight * value[c];
                }
            }
            if (PER)
                for (int64_t c = 0; c < per; c++) out[g * per + c] = sums[c];
        }
    }
}

// The gradients of one group's weights and values in one image.
template <int PER>
void backward_group(const Shape& s, const Tables& at, const float* grad, const float* image, const float* weights,
                    float* grad_image, float* grad_weights, int64_t g) {
    const int64_t per = PER ? PER : s.per_group(), groups = s.groups, first = g * per;
    for (int64_t y = 0; y < s.height; y++) {
        for (int64_t x = 0; x < s.width; x++) {
            const int64_t pixel = y * s.width + x;
            const float* slope = grad + pixel * s.channels + first;
            int64_t entry = pixel * s.offsets() * groups + g;
            for (int64_t i = 0; i < s.ky; i++) {
                for (int64_t j = 0; j < s.kx; j++, entry += groups) {
                    const int64_t place = at.rows[y + i] + at.columns[x + j] + first;
                    const float weight = weights[entry];
                    float sum = 0.0f;
                    for (int64_t c = 0; c < per; c++) sum += slope[c] * image[place + c];
                    for (int64_t c = 0; c < per; c++) grad_image[place + c] += weight * slope[c];
                    grad_weights[entry] = sum;
                }
            }
        }
    }
}

Shape shape_of(const int64_t* sizes) {
    return Shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
}

}  // namespace
}  // namespace acmix

extern "C" void acmix_patchwise_attention(int, const float* values, const float* weights, float* out,
                                          const int64_t* sizes, int threads) {
    using namespace acmix;
    const Shape s = shape_of(sizes);
    const Tables at(s);
    const auto row = s.per_group() == 8 ? forward_row<8> : forward_row<0>;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t line = 0; line < s.batch * s.height; line++) {
        const int64_t b = line / s.height, first = line * s.width;
        row(s, at, values + b * s.height * s.width * s.channels, weights + first * s.offsets() * s.groups,
            out + first * s.channels, line % s.height);
    }
}

// grad_values has to be zero.
extern "C" void acmix_patchwise_attention_backward(int, const float* grad, const float* values, const float* weights,
                                                   float* grad_values, float* grad_weights, const int64_t* sizes,
                                                   int threads) {
    using namespace acmix;
    const Shape s = shape_of(sizes);
    const Tables at(s);
    const auto group = s.per_group() == 8 ? backward_group<8> : backward_group<0>;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t part = 0; part < s.batch * s.groups; part++) {
        const int64_t b = part / s.groups, pixels = b * s.height * s.width;
        group(s, at, grad + pixels * s.channels, values + pixels * s.channels, weights + pixels * s.offsets() * s.groups,
              grad_values + pixels * s.channels, grad_weights + pixels * s.offsets() * s.groups, part % s.groups);
    }
}
