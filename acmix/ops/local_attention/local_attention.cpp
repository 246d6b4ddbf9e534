// Local attention: forward and gradient. Letters as in acmix/ops/README.md.
//
// For logits, neighbouring pixels are the lanes. A head's keys are copied, channel by channel, into planes of the map
// with its mirrored margins, so that the neighbours of LANES pixels in a row are LANES numbers in a row of a plane,
// moved by an amount that is the same for all channels: a tap. With a stride the planes are split into one for each
// remainder of row and column, where that holds again. Three rows of queries go together, since they share most of
// their neighbours. For sums over neighbours, channels are the lanes, and pixels lie one behind the other.
// Nothing of the size K²·C exists, and of the size K² only what K and a few rows of queries need.

#include <cmath>

#include "lanes.h"
#include "mirror.h"
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

// Turns such a map into planes.
void fill_planes(const Shape& s, const Vec* map, const Planes& planes) {
    for (int64_t y = 0; y < s.padded_height(); y++)
        for (int64_t remainder = 0; remainder < at_most(s.stride, s.padded_width()); remainder++)
            turn(reinterpret_cast<const float*>(map + (y * s.padded_width() + remainder) * s.depth()),
                 s.stride * s.wide(), ceil_div(s.padded_width() - remainder, s.stride), s.depth(),
                 planes.row(y, remainder), planes.step);
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

// The queries that are looked at together: LANES pixels, from column x, in `rows` rows from row y of the output.
struct Group {
    int64_t y, x, rows;
};

// Numbers for each row of queries and tap, for LANES pixels each.
struct Weights {
    Vec* start;
    int64_t step;

    // four more, since rows of taps are read by four
    static int64_t size(const Shape& s) { return s.rows_together() * s.taps() + 4; }
    Weights(const Shape& s, Vec* memory) : start(memory), step(s.taps()) {
        for (int64_t i = 0; i < size(s); i++) start[i] = Vec{};
    }
    Vec* row(int64_t u) const { return start + u * step; }
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

// A sum over neighbours, for pixels x, x + 1, …: Σ_row Σ_column weight·channels, both counted from those of pixel 0.
struct Terms {
    int64_t rows = 0, columns = 0, weight_step, from_step;  // steps: from one pixel to the next
    const float* weight[MOST_SIDE];
    const Vec* from[MOST_SIDE];
    int64_t weight_at[MOST_SIDE], from_at[MOST_SIDE];  // of a column
};

// Pixels that are summed up at once, with J vectors of channels each.
constexpr int pixels_at_once(int j) { return ACCUMULATORS / j < 8 ? ACCUMULATORS / j : 8; }

// J vectors of channels, from number d0, of as many pixels as go together. `adjacent`: they are all a pixel has, and
// the pixels neighbours, so that the compiler knows where everything lies.
template <int J, bool adjacent>
void sum_up(const Terms& terms, int64_t x, int64_t d0, Vec* to) {
    constexpr int I = pixels_at_once(J);
    const int64_t from_step = adjacent ? J : terms.from_step;
    Vec acc[I][J] = {};
    for (int64_t row = 0; row < terms.rows; row++)
        for (int64_t column = 0; column < terms.columns; column++) {
            const float* weight = terms.weight[row] + terms.weight_at[column] + x * terms.weight_step;
            const Vec* from = terms.from[row] + terms.from_at[column] + x * from_step + d0;
            ACMIX_UNROLL
            for (int k = 0; k < I; k++) {
                float w = weight[k * terms.weight_step];
                ACMIX_UNROLL
                for (int d = 0; d < J; d++) acc[k][d] += from[k * from_step + d] * w;
            }
        }
    ACMIX_UNROLL
    for (int k = 0; k < I; k++) {
        ACMIX_UNROLL
        for (int d = 0; d < J; d++) to[k * J + d] = acc[k][d];
    }
}

// Calls `with(x, d, vector)` for pixels from `first` to `last` and all their channels.
template <int J, class F>
void sum_some(const Terms& terms, int64_t first, int64_t last, int64_t d0, F with) {
    constexpr int I = pixels_at_once(J);
    Vec result[I * J];
    for (int64_t x = first; x < last; x += I) {
        (terms.from_step == J ? sum_up<J, true> : sum_up<J, false>)(terms, x, d0, result);
        for (int64_t k = 0; k < at_most(I, last - x); k++)
            for (int d = 0; d < J; d++) with(x + k, d0 + d, result[k * J + d]);
    }
}

template <class F>
void sum_all(const Shape& s, const Terms& terms, int64_t first, int64_t last, F with) {
    for (int64_t d = 0; d < s.depth();) {
        int64_t size = ceil_div(s.depth() - d, ceil_div(s.depth() - d, 4));
        if (size == 4) sum_some<4>(terms, first, last, d, with);
        if (size == 3) sum_some<3>(terms, first, last, d, with);
        if (size == 2) sum_some<2>(terms, first, last, d, with);
        if (size == 1) sum_some<1>(terms, first, last, d, with);
        d += size;
    }
}

// What the queries of row y see in a map with margins; pixel x's weight for tap t is weights[x·step + t].
void see(const Shape& s, const Vec* map, int64_t y, const float* weights, int64_t step, Terms& terms) {
    terms.rows = s.ky, terms.columns = s.kx, terms.weight_step = step, terms.from_step = s.stride * s.depth();
    for (int64_t i = 0; i < s.ky; i++) {
        terms.weight[i] = weights + i * s.kx;
        terms.from[i] = map + (y * s.stride + i * s.dilation) * s.padded_width() * s.depth();
    }
    for (int64_t j = 0; j < s.kx; j++) terms.weight_at[j] = j, terms.from_at[j] = j * s.dilation * s.depth();
}

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
        width = before + at_least(s.row(), planes.columns + pixels_at_once(1));
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

// What the queries that see keys, or values, of row y give them, for columns that leave a remainder; a key's column is
// counted in those.
void be_seen(const Shape& s, const Queries& queries, float* weights, Vec* channels, int64_t y, int64_t remainder,
             Terms& terms) {
    terms.rows = terms.columns = 0, terms.weight_step = queries.taps, terms.from_step = s.depth();
    int64_t first = ceil_div(at_least(0, y - (s.ky - 1) * s.dilation), s.stride);
    for (int64_t at = first; at < s.out_height() && at * s.stride <= y; at++) {
        int64_t down = y - at * s.stride;
        if (down % s.dilation) continue;
        terms.weight[terms.rows] = queries.of_taps(weights, at) + down / s.dilation * s.kx;
        terms.from[terms.rows++] = queries.channels(s, channels, at);
    }
    for (int64_t j = 0; j < s.kx; j++) {
        int64_t right = floor_div(remainder - j * s.dilation, s.stride);
        if (right * s.stride != remainder - j * s.dilation) continue;
        terms.weight_at[terms.columns] = right * queries.taps + j;
        terms.from_at[terms.columns++] = right * s.depth();
    }
}

// Adds a row of the gradient to the pixels that its keys, or values, are or mirror: `to` is (H, W, D).
void gather(const Shape& s, int64_t y, const Queries& queries, float* weights, Vec* channels, const int64_t* columns,
            Vec* to) {
    Vec* row = to + mirrored(y - s.pad_y(), s.height) * s.width * s.depth();
    for (int64_t remainder = 0; remainder < at_most(s.stride, s.padded_width()); remainder++) {
        Terms terms;
        be_seen(s, queries, weights, channels, y, remainder, terms);
        sum_all(s, terms, 0, ceil_div(s.padded_width() - remainder, s.stride), [&](int64_t x, int64_t d, Vec v) {
            row[columns[remainder + x * s.stride] * s.depth() + d] += v;
        });
    }
}

// From products, in place, e^(scale·product − largest) over the taps of one row of queries; the sum's inverse.
Vec make_weights(const Shape& s, float scale, Vec* row) {
    const int64_t taps = s.taps();
    Vec largest = broadcast(-INFINITY), even{}, odd{};
    for (int64_t t = 0; t < taps; t++) largest = max_of(largest, row[t] * scale);
    int64_t t = 0;
    for (; t + 2 <= taps; t += 2) {
        even += row[t] = exp_of(row[t] * scale - largest);
        odd += row[t + 1] = exp_of(row[t + 1] * scale - largest);
    }
    if (t < taps) even += row[t] = exp_of(row[t] * scale - largest);
    return 1.0f / (even + odd);
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

inline int64_t map_size(const Shape& s) { return s.padded_height() * s.padded_width() * s.depth(); }

// Rows of a map are read by four pixels and summed up by some, so that a few more have to be there.
inline int64_t map_room(const Shape& s) { return map_size(s) + (pixels_at_once(1) + 4) * s.stride * s.depth(); }

template <class E>
void forward_head(const Shape& s, const E* qkv, const float* position, float scale, int64_t b, int64_t head,
                  int64_t from, int64_t to, E* out, Scratch& scratch) {
    Planes keys(s, nullptr);
    int64_t planes_size = ceil_div(keys.size(s), LANES), row_size = s.wide() * s.row(), step = ceil_div(s.taps(), 4) * 4;
    Memory memory{scratch.vectors(planes_size + map_room(s) + s.row() * s.depth() + Weights::size(s) + step +
                                  ceil_div(MOST_ROWS * row_size, LANES) + columns_size(s))};
    keys.start = memory.numbers(planes_size * LANES);
    Vec *map = memory.vectors(map_room(s)), *pixels = memory.vectors(s.row() * s.depth());
    float *query = memory.numbers(MOST_ROWS * row_size), *of_pixels = memory.numbers(step * LANES);
    Weights weights(s, memory.vectors(Weights::size(s)));
    int64_t taps[MOST_SIDE], *columns = memory.columns(s), pixel = s.heads * s.channels;
    for (int64_t j = 0; j < s.kx; j++) taps[j] = tap_column(s, keys, j);

    const E* image = qkv + b * s.step_b + head * s.step_n;
    mirror_columns(s, columns);
    fill_map(s, image + s.step_s, position, columns, map);
    fill_planes(s, map, keys);
    fill_map(s, image + 2 * s.step_s, nullptr, columns, map);
    Terms terms;
    for (int64_t y = from; y < to; y += s.rows_together()) {
        Group group{y, 0, at_most(s.rows_together(), to - y)};
        for (int64_t u = 0; u < group.rows; u++) {
            read_row(s, image + (y + u) * s.stride * s.step_y, s.stride * s.step_x, pixels);
            turn_row(s, pixels, query + u * row_size);
        }
        for (; group.x < s.out_width(); group.x += LANES) {
            similarities(s, group, query, keys, taps, weights);
            for (int64_t u = 0; u < group.rows; u++) {
                Vec shares = make_weights(s, scale, weights.row(u));
                turn(reinterpret_cast<const float*>(weights.row(u)), LANES, s.taps(), 1, of_pixels, step);
                see(s, map, y + u, of_pixels - group.x * step, step, terms);
                E* row = out + ((b * s.out_height() + y + u) * s.out_width()) * pixel + head * s.channels;
                sum_all(s, terms, group.x, at_most(s.out_width(), group.x + LANES),
                        [&](int64_t x, int64_t d, Vec v) {
                            store(row + x * pixel + d * LANES, v * shares[x - group.x],
                                  int(at_most(LANES, s.channels - d * LANES)));
                        });
            }
        }
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
    int64_t planes_size = ceil_div(keys.size(s), LANES), grad_size = s.height * s.width * s.depth();
    int64_t row_size = s.wide() * s.row(), rows_size = ceil_div(MOST_ROWS * row_size, LANES);
    Memory memory{scratch.vectors(2 * planes_size + map_room(s) + 2 * grad_size + 2 * rows_size + queries.size(s) +
                                  2 * Weights::size(s) + columns_size(s))};
    keys.start = memory.numbers(planes_size * LANES), values.start = memory.numbers(planes_size * LANES);
    Vec* map = memory.vectors(map_room(s));
    Vec *grad_keys = memory.vectors(grad_size), *grad_values = memory.vectors(grad_size);
    float *query = memory.numbers(rows_size * LANES), *upstream = memory.numbers(rows_size * LANES);
    queries.place(s, memory.vectors(queries.size(s)));
    Weights weights(s, memory.vectors(Weights::size(s))), grads(s, memory.vectors(Weights::size(s)));
    int64_t taps[MOST_SIDE], *columns = memory.columns(s);
    for (int64_t j = 0; j < s.kx; j++) taps[j] = tap_column(s, keys, j);

    int64_t inner = s.heads * s.channels;
    const E* image = qkv + b * s.step_b + head * s.step_n;
    E* grad_image = grad_qkv + b * s.height * s.width * 3 * inner + head * s.channels;
    mirror_columns(s, columns);
    fill_map(s, image + 2 * s.step_s, nullptr, columns, map);
    fill_planes(s, map, values);
    fill_map(s, image + s.step_s, position, columns, map);
    fill_planes(s, map, keys);
    std::memset(static_cast<void*>(grad_keys), 0, 2 * grad_size * sizeof(Vec));
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
        }
        for (int64_t u = 0; u < group.rows; u++) {
            Terms terms;
            see(s, map, y + u, queries.of_taps(queries.grads, y + u), queries.taps, terms);
            E* row = grad_image + (y + u) * s.stride * s.width * 3 * inner;
            sum_all(s, terms, 0, s.out_width(), [&](int64_t x, int64_t d, Vec v) {
                store(row + x * s.stride * 3 * inner + d * LANES, v, int(at_most(LANES, s.channels - d * LANES)));
            });
        }
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
