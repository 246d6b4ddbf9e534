// Small matrix products between matrices in the cache, whose right side has whole vectors as rows.
#pragma once

#include "lanes.h"

namespace acmix {

// Sums are made of sums of so many products, which keeps their rounding errors small.
constexpr int64_t PRODUCTS_AT_ONCE = 16;

// c[i][j] = Σ_k a[i][k]·b[k][j] for I rows and J vectors of columns.
template <int I, int J>
void product_block(const float* a, int64_t a_row, int64_t a_step, int64_t depth, const Vec* b, int64_t b_row, Vec* c,
                   int64_t c_row) {
    for (int64_t k = 0; k < depth;) {
        Vec acc[I][J] = {};
        int64_t first = k, last = at_most(depth, k + PRODUCTS_AT_ONCE);
        for (; k < last; k++) {
            Vec v[J];
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) v[j] = b[k * b_row + j];
            ACMIX_UNROLL
            for (int i = 0; i < I; i++) {
                float w = a[i * a_row + k * a_step];
                ACMIX_UNROLL
                for (int j = 0; j < J; j++) acc[i][j] += v[j] * w;
            }
        }
        ACMIX_UNROLL
        for (int i = 0; i < I; i++) {
            Vec* row = c + i * c_row;
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) row[j] = first ? row[j] + acc[i][j] : acc[i][j];
        }
    }
}

template <int J>
void product_rows(const float* a, int64_t a_row, int64_t a_step, int64_t rows, int64_t depth, const Vec* b,
                  int64_t b_row, Vec* c, int64_t c_row) {
    constexpr int MOST = ACCUMULATORS / J < 8 ? ACCUMULATORS / J : 8;
    static constexpr decltype(&product_block<1, J>) by_size[] = {product_block<1, J>, product_block<2, J>, product_block<3, J>,
                                                          product_block<4, J>, product_block<5, J>, product_block<6, J>,
                                                          product_block<7, J>, product_block<8, J>};
    for (int64_t i = 0; i < rows;) {
        int64_t size = ceil_div(rows - i, ceil_div(rows - i, MOST));
        by_size[size - 1](a + i * a_row, a_row, a_step, depth, b, b_row, c + i * c_row, c_row);
        i += size;
    }
}

// c (rows, columns vectors) = a·b; number (i, k) of a lies at a[i·a_row + k·a_step], b is (depth, columns vectors).
inline void product(const Vec* a, int64_t a_row, int64_t a_step, int64_t rows, int64_t depth, const Vec* b,
                    int64_t columns, Vec* c) {
    const float* numbers = reinterpret_cast<const float*>(a);
    static constexpr decltype(&product_rows<1>) by_size[] = {product_rows<1>, product_rows<2>, product_rows<3>,
                                                      product_rows<4>};
    for (int64_t j = 0; j < columns;) {
        int64_t size = ceil_div(columns - j, ceil_div(columns - j, 4));
        by_size[size - 1](numbers, a_row, a_step, rows, depth, b + j, columns, c + j, columns);
        j += size;
    }
}

// Row i of `depth` vectors, at rows[i·row_step], becomes column i of depth·LANES rows, `to_step` apart.
// Goes by four rows, so up to three rows more are read and columns more written than `count`.
inline void transpose(const float* rows, int64_t row_step, int64_t count, int64_t depth, float* to, int64_t to_step) {
    for (int64_t d = 0; d < depth; d++)
        for (int64_t i = 0; i < count; i += 4) {
            Vec q[4];
            ACMIX_UNROLL
            for (int j = 0; j < 4; j++) q[j] = load(rows + (i + j) * row_step + d * LANES);
            transpose_quads(q);
            alignas(64) float tile[4][LANES];
            ACMIX_UNROLL
            for (int j = 0; j < 4; j++) store(tile[j], q[j]);
            ACMIX_UNROLL
            for (int lane = 0; lane < LANES; lane++)
                std::memcpy(to + (d * LANES + lane) * to_step + i, &tile[lane % 4][lane / 4 * 4], 16);
        }
}

}  // namespace acmix
