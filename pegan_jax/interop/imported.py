"""What every importer of a foreign program's checkpoints returns."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pegan_jax.config import Config
from pegan_jax.gan import GAN
from pegan_jax.settings import UserError
from pegan_jax.train.state import TrainState
from pegan_jax.weights.contents import MAX_DEPTH, Budget, ForeignFileError, shown

# Arguments with which a program made its networks: the corresponding setting of this library, None if it changes no
# number or shows in the arrays, or the values that this library supports.
Table = dict[str, str | tuple | None]


class Imported(NamedTuple):
    """A converted checkpoint.

    config: that of a run; settings that leave no trace in the file are as published.
    inferred: {setting: value} of those that do.
    sampling: what `pegan_jax.load` needs.
    state: a training state, if the file has one.
    """

    config: Config
    inferred: dict[str, Any]
    sampling: dict
    state: TrainState | None


def settings(what: str, arguments: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """{setting: value} that a network was made with. Raises: ForeignFileError for what this library cannot do."""
    fields = {}
    for name, value in arguments.items():
        if name not in table or (isinstance(table[name], tuple) and value not in table[name]):
            allowed = f'; {table[name]} is supported' if name in table else ''
            raise ForeignFileError(
                f'{what} was made with {shown(name)}={shown(value)}, which is not supported{allowed}.'
            )
        if isinstance(table[name], str):
            fields[table[name]] = value
    return fields


def shape_of(part: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    """The shape of a network's array. Raises: ForeignFileError if it is missing, or has another number of axes."""
    if name not in part:
        raise ForeignFileError(f'is not complete: {name} is missing.')
    if part[name].ndim != ndim:
        raise ForeignFileError(f'{name} has the shape {part[name].shape}; expected {ndim} axes.')
    return part[name].shape


def count_of(part: Mapping[str, np.ndarray], pattern: str) -> int:
    """How many arrays of a network have a name of this pattern."""
    return sum(re.fullmatch(pattern, name) is not None for name in part)


def plain(value: Any, budget: Budget, depth: int = 0) -> Any:
    """Arguments as Python's own objects, also NumPy's numbers and short arrays. What a file repeats counts each time.

    Raises: ForeignFileError for nesting deeper than MAX_DEPTH, and beyond the budget.
    """
    budget.spend(100)  # networks have few arguments
    if depth > MAX_DEPTH:
        raise ForeignFileError(f'has arguments that are nested more than {MAX_DEPTH} deep.')
    if isinstance(value, dict):
        return {shown(k): plain(v, budget, depth + 1) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist() if value.size <= 64 else shown(value)
    if isinstance(value, (list, tuple)):
        return [plain(v, budget, depth + 1) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def check_official(model: Any, needed: Mapping[str, Any], side: int) -> None:
    """Raises: UserError for a model whose settings differ from those that another program has fixed.

    side: that of the square images that it makes.
    """
    if model.size != (side, side):
        needed = {'img_resolution': side, **needed}
    for name, value in needed.items():
        if (found := getattr(model, name)) != value:
            raise UserError(
                f'model.{name}={found!r} is not {value!r}, as the official program has it: with these weights it would '
                'give other images. Use --format safetensors or stablehlo.'
            )


def first_state(gan: GAN, nets: Mapping[str, Mapping[str, Any]], ema: Any, stats: dict) -> TrainState:
    """The state of a run that begins with these networks and new optimisers.

    nets: {'g': {'params', 'buffers'}, 'd': ...}; ema, stats: as in `TrainState`.
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
