"""What CONTRIBUTING.md says of a new GAN: one file, one configuration, one line; everything else takes it as it is."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import toy
from example import waves

from pegan_jax import coords, interpolate, load, render, sample
from pegan_jax.cli import main
from pegan_jax.config import ConfigError, load_config
from pegan_jax.models import SYSTEMS
from pegan_jax.sampling import style_mix
from pegan_jax.train import run

CONFIG = pathlib.Path(waves.__file__).with_name('waves_config.py')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Settings, working directory and state of a run that was interrupted."""
    folder, workdir = (tmp_path_factory.mktemp(name) for name in ('images', 'run'))
    toy.write_images(folder, 9)
    config = load_config(f'{CONFIG}:{folder}', ['train.total_kimg=0.024', 'train.sample_every=3'])
    run(config, workdir)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, total_kimg=0.048))
    return config, workdir, jax.device_get(run(config, workdir))


def test_it_is_trained_and_goes_on_where_it_stopped(trained, tmp_path):
    config, workdir, state = trained
    assert SYSTEMS['waves'] is waves and int(state.step) == 6
    jax.tree.map(np.testing.assert_array_equal, state, jax.device_get(run(config, tmp_path)))
    assert {p.name for p in (workdir / 'samples').iterdir()} >= {'reals.png', 'samples_00000006.png'}


def test_it_is_sampled_truncated_interpolated_and_rendered(trained, tmp_path):
    _, workdir, state = trained
    model = load(workdir)
    images = sample(model, [0, 1, 2], batch_size=2)
    z = np.concatenate([np.random.RandomState(seed).randn(1, 3) for seed in range(3)])
    x, y = np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 8))
    waves_of = np.tanh(z @ state.ema['style'])[:, None, None] + 3 * np.stack([x, y], axis=-1) @ state.ema['xy']
    np.testing.assert_allclose(images, np.tanh(np.sin(waves_of) @ state.ema['rgb']), atol=1e-5)
    mean = sample(model, [0, 1], truncation_psi=0.0)
    np.testing.assert_allclose(mean[0], mean[1], atol=1e-6)
    np.testing.assert_allclose(interpolate(model, 0, 1, 3)[[0, 2]], images[:2], atol=1e-5)
    grid = coords.grid(15, 15)
    large = render(model, 1, grid, chunk=50)
    np.testing.assert_allclose(large[::2, ::2], images[1], atol=1e-5)
    np.testing.assert_allclose(sample(model, [1], grid=grid)[0], large, atol=1e-5)
    assert main(['render', '--model', str(workdir), '--seed', '1', '--size', '15', '--out', f'{tmp_path}/a.npy']) == 0
    np.testing.assert_allclose(np.load(tmp_path / 'a.npy'), large, atol=1e-5)


def test_what_it_does_not_have_is_refused_in_its_name(trained):
    model = load(trained[1])
    with pytest.raises(ValueError, match='waves has no coordinates: it makes images of one size'):
        sample(model, [0], size=(16, 16))
    with pytest.raises(ValueError, match='waves has one style per image: none to mix'):
        style_mix(model, [0], [1], [0])
    with pytest.raises(ValueError, match='waves takes no noise when sampling; it takes grid'):
        sample(model, [0], noise_mode='none')
    with pytest.raises(ConfigError, match=r'data\.resolution=16 differs from model\.img_resolution=8'):
        load_config(f'{CONFIG}:folder', ['data.resolution=16'])
