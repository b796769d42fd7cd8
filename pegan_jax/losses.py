"""Adversarial losses and penalties: pure functions of logits, or of a function that gives logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def logistic_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Logistic loss of D (Goodfellow et al. 2014, eq. 1): mean softplus(-D(real)) + mean softplus(D(fake)).

    Args:
      real_logits, fake_logits: [b] float32.
    Returns: scalar.
    """
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))


def logistic_g(fake_logits: jax.Array) -> jax.Array:
    """Non-saturating loss of G (Goodfellow et al. 2014, section 3): mean softplus(-D(fake)), from logits [b]."""
    return jnp.mean(jax.nn.softplus(-fake_logits))


def r1_penalty(discriminator: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """Gradient penalty on real images (Mescheder et al. 2018, eq. 9): mean over samples of |d sum(D(x)) / dx|^2.

    Args:
      discriminator: images [b, ...] -> logits [b].
      images: [b, ...], everything that the discriminator sees.
    Returns: scalar; the usual loss is `r1_gamma / 2` times it.
    """
    grads = jax.grad(lambda x: jnp.sum(discriminator(x)))(images)
    return jnp.mean(jnp.sum(jnp.square(grads), axis=tuple(range(1, images.ndim))))


def unit_gradient_penalty(grads: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Two-sided gradient penalty (Gulrajani et al. 2017, eq. 3): mean of (|g| - 1)^2, the norm taken over `axis`.

    Args:
      grads: gradients of the critic's sum with respect to points between real and generated images.
      axis: the last for a norm at every pixel (SinGAN); all but the first for one per sample.
    Returns: scalar. Where g is 0, its derivative is 0.
    """
    squares = jnp.sum(jnp.square(grads), axis=axis)
    positive = squares > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)
    return jnp.mean(jnp.square(norm - 1))
