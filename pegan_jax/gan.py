"""What a system gives the trainer: a tuple of functions, and a training step as an ordered tuple of updates."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np


def size_of(resolution: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a resolution, which is that or the side of a square."""
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
    loss: (params, state, batch, key, stage) -> (loss, (new_state_fields, metrics)). `params` are of `net`, `state`
      is the whole TrainState, `batch['index']` holds the global row of each sample: random numbers are drawn per sample
      with `sample_keys(key, batch['index'])`, so that they do not depend on the number of devices.
      `new_state_fields` maps TrainState field names (of 'buffers' and 'stats') to replacements; 'params' too, where an
      evaluation changes parameters, before the optimiser's step, whose gradient is then that of the changed ones.
    interval: the update runs on steps divisible by it (lazy regularisation); the trainer multiplies the loss by it.
    part: (stage) -> the key of the network's parameters that this update trains; the others have no gradient and take
      no time, and every part has an optimiser of its own. None: all of them. All updates of a network agree in this.
    """

    net: str
    loss: Callable
    interval: int = 1
    part: Callable | None = None


class GAN(NamedTuple):
    """A system, as the trainer and the samplers see it."""

    init: Callable  # key -> params {'g', 'd'}, buffers {'g', 'd'}, stats; for all stages at once
    updates: tuple[Update, ...]  # ordered; repeated entries repeat
    optimizers: dict  # {'g': optax transformation, 'd': ...}, already corrected for lazy regularisation
    sample: Callable  # (variables, inputs, **options) -> images [N, ..., C] in [-1, 1]
    stage_at: Callable  # (step, nimg, seed) -> Stage
    prepare: Callable | None = None  # (batch, key, stage) -> batch, once per step
    ema: Callable | None = None  # (nimg, step) -> decay of G's running mean; None: no EMA
    enter: Callable | None = None  # (state, old_stage, new_stage) -> state, on the host
    stages: Callable | None = None  # () -> all stages of a run, compiled before its first step; None: when they come
    num_steps: Callable | None = None  # () -> steps of a whole run; None: those of train.total_kimg
    # (batch, key) -> dictionary of the inputs of `sample`, [N, ...], for the pictures of a run, from a batch as
    # `prepare` gets it: for systems that complete images. None: inputs are latents [N, z_dim].
    inputs: Callable | None = None


def sample_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One PRNG key per sample, [b], from the step's key and the samples' global rows [b]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def sample_normal(key: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers [b, *shape], float32, drawn per global row."""
    return jax.vmap(lambda k: jax.random.normal(k, shape))(sample_keys(key, index))


def latents(seeds: Iterable[int], z_dim: int) -> np.ndarray:
    """One z per seed, [N, z_dim] float32: `numpy.random.RandomState(seed).randn(1, z_dim)`, the field's convention."""
    return np.concatenate([np.random.RandomState(s).randn(1, z_dim) for s in seeds]).astype(np.float32)
