"""What an accelerator makes of this library, in minutes: for a machine with a GPU or TPU that is at hand only briefly.

python benchmarks/device.py --out results [--parts parity,speed,kernels,steps,train] [--configs cips:ffhq256 ...]
    [--seconds 600] [--tiny]

Parts, in order of value; each has a share of the time, and what is done is in OUT/device.json even if the rest is cut:

  parity  the golden numbers of tests/fixtures on this device, matmuls at the highest precision; failures are listed
  speed   generator and training step of the published sizes, as at the end of a run, in bfloat16 and in float32:
          images/s, share of the peak of a bfloat16 matmul, memory, seconds to compile. Batches are about those that
          published runs give a device, and, where there is time, as many doublings of them as fit into half of the
          memory by the compiler's plan
  kernels the Pallas kernels (PEGAN_KERNELS=1): golden numbers of StyleGAN3; operators beside XLA's forms, forward and
          gradient, as by benchmarks/operators.py; StyleGAN3 as in `speed`, to be compared with it
  steps   training steps/s of the quickstart and of SinGAN with 1, 10 and 100 steps in one program
  train   the quickstart on worlds that are drawn on the device; OUT/train.png shows samples, real worlds below

It needs JAX, Flax, Optax, Orbax, SciPy, scikit-image, Pillow and tqdm, and nothing else of what the library needs.
--tiny runs everything at test size, also on a CPU.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import importlib
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests' / 'parity'), str(ROOT / 'tests')]

PARTS = {'parity': 0.2, 'speed': 0.35, 'kernels': 0.25, 'steps': 0.1, 'train': 0.1}  # shares of the time

# {configuration: images per device} of the part `speed`, in order of value; ' at SIZE' replaces its size.
SPEED = {
    'cips:ffhq256': 4,
    'stylegan3:t,images256': 8,
    'stylegan2:images256': 16,
    'stylegan3:r,images256': 8,
    'mspie:f': 4,
    'deepfill': 8,
    'deepfill at 512,680': 2,
}
SPEED_TINY = {'cips:tiny': 8, 'dcgan:tiny': 8}
KERNELS = ('stylegan3:t,images256', 'stylegan3:r,images256', 'deepfill at 512,680')  # of the part `kernels`
KERNELS_TINY = ('dcgan:tiny',)  # it has no kernels: a CPU takes minutes to compile interpreted ones
INNER_STEPS = (1, 10, 100)


class Results:
    """OUT/device.json, written anew after every addition."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.values = json.loads(path.read_text()) if path.exists() else {}

    def put(self, part: str, value: Any) -> None:
        self.values[part] = value
        temporary = self.path.with_suffix('.tmp')
        temporary.write_text(json.dumps(self.values, indent=1))
        os.replace(temporary, self.path)


def worker(*args: str, program: str = __file__, **env: str) -> subprocess.Popen:
    """This program again, as a part of a part; its memory is gone when it ends."""
    defaults = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', 'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.95'}
    return subprocess.Popen([sys.executable, program, *args], env={**defaults, **os.environ, **env})


def wait(processes: list[subprocess.Popen], deadline: float) -> bool:
    """Whether all ended before the deadline; the others are killed."""
    while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    late = [p for p in processes if p.poll() is None]
    for process in late:
        process.kill()
        process.wait()
    return not late


def rows_of(path: pathlib.Path) -> list[dict]:
    """Complete lines of a JSON lines file that another process may be writing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith('\n')]


def append(path: pathlib.Path, row: dict) -> None:
    with path.open('a') as file:
        file.write(json.dumps(row) + '\n')


# parity ---------------------------------------------------------------------------------------------------------------


def parity(out: pathlib.Path, results: Results, deadline: float, tiny: bool) -> None:
    """Every golden file by the check that takes it, in several processes on one device."""
    count = 1 if tiny else max(1, min(12, (os.cpu_count() or 1) - 2))
    files = [out / f'parity.{i}.jsonl' for i in range(count)]
    for file in files:
        file.unlink(missing_ok=True)
    shares = [f'{i}/{count}' for i in range(count)]
    limit = '4' if tiny else '0'
    processes = [worker('--parity-worker', s, '--limit', limit, '--out', str(out)) for s in shares]
    complete = wait(processes, deadline) and all(process.returncode == 0 for process in processes)
    rows = sorted((row for file in files for row in rows_of(file)), key=lambda row: row['file'])
    failed = [row for row in rows if row['outcome'] == 'failed']
    results.put(
        'parity',
        {
            'complete': complete,
            'passed': sum(row['outcome'] == 'passed' for row in rows),
            'failed': failed,
            'not run': [row for row in rows if row['outcome'] == 'not run'],
            'seconds': {row['file']: round(row['seconds'], 1) for row in rows if row.get('seconds', 0) > 10},
        },
    )
    for file in files:
        file.unlink(missing_ok=True)


def parity_worker(share: str, only: str, limit: int, out: pathlib.Path) -> None:
    import jax
    from compare import entry, load

    jax.config.update('jax_default_matmul_precision', 'highest')
    checks, missing = {}, {}
    for path in sorted((ROOT / 'tests' / 'parity').glob('check_*.py')):
        try:
            checks |= importlib.import_module(path.stem).CHECKS
        except ImportError as error:
            missing[path.stem] = str(error)
    number, count = map(int, share.split('/'))
    files = sorted((ROOT / 'tests' / 'fixtures').glob(f'{only}.npz'))
    for path in (files[:limit] if limit else files)[number::count]:
        name, start = f'{path.parent.name}/{path.stem}', time.perf_counter()
        found = entry(path.parent.name, path.stem, checks)
        row = {'file': name, 'outcome': 'passed'}
        if found is None:
            row |= {'outcome': 'not run', 'error': f'no check; not imported: {missing}'}
        else:
            try:
                checks[found](*load(path))
            except ImportError as error:
                row |= {'outcome': 'not run', 'error': str(error)}
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                row |= {'outcome': 'failed', 'error': f'{type(error).__name__}: {error}'[:600], 'at': str(where)}
            row['seconds'] = time.perf_counter() - start
        append(out / f'parity.{number}.jsonl', row)


# speed ----------------------------------------------------------------------------------------------------------------


def speed(
    out: pathlib.Path, results: Results, deadline: float, tiny: bool, dtypes: list[str], specs: list[str] | None
) -> None:
    """One configuration after the other, each in a process of its own that has all cores to compile with."""
    done, file = [], out / 'speed.jsonl'
    jobs = [(spec, dtype) for dtype in dtypes for spec in specs or (SPEED_TINY if tiny else SPEED)]
    for i, (spec, dtype) in enumerate(jobs):
        left = deadline - time.monotonic()
        seconds = min(left, 2.5 * left / (len(jobs) - i))  # what one saves, the others may take
        done.append({'config': spec, 'dtype': dtype, **speed_of(spec, dtype, file, seconds, tiny)})
        results.put('speed', done)


def speed_of(spec: str, dtype: str, file: pathlib.Path, seconds: float, tiny: bool, **env: str) -> dict:
    file.unlink(missing_ok=True)
    extra = ['--dtype', dtype, '--seconds', str(seconds), *(['--tiny'] if tiny else [])]
    process = worker('--speed-worker', spec, '--out', str(file), *extra, **env)
    complete = wait([process], time.monotonic() + seconds) and process.returncode == 0
    rows = rows_of(file)
    file.unlink(missing_ok=True)
    return {'complete': complete, 'rows': rows}


def speed_worker(spec: str, dtype: str, seconds: float, out: pathlib.Path, tiny: bool) -> None:
    """Compiles and measures: a row of JSON for every program."""
    import bench
    import jax
    import jax.numpy as jnp

    from pegan_jax import config as configs
    from pegan_jax.gan import images_of
    from pegan_jax.machine import best_seconds, matmul_peaks
    from pegan_jax.train.step import data_mesh, replicated_state

    begin = time.monotonic()
    name, _, size = spec.partition(' at ')
    sizes = [f'{section}={size}' for section in ('model.img_resolution', 'data.resolution') if size]
    config = configs.load_config(name, sizes)
    if hasattr(config.model, 'dtype'):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
    gan, mesh = configs.system_module(config.system).build(config), data_mesh()
    state = replicated_state(gan, config.train.seed, mesh)
    variables = jax.tree.map(jnp.copy, state.sampling)

    def plans(kind: str, batch: int) -> Iterator[tuple]:
        """(name, share of steps, traced program, its FLOPs) of a generator or a training step."""
        if kind == 'generator':
            given = bench.generator_inputs(config, gan, batch)
            make, count = (functools.partial(images_of, g) for g in (gan, bench.counted_gan(config)))
            flops = bench.definition_flops(count, variables, given)
            yield 'generator', 1.0, jax.jit(make).lower(variables, given), flops
            return
        for (stage, due), share in bench.largest(bench.programs_of(config, gan)).items():
            lowered, flops = bench.lowered_step(config, gan, (stage, due), state, batch, mesh)
            yield f'{" ".join(stage.flags)} {due}', share, lowered, flops

    def compile_all(kind: str, batch: int) -> list[dict]:
        """Programs and their costs."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            traced = [(*plan, pool.submit(bench.compile_timed, plan[2])) for plan in plans(kind, batch)]
            return [
                {'name': what, 'share': share, 'flops': flops, 'program': done.result()[0], **done.result()[1]}
                for what, share, _, flops, done in traced
            ]

    def measure(kind: str, batch: int, programs: list[dict]) -> dict:
        nonlocal state  # donated: every call of a step hands back the next one
        if kind == 'generator':
            given = bench.generator_inputs(config, gan, batch)
            programs[0]['seconds'] = best_seconds(lambda: programs[0]['program'](variables, given), 5)
        else:
            data = bench.placed_batch(config, batch, mesh)
            for program in programs:

                def run(program: dict = program) -> tuple:
                    nonlocal state
                    state, metrics = program['program'](state, data)
                    return state, metrics

                program['seconds'] = best_seconds(run, 5)
        took, flops = (sum(p['share'] * p[key] for p in programs) for key in ('seconds', 'flops'))
        return {
            'kind': kind,
            'batch': batch,
            'images_per_second': batch / took,
            'seconds_per_kimg': 1000 * took / batch,
            'flops_per_second': flops / took,
            'peak_bytes_so_far': (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use'),
            'programs': [{key: value for key, value in p.items() if key != 'program'} for p in programs],
        }

    side, batch = 512 if tiny else 8192, (SPEED_TINY if tiny else SPEED).get(spec, 8) * mesh.size
    before = matmul_peaks(side)
    free = 0.5 * (jax.devices()[0].memory_stats() or {}).get('bytes_limit', 2**32)
    fixed, took = 2 * sum(x.nbytes for x in jax.tree.leaves(state)), {}
    for kind, size in (('generator', batch), ('step', batch), ('generator', None), ('step', None)):
        started = time.monotonic()
        if size is None:  # doubled; the plan grows with the batch, but for what the state takes
            if kind not in took or 2 * (started + took[kind][0] - begin) > seconds:
                continue
            times = (free - fixed) / max(took[kind][1] - fixed, 2**20)
            size = batch * 2 ** min(int(math.log2(max(times, 1))), 2 if tiny else 8)
            if size == batch:
                continue
        try:
            row = measure(kind, size, compile_all(kind, size))
        except Exception as error:
            append(out, {'kind': kind, 'batch': size, 'error': f'{type(error).__name__}: {error}'[:600]})
            if kind == 'step':
                return  # its state is gone
            continue
        after = matmul_peaks(side)
        peaks = {dtype: max(after[dtype], before[dtype]) for dtype in after}
        # Simulated devices share the cores.
        devices = mesh.size if kind == 'step' and jax.default_backend() != 'cpu' else 1
        row['share_of_peak'] = {dtype: row['flops_per_second'] / devices / peak for dtype, peak in peaks.items()}
        append(out, row | {'peaks': peaks})
        took[kind] = (time.monotonic() - started, max(p['program_bytes'] for p in row['programs']))


# kernels --------------------------------------------------------------------------------------------------------------


def kernels(out: pathlib.Path, results: Results, deadline: float, tiny: bool) -> None:
    """With PEGAN_KERNELS=1: golden numbers, a sixth of the time; operators, a half of what is left; generators."""
    found, begin, on = {}, time.monotonic(), {'PEGAN_KERNELS': '1'}
    golden, table = out / 'parity.0.jsonl', out / 'operators.json'
    golden.unlink(missing_ok=True)
    only = 'stylegan3/upfirdn2d' if tiny else 'stylegan3/*'
    process = worker('--parity-worker', '0/1', '--only', only, '--out', str(out), **on)
    complete = wait([process], begin + (1 if tiny else 1 / 6) * (deadline - begin)) and process.returncode == 0
    found['parity'] = {'complete': complete, 'rows': rows_of(golden)}
    golden.unlink(missing_ok=True)
    results.put('kernels', found)

    half = (deadline - time.monotonic()) / 4
    for dtype in ('bfloat16', 'float32'):
        table.unlink(missing_ok=True)
        options = [
            '--operators',
            'filtered_lrelu',
            'upfirdn2d',
            '--candidates',
            'depthwise',
            'banded',
            'pegan_jax',
            'pallas',
        ]
        options += ['--dtype', dtype, '--json', str(table), *(['--tiny'] if tiny else ['--batch', '8'])]
        process = worker(*options, program=str(ROOT / 'benchmarks' / 'operators.py'))
        complete = wait([process], time.monotonic() + half) and process.returncode == 0
        found[f'operators {dtype}'] = {
            'complete': complete,
            **(json.loads(table.read_text()) if table.exists() else {'rows': []}),
        }
        table.unlink(missing_ok=True)
        results.put('kernels', found)

    configs = KERNELS_TINY if tiny else KERNELS
    for i, spec in enumerate(configs):
        seconds = (deadline - time.monotonic()) / (len(configs) - i)
        found[spec] = speed_of(spec, 'bfloat16', out / 'speed.jsonl', seconds, tiny, **on)
        results.put('kernels', found)


# steps and train ------------------------------------------------------------------------------------------------------


def steps(out: pathlib.Path, results: Results, deadline: float, tiny: bool) -> None:
    in_workers('steps', out, results, deadline, tiny)


def train(out: pathlib.Path, results: Results, deadline: float, tiny: bool) -> None:
    in_workers('train', out, results, deadline, tiny)


def in_workers(part: str, out: pathlib.Path, results: Results, deadline: float, tiny: bool) -> None:
    """Runs a part in a process of its own and puts the rows that it wrote."""
    file = out / f'{part}.jsonl'
    file.unlink(missing_ok=True)
    seconds = str(max(deadline - time.monotonic() - 5, 5))
    process = worker(f'--{part}-worker', '--out', str(file), '--seconds', seconds, *(['--tiny'] if tiny else []))
    complete = wait([process], deadline)
    results.put(part, {'complete': complete and process.returncode == 0, 'rows': rows_of(file)})
    file.unlink(missing_ok=True)


def steps_worker(out: pathlib.Path, seconds: float, tiny: bool) -> None:
    import jax
    import numpy as np
    from bench import compile_timed, random_batch
    from PIL import Image

    from pegan_jax import config as configs
    from pegan_jax.data.worlds import render_world
    from pegan_jax.pixels import to_uint8
    from pegan_jax.train.step import compile_step, data_mesh, device_steps, due_updates, place_batch, replicated_state

    photo = out.with_name('steps_photo.png')
    Image.fromarray(to_uint8(np.asarray(render_world(3, 166, 250, supersample=2)))).save(photo)
    mesh = data_mesh()
    cases = [('cips:tiny', [], 0)] if tiny else [('quickstart', [], 0), ('singan', [f'data.image={photo}'], 5)]
    for (spec, overrides, level), count in itertools.product(cases, INNER_STEPS[:2] if tiny else INNER_STEPS):
        config = configs.load_config(spec, overrides)
        gan = configs.system_module(config.system).build(config)
        first = level * config.model.iters_per_scale + 1 if config.system == 'singan' else 1
        stage, due = gan.stage_at(first, first * config.train.batch_size, 0), due_updates(gan, 1)
        batch = functools.partial(place_batch, random_batch(config, config.train.batch_size), 'jit', mesh)
        step = functools.partial(device_steps, gan=gan, stage=stage, due=due, seed=0)
        state, done = replicated_state(gan, 0, mesh), 0
        lowered = compile_step(step, 'jit', mesh).lower(state, tuple(batch() for _ in range(count)))
        program, costs = compile_timed(lowered)
        for warm in (False, True):
            begin = time.perf_counter()
            while time.perf_counter() - begin < ((0.5 if tiny else 3) if warm else 0.1):
                for _ in range(max(1, 20 // count)):  # batches are handed over as in training
                    state, metrics = program(state, tuple(batch() for _ in range(count)))
                    done += count if warm else 0
                jax.block_until_ready((state, metrics))
        rate = done / (time.perf_counter() - begin)
        append(out, {'config': spec, 'level': level, 'inner_steps': count, 'steps_per_second': rate, **costs})
    photo.unlink()


def train_worker(out: pathlib.Path, seconds: float, tiny: bool) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from PIL import Image

    from pegan_jax import config as configs
    from pegan_jax.data.worlds import horizon_height, render_world
    from pegan_jax.gan import images_of
    from pegan_jax.metrics.distribution import sliced_wasserstein
    from pegan_jax.pixels import image_grid, to_uint8
    from pegan_jax.train.step import compile_step, data_mesh, device_steps, due_updates, place_batch, replicated_state

    begin = time.monotonic()
    config = configs.load_config('cips:tiny' if tiny else 'quickstart')
    gan, mesh, side = configs.system_module(config.system).build(config), data_mesh(), config.data.resolution
    seeds = np.arange(64 if tiny else 4096)

    def draw(seeds: np.ndarray) -> np.ndarray:
        parts = (render_world(part, side, side, supersample=2) for part in np.split(seeds, len(seeds) // 64))
        return np.concatenate([to_uint8(np.asarray(part)) for part in parts])

    reals = draw(seeds)
    drawing = time.monotonic() - begin

    state, batch, rng = (
        replicated_state(gan, config.train.seed, mesh),
        config.train.batch_size,
        np.random.default_rng(0),
    )
    programs, step = {}, 0
    # As many alike in a row as there are between the steps with lazy terms.
    interval = max(u.interval for u in gan.updates)
    finite = jnp.float32(1)
    while time.monotonic() - begin < (20 if tiny else 0.8 * seconds) and step < (32 if tiny else 10**6):
        due = due_updates(gan, step)
        count = 1 if step % interval == 0 else interval - 1
        data = []
        for _ in range(count):
            rows = reals[rng.integers(len(reals), size=batch)]
            data.append(
                place_batch(
                    {'image': np.where(rng.random((batch, 1, 1, 1)) < 0.5, rows, rows[:, :, ::-1])}, 'jit', mesh
                )
            )
        data, key = tuple(data), (due, count)
        if key not in programs:
            one = functools.partial(device_steps, gan=gan, stage=gan.stage_at(step, step * batch, 0), due=due, seed=0)
            programs[key] = compile_step(one, 'jit', mesh).lower(state, data).compile()
        state, metrics = programs[key](state, data)
        finite = jnp.minimum(finite, jnp.min(metrics['finite']))
        step += count
    jax.block_until_ready(state)
    trained = time.monotonic() - begin
    sample = jax.jit(functools.partial(images_of, gan))
    z = [gan.sampler.draw(range(i, i + 64)) for i in range(0, len(reals[:1024]), 64)]
    fakes = np.concatenate([to_uint8(np.asarray(sample(state.sampling, x))) for x in z])
    Image.fromarray(image_grid(np.concatenate([fakes[:32], reals[:16]]), 8)).save(out.with_name('train.png'))
    others = draw(seeds[: len(fakes)] + 10**6)
    append(
        out,
        {
            'config': config.system,
            'finite': float(finite),
            'steps': step,
            'kimg': step * batch / 1000,
            'seconds': trained,
            'seconds_drawing': drawing,
            'swd': sliced_wasserstein(fakes, reals[: len(fakes)]),
            'swd_of_other_worlds': sliced_wasserstein(others, reals[: len(others)]),
            'horizon': {
                name: [float(np.mean(h)), float(np.std(h))]
                for name, h in (('samples', horizon_height(fakes)), ('worlds', horizon_height(reals)))
            },
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=pathlib.Path, required=True, help='folder for device.json and pictures')
    parser.add_argument('--parts', default=','.join(PARTS), help='which parts, in this order')
    parser.add_argument('--seconds', type=float, default=600, help='for all parts together')
    parser.add_argument('--dtypes', default='bfloat16,float32', help='of the part speed, in this order')
    parser.add_argument('--configs', nargs='+', help='of the part speed, in this order; default: all that it knows')
    parser.add_argument('--tiny', action='store_true', help='test size')
    for name in ('parity', 'speed'):
        parser.add_argument(f'--{name}-worker', help=argparse.SUPPRESS)
    for name in ('steps', 'train'):
        parser.add_argument(f'--{name}-worker', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--only', default='*/*', help=argparse.SUPPRESS)
    parser.add_argument('--limit', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--dtype', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.parity_worker:
        return parity_worker(args.parity_worker, args.only, args.limit, args.out)
    if args.speed_worker:
        return speed_worker(args.speed_worker, args.dtype, args.seconds, args.out, args.tiny)
    if args.steps_worker:
        return steps_worker(args.out, args.seconds, args.tiny)
    if args.train_worker:
        return train_worker(args.out, args.seconds, args.tiny)
    args.out.mkdir(parents=True, exist_ok=True)
    names, end = args.parts.split(','), time.monotonic() + args.seconds
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f'--parts {",".join(unknown)}: unknown; choose from {",".join(PARTS)}.')
    results = Results(args.out / 'device.json')
    for i, name in enumerate(names):
        share = PARTS[name] / sum(PARTS[n] for n in names[i:])
        begin = time.monotonic()
        extra = (args.dtypes.split(','), args.configs) if name == 'speed' else ()
        globals()[name](args.out, results, begin + share * (end - begin), args.tiny, *extra)
        print(f'{name}: {time.monotonic() - begin:.0f} s', flush=True)


if __name__ == '__main__':
    main()
