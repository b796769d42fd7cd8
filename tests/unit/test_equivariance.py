"""Equivariance beyond golden numbers: scenes that do move, and do not; networks; what is counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords, ops
from pegan_jax.config import load_config
from pegan_jax.metrics import equivariance
from pegan_jax.metrics.equivariance import band_limit, convolve, rotation
from pegan_jax.models import stylegan2, stylegan3
from pegan_jax.settings import UserError

KEY, SIZE = jax.random.key(0), (40, 44)


@functools.partial(jax.jit, static_argnums=2)
def waves(keys, matrix, fixed=False):
    """Scenes of smooth waves [N, 40, 44, 3], 40 pixels per unit, that move with their coordinates, or stay."""
    height, width = SIZE
    pixels = coords.pixel_grid(height, width) - jnp.array([(width - 1) / 2, (height - 1) / 2]).reshape(1, 1, 2)
    matrix = jnp.eye(3) if fixed else matrix
    positions = jnp.einsum('ij,hwj->hwi', matrix[:2, :2], pixels / height) + matrix[:2, 2].reshape(1, 1, 2)

    def one(key):
        frequencies, phases = jax.random.normal(key, (2, 8, 3)) * 3
        angle = jnp.einsum('hwi,ick->hwck', positions, frequencies.reshape(2, 3, 4) * 2, precision='highest')
        return 0.3 * jnp.sum(jnp.sin(angle + phases.reshape(2, 3, 4)[0][None, None]), axis=-1)

    return jax.vmap(one)(keys)


def test_a_scene_that_moves_with_its_coordinates_scores_high_and_one_that_stays_low():
    """What is left is the interpolation of the moved image; the sides are not equal."""
    high = equivariance.equivariance(waves, 6, KEY, unit=40)
    assert high['eqt50k_int'] > 120 and high['eqt50k_frac'] > 55 and high['eqr50k'] > 70
    low = equivariance.equivariance(lambda keys, matrix: waves(keys, matrix, True), 6, KEY, unit=40)
    assert max(low.values()) < 25


def test_any_number_of_samples_counts():
    """One sample of the second batch, the only one with an error, is left out or not."""

    def images(keys, matrix):
        batch = jnp.zeros((4, 16, 16, 3))
        moved = jnp.any(matrix != jnp.eye(3))
        second = jnp.all(jax.random.key_data(keys[0]) == jax.random.key_data(first))
        return batch.at[1].set(jnp.where(moved & second, 0.5, 0.0))

    first = jax.random.split(jax.random.split(jax.random.fold_in(KEY, 1))[0], 4)[0]
    run = functools.partial(equivariance.equivariance, images, key=KEY, unit=16, metrics=['eqt50k_int'])
    assert run(num_samples=5) == {'eqt50k_int': np.inf}
    per_sample = 10 * np.log10(4 / 0.25)
    assert run(num_samples=6)['eqt50k_int'] == pytest.approx(per_sample + 10 * np.log10(6), abs=0.8)
    for changes, message in (({'num_samples': 0}, 'num_samples=0'), ({'num_samples': 4, 'metrics': ['eqt']}, "'eqt'")):
        with pytest.raises(UserError, match=message):
            equivariance.equivariance(images, **({'key': KEY, 'unit': 16} | changes))


def test_the_least_image_that_turns_has_a_pixel_that_is_known():
    x = jnp.zeros((1, 13, 13, 1))
    for angle in (0.4, np.pi / 4):
        f, pseudo = (equivariance.band_limit(equivariance.rotation(a), up) for a, up in ((angle, 4), (-angle, 1)))
        known = equivariance.turned(x, jnp.float32(angle), f)[1] * equivariance.blurred(x, pseudo)[1]
        assert known.sum() == 1
    with pytest.raises(UserError, match='nothing is known of the moved images'):
        equivariance.decibels(0.0, 0)


# Operators ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('up, taps, padding', [(1, 11, 0), (2, 7, 3), (4, 11, 5)])
def test_convolutions_by_phases_are_upsampling_with_a_filter(up, taps, padding):
    x = jax.random.normal(KEY, (2, 9, 12, 3))
    f = np.random.default_rng(0).normal(size=(taps, taps)).astype(np.float32)
    want = ops.upsample2d(x, f, up=up, padding=padding)
    np.testing.assert_allclose(jax.jit(convolve, static_argnums=(2, 3))(x, f, up, padding), want, atol=2e-4)


def test_shifts_leave_zeros_and_say_what_is_known():
    x = jax.random.normal(KEY, (2, 8, 10, 3))
    got, known = equivariance.shifted(x, jnp.array([3, -2]))
    np.testing.assert_array_equal(got[:, :-2, 3:], x[:, 2:, :-3])
    assert known.sum() == 6 * 7 == known[:-2, 3:].sum() and not np.any(got[:, -2:]) and not np.any(got[:, :, :3])
    same, inner = equivariance.shifted_lanczos(x, jnp.array([3.0, -2.0]))
    np.testing.assert_allclose(same, got, atol=1e-6)
    assert inner.sum() == inner[1:4, 6:].sum() == 3 * 4  # where no tap is outside


def test_a_quarter_turn_is_exact_where_it_is_known():
    x = waves(jax.random.split(KEY, 2), jnp.eye(3))[:, :, 2:42]
    got, known = jax.jit(equivariance.turned)(x, jnp.float32(np.pi / 2), band_limit(rotation(np.pi / 2), 4))
    error = np.abs(got - np.rot90(x, axes=(1, 2))).max((0, 3))
    assert known.sum() > 0.3 * known.size and error[np.asarray(known) > 0].max() < 1e-3 < error.max()


@pytest.mark.parametrize('up', [1, 3])
def test_a_filter_passes_what_both_grids_carry(up):
    """A turn by an eighth leaves a little less than each grid carries; frequency 0 passes, all phases are alike."""
    f = band_limit(rotation(np.pi / 4), up)
    assert f.shape == (12 * up - 1,) * 2
    for i in range(up):
        for j in range(up):
            assert f[i::up, j::up].sum() == pytest.approx(1 / up**2, rel=1e-5)
    response = np.abs(np.fft.fft2(f, (64, 64)))
    assert response[int(0.3 * 64 / up), 0] > 0.9 > 0.2 > response[int(0.5 * 64 / up), int(0.5 * 64 / up)]


# Networks -------------------------------------------------------------------------------------------------------------


def scores(module, count=8):
    """Scores of a generator with random weights."""
    variables = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, 8)))

    @jax.jit
    def images(keys, transform):
        ws = module.apply(variables, jax.vmap(lambda key: jax.random.normal(key, (8,)))(keys), method='map')
        return module.apply(variables, ws, transform=transform, method='synthesise')

    contrast = 0.5 / np.std(images(jax.random.split(KEY, 4), jnp.eye(3)))  # as if it were trained
    return equivariance.equivariance(lambda keys, transform: images(keys, transform) * contrast, count, KEY, unit=32)


@functools.cache
def stylegan3_scores(**changes):
    options = dict(r1_gamma=1.0, img_resolution=32, z_dim=8, w_dim=8, channel_base=256, channel_max=12, num_layers=4)
    options |= dict(d_channel_base=128, margin_size=8)
    return scores(stylegan3.Generator(stylegan3.Config(**(options | changes))))


@pytest.mark.slow
def test_rotations_need_radial_filters_and_kernels_of_one_pixel():
    t, r = stylegan3_scores(), stylegan3_scores(conv_kernel=1, use_radial_filters=True)
    assert r['eqr50k'] > t['eqr50k'] + 20
    assert min(t['eqt50k_int'], r['eqt50k_int']) > 60


def test_translation_needs_filters():
    filtered, bare = stylegan3_scores(), stylegan3_scores(filter_size=1)
    assert filtered['eqt50k_int'] > bare['eqt50k_int'] + 50 and bare['eqt50k_int'] < 30


def test_stylegan2_with_waves_for_its_constant_scores_lower():
    module = stylegan2.Generator((12, 12, 12, 8), w_dim=8, mapping_layers=2, use_noise=False, input='fourier')
    found = scores(module)
    assert max(found['eqt50k_int'], found['eqt50k_frac']) < 30 < 60 < stylegan3_scores()['eqt50k_frac']
    assert found['eqr50k'] < stylegan3_scores()['eqr50k'] < 30


def test_a_transform_of_stylegan2_with_waves_is_one_of_its_sampler():
    config = load_config('stylegan3:b,tiny')
    gan, module = stylegan2.build(config), stylegan2.generator(config.model)
    variables = jax.jit(module.init)(KEY, jnp.zeros((1, 16)))
    run, ws = jax.jit(gan.sampler.synthesise), jnp.ones((1, gan.sampler.num_ws, 16))
    matrices = (None, jnp.eye(3), coords.translate(0.25, 0.0))
    plain, still, moved = (run(variables, ws, **gan.sampler.view(None, matrix)) for matrix in matrices)
    np.testing.assert_allclose(plain, still, atol=1e-6)
    assert np.abs(moved - plain).max() > 1e-3
    with pytest.raises(UserError, match='StyleGAN2 has one size'):
        gan.sampler.view((32, 32), None)
    assert stylegan2.build(load_config('stylegan3:a,tiny')).sampler.view is None
