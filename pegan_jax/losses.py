"""Losses and penalties: pure functions of logits, of a function that returns logits, or of images."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pegan_jax import ops


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


def hinge_d(real_scores: jax.Array, fake_scores: jax.Array) -> jax.Array:
    """Hinge loss of D, halved (Yu et al. 2019): mean max(0, 1 - D(real)) / 2 + mean max(0, 1 + D(fake)) / 2."""
    return (jnp.mean(jax.nn.relu(1 - real_scores)) + jnp.mean(jax.nn.relu(1 + fake_scores))) / 2


def hinge_g(fake_scores: jax.Array) -> jax.Array:
    """The loss of G to go with `hinge_d`: -mean D(fake)."""
    return -jnp.mean(fake_scores)


def least_squares_d(real_scores: jax.Array, fake_scores: jax.Array) -> jax.Array:
    """Least-squares loss of D (Mao et al. 2017, eq. 9): mean (D(real) - 1)^2 / 2 + mean D(fake)^2 / 2."""
    return (jnp.mean(jnp.square(real_scores - 1)) + jnp.mean(jnp.square(fake_scores))) / 2


def least_squares_g(fake_scores: jax.Array) -> jax.Array:
    """Least-squares loss of G, not halved: mean (D(fake) - 1)^2."""
    return jnp.mean(jnp.square(fake_scores - 1))


def input_gradients(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """d sum(function(x)) / dx, to be differentiated again: its matmuls and convolutions have full float32 precision.

    By default a TPU multiplies float32 numbers in one pass of bfloat16, and recent GPUs in TF32.
    """
    return values_and_input_gradients(function, x)[1]


def values_and_input_gradients(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """function(x) and its `input_gradients`."""

    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = function(x)
        return jnp.sum(values), values

    with jax.default_matmul_precision('highest'):
        grads, values = jax.grad(total, has_aux=True)(x)
    return values, grads


def r1_penalty(discriminator: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """Gradient penalty on real images (Mescheder et al. 2018, eq. 9): mean over samples of |d sum(D(x)) / dx|^2.

    Args:
      discriminator: images [b, ...] -> logits [b].
      images: [b, ...], everything that the discriminator sees.
    Returns: scalar; the usual loss is `r1_gamma / 2` times it.
    """
    return r1_penalty_and_logits(discriminator, images)[0]


def r1_penalty_and_logits(
    discriminator: Callable[[jax.Array], jax.Array], images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`r1_penalty`, and the logits [b] that it is computed from."""
    logits, grads = values_and_input_gradients(discriminator, images)
    return jnp.mean(jnp.sum(jnp.square(grads), axis=tuple(range(1, images.ndim)))), logits


def path_lengths(synthesise: Callable[[jax.Array], jax.Array], ws: jax.Array, noise: jax.Array) -> jax.Array:
    """How far images move with their styles (Karras et al. 2020, section 3.2): the length of J^T y, per sample.

    The length is the root of the mean over layers of |d sum(image * y) / dw|^2, with y = noise / sqrt(H W).

    Args:
      synthesise: ws [b, num_ws, w_dim] -> images [b, H, W, C].
      noise: standard normal [b, H, W, C].
    Returns: [b].
    """
    y = noise / math.sqrt(noise.shape[1] * noise.shape[2])
    grads = input_gradients(lambda ws: synthesise(ws) * y, ws)
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(grads), axis=2), axis=1))


def path_length_penalty(lengths: jax.Array, mean: jax.Array, decay: float) -> tuple[jax.Array, jax.Array]:
    """Mean of (length - m)^2 over samples, with m the running mean after this batch (Karras et al. 2020, eq. 4).

    The gradient passes through m, as in NVlabs/stylegan3 `StyleGAN2Loss`.

    Args:
      lengths: [b].
      mean: the previous running mean, [].
      decay: m = mean + decay * (mean of the lengths - mean).
    Returns: the penalty, and m without gradient.
    """
    m = mean + decay * (jnp.mean(lengths) - mean)
    return jnp.mean(jnp.square(lengths - m)), jax.lax.stop_gradient(m)


def plain_distance(a: jax.Array, b: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Multi-scale squares of differences and of their gradients, without a network: images [N, H, W, C] -> [N].

    The mean of (a - b)^2, and of the squares of the differences between neighbours of a - b along both axes, at the
    size of the images and at every half of it down to 8 pixels. A side of one pixel has no neighbours.

    Args:
      valid: [N, H, W, 1] of zeros and ones. Means are over the pixels, differences and squares of 2 x 2 pixels that
        are ones throughout, and over the sizes that have any. None: all are ones.
    """
    difference, totals, counts = a - b, [], []
    while True:
        parts = (difference, jnp.diff(difference, axis=1), jnp.diff(difference, axis=2))
        masks = (
            (None,) * 3 if valid is None else (valid, valid[:, 1:] * valid[:, :-1], valid[:, :, 1:] * valid[:, :, :-1])
        )
        totals.append(sum(masked_mean(jnp.square(p), m) for p, m in zip(parts, masks, strict=True) if p.size))
        if valid is not None:
            counts.append(jnp.max(valid, axis=(1, 2, 3)))
        if min(difference.shape[1:3]) < 16:
            return sum(totals) / (len(totals) if valid is None else jnp.maximum(sum(counts), 1))
        difference = ops.halve(difference)
        if valid is not None:
            valid = jnp.floor(ops.halve(valid))


def masked_mean(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Means of x [N, H, W, C] over the pixels where valid [N, H, W, 1] is 1, or over all: [N]; 0 if there are none."""
    if valid is None:
        return jnp.mean(x, axis=(1, 2, 3))
    count = jnp.sum(valid, axis=(1, 2, 3)) * x.shape[-1]
    return jnp.sum(x * valid, axis=(1, 2, 3)) / jnp.maximum(count, 1)


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
