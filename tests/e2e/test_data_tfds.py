"""The worlds through TFDS: prepared and read in a process that has no TensorFlow."""

import io
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from pegan_jax.config import ConfigError, DataConfig
from pegan_jax.data import pipeline, worlds
from pegan_jax.data.records import open_worlds
from pegan_jax.pixels import to_uint8

PREPARE = """
import sys
from pathlib import Path
from pegan_jax.config import DataConfig
from pegan_jax.data import pipeline, sources
data = DataConfig(num_worlds=int(sys.argv[2]), resolution=tuple(map(int, sys.argv[3:])))
source = pipeline.open_source(data, Path(sys.argv[1]))
batches = pipeline.batches(source, data, batch_size=4, seed=0)
for _ in range(5):
    image = next(batches)['image']
print(len(source), image.shape, image.dtype, *({'tensorflow', 'torch'} & set(sys.modules)))
"""


def prepare(workdir, num, height, width):
    return [sys.executable, '-c', PREPARE, str(workdir), str(num), str(height), str(width)]


def test_worlds_are_prepared_and_read_without_tensorflow(tmp_path):
    run = subprocess.run(prepare(tmp_path, 10, 16, 24), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].endswith('10 (4, 16, 24, 3) uint8')
    assert 'Traceback' not in run.stderr and 'WARNING' not in run.stderr.replace('WARNING:absl:Variant folder', '')
    assert [p.name for p in (tmp_path / 'tfds/worlds').glob('*/*')] == ['1.0.0']


def test_stored_images_are_the_worlds_and_carry_their_truths(tmp_path):
    open_worlds((16, 16), 9, 'train', str(tmp_path))
    records = tfds.builder('worlds/16x16x9', data_dir=str(tmp_path)).as_data_source('train')
    assert sorted(r['seed'] for r in records) == list(range(9))
    images = to_uint8(worlds.render_world(jnp.arange(9), 16, 16))
    for record in records:
        np.testing.assert_array_equal(record['image'], images[record['seed']])
        truth = worlds.truth(int(record['seed']))
        np.testing.assert_allclose([record['horizon'], record['hour']], [truth.horizon, truth.hour], rtol=1e-6)


def test_a_window_of_a_larger_image_is_what_the_world_has_there(tmp_path):
    data = DataConfig(resolution=(16, 24), num_worlds=1, outside=0.5, frame_share=0.0, flip=False)
    batches = pipeline.batches(pipeline.open_source(data, tmp_path), data, batch_size=8, seed=0)
    batch = next(batches)
    batches.close()
    assert (tmp_path / 'tfds/worlds/16x24x1x8x12').is_dir()
    i = int(np.argmax(batch['offset'].all(1)))
    right, down = batch['offset'][i].tolist()
    x, y = (-1.5 + right / 8, 1.5 + right / 8), (-1 + down / 8, 1 + down / 8)
    apart = np.abs(batch['image'][i].astype(int) - to_uint8(worlds.render_world(0, 16, 24, x=x, y=y)))
    assert right and down and apart.mean() < 0.1 and np.quantile(apart, 0.98) <= 1  # rounding, most of it on edges


def test_patches_of_worlds_are_finer_than_the_worlds_that_training_sees_whole(tmp_path):
    data = DataConfig(resolution=(8, 16), num_worlds=1, crop='scales', frame_share=0.0, flip=False)
    batches = pipeline.batches(pipeline.open_source(data, tmp_path), data, batch_size=16, seed=0)
    batch = next(batches)
    batches.close()
    finest = np.argsort(batch['scale'])[-3:]
    assert (tmp_path / 'tfds/worlds/32x64x1').is_dir() and batch['scale'].max() < 4
    for image, scale, (right, down) in zip(
        *(batch[k][finest].astype(float) for k in ('image', 'scale', 'offset')), strict=True
    ):
        x, y = (tuple((n + end * side / scale) / 4 for end in (-0.5, 0.5)) for n, side in ((right, 16), (down, 8)))
        apart = np.abs(image - to_uint8(worlds.render_world(0, 8, 16, x=x, y=y)))
        assert scale > 3 and apart.mean() < 10  # one is resized, the other drawn; 20 to 30 in other places


@pytest.fixture
def plain_worlds(monkeypatch):
    """Rendering that needs no compilation."""
    monkeypatch.setattr(worlds, 'render_world', lambda seeds, h, w, **_: np.zeros((len(seeds), h, w, 3)))


def test_sizes_and_numbers_do_not_collide(tmp_path, plain_worlds):
    for num, size in ((3, (8, 8)), (5, (8, 8)), (3, (8, 12)), (3, (12, 8))):
        data = DataConfig(num_worlds=num, resolution=size)
        source = pipeline.open_source(data, tmp_path)
        assert len(source) == num
        shapes = {np.asarray(Image.open(io.BytesIO(source[i]['image']))).shape for i in range(num)}
        assert shapes == {(*size, 3)}
    assert len(list((tmp_path / 'tfds/worlds').iterdir())) == 4


def test_slices_of_the_worlds_are_splits(tmp_path, plain_worlds):
    data = DataConfig(num_worlds=10, resolution=8, split='train[:30%]', data_dir=str(tmp_path / 'here'))
    assert len(pipeline.open_source(data, tmp_path)) == 3
    assert (tmp_path / 'here/worlds/8x8x10').is_dir()
    with pytest.raises(ConfigError, match='known: train'):
        pipeline.open_source(DataConfig(num_worlds=10, resolution=8, split='test', data_dir=data.data_dir), tmp_path)


def test_a_killed_preparation_starts_again(tmp_path):
    folder = tmp_path / 'tfds/worlds/8x8x200000'
    command = prepare(tmp_path, 200_000, 8, 8)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(1200):
            if process.poll() is not None or list(folder.glob('incomplete*')):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert list(folder.glob('incomplete*')) and not (folder / '1.0.0').exists()
    folder.rename(folder.with_name('8x8x4'))  # the same leftovers, where fewer images are wanted
    assert len(open_worlds((8, 8), 4, 'train', str(tmp_path / 'tfds'))) == 4


def test_a_failed_preparation_leaves_nothing(tmp_path, plain_worlds, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('out of memory')

    with monkeypatch.context() as patch:
        patch.setattr(worlds, 'render_world', fail)
        with pytest.raises(RuntimeError, match='out of memory'):
            open_worlds((8, 8), 4, 'train', str(tmp_path))
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == []
    assert len(open_worlds((8, 8), 4, 'train', str(tmp_path))) == 4


@pytest.mark.slow
def test_two_processes_may_prepare_the_same_worlds(tmp_path):
    command = prepare(tmp_path, 64, 8, 8)
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.splitlines()[-1].endswith('64 (4, 8, 8, 3) uint8')
    assert [p.name for p in (tmp_path / 'tfds/worlds/8x8x64').iterdir()] == ['1.0.0']


def test_a_folder_without_its_description_is_reported(tmp_path, plain_worlds):
    open_worlds((8, 8), 4, 'train', str(tmp_path))
    (tmp_path / 'worlds/8x8x4/1.0.0/dataset_info.json').unlink()
    with pytest.raises(ConfigError, match='is damaged; delete it'):
        open_worlds((8, 8), 4, 'train', str(tmp_path))
