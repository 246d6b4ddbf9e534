// Patchwise attention, forward, in float32. Letters as in acmix/ops/README.md.
//
// A group's channels, of which SAN has eight, are the lanes. A pixel's sums stay in registers while its neighbours
// pass, and where a neighbour lies is looked up in tables of mirrored rows and columns: no margin and no neighbourhood
// is stored.

#include "shape.h"

namespace acmix::patchwise_attention {
namespace {

// SIZE: channels of a group where they are known when this is compiled, else 0.
template <int SIZE>
void forward_row(const Shape& s, const NeighbourOffsets& offsets, const float* image, const float* weights, float* out,
                 int64_t y) {
    const int64_t size = SIZE ? SIZE : s.group_size(), groups = s.groups;
    for (int64_t x = 0; x < s.width; x++, weights += s.taps() * groups, out += s.channels) {
        for (int64_t c = 0; c < s.channels; c++) out[c] = 0.0f;
        for (int64_t g = 0; g < groups; g++) {
            float sums[SIZE ? SIZE : 1] = {};
            float* into = SIZE ? sums : out + g * size;
            const float* weight = weights + g;
            for (int64_t i = 0; i < s.ky; i++) {
                const float* row = image + offsets.rows[y + i] + g * size;
                for (int64_t j = 0; j < s.kx; j++, weight += groups) {
                    const float* value = row + offsets.columns[x + j];
                    for (int64_t c = 0; c < size; c++) into[c] += *weight * value[c];
                }
            }
            if (SIZE)
                for (int64_t c = 0; c < size; c++) out[g * size + c] = sums[c];
        }
    }
}

void forward(const Shape& s, const float* values, const float* weights, float* out, int threads) {
    const NeighbourOffsets offsets(s);
    const auto row = s.group_size() == 8 ? forward_row<8> : forward_row<0>;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t line = 0; line < s.batch * s.height; line++) {
        const int64_t b = line / s.height, first = line * s.width;
        row(s, offsets, values + b * s.image(), weights + first * s.taps() * s.groups, out + first * s.channels,
            line % s.height);
    }
}

}  // namespace

// `sizes` are Shape's members in their order. values and out are (B, H, W, C), weights (B, H, W, Ky·Kx, G), all
// adjacent and float32: the first argument, which says bfloat16 elsewhere, is not read.
ACMIX_ENTRY int acmix_patchwise_attention(int, const float* values, const float* weights, float* out,
                                          const int64_t* sizes, int64_t count, int threads) {
    return with_shape<Shape>(sizes, count, [&](const Shape& s) { forward(s, values, weights, out, threads); });
}

}  // namespace acmix::patchwise_attention
