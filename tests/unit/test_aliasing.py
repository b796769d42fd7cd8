"""Studies of filters, noise, sticking details and spectra: the measures on made-up images, and the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pegan_jax import filters as design
from pegan_jax.analysis import filters, noise, spectrum, sticking
from pegan_jax.analysis.holes import random_models
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.models import stylegan3

RNG = np.random.default_rng(0)


@pytest.fixture(scope='module')
def models():
    return random_models(['stylegan2:tiny', 'stylegan3:r,tiny'], jax.random.key(0))


# Filters --------------------------------------------------------------------------------------------------------------


def test_a_response_is_that_of_the_closed_form():
    """Two equal taps give |cos(pi f / rate)|; along the diagonal, where each axis has f / sqrt 2, its square."""
    f, at = np.array([0.5, 0.5]), np.linspace(0, 8, 9)
    np.testing.assert_allclose(filters.response(f, 16.0, at), np.abs(np.cos(np.pi * at / 16)), atol=1e-12)
    want = np.cos(np.pi * at / np.sqrt(2) / 16) ** 2
    np.testing.assert_allclose(filters.response(f, 16.0, at, diagonal=True), want, atol=1e-12)
    np.testing.assert_allclose(filters.response(np.outer(f, f), 16.0, at, diagonal=True), want, atol=1e-12)
    np.testing.assert_allclose(filters.response(np.outer(f, f), 16.0, at), filters.response(f, 16.0, at), atol=1e-12)


def test_attenuations_are_near_what_is_asked_and_radial_filters_keep_them_along_the_diagonal():
    table = filters.layer_table(load_config('stylegan3:f').model)
    rows = list(table.values())[:-1]
    assert {round(row['asked down'], 2) for row in rows} == {40.66}
    assert {round(row['asked up'], 2) for row in rows} == {40.66, 42.14}
    assert all(abs(row[f'{way} dB'] - row[f'asked {way}']) < 3 for row in rows for way in ('up', 'down'))
    radial, last = (list(filters.layer_table(load_config('stylegan3:r').model).values())[i] for i in (0, 13))
    assert radial['diagonal'] > 40 > 10 > last['diagonal']
    f = design.lowpass(12, 2.0, 4.0, 16.0)
    frequencies = np.linspace(4, 8, 500)
    want = -20 * np.log10(
        np.abs([np.sum(f * np.cos(2 * np.pi * k * (np.arange(12) - 5.5) / 16)) for k in frequencies]).max()
    )
    assert filters.stopband_attenuation(f, 16.0, 4.0) == pytest.approx(want, abs=0.2)


def test_aliases_are_the_power_beyond_half_of_the_lower_rate():
    """A square of frequencies passes: 12 of 64 cycles along both axes are within, though 17 along the diagonal."""
    x = np.arange(64)
    wave = np.cos(2 * np.pi * 12 * x / 64)
    low, high = np.outer(wave, wave), np.cos(2 * np.pi * 24 * x / 64)[None] / np.sqrt(2)
    y = np.broadcast_to((low + 0.1 * high)[None, :, :, None], (1, 64, 64, 1))
    f = design.lowpass(12, 12.0, 12.0, 64.0)
    found = filters._aliases(y, 2, f)
    assert found['bare'] == pytest.approx(-20, abs=0.1)
    passed = filters.response(f, 64.0, np.array([12.0, 24.0]))
    assert found['filtered'] == pytest.approx(-20 + 20 * np.log10(passed[1] / passed[0] ** 2), abs=1)


def test_the_aliases_of_a_network_are_those_of_its_own_layers(models):
    """What the study looks at is the layer without its last filter: filtered, it is the layer's output."""
    model, variables = models['stylegan3:r,tiny'].config.model, models['stylegan3:r,tiny'].variables
    ws = jnp.ones((1, model.num_layers + 2, 16))
    seen = {}
    keep = filters._aliases
    try:
        filters._aliases = lambda y, down, f: (
            seen.setdefault(len(seen), (y, down, f)) and {'filtered': 0.0, 'bare': 0.0}
        )
        table = filters.alias_energy(model, variables, ws)
    finally:
        filters._aliases = keep
    assert list(table) == [layer.name for layer in stylegan3.layers(model)[:-1]]
    y, down, f = seen[0]
    layer = stylegan3.layers(model)[0]
    options = {'method': 'synthesise', 'capture_intermediates': True, 'mutable': ['intermediates']}
    _, state = jax.jit(lambda v, ws: stylegan3.Generator(model).apply(v, ws, **options))(variables, ws)
    want = np.asarray(state['intermediates']['synthesis'][layer.name]['__call__'][0])
    kernel = np.outer(f, f) if f.ndim == 1 else f
    side = want.shape[1]
    inner = slice(8, 8 + 8)
    got = np.zeros((8, 8, want.shape[3]))
    for i in range(8):
        for j in range(8):
            # Both are centred: sample i of the layer is between 2 i and 2 i + 1 of the higher rate.
            top, left = (down * (8 + k) - (len(kernel) - down) // 2 for k in (i, j))
            got[i, j] = np.einsum(
                'yxc,yx->c', y[0, top : top + len(kernel), left : left + len(kernel)], kernel[::-1, ::-1]
            )
    assert side * down == y.shape[1]
    np.testing.assert_allclose(got, want[0, inner, inner], atol=1e-4 * np.abs(want).max())


# Noise, sticking, spectra ---------------------------------------------------------------------------------------------


def test_noise_deviates_where_its_strength_is(models):
    model = models['stylegan2:tiny']
    w = model.styles([0, 1])
    assert noise.deviation(model, w, 4, jax.random.key(0)).max() < 1e-5  # at first the strengths are 0
    loud = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 0.5 if path[-1].key == 'noise_strength' else x, model.variables['params']
    )
    louder = type(model)(model.config, model.gan, {**model.variables, 'params': loud}, 0)
    maps = noise.deviation(louder, w, 12, jax.random.key(0))
    assert maps.shape == (2, 16, 16) and maps.min() > 1e-3


def test_details_that_stick_are_told_from_those_that_move():
    grain = RNG.normal(size=(48, 24, 1))
    stuck = np.broadcast_to(grain[:24], (64, 24, 24, 1)) + np.linspace(-1, 1, 64).reshape(-1, 1, 1, 1)
    moving = np.stack([np.roll(grain, k, axis=0)[:24] for k in RNG.integers(0, 48, 64)])
    assert sticking.detail_kept(stuck) > 0.95 and abs(sticking.detail_kept(moving)) < 0.1
    assert sticking.streaks(sticking.strip(stuck)) > 0.95 and abs(sticking.streaks(sticking.strip(moving))) < 0.15
    assert sticking.detail_kept(np.zeros_like(stuck)) <= 0 and sticking.streaks(sticking.strip(stuck * 0)) <= 0
    frames = np.arange(2 * 3 * 5).reshape(2, 3, 5, 1)
    np.testing.assert_array_equal(sticking.strip(frames)[..., 0], [[2, 17], [7, 22], [12, 27]])


def test_a_spectrum_is_flat_for_noise_and_has_a_wave_where_it_is():
    white = np.clip(128 + 20 * RNG.normal(size=(40, 32, 32, 3)), 0, 255)
    power = spectrum.power_spectrum(white, white.mean(), white.std())
    assert power.shape == (129, 129) and np.mean(power[20:60, 20:60]) == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(power[0], power[-1])
    wave = np.broadcast_to(np.sin(2 * np.pi * 5 * np.arange(32) / 32)[None, None, :, None], (1, 32, 32, 1))
    x, decibels = spectrum.slices(spectrum.power_spectrum(wave, 0.0, 1.0))['0 degrees']
    assert x[np.argmax(decibels)] == 5 and x[-1] == 16
    assert spectrum.slices(power)['45 degrees'][0][-1] == pytest.approx(32 / np.sqrt(2))
    # A wave of 0.2 cycles per pixel at 45 degrees, in cycles of the 32 pixels of the shorter side.
    across = (np.arange(32)[:, None] + np.arange(64)) * 0.2 / np.sqrt(2)
    wave = np.sin(2 * np.pi * across)[None, ..., None]
    for angle, (x, decibels) in spectrum.slices(spectrum.power_spectrum(wave, 0.0, 1.0), 0.5).items():
        if angle != '0 degrees':
            assert x[np.argmax(decibels)] == pytest.approx(0.2 * 32, abs=0.2), angle
    assert spectrum.heat_map(power).shape == (129, 129, 3)


def test_models_of_other_data_have_real_curves_of_their_own(monkeypatch):
    white = np.uint8(np.clip(128 + 20 * RNG.normal(size=(3, 4, 16, 16, 3)), 0, 255))
    drawn = {}
    monkeypatch.setattr(spectrum, 'line_chart', lambda title, curves, *_, **__: drawn.update({title: dict(curves)}))
    monkeypatch.setattr(spectrum, 'real_and_generated', lambda model, count, seed: (white[model], white[2]))
    spectrum.spectrum_study({'a': 0, 'b': 0, 'c': 1})
    curves = drawn['Radial power, relative to frequency 0']
    assert list(curves) == ['real, 16 pixels', 'a', 'b', 'real, as c', 'c']


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'words, pictures',
    [
        ('filters --config stylegan3:r,tiny', {'schedule', 'responses', 'aliases', 'table'}),
        pytest.param('filters --config stylegan3:d,tiny', {'schedule', 'responses', 'table'}, marks=pytest.mark.slow),
        ('noise --config stylegan2:tiny --samples 4', {'deviation'}),
        ('sticking --config stylegan2:tiny --config stylegan3:r,tiny --samples 8', {'averages', 'strips'}),
        ('spectrum --config dcgan:tiny --samples 4', {'maps', '0_degrees', '45_degrees', 'mean_over_angles', 'radial'}),
        pytest.param(
            'spectrum --config pconv:tiny --samples 2',
            {'maps', '0_degrees', '45_degrees', 'mean_over_angles', 'radial'},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_command_writes_numbers_and_pictures(tmp_path, words, pictures, capsys):
    study = words.split()[0]
    assert main(['analyze', *words.split(), '--out', str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f'{study}.json', *(f'{study}_{picture}.png' for picture in pictures)}
    assert {line.rpartition('/')[2] for line in capsys.readouterr().out.split()} == names
    assert all(np.asarray(Image.open(tmp_path / name)).std() > 5 for name in names if name.endswith('.png'))
    assert set(json.loads((tmp_path / f'{study}.json').read_text())['numbers']) == set(
        words.split()[2::2][: words.count('--config')]
    )


@pytest.mark.parametrize(
    'words, message',
    [
        ('filters --config stylegan2:tiny', "is of system 'stylegan2', whose layers have no such filters"),
        ('noise --config stylegan3:tiny', 'has no noise; choose a cips'),
        ('noise --config stylegan3:c,tiny', 'has no noise; choose a cips'),
        ('filters --samples 4', '--samples 4: the study filters draws no samples'),
        ('noise --samples 1', '--samples 1: the study noise needs at least 2'),
        ('padding --model a --model b', '--model is given 2 times; the study padding takes one'),
    ],
)
def test_what_cannot_be_studied_is_told(tmp_path, words, message, capsys):
    assert main(['analyze', *words.split(), '--out', str(tmp_path / 'out')]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()
