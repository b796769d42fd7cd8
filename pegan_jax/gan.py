"""What a system provides: functions, a training step as an ordered tuple of updates, and how its images are made."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.settings import UserError


def size_of(resolution: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a resolution, which is either that pair or the side of a square."""
    return (resolution, resolution) if isinstance(resolution, int) else resolution


@dataclass(frozen=True)
class Stage:
    """Everything that changes shapes or the compiled program; hashable.

    resolution: side of the square images, or (height, width).
    level: scale index (SinGAN, PGGAN).
    flags: names of optional terms that are part of this program.
    """

    resolution: int | tuple[int, int]
    level: int = 0
    flags: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return size_of(self.resolution)


@dataclass(frozen=True)
class Update:
    """One optimiser step of one network.

    net: 'g' or 'd'.
    loss: (params, state, batch, key, stage) -> (loss, (new_state_fields, metrics)). `params` are those of `net`,
      `state` is the whole TrainState, `batch['index']` holds the global row of each sample: random numbers are drawn
      per sample with `sample_keys(key, batch['index'])`, so that they do not depend on the number of devices.
      `new_state_fields` maps TrainState field names ('buffers' and 'stats') to replacements. 'params' is allowed too,
      if an evaluation changes parameters before the optimiser's step; the gradient is then that of the changed ones.
    interval: the update runs on steps divisible by it (lazy regularisation); the trainer multiplies the loss by it.
    part: (stage) -> the key of the network's parameters that this update trains; the others have no gradient and take
      no time, and every part has an optimiser of its own. None: all of them. All updates of a network agree on this.
    """

    net: str
    loss: Callable
    interval: int = 1
    part: Callable | None = None


class Sampler(NamedTuple):
    """How a system makes images from seeds: seeds -> `draw` -> latents -> `map` -> w -> `synthesise` -> images.

    draw: (seeds) -> latents [N, ...], NumPy, such as `functools.partial(latents, z_dim=512)`.
    synthesise: (variables, w, **options) -> images [N, H, W, C], nominally in [-1, 1], not clamped. With num_ws, w has
      one style per layer, [N, num_ws, w_dim]; otherwise it is what `map` gives.
    map: (variables, latents, labels [N, c_dim] or None) -> w [N, w_dim], before truncation. None: latents are styles.
    w_avg: (variables) -> [w_dim], the centre of truncation; None: there is none.
    num_ws: how many styles of an image can be mixed; None: there is one.
    options: names of what `synthesise` takes. 'noise': keys [N], which draw it, or 'const' (what the model holds) or
      'none'. 'grid': coordinates, see `pixelwise`. 'shares' [..., N]: the share of each of the N styles at every
      coordinate, for one image. 'size', 'transform' and others come from `view`.
    view: ((height, width) or None, matrix [3, 3] or None) -> options, for images of a size and of a moved scene; raises
      ValueError for views that do not exist. None: there is one view.
    pixelwise: every pixel is made on its own: `synthesise` takes a `grid` of coordinates [..., 2] of any shape, and
      returns [N, ..., C].
    span: if x is an azimuth over pi, the fraction of the circle that images of training cover; None: it is not.
    """

    draw: Callable
    synthesise: Callable
    map: Callable | None = None
    w_avg: Callable | None = None
    num_ws: int | None = None
    options: tuple[str, ...] = ()
    view: Callable | None = None
    pixelwise: bool = False
    span: float | None = None


class Completer(NamedTuple):
    """How a system completes images with holes.

    inputs: (batch, key) -> {'image' [N, H, W, C] in [-1, 1], 'mask' [N, H, W, 1], and what else `complete` takes}, for
      the pictures of a run; batch as `GAN.prepare` gets it.
    complete: (variables, inputs) -> images [N, H, W, C].
    side_multiple: what the sides of images must be multiples of.
    guided: whether `complete` follows a 'sketch' [N, H, W, 1] among its inputs, 1 on lines.
    """

    inputs: Callable
    complete: Callable
    side_multiple: int = 1
    guided: bool = False


class GAN(NamedTuple):
    """A system as the trainer and the samplers see it."""

    init: Callable  # key -> params, buffers: {'g', and 'd' if there is one}, and stats; for all stages at once
    updates: tuple[Update, ...]  # ordered; repeated entries repeat
    optimizers: dict  # {'g': optax transformation, 'd': ...}, already corrected for lazy regularisation
    sampler: Sampler | Completer  # how images are made with {'params', 'buffers'} of 'g'
    stage_at: Callable  # (step, nimg, seed) -> Stage
    prepare: Callable | None = None  # (batch, key, stage) -> batch, once per step
    ema: Callable | None = None  # (nimg, step) -> decay of G's running mean; None: no EMA
    enter: Callable | None = None  # (state, old_stage, new_stage) -> state, on the host; old_stage None: at a launch
    stages: Callable | None = None  # () -> all stages of a run, compiled before its first step; None: when they come
    num_steps: Callable | None = None  # () -> steps of a whole run; None: those of train.total_kimg
    c_dim: int = 0  # entries of the labels that it takes, one per class; 0: none
    # (seed, numbers [n]) -> {name: [n, ...]}, NumPy: what rows of a batch have besides the data, from files too large
    # for a program. All rows of a step get the same number, that of its first image. None: nothing.
    rows: Callable | None = None


def inputs_of(gan: GAN, index: np.ndarray, rows: Callable, key: jax.Array) -> Any:
    """What `images_of` takes, one for every entry of index [N]: latents of these seeds, or images with holes.

    rows: () -> a batch [N, ...], images as floats; called only for systems that complete images.
    """
    if isinstance(gan.sampler, Completer):
        return jax.jit(gan.sampler.inputs)({**rows(), 'index': index}, key)
    return gan.sampler.draw(index)


def images_of(gan: GAN, variables: dict, inputs: Any, labels: jax.Array | None = None, **options: Any) -> jax.Array:
    """Images [N, H, W, C] of latents, without truncation, or of images with holes.

    Args:
      labels: [N, c_dim], for a system that takes labels; None: the classes in turn.
      options: those of `Sampler.synthesise`.
    """
    sampler = gan.sampler
    if isinstance(sampler, Completer):
        return sampler.complete(variables, inputs)
    if labels is None and gan.c_dim:
        labels = jax.nn.one_hot(jnp.arange(len(inputs)) % gan.c_dim, gan.c_dim)
    w = inputs if sampler.map is None else sampler.map(variables, inputs, labels)
    return sampler.synthesise(variables, per_layer(sampler, w), **options)


def size_of_samples(gan: GAN, variables: dict) -> tuple[int, int]:
    """(height, width) of the images that a generator makes."""
    images = jax.eval_shape(functools.partial(images_of, gan), variables, gan.sampler.draw([0]))
    return images.shape[1:3]


def per_layer(sampler: Sampler, w: jax.Array) -> jax.Array:
    """w [N, w_dim] as `synthesise` takes it: the same style for every layer, if layers may have their own."""
    return w if sampler.num_ws is None or w.ndim == 3 else jnp.repeat(w[:, None], sampler.num_ws, axis=1)


def sample_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One PRNG key per sample, [b], from the step's key and the samples' global rows [b]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def sample_normal(key: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers [b, *shape], float32, drawn per global row."""
    return jax.vmap(lambda k: jax.random.normal(k, shape))(sample_keys(key, index))


def labels_of(batch: dict, c_dim: int) -> jax.Array | None:
    """Labels [b, c_dim] of a batch: those it has, or the classes in it as one-hot vectors; None if c_dim is 0."""
    if not c_dim:
        return None
    label = batch['label']
    return jax.nn.one_hot(label, c_dim) if jnp.issubdtype(label.dtype, jnp.integer) else label


def fewer_rows(batch: dict, divisor: int) -> dict:
    """A part of a batch: the first b // divisor of a device's b rows, at least one.

    Their index counts from 0 over all devices, so that a part of a batch draws the same numbers however it is divided.
    """
    rows = len(batch['index'])
    count = max(rows // divisor, 1)
    few = {name: value[:count] for name, value in batch.items()}
    return {**few, 'index': batch['index'][0] // rows * count + jnp.arange(count)}


def latents(seeds: Iterable[int], z_dim: int) -> np.ndarray:
    """One z per seed, [N, z_dim] float32: `numpy.random.RandomState(seed).randn(1, z_dim)`, the field's convention.

    Raises: ValueError for seeds outside [0, 2^32).
    """
    seeds = list(seeds)
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise UserError(f'seed={wrong[0]}; a seed is a whole number from 0 to 2^32 - 1.')
    return np.concatenate([np.random.RandomState(s).randn(1, z_dim) for s in seeds]).astype(np.float32)


def size_only(size: tuple[int, int] | None, transform: jax.Array | None) -> dict:
    """`Sampler.view` of a system with the option 'size' and no coordinates. Raises: ValueError for a transform."""
    if transform is not None:
        raise UserError('this model has no coordinates to transform; choose a size.')
    return {'size': size}
