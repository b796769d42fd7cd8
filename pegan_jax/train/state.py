"""The training state: one pytree, replicated on every device."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from pegan_jax.config import Config
from pegan_jax.gan import GAN


class TrainState(flax.struct.PyTreeNode):
    """Everything a run needs to resume, except the configuration; random keys are functions of (seed, step, sample).

    step: optimiser steps taken, int32 [].
    nimg: real images shown, over all devices and processes, int32 [].
    params, buffers: {'g': ..., 'd': ... if there is one}; checkpoints hold buffers too, but no gradient reaches them.
    params['teacher']: variables of a generator that stays as it is, if a loss of 'g' asks for one.
    opt: {'g': ..., 'd': ...} too, Optax states; for a network that is trained by parts, one per part.
    ema: running mean of params['g'], or None.
    stats: running statistics of losses.
    """

    step: jax.Array
    nimg: jax.Array
    params: dict
    buffers: dict
    opt: dict
    ema: Any
    stats: dict

    @property
    def sampling(self) -> dict:
        """Variables to sample with: {'params': ema (params['g'] if there is none), 'buffers': buffers['g']}."""
        return {'params': self.params['g'] if self.ema is None else self.ema, 'buffers': self.buffers['g']}


def without_files(config: Config) -> Config:
    """The same networks, made without opening a file that only training needs."""
    if not hasattr(config.model, 'vgg'):
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vgg=None))


def create_state(gan: GAN, seed: int) -> TrainState:
    """The state before step 0. Pure; compile it with the desired sharding."""
    # Steps use fold_in(key(seed), step) with step < 2^31; the largest fold is free for the initial parameters.
    params, buffers, stats = gan.init(jax.random.fold_in(jax.random.key(seed), 2**32 - 1))
    by_part = {update.net for update in gan.updates if update.part is not None}

    def optimizer_state(net: str) -> Any:
        init = gan.optimizers[net].init
        return {k: init(v) for k, v in params[net].items()} if net in by_part else init(params[net])

    return TrainState(
        step=jnp.int32(0),
        nimg=jnp.int32(0),
        params=params,
        buffers=buffers,
        opt={net: optimizer_state(net) for net in gan.optimizers},
        ema=None if gan.ema is None else jax.tree.map(jnp.copy, params['g']),
        stats=stats,
    )
