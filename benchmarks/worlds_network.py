"""Trains the small feature network of the package: python benchmarks/worlds_network.py [--out FILE.npz].

Every step sees new worlds, each spoilt in one of nine ways or not at all. The network learns which and how much,
and what the world is. The file that comes with the package was made by this command without options.
"""

import argparse
import io
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pegan_jax.data import worlds
from pegan_jax.files import whole
from pegan_jax.weights.worlds import SIDE, WorldsNet

PATH = pathlib.Path(__file__).parents[1] / 'pegan_jax' / 'weights' / 'worlds.npz'
FIRST_SEED = 100_000_000  # worlds that neither trainings nor evaluations use
KINDS = 10
TRUTHS = 1 + 2 + 4 + 6  # horizon, hour (on a circle), season, colours of sky and ground


def low_passed(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian blur, of a periodic image."""
    f = jnp.fft.fftfreq(SIDE)
    gain = jnp.exp(-2 * (jnp.pi * sigma) ** 2 * (f[:, None] ** 2 + f[None, :] ** 2))
    return jnp.fft.ifft2(jnp.fft.fft2(x, axes=(0, 1)) * gain[..., None], axes=(0, 1)).real


def spoilt(x: jax.Array, other: jax.Array, kind: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
    """An image [64, 64, 3] spoilt in one way, as much as t in (0, 1] says; kind 0 leaves it alone."""
    keys = jax.random.split(key, 6)
    noise = jax.random.normal(keys[0], x.shape)
    blocks = x.reshape(4, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 16, 3)
    moved = jax.random.uniform(keys[1], (16,)) < 0.2 + 0.8 * t
    order = jnp.where(moved, jax.random.permutation(keys[2], 16), jnp.arange(16))
    shuffled = blocks[order].reshape(4, 4, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(x.shape)
    column = jax.random.randint(keys[3], (), 8, 56)
    at = jnp.arange(SIDE)
    seam = jnp.where((at < column)[None, :, None], x, other)
    gain, offset = jax.random.normal(keys[4], (2, 1, 1, 3))
    period = 2 ** jax.random.randint(keys[5], (), 1, 4)
    checks = jnp.sign(((at[:, None] // (period // 2) + at[None, :] // (period // 2)) % 2) - 0.5)[..., None]
    step = jnp.where(t < 0.5, 2, 4)
    coarse = x[at // step * step][:, at // step * step]
    ways = [
        x,
        x + 0.5 * t * noise,
        low_passed(x, 0.5 + 3.5 * t),
        shuffled,
        (1 - 0.5 * t) * x + 0.5 * t * other,
        seam,
        x * (1 + 0.3 * t * gain) + 0.3 * t * offset,
        x + 0.3 * t * checks,
        coarse,
        low_passed(noise, 0.3 + 3 * t) * (1 + 4 * t),
    ]
    return jnp.clip(jnp.stack(ways)[kind], -1, 1)


def batch(step: jax.Array, size: int) -> tuple[jax.Array, dict]:
    """Images [size, 64, 64, 3] in steps of 1 / 255, and what is to be told about them."""
    key = jax.random.fold_in(jax.random.key(0), step)
    seeds = FIRST_SEED + step * size + jnp.arange(size)
    images = worlds.render_world(seeds, SIDE, SIDE)
    truth = jax.vmap(lambda seed: worlds.truth(seed, jnp.array([-0.5, 0.8])))(seeds)
    kind = jax.random.choice(jax.random.fold_in(key, 1), KINDS, (size,), p=jnp.array([3] + [1] * 9) / 12)
    t = jax.random.uniform(jax.random.fold_in(key, 2), (size,), minval=0.05)
    keys = jax.random.split(jax.random.fold_in(key, 3), size)
    images = jax.vmap(spoilt)(images, jnp.roll(images, 1, axis=0), kind, t, keys)
    hour = 2 * jnp.pi * truth.hour / 24
    known = jnp.concatenate(
        [
            truth.horizon[:, None], jnp.sin(hour)[:, None], jnp.cos(hour)[:, None],
            jax.nn.one_hot(truth.season, 4), truth.sky[:, 0], truth.ground[:, 1],
        ], axis=1,
    )  # fmt: skip
    return jnp.round((images + 1) * 127.5) / 127.5 - 1, {'kind': kind, 'strength': t, 'truth': known}


def main() -> None:
    """Trains, prints what was learnt, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, default=PATH)
    parser.add_argument('--steps', type=int, default=1500)
    parser.add_argument('--batch', type=int, default=64)
    args = parser.parse_args()
    net = WorldsNet(KINDS + 1 + TRUTHS)
    params = net.init(jax.random.key(1), jnp.zeros((1, SIDE, SIDE, 3)))['params']
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, args.steps), weight_decay=1e-3)

    def loss(params: dict, images: jax.Array, told: dict) -> tuple[jax.Array, dict]:
        _, out = net.apply({'params': params}, images)
        kind = optax.softmax_cross_entropy_with_integer_labels(out[:, :KINDS], told['kind'])
        strength = jnp.where(told['kind'] > 0, (out[:, KINDS] - told['strength']) ** 2, 0)
        # Nothing can be told of noise, and a part of blends and seams.
        whole_image = (told['kind'] != 9) & (told['kind'] != 4) & (told['kind'] != 5)
        truth = jnp.where(whole_image[:, None], (out[:, KINDS + 1 :] - told['truth']) ** 2, 0)
        right = out[:, :KINDS].argmax(1) == told['kind']
        told_apart = {'right': right.mean(), 'truth': truth.mean(), 'horizon': jnp.abs(truth[:, 0]).mean() ** 0.5}
        return kind.mean() + 4 * strength.mean() + 4 * truth.mean(), told_apart

    make = jax.jit(batch, static_argnums=1)

    @jax.jit
    def update(params: dict, state: tuple, images: jax.Array, told: dict) -> tuple:
        (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(params, images, told)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, {'loss': value, **parts}

    state, start = optimizer.init(params), time.perf_counter()
    for step in range(args.steps):
        params, state, parts = update(params, state, *make(step, args.batch))
        if step % 200 == 0 or step == args.steps - 1:
            print(step, f'{time.perf_counter() - start:.0f} s', {k: round(float(v), 4) for k, v in parts.items()})
    kept = {k: v for k, v in params.items() if k not in ('outputs', 'features')}
    kept |= {f'features/{k}': v for k, v in params['features'].items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, **{k: np.asarray(v).astype(np.float16) for k, v in kept.items()})
    with whole(args.out) as unfinished:
        unfinished.write_bytes(stream.getvalue())
    print(args.out, args.out.stat().st_size, 'bytes')


if __name__ == '__main__':
    main()
