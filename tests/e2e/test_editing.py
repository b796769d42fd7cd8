"""SinGAN from an image to its edits: training by parts, stage changes, resuming, the command line."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import editing, load, sample
from pegan_jax.cli import main
from pegan_jax.config import ConfigError, load_config
from pegan_jax.models import singan, singan_pyramid
from pegan_jax.sampling import Model
from pegan_jax.train import run
from pegan_jax.train.state import create_state

pytestmark = pytest.mark.slow

ITERATIONS, RATE = 3, 0.03  # few steps, but large ones


def photo(path):
    """A gradient sky over a dark ground with a bright disk at the left, 20 x 28 pixels."""
    y, x = np.mgrid[:20, :28]
    image = np.stack([60 + 6 * y, 90 + 4 * y, 200 - 5 * y], axis=-1)
    image[15:] = (40, 90, 20)
    image[(y - 7) ** 2 + (x - 8) ** 2 < 16] = (240, 230, 60)
    Image.fromarray(image.astype(np.uint8)).save(path)
    return path


def config(image, *words):
    arg = ','.join(('tiny', *words))
    overrides = {
        'model.min_size': 16, 'model.max_size': 24, 'model.iters_per_scale': ITERATIONS, 'model.d_steps': 1,
        'model.g_steps': 1,
        'model.lr_decay_iter': 2, 'data.image': image, 'train.log_every': 1, 'train.sample_every': 0,
        'optim.g_lr': RATE, 'optim.d_lr': RATE,
    }  # fmt: skip
    return load_config(f'singan:{arg}', [f'{k}={v}' for k, v in overrides.items()])


def untrained(settings):
    """A model whose blocks leave images nearly as they are, as if all of them were trained."""
    gan = singan.build(settings)
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    for block in params['g'].values():
        block['tail']['conv']['bias'] *= 0
    buffers['g']['scale'] += len(buffers['g']['reals']) - 1
    return Model(settings, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Working directory, states before and after a run that was stopped inside the second scale and then went on."""
    folder = tmp_path_factory.mktemp('singan')
    settings = config(photo(folder / 'photo.png'))
    straight = run(settings, folder / 'straight')
    every = dataclasses.replace(settings, train=dataclasses.replace(settings.train, checkpoint_every=ITERATIONS + 1))
    run(every, folder / 'again')
    newest = folder / 'again' / 'checkpoints' / str(2 * ITERATIONS)
    newest.rename(folder / 'last')  # as if the run had ended in the middle of the second scale
    return folder, settings, straight, run(every, folder / 'again')


def test_the_run_has_as_many_steps_as_its_scales_need(trained):
    folder, _, state, _ = trained
    assert int(state.step) == 2 * ITERATIONS and int(state.buffers['g']['scale']) == 1
    model = load(folder / 'straight')
    assert singan.sizes_of(model.variables['buffers']) == [(16, 22), (18, 24)]
    assert model.step == 2 * ITERATIONS
    np.testing.assert_array_equal(editing.samples(model, [0], size=[20, 30]), sample(model, [0], size=(20, 30)))
    with pytest.raises(ValueError, match='in whole pixels'):
        editing.samples(model, [0], size=(20.5, 30))


def test_a_run_goes_on_exactly_in_the_middle_of_a_scale(trained):
    _, _, straight, resumed = trained
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_scales_train_one_after_the_other(trained):
    _, settings, state, _ = trained
    gan = singan.build(settings)
    before = create_state(gan, settings.train.seed)
    count = {net: {k: int(v[0].count) for k, v in state.opt[net].items()} for net in ('g', 'd')}
    assert count == {net: {'block0': ITERATIONS, 'block1': ITERATIONS} for net in ('g', 'd')}
    for net in ('g', 'd'):
        kernels = [state.params[net][f'block{s}']['head']['conv']['kernel'] for s in (0, 1)]
        start = before.params[net]['block0']['head']['conv']['kernel']
        # Scale 1 begins where scale 0 ended, which stays as it is; neither moves further than its few steps of Adam.
        assert 0 < np.max(np.abs(kernels[0] - start)) < 1.5 * ITERATIONS * RATE
        assert 0 < np.max(np.abs(kernels[1] - kernels[0])) < 1.5 * ITERATIONS * RATE
    reals, _ = singan_pyramid.make_pyramid(np.asarray(Image.open(settings.data.image).convert('RGB')), settings.model)
    buffers = state.buffers['g']
    recon, _ = singan.generate(
        settings.model, state.params['g'], buffers, singan.fixed_noises(settings.model, buffers, 1), ratio=0.75
    )
    enlarged = singan_pyramid.resize_quantised(recon[0], factor=1 / singan.ratio_of(settings.model, buffers))[
        :, :18, :24
    ]
    wanted = 0.1 * np.sqrt(np.mean((np.asarray(enlarged[0]) - reals[1]) ** 2))
    np.testing.assert_allclose(buffers['amp'], [1, wanted], rtol=1e-3)


@pytest.mark.parametrize(
    'words, size',
    [
        ('--mode samples --seeds 0-2 --size 22x48', (3 * 48, 22)),
        ('--mode samples --start-scale 1', (24, 18)),
        ('--mode inject --image {photo} --scale 1', (24, 18)),
        ('--mode edit --image {photo} --mask {mask} --scale 1', (24, 18)),
        ('--mode animate --frames 3', (24, 18)),
    ],
)
def test_every_use_makes_its_picture(trained, tmp_path, words, size):
    folder, *_ = trained
    mask = np.zeros((20, 28), np.uint8)
    mask[5:9, 6:10] = 255
    Image.fromarray(mask).save(folder / 'mask.png')
    out = tmp_path / f'out.{"gif" if "animate" in words else "png"}'
    words = words.format(photo=folder / 'photo.png', mask=folder / 'mask.png').split()
    assert main(['edit', '--model', str(folder / 'straight'), *words, '--out', str(out)]) == 0
    with Image.open(out) as image:
        assert image.size == size
        assert np.std(np.asarray(image.convert('RGB'), float)) > 5


@pytest.mark.parametrize(
    'words, match',
    [
        ('--mode inject', '--mode inject needs --image'),
        ('--mode samples --image {photo}', '--mode samples does not take --image'),
        ('--mode samples --alpha 0.2', '--mode samples does not take --alpha'),
        ('--mode animate --scale 1', '--mode animate does not take --scale'),
        ('--mode animate --seeds 3-5', '--mode animate makes one film, and --seeds names 3'),
        ('--mode inject --image {photo} --scale 2', 'scales 1 to 1'),
        ('--mode edit --image {photo} --mask {other}', 'the mask must be as large'),
        ('--mode super-resolution', 'singan:sr'),
        ('--mode animate --frames 0', 'frames=0'),
        ('--mode animate --start-scale 2', 'scales 0 to 1'),
    ],
)
def test_uses_that_make_no_sense_are_refused(trained, tmp_path, capsys, words, match):
    folder, *_ = trained
    Image.new('L', (9, 9)).save(folder / 'other.png')
    words = words.format(photo=folder / 'photo.png', other=folder / 'other.png').split()
    assert main(['edit', '--model', str(folder / 'straight'), *words, '--out', str(tmp_path / 'out.gif')]) == 1
    assert match in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_image_enters_at_every_scale_of_a_pyramid_that_keeps_the_size_of_the_photograph(tmp_path):
    path = tmp_path / 'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(path)
    settings = config(path, 'csg')
    model = untrained(dataclasses.replace(settings, model=dataclasses.replace(settings.model, max_size=40)))
    real, count = editing.real_image(model), len(model.variables['buffers']['reals'])
    assert real.shape == (60, 80, 3) and count > 2
    entered = [editing.inject(model, real, scale) for scale in range(1, count)]
    assert {image.shape for image in entered} == {real.shape}
    errors = [np.abs(image - real).mean() for image in entered]
    assert errors == sorted(errors, reverse=True)  # the finer the scale, the more of the image is kept


def test_super_resolution_enlarges_by_its_factor(tmp_path):
    settings = config(photo(tmp_path / 'photo.png'), 'sr')
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, sr_factor=2.0))
    model = untrained(settings)
    real, large = editing.real_image(model), editing.super_resolve(model)
    assert large.shape == (2 * real.shape[0], 2 * real.shape[1], 3)
    # What is left is the enlargement.
    small = np.asarray(jax.image.resize(large, real.shape, 'linear'))
    assert np.corrcoef(small.ravel(), real.ravel())[0, 1] > 0.9


def test_a_painting_enters_in_the_colours_of_the_image(tmp_path):
    settings = config(photo(tmp_path / 'photo.png'), 'paint')
    model = untrained(settings)
    params, buffers = model.variables['params'], model.variables['buffers']
    palette = np.asarray(buffers['palette'])
    # The scale above sees mid-grey in the nearest colour, and leaves it as it is.
    noises = singan.fixed_noises(settings.model, buffers, 2)
    (_, image), _ = singan.generate(settings.model, params, buffers, noises, ratio=0.75)
    grey = palette[np.argmin(np.square(palette).sum(-1))]
    np.testing.assert_allclose(image[0], np.broadcast_to(grey, (18, 24, 3)), atol=0.01)
    # The sky's blue in four parts is what a gradient needs; the disk is one of the colours.
    assert palette.shape == (5, 3) and np.min(np.abs(palette - (np.array([240, 230, 60]) / 127.5 - 1)).max(-1)) < 0.2
    rows = np.repeat(np.arange(18) * 5 // 18, 24).reshape(18, 24)
    painting = palette[rows]  # in a painter's shades, which do not matter
    shades = 0.9 * painting + 0.04 * np.random.default_rng(0).uniform(-1, 1, painting.shape)
    np.testing.assert_array_equal(singan_pyramid.to_palette(shades[None].astype(np.float32), palette)[0], painting)
    images = [editing.inject(model, image.astype(np.float32), 1) for image in (painting, shades)]
    np.testing.assert_allclose(*images, atol=1e-6)
    other = dataclasses.replace(settings, model=dataclasses.replace(settings.model, paint_scale=2))
    with pytest.raises(ValueError, match='scale=1; this model was trained for paintings at scale 2'):
        editing.inject(dataclasses.replace(model, config=other), painting, 1)
    with pytest.raises(ConfigError, match='paint_scale=2; the image has scales 0 to 1'):
        singan.build(other).init(jax.random.key(0))


def test_a_missing_photo_is_said_before_anything_is_written(tmp_path, capsys):
    words = ['train', '--config', 'singan:tiny', '--workdir', str(tmp_path / 'run'), '--config.data.image=nowhere.png']
    assert main(words) == 1
    assert "data.image='nowhere.png' is not a file" in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()
