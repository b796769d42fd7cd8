"""Whether details stick to pixels (Karras et al. 2021, figure 1): averages of neighbours, and a strip of a latent walk.

Details that move with what they belong to are blurred by an average over neighbouring latents, and a strip of pixels
shows their paths. Details that stick to pixels stay sharp, and turn the strip into horizontal streaks.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.analysis.drawing import Study, as_picture, picture_table, rounded, stack
from pegan_jax.sampling import Model, interpolate
from pegan_jax.settings import UserError

BATCH, RADIUS = 8, 0.2


def neighbours(model: Model, seed: int, count: int, key: jax.Array, radius: float = RADIUS) -> np.ndarray:
    """Images [count, H, W, C] of styles about that of a seed, at `radius` deviations of the styles of all seeds."""
    many = np.asarray(model.styles(range(256), label=model.classes_of([0])))
    deviation = np.sqrt(np.mean(np.var(many, axis=0)))
    w, images = model.styles([seed], label=model.classes_of([0])), []
    for start in range(0, count, BATCH):
        noise = jax.random.normal(jax.random.fold_in(key, start), (BATCH, *w.shape[1:]))
        near = jnp.asarray(w) + radius * deviation * noise
        images.append(np.asarray(model.synthesise(near)))
    return np.concatenate(images)[:count]


def detail(images: np.ndarray) -> np.ndarray:
    """What a Gaussian blur of 1.5 pixels removes from images [..., H, W, C]."""
    from scipy import ndimage  # takes long to import

    sigma = (0,) * (images.ndim - 3) + (1.5, 1.5, 0)
    return images - ndimage.gaussian_filter(np.asarray(images, np.float64), sigma, mode='nearest')


def detail_kept(images: np.ndarray) -> float:
    """Power of details in the mean of images [N, H, W, C] over that in single ones, less the 1 / N of independent ones.

    0: no details are in the same place; 1: all are.
    """
    mean, single = np.mean(detail(images.mean(0)) ** 2), np.mean(detail(images) ** 2)
    return float((mean / max(single, 1e-12) - 1 / len(images)) / (1 - 1 / len(images)))


def strip(frames: np.ndarray) -> np.ndarray:
    """The middle columns of images [T, H, W, C], side by side: [H, T, C]."""
    return frames[:, :, frames.shape[2] // 2].swapaxes(0, 1)


def streaks(pixels: np.ndarray) -> float:
    """The share of the details of a strip [h, T, C] that all its columns have: 1 if everything sticks."""
    from scipy import ndimage  # takes long to import

    details = pixels - ndimage.gaussian_filter1d(np.asarray(pixels, np.float64), 1.5, axis=0, mode='nearest')
    kept = np.mean(details.mean(1) ** 2) / max(np.mean(details**2), 1e-12)
    return float((kept - 1 / pixels.shape[1]) / (1 - 1 / pixels.shape[1]))


def sticking_study(models: dict[str, Model], count: int = 64, seed: int = 0) -> Study:
    """For every model an image, its neighbours' mean, and the strip of a walk to the next seed.

    Args: models: by the name to show, whose images have a style; count: of neighbours, and steps of the walk.
    Raises: ValueError for a model without styles.
    """
    numbers, averages, strips = {}, {}, {}
    key = jax.random.key(seed)
    for name, model in models.items():
        if model.sampler.map is None:
            raise UserError(f'{name} ({model.config.system}) has no styles to walk between; choose one that has.')
        images = neighbours(model, seed, count, key)
        frames = np.asarray(interpolate(model, seed, seed + 1, count, label=model.classes_of([0])))
        pixels = strip(frames)
        centre = np.asarray(model.synthesise(model.styles([seed], label=model.classes_of([0]))))[0]
        pictures = {'image': centre, 'a neighbour': images[0], f'mean of {count}': images.mean(0)}
        averages[name] = [(caption, as_picture(x)) for caption, x in pictures.items()]
        strips[name] = as_picture(pixels)
        numbers[name] = {
            'detail kept by the mean': rounded(detail_kept(images)), 'streaks': rounded(streaks(pixels)),
            'neighbours': count, 'radius': RADIUS,
        }  # fmt: skip
    title = 'Neighbours in style space: details that stick stay sharp'
    return Study(
        numbers,
        {
            'averages': picture_table(title, averages),
            'strips': stack(
                'The middle column of pixels along a walk between two seeds: what sticks makes streaks', strips
            ),
        },
    )
