"""Extrapolation: windows are where they say, models show them, and scores know what is true there."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from pegan_jax.analysis import extrapolation
from pegan_jax.config import load_config, system_module, to_json
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

SIDE = 16


@functools.cache
def model(name, *overrides):
    config = load_config(name, overrides)
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    return Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


def test_a_window_moves_by_whole_pixels():
    frame, moved = (extrapolation.window(SIDE, 'down', d) for d in (0.0, 0.25))
    np.testing.assert_allclose(frame[0, 0], [-1 + 1 / SIDE] * 2)
    np.testing.assert_allclose(moved[:-4], frame[4:], atol=1e-6)
    assert extrapolation.window(SIDE, 'right', 2.0)[0, 0, 0] > 3 - 1


def test_references_continue_the_frame_each_in_its_way():
    index = np.arange(2)
    frame, outside = (extrapolation.window(SIDE, 'right', d) for d in (0.0, 1.0))
    truth = extrapolation.true_worlds()(index, frame)
    made = {name: images(index, outside) for name, images in extrapolation.REFERENCES.items()}
    np.testing.assert_allclose(made['frame repeated'], truth, atol=1e-4)
    np.testing.assert_allclose(made['frame mirrored'], truth[:, :, ::-1], atol=1e-4)
    border = np.repeat(truth[:, :, -1:], SIDE, axis=2)
    np.testing.assert_allclose(made['border stretched'], border, atol=1e-4)
    assert np.abs(made['other worlds'] - truth).mean() > 0.02


@pytest.mark.parametrize('name', ['cips:tiny', 'creps:tiny', pytest.param('mspie:k,tiny', marks=pytest.mark.slow)])
def test_models_show_the_part_of_a_larger_image_that_the_window_is(name):
    loaded, index = model(name), np.arange(2)
    images = extrapolation.of_model(loaded)
    side = loaded.config.data.size[0]
    frame, moved = (images(index, extrapolation.window(side, 'right', d)) for d in (0.0, 0.5))
    later = extrapolation.of_model(loaded, 1)(index[:1], extrapolation.window(side, 'right', 0.0))
    np.testing.assert_allclose(later, frame[1:], atol=1e-5)
    larger = np.asarray(loaded.synthesise(loaded.styles([0, 1]), **loaded.sampler.view((side, 2 * side), None)))
    np.testing.assert_allclose(moved, larger[:, :, side:], atol=1e-4)
    if name != 'mspie:k,tiny':  # whose larger image is another one
        np.testing.assert_allclose(frame, larger[:, :, side // 2 : -side // 2], atol=1e-4)
        down = images(index, extrapolation.window(side, 'down', 0.25))
        np.testing.assert_allclose(down[:, : -side // 4], frame[:, side // 4 :], atol=1e-4)


@pytest.mark.slow
def test_a_model_of_somebody_else_is_a_function_of_latents_and_a_grid(tmp_path):
    def images(index, grid):  # a sky, whose brightness falls from left to right, and knows nothing of worlds
        brightness = np.random.default_rng(0).uniform(size=len(index)).reshape(-1, 1, 1, 1) - 0.2 * grid[None, ..., :1]
        return np.repeat(brightness, 3, axis=3).astype(np.float32)

    options = dict(side=SIDE, folder=tmp_path, count=32, distances=(0.0, 1.0), directions=('right',))
    theirs = extrapolation.curves(images, 'a sky', **options)['right']
    best = extrapolation.curves(extrapolation.true_worlds(), 'other worlds', **options)['right']
    assert theirs.keys() == best.keys() == {f'{score}32' for score in extrapolation.SCORES}
    for distance in (0, 1):
        assert best['swd32'][distance] < 0.7 * theirs['swd32'][distance]
    truth = [
        to_uint8(
            extrapolation.true_worlds(extrapolation.REAL_WORLDS)(np.arange(32), extrapolation.window(SIDE, 'right', d))
        )
        for d in (0.0, 1.0)
    ]
    made = to_uint8(images(np.arange(32), extrapolation.window(SIDE, 'right', 1.0)))
    want = np.sqrt(np.mean((truth[1].mean((0, 2)) - made.mean((0, 2))) ** 2))
    np.testing.assert_allclose(theirs['rows32'][1], want, rtol=1e-5)


def test_features_of_true_windows_are_kept_for_the_program_that_drew_them(monkeypatch):
    worlds, grid = extrapolation.true_worlds(), extrapolation.window(SIDE, 'right', 0.0)
    keys = [extrapolation._rows(worlds, 'worlds', grid).key(0, 4)]
    monkeypatch.setattr(extrapolation, 'worlds_digest', lambda: 'another')
    assert extrapolation._rows(worlds, 'worlds', grid).key(0, 4) not in keys


def coloured_worlds(index, grid):
    return np.broadcast_to(np.concatenate([grid, -grid[..., :1]], axis=-1), (len(index), *grid.shape[:2], 3))


def test_images_of_one_channel_are_compared_with_grey_worlds(tmp_path, monkeypatch):
    asked = []

    def scorer(fake, real):
        asked.append((fake, real))
        return {'swd8': 0.0}, None

    monkeypatch.setattr(extrapolation, 'scorer_of', lambda *args: scorer)
    monkeypatch.setattr(extrapolation, 'true_worlds', lambda first: coloured_worlds)

    def sky(index, grid):
        return np.broadcast_to(grid[..., :1], (len(index), *grid.shape[:2], 1)).astype(np.float32)

    options = dict(side=SIDE, folder=tmp_path, count=8, distances=(0.0,), directions=('right',))
    extrapolation.curves(sky, 'a sky', grey=True, **options)
    extrapolation.curves(sky, 'a sky', **options)
    (fake, real), (coloured, other) = asked
    for images in (fake, real):
        pixels = images.read(0, 8)
        assert pixels.shape == (8, SIDE, SIDE, 3) and np.ptp(pixels, axis=-1).max() == 0
    assert np.ptp(other.read(0, 8), axis=-1).max() > 50 and real.key(0, 8) != other.key(0, 8)
    with pytest.raises(UserError, match='images of a sky have one channel; compare them with grey worlds by grey=True'):
        coloured.read(0, 8)


def test_a_study_of_grey_models_has_grey_references(tmp_path, monkeypatch):
    config = load_config('cips:tiny', ['data.channels=1', 'model.img_channels=1'])
    found, identities = [], []
    monkeypatch.setattr(extrapolation, 'of_model', lambda model, seed: coloured_worlds)
    monkeypatch.setattr(extrapolation, 'REFERENCES', {'other worlds': coloured_worlds})
    monkeypatch.setattr(extrapolation, 'digest_of', lambda variables: 'digest')

    def curves(images, identity, *, grey, **options):
        found.append(grey)
        identities.append(identity)
        return {direction: {'swd8': [1.0] * 5} for direction in extrapolation.DIRECTIONS}

    monkeypatch.setattr(extrapolation, 'curves', curves)
    monkeypatch.setattr(extrapolation, 'line_chart', lambda *args: None)
    pictures = []
    monkeypatch.setattr(extrapolation, 'picture_table', lambda title, rows: pictures.append(rows))
    grey, other = (SimpleNamespace(config=c, size=(16, 16), variables={}) for c in (config, load_config('cips:tiny')))
    extrapolation.extrapolation_study({'a': grey}, 8, tmp_path, 5)
    assert found == [True] * 2 and identities[0] == f'digest, {to_json(config)}, seed 5'
    assert all(np.ptp(image, axis=-1).max() == 0 for row in pictures[0].values() for _, image in row)
    with pytest.raises(UserError, match=r'different numbers of channels \(a 1, b 3\)'):
        extrapolation.extrapolation_study({'a': grey, 'b': other}, 8, tmp_path)


@pytest.mark.slow
def test_models_without_an_outside_are_refused(tmp_path):
    with pytest.raises(UserError, match='stylegan2 has one view, and nothing outside of it'):
        extrapolation.of_model(model('stylegan2:tiny'))
    with pytest.raises(UserError, match=r'models have the sizes \[\(16, 16\), \(32, 32\)\]'):
        extrapolation.extrapolation_study({'a': model('cips:tiny'), 'b': model('stylegan3:small')}, 8, tmp_path)
    turned = model('cips:tiny', 'model.rotate=True', 'data.resolution=48')
    with pytest.raises(UserError, match=r'a was trained on turned windows of worlds'):
        extrapolation.extrapolation_study({'a': turned}, 8, tmp_path)
