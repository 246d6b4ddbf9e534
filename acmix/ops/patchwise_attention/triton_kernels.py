"""The kernels of patchwise attention; `triton` says what they are for, and calls them.

Shapes
    H, W map · C channels in G groups of PER · KY, KX sides of a neighbourhood · O = KY·KX offsets
    BLOCK pixels · CB channels, or GB groups of PB channels, that a program takes at once
"""

# Triton's types know neither numbers for constexpr arguments nor indexing by None
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import mirror, tuned


@triton.jit
def pixels_of(pixels, height, width, BLOCK: tl.constexpr):
    """A program's block of pixels: image (int64), row, column, and which exist; (BLOCK,) each."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = (pixel // (height * width)).to(tl.int64)
    return image, (pixel // width) % height, pixel % width, pixel < pixels


@tuned("channels", "KY", "KX")
@triton.jit
def forward(
    values, value_b, value_h, value_w, value_c, weights, weight_b, weight_h, weight_w, weight_o, weight_g,
    pixels, height, width, channels, per_group, out,
    KY: tl.constexpr, KX: tl.constexpr, ONCE: tl.constexpr, BLOCK: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """out[pixel, c] = Σ_o weights[pixel, o, group of c] · values[pixel + o, c]."""
    image, y, x, valid = pixels_of(pixels, height, width, BLOCK)
    c = tl.program_id(1) * CB + tl.arange(0, CB)
    mask = valid[:, None] & (c < channels)[None, :]
    column = c.to(tl.int64)[None, :] * value_c
    group = (c // per_group).to(tl.int64)[None, :] * weight_g
    of_pixel = weights + (image * weight_b + y * weight_h + x * weight_w)[:, None] + group
    found = tl.zeros((BLOCK, CB), dtype=tl.float32)
    for o in range(KY * KX):
        from_y = mirror(y + o // KX - KY // 2, height, ONCE)
        from_x = mirror(x + o % KX - KX // 2, width, ONCE)  # type: ignore[operator]
        row = image * value_b + from_y * value_h + from_x * value_w
        value = tl.load(values + row[:, None] + column, mask=mask, other=0.0).to(tl.float32)
        found += tl.load(of_pixel + o * weight_o, mask=mask, other=0.0).to(tl.float32) * value
    row = (image * height + y) * width + x
    tl.store(out + row[:, None] * channels + c[None, :], found.to(out.dtype.element_ty), mask=mask)


@tuned("channels", "KY", "KX", choices=((8, 2),))
@triton.jit
def values_back(
    grad, grad_b, grad_h, grad_w, grad_c, weights, weight_b, weight_h, weight_w, weight_o, weight_g,
    pixels, height, width, channels, per_group, images_y, images_x, grad_values,
    KY: tl.constexpr, KX: tl.constexpr, IMAGES_Y: tl.constexpr, IMAGES_X: tl.constexpr,
    BLOCK: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """grad_values[pixel, c]: from every output whose neighbourhood holds the pixel or one of its mirror images."""
    image, y, x, valid = pixels_of(pixels, height, width, BLOCK)
    c = tl.program_id(1) * CB + tl.arange(0, CB)
    known = (c < channels)[None, :]
    column = c.to(tl.int64)[None, :] * grad_c
    group = (c // per_group).to(tl.int64)[None, :] * weight_g
    found = tl.zeros((BLOCK, CB), dtype=tl.float32)
    for a in range(IMAGES_Y):
        place_y = tl.load(images_y + y * IMAGES_Y + a, mask=valid, other=-1)
        for b in range(IMAGES_X):
            place_x = tl.load(images_x + x * IMAGES_X + b, mask=valid, other=-1)
            stands = (place_y >= 0) & (place_x >= 0)
            # most blocks hold no pixel with a second image
            if tl.max(stands.to(tl.int32), axis=0) > 0:  # type: ignore[operator]
                for o in range(KY * KX):
                    # places count from the margin, which is KY // 2 rows high and KX // 2 columns wide
                    out_y = place_y - o // KX
                    out_x = place_x - o % KX  # type: ignore[operator]
                    sees = stands & (out_y >= 0) & (out_y < height) & (out_x >= 0) & (out_x < width)
                    mask = sees[:, None] & known
                    row = image * grad_b + out_y * grad_h + out_x * grad_w
                    upstream = tl.load(grad + row[:, None] + column, mask=mask, other=0.0).to(tl.float32)
                    row = image * weight_b + out_y * weight_h + out_x * weight_w + o * weight_o
                    weight = tl.load(weights + row[:, None] + group, mask=mask, other=0.0).to(tl.float32)
                    found += weight * upstream
    row = (image * height + y) * width + x
    place = grad_values + row[:, None] * channels + c[None, :]
    tl.store(place, found.to(grad_values.dtype.element_ty), mask=valid[:, None] & known)


@tuned("per_group", "KY", "KX")
@triton.jit
def weights_back(
    grad, grad_b, grad_h, grad_w, grad_c, values, value_b, value_h, value_w, value_c,
    pixels, height, width, groups, per_group, grad_weights,
    KY: tl.constexpr, KX: tl.constexpr, ONCE: tl.constexpr, BLOCK: tl.constexpr, GB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    """grad_weights[pixel, o, g] = Σ over the channels c of g: grad[pixel, c] · values[pixel + o, c]."""
    image, y, x, valid = pixels_of(pixels, height, width, BLOCK)
    g = tl.program_id(1) * GB + tl.arange(0, GB)
    o = tl.program_id(2)
    from_y = mirror(y + o // KX - KY // 2, height, ONCE)
    from_x = mirror(x + o % KX - KX // 2, width, ONCE)  # type: ignore[operator]
    row_grad = image * grad_b + y * grad_h + x * grad_w
    row_value = image * value_b + from_y * value_h + from_x * value_w
    found = tl.zeros((BLOCK, GB), dtype=tl.float32)
    for first in range(0, per_group, PB):
        inner = first + tl.arange(0, PB)
        c = (g[:, None] * per_group + inner[None, :]).to(tl.int64)  # (GB, PB)
        known = (g < groups)[:, None] & (inner < per_group)[None, :]
        mask = valid[:, None, None] & known[None, :, :]
        upstream = tl.load(grad + row_grad[:, None, None] + (c * grad_c)[None, :, :], mask=mask, other=0.0)
        value = tl.load(values + row_value[:, None, None] + (c * value_c)[None, :, :], mask=mask, other=0.0)
        found += tl.sum(upstream.to(tl.float32) * value.to(tl.float32), axis=2)
    row = ((image * height + y) * width + x) * (KY * KX) + o
    place = grad_weights + row[:, None] * groups + g[None, :]
    tl.store(place, found.to(grad_weights.dtype.element_ty), mask=valid[:, None] & (g < groups)[None, :])
