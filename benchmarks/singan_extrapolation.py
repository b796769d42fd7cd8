"""What SinGAN shows outside its frame: one model per world, with zero padding and with both encodings.

python benchmarks/singan_extrapolation.py --out FOLDER [--worlds 16] [--iterations 400] [--samples 192] [--seed 0]

A SinGAN learns one image, so that its part in the extrapolation benchmark is a set of models: each learns the frame of
a world, 32 x 32 pixels, and all are trained in one program, by `vmap`. The windows, the real images and the scores are
those of `python -m pegan_jax analyze extrapolation`. Writes FOLDER/extrapolation.json, and FOLDER/wide.png: images from
their frame to two frames on the right of it, of the first worlds. A second call takes the models that are there;
another choice of --worlds, --iterations, --width or --seed needs another FOLDER.
"""

import argparse
import functools
import json
import pathlib
import time

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from singan_positions import VARIANTS, configuration

from pegan_jax.analysis import extrapolation
from pegan_jax.analysis.drawing import picture_table, rounded
from pegan_jax.config import Config
from pegan_jax.models import singan
from pegan_jax.models.singan_pyramid import make_pyramid
from pegan_jax.pixels import to_uint8
from pegan_jax.scoring.images import digest_of
from pegan_jax.train.state import TrainState, create_state
from pegan_jax.train.step import compile_step, data_mesh, device_steps, due_updates

SIDE = 32
SHOWN = ('SinGAN (zero padding)', '+ CSG', '+ SPE')


def trained(config: Config, frames: np.ndarray) -> TrainState:
    """States of SinGANs that learned uint8 images [N, H, W, 3], stacked; `config` has the first image.

    Model i has the seed train.seed + i and the numbers that `train` gives it.
    """
    gan, mesh = singan.build(config), data_mesh(jax.devices()[:1])
    seeds = jnp.arange(config.train.seed, config.train.seed + len(frames), dtype=jnp.uint32)
    states = jax.jit(jax.vmap(functools.partial(create_state, gan)))(seeds)
    pyramids = [make_pyramid(frame, config.model)[0] for frame in frames]
    reals = {f'scale{s}': jnp.stack(images) for s, images in enumerate(zip(*pyramids, strict=True))}
    states = states.replace(buffers={**states.buffers, 'g': {**states.buffers['g'], 'reals': reals}})
    step, old = 0, None
    while step < gan.num_steps():
        stage = gan.stage_at(step, step, config.train.seed)
        if stage != old:
            print(f'{time.strftime("%H:%M:%S")} {config.model.encoding}: scale {stage.level}', flush=True)
            if old is not None:
                states = jax.jit(jax.vmap(lambda state, old=old, new=stage: gan.enter(state, old, new)))(states)
            one = functools.partial(device_steps, gan=gan, stage=stage, due=due_updates(gan, step))
            program = compile_step(jax.vmap(one), 'jit', mesh, seeded=True)
            batch = {'image': jnp.zeros((len(frames), 1, *stage.size, 3), jnp.uint8)}
        states, metrics = program(states, (batch,), seeds)
        step, old = step + 1, stage
        if not step % 100 and not np.all(metrics['finite']):
            raise SystemExit(f'a loss is not finite at step {step}.')
    return states


def of_states(config: Config, variables: dict, count: int) -> extrapolation.Generate:
    """Image i is sample i // count of model i % count; variables are those of `count` models, stacked."""
    variables = jax.tree.map(jnp.asarray, variables)  # those of a file are NumPy's

    @functools.partial(jax.jit, static_argnums=2)
    def program(index: jax.Array, words: jax.Array, size: tuple[int, int]) -> jax.Array:
        def one(i: jax.Array, word: jax.Array) -> jax.Array:
            own = jax.tree.map(lambda leaf: leaf[i], variables)
            return singan.synthesise(config.model, own, word[None], size=size)[0]

        return jax.vmap(one)(index, words)

    def images(index: np.ndarray, grid: np.ndarray) -> np.ndarray:
        which, words = index % count, singan.draw([int(i) // count for i in index])
        made = extrapolation.cut(lambda size: program(which, words, size), grid.shape[:2], extrapolation.shift(grid))
        return np.clip(made, -1, 1)

    return images


def repeated(images: extrapolation.Generate, count: int) -> extrapolation.Generate:
    """The first `count` images again and again."""
    return lambda index, grid: images(index % count, grid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--worlds', type=int, default=16, help='how many are learnt, each by a model of its own')
    parser.add_argument('--iterations', type=int, default=400, help='per scale')
    parser.add_argument('--width', type=int, default=16, help='channels of every layer')
    parser.add_argument('--samples', type=int, default=192, help='for each score')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    trained_by = {name: getattr(args, name) for name in ('worlds', 'iterations', 'width', 'seed')}
    record = args.out / 'models.json'
    if record.exists() and (there := json.loads(record.read_text())) != trained_by:
        parser.error(f'{args.out} holds models of {there}, not {trained_by}; name another folder.')
    record.write_text(json.dumps(trained_by))

    frames = to_uint8(extrapolation.true_worlds()(np.arange(args.worlds), extrapolation.window(SIDE, 'right', 0)))
    Image.fromarray(frames[0]).save(args.out / 'world.png')
    asked, seconds = {}, {}
    for name in SHOWN:
        config = configuration(
            args.out / 'world.png', (SIDE, SIDE), VARIANTS[name], args.iterations, args.width, args.seed
        )
        there = args.out / f'models-{SHOWN.index(name)}.msgpack'
        if there.exists():
            variables = flax.serialization.msgpack_restore(there.read_bytes())
        else:
            start = time.perf_counter()
            variables = jax.device_get(trained(config, frames).sampling)
            seconds[name] = round(time.perf_counter() - start, 1)
            partial = there.with_suffix('.part')
            partial.write_bytes(flax.serialization.msgpack_serialize(variables))
            partial.rename(there)
            print(f'{name}: {args.worlds} models in {seconds[name]} s', flush=True)
        asked[name] = of_states(config, variables, args.worlds), digest_of(variables)
    for name, images in extrapolation.REFERENCES.items():
        name = 'these worlds' if name == 'other worlds' else name
        asked[name] = repeated(images, args.worlds), f'{name}, {args.worlds} worlds'

    results, rows = {}, {}
    for name, (images, identity) in asked.items():
        found = extrapolation.curves(images, identity, side=SIDE, folder=args.out / 'features', count=args.samples)
        results[name] = {way: {score: rounded(values) for score, values in of.items()} for way, of in found.items()}
        print(name, json.dumps(results[name]), flush=True)
        wide = [images(np.arange(3), extrapolation.window(SIDE, 'right', distance)) for distance in (0.0, 1.0, 2.0)]
        rows[name] = [(f'world {i}', image) for i, image in enumerate(to_uint8(np.concatenate(wide, axis=2)))]
    picture_table('From the frame to two frames on the right of it', rows).save(args.out / 'wide.png')
    told = {'arguments': vars(args), 'seconds of training': seconds, 'results': results}
    (args.out / 'extrapolation.json').write_text(json.dumps(told, indent=2, default=str))


if __name__ == '__main__':
    main()
