"""The notebooks run from top to bottom, headless, on a tiny model."""

import base64
import io
import pathlib
import re

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

NOTEBOOKS = pathlib.Path(__file__).parents[2] / 'colab'


def _pictures(notebook):
    outputs = [o for cell in notebook.cells if cell.cell_type == 'code' for o in cell.outputs]
    encoded = [o.data['image/png'] for o in outputs if 'data' in o and 'image/png' in o.data]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(e)))) for e in encoded]


def _executed(name, config, kimg, folder, monkeypatch):
    monkeypatch.setenv('PEGAN_JAX_CONFIG', config)
    monkeypatch.setenv('PEGAN_JAX_WORKDIR', str(folder / 'run'))
    monkeypatch.setenv('PEGAN_JAX_KIMG', kimg)
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    assert notebook.metadata.kernelspec.name == 'python3'
    assert not any(cell.get('outputs') for cell in notebook.cells), 'clear the outputs before committing'
    nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(folder)}}).execute()
    return notebook


def test_the_first_notebook_shows_a_model_that_ships_and_trains_another(tmp_path, monkeypatch):
    notebook = _executed('start.ipynb', 'cips:tiny', '0.016', tmp_path, monkeypatch)
    samples, views, truncated, mine = _pictures(notebook)
    assert samples.shape == (128, 512, 3) and views.shape == (256, 1024, 3)
    assert truncated.shape == (256, 512, 3) and mine.shape == (32, 128, 3)
    small, fine, turned, wide = (views[:, 256 * i : 256 * (i + 1)].astype(int) for i in range(4))
    # The finer image is the same scene; the middle of the wide one is that at half the size.
    assert np.abs(small - fine).mean() < np.abs(turned - fine).mean()
    assert np.abs(wide[64:192, 64:192] - fine.reshape(128, 2, 128, 2, 3).mean((1, 3))).mean() < 10
    # With psi 0 all are the mean image.
    mean = truncated[:64].reshape(64, 8, 64, 3)
    assert np.abs(mean - mean[:, :1]).max() <= 1 < truncated[64:].reshape(-1, 64, 8, 64, 3).std(2).mean()


def test_the_cips_notebook_runs_and_shows_its_pictures(tmp_path, monkeypatch):
    notebook = _executed('cips.ipynb', 'cips:tiny', '0.064', tmp_path, monkeypatch)
    samples, fine, wide, turned, foveated, between, large = _pictures(notebook)
    assert samples.shape == (32, 128, 3) and fine.shape == (64, 128, 3) and wide.shape == (128, 128, 3)
    assert turned.shape == (64, 256, 3) and foveated.shape == (128, 256, 3) and between.shape == (32, 128, 3)
    assert large.shape == (256, 256, 3)
    for picture in (samples, fine, wide, turned, foveated, between, large):
        assert picture.std() > 2
    # All pixels were computed in the last column, and it is the image that is not turned.
    np.testing.assert_array_equal(foveated[:64, 192:], foveated[64:, 192:])
    assert np.abs(foveated[64:, 192:].astype(int) - turned[:, :64]).max() <= 1


@pytest.mark.hand
def test_the_deepfill_notebook_runs_and_shows_its_pictures(tmp_path, monkeypatch):
    notebook = _executed('deepfill.ipynb', 'deepfill:guided,tiny', '0.032', tmp_path, monkeypatch)
    image, filled, flow, sketched, mine = _pictures(notebook)
    assert image.shape == (256, 384, 3) and filled.shape == sketched.shape == mine.shape == (256, 1152, 3)
    holes, ours, smooth = (filled[:, 384 * i : 384 * (i + 1)].astype(int) for i in range(3))
    known = (holes != 255).any(axis=-1)
    # What is known is the image in all of them; in the hole, the model and the interpolation differ.
    for picture in (holes, ours, smooth, mine[:, 384:768]):
        np.testing.assert_array_equal(picture[known], image[known])
    assert 0.7 < known.mean() < 0.95 and np.abs(ours - smooth)[~known].mean() > 2
    assert flow.shape == (256, 768, 3)
    np.testing.assert_array_equal(flow[:, :384], ours)
    np.testing.assert_array_equal(mine[:, 768:], ours)
    lines, without, drawn = (sketched[:, 384 * i : 384 * (i + 1)].astype(int) for i in range(3))
    # The hole is a quarter, black but for the lines, and the lines change what is in it alone.
    assert 0.15 < (lines == 0).all(axis=-1).mean() < 0.26 and (lines[64:192, 96:288] == 255).all(axis=-1).any()
    assert 0.05 < (without != drawn).any(axis=-1).mean() <= 0.26
    assert (without != image).any(axis=-1).mean() > 0.15


def test_the_notebook_on_positional_encodings_runs_and_shows_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv('PEGAN_JAX_SAMPLES', '128')
    notebook = _executed('positional_encoding.ipynb', 'dcgan:tiny,no-pad,spe', '0.032', tmp_path, monkeypatch)
    mean, identical, read, encodings, samples, wide, large = _pictures(notebook)
    side = samples.shape[0]
    assert samples.shape == (side, 8 * side, 3) and wide.shape == (side, 8 * side, 3)
    assert large.shape == (2 * side, 8 * side, 3)
    for picture in (mean, identical, read, encodings, samples, wide, large):
        assert picture.std() > 1


@pytest.mark.hand
def test_the_singan_notebook_runs_and_shows_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv('PEGAN_JAX_ITERATIONS', '2')
    notebook = _executed('singan.ipynb', 'singan:tiny', '', tmp_path, monkeypatch)
    mountain, mountains, photo, pair, samples, wide, edited, frames = _pictures(notebook)
    assert mountain.shape == (160, 360, 3) and mountains.shape == (160, 480, 3)
    height, width = pair.shape[0], pair.shape[1] // 2
    assert photo.shape == (427, 640, 3) and (height, width) == (22, 32)
    assert samples.shape == (height, 4 * width, 3) and wide.shape == (2 * height, 2 * width, 3)
    assert edited.shape == (height, 2 * width, 3) and frames.shape == (height, 4 * width, 3)
    real = pair[:, :width].astype(int)
    # The disk is there on the left, and hardly anything of it in the far corner.
    assert np.abs(edited[:, :width] - real).max() > 50
    assert np.abs(edited[-3:, -3:] - real[-3:, -3:]).max() < 8
    assert (tmp_path / 'run' / 'moving.gif').is_file()


@pytest.mark.hand
def test_the_stylegan3_notebook_runs_and_shows_its_pictures(tmp_path, monkeypatch):
    notebook = _executed('stylegan3.ipynb', 'stylegan3:r,tiny', '0.016', tmp_path, monkeypatch)
    samples, moved, wide, mixed, between = _pictures(notebook)
    assert samples.shape == (32, 128, 3) and moved.shape == (32, 128, 3) and wide.shape == (16, 96, 3)
    assert mixed.shape == (64, 80, 3) and between.shape == (16, 128, 3)
    for picture in (samples, moved, wide, mixed, between):
        assert picture.std() > 2
    # The scene of seed 1 is in the middle of the larger canvas, and of the wide one.
    scene = samples[:16, 16:32].astype(int)
    assert np.abs(moved[8:24, 8:24] - scene).mean() < 4 and np.abs(wide[:, 40:56] - scene).mean() < 4
    printed = ''.join(o.text for cell in notebook.cells for o in cell.get('outputs', []) if 'text' in o)
    exact = re.findall(r'([-0-9.]+) dB', printed)
    assert len(exact) == 2 and all(float(number) > 40 for number in exact)


def test_the_notebook_on_coordinates_runs_and_shows_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv('PEGAN_JAX_STEPS', '20')
    notebook = _executed('coordinates.ipynb', 'cips:tiny', '0.064', tmp_path, monkeypatch)
    samples, warped, styles, fitted, circles, planets, tile, *studies = _pictures(notebook)
    assert samples.shape == (128, 512, 3) and warped.shape == styles.shape == (256, 768, 3)
    assert fitted.shape == (384, 384, 3) and circles.shape == (256, 512, 3) and planets.shape == (256, 512, 3)
    assert tile.shape == (128, 128, 3) and len(studies) == 3
    for picture in (samples, warped, styles, fitted, circles, planets, tile, *studies):
        assert picture.std() > 2
    # Two styles blend from the first one on: the left column is that of the plain image, the right one is not.
    plain, across = styles[:, :256].astype(int), styles[:, 256:512].astype(int)
    assert np.abs(plain - across)[:, 0].max() <= 1 < np.abs(plain - across)[:, -1].max()
    # In front, both circles are that of the first seed.
    assert np.abs(circles[:128, 256].astype(int) - circles[128:, 256]).max() <= 1
    assert (tmp_path / 'run' / 'zoom' / 'image.dzi').is_file()


@pytest.mark.hand
def test_the_notebook_on_extrapolation_runs_and_knows_worlds_best(tmp_path, monkeypatch):
    monkeypatch.setenv('PEGAN_JAX_COUNT', '32')
    notebook = _executed('extrapolation.ipynb', '', '', tmp_path, monkeypatch)
    strips, *charts = _pictures(notebook)
    assert strips.shape == (128, 384, 3) and len(charts) == 2 and all(picture.std() > 2 for picture in charts)
    table = next(o.text for cell in notebook.cells if cell.cell_type == 'code' for o in cell.outputs if 'text' in o)
    rows = [line.split('|')[1:-1] for line in table.splitlines()[1:]]
    scores = {name.strip(): [float(value) for value in values] for name, *values in rows}
    assert list(scores) == ['worlds32', 'other worlds', 'frame repeated', 'border stretched', 'one column']
    for name in ('worlds32', 'one column'):
        assert scores[name][0] > scores['other worlds'][0]
    assert scores['worlds32'][2] > 10 * scores['worlds32'][0]  # where the embedding knows nothing
