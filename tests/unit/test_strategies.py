"""Large photographs: windows around holes, smaller images, and the command's options."""

import logging
import time

import numpy as np
import pytest
from PIL import Image
from test_inpainting import _Model, hole, photo, read, run, write

from pegan_jax import inpainting
from pegan_jax.cli import main
from pegan_jax.inpainting import Strategy, inpaint_by, strategies


def holes(height, width, *boxes):
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_the_whole_image_is_the_default():
    image, mask = photo(), hole()
    model = _Model()
    np.testing.assert_array_equal(inpaint_by(Strategy(), model, image, mask), inpainting.inpaint(model, image, mask))
    assert model.shapes == [(1, 24, 32, 3)] * 2


def test_a_crop_sees_the_window_around_a_hole_and_nothing_else():
    image, mask = photo(300, 400), holes(300, 400, (150, 200, 160, 220))
    model = _Model()
    got = inpaint_by(Strategy('crop', margin=24), model, image, mask)
    # 10 + 48 and 20 + 48 pixels, rounded up to multiples of 64.
    assert model.shapes == [(1, 64, 128, 3)]
    np.testing.assert_array_equal(got[~mask], image[~mask])
    (window,) = strategies.windows(mask, 24)
    known = image[window][..., 0][~mask[window]] / 127.5 - 1
    assert np.abs(got[mask][:, 0] / 127.5 - 1 - known.mean()).max() < 0.01
    rows, columns = window
    assert rows.start <= 126 and rows.stop >= 184 and columns.start <= 176 and columns.stop >= 244


@pytest.mark.parametrize('seed', range(5))
def test_windows_hold_every_hole_with_its_margin_and_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (280, 380), (6, 2))
    mask = holes(300, 400, *((t, l, t + rng.integers(1, 30), l + rng.integers(1, 30)) for t, l in corners))
    windows, count = strategies.windows(mask, 20), np.zeros(mask.shape, int)
    for window in windows:
        count[window] += 1
        for part, side in zip(window, mask.shape, strict=True):
            assert 0 <= part.start < part.stop <= side
            assert (part.stop - part.start) % strategies.STEP == 0 or part.stop - part.start == side
    assert count.max() == 1
    for row, column in np.argwhere(mask):
        assert count[max(row - 20, 0) : row + 21, max(column - 20, 0) : column + 21].all()


def test_holes_that_are_near_share_a_window_and_thousands_of_specks_take_no_time():
    near, far = (
        holes(400, 400, (50, 50, 60, 60), (50, 90, 60, 99)),
        holes(400, 400, (10, 10, 20, 20), (380, 380, 390, 390)),
    )
    assert len(strategies.windows(near, 32)) == 1 and len(strategies.windows(far, 32)) == 2
    specks = np.random.default_rng(0).random((2000, 2000)) < 0.01
    assert len(strategies.windows(specks, 32)) == 1
    few, start = np.zeros((3000, 4000), bool), time.perf_counter()
    few.flat[np.random.default_rng(0).integers(few.size, size=3000)] = True
    covered = sum(few[window].sum() for window in strategies.windows(few, 8))
    assert covered == few.sum() and time.perf_counter() - start < 10


def test_dust_that_fills_every_pixel_of_a_smaller_image_is_refused():
    mask = np.zeros((200, 200), bool)
    mask[::3, ::3] = True
    with pytest.raises(ValueError, match=r'limit=64: a hole is in every pixel .* strategy crop or original'):
        inpaint_by(Strategy('resize', limit=64), _Model(), photo(200, 200), mask)


def test_a_smaller_image_is_filled_and_enlarged_into_the_hole():
    image, mask = photo(100, 200), holes(100, 200, (41, 61, 60, 101))
    model = _Model()
    got = inpaint_by(Strategy('resize', limit=64), model, image, mask)
    assert model.shapes == [(1, 32, 64, 3)]
    np.testing.assert_array_equal(got[~mask], image[~mask])
    # Green tells the row of the small image that a pixel came from, but near known pixels, with which it is mixed.
    rows = (got[48:54, 80, 1] / 127.5 - 1) * 100
    np.testing.assert_allclose(rows, (np.arange(48, 54) + 0.5) * 0.32 - 0.5, atol=0.6)
    np.testing.assert_array_equal(
        inpaint_by(Strategy('resize', limit=200), model, image, mask), inpainting.inpaint(model, image, mask)
    )


def test_what_is_in_a_hole_does_not_leak_into_the_smaller_image():
    image, mask = photo(97, 131), holes(97, 131, (30, 41, 52, 77))
    other = np.where(mask[..., None], 255 - image, image)
    strategy = Strategy('resize', limit=64)
    np.testing.assert_array_equal(
        inpaint_by(strategy, _Model(), image, mask),
        np.where(mask[..., None], inpaint_by(strategy, _Model(), other, mask), image),
    )


def test_sketches_go_with_windows_and_smaller_images():
    image, mask = photo(200, 200), holes(200, 200, (80, 80, 120, 120))
    sketch = holes(200, 200, (100, 0, 101, 200))
    for strategy in (Strategy('crop', margin=16), Strategy('resize', limit=100)):
        got = inpaint_by(strategy, _Model(guided=True), image, mask, sketch)
        blue = got[90:110, 90:110, 2]  # without the borders, which enlarging mixes with known pixels
        assert blue[10].min() > 200 and np.delete(blue, np.s_[7:14], axis=0).max() < 140


@pytest.mark.parametrize(
    'strategy, message',
    [
        (Strategy('magic'), "strategy='magic'; use original, resize, crop"),
        (Strategy('crop', margin=7), 'margin=7 must be at least 8'),
        (Strategy('resize', limit=63), 'limit=63 must be at least 64'),
    ],
)
def test_strategies_that_there_are_not_are_refused(strategy, message):
    with pytest.raises(ValueError, match=message):
        inpaint_by(strategy, None, photo(), hole())


def test_files_are_filled_by_a_strategy_without_a_warning_of_their_size(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr('pegan_jax.inpainting.files.LARGE', 10_000)
    image, mask = photo(300, 400), holes(300, 400, (150, 200, 160, 220))
    model = _Model()
    with caplog.at_level(logging.WARNING):
        got = run(tmp_path, image, mask, model, strategy=Strategy('crop', margin=24))
        assert not caplog.records and model.shapes == [(1, 64, 128, 3)]
        np.testing.assert_array_equal(got, inpaint_by(Strategy('crop', margin=24), model, image, mask))
        run(tmp_path, image, mask, model)
    assert 'the strategies resize and crop take less' in caplog.text


def test_the_command_takes_a_strategy_and_refuses_numbers_of_another(tmp_path, capsys):
    image, mask = (
        write(tmp_path / 'image.png', photo(120, 160)),
        write(tmp_path / 'mask.png', holes(120, 160, (50, 60, 60, 70))),
    )
    files = [
        'inpaint',
        '--method',
        'biharmonic',
        '--image',
        str(image),
        '--mask',
        str(mask),
        '--out',
        str(tmp_path / 'o.png'),
    ]
    assert main([*files, '--strategy', 'crop', '--margin', '16']) == 0
    want = inpaint_by(Strategy('crop', margin=16), None, read(image), np.asarray(Image.open(mask)) > 0)
    np.testing.assert_array_equal(read(tmp_path / 'o.png'), want)
    assert main([*files, '--strategy', 'resize', '--limit', '64']) == 0
    assert (read(tmp_path / 'o.png') != want).any()
    capsys.readouterr()
    assert main([*files, '--margin', '16']) == 1
    assert '--margin 16 goes with --strategy crop; leave it out, or add that' in capsys.readouterr().err
    assert main([*files, '--strategy', 'crop', '--margin', '2']) == 1
    assert 'margin=2 must be at least 8' in capsys.readouterr().err
