// What both directions of window attention know of a call. Letters as in acmix/ops/README.md.
#pragma once

#include "lanes.h"

namespace acmix::window_attention {

constexpr int64_t MOST_WINDOW_PIXELS = ACMIX_MOST_WINDOW_PIXELS;  // from spec.py

struct Shape {
    int64_t batch, height, width, heads, channels, wh, ww, shift_y, shift_x;
    int64_t step_b, step_y, step_x, step_s, step_n;  // of qkv, in numbers; a head's channels are adjacent

    int64_t pixels() const { return wh * ww; }
    int64_t columns() const { return ceil_div(pixels(), LANES); }  // vectors in a row of logits
    int64_t depth() const { return ceil_div(channels, LANES); }    // vectors in a row of channels
    int64_t rows_of_windows() const { return ceil_div(height, wh); }
    int64_t columns_of_windows() const { return ceil_div(width, ww); }
    int64_t windows() const { return batch * rows_of_windows() * columns_of_windows(); }
    int64_t logits() const { return pixels() * columns(); }
};

// Where a window's pixels lie, and which of them attend to each other.
struct Window {
    int64_t batch;
    int64_t y[MOST_WINDOW_PIXELS], x[MOST_WINDOW_PIXELS];  // in the map; −1 for padding
    alignas(64) int32_t region[MOST_WINDOW_PIXELS + LANES];
    bool is_masked;  // holds more than one region

    Window(const Shape& s, int64_t number) {
        int64_t columns = s.columns_of_windows(), rows = s.rows_of_windows();
        batch = number / columns / rows;
        int64_t top = number / columns % rows * s.wh, left = number % columns * s.ww;
        is_masked = false;
        for (int64_t i = 0; i < s.wh; i++)
            for (int64_t j = 0; j < s.ww; j++) {
                int64_t at = i * s.ww + j, down = top + i, right = left + j;
                bool is_map = down < s.height && right < s.width;
                bool is_below = down >= s.height - s.shift_y, is_behind = right >= s.width - s.shift_x;
                y[at] = is_map ? down + s.shift_y - (is_below ? s.height : 0) : -1;
                x[at] = is_map ? right + s.shift_x - (is_behind ? s.width : 0) : -1;
                // what came over the seam is a region of its own, and so is padding
                region[at] = is_map ? is_below * 2 + is_behind : 4;
                is_masked = is_masked || region[at] != region[0] || !is_map;
            }
        for (int64_t at = s.pixels(); at < s.columns() * LANES; at++) region[at] = -1;
    }
};

}  // namespace acmix::window_attention
