"""PGGAN and DCGAN in the loop: growth, resuming at a change of stage and within a fade-in, samples of other sizes."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import toy
from PIL import Image

from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.train import run

pytestmark = pytest.mark.slow

STAGES, END = (2,), 6  # steps


def config(system, folder, *words):
    overrides = {
        'model.img_resolution': 8, 'data.resolution': 8, 'data.folder': folder, 'model.z_dim': 3,
        'train.batch_size': 4, 'train.total_kimg': 4 * END / 1000, 'train.log_every': 1, 'train.sample_every': 0,
        'train.checkpoint_every': 1, 'train.keep': 10, 'train.keep_best': 0,
    }  # fmt: skip
    if system == 'pggan':
        overrides |= {'model.channel_base': 16, 'model.channel_max': 8, 'model.fade_kimg': 0.024}
        overrides |= {'model.stage_kimg': tuple(4 * s / 1000 for s in STAGES)}
    return load_config(f'{system}:{",".join(("tiny", *words))}', [f'{k}={v}' for k, v in overrides.items()])


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return toy.write_images(tmp_path_factory.mktemp('images'), 12)


@pytest.fixture(scope='module', params=['pggan', 'dcgan'])
def finished(request, images, tmp_path_factory):
    """Settings, working directory and last state of an uninterrupted run."""
    settings = config(request.param, images, 'no-pad', 'spe')
    workdir = tmp_path_factory.mktemp(request.param) / 'whole'
    return settings, workdir, jax.device_get(run(settings, workdir))


@pytest.mark.parametrize('stop', [2, 4])
def test_a_run_goes_on_exactly_at_a_new_stage_and_within_a_fade_in(finished, tmp_path, stop):
    settings, whole, last = finished
    shutil.copytree(whole, tmp_path / 'run')
    for step in range(stop + 1, END + 1):
        shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(step))
    resumed = run(
        dataclasses.replace(settings, train=dataclasses.replace(settings.train, checkpoint_every=0)), tmp_path / 'run'
    )
    for (path, a), b in zip(jax.tree.leaves_with_path(last), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path))
    if settings.system == 'pggan':
        # The last step began after five, three of them in the second stage of two.
        assert float(last.buffers['g']['progress']) == pytest.approx((END - 1 - STAGES[0]) / 6)
        assert int(last.opt['g'].inner_state[0].count) == END - STAGES[0]


def test_the_command_samples_other_sizes(finished, tmp_path):
    _, workdir, _ = finished
    out = tmp_path / 'out.png'
    command = ['sample', '--model', str(workdir), '--seeds', '0-1', '--size', '6x10', '--out', str(out)]
    assert main(command) == 0
    with Image.open(out) as image:
        assert image.size == (20, 6) and np.ptp(np.asarray(image)) > 0
    assert main([*command[:6], '7x10', '--out', str(out)]) == 1
