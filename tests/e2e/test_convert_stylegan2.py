"""StyleGAN2 of the PyTorch port and of the first release: convert, and compute what the official networks compute."""

import json
import pathlib
import pickle
import sys
import types

import jax
import numpy as np
import pytest
from compare import assert_close, nhwc
from safetensors.numpy import save_file

from pegan_jax import convert, interop, load
from pegan_jax.cli import main
from pegan_jax.gan import per_layer
from pegan_jax.interop import stylegan2 as importer
from pegan_jax.models import stylegan_training
from pegan_jax.sampling.model import truncate
from pegan_jax.weights import contents, reader
from pegan_jax.weights.contents import ForeignFileError

FOLDER = pathlib.Path(__file__).parents[1] / 'checkpoints'
FILE = FOLDER / 'stylegan2_port_tiny.pt'


@pytest.fixture(scope='module')
def golden():
    with np.load(FOLDER / 'stylegan2_port_tiny_expected.npz') as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop('meta')))


@pytest.fixture(scope='module')
def tree():
    return reader.read(FILE)


def assert_images(folder, golden, mean=True):
    arrays, meta = golden
    model = load(folder)
    images = jax.jit(model.sampler.synthesise, static_argnames='noise')
    w = model.sampler.map(model.variables, arrays['in/z'], None)
    assert_close('w', w, arrays['out/w'], meta['tolerance'])
    ws = per_layer(model.sampler, w)
    for mode in ('const', 'none'):
        got = images(model.variables, ws, noise=mode)
        assert_close(mode, got, nhwc(arrays[f'out/img_noise_{mode}']), meta['tolerance'])
    if mean:
        got = images(model.variables, per_layer(model.sampler, truncate(w, model.w_avg, 0.6, None)), noise='const')
        assert_close('truncated', got, nhwc(arrays['out/img_trunc_0.6']), meta['tolerance'])
    return model


def assert_logits(config, imported, golden):
    arrays, meta = golden
    state = imported.state
    got = stylegan_training.score(config.model, state.params['d'], state.buffers['d'], nhwc(arrays['in/x']), None)
    assert_close('logits', got[:, None], arrays['out/logits'], meta['tolerance'])


def test_a_training_file_of_the_port(tmp_path, golden, tree, capsys):
    assert main(['convert', str(FILE), '--out', str(tmp_path / 'out')]) == 0
    assert 'stylegan2, with these settings' in capsys.readouterr().out
    model = assert_images(tmp_path / 'out', golden)
    assert model.imported['inferred']['left_out'] == 'g_optim, d_optim, args, ada_aug_p'
    imported = importer.load(tree)
    assert_logits(imported.config, imported, golden)
    assert model.config.model.channels == (9, 8, 6) and model.config.model.ema_rampup is None
    assert main(['inspect', '--model', str(FILE)]) == 0
    assert 'args (argparse.Namespace): size=16, latent=12' in capsys.readouterr().out


@pytest.mark.parametrize('form', ['bare', 'wrapped', 'parallel', 'safetensors', 'flat'])
def test_a_generator_as_people_save_it_again(tmp_path, golden, tree, form):
    bare = {**contents.arrays(tree['g_ema'])}
    path = tmp_path / 'model.pt'
    if form in ('safetensors', 'flat'):
        prefix = 'g_ema.' if form == 'flat' else ''
        path = tmp_path / 'model.safetensors'
        save_file({f'{prefix}{name}': np.ascontiguousarray(array) for name, array in bare.items()}, path)
    else:
        named = {f'module.{name}': array for name, array in bare.items()} if form == 'parallel' else bare
        path.write_bytes(pickle.dumps({'params_ema': named, 'iter': 3} if form == 'wrapped' else named, 5))
    convert(path, tmp_path / 'out')
    model = assert_images(tmp_path / 'out', golden, mean=False)
    # Without a mean of w in the file, that of many latents: near the mean of all.
    z = np.random.default_rng(1).standard_normal((2000, 12), np.float32)
    expected = np.mean(model.sampler.map(model.variables, z, None), 0)
    np.testing.assert_allclose(model.w_avg, expected, atol=0.1)
    assert np.any(np.asarray(model.w_avg) != 0)


@pytest.mark.parametrize('form', ['dictionaries', 'flat', 'flat in a wrapper'])
@pytest.mark.parametrize(
    'plain, mean',
    [
        ('model', 'ema'), ('generator', 'generator_ema'), ('model', 'model_ema'), ('state_dict', 'g_ema'),
        ('params', 'params_ema'), ('netG', 'netG_ema'), ('state_dict', 'ema'),
    ],
)  # fmt: skip
def test_the_running_mean_is_taken_where_the_other_generator_lies_beside_it(tmp_path, tree, plain, mean, form):
    ema = contents.arrays(tree['g_ema'])
    value = {plain: {name: array + 1 for name, array in ema.items()}, mean: ema}
    if form != 'dictionaries':
        value = contents.arrays(value)
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps({'state_dict': value} if 'wrapper' in form else value, 4))
    found, part = interop.read(path)
    assert part[-1:] == (mean,) or (form != 'dictionaries' and mean == 'g_ema')
    const = interop.importer_of(found).load(found, sampling_only=True).sampling['params']['synthesis']['b4']['const']
    np.testing.assert_array_equal(const, ema['input.input'][0].transpose(1, 2, 0))


def test_what_was_taken_out_of_a_file_is_told(tmp_path, tree, capsys):
    ema = contents.arrays(tree['g_ema'])
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps({'model': {}, 'ema': {'state_dict': ema}}, 4))
    convert(path, tmp_path / 'out')
    assert load(tmp_path / 'out').imported['inferred']['part'] == 'ema.state_dict'
    assert main(['inspect', '--model', str(path)]) == 0
    assert '  part = ema.state_dict\n' in capsys.readouterr().out


def test_widths_of_the_published_table_are_told_by_its_base():
    shape = {'channels': (512, 512, 512, 512, 256), 'd_channels': (512, 512, 512, 256, 128)}
    model = importer.stylegan2.Config(img_resolution=64, **shape)
    for prefix in ('', 'd_'):
        model = importer._published_widths(model, prefix)
    assert (model.channel_base, model.channels) == (256 * 64, None)
    assert (model.d_channel_base, model.d_channels) == (128 * 64, None)
    other = importer.stylegan2.Config(img_resolution=16, channels=(9, 8, 6))
    assert importer._published_widths(other, '') is other


# The first release: what its file holds is written from the port's arrays, by the public description of both layouts.


class Network:
    """Pickled as dnnlib.tflib.network.Network is: an object and its state."""


Network.__module__, Network.__qualname__ = 'dnnlib.tflib.network', 'Network'


def network(name, variables, components=None):
    out = Network()
    state = {'version': 4, 'name': name, 'static_kwargs': {'resolution': 16}, 'build_module_src': 'raise SystemExit'}
    state |= {'build_func_name': 'G', 'variables': list(variables.items()), 'components': components or {}}
    out.__dict__.update(state)
    return out


def hwio(array):
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0))


def tf_generator(state, mean):
    mapping = {}
    for i in range(1, 4):
        mapping[f'Dense{i - 1}/weight'] = state[f'style.{i}.weight'].T
        mapping[f'Dense{i - 1}/bias'] = state[f'style.{i}.bias']
    synthesis = {'lod': np.float32(0), '4x4/Const/const': state['input.input']}
    places = {'conv1': '4x4/Conv', 'to_rgb1': '4x4/ToRGB'}
    for i, side in enumerate((8, 16)):
        places |= {f'convs.{2 * i}': f'{side}x{side}/Conv0_up', f'convs.{2 * i + 1}': f'{side}x{side}/Conv1'}
        places[f'to_rgbs.{i}'] = f'{side}x{side}/ToRGB'
    for theirs, place in places.items():
        kernel = hwio(state[f'{theirs}.conv.weight'][0])
        synthesis[f'{place}/weight'] = kernel[::-1, ::-1] if place.endswith('_up') else kernel
        synthesis[f'{place}/mod_weight'] = state[f'{theirs}.conv.modulation.weight'].T
        synthesis[f'{place}/mod_bias'] = state[f'{theirs}.conv.modulation.bias'] - 1
        if 'RGB' in place:
            synthesis[f'{place}/bias'] = state[f'{theirs}.bias'].reshape(-1)
        else:
            synthesis[f'{place}/bias'] = state[f'{theirs}.activate.bias']
            synthesis[f'{place}/noise_strength'] = state[f'{theirs}.noise.weight'].reshape(())
    synthesis |= {f'noise{i}': state[f'noises.noise_{i}'] for i in range(5)}
    parts = {'mapping': network('G_mapping', mapping), 'synthesis': network('G_synthesis', synthesis)}
    return network('G', {'lod': np.float32(0), 'dlatent_avg': mean}, parts)


def tf_discriminator(state):
    out = {'lod': np.float32(0)}
    places = {'convs.0.0': ('16x16/FromRGB', 'convs.0.1')}
    for i, side in ((1, 16), (2, 8)):
        places[f'convs.{i}.conv1.0'] = (f'{side}x{side}/Conv0', f'convs.{i}.conv1.1')
        places[f'convs.{i}.conv2.1'] = (f'{side}x{side}/Conv1_down', f'convs.{i}.conv2.2')
        places[f'convs.{i}.skip.1'] = (f'{side}x{side}/Skip', None)
    places['final_conv.0'] = ('4x4/Conv', 'final_conv.1')
    for theirs, (place, bias) in places.items():
        out[f'{place}/weight'] = hwio(state[f'{theirs}.weight'])
        if bias:
            out[f'{place}/bias'] = state[f'{bias}.bias']
    for theirs, place in (('final_linear.0', '4x4/Dense0'), ('final_linear.1', 'Output')):
        out[f'{place}/weight'] = state[f'{theirs}.weight'].T
        out[f'{place}/bias'] = state[f'{theirs}.bias']
    return network('D', out)


@pytest.fixture
def first_networks(tree):
    ema, g, d = (contents.arrays(tree[net]) for net in ('g_ema', 'g', 'd'))
    return tf_generator(g, tree['latent_avg']), tf_discriminator(d), tf_generator(ema, tree['latent_avg'])


@pytest.fixture
def write_first(tmp_path, monkeypatch):
    return lambda value: _write_first(tmp_path, value, monkeypatch)


@pytest.fixture
def first_release(write_first, first_networks):
    return write_first(first_networks)


def _write_first(tmp_path, value, monkeypatch):
    module = types.ModuleType('dnnlib.tflib.network')
    module.Network = Network
    with monkeypatch.context() as patch:
        for name in ('dnnlib', 'dnnlib.tflib'):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, 'dnnlib.tflib.network', module)
        (tmp_path / 'network.pkl').write_bytes(pickle.dumps(value, 4))
    return tmp_path / 'network.pkl'


def test_a_pickle_of_the_first_release(tmp_path, golden, first_release):
    config = convert(first_release, tmp_path / 'out')
    assert_images(tmp_path / 'out', golden)
    assert_logits(config, importer.load(reader.read(first_release)), golden)


@pytest.mark.parametrize(
    'arguments, want',
    [
        ({'conv_clamp': 256, 'dlatent_avg_beta': 0.998, 'fmap_base': 99}, {'conv_clamp': 256, 'w_avg_beta': 0.998}),
        ({'resample_kernel': [1, 3, 3, 1], 'nonlinearity': 'lrelu', 'mapping_lrmul': 0.01}, {'conv_clamp': None}),
        ({'normalize_latents': np.bool_(True), 'randomize_noise': False}, {'mbstd_group_size': 4}),
        ({'resample_kernel': [1, 1]}, r'Gs was made with resample_kernel=\[1, 1\], which is not .*\(\[1, 3, 3'),
        ({'nonlinearity': 'relu'}, 'Gs was made with nonlinearity=relu'),
        ({'mapping_lrmul': 1.0}, r'mapping_lrmul=1.0, which is not supported; \(0.01,\) is supported'),
        ({'mapping_nonlinearity': 'tanh'}, 'mapping_nonlinearity=tanh'),
        ({'normalize_latents': False}, 'normalize_latents=False'),
        ({'resample_kernel': np.array([1, 1])}, r'resample_kernel=\[1, 1\]'),
    ],
)
def test_what_networks_of_the_first_release_were_made_with(write_first, first_networks, arguments, want):
    for network in first_networks:
        network.static_kwargs = {'resolution': 16, **arguments}
    tree = reader.read(write_first(first_networks))
    if isinstance(want, dict):
        model = importer.infer(tree)[0].model
        assert {name: getattr(model, name) for name in want} == want
    else:
        with pytest.raises(ForeignFileError, match=want):
            importer.infer(tree)


def test_arguments_of_the_first_release_that_are_in_no_table_are_told(write_first, first_networks):
    for network in first_networks:
        network.static_kwargs = {'resolution': 16, 'wings': 2, 'feathers': 3}
    assert importer.infer(reader.read(write_first(first_networks)))[1]['unknown_arguments'] == 'feathers, wings'


def test_networks_of_the_first_release_are_looked_at_one_by_one(write_first, first_networks):
    _, d, mean = first_networks
    d.static_kwargs = {'mbstd_group_size': 8, 'mbstd_num_features': 1}
    assert importer.infer(reader.read(write_first(first_networks)))[0].model.mbstd_group_size == 8
    d.static_kwargs = {'conv_clamp': 256}
    tree = reader.read(write_first(first_networks))
    with pytest.raises(ForeignFileError, match=r'D has conv_clamp=256, another .* None; .*--sampling-'):
        importer.infer(tree)
    assert importer.infer(tree, sampling_only=True)[0].model.conv_clamp is None
    mean.components['synthesis'].static_kwargs = {'nonlinearity': 'relu'}
    with pytest.raises(ForeignFileError, match=r'Gs\.synthesis was made with nonlinearity=relu'):
        importer.infer(reader.read(write_first(first_networks)))


def test_a_network_that_is_a_part_of_itself_is_refused(write_first, first_networks):
    mean = first_networks[2]
    mean.components['mapping'] = mean
    with pytest.raises(ForeignFileError, match='networks are nested more than 32 deep'):
        importer.infer(reader.read(write_first(first_networks)))


def test_what_is_left_over_or_missing_is_named(tmp_path, tree):
    for change, match in (
        (lambda t: t | {'extra': np.zeros(3)}, 'left over: extra'),
        (lambda t: t | {'g_ema': t['g_ema'] | {'more.weight': np.zeros(3)}}, r'g_ema: .*left over: more.weight'),
        (lambda t: t | {'d': {}}, 'd has none of the layers'),
        (lambda t: {'g_ema': {k: v for k, v in t['g_ema'].items() if 'convs.1.' not in k}}, 'b8/conv1'),
    ):
        path = tmp_path / 'a.pkl'
        path.write_bytes(
            pickle.dumps(change({'g_ema': contents.arrays(tree['g_ema']), 'd': contents.arrays(tree['d'])}), 4)
        )
        with pytest.raises(ForeignFileError, match=match):
            convert(path, tmp_path / 'out')
        assert not (tmp_path / 'out').exists()
