// A head's map with mirrored margins: pixel by pixel, and channel by channel as planes.
#pragma once

#include "mirror.h"
#include "product.h"
#include "shape.h"

namespace acmix::local_attention {

constexpr int64_t AHEAD = 8;  // pixels

// A channel's map with its margins, split by the remainders of row and column.
struct Planes {
    float* start;
    int64_t stride, rows, columns, part, step;  // part: numbers of one remainder's plane; step: of one channel

    Planes(const Shape& s, float* memory) : start(memory), stride(s.stride) {
        rows = ceil_div(s.padded_height(), stride), columns = ceil_div(s.padded_width(), stride);
        part = ceil_div(rows * columns, LANES) * LANES + 2 * LANES;  // the last vectors of a row reach behind it
        step = stride * stride * part;
        if (step % 1024 == 0) step += LANES;  // else all channels would share a few lines of the cache
    }
    int64_t size(const Shape& s) const { return s.padded_channels() * step; }

    // Where row y of channel 0 lies, for the columns of a remainder.
    float* row(int64_t y, int64_t remainder) const {
        if (stride == 1) return start + y * columns;  // divisions are slow
        return start + (y % stride * stride + remainder) * part + y / stride * columns;
    }
};

// For each column of the map with its margins the one it mirrors.
inline void mirror_columns(const Shape& s, int64_t* columns) {
    for (int64_t x = 0; x < s.padded_width(); x++) columns[x] = mirrored(x - s.pad_x(), s.width);
}

template <class E>
inline void read_channels(const Shape& s, const E* from, Vec* to) {
    for (int64_t d = 0; d < s.depth(); d++) to[d] = load(from + d * LANES, int(at_most(LANES, s.channels - d * LANES)));
}

inline void subtract_channels(const Shape& s, const float* from, Vec* to) {
    for (int64_t d = 0; d < s.depth(); d++)
        to[d] -= load(from + d * LANES, int(at_most(LANES, s.channels - d * LANES)));
}

template <class E>
inline void write_channels(const Shape& s, const Vec* from, E* to) {
    for (int64_t d = 0; d < s.depth(); d++) store(to + d * LANES, from[d], int(at_most(LANES, s.channels - d * LANES)));
}

// Copies the channels of one head into a map with margins, pixel by pixel, less the positions where there are some.
template <class E>
void fill_map(const Shape& s, const E* from, const float* position, const int64_t* columns, Vec* map) {
    for (int64_t y = 0; y < s.padded_height(); y++) {
        int64_t row = mirrored(y - s.pad_y(), s.height);
        for (int64_t x = 0; x < s.padded_width(); x++, map += s.depth()) {
            const E* at = from + row * s.step_y + columns[x] * s.step_x;
            // pixels lie too far apart for the processor to foresee
            for (int64_t d = 0; d < s.depth(); d++) __builtin_prefetch(at + AHEAD * s.step_x + d * LANES);
            read_channels(s, at, map);
            if (position) subtract_channels(s, position + (row * s.width + columns[x]) * s.channels, map);
        }
    }
}

// Copies such a map into planes.
inline void fill_planes(const Shape& s, const Vec* map, const Planes& planes) {
    for (int64_t y = 0; y < s.padded_height(); y++)
        for (int64_t remainder = 0; remainder < at_most(s.stride, s.padded_width()); remainder++)
            transpose(reinterpret_cast<const float*>(map + (y * s.padded_width() + remainder) * s.depth()),
                      s.stride * s.padded_channels(), ceil_div(s.padded_width() - remainder, s.stride), s.depth(),
                      planes.row(y, remainder), planes.step);
}

// One row of queries, or of the output's gradient, pixel by pixel; zeros behind the last.
template <class E>
void read_row(const Shape& s, const E* from, int64_t step_x, Vec* pixels) {
    for (int64_t x = 0; x < s.out_width(); x++) {
        for (int64_t d = 0; d < s.depth(); d++) __builtin_prefetch(from + (x + AHEAD) * step_x + d * LANES);
        read_channels(s, from + x * step_x, pixels + x * s.depth());
    }
    for (int64_t i = s.out_width() * s.depth(); i < s.padded_out_width() * s.depth(); i++) pixels[i] = Vec{};
}

// The same, channel by channel: (D, row).
inline void transpose_row(const Shape& s, const Vec* pixels, float* to) {
    transpose(reinterpret_cast<const float*>(pixels), s.padded_channels(), s.padded_out_width(), s.depth(), to,
              s.padded_out_width());
}

// How far a tap's column lies from the first column of the first remainder's plane.
inline int64_t tap_column(const Shape& s, const Planes& planes, int64_t j) {
    return j * s.dilation % s.stride * planes.part + j * s.dilation / s.stride;
}

}  // namespace acmix::local_attention
