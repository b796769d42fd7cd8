"""Directions of w along which images change: principal components, and those that the first layers weigh most."""

from collections.abc import Sequence

import jax
import numpy as np

from pegan_jax.analysis.drawing import Study, picture_table, rounded
from pegan_jax.pixels import to_uint8, with_channels
from pegan_jax.sampling import Model, of_styles
from pegan_jax.sampling.model import Label
from pegan_jax.settings import UserError


def principal_directions(model: Model, samples: int = 10_000, label: Label | None = None) -> np.ndarray:
    """Principal components of w over latents (Harkonen et al. 2020, GANSpace): unit rows, by their variance."""
    w = np.asarray(model.styles(range(samples), label=label), np.float64)
    return np.linalg.svd(w - w.mean(0), full_matrices=False)[2].astype(np.float32)


def closed_form_directions(model: Model) -> np.ndarray:
    """Eigenvectors of A A^T, by eigenvalue; A: all affine maps of w to styles side by side, each of norm 1.

    The closed-form factorisation of Shen and Zhou 2021 (SeFa): the directions that change styles most, without samples.

    Returns: unit rows [w_dim, w_dim].
    """
    leaves = jax.tree.leaves_with_path(model.variables['params'])
    names = {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x) for path, x in leaves}
    maps = [x / np.linalg.norm(x) for name, x in names.items() if name.endswith('affine/kernel')]
    if not maps:
        raise UserError(f'{model.config.system} has no affine maps of w to styles; use a model with w.')
    return np.linalg.svd(np.concatenate(maps, axis=1), full_matrices=False)[0].T.astype(np.float32)


def walk(
    model: Model,
    direction: np.ndarray,
    scale: float,
    seeds: Sequence[int],
    strengths: Sequence[float],
    *,
    label: Label | None = None,
    truncation_psi: float = 1.0,
) -> np.ndarray:
    """Images of w + strength scale direction: float32 [seeds, strengths, H, W, C].

    Args:
      direction: [w_dim], of length 1; scale: the size of one unit of strength, such as the deviation of w along it.
    """
    w = np.asarray(model.styles(seeds, truncation_psi, label=label))
    moved = w[:, None] + np.asarray(strengths, np.float32)[None, :, None] * scale * direction
    images = of_styles(model, moved.reshape(-1, w.shape[-1]))
    return images.reshape(len(seeds), len(strengths), *images.shape[1:])


def directions_study(
    model: Model, count: int = 8, seed: int = 0, samples: int = 10_000, label: Label | None = None
) -> tuple[Study, dict[str, np.ndarray]]:
    """The first directions of both kinds, at -3 to 3 deviations from an image; and the arrays that hold them.

    Returns: the study, with a picture for each kind; {'pca', 'pca_scale', 'sefa', 'sefa_scale'}: directions
      [count, w_dim] and the deviations of w along them [count].
    """
    closed = closed_form_directions(model)  # which refuses models without w
    w = np.asarray(model.styles(range(samples), label=label))
    arrays, pictures, numbers, strengths = {}, {}, {}, np.linspace(-3, 3, 7)
    kinds = {'pca': principal_directions(model, samples, label), 'sefa': closed}
    for kind, found in kinds.items():
        found = found[:count]
        scale = np.std(w @ found.T, axis=0)
        arrays |= {kind: found, f'{kind}_scale': scale}
        rows, change = {}, []
        for k, direction in enumerate(found):
            images = walk(model, direction, scale[k], [seed], strengths, label=label)[0]
            change.append(np.mean(np.abs(images[-1] - images[0])))
            tiles = [with_channels(image, 3) for image in to_uint8(images)]
            rows[f'{kind} {k}'] = [(f'{s:+g}', tile) for s, tile in zip(strengths, tiles, strict=True)]
        pictures[kind] = picture_table(f'Directions of w ({kind}), in deviations of w along them', rows)
        numbers[kind] = {'deviation': rounded(scale), 'mean_change_of_colours_from_-3_to_3': rounded(change)}
    return Study(numbers, pictures), arrays
