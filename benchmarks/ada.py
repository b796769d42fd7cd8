"""Does augmentation keep D from learning a small set by heart: python benchmarks/ada.py --out runs/ada

StyleGAN2 (`stylegan2:small`) learns 500 procedural worlds at 32 pixels, with adaptive augmentation and without, on one
budget. At every milestone OUT/ada.json gets, of each run: D's mean logits of the images that it trained with, of worlds
that it never saw and of samples, none of them augmented; the sliced Wasserstein distance of samples to unseen worlds;
and the mean distance of the sorted heights of their horizons. A stopped study goes on where it was.
"""

import argparse
import functools
import json
import pathlib

import jax
import numpy as np

from pegan_jax.config import load_config, system_module
from pegan_jax.data import worlds
from pegan_jax.files import whole
from pegan_jax.gan import images_of
from pegan_jax.metrics.distribution import sliced_wasserstein
from pegan_jax.models import stylegan_training
from pegan_jax.pixels import to_uint8
from pegan_jax.train import loop

WORLDS, COUNT, BATCH = 500, 1000, 20


def configuration(arm: str, seed: int, kimg: float) -> list[str]:
    """Overrides of a run; ada_kimg is that of short runs, as the published 500 are longer than this one."""
    return [
        f'model.augment={arm}', 'model.ada_kimg=100', 'model.r1_gamma=None', f'data.num_worlds={WORLDS}',
        'data.flip=False', f'train.seed={seed}', f'train.total_kimg={kimg}', 'train.checkpoint_every=0',
        'train.keep_best=0', 'train.sample_every=0',
    ]  # fmt: skip


def measured(gan: object, model: object, state: object, seen: np.ndarray, unseen: np.ndarray) -> dict[str, float]:
    """One row of the study; images uint8 [N, 32, 32, 3]."""
    score = jax.jit(functools.partial(stylegan_training.score, model))
    sample = jax.jit(functools.partial(images_of, gan))

    def logits(images: np.ndarray) -> float:
        parts = np.split(images / np.float32(127.5) - 1, len(images) // BATCH)
        return float(np.mean([score(state.params['d'], state.buffers['d'], x, None) for x in parts]))

    latents = np.split(gan.sampler.draw(range(COUNT)), COUNT // BATCH)
    samples = to_uint8(np.concatenate([np.asarray(sample(state.sampling, z)) for z in latents]))
    heights = [np.sort(np.asarray(worlds.horizon_height(images))) for images in (samples, unseen)]
    return {
        'logits/train': logits(seen),
        'logits/held_out': logits(unseen),
        'logits/samples': logits(samples),
        'augment_p': float(state.stats.get('augment_p', 0)),
        'swd': sliced_wasserstein(samples, unseen),
        'horizon_error': float(np.mean(np.abs(heights[0] - heights[1]))),
    }


def main() -> None:
    """Trains and measures; prints every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--kimg', type=float, default=96.0, help='of every run (default 96)')
    parser.add_argument('--milestones', type=int, default=8)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / 'ada.json'
    rows = json.loads(results.read_text()) if results.is_file() else {}
    seen, unseen = (
        to_uint8(worlds.render_world(first + np.arange(n), 32, 32)) for first, n in ((0, WORLDS), (WORLDS, COUNT))
    )
    for milestone in range(1, args.milestones + 1):
        kimg = args.kimg * milestone / args.milestones
        for seed in args.seeds:
            for arm in ('ada', 'noaug'):
                name, key = f'{arm}-{seed}', f'{kimg:g}'
                if key in rows.get(name, {}):
                    continue
                config = load_config('stylegan2:small', configuration(arm, seed, kimg))
                state = loop.run(config, args.out / name)
                if int(state.step) < config.train.total_steps:  # it was asked to stop
                    return
                if int(state.step) > config.train.total_steps:
                    raise SystemExit(f'{args.out / name} is trained beyond {key} kimg; name another --out.')
                gan = system_module(config.system).build(config)
                row = measured(gan, config.model, jax.device_get(state), seen, unseen)
                rows.setdefault(name, {})[key] = row
                with whole(results) as unfinished:
                    unfinished.write_text(json.dumps(rows, indent=1) + '\n')
                print(f'{name:8} {key:>6} kimg ', '  '.join(f'{k} {v:.4g}' for k, v in row.items()), flush=True)


if __name__ == '__main__':
    main()
