"""Encodings against float64 NumPy, at large positions and frequencies too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords, encodings


def code64(p, dim, div_half_dim=False):
    half = dim // 2
    angle = np.asarray(p, np.float64)[..., None] * 10000.0 ** (-np.arange(half) / (half if div_half_dim else half - 1))
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


# Grid and sinusoidal encoding -----------------------------------------------------------------------------------------


def test_csg_is_the_grid_of_coordinates_with_x_first():
    enc = np.asarray(encodings.csg(3, 5))
    assert enc.shape == (3, 5, 2)
    np.testing.assert_array_equal(enc[0, 0], [-1, -1])
    np.testing.assert_array_equal(enc[0, -1], [1, -1])
    np.testing.assert_array_equal(enc[1, 2], [0, 0])


@pytest.mark.parametrize('div_half_dim', [False, True])
def test_spe_codes_are_exact_at_large_positions(div_half_dim):
    p = np.concatenate([np.arange(0, 4097, 7), np.linspace(0, 4096, 200), [-3.5, 65536.0, 99999.0]]).astype(np.float32)
    got = jax.jit(encodings.spe_code, static_argnums=1, static_argnames='div_half_dim')(
        p, 16, div_half_dim=div_half_dim
    )
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, code64(p, 16, div_half_dim), atol=1e-6)


def test_plain_float32_codes_are_not_exact_at_large_positions():
    """The reason for the extra terms in spe_code."""
    p = np.arange(4097, dtype=np.float32)
    omega = (10000.0 ** (-np.arange(8) / 7)).astype(np.float32)
    assert np.abs(np.sin(p[:, None] * omega[None, :]) - code64(p, 16)[:, :8]).max() > 5e-5


def test_spe_codes_of_dimension_two_are_a_sine_and_a_cosine_of_the_position():
    got = encodings.spe_code(jnp.arange(3), 2, div_half_dim=True)
    np.testing.assert_allclose(got, [[0, 1], [np.sin(1), np.cos(1)], [np.sin(2), np.cos(2)]], atol=1e-6)


@pytest.mark.parametrize(('dim', 'div_half_dim'), [(3, True), (0, True), (-2, False), (2, False)])
def test_impossible_spe_dimensions_are_refused(dim, div_half_dim):
    with pytest.raises(ValueError, match=f'dim={dim}'):
        encodings.spe(4, 4, dim, div_half_dim=div_half_dim)


@pytest.mark.parametrize(
    ('n', 'center_shift', 'padding_idx', 'want'),
    [
        (4, None, 0, [1, 2, 3, 4]),
        (4, 100, 0, [1, 2, 3, 4]),
        (5, 100, 0, [1, 2, 3, 4, 5]),
        (5, 0, 0, [1, 2, 0, 3, 4]),  # values -2..2
        (4, 0, 0, [1, 0, 2, 3]),  # values -1..2
        (4, None, 1, [1, 2, 3, 4]),  # value 1 is padding, at position 1
        (4, None, 3, [4, 5, 3, 6]),
        (4, -100, 0, [1, 2, 3, 4]),
    ],
)
def test_spe_positions_count_what_is_not_padding(n, center_shift, padding_idx, want):
    got = encodings.spe_positions(n, center_shift=center_shift, padding_idx=padding_idx)
    np.testing.assert_array_equal(got, want)


def test_spe_positions_refuse_an_empty_axis():
    with pytest.raises(ValueError, match='n=0'):
        encodings.spe_positions(0)


def test_a_spe_grid_has_the_column_code_then_the_row_code():
    enc = np.asarray(jax.jit(lambda: encodings.spe(3, 5, 6))())
    assert enc.dtype == np.float32 and enc.shape == (3, 5, 12)
    for i, j in ((0, 0), (2, 4), (1, 3)):
        np.testing.assert_allclose(enc[i, j], np.concatenate([code64(j + 1, 6), code64(i + 1, 6)]), atol=1e-6)


def test_padding_is_encoded_as_zero():
    enc = np.asarray(jax.jit(lambda: encodings.spe(5, 4, 6, center_shift=0))())
    assert not enc[2, :, 6:].any() and not enc[:, 1, :6].any()
    assert enc[3, :, 6:].any() and enc[:, 2, :6].any()
    tokens = encodings.spe_1d(jnp.array([[7, 0, 9], [0, 0, 2]]), 4)
    np.testing.assert_allclose(tokens[0], [code64(1, 4), np.zeros(4), code64(2, 4)], atol=1e-6)
    np.testing.assert_allclose(tokens[1], [np.zeros(4), np.zeros(4), code64(1, 4)], atol=1e-6)


def test_expanding_builds_a_larger_grid_and_interpolating_resizes_the_small_one():
    spe = functools.partial(encodings.spe, dim=4)
    expanded = encodings.at_scale(spe, (3, 4), (2, 0), interpolate=False)
    np.testing.assert_array_equal(expanded, spe(5, 4))
    interpolated = np.asarray(encodings.at_scale(spe, (3, 4), (2, 0), interpolate=True))
    small = np.asarray(spe(3, 4))
    np.testing.assert_allclose(interpolated[::2], small, atol=1e-6)
    np.testing.assert_allclose(interpolated[1], (small[0] + small[1]) / 2, atol=1e-6)


def test_a_learned_constant_is_resized_between_its_corners():
    constant = jnp.arange(4.0).reshape(2, 2, 1)
    np.testing.assert_array_equal(encodings.learned_constant(constant), constant)
    np.testing.assert_allclose(
        encodings.learned_constant(constant, 1)[..., 0], [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]], atol=1e-6
    )
    assert encodings.learned_constant(constant, (0, 3)).shape == (2, 5, 1)


# Fourier features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('scale', [1.0, 1e3, 1e4])
def test_learned_fourier_features_stay_within_their_stated_error(scale):
    r = np.random.default_rng(0)
    points = r.uniform(-2, 2, (50, 2)).astype(np.float32)
    weight = (scale * r.uniform(-1, 1, (2, 9))).astype(np.float32)
    bias = r.uniform(-0.7, 0.7, 9).astype(np.float32)
    got = np.asarray(jax.jit(encodings.fourier_features)(points, weight, bias))
    x, w = points.astype(np.float64), weight.astype(np.float64)
    size = np.abs(x) @ np.abs(w) + np.abs(bias) + 1
    assert got.dtype == np.float32
    assert (np.abs(got - np.sin(x @ w + bias)) <= 2e-7 * size).all()


@pytest.mark.parametrize('std', [1.0, 1e3, 1e4])
def test_random_fourier_features_are_exact_at_any_frequency(std):
    r = np.random.default_rng(1)
    points = r.uniform(-2, 2, (7, 9, 2)).astype(np.float32)
    freqs = np.asarray(encodings.random_frequencies(jax.random.key(0), 16, std))
    got = jax.jit(encodings.random_fourier_features)(points, freqs)
    angle = 2 * np.pi * (points.astype(np.float64) @ freqs.astype(np.float64).T)
    np.testing.assert_allclose(got, np.concatenate([np.cos(angle), np.sin(angle)], axis=-1), atol=2e-6)


def test_random_frequencies_are_gaussian():
    freqs = np.asarray(encodings.random_frequencies(jax.random.key(0), 4000, 3.0))
    assert freqs.shape == (4000, 2)
    np.testing.assert_allclose(freqs.std(0), 3, rtol=0.05)
    assert abs(freqs.mean()) < 0.1


def test_exact_phases_have_the_derivative_of_the_plain_product():
    point, freqs = jnp.array([0.37, -1.9]), jnp.array([[100.3, 7.77], [-3.1, 41.0]])
    by_point, by_freqs = jax.jit(jax.jacobian(encodings.random_fourier_features, argnums=(0, 1)))(point, freqs)
    p, b = np.asarray(point, np.float64), np.asarray(freqs, np.float64)
    slope = 2 * np.pi * np.concatenate([-np.sin(2 * np.pi * b @ p), np.cos(2 * np.pi * b @ p)])
    np.testing.assert_allclose(by_point, slope[:, None] * np.concatenate([b, b]), rtol=1e-4, atol=1e-4)
    want = slope[:, None, None] * np.tile(np.eye(2), (2, 1))[:, :, None] * p[None, None, :]
    np.testing.assert_allclose(by_freqs, want, rtol=1e-4, atol=1e-4)


def test_cylinder_features_are_the_azimuth_on_a_circle():
    points = np.array([[0, 0.5], [0.5, -1], [-1, 0], [1, 0], [1000.25, 2]], np.float32)
    want = [[1, 0, 0.5], [0, 1, -1], [-1, 0, 0], [-1, 0, 0], [np.cos(np.pi / 4), np.sin(np.pi / 4), 2]]
    np.testing.assert_allclose(encodings.cylinder(points), want, atol=3e-7)


def test_encodings_are_float32_whatever_comes_in():
    points = jnp.array([[0.5, -0.25], [1.0, 0.125]], jnp.bfloat16)
    exact = points.astype(jnp.float32)
    r = np.random.default_rng(0)
    weight, bias, table = r.normal(size=(2, 3)), r.normal(size=3), r.normal(size=(4, 4, 3))
    weight, bias, table = (jnp.asarray(a, jnp.bfloat16) for a in (weight, bias, table))
    for encode in (
        lambda p: encodings.fourier_features(p, weight, bias),
        lambda p: encodings.random_fourier_features(p, weight.T),
        lambda p: encodings.embedding(table, p),
        encodings.cylinder,
        lambda p: encodings.spe_code(p, 4),
        lambda p: encodings.sg3_features(p, weight.T, bias, jnp.eye(3), sampling_rate=16, bandwidth=2),
    ):
        out = jax.jit(lambda *points, encode=encode: [encode(p) for p in points])(points, exact)
        assert out[0].dtype == jnp.float32
        np.testing.assert_array_equal(*out)


# StyleGAN3 input ------------------------------------------------------------------------------------------------------


def test_sg3_frequencies_fill_a_disc_and_phases_a_cycle():
    freqs, phases = (np.asarray(a) for a in encodings.sg3_frequencies(jax.random.key(2), 4000, 2.0))
    radius = np.linalg.norm(freqs, axis=-1) / 2.0
    assert radius.max() <= 1
    # The area inside radius r is r^2 of the disc.
    for r in (0.25, 0.5, 0.75):
        assert abs(np.mean(radius < r) - r**2) < 0.03
    assert np.abs(freqs.mean(0)).max() < 0.05
    assert phases.min() >= -0.5 and phases.max() <= 0.5
    np.testing.assert_allclose([phases.mean(), phases.var()], [0, 1 / 12], atol=0.02)


def test_sg3_positions_are_sample_centres_about_the_middle():
    g = np.asarray(encodings.sg3_grid(3, 4, 2.0))
    np.testing.assert_array_equal(g[0, :, 0], [-0.75, -0.25, 0.25, 0.75])
    np.testing.assert_array_equal(g[:, 0, 1], [-0.5, 0, 0.5])


def sg3_features64(points, freqs, phases, matrix, rate, bandwidth):
    points, freqs, phases, matrix = (np.asarray(a, np.float64) for a in (points, freqs, phases, matrix))
    moved = freqs @ matrix[:2, :2]
    amplitude = np.clip(1 - (np.linalg.norm(moved, axis=-1) - bandwidth) / (rate / 2 - bandwidth), 0, 1)
    return amplitude * np.sin(2 * np.pi * (points @ moved.T + phases + freqs @ matrix[:2, 2]))


@pytest.mark.parametrize('zoom', [1.0, 0.4, 0.125, 1 / 256])
def test_sg3_features_are_exact_far_from_the_image(zoom):
    """At distances and shifts of hundreds of image widths; at other zooms the transformed frequency is rounded."""
    freqs, phases = encodings.sg3_frequencies(jax.random.key(3), 12, 3.0)
    matrix = np.array([[1 / zoom, 0, 300.7], [0, 1 / zoom, -77.1], [0, 0, 1]], np.float32)
    points = np.random.default_rng(0).uniform(-100, 100, (40, 2)).astype(np.float32)
    run = jax.jit(functools.partial(encodings.sg3_features, sampling_rate=32, bandwidth=3.0))
    got = run(points, freqs, phases, matrix)
    want = sg3_features64(points, freqs, phases, matrix, 32, 3.0)
    np.testing.assert_allclose(got, want, atol=2e-6 if zoom == 1 else 2e-6 + 1e-6 * 16 * 142)
    # Zoomed out until every frequency exceeds the Nyquist rate, nothing is left.
    assert (np.abs(want).max() < 1e-9) == (zoom < 1 / 100)


def test_sg3_input_shifts_before_it_rotates_and_then_applies_the_users_transform():
    t = jnp.array([[0.6, 0.8, 0.3, -0.2], [3.0, 0.0, 3.0, 0.0]])
    user = coords.compose(coords.zoom(1.25), coords.translate(0.1, 0.0))
    freqs, phases = encodings.sg3_frequencies(jax.random.key(4), 5, 2.0)
    run = functools.partial(encodings.sg3_fourier_input, height=3, width=4, sampling_rate=8, bandwidth=2.0)
    got = np.asarray(jax.jit(run)(t, freqs, phases, user))
    assert got.shape == (2, 3, 4, 5)
    rotations = [np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]), np.eye(3)]
    shifts = [np.array([[1, 0, -0.3], [0, 1, 0.2], [0, 0, 1]]), np.array([[1, 0, -1], [0, 1, 0], [0, 0, 1]])]
    for n in (0, 1):
        matrix = rotations[n] @ shifts[n] @ np.asarray(user)
        want = sg3_features64(encodings.sg3_grid(3, 4, 8), freqs, phases, matrix, 8, 2.0)
        np.testing.assert_allclose(got[n], want, atol=5e-6)


def test_sg3_mixing_divides_by_the_root_of_the_channel_count():
    weight = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    np.testing.assert_allclose(encodings.sg3_mix(jnp.array([[1.0, 0, 0, 1]]), weight), [[4, 5]], rtol=1e-6)


def test_impossible_sg3_inputs_are_refused():
    freqs, phases = jnp.ones((3, 2)), jnp.zeros(3)
    run = functools.partial(encodings.sg3_fourier_input, height=4, width=4)
    with pytest.raises(ValueError, match='t has shape'):
        run(jnp.ones(4), freqs, phases, jnp.eye(3), sampling_rate=16, bandwidth=2)
    with pytest.raises(ValueError, match='sampling_rate=3'):
        run(jnp.ones((1, 4)), freqs, phases, jnp.eye(3), sampling_rate=3, bandwidth=2)


def test_sg3_frequencies_up_to_half_the_rate_pass_and_higher_ones_do_not():
    freqs, phases, t = jnp.array([[2.0, 0.0], [2.1, 0.0], [0.0, -1.9]]), jnp.full(3, 0.25), jnp.array([[1.0, 0, 0, 0]])
    got = encodings.sg3_fourier_input(
        t, freqs, phases, coords.translate(0.125, 0.125), height=4, width=4, sampling_rate=4, bandwidth=2.0
    )
    assert np.abs(got[..., 0]).max() > 0.5 and np.abs(got[..., 2]).max() > 0.5 and not got[..., 1].any()


# Coordinate embeddings ------------------------------------------------------------------------------------------------


def embedding64(table, points, wrap_x):
    rows, columns, _ = table.shape
    out = []
    for x, y in np.asarray(points, np.float64):
        u, v = ((x + 1) * columns - 1) / 2, np.clip(((y + 1) * rows - 1) / 2, 0, rows - 1)
        u = u % columns if wrap_x else np.clip(u, 0, columns - 1)
        i, j = int(v), int(u)
        i2, j2 = min(i + 1, rows - 1), (j + 1) % columns if wrap_x else min(j + 1, columns - 1)
        a = (1 - (u - j)) * table[i, j] + (u - j) * table[i, j2]
        b = (1 - (u - j)) * table[i2, j] + (u - j) * table[i2, j2]
        out.append((1 - (v - i)) * a + (v - i) * b)
    return np.array(out)


@pytest.mark.parametrize('wrap_x', [False, True])
def test_an_embedding_is_a_bilinear_lookup_in_a_rectangular_table(wrap_x):
    r = np.random.default_rng(5)
    table = r.normal(size=(3, 5, 4)).astype(np.float32)
    points = r.uniform(-2.5, 2.5, (60, 2)).astype(np.float32)
    got = jax.jit(encodings.embedding, static_argnames='wrap_x')(table, points, wrap_x=wrap_x)
    np.testing.assert_allclose(got, embedding64(table, points, wrap_x), atol=1e-5)


def test_the_raw_embedding_ignores_coordinates_but_not_the_size():
    table = jnp.arange(24.0).reshape(3, 4, 2)
    got = encodings.embedding_raw(table, jnp.zeros((5, 3, 4, 2)))
    np.testing.assert_array_equal(got, np.broadcast_to(table, (5, 3, 4, 2)))
    with pytest.raises(ValueError, match='native'):
        encodings.embedding_raw(table, jnp.zeros((4, 3, 2)))
