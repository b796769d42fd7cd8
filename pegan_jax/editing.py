"""Uses of a trained SinGAN and its image (Shaham et al. 2019, section 4): edit, harmonise, paint, enlarge, animate.

`model` is what `pegan_jax.load` returns for a run of the system 'singan'; images are float32 [H, W, C] in [-1, 1], with
the channels of the learned image.
"""

import functools
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage

from pegan_jax import animation
from pegan_jax.files import as_path
from pegan_jax.models import singan, singan_pyramid
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Model
from pegan_jax.sampling.pictures import check_size
from pegan_jax.settings import UserError

HARMONISE_RADIUS, EDIT_RADIUS = 7, 20  # radii in pixels of the disk that widens a mask
FPS = 10  # frames per second of an animation


def _parts(model: Model) -> tuple[singan.Config, dict, dict]:
    if not isinstance(model.config.model, singan.Config):
        raise UserError(f'the model is of system {model.config.system!r}; editing needs a SinGAN, such as mountain.')
    return model.config.model, model.variables['params'], model.variables['buffers']


def real_image(model: Model) -> np.ndarray:
    """The image that the model learned, [H, W, C], at its finest scale."""
    _, _, buffers = _parts(model)
    return np.asarray(buffers['reals'][f'scale{len(buffers["reals"]) - 1}'])


def reconstruct(model: Model) -> np.ndarray:
    """The model's own version of its image, [H, W, C]."""
    config, params, buffers = _parts(model)
    noises = singan.fixed_noises(config, buffers, len(buffers['reals']))
    return np.asarray(singan.generate_trained(config, params, buffers, noises)[0])


def samples(
    model: Model, seeds: Sequence[int], *, size: tuple[int, int] | None = None, start_scale: int = 0
) -> np.ndarray:
    """Random images of any size, [N, H, W, C]; the arguments are those of `singan.synthesise`."""
    _parts(model)
    if not len(seeds):
        raise UserError('seeds is empty; give at least one, such as seeds=[0].')
    options = {'size': None if size is None else check_size(size), 'start_scale': start_scale}
    return np.concatenate([np.asarray(model.synthesise(singan.draw([seed]), **options)) for seed in seeds])


# Injection ------------------------------------------------------------------------------------------------------------


def inject(model: Model, image: np.ndarray, scale: int, seed: int = 0) -> np.ndarray:
    """Runs the scales from `scale` on, with `image` instead of what the scales below would give.

    Scales that training has not reached only enlarge.

    Args:
      image: [h, w, C], of any size; it is resized to that of the model's image.
      scale: 1 to the finest; the coarser, the freer.
      seed: that of the noise.
    Returns: [H, W, C].
    Raises: ValueError for a scale that does not exist, for one other than that for which a model with a palette was
      trained, and for an image of other channels.
    """
    config, params, buffers = _parts(model)
    sizes, ratio = singan.sizes_of(buffers), singan.ratio_of(config, buffers)
    finest = len(sizes) - 1
    if not 1 <= scale <= finest:
        raise UserError(f'scale={scale}; an image can enter at scales 1 to {finest} of this model.')
    if np.ndim(image) != 3 or np.shape(image)[-1] != config.img_channels:
        raise UserError(
            f'the image has the shape {np.shape(image)}; this model knows images [h, w, {config.img_channels}].'
        )
    x = jnp.asarray(image, jnp.float32)[None]
    if x.shape[1:3] != sizes[finest]:
        x = singan_pyramid.resize_quantised(x, size=sizes[finest])
    if config.paint_scale is not None and scale != config.paint_scale:
        raise UserError(f'scale={scale}; this model was trained for paintings at scale {config.paint_scale}.')
    if config.rules == 'mmgen':  # its sizes are not powers of the ratio
        below = singan_pyramid.resize_quantised(x, size=sizes[scale - 1])
    else:
        below = singan_pyramid.resize_quantised(x, factor=ratio ** (finest - scale + 1))
        below = below[:, : sizes[scale - 1][0], : sizes[scale - 1][1]]
    previous = singan.hop(config, buffers, scale, below, sizes[scale], ratio)
    noises = singan.draw_noises(config, jax.random.key(seed)[None], sizes[scale:], first=scale)
    return np.asarray(singan.generate_trained(config, params, buffers, noises, previous, first=scale)[0])


def soft_mask(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask [H, W] (anything but 0 is inside) widened by a disk, blurred (sigma 5) and stretched to [0, 1], float64.

    Raises: ValueError for a mask that is empty or full.
    """
    inside = np.asarray(mask) != 0
    if inside.ndim != 2 or inside.all() or not inside.any():
        raise UserError(
            f'the mask has shape {inside.shape} and {inside.mean():.0%} of it are inside; expected [H, W] with both '
            'zeros and other values.'
        )
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    wide = ndimage.binary_dilation(inside, x**2 + y**2 <= radius**2)
    soft = ndimage.gaussian_filter(wide.astype(np.float64), 5, truncate=4, mode='nearest')
    low, high = soft.min(), soft.max()
    return (soft - low) / (high - low) if high > low else np.ones_like(soft)


def edit(
    model: Model, image: np.ndarray, mask: np.ndarray, scale: int, seed: int = 0, *, radius: int = EDIT_RADIUS
) -> np.ndarray:
    """Makes an edited copy of the model's image look natural: `inject`, blended in by `soft_mask` of the changed part.

    Args:
      image: the edited copy, [h, w, C]; mask: [h, w], not 0 where it was changed.
      radius: EDIT_RADIUS, or HARMONISE_RADIUS for an object that was pasted in.
    Returns: [H, W, C]: (1 - M) image of the model + M injected.
    Raises: ValueError as `inject` and `soft_mask`, or if the shapes of image and mask differ.
    """
    if np.shape(image)[:2] != np.shape(mask)[:2]:
        raise UserError(
            f'the image has {np.shape(image)[:2]} pixels and the mask {np.shape(mask)[:2]}; they must agree.'
        )
    real = real_image(model)
    fitted = Image.fromarray((np.asarray(mask) != 0).astype(np.uint8)).resize(
        real.shape[1::-1], Image.Resampling.NEAREST
    )
    soft = soft_mask(np.asarray(fitted), radius)[..., None].astype(np.float32)
    return (1 - soft) * real + soft * inject(model, image, scale, seed)


# Super-resolution -----------------------------------------------------------------------------------------------------


def super_resolve(model: Model, seed: int = 0) -> np.ndarray:
    """The model's image enlarged by `model.sr_factor`: its finest block again and again, each time a little larger.

    Returns: [floor(F H), floor(F W), C].
    Raises: ValueError for a model that was not trained for this, or not to the end.
    """
    config, params, buffers = _parts(model)
    if config.sr_factor is None:
        raise UserError(
            'the model has no model.sr_factor; for super-resolution train one with --config singan:sr '
            '--config.data.image=FILE.'
        )
    finest = len(buffers['reals']) - 1
    if (scale := int(buffers['scale'])) < finest:
        raise UserError(
            f'the run has reached scales 0 to {scale} of 0 to {finest}, and the finest one enlarges: train it to the '
            'end first, by the same command, which goes on.'
        )
    repeats, step = singan_pyramid.sr_schedule(config.sr_factor)
    x = jnp.asarray(real_image(model))[None]
    height, width = (int(config.sr_factor * n) for n in x.shape[1:3])
    for i in range(repeats):
        x = singan_pyramid.resize_quantised(x, factor=step)
        # The first pass has one channel of noise for all colours, like the coarsest scale of training.
        shape = config.noise_shape(finest, x.shape[1:3])
        noise = jax.random.normal(
            jax.random.fold_in(jax.random.key(seed), i), (1, *shape[:2], 1 if i == 0 else shape[2])
        )
        (x,), _ = singan.generate(config, params, buffers, [noise], x, ratio=1 / step, first=finest)
    return np.asarray(x[0, :height, :width])


# Animation ------------------------------------------------------------------------------------------------------------


def walk(noise: jax.Array, first: jax.Array, steps: jax.Array, *, alpha: float, beta: float) -> jax.Array:
    """A random walk about `noise` (Shaham et al., supplementary): z_t = alpha z* + (1 - alpha)(z_{t-1} + d_t).

    d_t = beta (z_{t-1} - z_{t-2}) + (1 - beta) e_t, from z_0 = 0.95 z* + 0.05 first and z_{-1} = z*.

    Args:
      noise: z*, [h, w, C]; first: [h, w, C]; steps: the e_t, [T, h, w, C].
    Returns: [T, h, w, C].
    """

    def move(state: tuple, e: jax.Array) -> tuple:
        last, before = state
        z = alpha * noise + (1 - alpha) * (last + beta * (last - before) + (1 - beta) * e)
        return (z, last), z

    return jax.lax.scan(move, (0.95 * noise + 0.05 * first, noise), steps)[1]


def animate(
    model: Model,
    frames: int = 100,
    *,
    alpha: float = 0.1,
    beta: float = 0.9,
    start_scale: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Frames [T, H, W, C] of the image in motion: every scale's noise walks at random about that of the reconstruction.

    Args:
      alpha: pull towards the reconstruction; beta: smoothness of the motion.
      start_scale: scales below it stand still.
    Raises: ValueError for no frames, alpha or beta outside [0, 1], or a start_scale that does not exist.
    """
    config, params, buffers = _parts(model)
    count = len(buffers['reals'])
    if frames < 1:
        raise UserError(f'frames={frames} must be at least 1.')
    if not (0 <= alpha <= 1 and 0 <= beta <= 1):
        raise UserError(f'alpha={alpha} and beta={beta} must lie in [0, 1]; usual are 0.1 and 0.8 to 0.95.')
    if not 0 <= start_scale < count:
        raise UserError(f'start_scale={start_scale}; the model has scales 0 to {count - 1}.')
    key, paths = jax.random.key(seed), []
    for s, noise in enumerate(singan.fixed_noises(config, buffers, count)):
        first_key, steps_key = jax.random.split(jax.random.fold_in(key, s))
        first = jax.random.normal(first_key, noise.shape[1:])
        steps = jax.random.normal(steps_key, (frames, *noise.shape[1:]))
        moving = walk(noise[0], first, steps, alpha=alpha, beta=beta)
        paths.append(jnp.broadcast_to(noise, moving.shape) if s < start_scale else moving)
    run = jax.jit(functools.partial(singan.generate_trained, config))
    return np.concatenate([np.asarray(run(params, buffers, [p[t : t + 1] for p in paths])) for t in range(frames)])


def save_animation(frames: np.ndarray, path: str | os.PathLike, fps: float = FPS) -> None:
    """Writes frames [T, H, W, C] as `animation.write` does."""
    animation.write(as_path(path), to_uint8(frames), fps)
