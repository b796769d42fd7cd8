"""What every importer of a foreign program's checkpoints gives."""

from typing import Any, NamedTuple

from pegan_jax.config import Config
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
