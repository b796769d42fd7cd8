"""NVIDIA's network pickles (StyleGAN2-ADA in PyTorch, StyleGAN3): generator, discriminator, running mean, augmentation.

A pickle holds {'G', 'D', 'G_ema', 'augment_pipe', 'training_set_kwargs'}. A network in it is the source text of its
class, which is never used, the arguments of its constructor, and its tensors. Whether a generator is of StyleGAN2 or
StyleGAN3 shows in its structure. Settings are those of the constructors, else the defaults of the program that wrote
the file.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.config import Config, ConfigError, DataConfig
from pegan_jax.interop import rules
from pegan_jax.interop.reader import ForeignFileError, shown
from pegan_jax.interop.rules import Imported, Rule
from pegan_jax.models import stylegan2, stylegan3
from pegan_jax.train.state import TrainState

LICENCE = (
    'Converted weights keep the licence under which their source was published (official files: the NVIDIA Source Code '
    'License, which allows non-commercial use only); converting them grants no other.'
)

MAX_DEPTH = 32  # of modules inside modules

# Arguments of the constructors, and the settings of this library that they are. None: changes no number.
_GENERATOR = {name: name for name in ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels')}
_SYNTHESIS = {name: name for name in ('channel_base', 'channel_max', 'num_fp16_res', 'conv_clamp')}
_STYLEGAN2 = {'architecture': 'architecture', 'use_noise': 'use_noise', 'fused_modconv_default': None}
_STYLEGAN3 = {
    name: name
    for name in (
        'num_layers', 'num_critical', 'first_cutoff', 'first_stopband', 'last_stopband_rel', 'margin_size',
        'output_scale', 'conv_kernel', 'filter_size', 'lrelu_upsampling', 'use_radial_filters', 'magnitude_ema_beta',
    )
}  # fmt: skip
_MAPPING = {'num_layers': 'mapping_layers', 'lr_multiplier': 'lr_multiplier', 'w_avg_beta': 'w_avg_beta'}
_DISCRIMINATOR = {
    'c_dim': 'c_dim',
    'img_resolution': 'img_resolution',
    'img_channels': 'img_channels',
    'architecture': 'd_architecture',
    'channel_base': 'd_channel_base',
    'channel_max': 'd_channel_max',
    'num_fp16_res': 'd_num_fp16_res',
    'conv_clamp': 'd_conv_clamp',
    'cmap_dim': 'd_cmap_dim',
}
_D_MAPPING = {'num_layers': 'd_mapping_layers', 'lr_multiplier': 'lr_multiplier'}
_D_BLOCKS = {'freeze_layers': 'freeze_layers', 'fp16_channels_last': None}
_D_EPILOGUE = {'mbstd_group_size': 'mbstd_group_size', 'mbstd_num_channels': 'mbstd_num_channels'}


class Network(NamedTuple):
    """A network of a pickle.

    class_name: of its class.
    arguments: those that its constructor was given.
    parts: names of the modules directly inside 'synthesis', or of those inside the network if it has no such module.
    params, buffers: {'synthesis.b4.const': array, ...}, in the order of the file.
    """

    class_name: str
    arguments: dict[str, Any]
    parts: tuple[str, ...]
    params: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]


def recognises(tree: Any) -> bool:
    """Whether what `reader.read` gave is a pickle of NVIDIA's networks."""
    return isinstance(tree, dict) and any(isinstance(tree.get(k), dict) and 'class_name' in tree[k] for k in _NETWORKS)


_NETWORKS = ('G', 'D', 'G_ema', 'augment_pipe')
_POSITIONAL = {
    'Generator': ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels'),
    'Discriminator': ('c_dim', 'img_resolution', 'img_channels'),
}


def networks(tree: Any) -> dict[str, Network]:
    """{'G': ..., 'D': ..., 'G_ema': ..., 'augment_pipe': ...}, those that the pickle holds.

    Raises: ForeignFileError for what is not such a pickle.
    """
    if not recognises(tree):
        raise ForeignFileError('is not a pickle of NVIDIA networks: it describes none of G, D and G_ema.')
    found = {}
    for name in _NETWORKS:
        if tree.get(name) is not None:
            try:
                found[name] = _network(tree[name])
            except ForeignFileError as error:
                raise ForeignFileError(f'{name}: {error}') from None
    return found


def _network(meta: Any) -> Network:
    state = _state(meta)
    class_name, inside = meta['class_name'], state['_modules']
    positional, named = state.get('_init_args', ()), state.get('_init_kwargs', {})
    names = _POSITIONAL.get(class_name, ())
    if not isinstance(positional, tuple) or not isinstance(named, dict) or len(positional) > len(names):
        raise ForeignFileError(f'the constructor arguments of {shown(class_name)} are not well formed.')
    if 'synthesis' in inside:
        inside = _state(inside['synthesis'])['_modules']
    found = list(_tensors(meta, ''))
    return Network(
        class_name=class_name,
        arguments={k: _plain(v) for k, v in (dict(zip(names, positional, strict=False)) | named).items()},
        parts=tuple(inside),
        params={name: array for name, array, trained in found if trained},
        buffers={name: array for name, array, trained in found if not trained},
    )


def _state(meta: Any) -> dict:
    """The instance dictionary of a module, whose three containers are there."""
    if not isinstance(meta, dict) or not isinstance(meta.get('class_name'), str):
        raise ForeignFileError(f'holds {shown(meta)} where a module is expected.')
    state = meta.get('state')
    if not isinstance(state, dict) or not all(
        isinstance(state.get(k), dict) for k in ('_parameters', '_buffers', '_modules')
    ):
        raise ForeignFileError(f'the module {shown(meta["class_name"])} has no parameters, buffers and modules.')
    return state


def _tensors(meta: Any, prefix: str) -> Iterator[tuple[str, np.ndarray, bool]]:
    """(name, array, whether it is a parameter), as a state_dict lists them."""
    if prefix.count('.') > MAX_DEPTH:
        raise ForeignFileError(f'modules are nested more than {MAX_DEPTH} deep.')
    state = _state(meta)
    passing = state.get('_non_persistent_buffers_set', ())
    for container in ('_parameters', '_buffers'):
        for name, array in state[container].items():
            if array is None or (container == '_buffers' and name in passing):
                continue
            if not isinstance(name, str) or not isinstance(array, np.ndarray):
                raise ForeignFileError(f'{shown(prefix)}{shown(name)} is {shown(array)}, not a tensor.')
            yield f'{prefix}{name}', array, container == '_parameters'
    for name, module in state['_modules'].items():
        if module is not None:
            yield from _tensors(module, f'{prefix}{name}.')


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
