"""Augmentation of what a discriminator sees (Karras et al. 2020, arXiv 2006.06676, appendix B), and its strength.

Every transform is drawn with probability p, for each image separately: flips, turns and shifts of whole pixels
('blit'), other affine maps ('geom'), colours, filters, noise, holes. If they are rare enough, G does not learn them.
The whole pipe is linear in the images except for noise, which does not depend on them: all derivatives pass.
"""

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords, filters, ops
from pegan_jax.settings import UserError

INTERVAL = 4  # steps between two changes of p

# Orthogonal wavelets of Daubechies, as tabulated: symlets of order 6 and 2, low-pass.
_SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
_GREY = np.full((3, 3), 1 / 3, np.float32)  # projects colours onto the grey axis


class Pipe(NamedTuple):
    """How much of each transform there is: the strength, a factor on its probability, 0 for none.

    xflip, rotate90: mirror, turn by quarters. xint: shift by whole pixels, up to 1/8 of the side.
    scale, rotate, aniso, xfrac: size 2^(0.2 n) for a normal n; any angle, before and after `aniso`; 2^(0.2 n) along one
      axis and its inverse across; a shift by n / 8 of the side.
    brightness, contrast, lumaflip, hue, saturation: +0.2 n; times 2^(n / 2); mirror at grey; turn about grey by any
      angle; times 2^n away from grey. The last two need 3 channels, the others 1 or 3.
    imgfilter: times 2^(imgfilter_std n) in each of four bands of frequencies, with factors imgfilter_bands on their
      probabilities; the highest is the last. noise: normal, with deviation |0.1 n|. cutout: a grey rectangle of
      `cutout_size` times each side.
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    imgfilter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    imgfilter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    imgfilter_std: float = 1.0
    cutout_size: float = 0.5


_BLIT, _GEOM = ('xflip', 'rotate90', 'xint'), ('scale', 'rotate', 'aniso', 'xfrac')
_COLOR = ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation')
PRESETS = {
    name: Pipe(**dict.fromkeys(transforms, 1.0))
    for name, transforms in {
        'blit': _BLIT,
        'geom': _GEOM,
        'color': _COLOR,
        'filter': ('imgfilter',),
        'noise': ('noise',),
        'cutout': ('cutout',),
        'bg': _BLIT + _GEOM,
        'bgc': _BLIT + _GEOM + _COLOR,
        'bgcf': _BLIT + _GEOM + _COLOR + ('imgfilter',),
        'bgcfn': _BLIT + _GEOM + _COLOR + ('imgfilter', 'noise'),
        'bgcfnc': _BLIT + _GEOM + _COLOR + ('imgfilter', 'noise', 'cutout'),
    }.items()
}
Preset = Literal['blit', 'geom', 'color', 'filter', 'noise', 'cutout', 'bg', 'bgc', 'bgcf', 'bgcfn', 'bgcfnc']


def check_channels(pipe: Pipe, channels: int) -> None:
    """Raises ValueError for colour transforms of images that do not have 1 or 3 channels."""
    if any(getattr(pipe, name) for name in _COLOR) and channels not in (1, 3):
        raise UserError(
            f"colours of {channels} channels cannot be augmented, only of 1 or 3; use 'bg', 'blit', 'geom', 'filter', "
            "'noise' or 'cutout'."
        )


# Draws ----------------------------------------------------------------------------------------------------------------


class _Draw(NamedTuple):
    """of: the strength that it belongs to. neutral: what changes nothing. count: how many numbers; None for one [N]."""

    of: str
    distribution: Literal['uniform', 'normal']
    neutral: float
    count: int | None = None


DRAWS = {
    'xflip': _Draw('xflip', 'uniform', 0.0),
    'rotate90': _Draw('rotate90', 'uniform', 0.0),
    'xint': _Draw('xint', 'uniform', 0.5, 2),
    'scale': _Draw('scale', 'normal', 0.0),
    'rotate_pre': _Draw('rotate', 'uniform', 0.5),
    'aniso': _Draw('aniso', 'normal', 0.0),
    'rotate_post': _Draw('rotate', 'uniform', 0.5),
    'xfrac': _Draw('xfrac', 'normal', 0.0, 2),
    'brightness': _Draw('brightness', 'normal', 0.0),
    'contrast': _Draw('contrast', 'normal', 0.0),
    'lumaflip': _Draw('lumaflip', 'uniform', 0.0),
    'hue': _Draw('hue', 'uniform', 0.5),
    'saturation': _Draw('saturation', 'normal', 0.0),
    **{f'imgfilter{band}': _Draw('imgfilter', 'normal', 0.0) for band in range(4)},
    'noise': _Draw('noise', 'normal', 0.0),
    'cutout': _Draw('cutout', 'uniform', -1.0, 2),
}


def draw(pipe: Pipe, keys: jax.Array, shape: tuple[int, int, int], p: jax.Array | float) -> dict[str, jax.Array]:
    """The random numbers of images [N, *shape] for keys [N]; see `gated`. 'field' is the noise itself, [N, *shape]."""

    def one(key: jax.Array) -> tuple[dict, dict]:
        gate_key, uniform_key, normal_key, field_key = jax.random.split(key, 4)
        gate = jax.random.uniform(gate_key, (len(DRAWS),))
        drawn = {
            'uniform': jax.random.uniform(uniform_key, (len(DRAWS), 2)),
            'normal': jax.random.normal(normal_key, (len(DRAWS), 2)),
        }
        values, gates = {}, {}
        for i, (name, how) in enumerate(DRAWS.items()):
            if getattr(pipe, how.of):
                numbers = drawn[how.distribution][i]
                values[name], gates[name] = numbers[: how.count] if how.count else numbers[0], gate[i]
        if pipe.noise:
            values['field'] = jax.random.normal(field_key, shape)
        return values, gates

    values, gates = jax.vmap(one)(keys)
    return gated(pipe, values, gates, p)


def gated(
    pipe: Pipe, values: dict[str, jax.Array], gates: dict[str, jax.Array], p: jax.Array | float
) -> dict[str, jax.Array]:
    """Values [N] or [N, 2] where a gate [N], uniform in [0, 1), is below its probability, elsewhere neutral ones.

    The probability is strength p. It is 1 - sqrt(1 - p) for each of two rotations, so that p is that of at least one.
    """

    def probability(name: str, strength: float) -> jax.Array | float:
        if name.startswith('rotate_'):
            return 1 - jnp.sqrt(jnp.clip(1 - strength * p, 0, 1))
        band = pipe.imgfilter_bands[int(name[-1])] if name.startswith('imgfilter') else 1.0
        return strength * band * p

    kept = {name: value for name, value in values.items() if name not in DRAWS}
    for name, how in DRAWS.items():
        if name in values:
            passed = gates[name] < probability(name, getattr(pipe, how.of))
            kept[name] = jnp.where(passed[:, None] if how.count else passed, values[name], how.neutral)
    return kept


# Transforms -----------------------------------------------------------------------------------------------------------


def augment(pipe: Pipe, images: jax.Array, draws: dict[str, jax.Array]) -> jax.Array:
    """Images [N, H, W, C] changed by the random numbers of `draw` or `gated`; a new array of the same shape.

    Raises: ValueError as `check_channels`.
    """
    size, channels = images.shape[1:3], images.shape[-1]
    check_channels(pipe, channels)
    if any(getattr(pipe, name) for name in _BLIT + _GEOM):
        images = warp(images, geometry(draws, size))
    if any(getattr(pipe, name) for name in _COLOR):
        images = recolour(images, colours(draws, channels))
    if pipe.imgfilter:
        images = equalise(images, band_gains(pipe, draws))
    if pipe.noise:
        images = images + 0.1 * jnp.abs(draws['noise'])[:, None, None, None] * draws['field']
    if pipe.cutout:
        images = images * uncut(draws['cutout'], pipe.cutout_size, size)[..., None]
    return images


def geometry(draws: dict[str, jax.Array], size: tuple[int, int]) -> jax.Array:
    """[N, 3, 3]: where in an image of (height, width) a pixel is read, both in pixels from the centre, (x, y)."""
    extent = jnp.array([size[1], size[0]], jnp.float32)

    def shift(t: jax.Array) -> jax.Array:
        return coords.translate(t[0], t[1])

    def stretch(n: jax.Array) -> jax.Array:
        return coords.zoom(jnp.exp2(0.2 * n), jnp.exp2(-0.2 * n))

    steps = {
        'xflip': lambda u: coords.zoom(1 - 2 * jnp.floor(2 * u), 1.0),
        'rotate90': lambda u: coords.rotate(math.pi / 2 * jnp.floor(4 * u)),
        'xint': lambda u: shift(jnp.round((2 * u - 1) * 0.125 * extent)),
        'scale': lambda n: coords.zoom(jnp.exp2(0.2 * n)),
        'rotate_pre': lambda u: coords.rotate(math.pi * (2 * u - 1)),
        'aniso': stretch,
        'rotate_post': lambda u: coords.rotate(math.pi * (2 * u - 1)),
        'xfrac': lambda n: shift(0.125 * n * extent),
    }
    return jax.vmap(lambda d: coords.compose(*(steps[name](d[name]) for name in steps if name in d)))(draws)


@functools.cache
def warp_filter() -> np.ndarray:
    """[12] taps of the low-pass filter of `warp`."""
    return filters.setup_filter(_SYM6)


def warp(images: jax.Array, matrices: jax.Array) -> jax.Array:
    """Images [N, H, W, C] read at the positions of `geometry`, low-passed before and after at twice the rate.

    Beyond its borders, an image continues, mirrored at its border pixels without end: its period is 2 (H - 1) and
    2 (W - 1), and one period is the canvas, whatever was drawn. The released pipe mirrors once, as far as the corners
    of the whole batch reach, at most by one image, and reads zeros beyond; see `docs/decisions.md`.
    """
    fir = warp_filter()
    margin = len(fir) // 4  # pixels that the filter reaches to each side
    size = images.shape[1:3]
    periods = [2 * (side - 1) for side in size]
    pads = [(margin, period + 1 - side + margin) for side, period in zip(size, periods, strict=True)]
    canvas = jnp.pad(images, [(0, 0), *pads, (0, 0)], mode='reflect')
    # One period, then its first sample again, for reading between the last and the first.
    canvas = ops.upsample2d(canvas, fir, padding=(-2 * margin, -2 * margin - 1) * 2)

    # At the doubled rate sample k is at (k + 1 - side) / 2 pixels from the centre of a side.
    rows, columns = ((jnp.arange(2 * n) + 1 - n) / 2 for n in (side + 2 * margin for side in size))
    x, y = jnp.meshgrid(columns, rows)
    at = jnp.einsum('nij,jhw->nhwi', matrices[:, :2], jnp.stack([x, y, jnp.ones_like(x)]), precision='highest')
    at = 2 * at + (jnp.array(size[::-1], jnp.float32) - 1).reshape(1, 1, 1, 2)
    at = jnp.mod(at, 2 * jnp.array(periods[::-1], jnp.float32).reshape(1, 1, 1, 2))
    return ops.downsample2d(ops.bilinear(canvas, at), fir, padding=-2 * margin, flip_filter=True)


def colours(draws: dict[str, jax.Array], channels: int) -> tuple[jax.Array, jax.Array]:
    """(A [N, C, C], b [N, C]) of the map A x + b of colours; for 1 channel, the mean of that for three equal ones."""
    one = jnp.eye(3)
    steps = {
        'contrast': lambda n: jnp.exp2(0.5 * n) * one,
        'lumaflip': lambda u: one - 2 * jnp.floor(2 * u) * _GREY,
        'hue': lambda u: _turn(math.pi * (2 * u - 1)),
        'saturation': lambda n: _GREY + (one - _GREY) * jnp.exp2(n),
    }

    def both(d: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, b = one, jnp.full(3, 0.2 * d['brightness']) if 'brightness' in d else jnp.zeros(3)
        for name, step in steps.items():
            if name in d and (channels == 3 or name in ('contrast', 'lumaflip')):
                a, b = (jnp.matmul(step(d[name]), x, precision='highest') for x in (a, b))
        return (a, b) if channels == 3 else (jnp.mean(jnp.sum(a, axis=1)).reshape(1, 1), jnp.mean(b).reshape(1))

    return jax.vmap(both)(draws)


def _turn(angle: jax.Array) -> jax.Array:
    """[3, 3], a right-handed rotation about the grey axis (Rodrigues)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / math.sqrt(3)
    return jnp.cos(angle) * (jnp.eye(3) - _GREY) + jnp.sin(angle) * cross + _GREY


def recolour(images: jax.Array, colours: tuple[jax.Array, jax.Array]) -> jax.Array:
    """A x + b of every pixel x of images [N, H, W, C]; A [N, C, C], b [N, C]."""
    a, b = colours
    return jnp.einsum('nij,nhwj->nhwi', a, images, precision='highest') + b[:, None, None, :]


@functools.cache
def filter_bank() -> np.ndarray:
    """Four band-pass filters [4, 43] of symlets of order 2, from the lowest octaves up; their sum changes nothing."""
    low, signs = np.array(_SYM2), np.array([1, -1, 1, -1])
    lowpass, highpass = (np.convolve(f, f[::-1]) / 2 for f in (low, low * signs))
    bank = np.eye(4, 1)
    for i in range(1, 4):
        wide = np.zeros((4, 2 * bank.shape[1] - 1))
        wide[:, ::2] = bank
        bank = np.stack([np.convolve(row, lowpass) for row in wide])
        middle = (bank.shape[1] - len(highpass)) // 2
        bank[i, middle : middle + len(highpass)] += highpass
    return bank.astype(np.float32)


def band_gains(pipe: Pipe, draws: dict[str, jax.Array]) -> jax.Array:
    """[N, 4] factors on the bands, which keep the power of natural images, whose spectrum falls as 1 / f."""
    power = jnp.array([[10, 1, 1, 1]], jnp.float32) / 13
    gains = 1.0
    for band in range(4):
        t = jnp.exp2(pipe.imgfilter_std * draws[f'imgfilter{band}'])[:, None]
        t = jnp.where(jnp.arange(4)[None] == band, t, 1.0)
        gains = gains * t / jnp.sqrt(jnp.sum(power * jnp.square(t), axis=1, keepdims=True))
    return gains


def equalise(images: jax.Array, gains: jax.Array) -> jax.Array:
    """Images [N, H, W, C], mirrored at their borders, filtered with gains [N, 4] of the bands along both axes."""
    for spec, side in (('nij,njwc->niwc', images.shape[1]), ('nij,nhjc->nhic', images.shape[2])):
        bands = jnp.einsum('nb,bij->nij', gains, _band_matrices(side), precision='highest')
        images = jnp.einsum(spec, bands, images, precision='highest')
    return images


@functools.cache
def _band_matrices(side: int) -> np.ndarray:
    """[4, side, side]: the filters of the bank as matrices on a side that is mirrored at its end pixels."""
    bank = filter_bank()
    reach = bank.shape[1] // 2
    source = np.pad(np.arange(side), reach, mode='reflect')
    matrices = np.zeros((4, side, side), np.float32)
    for k in range(bank.shape[1]):
        np.add.at(matrices, (slice(None), np.arange(side), source[k : k + side]), bank[:, k, None])
    return matrices


def uncut(centre: jax.Array, extent: float, size: tuple[int, int]) -> jax.Array:
    """[N, H, W]: 0 in a rectangle about centre [N, 2], in (x, y) of [0, 1], of `extent` of each side; 1 elsewhere."""
    height, width = size
    x, y = ((jnp.arange(n) + 0.5)[None] / n for n in (width, height))
    near_x, near_y = (jnp.abs(at - c[:, None]) < extent / 2 for at, c in ((x, centre[:, 0]), (y, centre[:, 1])))
    return 1.0 - (near_y[:, :, None] & near_x[:, None, :])


# Strength -------------------------------------------------------------------------------------------------------------


def initial_stats(p: float) -> dict[str, jax.Array]:
    """Statistics of a run: augment_p; the mean sign of D's logits of real images, summed over batches since
    it changed; and how many batches.
    """
    return {'augment_p': jnp.float32(p), 'ada_signs': jnp.float32(0), 'ada_batches': jnp.float32(0)}


def counted(stats: dict[str, jax.Array], real_logits: jax.Array) -> dict[str, jax.Array]:
    """The statistics with a batch of logits [b]; the mean over several devices is that of all their rows."""
    signs = jnp.mean(jnp.sign(jax.lax.stop_gradient(real_logits)))
    return {**stats, 'ada_signs': stats['ada_signs'] + signs, 'ada_batches': stats['ada_batches'] + 1}


def adapted(
    stats: dict[str, jax.Array], step: jax.Array, batch_size: int, target: float, kimg: float
) -> dict[str, jax.Array]:
    """The statistics at the beginning of a step; every fourth step changes p (Karras et al. 2020, section 3.1).

    p grows by 4 batch_size / (1000 kimg) if the mean sign of D's logits of real images is above the target, which shows
    that D knows them by heart; below the target p falls, down to 0. There is no upper limit.
    """
    due = (step % INTERVAL == 0) & (stats['ada_batches'] > 0)
    mean = stats['ada_signs'] / jnp.maximum(stats['ada_batches'], 1)
    p = stats['augment_p'] + jnp.sign(mean - target) * INTERVAL * batch_size / (1000 * kimg)
    new = {'augment_p': jnp.maximum(p, 0), 'ada_signs': jnp.float32(0), 'ada_batches': jnp.float32(0)}
    return {**stats, **{name: jnp.where(due, new[name], stats[name]) for name in new}}
