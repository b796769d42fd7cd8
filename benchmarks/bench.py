"""Speed, memory and compile time of a system: its generator and its training step, on random images.

python benchmarks/bench.py --config cips:tiny [--batch 8] [--json out.json] [--config.model.dtype=bfloat16]
python benchmarks/bench.py --system stylegan3 [--batch 1] [--generator-only]
python benchmarks/bench.py --inception [--batch 8]
python benchmarks/bench.py --config cips:ffhq256 --batch 1 --profile 20

The second form runs the configurations that go together, one after the other, the third the feature network of FID, the
fourth also shows the dearest parts of every program (benchmarks/costs.py), on CPU.
Steps are those at the end of every size that a run has, with what the configuration sets, but one in a program whatever
train.inner_steps says.
FLOP/s are given as a fraction of what a plain JAX matmul reaches (of 1024^3 on a CPU, of 4096^3 elsewhere), measured
right before and after. Times are the best of --repeats runs. FLOPs are those of the definition, whatever a program
computes: matmuls, convolutions without zeros, and FIR filters with as many taps as meet samples; what chunks compute
twice counts once.
"""

import argparse
import collections
import dataclasses
import datetime
import functools
import json
import math
import os
import pathlib
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import costs
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.sharding import Mesh

from pegan_jax import config as configs
from pegan_jax import ops
from pegan_jax.gan import GAN, Stage, images_of, inputs_of
from pegan_jax.machine import best_seconds, matmul_peaks
from pegan_jax.models import attention, deepfill
from pegan_jax.ops import fir
from pegan_jax.train.report import abstract_batch, matmul_flops
from pegan_jax.train.state import TrainState
from pegan_jax.train.step import (
    as_floats,
    compile_step,
    data_mesh,
    device_step,
    due_updates,
    place_batch,
    products_without_ynnpack,
    replicated_state,
    step_options,
)
from pegan_jax.weights import inception

products_without_ynnpack()  # as the commands do

Program = tuple[Stage, tuple[int, ...]]  # with the updates that are due
Programs = dict[Program, float]  # with their shares of the steps


def definition_flops(function: Callable, *args: Any) -> int:
    """Multiplications and additions of matmuls, convolutions, FIR filters and the attention, by their definition."""
    total, original = 0, fir._upfirdn2d

    def counted(x: jax.Array, f: jax.Array, up: tuple, *rest: Any) -> jax.Array:
        nonlocal total
        y = original(x, f, up, *rest)
        total += 2 * y.size * f.size // (up[0] * up[1])
        return y

    # On other backends than CPU a convolution is one, and not the matmuls that stand for it.
    with (
        mock.patch.multiple(fir, _upfirdn2d=counted, KERNELS=False),
        mock.patch.object(deepfill, 'contextual_attention', defined_attention),
        ops.for_platform('gpu'),
    ):
        jaxpr = jax.make_jaxpr(lambda *args: function(*args))(*args).jaxpr
    return matmul_flops(jaxpr) + total


def defined_attention(f: jax.Array, b: jax.Array, mask: jax.Array, *, nearest: str, **_: Any) -> attention.Attended:
    """All products of `attention.contextual_attention`, window by window, and nothing else of it."""
    queries, keys = (attention.patches3(attention.thin_out(x, 2, nearest)) for x in (f, b))
    copied = attention.blocks(b, 2)
    windows = attention.corners(copied)
    n, h, w, depth = windows.shape
    found = jnp.einsum('nqj,njk->nqk', jnp.einsum('nqk,njk->nqj', queries, keys), windows.reshape(n, h * w, depth))
    (pasted,) = jax.linear_transpose(attention.corners, copied)(found.reshape(windows.shape))
    return attention.Attended(attention.unblocked(pasted, 2), jnp.zeros((n, h, w, 2), jnp.int32), None)


def compile_timed(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, dict]:
    """The compiled program, and what compiling it took and what it will take."""
    start = time.perf_counter()
    compiled = lowered.compile()
    took = time.perf_counter() - start
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return compiled, {
        'compile_seconds': took,
        'program_bytes': held + memory.temp_size_in_bytes,
    }


def random_batch(config: configs.Config, batch: int) -> dict[str, np.ndarray]:
    """Rows of a batch as a run gives them: random images and lines, of class 0, in the frame and at its scale."""
    rng, shapes = np.random.default_rng(0), abstract_batch(config, batch)
    values = {'edge': (0, 255), 'mask': (0, 1), 'scale': (1,)}
    found = {'image': rng.integers(0, 256, shapes.pop('image').shape, np.uint8)}
    return found | {k: rng.choice(np.array(values.get(k, (0,)), x.dtype), x.shape) for k, x in shapes.items()}


def counted_gan(config: configs.Config) -> GAN:
    """The system whose FLOPs are those of the definition: one that computes nothing twice."""
    changes = {}
    if config.system == 'cips':
        changes = {'train_chunk': math.prod(config.model.size)}
    model = dataclasses.replace(config.model, **changes)
    return configs.system_module(config.system).build(dataclasses.replace(config, model=model))


def generator_inputs(config: configs.Config, gan: GAN, batch: int) -> Any:
    """Latents, or images with holes."""
    return inputs_of(gan, np.arange(batch), lambda: as_floats(random_batch(config, batch)), jax.random.key(1))


def bench_generator(
    config: configs.Config, gan: GAN, variables: dict, batch: int, repeats: int, profile: bool = False
) -> dict:
    """G on its native grid, without noise; or its completions of images."""
    inputs = generator_inputs(config, gan, batch)
    compiled, needs = compile_timed(jax.jit(functools.partial(images_of, gan)).lower(variables, inputs))
    seconds = best_seconds(lambda: compiled(variables, inputs), repeats)
    return {
        'seconds': seconds,
        'flops': definition_flops(functools.partial(images_of, counted_gan(config)), variables, inputs),
        **needs,
        'images_per_second': batch / seconds,
        **({'profile': costs.costs(compiled, lambda: compiled(variables, inputs))} if profile else {}),
    }


def bench_attention(config: configs.Config, batch: int, repeats: int) -> dict:
    """The contextual attention of DeepFillv2 alone, with a mask; FLOPs are those of scores and of pasting."""
    model, (height, width) = config.model, config.model.size
    mask = jnp.zeros((1, height, width, 1)).at[:, height // 4 : height // 2, width // 4 : width // 2].set(1)
    features = jax.nn.relu(jax.random.normal(jax.random.key(2), (batch, height // 4, width // 4, 2 * model.cnum)))

    def run(features: jax.Array, mask: jax.Array) -> jax.Array:
        small = deepfill.attention_mask(mask, model)
        options = {'fuse': model.fuse, 'nearest': model.nearest}
        return attention.contextual_attention(features, features, small, **options).y

    compiled, needs = compile_timed(jax.jit(run).lower(features, mask))
    seconds = best_seconds(lambda: compiled(features, mask), repeats)
    positions, patch = height * width // 64, 2 * model.cnum * (9 + 16)
    flops = 2 * batch * positions**2 * patch
    return {'seconds': seconds, 'flops': flops, **needs, 'images_per_second': batch / seconds}


def programs_of(config: configs.Config, gan: GAN) -> list[Programs]:
    """The programs of every size and level of a run, in the order in which these first come, and their shares of steps.

    Of 960 steps at the end of a size, so that what is a part of its first steps alone, such as a blur, is left out.
    """
    train, last = config.train, {}
    total = train.total_steps if gan.num_steps is None else gan.num_steps()

    def stage_at(step: int) -> Stage:
        return gan.stage_at(step, step * train.batch_size, train.seed)

    for step in range(0, total, max(1, total // 1000)):
        last[stage_at(step).resolution, stage_at(step).level] = step
    found = []
    for place, step in last.items():
        first, seen = max(0, step - 959), collections.Counter()
        for i in range(first, first + 960):
            stage = stage_at(i)
            if (stage.resolution, stage.level) == place:
                seen[stage, due_updates(gan, i)] += 1
        found.append({program: count / seen.total() for program, count in seen.items()})
    return found


def largest(found: list[Programs]) -> Programs:
    """Those of the largest size, and of its highest level."""

    def size(programs: Programs) -> tuple[int, int]:
        stage, _ = next(iter(programs))
        return math.prod(stage.size), stage.level

    return max(found, key=size)


def placed_batch(config: configs.Config, batch: int, mesh: Mesh) -> dict:
    """`random_batch` on the devices."""
    return place_batch(random_batch(config, batch), config.train.backend, mesh)


def lowered_step(
    config: configs.Config, gan: GAN, program: Program, state: TrainState, batch: int, mesh: Mesh
) -> tuple[jax.stages.Lowered, float]:
    """A training step as a run of this configuration compiles it, and its FLOPs over all devices."""
    (stage, due), train = program, dataclasses.replace(config.train, batch_size=batch)
    step, count = (
        functools.partial(device_step, gan=g, stage=stage, due=due, seed=train.seed) for g in (gan, counted_gan(config))
    )
    # The count is of one device's share.
    data = place_batch(random_batch(config, batch), 'jit', mesh)
    flops = mesh.size * definition_flops(compile_step(count, 'jit', mesh), state, data)
    step = compile_step(functools.partial(step, **step_options(train, mesh)), train.backend, mesh)
    return step.lower(state, placed_batch(config, batch, mesh)), flops


def bench_step(
    config: configs.Config,
    gan: GAN,
    planned: Programs,
    state: TrainState,
    mesh: Mesh,
    batch: int,
    repeats: int,
    profile: bool = False,
) -> dict:
    """The programs of a size, and their mean, weighted by how often each runs."""
    state, data = jax.tree.map(jnp.copy, state), placed_batch(config, batch, mesh)  # the state is donated
    programs = []
    for (stage, due), share in planned.items():
        lowered, flops = lowered_step(config, gan, (stage, due), state, batch, mesh)
        compiled, needs = compile_timed(lowered)
        needs['flops'] = flops

        def run(compiled: jax.stages.Compiled = compiled) -> tuple:
            nonlocal state  # donated: every call hands back the next one
            state, metrics = compiled(state, data)
            return state, metrics

        updates = ' '.join((*stage.flags, *(f'{gan.updates[i].net}{i}' for i in due)))
        programs.append({'updates': updates, 'share': share, 'seconds': best_seconds(run, repeats), **needs})
        if profile:
            programs[-1]['profile'] = costs.costs(compiled, run)
    mean = {key: sum(p['share'] * p[key] for p in programs) for key in ('seconds', 'flops')}
    return {
        **mean,
        'compile_seconds': sum(p['compile_seconds'] for p in programs),
        'program_bytes': max(p['program_bytes'] for p in programs),
        'images_per_second': batch / mean['seconds'],
        'programs': programs,
    }


def machine() -> dict:
    """What the numbers are taken on."""
    cpuinfo = pathlib.Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return {
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'devices': [f'{d.platform} {d.device_kind}' for d in jax.devices()],
        'cpu': f'{os.cpu_count()} x {names[0] if names else platform.machine()}',
        'versions': f'python {platform.python_version()}, jax {jax.__version__}, jaxlib {jaxlib.__version__}',
    }


def peak_bytes() -> int:
    """Most memory in use so far: of the first device where that is counted, otherwise of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get('peak_bytes_in_use', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def bench(config: configs.Config, batch: int, repeats: int, generator_only: bool, profile: bool = False) -> dict:
    """All numbers of a configuration, as JSON would hold them."""
    gan, mesh = configs.system_module(config.system).build(config), data_mesh()
    state = replicated_state(gan, config.train.seed, mesh)
    before = matmul_peaks()
    variables = jax.tree.map(jnp.copy, state.sampling)
    results = {'generator': bench_generator(config, gan, variables, batch, repeats, profile)}
    if config.system == 'deepfill':
        results['attention alone'] = bench_attention(config, batch, repeats)
        results['attention alone']['share'] = results['attention alone']['seconds'] / results['generator']['seconds']
    found = [] if generator_only else programs_of(config, gan)
    for planned in found:
        stage, _ = next(iter(planned))
        name = 'step' if len(found) == 1 else f'step at {stage.resolution}, level {stage.level}'
        results[name] = bench_step(config, gan, planned, state, mesh, batch, repeats, profile)
        if len(found) > 1:  # all of them can take an hour
            print(f'{name}: {results[name]["seconds"]:.3g} s', file=sys.stderr, flush=True)
    peaks = {dtype: max(value, before[dtype]) for dtype, value in matmul_peaks().items()}
    # Simulated CPU devices share the cores that one matmul uses.
    for name, result in results.items():
        devices = 1 if name in ('generator', 'attention alone') or jax.default_backend() == 'cpu' else mesh.size
        for dtype, peak in peaks.items():
            result[f'fraction_of_{dtype}_peak'] = result['flops'] / result['seconds'] / (devices * peak)
    return {'machine': machine(), 'batch': batch, 'matmul_peaks': peaks, 'results': results, 'peak_bytes': peak_bytes()}


def bench_inception(batch: int, repeats: int) -> dict:
    """Inception-v3 of FID with random weights on uint8 images of 256 x 256 pixels: resizing to 299 and features."""
    net, before = inception.InceptionV3(), matmul_peaks()
    params = net.init(jax.random.key(0), jnp.zeros((1, inception.SIDE, inception.SIDE, 3)))['params']
    images = np.random.default_rng(0).integers(0, 256, (batch, 256, 256, 3), np.uint8)

    def features(params: dict, images: jax.Array) -> jax.Array:
        return net.apply({'params': params}, inception.prepare(images))

    compiled, needs = compile_timed(jax.jit(features).lower(params, images))
    seconds = best_seconds(lambda: compiled(params, images), repeats)
    flops = definition_flops(features, params, images)
    found = {'seconds': seconds, 'flops': flops, **needs, 'images_per_second': batch / seconds}
    peaks = {dtype: max(value, before[dtype]) for dtype, value in matmul_peaks().items()}
    found |= {f'fraction_of_{dtype}_peak': flops / seconds / peak for dtype, peak in peaks.items()}
    results = {'features': found}
    return {'machine': machine(), 'batch': batch, 'matmul_peaks': peaks, 'results': results, 'peak_bytes': peak_bytes()}


def report(results: dict, rows: int = 0) -> Iterator[str]:
    """Lines for people. rows: of profiles."""
    yield '; '.join(str(v) for v in results['machine'].values())
    peaks = ', '.join(f'{dtype} {value / 1e9:,.0f} GFLOP/s' for dtype, value in results['matmul_peaks'].items())
    yield f'matmul, best before and after: {peaks}'
    for name, r in results['results'].items():
        fractions = ', '.join(f'{v:.1%} of {k[12:-5]} peak' for k, v in r.items() if k.startswith('fraction_of_'))
        yield (
            f'{name}, batch {results["batch"]}: {r["images_per_second"]:.4g} images/s, {r["seconds"]:.4g} s, '
            f'{r["flops"] / results["batch"] / 1e9:.5g} GFLOP per image, {fractions}; '
            f'compiled in {r["compile_seconds"]:.1f} s, buffers {r["program_bytes"] / 2**20:,.0f} MiB'
        )
        if 'share' in r:
            yield f"  {r['share']:.1%} of the generator's time"
        if 'profile' in r:
            yield from costs.table(r['profile'], rows)
        for p in r.get('programs', ()):
            yield (
                f'  {p["share"]:.1%} of steps, updates {p["updates"]}: {p["seconds"]:.4g} s, compiled in '
                f'{p["compile_seconds"]:.1f} s, buffers {p["program_bytes"] / 2**20:,.0f} MiB'
            )
            if 'profile' in p:
                yield from costs.table(p['profile'], rows)
    yield f'most memory in use so far: {results["peak_bytes"] / 2**20:,.0f} MiB'


# What `--system` alone stands for. '... at SIZE' is the generator at another size, one image at a time.
SUITES = {
    'cips': ('cips:ffhq256',),
    'dcgan': ('dcgan:celeba64',),
    'deepfill': ('deepfill', *(f'deepfill at {size}' for size in ('256', '512,680', '1024'))),
    'mspie': ('mspie:f',),
    'pggan': ('pggan:celeba128',),
    'singan': ('singan',),
    'stylegan2': ('stylegan2:images256',),
    'stylegan3': ('stylegan2:images256', 'stylegan3:t,images256', 'stylegan3:r,images256'),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--config', help='a shipped configuration or a path, as for train.py')
    what.add_argument('--system', choices=sorted(SUITES), help='the configurations that go with a system')
    what.add_argument('--inception', action='store_true', help='Inception-v3 of FID, at 299 pixels')
    parser.add_argument('--batch', type=int, help='images per step over all devices; default: the configuration')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--generator-only', action='store_true', help='leave the training step out')
    parser.add_argument(
        '--profile', type=int, default=0, metavar='ROWS', help='show so many dearest parts of a program'
    )
    parser.add_argument('--json', type=pathlib.Path, help='also write the numbers here')
    args, overrides = parser.parse_known_args()
    everything = {}
    if args.inception:
        everything['inception'] = bench_inception(args.batch or 8, args.repeats)
        print('inception', *report(everything['inception']), sep='\n', flush=True)
    for name in (args.config,) if args.config else SUITES.get(args.system, ()):
        spec, _, size = name.partition(' at ')
        sizes = [f'{section}={size}' for section in ('model.img_resolution', 'data.resolution') if size]
        config = configs.load_config(spec, [*sizes, *(o.removeprefix('--config.') for o in overrides)])
        batch = 1 if size else args.batch or config.train.batch_size
        everything[name] = bench(config, batch, args.repeats, args.generator_only or bool(size), args.profile > 0)
        print(name, *report(everything[name], args.profile), sep='\n', flush=True)
        everything[name]['config'] = configs.to_dict(config)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=2))


if __name__ == '__main__':
    main()
