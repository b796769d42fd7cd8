"""Rendering: chunks, devices, memory, files, foveation, and the command."""

import os
import pathlib
import subprocess
import sys
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import coords
from pegan_jax.config import load_config, to_dict
from pegan_jax.models import cips
from pegan_jax.pixels import save, to_uint, to_uint8
from pegan_jax.sampling import (
    Model,
    fill_scattered,
    lazy_grid,
    load,
    render,
    render_file,
    render_foveated,
    sample,
)

WORKER = pathlib.Path(__file__).with_name('render_worker.py')


@pytest.fixture(scope='module')
def model():
    config = load_config('cips:tiny')
    gan = cips.build(config)
    params, buffers, _ = gan.init(jax.random.key(0))
    return Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, model):
    """A run's folder with a checkpoint of untrained parameters."""
    from pegan_jax.train.checkpoint import Checkpoints
    from pegan_jax.train.step import data_mesh, replicated_state

    path = tmp_path_factory.mktemp('run')
    checkpoints = Checkpoints(path / 'checkpoints')
    checkpoints.save(replicated_state(model.gan, 0, data_mesh()), {'config': to_dict(model.config)})
    checkpoints.close()
    return path


# Grids ----------------------------------------------------------------------------------------------------------------


def test_a_lazy_grid_is_the_grid_that_coords_makes():
    motion = coords.compose(coords.zoom(1.5), coords.rotate(0.3), coords.translate(0.1, -0.2))
    whole = coords.grid(7, 5, x=(-2, 1), y=(0, 3))
    everything = np.arange(35).reshape(7, 5)
    np.testing.assert_array_equal(lazy_grid(7, 5, x=(-2, 1), y=(0, 3)).at(everything), whole)
    np.testing.assert_allclose(
        lazy_grid(7, 5, x=(-2, 1), y=(0, 3), matrix=motion).at(everything), coords.transform(whole, motion), atol=1e-6
    )
    window = lazy_grid(7, 5, x=(-2, 1), y=(0, 3), crop=(2, 1, 3, 4))
    assert window.shape == (3, 4, 2)
    np.testing.assert_array_equal(window.at(np.arange(12).reshape(3, 4)), coords.crop(whole, 2, 1, 3, 4))
    with pytest.raises(ValueError, match='left=3'):
        lazy_grid(7, 5, crop=(0, 3, 1, 3))


GRIDS = {
    'native': lambda: coords.grid(16, 16),
    'four times finer': lambda: coords.grid(64, 64),
    'outside': lambda: coords.grid(9, 9, x=(-2, 2), y=(-2, 2)),
    'rotated': lambda: coords.transform(coords.grid(8, 12), coords.rotate(0.4)),
    'cropped': lambda: coords.crop(coords.grid(64, 64), 20, 33, 8, 9),
    'scattered': lambda: coords.uniform(jax.random.key(0), 37, x=(-1.5, 1.5)),
    'one': lambda: coords.grid(3, 3)[1, 2],
}


@pytest.mark.parametrize('name', GRIDS)
def test_any_coordinates_in_any_pieces_give_what_one_call_gives(model, name):
    grid = GRIDS[name]()
    want = np.asarray(model.synthesise(model.styles([3]), grid=grid, chunk=10**6))[0]
    got = render(model, 3, grid, chunk=100)
    assert got.shape == (*grid.shape[:-1], 3) and got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert np.ptp(want) > 0.1


def test_an_image_can_be_rendered_into_a_file_in_memory(model, tmp_path):
    out = np.lib.format.open_memmap(tmp_path / 'a.npy', 'w+', np.float32, (20, 10, 3))
    want = render(model, 1, coords.grid(20, 10))
    assert render(model, 1, lazy_grid(20, 10), chunk=30, out=out) is out
    np.testing.assert_allclose(np.load(tmp_path / 'a.npy'), want, atol=2e-5)
    with pytest.raises(ValueError, match=r'out has shape \(20, 10, 3\); expected a contiguous array \(5, 3\)'):
        render(model, 1, coords.grid(20, 10)[0, :5], out=out)


# Devices and memory ---------------------------------------------------------------------------------------------------


def _worker(devices, *args):
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
    env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_DEFAULT_MATMUL_PRECISION': 'highest'}
    done = subprocess.run([sys.executable, str(WORKER), *map(str, args)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_four_devices_render_what_one_renders(workdir, tmp_path):
    # 19 x 7 coordinates, 30 at a time: neither divides by four.
    _worker(4, 'devices', workdir, tmp_path / 'four.npy')
    one = render(load(workdir), 5, coords.grid(19, 7), truncation_psi=0.7)
    np.testing.assert_allclose(np.load(tmp_path / 'four.npy'), one, atol=2e-5)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads the peak of memory from /proc')
def test_memory_does_not_grow_with_the_image(workdir, tmp_path):
    growth = float(_worker(1, 'memory', workdir, tmp_path / 'image.png'))
    # In one piece it is above 200 MB; in pieces, what the allocator and the compiler happen to hold.
    assert growth < 150, f'{growth} MB'
    assert Image.open(tmp_path / 'image.png').size == (1536, 1536)


# Files ----------------------------------------------------------------------------------------------------------------


def _decode(path):
    """Samples of an RGB PNG whose rows are all filtered by difference to the row above: [H, W, 3], any bit depth."""
    data, at, blocks = path.read_bytes(), 8, []
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], 'big'), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + content) == int.from_bytes(data[at + 8 + size : at + 12 + size], 'big')
        blocks.append((kind, content))
        at += 12 + size
    header = dict(blocks)[b'IHDR']
    width, height, bits = int.from_bytes(header[:4], 'big'), int.from_bytes(header[4:8], 'big'), header[8]
    rows = np.frombuffer(zlib.decompress(b''.join(c for k, c in blocks if k == b'IDAT')), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 2).all() and blocks[-1] == (b'IEND', b'')
    levels = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    return levels.view(f'>u{bits // 8}').reshape(height, width, 3)


def test_files_hold_the_rendered_image_in_8_16_and_32_bits(model, tmp_path):
    grid, image = lazy_grid(11, 13), render(model, 2, lazy_grid(11, 13), chunk=40)
    render_file(model, 2, grid, tmp_path / 'a.png', chunk=40)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'a.png')), to_uint8(image))
    # One row is 13 pixels: pieces of 5 end within rows, and some complete none.
    render_file(model, 2, grid, tmp_path / 'b.png', bits=16, chunk=40)
    np.testing.assert_array_equal(_decode(tmp_path / 'b.png'), to_uint(image, 16))
    render_file(model, 2, grid, tmp_path / 'c.png', bits=16, chunk=5)
    assert np.abs(_decode(tmp_path / 'c.png').astype(int) - to_uint(image, 16)).max() <= 1
    assert Image.open(tmp_path / 'b.png').mode == 'RGB'
    render_file(model, 2, grid, tmp_path / 'd.npy', chunk=40)
    np.testing.assert_array_equal(np.load(tmp_path / 'd.npy'), image)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.png', 'b.png', 'c.png', 'd.npy']


def test_sixteen_bits_round_to_nearest_and_clamp():
    levels = to_uint(np.array([-2, -1, 0, 1 - 0.6 / 32767.5, 1, 3], np.float32), 16)
    np.testing.assert_array_equal(levels, [0, 0, 32768, 65534, 65535, 65535])


@pytest.mark.parametrize(
    'name, bits, shape, message',
    [
        ('a.jpg', 8, (2, 2, 3), "the suffix is '.jpg'; use .png"),
        ('a.png', 12, (2, 2, 3), 'bits=12; a PNG has 8 or 16'),
        ('a.png', 8, (4, 3), r'a PNG needs \[H, W, 2\]'),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(tmp_path, name, bits, shape, message):
    with pytest.raises(ValueError, match=message):
        save(np.zeros(shape), tmp_path / name, bits=bits)
    assert not list(tmp_path.iterdir())


# Foveation ------------------------------------------------------------------------------------------------------------


def test_foveated_pixels_are_exact_and_the_others_lie_between(model):
    grid = lazy_grid(40, 30)
    whole = render(model, 4, grid)
    image, chosen = render_foveated(model, 4, grid, 0.3)
    assert chosen.sum() == 360 and chosen[10:30, 8:22].mean() > 1.2 * chosen.mean()
    np.testing.assert_allclose(image[chosen], whole[chosen], atol=2e-5)
    assert np.isfinite(image).all() and 0 < np.abs(image - whole)[~chosen].mean() < np.abs(image).mean()
    full, chosen = render_foveated(model, 4, grid, 1.0)
    assert chosen.all()
    np.testing.assert_allclose(full, whole, atol=2e-5)


def test_scattered_fill_is_exact_on_planes_and_nearest_outside_the_hull():
    y, x = np.mgrid[:12, :15].astype(np.float32)
    plane = np.stack([2 * x - y, x + 3], axis=-1)
    inner = np.flatnonzero(((x > 2) & (x < 12) & (y > 1) & (y < 10) & ((x * 7 + y * 5) % 3 == 0)).reshape(-1))
    corners = np.ravel_multi_index(([2, 2, 9, 9], [3, 11, 3, 11]), (12, 15))
    index = np.union1d(inner, corners)
    filled = fill_scattered(index, plane.reshape(-1, 2)[index], 12, 15)
    np.testing.assert_allclose(filled[2:10, 3:12], plane[2:10, 3:12], atol=1e-4)
    np.testing.assert_array_equal(filled[0, 0], plane[2, 3])
    with pytest.raises(ValueError, match='3 of 2 x 3 pixels do not span a triangle'):
        fill_scattered(np.arange(3), np.zeros((3, 1)), 2, 3)


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_crops_foveates_and_writes_every_format(workdir, tmp_path):
    from pegan_jax.cli import main

    def command(name, *options):
        assert (
            main(['render', '--model', str(workdir), '--size', '24x20', '--out', str(tmp_path / name), *options]) == 0
        )
        return tmp_path / name

    whole = np.load(command('whole.npy', '--rotate', '30'))
    np.testing.assert_allclose(
        np.load(command('part.npy', '--rotate', '30', '--crop', '5,6,9,7')), whole[5:14, 6:13], atol=2e-5
    )
    levels = _decode(command('deep.png', '--rotate', '30', '--bits', '16')).astype(int)
    assert np.abs(levels - to_uint(whole, 16)).max() <= 1
    foveated = np.load(command('foveated.npy', '--rotate', '30', '--foveate', '0.5'))
    same = np.isclose(foveated, whole, atol=2e-5).all(axis=-1)
    assert 240 <= same.sum() < 480
    assert main(['render', '--model', str(workdir), '--crop', '9,9,9,99', '--out', str(tmp_path / 'no.png')]) == 1
    assert not (tmp_path / 'no.png').exists()


def test_seed_zero_of_the_checkpoint_is_the_sample_of_python(workdir):
    model = load(workdir)
    np.testing.assert_allclose(render(model, 0, lazy_grid(16, 16)), sample(model, [0])[0], atol=2e-5)
