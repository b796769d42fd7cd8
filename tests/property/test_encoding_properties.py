"""Invariants of encodings: prefixes, equal ways of growing, translation, periodicity, bounds and motion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords, encodings

# Grids and sinusoids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('center_shift', [None, 100])
def test_a_larger_spe_grid_has_a_smaller_one_as_its_corner(center_shift):
    spe = functools.partial(encodings.spe, dim=8, center_shift=center_shift)
    small, large = jax.jit(lambda: (spe(4, 5), spe(7, 9)))()
    np.testing.assert_array_equal(small, large[:4, :5])


@pytest.mark.parametrize(('size', 'extra'), [((4, 4), 2), ((4, 6), (0, 3)), ((2, 5), (9, 1))])
def test_interpolating_and_expanding_are_the_same_for_csg_and_not_for_spe(size, extra):
    def both(encode):
        return [encodings.at_scale(encode, size, extra, interpolate=i) for i in (True, False)]

    csg, spe = jax.jit(lambda: (both(encodings.csg), both(functools.partial(encodings.spe, dim=4))))()
    np.testing.assert_allclose(*csg, atol=1e-6)
    assert spe[0].shape == spe[1].shape and np.abs(spe[0] - spe[1]).max() > 0.1


def test_spe_inner_products_depend_on_the_distance_only():
    """Sines and cosines of one frequency turn together, so that code(p) . code(q) is a function of p - q."""
    p = jnp.arange(40.0)
    gram = np.asarray(jax.jit(lambda p: encodings.spe_code(p, 8) @ encodings.spe_code(p, 8).T)(p))
    np.testing.assert_allclose(gram[1:, 1:], gram[:-1, :-1], atol=1e-5)
    np.testing.assert_allclose(np.diag(gram), 4, atol=1e-5)


def test_a_shift_of_position_is_a_fixed_rotation_of_the_spe_code():
    p, k, half = jnp.arange(30.0), 7.0, 4
    here, there, step = (
        np.asarray(a)
        for a in jax.jit(lambda p: [encodings.spe_code(q, 2 * half) for q in (p, p + k, jnp.array([k]))])(p)
    )
    sin, cos = step[:, :half], step[:, half:]
    s, c = here[:, :half], here[:, half:]
    np.testing.assert_allclose(there, np.concatenate([s * cos + c * sin, c * cos - s * sin], axis=-1), atol=2e-6)


# Fourier features -----------------------------------------------------------------------------------------------------


def test_a_shift_of_coords_is_a_shift_of_the_learned_phases():
    r = np.random.default_rng(0)
    points, weight = r.uniform(-1, 1, (20, 2)).astype(np.float32), r.normal(size=(2, 6)).astype(np.float32)
    bias, shift = r.normal(size=6).astype(np.float32), np.array([0.3, -0.8], np.float32)
    run = jax.jit(encodings.fourier_features)
    np.testing.assert_allclose(
        run(points + shift[None], weight, bias), run(points, weight, bias + shift @ weight), atol=2e-6
    )


def test_random_fourier_features_compare_points_by_their_difference_only():
    r = np.random.default_rng(1)
    a, b, shift = (r.uniform(-1, 1, (9, 2)).astype(np.float32) for _ in range(3))
    freqs = encodings.random_frequencies(jax.random.key(0), 32, 2.0)

    @jax.jit
    def kernel(p, q):
        features = encodings.random_fourier_features(p, freqs), encodings.random_fourier_features(q, freqs)
        return jnp.sum(features[0] * features[1], axis=-1)

    np.testing.assert_allclose(kernel(a, b), kernel(a + shift, b + shift), atol=2e-4)
    np.testing.assert_allclose(kernel(a, a), 32, rtol=1e-5)


def test_fourier_features_are_at_most_one_everywhere():
    points = np.random.default_rng(2).uniform(-1e6, 1e6, (500, 2)).astype(np.float32)
    freqs = encodings.random_frequencies(jax.random.key(1), 8, 100.0)
    run = jax.jit(
        lambda p: [
            encodings.fourier_features(p, freqs.T, jnp.ones(8)),
            encodings.random_fourier_features(p, freqs),
            encodings.spe_code(p[:, 0], 8),
            encodings.cylinder(p)[:, :2],
            encodings.sg3_features(p, freqs, jnp.ones(8), jnp.eye(3), sampling_rate=800, bandwidth=100),
        ]
    )
    for features in run(points):
        assert np.abs(features).max() <= 1 + 1e-6


def test_cylinder_features_have_period_two():
    points = coords.panorama_grid(3, 16)
    weight, bias = jax.random.normal(jax.random.key(0), (3, 5)), jnp.ones(5)
    run = jax.jit(lambda p: encodings.fourier_features(encodings.cylinder(p), weight, bias))
    for turns in (-1, 1, 5):
        shift = jnp.array([2.0 * turns, 0]).reshape(1, 1, 2)
        np.testing.assert_allclose(run(points + shift), run(points), atol=3e-6)


# StyleGAN3 input ------------------------------------------------------------------------------------------------------

SG3 = {'height': 24, 'width': 24, 'sampling_rate': 16, 'bandwidth': 2.0}


@pytest.fixture(scope='module')
def sg3():
    """The input for a user transform, batch 1, no learned transform."""
    freqs, phases = encodings.sg3_frequencies(jax.random.key(5), 16, 2.0)
    t = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    run = jax.jit(lambda matrix: encodings.sg3_fourier_input(t, freqs, phases, matrix, **SG3)[0])
    return lambda matrix: np.asarray(run(matrix))


def test_sg3_translation_moves_content_right_and_down(sg3):
    still = sg3(jnp.eye(3))
    moved = sg3(coords.translate(3 / 16, 2 / 16))
    np.testing.assert_allclose(moved[2:, 3:], still[:-2, :-3], atol=2e-6)


def test_sg3_rotation_turns_content_anticlockwise(sg3):
    still = sg3(jnp.eye(3))
    turned = sg3(coords.rotate(np.pi / 2))
    np.testing.assert_allclose(turned, np.rot90(still, 1), atol=2e-5)
    assert np.abs(turned - np.rot90(still, -1)).max() > 0.5


def test_sg3_zoom_magnifies_content(sg3):
    still, near = sg3(jnp.eye(3)), sg3(coords.zoom(3.0))
    # Sample 12 + 3 k + 1 of the magnified input is at a third of its distance, at sample 12 + k.
    np.testing.assert_allclose(near[1::3, 1::3], still[8:16, 8:16], atol=5e-6)


def test_sg3_learned_and_user_transforms_of_equal_motion_agree(sg3):
    freqs, phases = encodings.sg3_frequencies(jax.random.key(5), 16, 2.0)
    t = jnp.array([[1.0, 0.0, 0.25, -0.125]])
    learned = jax.jit(lambda t: encodings.sg3_fourier_input(t, freqs, phases, jnp.eye(3), **SG3)[0])(t)
    np.testing.assert_allclose(learned, sg3(coords.translate(0.25, -0.125)), atol=2e-6)


def test_a_larger_sg3_canvas_contains_the_smaller_one(sg3):
    freqs, phases = encodings.sg3_frequencies(jax.random.key(5), 16, 2.0)
    larger = SG3 | {'height': 28, 'width': 34}
    run = jax.jit(lambda t: encodings.sg3_fourier_input(t, freqs, phases, jnp.eye(3), **larger)[0])
    np.testing.assert_allclose(run(jnp.array([[1.0, 0.0, 0.0, 0.0]]))[2:-2, 5:-5], sg3(jnp.eye(3)), atol=2e-6)


# Coordinate embeddings ------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def table():
    return jax.random.normal(jax.random.key(6), (6, 8, 3))


lookup = jax.jit(encodings.embedding, static_argnames='wrap_x')


@pytest.mark.parametrize('wrap_x', [False, True])
def test_an_embedding_is_the_table_at_pixel_centres(table, wrap_x):
    np.testing.assert_allclose(lookup(table, coords.grid(6, 8, centered=True), wrap_x=wrap_x), table, atol=1e-5)


def test_an_embedding_repeats_its_border_outside(table):
    points = coords.grid(7, 7, x=(-3, 3), y=(-3, 3))
    inside = np.clip(points, [-1 + 1 / 8, -1 + 1 / 6], [1 - 1 / 8, 1 - 1 / 6])
    np.testing.assert_allclose(lookup(table, points), lookup(table, inside), atol=1e-5)


@pytest.mark.parametrize('wrap_x', [False, True])
def test_an_embedding_lies_between_the_extremes_of_its_table(table, wrap_x):
    points = coords.uniform(jax.random.key(7), 400, x=(-3, 3), y=(-3, 3))
    values = np.asarray(lookup(table, points, wrap_x=wrap_x))
    low, high = np.asarray(table).min((0, 1)), np.asarray(table).max((0, 1))
    assert (values >= low - 1e-6).all() and (values <= high + 1e-6).all()


def test_an_embedding_is_the_same_one_coordinate_at_a_time(table):
    points = coords.grid(4, 5, x=(-2, 2))
    one_by_one = jax.jit(jax.vmap(jax.vmap(lambda p: encodings.embedding(table, p, wrap_x=True))))(points)
    np.testing.assert_allclose(one_by_one, lookup(table, points, wrap_x=True), atol=1e-6)
    assert encodings.embedding(table, points[0, 0]).shape == (3,)


def test_a_circular_embedding_is_continuous_at_the_seam(table):
    def at(x):
        return np.asarray(lookup(table, np.array([[x, 0.3]], np.float32), wrap_x=True))

    step = np.abs(at(-1 + 1e-4) - at(1 - 1e-4)).max()
    assert step < 2e-4 * 8 / 2 * np.ptp(table) + 1e-5
    np.testing.assert_allclose(at(-1.0), at(1.0), atol=1e-5)
    np.testing.assert_allclose(at(-1.0), (at(-1 + 1 / 8) + at(1 - 1 / 8)) / 2, atol=1e-5)
    clamped = [np.asarray(lookup(table, np.array([[x, 0.3]], np.float32))) for x in (-1.0, 1.0)]
    assert np.abs(clamped[0] - clamped[1]).max() > 0.1


def test_a_circular_embedding_has_period_two_and_rolls_with_its_table(table):
    points = coords.panorama_grid(5, 16)
    values = lookup(table, points, wrap_x=True)
    for turns in (-2, 1, 7):
        shift = jnp.array([2.0 * turns, 0]).reshape(1, 1, 2)
        np.testing.assert_allclose(lookup(table, points + shift, wrap_x=True), values, atol=3e-5)
    np.testing.assert_allclose(lookup(jnp.roll(table, 3, 1), points, wrap_x=True), np.roll(values, 6, 1), atol=1e-5)


def test_gradients_of_a_lookup_share_one_among_the_neighbours(table):
    point = jnp.array([0.1, -0.2])
    gradient = np.asarray(jax.jit(jax.grad(lambda t: encodings.embedding(t, point)[0]))(table))
    assert np.count_nonzero(gradient) == 4 and not gradient[..., 1:].any()
    np.testing.assert_allclose(gradient.sum(), 1, atol=1e-6)
