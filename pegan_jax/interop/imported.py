"""What every importer of a foreign program's checkpoints gives."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from pegan_jax.config import Config
from pegan_jax.gan import GAN
from pegan_jax.settings import UserError
from pegan_jax.train.state import TrainState


class Imported(NamedTuple):
    """A converted checkpoint.

    config: of a run; settings that leave no trace in the file are as published.
    inferred: {setting: value} of those that do.
    sampling: what `pegan_jax.load` needs.
    state: a training state, where the file has one.
    """

    config: Config
    inferred: dict[str, Any]
    sampling: dict
    state: TrainState | None


def check_official(model: Any, needed: Mapping[str, Any]) -> None:
    """Raises: UserError for a model with other settings than those that another program has at one value."""
    for name, value in needed.items():
        if (found := getattr(model, name)) != value:
            raise UserError(
                f'model.{name}={found!r} is not {value!r}, as the official program has it: with these weights it would '
                'give other images. Use --format safetensors or stablehlo.'
            )


def first_state(gan: GAN, nets: Mapping[str, Mapping[str, Any]], ema: Any, stats: dict) -> TrainState:
    """The state of a run that begins with these networks and new optimisers.

    nets: {'g': {'params', 'buffers'}, 'd': ...}; ema, stats: as of `TrainState`.
    """
    params = {net: part['params'] for net, part in nets.items()}
    return TrainState(
        step=jnp.int32(0),
        nimg=jnp.int32(0),
        params=params,
        buffers={net: part['buffers'] for net, part in nets.items()},
        opt={net: gan.optimizers[net].init(p) for net, p in params.items()},
        ema=ema,
        stats=stats,
    )
