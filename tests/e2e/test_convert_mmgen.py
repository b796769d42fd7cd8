"""StyleGAN2 and MS-PIE as mmgen releases them, written here without torch: convert, sample, and what is refused."""

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
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.gan import images_of
from pegan_jax.interop import mmgen
from pegan_jax.models import mspie
from pegan_jax.train.checkpoint import Checkpoints, load_networks
from pegan_jax.train.state import create_state
from pegan_jax.weights.contents import ForeignFileError

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'positional_encoding_gans'
SHAPES = json.loads((FIXTURES / 'state_dict_shapes.json').read_text())


@functools.cache
def golden(name):
    with np.load(FIXTURES / f'{name}.npz') as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop('meta')))


def params(name, net):
    return {f'{net}.{k.removeprefix("param/")}': v for k, v in golden(name)[0].items() if k.startswith('param/')}


def checkpoint(folder, g, d=None, change=lambda state: None, **more):
    """A training checkpoint; the running mean of the generator is that of the fixture, the generator is moved."""
    state = params(g, 'generator_ema') | {k: v + 1 for k, v in params(g, 'generator').items()}
    if d:
        state |= params(d, 'discriminator')
    state['gen_auxiliary_losses.0.mean_path_length'] = np.float32([0.25])
    change(state)
    storages = foreign.Storages()
    value = {'meta': {'iter': 7}, 'state_dict': foreign.state_dict(state, storages)} | more
    foreign.write_zip(folder / 'model.pth', value, storages)
    return folder / 'model.pth'


def test_a_release_gives_the_official_images_in_rgb(tmp_path):
    arrays, meta = golden('stylegan2_g')
    path = checkpoint(tmp_path, 'stylegan2_g')
    config = convert(path, tmp_path / 'out')
    assert (config.model.upsampling, config.model.head, config.model.channels) == ('deconv', 'const', (8, 6, 4))
    model = load(tmp_path / 'out')
    noise = tuple(jnp.asarray(arrays[f'in/c0/noise_{i}'][:, 0]) for i in range(5))
    images = jax.jit(functools.partial(images_of, model.gan))(model.variables, arrays['in/c0/z'], noise=noise)
    assert_close('image', images[..., ::-1], nhwc(arrays['out/c0/img']), meta['tolerance'])


def test_a_training_file_becomes_a_state_to_go_on_from(tmp_path):
    arrays, meta = golden('ms_d_pool')
    path = checkpoint(tmp_path, 'ms_g_i_nopad_csg', 'ms_d_pool', optimizer={'generator': {'lr': 0.002}})
    config = convert(path, tmp_path / 'out')
    model = config.model
    assert load(tmp_path / 'out').imported['inferred']['left_out'] == 'optimizer'
    assert (model.head, model.padding, model.upsampling, model.d_pool) == ('csg', False, 'resize-conv', 2)
    assert (model.scales, config.data.size) == ((0, 2, 4), (32, 32))
    networks = load_networks(tmp_path / 'out' / 'checkpoints')
    ema, g = networks['ema']['synthesis'], networks['g']['synthesis']
    np.testing.assert_array_equal(g['conv1']['bias'], ema['conv1']['bias'] + 1)
    d = {'params': networks['d'], 'buffers': networks['d_buffers']}
    scores = jax.jit(mspie.discriminator(model).apply)(d, nhwc(arrays['in/i20/x'])[..., ::-1])
    assert_close('score', scores[:, None], arrays['out/i20/score'], meta['tolerance'])
    template = jax.eval_shape(functools.partial(create_state, mspie.build(config), 0))
    state, _ = Checkpoints(tmp_path / 'out' / 'checkpoints').restore(template)
    assert float(state.stats['pl_mean']) == 0.25 and int(state.step) == 0


def test_sinusoids_need_the_configuration_that_says_how_they_grow(tmp_path, capsys):
    path = checkpoint(tmp_path, 'ms_g_e_spe_interp')
    out = tmp_path / 'out'
    with pytest.raises(ForeignFileError, match='sinusoids of sizes that no published configuration has'):
        convert(path, out)
    with pytest.raises(ForeignFileError, match='is not of --config mspie:e: img_resolution is 16, not 256'):
        convert(path, out, config='mspie:e')
    with pytest.raises(ForeignFileError, match='is not of the system cips'):
        convert(path, out, config='cips:tiny')
    assert not out.exists()
    settings = tmp_path / 'settings.py'
    settings.write_text(
        'from pegan_jax.config import Config, DataConfig\nfrom pegan_jax.models import mspie\n'
        "def get_config(arg=''):\n"
        "    model = mspie.Config(img_resolution=16, z_dim=8, mapping_layers=3, channels=(8, 6, 4), head='spe',\n"
        "        d_pool=2, interpolate_head=True, upsampling='conv-resize', scales=(0, 2))\n"
        "    return Config('mspie', model, DataConfig(resolution=24))\n"
    )
    assert main(['convert', str(path), '--config', str(settings), '--out', str(out)]) == 0
    assert 'mspie, with these settings' in capsys.readouterr().out
    assert (
        main(['sample', '--model', str(out), '--seeds', '0', '--size', '20x16', '--out', str(tmp_path / 'a.png')]) == 0
    )
    arrays, meta = golden('ms_g_e_spe_interp')
    noise = tuple(jnp.asarray(arrays[f'in/s2/noise_{i}'][:, 0]) for i in range(5))
    model = load(out)
    images = jax.jit(functools.partial(images_of, model.gan))(model.variables, arrays['in/s2/z'], noise=noise)
    assert_close('image', images[..., ::-1], nhwc(arrays['out/s2/img']), meta['tolerance'])


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda state: state.pop('generator_ema.convs.1.activate.bias'), 'not filled: params/synthesis/convs_1/bias'),
        (
            lambda state: state.pop('generator.to_rgbs.0.upsample.kernel'),
            'generator: .*not filled: buffers/synthesis/rgb',
        ),
        (lambda state: state.pop('discriminator.final_conv.1.bias'), 'discriminator: .*not filled: params/conv/bias'),
        (lambda state: state.update({'generator.x': np.zeros(2, np.float32)}), 'left over: x'),
        (lambda state: state.update({'other.x': np.zeros(2, np.float32)}), 'left over: other.x'),
        (lambda state: state.pop('generator_ema.injected_noise_1'), 'injected_noise_1 is missing'),
        (lambda state: state.update({'generator_ema.conv1.activate.bias': np.zeros(3, np.float32)}), 'wrong shape'),
        (
            lambda state: state.update(
                {'discriminator.final_linear.0.linear.weight_orig': np.zeros((8, 24), np.float32)}
            ),
            '3 positions, no square',
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, match):
    path = checkpoint(tmp_path, 'stylegan2_g', 'stylegan2_d', change)
    with pytest.raises(ForeignFileError, match=match):
        convert(path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


NAMES = {'f-896': 'f-256-896', 'f-1024': 'c1-f-256-1024'}
SAME = {'f': 'e', 'f-896': 'e', 'k': 'j', 'f-1024': 'g'}  # rows whose generators have the same arrays
ALONE = {'a', 'b', 'c', 'd', 'g', 'h', 'i', 'f-1024'}  # rows that a file with both networks tells


@pytest.mark.parametrize('row', mmgen.PUBLISHED)
def test_every_published_model_has_the_names_and_shapes_of_its_files(row):
    published = SHAPES['configs'][NAMES.get(row, row)]
    state = {}
    for net, kind in (('generator_ema', 'generator'), ('discriminator', 'discriminator')):
        shapes = SHAPES['tables'][published[kind]]
        state |= {f'{net}.{k}': np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
    tree = {'meta': {}, 'state_dict': state}
    config, _ = mmgen.infer(tree, config=f'mspie:{row}')
    assert config == load_config(f'mspie:{row}')
    if row in ALONE:
        assert mmgen.infer(tree)[0] == config
    else:
        with pytest.raises(ForeignFileError, match=rf'--config mspie:{row} \(interpolate_head=(True|False)'):
            mmgen.infer(tree)
    if row not in SAME:
        imported = mmgen.load(tree, config=f'mspie:{row}')
        counts = [sum(x.size for x in jax.tree.leaves(imported.state.params[net])) for net in ('g', 'd')]
        assert counts == [published['generator_params'], published['discriminator_params']]
