"""The notebooks run from top to bottom, headless, on a tiny model."""

import base64
import io
import pathlib

import nbclient
import nbformat
import numpy as np
from PIL import Image

NOTEBOOKS = pathlib.Path(__file__).parents[2] / 'colab'


def _pictures(notebook):
    outputs = [o for cell in notebook.cells if cell.cell_type == 'code' for o in cell.outputs]
    encoded = [o.data['image/png'] for o in outputs if 'data' in o and 'image/png' in o.data]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(e)))) for e in encoded]


def test_the_cips_notebook_runs_and_shows_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv('PEGAN_JAX_CONFIG', 'cips:tiny')
    monkeypatch.setenv('PEGAN_JAX_WORKDIR', str(tmp_path / 'run'))
    monkeypatch.setenv('PEGAN_JAX_KIMG', '0.064')
    notebook = nbformat.read(NOTEBOOKS / 'cips.ipynb', as_version=4)
    assert notebook.metadata.kernelspec.name == 'python3'
    assert not any(cell.get('outputs') for cell in notebook.cells), 'clear the outputs before committing'
    nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(tmp_path)}}).execute()
    samples, fine, wide, turned, foveated, between, large = _pictures(notebook)
    assert samples.shape == (32, 128, 3) and fine.shape == (64, 128, 3) and wide.shape == (128, 128, 3)
    assert turned.shape == (64, 256, 3) and foveated.shape == (128, 256, 3) and between.shape == (32, 128, 3)
    assert large.shape == (256, 256, 3)
    for picture in (samples, fine, wide, turned, foveated, between, large):
        assert picture.std() > 2
    # All pixels were computed in the last column, and it is the image that is not turned.
    np.testing.assert_array_equal(foveated[:64, 192:], foveated[64:, 192:])
    assert np.abs(foveated[64:, 192:].astype(int) - turned[:, :64]).max() <= 1
