"""Adaptive augmentation beyond what golden numbers show: the canvas, derivatives, draws, what images it takes, p."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from check_augment import MARGIN, margins

from pegan_jax import augment, coords
from pegan_jax.augment import PRESETS, Pipe
from pegan_jax.settings import UserError

KEYS = jax.random.split(jax.random.key(0), 8)


@functools.partial(jax.jit, static_argnums=(0,))
def run(pipe, images, keys, p=1.0):
    return augment.augment(pipe, images, augment.draw(pipe, keys, images.shape[1:], p))


@functools.cache
def noise(n, height, width, channels=3):
    """Images of all frequencies, in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (n, height, width, channels)).astype(np.float32)


# The canvas -----------------------------------------------------------------------------------------------------------


def read(image, at):
    """Bilinear, zeros outside: image [H, W, C], at [..., 2] in (x, y)."""
    padded = np.pad(image, ((1, 2), (1, 2), (0, 0)))
    at = np.clip(at, -1, np.array(image.shape[1::-1]))
    i = np.floor(at).astype(int)
    tx, ty = np.moveaxis(at - i, -1, 0)[..., None]
    x, y = i[..., 0] + 1, i[..., 1] + 1
    rows = [padded[y + d, x] * (1 - tx) + padded[y + d, x + 1] * tx for d in (0, 1)]
    return rows[0] * (1 - ty) + rows[1] * ty


def along(image, axis, matrix):
    return np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)


def released(images, matrices):
    """The rule of the released pipe, in float64: mirrored once, by the margins of the whole batch; zeros beyond.

    Returns: images, and for each whether it was read beyond those margins.
    """
    height, width = images.shape[1:3]
    pads, taps = margins(matrices, (height, width)), augment.warp_filter().astype(np.float64)
    out, beyond = [], []
    for image, g in zip(images.astype(np.float64), np.asarray(matrices, np.float64), strict=True):
        image, at, first = np.pad(image, (pads[2:], pads[:2], (0, 0)), mode='reflect'), [], []
        for axis, n in enumerate(image.shape[:2]):
            k, i = np.arange(2 * n)[:, None], np.arange(n)[None]
            tap = k - 2 * i + 5  # convolution of zeros between samples, with 6 samples before the first
            up = np.where((tap >= 0) & (tap < 12), 2 * taps[np.clip(tap, 0, 11)], 0)
            image = along(image, axis, up)
        for side in (height, width):
            n = side + 2 * MARGIN
            at.append((np.arange(2 * n) + 1 - n) / 2)
        y, x = np.meshgrid(*at, indexing='ij')
        first = np.array([width - 1 + 2 * pads[0], height - 1 + 2 * pads[2]])
        where = 2 * np.stack([x, y, np.ones_like(x)], -1) @ g[:2].T + first
        last = np.array(image.shape[1::-1]) - 1
        beyond.append((where.min((0, 1)) < 6).any() or (where.max((0, 1)) > last - 6).any())
        image = read(image, where)
        for axis, side in enumerate((height, width)):
            k, i = np.arange(2 * (side + 2 * MARGIN))[None], np.arange(side)[:, None]
            tap = k - (2 * i + 2 * MARGIN - 5)
            image = along(image, axis, np.where((tap >= 0) & (tap < 12), taps[np.clip(tap, 0, 11)], 0))
        out.append(image)
    return np.array(out), np.array(beyond)


@pytest.mark.parametrize('size, rare', [((20, 20), 0.02), ((14, 22), 0.08)])
def test_one_period_of_the_mirrored_image_gives_the_numbers_of_the_released_margins(size, rare):
    """But for images that those margins, of one image at most, cut off; a turned rectangle needs wider ones."""
    warp, differ, total = jax.jit(augment.warp), 0, 0
    geometry = jax.jit(lambda keys, p: augment.geometry(augment.draw(PRESETS['bg'], keys, (*size, 3), p), size))
    for step in range(12):
        matrices = geometry(jax.random.split(jax.random.key(step), 16), 0.6 if step % 2 else 1.0)
        images = noise(16, *size)
        want, beyond = released(images, matrices)
        error = np.abs(np.asarray(warp(images, matrices)) - want).max((1, 2, 3))
        assert error[~beyond].max() < 2e-4
        differ, total = differ + np.sum(error > 0.01), total + len(images)
    assert differ / total < rare
    # Far out the mirror goes on, where the released pipe has zeros.
    tiny = jnp.stack([coords.zoom(0.1)])
    assert (
        np.abs(released(noise(1, *size), tiny)[0])[:, 0].max() < 1e-6 < np.abs(warp(noise(1, *size), tiny))[:, 0].max()
    )


# Derivatives ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('pipe', ['bgc', pytest.param('bgcfnc', marks=pytest.mark.slow)])
def test_gradients_of_both_orders_are_those_of_finite_differences(pipe):
    """The pipe is affine in the images: its Jacobian is exact for any step, and R1 differentiates it once more."""
    x, direction = (jnp.asarray(noise(4, 12, 12)[i : i + 2]) for i in (0, 2))
    a = functools.partial(run, PRESETS[pipe], keys=KEYS[:2])
    out, back = jax.vjp(a, x)
    y = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)
    np.testing.assert_allclose(
        jnp.vdot(a(x + direction) - out, y), jnp.vdot(direction, back(y)[0]), rtol=1e-4, atol=1e-3
    )

    @jax.jit
    def penalty(weight):
        grads = jax.grad(lambda x: jnp.sum(jnp.tanh(a(x) * weight)))(x)
        return jnp.sum(grads**2)

    slope = (penalty(0.5 + 1e-2) - penalty(0.5 - 1e-2)) / 2e-2
    np.testing.assert_allclose(jax.jit(jax.grad(penalty))(0.5), slope, rtol=2e-3)


# Draws ----------------------------------------------------------------------------------------------------------------


def test_an_image_is_augmented_by_its_own_key_whatever_is_beside_it():
    images = noise(8, 16, 16)
    whole = run(PRESETS['bgcfnc'], images, KEYS)
    np.testing.assert_allclose(run(PRESETS['bgcfnc'], images[5:7], KEYS[5:7]), whole[5:7], atol=2e-5)
    same = run(PRESETS['bgcfnc'], images[:1].repeat(8, 0), KEYS)
    assert np.abs(np.diff(same, axis=0)).max((1, 2, 3)).min() > 0.1


@pytest.mark.parametrize('pipe', PRESETS)
def test_nothing_happens_with_probability_0(pipe):
    """The filters of the warp undo each other where nothing moves."""
    images = noise(8, 16, 16)
    np.testing.assert_allclose(run(PRESETS[pipe], images, KEYS, 0.0), images, atol=1e-5)
    assert np.abs(run(PRESETS[pipe], images, KEYS) - images).max() > 0.1


def test_transforms_are_drawn_with_probability_p_and_rotations_once_or_twice():
    p, keys = 0.4, jax.random.split(jax.random.key(3), 4000)
    draws = jax.jit(lambda keys: augment.draw(PRESETS['bgcfnc'], keys, (1, 1, 3), p))(keys)
    neutral = {name: how.neutral for name, how in augment.DRAWS.items()}
    changed = {name: np.asarray(draws[name] != neutral[name]).reshape(len(keys), -1)[:, -1] for name in neutral}
    either = changed.pop('rotate_pre') | changed.pop('rotate_post')
    for name, share in (changed | {'rotate': either}).items():
        assert abs(share.mean() - p) < 0.03, name
    # A gate decides for both axes, and gates do not go together.
    both = np.asarray(draws['xint'] != 0.5)
    assert (both[:, 0] == both[:, 1]).all()
    assert abs(np.mean(changed['scale'] & changed['hue']) - p * p) < 0.03
    half = jax.jit(lambda keys: augment.draw(Pipe(scale=0.5), keys, (1, 1, 3), p))(keys)
    assert half.keys() == {'scale'} and abs(np.mean(half['scale'] != 0) - p / 2) < 0.03


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(8, 8), (10, 16)])
def test_flips_turns_and_whole_shifts_move_pixels(size):
    """The wavelet is not quite symmetric: images turned over are some hundredths of a pixel off."""
    y, x = np.meshgrid(*(np.arange(side) for side in size), indexing='ij')
    smooth = (np.cos(0.35 * x + 0.1 * y))[None, ..., None].astype(np.float32)
    image = noise(1, *size)

    def moved(image, **values):
        draws = {name: jnp.asarray([value], jnp.float32) for name, value in values.items()}
        return augment.warp(image, augment.geometry(draws, size))

    close = functools.partial(np.testing.assert_allclose, atol=0.06)
    close(moved(smooth, xflip=0.6), smooth[:, :, ::-1])
    close(moved(smooth, rotate90=0.6), smooth[:, ::-1, ::-1])
    if size[0] == size[1]:
        close(moved(smooth, rotate90=0.3), np.rot90(smooth, axes=(1, 2)))
    t = np.round(0.125 * np.array(size)).astype(int)
    shifted = np.pad(image, ((0, 0), (t[0], 0), (0, t[1]), (0, 0)), mode='reflect')[:, : size[0], t[1] :]
    np.testing.assert_allclose(moved(image, xint=(0.0, 1.0)), shifted, atol=1e-5)


def test_colours_of_one_channel_are_those_of_three_equal_ones():
    grey = noise(8, 9, 9, 1)
    draws = augment.draw(PRESETS['color'], KEYS, (9, 9, 3), 1.0)
    draws |= {'hue': jnp.full(8, 0.5), 'saturation': jnp.zeros(8)}
    three = augment.augment(PRESETS['color'], np.repeat(grey, 3, -1), draws)
    got = augment.augment(PRESETS['color'], grey, draws)
    np.testing.assert_allclose(got[..., 0], three.mean(-1), atol=1e-5)
    assert np.abs(got - grey).max() > 0.1


def test_hue_keeps_grey_and_a_third_of_a_turn_exchanges_colours():
    image = np.array([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]]]], np.float32)
    turned = augment.augment(Pipe(hue=1), image, {'hue': jnp.full(1, 0.5 + 1 / 3)})
    np.testing.assert_allclose(turned[0, 0], [[0, 1, 0], [0.5, 0.5, 0.5]], atol=1e-6)


def test_four_channels_have_geometry_and_no_colours():
    images = noise(8, 12, 12, 4)
    four, three = (run(PRESETS['bg'], x, KEYS) for x in (images, images[..., :3]))
    np.testing.assert_allclose(four[..., :3], three, atol=1e-5)
    with pytest.raises(UserError, match=r"colours of 4 channels cannot be augmented.*'bg'"):
        run(PRESETS['bgc'], images, KEYS)


def test_a_band_is_made_stronger_and_the_power_of_natural_images_is_kept():
    """Their spectrum falls as 1 / f: of the four bands, the lowest has ten parts of thirteen."""
    draws = {f'imgfilter{band}': jnp.array([float(band == 3)]) for band in range(4)}
    gains = np.asarray(augment.band_gains(Pipe(imgfilter=1), draws))[0]
    assert gains[3] / gains[0] == pytest.approx(2)
    assert gains**2 @ np.array([10, 1, 1, 1]) / 13 == pytest.approx(1)
    np.testing.assert_allclose(augment.filter_bank().sum(0), np.eye(1, 43, 21)[0], atol=1e-6)
    flat = np.ones((1, 30, 40, 3), np.float32)
    np.testing.assert_allclose(augment.equalise(flat, gains[None]), gains[0] ** 2 * flat, rtol=1e-5)


def test_half_of_each_side_is_cut_out_around_its_centre():
    images = np.ones((1, 8, 12, 3), np.float32)
    cut = np.asarray(augment.augment(PRESETS['cutout'], images, {'cutout': jnp.array([[0.5, 0.25]])}))[0, ..., 0]
    want = np.ones((8, 12))
    want[:4, 3:9] = 0
    np.testing.assert_array_equal(cut, want)


# Strength -------------------------------------------------------------------------------------------------------------


def test_p_follows_the_signs_of_four_steps():
    def adapted(stats, step):
        return augment.adapted(stats, jnp.int32(step), 16, 0.6, 100.0)

    step = 4 * 16 / 100_000
    stats = augment.initial_stats(0.5)
    assert adapted(stats, 0)['augment_p'] == 0.5  # nothing was seen yet
    for logits in ([1.0, 2.0, 3.0, -1.0], [5.0, 0.1, 1.0, 1.0]):
        stats = augment.counted(stats, jnp.array(logits))
    assert (stats['ada_signs'], stats['ada_batches']) == (1.5, 2)
    assert adapted(stats, 3) == stats
    after = adapted(stats, 4)
    np.testing.assert_allclose(after['augment_p'], 0.5 + step, rtol=1e-6)
    assert after['ada_batches'] == after['ada_signs'] == 0
    fewer = augment.counted(stats, jnp.array([-1.0, 1.0, 1.0, -1.0]))  # a mean of 0.5
    np.testing.assert_allclose(adapted(fewer, 8)['augment_p'], 0.5 - step, rtol=1e-6)
    assert adapted({**fewer, 'augment_p': jnp.float32(step / 2)}, 8)['augment_p'] == 0
    assert adapted({**stats, 'augment_p': jnp.float32(1.0)}, 8)['augment_p'] > 1
