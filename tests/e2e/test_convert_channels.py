"""Checkpoints of grey and RGBA images: as those of RGB, cut or widened, whose channels are inferred."""

import pathlib
import re

import jax
import numpy as np
import pytest
from compare import load, select

from pegan_jax import interop
from pegan_jax.interop import mmgen
from pegan_jax.weights.contents import ForeignFileError

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'


def arrays_of(name, prefix='param/', to=''):
    return {f'{to}{k}': v for k, v in select(load(FIXTURES / f'{name}.npz')[0], prefix).items()}


def of_module(class_name, arrays, kwargs, buffers=()):
    """What the reader gives of a module of NVIDIA's with named tensors."""
    state = {'_parameters': {}, '_buffers': {}, '_modules': {}, '_init_kwargs': kwargs}
    parts = {}
    for name, array in arrays.items():
        part, _, rest = name.partition('.')
        if rest:
            parts.setdefault(part, {})[rest] = array
        else:
            state['_buffers' if part in buffers else '_parameters'][part] = array
    state['_modules'] = {part: of_module(part, inside, {}, buffers) for part, inside in parts.items()}
    return {'class_name': class_name, 'state': state}


BUFFERS = ('w_avg', 'transform', 'freqs', 'phases', 'magnitude_ema', 'up_filter', 'down_filter', 'resample_filter')
BUFFERS += ('noise_const',)


def nvidia(change, channels, name):
    """Networks of a file with both."""
    meta = load(FIXTURES / 'stylegan3' / f'{name}.npz')[1]
    nets = {}
    for net, kind in (('G_ema', 'Generator'), ('D', 'Discriminator')):
        arrays = change(arrays_of(f'stylegan3/{name}', f'param/{net[0]}.'))
        arrays = {re.sub(r'(L4_16)_3\.', rf'\1_{channels}.', k): v for k, v in arrays.items()}
        kwargs = meta[f'{net[0]}_kwargs'] | {'img_channels': channels}
        nets[net] = of_module(kind, arrays, kwargs, BUFFERS)
    return nets


def mspie(change, channels):
    return {'state_dict': change(
        arrays_of('positional_encoding_gans/ms_g_i_nopad_csg', to='generator_ema.')
        | arrays_of('positional_encoding_gans/ms_d_pool', to='discriminator.')
    )}  # fmt: skip


def early(change, channels, g, d):
    folder = 'positional_encoding_gans'
    return {'state_dict': change(
        arrays_of(f'{folder}/{g}', to='generator.') | arrays_of(f'{folder}/{d}', to='discriminator.')
    )}  # fmt: skip


def cips(change, channels, fixture):
    return change(arrays_of(f'cips/{fixture}'))


def cips_training(change, channels):
    g = change(arrays_of('cips/train_steps_skip_r8', 'param/g.'))
    return {'g': g, 'g_ema': g, 'd': change(arrays_of('cips/disc_r8_b4'))}


def deepfill(change, channels):
    return {net: change(arrays_of('deepfill/train_grads_port_tf', f'param/{net}/')) for net in 'GD'}


def singan(change, channels):
    return {'state_dict': change(arrays_of('singan/loss_step_zero_pad'))}


def options_of(system, channels):
    if system == 'deepfill':
        return {'colours': 'bgr'}
    if system != 'singan':
        return {}
    first, second = (np.zeros((1, n, *size), np.float32) for n, size in ((1, (12, 15)), (channels, (16, 20))))
    return {'noises': {'noise_weights': [1.0, 0.5], 'fixed_noises': [first, second], 'curr_stage': 1}}


# What the file is made of, and the axis of the colours in the arrays that have one.
SYSTEMS = {
    'stylegan3': (
        lambda *args: nvidia(*args, 'loss_sg3'),
        {r'synthesis\.L4_16_3\.(weight|bias)': 0, r'b\d+\.fromrgb\.weight': 1},
    ),
    'stylegan2': (
        lambda *args: nvidia(*args, 'loss_sg2'),
        {r'synthesis\.b\d+\.torgb\.(weight|bias)': 0, r'b\d+\.fromrgb\.weight': 1},
    ),
    'mspie': (
        mspie,
        {r'.*to_rgbs?\.?\d+\.(conv\.weight_orig|bias)': 1, r'discriminator\.convs\.0\.0\.conv\.weight_orig': 1},
    ),
    'pggan': (
        lambda *args: early(*args, 'pggan_g_fused', 'pggan_d'),
        {r'.*\.torgb_layers\.\d+\.conv\.(weight_orig|bias)': 0, r'.*fromrgb_layers\.\d+\.conv\.weight_orig': 1},
    ),
    'dcgan': (
        lambda *args: early(*args, 'dcgan_g', 'dcgan_d'),
        {
            r'generator\.output_layer\.conv\.weight': 1,
            r'generator\.output_layer\.conv\.bias': 0,
            r'discriminator\.downsamples\.0\.conv\.weight': 1,
        },
    ),
    'cips': (cips_training, {r'to_rgbs\.\d+\.(conv\.weight|bias)': 1, r'convs\.0\.0\.weight': 1}),
    'cips residual': (lambda *args: cips(*args, 'gen_res_r8'), {r'to_rgb_last\.(conv\.weight|bias)': 1}),
    'singan': (
        singan,
        {r'.*\.head\.conv\.weight': 1, r'generator\..*\.tail\.conv\.(weight|bias)': 0},
    ),
    'deepfill': (
        deepfill,
        {r'(all)?conv17\.conv\.(weight|bias)': 0, r'(x|pm)?conv1\.conv\.weight|conv1\.conv_sn\.weight': 1},
    ),
}


def resized(array, axis, channels):
    """The green of the colours at the beginning of an axis, or these and 7 in a fourth one."""
    colours, rest = np.split(array, [3], axis)
    green = np.take(array, [1], axis)
    image = green if channels == 1 else np.concatenate([colours, np.full_like(green, 7)], axis)
    return np.concatenate([image, rest], axis)


def changed(axes, channels):
    """A function of the arrays of a file: for images of other channels."""

    def change(arrays):
        out = {}
        for name, array in arrays.items():
            axis = next((axis for pattern, axis in axes.items() if re.fullmatch(pattern, name)), None)
            out[name] = array if axis is None or channels == 3 else resized(array, axis, channels)
        return out

    return change


def converted(system, channels):
    """(what is imported, leaves of the networks) of a file of images of so many channels."""
    make, axes = SYSTEMS[system]
    tree = make(changed(axes, channels), channels)
    imported = interop.importer_of(tree).load(tree, **options_of(system, channels))
    nets = {'g': imported.sampling['params']} if imported.state is None else imported.state.params
    return imported, jax.tree_util.tree_leaves_with_path(nets)


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('system', SYSTEMS)
def test_channels_are_inferred_and_colours_find_their_places(system, channels):
    (_, rgb), (imported, leaves) = (converted(system, n) for n in (3, channels))
    config, moved = imported.config, set()
    assert (config.model.img_channels, config.data.channels, imported.inferred['img_channels']) == (channels,) * 3
    for (path, want), (_, got) in zip(rgb, leaves, strict=True):
        axis = next((i for i, (a, b) in enumerate(zip(want.shape, got.shape, strict=True)) if a != b), None)
        moved |= set() if axis is None else {path[0].key}
        want = want if axis is None else resized(want, axis, channels)
        np.testing.assert_array_equal(got, want, jax.tree_util.keystr(path))
    assert moved == {path[0].key for path, _ in leaves}


def test_a_grey_file_may_name_its_configuration():
    """The published ones are of RGB."""
    make, axes = SYSTEMS['mspie']
    tree = make(changed(axes, 1), 1)
    with pytest.raises(ForeignFileError, match='is not of --config mspie:i: img_resolution is 16, not 256') as caught:
        mmgen.load(tree, config='mspie:i')
    assert 'img_channels' not in str(caught.value)


@pytest.mark.parametrize(
    'system, name, message',
    [
        ('cips', 'convs.0.0.weight', '4 input channels; 1 .image. and 3 .with coordinates. exist'),
        ('deepfill', 'conv1.conv.weight', '6 input channels; known are 3, and 4 with sketches'),
        ('mspie', 'discriminator.convs.0.0.conv.weight_orig', 'wrong shape: .*fromrgb'),
        ('pggan', 'discriminator.fromrgb_layers.0.conv.weight_orig', 'wrong shape: .*fromrgb_layers_0'),
    ],
)
def test_networks_of_different_channels_are_refused(system, name, message):
    make, axes = SYSTEMS[system]

    def change(arrays):
        return changed(axes, 1)(arrays) | {k: v for k, v in changed(axes, 4)(arrays).items() if k == name}

    tree = make(change, 1)
    with pytest.raises(ForeignFileError, match=message):
        interop.importer_of(tree).load(tree)
