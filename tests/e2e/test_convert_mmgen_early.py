"""PGGANs and DCGANs as mmgen releases them, written here without torch: convert, sample, train; and what is refused."""

import functools
import json
import pathlib

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, nhwc

from pegan_jax import convert, load
from pegan_jax.config import Config, DataConfig
from pegan_jax.interop import mmgen_early
from pegan_jax.models import dcgan, pggan
from pegan_jax.train.checkpoint import load_networks
from pegan_jax.weights import reader
from pegan_jax.weights.contents import ForeignFileError

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'positional_encoding_gans'


@functools.cache
def golden(name):
    with np.load(FIXTURES / f'{name}.npz') as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop('meta')))


def parameters(name, net):
    return {f'{net}.{k.removeprefix("param/")}': v for k, v in golden(name)[0].items() if k.startswith('param/')}


def release(folder, system, change=lambda state: None):
    """A released file: PGGAN's generator_ema has the fixture's weights, its generator others."""
    if system == 'pggan':
        ema = parameters('pggan_g_fused', 'generator_ema')
        state = {k.replace('_ema', ''): v / 2 for k, v in ema.items()} | ema | parameters('pggan_d', 'discriminator')
        state |= {'shown_nkimg': np.float32(12072), '_curr_transition_weight': np.float32(1)}
    else:
        state = parameters('dcgan_g', 'generator') | parameters('dcgan_d', 'discriminator')
    change(state)
    storages = foreign.Storages()
    foreign.write_zip(folder / 'gan.pth', {'meta': {}, 'state_dict': foreign.state_dict(state, storages)}, storages)
    return folder / 'gan.pth'


def turned(image):
    """RGB <-> BGR."""
    return image[..., ::-1]


@pytest.mark.parametrize('system', ['pggan', 'dcgan'])
def test_a_release_gives_the_official_images_in_rgb(tmp_path, system):
    config = convert(release(tmp_path, system), tmp_path / 'out')
    model = load(tmp_path / 'out')
    if system == 'pggan':
        (arrays, meta), want, z = golden('pggan_g_fused'), 'out/s16t1/img', 'in/s16t1/z'
        assert (config.model.upsampling, config.model.channel_max, config.model.stage_kimg) == (
            'fused',
            12,
            (600, 1200),
        )
    else:
        (arrays, meta), want, z = golden('dcgan_g'), 'out/eval/y', 'in/z'
        assert (config.model.base_channels, config.model.d_base_channels) == (16, 4)
    image = turned(np.asarray(model.synthesise(jnp.asarray(arrays[z]))))
    assert_close(system, image, nhwc(arrays[want]), meta['tolerance'])


@pytest.mark.parametrize('system', ['pggan', 'dcgan'])
def test_the_discriminator_comes_along_and_sees_rgb(tmp_path, system):
    config = convert(release(tmp_path, system), tmp_path / 'out')
    networks = load_networks(tmp_path / 'out' / 'checkpoints')
    if system == 'pggan':
        arrays, meta = golden('pggan_d')
        x, want = turned(nhwc(arrays['in/s4/x'])), arrays['out/s4/score']
        scores, _ = pggan.Discriminator(config.model).apply({'params': networks['d']}, x, 0, 1.0)
        bias = [networks[name]['torgb_layers_2']['bias'] for name in ('g', 'ema')]
        np.testing.assert_allclose(bias[0], bias[1] / 2)
    else:
        arrays, meta = golden('dcgan_d')
        x, want = turned(nhwc(arrays['in/x'])), arrays['out/eval/y']
        module = dcgan.Discriminator(config.model)
        scores, _ = dcgan.run(module, networks['d'], networks['d_buffers'], x, train=False)
    assert_close(system, scores[:, None], want, meta['tolerance'])
    sampling = mmgen_early.load(reader.read(tmp_path / 'gan.pth'), sampling_only=True)
    assert sampling.state is None and sampling.config == config


def test_a_training_file_goes_on_in_the_growth_that_it_was_saved_in(tmp_path):
    def growing(state):
        state |= {'shown_nkimg': np.float32(900), '_curr_transition_weight': np.float32(0.5)}
        state |= {'_curr_scale_int': np.float32(8), '_next_scale_int': np.float32(16)}

    config = convert(release(tmp_path, 'pggan', growing), tmp_path / 'out')
    imported = mmgen_early.load(reader.read(tmp_path / 'gan.pth'))
    assert float(imported.sampling['buffers']['progress']) == 0.5 and int(imported.state.nimg) == 900_000
    assert pggan.build(config).stage_at(0, 900_000, 0).level == 1
    small = load(tmp_path / 'out').synthesise(jnp.zeros((1, config.model.z_dim)))
    np.testing.assert_allclose(small, np.kron(small[:, ::2, ::2], np.ones((1, 2, 2, 1))), atol=1e-6)


@pytest.mark.parametrize('name', ['pggan_128', pytest.param('pggan_1024', marks=pytest.mark.slow), 'dcgan_64'])
def test_every_official_name_has_a_place(name):
    """Names and shapes of the official classes at their full size; arrays are views of one number."""
    official, (system, side) = json.loads((FIXTURES / 'pggan_dcgan_shapes.json').read_text()), name.split('_')
    state = {
        f'{prefix}.{key}': np.broadcast_to(np.float32(0), shape)
        for prefix in ('generator', 'discriminator')
        for key, shape in official['tables'][official['configs'][name][prefix]].items()
    }
    config, _ = mmgen_early.infer({'state_dict': state})
    default = {'pggan': pggan, 'dcgan': dcgan}[system].Config
    stages = {'stage_kimg': (600.0,) + (1200.0,) * (int(side).bit_length() - 4)} if system == 'pggan' else {}
    assert config == Config(
        system,
        default(img_resolution=int(side), **stages),
        DataConfig(resolution=int(side)),
        config.optim,
        config.train,
    )
    shapes, _, _ = jax.eval_shape(mmgen_early.system_module(system).build(config).init, jax.random.key(0))
    for net, part in mmgen_early.parts({'state_dict': state}).items():
        side = {'generator': 'g', 'discriminator': 'd'}[net]
        found = mmgen_early.network(config, net, part)['params']
        assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(lambda x: x.shape, shapes[side])


@pytest.mark.parametrize(
    'system, change, match',
    [
        ('pggan', lambda s: s.pop('generator.noise2feat.bias'), 'generator: .*not filled: params/noise2feat/bias'),
        ('pggan', lambda s: s.update({'generator_ema.x': np.zeros(2, np.float32)}), 'left over: x'),
        ('pggan', lambda s: s.update({'other': np.zeros(2, np.float32)}), 'left over: other'),
        ('pggan', lambda s: s.pop('generator_ema.conv_blocks.1.conv.weight_orig'), 'conv_blocks.1.conv.weight_orig is'),
        ('dcgan', lambda s: s.pop('discriminator.output_layer.conv.bias'), 'not filled: params/output_layer/bias'),
        ('dcgan', lambda s: s.update({'generator.noise2feat.conv.weight': np.zeros((6, 9, 4, 4))}), 'base_channels=9'),
        ('dcgan', lambda s: s.update({'generator.output_layer.conv.bias': np.full(3, np.nan)}), 'not finite'),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, system, change, match):
    with pytest.raises(ForeignFileError, match=match):
        convert(release(tmp_path, system, change), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
