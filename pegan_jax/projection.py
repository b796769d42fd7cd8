"""Projection into w and w+: finds the latent whose image is nearest to a given one (Karras et al. 2020, appendix D)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pegan_jax import coords, ops
from pegan_jax.gan import per_layer
from pegan_jax.losses import plain_distance
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Model, frame_grid, render
from pegan_jax.settings import UserError

W_SAMPLES, W_SEED = 10_000, 123  # for the statistics of w
RAMP_UP, RAMP_DOWN = 0.05, 0.25  # ramps of the learning rate, as fractions of the steps
NOISE, NOISE_END = 0.05, 0.75  # deviation of the noise on w in units of that of w, and when it ends
MAPS_WEIGHT = 1e5  # weight of the correlations of noise maps
SIDE = 256  # pixels of the shorter side at which larger images are compared

Watch = Callable[[int, float, Callable[[], np.ndarray]], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """What was found.

    ws: [num_ws, w_dim]; image: its image, float32 [H, W, C]; distance: the one at the end, which `measure` names.
    maps: the noise maps that were found, for `with_maps`; {} if the model has none.
    """

    ws: np.ndarray
    image: np.ndarray
    distance: float
    measure: str
    maps: dict[str, np.ndarray]


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
    watch: Watch | None = None,
) -> Projection:
    """Finds the w whose image is nearest to an image.

    It runs Adam on w with the published ramps of its rate and of the noise on w. With maps of constant noise
    (StyleGAN2), it also finds those that the image depends on, under a penalty on their correlations.

    Args:
      image: float32 [H, W, C] in [-1, 1], of the size and channels that the model makes.
      space: 'w', one style for all layers, or 'w+', one for each.
      seed: that of the noise.
      label: for the statistics of w, with a model with labels; as in `sample`.
      distance: (images [N, H, W, C], images) -> [N], differentiable, such as LPIPS; None: `plain_distance`.
      measure: the name of the distance.
      watch: called after every step with its number, the distance, and a function that gives the image [H, W, C].
    Raises: ValueError for an image of another size, and for a model without w.
    """
    sampler = model.sampler
    start, deviation = _start(model, space, steps, label)
    if distance is None:
        distance, measure = plain_distance, 'multi-scale squares of differences and gradients'
    given = jax.tree.map(jnp.asarray, model.variables)  # a checkpoint's are NumPy's
    options = {'noise': 'const'} if 'noise' in sampler.options else {}
    maps = _noise_maps(given) if options else {}
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2**32 - 1), max(len(maps), 1))
    random = {name: jax.random.normal(key, x.shape) for (name, x), key in zip(maps.items(), keys, strict=False)}
    target = jnp.asarray(image, jnp.float32)[None]

    def picture(found: dict, noise: jax.Array | float = 0.0) -> jax.Array:
        variables = _with_maps(given, found['maps'])
        return sampler.synthesise(variables, per_layer(sampler, found['w'] + noise), **options)

    program, made = jax.make_jaxpr(picture, return_shape=True)(found := {'w': start, 'maps': random})
    if target.shape != made.shape:
        raise UserError(f'the image is {target.shape[1:]}, but the model makes {made.shape[1:]}; resize it before.')
    # MS-PIE draws noise anew for sizes other than the coarsest, so that nothing reads its maps then.
    inputs = jax.tree.unflatten(jax.tree.structure(found), program.jaxpr.invars)
    read = {id(x) for line in program.eqns for x in line.invars}
    random = {name: x for name, x in random.items() if id(inputs['maps'][name]) in read}

    def far(found: dict, noise: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.sum(distance(compared(picture(found, noise)), compared(target)))

    show = jax.jit(picture)
    found = _search(far, start, random, deviation, steps, learning_rate, seed, watch, lambda found: show(found)[0])
    result = show(found)
    final = float(jax.jit(lambda a, b: jnp.sum(distance(compared(a), compared(b))))(result, target))
    ws = np.asarray(per_layer(sampler, found['w'])[0])
    maps = jax.device_get(found['maps'])
    return Projection(ws, np.asarray(result[0]), final, measure or 'the distance given', maps)


def compared(images: jax.Array) -> jax.Array:
    """Images [N, H, W, C] as distances see them: larger ones are reduced by area to a shorter side of SIDE pixels."""
    height, width = images.shape[1:3]
    factor = max(min(height, width) / SIDE, 1)
    halvings = int(math.log2(factor))
    if factor == 2**halvings:
        return functools.reduce(lambda x, _: ops.halve(x), range(halvings), images)
    return ops.adaptive_average_pool(images, (round(height / factor), round(width / factor)))


def _start(model: Model, space: str, steps: int, label: Any) -> tuple[jax.Array, float]:
    """The mean of w, [1, w_dim] or [1, num_ws, w_dim], and how far samples are from it."""
    sampler = model.sampler
    if sampler.map is None or sampler.w_avg is None:
        raise UserError(f'{model.config.system} has no w to project into; use stylegan2, stylegan3, cips or mspie.')
    if space not in ('w', 'w+'):
        raise UserError(f"space={space!r}; use 'w', one style for all layers, or 'w+', one for each.")
    if space == 'w+' and sampler.num_ws is None:
        raise UserError(f"space='w+': {model.config.system} of this configuration has one style; use 'w'.")
    if steps < 1:
        raise UserError(f'steps={steps} must be at least 1.')
    numbers = np.random.RandomState(W_SEED).randn(W_SAMPLES, *sampler.draw([0]).shape[1:])
    w = np.asarray(model.map(numbers.astype(np.float32), model.labels(label, W_SAMPLES)))
    mean = w.mean(0)
    deviation = float(np.sqrt(np.sum((w - mean) ** 2) / W_SAMPLES))
    start = jnp.asarray(mean)[None]
    return (per_layer(sampler, start) if space == 'w+' else start), deviation


def _search(
    far: Callable,
    start: jax.Array,
    maps: dict,
    deviation: float,
    steps: int,
    learning_rate: float,
    seed: int,
    watch: Watch | None,
    show: Callable,
    *data: Any,
) -> dict:
    """{'w', 'maps'} where `far` is least: (found, noise on w, key, *data) -> a distance. show: (found) -> [H, W, C].

    data: arrays kept out of the compiled program, so that searches with others of the same shapes reuse it.
    """
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(found: dict, state: Any, key: jax.Array, t: jax.Array, data: tuple) -> tuple:
        ramp = jnp.minimum(1.0, (1 - t) / RAMP_DOWN)
        rate = learning_rate * (0.5 - 0.5 * jnp.cos(jnp.pi * ramp)) * jnp.minimum(1.0, t / RAMP_UP)
        strength = deviation * NOISE * jnp.square(jnp.maximum(0.0, 1 - t / NOISE_END))
        noise = strength * jax.random.normal(key, found['w'].shape)

        def loss(found: dict) -> tuple[jax.Array, jax.Array]:
            distance = far(found, noise, jax.random.fold_in(key, 1), *data)
            return distance + MAPS_WEIGHT * sum(map(_correlations, found['maps'].values())), distance

        (_, distance), grads = jax.value_and_grad(loss, has_aux=True)(found)
        state = state._replace(hyperparams={'learning_rate': rate})
        updates, state = optimizer.update(grads, state)
        found = optax.apply_updates(found, updates)
        return {'w': found['w'], 'maps': jax.tree.map(_normalised, found['maps'])}, state, distance

    # Copies, because the first step donates its arguments.
    found = {'w': jnp.array(start), 'maps': jax.tree.map(_normalised, maps)}
    state = optimizer.init(found)
    for i in range(steps):
        key = jax.random.fold_in(jax.random.key(seed), i)
        found, state, distance = step(found, state, key, jnp.float32(i / steps), data)
        if watch is not None:
            watch(i, float(distance), lambda found=found: np.asarray(show(found)))
    return found


# By coordinates: from any set of pixels -------------------------------------------------------------------------------


class Observed(NamedTuple):
    """What is known of an image: colours [K, C] in [-1, 1], each the mean of those at its points [K, S, 2].

    pixels: which pixels of training these are, bool [H, W]; all of them if blocks are seen.
    """

    points: np.ndarray
    colours: np.ndarray
    pixels: np.ndarray


def observe(model: Model, image: np.ndarray, given: str | np.ndarray, seed: int = 0) -> Observed:
    """The given part of an image [H, W, C] in [-1, 1], which has the size of training.

    Args:
      given: 'scattered:0.25' is a quarter of its pixels, chosen by `seed`; 'foveated:0.25' is as many, chosen by
        `coords.foveated`; 'coarse:4' is the means of its blocks of 4 x 4 pixels; an array bool [H, W] is True at the
        given pixels.
    Raises: UserError for other words, shares and shapes, and for a system that makes whole images.
    """
    if not model.sampler.pixelwise:
        raise UserError(
            f'{model.config.system} makes whole images: it is fitted to all pixels; single ones are for a cips.'
        )
    (height, width), grid = image.shape[:2], frame_grid(model)
    if grid.shape[:2] != (height, width):
        raise UserError(f'the image is {height} x {width}, but the model makes {grid.shape[:2]}; resize it before.')
    index = np.arange(height * width).reshape(height, width)
    if isinstance(given, np.ndarray):
        if given.shape != (height, width) or not given.any():
            raise UserError(f'the pixels given are {given.sum()} of {given.shape}; give some of {(height, width)}.')
        chosen = given.astype(bool)
    else:
        kind, _, number = given.partition(':')
        try:
            amount = float(number)
        except ValueError:
            amount = 0.0
        if kind == 'coarse' and amount > 1 and amount == int(amount) and not (height % amount or width % amount):
            n = int(amount)
            blocks = index.reshape(height // n, n, width // n, n).swapaxes(1, 2).reshape(-1, n * n)
            colours = image.reshape(-1, image.shape[-1])[blocks].mean(1)
            return Observed(grid.at(blocks), colours, np.ones((height, width), bool))
        if kind not in ('scattered', 'foveated') or not 0 < amount <= 1:
            raise UserError(
                f'{given!r} is nothing to give; use scattered:SHARE or foveated:SHARE, above 0 and at most 1, or '
                f'coarse:N, a whole number that divides both sides, {height} and {width}.'
            )
        std = 0.4 if kind == 'foveated' else 1e6  # a Gaussian so wide is uniform
        picked, _ = coords.foveated(jax.random.key(seed), coords.pixel_grid(height, width), amount, std=std)
        chosen = np.zeros((height, width), bool)
        chosen.flat[np.asarray(picked)] = True
    return Observed(grid.at(index[chosen])[:, None], image[chosen], chosen)


def picture_of(observed: Observed) -> np.ndarray:
    """A picture of what is given, uint8 [H, W, C]: other pixels are grey, blocks have their means."""
    size, samples = observed.pixels.shape, observed.points.shape[1]
    colours = to_uint8(observed.colours)
    out = np.full((*size, colours.shape[-1]), 128, np.uint8)
    if samples == 1:
        out[observed.pixels] = colours
        return out
    n = math.isqrt(samples)
    return colours.reshape(size[0] // n, size[1] // n, -1).repeat(n, 0).repeat(n, 1)


def project_points(
    model: Model,
    points: np.ndarray,
    colours: np.ndarray,
    *,
    space: Literal['w', 'w+'] = 'w',
    steps: int = 500,
    learning_rate: float = 0.1,
    seed: int = 0,
    batch: int = 4096,
    watch: Watch | None = None,
) -> Projection:
    """Finds the w that has given colours at given coordinates, which need not be a grid; `render` shows the rest.

    Like `project`, for a model that computes single coordinates; the distance is the mean square of the differences.

    Args:
      points: any coordinates, [K, 2], or [K, S, 2] where the mean colour of S points is seen, as in a large pixel.
      colours: [K, C] in [-1, 1].
      batch: if there are more points, this many are drawn for every step.
      watch: as in `project`; its image, like `Projection.image`, is that of the training frame.
    Raises: ValueError for other shapes, and for a system that makes whole images or has no w.
    """
    points, colours = np.asarray(points, np.float32), np.asarray(colours, np.float32)
    points = points[:, None] if points.ndim == 2 else points
    channels = model.config.data.channels
    if points.ndim != 3 or points.shape[-1] != 2 or colours.shape != (len(points), channels) or not len(points):
        raise UserError(
            f'points {points.shape} and colours {colours.shape}; give [K, 2] or [K, S, 2], and [K, {channels}].'
        )
    if not model.sampler.pixelwise:
        raise UserError(f'{model.config.system} makes whole images; project all of one, or use a cips.')
    start, deviation = _start(model, space, steps, None)
    sampler, variables = model.sampler, jax.tree.map(jnp.asarray, model.variables)
    size = max(batch // points.shape[1], 1)

    def colour(variables: dict, w: jax.Array, at: jax.Array) -> jax.Array:
        return sampler.synthesise(variables, per_layer(sampler, w), grid=at)[0]

    def far(
        found: dict, noise: jax.Array, key: jax.Array, variables: dict, at: jax.Array, wanted: jax.Array
    ) -> jax.Array:
        if len(at) > size:
            index = jax.random.randint(key, (size,), 0, len(at))
            at, wanted = at[index], wanted[index]
        return jnp.mean(jnp.square(colour(variables, found['w'] + noise, at).mean(1) - wanted))

    frame = frame_grid(model)
    at_frame = jnp.asarray(frame.at(np.arange(frame.shape[0] * frame.shape[1]).reshape(frame.shape[:2])))
    show = jax.jit(lambda found: colour(variables, found['w'], at_frame))
    data = (variables, jnp.asarray(points), jnp.asarray(colours))
    found = _search(far, start, {}, deviation, steps, learning_rate, seed, watch, show, *data)
    ws = per_layer(sampler, found['w'])[0]
    final = float(np.mean(np.square(render(model, ws, points).mean(1) - colours)))
    measure = 'mean square of the differences at the points'
    return Projection(np.asarray(ws), np.asarray(show(found)), final, measure, {})


# Maps of noise --------------------------------------------------------------------------------------------------------


def _noise_maps(variables: dict) -> dict[str, jax.Array]:
    leaves = jax.tree.leaves_with_path(variables.get('buffers', {}))
    named = {jax.tree_util.keystr(path, simple=True, separator='/'): x for path, x in leaves}
    return {name: x for name, x in named.items() if name.endswith('noise_const')}


def with_maps(model: Model, maps: Mapping[str, np.ndarray]) -> Model:
    """The model with the noise maps of a `Projection`. Raises: UserError for maps of another model."""
    own = _noise_maps(model.variables)
    if wrong := [name for name, x in maps.items() if name not in own or own[name].shape != x.shape]:
        raise UserError(f'the noise map {wrong[0]} is of another model; take styles that were projected with this one.')
    return dataclasses.replace(model, variables=_with_maps(model.variables, dict(maps)))


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
    """Squared means of the products with the left and upper neighbours, with wrap-around, at all sizes down to 8."""
    total = 0.0
    while True:
        total += sum(jnp.square(jnp.mean(noise * jnp.roll(noise, 1, axis))) for axis in (0, 1))
        if min(noise.shape) <= 8 or noise.shape[0] % 2 or noise.shape[1] % 2:
            return total
        noise = ops.halve(noise[None, ..., None])[0, ..., 0]
