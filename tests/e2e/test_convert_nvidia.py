"""NVIDIA's network pickles, written here as their programs write them: convert, load, sample; and what is refused."""

import dataclasses
import functools
import json
import pathlib

import foreign
import jax
import numpy as np
import pytest
from compare import assert_close, nhwc

from pegan_jax import augment, convert, load
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.interop import nvidia
from pegan_jax.train.checkpoint import load_networks
from pegan_jax.weights import contents, reader
from pegan_jax.weights.contents import ForeignFileError

BUFFERS = {
    'w_avg', 'transform', 'freqs', 'phases', 'magnitude_ema', 'up_filter', 'down_filter', 'resample_filter',
    'noise_const', 'p', 'Hz_geom', 'coords',
}  # fmt: skip


@functools.cache
def golden(name):
    """(arrays, meta) of a fixture file."""
    folder = 'creps' if name.startswith('creps') else 'stylegan3'
    with np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / folder / f'{name}.npz') as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop('meta')))


def parameters(arrays, prefix=''):
    prefix = f'param/{prefix}'
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def network(writer, class_name, arrays, kwargs, **options):
    buffers = {k for k in arrays if k.split('.')[-1] in BUFFERS}
    return writer.module(class_name, arrays, kwargs, buffers=buffers, **options)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function: {'G_ema': (class_name, arrays, kwargs), ...} and a protocol -> path of the pickle."""

    def write(networks, protocol=4, **rest):
        writer = foreign.NvidiaPickles()
        value = {name: network(writer, *parts) for name, parts in networks.items()}
        value = {'G': None, 'D': None, 'augment_pipe': None, 'training_set_kwargs': writer.EasyDict()} | value | rest
        return writer.write(tmp_path / 'network.pkl', value, protocol, monkeypatch)

    return write


def generator(name):
    arrays, meta = golden(name)
    return ('Generator', parameters(arrays), meta['kwargs'])


@pytest.mark.parametrize(
    'name, protocol, system',
    [
        pytest.param('generator_r_64_full', 3, 'stylegan3', marks=pytest.mark.slow),
        ('sg2_generator_skip_cond', 4, 'stylegan2'),
        ('sg2_generator_orig', 3, 'stylegan2'),
        ('creps_g_32_cond', 4, 'creps'),
    ],
)
def test_a_network_pickle_gives_the_official_images(tmp_path, write, name, protocol, system):
    arrays, meta = golden(name)
    config = convert(write({'G_ema': generator(name)}, protocol), tmp_path / 'out')
    assert config.system == system and config.model.c_dim == meta['kwargs']['c_dim']
    assert config.model.img_resolution == meta['kwargs']['img_resolution']
    model = load(tmp_path / 'out')
    assert model.config == config
    w = jax.jit(model.sampler.map)(model.variables, arrays['in/z'], arrays.get('in/c'))
    got = model.synthesise(w)
    want = arrays['out/img_noise_const' if system == 'stylegan2' else 'out/img']
    assert_close(name, got, nhwc(want), meta['tolerance'])


def test_lines_at_other_positions_are_refused(write):
    class_name, arrays, kwargs = generator('creps_g_16')
    arrays = arrays | {'synthesis.b4.input.coords': arrays['synthesis.b4.input.coords'] * np.float32(0.5)}
    with pytest.raises(ForeignFileError, match='coords other than the trained ones'):
        nvidia.infer(reader.read(write({'G_ema': (class_name, arrays, kwargs)})))
    assert nvidia.infer(reader.read(write({'G_ema': generator('creps_g_16')})))[0].model.rank == 8


def training(name, **changes):
    """G, D and G_ema of a file with both; G_ema is G moved a little."""
    arrays, meta = golden(name)
    g, d = parameters(arrays, 'G.'), parameters(arrays, 'D.')
    ema = {k: v if k.split('.')[-1] in BUFFERS else np.float32(0.9) * v for k, v in g.items()}
    return {
        'G': ('Generator', g, meta['G_kwargs']),
        'D': ('Discriminator', d, meta['D_kwargs'] | changes),
        'G_ema': ('Generator', ema, meta['G_kwargs']),
    }


@pytest.mark.parametrize('name', ['loss_sg2', 'loss_sg3'])
def test_a_training_pickle_keeps_all_three_networks(tmp_path, write, name):
    networks = training(name)
    config = convert(write(networks), tmp_path / 'out')
    found = load_networks(tmp_path / 'out' / 'checkpoints')
    g, ema, d = (networks[k][1] for k in ('G', 'G_ema', 'D'))
    affine = 'synthesis.L0_36_6.affine.weight' if config.system == 'stylegan3' else 'synthesis.b4.conv1.affine.weight'
    layer = affine.split('.')[1:-1]

    def kernel(tree):
        return functools.reduce(lambda node, part: node[part], ['synthesis', *layer, 'kernel'], tree).T

    np.testing.assert_array_equal(kernel(found['g']), g[affine])
    np.testing.assert_array_equal(kernel(found['ema']), ema[affine])
    np.testing.assert_array_equal(found['d']['b16']['conv1']['kernel'].transpose(3, 2, 0, 1), d['b16.conv1.weight'])
    np.testing.assert_array_equal(found['g_buffers']['mapping']['w_avg'], g['mapping.w_avg'])
    # A discriminator's dense layer sees the image in another order.
    x = np.random.default_rng(0).normal(size=(1, 6, 4, 4)).astype(np.float32)
    want = x.reshape(1, -1) @ d['b4.fc.weight'].T
    np.testing.assert_allclose(nhwc(x).reshape(1, -1) @ found['d']['b4']['fc']['kernel'], want, rtol=1e-5, atol=1e-5)


def test_the_augmentation_goes_on_with_its_probability(tmp_path, write):
    pipe = dict.fromkeys(augment.Pipe._fields[:12], 1)
    tensors = {'p': np.array(0.375, np.float32), 'Hz_geom': augment.warp_filter()}
    networks = training('loss_sg3') | {'augment_pipe': ('AugmentPipe', tensors, pipe)}
    config = convert(write(networks), tmp_path / 'out')
    model = config.model
    assert (model.augment, model.augment_pipe, model.augment_p) == ('ada', 'bgc', 0.375)
    stats = nvidia.load(reader.read(write(networks))).state.stats
    assert stats['augment_p'] == 0.375 and stats['ada_batches'] == 0
    plain = convert(write(networks), tmp_path / 'sampling', sampling_only=True)
    assert plain.model.augment == 'noaug'
    for changes, message in (
        ({'hue': 0}, r'strengths .*which are those of none of blit, geom'),
        ({'xint_max': 0.25}, r'xint_max=0.25, which is not supported; \(0.125,\) is supported'),
        ({'colour': 1}, 'colour=1, which is not supported'),
    ):
        networks['augment_pipe'] = ('AugmentPipe', tensors, pipe | changes)
        with pytest.raises(ForeignFileError, match=message):
            nvidia.infer(reader.read(write(networks)))
    networks['augment_pipe'] = ('AugmentPipe', {'p': np.array(np.nan, np.float32)}, pipe)
    with pytest.raises(ForeignFileError, match=r'probability .*not a number of at least 0'):
        nvidia.infer(reader.read(write(networks)))


def test_sampling_only_leaves_the_discriminator_out(tmp_path, write):
    source = write(training('loss_sg3', cmap_dim=5))
    with pytest.raises(ForeignFileError, match=r'D was made with cmap_dim=5.*not supported'):
        convert(source, tmp_path / 'all')
    assert not (tmp_path / 'all').exists()
    convert(source, tmp_path / 'out', sampling_only=True)
    assert 'd' not in load_networks(tmp_path / 'out' / 'checkpoints')


def test_the_older_nesting_of_options_has_the_older_defaults(tmp_path, write):
    _, arrays, kwargs = generator('sg2_generator_skip_cond')
    inner = {k: kwargs[k] for k in ('channel_base', 'channel_max', 'architecture')}
    outer = {k: v for k, v in kwargs.items() if k not in inner}
    tree = reader.read(write({'G_ema': ('Generator', arrays, outer | {'synthesis_kwargs': inner})}, 3))
    model = nvidia.infer(tree)[0].model
    assert (model.w_avg_beta, model.conv_clamp, model.num_fp16_res) == (0.995, None, 0)
    assert (model.channel_base, model.channel_max, model.mapping_layers) == (128, 9, 3)
    newer = nvidia.infer(reader.read(write({'G_ema': ('Generator', arrays, kwargs)})))[0].model
    assert (newer.w_avg_beta, newer.conv_clamp, newer.num_fp16_res) == (0.998, 256, 4)


def test_inspect_shows_official_names_and_settings(write, capsys):
    assert main(['inspect', '--model', str(write(training('loss_sg3')))]) == 0
    out = capsys.readouterr().out
    assert 'G_ema.synthesis.L0_36_6.magnitude_ema' in out and 'D.b16.conv0.weight' in out
    assert 'channel_base = 48' in out and 'non-commercial' in out
    assert 'module_src' not in out and 'SystemExit' not in out


def _without(name):
    def change(networks):
        kind, arrays, kwargs = networks['G_ema']
        networks['G_ema'] = (kind, {k: v for k, v in arrays.items() if k != name}, kwargs)

    return change


def _argument(**changes):
    def change(networks):
        kind, arrays, kwargs = networks['G_ema']
        networks['G_ema'] = (kind, arrays, kwargs | changes)

    return change


@pytest.mark.parametrize(
    'change, match',
    [
        (_without('synthesis.L0_36_6.bias'), 'not filled: params/synthesis/L0_36_6/bias'),
        (_without('synthesis.input.freqs'), 'not filled: buffers/synthesis/input/freqs'),
        (_argument(channel_max=5), 'does not fit the model'),
        (_argument(unheard_of=1), 'unheard_of=1, which is not supported'),
        (_argument(img_channels=1), 'D has img_channels=3 and G_ema 1'),
        (_argument(mapping_kwargs={'layer_features': 7}), r'layer_features=7, which is not supported; \(None,\) is'),
        (_argument(img_resolution=32), 'img_resolution=16 and G_ema 32'),
        (_argument(mapping_kwargs=7), 'mapping_kwargs is 7, not a dictionary'),
        (lambda networks: networks.pop('G_ema'), 'has no G_ema'),
    ],
)
def test_networks_that_do_not_fit_are_refused(tmp_path, write, change, match):
    networks = training('loss_sg3')
    change(networks)
    with pytest.raises(ForeignFileError, match=match):
        convert(write(networks), tmp_path / 'out')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['network.pkl']


@pytest.mark.parametrize('protocol', [3, 4])
def test_a_pickle_that_asks_for_more_is_refused(tmp_path, write, protocol):
    class Hostile:
        def __reduce__(self):
            return print, ('run',)

    with pytest.raises(ForeignFileError, match=r'builtins.print, which is not allowed'):
        convert(write(training('loss_sg3'), protocol, extra=Hostile()), tmp_path / 'out')


def test_modules_that_are_not_well_formed_are_refused(write):
    for value, match in (
        ({'class_name': 'Generator'}, 'no parameters, buffers and modules'),
        ({'class_name': 7}, 'where a module is expected'),
    ):
        with pytest.raises(ForeignFileError, match=match):
            nvidia.networks({'G_ema': value})
    with pytest.raises(ForeignFileError, match='describes none of G, D and G_ema'):
        nvidia.networks({'G_ema': 3})


def _module(modules=None, **kwargs):
    state = {'_parameters': {}, '_buffers': {}, '_modules': modules or {}, '_init_kwargs': kwargs}
    return {'class_name': 'Generator', 'state': state}


def test_what_a_file_holds_many_times_over_is_bounded(monkeypatch):
    monkeypatch.setattr(contents, 'MAX_WORK', 100_000)
    twice, module, deep = [1], _module(), []
    for _ in range(25):
        twice, module = [twice, twice], _module({'a': module, 'b': module})
    deep.append(deep)
    for network, match in (
        (_module(z_dim=twice), 'takes more than 100,000 instructions'),
        (_module(z_dim=deep), 'arguments that are nested more than 32 deep'),
        (module, 'takes more than 100,000 instructions'),
    ):
        with pytest.raises(ForeignFileError, match=match):
            nvidia.infer({'G_ema': network})


def test_a_refusal_shows_the_values_and_what_changes_no_number_is_taken(write):
    tree = reader.read(write(training('loss_sg3', conv_clamp=None)))
    with pytest.raises(ForeignFileError, match='D has conv_clamp=None and G_ema 256'):
        nvidia.infer(tree)
    class_name, arrays, kwargs = generator('sg2_generator_skip_cond')
    given = {name: kwargs | more for name, more in (('a', {'fp16_channels_last': True}), ('b', {'activation': 0.5}))}
    nvidia.infer(reader.read(write({'G_ema': (class_name, arrays, given['a'])})))
    with pytest.raises(ForeignFileError, match=r'activation=0\.5, which is not supported'):
        nvidia.infer(reader.read(write({'G_ema': (class_name, arrays, given['b'])})))


@pytest.mark.parametrize(
    'arguments, part, match',
    [
        ({'filter_size': 20_000, 'use_radial_filters': True}, 'input', 'filter_size=20000; at most 64 is read'),
        (
            {'filter_size': 60, 'img_resolution': 16384},
            'input',
            r'makes filters of 2\.46e\+05 taps',
        ),
        ({'img_resolution': 16384}, 'input', 'filter_size=6, which makes filters'),
        ({'num_layers': 3000}, 'input', 'num_layers=3000; at most 50 is read'),
        ({'mapping_kwargs': {'num_layers': 3000}}, 'b4', 'mapping_layers=3000; at most 50 is read'),
        ({'img_resolution': 'x'}, 'b4', 'does not describe a generator'),
        ({'img_resolution': 2**2000}, 'b4', 'img_resolution=a int; at most 16,384 is read'),
        ({'img_resolution': 1e200}, 'b4', 'does not describe a generator'),
        ({'channel_base': 2**70}, 'b4', 'channel_base=a int; at most 16,777,216 is read'),
    ],
)
def test_settings_that_would_take_for_ever_are_refused_before_anything_is_built(arguments, part, match):
    sizes = {'z_dim': 8, 'c_dim': 0, 'w_dim': 8, 'img_resolution': 64, 'img_channels': 3}
    tree = {'G_ema': _module({'synthesis': _module({part: _module()})}, **sizes | arguments)}
    with pytest.raises(ForeignFileError, match=match):
        nvidia.infer(tree)


def test_published_settings_are_read():
    for path in sorted((pathlib.Path(__file__).parents[2] / 'configs').glob('*.py')):
        contents.check_settings(dataclasses.asdict(load_config(str(path)).model))
    contents.check_settings(dataclasses.asdict(load_config('stylegan3:r').model) | {'img_resolution': 1024})
