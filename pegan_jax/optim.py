"""Optimisers and running means that several systems share."""

import jax
import jax.numpy as jnp
import optax

from pegan_jax.settings import OptimConfig, TrainConfig


def adam(optim: OptimConfig, lr: float, interval: int = 0) -> optax.GradientTransformation:
    """Adam, corrected for a lazy term every `interval` steps (Karras et al. 2020, appendix B); 0: there is none.

    With ratio = interval / (interval + 1), the rate becomes lr * ratio, and the betas become beta^ratio.
    """
    ratio = interval / (interval + 1) if interval else 1.0
    return optax.adam(lr * ratio, b1=optim.beta1**ratio, b2=optim.beta2**ratio, eps=optim.eps)


def finite_gradients() -> optax.GradientTransformation:
    """Replaces NaN in gradients by 0 and infinities by +-1e5, as NVlabs/stylegan3 does before every step."""

    def clean(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        return jax.tree.map(lambda g: jnp.nan_to_num(g, nan=0.0, posinf=1e5, neginf=-1e5), updates)

    return optax.stateless(clean)


def ema_decay(train: TrainConfig, nimg: jax.Array, ema_kimg: float, ema_rampup: float | None) -> jax.Array | float:
    """Decay per step of a running mean with a half-life in images: 0.5 ^ (batch_size / half-life) (StyleGAN2-ADA).

    Args:
      nimg: images seen before this step.
      ema_kimg: half-life in thousands of images.
      ema_rampup: the half-life is at most this fraction of nimg; None: no such limit. A run that starts from another
        (train.init_from) has no limit either: with one, the mean that it starts from would vanish at once.
    """
    half_life = ema_kimg * 1000
    if ema_rampup is not None and train.init_from is None:
        half_life = jnp.minimum(half_life, nimg * ema_rampup)
    return 0.5 ** (train.batch_size / jnp.maximum(half_life, 1e-8))
