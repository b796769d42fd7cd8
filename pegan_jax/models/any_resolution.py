"""Any-resolution training (Chai et al. 2022, arXiv 2204.07156): compares patches with a teacher, at its pixels.

The teacher is a generator that has learned whole images at one size. The generator that learns all scales makes patches
that show a part of the same scene, finer. Reduced to the teacher's pixels, they should be what the teacher shows there.
"""

import jax
import jax.numpy as jnp

from pegan_jax import losses

LOBES = 3  # of the Lanczos filter; data are reduced with the same


def reduced(
    patches: jax.Array, offset: jax.Array, scale: jax.Array, size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Patches at the pixels of the whole image, by a Lanczos filter as wide as the reduction.

    Pixels inside a patch take over the weights of those outside, as at the border of an image that is resized.

    Args:
      patches: [b, h, w, C].
      offset: [b, 2], from the middle of the image to that of a patch, in pixels of the image, right and down.
      scale: [b], pixels of a patch per pixel of the image, at least 1; need not be whole.
      size: (height, width) of the image.
    Returns: [b, *size, C]; and valid [b, *size, 1], 1 where a pixel of the image lies in the patch, else 0.
    """

    def along(n: int, count: int, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Weights [b, count, n] of a patch's n pixels in each pixel of the image; which of these the patch holds."""
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
    Multi-scale squares of differences and of gradients, `losses.plain_distance`, are used instead.

    Args: offset, scale: as for `reduced`.
    Returns: scalar; no gradient reaches the teacher's images.
    """
    whole = jax.lax.stop_gradient(whole)
    seen, valid = reduced(patches, offset, scale, whole.shape[1:3])
    return jnp.mean(losses.plain_distance(seen, whole, valid) + losses.masked_mean(jnp.abs(seen - whole), valid))
