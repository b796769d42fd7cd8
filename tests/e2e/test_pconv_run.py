"""The U-Net of partial convolutions, a system without a discriminator: training, going on, completing."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pegan_jax import sampling
from pegan_jax.config import ConfigError, load_config
from pegan_jax.train import run
from pegan_jax.train.report import dry_run

pytestmark = pytest.mark.slow

STEPS = 3


def settings(folder, **more):
    overrides = {
        'model.img_resolution': 8, 'model.channel_base': 4, 'model.channel_max': 4, 'data.folder': folder / 'images',
        'data.resolution': 8, 'train.batch_size': 2, 'train.total_kimg': STEPS * 2 / 1000, 'train.log_every': 1,
        'train.sample_every': 3, 'train.checkpoint_every': 2, 'train.metric_images': 4, 'train.sample_grid': (1, 2),
        'model.masks': 'folder', 'model.mask_folder': folder / 'masks',
    }  # fmt: skip
    return load_config('pconv:tiny', [f'{k}={v}' for k, v in (overrides | more).items()])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pconv')
    rng = np.random.default_rng(0)
    for name in ('images', 'masks'):
        (folder / name).mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / 'images' / f'{i}.png')
        mask = np.zeros((8, 8), np.uint8)
        mask[i : i + 4, 2:6] = 255
        Image.fromarray(mask).save(folder / 'masks' / f'{i}.png')
    straight = run(settings(folder), folder / 'straight')
    shutil.copytree(folder / 'straight', folder / 'again')
    (folder / 'again' / 'checkpoints' / str(STEPS)).rename(folder / 'last')  # as if it had been stopped at step 2
    return folder, straight, run(settings(folder), folder / 'again')


def test_a_run_without_a_discriminator_goes_on_exactly(trained):
    _, straight, resumed = trained
    assert int(straight.step) == STEPS and straight.params.keys() == {'g'}
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_log_says_that_terms_of_the_loss_are_missing(trained):
    folder, *_ = trained
    text = (folder / 'straight' / 'metrics.jsonl').read_text()
    assert 'loss/g_without_vgg' in text and 'loss/hole' in text and 'loss/style' not in text


def test_a_loaded_model_completes_images_and_needs_no_masks_of_training(trained):
    folder, *_ = trained
    shutil.rmtree(folder / 'masks')
    model = sampling.load(folder / 'straight')
    image, mask = jnp.full((1, 12, 16, 3), 0.5), jnp.zeros((1, 12, 16, 1)).at[:, 4:8, 4:8].set(1)
    got = np.asarray(model.complete({'image': image, 'mask': mask}))
    assert np.all(got[mask[..., 0] == 0] == 0.5) and np.all(got[mask[..., 0] == 1] != 0.5)
    with pytest.raises(ValueError, match='use inpaint'):
        sampling.sample(model, [0])


def test_fine_tuning_starts_from_a_run_and_keeps_its_encoder_norms(trained):
    folder, straight, _ = trained
    config = settings(
        folder, **{'train.init_from': folder / 'straight', 'model.freeze_encoder_bn': True, 'model.masks': 'union',
                   'model.mask_folder': None, 'train.keep_best': 0, 'train.sample_every': 0}
    )  # fmt: skip
    tuned = run(config, folder / 'tuned')
    for tree in ('params', 'buffers'):
        old, new = getattr(straight, tree)['g'], getattr(tuned, tree)['g']
        for leaf in ('scale', 'bias') if tree == 'params' else ('mean', 'var'):
            np.testing.assert_array_equal(old['enc_2_bn'][leaf], new['enc_2_bn'][leaf])
            assert np.any(old['dec_2_bn'][leaf] != new['dec_2_bn'][leaf])


def test_a_dry_run_counts_no_discriminator_and_reads_no_masks(tmp_path):
    assert 'discriminator 0' in dry_run(settings(tmp_path))


def test_a_run_without_its_masks_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match='is not a folder of masks'):
        run(settings(tmp_path), tmp_path / 'run')
    assert not list(tmp_path.iterdir())
