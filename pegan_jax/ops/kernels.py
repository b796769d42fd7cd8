"""The FIR operators of `ops.fir` as Pallas kernels: one pass over the image; intermediates stay on the chip.

A kernel makes a tile of the output, rows x columns x channels, from the window of the input that it depends on. Along
columns a filter is a matmul with a band matrix B, along rows it is a sum of its taps, so that with channels on lanes

    row q of a filtered image = B sum_k f[k] x[(q down + k - pad) / up],   B[n, s] = f[up s + pad - n down].

A filter [K, L] that is not separable takes a band matrix for each of its rows. The nonlinearity stands between two such
stages; a row of the upsampled image lives only until the rows of the output that depend on it are summed.

The input is padded with zeros beforehand, so that all tiles share their matrices; XLA fuses the padding with whatever
it multiplies or adds there.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# Filters --------------------------------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """Correlation along an axis: y[n] = sum_k f[k] x[(n down + k - pad) / up] over the k for which that is an integer.

    x is zero outside its range. The adjoint is of the same kind, with the taps reversed.
    """

    taps: int
    up: int
    down: int
    pad: int

    def adjoint(self) -> 'Axis':
        return Axis(self.taps, self.down, self.up, self.taps - 1 - self.pad)

    def inputs(self, outputs: range) -> range:
        """The positions of x that a range of y may depend on."""
        first = outputs[0] * self.down - self.pad
        last = outputs[-1] * self.down - self.pad + self.taps - 1
        return range(-(-first // self.up), last // self.up + 1)

    def terms(self, n: int) -> list[tuple[int, int]]:
        """(k, position of x) of y[n]."""
        offset = n * self.down - self.pad
        return [(k, (offset + k) // self.up) for k in range(self.taps) if (offset + k) % self.up == 0]

    def band(self, f: jax.Array, outputs: range, inputs: range) -> jax.Array:
        """f [..., taps] as matrices [..., len(outputs), len(inputs)]."""
        k = self.up * np.array(inputs)[None, :] + self.pad - self.down * np.array(outputs)[:, None]
        inside = (k >= 0) & (k < self.taps)
        return jnp.where(inside, f[..., np.where(inside, k, 0)], 0)


class Fir(NamedTuple):
    """Correlation with f: [n] along rows and columns, or [n, m]."""

    f: jax.Array
    rows: Axis
    columns: Axis

    def adjoint(self) -> 'Fir':
        return Fir(jnp.flip(self.f), self.rows.adjoint(), self.columns.adjoint())


# Tiles ----------------------------------------------------------------------------------------------------------------


class Blocks(NamedTuple):
    """About how many rows, columns and channels of the output a tile has; what the columns are a multiple of.

    gpu: numbers of columns and channels are powers of two, as Triton requires, and at least the 16 of its dots.
    """

    rows: int
    columns: int
    channels: int
    multiple: int
    gpu: bool

    def width(self, n: int) -> int:
        """n columns or channels, rounded up to what the device computes with."""
        return max(16, 1 << (n - 1).bit_length()) if self.gpu else _round(n, self.multiple)


def _blocks(platform: str, dtype: jnp.dtype) -> Blocks:
    # TPU: channels are on the 128 lanes, columns on the sublanes, 8 words to a tile; 56 columns at twice the rate are
    # one pass of a matrix unit of 128. More rows mean less work done twice, and slower compilation.
    return Blocks(4, 16, 16, 1, True) if platform == 'gpu' else Blocks(16, 56, 128, 32 // min(dtype.itemsize, 4), False)


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


class Tiling(NamedTuple):
    """An axis of the output in `count` tiles of `size` positions.

    middle: positions between the stages that the first tile depends on.
    windows: per signal, the positions that the first tile depends on; those of the next one begin `steps` later.
    """

    count: int
    size: int
    middle: range
    windows: list[range]
    steps: list[int]


def _tiling(size: int, target: int, multiple: int, outer: Axis, inners: list[Axis | None]) -> Tiling:
    def steps(n: int) -> list[float]:
        return [n * outer.down / outer.up * (1 if a is None else a.down / a.up) for a in inners]

    # All tiles begin at the same phase of every resampling, and at a multiple of every signal.
    unit = next(n for n in itertools.count(multiple, multiple) if all(s % multiple == 0 for s in steps(n)))
    tile = _round(-(-size // -(-size // _round(target, unit))), unit)
    middle = outer.inputs(range(tile))
    windows = [middle if a is None else a.inputs(middle) for a in inners]
    return Tiling(-(-size // tile), tile, middle, windows, [int(s) for s in steps(tile)])


# The kernel -----------------------------------------------------------------------------------------------------------


def _same(x: jax.Array) -> jax.Array:
    return x


def _fused(
    activate: Callable, signals: list[tuple[jax.Array, Fir | None]], outer: Fir, size: tuple[int, int]
) -> jax.Array:
    """outer(activate(inner(x), ...)) of signals (x [N, h, w, C], inner), or x itself if inner is None.

    activate: elementwise; takes as many arrays as there are signals.
    Returns: [N, *size, C] in the dtype of the last signal.
    """
    arrays, firs = [x for x, _ in signals], [*(inner for _, inner in signals), outer]
    axes, dtype = tuple(f and f[1:] for f in firs), arrays[-1].dtype
    run = functools.partial(_tiled, activate=activate, axes=axes, size=size)
    tpu, gpu = (functools.partial(run, blocks=_blocks(name, dtype)) for name in ('tpu', 'gpu'))
    interpreted = functools.partial(tpu, interpret=True)
    return jax.lax.platform_dependent(arrays, [f and f.f for f in firs], tpu=tpu, cuda=gpu, cpu=interpreted)


@functools.partial(jax.jit, static_argnames=('activate', 'axes', 'size', 'blocks', 'interpret'))
def _tiled(
    arrays: list[jax.Array],
    filters: list[jax.Array | None],
    *,
    activate: Callable,
    axes: tuple[tuple[Axis, Axis] | None, ...],
    size: tuple[int, int],
    blocks: Blocks,
    interpret: bool = False,
) -> jax.Array:
    batch, channels, dtype = arrays[0].shape[0], arrays[0].shape[3], arrays[-1].dtype
    sums, lanes = jnp.promote_types(dtype, jnp.float32), min(blocks.channels, blocks.width(channels))
    *inners, outer = axes
    rows, columns = (
        _tiling(size[i], target, multiple, outer[i], [a and a[i] for a in inners])
        for i, (target, multiple) in enumerate(((blocks.rows, 1), (blocks.columns, blocks.multiple)))
    )
    width = blocks.width(columns.size)  # that a tile writes
    padded_size = (rows.count * rows.size, columns.count * width, _round(channels, lanes))

    def pad(x: jax.Array, i: int) -> tuple[jax.Array, pl.BlockSpec]:
        """A signal, from its first window to its last one, and its windows."""
        spans, shape, steps = [(0, 0, 0)], [], []
        for n, tiles, window in zip(
            x.shape[1:3], (rows, columns), (len(rows.windows[i]), blocks.width(len(columns.windows[i]))), strict=True
        ):
            before, step = -tiles.windows[i].start, tiles.steps[i]
            spans.append((before, (tiles.count - 1) * step + window - before - n, 0))
            shape.append(pl.Element(window))
            steps.append(step)
        spans.append((0, -channels % lanes, 0))
        channel = lanes if padded_size[2] > lanes else 0  # a TPU must see that it begins at a multiple of 128
        return jax.lax.pad(x, jnp.zeros((), x.dtype), spans), pl.BlockSpec(
            (None, *shape, pl.Element(lanes)), lambda n, r, s, c: (n, r * steps[0], s * steps[1], c * channel)
        )

    def constants(f: jax.Array | None, axis: tuple, outputs: range, inputs: range) -> tuple:
        """Band matrices [parts, K, m, w]; a separable filter has K = 1, and its taps along rows too, in every lane."""
        if f is None:
            return ()
        outputs, inputs = (range(r.start, r.start + blocks.width(len(r))) for r in (outputs, inputs))
        f = f.astype(sums)
        band = axis[1].band(f, outputs, inputs).reshape(-1, len(outputs), len(inputs))
        # Matmuls of bfloat16 are one pass of a matrix unit; two of them keep 16 bits of the taps.
        high = band.astype(dtype)
        bands = jnp.stack([high] if dtype == sums else [high, (band - high).astype(dtype)])
        return (bands,) if f.ndim == 2 else (bands, jnp.tile(f[:, None, None], (1, 1, lanes)))

    def filtered(fir: tuple, axis: tuple, source: Callable) -> Callable:
        """Rows of a filtered signal as a function of their number, just as `source` gives those of the signal."""
        if not fir:
            return source
        bands, *taps = fir
        # Three passes of tensor cores keep 21 bits; Triton turns 'highest' into thousands of single instructions.
        exact = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3 if blocks.gpu and not interpret else 'highest'
        precision = exact if dtype == sums else 'default'

        def product(k: int, row: jax.Array) -> jax.Array:
            row = row.astype(dtype)
            parts = range(bands.shape[0])
            return sum(jnp.dot(bands[i, k], row, precision=precision, preferred_element_type=sums) for i in parts)

        @functools.cache
        def widened(p: int) -> jax.Array:
            return product(0, source(p))

        def row(q: int) -> jax.Array:
            terms = axis[0].terms(q)
            if not terms:
                return jnp.zeros((bands.shape[2], lanes), sums)
            if not taps:
                return sum(product(k, source(p)) for k, p in terms)
            if dtype == sums and axis[0].up > axis[0].down:  # matmuls of float32 where there are fewer rows
                return sum(taps[0][k] * widened(p) for k, p in terms)
            return product(0, sum(taps[0][k] * source(p).astype(sums) for k, p in terms))

        return row

    def kernel(signals: list, firs: list, y: Any) -> None:
        parts = [
            filtered(fir, axis, lambda p, x=x, start=window.start: x[p - start])
            for x, fir, axis, window in zip(signals, firs[:-1], inners, rows.windows, strict=True)
        ]
        result = filtered(firs[-1], outer, functools.cache(lambda q: activate(*(part(q) for part in parts))))
        for i in range(rows.size):
            y[i] = result(i).astype(dtype)

    padded, windows = zip(*(pad(x, i) for i, x in enumerate(arrays)), strict=True)
    spans = [*((columns.middle, window) for window in columns.windows), (range(columns.size), columns.middle)]
    firs = [constants(f, axis, *span) for f, axis, span in zip(filters, axes, spans, strict=True)]
    y = pl.pallas_call(
        kernel,
        # GPUs write all of a tile, TPUs leave out what lies outside the image.
        jax.ShapeDtypeStruct((batch, *(padded_size if blocks.gpu else (*size, channels))), dtype),
        grid=(batch, rows.count, columns.count, padded_size[2] // lanes),
        in_specs=[
            list(windows),
            jax.tree.map(lambda a: pl.BlockSpec(a.shape, lambda *_, zeros=(0,) * a.ndim: zeros), firs),
        ],
        out_specs=pl.BlockSpec((None, rows.size, width, lanes), lambda n, r, s, c: (n, r, s, c)),
        compiler_params=triton.CompilerParams() if blocks.gpu else None,
        interpret=interpret,
        name='fir',
    )(list(padded), firs)
    if width > columns.size:
        y = y.reshape(*y.shape[:2], columns.count, width, -1)[:, :, :, : columns.size]
        y = y.reshape(*y.shape[:2], -1, y.shape[-1])
    return y[:, : size[0], : size[1], :channels]


# Operators ------------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def fir(x: jax.Array, f: jax.Array, axes: tuple[Axis, Axis], before: tuple, after: tuple) -> jax.Array:
    """Correlation of x [N, *before, C] with f along (rows, columns): [N, *after, C]. f counts as a constant."""
    return _fused(_same, [(x, None)], Fir(f, *axes), after)


def _fir_fwd(x: jax.Array, f: jax.Array, *static: Any) -> tuple:
    return fir(x, f, *static), f


def _fir_bwd(axes: tuple, before: tuple, after: tuple, f: jax.Array, g: jax.Array) -> tuple:
    f, *axes = Fir(f, *axes).adjoint()
    return fir(g, f, tuple(axes), after, before), jnp.zeros_like(f)


fir.defvjp(_fir_fwd, _fir_bwd)


class Lrelu(NamedTuple):
    """a(u) = clip(gain lrelu(u), -clamp, clamp) between U, which upsamples, and D: filters' axes, sizes."""

    up: tuple[Axis, Axis]
    down: tuple[Axis, Axis]
    before: tuple[int, int]
    after: tuple[int, int]
    slope: float
    gain: float
    clamp: float | None

    def value(self, u: jax.Array) -> jax.Array:
        a = self._factor(u) * u
        return a if self.clamp is None else jnp.clip(a, -self.clamp, self.clamp)

    def times_derivative(self, u: jax.Array, v: jax.Array) -> jax.Array:
        """a'(u) v."""
        factor = self._factor(u)
        return factor * v if self.clamp is None else jnp.where(jnp.abs(factor * u) < self.clamp, factor * v, 0)

    def _factor(self, u: jax.Array) -> jax.Array:
        return jnp.where(u >= 0, self.gain, self.gain * self.slope).astype(u.dtype)


# a is piecewise linear, so that its derivatives are a closed pair, adjoint to each other:
#   y = D a(U x),   dy = D a'(U x) U dx,   dx = U' a'(U x) D' dy,
# and neither depends on x otherwise. U x is computed again each time; nothing at the higher rate is stored.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def filtered_lrelu(x: jax.Array, fu: jax.Array, fd: jax.Array, plan: Lrelu) -> jax.Array:
    """D a(U x): [N, *before, C] -> [N, *after, C]. Filters count as constants."""
    return _fused(plan.value, [(x, Fir(fu, *plan.up))], Fir(fd, *plan.down), plan.after)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _push(x: jax.Array, v: jax.Array, fu: jax.Array, fd: jax.Array, plan: Lrelu) -> jax.Array:
    """D a'(U x) U v."""
    up = Fir(fu, *plan.up)
    return _fused(plan.times_derivative, [(x, up), (v, up)], Fir(fd, *plan.down), plan.after)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _pull(x: jax.Array, g: jax.Array, fu: jax.Array, fd: jax.Array, plan: Lrelu) -> jax.Array:
    """U' a'(U x) D' g."""
    up, down = Fir(fu, *plan.up), Fir(fd, *plan.down)
    return _fused(plan.times_derivative, [(x, up), (g, down.adjoint())], up.adjoint(), plan.before)


def _zeros(*arrays: jax.Array) -> tuple:
    return tuple(jnp.zeros_like(a) for a in arrays)


filtered_lrelu.defvjp(
    lambda x, fu, fd, plan: (filtered_lrelu(x, fu, fd, plan), (x, fu, fd)),
    lambda plan, kept, g: (_pull(kept[0], g, *kept[1:], plan), *_zeros(*kept[1:])),
)
_push.defvjp(
    lambda x, v, fu, fd, plan: (_push(x, v, fu, fd, plan), (x, fu, fd)),
    lambda plan, kept, g: (jnp.zeros_like(kept[0]), _pull(kept[0], g, *kept[1:], plan), *_zeros(*kept[1:])),
)
_pull.defvjp(
    lambda x, g, fu, fd, plan: (_pull(x, g, fu, fd, plan), (x, fu, fd)),
    lambda plan, kept, v: (jnp.zeros_like(kept[0]), _push(kept[0], v, *kept[1:], plan), *_zeros(*kept[1:])),
)
