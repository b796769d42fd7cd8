"""Grey and transparent images, from the files that a run reads to the files that are made of it."""

import dataclasses
import pathlib
import struct

import jax
import numpy as np
import pytest
from example import waves
from PIL import Image

from pegan_jax import load, sample
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.gan import Completer
from pegan_jax.models import SYSTEMS
from pegan_jax.pixels import image_grid, to_uint, to_uint8
from pegan_jax.train import run

WAVES = pathlib.Path(waves.__file__).with_name('waves_config.py')
MODES = {1: 'L', 4: 'RGBA'}


def images(folder, side=8, count=9):
    """RGBA files of blocks of random colours, from clear to opaque."""
    rng = np.random.default_rng(0)
    for i in range(count):
        blocks = rng.integers(0, 256, (side // 4, side // 4, 4), np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((4, 4, 1), np.uint8))).save(folder / f'{i}.png')
    return folder


def settings(name, channels, **changes):
    changes = {'model.img_channels': channels, 'data.channels': channels, 'train.keep_best': 0} | changes
    return load_config(name, [f'{k}={v}' for k, v in changes.items()])


def interrupted(config, workdir):
    """The last state of a run that stopped half-way and went on."""
    half = dataclasses.replace(config.train, total_kimg=config.train.total_kimg / 2)
    run(dataclasses.replace(config, train=half), workdir)
    return jax.device_get(run(config, workdir))


def command(*arguments):
    assert main([str(a) for a in arguments]) == 0


def read(path, channels, bits=8):
    """Pixels [H, W, C] of a file that has so many channels of so many bits, as its header says."""
    assert struct.unpack('>BB', path.read_bytes()[24:26]) == (bits, {1: 0, 4: 6}[channels])
    image = Image.open(path)
    assert image.mode == (MODES[channels] if (bits, channels) != (16, 1) else 'I;16')
    return np.asarray(image).reshape(*image.size[::-1], channels)


@pytest.fixture(scope='module', params=MODES)
def trained(request, tmp_path_factory):
    """(number of channels, working directory) of a short run of the example."""
    folder, workdir = (tmp_path_factory.mktemp(name) for name in ('images', 'run'))
    changes = {'train.total_kimg': 0.032, 'train.sample_every': 2, 'train.metric_images': 8}
    interrupted(settings(f'{WAVES}:{images(folder)}', request.param, **changes), workdir)
    return request.param, workdir


def test_a_run_shows_its_images_as_they_are(trained):
    channels, workdir = trained
    model, pictures = load(workdir), workdir / 'samples'
    assert model.config.data.channels == model.config.model.img_channels == channels
    assert read(pictures / 'reals.png', channels)[..., -1].std() > 30  # grey levels, or opacity
    last = read(pictures / 'samples_00000004.png', channels)
    np.testing.assert_array_equal(last, image_grid(to_uint8(sample(model, [0, 1, 2, 3])), 2))


def test_samples_and_renderings_have_the_channels_of_the_model(trained, tmp_path):
    channels, workdir = trained
    model = load(workdir)
    want = sample(model, [0, 1, 2])
    assert want.shape == (3, 8, 8, channels)
    command('sample', '--model', workdir, '--seeds', '0-2', '--columns', 2, '--out', tmp_path / 'grid.png')
    np.testing.assert_array_equal(read(tmp_path / 'grid.png', channels), image_grid(to_uint8(want), 2))
    command('sample', '--model', workdir, '--seeds', '0-2', '--out', tmp_path / 'each')
    np.testing.assert_array_equal(read(tmp_path / 'each' / 'seed000001.png', channels), to_uint8(want[1]))
    render = ('render', '--model', workdir, '--seed', 1, '--chunk', 7)
    command(*render, '--out', tmp_path / 'a.png')
    np.testing.assert_allclose(read(tmp_path / 'a.png', channels).astype(int), to_uint8(want[1]), atol=1)
    command(*render, '--out', tmp_path / 'a.npy')
    np.testing.assert_allclose(np.load(tmp_path / 'a.npy'), want[1], atol=1e-5)
    command(*render, '--bits', 16, '--out', tmp_path / 'deep.png')
    # Pillow reads the higher 8 bits of RGBA with 16.
    deep = to_uint(np.load(tmp_path / 'a.npy'), 16)
    got = read(tmp_path / 'deep.png', channels, bits=16)
    np.testing.assert_array_equal(got, deep if channels == 1 else deep >> 8)


def test_a_format_without_opacity_is_refused_before_anything_is_computed(trained, tmp_path, capsys):
    channels, workdir = trained
    arguments = ['sample', '--model', str(workdir), '--seeds', '0', '--out', str(tmp_path / 'a.jpg')]
    assert main(arguments) == (0 if channels == 1 else 1)
    if channels == 4:
        assert 'images of the model have 4 channels; use .png' in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
    else:
        assert Image.open(tmp_path / 'a.jpg').mode == 'L'


# Every system ---------------------------------------------------------------------------------------------------------


LIGHT = ('dcgan',)  # enough to see in CI that the walk still goes


@pytest.mark.parametrize('channels', MODES)
@pytest.mark.parametrize(
    'system',
    [
        pytest.param(name, marks=pytest.mark.slow if name in LIGHT else pytest.mark.hand)
        for name in sorted({*SYSTEMS} - {'waves'})
    ],
)
def test_every_system_trains_goes_on_and_makes_pictures(system, channels, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    images(folder, side=28, count=8)
    changes = {'train.total_kimg': 0.032, 'train.batch_size': 4, 'train.log_every': 1, 'train.metric_images': 4}
    changes |= {'data.folder': folder, 'train.sample_every': 4, 'train.sample_grid': (1, 2)}
    if system == 'singan':
        changes = {
            'data.image': folder / '0.png',
            'model.min_size': 16,
            'model.max_size': 24,
            'train.total_kimg': 0.006,
        }
        changes |= {'model.iters_per_scale': 3, 'model.d_steps': 1, 'model.g_steps': 1, 'train.sample_every': 3}
    name = f'{system}:{"t," if system == "stylegan3" else ""}tiny'
    config, workdir = settings(name, channels, **changes), tmp_path / 'run'
    state, out = interrupted(config, workdir), tmp_path / 'out.png'
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    for picture in (workdir / 'samples').iterdir():
        read(picture, channels)
    model = load(workdir)
    if isinstance(model.gan.sampler, Completer):
        known = np.random.default_rng(0).integers(0, 256, (20, 28, channels), np.uint8)
        Image.fromarray(known.squeeze()).save(tmp_path / 'image.png')
        mask = np.zeros((20, 28), np.uint8)
        mask[5:12, 9:20] = 255
        Image.fromarray(mask).save(tmp_path / 'mask.png')
        files = ('--image', tmp_path / 'image.png', '--mask', tmp_path / 'mask.png')
        command('inpaint', '--model', workdir, *files, '--out', out)
        got = read(out, channels)
        np.testing.assert_array_equal(got[mask == 0], known[mask == 0])
        assert (got[mask > 0] != known[mask > 0]).mean() > 0.9
        command(
            'evaluate', '--model', workdir, '--images', 2, '--masks', 1, '--kinds', 'box', '--out', tmp_path / 'a.json'
        )
        return
    command('sample', '--model', workdir, '--seeds', '0,1', '--out', out)
    assert read(out, channels).shape[1] == 2 * sample(model, [0]).shape[2]
    if system == 'singan':
        for mode in (('samples',), ('inject', '--image', folder / '1.png')):
            command('edit', '--model', workdir, '--mode', *mode, '--out', out)
            read(out, channels)
        command('edit', '--model', workdir, '--mode', 'animate', '--frames', 2, '--out', tmp_path / 'a.gif')
        return
    if model.sampler.num_ws is not None:
        command('sample', '--model', workdir, '--seeds', '0', '--style-mix', '1:0', '--out', out)
        read(out, channels)
    if model.sampler.pixelwise or system == 'stylegan3':
        command('render', '--model', workdir, '--zoom', 0.5, '--bits', 16, '--out', out)
        read(out, channels, bits=16)
