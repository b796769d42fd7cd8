"""From an image to the latent whose image is nearest: projection into w and w+ (Karras et al. 2020, appendix D)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pegan_jax.gan import per_layer
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

W_SAMPLES, W_SEED = 10_000, 123  # of the statistics of w
RAMP_UP, RAMP_DOWN = 0.05, 0.25  # of the learning rate, in parts of the steps
NOISE, NOISE_END = 0.05, 0.75  # deviation of the noise on w in units of that of w, and when it ends
MAPS_WEIGHT = 1e5  # of the correlations of noise maps
SIDE = 256  # pixels: larger images are compared at this size


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """What was found.

    ws: [num_ws, w_dim]; image: its image, float32 [H, W, C]; distance: at the end, as named by `measure`.
    variables: of the model with the noise maps that were found.
    """

    ws: np.ndarray
    image: np.ndarray
    distance: float
    measure: str
    variables: dict


def plain_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multi-scale squares of differences and of their gradients, without a network: images [N, H, W, C] -> [N].

    The mean of (a - b)^2, and of the squares of the differences between neighbours of a - b along both axes, at the
    size of the images and at every half of it down to 8 pixels.
    """
    difference, total, scales = a - b, 0.0, 0
    while True:
        parts = (difference, jnp.diff(difference, axis=1), jnp.diff(difference, axis=2))
        total, scales = total + sum(jnp.mean(jnp.square(p), axis=(1, 2, 3)) for p in parts), scales + 1
        if min(difference.shape[1:3]) < 16:
            return total / scales
        difference = _halved(difference)


def _halved(x: jax.Array) -> jax.Array:
    """Means of 2 x 2; an odd last row or column is left out."""
    h, w = (side // 2 for side in x.shape[1:3])
    return jnp.mean(x[:, : 2 * h, : 2 * w].reshape(len(x), h, 2, w, 2, -1), axis=(2, 4))


def project(
    model: Model,
    image: np.ndarray,
    *,
    space: Literal['w', 'w+'] = 'w',
    steps: int = 1000,
    learning_rate: float = 0.1,
    seed: int = 0,
    label: Any = None,
    distance: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    measure: str | None = None,
    watch: Callable[[int, float, Callable[[], np.ndarray]], None] | None = None,
) -> Projection:
    """Finds the w whose image is nearest to an image.

    Adam on w with the published ramps of its rate and of the noise on w. With maps of constant noise (StyleGAN2), these
    are found too, under a penalty on their correlations.

    Args:
      image: float32 [H, W, C] in [-1, 1], of the size and channels that the model makes.
      space: 'w', one style for all layers, or 'w+', one for each.
      seed: of the noise.
      label: of the statistics of w, for a model with labels; as in `sample`.
      distance: (images [N, H, W, C], images) -> [N], differentiable, such as LPIPS; None: `plain_distance`.
      measure: its name.
      watch: called after every step with its number, the distance, and a function that gives the image [H, W, C].
    Raises: ValueError for an image of another size, and for a model without w.
    """
    sampler = model.sampler
    if sampler.map is None or sampler.w_avg is None:
        raise UserError(f'{model.config.system} has no w to project into; use stylegan2, stylegan3, cips or mspie.')
    if space not in ('w', 'w+'):
        raise UserError(f"space={space!r}; use 'w', one style for all layers, or 'w+', one for each.")
    if steps < 1:
        raise UserError(f'steps={steps} must be at least 1.')
    if distance is None:
        distance, measure = plain_distance, 'multi-scale squares of differences and gradients'
    numbers = np.random.RandomState(W_SEED).randn(W_SAMPLES, *sampler.draw([0]).shape[1:])
    w = np.asarray(model.map(numbers.astype(np.float32), model.labels(label, W_SAMPLES)))
    mean = w.mean(0)
    deviation = float(np.sqrt(np.sum((w - mean) ** 2) / W_SAMPLES))
    start = jnp.asarray(mean)[None]
    if space == 'w+':
        start = per_layer(sampler, start)
    given = jax.tree.map(jnp.asarray, model.variables)  # a checkpoint's are NumPy's
    options = {'noise': 'const'} if 'noise' in sampler.options else {}
    maps = _noise_maps(given) if options else {}
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2**32 - 1), max(len(maps), 1))
    random = {name: jax.random.normal(key, x.shape) for (name, x), key in zip(maps.items(), keys, strict=False)}
    target = jnp.asarray(image, jnp.float32)[None]

    def picture(found: dict, noise: jax.Array | float = 0.0) -> jax.Array:
        variables = _with_maps(given, found['maps'])
        return sampler.synthesise(variables, per_layer(sampler, found['w'] + noise), **options)

    shape = jax.eval_shape(picture, {'w': start, 'maps': random}).shape
    if target.shape != shape:
        raise UserError(f'the image is {target.shape[1:]}, but the model makes {shape[1:]}; resize it before.')
    halvings = max(0, (min(shape[1:3]) // SIDE).bit_length() - 1)

    def seen(images: jax.Array) -> jax.Array:
        return functools.reduce(lambda x, _: _halved(x), range(halvings), images)

    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(found: dict, state: Any, key: jax.Array, t: jax.Array) -> tuple:
        ramp = jnp.minimum(1.0, (1 - t) / RAMP_DOWN)
        rate = learning_rate * (0.5 - 0.5 * jnp.cos(jnp.pi * ramp)) * jnp.minimum(1.0, t / RAMP_UP)
        strength = deviation * NOISE * jnp.square(jnp.maximum(0.0, 1 - t / NOISE_END))
        noise = strength * jax.random.normal(key, found['w'].shape)

        def loss(found: dict) -> tuple[jax.Array, jax.Array]:
            far = jnp.sum(distance(seen(picture(found, noise)), seen(target)))
            return far + MAPS_WEIGHT * sum(map(_correlations, found['maps'].values())), far

        (_, far), grads = jax.value_and_grad(loss, has_aux=True)(found)
        state = state._replace(hyperparams={'learning_rate': rate})
        updates, state = optimizer.update(grads, state)
        found = optax.apply_updates(found, updates)
        return {'w': found['w'], 'maps': jax.tree.map(_normalised, found['maps'])}, state, far

    found = {'w': start, 'maps': jax.tree.map(_normalised, random)}
    state, show = optimizer.init(found), jax.jit(picture)
    for i in range(steps):
        key = jax.random.fold_in(jax.random.key(seed), i)
        found, state, far = step(found, state, key, jnp.float32(i / steps))
        if watch is not None:
            watch(i, float(far), lambda found=found: np.asarray(show(found)[0]))
    result = show(found)
    final = float(jax.jit(lambda a, b: jnp.sum(distance(seen(a), seen(b))))(result, target))
    ws = np.asarray(per_layer(sampler, found['w'])[0])
    variables = _with_maps(given, found['maps'])
    return Projection(ws, np.asarray(result[0]), final, measure or 'the distance given', variables)


# Maps of noise --------------------------------------------------------------------------------------------------------


def _noise_maps(variables: dict) -> dict[str, jax.Array]:
    leaves = jax.tree.leaves_with_path(variables.get('buffers', {}))
    named = {jax.tree_util.keystr(path, simple=True, separator='/'): x for path, x in leaves}
    return {name: x for name, x in named.items() if name.endswith('noise_const')}


def _with_maps(variables: dict, maps: dict[str, jax.Array]) -> dict:
    if not maps:
        return variables

    def new(path: tuple, x: jax.Array) -> jax.Array:
        return maps.get(jax.tree_util.keystr(path, simple=True, separator='/'), x)

    return {**variables, 'buffers': jax.tree_util.tree_map_with_path(new, variables['buffers'])}


def _normalised(noise: jax.Array) -> jax.Array:
    """With mean 0 and mean square 1."""
    noise = noise - jnp.mean(noise)
    return noise * jax.lax.rsqrt(jnp.mean(jnp.square(noise)))


def _correlations(noise: jax.Array) -> jax.Array:
    """Squared means of the products with the neighbours to the right and below, around, at all sizes down to 8."""
    total = 0.0
    while True:
        total += sum(jnp.square(jnp.mean(noise * jnp.roll(noise, 1, axis))) for axis in (0, 1))
        if min(noise.shape) <= 8 or noise.shape[0] % 2 or noise.shape[1] % 2:
            return total
        noise = _halved(noise[None, ..., None])[0, ..., 0]
