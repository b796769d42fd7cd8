"""Average power spectra of real and of generated images, as the released tool of StyleGAN3 shows them."""

import functools

import numpy as np

from pegan_jax.analysis.drawing import SEQUENTIAL, Study, coloured, line_chart, picture_table, rounded
from pegan_jax.analysis.holes import box_mask
from pegan_jax.evaluation import read_images
from pegan_jax.gan import Completer
from pegan_jax.inpainting import inpaint
from pegan_jax.metrics.spectra import radial_power, relative, spectral_distance
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Model, sample
from pegan_jax.scoring.images import fitted, middle

PADDED = 4  # sides of the transform, in longer sides of the images


def power_spectrum(images: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Mean power of images [N, H, W, C], 0 to 255, [S + 1, S + 1]: frequency 0 in the middle, the first edge repeated.

    Images minus the data's mean, over the data's deviation, are multiplied by a Kaiser window (beta 8) along both axes,
    whose squares add up to 1, and put in a square of zeros, S four times the longer side. The mean is over channels and
    images.
    """
    height, width = images.shape[1:3]
    window = np.outer(np.kaiser(height, 8), np.kaiser(width, 8))
    window /= np.sqrt(np.sum(window**2))
    total = np.zeros(2 * [PADDED * max(height, width)])
    for image in images:
        x = (image.astype(np.float64) - mean) / max(deviation, 1e-12) * window[..., None]
        total += np.mean(np.abs(np.fft.fft2(x, total.shape, axes=(0, 1))) ** 2, axis=-1)
    return np.pad(np.fft.fftshift(total / len(images)), ((0, 1), (0, 1)), mode='wrap')


def slices(spectrum: np.ndarray, aspect: float = 1.0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{'0 degrees', '45 degrees', 'mean over angles'}: (cycles per shorter side, dB) of a `power_spectrum`.

    At 0 degrees, along x, up to half a cycle per pixel; at 45 degrees up to 1 / sqrt 2.

    Args: aspect: the shorter side of the images over the longer one.
    """
    decibels = 10 * np.log10(np.maximum(spectrum, 1e-20))
    half, unit = len(spectrum) // 2, aspect / PADDED
    i = np.arange(half + 1)
    y, x = np.indices(spectrum.shape)
    radius = np.rint(np.hypot(y - half, x - half)).astype(int).ravel()
    sums, counts = np.bincount(radius, spectrum.ravel()), np.bincount(radius)
    return {
        '0 degrees': (i * unit, decibels[half, half + i]),
        '45 degrees': (i * np.sqrt(2) * unit, decibels[half + i, half + i]),
        'mean over angles': (i * unit, 10 * np.log10(np.maximum(sums[: half + 1] / counts[: half + 1], 1e-20))),
    }


def heat_map(spectrum: np.ndarray) -> np.ndarray:
    """A `power_spectrum` from -40 to 20 dB, smoothed by 1.25 samples, as uint8 [H, W, 3]."""
    from scipy import ndimage  # takes long to import

    decibels = ndimage.gaussian_filter(10 * np.log10(np.maximum(spectrum, 1e-20)), 1.25, mode='nearest')
    return coloured(decibels, -40, 20)


def real_and_generated(model: Model, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of a model's data and as many of its own, uint8 [N, H, W, C].

    Its own come from the seeds from `seed` on; a model that completes images fills a box in the real ones.

    CIPS draws its noise anew, as the released program does; without its embedding most of its detail is noise.

    Raises: ValueError if the data cannot be read.
    """
    real = read_images(fitted(model.gan, model.config.data, model.size), count)
    if isinstance(model.gan.sampler, Completer):
        mask = np.repeat(box_mask(*real.shape[1:3])[..., 0], len(real), axis=0)
        return real, inpaint(model, real, mask)
    noisy = model.sampler.pixelwise and 'noise' in model.sampler.options
    seeds = range(seed, seed + count)
    options = {'label': model.classes_of(seeds), 'noise_mode': 'random' if noisy else None}
    made = to_uint8(np.asarray(sample(model, seeds, **options)))
    return middle(real, made.shape[1:3]), made


def spectrum_study(models: dict[str, Model], count: int = 256, seed: int = 0) -> Study:
    """Heat maps, slices at 0 and 45 degrees and radial profiles of `count` real and generated images of every model.

    Generated ones come from the seeds from `seed` on.

    Numbers: root mean square differences of generated and real profiles, in dB, up to half of the side; and of radial
    powers relative to frequency 0 (`radial_power`, Anokhin et al. 2021, figure 7), which `radial` shows of all models.
    """
    numbers, maps, charts, radial = {}, {}, {}, {}
    for number, (name, model) in enumerate(models.items()):
        real, made = real_and_generated(model, count, seed)
        spectrum_of = functools.partial(power_spectrum, mean=real.mean(), deviation=real.std())
        spectra = {'real': spectrum_of(real), 'generated': spectrum_of(made)}
        maps[name] = [(kind, heat_map(spectrum)) for kind, spectrum in spectra.items()]
        sides = real.shape[1:3]
        found = {kind: slices(spectrum, min(sides) / max(sides)) for kind, spectrum in spectra.items()}
        numbers[name] = {'images': {'real': len(real), 'generated': len(made)}}
        suffix = '' if len(models) == 1 else f'_{number}'
        for angle in found['real']:
            curves = {kind: of[angle] for kind, of in found.items()}
            difference = curves['generated'][1] - curves['real'][1]
            numbers[name][f'rms dB, {angle}'] = rounded(np.sqrt(np.mean(difference**2)))
            charts[f'{angle.replace(" ", "_")}{suffix}'] = line_chart(
                f'{name}: {angle}', curves, 'cycles per side', 'dB', y_range=(-50, 30)
            )
        curves = [relative(radial_power(images)) for images in (real, made)]
        numbers[name]['rms dB, radial power'] = rounded(spectral_distance(*curves))
        levels = [10 * np.log10(np.maximum(curve[1:], 1e-20)) for curve in curves]
        kind = f'real, {min(sides)} pixels'
        if kind in radial and not np.array_equal(radial[kind][1], levels[0]):  # of other data
            kind = f'real, as {name}'
        radial |= {kind: (range(1, len(curves[0])), levels[0]), name: (range(1, len(curves[1])), levels[1])}
    charts['radial'] = line_chart('Radial power, relative to frequency 0', radial, 'cycles per side', 'dB')
    legend = (-40, 20, SEQUENTIAL, 'dB; frequency 0 in the middle')
    return Study(numbers, {'maps': picture_table('Average power spectra', maps, legend), **charts})
