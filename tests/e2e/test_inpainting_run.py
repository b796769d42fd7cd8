"""DeepFillv2 in the loop: masks and sketches of a run, its pictures, resuming."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import sampling
from pegan_jax.config import load_config
from pegan_jax.train import run
from pegan_jax.train.report import dry_run

pytestmark = pytest.mark.slow

END = 4  # steps


def settings(folder):
    overrides = {
        'model.img_resolution': 16, 'model.cnum': 4, 'model.d_cnum': 2, 'data.resolution': 16, 'data.folder': folder,
        'train.batch_size': 4, 'train.total_kimg': 4 * END / 1000, 'train.log_every': 1, 'train.sample_every': END,
        'train.checkpoint_every': 1, 'train.keep': 10, 'train.keep_best': 1, 'train.metric_images': 6,
        'train.sample_grid': (1, 3),
    }  # fmt: skip
    return load_config('deepfill:tiny,guided,port', [f'{k}={v}' for k, v in overrides.items()])


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Settings, working directory and last state of an uninterrupted run."""
    folder, workdir = (tmp_path_factory.mktemp(name) for name in ('images', 'whole'))
    rng = np.random.default_rng(0)
    for i in range(6):
        image = np.kron(rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((6, 6, 1), np.uint8))
        Image.fromarray(image).save(folder / f'{i}.png')
    config = settings(folder)
    return config, workdir, jax.device_get(run(config, workdir))


def test_a_run_goes_on_exactly(finished, tmp_path):
    """The masks of a step do not depend on where the run was stopped."""
    config, whole, last = finished
    shutil.copytree(whole, tmp_path / 'run')
    for step in range(3, END + 1):
        shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(step))
    train = dataclasses.replace(config.train, checkpoint_every=0, keep_best=0)
    resumed = run(dataclasses.replace(config, train=train), tmp_path / 'run')
    for (path, a), b in zip(jax.tree.leaves_with_path(last), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path))
    # The kernels that the spectral norm divides are stored so, and both networks have moved.
    norms = [
        np.linalg.norm(layer['kernel'].reshape(-1, layer['kernel'].shape[-1]), 2) for layer in last.params['d'].values()
    ]
    assert max(norms) < 2 and np.abs(last.opt['g'][0].mu['conv1']['kernel']).max() > 0


def test_pictures_show_what_was_given_and_what_was_completed(finished):
    _, workdir, _ = finished
    reals, given, first, last = (
        np.asarray(Image.open(workdir / 'samples' / f'{name}.png')).astype(int)
        for name in ('reals', 'inputs', 'samples_00000000', f'samples_{END:08d}')
    )
    assert reals.shape == (16, 48, 3)
    hole = (given == 128).all(axis=-1) | (given == 255).all(axis=-1)
    assert 0.1 < hole.mean() < 0.7 and (given == 255).all(axis=-1).any()
    for picture in (given, first, last):
        np.testing.assert_array_equal(picture[~hole], reals[~hole])
    assert (first[hole] != reals[hole]).any() and (first[hole] != last[hole]).any()


def test_the_model_completes_images_and_has_no_seeds(finished):
    config, workdir, _ = finished
    model = sampling.load(workdir)
    image, mask = np.zeros((1, 24, 16, 3), np.float32), np.zeros((1, 24, 16, 1), np.float32)
    mask[:, 4:9, 2:13] = 1
    completed = np.asarray(model.complete({'image': image, 'mask': mask}))
    assert (completed[:, :4] == 0).all() and (completed[:, 4:9, 2:13] != 0).all()
    with pytest.raises(ValueError, match='deepfill completes images'):
        sampling.sample(model, [0])
    assert 'FLOPs per image' in dry_run(config)
