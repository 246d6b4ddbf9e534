// How a call from Python enters: the struct of sizes is checked, and the maps' number format becomes a type.
#pragma once

#include <type_traits>

#include "lanes.h"

// Only entries are seen from outside the library, so calls inside it take no detour through its table of symbols.
#define ACMIX_ENTRY extern "C" __attribute__((visibility("default")))

namespace acmix {

// Calls `run(shape)` and returns 0. Where Python passed another count of sizes than Shape has members, nothing runs,
// and Shape's count is returned.
template <class Shape, class F>
int with_shape(const int64_t* sizes, int64_t count, F run) {
    static_assert(std::is_trivially_copyable<Shape>::value && sizeof(Shape) % sizeof(int64_t) == 0,
                  "a shape is a row of 64-bit integers");
    constexpr int64_t expected = sizeof(Shape) / sizeof(int64_t);
    if (count != expected) return int(expected);
    Shape shape;
    std::memcpy(&shape, sizes, sizeof shape);
    run(shape);
    return 0;
}

// Calls `run` with a number of the maps' type, float or bfloat16.
template <class F>
void with_dtype(int is_bfloat16, F run) {
    if (is_bfloat16)
        run(bfloat16{});
    else
        run(float{});
}

}  // namespace acmix
