"""Any-resolution training, both stages: the second begins as the first, goes on exactly, and renders any size."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax.config import ConfigError, load_config
from pegan_jax.sampling import frame_grid, load, render
from pegan_jax.train import exported, report, run
from pegan_jax.train.checkpoint import load_networks

pytestmark = pytest.mark.slow

STEPS = 3
SMALL = {
    'model.z_dim': 4, 'model.w_dim': 4, 'model.channel_max': 4, 'model.channel_base': 32, 'model.d_channel_max': 4,
    'model.d_channel_base': 32, 'model.d_mapping_layers': 1, 'model.num_layers': 3, 'model.margin_size': 2,
    'model.img_resolution': 8, 'model.r1_gamma': 0.0, 'model.first_cutoff': 1.0, 'model.first_stopband': 2.5,
    'data.resolution': 8, 'train.batch_size': 4, 'train.checkpoint_every': 2, 'train.metric_images': 8,
    'train.sample_grid': (2, 2),
}  # fmt: skip


def settings(words, folder, **others):
    changes = SMALL | {'data.folder': folder} | others
    return load_config(f'stylegan3:{words}', [f'{k}={v}' for k, v in changes.items()])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder, the configuration of the second stage, its state, and that of its second launch."""
    folder = tmp_path_factory.mktemp('scales')
    (folder / 'images').mkdir()
    for i, side in enumerate((8, 12, 20, 33)):
        image = np.random.default_rng(i).integers(0, 256, (side, side + 3 * i, 3), np.uint8)
        Image.fromarray(image).save(folder / 'images' / f'{i}.png')
    run(settings('tiny', folder / 'images', **{'train.total_kimg': STEPS * 4 / 1000}), folder / 'whole')
    second = {'train.init_from': folder / 'whole', 'train.total_kimg': STEPS * 4 / 1000}
    config = settings('tiny,scales', folder / 'images', **second)
    straight = run(config, folder / 'run')
    (folder / 'run' / 'checkpoints' / str(STEPS)).rename(folder / 'last')  # as if it had been stopped at step 2
    return folder, config, straight, run(config, folder / 'run')


def test_the_second_stage_goes_on_exactly(trained):
    _, _, straight, resumed = trained
    assert int(straight.step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(straight), jax.device_get(resumed))


def test_the_teacher_is_the_first_stage_and_does_not_move_while_its_pupil_learns(trained):
    folder, _, straight, _ = trained
    first = load_networks(folder / 'whole' / 'checkpoints')
    want = {'params': first['ema'], 'buffers': first['g_buffers']}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(straight.params['teacher']), want)
    weights = [tree['synthesis']['input']['weight'] for tree in (first['ema'], first['g'])]
    assert np.any(weights[0] != weights[1])  # it is the running mean
    assert straight.opt.keys() == {'g', 'd'} and straight.buffers.keys() == {'g', 'd'}
    pupil = dict(straight.params['g']['synthesis'])
    assert np.any(jax.device_get(pupil.pop('scale')['out']['kernel']))
    moved = [np.any(np.asarray(x) != y) for x, y in
             zip(jax.tree.leaves(pupil), jax.tree.leaves(first['g']['synthesis']), strict=True)]  # fmt: skip
    assert all(moved)
    lines = [json.loads(line) for line in (folder / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert any(line.get('loss/teacher', 0) > 0 for line in lines)


def test_a_run_of_patches_shows_whole_images_and_renders_finer_ones(trained):
    folder, config, _, _ = trained
    model = load(folder / 'run')
    images = {side: render(model, 3, frame_grid(model, (side, side))) for side in (8, 16, 32)}
    assert all(image.shape == (side, side, 3) for side, image in images.items())
    assert np.asarray(Image.open(folder / 'run' / 'samples' / 'reals.png')).shape[:2] == (16, 16)
    assert 'parameters' in report.dry_run(config)


def test_what_cannot_be_the_teacher_is_refused(trained, tmp_path):
    folder = trained[0]
    other = settings('tiny,scales', folder / 'images', **{'train.init_from': folder / 'whole', 'model.w_dim': 6})
    with pytest.raises(ConfigError, match=r'cannot be the teacher, of which \d+ arrays do not fit'):
        run(other, tmp_path / 'other')
    # Of a run with a teacher, this one is kept; an exported pupil is none.
    model = load(folder / 'run')
    exported.write(tmp_path / 'model.safetensors', model.config, model.variables,
                   {'step': 3, 'images': 12, 'classes': [], 'imported': None})  # fmt: skip
    lone = settings('tiny,scales', folder / 'images', **{'train.init_from': tmp_path / 'model.safetensors'})
    with pytest.raises(ConfigError, match='cannot be the teacher'):
        run(lone, tmp_path / 'lone')
