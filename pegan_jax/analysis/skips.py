"""What the skips of a U-Net of partial convolutions bring to the middle of a hole."""

from typing import Any

import jax
import numpy as np

from pegan_jax.analysis.drawing import Study, number_table, rounded
from pegan_jax.analysis.holes import box_mask, share_of_hole
from pegan_jax.models import pconv
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError


def skips_of(model: pconv.Config, variables: dict, image: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """What the skips of the U-Net of partial convolutions carry, [N, h, w, C], from the image to the smallest map."""
    generator = pconv.Generator(model)
    variables = {'params': variables['params'], 'batch_stats': variables['buffers']}

    def run(variables: dict, image: jax.Array, mask: jax.Array) -> dict:
        def seen(module: Any, _: str) -> bool:
            return module.name in ('enc_1', *(f'enc_{i}_bn' for i in range(2, model.levels)))

        return generator.apply(
            variables, image, mask, False, capture_intermediates=seen, mutable=['intermediates', 'gates']
        )[1]['intermediates']

    found = jax.jit(run)(variables, image, mask)
    (first, _), *rest = (found[name]['__call__'][0] for name in sorted(found, key=lambda n: int(n.split('_')[1])))
    return [np.asarray(image * (1 - mask)), *(np.asarray(jax.nn.relu(x)) for x in (first, *rest))]


def skip_study(models: dict[str, Model], images: np.ndarray) -> Study:
    """What the skips of a U-Net bring to the middle of a hole, as a share of what they bring to known positions.

    This is why DeepFillv2 has no skips (Yu et al. 2019, section 3.3). `magnitude` is the root mean square of the
    features; `spread` is that of their differences between images: what does not differ tells nothing about the image.
    Every U-Net is measured twice: as it is, and told that all pixels are valid, which makes its partial convolutions
    ordinary ones except at the image's borders. Pictures: `magnitude` and `spread`, a column per skip.

    Args: models: by the name to show, of the system 'pconv'; images: at least two, as for `gate_study`.
    Raises: ValueError for other models.
    """
    mask = box_mask(*images.shape[1:3])
    hidden, nothing = images * (1 - mask), np.zeros_like(mask)
    numbers, tables = {}, {'magnitude': {}, 'spread': {}}
    for name, loaded in models.items():
        model = loaded.config.model
        if not isinstance(model, pconv.Config):
            raise UserError(f'{name} is of system {loaded.config.system!r}, which has no skips; choose a pconv.')
        for what, said in (('partial', mask), ('ordinary', nothing)):
            row, entry = f'{name}, {what}', {}
            for i, x in enumerate(skips_of(model, loaded.variables, hidden, said)):
                height, width = x.shape[1:3]
                share = share_of_hole(mask, (height, width))[0]
                middle = x[:, (height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1]
                known = x[:, share == 0][:, None]
                entry[f'{i}: {height}x{width}x{x.shape[3]}'] = {
                    'magnitude': rounded(_rms(middle) / max(_rms(known), 1e-12)),
                    'spread': rounded(
                        _rms(middle - middle.mean(axis=0)) / max(_rms(known - known.mean(axis=0)), 1e-12)
                    ),
                }
            numbers[row] = entry
            for kind, table in tables.items():
                table[row] = [(skip, scores[kind]) for skip, scores in entry.items()]
    what = {'magnitude': 'rms of features', 'spread': 'rms of their differences between images'}
    pictures = {
        kind: number_table(
            f'Skips in the middle of a hole: {what[kind]}', table, 'relative to known positions; 1 is as much'
        )
        for kind, table in tables.items()
    }
    return Study(numbers, pictures)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
