"""Convolutions of NHWC arrays: plain, transposed, resampled, modulated."""

import functools

import jax
import jax.numpy as jnp

from pegan_jax.ops import products
from pegan_jax.ops.fir import (
    Factor,
    Padding,
    add_pads,
    as_pair,
    as_sides,
    check_image,
    down_pads,
    up_pads,
    upfirdn2d,
)
from pegan_jax.ops.targets import platform


def conv2d(
    x: jax.Array, kernel: jax.Array, *, padding: Padding = 0, stride: Factor = 1, dilation: int = 1, groups: int = 1
) -> jax.Array:
    """Convolution as neural networks have it, a correlation: x [N, H, W, C], kernel [h, w, C / groups, D].

    Args:
      padding: zeros around x, or (left, right, top, bottom); negative numbers crop.
      stride: keep every stride-th position from the first on, or (x, y).
      dilation: distance of the kernel's taps.
      groups: the number of groups that channels are divided into.
    Returns: [N, (H + top + bottom - h') // stride + 1, (W + left + right - w') // stride + 1, D] in the dtype of x,
      with h' = (h - 1) dilation + 1 and w' likewise.
    Raises: ValueError for other ranks and channels, or if the padded image is smaller than the kernel.
    """
    return _conv(x, kernel, as_sides(padding), as_pair('stride', stride), groups, dilation=dilation)


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
    check_image(x)
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
    # XLA's convolutions on CPU reach a third of the speed of its matmuls. The gradient of one with dilated input takes
    # a hundred times as long, and so does that of a kernel if the padding is larger than half of it. Those of depthwise
    # ones take 4 to 12 times as long as a sum of shifted products (docs/decisions.md).
    if platform() == 'cpu':
        steps, wide = products.Steps(stride[::-1], pads), groups == 1 and channels * features >= 2**12
        if up == 1 and channels == 1 and features == groups:
            return products.depthwise(x, kernel, steps, dilation)
        if groups == 1 and up > 1:
            # The adjoint of a convolution of that stride, whose x has the size of the result.
            around = tuple(
                (k - 1 - before, k - up - after) for k, (before, after) in zip((height, width), pads, strict=True)
            )
            reverse = kernel[::-1, ::-1].swapaxes(2, 3)
            return products.spread(x, reverse, tuple(outs), products.Steps((up, up), around))
        if wide and dilation == 1:
            return products.correlate(x, kernel, steps)
        # The phases of small images are mostly padding.
        if wide and stride == (1, 1) and min(outs) >= 8 * dilation:
            return products.dilated(x, kernel, pads, dilation)
        # For little work, XLA's gradient of the kernel is faster.
        much = x.shape[0] * outs[0] * outs[1] * kernel.size >= 2**28
        if much and groups == 1 and (dilation == 1 or stride == (1, 1)):
            return products.narrow(x, kernel, steps, dilation)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        stride[::-1],
        # Its dilation puts no zeros after the last sample.
        [(before, after + up - 1) for before, after in pads],
        (up, up),
        (dilation, dilation),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


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
      padding: that of the upsampled image, or (left, right, top, bottom), besides what keeps pixel edges aligned
        under f.
      flip_weight: True correlates with the kernel, False convolves, as StyleGAN2's layers of up=2 do.
      flip_filter: as in `upfirdn2d`.
    Returns: [N, H', W', D] in the dtype of x.
    Raises: ValueError as `upfirdn2d` and `conv2d`.
    """
    check_image(x)
    for name, factor in (('up', up), ('down', down)):
        if not isinstance(factor, int):
            raise ValueError(f'{name}={factor!r}; both axes are resampled by one integer here.')
    extra = [up_pads(f, up)] if up > 1 else []
    extra += [down_pads(f, down)] if down > 1 else []
    sides = add_pads(padding, *extra)
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
        # The whole transposed convolution comes first; anything beyond the given padding is cropped with the filter.
        around = (width - 1, width - 1, height - 1, height - 1)
        inner = tuple(side - more for side, more in zip(sides, around, strict=True))
        x = fir(conv(x, kernel, around, up=up), padding=inner, gain=up**2)
    return x if down == 1 else fir(x, down=down)


# Modulated by styles --------------------------------------------------------------------------------------------------


def _demodulation(kernel: jax.Array, styles: jax.Array) -> jax.Array:
    """1 / sqrt(sum of the squares of an image's weights + 1e-8): [N, D] from kernel [h, w, C, D] and styles [N, C]."""
    squares = jnp.matmul(jnp.square(styles), jnp.sum(jnp.square(kernel), axis=(0, 1)), precision='highest')
    return jax.lax.rsqrt(squares + 1e-8)


def _scale(x: jax.Array, factors: jax.Array) -> jax.Array:
    """x [N, H, W, C] times factors [N, C], computed in float32 at least, returned in the dtype of x."""
    return (x * factors[:, None, None, :]).astype(x.dtype)


def _check_styles(x: jax.Array, styles: jax.Array) -> None:
    check_image(x)
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

    With demodulation, W is first normalised to unit mean square per output channel, and the styles over the whole
    batch. The weight of image n is W[o, i] s[n, i] d[n, o] g[i], d = 1 / sqrt(sum over i, k of (W s)^2 + 1e-8). No
    image gets weights of its own: activations are scaled by s g before one shared convolution, and by d after it.

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

    d = 1 / sqrt(sum over i, k of (W s)^2 + 1e-8), or 1 without demodulation. As in `modulated_conv`, s and d scale
    activations. Args and errors as there and in `conv2d_resample`.
    """
    _check_styles(x, styles)
    y = conv2d_resample(_scale(x, styles), kernel, f, up=up, down=down, padding=padding, flip_weight=flip_weight)
    return _scale(y, _demodulation(kernel, styles)) if demodulate else y
