"""SinGANs as mmgen releases them, written here without torch: convert, sample, edit; and what is refused."""

import functools
import json
import pathlib
import pickle

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, nhwc

from pegan_jax import convert, editing, load
from pegan_jax.cli import main
from pegan_jax.models import singan
from pegan_jax.weights.contents import ForeignFileError


@functools.cache
def golden(name):
    with np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / 'singan' / f'{name}.npz') as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop('meta')))


def release(folder, name, change=lambda state, noises: None):
    """The two files of a release: networks of a fixture, and critics that nothing is compared with."""
    arrays, meta = golden(name)
    state = {f'generator.{k.removeprefix("param/")}': v for k, v in arrays.items() if k.startswith('param/')}
    for k, v in list(state.items()):
        if '.num_batches' not in k:
            changed = v[:1] if '.tail.' in k else v
            state[k.replace('generator', 'discriminator', 1)] = changed
    first = state['discriminator.blocks.0.head.conv.weight']
    state['discriminator.blocks.0.head.conv.weight'] = np.resize(first, (len(first), 3, *first.shape[2:]))
    count = meta['call']['curr_scale'] + 1
    fixed = [arrays[f'in/train/fixed_noise_{s}'] for s in range(count)]
    fixed = [fixed[0], *(np.zeros_like(f) for f in fixed[1:])]
    noises = {'noise_weights': [float(a) for a in arrays['in/noise_weights']], 'fixed_noises': fixed, 'curr_stage': 2}
    change(state, noises)
    storages = foreign.Storages()
    value = {'meta': {}, 'state_dict': foreign.state_dict(state, storages)}
    foreign.write_zip(folder / 'singan.pth', value, storages)
    (folder / 'singan.pkl').write_bytes(pickle.dumps(noises, 4))
    return folder / 'singan.pth', folder / 'singan.pkl'


@pytest.mark.parametrize(
    'name, padding, encoding',
    [
        ('gen_csg', 'zero-layer', 'csg'),
        ('gen_interp_pad', 'interp', 'none'),
        ('gen_spe_dim4_noise1ch', 'zero-layer', 'spe'),
    ],
)
def test_a_release_gives_the_official_images_in_rgb(tmp_path, name, padding, encoding):
    networks, noises = release(tmp_path, name)
    config = convert(networks, tmp_path / 'out', noises=noises)
    assert (config.model.padding, config.model.encoding, config.model.rules) == (padding, encoding, 'mmgen')
    model = load(tmp_path / 'out')
    arrays, meta = golden(name)
    buffers = model.variables['buffers']
    assert [list(s) for s in singan.sizes_of(buffers)] == meta['sizes_train']
    z = [jnp.asarray(nhwc(arrays[f'in/train/rand_noise_{s}'])) for s in range(3)]
    # In the file, blocks see BGR, also in the noise of every colour.
    z = [noise[..., ::-1] if noise.shape[-1] == 3 else noise for noise in z]
    start = jnp.asarray(nhwc(arrays['in/train/rand_input_sample']))[..., ::-1]
    images, _ = jax.jit(functools.partial(singan.generate, config.model, ratio=0.5))(
        model.variables['params'], buffers, z, start
    )
    assert_close(name, images[-1][..., ::-1], nhwc(arrays['out/train/rand']), meta['tolerance'])
    # The learned image is not in the files; its place is taken by the reconstruction.
    np.testing.assert_allclose(editing.real_image(model), np.clip(editing.reconstruct(model), -1, 1), atol=1e-4)


def test_the_command_line_names_both_files(tmp_path, capsys):
    networks, noises = release(tmp_path, 'gen_csg')
    assert main(['convert', str(networks), '--out', str(tmp_path / 'out')]) == 1
    assert 'name it with --noises' in capsys.readouterr().err
    assert main(['convert', str(networks), '--noises', str(noises), '--out', str(tmp_path / 'out')]) == 0
    assert 'singan, with these settings' in capsys.readouterr().out
    assert main(['inspect', '--model', str(networks)]) == 0
    assert 'discriminator.blocks.2.tail.conv.bias' in capsys.readouterr().out
    assert main(['convert', str(networks), '--activation', 'sin', '--out', str(tmp_path / 'other')]) == 1
    assert '--activation does not apply' in capsys.readouterr().err


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda state, _: state.pop('generator.blocks.1.tail.conv.bias'), 'not filled: params/block1/tail/conv/bias'),
        (lambda state, _: state.pop('discriminator.blocks.2.head.conv.weight'), 'discriminator.blocks: .*not filled'),
        (lambda state, _: state.update({'x.y': np.zeros(2, np.float32)}), 'left over: x.y'),
        (lambda _, noises: noises['fixed_noises'].pop(), 'a list of 3 arrays'),
        (lambda _, noises: noises['noise_weights'].pop(), 'the noises do not fit'),
        (lambda _, noises: noises.pop('noise_weights'), "not a dictionary with 'noise_weights'"),
        (lambda _, noises: noises.update(noise_weights=['x']), r'is damaged, or .* \(ValueError: could not convert'),
        (lambda _, noises: noises.update(curr_stage='x'), r'is damaged, or .* \(ValueError: invalid literal'),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, match):
    networks, noises = release(tmp_path, 'gen_csg', change)
    with pytest.raises(ForeignFileError, match=match):
        convert(networks, tmp_path / 'out', noises=noises)
    assert not (tmp_path / 'out').exists()


def original(folder, change=lambda files: None):
    """The four files of the original program, whose generators are whole modules, from a fixture."""
    arrays, meta = golden('orig_random_samples')
    count = len(meta['call']['sizes'])
    pad = [(0, 0), (0, 0), (5, 5), (5, 5)]
    files = {
        'Gs': [
            module({k.removeprefix(f'param/Gs.{s}.'): v for k, v in arrays.items() if f'/Gs.{s}.' in k})
            for s in range(count)
        ],
        'Zs': [np.pad(np.zeros_like(arrays[f'in/real_{s}']), pad) for s in range(count)],
        'NoiseAmp': [float(a) for a in arrays['in/noise_amp']],
        'reals': [arrays[f'in/real_{s}'] for s in range(count)],
    }
    files['Zs'][0] = arrays['in/z_rec_0_padded']
    change(files)
    for name, value in files.items():
        storages = foreign.Storages()
        foreign.write_zip(folder / f'{name}.pth', written(value, storages), storages)
    return arrays, meta


def module(arrays):
    """{'_parameters', '_buffers', '_modules'} of {'head.conv.weight': array}."""
    here, inside = foreign.split(arrays)
    buffers = {k: v for k, v in here.items() if k.startswith(('running', 'num'))}
    return {
        '_parameters': {k: v for k, v in here.items() if k not in buffers},
        '_buffers': buffers,
        '_modules': {k: module(v) for k, v in inside.items()},
        'training': False,
    }


def written(value, storages):
    if isinstance(value, np.ndarray):
        return foreign.tensor(storages, value)
    if isinstance(value, list):
        return [written(item, storages) for item in value]
    if isinstance(value, dict):
        value = {k: written(v, storages) for k, v in value.items()}
        is_module = '_modules' in value
        made = (foreign.Name('theirs.models.Generator'), foreign.Name('builtins.object'), None)
        return foreign.Call('copyreg._reconstructor', made, value) if is_module else value
    return value


@pytest.mark.parametrize('name', ['', 'Gs.pth'])
def test_the_four_files_of_the_original_program(tmp_path, name):
    (tmp_path / 'TrainedModels').mkdir()
    arrays, meta = original(tmp_path / 'TrainedModels')
    config = convert(tmp_path / 'TrainedModels' / name, tmp_path / 'out')
    assert (config.model.rules, config.model.padding, config.model.base_channels) == ('original', 'zero', 8)
    model = load(tmp_path / 'out')
    np.testing.assert_array_equal(editing.real_image(model), arrays['in/real_2'][0].transpose(1, 2, 0))
    # The file's sampling starts at scale 1, from the noise of the reconstruction.
    z = [model.variables['buffers']['noise'][None], *(jnp.asarray(nhwc(arrays[f'in/z_{s}'])) for s in (1, 2))]
    images, _ = jax.jit(functools.partial(singan.generate, config.model, ratio=meta['call']['scale_factor']))(
        model.variables['params'], model.variables['buffers'], z
    )
    tolerance = meta['tolerance']
    for s, image in enumerate(images):
        off = np.abs(image - nhwc(arrays[f'out/I_{s}']))
        assert np.mean(off <= tolerance['atol']) >= tolerance['fraction_within'] and off.max() <= tolerance['hard_atol']
    assert main(['inspect', '--model', str(tmp_path / 'TrainedModels')]) == 0


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda files: files.pop('Zs'), 'has a Gs.pth but not Zs.pth; the four files'),
        (lambda files: files['NoiseAmp'].__setitem__(0, [1.0, 2.0]), 'is damaged, or not what its names say'),
        (lambda files: files['NoiseAmp'].pop(), '3 generators, 3 noises and 2 amplitudes'),
        (lambda files: files['Gs'][1]['_modules'].pop('tail'), 'block1/tail/conv/kernel'),
        (lambda files: files['Zs'].__setitem__(0, files['Zs'][0][:, :, 1:]), 'does not fit the image of 12x15'),
    ],
)
def test_original_files_that_do_not_fit_are_refused(tmp_path, change, match):
    original(tmp_path, change)
    with pytest.raises(ForeignFileError, match=match):
        convert(tmp_path, tmp_path / 'out')
