"""The studies of coordinates: what they measure, on what is known, and that each writes its numbers and pictures."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import coords
from pegan_jax.analysis import artefacts, encodings, panoramas, resolution
from pegan_jax.analysis.holes import random_models
from pegan_jax.cli import main
from pegan_jax.data.worlds import render_world
from pegan_jax.sampling import sample


@pytest.fixture(scope='module')
def models():
    return random_models(['cips:tiny'], jax.random.key(0))


@pytest.mark.slow
def test_a_finer_grid_covers_the_squares_of_the_pixels(models):
    model = models['cips:tiny']
    np.testing.assert_allclose(resolution.cell_grid(model, 1), coords.grid(16, 16), atol=1e-6)
    fine = resolution.cell_grid(model, 4)
    # Means of 4 x 4 are the pixels; in the units of the world, they are cells of an image from border to border.
    np.testing.assert_allclose(fine.reshape(16, 4, 16, 4, 2).mean((1, 3)), coords.grid(16, 16), atol=1e-6)
    np.testing.assert_allclose(fine * 15 / 16, coords.grid(64, 64, centered=True), atol=1e-6)
    # So Lanczos, which keeps borders, is nearer to the truth than half a pixel beside it.
    truth, small = (np.asarray(render_world(1_000_000, n, n)) for n in (64, 16))
    pixels = [np.uint8(np.clip(np.rint(127.5 * (x + 1)), 0, 255)) for x in (truth, small)]
    large = resolution.enlarged(pixels[1], 4, Image.Resampling.LANCZOS).astype(float)
    errors = [np.abs(np.roll(large, k, (0, 1)) - pixels[0]).mean() for k in (-2, 0, 2)]
    assert errors[1] == min(errors)


def test_waves_are_found_in_narrow_bands_and_noise_has_few():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4, 64, 64, 3))
    wave = 2 * np.sin(2 * np.pi * (0.3 * np.arange(64)[:, None] + 0.21 * np.arange(64)))[..., None]
    plain, waved = (artefacts.narrow_band_energy(x).mean() for x in (noise, noise + wave))
    assert plain < 0.1 and waved > 0.5
    # Slow changes are the picture, not a wave.
    slow = 30 * np.sin(2 * np.pi * 2 * np.arange(64) / 64)[:, None, None]
    assert artefacts.narrow_band_energy(noise + slow).mean() < 0.15
    # An edge is a line in the spectrum, however it lies.
    for across in (np.arange(64)[:, None] > 30, np.arange(64)[:, None] + np.arange(64) > 61):
        edge = 20.0 * np.broadcast_to(across, (64, 64))[None, ..., None]
        assert artefacts.narrow_band_energy(noise + edge).mean() < 0.1
    # A wave between the frequencies of the smaller image and those of the finer one goes with the filter.
    x = np.arange(128)[None, :, None]
    fine = np.sin(2 * np.pi * 0.4 * x)[None] + 0.1 * rng.normal(size=(1, 128, 128, 1))
    assert np.abs(artefacts.reduced(fine, 2)).mean() < 0.2 * np.abs(fine[:, ::2, ::2]).mean()
    assert artefacts._beyond(fine.repeat(3, -1)) > 0.9
    ramp = np.linspace(-1, 1, 128)[:, None, None]  # smooth, but for what a transform sees across the borders
    assert artefacts._beyond(np.broadcast_to(ramp, (1, 128, 128, 3))) < 1e-6


def test_a_mirrored_panorama_is_found_at_its_azimuth_and_a_seam_where_it_does_not_close():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 32, 3))
    symmetric = image.copy()
    for k in range(1, 16):  # about column 5, and so about column 21
        symmetric[:, (5 - k) % 32] = symmetric[:, (5 + k) % 32]
    curve = panoramas.mirror_symmetry(symmetric)
    assert curve.argmax() == 10 and curve[10] == pytest.approx(1) and np.sort(curve)[-2] < 0.5
    assert panoramas.mirror_symmetry(image).max() < 0.5
    rows = image + 100 * np.arange(8)[:, None, None]  # what all columns share says nothing
    np.testing.assert_allclose(panoramas.mirror_symmetry(rows), panoramas.mirror_symmetry(image), atol=1e-9)
    ramp = np.broadcast_to(np.arange(32.0)[None, :, None], (8, 32, 1))
    assert panoramas.seam(ramp) == pytest.approx(31)
    assert panoramas.seam(np.abs(ramp - 16)) == pytest.approx(1)


def test_components_do_not_depend_on_signs_and_span_all_colours():
    grid = np.random.default_rng(0).normal(size=(6, 7, 5))
    colours = encodings.component_colours(grid)
    assert colours.shape == (6, 7, 3) and colours.min((0, 1)).tolist() == [0] * 3 and colours.max() == 255
    plane = np.asarray(coords.grid(6, 7)) @ np.array([[2.0, 0, 0, 0], [0, 1.0, 0, 0]])
    first, second, _ = np.moveaxis(encodings.component_colours(plane), -1, 0)
    assert (np.diff(first.astype(int), axis=1) > 0).all() and (np.diff(second.astype(int), axis=0) > 0).all()


def test_each_half_of_the_encoding_can_be_left_out(models):
    model = models['cips:tiny']
    found = encodings.coordinate_encodings(model)
    assert {name: x.shape for name, x in found.items()} == dict.fromkeys(
        ('Fourier features', 'embedding'), (16, 16, 16)
    )
    other = encodings.without(model, 'emb')
    assert (encodings.coordinate_encodings(other)['embedding'] == 0).all()
    np.testing.assert_array_equal(encodings.coordinate_encodings(other)['Fourier features'], found['Fourier features'])
    assert (encodings.coordinate_encodings(encodings.without(model, 'lff'))['Fourier features'] == 0).all()
    assert np.abs(sample(other, [0]) - sample(model, [0])).max() > 0.01


@pytest.mark.parametrize(
    'words, pictures',
    [
        pytest.param('detail --config cips:tiny --samples 2', {'seeds', 'worlds', 'spectra'}, marks=pytest.mark.slow),
        ('foveation --config cips:tiny --samples 2', {'images', 'psnr'}),
        pytest.param('inversion --config cips:tiny --samples 2', {'images', 'psnr'}, marks=pytest.mark.slow),
        ('artefacts --config cips:tiny --config cips:tiny,sine --samples 2', {'images'}),
        ('latents --config cips:tiny --config cips:tiny,no-embedding --samples 2', {'interpolation', 'truncation'}),
        (
            'halves --config cips:tiny --config cips:tiny,no-embedding --samples 2',
            {'components', 'magnitudes', 'zeroed'},
        ),
        ('panorama --config cips:panorama,tiny --samples 2', {'panoramas', 'mirror', 'views'}),
    ],
)
def test_every_study_of_coordinates_writes_its_numbers_and_pictures(tmp_path, words, pictures, monkeypatch, capsys):
    monkeypatch.setattr(resolution, 'STEPS', 3)
    monkeypatch.setattr(resolution, 'GIVEN', ('scattered:0.25',))
    study = words.split()[0]
    assert main(['analyze', *words.split(), '--out', str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f'{study}.json', *(f'{study}_{picture}.png' for picture in pictures)}
    assert all(np.asarray(Image.open(tmp_path / name)).std() > 5 for name in names if name.endswith('.png'))
    numbers = json.loads((tmp_path / f'{study}.json').read_text())['numbers']
    assert list(numbers) == words.split()[2::2][: words.count('--config')]
    (first, *_) = numbers.values()
    if study == 'foveation':
        assert [entry['pixels'] for entry in first.values()] == [13, 64, 128, 256]
        scores = [entry['psnr'] for entry in first.values()]
        assert scores[3] is None and scores[0] < scores[1] < scores[2]
    if study == 'panorama':
        assert max(first['seam']['panoramas'] + first['seam']['blends']) < 3
        assert max(first['blends differ from their ends by']) < 1e-3


@pytest.mark.parametrize(
    'words, message',
    [
        ('detail --config dcgan:tiny', 'dcgan:tiny (dcgan) makes whole images, not single coordinates; choose a cips'),
        ('panorama --config cips:tiny', 'this cips is not on a cylinder'),
        ('halves --config mspie:tiny', 'has no such halves; choose a cips'),
        ('latents --config dcgan:tiny', 'dcgan'),
        ('inversion --samples 1', 'needs at least 2'),
    ],
)
def test_models_that_have_no_coordinates_are_refused(tmp_path, words, message, capsys):
    assert main(['analyze', *words.split(), '--out', str(tmp_path / 'out')]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()
