"""Speed of the image operators beside other ways of computing them, at layer shapes of StyleGAN2 and StyleGAN3.

python benchmarks/operators.py [--operators upfirdn2d filtered_lrelu] [--candidates pegan_jax pallas] [--dtype bfloat16]

Candidates of a case run in turns, and each counts with its best time of --repeats. FLOPs are those of the definition
without zeros (taps / up per output and axis, 9 products per output of a 3x3 kernel), whatever a candidate computes.
Bytes are those of the input and the output alone. Both are given beside a matmul, of 1024^3 on a CPU and of 4096^3
elsewhere, and a copy of 1 GiB.
`pallas` is what PEGAN_KERNELS=1 turns on; a CPU interprets it, so that it takes part there only if it is named.
With --topology v5e:2x2 nothing runs: FIR operators are compiled for one of these devices, which need not be here, and
the table has what its compiler says of them: bytes read and written, memory besides arguments and results.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from bench import machine
from jax.sharding import SingleDeviceSharding

from pegan_jax import filters, ops
from pegan_jax.machine import best_seconds, matmul_peaks
from pegan_jax.ops import fir
from pegan_jax.train.targets import described_devices

CONV = ('NHWC', 'HWIO', 'NHWC')

# Candidates -----------------------------------------------------------------------------------------------------------


def naive_upfirdn2d(
    x: jax.Array, f: jax.Array, *, up: int = 1, down: int = 1, padding: tuple = (0,) * 4, gain: float = 1.0
) -> jax.Array:
    """The definition: zeros between samples, one filter per channel, then throwing positions away."""
    left, right, top, bottom = padding
    spans = [(0, 0, 0), (top, bottom + up - 1, up - 1), (left, right + up - 1, up - 1), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), spans)
    for f2 in (f[None, :] * gain**0.5, f[:, None] * gain**0.5) if f.ndim == 1 else (f * gain,):
        kernel = jnp.tile(f2[::-1, ::-1, None, None].astype(x.dtype), (1, 1, 1, x.shape[3]))
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), 'VALID', dimension_numbers=CONV, feature_group_count=x.shape[3]
        )
    return x[:, ::down, ::down]


def depthwise_upfirdn2d(
    x: jax.Array, f: jax.Array, *, up: int = 1, down: int = 1, padding: tuple = (0,) * 4, gain: float = 1.0
) -> jax.Array:
    """Strided and dilated depthwise convolutions, which leave the zeros to XLA."""
    left, right, top, bottom = padding
    passes = [(f * gain, (up, up), (down, down), ((top, bottom), (left, right)))]
    if f.ndim == 1:
        f = f * gain**0.5
        passes = [
            (f[None, :], (1, up), (1, down), ((0, 0), (left, right))),
            (f[:, None], (up, 1), (down, 1), ((top, bottom), (0, 0))),
        ]
    for f2, u, d, pads in passes:
        kernel = jnp.tile(f2[::-1, ::-1, None, None].astype(x.dtype), (1, 1, 1, x.shape[3]))
        pads = [(before, after + n - 1) for (before, after), n in zip(pads, u, strict=True)]
        x = jax.lax.conv_general_dilated(x, kernel, d, pads, u, dimension_numbers=CONV, feature_group_count=x.shape[3])
    return x


def banded_axis(
    x: jax.Array, f: jax.Array, axis: int, up: int, down: int, pad: tuple[int, int], block: int
) -> jax.Array:
    """Correlation with f [K] along an axis of x [N, H, W, C] as matmuls: a band matrix makes `block` outputs."""
    n, taps = x.shape[axis], f.shape[0]
    out = (n * up + sum(pad) - taps) // down + 1
    rows = up // math.gcd(up, down) * max(1, block * math.gcd(up, down) // up)
    step, count = rows * down // up, -(-out // rows)
    position = np.arange(rows)[:, None] * down + np.arange(taps)[None, :] - pad[0]
    row, tap = np.nonzero(position % up == 0)
    source = position[row, tap] // up
    first, width = source.min(), source.max() - source.min() + 1
    chunks = -(-width // step)
    band = jnp.zeros((rows, chunks * step), x.dtype).at[row, source - first].set(f[tap].astype(x.dtype))
    spans = [(0, 0, 0)] * 4
    spans[axis] = (-first, (count + chunks - 1) * step + first - n, 0)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), spans)
    x = x.reshape(*x.shape[:axis], -1, step, *x.shape[axis + 1 :])
    windows = [jax.lax.slice_in_dim(x, i, i + count, axis=axis) for i in range(chunks)]
    spec = 'rj,nqjwc->nqrwc' if axis == 1 else 'rj,nhqjc->nhqrc'
    y = jnp.einsum(spec, band, jnp.concatenate(windows, axis + 1))
    y = y.reshape(*y.shape[:axis], count * rows, *y.shape[axis + 2 :])
    return jax.lax.slice_in_dim(y, 0, out, axis=axis)


def banded_upfirdn2d(
    x: jax.Array,
    f: jax.Array,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple = (0,) * 4,
    gain: float = 1.0,
    block: int = 32,
) -> jax.Array:
    """Separable filters as band matrices along each axis; a 2-D filter as one per row of it, only for up=1."""
    left, right, top, bottom = padding
    f = jnp.flip(f) * gain ** (f.ndim / 2)
    if f.ndim == 1:
        return banded_axis(banded_axis(x, f, 2, up, down, (left, right), block), f, 1, up, down, (top, bottom), block)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (top, bottom, 0), (0, 0, 0), (0, 0, 0)])
    last = (x.shape[1] - f.shape[0]) // down * down
    return sum(
        banded_axis(x[:, k : k + last + 1 : down], row, 2, 1, down, (left, right), block) for k, row in enumerate(f)
    )


def filtered_lrelu_by(upfirdn2d: Callable) -> Callable:
    def run(
        x: jax.Array, b: jax.Array, fu: jax.Array, fd: jax.Array, *, up: int, down: int, padding: tuple, clamp: float
    ) -> jax.Array:
        x = upfirdn2d(x + b[None, None, None, :], fu, up=up, padding=padding, gain=up**2)
        return upfirdn2d(ops.bias_act(x, act='lrelu', clamp=clamp), fd, down=down)

    return run


def xla_conv(x: jax.Array, kernel: jax.Array, *, padding: int) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=CONV)


def matmul_conv(x: jax.Array, kernel: jax.Array, *, padding: int) -> jax.Array:
    """Sum of matmuls of shifted slices."""
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    h, w = x.shape[1] - size + 1, x.shape[2] - size + 1
    taps = [(i, j) for i in range(size) for j in range(size)]
    return sum(jnp.einsum('nhwc,cd->nhwd', x[:, i : i + h, j : j + w], kernel[i, j]) for i, j in taps)


def with_kernels(operator: Callable) -> Callable:
    def run(*args: jax.Array, **options: Any) -> jax.Array:
        with mock.patch.object(fir, 'KERNELS', True):
            return operator(*args, **options)

    return run


CANDIDATES = {
    'upfirdn2d': {
        'naive': naive_upfirdn2d,
        'depthwise': depthwise_upfirdn2d,
        'banded': banded_upfirdn2d,
        'pegan_jax': ops.upfirdn2d,
        'pallas': with_kernels(ops.upfirdn2d),
    },
    'filtered_lrelu': {
        'naive': filtered_lrelu_by(naive_upfirdn2d),
        'depthwise': filtered_lrelu_by(depthwise_upfirdn2d),
        'banded': filtered_lrelu_by(banded_upfirdn2d),
        'pegan_jax': ops.filtered_lrelu,
        'pallas': with_kernels(ops.filtered_lrelu),
    },
    'conv2d': {'xla': xla_conv, 'matmuls': matmul_conv, 'pegan_jax': ops.conv2d},
}

# Cases ----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """x is [batch, size, size, channels]; arrays follow it as arguments, of which `trained` have a gradient."""

    operator: str
    name: str
    size: int
    channels: int
    arrays: tuple
    options: dict
    flops: float  # per image
    trained: int = 0


def fir_flops(size: int, channels: int, f: np.ndarray, up: int, down: int, pads: int) -> tuple[float, int]:
    """FLOPs along x, then y, and the size that comes out; `pads` is the sum of an axis's padding."""
    taps = f.shape[0]
    out = (size * up + pads - taps) // down + 1
    per_axis = 2 * channels * taps / up
    return (per_axis * out * (size + out) if f.ndim == 1 else per_axis * out * out * taps / up), out


def upfirdn2d_case(name: str, size: int, channels: int, f: np.ndarray, up: int, down: int, pad: tuple) -> Case:
    options = {'up': up, 'down': down, 'padding': pad * 2, 'gain': float(up**2)}
    flops, _ = fir_flops(size, channels, f, up, down, sum(pad))
    return Case('upfirdn2d', name, size, channels, (f,), options, flops)


def filtered_case(name: str, size: int, channels: int, up: int, pad: tuple[int, int], radial: bool = False) -> Case:
    """A layer of StyleGAN3: 6 taps per factor, downsampling by 2; the cutoffs do not matter for the speed."""
    fu = filters.lowpass(6 * up, 1.0, 2.0, 4 * up)
    fd = filters.lowpass(12, 1.0, 2.0, 8, radial=radial)
    options = {'up': up, 'down': 2, 'padding': pad * 2, 'clamp': 256.0}
    upward, middle = fir_flops(size, channels, fu, up, 1, sum(pad))
    downward, _ = fir_flops(middle, channels, fd, 1, 2, 0)
    bias = np.zeros(channels, np.float32)
    return Case('filtered_lrelu', name, size, channels, (bias, fu, fd), options, upward + downward, trained=1)


def conv_case(name: str, size: int, channels: int, features: int, taps: int) -> Case:
    kernel = np.random.default_rng(0).normal(size=(taps, taps, channels, features)) / math.sqrt(channels * taps**2)
    flops = 2 * taps**2 * channels * features * (size + taps - 1) ** 2
    return Case('conv2d', name, size, channels, (kernel.astype(np.float32),), {'padding': taps - 1}, flops, trained=1)


BLUR = filters.setup_filter([1, 3, 3, 1])
CASES = [
    upfirdn2d_case('4x4 taps, up 2', 128, 128, BLUR, 2, 1, (2, 1)),
    upfirdn2d_case('4x4 taps', 257, 128, BLUR, 1, 1, (1, 1)),
    upfirdn2d_case('4x4 taps, down 2', 256, 128, BLUR, 1, 2, (1, 1)),
    upfirdn2d_case('12 taps, up 2', 150, 512, filters.lowpass(12, 1.0, 2.0, 8), 2, 1, (9, 8)),
    upfirdn2d_case('12 taps, down 2', 306, 512, filters.lowpass(12, 1.0, 2.0, 8), 1, 2, (0, 0)),
    upfirdn2d_case('12x12 taps, down 2', 306, 512, filters.lowpass(12, 1.0, 2.0, 8, radial=True), 1, 2, (0, 0)),
    filtered_case('T 256 px, layer 8', 150, 512, 2, (9, 8)),
    filtered_case('T 256 px, layer 10', 150, 256, 4, (-6, -9)),
    filtered_case('T 256 px, layer 11', 278, 181, 2, (9, 8)),
    filtered_case('R 256 px, layer 8', 148, 1024, 2, (11, 10), radial=True),
    filtered_case('R 256 px, layer 10', 148, 512, 4, (-2, -5), radial=True),
    filtered_case('R 256 px, layer 11', 276, 362, 2, (11, 10), radial=True),
    conv_case('T 256 px, layer 1', 36, 512, 512, 3),
    conv_case('T 256 px, layer 8', 148, 512, 512, 3),
    conv_case('T 256 px, layer 11', 276, 256, 181, 3),
    conv_case('R 256 px, layer 8', 148, 1024, 1024, 1),
]

TINY_CASES = [upfirdn2d_case('tiny', 12, 4, BLUR, 2, 1, (2, 1)), filtered_case('tiny', 8, 4, 2, (9, 8))]

# Measuring ------------------------------------------------------------------------------------------------------------


def seconds_in_turns(runs: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Least wall time of each, the runs taking turns."""
    for run in runs.values():
        jax.block_until_ready(run())
    best = dict.fromkeys(runs, math.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def copy_bandwidth(size: int) -> float:
    """Bytes per second read and written by an elementwise copy of `size` numbers."""
    x = jnp.zeros(size, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / best_seconds(lambda: add(x), 3)


def programs(case: Case, chosen: list[str]) -> dict[str, tuple[Callable, Callable]]:
    """Forward, and forward with gradients of x and of what is trained, per candidate."""
    constants, found = [jnp.asarray(a) for a in case.arrays[case.trained :]], {}
    for name, operator in CANDIDATES[case.operator].items():
        filters_2d = any(a.ndim == 2 for a in case.arrays)
        if name == 'banded' and case.operator == 'upfirdn2d' and filters_2d and case.options['up'] > 1:
            continue
        if name in chosen:
            function = functools.partial(operator, **case.options)
            run = jax.jit(lambda x, *a, function=function: function(x, *a, *constants))

            def pulled(x: jax.Array, *a: jax.Array, run: Callable = run) -> tuple:
                y, pull = jax.vjp(run, x, *a)
                return y, pull(y)

            found[name] = run, jax.jit(pulled)
    return found


def compile_case(case: Case, chosen: list[str], dtype: str, batch: int, topology: str) -> list[dict]:
    """What a device's compiler says of the programs."""
    place = SingleDeviceSharding(described_devices(topology)[0])
    shapes = [(batch, case.size, case.size, case.channels), *(a.shape for a in case.arrays[: case.trained])]
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape in shapes]
    rows = []
    for name, runs in programs(case, chosen).items():
        for direction, run in zip(('forward', 'forward + gradient'), runs, strict=True):
            program = run.lower(*arguments).compile()
            bytes_, memory = program.cost_analysis()['bytes accessed'], program.memory_analysis().temp_size_in_bytes
            rows.append(
                {'case': case.name, 'candidate': name, 'direction': direction, 'bytes': bytes_, 'memory': memory}
            )
            print(f'{case.name} {direction}: {name:10} {bytes_ / 1e6:9.0f} MB, {memory / 1e6:7.0f} MB held', flush=True)
    return rows


def bench_case(case: Case, chosen: list[str], dtype: str, batch: int, repeats: int) -> list[dict]:
    x = jax.random.normal(jax.random.key(0), (batch, case.size, case.size, case.channels)).astype(dtype)
    trained = [jnp.asarray(a, dtype) for a in case.arrays[: case.trained]]
    runs = {
        name: [functools.partial(run, x, *trained) for run in pair] for name, pair in programs(case, chosen).items()
    }
    forward, both = ({name: pair[i] for name, pair in runs.items()} for i in range(2))
    if not forward:
        return []
    outputs = {name: np.asarray(run(), np.float32) for name, run in forward.items()}
    want = outputs.get('naive', outputs.get('xla', next(iter(outputs.values()))))
    rows = []
    gradients = 2 if case.operator == 'conv2d' else 1  # that of a bias is free
    for direction, runs, work in (('forward', forward, 1), ('forward + gradient', both, 1 + gradients)):
        for name, seconds in seconds_in_turns(runs, repeats).items():
            error = float(np.max(np.abs(outputs[name] - want)) / np.max(np.abs(want)))
            rows.append(
                {
                    'operator': case.operator,
                    'case': case.name,
                    'shape': list(x.shape),
                    'direction': direction,
                    'candidate': name,
                    'seconds': seconds,
                    'flops': work * batch * case.flops,
                    'bytes': work * (x.nbytes + want.size * x.dtype.itemsize),
                    'relative_error': error,
                }
            )
    return rows


def header(results: dict) -> Iterator[str]:
    """Lines for people: what the numbers are taken on and compared with."""
    yield '; '.join(str(v) for v in results['machine'].values())
    peaks = ', '.join(f'{dtype} {value / 1e9:,.0f} GFLOP/s' for dtype, value in results['matmul_peaks'].items())
    yield f'matmul: {peaks}; copy {results["copy_bytes_per_second"] / 1e9:,.0f} GB/s; {results["dtype"]}'


def lines(rows: list[dict], results: dict) -> Iterator[str]:
    """Lines for people: the rows of a case."""
    peak = results['matmul_peaks'].get(results['dtype'], results['matmul_peaks']['float32'])
    title = None
    for row in rows:
        if title != (title := f'{row["operator"]} {row["case"]} {row["shape"]}, {row["direction"]}'):
            yield title
        rate, bandwidth = row['flops'] / row['seconds'], row['bytes'] / row['seconds']
        yield (
            f'  {row["candidate"]:10} {row["seconds"] * 1e3:9.3f} ms {rate / 1e9:9.1f} GFLOP/s ({rate / peak:6.1%}) '
            f'{bandwidth / 1e9:8.2f} GB/s ({bandwidth / results["copy_bytes_per_second"]:6.1%})  '
            f'error {row["relative_error"]:.0e}'
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({name for candidates in CANDIDATES.values() for name in candidates})
    parser.add_argument('--operators', nargs='+', choices=sorted(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument('--candidates', nargs='+', choices=names)
    parser.add_argument('--cases', default='', help='only cases whose name contains this')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--json', type=pathlib.Path, help='also write the numbers here, anew after every case')
    parser.add_argument('--topology', metavar='KIND:SHAPE', help='compile for one device of these TPUs, run nothing')
    parser.add_argument('--tiny', action='store_true', help='small images, beside a small matmul and copy')
    args = parser.parse_args()
    compiles = args.topology or jax.default_backend() != 'cpu'
    chosen = args.candidates or [name for name in names if name != 'pallas' or compiles]
    cases = [
        case
        for case in (TINY_CASES if args.tiny else CASES)
        if case.operator in args.operators and args.cases in case.name
        if not args.topology or case.operator != 'conv2d'  # whose form this machine decides
    ]
    if args.topology:
        rows = [row for case in cases for row in compile_case(case, chosen, args.dtype, args.batch, args.topology)]
        if args.json:
            args.json.write_text(json.dumps(rows, indent=2))
        return
    results = {
        'machine': machine(),
        'dtype': args.dtype,
        'matmul_peaks': matmul_peaks(512 if args.tiny else None),
        'copy_bytes_per_second': copy_bandwidth(2**20 if args.tiny else 2**28),
        'rows': [],
    }
    print(*header(results), sep='\n', flush=True)
    for case in cases:
        rows = bench_case(case, chosen, args.dtype, args.batch, args.repeats)
        print(*lines(rows, results), sep='\n', flush=True)
        results['rows'] += rows
        if args.json:
            temporary = args.json.with_suffix('.tmp')
            temporary.write_text(json.dumps(results, indent=2))
            temporary.replace(args.json)


if __name__ == '__main__':
    main()
