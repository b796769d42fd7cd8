"""Any-resolution training of StyleGAN3: patches of finer images, what tells their scale, the teacher."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pegan_jax import coords, losses
from pegan_jax.config import ConfigError, load_config
from pegan_jax.gan import Stage
from pegan_jax.models import any_resolution, stylegan3, stylegan_training
from pegan_jax.models.stylegan3 import Config, Generator, octaves, schedule
from pegan_jax.sampling.pictures import frame_view

TINY = dict(
    r1_gamma=0.0, img_resolution=32, z_dim=8, w_dim=8, channel_base=128, channel_max=8, num_layers=3,
    d_channel_base=64, d_channel_max=8, d_mapping_layers=1, scale_layers=1,
)  # fmt: skip


@functools.cache
def network():
    """A generator of 32 x 32 pixels whose branch of scale has learned something, and one program of each kind."""
    module = Generator(Config(**TINY))
    variables = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, 8)))
    ws = module.apply(variables, jax.random.normal(jax.random.key(2), (2, 8)), method='map')

    @functools.partial(jax.jit, static_argnums=3)
    def whole(params, ws, transform, size):
        return module.apply({**variables, 'params': params}, ws, transform, size, method='synthesise')

    @jax.jit
    def patches(params, ws, offset, scale):
        found = stylegan3.synthesise(module, params, variables['buffers'], ws, None, False, offset, scale)
        return found[0]

    return variables['params'], ws, whole, patches


def with_branch(params, out):
    """The parameters with another last layer of the branch of scale."""
    scale = {
        **params['synthesis']['scale'],
        'out': jax.tree.map(lambda x: jnp.full_like(x, out), params['synthesis']['scale']['out']),
    }
    return {**params, 'synthesis': {**params['synthesis'], 'scale': scale}}


# The generator --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('out', [0.0, 0.3])
def test_a_patch_is_the_crop_of_the_finer_image(out):
    """With an offset by whole samples of every layer; but for what is near the border of a canvas."""
    params, ws, whole, patches = network()
    params = with_branch(params, out)
    assert {s.sampling_rate for s in schedule(Config(**TINY))} == {16, 32}
    finer = np.asarray(whole(params, ws, frame_view((32, 32), (64, 64)), (64, 64)))
    corners = [(20, 14), (8, 32)]  # (column, row) of the 64 x 64 image
    offset = np.array([[(left + 16 - 32) / 2, (top + 16 - 32) / 2] for left, top in corners], np.float32)
    got = np.asarray(patches(params, ws, offset, np.full(2, 2, np.float32)))
    for image, patch, (left, top) in zip(finer, got, corners, strict=True):
        want = image[top : top + 32, left : left + 32]
        np.testing.assert_allclose(patch[4:-4, 4:-4], want[4:-4, 4:-4], atol=2e-3 * want.std())
        assert want.std() > 0.01
    # A whole image is a patch as well.
    same = patches(params, ws, np.zeros((2, 2), np.float32), np.ones(2, np.float32))
    np.testing.assert_allclose(same, whole(params, ws, None, (32, 32)), atol=1e-5)


def test_the_branch_of_scale_begins_as_nothing_and_learns_from_scales_alone():
    params, ws, _, patches = network()
    offset, scale = np.zeros((2, 2), np.float32), np.array([1, 3], np.float32)
    without = Generator(dataclasses.replace(Config(**TINY), scale_layers=0))
    first = {**params, 'synthesis': {k: v for k, v in params['synthesis'].items() if k != 'scale'}}
    shapes = jax.eval_shape(without.init, jax.random.key(0), jnp.zeros((1, 8)))['params']
    assert jax.tree.structure(shapes) == jax.tree.structure(first)
    plain = patches(params, ws, offset, scale)
    moved = patches(with_branch(params, 0.3), ws, offset, scale)
    # Scale 1 differs by the bias, which is added at any scale; scale 3 by more.
    biased = with_branch(params, 0.3)
    biased['synthesis']['scale']['out'] = {**biased['synthesis']['scale']['out'], 'bias': jnp.zeros(8)}
    learned = patches(biased, ws, offset, scale)
    np.testing.assert_allclose(learned[0], plain[0], atol=1e-5)
    assert np.abs(learned[1] - plain[1]).max() > 1e-3 and np.abs(moved[0] - plain[0]).max() > 1e-3
    buffers = jax.jit(Generator(Config(**TINY)).init)(jax.random.key(1), jnp.zeros((1, 8)))['buffers']
    same, _ = jax.jit(functools.partial(stylegan3.synthesise, without), static_argnums=(3, 4))(
        first, buffers, ws, None, False, offset, scale
    )
    np.testing.assert_allclose(same, plain, atol=1e-6)


def test_a_scene_stays_where_it_is_when_it_is_shown_finer():
    """The learned transform of the input does not get the scale: with layers that hear no style, nothing changes."""
    params, ws, _, patches = network()
    deaf = with_branch(params, 0.3)
    for name, layer in deaf['synthesis'].items():
        if name != 'scale':
            kernel = layer['affine']['kernel']
            heard = jax.random.normal(jax.random.key(5), kernel.shape) if name == 'input' else jnp.zeros_like(kernel)
            deaf['synthesis'][name] = {**layer, 'affine': {**layer['affine'], 'kernel': heard}}
    offset, scale = np.zeros((2, 2), np.float32), np.array([1, 3], np.float32)
    unheard = {**deaf, 'synthesis': {**deaf['synthesis'], 'scale': params['synthesis']['scale']}}
    np.testing.assert_allclose(patches(deaf, ws, offset, scale), patches(unheard, ws, offset, scale), atol=1e-5)
    assert np.abs(patches(deaf, 2 * ws, offset, scale) - patches(deaf, ws, offset, scale)).max() > 1e-3


def test_the_scale_of_a_picture_is_that_of_its_pixels():
    for size, octave in (((32, 32), 0), ((64, 64), 1), ((128, 128), 2), ((64, 128), 1)):
        extent = {'x': (-size[1] / min(size), size[1] / min(size)), 'y': (-size[0] / min(size), size[0] / min(size))}
        np.testing.assert_allclose(octaves(frame_view((32, 32), size, **extent)), [[octave]], atol=1e-6)
    moved = jnp.stack(
        [coords.translate(0.3, 0.1), coords.zoom(3), coords.compose(coords.rotate(1.0), coords.zoom(0.5))]
    )
    np.testing.assert_allclose(octaves(moved), [[0], [np.log2(3)], [0]], atol=1e-6)


# The teacher ----------------------------------------------------------------------------------------------------------


def test_a_patch_is_reduced_as_images_are_and_counts_where_it_lies():
    """Against Pillow: a patch at whole pixels of a larger image, but for what the border of the patch hides."""
    whole = np.random.default_rng(0).random((48, 48)).astype(np.float32)
    want = np.asarray(Image.fromarray(whole).resize((16, 16), Image.Resampling.LANCZOS))
    corners = [(0, 0), (12, 21), (30, 3)]  # (column, row), of patches of 18 x 18, scale 3
    cut = np.stack([whole[top : top + 18, left : left + 18, None] for left, top in corners])
    offset = np.array([[(left + 9 - 24) / 3, (top + 9 - 24) / 3] for left, top in corners], np.float32)
    x, valid = jax.jit(any_resolution.reduced, static_argnums=3)(cut, offset, np.full(3, 3, np.float32), (16, 16))
    for i, (left, top) in enumerate(corners):
        inside = np.zeros((16, 16))
        rows, columns = slice(top // 3, top // 3 + 6), slice(left // 3, left // 3 + 6)
        inside[rows, columns] = 1
        np.testing.assert_array_equal(valid[i, ..., 0], inside)
        np.testing.assert_array_equal(x[i, ..., 0] * (1 - inside), 0)
        inner = (slice(rows.start + 2, rows.stop - 2), slice(columns.start + 2, columns.stop - 2))
        border = np.abs(x[i][rows, columns, 0] - want[rows, columns])
        assert border.max() < 0.35  # taps outside of the patch are left out
        np.testing.assert_allclose(x[i][inner][..., 0], want[inner], atol=0.02)
    np.testing.assert_allclose(
        x[0, :4, :4, 0], want[:4, :4], atol=0.02
    )  # where the image ends too, Pillow does the same
    same, valid = any_resolution.reduced(cut, jnp.zeros((3, 2)), jnp.ones(3), (18, 18))
    np.testing.assert_allclose(same, cut, atol=1e-6)
    assert np.all(valid == 1)


def test_the_distance_counts_what_is_valid_alone():
    rng = np.random.default_rng(1)
    a, b = (jnp.asarray(rng.random((2, 16, 16, 3)), jnp.float32) for _ in range(2))
    everything = jnp.ones((2, 16, 16, 1))
    np.testing.assert_allclose(losses.plain_distance(a, b, everything), losses.plain_distance(a, b), rtol=1e-5)
    part = everything.at[:, 10:].set(0).at[:, :, :3].set(0)
    elsewhere = jnp.where(part > 0, a, 7.0)
    np.testing.assert_array_equal(losses.plain_distance(elsewhere, b, part), losses.plain_distance(a, b, part))
    difference = np.asarray(a - b, np.float64)

    def level(d, m):
        parts = (d, m), (np.diff(d, axis=1), m[:, 1:] * m[:, :-1]), (np.diff(d, axis=2), m[:, :, 1:] * m[:, :, :-1])
        return sum((p**2 * n).sum((1, 2, 3)) / (3 * n.sum((1, 2, 3))) for p, n in parts)

    def half(x):
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4

    mask = np.asarray(part, np.float64)
    want = (level(difference, mask) + level(half(difference), np.floor(half(mask)))) / 2
    np.testing.assert_allclose(losses.plain_distance(a, b, part), want, rtol=1e-5)
    # One pixel is at the finest size alone; none at all is no distance.
    one = jnp.zeros_like(everything).at[:, 4, 4].set(1)
    np.testing.assert_allclose(losses.plain_distance(a, b, one), np.mean(difference[:, 4, 4] ** 2, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(losses.plain_distance(a, b, 0 * everything), 0)


@pytest.mark.parametrize('shape', [(2, 1, 9, 3), (2, 9, 1, 3), (2, 1, 1, 3)])
def test_the_distance_of_images_of_one_row_is_that_of_the_rest(shape):
    a = np.random.default_rng(0).random(shape, np.float32)
    want = sum((d**2).mean((1, 2, 3)) for d in (a, np.diff(a, axis=1), np.diff(a, axis=2)) if d.size)
    np.testing.assert_allclose(losses.plain_distance(a, np.zeros_like(a)), want, rtol=1e-5)


def second_stage():
    """A GAN of 16 x 16 pixels with its teacher, whose parameters the generator has, and its first state."""
    config = load_config('stylegan3:tiny,scales')
    gan = stylegan3.build(config)
    params, buffers, stats = jax.jit(gan.init)(jax.random.key(0))
    own = params['teacher']['params']
    branch = params['g']['synthesis']['scale']
    params = {**params, 'g': {**own, 'synthesis': {**own['synthesis'], 'scale': branch}}}
    buffers = {**buffers, 'g': params['teacher']['buffers']}
    return (
        config,
        gan,
        SimpleNamespace(params=params, buffers=buffers, stats=stats, nimg=jnp.int32(0), step=jnp.int32(0)),
    )


def test_the_teacher_is_followed_and_has_no_gradient():
    config, gan, state = second_stage()
    assert gan.updates[0].net == 'g' and gan.optimizers.keys() == {'g', 'd'}
    batch = {
        'image': jnp.zeros((2, 16, 16, 3)), 'index': jnp.arange(2), 'offset': jnp.zeros((2, 2)), 'scale': jnp.ones(2),
    }  # fmt: skip

    def loss(params, batch):
        seen = SimpleNamespace(**{**vars(state), 'params': {**state.params, 'teacher': params['teacher']}})
        value, (_, metrics) = gan.updates[0].loss(params['g'], seen, batch, jax.random.key(3), Stage(16))
        return value, metrics

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, metrics), grads = run(state.params, batch)
    assert all(np.all(x == 0) for x in jax.tree.leaves(grads['teacher']))
    assert float(metrics['loss/teacher']) < 1e-6  # the same image
    np.testing.assert_allclose(
        value, metrics['loss/g'] + config.model.teacher_weight * metrics['loss/teacher'], rtol=1e-6
    )

    patches = {**batch, 'offset': jnp.array([[3.0, -2.0], [-4.5, 1.25]]), 'scale': jnp.array([2.0, 3.3])}
    (_, metrics), grads = run(state.params, patches)
    assert all(np.all(x == 0) for x in jax.tree.leaves(grads['teacher']))
    near = float(metrics['loss/teacher'])
    shifted = jnp.array([[9.0, -2.0], [-4.5, 7.25]])  # another place than the one that is compared
    module = Generator(config.model)
    latents = stylegan_training.draw_latents(config.model, patches, jax.random.key(3))
    variables = {'params': state.params['g'], 'buffers': state.buffers['g']}

    @jax.jit
    def distances(shown, compared):
        ws = module.apply(variables, latents.z, method='map')
        whole = module.apply(variables, ws, method='synthesise')
        images, _ = stylegan3.synthesise(module, *variables.values(), ws, latents.keys, False, shown, patches['scale'])
        return any_resolution.teacher_distance(images, whole, compared, patches['scale'])

    np.testing.assert_allclose(distances(patches['offset'], patches['offset']), near, rtol=1e-4)
    assert near < 0.5 * float(distances(shifted, patches['offset']))


# Configuration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'spec, overrides, message',
    [
        (
            'cips:tiny',
            ['data.crop=scales'],
            "data.crop='scales': cips cannot show a patch of a finer image; use stylegan3",
        ),
        ('stylegan3:tiny,scales', ['model.d_sees_coords=True'], "model.d_sees_coords=True with data.crop='scales'"),
        (
            'stylegan3:tiny,scales',
            ['train.init_from=None'],
            'model.teacher_weight=5.0 needs a teacher: set train.init_from',
        ),
        (
            'stylegan3:tiny,scales',
            ['data.crop=center'],
            "model.scale_layers=2 with data.crop='center': all images have one",
        ),
        (
            'stylegan3:tiny,scales',
            ['data.crop=center', 'model.scale_layers=0'],
            "model.teacher_weight=5.0 with data.crop='center'",
        ),
        ('stylegan3:tiny,scales', ['model.scale_layers=-1'], 'model.scale_layers=-1 must be at least 0'),
        (
            'stylegan3:tiny,scales',
            ['data.outside=1.0'],
            "data.outside=1.0 and data.crop='scales' exclude each other, as patches",
        ),
        ('stylegan3:a,tiny,scales', [], 'a,scales: row a is StyleGAN2, which has one scale'),
    ],
)
def test_combinations_that_cannot_run_are_refused(spec, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(spec, overrides)


def test_parts_of_it_run_alone():
    """Patches without a teacher, from nothing; without conditioning; of a published size."""
    alone = load_config('stylegan3:tiny,scales', ['model.teacher_weight=0', 'train.init_from=None'])
    assert 'teacher' not in jax.eval_shape(stylegan3.build(alone).init, jax.random.key(0))[0]
    plain = load_config('stylegan3:tiny,scales', ['model.scale_layers=0'])
    assert 'scale' not in jax.eval_shape(stylegan3.build(plain).init, jax.random.key(0))[0]['g']['synthesis']
    config = load_config('stylegan3:r,ffhqu256,scales')
    assert (config.data.crop, config.model.teacher_weight, config.train.init_from) == ('scales', 5.0, 'runs/whole')
