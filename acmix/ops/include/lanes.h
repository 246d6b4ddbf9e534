// Vectors of the machine's width in the compilers' own notation, number formats, scratch memory.
//
// No intrinsics: GCC and Clang turn these types into AVX-512, AVX2, NEON or what else the flags allow.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace acmix {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int ACCUMULATORS = 24;  // of 32 registers; the others hold what is multiplied
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr int ACCUMULATORS = 12;  // of 16 registers
#else
constexpr int LANES = 4;
constexpr int ACCUMULATORS = 24;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t Int __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t Half __attribute__((vector_size(LANES * 2)));

// A float32's upper half.
struct bfloat16 {
    uint16_t bits;
};

// Multiplication by a number, unlike addition, makes a compiler load it into all lanes at once.
inline Vec broadcast(float value) { return (Vec{} + 1.0f) * value; }

// Loops over registers have to be unrolled, or the registers become memory.
#define ACMIX_UNROLL _Pragma("GCC unroll 24")

#define ACMIX_INLINE inline __attribute__((always_inline))

// Makes a number that several products use stay in a register: a compiler that reads it again for each product asks
// more of the load ports than there is, once it lies beyond the nearest cache.
inline void keep_in_register(Vec& v) {
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#elif defined(__SSE__)
    asm("" : "+x"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#else
    (void)v;
#endif
}

inline float to_float(float value) { return value; }

inline float to_float(bfloat16 value) {
    uint32_t wide = uint32_t(value.bits) << 16;
    float result;
    std::memcpy(&result, &wide, 4);
    return result;
}

inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline Vec load(const bfloat16* from) {
    Half narrow;
    std::memcpy(&narrow, from, sizeof narrow);
    return (Vec)(__builtin_convertvector(narrow, Bits) << 16);
}

// The first n numbers, and zeros in the other lanes.
template <class E>
inline Vec load(const E* from, int n) {
    if (n >= LANES) return load(from);
    Vec v{};
    for (int i = 0; i < n; i++) v[i] = to_float(from[i]);
    return v;
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// Rounds to nearest, ties to even, as PyTorch does; any NaN becomes the quiet one.
inline Half narrowed(Vec v) {
    Bits bits = (Bits)v;
    Bits rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    Bits is_nan = (Bits)(v != v);
    return __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7FC0), Half);
}

inline void store(bfloat16* to, Vec v) {
    Half narrow = narrowed(v);
    std::memcpy(to, &narrow, sizeof narrow);
}

template <class E>
inline void store(E* to, Vec v, int n) {
    if (n >= LANES) return store(to, v);
    E all[LANES];
    store(all, v);
    std::memcpy(to, all, n * sizeof(E));
}

inline Vec max_of(Vec a, Vec b) { return a > b ? a : b; }

// e^x to about one unit in the last place; 0 below −87, where float32 has no normal number left.
inline Vec exp_of(Vec x) {
    Vec inside = max_of(x, broadcast(-87.0f));
    const Vec magic = broadcast(12582912.0f);  // 1.5·2²³: adding it rounds to a whole number
    Vec shifted = inside * 1.44269504f + magic;
    Vec n = shifted - magic;
    Vec r = inside - n * 0.693145752f - n * 1.42860677e-6f;  // x − n·ln 2, ln 2 in two parts
    Vec p = broadcast(1.0f / 5040);
    const float series[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (float c : series) p = p * r + c;
    Int exponent = ((Int)shifted - (Int)magic + 127) << 23;
    return (Vec)((Bits)(p * (Vec)exponent) & (Bits)(x >= -87.0f));
}

#if defined(__clang__)
#define ACMIX_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ACMIX_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Int{__VA_ARGS__})
#endif

#if defined(__AVX512F__)
#define ACMIX_LEVELS(step)                                      \
    step(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7); \
    step(4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11); \
    step(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13); \
    step(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#elif defined(__AVX__)
#define ACMIX_LEVELS(step)        \
    step(4, 5, 6, 7, 0, 1, 2, 3); \
    step(2, 3, 0, 1, 6, 7, 4, 5); \
    step(1, 0, 3, 2, 5, 4, 7, 6)
#else
#define ACMIX_LEVELS(step) \
    step(2, 3, 0, 1);      \
    step(1, 0, 3, 2)
#endif

// In pairs, which also rounds less than one after the other.
inline float sum_of(Vec v) {
#define ACMIX_STEP(...) v += ACMIX_SHUFFLE(v, v, __VA_ARGS__)
    ACMIX_LEVELS(ACMIX_STEP);
#undef ACMIX_STEP
    return v[0];
}

inline float largest_of(Vec v) {
#define ACMIX_STEP(...) v = max_of(v, ACMIX_SHUFFLE(v, v, __VA_ARGS__))
    ACMIX_LEVELS(ACMIX_STEP);
#undef ACMIX_STEP
    return v[0];
}

// Transposes every 4×4 block of four vectors: block L's entry (i, j) becomes (j, i).
inline void transpose_quads(Vec q[4]) {
#if defined(__AVX512F__)
#define ACMIX_LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define ACMIX_HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define ACMIX_EVEN 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define ACMIX_ODD 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#elif defined(__AVX__)
#define ACMIX_LOW 0, 8, 1, 9, 4, 12, 5, 13
#define ACMIX_HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define ACMIX_EVEN 0, 1, 8, 9, 4, 5, 12, 13
#define ACMIX_ODD 2, 3, 10, 11, 6, 7, 14, 15
#else
#define ACMIX_LOW 0, 4, 1, 5
#define ACMIX_HIGH 2, 6, 3, 7
#define ACMIX_EVEN 0, 1, 4, 5
#define ACMIX_ODD 2, 3, 6, 7
#endif
    Vec a = ACMIX_SHUFFLE(q[0], q[1], ACMIX_LOW), b = ACMIX_SHUFFLE(q[2], q[3], ACMIX_LOW);
    Vec c = ACMIX_SHUFFLE(q[0], q[1], ACMIX_HIGH), d = ACMIX_SHUFFLE(q[2], q[3], ACMIX_HIGH);
    q[0] = ACMIX_SHUFFLE(a, b, ACMIX_EVEN);
    q[1] = ACMIX_SHUFFLE(a, b, ACMIX_ODD);
    q[2] = ACMIX_SHUFFLE(c, d, ACMIX_EVEN);
    q[3] = ACMIX_SHUFFLE(c, d, ACMIX_ODD);
}

// Under the address sanitizer memory is as large as was asked for, so that reading beyond it is found.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool IS_CHECKED = true;
#else
constexpr bool IS_CHECKED = false;
#endif

// Memory that a thread keeps from call to call, so that the kernel need not hand out fresh pages each time.
class Scratch {
  public:
    ~Scratch() { std::free(start_); }

    // `count` vectors of undefined content; what was handed out before is gone.
    Vec* vectors(int64_t count) {
        if (count > capacity_ || IS_CHECKED) {
            std::free(start_);
            capacity_ = 0;
            start_ = static_cast<Vec*>(std::aligned_alloc(64, (count * sizeof(Vec) + 63) / 64 * 64));
            if (!start_) throw std::bad_alloc();
            capacity_ = count;
        }
        return start_;
    }

  private:
    Vec* start_ = nullptr;
    int64_t capacity_ = 0;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace acmix
