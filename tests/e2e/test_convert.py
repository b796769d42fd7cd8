"""Official CIPS files, written here without torch: convert, load, sample, train; and every file that is refused."""

import dataclasses
import functools
import json
import pathlib

import foreign
import jax
import numpy as np
import pytest
from compare import assert_close, nhwc
from foreign import Storages, tensor
from PIL import Image

from pegan_jax import config as configs
from pegan_jax import convert, load
from pegan_jax.cli import main
from pegan_jax.gan import images_of
from pegan_jax.interop.cips import G_RULES, d_rules
from pegan_jax.models import cips
from pegan_jax.train import run
from pegan_jax.train.checkpoint import Checkpoints, load_networks
from pegan_jax.train.state import create_state
from pegan_jax.train.step import data_mesh, replicated_state
from pegan_jax.weights import rules
from pegan_jax.weights.contents import ForeignFileError


@pytest.fixture(scope='module')
def golden():
    """A function: file name -> (arrays, meta)."""

    @functools.cache
    def read(name):
        with np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / 'cips' / f'{name}.npz') as file:
            arrays = dict(file)
        return arrays, json.loads(str(arrays.pop('meta')))

    return read


def _params(arrays, prefix=''):
    prefix = f'param/{prefix}'
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _released(path, arrays, kind='zip', **changes):
    """A released file: a bare state dict. changes: {name: array, or None to leave it out}."""
    storages = Storages()
    named = {k: v for k, v in (_params(arrays) | changes).items() if v is not None}
    value = foreign.state_dict(named, storages, parameter=kind == 'legacy')
    if kind == 'zip':
        foreign.write_zip(path, value, storages)
    else:
        path.write_bytes(foreign.legacy(value, storages, {}))
    return path


def _training(path, nets, *, as_tensor=True, change=lambda value, storages: value):
    """A training file from {'g': {name: array}, ...}; returns the moments of both optimisers."""
    storages, rng, moments = Storages(), np.random.default_rng(0), {}
    value = {net: foreign.state_dict(arrays, storages) for net, arrays in nets.items()}
    for net, step, lr, beta2 in (('g', 7, 0.0016, 0.99**0.8), ('d', 9, 0.002 * 16 / 17, 0.99 ** (16 / 17))):
        params = {k: v for k, v in nets[net].items() if not k.endswith('kernel')}
        value[f'{net}_optim'], moments[net] = foreign.adam_state(
            params, storages, rng, step=step, lr=lr, betas=(0.0, beta2), as_tensor=as_tensor
        )
    foreign.write_zip(path, change(value, storages), storages)
    return moments


def _check_images(folder, arrays, meta):
    """The converted generator, called as a user would, against the numbers of the official program."""
    model = load(folder)
    names = [k.removeprefix('out/rgb0_') for k in arrays if k.startswith('out/rgb0_')]
    assert names
    grids = [nhwc(arrays[f'in/coords_{name}'])[0] for name in names]
    points = np.concatenate([g.reshape(-1, 2) for g in grids])
    images = np.split(
        np.asarray(jax.jit(functools.partial(images_of, model.gan))(model.variables, arrays['in/z'], grid=points)),
        np.cumsum([g.size // 2 for g in grids])[:-1],
        axis=1,
    )
    for name, image in zip(names, images, strict=True):
        want = nhwc(arrays[f'out/rgb0_{name}'])
        assert_close(name, image.reshape(want.shape), want, meta['tolerance'])
    return model


@pytest.mark.parametrize(
    'fixture, kind, activation',
    [
        ('gen_skip_r8', 'zip', None),
        ('gen_skip_r16', 'legacy', None),
        ('gen_skip_sin_r8', 'legacy', 'sin'),
        ('gen_skip_sinrelu_r8', 'zip', 'sinrelu'),
        ('gen_res_r8', 'zip', None),
        ('gen_res_sin_r8', 'legacy', 'sin'),
    ],
)
def test_a_released_generator_gives_the_official_images(tmp_path, golden, fixture, kind, activation):
    arrays, meta = golden(fixture)
    source = _released(tmp_path / 'x_g_ema.pt', arrays, kind)
    config = convert(source, tmp_path / 'out', activation=activation)
    kwargs = meta['kwargs']
    assert (config.model.size[0], config.model.hidden_size) == (kwargs['size'], kwargs['hidden_size'])
    assert (config.model.z_dim, config.model.mapping_layers) == (kwargs['style_dim'], kwargs['n_mlp'])
    assert config.model.activation == (activation or 'lrelu')
    assert config.model.wiring == ('residual' if 'res' in fixture else 'skip')
    model = _check_images(tmp_path / 'out', arrays, meta)
    assert model.config == config and model.step == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out', 'x_g_ema.pt']


@pytest.fixture(scope='module')
def trained(tmp_path_factory, golden):
    """A training file of 8 pixels with asymmetric FIR filters, converted; its arrays and moments."""
    folder = tmp_path_factory.mktemp('trained')
    g, d = golden('train_steps_skip_r8')[0], golden('disc_r8_b4')[0]
    nets = {'g': _params(g, 'g.'), 'd': _params(d)}
    # The running mean has other numbers than G, so that the two cannot be confused.
    rng = np.random.default_rng(1)
    nets['g_ema'] = {k: v + rng.normal(size=v.shape).astype(np.float32) for k, v in nets['g'].items()}
    moments = _training(folder / '000007.pt', nets)
    config = convert(folder / '000007.pt', folder / 'out')
    return folder, nets, moments, config


def _flat(tree):
    return {
        jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _assert_equal_trees(got, want):
    got, want = _flat(got), _flat(want)
    assert got.keys() == want.keys()
    for path in want:
        np.testing.assert_array_equal(got[path], want[path], err_msg=path)


def _images(folder, config):
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (*config.model.size, 3), np.uint8)).save(folder / f'{i}.png')
    return configs.DataConfig(folder=str(folder), resolution=config.model.img_resolution)


def test_a_training_file_gives_both_networks_and_their_optimisers(trained, golden):
    folder, nets, moments, config = trained
    assert config.optim == configs.OptimConfig()  # lr and betas, freed from the correction for lazy regularisation.
    assert config.model.d_channels == (
        nets['d']['convs.0.0.weight'].shape[0],
        nets['d']['final_conv.0.weight'].shape[0],
    )
    gan = cips.build(config)
    template = jax.eval_shape(functools.partial(create_state, gan, 0))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), template)
    checkpoints = Checkpoints(folder / 'out' / 'checkpoints')
    state, _ = checkpoints.restore(template)
    checkpoints.close()
    of_d = d_rules(8)
    for net, table in (('g', G_RULES), ('d', of_d)):
        target = template.params[net] if net == 'g' else {'params': template.params['d']}
        for i, moment in enumerate(('mu', 'nu')):
            want = rules.apply({k: v[i] for k, v in moments[net].items()}, table, target)
            _assert_equal_trees(getattr(state.opt[net][0], moment), want if net == 'g' else want['params'])
    assert (int(state.opt['g'][0].count), int(state.opt['d'][0].count)) == (7, 9)
    _assert_equal_trees(state.params['g'], rules.apply(nets['g'], G_RULES, template.params['g']))
    _assert_equal_trees(state.ema, rules.apply(nets['g_ema'], G_RULES, template.params['g']))
    assert int(state.step) == int(state.nimg) == 0

    arrays, _ = golden('disc_r8_b4')
    got = cips.score(config.model, state.params['d'], state.buffers['d'], nhwc(arrays['in/real']))
    tolerance = {'rtol': 1e-4, 'atol': 1e-5}
    assert_close('score_real', got, arrays['out/score_real'].reshape(got.shape), tolerance)


def test_old_files_count_steps_with_numbers(tmp_path, trained):
    _, nets, _, config = trained
    _training(tmp_path / 'old.pt', nets, as_tensor=False)
    assert convert(tmp_path / 'old.pt', tmp_path / 'out') == config


@pytest.mark.slow
def test_fine_tuning_starts_from_the_converted_networks_once(tmp_path, trained):
    folder, _, _, converted = trained
    (tmp_path / 'images').mkdir()
    train = configs.TrainConfig(
        batch_size=4, total_kimg=0, log_every=1, sample_every=0, checkpoint_every=0, keep_best=0,
        init_from=str(folder / 'out'),
    )  # fmt: skip
    config = dataclasses.replace(converted, data=_images(tmp_path / 'images', converted), train=train)
    networks = load_networks(folder / 'out' / 'checkpoints')

    state = run(config, tmp_path / 'start')
    _assert_equal_trees(state.params, {net: networks[net] for net in 'gd'})
    _assert_equal_trees(state.ema, networks['ema'])
    _assert_equal_trees(state.buffers['d'], networks['d_buffers'])
    assert np.abs(_flat(networks['g'])['emb'] - _flat(networks['ema'])['emb']).max() > 0.1

    one = dataclasses.replace(train, total_kimg=0.004)
    after = jax.device_get(run(dataclasses.replace(config, train=one), tmp_path / 'run'))
    assert int(after.step) == 1
    moved = np.abs(after.params['g']['emb'] - networks['g']['emb']).max()
    assert 0 < moved < 0.1
    again = run(config, tmp_path / 'run')  # Resumes, although it has nothing left to do; init_from has no effect.
    assert int(again.step) == 1
    _assert_equal_trees(again.params, after.params)

    # The converted folder itself is a run at step 0, optimisers included.
    state = run(dataclasses.replace(config, train=dataclasses.replace(train, init_from=None)), folder / 'out')
    assert int(state.opt['d'][0].count) == 9


@pytest.mark.slow
def test_without_a_discriminator_fine_tuning_gets_a_fresh_one(tmp_path, trained):
    folder = trained[0]
    small = convert(folder / '000007.pt', tmp_path / 'small', sampling_only=True)
    assert not (tmp_path / 'small' / 'checkpoints' / '0' / 'training').exists()
    (tmp_path / 'images').mkdir()
    train = configs.TrainConfig(
        batch_size=4, total_kimg=0, sample_every=0, keep_best=0, init_from=str(tmp_path / 'small')
    )
    config = dataclasses.replace(small, data=_images(tmp_path / 'images', small), train=train)
    state = run(config, tmp_path / 'run')
    ema = load_networks(folder / 'out' / 'checkpoints')['ema']
    _assert_equal_trees(state.ema, ema)
    _assert_equal_trees(state.params['g'], ema)
    _assert_equal_trees(state.params['d'], replicated_state(cips.build(config), train.seed, data_mesh()).params['d'])

    other = dataclasses.replace(config, model=dataclasses.replace(small.model, z_dim=6, channels=(6, 7)))
    with pytest.raises(
        configs.ConfigError, match=r'another model.*ema/conv1/affine/kernel is \(6, 8\) here and \(5, 8\) there'
    ):
        run(other, tmp_path / 'other')
    missing = dataclasses.replace(config, train=dataclasses.replace(train, init_from=str(tmp_path / 'no')))
    with pytest.raises(configs.ConfigError, match=r"no' has no checkpoints; give the --workdir of a run"):
        run(missing, tmp_path / 'missing')


def test_a_discriminator_of_patches_says_so(tmp_path, golden):
    g, d = _params(golden('gen_skip_r16')[0]), _params(golden('disc_r8_b4')[0])
    _training(tmp_path / 'a.pt', {'g': g, 'd': d, 'g_ema': g})
    assert convert(tmp_path / 'a.pt', tmp_path / 'out').model.patch_size == 8


# The command line -----------------------------------------------------------------------------------------------------


def test_the_commands_convert_inspect_and_sample(tmp_path, trained, capsys):
    folder, _, _, _ = trained
    source, out = folder / '000007.pt', tmp_path / 'out'
    assert main(['inspect', '--model', str(source)]) == 0
    shown = capsys.readouterr().out
    for words in ('g_ema.emb.input', 'd_optim.state.0.exp_avg', '1x4x8x8', 'img_resolution = 8', 'licence'):
        assert words in shown
    assert main(['convert', str(source), '--out', str(out)]) == 0
    shown = capsys.readouterr().out
    for words in (
        'hidden_size = 4',
        'mapping_layers = 2',
        'z_dim = 5',
        'channels = [6, 6]',
        'g_lr = 0.002',
        'licence',
        str(out),
    ):
        assert words in shown
    assert json.loads((out / 'config.json').read_text())['system'] == 'cips'
    assert main(['inspect', '--model', str(out)]) == 0
    assert main(['sample', '--model', str(out), '--seeds', '0-1', '--out', str(tmp_path / 's.png')]) == 0
    assert np.asarray(Image.open(tmp_path / 's.png')).shape == (8, 16, 3)

    assert main(['sample', '--model', str(source), '--out', str(tmp_path / 's.png')]) == 1
    assert (
        f'{source} is not a model that export wrote; if it is of another program, convert {source}'
        in capsys.readouterr().err
    )
    assert main(['convert', str(source), '--out', str(out)]) == 1
    assert f'error: {out} exists and is not an empty folder; choose another --out.' in capsys.readouterr().err


def test_inspect_says_why_a_foreign_file_cannot_be_converted(tmp_path, golden, capsys):
    source = _released(tmp_path / 'a.pt', golden('gen_skip_sin_r8')[0])
    assert main(['inspect', '--model', str(source)]) == 0
    assert 'cannot be converted as it is: has sines for activations' in capsys.readouterr().out
    assert main(['inspect', '--model', str(source), '--activation', 'sin']) == 0
    assert 'activation = sin' in capsys.readouterr().out
    assert main(['inspect', '--model', str(source), '--step', '7']) == 1
    assert f'--step 7 goes with the folder of a run; {source} is a file. Leave it out.' in capsys.readouterr().err


# Refusals: each says what it is, and leaves nothing behind ------------------------------------------------------------


def _refused(source, out, match, **options):
    with pytest.raises(ForeignFileError, match=match) as error:
        convert(source, out, **options)
    assert str(error.value).startswith(str(source))
    assert not out.exists() and [p.name for p in out.parent.iterdir()] == [source.name]


@pytest.mark.parametrize(
    'changes, match',
    [
        ({'extra': np.zeros(3, np.float32)}, r'left over: extra \(3,\)'),
        ({'linears.9.noise.weight': np.zeros(1, np.float32)}, 'left over: linears.9.noise.weight'),
        ({'linears.3.noise.weight': None}, r'not filled: linears_3/noise_strength'),
        ({'style.2.bias': None}, 'not filled: mapping/fc1/bias'),
        ({'style.2.bias': np.zeros(8, np.float32)}, r'style.2.bias for mapping/fc1/bias is \(8,\), expected \(7,\)'),
        ({'conv1.noise.weight': np.full(1, np.nan, np.float32)}, 'not finite: conv1.noise.weight'),
        ({'conv1.noise.weight': np.zeros(1, np.int64)}, 'wrong type: conv1.noise.weight'),
        ({'emb.input': None}, 'is not complete: emb.input is missing'),
        ({'emb.input': np.zeros((1, 6, 8), np.float32)}, r'emb.input has the shape \(1, 6, 8\); expected 4 axes'),
        ({'emb.input': np.zeros((1, 6, 2, 2), np.float32)}, 'does not describe a CIPS model: model.img_resolution=2'),
        ({'to_rgbs.1.conv.weight': np.zeros((1, 3, 9, 1, 1), np.float32)}, 'wrong shape: linears.2.conv.weight'),
        ({'conv1.conv.modulation.weight': None}, 'conv1.conv.modulation.weight is missing'),
    ],
)
def test_a_released_file_that_does_not_fit_is_refused(tmp_path, golden, changes, match):
    source = _released(tmp_path / 'a.pt', golden('gen_skip_r8')[0], **changes)
    _refused(source, tmp_path / 'out', match)


@pytest.mark.parametrize('activation, match', [(None, "activation='sin' or 'sinrelu'"), ('lrelu', 'has sines')])
def test_sines_that_do_not_tell_their_kind_have_to_be_named(tmp_path, golden, activation, match):
    source = _released(tmp_path / 'a.pt', golden('gen_skip_sin_r8')[0])
    _refused(source, tmp_path / 'out', match, activation=activation)


def test_leaky_relus_are_not_called_sines(tmp_path, golden):
    source = _released(tmp_path / 'a.pt', golden('gen_skip_r8')[0])
    _refused(source, tmp_path / 'out', 'has leaky ReLUs', activation='sin')


def _without(value, *path):
    node = value
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]
    return value


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda v, s: v | {'more': tensor(s, np.zeros(2, np.float32))}, 'left over: more'),
        (lambda v, s: _without(v, 'd'), "has 'g' without the other network"),
        (lambda v, s: _without(v, 'g_ema'), "has no 'g_ema'"),
        (lambda v, s: _without(v, 'g', 'conv1.noise.weight'), 'g: .*not filled: conv1/noise_strength'),
        (lambda v, s: _without(v, 'd', 'final_linear.1.bias'), 'd: .*not filled: params/b4/out/bias'),
        (lambda v, s: _without(v, 'd', 'convs.1.skip.0.kernel'), 'd: .*not filled: buffers/b8/skip/resample_filter'),
        (lambda v, s: _without(v, 'g_optim', 'state', 3), 'g_optim has no step, exp_avg and exp_avg_sq for conv1'),
        (lambda v, s: _without(v, 'g_optim', 'param_groups', 0, 'params'), 'g_optim is not an optimiser of the'),
        (
            lambda v, s: _without(v, 'd_optim', 'param_groups', 0, 'lr'),
            'd_optim has settings that are not those of Adam',
        ),
        (lambda v, s: _without(v, 'd_optim', 'param_groups'), 'd_optim does not have the one group'),
        (lambda v, s: v | {'d_optim': v['g_optim']}, 'd_optim is not an optimiser of the'),
    ],
)
def test_a_training_file_that_does_not_fit_is_refused(tmp_path, trained, change, match):
    _training(tmp_path / 'a.pt', trained[1], change=change)
    _refused(tmp_path / 'a.pt', tmp_path / 'out', match)


def test_steps_that_differ_between_parameters_are_refused(tmp_path, trained):
    def change(value, storages):
        value['g_optim']['state'][2]['step'] = 8
        return value

    _training(tmp_path / 'a.pt', trained[1], change=change)
    _refused(tmp_path / 'a.pt', tmp_path / 'out', 'g_optim has .* parameters that took different numbers of steps')


def test_a_discriminator_with_more_first_layers_is_refused_or_left_out(tmp_path, trained, golden):
    nets = dict(trained[1], d=_params(golden('disc_r16_b3_in5_first1')[0]))
    _training(tmp_path / 'a.pt', nets)
    _refused(tmp_path / 'a.pt', tmp_path / 'out', 'discriminator with 1 more first layers.*--sampling-only leaves')
    convert(tmp_path / 'a.pt', tmp_path / 'out', sampling_only=True)


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, golden, monkeypatch):
    source = _released(tmp_path / 'a.pt', golden('gen_skip_r8')[0])

    def full(*_):
        raise OSError('no space left')

    monkeypatch.setattr(Checkpoints, 'save_items', full)
    with pytest.raises(OSError, match='no space left'):
        convert(source, tmp_path / 'out')
    assert [p.name for p in tmp_path.iterdir()] == ['a.pt']


def test_other_files_are_told_what_they_seem_to_be(tmp_path):
    storages = Storages()
    array = tensor(storages, np.zeros(2, np.float32))
    for value, match in (
        ([1], r'holds no arrays.*\[1\]'),
        ({'state_dict': {}}, 'holds no arrays, so no networks; it holds state_dict'),
        ({'features.0.weight': array}, 'looks like a VGG or AlexNet classifier, which is not converted'),
        ({'state_dict': {'encoder.body.0.x': array}}, 'looks like an encoder into StyleGAN2'),
        ({'head.weight': array}, 'not of a program that is converted.*begin with head.weight'),
    ):
        foreign.write_zip(tmp_path / 'a.pt', value, storages)
        _refused(tmp_path / 'a.pt', tmp_path / 'out', match)
