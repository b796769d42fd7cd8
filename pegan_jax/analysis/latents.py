"""Rows of images between latents, and towards the mean style."""

import numpy as np

from pegan_jax.analysis.drawing import Study, as_picture, picture_table, rounded
from pegan_jax.metrics.image import tv
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Model, interpolate, sample

STEPS = 8
PSIS = (1.0, 0.7, 0.4, 0.0)


def latent_study(models: dict[str, Model], count: int = 3, seed: int = 0) -> Study:
    """Interpolations between `count` pairs of neighbouring seeds, and from every seed to the mean style, psi = 0.

    Numbers: the largest change from image to image over the mean one (1 is an even walk), and the total variation of
    images at every psi, in percent, which tells what texture the mean style of a model keeps.
    Pictures: `interpolation` and `truncation`, with one model below another.
    Raises: UserError for a model without a mean style.
    """
    numbers, between, towards = {}, {}, {}
    for name, model in models.items():
        label = model.classes_of([0])
        even, variation = [], {}
        for s in range(seed, seed + count):
            row = interpolate(model, s, s + 1, STEPS, label=label)
            changes = np.abs(np.diff(row, axis=0)).mean((1, 2, 3))
            even.append(changes.max() / max(changes.mean(), 1e-12))
            between[f'{name},\nseeds {s} to {s + 1}'] = [('', as_picture(x)) for x in row]
        for psi in PSIS:
            images = sample(model, range(seed, seed + count), truncation_psi=psi, label=label)
            variation[f'psi {psi:g}'] = rounded(np.mean([tv(x) for x in to_uint8(images)]))
            for i, image in enumerate(images):
                towards.setdefault(f'{name},\nseed {seed + i}', []).append((f'psi {psi:g}', as_picture(image)))
        numbers[name] = {'largest change over mean change': rounded(even), 'total variation': variation}
    pictures = {
        'interpolation': picture_table('Interpolation in w', between),
        'truncation': picture_table('Towards the mean style', towards),
    }
    return Study(numbers, pictures)
