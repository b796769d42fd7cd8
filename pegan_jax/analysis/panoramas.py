"""Panoramas of models on a cylinder: do they close, are they their own mirror image, do two styles blend."""

import numpy as np

from pegan_jax import coords
from pegan_jax.analysis.drawing import Study, line_chart, picture_table, rounded
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Blend, Model, panorama, planet, render, sphere

WIDE = 640  # pixels of the pictures


def seam(image: np.ndarray) -> float:
    """Mean |last column - first column|, over that of neighbouring columns inside: about 1 where there is no seam."""
    x = np.asarray(image, np.float64)
    inside = np.abs(np.diff(x, axis=1)).mean()
    return float(np.abs(x[:, -1] - x[:, 0]).mean() / max(inside, 1e-12))


def mirror_symmetry(image: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
    """Correlation of a panorama [H, W, C] with its mirror image (or that of another one) about every azimuth: [W].

    Entry n mirrors about column n / 2, and so about the opposite column. Rows are compared without their means, which
    are the same on both sides. 1 is a panorama that is its own mirror image there.
    """
    a, b = (np.asarray(x, np.float64) for x in (image, image if other is None else other))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    product = np.fft.ifft(np.fft.fft(a, axis=1) * np.fft.fft(b, axis=1), axis=1).real.sum((0, 2))
    return product / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-12)


def panorama_study(models: dict[str, Model], count: int = 4, seed: int = 0) -> Study:
    """Panoramas of `count` seeds: the seam, mirror symmetry by azimuth, and two styles on opposite sides.

    Numbers: `seam` of whole circles and of blends; the largest `mirror_symmetry` of every panorama, and, by chance,
    against the mirror images of the others; how far columns of a blend are from the two panoramas that it blends, in
    the middle of each. Pictures: `panoramas`, `mirror` (a curve of every seed) and `views` as planets and spheres.
    Raises: UserError for a flat model.
    """
    numbers, pictures = {}, {}
    for number, (name, model) in enumerate(models.items()):
        suffix = '' if len(models) == 1 else f'_{number}'
        height, seeds = model.size[0], range(seed, seed + max(count, 2))
        native, fine = panorama(model, height), panorama(model, 2 * height)
        images = [render(model, s, native) for s in seeds]
        curves = [mirror_symmetry(x) for x in images]
        chance = [mirror_symmetry(a, b).max() for i, a in enumerate(images) for b in images[:i]]
        blends = {(a, b): Blend((b,), coords.around) for a, b in zip(seeds, [*seeds[1:], seeds[0]], strict=True)}
        blended = {pair: render(model, pair[0], native, blend=blend) for pair, blend in blends.items()}
        middle = native.shape[1] // 2
        apart = [
            {'front': np.abs(x - images[a - seed])[:, middle].max(), 'back': np.abs(x - images[b - seed])[:, 0].max()}
            for (a, b), x in blended.items()
        ]
        numbers[name] = {
            'panorama': list(native.shape[:2]),
            'seam': {
                'panoramas': rounded([seam(x) for x in images]),
                'blends': rounded([seam(x) for x in blended.values()]),
            },
            'mirror symmetry': {
                'largest': rounded([c.max() for c in curves]),
                'at azimuth, degrees': rounded([180 * int(c.argmax()) / len(c) - 180 for c in curves]),
                'largest by chance': rounded(np.mean(chance)),
            },
            'blends differ from their ends by': rounded([max(x.values()) for x in apart]),
        }
        rows = {f'seed {s}': [('', to_uint8(render(model, s, fine)))] for s in seeds}
        for (a, b), blend in list(blends.items())[:2]:
            rows[f'seeds {a} and {b}'] = [('', to_uint8(render(model, a, fine, blend=blend)))]
        pictures[f'panoramas{suffix}'] = picture_table(f'{name}: whole circles', rows, tile=WIDE)
        degrees = -180 + 180 * np.arange(len(curves[0])) / len(curves[0])
        by_azimuth = {f'seed {s}': (degrees, c) for s, c in zip(seeds, curves, strict=True)}
        title = f'{name}: correlation with the mirror image about an azimuth'
        pictures[f'mirror{suffix}'] = line_chart(title, by_azimuth, 'azimuth, degrees', 'correlation')
        side = 4 * height
        views = {'planet': planet(model, side), 'sky': planet(model, side, up=True), 'sphere': sphere(model, side // 2)}
        table = {f'seed {s}': [(view, to_uint8(render(model, s, g))) for view, g in views.items()] for s in seeds[:3]}
        pictures[f'views{suffix}'] = picture_table(f'{name}: planets and spheres', table, tile=256)
    return Study(numbers, pictures)
