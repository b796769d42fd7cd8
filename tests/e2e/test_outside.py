"""A run that learns windows outside of the frame: it goes on exactly, and shows and measures the frame."""

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax.config import load_config
from pegan_jax.train import loop, report, run

pytestmark = pytest.mark.slow

STEPS = 3


def settings(folder):
    overrides = {
        'model.img_resolution': 8, 'model.hidden_size': 6, 'model.z_dim': 4, 'model.channels': (6,),
        'model.d_channels': (4, 4), 'model.mapping_layers': 1, 'model.train_lookup': 'bilinear', 'model.r1_gamma': 0.0,
        'model.d_sees_coords': True, 'data.folder': folder, 'data.resolution': 8, 'data.outside': 0.5,
        'train.batch_size': 4, 'train.total_kimg': STEPS * 4 / 1000, 'train.checkpoint_every': 2,
        'train.sample_every': 2, 'train.metric_images': 8, 'train.sample_grid': (2, 2),
    }  # fmt: skip
    return load_config('cips:tiny', [f'{k}={v}' for k, v in overrides.items()])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The configuration, the folder of the run, its state, that of its second launch, and offsets of its batches."""
    folder = tmp_path_factory.mktemp('outside')
    (folder / 'images').mkdir()
    image = np.random.default_rng(0).integers(0, 100, (16, 16, 3), np.uint8)
    image[4:12, 4:12] = 255  # the frame
    for i in range(4):
        Image.fromarray(image).save(folder / 'images' / f'{i}.png')
    config, offsets, place = settings(folder / 'images'), [], loop.place_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, 'place_batch', lambda b, *a, **k: (offsets.append(b['offset']), place(b, *a, **k))[1])
        straight = run(config, folder / 'run')
        (folder / 'run' / 'checkpoints' / str(STEPS)).rename(folder / 'last')  # as if it had been stopped at step 2
        return config, folder / 'run', straight, run(config, folder / 'run'), offsets


def test_a_run_with_windows_goes_on_exactly(trained):
    _, _, straight, resumed, offsets = trained
    assert int(straight.step) == STEPS and np.any(offsets)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(straight), jax.device_get(resumed))


def test_a_run_with_windows_shows_its_frame(trained):
    _, workdir, *_ = trained
    assert np.asarray(Image.open(workdir / 'samples' / 'reals.png')).min() == 255


def test_a_dry_run_knows_of_windows(trained):
    assert 'parameters' in report.dry_run(trained[0])
