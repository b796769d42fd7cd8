"""Measures a quickstart model against the world it learned: python benchmarks/quickstart.py --model runs/quickstart.

For the training worlds, other worlds, samples of the model and samples of the same model before training: where the
horizon is, and the sliced Wasserstein distance to the training worlds.
"""

import argparse
import pathlib

import jax
import numpy as np

from pegan_jax import Model, load, sample
from pegan_jax.data import worlds
from pegan_jax.metrics.distribution import sliced_wasserstein
from pegan_jax.pixels import to_uint8


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', type=pathlib.Path, required=True)
    parser.add_argument('--count', type=int, default=256, help='images of each kind (default 256)')
    args = parser.parse_args()
    model, seeds = load(args.model), np.arange(args.count)
    params, buffers, _ = model.gan.init(jax.random.key(0))
    untrained = Model(model.config, model.gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    size = model.config.data.size
    images = {
        'training worlds': to_uint8(worlds.render_world(seeds, *size)),
        'other worlds': to_uint8(worlds.render_world(seeds + model.config.data.num_worlds, *size)),
        'samples': to_uint8(sample(model, seeds)),
        'before training': to_uint8(sample(untrained, seeds)),
    }
    print(f'{"":16} {"horizon: mean":>14} {"std":>6} {"5 %":>6} {"95 %":>6} {"SWD":>7}')
    for name, batch in images.items():
        y = np.asarray(worlds.horizon_height(batch))
        low, high = np.quantile(y, (0.05, 0.95))
        distance = sliced_wasserstein(batch, images['training worlds'])
        print(f'{name:16} {y.mean():14.3f} {y.std():6.3f} {low:6.2f} {high:6.2f} {distance:7.1f}')


if __name__ == '__main__':
    main()
