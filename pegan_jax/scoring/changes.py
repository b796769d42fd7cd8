"""How a generator's images change with its input: path lengths of latents, moves of coordinates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords
from pegan_jax.gan import per_layer, size_of_samples
from pegan_jax.metrics import equivariance
from pegan_jax.metrics.names import Score
from pegan_jax.metrics.paths import lerp, slerp
from pegan_jax.scoring.images import Generator, Images, local_sharding, noise_options
from pegan_jax.scoring.networks import Network, exactly
from pegan_jax.settings import UserError
from pegan_jax.weights import perceptual

EPSILON, MAX_SIDE = 1e-4, 256  # for path lengths
TOGETHER = 4  # images that are moved in one way
MOVES = {('eqt', 'int'): 'eqt50k_int', ('eqt', 'frac'): 'eqt50k_frac', ('eqr', ''): 'eqr50k'}


def check(generator: Generator, score: Score, system: str) -> None:
    """Raises: UserError for a system without what is changed, and for truncation, which these scores do not allow."""
    if generator.truncation_psi != 1 or generator.truncation_cutoff is not None:
        raise UserError(
            f'{score.name} is of images without truncation, as published; leave out --truncation-psi and '
            '--truncation-cutoff, or score it by itself.'
        )
    if score.kind in ('eqt', 'eqr'):
        if generator.gan.sampler.view is None:
            raise UserError(f'{score.name}: {system} has no coordinates to move.')
        generator.gan.sampler.view(None, coords.rotate(0.5) if score.kind == 'eqr' else jnp.eye(3))
    elif score.path.startswith('w') and generator.gan.sampler.map is None:
        raise UserError(f'{score.name}: {system} has no w; use {score.name.replace("_w", "_z")}.')


def rows(generator: Generator, score: Score, network: Network) -> Images:
    """What a score of CHANGES is computed from: `lengths` or `moves`."""
    return lengths(generator, score, network) if score.kind == 'ppl2' else moves(generator, score)


def lengths(generator: Generator, score: Score, network: Network, batch_size: int = 16) -> Images:
    """Rows are distances []: LPIPS of images at t and at t + EPSILON of a path, divided by EPSILON^2.

    As in NVlabs/stylegan3 `ppl2_wend`, path i is between the latents of the seeds 2 i and 2 i + 1: a line in w, or
    a great circle in z, whose points have the length z_dim^(1/2) here. With path 'end', t is 0; with 'full', t is
    uniform in [0, 1]. Both images have the same noise, and are neither truncated nor quantised; those of more than 256
    pixels are averaged to 256.

    Args:
      network: 'lpips' from `open_network`.
    """
    sampler = generator.gan.sampler
    batch_size += -batch_size % len(jax.local_devices())
    variables, params = jax.device_put((generator.variables, network.params), local_sharding())

    @jax.jit
    @exactly
    def distances(variables: dict, params: dict, z: tuple, labels: jax.Array | None, *at: jax.Array) -> jax.Array:
        def style(z: jax.Array) -> jax.Array:
            return z if sampler.map is None else sampler.map(variables, z, labels)

        t, seeds = at
        ends = (t[:, None], t[:, None] + EPSILON)
        if score.path.startswith('w'):
            w = [lerp(*map(style, z), end) for end in ends]
        else:
            w = [style(slerp(*z, end) * z[0].shape[-1] ** 0.5) for end in ends]
        noise = noise_options(sampler, generator.noise, seeds)
        images = [_small(sampler.synthesise(variables, per_layer(sampler, x), **noise)) for x in w]
        return perceptual.lpips(params, *images) / EPSILON**2

    def read(start: int, stop: int) -> np.ndarray:
        rows = []
        for i in range(start, stop, batch_size):
            index = np.arange(i, i + batch_size)
            z = tuple(sampler.draw(generator.seed + 2 * index + end) for end in (0, 1))
            if not np.issubdtype(z[0].dtype, np.floating) or z[0].ndim != 2:
                raise UserError(f'{score.name}: there is nothing between two latents of this system, which are noise.')
            seeds = generator.seed + index
            labels = None if generator.labels is None else generator.labels(int(seeds[0]), batch_size)
            t = [np.random.RandomState(k).uniform() if score.path.endswith('full') else 0 for k in seeds]
            inputs = (z, labels, np.array(t, np.float32), seeds.astype(np.uint32))
            rows.append(np.asarray(distances(variables, params, *jax.device_put(inputs, local_sharding('rows')))))
        return np.concatenate(rows)[: stop - start]

    about = generator.about | {'path': score.path, 'epsilon': EPSILON}
    return Images(None, lambda start, stop: repr((generator.key, about, network.identity, start, stop)), read, about)


def moves(generator: Generator, score: Score) -> Images:
    """Rows are (sum of squared differences, how many values) of an image of moved coordinates and the moved image.

    See `metrics.equivariance`; as published, each 4 images are moved in one way, drawn from the first's number.
    """
    sampler, kind = generator.gan.sampler, MOVES[score.kind, score.path]
    variables, unit = jax.device_put(generator.variables), min(size_of_samples(generator.gan, generator.variables))

    @jax.jit
    @exactly
    def image(
        variables: dict, z: jax.Array, labels: jax.Array | None, seeds: jax.Array, matrix: jax.Array
    ) -> jax.Array:
        w = z if sampler.map is None else sampler.map(variables, z, labels)
        options = noise_options(sampler, generator.noise, seeds) | sampler.view(None, matrix)
        return sampler.synthesise(variables, per_layer(sampler, w), **options)

    def read(start: int, stop: int) -> np.ndarray:
        found = []
        for i in range(start, stop, TOGETHER):
            seeds = generator.seed + np.arange(i, i + TOGETHER)
            labels = None if generator.labels is None else generator.labels(int(seeds[0]), TOGETHER)
            render = functools.partial(image, variables, sampler.draw(seeds), labels, seeds.astype(np.uint32))
            u = np.random.RandomState(int(seeds[0])).uniform(size=() if score.kind == 'eqr' else 2)
            squares, count = equivariance.compare(kind, render, render(jnp.eye(3)), u, unit)
            found.append(np.stack([np.asarray(squares, np.float64), np.full(TOGETHER, float(count))], axis=1))
        return np.concatenate(found)[: stop - start]

    about = generator.about | {'moves': kind}
    return Images(None, lambda start, stop: repr((generator.key, about, start, stop)), read, about)


def _small(images: jax.Array) -> jax.Array:
    """Averaged by whole factors to a shorter side of at most 256."""
    n, height, width, channels = images.shape
    if (factor := min(height, width) // MAX_SIDE) > 1:
        height, width = height // factor, width // factor
        images = images[:, : height * factor, : width * factor]
        images = images.reshape(n, height, factor, width, factor, channels).mean(axis=(2, 4))
    return images
