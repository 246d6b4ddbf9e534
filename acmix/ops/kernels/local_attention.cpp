// Local attention: forward and gradient. Letters as in acmix/ops/README.md.
//
// Neighbouring pixels are the lanes. A head's keys and values are copied, channel by channel, into planes of the map
// with its mirrored margins, so that the neighbours of LANES pixels in a row are LANES numbers in a row of a plane,
// moved by an amount that is the same for all channels: a tap. With a stride the planes are split into one for each
// remainder of row and column, where that holds again. Three rows of queries go together, since they share most of
// their neighbours. In the gradient a key gathers what the queries that see it give, with its channels as lanes.
// Nothing of the size K²·C exists, and of the size K² only what K and a few rows of queries need.

#include <cmath>

#include "lanes.h"
#include "product.h"

namespace acmix {
namespace {

struct Shape {
    int64_t batch, height, width, heads, channels, ky, kx, stride, dilation;
    int64_t step_b, step_y, step_x, step_s, step_n;  // of qkv, in numbers; a head's channels are adjacent

    int64_t out_height() const { return (height - 1) / stride + 1; }
    int64_t out_width() const { return (width - 1) / stride + 1; }
    int64_t pad_y() const { return ky / 2 * dilation; }
    int64_t pad_x() const { return kx / 2 * dilation; }
    int64_t padded_height() const { return height + 2 * pad_y(); }
    int64_t padded_width() const { return width + 2 * pad_x(); }
    int64_t depth() const { return ceil_div(channels, LANES); }  // vectors in a pixel's channels
    int64_t wide() const { return depth() * LANES; }
    int64_t row() const { return ceil_div(out_width(), LANES) * LANES; }  // a row of queries in whole vectors
    int64_t taps() const { return ky * kx; }
    int64_t rows_together() const { return stride == 1 && dilation == 1 ? 3 : 1; }
};

constexpr int MOST_ROWS = 3;
constexpr int64_t MOST_SIDE = 256;
constexpr int64_t AHEAD = 8;  // pixels

// The pixel that stands at a place left of, on or right of a line of `side` pixels mirrored at both ends.
inline int64_t mirrored(int64_t place, int64_t side) {
    if (side == 1) return 0;
    int64_t period = 2 * (side - 1), at = place % period;
    if (at < 0) at += period;
    return at < side ? at : period - at;
}

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
    int64_t size(const Shape& s) const { return s.wide() * step; }

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
    for (int64_t d = 0; d < s.depth(); d++)
        store(to + d * LANES, from[d], int(at_most(LANES, s.channels - d * LANES)));
}

// Fills planes with the channels of one head, less the positions where there are some.
template <class E>
void fill_planes(const Shape& s, const E* from, const float* position, const int64_t* columns, Vec* pixels,
                 const Planes& planes) {
    for (int64_t y = 0; y < s.padded_height(); y++) {
        int64_t row = mirrored(y - s.pad_y(), s.height);
        for (int64_t remainder = 0; remainder < at_most(s.stride, s.padded_width()); remainder++) {
            int64_t count = ceil_div(s.padded_width() - remainder, s.stride);
            for (int64_t i = 0; i < count; i++) {
                int64_t column = columns[remainder + i * s.stride];
                const E* at = from + row * s.step_y + column * s.step_x;
                // pixels lie too far apart for the processor to foresee
                for (int64_t d = 0; d < s.depth(); d++) __builtin_prefetch(at + AHEAD * s.step_x + d * LANES);
                read_channels(s, at, pixels + i * s.depth());
                if (position)
                    subtract_channels(s, position + (row * s.width + column) * s.channels, pixels + i * s.depth());
            }
            turn(reinterpret_cast<const float*>(pixels), s.wide(), count, s.depth(), planes.row(y, remainder),
                 planes.step);
        }
    }
}

// One row of queries, or of the output's gradient, pixel by pixel; zeros behind the last.
template <class E>
void read_row(const Shape& s, const E* from, int64_t step_x, Vec* pixels) {
    for (int64_t x = 0; x < s.out_width(); x++) {
        for (int64_t d = 0; d < s.depth(); d++) __builtin_prefetch(from + (x + AHEAD) * step_x + d * LANES);
        read_channels(s, from + x * step_x, pixels + x * s.depth());
    }
    for (int64_t i = s.out_width() * s.depth(); i < s.row() * s.depth(); i++) pixels[i] = Vec{};
}

// The same, channel by channel: (D, row).
void turn_row(const Shape& s, const Vec* pixels, float* to) {
    turn(reinterpret_cast<const float*>(pixels), s.wide(), s.row(), s.depth(), to, s.row());
}

// The way back.
template <class E>
void write_row(const Shape& s, const float* from, Vec* pixels, E* to, int64_t step_x) {
    turn(from, s.row(), s.wide(), s.row() / LANES, reinterpret_cast<float*>(pixels), s.wide());
    for (int64_t x = 0; x < s.out_width(); x++) {
        for (int64_t d = 0; d < s.depth(); d++) __builtin_prefetch(to + (x + AHEAD) * step_x + d * LANES, 1);
        write_channels(s, pixels + x * s.depth(), to + x * step_x);
    }
}

// The queries that are looked at together: LANES pixels, from column x, in `rows` rows from row y of the output.
struct Group {
    int64_t y, x, rows;
};

// Numbers for each row of queries and tap. Before and behind a row's taps lie `margin` zeros, which stand for the rows
// of neighbours that only other rows of queries have.
struct Weights {
    Vec* start;
    int64_t margin, step;

    static int64_t margin_of(const Shape& s) { return (s.rows_together() - 1) * s.kx; }
    // four more, since rows of taps are read by four
    static int64_t size(const Shape& s) { return s.rows_together() * (s.taps() + 2 * margin_of(s)) + 4; }
    Weights(const Shape& s, Vec* memory) : start(memory), margin(margin_of(s)), step(s.taps() + 2 * margin_of(s)) {
        for (int64_t i = 0; i < size(s); i++) start[i] = Vec{};
    }
    Vec* row(int64_t u) const { return start + u * step + margin; }
};

// How far a tap's column lies from the first column of the first remainder's plane.
inline int64_t tap_column(const Shape& s, const Planes& planes, int64_t j) {
    return j * s.dilation % s.stride * planes.part + j * s.dilation / s.stride;
}

// to[u][j] = Σ_d in[u][d]·plane[d][x + tap j] for U rows of queries and J taps of one row of neighbours.
template <int U, int J>
void similarity_block(const float* in, int64_t in_row, int64_t in_step, const float* plane, int64_t plane_step,
                      int64_t channels, const int64_t* taps, Vec* to, int64_t to_row) {
    for (int64_t d = 0; d < channels;) {
        Vec acc[U][J] = {};
        int64_t first = d, last = at_most(channels, d + PRODUCTS_AT_ONCE);
        for (; d < last; d++) {
            Vec v[U];
            ACMIX_UNROLL
            for (int u = 0; u < U; u++) v[u] = load(in + u * in_row + d * in_step);
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) {
                Vec key = load(plane + d * plane_step + taps[j]);
                ACMIX_UNROLL
                for (int u = 0; u < U; u++) acc[u][j] += v[u] * key;
            }
        }
        ACMIX_UNROLL
        for (int u = 0; u < U; u++) {
            Vec* row = to + u * to_row;
            ACMIX_UNROLL
            for (int j = 0; j < J; j++) row[j] = first ? row[j] + acc[u][j] : acc[u][j];
        }
    }
}

template <int U>
void similarity_row(int64_t count, const float* in, int64_t in_row, int64_t in_step, const float* plane,
                    int64_t plane_step, int64_t channels, const int64_t* taps, Vec* to, int64_t to_row) {
    constexpr int MOST = ACCUMULATORS / U < 7 ? ACCUMULATORS / U : 7;
    constexpr decltype(&similarity_block<U, 1>) by_size[] = {
        similarity_block<U, 1>, similarity_block<U, 2>, similarity_block<U, 3>, similarity_block<U, 4>,
        similarity_block<U, 5>, similarity_block<U, 6>, similarity_block<U, 7>};
    for (int64_t j = 0; j < count;) {
        int64_t size = ceil_div(count - j, ceil_div(count - j, MOST));
        by_size[size - 1](in, in_row, in_step, plane, plane_step, channels, taps + j, to + j, to_row);
        j += size;
    }
}

// For every row of queries and tap the product of `in` (rows, D, row) with what the tap sees in the planes.
void similarities(const Shape& s, const Group& group, const float* in, const Planes& planes, const int64_t* taps,
                  const Weights& to) {
    constexpr decltype(&similarity_row<1>) by_rows[] = {similarity_row<1>, similarity_row<2>, similarity_row<3>};
    int64_t in_row = s.wide() * s.row();
    for (int64_t r = 0; r < s.ky + group.rows - 1; r++) {
        int64_t first = at_least(0, r - s.ky + 1), last = at_most(group.rows - 1, r);
        by_rows[last - first](s.kx, in + first * in_row + group.x, in_row, s.row(),
                              planes.row(group.y * s.stride + r * s.dilation, 0) + group.x, planes.step, s.channels,
                              taps, to.row(first) + (r - first) * s.kx, to.step - s.kx);
    }
}

// to[d][u] = Σ_r Σ_j weights[u][r − u][j]·plane[d][row r][x + tap j] for D channels and U rows of queries.
template <int D, int U>
void combine_block(const Shape& s, const Group& group, const Weights& weights, const Planes& planes,
                   const int64_t* taps, int64_t d0, float* to) {
    Vec acc[D][U] = {};
    for (int64_t r = 0; r < s.ky + U - 1; r++) {
        const float* plane = planes.row(group.y * s.stride + r * s.dilation, 0) + group.x + d0 * planes.step;
        const Vec* of_row = weights.start + weights.margin + r * s.kx;
        for (int64_t j = 0; j < s.kx; j++) {
            Vec w[U];
            ACMIX_UNROLL
            for (int u = 0; u < U; u++) w[u] = of_row[u * (weights.step - s.kx) + j];
            ACMIX_UNROLL
            for (int d = 0; d < D; d++) {
                Vec value = load(plane + d * planes.step + taps[j]);
                ACMIX_UNROLL
                for (int u = 0; u < U; u++) acc[d][u] += value * w[u];
            }
        }
    }
    ACMIX_UNROLL
    for (int d = 0; d < D; d++) {
        ACMIX_UNROLL
        for (int u = 0; u < U; u++) store(to + u * s.wide() * s.row() + (d0 + d) * s.row() + group.x, acc[d][u]);
    }
}

template <int U>
void combine_rows(const Shape& s, const Group& group, const Weights& weights, const Planes& planes,
                  const int64_t* taps, float* to) {
    constexpr int MOST = ACCUMULATORS / U < 8 ? ACCUMULATORS / U : 8;
    constexpr decltype(&combine_block<1, U>) by_size[] = {
        combine_block<1, U>, combine_block<2, U>, combine_block<3, U>, combine_block<4, U>,
        combine_block<5, U>, combine_block<6, U>, combine_block<7, U>, combine_block<8, U>};
    for (int64_t d = 0; d < s.channels;) {
        int64_t size = ceil_div(s.channels - d, ceil_div(s.channels - d, MOST));
        by_size[size - 1](s, group, weights, planes, taps, d, to);
        d += size;
    }
}

// For every row of queries the sum of what the taps see in the planes, by their weights, into `to` (rows, D, row).
void combine(const Shape& s, const Group& group, const Weights& weights, const Planes& planes, const int64_t* taps,
             float* to) {
    constexpr decltype(&combine_rows<1>) by_rows[] = {combine_rows<1>, combine_rows<2>, combine_rows<3>};
    by_rows[group.rows - 1](s, group, weights, planes, taps, to);
}

// Keys of one row that are gathered for at once, with J vectors of channels each.
constexpr int keys_at_once(int j) { return ACCUMULATORS / j < 8 ? ACCUMULATORS / j : 8; }

// The last rows of queries, pixel by pixel: weights for their taps and those weights' gradients, channels of the
// query and of the output's gradient. Zeros stand before and behind each row, for queries outside the map.
struct Queries {
    int64_t rows, before, width, taps;  // width: pixels of a row with those outside; taps: numbers of a pixel
    float *weights, *grads;
    Vec *query, *upstream;

    explicit Queries(const Shape& s, const Planes& planes) {
        int64_t seeing = (s.ky - 1) * s.dilation / s.stride + 1;
        rows = (ceil_div(seeing, s.rows_together()) + 1) * s.rows_together();
        before = (s.kx - 1) * s.dilation / s.stride + 1;
        width = before + at_least(s.row(), planes.columns + keys_at_once(1));
        taps = ceil_div(s.taps(), 4) * 4;
    }
    int64_t size(const Shape& s) const { return 2 * rows * width * (ceil_div(taps, LANES) + s.depth()); }

    void place(const Shape& s, Vec* memory) {
        std::memset(memory, 0, size(s) * sizeof(Vec));
        query = memory, upstream = query + rows * width * s.depth();
        weights = reinterpret_cast<float*>(upstream + rows * width * s.depth()), grads = weights + rows * width * taps;
    }
    Vec* channels(const Shape& s, Vec* of, int64_t y) const { return of + (y % rows * width + before) * s.depth(); }
    float* of_taps(float* of, int64_t y) const { return of + (y % rows * width + before) * taps; }
};

// Keys, or values, of one row whose columns leave one remainder: which queries see them, from which of their taps.
// Queries go by rows and, within a row, by how far right of the key they are, both counted in queries.
struct Seen {
    int64_t rows, columns;
    int64_t y[MOST_SIDE], tap_row[MOST_SIDE], right[MOST_SIDE], tap_column[MOST_SIDE];

    Seen(const Shape& s, int64_t key_y, int64_t remainder) : rows(0), columns(0) {
        int64_t first = ceil_div(at_least(0, key_y - (s.ky - 1) * s.dilation), s.stride);
        for (int64_t at = first; at < s.out_height() && at * s.stride <= key_y; at++) {
            int64_t down = key_y - at * s.stride;
            if (down % s.dilation) continue;
            y[rows] = at, tap_row[rows++] = down / s.dilation;
        }
        for (int64_t j = 0; j < s.kx; j++) {
            int64_t at = floor_div(remainder - j * s.dilation, s.stride);
            if (at * s.stride != remainder - j * s.dilation) continue;
            right[columns] = at, tap_column[columns++] = j;
        }
    }
};

// to[i] = Σ over the queries that see key x + i of their weight for it times their channels, J vectors from number d0.
template <int J>
void gather_block(const Shape& s, const Seen& seen, int64_t x, const Queries& queries, float* weights, Vec* channels,
                  int64_t d0, Vec* to) {
    constexpr int I = keys_at_once(J);
    Vec acc[I][J] = {};
    int64_t depth = s.depth();
    for (int64_t row = 0; row < seen.rows; row++) {
        const float* of_row = queries.of_taps(weights, seen.y[row]) + seen.tap_row[row] * s.kx;
        const Vec* from_row = queries.channels(s, channels, seen.y[row]) + d0;
        for (int64_t column = 0; column < seen.columns; column++) {
            int64_t query = x + seen.right[column];
            const float* weight = of_row + query * queries.taps + seen.tap_column[column];
            const Vec* from = from_row + query * depth;
            ACMIX_UNROLL
            for (int k = 0; k < I; k++) {
                float w = weight[k * queries.taps];
                ACMIX_UNROLL
                for (int d = 0; d < J; d++) acc[k][d] += from[k * depth + d] * w;
            }
        }
    }
    ACMIX_UNROLL
    for (int k = 0; k < I; k++) {
        ACMIX_UNROLL
        for (int d = 0; d < J; d++) to[k * J + d] = acc[k][d];
    }
}

// Adds a row of the gradient to the pixels that its keys, or values, are or mirror: `to` is (H, W, D).
template <int J>
void gather_row(const Shape& s, int64_t y, const Queries& queries, float* weights, Vec* channels, int64_t d0,
                const int64_t* columns, Vec* to) {
    constexpr int I = keys_at_once(J);
    Vec result[I * J], *row = to + mirrored(y - s.pad_y(), s.height) * s.width * s.depth() + d0;
    for (int64_t remainder = 0; remainder < at_most(s.stride, s.padded_width()); remainder++) {
        Seen seen(s, y, remainder);
        int64_t count = ceil_div(s.padded_width() - remainder, s.stride);
        for (int64_t x = 0; x < count; x += I) {
            gather_block<J>(s, seen, x, queries, weights, channels, d0, result);
            for (int64_t k = 0; k < at_most(I, count - x); k++) {
                Vec* pixel = row + columns[remainder + (x + k) * s.stride] * s.depth();
                for (int d = 0; d < J; d++) pixel[d] += result[k * J + d];
            }
        }
    }
}

void gather(const Shape& s, int64_t y, const Queries& queries, float* weights, Vec* channels, const int64_t* columns,
            Vec* to) {
    constexpr decltype(&gather_row<1>) by_size[] = {gather_row<1>, gather_row<2>, gather_row<3>, gather_row<4>};
    for (int64_t d = 0; d < s.depth();) {
        int64_t size = ceil_div(s.depth() - d, ceil_div(s.depth() - d, 4));
        by_size[size - 1](s, y, queries, weights, channels, d, columns, to);
        d += size;
    }
}

// From products, in place, e^(scale·product − largest) over the taps of one row of queries; the sum's inverse.
Vec make_weights(const Shape& s, float scale, Vec* row) {
    Vec largest = broadcast(-INFINITY), sums[4] = {};
    for (int64_t t = 0; t < s.taps(); t++) largest = max_of(largest, row[t] *= scale);
    for (int64_t t = 0; t < s.taps(); t++) sums[t % 4] += row[t] = exp_of(row[t] - largest);
    return 1.0f / ((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Ones for the lanes that stand for pixels of a row.
inline Int lanes_of(const Shape& s, int64_t x) {
    Int at{};
    for (int i = 0; i < LANES; i++) at[i] = i;
    return at < int32_t(at_most(LANES, s.out_width() - x));
}

// From products and gradients of weights, in place, weights and gradients of products.
void differentiate(const Shape& s, int64_t x, float scale, Vec* weights, Vec* grads) {
    Int is_pixel = lanes_of(s, x);
    Vec share = make_weights(s, scale, weights), sums[4] = {};
    for (int64_t t = 0; t < s.taps(); t++) {
        weights[t] = is_pixel ? weights[t] * share : Vec{};
        grads[t] = is_pixel ? grads[t] : Vec{};
        sums[t % 4] += weights[t] * grads[t];
    }
    Vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int64_t t = 0; t < s.taps(); t++) grads[t] = weights[t] * (grads[t] - sum) * scale;
}

inline int64_t columns_size(const Shape& s) { return ceil_div(2 * s.padded_width(), LANES); }

// A thread's memory, handed out piece by piece.
struct Memory {
    Vec* next;

    Vec* vectors(int64_t count) { return next += count, next - count; }
    float* numbers(int64_t count) { return reinterpret_cast<float*>(vectors(ceil_div(count, LANES))); }
    int64_t* columns(const Shape& s) { return reinterpret_cast<int64_t*>(vectors(columns_size(s))); }
};

template <class E>
void forward_head(const Shape& s, const E* qkv, const float* position, float scale, int64_t b, int64_t head,
                  int64_t from, int64_t to, E* out, Scratch& scratch) {
    Planes keys(s, nullptr), values(s, nullptr);
    int64_t pixels_size = at_least(ceil_div(keys.columns, 4) * 4, s.row()) * s.depth(), row_size = s.wide() * s.row();
    Memory memory{scratch.vectors(2 * ceil_div(keys.size(s), LANES) + pixels_size +
                                  2 * ceil_div(MOST_ROWS * row_size, LANES) + Weights::size(s) + columns_size(s))};
    keys.start = memory.numbers(keys.size(s)), values.start = memory.numbers(values.size(s));
    Vec* pixels = memory.vectors(pixels_size);
    float *query = memory.numbers(MOST_ROWS * row_size), *result = memory.numbers(MOST_ROWS * row_size);
    Weights weights(s, memory.vectors(Weights::size(s)));
    int64_t taps[MOST_SIDE], *columns = memory.columns(s);
    for (int64_t j = 0; j < s.kx; j++) taps[j] = tap_column(s, keys, j);

    const E* image = qkv + b * s.step_b + head * s.step_n;
    mirror_columns(s, columns);
    fill_planes(s, image + s.step_s, position, columns, pixels, keys);
    fill_planes(s, image + 2 * s.step_s, nullptr, columns, pixels, values);
    int64_t pixel = s.heads * s.channels;
    for (int64_t y = from; y < to; y += s.rows_together()) {
        Group group{y, 0, at_most(s.rows_together(), to - y)};
        for (int64_t u = 0; u < group.rows; u++) {
            read_row(s, image + (y + u) * s.stride * s.step_y, s.stride * s.step_x, pixels);
            turn_row(s, pixels, query + u * row_size);
        }
        for (; group.x < s.out_width(); group.x += LANES) {
            similarities(s, group, query, keys, taps, weights);
            Vec shares[MOST_ROWS];
            for (int64_t u = 0; u < group.rows; u++) shares[u] = make_weights(s, scale, weights.row(u));
            combine(s, group, weights, values, taps, result);
            for (int64_t u = 0; u < group.rows; u++)
                for (int64_t d = 0; d < s.channels; d++) {
                    float* at = result + u * row_size + d * s.row() + group.x;
                    store(at, load(at) * shares[u]);
                }
        }
        for (int64_t u = 0; u < group.rows; u++)
            write_row(s, result + u * row_size, pixels,
                      out + (b * s.out_height() + y + u) * s.out_width() * pixel + head * s.channels, pixel);
    }
}

template <class E>
void forward(const Shape& s, const E* qkv, const float* position, E* out, float scale, int threads) {
    int64_t heads = s.batch * s.heads, height = s.out_height();
    // a head's rows are shared out only where there are fewer heads than threads
    int64_t rows = at_least(s.rows_together(), ceil_div(height * heads, at_least(heads, threads)));
    rows = ceil_div(rows, s.rows_together()) * s.rows_together();
    int64_t strips = ceil_div(height, rows);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        thread_local Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < heads * strips; task++) {
            int64_t head = task / strips, strip = task % strips;
            forward_head(s, qkv, position, scale, head / s.heads, head % s.heads, strip * rows,
                         at_most(height, (strip + 1) * rows), out, scratch);
        }
    }
}

template <class E>
void backward_head(const Shape& s, const E* grad, const E* qkv, const float* position, float scale, int64_t b,
                   int64_t head, E* grad_qkv, float* grad_position, Scratch& scratch) {
    Planes keys(s, nullptr), values(s, nullptr);
    Queries queries(s, keys);
    int64_t planes_size = ceil_div(keys.size(s), LANES), map_size = s.height * s.width * s.depth();
    int64_t row_size = s.wide() * s.row(), rows_size = ceil_div(MOST_ROWS * row_size, LANES);
    int64_t pixels_size = (at_least(keys.columns, s.row()) + 4) * s.depth();
    Memory memory{scratch.vectors(2 * planes_size + pixels_size + 2 * map_size + 3 * rows_size + queries.size(s) +
                                  2 * Weights::size(s) + columns_size(s))};
    keys.start = memory.numbers(planes_size * LANES), values.start = memory.numbers(planes_size * LANES);
    Vec* pixels = memory.vectors(pixels_size);
    Vec *grad_keys = memory.vectors(map_size), *grad_values = memory.vectors(map_size);
    float *query = memory.numbers(rows_size * LANES), *upstream = memory.numbers(rows_size * LANES);
    float* result = memory.numbers(rows_size * LANES);
    queries.place(s, memory.vectors(queries.size(s)));
    Weights weights(s, memory.vectors(Weights::size(s))), grads(s, memory.vectors(Weights::size(s)));
    int64_t taps[MOST_SIDE], *columns = memory.columns(s);
    for (int64_t j = 0; j < s.kx; j++) taps[j] = tap_column(s, keys, j);

    int64_t inner = s.heads * s.channels;
    const E* image = qkv + b * s.step_b + head * s.step_n;
    E* grad_image = grad_qkv + b * s.height * s.width * 3 * inner + head * s.channels;
    mirror_columns(s, columns);
    fill_planes(s, image + s.step_s, position, columns, pixels, keys);
    fill_planes(s, image + 2 * s.step_s, nullptr, columns, pixels, values);
    std::memset(static_cast<void*>(grad_keys), 0, 2 * map_size * sizeof(Vec));
    if (s.stride > 1)
        for (int64_t at = 0; at < s.height * s.width; at++)
            std::memset(static_cast<void*>(grad_image + at * 3 * inner), 0, s.channels * sizeof(E));

    int64_t gathered = 0;  // rows of keys whose gradient is complete
    for (int64_t y = 0; y < s.out_height(); y += s.rows_together()) {
        Group group{y, 0, at_most(s.rows_together(), s.out_height() - y)};
        for (int64_t u = 0; u < group.rows; u++) {
            Vec *of_query = queries.channels(s, queries.query, y + u);
            Vec *of_grad = queries.channels(s, queries.upstream, y + u);
            read_row(s, image + (y + u) * s.stride * s.step_y, s.stride * s.step_x, of_query);
            read_row(s, grad + (b * s.out_height() + y + u) * s.out_width() * inner + head * s.channels, inner, of_grad);
            turn_row(s, of_query, query + u * row_size);
            turn_row(s, of_grad, upstream + u * row_size);
        }
        for (; group.x < s.out_width(); group.x += LANES) {
            similarities(s, group, query, keys, taps, weights);
            similarities(s, group, upstream, values, taps, grads);
            for (int64_t u = 0; u < group.rows; u++) {
                differentiate(s, group.x, scale, weights.row(u), grads.row(u));
                turn(reinterpret_cast<const float*>(weights.row(u)), LANES, s.taps(), 1,
                     queries.of_taps(queries.weights, y + u) + group.x * queries.taps, queries.taps);
                turn(reinterpret_cast<const float*>(grads.row(u)), LANES, s.taps(), 1,
                     queries.of_taps(queries.grads, y + u) + group.x * queries.taps, queries.taps);
            }
            combine(s, group, grads, keys, taps, result);
        }
        for (int64_t u = 0; u < group.rows; u++)
            write_row(s, result + u * row_size, pixels, grad_image + (y + u) * s.stride * s.width * 3 * inner,
                      s.stride * 3 * inner);
        bool is_last = y + group.rows == s.out_height();
        for (int64_t complete = is_last ? s.padded_height() : (y + group.rows) * s.stride; gathered < complete;
             gathered++) {
            gather(s, gathered, queries, queries.grads, queries.query, columns, grad_keys);
            gather(s, gathered, queries, queries.weights, queries.upstream, columns, grad_values);
        }
    }
    for (int64_t at = 0; at < s.height * s.width; at++) {
        write_channels(s, grad_keys + at * s.depth(), grad_image + at * 3 * inner + inner);
        write_channels(s, grad_values + at * s.depth(), grad_image + at * 3 * inner + 2 * inner);
        const float* of_pixel = reinterpret_cast<const float*>(grad_keys + at * s.depth());
        for (int64_t d = 0; d < (grad_position ? s.channels : 0); d++)
            grad_position[at * s.channels + d] -= of_pixel[d];
    }
}

// The positions' gradient is summed in so many parts, whatever the threads, and so always in the same order.
constexpr int64_t MOST_PARTS = 16;

template <class E>
void backward(const Shape& s, const E* grad, const E* qkv, const float* position, E* grad_qkv, float* grad_position,
              float scale, int threads) {
    int64_t heads = s.batch * s.heads, size = s.height * s.width * s.channels, parts = at_most(heads, MOST_PARTS);
    thread_local Scratch sums_memory;
    float* sums = reinterpret_cast<float*>(sums_memory.vectors(grad_position ? ceil_div(parts * size, LANES) : 0));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        thread_local Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int64_t part = 0; part < parts; part++) {
            float* sum = grad_position ? sums + part * size : nullptr;
            if (sum) std::memset(sum, 0, size * sizeof(float));
            for (int64_t head = heads * part / parts; head < heads * (part + 1) / parts; head++)
                backward_head(s, grad, qkv, position, scale, head / s.heads, head % s.heads, grad_qkv, sum, scratch);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (grad_position ? size : 0); i++) {
            float total = 0;
            for (int64_t part = 0; part < parts; part++) total += sums[part * size + i];
            grad_position[i] = total;
        }
    }
}

Shape shape_of(const int64_t* sizes) {
    Shape s;
    std::memcpy(&s, sizes, sizeof s);
    return s;
}

}  // namespace
}  // namespace acmix

using namespace acmix;

// `sizes` are Shape's members in their order. position is (H, W, D) float32 or null; qkv and out are float32 or, where
// `half`, bfloat16. out is (B, Ho, Wo, C), adjacent.
extern "C" void acmix_local_attention(int half, const void* qkv, const float* position, void* out,
                                      const int64_t* sizes, float scale, int threads) {
    Shape s = shape_of(sizes);
    if (half)
        forward(s, static_cast<const bfloat16*>(qkv), position, static_cast<bfloat16*>(out), scale, threads);
    else
        forward(s, static_cast<const float*>(qkv), position, static_cast<float*>(out), scale, threads);
}

// grad is (B, Ho, Wo, C) and grad_qkv (B, H, W, 3, N, D), both adjacent; grad_position is null where there is none.
extern "C" void acmix_local_attention_backward(int half, const void* grad, const void* qkv, const float* position,
                                               void* grad_qkv, float* grad_position, const int64_t* sizes,
                                               float scale, int threads) {
    Shape s = shape_of(sizes);
    if (half)
        backward(s, static_cast<const bfloat16*>(grad), static_cast<const bfloat16*>(qkv), position,
                 static_cast<bfloat16*>(grad_qkv), grad_position, scale, threads);
    else
        backward(s, static_cast<const float*>(grad), static_cast<const float*>(qkv), position,
                 static_cast<float*>(grad_qkv), grad_position, scale, threads);
}
