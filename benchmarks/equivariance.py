"""EQ-T, EQ-T_frac and EQ-R of every row of StyleGAN3's table: python benchmarks/equivariance.py --out runs/equivariance

Of random weights: first one evaluation sets every layer's running magnitude, and images are scaled to a deviation of
0.5, so that rows can be compared. Or of trained runs: --model NAME=WORKDIR, which may be repeated. Numbers go to
OUT/equivariance.json as they come; what is there is not measured again. StyleGAN2 itself, row A, has no coordinates.
"""

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pegan_jax import load
from pegan_jax.config import load_config, system_module
from pegan_jax.files import whole
from pegan_jax.gan import GAN, per_layer
from pegan_jax.metrics.equivariance import METRICS, equivariance


def moved_images(gan: GAN, variables: dict, scale: float = 1.0) -> Callable:
    """(keys, transform) -> images, as `equivariance` asks for them."""
    sampler, z_dim = gan.sampler, gan.sampler.draw([0]).shape[1]

    @jax.jit
    def images(keys: jax.Array, transform: jax.Array) -> jax.Array:
        z = jax.vmap(lambda key: jax.random.normal(key, (z_dim,)))(keys)
        c = jax.nn.one_hot(jnp.arange(len(z)) % gan.c_dim, gan.c_dim) if gan.c_dim else None
        ws = per_layer(sampler, sampler.map(variables, z, c))
        return scale * sampler.synthesise(variables, ws, transform=transform)

    return images


def random_weights(name: str, seed: int) -> tuple[GAN, dict, float, int]:
    """A generator, its variables, the factor on its images, and pixels per unit."""
    config = load_config(name)
    system, key = system_module(config.system), jax.random.key(seed)
    gan, model = system.build(config), config.model
    params, buffers, _ = jax.jit(gan.init)(key)
    variables = {'params': params['g'], 'buffers': buffers['g']}
    unit = min(model.size)
    if config.system == 'stylegan3':
        settled = system_module('stylegan3').Generator(system.Config(**{**vars(model), 'magnitude_ema_beta': 0.0}))
        ws = gan.sampler.map(variables, jax.random.normal(key, (16, model.z_dim)), None)
        ws = per_layer(gan.sampler, ws)
        run = functools.partial(settled.apply, update_emas=True, method='synthesise', mutable=['buffers'])
        _, new = jax.jit(run)(variables, ws)
        variables = {**variables, **new}
    images = moved_images(gan, variables)(jax.random.split(key, 16), jnp.eye(3))
    return gan, variables, 0.5 / float(jnp.std(images)), unit


def main() -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--rows', default='bcdefghtr')
    parser.add_argument('--run', default='small', help='of configs/stylegan3.py: small (default), tiny, ffhqu256, ...')
    parser.add_argument('--model', action='append', default=[], metavar='NAME=WORKDIR', help='a trained run')
    parser.add_argument('--count', type=int, default=64, help='images of each number (default 64)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='of random weights')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / 'equivariance.json'
    rows = json.loads(results.read_text()) if results.is_file() else {}
    jobs = {f'{row},{args.run} seed {seed}': (row, seed) for row in args.rows for seed in args.seeds}
    if args.model:
        jobs = {name: path for name, path in (model.split('=', 1) for model in args.model)}
    for name, job in jobs.items():
        if name not in rows:
            start = time.time()
            if args.model:
                model = load(job)
                gan, variables, scale, unit = model.gan, model.variables, 1.0, min(model.config.data.size)
            else:
                gan, variables, scale, unit = random_weights(f'stylegan3:{job[0]},{args.run}', job[1])
            images = moved_images(gan, variables, scale)
            rows[name] = equivariance(images, args.count, jax.random.key(0), unit=unit)
            rows[name] |= {'images': args.count, 'seconds': round(time.time() - start, 1)}
            with whole(results) as unfinished:
                unfinished.write_text(json.dumps(rows, indent=1) + '\n')
        print(f'{name:24}', '  '.join(f'{metric} {rows[name][metric]:6.2f}' for metric in METRICS), flush=True)


if __name__ == '__main__':
    main()
