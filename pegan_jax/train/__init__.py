"""Training: `run(config, workdir)`."""

from pegan_jax.train.loop import run

__all__ = ['run']
