"""Sampling: latents, truncation, labels, mixing, views, batches, chunks, quantisation, grids of images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords
from pegan_jax.analysis import artefacts, spectrum
from pegan_jax.config import load_config
from pegan_jax.gan import latents
from pegan_jax.models import cips, cips_views, stylegan2, stylegan3
from pegan_jax.pixels import image_grid, to_uint8, write
from pegan_jax.projection import observe
from pegan_jax.sampling import Model, frame_grid, frame_view, interpolate, lazy_grid, render, sample, style_mix
from pegan_jax.scoring.images import noise_options


def test_a_seed_gives_the_same_latent_in_any_company():
    np.testing.assert_array_equal(latents([5], 4)[0], latents([3, 5, 9], 4)[1])
    np.testing.assert_array_equal(latents([5], 4), np.random.RandomState(5).randn(1, 4).astype(np.float32))


def test_quantisation_rounds_to_nearest_and_clamps():
    x = np.array([-1.5, -1, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0, 1, 9], np.float32)
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 1, 128, 255, 255])


def test_images_are_laid_out_row_by_row_and_missing_ones_are_black():
    images = np.arange(1, 6)[:, None, None, None] * np.ones((5, 2, 3, 1))
    grid = image_grid(images, 3)
    assert grid.shape == (4, 9, 1)
    np.testing.assert_array_equal(grid[::2, ::3, 0], [[1, 2, 3], [4, 5, 0]])


@pytest.fixture(scope='module')
def model():
    config = load_config('cips:tiny')
    gan = cips.build(config)
    params, buffers, _ = gan.init(jax.random.key(0))
    return Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


def test_truncation_moves_images_to_one_mean_image(model):
    plain, half, mean = (sample(model, [0, 1, 2], truncation_psi=psi) for psi in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(mean[0], mean[1], atol=1e-5)
    spread = [np.abs(x[0] - x[1]).mean() for x in (plain, half)]
    assert spread[0] > 1.2 * spread[1] > 1e-3


def test_models_are_told_apart_by_identity(model):
    assert len({model, model, dataclasses.replace(model)}) == 2


def test_an_image_does_not_depend_on_its_batch(model):
    np.testing.assert_allclose(sample(model, [7, 1, 2], batch_size=2)[2], sample(model, [2])[0], atol=1e-5)


def test_a_rendered_image_is_the_sample_at_those_coordinates(model):
    grid = coords.grid(5, 3, x=(-2, 2), y=(0, 1))
    whole = render(model, 1, grid, truncation_psi=0.5)
    assert whole.shape == (5, 3, 3) and whole.dtype == np.float32
    np.testing.assert_allclose(whole, render(model, 1, grid, truncation_psi=0.5, chunk=4), atol=1e-5)
    np.testing.assert_allclose(whole, sample(model, [1], grid=grid, truncation_psi=0.5)[0], atol=1e-5)
    np.testing.assert_allclose(whole[2:3, 1], render(model, 1, np.asarray(grid)[2:3, 1], truncation_psi=0.5), atol=1e-5)


def test_a_frame_has_the_size_of_samples_where_data_are_larger():
    config = load_config('cips:tiny', ['model.rotate=True', 'data.resolution=24'])
    gan = cips.build(config)
    params, buffers, _ = gan.init(jax.random.key(0))
    model = Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    want = sample(model, [3])[0]
    assert model.size == want.shape[:2] == (16, 16)
    np.testing.assert_allclose(render(model, 3, frame_grid(model)), want, atol=1e-5)
    assert observe(model, np.asarray(want), 'scattered:0.5').pixels.shape == (16, 16)
    assert artefacts.artefact_study({'turned': model}, 1).numbers['turned']['power beyond the size of training'] > 0


def test_nothing_to_sample_is_an_error(model):
    with pytest.raises(ValueError, match='seeds is empty'):
        sample(model, [])
    with pytest.raises(ValueError, match='chunk=0 must be at least 1'):
        render(model, 0, coords.grid(2, 2), chunk=0)


def test_a_file_that_cannot_be_finished_leaves_nothing_behind(tmp_path):
    def pieces():
        yield np.zeros((1, 3), np.float32)
        raise RuntimeError('interrupted')

    with pytest.raises(RuntimeError, match='interrupted'):
        write(tmp_path / 'a.png', pieces(), (2, 2), 8)
    assert not list(tmp_path.iterdir())


# Systems that make whole images ---------------------------------------------------------------------------------------


def _untrained(system, module, config, labels=()):
    """A model whose w_avg is not zero; only its generator is initialised."""
    variables = dict(jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, config.model.z_dim)), *labels))
    w_avg = 0.3 * jax.random.normal(jax.random.key(1), (config.model.w_dim,))
    variables['buffers'] = {**variables['buffers'], 'mapping': {'w_avg': w_avg}}
    return Model(config, system.build(config), variables, 0)


@pytest.fixture(scope='module')
def canvas_model():
    """StyleGAN3 with three classes, and layers as few as can be."""
    config = load_config('stylegan3:tiny')
    small = {'c_dim': 3, 'num_layers': 2, 'num_critical': 1, 'channel_max': 8, 'z_dim': 8, 'w_dim': 8}
    data = dataclasses.replace(config.data, labels=True, folder='images')
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **small), data=data)
    return _untrained(stylegan3, stylegan3.Generator(config.model), config, [jnp.eye(3)[:1]])


@pytest.fixture(scope='module')
def noisy_model():
    """StyleGAN2 whose noise is strong."""
    config = load_config('stylegan2:tiny')
    model = _untrained(stylegan2, stylegan2.generator(config.model), config)

    def louder(path, x):
        return jnp.ones_like(x) if path[-1].key == 'noise_strength' else x

    variables = jax.tree_util.tree_map_with_path(louder, model.variables)
    return dataclasses.replace(model, variables=variables)


def test_a_cutoff_truncates_the_first_styles_only(canvas_model):
    plain = np.asarray(canvas_model.styles([4], label=1))
    ws = np.asarray(canvas_model.styles([4], 0.5, truncation_cutoff=1, label=1))
    assert ws.shape == (1, 4, 8)
    np.testing.assert_allclose(ws[:, 0], (np.asarray(canvas_model.w_avg) + plain) / 2, atol=1e-5)
    np.testing.assert_array_equal(ws[:, 1:], np.repeat(plain[:, None], 3, axis=1))
    # Truncating every style, or none, gives the same images as one w.
    for cutoff, psi in ((4, 0.5), (0, 1.0)):
        images = sample(canvas_model, [4], label=1, truncation_psi=0.5, truncation_cutoff=cutoff)
        np.testing.assert_allclose(images, sample(canvas_model, [4], label=1, truncation_psi=psi), atol=1e-5)
    with pytest.raises(ValueError, match='truncation_cutoff=5 with 4 styles per image; use 0 to 4'):
        canvas_model.styles([0], truncation_cutoff=5, label=0)


def test_labels_choose_the_class(canvas_model, model):
    ones = [sample(canvas_model, [4], label=label) for label in (1, np.array([0.0, 1.0, 0.0]), 2)]
    np.testing.assert_array_equal(ones[0], ones[1])
    assert np.abs(ones[0] - ones[2]).max() > 1e-3
    with pytest.raises(ValueError, match='trained with labels: give label, a class from 0 to 2, or 3 numbers'):
        sample(canvas_model, [4])
    for label, match in (
        (3, 'label=3 is no class of this model; it takes a class from 0 to 2'),
        (-1, 'label=-1 is no class'),
        (np.ones(2), r'label is float64 \(2,\); give a class from 0 to 2, or floats \[3\] or \[1, 3\]'),
        ([0, 1], r'label \(--class\) has 2 classes for 1 images'),
        ('cat', "label='cat' is no class of this model"),
    ):
        with pytest.raises(ValueError, match=match):
            sample(canvas_model, [4], label=label)
    # Whole numbers are a class of each image, also when there are as many as classes; floats are one label.
    named = dataclasses.replace(canvas_model, classes=('cat', 'dog', 'owl'))
    np.testing.assert_array_equal(named.labels(np.array([0, 2, 1]), 3), np.eye(3)[[0, 2, 1]])
    np.testing.assert_array_equal(named.labels(['owl', 'cat'], 2), np.eye(3)[[2, 0]])
    np.testing.assert_array_equal(named.labels('dog', 2), np.eye(3)[[1, 1]])
    np.testing.assert_array_equal(named.labels([0.5, 0.5, 0.0], 2), [[0.5, 0.5, 0]] * 2)
    with pytest.raises(ValueError, match=r"label='cow' is no class .* or its name \(cat, dog, owl\)"):
        named.labels('cow', 1)
    with pytest.raises(ValueError, match='label=0, but the model was trained without labels'):
        sample(model, [4], label=0)


@pytest.mark.parametrize('kind', ['canvas_model', 'model'])
def test_the_table_of_style_mixing(kind, request):
    model = request.getfixturevalue(kind)
    label = {'label': 0} if kind == 'canvas_model' else {}
    rows, columns, layers = [1, 2], [3, 4, 5], range(2)
    table = style_mix(model, rows, columns, layers, truncation_psi=0.8, **label)
    assert table.shape == (3, 4, 16, 16, 3)
    np.testing.assert_array_equal(table[0, 0], -1)
    np.testing.assert_allclose(table[1:, 0], sample(model, rows, truncation_psi=0.8, **label), atol=1e-5)
    np.testing.assert_allclose(table[0, 1:], sample(model, columns, truncation_psi=0.8, **label), atol=1e-5)
    # Styles of all layers from the column are the column; those of the others from the row, seen from the column.
    every = style_mix(model, rows, columns, range(model.num_ws), truncation_psi=0.8, **label)
    np.testing.assert_allclose(every[1:, 1:], np.repeat(table[None, 0, 1:], 2, axis=0), atol=1e-5)
    others = style_mix(model, columns, rows, range(2, model.num_ws), truncation_psi=0.8, **label)
    np.testing.assert_allclose(table[1:, 1:], others[1:, 1:].swapaxes(0, 1), atol=1e-5)
    assert min(np.abs(table[1, 2] - table[1, 0]).max(), np.abs(table[1, 2] - table[0, 2]).max()) > 1e-3
    for bad in ([], [0, 99]):
        with pytest.raises(ValueError, match='layers'):
            style_mix(model, rows, columns, bad, **label)
    with pytest.raises(ValueError, match='both need at least one seed'):
        style_mix(model, rows, [], layers, **label)


def test_the_random_noise_of_an_image_belongs_to_its_seed(noisy_model):
    batch = sample(noisy_model, [5, 6, 7], noise_mode='random', batch_size=2)
    np.testing.assert_allclose(sample(noisy_model, [7], noise_mode='random')[0], batch[2], atol=1e-5)
    modes = [sample(noisy_model, [7], noise_mode=mode)[0] for mode in ('const', 'none')]
    np.testing.assert_array_equal(modes[0], sample(noisy_model, [7])[0])
    for a, b in ((modes[0], modes[1]), (modes[0], batch[2]), (modes[1], batch[2])):
        assert np.abs(a - b).mean() > 0.01
    assert np.abs(sample(noisy_model, [2**32 - 1], noise_mode='random')[0] - batch[2]).mean() > 0.01
    same = noisy_model.synthesise(noisy_model.styles([7]), noise=jax.random.key(7)[None])[0]
    np.testing.assert_array_equal(sample(noisy_model, [7], noise_mode='random', batch_size=1)[0], same)


def test_scores_and_spectra_draw_the_noise_of_cips_anew_and_samples_have_none(model):
    loud = jax.tree.map_with_path(
        lambda path, x: x + 1 if path[-1].key == 'noise_strength' else x, model.variables['params']
    )
    loud = dataclasses.replace(model, variables={**model.variables, 'params': loud})
    plain, none, drawn, again = (sample(loud, [3, 4], noise_mode=mode) for mode in (None, 'none', 'random', 'random'))
    np.testing.assert_array_equal(plain, none)
    np.testing.assert_array_equal(drawn, again)
    assert np.abs(drawn - plain).mean() > 0.01 and np.abs(drawn[0] - drawn[1]).mean() > 0.01
    assert noise_options(loud.sampler, 'random', jnp.arange(2)).keys() == {'noise'}
    np.testing.assert_array_equal(spectrum.real_and_generated(loud, 2, 3)[1], to_uint8(drawn))


@pytest.mark.parametrize(
    'kind, options, message',
    [
        ('canvas_model', {'noise_mode': 'none'}, 'stylegan3 takes no noise when sampling; it takes size'),
        ('model', {'grid': np.zeros((2, 2, 2)), 'size': (4, 4)}, 'a grid already tells size and transform'),
        ('model', {'size': 128}, r'size=128; give \(height, width\)'),
        ('model', {'size': (16.5, 16)}, r'size=\(16.5, 16\); give \(height, width\) in whole pixels'),
        ('model', {'size': ('16', '16')}, 'in whole pixels'),
        ('model', {'grid': lazy_grid(4, 4)}, 'grid is no array; render takes'),
        ('model', {'batch_size': 0}, 'batch_size=0 must be at least 1'),
        ('model', {'transform': np.eye(3)[None]}, 'CIPS takes one matrix'),
        ('model', {'transform': np.eye(2)}, r'a transform of shape \(2, 2\); give one matrix \[3, 3\]'),
        (
            'canvas_model',
            {'grid': np.zeros((2, 2, 2))},
            'stylegan3 takes no grid when sampling; it takes size',
        ),
        ('canvas_model', {'size': (16, 15)}, '16 x 15 pixels; both sides must be even'),
        ('canvas_model', {'noise_mode': 'loud'}, "noise_mode='loud'; use 'const', 'random' or 'none'"),
        ('noisy_model', {'size': (8, 8)}, 'stylegan2 has no coordinates: it makes images of'),
        ('noisy_model', {'transform': np.eye(3)}, 'stylegan2 has no coordinates: it makes images of'),
    ],
)
def test_options_that_a_system_does_not_have_are_refused(kind, options, message, request):
    model = request.getfixturevalue(kind)
    with pytest.raises(ValueError, match=message):
        sample(model, [0], label=0 if kind == 'canvas_model' else None, **options)


def test_matrices_that_would_be_ignored_in_part_are_refused(canvas_model):
    two, labels = np.stack([np.eye(3)] * 2), {'label': 0}
    with pytest.raises(ValueError, match=r'shape \(2, 3, 3\); .* one for each of 4 images, \[4, 3, 3\]'):
        sample(canvas_model, [0, 1, 2, 3], transform=two, **labels)
    two[1, 2] = (0.1, 0, 1)
    with pytest.raises(ValueError, match=r'last row \(0\.1.*, 0\.0, 1\.0\); only affine ones are possible'):
        sample(canvas_model, [0, 1], transform=two, **labels)
    with pytest.raises(ValueError, match='only affine ones'):
        coords.transform(coords.grid(2, 2), two[1])


def test_single_coordinates_of_a_whole_image_are_refused(canvas_model):
    with pytest.raises(ValueError, match='stylegan3 makes whole images, not single coordinates: no warp'):
        render(canvas_model, 0, coords.grid(4, 4), label=0)


@pytest.mark.parametrize('kind', ['noisy_model', 'model'])
def test_styles_that_are_given_are_shown_as_they_are(kind, request):
    model = request.getfixturevalue(kind)
    ws = np.asarray(model.styles([0]))[0]
    plain = {'label': None, 'truncation_psi': 1.0, 'truncation_cutoff': None}
    np.testing.assert_allclose(render(model, ws, **plain), sample(model, [0], batch_size=1)[0], atol=1e-5)
    for name, value in (('label', 0), ('truncation_psi', 0.5), ('truncation_cutoff', 1)):
        with pytest.raises(ValueError, match=f'{name}={value}: styles that are given are shown as they are'):
            render(model, ws, **plain | {name: value})


def test_interpolation_ends_at_the_samples_and_may_move_the_view(canvas_model):
    turns = np.stack([coords.rotate(a) for a in (0.0, 0.4, 0.8)])
    between = interpolate(canvas_model, 1, 2, 3, label=0, transform=turns, batch_size=2)
    np.testing.assert_allclose(between[2], sample(canvas_model, [2], label=0, transform=turns[2])[0], atol=1e-5)
    np.testing.assert_allclose(between[0], sample(canvas_model, [1], label=0)[0], atol=1e-5)


# Views ----------------------------------------------------------------------------------------------------------------


def test_a_larger_image_of_cips_shows_more_at_the_same_distance(model):
    square, wide = sample(model, [1])[0], sample(model, [1], size=(16, 22))[0]
    np.testing.assert_allclose(wide[:, 3:19], square, atol=1e-5)
    # An image is 2 wide in coordinates: the step of the training grid is 2 / 15.
    moved = sample(model, [1], transform=coords.translate(1 / 15, 0))[0]
    np.testing.assert_allclose(moved[:, 1:], square[:, :-1], atol=1e-4)
    turned = sample(model, [1], transform=coords.rotate(np.pi / 2))[0]
    np.testing.assert_allclose(turned, np.rot90(square), atol=1e-4)


def test_a_panorama_goes_on_at_the_same_pitch():
    config = load_config('cips:panorama,tiny')
    native, wide = (np.asarray(cips_views.view(config, size, None)['grid']) for size in (None, (16, 24)))
    np.testing.assert_allclose(native, cips_views.image_grid(config.model, (16, 16)), atol=1e-6)
    np.testing.assert_allclose(wide[:, 4:20], native, atol=1e-6)


@pytest.mark.parametrize('frame', [(32, 32), (32, 48)])
def test_the_borders_of_a_view_are_where_they_were_asked_for(frame):
    size, unit = (24, 60), min(frame)
    corners = np.array([[-size[1], -size[0]], [size[1], size[0]]], np.float32) / 2 / unit
    got = coords.transform(corners, frame_view(frame, size, x=(-2, 1), y=(0.5, 3)))
    want = np.array([[-2, 0.5], [1, 3]]) * [[frame[1] / 2 / unit, frame[0] / 2 / unit]]
    np.testing.assert_allclose(got, want, atol=1e-5)
    moved = frame_view(frame, frame, matrix=coords.compose(coords.rotate(0.3), coords.translate(1, 0)))
    # A step of 1 is half of the frame's shorter side.
    np.testing.assert_allclose(moved, coords.compose(coords.rotate(0.3), coords.translate(0.5, 0)), atol=1e-6)
