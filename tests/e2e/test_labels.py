"""A conditional StyleGAN2, from a ZIP of labelled images to samples of a class."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from pegan_jax import load
from pegan_jax.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A ZIP in StyleGAN's format, of dark and of bright images, and a workdir after two launches of one step each."""
    folder = tmp_path_factory.mktemp('labels')
    labels = []
    with zipfile.ZipFile(folder / 'data.zip', 'w', zipfile.ZIP_STORED) as archive:
        for i in range(12):
            data = io.BytesIO()
            Image.fromarray(np.full((16, 16, 3), 40 + 160 * (i % 2), np.uint8)).save(data, 'png')
            archive.writestr(f'00000/img{i:08d}.png', data.getvalue())
            labels.append([f'00000/img{i:08d}.png', i % 2])
        archive.writestr('dataset.json', json.dumps({'labels': labels}))
    words = ['train', '--config', 'stylegan2:tiny', '--workdir', str(folder / 'run')]
    words += [f'--config.data.folder={folder / "data.zip"}', '--config.data.labels=True', '--config.model.c_dim=2']
    words += ['--config.train.sample_every=1', '--config.train.checkpoint_every=0', '--config.train.keep_best=0']
    for kimg in (0.008, 0.016):
        assert main([*words, f'--config.train.total_kimg={kimg}', '--debug']) == 0
    return folder


def test_training_with_labels_takes_every_update_and_goes_on(trained):
    model = load(trained / 'run')
    assert model.step == 2 and model.config.model.c_dim == 2
    rows = [json.loads(line) for line in (trained / 'run' / 'metrics.jsonl').read_text().splitlines()]
    found = {name for row in rows for name in row}
    assert {'loss/g', 'loss/d', 'loss/r1', 'loss/pl'} <= found
    assert len(list((trained / 'run' / 'samples').glob('samples_*.png'))) == 3


def test_samples_of_a_class_differ_from_those_of_another(trained, tmp_path):
    pictures = []
    for label in (0, 1):
        out = tmp_path / f'{label}.png'
        words = ['sample', '--model', str(trained / 'run'), '--seeds', '0-3', '--class', str(label), '--out', str(out)]
        assert main(words) == 0
        pictures.append(np.asarray(Image.open(out), int))
    assert pictures[0].shape == (16, 64, 3) and np.abs(pictures[0] - pictures[1]).max() > 2


@pytest.mark.parametrize(
    'words, match',
    [
        (['--seeds', '0'], 'trained with labels: give label, a class from 0 to 1'),
        (['--seeds', '0', '--class', '2'], 'no class of this model; it takes a class from 0 to 1'),
        (['--seeds', '0', '--class', '0', '--rotate', '9'], 'stylegan2'),
    ],
)
def test_samples_that_the_model_cannot_make_are_refused(trained, tmp_path, capsys, words, match):
    out = tmp_path / 'x.png'
    assert main(['sample', '--model', str(trained / 'run'), *words, '--out', str(out)]) == 1
    assert match.lower() in capsys.readouterr().err.lower() and not out.exists()
