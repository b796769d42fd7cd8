"""Partial convolution: the layer, the U-Net, its losses."""

import dataclasses
import functools

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, load_config, to_json
from pegan_jax.layers import PartialConv
from pegan_jax.models import pconv
from pegan_jax.train.state import create_state
from pegan_jax.train.workdir import check_config
from pegan_jax.weights import features
from pegan_jax.weights.contents import ForeignFileError


def run(layer, x, valid, params=None):
    """y, valid' of a layer with given or random parameters."""
    if params is None:
        params = layer.init(jax.random.key(1), x, valid)['params']
        params = jax.tree.map(lambda p: p + 0.1, params)
    return layer.apply({'params': params}, x, valid)


def hole(height, width, rows, columns):
    """Valid pixels [1, height, width, 1] around a rectangular hole of rows x columns pixels in the middle."""
    valid = np.ones((1, height, width, 1), np.float32)
    top, left = (height - rows) // 2, (width - columns) // 2
    valid[:, top : top + rows, left : left + columns] = 0
    return valid


@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize(('size', 'dilation', 'padding'), [(3, 1, 'SAME'), (5, 1, ((2, 2), (2, 2))), (3, 2, 'SAME')])
def test_a_uniform_kernel_keeps_a_constant_image_wherever_anything_is_valid(channels, size, dilation, padding):
    valid = np.repeat(hole(16, 14, 9, 9), channels, axis=-1)
    valid[:, 0, 0] = 0
    x = np.where(valid > 0, 0.7, 1e6).astype(np.float32) * np.ones((2, 1, 1, 2), np.float32)
    layer = PartialConv(3, size, dilation=dilation, padding=padding)
    params = {'kernel': jnp.full((size, size, 2, 3), 1 / (2 * size**2)), 'bias': jnp.zeros(3)}
    y, new = run(layer, x, valid, params)
    np.testing.assert_allclose(y, np.broadcast_to(0.7 * np.asarray(new), y.shape), rtol=1e-5)
    assert new.shape[-1] == (1 if channels == 1 else 3) and 0 < np.mean(new) < 1


def test_hole_values_have_no_effect_and_get_no_gradient():
    valid = hole(8, 8, 4, 4)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    layer = PartialConv(3, 3)
    params = layer.init(jax.random.key(1), x, valid)['params']
    other = jnp.where(valid > 0, x, 99.0)
    np.testing.assert_array_equal(run(layer, x, valid, params)[0], run(layer, other, valid, params)[0])
    grads = jax.grad(lambda x: jnp.sum(run(layer, x, valid, params)[0] ** 2))(x)
    assert np.all((np.asarray(grads) != 0) == (valid > 0))


def test_all_valid_is_an_ordinary_convolution_away_from_the_border():
    x = jax.random.normal(jax.random.key(0), (2, 7, 9, 2))
    layer = PartialConv(3, 3, stride=2, padding=((1, 1), (1, 1)))
    params = {'kernel': jax.random.normal(jax.random.key(1), (3, 3, 2, 3)), 'bias': jnp.array([1.0, 2.0, 3.0])}
    y, valid = run(layer, x, None, params)
    plain = nn.Conv(3, (3, 3), 2, padding=1).apply({'params': params}, x)
    np.testing.assert_allclose(y[:, 1:-1, 1:-1], plain[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-5)
    # Four of nine weights see the image in the corner.
    np.testing.assert_allclose(
        y[:, 0, 0], (plain[:, 0, 0] - params['bias'][None]) * 9 / 4 + params['bias'][None], atol=1e-4
    )
    assert np.all(valid == 1)


@pytest.mark.parametrize('padding', ['SAME', ((0, 1), (1, 1))])
def test_padding_is_an_invalid_border(padding):
    """SAME pads 6 rows of a layer with stride 2 behind only, and 7 columns on both sides."""
    x, valid = jax.random.normal(jax.random.key(0), (1, 6, 7, 2)), hole(6, 7, 3, 3)
    params = {'kernel': jax.random.normal(jax.random.key(1), (3, 3, 2, 3)), 'bias': jnp.array([1.0, 2.0, 3.0])}
    got = run(PartialConv(3, 3, 2, padding), x, valid, params)
    around = ((0, 0), (0, 1), (1, 1), (0, 0))
    want = run(PartialConv(3, 3, 2, ((0, 0), (0, 0))), jnp.pad(x, around), jnp.pad(valid, around), params)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('size', 'rows', 'columns'), [(3, 5, 11), (5, 9, 9), (7, 13, 4)])
def test_a_hole_shrinks_by_half_the_kernel_on_each_side_and_is_gone_when_the_shorter_side_is(size, rows, columns):
    valid, x = hole(24, 28, rows, columns), np.ones((1, 24, 28, 1), np.float32)
    layer = PartialConv(1, size)
    params = layer.init(jax.random.key(0), x, valid)['params']
    layers = -(-min(rows, columns) // (size - 1))
    for n in range(1, layers + 1):
        new = np.asarray(run(layer, x, valid, params)[1])
        assert np.all(new >= valid)  # a valid pixel stays valid
        left = [max(side - n * (size - 1), 0) for side in (rows, columns)]
        assert np.sum(new == 0) == left[0] * left[1]
        assert np.all(new == 1) == (n == layers)
        valid = new


def test_one_valid_pixel_fills_the_image_and_none_fills_nothing():
    layer, x = PartialConv(2, 3), np.ones((1, 6, 6, 2), np.float32)
    params = jax.tree.map(lambda p: p + 1.0, layer.init(jax.random.key(0), x, None)['params'])
    valid = np.zeros((1, 6, 6, 1), np.float32)
    y, new = run(layer, x, valid, params)
    assert not y.any() and not new.any()  # not even the bias
    valid[0, 0, 0] = 1
    for _ in range(5):
        y, valid = run(layer, x, valid, params)
    assert np.all(valid == 1) and np.all(np.asarray(y) != 0)


def test_concatenated_features_count_the_valid_ones_of_each_channel():
    x = np.stack([np.full((4, 4), 2.0), np.full((4, 4), 8.0)], axis=-1)[None].astype(np.float32)
    valid = np.ones_like(x)
    valid[..., 1] = 0
    params = {'kernel': jnp.ones((3, 3, 2, 1)), 'bias': jnp.zeros(1)}
    y, _ = run(PartialConv(1, 3), x, valid, params)
    np.testing.assert_allclose(y, np.full((1, 4, 4, 1), 2.0 * 18), rtol=1e-5)


def test_no_gradient_reaches_the_valid_pixels():
    x = np.ones((1, 4, 4, 1), np.float32)
    layer = PartialConv(1, 3)
    params = layer.init(jax.random.key(0), x, None)['params']
    grads = jax.grad(lambda valid: jnp.sum(run(layer, x, valid, params)[0]))(jnp.ones((1, 4, 4, 1)))
    assert not grads.any()


def test_valid_pixels_of_another_shape_are_refused():
    with pytest.raises(AssertionError, match=r'has shape \(1, 4, 4, 3\)'):
        run(PartialConv(1, 3), np.ones((1, 4, 4, 2)), np.ones((1, 4, 4, 3)))


# The network ----------------------------------------------------------------------------------------------------------

SMALL = pconv.Config(img_resolution=8, channel_base=4, channel_max=6)  # two levels; any multiple of 4 can be completed


@pytest.fixture(scope='module')
def small():
    """A network with random parameters and statistics, and pictures with masks of their own."""
    keys = jax.random.split(jax.random.key(0), 4)
    image = jax.random.uniform(keys[0], (2, 16, 16, 3), minval=-1.0)
    mask = np.zeros((2, 16, 16, 1), np.float32)
    mask[0, 2:9, 4:14] = 1
    mask[1, 8:, :4] = 1
    variables = jax.jit(lambda: pconv.Generator(SMALL).init(keys[1], image, mask, True))()
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(keys[2], p.shape), variables['params'])
    return {'params': params, 'buffers': variables['batch_stats']}, image, jnp.asarray(mask)


run_sample = jax.jit(lambda variables, inputs: pconv.complete(SMALL, variables, inputs))


def test_the_layers_are_those_of_the_paper():
    """Liu et al. 2018, table of the appendix: 512 pixels, eight levels."""
    model = pconv.Config(img_resolution=512)
    image, mask = jnp.zeros((1, 512, 512, 3)), jnp.zeros((1, 512, 512, 1))
    shapes = jax.eval_shape(lambda: pconv.Generator(model).init(jax.random.key(0), image, mask, True))['params']
    widths = [3, 64, 128, 256, 512, 512, 512, 512, 512]
    table = {}
    for level, size in enumerate((7, 5, 5, 3, 3, 3, 3, 3), start=1):
        table[f'enc_{level}'] = (size, size, widths[level - 1], widths[level])
        table[f'dec_{level}'] = (3, 3, widths[level] + widths[level - 1], widths[level - 1])
    assert {n: layer['kernel'].shape for n, layer in shapes.items() if 'kernel' in layer} == table
    without_norm = {n for n, layer in shapes.items() if 'bias' in layer and 'kernel' in layer}
    assert without_norm == {'enc_1', 'dec_1'}
    assert {n for n in shapes if n.endswith('_bn')} == {f'{n}_bn' for n in table if n not in without_norm}


@pytest.mark.parametrize(('resolution', 'levels'), [(512, 8), (256, 7), (96, 5), ((256, 384), 7), (8, 2)])
def test_levels_follow_the_resolution(resolution, levels):
    assert pconv.Config(img_resolution=resolution).levels == levels


def test_known_pixels_stay_exactly_and_hole_values_have_no_effect(small):
    variables, image, mask = small
    got = np.asarray(run_sample(variables, {'image': image, 'mask': mask}))
    np.testing.assert_array_equal(got[mask[..., 0] == 0], image[mask[..., 0] == 0])
    assert np.all(np.abs(got) <= 1) and np.std(got[mask[..., 0] == 1]) > 0.01
    other = jnp.where(mask > 0, 0.9, image)
    np.testing.assert_array_equal(run_sample(variables, {'image': other, 'mask': mask}), got)


def test_masks_without_and_full_of_holes_are_answered(small):
    variables, image, mask = small
    np.testing.assert_array_equal(run_sample(variables, {'image': image, 'mask': jnp.zeros_like(mask)}), image)
    assert not run_sample(variables, {'image': image, 'mask': jnp.ones_like(mask)}).any()


def test_one_mask_serves_all_images_and_images_do_not_mix(small):
    variables, image, mask = small
    one = run_sample(variables, {'image': image, 'mask': mask[:1]})
    both = run_sample(variables, {'image': image[::-1], 'mask': jnp.repeat(mask[:1], 2, axis=0)})
    np.testing.assert_allclose(one, both[::-1], atol=1e-5)


def test_everything_is_valid_in_the_deepest_layer_and_at_the_end(small):
    variables, image, mask = small
    inputs = {'params': variables['params'], 'batch_stats': variables['buffers']}
    _, found = pconv.Generator(SMALL).apply(inputs, image, mask, False, mutable=['gates'])
    valid = {name: np.asarray(layers[0]) for name, layers in found['gates'].items()}
    assert valid['enc_1_valid'].shape == (2, 8, 8, 4) and not valid['enc_1_valid'].all()
    assert valid['enc_2_valid'].all() and valid['dec_1_valid'].all() and valid['dec_1_valid'].shape == (2, 16, 16, 3)


def test_other_shapes_and_sketches_are_refused(small):
    variables, image, mask = small
    for inputs, match in (
        ({'image': image[:, :14], 'mask': mask[:, :14]}, 'multiples of 4'),
        ({'image': image, 'mask': mask[:, :, :8]}, r'mask of shape \(2, 16, 8, 1\)'),
        ({'image': image, 'mask': mask, 'sketch': mask}, 'take no sketch'),
    ):
        with pytest.raises(ValueError, match=match):
            pconv.complete(SMALL, variables, inputs)


# Losses ---------------------------------------------------------------------------------------------------------------


def test_pixel_terms_of_a_hole_that_is_wrong_by_a_constant():
    gt, mask = np.full((1, 6, 6, 3), 0.5, np.float32), np.zeros((1, 6, 6, 1), np.float32)
    mask[:, 2:4, 2:5] = 1
    terms = pconv.pixel_terms(gt + 0.25 * mask - 0.125 * (1 - mask), gt, mask)
    assert float(terms['hole']) == pytest.approx(0.25 * 6 / 36)
    assert float(terms['valid']) == pytest.approx(0.125 * 30 / 36)
    assert float(terms['tv']) == pytest.approx(0.25 * 10 / 36)  # ten pairs of neighbours on the outline of the hole
    assert float(pconv.total(terms)) == pytest.approx(0.125 * 30 / 36 + 6 * 0.25 / 6 + 0.1 * 0.25 * 10 / 36)


def gan_and_state(**fields):
    model = dataclasses.replace(SMALL, **fields)
    train = TrainConfig(init_from='first' if model.freeze_encoder_bn else None)
    gan = pconv.build(Config('pconv', model, DataConfig(resolution=8), OptimConfig(), train))
    return gan, jax.jit(functools.partial(create_state, gan, 0))()


def g_loss(gan, state, image, mask, transform):
    """A transform of params -> (loss, (metrics, new buffers)), on one device of the axis 'data'."""
    batch = {'image': image, 'mask': mask}

    def loss(params):
        value, (fields, metrics) = gan.updates[0].loss(params, state, batch, jax.random.key(0), None)
        return value, (metrics, fields['buffers']['g'])

    step = jax.jit(jax.vmap(transform(loss), axis_name='data'))
    return jax.tree.map(lambda x: x[0], step(jax.tree.map(lambda x: x[None], state.params['g'])))


@pytest.mark.parametrize('freeze', [False, True])
def test_fine_tuning_keeps_the_batch_normalisations_of_the_encoder(small, freeze, caplog):
    _, image, mask = small
    gan, state = gan_and_state(freeze_encoder_bn=freeze)
    assert state.params.keys() == state.opt.keys() == gan.optimizers.keys() == {'g'} and len(gan.updates) == 1
    (_, (metrics, buffers)), grads = g_loss(
        gan, state, image, mask[:1], functools.partial(jax.value_and_grad, has_aux=True)
    )
    norms = [name for name in grads if name.endswith('_bn')]
    assert norms == ['dec_2_bn', 'enc_2_bn']
    for name in norms:
        still = freeze and name.startswith('enc_')
        assert bool(np.any(grads[name]['scale'])) != still
        changed = np.any(np.asarray(buffers[name]['mean']) != np.asarray(state.buffers['g'][name]['mean']))
        assert bool(changed) != still
    assert all(np.any(grads[name]['kernel']) for name in grads if name not in norms)
    assert set(metrics) == {'loss/g_without_vgg', 'loss/valid', 'loss/hole', 'loss/tv'}
    assert 'no perceptual and no style terms' in caplog.text


def test_with_weights_of_vgg_the_loss_has_six_terms(small, tmp_path):
    _, image, mask = small
    gan, state = gan_and_state(vgg=str(foreign.write_state_dict(tmp_path / 'vgg16.pth', foreign.vgg16())))
    loss, (metrics, _) = g_loss(gan, state, image, mask[:1], lambda loss: loss)
    terms = {name.removeprefix('loss/'): value for name, value in metrics.items() if name != 'loss/g'}
    assert set(terms) == set(pconv.LOSS_WEIGHTS)
    assert float(loss) == pytest.approx(sum(pconv.LOSS_WEIGHTS[name] * float(terms[name]) for name in terms), rel=1e-5)
    params = features.load_vgg(tmp_path / 'vgg16.pth')
    variables = {'params': state.params['g'], 'batch_stats': state.buffers['g']}

    @jax.jit
    def by_hand():
        out, _ = pconv.Generator(SMALL).apply(variables, image, mask[:1], True, mutable=['batch_stats'])
        pictures = [(x + 1) / 2 for x in (out, pconv.composite(out, image, mask[:1]), image)]
        return pconv.feature_terms(*(features.vgg_pools(params, x) for x in pictures))

    want = by_hand()
    for name, value in want.items():
        assert float(value) == pytest.approx(float(terms[name]), rel=1e-4) and value > 0


def test_a_file_of_weights_that_there_is_not_is_missed_before_training(tmp_path):
    with pytest.raises(ForeignFileError, match='is not a file'):
        gan_and_state(vgg=str(tmp_path / 'none.pth'))


@pytest.mark.parametrize(
    ('model', 'data', 'match'),
    [
        (dict(img_resolution=36), {}, 'multiples of 16'),
        (dict(img_resolution=4), {}, 'at least 8'),
        (dict(masks='folder'), {}, "masks='folder' needs one"),
        (dict(mask_folder='masks'), {}, "masks='folder' needs one"),
        (dict(channel_max=0), {}, 'model.channel_max=0'),
        (dict(vgg='vgg16.pth', img_channels=4), dict(channels=4), 'VGG-16 knows no opacity'),
        (dict(img_resolution=32), {}, 'data.resolution=16 differs'),
        (dict(freeze_encoder_bn=True), {}, 'freeze_encoder_bn=True needs train.init_from: .* would stay random'),
    ],
)
def test_settings_that_cannot_run_are_refused(model, data, match):
    with pytest.raises(ConfigError, match=match):
        Config(
            'pconv',
            pconv.Config(**{'img_resolution': 16} | model),
            DataConfig(**{'resolution': 16} | data),
            OptimConfig(),
        )


@pytest.mark.parametrize('words', ['', 'places512', 'celebahq512,finetune', 'tiny', 'tiny,finetune'])
def test_configurations_say_what_the_paper_says(words):
    config = load_config(f'pconv:{words}')
    assert config.optim.g_lr == (5e-5 if 'finetune' in words else 2e-4)
    assert config.model.freeze_encoder_bn == ('finetune' in words) == (config.train.init_from is not None)
    if 'tiny' not in words:
        assert config.train.batch_size == 6 and config.model.size == ((512, 512) if '512' in words else (256, 256))


def test_a_run_may_get_the_weights_of_vgg_later(tmp_path, monkeypatch):
    monkeypatch.setattr(features, 'load_vgg', lambda file: {})
    config = load_config('pconv:tiny')
    (tmp_path / 'checkpoints' / '10').mkdir(parents=True)
    (tmp_path / 'config.json').write_text(to_json(config))
    later = dataclasses.replace(config, model=dataclasses.replace(config.model, vgg='vgg16.pth'))
    check_config(tmp_path, later)
