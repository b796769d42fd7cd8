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
from pegan_jax.weights.reader import ForeignFileError


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
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, match):
    networks, noises = release(tmp_path, 'gen_csg', change)
    with pytest.raises(ForeignFileError, match=match):
        convert(networks, tmp_path / 'out', noises=noises)
    assert not (tmp_path / 'out').exists()
