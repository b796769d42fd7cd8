"""Convolutions on CPU as matmuls, with derivatives of the same kind.

A convolution y = x * k is linear in x and in k. Its adjoints are `spread` in x, and `taps` in k:
<x * k, g> = <x, spread(g, k)> = <k, taps(x, g)>. The derivatives of each of the three are the other two, to every
order; forward mode (jax.jvp) is not supported. On CPU, XLA's own convolutions reach a third of the speed of its
matmuls, and the derivatives that automatic differentiation finds for matmuls of slices move far more memory than they
need to (docs/decisions.md).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.ops.fir import shifted_sum

POSITIONS = 1024  # outputs whose patches the cache holds


class Steps(NamedTuple):
    """How a kernel moves: the distances between outputs, and the zeros around x, for (rows, columns)."""

    stride: tuple[int, int] = (1, 1)
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))  # negative numbers crop


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def correlate(x: jax.Array, kernel: jax.Array, steps: Steps) -> jax.Array:
    """y[n] = sum over t of x[n stride + t] kernel[t], with x padded.

    x [N, H, W, C], kernel [h, w, C, D] -> [N, H', W', D].
    """
    return _correlate(x, kernel, steps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def spread(g: jax.Array, kernel: jax.Array, size: tuple[int, int], steps: Steps) -> jax.Array:
    """The adjoint of `correlate` in x, whose (H, W) is `size`: g [N, H', W', D] -> [N, H, W, C]."""
    pads = tuple(
        (k - 1 - before, n - 1 + before - (out - 1) * s)
        for k, n, out, s, (before, _) in zip(
            kernel.shape[:2], size, g.shape[1:3], steps.stride, steps.pads, strict=True
        )
    )
    if steps.stride == (1, 1):
        return _correlate(g, kernel, steps._replace(pads=pads), reverse=True)
    # What is enlarged here also has zeros after its last sample.
    pads = tuple((before, after - s + 1) for (before, after), s in zip(pads, steps.stride, strict=True))

    def term(i: int, j: int, part: jax.Array) -> jax.Array:
        return _product(part, kernel[-1 - i, -1 - j], True)

    return shifted_sum(g, kernel.shape[:2], steps.stride, (1, 1), pads, kernel.shape[2], term).astype(g.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def taps(x: jax.Array, g: jax.Array, size: tuple[int, int], steps: Steps) -> jax.Array:
    """The adjoint of `correlate` in the kernel, whose (h, w) is `size`.

    x [N, H, W, C], g [N, H', W', D] -> [h, w, C, D].
    """
    x = _padded(x, steps.pads)
    (n, height, width, features), channels = g.shape, x.shape[3]
    dtype = jnp.promote_types(x.dtype, jnp.float32)

    def product(x: jax.Array, g: jax.Array) -> jax.Array:
        # Transposed, because that is faster than [C, D].
        return jnp.einsum('md,mc->dc', g.reshape(-1, features), x.reshape(-1, x.shape[3]), **_exact(x))

    if size == (1, 1) or n * height * width <= 2 * POSITIONS:
        total = jnp.stack([product(part, g).T for part in _slices(x, size, steps)])
        return total.reshape(*size, channels, features).astype(x.dtype)
    shape = _block(n, height, width)

    def block(total: jax.Array, place: tuple) -> tuple:
        image, row, seen = place
        part = jax.lax.dynamic_slice(g, (image, row, 0, 0), (*shape, width, features))
        part = jnp.where(jnp.arange(shape[1])[:, None, None] >= seen, part, 0)
        return total + product(_patches(_window(x, place, shape, size, steps), size, steps), part), None

    total = _over_blocks(block, jnp.zeros((features, size[0] * size[1] * channels), dtype), (n, height), shape)
    return total.T.reshape(*size, channels, features).astype(x.dtype)


correlate.defvjp(
    lambda x, kernel, steps: (correlate(x, kernel, steps), (x, kernel)),
    lambda steps, kept, g: (
        spread(g, kept[1], kept[0].shape[1:3], steps),
        taps(kept[0], g, kept[1].shape[:2], steps),
    ),
)
spread.defvjp(
    lambda g, kernel, size, steps: (spread(g, kernel, size, steps), (g, kernel)),
    lambda size, steps, kept, x: (correlate(x, kept[1], steps), taps(x, kept[0], kept[1].shape[:2], steps)),
)
taps.defvjp(
    lambda x, g, size, steps: (taps(x, g, size, steps), (x, g)),
    lambda size, steps, kept, kernel: (
        spread(kept[1], kernel, kept[0].shape[1:3], steps),
        correlate(kept[0], kernel, steps),
    ),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def narrow(x: jax.Array, kernel: jax.Array, steps: Steps, dilation: int = 1) -> jax.Array:
    """`correlate` for few channels, or `dilated`: XLA's convolution, with the kernel's gradient from `taps`."""
    return _xla(x, kernel, steps, dilation)


def _xla(x: jax.Array, kernel: jax.Array, steps: Steps, dilation: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        steps.stride,
        steps.pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def _narrow_gradients(steps: Steps, dilation: int, kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    (of_x,) = jax.vjp(lambda x: _xla(x, kernel, steps, dilation), x)[1](g)
    if dilation == 1:
        return of_x, taps(x, g, kernel.shape[:2], steps)
    return of_x, jax.vjp(lambda kernel: dilated(x, kernel, steps.pads, dilation), kernel)[1](g)[0]


narrow.defvjp(
    lambda x, kernel, steps, dilation: (narrow(x, kernel, steps, dilation), (x, kernel)),
    _narrow_gradients,
)


def dilated(x: jax.Array, kernel: jax.Array, pads: tuple, dilation: int) -> jax.Array:
    """`correlate` with taps `dilation` apart: every phase of x is correlated as an image of its own."""
    height, width = (
        n + sum(pad) - (k - 1) * dilation for n, pad, k in zip(x.shape[1:3], pads, kernel.shape, strict=False)
    )
    more = (-height % dilation, -width % dilation)
    x = _padded(x, tuple((before, after + extra) for (before, after), extra in zip(pads, more, strict=True)))
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows // dilation, dilation, columns // dilation, dilation, channels).transpose(0, 2, 4, 1, 3, 5)
    y = correlate(x.reshape(n * dilation**2, *x.shape[3:]), kernel, Steps())
    y = y.reshape(n, dilation, dilation, *y.shape[1:]).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(n, height + more[0], width + more[1], -1)[:, :height, :width]


def depthwise(x: jax.Array, kernel: jax.Array, steps: Steps, dilation: int) -> jax.Array:
    """Each channel of x [N, H, W, C] with its own taps, `dilation` apart: kernel [h, w, 1, C] -> [N, H', W', C]."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    parts = _slices(_padded(x, steps.pads), kernel.shape[:2], steps, dilation)
    taps = kernel.astype(dtype).reshape(-1, 1, 1, 1, kernel.shape[3])
    return sum(part.astype(dtype) * tap for part, tap in zip(parts, taps, strict=True)).astype(x.dtype)


def _product(x: jax.Array, tap: jax.Array, reverse: bool = False) -> jax.Array:
    """x [..., C] @ tap [C, D], or its transpose, in float32 at least."""
    axes = ((x.ndim - 1,), (1 if reverse else 0,)), ((), ())
    return jax.lax.dot_general(x, tap, axes, **_exact(x))


def _correlate(x: jax.Array, kernel: jax.Array, steps: Steps, reverse: bool = False) -> jax.Array:
    """`correlate`, or that with the reverse of a kernel: its taps in the opposite order, each transposed."""
    x, size = _padded(x, steps.pads), kernel.shape[:2]
    n, height, width = x.shape[0], *_outputs(x, size, steps)
    few = n * height * width < 4 * POSITIONS
    if few or size == (1, 1):
        # Taps stay where they are: reversing a kernel takes as long as its products with a few positions.
        taps = kernel.reshape(-1, *kernel.shape[2:])
        terms = (
            _product(part, tap, reverse)
            for part, tap in zip(_slices(x, size, steps), [*taps][::-1] if reverse else taps, strict=True)
        )
        return sum(terms).astype(x.dtype)
    if reverse:
        kernel = kernel[::-1, ::-1].swapaxes(2, 3)
    if size == (3, 3) and steps.stride == (1, 1):
        return _winograd(x, kernel)
    shape, flat = _block(n, height, width), kernel.reshape(-1, kernel.shape[3])

    def block(y: jax.Array, place: tuple) -> tuple:
        image, row, _ = place
        part = _product(_patches(_window(x, place, shape, size, steps), size, steps), flat).astype(x.dtype)
        return jax.lax.dynamic_update_slice(y, part, (image, row, 0, 0)), None

    return _over_blocks(block, jnp.zeros((n, height, width, kernel.shape[3]), x.dtype), (n, height), shape)


def _exact(x: jax.Array) -> dict:
    """Sums in float32 at least; XLA has no 'highest' for products of bfloat16 on CPU."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return {'preferred_element_type': dtype, 'precision': 'highest' if dtype == x.dtype else None}


def _padded(x: jax.Array, pads: tuple) -> jax.Array:
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])


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
        products = [_product(v, kernel[a, b]) for a, v in enumerate(transform(even, odd, 1))]
        columns.append(collect(*products))
    y = jnp.stack([jnp.stack(collect(*row), axis=3) for row in zip(*columns, strict=True)], axis=2)
    return y.reshape(n, 2 * tiles[0], 2 * tiles[1], -1)[:, :height, :width].astype(x.dtype)


def _outputs(x: jax.Array, size: tuple[int, int], steps: Steps, dilation: int = 1) -> list[int]:
    """(H', W') of a padded x."""
    return [(n - (k - 1) * dilation - 1) // s + 1 for n, k, s in zip(x.shape[1:3], size, steps.stride, strict=True)]


def _slices(x: jax.Array, size: tuple[int, int], steps: Steps, dilation: int = 1) -> list[jax.Array]:
    """[N, H', W', C] from a padded x for each tap: what it sees at every output."""
    rows, columns = (
        [(t, t + (out - 1) * s + 1) for t in range(0, k * dilation, dilation)]
        for k, s, out in zip(size, steps.stride, _outputs(x, size, steps, dilation), strict=True)
    )
    return [
        jax.lax.slice(x, (0, top, left, 0), (len(x), bottom, right, x.shape[3]), (1, *steps.stride, 1))
        for top, bottom in rows
        for left, right in columns
    ]


def _patches(x: jax.Array, size: tuple[int, int], steps: Steps) -> jax.Array:
    """[N, H', W', h w C]: what the whole kernel sees at every output."""
    return jnp.concatenate(_slices(x, size, steps), axis=-1)


def _block(n: int, height: int, width: int) -> tuple[int, int]:
    """(images, rows) of the outputs that are computed at a time: rows of one image, or whole images if small."""
    images = max(i for i in range(1, n + 1) if n % i == 0 and (i == 1 or i * height * width <= POSITIONS))
    return images, min(height, max(1, POSITIONS // (images * width)))


def _over_blocks(function: Callable, start: jax.Array, size: tuple[int, int], shape: tuple[int, int]) -> jax.Array:
    """Scan of function(carry, (image, row, seen)) over blocks; the previous block has the first `seen` rows already."""
    images, whole = np.arange(0, size[0], shape[0]), np.arange(0, size[1], shape[1])
    rows = np.minimum(whole, size[1] - shape[1])
    places = (np.repeat(images, len(rows)), np.tile(rows, len(images)), np.tile(whole - rows, len(images)))
    return jax.lax.scan(function, start, tuple(np.asarray(p, np.int32) for p in places))[0]


def _window(x: jax.Array, place: tuple, shape: tuple[int, int], size: tuple[int, int], steps: Steps) -> jax.Array:
    """What the outputs of a block see of a padded x."""
    image, row, _ = place
    rows = (shape[1] - 1) * steps.stride[0] + size[0]
    return jax.lax.dynamic_slice(x, (image, row * steps.stride[0], 0, 0), (shape[0], rows, *x.shape[2:]))
