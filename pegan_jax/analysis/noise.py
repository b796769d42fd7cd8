"""What the noise of a generator decides: how images of one style differ (Karras et al. 2019, figure 4)."""

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.analysis.drawing import SEQUENTIAL, Study, as_picture, coloured, picture_table, rounded
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

BATCH = 8


def deviation(model: Model, w: jax.Array, count: int, key: jax.Array) -> np.ndarray:
    """Standard deviation of every pixel over `count` draws of noise, [N, H, W], a root mean square over channels.

    Args: w: styles [N, ...] from `Model.styles`.
    """
    maps = []
    for i in range(len(w)):
        total = squares = 0.0
        for start in range(0, count, BATCH):
            keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, i), start), BATCH)
            images = np.asarray(model.synthesise(jnp.repeat(w[i : i + 1], BATCH, axis=0), noise=keys), np.float64)
            images = images[: count - start]
            total, squares = total + images.sum(0), squares + (images**2).sum(0)
        mean = total / count
        maps.append(np.sqrt(np.maximum(squares / count - mean**2, 0).mean(-1)))
    return np.stack(maps)


def noise_study(models: dict[str, Model], count: int = 64, seed: int = 0) -> Study:
    """Images with the noise that the model holds, without noise, two draws, and the deviation over `count` draws.

    Args: models: by the name to show, whose generators have noise (StyleGAN2, MS-PIE, CIPS).
    Raises: ValueError for a model without noise.
    """
    numbers, pictures = {}, {}
    for number, (name, model) in enumerate(models.items()):
        if 'noise' not in model.sampler.options or not getattr(model.config.model, 'use_noise', True):
            raise UserError(f'{name} has no noise; choose a cips, a stylegan2 with model.use_noise, or an mspie.')
        seeds = range(seed, seed + 4)
        w = model.styles(seeds, label=model.classes_of([0]))
        key = jax.random.key(seed)
        keys = [jax.random.split(jax.random.fold_in(key, i), 4) for i in range(2)]
        kinds = {'noise of the model': 'const', 'no noise': 'none', 'one draw': keys[0], 'another': keys[1]}
        images = {kind: np.asarray(model.synthesise(w, noise=noise)) for kind, noise in kinds.items()}
        maps = deviation(model, w, count, key)
        high = float(np.quantile(maps, 0.99)) or 1.0
        rows = {
            f'seed {seeds[i]}': [(kind, as_picture(x[i])) for kind, x in images.items()]
            + [('deviation', coloured(maps[i], 0, high))]
            for i in range(4)
        }
        pictures[f'deviation{"" if len(models) == 1 else f"_{number}"}'] = picture_table(
            f'{name}: what noise decides', rows, (0, high, SEQUENTIAL, f'deviation over {count} draws; images span 2')
        )
        without = images['noise of the model'] - images['no noise']
        numbers[name] = {
            'draws': count,
            'deviation': {
                f'seed {s}': {'mean': rounded(m.mean()), '95 %': rounded(np.quantile(m, 0.95)), 'max': rounded(m.max())}
                for s, m in zip(seeds, maps, strict=True)
            },
            'rms difference of noise on and off': rounded(np.sqrt(np.mean(without**2))),
        }
    return Study(numbers, pictures)
