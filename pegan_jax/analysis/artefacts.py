"""Waves in images: energy in narrow bands, and whether samples between pixels remove it."""

import numpy as np
from PIL import Image
from scipy import ndimage

from pegan_jax.analysis.drawing import SEQUENTIAL, Study, as_picture, coloured, picture_table, rounded
from pegan_jax.analysis.resolution import cell_grid, require_coordinates
from pegan_jax.evaluation import read_images
from pegan_jax.metrics.spectra import GREY, radial_power, relative, spectral_distance
from pegan_jax.pixels import as_floats
from pegan_jax.sampling import Model, render
from pegan_jax.scoring.images import middle

FLOOR = 1 / 8  # of the sides, in cycles per side: lower frequencies are the picture itself
PEAK = 5.0  # times its surroundings is a peak
AROUND = 9  # frequencies along a line through it that are its surroundings
LINES = (np.eye(AROUND), np.eye(AROUND)[::-1], np.ones((1, AROUND)), np.ones((AROUND, 1)))


def narrow_band_energy(images: np.ndarray) -> np.ndarray:
    """The share of high frequencies' power that is in narrow peaks, [N], of float images [N, H, W, C].

    Power is that of the grey image under a Hann window, from FLOOR cycles per pixel on. A peak exceeds PEAK times the
    medians of the AROUND frequencies about it along rows, columns and both diagonals, because an edge is a line in the
    spectrum and a wave a point; its energy is what exceeds the largest of these medians.
    """
    grey = images[..., :3] @ np.array(GREY) if images.shape[-1] >= 3 else images[..., 0]
    height, width = grey.shape[1:]
    power = _windowed_power(grey)
    high = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) >= FLOOR
    shares = []
    for p in power:
        median = np.max([ndimage.median_filter(p, footprint=line, mode='wrap') for line in LINES], axis=0)
        peaks = high & (p > PEAK * median)
        shares.append((p - median)[peaks].sum() / max(p[high].sum(), 1e-30))
    return np.array(shares)


def _windowed_power(grey: np.ndarray) -> np.ndarray:
    """|F|^2 of [N, H, W] without means, under a Hann window, so that differing borders make no edge."""
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in grey.shape[1:]))
    return np.abs(np.fft.fft2((grey - grey.mean((1, 2), keepdims=True)) * window)) ** 2


def reduced(images: np.ndarray, factor: int) -> np.ndarray:
    """Float images [N, H, W, C] smaller by a factor, with Pillow's Lanczos filter (a = 3, as wide as the reduction)."""
    size = (images.shape[2] // factor, images.shape[1] // factor)
    planes = [
        [np.asarray(Image.fromarray(x[..., c]).resize(size, Image.Resampling.LANCZOS)) for c in range(x.shape[-1])]
        for x in np.asarray(images, np.float32)
    ]
    return np.moveaxis(np.array(planes), 1, -1)


def artefact_study(models: dict[str, Model], count: int = 32, seed: int = 0) -> Study:
    """Waves: energy in narrow bands of samples and of the data, and what a low-pass over a finer render leaves of it.

    Every model is rendered with one sample per pixel, with 4 (the mean of a square), and twice as fine, reduced with a
    Lanczos filter: waves that are aliases go, waves that the model makes on purpose stay.

    Numbers: `narrow_band_energy` of each and of real images, how far the radial spectrum of each is from theirs, and
    the share of the power of the finer image that lies beyond what the size of training can show.
    Pictures: `images`, what filters take away (eight times), and spectra.
    Raises: UserError for a model without coordinates.
    """
    require_coordinates(models)
    numbers, rows = {}, {}
    for name, model in models.items():
        real = as_floats(middle(read_images(model.config.data, count), model.size))
        seeds = range(seed, seed + count)
        pixel, fine = cell_grid(model, 1), cell_grid(model, 2)
        finer = np.stack([render(model, s, fine) for s in seeds])
        kinds = {
            'one sample per pixel': np.stack([render(model, s, pixel) for s in seeds]),
            'four samples per pixel': np.stack([render(model, s, pixel, supersample=2) for s in seeds]),
            'twice as fine, Lanczos': reduced(finer, 2),
        }
        energy = {'real': narrow_band_energy(real), **{kind: narrow_band_energy(x) for kind, x in kinds.items()}}
        # Relative to frequency 0, which is no measure of images about 0.
        curves = {kind: relative(radial_power(x + 1)) for kind, x in {'real': real, **kinds}.items()}
        numbers[name] = {
            'narrow-band energy': {kind: rounded(np.mean(x)) for kind, x in energy.items()},
            'log-power distance to real images, dB': {
                kind: rounded(spectral_distance(curves['real'], curves[kind])) for kind in kinds
            },
            'power beyond the size of training': rounded(_beyond(finer)),
        }
        worst = int(energy['one sample per pixel'].argmax())
        plain = kinds['one sample per pixel'][worst]
        row = [(kind[:22], as_picture(x[worst])) for kind, x in kinds.items()]
        for kind in list(kinds)[1:]:
            row.append((f'- {kind}'[:22], as_picture(np.clip(8 * (plain - kinds[kind][worst]), -1, 1))))
        for kind, x in (
            ('spectrum', kinds['one sample per pixel']),
            ('spectrum, Lanczos', kinds['twice as fine, Lanczos']),
        ):
            row.append((kind, coloured(_levels(x), -80, 0)))
        row.append(('spectrum, real', coloured(_levels(real), -80, 0)))
        rows[name] = row
    legend = (-80, 0, SEQUENTIAL, 'dB, relative to the largest; frequency 0 in the middle')
    title = 'The sample with the most energy in narrow bands; what filters take away, eight times; mean spectra'
    return Study(numbers, {'images': picture_table(title, rows, legend)})


def _levels(images: np.ndarray) -> np.ndarray:
    """The mean power of grey images, [H, W] in dB."""
    grey = images[..., :3].mean(-1)
    grey = grey - grey.mean((1, 2), keepdims=True)
    power = np.fft.fftshift((np.abs(np.fft.fft2(grey)) ** 2).mean(0))
    return 10 * np.log10(np.maximum(power / power.max(), 1e-12))


def _beyond(finer: np.ndarray) -> float:
    """The share of the power of images twice as fine, without their mean, that smaller ones cannot show."""
    grey = finer[..., :3].mean(-1)
    power = _windowed_power(grey).mean(0)
    outside = np.maximum(*np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in grey.shape[1:]), indexing='ij')) >= 0.25
    return float(power[outside].sum() / max(power.sum(), 1e-30))
