"""What any-resolution training (Chai et al. 2022, arXiv 2204.07156) compares with its teacher: patches, at its pixels.

The teacher is a generator that has learned whole images at one size. Patches of the one that learns all scales show a
part of the same scene, finer; reduced to the teacher's pixels, they should be what the teacher shows there.
"""

import jax
import jax.numpy as jnp

from pegan_jax import losses

LOBES = 3  # of the Lanczos filter, as the data are reduced


def reduced(
    patches: jax.Array, offset: jax.Array, scale: jax.Array, size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Patches at the pixels of the whole image, by a Lanczos filter as wide as the reduction.

    Weights of pixels outside of a patch are given to those inside, as at the border of an image that is resized.

    Args:
      patches: [b, h, w, C].
      offset: [b, 2], of the middle of a patch from that of the image: pixels of the image to the right and down.
      scale: [b], pixels of a patch per pixel of the image, at least 1; need not be whole.
      size: (height, width) of the image.
    Returns: [b, *size, C]; and valid [b, *size, 1], 1 where a pixel of the image lies in the patch, else 0.
    """

    def along(n: int, count: int, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Weights [b, count, n] of the n pixels of a patch in each pixel of the image, and which of these it holds."""
        pixel = (jnp.arange(count) - (count - 1) / 2)[None, :] - shift[:, None]  # from the middle of the patch
        sample = (jnp.arange(n) - (n - 1) / 2)[None, :] / scale[:, None]
        t = pixel[:, :, None] - sample[:, None, :]
        weights = jnp.where(jnp.abs(t) < LOBES, jnp.sinc(t) * jnp.sinc(t / LOBES), 0)
        inside = jnp.abs(pixel) + 0.5 <= n / (2 * scale[:, None]) + 1e-3  # offsets are rounded
        total = jnp.sum(weights, axis=2, keepdims=True)
        return jnp.where(inside[:, :, None], weights / jnp.where(inside[:, :, None], total, 1), 0), inside

    rows, tall = along(patches.shape[1], size[0], offset[:, 1])
    columns, wide = along(patches.shape[2], size[1], offset[:, 0])
    x = jnp.einsum('bth,bhwc,bsw->btsc', rows, patches, columns, precision='highest')
    return x, (tall[:, :, None, None] & wide[:, None, :, None]).astype(jnp.float32)


def teacher_distance(patches: jax.Array, whole: jax.Array, offset: jax.Array, scale: jax.Array) -> jax.Array:
    """How far patches [b, h, w, C] are from the teacher's whole images [b, H, W, C] of the same latents: the mean.

    Differs from the paper, whose distance is LPIPS + L1: LPIPS needs a network that does not come with this library.
    In its place stand multi-scale squares of differences and of gradients, `losses.plain_distance`.

    Args: offset, scale: as for `reduced`.
    Returns: scalar; no gradient reaches the teacher's images.
    """
    whole = jax.lax.stop_gradient(whole)
    seen, valid = reduced(patches, offset, scale, whole.shape[1:3])
    return jnp.mean(losses.plain_distance(seen, whole, valid) + losses.masked_mean(jnp.abs(seen - whole), valid))
