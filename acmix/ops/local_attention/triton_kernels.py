"""The kernels of local attention; `triton` says what they are for, and calls them.

Shapes
    H, W map · Ho, Wo of the output · N heads · D channels a head · BD: D rounded up to a power of two
    tiles of TY·TX queries or keys of one remainder; i, j and ki, kj are queries' and keys' steps within it
    NB keys that a tile of queries takes at once, and queries that a tile of keys does
"""

# Triton's types know neither numbers for constexpr arguments nor indexing by None
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import mirror, softmax_step, tuned


@triton.jit
def _program(heads, rows, columns, remainder_rows, remainder_columns):
    """What a program works at: head, image (both int64), row and column of its tile, both remainders."""
    program = tl.program_id(0)
    head = (program % heads).to(tl.int64)
    rest = program // heads
    column = rest % columns
    rest = rest // columns
    row = rest % rows
    rest = rest // rows
    right = rest % remainder_columns
    rest = rest // remainder_columns
    down = rest % remainder_rows
    return head, (rest // remainder_rows).to(tl.int64), row, column, down, right


@triton.jit
def _load(base, y, x, valid, channels, stride_h, stride_w, stride_d, BD: tl.constexpr):
    """The rows of D channels at some pixels, zero where there is none: (pixels, BD)."""
    d = tl.arange(0, BD)
    row = y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    place = base + row[:, None] + d.to(tl.int64)[None, :] * stride_d
    return tl.load(place, mask=valid[:, None] & (d < channels)[None, :], other=0.0)


@triton.jit
def _queries_of(
    row, column, down, right, out_height, out_width, REMAINDERS: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr
):
    """A tile of queries: in steps of one remainder, as output pixels, and which exist; (TY·TX,) each."""
    place = tl.arange(0, TY * TX)
    i = row * TY + place // TX
    j = column * TX + place % TX
    y = down + i * REMAINDERS
    x = right + j * REMAINDERS
    return i, j, y, x, (y < out_height) & (x < out_width)


@triton.jit
def _key_places(ki, kj, down, right, height, width, stride, dilation, KY: tl.constexpr, KX: tl.constexpr):
    """Keys at steps of d: row and column in the map with its margins, and which of them lie in it."""
    y = down * stride + (ki - KY // 2) * dilation
    x = right * stride + (kj - KX // 2) * dilation
    above = dilation * (KY // 2)
    left = dilation * (KX // 2)
    return y, x, (y >= -above) & (y < height + above) & (x >= -left) & (x < width + left)


@triton.jit
def _load_keys(
    base, position, y, x, valid, height, width, channels, stride_h, stride_w, stride_s, stride_d,
    position_h, position_w, position_d, HAS_POSITION: tl.constexpr, ONCE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Keys less their positions, and values, of mirrored pixels: (pixels, BD) each."""
    y = mirror(y, height, ONCE)
    x = mirror(x, width, ONCE)
    k = _load(base + stride_s, y, x, valid, channels, stride_h, stride_w, stride_d, BD)
    v = _load(base + 2 * stride_s, y, x, valid, channels, stride_h, stride_w, stride_d, BD)
    if HAS_POSITION:
        p = _load(position, y, x, valid, channels, position_h, position_w, position_d, BD)
        k = (k.to(tl.float32) - p.to(tl.float32)).to(k.dtype)
    return k, v


@triton.jit
def _attend(
    q, i, j, first, row, column, down, right, base, position, height, width, channels, stride_h, stride_w, stride_s,
    stride_d, position_h, position_w, position_d, stride, dilation, scale,
    KY: tl.constexpr, KX: tl.constexpr, STEP: tl.constexpr, HAS_POSITION: tl.constexpr, ONCE: tl.constexpr,
    TY: tl.constexpr, TX: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A tile's queries on its keys from number `first` on: logits (TY·TX, NB), and those keys and values."""
    RX: tl.constexpr = (TX - 1) * STEP + KX
    place = first + tl.arange(0, NB)
    ki = row * (TY * STEP) + place // RX
    kj = column * (TX * STEP) + place % RX
    key_y, key_x, valid = _key_places(ki, kj, down, right, height, width, stride, dilation, KY, KX)
    valid = valid & (place < ((TY - 1) * STEP + KY) * RX)
    k, v = _load_keys(
        base, position, key_y, key_x, valid, height, width, channels, stride_h, stride_w, stride_s, stride_d,
        position_h, position_w, position_d, HAS_POSITION, ONCE, BD,
    )  # fmt: skip
    seen = _is_neighbour(i[:, None], j[:, None], ki[None, :], kj[None, :], STEP, KY, KX) & valid[None, :]
    return tl.where(seen, tl.dot(q, tl.trans(k), input_precision="ieee") * scale, -1e30), k, v


@triton.jit
def _is_neighbour(i, j, ki, kj, STEP: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr):
    """Whether a key lies in a query's neighbourhood."""
    return (ki >= i * STEP) & (ki < i * STEP + KY) & (kj >= j * STEP) & (kj < j * STEP + KX)


@tuned("channels", "KY", "KX", "STEP", "TX")
@triton.jit
def forward(
    qkv, position, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, position_h, position_w, position_d,
    height, width, out_height, out_width, heads, channels, rows, columns, remainder_rows,
    remainder_columns, stride, dilation, scale, out,
    KY: tl.constexpr, KX: tl.constexpr, REMAINDERS: tl.constexpr, STEP: tl.constexpr, HAS_POSITION: tl.constexpr,
    ONCE: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head."""
    REGION: tl.constexpr = ((TY - 1) * STEP + KY) * ((TX - 1) * STEP + KX)
    head, image, row, column, down, right = _program(heads, rows, columns, remainder_rows, remainder_columns)
    base = qkv + image * stride_b + head * stride_n
    i, j, y, x, valid_q = _queries_of(row, column, down, right, out_height, out_width, REMAINDERS, TY, TX)
    q = _load(base, y * stride, x * stride, valid_q, channels, stride_h, stride_w, stride_d, BD)
    largest = tl.full((TY * TX,), -1e30, dtype=tl.float32)
    total = tl.zeros((TY * TX,), dtype=tl.float32)
    found = tl.zeros((TY * TX, BD), dtype=tl.float32)
    for first in range(0, REGION, NB):
        logits, _, v = _attend(
            q, i, j, first, row, column, down, right, base, position, height, width, channels, stride_h, stride_w,
            stride_s, stride_d, position_h, position_w, position_d, stride, dilation, scale,
            KY, KX, STEP, HAS_POSITION, ONCE, TY, TX, NB, BD,
        )  # fmt: skip
        largest, total, weights, fade = softmax_step(largest, total, logits)
        found = tl.dot(weights.to(v.dtype), v, found * fade[:, None], input_precision="ieee")
    d = tl.arange(0, BD)
    pixel = (image * out_height + y) * out_width + x
    place = out + ((pixel * heads + head) * channels)[:, None] + d[None, :]
    mask = valid_q[:, None] & (d < channels)[None, :]
    tl.store(place, (found / total[:, None]).to(out.dtype.element_ty), mask=mask)


@tuned("channels", "KY", "KX", "STEP", "TX", float32=(8, 1))
@triton.jit
def queries_back(
    qkv, position, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, position_h, position_w, position_d,
    height, width, out_height, out_width, heads, channels, rows, columns, remainder_rows,
    remainder_columns, stride, dilation, scale,
    grad, grad_b, grad_h, grad_w, grad_c, grad_qkv, log_sums, means,
    KY: tl.constexpr, KX: tl.constexpr, REMAINDERS: tl.constexpr, STEP: tl.constexpr, HAS_POSITION: tl.constexpr,
    ONCE: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head: their gradients, and two numbers each for the keys' pass."""
    REGION: tl.constexpr = ((TY - 1) * STEP + KY) * ((TX - 1) * STEP + KX)
    head, image, row, column, down, right = _program(heads, rows, columns, remainder_rows, remainder_columns)
    base = qkv + image * stride_b + head * stride_n
    grad_base = grad + image * grad_b + head * channels * grad_c
    i, j, y, x, valid_q = _queries_of(row, column, down, right, out_height, out_width, REMAINDERS, TY, TX)
    q = _load(base, y * stride, x * stride, valid_q, channels, stride_h, stride_w, stride_d, BD)
    upstream = _load(grad_base, y, x, valid_q, channels, grad_h, grad_w, grad_c, BD).to(q.dtype)
    largest = tl.full((TY * TX,), -1e30, dtype=tl.float32)
    total = tl.zeros((TY * TX,), dtype=tl.float32)
    mean = tl.zeros((TY * TX,), dtype=tl.float32)
    grad_q = tl.zeros((TY * TX, BD), dtype=tl.float32)
    for first in range(0, REGION, NB):
        logits, k, v = _attend(
            q, i, j, first, row, column, down, right, base, position, height, width, channels, stride_h, stride_w,
            stride_s, stride_d, position_h, position_w, position_d, stride, dilation, scale,
            KY, KX, STEP, HAS_POSITION, ONCE, TY, TX, NB, BD,
        )  # fmt: skip
        largest, total, weights, fade = softmax_step(largest, total, logits)
        mean = mean * fade + tl.sum(weights * tl.dot(upstream, tl.trans(v), input_precision="ieee"), axis=1)
    log_sum = largest + tl.log(total)
    mean = mean / total
    for first in range(0, REGION, NB):
        logits, k, v = _attend(
            q, i, j, first, row, column, down, right, base, position, height, width, channels, stride_h, stride_w,
            stride_s, stride_d, position_h, position_w, position_d, stride, dilation, scale,
            KY, KX, STEP, HAS_POSITION, ONCE, TY, TX, NB, BD,
        )  # fmt: skip
        weights = tl.exp(logits - log_sum[:, None])
        grad_weights = tl.dot(upstream, tl.trans(v), input_precision="ieee")
        grad_logits = (weights * (grad_weights - mean[:, None])).to(k.dtype)
        grad_q = tl.dot(grad_logits, k, grad_q, input_precision="ieee")
    d = tl.arange(0, BD)
    pixel = (image * height + y * stride) * width + x * stride
    place = grad_qkv + ((pixel * 3 * heads + head) * channels)[:, None] + d[None, :]
    mask = valid_q[:, None] & (d < channels)[None, :]
    tl.store(place, (grad_q * scale).to(grad_qkv.dtype.element_ty), mask=mask)
    number = ((image * heads + head) * out_height + y) * out_width + x
    tl.store(log_sums + number, log_sum, mask=valid_q)
    tl.store(means + number, mean, mask=valid_q)


@tuned("channels", "KY", "KX", "STEP", "TX", choices=((4, 1), (8, 1)), float32=(8, 1))
@triton.jit
def keys_back(
    qkv, position, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, position_h, position_w, position_d,
    height, width, out_height, out_width, heads, channels, rows, columns, remainder_rows,
    remainder_columns, stride, dilation, scale,
    grad, grad_b, grad_h, grad_w, grad_c, mirrored, batch, log_sums, means,
    KY: tl.constexpr, KX: tl.constexpr, REMAINDERS: tl.constexpr, STEP: tl.constexpr, HAS_POSITION: tl.constexpr,
    ONCE: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One tile of keys of one head, of the map with its margins: gradients of keys and values from all who see them."""
    # the queries that see a tile: rows ceil((first key - KY + 1) / STEP) … floor(last key / STEP)
    IX: tl.constexpr = (TX + KX - 2) // STEP + 1
    REGION: tl.constexpr = ((TY + KY - 2) // STEP + 1) * IX
    head, image, row, column, down, right = _program(heads, rows, columns, remainder_rows, remainder_columns)
    base = qkv + image * stride_b + head * stride_n
    grad_base = grad + image * grad_b + head * channels * grad_c
    number = log_sums + (image * heads + head) * (out_height * out_width)
    other_number = means + (image * heads + head) * (out_height * out_width)
    ki = row * TY + tl.arange(0, TY * TX) // TX
    kj = column * TX + tl.arange(0, TY * TX) % TX
    key_y, key_x, valid_k = _key_places(ki, kj, down, right, height, width, stride, dilation, KY, KX)
    k, v = _load_keys(
        base, position, key_y, key_x, valid_k, height, width, channels, stride_h, stride_w, stride_s, stride_d,
        position_h, position_w, position_d, HAS_POSITION, ONCE, BD,
    )  # fmt: skip
    # KY * STEP more, and KY less after, keeps the division's sign
    first_i = (row * TY - KY + STEP + KY * STEP) // STEP - KY
    first_j = (column * TX - KX + STEP + KX * STEP) // STEP - KX
    grad_k = tl.zeros((TY * TX, BD), dtype=tl.float32)
    grad_v = tl.zeros((TY * TX, BD), dtype=tl.float32)
    for first in range(0, REGION, NB):
        place = first + tl.arange(0, NB)
        i = first_i + place // IX
        j = first_j + place % IX
        y = down + i * REMAINDERS
        x = right + j * REMAINDERS
        valid_q = (place < REGION) & (i >= 0) & (j >= 0) & (y < out_height) & (x < out_width)
        q = _load(base, y * stride, x * stride, valid_q, channels, stride_h, stride_w, stride_d, BD)
        upstream = _load(grad_base, y, x, valid_q, channels, grad_h, grad_w, grad_c, BD).to(q.dtype)
        log_sum = tl.load(number + y * out_width + x, mask=valid_q, other=0.0)
        mean = tl.load(other_number + y * out_width + x, mask=valid_q, other=0.0)
        seen = _is_neighbour(i[None, :], j[None, :], ki[:, None], kj[:, None], STEP, KY, KX)
        seen = seen & valid_q[None, :] & valid_k[:, None]
        logits = tl.where(seen, tl.dot(k, tl.trans(q), input_precision="ieee") * scale, -1e30)  # (keys, queries)
        weights = tl.exp(logits - log_sum[None, :])
        grad_weights = tl.dot(v, tl.trans(upstream), input_precision="ieee")
        grad_logits = (weights * (grad_weights - mean[None, :])).to(q.dtype)
        grad_v = tl.dot(weights.to(q.dtype), upstream, grad_v, input_precision="ieee")
        grad_k = tl.dot(grad_logits, q, grad_k, input_precision="ieee")
    all_rows = height + 2 * dilation * (KY // 2)
    all_columns = width + 2 * dilation * (KX // 2)
    d = tl.arange(0, BD)
    mask = valid_k[:, None] & (d < channels)[None, :]
    pixel = (image * all_rows + key_y + dilation * (KY // 2)) * all_columns + key_x + dilation * (KX // 2)
    place = mirrored + ((pixel * heads + head) * channels)[:, None] + d[None, :]
    tl.store(place, (grad_k * scale).to(mirrored.dtype.element_ty), mask=mask)
    pixel = ((image + batch) * all_rows + key_y + dilation * (KY // 2)) * all_columns + key_x + dilation * (KX // 2)
    place = mirrored + ((pixel * heads + head) * channels)[:, None] + d[None, :]
    tl.store(place, grad_v.to(mirrored.dtype.element_ty), mask=mask)


@tuned("row_size", choices=((4, 2),), float32=(4, 2))
@triton.jit
def fold(
    mirrored, grad_qkv, images_y, images_x, pixels, batch, height, width, row_size, all_rows, all_columns,
    IMAGES_Y: tl.constexpr, IMAGES_X: tl.constexpr, BLOCK: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """Adds up every pixel's mirror images, and writes keys' and values' gradients into (B, H, W, 3, N·D)."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1) * CB + tl.arange(0, CB)
    which = tl.program_id(2)
    valid = pixel < pixels
    image = (pixel // (height * width)).to(tl.int64)
    y = (pixel // width) % height
    x = pixel % width
    found = tl.zeros((BLOCK, CB), dtype=tl.float32)
    for a in range(IMAGES_Y):
        from_y = tl.load(images_y + y * IMAGES_Y + a, mask=valid, other=-1)
        for b in range(IMAGES_X):
            from_x = tl.load(images_x + x * IMAGES_X + b, mask=valid, other=-1)
            stands = (from_y >= 0) & (from_x >= 0)
            row = ((image + which * batch) * all_rows + from_y) * all_columns + from_x
            place = mirrored + (row * row_size)[:, None] + c[None, :]
            found += tl.load(place, mask=stands[:, None] & (c < row_size)[None, :], other=0.0).to(tl.float32)
    place = grad_qkv + ((pixel.to(tl.int64) * 3 + 1 + which) * row_size)[:, None] + c[None, :]
    tl.store(place, found.to(grad_qkv.dtype.element_ty), mask=valid[:, None] & (c < row_size)[None, :])
