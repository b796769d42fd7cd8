"""FIR filters on NHWC arrays, and activations: what lies between two resolutions of a StyleGAN."""

import functools
import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.ops.targets import platform

Factor = int | tuple[int, int]
Padding = int | tuple[int, int, int, int]
INTEGERS = (int, np.integer)

# PEGAN_KERNELS=1 uses the Pallas kernels of `ops.kernels` instead of what XLA makes of `upfirdn2d` and
# `filtered_lrelu`, and on a TPU the kernel of contextual attention. They are off by default: on an H100 those of
# `ops.kernels` are no faster, on a TPU none has been timed (docs/decisions.md). On a CPU they are interpreted, slowly,
# for tests.
KERNELS = os.environ.get('PEGAN_KERNELS', '0') == '1'

BLOCK = 16  # channels that `filtered_lrelu` takes at a time on a CPU


def as_pair(name: str, value: Factor) -> tuple[int, int]:
    """(x, y) of a factor."""
    pair = tuple(value) if np.ndim(value) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, INTEGERS) and v >= 1 for v in pair):
        raise ValueError(f'{name}={value!r}; expected an integer of at least 1, or two of them for (x, y).')
    return int(pair[0]), int(pair[1])


def as_sides(padding: Padding) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of a padding."""
    sides = tuple(padding) if np.ndim(padding) else (padding,) * 4
    if len(sides) != 4 or not all(isinstance(v, INTEGERS) for v in sides):
        raise ValueError(f'padding={padding!r}; expected an integer, or four of them for (left, right, top, bottom).')
    return tuple(map(int, sides))


def _taps(f: jax.Array | None) -> tuple[int, int]:
    """(width, height) of a filter."""
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2):
        raise ValueError(f'a filter of shape {f.shape}; expected [n] for both axes, [n, m], or None.')
    return f.shape[-1], f.shape[0]


def check_image(x: jax.Array) -> None:
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
    """Upsample with zeros, pad with zeros, convolve, keep every down-th position (Karras et al. 2019, "upfirdn2d").

    Along each axis y[n] = sum_k f[K-1-k] xp[n down + k], where xp is x, up - 1 zeros after every sample, and padding.
    Sums run in float32 at least. The filter counts as a constant: its own derivative is zero.

    Args:
      x: [N, H, W, C].
      f: [n], applied along both axes; [n, m], whose rows match rows of the image; or None for a single 1.
      up, down: factors, or (x, y).
      padding: zeros around the upsampled image, or (left, right, top, bottom); negative numbers crop.
      flip_filter: correlate instead of convolve, so that f[k] stands for f[K-1-k] above.
      gain: factor on the result.
    Returns: [N, (H up + top + bottom - n) // down + 1, (W up + left + right - m) // down + 1, C] in the dtype of x.
    Raises: ValueError for other ranks and factors, or if the padded image is smaller than the filter.
    """
    check_image(x)
    f, plan, after = _plan(x.shape[1:3], f, x.dtype, up, down, padding, flip_filter, gain)
    taps, up, down, pads = zip(*plan, strict=True)
    if KERNELS and max(*taps, *up, *down) > 1:
        return _kernels().fir(x, f, _axes(plan), x.shape[1:3], after)
    if f.ndim == 2:
        return _upfirdn2d(x, f, up, down, pads, x.shape[1:3])
    x = _upfirdn2d(x, f[None, :], (1, up[1]), (1, down[1]), ((0, 0), pads[1]), x.shape[1:3])
    return _upfirdn2d(x, f[:, None], (up[0], 1), (down[0], 1), (pads[0], (0, 0)), x.shape[1:3])


def _plan(
    size: tuple[int, int],
    f: jax.Array | None,
    dtype: jnp.dtype,
    up: Factor,
    down: Factor,
    padding: Padding,
    flip_filter: bool,
    gain: float,
) -> tuple[jax.Array, list[tuple], tuple[int, int]]:
    """`upfirdn2d` of (H, W): what to correlate with, (taps, up, down, pad) of rows and columns, the resulting size."""
    up, down, sides, taps = as_pair('up', up), as_pair('down', down), as_sides(padding), _taps(f)
    plan = list(zip(taps, up, down, (sides[:2], sides[2:]), strict=True))[::-1]
    for n, (k, u, _, pad) in zip(size, plan, strict=True):
        if n * u + sum(pad) < k:
            raise ValueError(f'{n} * {u} + {pad[0]} + {pad[1]} positions are fewer than the {k} taps of the filter.')
    if f is None:
        f = np.ones(1, np.float32)
    f = jnp.asarray(f, jnp.promote_types(dtype, jnp.float32))
    f = f * gain ** (f.ndim / 2)
    after = tuple((n * u + sum(pad) - k) // d + 1 for n, (k, u, d, pad) in zip(size, plan, strict=True))
    return f if flip_filter else jnp.flip(f), plan, after


def _kernels() -> ModuleType:
    from pegan_jax.ops import kernels  # Pallas takes as long to import as all that stands here

    return kernels


def _axes(plan: list[tuple]) -> tuple:
    return tuple(_kernels().Axis(k, u, d, pad[0]) for k, u, d, pad in plan)


def filter2d(
    x: jax.Array, f: jax.Array | None, *, padding: Padding = 0, flip_filter: bool = False, gain: float = 1.0
) -> jax.Array:
    """`upfirdn2d` that keeps the size: taps // 2 zeros before, (taps - 1) // 2 after, plus `padding`."""
    pads = [(k // 2, (k - 1) // 2) for k in _taps(f)]
    return upfirdn2d(x, f, padding=add_pads(padding, pads), flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: jax.Array,
    f: jax.Array | None,
    *,
    up: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> jax.Array:
    """`upfirdn2d` to `up` times the size with an extra gain of up^2: pixel edges are aligned, `padding` is added."""
    pads = up_pads(f, up)
    gain = gain * math.prod(as_pair('up', up))
    return upfirdn2d(x, f, up=up, padding=add_pads(padding, pads), flip_filter=flip_filter, gain=gain)


def downsample2d(
    x: jax.Array,
    f: jax.Array | None,
    *,
    down: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> jax.Array:
    """`upfirdn2d` to 1 / `down` of the size: pixel edges are aligned, `padding` is added."""
    pads = down_pads(f, down)
    return upfirdn2d(x, f, down=down, padding=add_pads(padding, pads), flip_filter=flip_filter, gain=gain)


def add_pads(padding: Padding, *pads: list[tuple[int, int]]) -> tuple[int, int, int, int]:
    """Sum of paddings; `pads` are pairs (before, after) of x and y."""
    return tuple(sum(side) for side in zip(as_sides(padding), *((*x, *y) for x, y in pads), strict=True))


def up_pads(f: jax.Array | None, up: Factor) -> list[tuple[int, int]]:
    return [((k + u - 1) // 2, (k - u) // 2) for k, u in zip(_taps(f), as_pair('up', up), strict=True)]


def down_pads(f: jax.Array | None, down: Factor) -> list[tuple[int, int]]:
    return [((k - d + 1) // 2, (k - d) // 2) for k, d in zip(_taps(f), as_pair('down', down), strict=True)]


def _phases(n: int, taps: int, up: int, down: int, pad: tuple[int, int]) -> tuple[list, int, int]:
    """The output along one axis, split by position modulo up / gcd(up, down).

    Returns: one list per phase of (tap, first input position), the step between input positions, the output length.
    """
    common = math.gcd(up, down)
    offsets = [[r * down + k - pad[0] for k in range(taps)] for r in range(up // common)]
    phases = [[(k, o // up) for k, o in enumerate(row) if o % up == 0] for row in offsets]
    return phases, down // common, (n * up + sum(pad) - taps) // down + 1


def shifted_sum(
    x: jax.Array, taps: tuple, up: tuple, down: tuple, pads: tuple, channels: int, term: Callable
) -> jax.Array:
    """Correlation with taps [K, L] as a sum of shifted slices of x, without ever making the zeros of upsampling.

    Args:
      x: [N, H, W, C].
      taps, up, down, pads: those of (rows, columns).
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

    # Functions of jax.lax: those of jax.numpy take longer to trace, and a radial filter has 144 taps.
    def tap(i: int, j: int, y0: int, x0: int) -> jax.Array:
        top, left = y0 + starts[0], x0 + starts[1]
        ends = top + (counts[0] - 1) * row_step + 1, left + (counts[1] - 1) * column_step + 1
        limits, steps = (x.shape[0], *ends, x.shape[3]), (1, row_step, column_step, 1)
        return term(i, j, jax.lax.slice(padded, (0, top, left, 0), limits, steps))

    def phase(row: list, column: list) -> jax.Array:
        if not (row and column):
            return jnp.zeros((x.shape[0], *counts, channels), dtype)
        # The sums of rows do not wait for each other: a processor adds several at a time.
        sums = (functools.reduce(jax.lax.add, [tap(i, j, y0, x0) for j, x0 in column]) for i, y0 in row)
        return functools.reduce(jax.lax.add, sums)

    y = jnp.stack([jnp.stack([phase(row, column) for column in columns], axis=3) for row in rows], axis=2)
    y = y.reshape(x.shape[0], counts[0] * len(rows), counts[1] * len(columns), channels)
    return y[:, :height, :width, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _upfirdn2d(x: jax.Array, f: jax.Array, up: tuple, down: tuple, pads: tuple, size: tuple[int, int]) -> jax.Array:
    """Correlation of x, whose (H, W) is `size`, with f [K, L]; factors and pads are for (rows, columns)."""
    if platform() == 'tpu':
        # There the slices of a sum are separate arrays: 144 of them for R's radial filters (docs/decisions.md).
        return jax.lax.conv_general_dilated(
            x.astype(f.dtype),
            jnp.broadcast_to(f[:, :, None, None], (*f.shape, 1, x.shape[3])),
            down,
            # Its dilation puts no zeros after the last sample.
            [(before, after + factor - 1) for (before, after), factor in zip(pads, up, strict=True)],
            up,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=x.shape[3],
            precision='highest',
        ).astype(x.dtype)

    weights = jnp.unstack(f.reshape(-1))

    # XLA fuses the sum into a single loop.
    def term(i: int, j: int, part: jax.Array) -> jax.Array:
        weight = jax.lax.broadcast(weights[i * f.shape[1] + j], part.shape)
        return jax.lax.mul(weight, jax.lax.convert_element_type(part, f.dtype))

    return shifted_sum(x, f.shape, up, down, pads, x.shape[3], term).astype(x.dtype)


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

# Each with its default gain, which roughly keeps the second moment; alpha is the slope of 'lrelu'.
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
      clamp: None means no clipping.
    Returns: as x.
    Raises: ValueError for an unknown activation, a bias of another shape, or a negative clamp.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f'act={act!r} is not one of {sorted(ACTIVATIONS)}.')
    if b is not None and b.shape != x.shape[-1:]:
        raise ValueError(f'bias of shape {b.shape} for x of shape {x.shape}; expected {x.shape[-1:]}.')
    if clamp is not None and clamp < 0:
        raise ValueError(f'clamp={clamp} is negative; use None for no clipping.')
    function, default_gain = ACTIVATIONS[act]
    if b is not None:
        # Broadcast as float32, so that its derivative sums in float32: on a CPU sums of bfloat16 take 45 times as long.
        wide = jnp.broadcast_to(b.astype(jnp.promote_types(x.dtype, jnp.float32)), x.shape)
        x = x + wide.astype(x.dtype)
    alpha, gain = 0.2 if alpha is None else alpha, default_gain if gain is None else gain
    if act == 'lrelu' and alpha > 0 and gain > 0:
        return _lrelu(x, alpha, gain, clamp)
    return _limited(function(x, alpha), gain, clamp)


def _limited(x: jax.Array, gain: float, clamp: float | None) -> jax.Array:
    """clip(gain x, -clamp, clamp)."""
    x = x if gain == 1 else x * gain
    return x if clamp is None else jnp.clip(x, -clamp, clamp)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _lrelu(x: jax.Array, alpha: float, gain: float, clamp: float | None) -> jax.Array:
    """clip(gain lrelu(x), -clamp, clamp), whose result is all that its derivative needs."""
    return _limited(jax.nn.leaky_relu(x, alpha), gain, clamp)


@_lrelu.defjvp
def _lrelu_jvp(alpha: float, gain: float, clamp: float | None, primals: tuple, tangents: tuple) -> tuple:
    # Automatic differentiation keeps what stands between the three steps, too, and in bfloat16 takes ten times as long
    # on a CPU behind a radial filter (docs/decisions.md).
    y = _lrelu(*primals, alpha, gain, clamp)
    slope = jnp.where(y >= 0, jnp.asarray(gain, y.dtype), jnp.asarray(gain * alpha, y.dtype))
    if clamp is not None:
        slope = jnp.where(jnp.abs(y) < clamp, slope, jnp.zeros((), y.dtype))
    return y, slope * tangents[0]


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
      b: [C] or None. It is added first, so padding is zero whatever the bias.
      fu, fd: [n], [n, m] or None, as in `upfirdn2d`.
      padding: that of the upsampled image, or (left, right, top, bottom); negative numbers crop.
    Returns: [N, (H up + top + bottom - |fu| - |fd| + 2 + down - 1) // down, ..., C] in the dtype of x.
    Raises: ValueError as `upfirdn2d` and `bias_act`.
    """
    check_image(x)
    x = bias_act(x, b)
    gain_up, filters = math.prod(as_pair('up', up)), fu is not None or fd is not None
    if KERNELS and filters:
        kernels, size = _kernels(), x.shape[1:3]
        fu, above, middle = _plan(size, fu, x.dtype, up, 1, padding, flip_filter, gain_up)
        fd, below, after = _plan(middle, fd, x.dtype, 1, down, 0, flip_filter, 1.0)
        return kernels.filtered_lrelu(
            x, fu, fd, kernels.Lrelu(_axes(above), _axes(below), size, after, slope, gain, clamp)
        )

    def raised(x: jax.Array) -> jax.Array:
        x = upfirdn2d(x, fu, up=up, padding=padding, flip_filter=flip_filter, gain=gain_up)
        return bias_act(x, act='lrelu', alpha=slope, gain=gain, clamp=clamp)

    def lowered(x: jax.Array) -> jax.Array:
        return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)

    if platform() != 'cpu' or (channels := x.shape[3]) <= BLOCK or not filters:
        return lowered(raised(x))
    # On a CPU a block of channels stays in the cache from one resolution to the other, and is float32 there. Its
    # derivative computes the higher rate anew instead of keeping it.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    wide = jax.lax.pad(wide, jnp.zeros((), wide.dtype), [(0, 0, 0)] * 3 + [(0, -channels % BLOCK, 0)])
    blocks = jnp.moveaxis(wide.reshape(*x.shape[:3], -1, BLOCK), 3, 0)
    again = jax.checkpoint(raised, prevent_cse=False)  # a loop merges nothing across its two directions
    y = jnp.moveaxis(jax.lax.map(lambda block: lowered(again(block)), blocks), 0, 3)
    return y.reshape(*y.shape[:3], -1)[..., :channels].astype(x.dtype)
