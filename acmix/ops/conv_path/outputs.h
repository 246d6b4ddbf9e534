// One pixel's outputs in memory, where a channel's M outputs are adjacent, and in planes, where the channels of a block
// are: number d·M + m is lane d of plane m.
#pragma once

#include <utility>

#include "shape.h"

namespace acmix::conv_path {

// Lanes taken from two vectors, by their places, which a compiler knows.
template <class Places, size_t... I>
inline Vec picked(Vec a, Vec b, std::index_sequence<I...>) {
    return ACMIX_SHUFFLE(a, b, Places::at(int(I))...);
}

template <class Places>
inline Vec picked(Vec a, Vec b) {
    return picked<Places>(a, b, std::make_index_sequence<LANES>());
}

// Two vectors with their lanes in turn, and back.
template <int J>
struct PairPlaces {
    static constexpr int at(int i) { return (J * LANES + i) / 2 + (i % 2 ? LANES : 0); }
};
template <int J>
struct UnpairPlaces {
    static constexpr int at(int i) { return 2 * i + J; }
};

// Three vectors with elements of G lanes in turn: element 3·d + s is element d of source s. The first step takes those
// of sources 0 and 1, the second those of source 2.
template <int G, int J>
struct ThreeFirst {
    static constexpr int at(int i) {
        int element = (J * LANES + i) / G, lane = element / 3 * G + i % G;
        return element % 3 == 1 ? LANES + lane : element % 3 == 0 ? lane : 0;
    }
};
template <int G, int J>
struct ThreeSecond {
    static constexpr int at(int i) {
        int element = (J * LANES + i) / G;
        return element % 3 == 2 ? LANES + element / 3 * G + i % G : i;
    }
};

// And back: the first step takes what lies in the first two vectors, the second what lies in the third.
template <int G, int S>
struct UnthreeFirst {
    static constexpr int at(int i) {
        int place = (i / G * 3 + S) * G + i % G;
        return place < 2 * LANES ? place : 0;
    }
};
template <int G, int S>
struct UnthreeSecond {
    static constexpr int at(int i) {
        int place = (i / G * 3 + S) * G + i % G;
        return place < 2 * LANES ? i : place - LANES;
    }
};

template <int G>
inline void interleave_three(Vec a, Vec b, Vec c, Vec* to) {
    to[0] = picked<ThreeSecond<G, 0>>(picked<ThreeFirst<G, 0>>(a, b), c);
    to[1] = picked<ThreeSecond<G, 1>>(picked<ThreeFirst<G, 1>>(a, b), c);
    to[2] = picked<ThreeSecond<G, 2>>(picked<ThreeFirst<G, 2>>(a, b), c);
}

template <int G>
inline void deinterleave_three(const Vec* from, Vec& a, Vec& b, Vec& c) {
    a = picked<UnthreeSecond<G, 0>>(picked<UnthreeFirst<G, 0>>(from[0], from[1]), from[2]);
    b = picked<UnthreeSecond<G, 1>>(picked<UnthreeFirst<G, 1>>(from[0], from[1]), from[2]);
    c = picked<UnthreeSecond<G, 2>>(picked<UnthreeFirst<G, 2>>(from[0], from[1]), from[2]);
}

// Transposes a square of blocks of four lanes: block j of vector i becomes block i of vector j.
constexpr int BLOCKS = LANES / 4;

inline void transpose_blocks(Vec* q) {
#if defined(__AVX512F__)
#define ACMIX_EVEN_BLOCKS 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define ACMIX_ODD_BLOCKS 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define ACMIX_LOWER_HALVES 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define ACMIX_UPPER_HALVES 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
    Vec a = ACMIX_SHUFFLE(q[0], q[1], ACMIX_EVEN_BLOCKS), b = ACMIX_SHUFFLE(q[2], q[3], ACMIX_EVEN_BLOCKS);
    Vec c = ACMIX_SHUFFLE(q[0], q[1], ACMIX_ODD_BLOCKS), d = ACMIX_SHUFFLE(q[2], q[3], ACMIX_ODD_BLOCKS);
    q[0] = ACMIX_SHUFFLE(a, b, ACMIX_LOWER_HALVES);
    q[1] = ACMIX_SHUFFLE(c, d, ACMIX_LOWER_HALVES);
    q[2] = ACMIX_SHUFFLE(a, b, ACMIX_UPPER_HALVES);
    q[3] = ACMIX_SHUFFLE(c, d, ACMIX_UPPER_HALVES);
#elif defined(__AVX__)
    Vec a = ACMIX_SHUFFLE(q[0], q[1], 0, 1, 2, 3, 8, 9, 10, 11);
    q[1] = ACMIX_SHUFFLE(q[0], q[1], 4, 5, 6, 7, 12, 13, 14, 15);
    q[0] = a;
#else
    (void)q;
#endif
}

// Calls `put(i, vector)` for the M vectors of a pixel's outputs as they lie in memory. `work` has room for M vectors.
template <class Put>
inline void interleaved(const Vec* planes, int64_t plane, int64_t outputs, Vec* work, Put put) {
    if (outputs == 1) return put(0, planes[0]);
    if (outputs == 2) {
        put(0, picked<PairPlaces<0>>(planes[0], planes[plane]));
        return put(1, picked<PairPlaces<1>>(planes[0], planes[plane]));
    }
    if (outputs == 3) {
        Vec to[3];
        interleave_three<1>(planes[0], planes[plane], planes[2 * plane], to);
        ACMIX_UNROLL
        for (int i = 0; i < 3; i++) put(i, to[i]);
        return;
    }
    if (outputs == 6) {
        Vec low[3], high[3], to[6];
        ACMIX_UNROLL
        for (int i = 0; i < 3; i++) {
            low[i] = picked<PairPlaces<0>>(planes[2 * i * plane], planes[(2 * i + 1) * plane]);
            high[i] = picked<PairPlaces<1>>(planes[2 * i * plane], planes[(2 * i + 1) * plane]);
        }
        interleave_three<2>(low[0], low[1], low[2], to);
        interleave_three<2>(high[0], high[1], high[2], to + 3);
        ACMIX_UNROLL
        for (int i = 0; i < 6; i++) put(i, to[i]);
        return;
    }
    if (outputs == 4) {
        Vec q[4];
        ACMIX_UNROLL
        for (int j = 0; j < 4; j++) q[j] = planes[j * plane];
        transpose_quads(q);
        for (int c = 0; c < 4 / BLOCKS; c++) {
            transpose_blocks(q + c * BLOCKS);
            ACMIX_UNROLL
            for (int j = 0; j < BLOCKS; j++) put(j * (4 / BLOCKS) + c, q[c * BLOCKS + j]);
        }
        return;
    }
    int64_t groups = outputs / 4, rest = outputs % 4;
    if (rest == 0) {
        for (int64_t g = 0; g < groups; g++) {
            Vec q[4];
            ACMIX_UNROLL
            for (int j = 0; j < 4; j++) q[j] = planes[(4 * g + j) * plane];
            transpose_quads(q);
            ACMIX_UNROLL
            for (int j = 0; j < 4; j++) work[j * groups + g] = q[j];
        }
        for (int64_t c = 0; c < outputs / BLOCKS; c++) {
            Vec q[BLOCKS];
            ACMIX_UNROLL
            for (int j = 0; j < BLOCKS; j++) q[j] = work[c * BLOCKS + j];
            transpose_blocks(q);
            ACMIX_UNROLL
            for (int j = 0; j < BLOCKS; j++) put(j * (outputs / BLOCKS) + c, q[j]);
        }
        return;
    }
    float* tile = reinterpret_cast<float*>(work);
    for (int64_t m = 0; m < outputs; m += 4) {
        int64_t count = at_most(4, outputs - m);
        Vec q[4];
        ACMIX_UNROLL
        for (int j = 0; j < 4; j++) q[j] = j < count ? planes[(m + j) * plane] : Vec{};
        transpose_quads(q);
        for (int d = 0; d < LANES; d++)
            std::memcpy(tile + d * outputs + m, reinterpret_cast<float*>(q + d % 4) + d / 4 * 4, count * sizeof(float));
    }
    for (int64_t i = 0; i < outputs; i++) put(i, work[i]);
}

// The same backwards: `get(i)` gives the vectors as they lie in memory.
template <class Get>
inline void deinterleaved(Vec* planes, int64_t plane, int64_t outputs, Vec* work, Get get) {
    if (outputs == 1) {
        planes[0] = get(0);
        return;
    }
    if (outputs == 2) {
        Vec low = get(0), high = get(1);
        planes[0] = picked<UnpairPlaces<0>>(low, high);
        planes[plane] = picked<UnpairPlaces<1>>(low, high);
        return;
    }
    if (outputs == 3) {
        Vec from[3] = {get(0), get(1), get(2)};
        deinterleave_three<1>(from, planes[0], planes[plane], planes[2 * plane]);
        return;
    }
    if (outputs == 6) {
        Vec from[6], low[3], high[3];
        ACMIX_UNROLL
        for (int i = 0; i < 6; i++) from[i] = get(i);
        deinterleave_three<2>(from, low[0], low[1], low[2]);
        deinterleave_three<2>(from + 3, high[0], high[1], high[2]);
        ACMIX_UNROLL
        for (int i = 0; i < 3; i++) {
            planes[2 * i * plane] = picked<UnpairPlaces<0>>(low[i], high[i]);
            planes[(2 * i + 1) * plane] = picked<UnpairPlaces<1>>(low[i], high[i]);
        }
        return;
    }
    int64_t groups = outputs / 4, rest = outputs % 4;
    if (rest == 0) {
        for (int64_t c = 0; c < outputs / BLOCKS; c++) {
            Vec q[BLOCKS];
            ACMIX_UNROLL
            for (int j = 0; j < BLOCKS; j++) q[j] = get(j * (outputs / BLOCKS) + c);
            transpose_blocks(q);
            ACMIX_UNROLL
            for (int j = 0; j < BLOCKS; j++) work[c * BLOCKS + j] = q[j];
        }
        for (int64_t g = 0; g < groups; g++) {
            Vec q[4];
            ACMIX_UNROLL
            for (int j = 0; j < 4; j++) q[j] = work[j * groups + g];
            transpose_quads(q);
            ACMIX_UNROLL
            for (int j = 0; j < 4; j++) planes[(4 * g + j) * plane] = q[j];
        }
        return;
    }
    for (int64_t i = 0; i < outputs; i++) work[i] = get(i);
    const float* tile = reinterpret_cast<const float*>(work);
    for (int64_t m = 0; m < outputs; m += 4) {
        int64_t count = at_most(4, outputs - m);
        Vec q[4] = {};
        for (int d = 0; d < LANES; d++)
            std::memcpy(reinterpret_cast<float*>(q + d % 4) + d / 4 * 4, tile + d * outputs + m, count * sizeof(float));
        transpose_quads(q);
        for (int64_t j = 0; j < count; j++) planes[(m + j) * plane] = q[j];
    }
}

// How many numbers of vector i of a pixel's outputs are there, where a block has fewer channels than lanes.
inline int valid(int64_t i, int64_t outputs, int lanes) {
    return int(at_most(LANES, at_least(0, lanes * outputs - i * LANES)));
}

// Writes one pixel of one block; `plus` and `bias`, null where there is none, lie as the outputs do.
template <class E>
inline void write_outputs(E* to, const E* plus, const float* bias, const Vec* planes, int64_t plane, int64_t outputs,
                          int lanes, Vec* work) {
    if (lanes == LANES)
        return interleaved(planes, plane, outputs, work, [&](int64_t i, Vec v) {
            if (bias) v += load(bias + i * LANES);
            if (plus) v += load(plus + i * LANES);
            store(to + i * LANES, v);
        });
    interleaved(planes, plane, outputs, work, [&](int64_t i, Vec v) {
        int count = valid(i, outputs, lanes);
        if (!count) return;
        if (bias) v += load(bias + i * LANES, count);
        if (plus) v += load(plus + i * LANES, count);
        store(to + i * LANES, v, count);
    });
}

// Reads one pixel of one block, with zeros in the lanes that have no channel.
template <class E>
inline void read_outputs(const E* from, Vec* planes, int64_t plane, int64_t outputs, int lanes, Vec* work) {
    if (lanes == LANES)
        return deinterleaved(planes, plane, outputs, work, [&](int64_t i) { return load(from + i * LANES); });
    deinterleaved(planes, plane, outputs, work, [&](int64_t i) {
        int count = valid(i, outputs, lanes);
        return count ? load(from + i * LANES, count) : Vec{};
    });
}

}  // namespace acmix::conv_path
