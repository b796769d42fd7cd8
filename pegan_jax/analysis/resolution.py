"""What a function of coordinates knows between its pixels: finer images, sparse images, fits to few pixels."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pegan_jax import coords
from pegan_jax.analysis.drawing import Study, line_chart, picture_table, rounded
from pegan_jax.data import worlds
from pegan_jax.evaluation import read_images
from pegan_jax.metrics.image import psnr
from pegan_jax.metrics.spectra import radial_power, relative, spectral_distance
from pegan_jax.pixels import as_floats, as_image, to_uint8
from pegan_jax.projection import observe, picture_of, project_points
from pegan_jax.sampling import Model, frame_grid, render, render_foveated, sample
from pegan_jax.scoring.images import REAL_WORLDS, is_worlds, middle
from pegan_jax.settings import UserError

FINER = 4
SHARES = (0.05, 0.25, 0.5, 1.0)  # of the pixels (Anokhin et al. 2021, figure 8)
STEPS = 300  # of a fit
BIG = 256  # pixels of the pictures whose details are to be seen


def require_coordinates(models: dict[str, Model]) -> None:
    """Raises: UserError for a model that makes whole images."""
    for name, model in models.items():
        if not model.sampler.pixelwise:
            raise UserError(
                f'{name} ({model.config.system}) makes whole images, not single coordinates; choose a cips.'
            )


def cell_grid(model: Model, factor: int) -> np.ndarray:
    """The grid, `factor` times finer, whose cells cover what the pixels of training cover: [factor H, factor W, 2].

    CIPS puts the middles of the outer pixels at -1 and 1; the borders of their squares are at H / (H - 1). So pixels
    of this grid are those of the same image at a higher resolution, which `coords.grid(factor H, factor W)` is not.
    """
    height, width = model.size
    grid = frame_grid(model)
    (y0, y1), (x0, x1) = ((float(v[0]), float(v[-1])) for v in (grid.y, grid.x))
    dy, dx = ((high - low) / max(n - 1, 1) / 2 for low, high, n in ((y0, y1, height), (x0, x1, width)))
    extent = {'x': (x0 - dx, x1 + dx), 'y': (y0 - dy, y1 + dy)}
    return np.asarray(coords.grid(factor * height, factor * width, **extent, centered=True))


def enlarged(image: np.ndarray, factor: int, how: Image.Resampling) -> np.ndarray:
    """uint8 [H, W, C] by Pillow's filter, which keeps borders."""
    size = (factor * image.shape[1], factor * image.shape[0])
    return np.asarray(as_image(image).resize(size, how)).reshape(size[1], size[0], -1)


def knows_worlds(model: Model) -> bool:
    """Whether a model learnt the procedural worlds as they are, so that their truth is known at every resolution."""
    data = model.config.data
    return is_worlds(data) and data.channels == 3 and data.size == model.size


def _mean_curve(images: Sequence[np.ndarray]) -> np.ndarray:
    return relative(radial_power(np.stack(images)))


# Four times finer -----------------------------------------------------------------------------------------------------


def detail_study(models: dict[str, Model], count: int = 4, seed: int = 0) -> Study:
    """Images four times finer than training, beside Lanczos and bicubic enlargements, and the truth of the worlds.

    Samples are compared with the truth by their radial spectra (`spectral_distance`). Worlds that no training saw are
    fitted in w+ to their image in the size of training alone. The fit is rendered finer, and compared with the truth
    pixel by pixel; at the size of training, it is rendered with 1, 4 and 16 samples per pixel (a box filter).

    Pictures: `seeds`, `worlds` and `spectra` of every model; the last two for models of the worlds only.
    Raises: UserError for a model without coordinates.
    """
    require_coordinates(models)
    numbers, pictures = {}, {}
    for number, (name, model) in enumerate(models.items()):
        suffix = '' if len(models) == 1 else f'_{number}'
        grid, seeds = cell_grid(model, FINER), range(seed, seed + count)
        small = to_uint8(sample(model, seeds))
        fine = [to_uint8(render(model, s, grid)) for s in seeds]
        kinds = {
            'Lanczos': [enlarged(x, FINER, Image.Resampling.LANCZOS) for x in small],
            'bicubic': [enlarged(x, FINER, Image.Resampling.BICUBIC) for x in small],
            f'rendered {FINER}x finer': fine,
        }
        rows = {
            f'seed {s}': [('training size', small[i]), *((kind, x[i]) for kind, x in kinds.items())]
            for i, s in enumerate(seeds)
        }
        pictures[f'seeds{suffix}'] = picture_table(f'{name}: {FINER} times finer', rows, tile=BIG)
        numbers[name] = {}
        if not knows_worlds(model):
            continue
        height, width = model.size
        first = np.arange(REAL_WORLDS, REAL_WORLDS + count, dtype=np.int32)
        truth, real = (to_uint8(worlds.render_world(first, k * height, k * width)) for k in (FINER, 1))
        kinds['Lanczos of real images'] = [enlarged(x, FINER, Image.Resampling.LANCZOS) for x in real]
        curves = {'truth': _mean_curve(truth), **{kind: _mean_curve(x) for kind, x in kinds.items()}}
        numbers[name]['log-power distance to the truth, dB'] = {
            kind: rounded(spectral_distance(curves['truth'], curve))
            for kind, curve in curves.items()
            if kind != 'truth'
        }
        decibels = {kind: (range(1, len(c)), 10 * np.log10(np.maximum(c[1:], 1e-20))) for kind, c in curves.items()}
        title = f'{name}: power at {FINER} times the size of training, relative to frequency 0'
        pictures[f'spectra{suffix}'] = line_chart(title, decibels, 'cycles per side', 'dB')
        table, found = _fitted_worlds(model, truth, real, grid)
        numbers[name]['PSNR of fitted worlds, dB'] = found
        pictures[f'worlds{suffix}'] = picture_table(f'{name}: worlds, given in the size of training', table, tile=BIG)
    return Study(numbers, pictures)


def _fitted_worlds(model: Model, truth: np.ndarray, real: np.ndarray, grid: np.ndarray) -> tuple[dict, dict]:
    rows, scores = {}, {}
    for i, (large, small) in enumerate(zip(truth, real, strict=True)):
        points = np.asarray(cell_grid(model, 1)).reshape(-1, 2)
        fit = project_points(model, points, as_floats(small).reshape(len(points), -1), space='w+', steps=STEPS)
        fine, native = to_uint8(render(model, fit.ws, grid)), to_uint8(render(model, fit.ws, cell_grid(model, 1)))
        shown = {
            'Lanczos of the image': enlarged(small, FINER, Image.Resampling.LANCZOS),
            'bicubic of the image': enlarged(small, FINER, Image.Resampling.BICUBIC),
            'Lanczos of the fit': enlarged(native, FINER, Image.Resampling.LANCZOS),
            f'fit, {FINER}x finer': fine,
        }
        found = {kind: psnr(large, image) for kind, image in shown.items()}
        rows[f'world {REAL_WORLDS + i}'] = [('given', small), ('truth', large)] + [
            (f'{kind}: {found[kind]:.1f} dB', image) for kind, image in shown.items()
        ]
        for n in (1, 2, 4):
            image = to_uint8(render(model, fit.ws, cell_grid(model, 1), supersample=n))
            found[f'at the size of training, samples per pixel: {n * n}'] = psnr(small, image)
        for kind, value in found.items():
            scores.setdefault(kind, []).append(value)
    return rows, {kind: rounded(np.mean(values)) for kind, values in scores.items()}


# Sparse images --------------------------------------------------------------------------------------------------------


def foveation_study(models: dict[str, Model], count: int = 4, seed: int = 0) -> Study:
    """Images with 5, 25, 50 and 100 % of the pixels synthesised, dense in the middle, and the rest interpolated.

    Numbers: how many pixels were synthesised, out of how many, and PSNR against the whole image, the mean over seeds,
    but none for the whole image itself. Pictures: `images` of the first seeds, and which pixels; `psnr`, a curve of
    every model.
    Raises: UserError for a model without coordinates.
    """
    require_coordinates(models)
    numbers, rows, curves = {}, {}, {}
    for name, model in models.items():
        grid, entry = frame_grid(model), {}
        whole = [to_uint8(render(model, s, grid)) for s in range(seed, seed + count)]
        for share in SHARES:
            made = [render_foveated(model, s, grid, share, position_seed=s) for s in range(seed, seed + count)]
            scores = [psnr(image, to_uint8(x)) for image, (x, _) in zip(whole, made, strict=True)]
            pixels = {int(chosen.sum()) for _, chosen in made}
            entry[f'{share:.0%}'] = {
                'pixels': pixels.pop() if len(pixels) == 1 else sorted(pixels),
                'of': whole[0].shape[0] * whole[0].shape[1],
                'psnr': rounded(np.mean(scores)) if np.isfinite(scores).all() else None,
            }
            for i in range(min(count, 2)):
                image, chosen = made[i]
                shown = np.where(chosen[..., None], to_uint8(image), 0).astype(np.uint8)
                said = '' if math.isinf(scores[i]) else f': {scores[i]:.1f} dB'
                rows.setdefault(f'{name},\nseed {seed + i}', []).append((f'{share:.0%}{said}', to_uint8(image)))
                if i == 0:
                    rows.setdefault(f'{name},\npixels made', []).append((f'{int(chosen.sum())}', shown))
        numbers[name] = entry
        known = [(100 * s, entry[f'{s:.0%}']['psnr']) for s in SHARES if entry[f'{s:.0%}']['psnr'] is not None]
        curves[name] = tuple(zip(*known, strict=True)) if known else ((0,), (0,))
    pictures = {
        'images': picture_table('Foveated images', rows),
        'psnr': line_chart('Foveated images against whole ones', curves, '% of the pixels', 'PSNR, dB'),
    }
    return Study(numbers, pictures)


# Fits to few pixels ---------------------------------------------------------------------------------------------------

GIVEN = ('scattered:0.02', 'scattered:0.05', 'scattered:0.1', 'scattered:0.25', 'scattered:0.5', 'foveated:0.1')


def inversion_study(models: dict[str, Model], count: int = 2, seed: int = 0) -> Study:
    """How well a w that is fitted to some of the pixels of an image predicts the others.

    Images are the model's own (seeds), for which an exact w exists, and those of its data; worlds are ones that no
    training saw. The fit gets shares of the pixels, scattered; a tenth, dense in the middle; or means of 4 x 4 blocks.

    Numbers: PSNR of given and of held-out pixels (for blocks, of all pixels), means over `count` images.
    Pictures: `images` and `psnr`, against the share of scattered pixels.
    Raises: UserError for a model without coordinates.
    """
    require_coordinates(models)
    numbers, rows, curves = {}, {}, {}
    for name, model in models.items():
        targets = {'samples': to_uint8(sample(model, range(seed, seed + count)))}
        targets['data'] = middle(read_images(model.config.data, count), model.size)
        if targets['data'].shape != targets['samples'].shape:
            raise UserError(f'{name}: images of its data are {targets["data"].shape}, not {targets["samples"].shape}.')
        coarse = () if any(side % 4 for side in targets['data'].shape[1:3]) else ('coarse:4',)
        for kind, images in targets.items():
            entry = {given: {'given': [], 'held_out': []} for given in GIVEN + coarse}
            for i, target in enumerate(images):
                for given, scores in entry.items():
                    observed = observe(model, as_floats(target), given, seed + i)
                    fit = project_points(model, observed.points, observed.colours, steps=STEPS, seed=seed)
                    made = to_uint8(fit.image)
                    rest = ~observed.pixels if not observed.pixels.all() else observed.pixels
                    scores['given'].append(psnr(target, made, observed.pixels))
                    scores['held_out'].append(psnr(target, made, rest))
                    if i == 0:
                        nothing = np.full_like(target, 255)
                        row = rows.setdefault(f'{name},\n{kind}: given', [('image', target)])
                        row.append((given, picture_of(observed)))
                        row = rows.setdefault(f'{name},\n{kind}: found', [('', nothing)])
                        row.append((f'{scores["held_out"][-1]:.1f} dB', made))
            numbers.setdefault(name, {})[kind] = {
                given: {part: rounded(np.mean(values)) for part, values in scores.items()}
                for given, scores in entry.items()
            }
            shares = [given for given in GIVEN if given.startswith('scattered')]
            held = [np.mean(entry[given]['held_out']) for given in shares]
            curves[f'{name}: {kind}'] = ([100 * float(given.partition(':')[2]) for given in shares], held)
    pictures = {
        'images': picture_table('w fitted to the pixels that are shown', rows),
        'psnr': line_chart('Pixels that were held out', curves, '% of the pixels given, scattered', 'PSNR, dB'),
    }
    return Study(numbers, pictures)
