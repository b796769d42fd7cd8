"""Image operators on NHWC arrays: resizing, FIR filters, activations, convolutions."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _check_size(x: jax.Array, size: tuple[int, int]) -> None:
    if x.ndim < 3:
        raise ValueError(f'x has shape {x.shape}; expected [..., H, W, C].')
    if len(size) != 2 or min(size) < 1 or min(x.shape[-3:-1]) < 1:
        raise ValueError(f'size={size} for x of shape {x.shape}; both need (height, width) of at least 1.')


def _interpolate(x: jax.Array, axis: int, numerator: jax.Array, denominator: int) -> jax.Array:
    """Reads x linearly along one axis at the positions numerator / denominator, int32 [n], within its length.

    The weight of input i at position s is max(0, 1 - |s - i|); of integers, only the last division rounds.
    """
    index = jnp.arange(x.shape[axis])
    distance = jnp.abs(numerator[:, None] - denominator * index[None, :])
    weights = jnp.maximum(denominator - distance, 0).astype(jnp.float32) / denominator
    out = jnp.tensordot(weights, x.astype(jnp.float32), (1, axis), precision='highest')
    return jnp.moveaxis(out, 0, axis)


def resize_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize that keeps corner pixels: output t of n reads t (in - 1) / (n - 1), and 0 if n = 1.

    Args:
      x: [..., H, W, C]; weights and sums are float32, the result has x's dtype.
      size: (height, width) of the result.
    Returns: [..., *size, C].
    Raises: ValueError for other ranks and empty sizes.
    """
    _check_size(x, size)
    out = x
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        if n != x.shape[axis]:
            out = _interpolate(out, axis, jnp.arange(n) * (x.shape[axis] - 1), max(n - 1, 1))
    return out.astype(x.dtype)


def resize_half_pixel(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize with aligned pixel edges: output t of n reads clip((t + 1/2) in / n - 1/2, 0, in - 1).

    Never antialiased, unlike `jax.image.resize`. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    out = x
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        length = x.shape[axis]
        if n != length:
            numerator = (2 * jnp.arange(n) + 1) * length - n
            out = _interpolate(out, axis, jnp.clip(numerator, 0, 2 * n * (length - 1)), 2 * n)
    return out.astype(x.dtype)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Nearest resize: output t of n copies input floor(t in / n).

    Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    rows = jnp.arange(size[0]) * x.shape[-3] // size[0]
    columns = jnp.arange(size[1]) * x.shape[-2] // size[1]
    return jnp.take(jnp.take(x, rows, axis=-3), columns, axis=-2)


def adaptive_average_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Means over size[0] x size[1] bins: bin b of n averages positions floor(b in / n) to ceil((b + 1) in / n) - 1.

    Bins overlap where n does not divide the length. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    out = x.astype(jnp.float32)
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        length, index = x.shape[axis], np.arange(n)
        first, end = index * length // n, -(-(index + 1) * length // n)
        position = np.arange(length)
        inside = (position[None, :] >= first[:, None]) & (position[None, :] < end[:, None])
        weights = jnp.asarray(inside / (end - first)[:, None], jnp.float32)
        out = jnp.moveaxis(jnp.tensordot(weights, out, (1, axis), precision='highest'), 0, axis)
    return out.astype(x.dtype)


def resize_bicubic_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bicubic resize that keeps corner pixels (a = -3/4): output t of n reads t (in - 1) / (n - 1), and 0 if n = 1.

    The four taps are clamped to the image. Never antialiased. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    out = x.astype(jnp.float32)
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        if n != x.shape[axis]:
            weights = jnp.asarray(_bicubic_matrix(x.shape[axis], n), jnp.float32)
            out = jnp.moveaxis(jnp.tensordot(weights, out, (1, axis), precision='highest'), 0, axis)
    return out.astype(x.dtype)


@functools.cache
def _bicubic_matrix(length: int, n: int) -> np.ndarray:
    position = np.arange(n) * (length - 1) / max(n - 1, 1)
    low = np.floor(position)
    matrix = np.zeros((n, length))
    for tap in range(-1, 3):
        t = np.abs(position - low - tap)
        near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
        index = np.clip(low + tap, 0, length - 1).astype(int)
        np.add.at(matrix, (np.arange(n), index), np.where(t <= 1, near, np.where(t < 2, far, 0.0)))
    return matrix


# FIR filters ----------------------------------------------------------------------------------------------------------

Factor = int | tuple[int, int]
Padding = int | tuple[int, int, int, int]


def _pair(name: str, value: Factor) -> tuple[int, int]:
    """(x, y) of a factor."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(f'{name}={value!r}; expected an integer of at least 1, or two of them for (x, y).')
    return pair


def _sides(padding: Padding) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of a padding."""
    sides = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
    if len(sides) != 4 or not all(isinstance(v, int) for v in sides):
        raise ValueError(f'padding={padding!r}; expected an integer, or four of them for (left, right, top, bottom).')
    return sides


def _taps(f: jax.Array | None) -> tuple[int, int]:
    """(width, height) of a filter."""
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2):
        raise ValueError(f'a filter of shape {f.shape}; expected [n] for both axes, [n, m], or None.')
    return f.shape[-1], f.shape[0]


def _check_image(x: jax.Array) -> None:
    if x.ndim != 4:
        raise ValueError(f'x has shape {x.shape}; expected [N, H, W, C].')


def upfirdn2d(
    x: jax.Array,
    f: jax.Array | None,
    *,
    up: Factor = 1,
    down: Factor = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> jax.Array:
    """Upsample by zeros, pad by zeros, convolve, keep every down-th position (Karras et al. 2019, "upfirdn2d").

    Along each axis y[n] = sum_k f[K-1-k] xp[n down + k], where xp is x, up - 1 zeros after every sample, and padding.
    Sums run in float32 at least. The filter counts as a constant: its own derivative is zero.

    Args:
      x: [N, H, W, C].
      f: [n], applied along both axes; [n, m], whose rows meet rows of the image; or None for a single 1.
      up, down: factors, or (x, y).
      padding: zeros around the upsampled image, or (left, right, top, bottom); negative numbers crop.
      flip_filter: correlate instead of convolve, so that f[k] stands for f[K-1-k] above.
      gain: factor on the result.
    Returns: [N, (H up + top + bottom - n) // down + 1, (W up + left + right - m) // down + 1, C] in the dtype of x.
    Raises: ValueError for other ranks and factors, or if the padded image is smaller than the filter.
    """
    _check_image(x)
    up, down, sides, taps = _pair('up', up), _pair('down', down), _sides(padding), _taps(f)
    pads = (sides[:2], sides[2:])
    for n, u, pad, k in zip(x.shape[2:0:-1], up, pads, taps, strict=True):
        if n * u + sum(pad) < k:
            raise ValueError(f'{n} * {u} + {pad[0]} + {pad[1]} positions are fewer than the {k} taps of the filter.')
    if f is None:
        f = np.ones(1, np.float32)
    f = jnp.asarray(f, jnp.promote_types(x.dtype, jnp.float32))
    f = f * gain ** (f.ndim / 2)
    if not flip_filter:
        f = jnp.flip(f)
    if f.ndim == 2:
        return _upfirdn2d(x, f, up[::-1], down[::-1], pads[::-1], x.shape[1:3])
    x = _upfirdn2d(x, f[None, :], (1, up[0]), (1, down[0]), ((0, 0), pads[0]), x.shape[1:3])
    return _upfirdn2d(x, f[:, None], (up[1], 1), (down[1], 1), (pads[1], (0, 0)), x.shape[1:3])


def filter2d(
    x: jax.Array, f: jax.Array | None, *, padding: Padding = 0, flip_filter: bool = False, gain: float = 1.0
) -> jax.Array:
    """`upfirdn2d` that keeps the size: taps // 2 zeros before, (taps - 1) // 2 after, `padding` on top of that."""
    pads = [(k // 2, (k - 1) // 2) for k in _taps(f)]
    return upfirdn2d(x, f, padding=_added(padding, pads), flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: jax.Array,
    f: jax.Array | None,
    *,
    up: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> jax.Array:
    """`upfirdn2d` to `up` times the size with a gain of up^2 more: aligned pixel edges, `padding` on top of that."""
    pads = _up_pads(f, up)
    gain = gain * math.prod(_pair('up', up))
    return upfirdn2d(x, f, up=up, padding=_added(padding, pads), flip_filter=flip_filter, gain=gain)


def downsample2d(
    x: jax.Array,
    f: jax.Array | None,
    *,
    down: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> jax.Array:
    """`upfirdn2d` to 1 / `down` of the size: aligned pixel edges, `padding` on top of that."""
    pads = _down_pads(f, down)
    return upfirdn2d(x, f, down=down, padding=_added(padding, pads), flip_filter=flip_filter, gain=gain)


def _added(padding: Padding, *pads: list[tuple[int, int]]) -> tuple[int, int, int, int]:
    """Sum of paddings; `pads` are pairs (before, after) of x and y."""
    return tuple(sum(side) for side in zip(_sides(padding), *((*x, *y) for x, y in pads), strict=True))


def _up_pads(f: jax.Array | None, up: Factor) -> list[tuple[int, int]]:
    return [((k + u - 1) // 2, (k - u) // 2) for k, u in zip(_taps(f), _pair('up', up), strict=True)]


def _down_pads(f: jax.Array | None, down: Factor) -> list[tuple[int, int]]:
    return [((k - d + 1) // 2, (k - d) // 2) for k, d in zip(_taps(f), _pair('down', down), strict=True)]


def _phases(n: int, taps: int, up: int, down: int, pad: tuple[int, int]) -> tuple[list, int, int]:
    """The output along one axis, split by position modulo up / gcd(up, down).

    Returns: one list per phase of (tap, first input position), the step between input positions, the output length.
    """
    common = math.gcd(up, down)
    offsets = [[r * down + k - pad[0] for k in range(taps)] for r in range(up // common)]
    phases = [[(k, o // up) for k, o in enumerate(row) if o % up == 0] for row in offsets]
    return phases, down // common, (n * up + sum(pad) - taps) // down + 1


def _shifted_sum(
    x: jax.Array, taps: tuple, up: tuple, down: tuple, pads: tuple, channels: int, term: Callable
) -> jax.Array:
    """Correlation with taps [K, L] as a sum of shifted slices of x, without ever making the zeros of upsampling.

    Args:
      x: [N, H, W, C].
      taps, up, down, pads: of (rows, columns).
      term: (i, j, [N, h, w, C]) -> [N, h, w, channels], what tap (i, j) adds at the positions that meet it.
    Returns: [N, H', W', channels], float32 at least.
    """
    plans = [_phases(*axis) for axis in zip(x.shape[1:3], taps, up, down, pads, strict=True)]
    starts, spans, counts, dtype = [], [], [], jnp.promote_types(x.dtype, jnp.float32)
    for n, (phases, step, out) in zip(x.shape[1:3], plans, strict=True):
        count = -(-out // len(phases))
        first = [start for phase in phases for _, start in phase]
        before, after = max(0, -min(first, default=0)), max(0, max(first, default=0) + (count - 1) * step + 1 - n)
        starts.append(before)
        spans.append((before, after, 0))
        counts.append(count)
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spans, (0, 0, 0)])
    (rows, row_step, height), (columns, column_step, width) = plans

    def phase(row: list, column: list) -> jax.Array:
        total = jnp.zeros((x.shape[0], *counts, channels), dtype)
        for i, y0 in row:
            for j, x0 in column:
                top, left = y0 + starts[0], x0 + starts[1]
                bottom, right = top + (counts[0] - 1) * row_step + 1, left + (counts[1] - 1) * column_step + 1
                total += term(i, j, padded[:, top:bottom:row_step, left:right:column_step, :])
        return total

    y = jnp.stack([jnp.stack([phase(row, column) for column in columns], axis=3) for row in rows], axis=2)
    y = y.reshape(x.shape[0], counts[0] * len(rows), counts[1] * len(columns), channels)
    return y[:, :height, :width, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _upfirdn2d(x: jax.Array, f: jax.Array, up: tuple, down: tuple, pads: tuple, size: tuple[int, int]) -> jax.Array:
    """Correlation of x, whose (H, W) is `size`, with f [K, L]; factors and pads of (rows, columns)."""

    # XLA fuses the sum into a single loop.
    def term(i: int, j: int, part: jax.Array) -> jax.Array:
        return f[i, j] * part.astype(f.dtype)

    return _shifted_sum(x, f.shape, up, down, pads, x.shape[3], term).astype(x.dtype)


def _upfirdn2d_fwd(x: jax.Array, f: jax.Array, *static: Any) -> tuple[jax.Array, jax.Array]:
    return _upfirdn2d(x, f, *static), f


def _upfirdn2d_bwd(up: tuple, down: tuple, pads: tuple, size: tuple, f: jax.Array, g: jax.Array) -> tuple:
    # The adjoint is the same operator with the factors exchanged and the filter reversed. The transpose that automatic
    # differentiation finds, a sum of padded arrays, is several times slower on CPU.
    adjoint_pads = tuple(
        (k - 1 - pad[0], n * u - out * d + pad[0] - u + 1)
        for n, k, u, d, pad, out in zip(size, f.shape, up, down, pads, g.shape[1:3], strict=True)
    )
    return _upfirdn2d(g, f[::-1, ::-1], down, up, adjoint_pads, g.shape[1:3]), jnp.zeros_like(f)


_upfirdn2d.defvjp(_upfirdn2d_fwd, _upfirdn2d_bwd)


# Activations ----------------------------------------------------------------------------------------------------------

# Each with its default gain, which about keeps the second moment; alpha is the slope of 'lrelu'.
ACTIVATIONS = {
    'linear': (lambda x, alpha: x, 1.0),
    'relu': (lambda x, alpha: jax.nn.relu(x), math.sqrt(2)),
    'lrelu': (jax.nn.leaky_relu, math.sqrt(2)),
    'tanh': (lambda x, alpha: jnp.tanh(x), 1.0),
    'sigmoid': (lambda x, alpha: jax.nn.sigmoid(x), 1.0),
    'elu': (lambda x, alpha: jax.nn.elu(x), 1.0),
    'selu': (lambda x, alpha: jax.nn.selu(x), 1.0),
    'softplus': (lambda x, alpha: jax.nn.softplus(x), 1.0),
    'swish': (lambda x, alpha: jax.nn.swish(x), math.sqrt(2)),
}


def bias_act(
    x: jax.Array,
    b: jax.Array | None = None,
    *,
    act: str = 'linear',
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> jax.Array:
    """clip(gain act(x + b), -clamp, clamp).

    Args:
      x: [..., C].
      b: [C], or None for no bias.
      act: a key of ACTIVATIONS.
      alpha: slope of 'lrelu' for negative numbers, 0.2 by default; other activations have none.
      gain: sqrt(2) by default for 'relu', 'lrelu' and 'swish', 1 for the others.
      clamp: None leaves the clipping out.
    Returns: as x.
    Raises: ValueError for an unknown activation, a bias of another shape, a negative clamp.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f'act={act!r} is not one of {sorted(ACTIVATIONS)}.')
    if b is not None and b.shape != x.shape[-1:]:
        raise ValueError(f'bias of shape {b.shape} for x of shape {x.shape}; expected {x.shape[-1:]}.')
    if clamp is not None and clamp < 0:
        raise ValueError(f'clamp={clamp} is negative; use None for no clipping.')
    function, default_gain = ACTIVATIONS[act]
    if b is not None:
        x = x + b.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    x = function(x, 0.2 if alpha is None else alpha)
    gain = default_gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else jnp.clip(x, -clamp, clamp)


def filtered_lrelu(
    x: jax.Array,
    b: jax.Array | None,
    fu: jax.Array | None,
    fd: jax.Array | None,
    *,
    up: Factor = 1,
    down: Factor = 1,
    padding: Padding = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> jax.Array:
    """Leaky ReLU between two resolutions without aliasing (Karras et al. 2021, section 3.2).

    Adds the bias, upsamples (`upfirdn2d` with fu and a gain of up^2), takes clip(gain lrelu(x), -clamp, clamp), and
    downsamples (`upfirdn2d` with fd).

    Args:
      x: [N, H, W, C].
      b: [C] or None. It is added first: padding is zero whatever the bias.
      fu, fd: [n], [n, m] or None, as in `upfirdn2d`.
      padding: of the upsampled image, or (left, right, top, bottom); negative numbers crop.
    Returns: [N, (H up + top + bottom - |fu| - |fd| + 2 + down - 1) // down, ..., C] in the dtype of x.
    Raises: ValueError as `upfirdn2d` and `bias_act`.
    """
    _check_image(x)
    u = _pair('up', up)
    x = bias_act(x, b)
    x = upfirdn2d(x, fu, up=up, padding=padding, flip_filter=flip_filter, gain=math.prod(u))
    x = bias_act(x, act='lrelu', alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)


# Convolutions ---------------------------------------------------------------------------------------------------------


def conv2d(
    x: jax.Array, kernel: jax.Array, *, padding: Padding = 0, stride: Factor = 1, dilation: int = 1, groups: int = 1
) -> jax.Array:
    """Convolution as neural networks have it, a correlation: x [N, H, W, C], kernel [h, w, C / groups, D].

    Args:
      padding: zeros around x, or (left, right, top, bottom); negative numbers crop.
      stride: keep every stride-th position from the first on, or (x, y).
      dilation: distance of the kernel's taps.
      groups: into which channels are divided.
    Returns: [N, (H + top + bottom - h') // stride + 1, (W + left + right - w') // stride + 1, D] in the dtype of x,
      with h' = (h - 1) dilation + 1 and w' likewise.
    Raises: ValueError for other ranks and channels, or if the padded image is smaller than the kernel.
    """
    return _conv(x, kernel, _sides(padding), _pair('stride', stride), groups, dilation=dilation)


def conv_transpose2d(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int = 0) -> jax.Array:
    """Transposed convolution: position n of x adds x[n] @ kernel[k] to position n stride + k - padding of the result.

    Args:
      x: [N, H, W, C].
      kernel: [k, k, C, D].
      padding: rows and columns that are cut off at every border.
    Returns: [N, (H - 1) stride + k - 2 padding, ..., D] in the dtype of x.
    Raises: ValueError as `conv2d`.
    """
    left, top = (n - 1 - padding for n in kernel.shape[1::-1])
    sides = (left, left - stride + 1, top, top - stride + 1)
    return _conv(x, kernel[::-1, ::-1], sides, up=stride)


def _conv(
    x: jax.Array,
    kernel: jax.Array,
    sides: tuple,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    up: int = 1,
    dilation: int = 1,
) -> jax.Array:
    """`conv2d` of x with up - 1 zeros after every sample."""
    _check_image(x)
    if kernel.ndim != 4 or kernel.shape[2] * groups != x.shape[3] or kernel.shape[3] % groups:
        raise ValueError(
            f'kernel of shape {kernel.shape} for x of shape {x.shape} in {groups} groups; expected '
            '[height, width, C / groups, D] with D a multiple of groups.'
        )
    (height, width, channels, features), pads = kernel.shape, (sides[2:], sides[:2])
    outs = [
        (n * up + sum(pad) - (k - 1) * dilation - 1) // s + 1
        for n, pad, k, s in zip(x.shape[1:3], pads, kernel.shape[:2], stride[::-1], strict=True)
    ]
    if min(outs) < 1:
        raise ValueError(f'x of shape {x.shape} with padding {sides} is smaller than the kernel {kernel.shape}.')
    kernel = kernel.astype(x.dtype)
    # XLA's convolutions on CPU reach a third of what its matmuls do, the gradient of one with dilated input takes a
    # hundred times as long, and so does that of a kernel if the padding is larger than half of it. Those of depthwise
    # ones take 4 to 12 times as long as a sum of shifted products (docs/decisions.md).
    if jax.default_backend() == 'cpu':
        if up == 1:
            x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
            pads = ((0, 0), (0, 0))
        if up == 1 and channels == 1 and features == groups:
            slices = [
                [slice(tap * dilation, tap * dilation + (out - 1) * step + 1, step) for tap in range(k)]
                for k, out, step in zip((height, width), outs, stride[::-1], strict=True)
            ]
            dtype = jnp.promote_types(x.dtype, jnp.float32)
            products = (
                x[:, row, column].astype(dtype) * kernel[i : i + 1, j : j + 1].astype(dtype)
                for i, row in enumerate(slices[0])
                for j, column in enumerate(slices[1])
            )
            return sum(products).astype(x.dtype)
        wide = groups == 1 and dilation == 1 and channels * features >= 2**13
        if wide and (height, width, up, *stride) == (3, 3, 1, 1, 1) and min(outs) >= 64:
            return _winograd(x, kernel)
        if wide or (groups == 1 and up > 1):
            dtype = jnp.promote_types(x.dtype, jnp.float32)

            def term(i: int, j: int, part: jax.Array) -> jax.Array:
                return jnp.einsum('nhwc,cd->nhwd', part, kernel[i, j], preferred_element_type=dtype)

            return _shifted_sum(x, (height, width), (up, up), stride[::-1], pads, features, term).astype(x.dtype)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        stride[::-1],
        # Its dilation puts no zeros behind the last sample.
        [(before, after + up - 1) for before, after in pads],
        (up, up),
        (dilation, dilation),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


def _winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution, unpadded, by Winograd's F(2x2, 3x3) (Lavin and Gray 2016): 16 products for 4 outputs, not 36.

    Per axis, with outputs y and inputs d of a tile, y = A' ((G k) * (B' d)), where B' d = (d0 - d2, d1 + d2, d2 - d1,
    d1 - d3) and A' m = (m0 + m1 + m2, m1 - m2 - m3). All tiles share one kernel, so each product is a matmul.
    Errors are a few times those of a direct float32 sum; bfloat16 is computed in float32.
    """
    n, height, width = x.shape[0], x.shape[1] - 2, x.shape[2] - 2
    tiles, dtype = (-(-height // 2), -(-width // 2)), jnp.promote_types(x.dtype, jnp.float32)
    spans = [(0, 0, 0), (0, height % 2, 0), (0, width % 2, 0), (0, 0, 0)]
    d = jax.lax.pad(x, jnp.zeros((), x.dtype), spans).astype(dtype)
    # Even and odd positions as axes: slices without strides have a cheap derivative.
    d = d.reshape(n, tiles[0] + 1, 2, tiles[1] + 1, 2, -1)

    def transform(even: jax.Array, odd: jax.Array, axis: int) -> tuple:
        """B' d along an axis."""
        length = even.shape[axis] - 1
        d0, d1 = (jax.lax.slice_in_dim(v, 0, length, axis=axis) for v in (even, odd))
        d2, d3 = (jax.lax.slice_in_dim(v, 1, length + 1, axis=axis) for v in (even, odd))
        return d0 - d2, d1 + d2, d2 - d1, d1 - d3

    def collect(m0: jax.Array, m1: jax.Array, m2: jax.Array, m3: jax.Array) -> tuple:
        """A' m."""
        return m0 + m1 + m2, m1 - m2 - m3

    g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    g = jnp.asarray(g, dtype)
    kernel = jnp.einsum('ai,bj,ijcd->abcd', g, g, kernel.astype(dtype), precision='highest')
    halves = [transform(d[:, :, row, :, 0], d[:, :, row, :, 1], 2) for row in (0, 1)]
    columns = []
    for b, (even, odd) in enumerate(zip(*halves, strict=True)):
        products = [jnp.einsum('nhwc,cd->nhwd', v, kernel[a, b]) for a, v in enumerate(transform(even, odd, 1))]
        columns.append(collect(*products))
    y = jnp.stack([jnp.stack(collect(*row), axis=3) for row in zip(*columns, strict=True)], axis=2)
    return y.reshape(n, 2 * tiles[0], 2 * tiles[1], -1)[:, :height, :width].astype(x.dtype)


def conv2d_resample(
    x: jax.Array,
    kernel: jax.Array,
    f: jax.Array | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> jax.Array:
    """Upsampling by FIR, convolution, downsampling by FIR, as in StyleGAN2 (Karras et al. 2020, appendix B).

    The linear stages are pad, up - 1 zeros after every sample, f with a gain of up^2 if up > 1, kernel, f if down > 1,
    every down-th position. They are computed in the order that needs the fewest operations.

    Args:
      x: [N, H, W, C].
      kernel: [h, w, C / groups, D].
      f: [n], [n, m] or None, as in `upfirdn2d`.
      up, down: factors of both axes.
      padding: of the upsampled image, or (left, right, top, bottom), besides what keeps pixel edges aligned under f.
      flip_weight: True correlates with the kernel, False convolves, as StyleGAN2's layers of up=2 do.
      flip_filter: as in `upfirdn2d`.
    Returns: [N, H', W', D] in the dtype of x.
    Raises: ValueError as `upfirdn2d` and `conv2d`.
    """
    _check_image(x)
    for name, factor in (('up', up), ('down', down)):
        if not isinstance(factor, int):
            raise ValueError(f'{name}={factor!r}; both axes are resampled by one integer here.')
    extra = [_up_pads(f, up)] if up > 1 else []
    extra += [_down_pads(f, down)] if down > 1 else []
    sides = _added(padding, *extra)
    if not flip_weight:
        kernel = kernel[::-1, ::-1]
    height, width = kernel.shape[:2]
    conv = functools.partial(_conv, groups=groups)
    fir = functools.partial(upfirdn2d, f=f, flip_filter=flip_filter)
    if up == 1 and down == 1:
        return conv(x, kernel, sides)
    point = (height, width) == (1, 1)
    if up == 1:
        if point:
            return conv(fir(x, down=down, padding=sides), kernel, (0,) * 4)
        return conv(fir(x, padding=sides), kernel, (0,) * 4, (down, down))
    if point:
        x = fir(conv(x, kernel, (0,) * 4), up=up, padding=sides, gain=up**2)
    else:
        # The whole transposed convolution first; what it has beyond the given padding is cropped with the filter.
        around = (width - 1, width - 1, height - 1, height - 1)
        inner = tuple(side - more for side, more in zip(sides, around, strict=True))
        x = fir(conv(x, kernel, around, up=up), padding=inner, gain=up**2)
    return x if down == 1 else fir(x, down=down)


def _demodulation(kernel: jax.Array, styles: jax.Array) -> jax.Array:
    """1 / sqrt(sum of the squares of an image's weights + 1e-8): [N, D] of kernel [h, w, C, D] and styles [N, C]."""
    squares = jnp.matmul(jnp.square(styles), jnp.sum(jnp.square(kernel), axis=(0, 1)), precision='highest')
    return jax.lax.rsqrt(squares + 1e-8)


def _scale(x: jax.Array, factors: jax.Array) -> jax.Array:
    """x [N, H, W, C] times factors [N, C], in float32 at least, in the dtype of x."""
    return (x * factors[:, None, None, :]).astype(x.dtype)


def _check_styles(x: jax.Array, styles: jax.Array) -> None:
    _check_image(x)
    if styles.shape != (x.shape[0], x.shape[3]):
        raise ValueError(f'styles of shape {styles.shape} for x of shape {x.shape}; expected [N, C].')


def modulated_conv(
    x: jax.Array,
    kernel: jax.Array,
    styles: jax.Array,
    *,
    demodulate: bool = True,
    padding: Padding = 0,
    input_gain: jax.Array | None = None,
) -> jax.Array:
    """Modulated convolution of StyleGAN3 (Karras et al. 2021, appendix B).

    With demodulation W is first normalised to unit mean square per output channel, and the styles over the whole batch.
    The weight of image n is W[o, i] s[n, i] d[n, o] g[i], d = 1 / sqrt(sum over i, k of (W s)^2 + 1e-8). No weight is
    made for an image: activations are scaled by s g before one shared convolution, and by d behind it.

    Args:
      x: [N, H, W, C].
      kernel: [h, w, C, D] float32.
      styles: s [N, C] float32.
      padding: as in `conv2d`.
      input_gain: g, of shape [], [C] or [N, C]; not part of d.
    Returns: [N, H', W', D] in the dtype of x; factors and sums of squares are float32.
    Raises: ValueError for styles and gains of other shapes, and as `conv2d`.
    """
    _check_styles(x, styles)
    if demodulate:
        kernel = kernel * jax.lax.rsqrt(jnp.mean(jnp.square(kernel), axis=(0, 1, 2), keepdims=True))
        styles = styles * jax.lax.rsqrt(jnp.mean(jnp.square(styles)))
    factors = styles
    if input_gain is not None:
        shape = jnp.shape(input_gain)
        if shape not in ((), styles.shape[1:], styles.shape):
            raise ValueError(
                f'input_gain of shape {shape} for styles of shape {styles.shape}; expected [], [C] or [N, C].'
            )
        factors = styles * jnp.broadcast_to(input_gain, styles.shape)
    y = conv2d(_scale(x, factors), kernel, padding=padding)
    return _scale(y, _demodulation(kernel, styles)) if demodulate else y


def modulated_conv_resample(
    x: jax.Array,
    kernel: jax.Array,
    styles: jax.Array,
    f: jax.Array | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    demodulate: bool = True,
    flip_weight: bool = True,
) -> jax.Array:
    """Modulated convolution of StyleGAN2 (Karras et al. 2020): `conv2d_resample` with the weights W s d of an image.

    d = 1 / sqrt(sum over i, k of (W s)^2 + 1e-8), 1 without demodulation. As in `modulated_conv` s and d scale
    activations. Args and errors as there and in `conv2d_resample`.
    """
    _check_styles(x, styles)
    y = conv2d_resample(_scale(x, styles), kernel, f, up=up, down=down, padding=padding, flip_weight=flip_weight)
    return _scale(y, _demodulation(kernel, styles)) if demodulate else y
