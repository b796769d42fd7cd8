"""How time and memory grow with resolution, batch, devices and seeds.

python benchmarks/growth.py resolution [--smallest 64] [--largest 2048] [--what generator] [--config cips:tiny]
python benchmarks/growth.py batch
python benchmarks/growth.py devices
python benchmarks/growth.py seeds --config cips:tiny

resolution: one image of the generator, and a training step of one image, at 64, 128, ... pixels. batch: both at the
configuration's own size. devices: a step of eight images on simulated devices, which share the processor. seeds: so
many images of `sample`. A row ends after a run that took longer than --seconds. Seconds are the best of --repeats.
Bytes are those of one device's program, arguments and results among them; for seeds, the most that the process held,
which is why it takes one configuration.

The exponent is the slope of the logarithms over the largest three points, where fixed costs hide it least. That of
resolution is against the number of pixels: 1 is linear, 2 is the cost of comparing every pixel with every other.
"""

import argparse
import json
import pathlib
from collections.abc import Callable

import bench
import jax
import numpy as np

from pegan_jax import config as configs
from pegan_jax.gan import GAN
from pegan_jax.machine import best_seconds
from pegan_jax.sampling.model import Model
from pegan_jax.sampling.pictures import sample
from pegan_jax.train.state import TrainState
from pegan_jax.train.step import data_mesh, replicated_state

MAKERS = (
    'cips:tiny', 'creps:small', 'dcgan:celeba64,tiny', 'pggan:celeba128,tiny', 'mspie:a,tiny', 'stylegan2:small',
    'stylegan3:t,small', 'stylegan3:r,small', 'pconv:tiny', 'deepfill:small',
)  # fmt: skip
CHANNEL_BASE = 8192  # at every size: of 2048 pixels on a side, a layer has 4 channels
Point = tuple[float, int]  # seconds and bytes
Measure = Callable[[str, int, int], Point]  # of a configuration, a size and how many repeats


def at_size(spec: str, side: int) -> list[str]:
    """Changes to a configuration that make its images of so many pixels on a side."""
    model = configs.load_config(spec).model
    changes = [f'model.img_resolution={side}', f'data.resolution={side}']
    bases = [field for field in ('channel_base', 'd_channel_base') if hasattr(model, field)]
    changes += [f'model.{field}={CHANNEL_BASE}' for field in bases]
    sizes = side.bit_length() - 2  # 4, 8, ... pixels
    if widths := getattr(model, 'd_channels', None):
        changes.append(f'model.d_channels={(*widths, *8 * widths[-1:])[:sizes]}')
    if hasattr(model, 'base_channels'):  # of a DCGAN at 4 pixels, and of its discriminator at the most
        changes += ['model.base_channels=512', f'model.d_base_channels={4096 // side}']
    if hasattr(model, 'stage_kimg'):
        changes += [f'model.stage_kimg={(0.1,) * (sizes - 1)}', f'train.total_kimg={0.1 * sizes:.1f}']
    return changes


def made(spec: str, side: int | None = None, devices: int = 1) -> tuple[configs.Config, GAN, TrainState]:
    config = configs.load_config(spec, at_size(spec, side) if side else ())
    gan = configs.system_module(config.system).build(config)
    return config, gan, replicated_state(gan, config.train.seed, data_mesh(jax.devices()[:devices]))


def generator(spec: str, batch: int, repeats: int, side: int | None = None) -> Point:
    config, gan, state = made(spec, side)
    found = bench.bench_generator(config, gan, state.sampling, batch, repeats)
    return found['seconds'], found['program_bytes']


def step(spec: str, batch: int, repeats: int, side: int | None = None, devices: int = 1) -> Point:
    """The mean over the lazy updates, at the largest size of a run."""
    config, gan, state = made(spec, side, devices)
    mesh = data_mesh(jax.devices()[:devices])
    planned = bench.largest(bench.programs_of(config, gan))
    found = bench.bench_step(config, gan, planned, state, mesh, batch, repeats)
    return found['seconds'], found['program_bytes']


def samples(spec: str, count: int, repeats: int) -> Point:
    config, gan, state = made(spec)
    model = Model(config, gan, state.sampling, step=0)
    return best_seconds(lambda: sample(model, range(count)), repeats), bench.peak_bytes()


# Axis -> sizes, and what is measured of a configuration at one of them.
AXES: dict[str, tuple[tuple[int, ...], dict[str, Measure]]] = {
    'resolution': (
        (64, 128, 256, 512, 1024, 2048),
        {
            'generator': lambda spec, side, repeats: generator(spec, 1, repeats, side),
            'step': lambda spec, side, repeats: step(spec, 1, repeats, side),
        },
    ),
    'batch': ((1, 2, 4, 8, 16, 32), {'generator': generator, 'step': step}),
    'devices': ((1, 2, 4, 8), {'step': lambda spec, devices, repeats: step(spec, 8, repeats, devices=devices)}),
    'seeds': ((16, 64, 256, 1024), {'sample': samples}),
}


def exponent(sizes: list[float], values: list[float]) -> float:
    """Slope of the logarithms over the largest three."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0])


def row(what: Measure, spec: str, sizes: list[int], power: int, args: argparse.Namespace) -> dict:
    """power: of a size, of what grows; 2 for the side of an image."""
    points = []
    for size in sizes:
        points.append(what(spec, size, args.repeats))
        if points[-1][0] > args.seconds:
            break
    grown, (seconds, held) = [size**power for size in sizes[: len(points)]], zip(*points, strict=True)
    fitted = {} if len(points) < 3 else {'time': exponent(grown, seconds), 'memory': exponent(grown, held)}
    return {'sizes': sizes[: len(points)], 'seconds': seconds, 'bytes': held, 'exponents': fitted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('axis', choices=AXES)
    parser.add_argument('--config', nargs='+', help='default: the small one of every system')
    parser.add_argument('--what', nargs='+', help='generator, step, sample; default: what the axis has')
    parser.add_argument('--smallest', type=int, default=1, help='the first size')
    parser.add_argument('--largest', type=int, default=2048, help='the last size')
    parser.add_argument('--seconds', type=float, default=20.0, help='a row ends after a run that took longer')
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--json', type=pathlib.Path, help='also write the numbers here')
    args = parser.parse_args()
    sizes, kinds = AXES[args.axis]
    if unknown := {*(args.what or ())} - {*kinds}:
        parser.error(f'{args.axis} has {", ".join(kinds)}; leave out {", ".join(sorted(unknown))}.')
    if args.axis == 'seeds' and (count := len(args.config or ())) != 1:
        parser.error(f'seeds takes one --config, not {count}: memory is the most that the process held.')
    chosen = [size for size in sizes if args.smallest <= size <= args.largest]
    if not chosen:
        parser.error(f'--smallest={args.smallest} and --largest={args.largest} leave none of {sizes}.')
    power = 2 if args.axis == 'resolution' else 1
    if args.axis == 'devices':
        jax.config.update('jax_num_cpu_devices', max(chosen))
    everything = {'machine': bench.machine(), 'axis': args.axis, 'rows': {}}
    print('; '.join(map(str, everything['machine'].values())))
    for spec in args.config or MAKERS:
        for name in args.what or kinds:
            found = row(kinds[name], spec, chosen, power, args)
            everything['rows'][f'{spec} {name}'] = found
            cells = [
                f'{size}: {seconds:.3g} s, {held / 2**20:,.1f} MiB'
                for size, seconds, held in zip(found['sizes'], found['seconds'], found['bytes'], strict=True)
            ]
            slopes = [f'{key} {value:.2f}' for key, value in found['exponents'].items()]
            print(f'{spec} {name}', *cells, *slopes, sep=' | ', flush=True)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=2))


if __name__ == '__main__':
    main()
