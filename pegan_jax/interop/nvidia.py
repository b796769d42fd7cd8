"""NVIDIA's network pickles (StyleGAN2-ADA in PyTorch, StyleGAN3, CREPS): G, D, running mean, augmentation.

A pickle holds {'G', 'D', 'G_ema', 'augment_pipe', 'training_set_kwargs'}. A network in it consists of the source text
of its class, which is never used, the arguments of its constructor, and its tensors. Its structure shows whether a
generator is a StyleGAN2, a StyleGAN3 or a CREPS. Settings are those of the constructors, else the defaults of the
program that wrote the file.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import augment
from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, system_module
from pegan_jax.interop.imported import Imported, Table, first_state, plain, settings
from pegan_jax.models import creps, stylegan2, stylegan3
from pegan_jax.weights import rules
from pegan_jax.weights.contents import MAX_DEPTH, Budget, ForeignFileError, check_settings, shown
from pegan_jax.weights.rules import Rule

LICENCE = (
    'Converted weights keep the licence under which their source was published (official files: the NVIDIA Source Code '
    'License, which allows non-commercial use only); converting them grants no other.'
)

# Arguments of the constructors; filters are read as tensors.
_G: Table = {name: name for name in ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'channel_base', 'channel_max')}
_G |= {name: name for name in ('img_channels', 'num_fp16_res', 'conv_clamp')} | {'mapping_kwargs': None}
_G2: Table = _G | {'architecture': 'architecture', 'use_noise': 'use_noise', 'activation': ('lrelu',)}
_G2 |= {'resample_filter': None, 'fused_modconv_default': None, 'fp16_channels_last': None}
_G3: Table = _G | {
    name: name
    for name in (
        'num_layers', 'num_critical', 'first_cutoff', 'first_stopband', 'last_stopband_rel', 'margin_size',
        'output_scale', 'conv_kernel', 'filter_size', 'lrelu_upsampling', 'use_radial_filters', 'magnitude_ema_beta',
    )
}  # fmt: skip
_CREPS: Table = _G | {name: name for name in ('biline_channels', 'fc_clamp')} | {'architecture': ('skip',)}
_MAPPING: Table = {'num_layers': 'mapping_layers', 'w_avg_beta': 'w_avg_beta', 'lr_multiplier': (0.01,)}
_MAPPING |= {'embed_features': (None,), 'layer_features': (None,), 'activation': ('lrelu',)}
_D: Table = {'architecture': 'd_architecture', 'channel_base': 'd_channel_base', 'channel_max': 'd_channel_max'}
_D |= {'cmap_dim': (None,), 'num_fp16_res': None}
_D |= {name: None for name in ('block_kwargs', 'mapping_kwargs', 'epilogue_kwargs')}
_D_BLOCKS: Table = {'freeze_layers': None, 'resample_filter': None, 'fp16_channels_last': None}
_D_BLOCKS |= {'activation': ('lrelu',)}
_D_MAPPING: Table = {'num_layers': 'd_mapping_layers', 'lr_multiplier': (0.01,), 'activation': ('lrelu',)}
_D_EPILOGUE: Table = {'mbstd_group_size': 'mbstd_group_size', 'mbstd_num_channels': (1,), 'activation': ('lrelu',)}
_AUGMENT: Table = {name: name for name in augment.PRESETS['bgcfnc']._fields}
_AUGMENT |= {'xint_max': (0.125,), 'rotate_max': (1,), 'hue_max': (1,), 'imgfilter_bands': ([1, 1, 1, 1],)}
_AUGMENT |= {'imgfilter_std': (1,), 'cutout_size': (0.5,)}


class Network(NamedTuple):
    """A network of a pickle.

    class_name: the name of its class.
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
    """Whether what `reader.read` returned is a pickle of NVIDIA's networks."""
    return isinstance(tree, dict) and any(isinstance(tree.get(k), dict) and 'class_name' in tree[k] for k in _NETWORKS)


_NETWORKS = ('G', 'D', 'G_ema', 'augment_pipe')
_POSITIONAL = {
    'Generator': ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels'),
    'Discriminator': ('c_dim', 'img_resolution', 'img_channels'),
}


def networks(tree: Any) -> dict[str, Network]:
    """{'G': ..., 'D': ..., 'G_ema': ..., 'augment_pipe': ...}, those that the pickle holds.

    Raises: ForeignFileError for anything but such a pickle.
    """
    if not recognises(tree):
        raise ForeignFileError('is not a pickle of NVIDIA networks: it describes none of G, D and G_ema.')
    found, budget = {}, Budget()
    for name in _NETWORKS:
        if tree.get(name) is not None:
            try:
                found[name] = _network(tree[name], budget)
            except ForeignFileError as error:
                raise ForeignFileError(f'{name}: {error}') from None
    return found


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """{'G_ema.synthesis.b4.const': array, ...} of all networks."""
    return {f'{net}.{k}': v for net, found in networks(tree).items() for k, v in (found.params | found.buffers).items()}


def _network(meta: Any, budget: Budget) -> Network:
    state = _state(meta)
    class_name, inside = meta['class_name'], state['_modules']
    positional, named = state.get('_init_args', ()), state.get('_init_kwargs', {})
    names = _POSITIONAL.get(class_name, ())
    if not isinstance(positional, tuple) or not isinstance(named, dict) or len(positional) > len(names):
        raise ForeignFileError(f'the constructor arguments of {shown(class_name)} are not well formed.')
    if 'synthesis' in inside:
        inside = _state(inside['synthesis'])['_modules']
    found = list(_tensors(meta, '', budget))
    return Network(
        class_name=class_name,
        arguments=plain(dict(zip(names, positional, strict=False)) | named, budget),
        parts=tuple(inside),
        params={name: array for name, array, trained in found if trained},
        buffers={name: array for name, array, trained in found if not trained},
    )


def _state(meta: Any) -> dict:
    """The instance dictionary of a module, with its three containers."""
    if not isinstance(meta, dict) or not isinstance(meta.get('class_name'), str):
        raise ForeignFileError(f'holds {shown(meta)} where a module is expected.')
    state = meta.get('state')
    if not isinstance(state, dict) or not all(
        isinstance(state.get(k), dict) for k in ('_parameters', '_buffers', '_modules')
    ):
        raise ForeignFileError(f'the module {shown(meta["class_name"])} has no parameters, buffers and modules.')
    return state


def _tensors(meta: Any, prefix: str, budget: Budget) -> Iterator[tuple[str, np.ndarray, bool]]:
    """(name, array, whether it is a parameter), as a state_dict lists them."""
    if prefix.count('.') > MAX_DEPTH:
        raise ForeignFileError(f'modules are nested more than {MAX_DEPTH} deep.')
    budget.spend(100 + len(prefix) // 64)  # there are few modules; long names may be doubled often
    state = _state(meta)
    passing = state.get('_non_persistent_buffers_set', ())
    if not isinstance(passing, (set, frozenset, list, tuple)):
        raise ForeignFileError(f'the module {shown(prefix)} has {shown(passing)} for names of buffers.')
    for container in ('_parameters', '_buffers'):
        for name, array in state[container].items():
            if array is None or (container == '_buffers' and name in passing):
                continue
            if not isinstance(name, str) or not isinstance(array, np.ndarray):
                raise ForeignFileError(f'{shown(prefix)}{shown(name)} is {shown(array)}, not a tensor.')
            budget.spend(1 + (len(prefix) + len(name)) // 64)
            yield f'{prefix}{name}', array, container == '_parameters'
    for name, module in state['_modules'].items():
        if module is not None:
            yield from _tensors(module, f'{prefix}{name}.', budget)


# Settings -------------------------------------------------------------------------------------------------------------


def infer(tree: Any, *, sampling_only: bool = False) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run with these networks, and {setting: value} of what the file tells.

    Raises: ForeignFileError for networks that this library does not have, naming the argument.
    """
    found = networks(tree)
    if 'G_ema' not in found:
        raise ForeignFileError(f'has no G_ema, the generator to sample from; it has {", ".join(found)}.')
    g = found['G_ema']
    if 'input' in g.parts:
        system, module, table, defaults = 'stylegan3', stylegan3, _G3, {}
    elif 'decoder_last' in g.parts:
        system, module, table, defaults = 'creps', creps, _CREPS, {}
    elif 'b4' in g.parts:
        system, module, table, defaults = 'stylegan2', stylegan2, _G2, {}
    else:
        raise ForeignFileError(f'G_ema is a {shown(g.class_name)}, no generator of StyleGAN2, StyleGAN3 or CREPS.')
    arguments = dict(g.arguments)
    if 'synthesis_kwargs' in arguments:  # StyleGAN2-ADA, whose defaults differ
        defaults = {'w_avg_beta': 0.995, 'conv_clamp': None, 'num_fp16_res': 0}
        arguments |= _inner(arguments, 'synthesis_kwargs')
        del arguments['synthesis_kwargs']
    fields = defaults | settings('G_ema', arguments, table)
    if system == 'creps':
        fields['rank'] = _rank(g, fields.get('img_resolution', 0))
    fields |= settings('the mapping of G_ema', _inner(arguments, 'mapping_kwargs'), _MAPPING)
    if 'D' in found and not sampling_only:
        fields |= _discriminator_settings(found['D'].arguments, fields, old=bool(defaults))
        if 'augment_pipe' in found:
            fields |= _augmentation(found['augment_pipe'])
    # The file has neither the images nor the R1 weight; the release recommends starting with this one at a batch of 32.
    labels = {'folder': 'unknown', 'labels': True} if fields.get('c_dim') else {}
    check_settings({'filter_size': 6, **fields} if system == 'stylegan3' else fields)
    try:
        config = Config(
            system,
            module.Config(r1_gamma=fields['img_resolution'] ** 2 / 32768, **fields),
            DataConfig(resolution=fields['img_resolution'], channels=fields['img_channels'], **labels),
            OptimConfig(g_lr=0.0025 if system == 'stylegan3' else 0.002),
        )
    except (ConfigError, KeyError, TypeError, ArithmeticError) as error:
        raise ForeignFileError(f'does not describe a generator of this library: {shown(error)}.') from None
    return config, fields


def _rank(g: Network, resolution: int) -> int:
    """The rank of CREPS's lines. Raises: ForeignFileError for positions other than those of training."""
    found = {**g.params, **g.buffers}
    weight, at = (found.get(f'synthesis.b4.input.{name}') for name in ('weight', 'coords'))
    if weight is None or weight.ndim != 4 or weight.shape[-1] % 2:
        raise ForeignFileError('G_ema has no synthesis.b4.input.weight [1, C, 1, 2 rank].')
    lines = np.linspace(0, 1, at.shape[1], dtype=np.float32) if at is not None and at.ndim == 4 else None
    if lines is None or at.shape != (1, resolution, 2, 1) or np.abs(at - lines[None, :, None, None]).max() > 1e-5:
        raise ForeignFileError(
            'G_ema has synthesis.b4.input.coords other than the trained ones, from 0 to 1; save it with those, and '
            'give positions when images are made.'
        )
    return weight.shape[-1] // 2


def _inner(arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = arguments.get(name, {})
    if not isinstance(inner, dict):
        raise ForeignFileError(f'{name} is {shown(inner)}, not a dictionary of arguments.')
    return inner


def _discriminator_settings(arguments: Mapping[str, Any], g: Mapping[str, Any], old: bool) -> dict[str, Any]:
    shared = {name: arguments.get(name) for name in ('c_dim', 'img_resolution', 'img_channels')}
    shared['conv_clamp'] = arguments.get('conv_clamp', None if old else 256)
    for name, value in shared.items():
        if value != g.get(name, 256):
            raise ForeignFileError(
                f'D has {name}={shown(value)} and G_ema {shown(g.get(name, 256))}; one for both is supported. '
                '--sampling-only leaves the discriminator out.'
            )
    fields = settings('D', {k: v for k, v in arguments.items() if k not in shared}, _D)
    for name, table in (('block', _D_BLOCKS), ('mapping', _D_MAPPING), ('epilogue', _D_EPILOGUE)):
        fields |= settings(f'the {name} of D', _inner(arguments, f'{name}_kwargs'), table)
    return fields


def _augmentation(pipe: Network) -> dict[str, Any]:
    """The preset, and p as it was; the file does not tell whether p followed D or was fixed."""
    strengths = augment.Pipe(**settings('augment_pipe', pipe.arguments, _AUGMENT))
    preset = next((name for name, known in augment.PRESETS.items() if known == strengths), None)
    if preset is None:
        raise ForeignFileError(
            f'augment_pipe has the strengths {shown(pipe.arguments)}, which are those of none of '
            f'{", ".join(augment.PRESETS)}. --sampling-only leaves it out.'
        )
    p = pipe.buffers.get('p')
    if p is None or p.size != 1 or not 0 <= p.item() < np.inf:
        raise ForeignFileError(f'augment_pipe has the probability {shown(p)}, not a number of at least 0.')
    return {'augment': 'ada', 'augment_pipe': preset, 'augment_p': float(p.item())}


# Tensors --------------------------------------------------------------------------------------------------------------

_BUFFERS = 'w_avg|magnitude_ema|up_filter|down_filter|transform|freqs|phases|noise_const|resample_filter'
_BOTH = (
    Rule(r'(.*/(?:bias|noise_strength))', 'params/{0}', np.asarray),
    Rule(rf'(.*/(?:{_BUFFERS}))', 'buffers/{0}', np.asarray),
    Rule(r'(mapping/(?:embed|fc\d+))/weight', 'params/{0}/kernel', rules.dense),
)
G_RULES = (
    *_BOTH,
    Rule(r'(synthesis/.*affine)/weight', 'params/{0}/kernel', rules.dense),
    Rule(r'(synthesis/input/weight)', 'params/{0}', rules.dense),
    Rule(r'(synthesis/(?:L\w+|b\d+/(?:conv[01]|torgb))/weight)', 'params/{0}', rules.conv),
    Rule(r'(synthesis/b\d+/skip)/weight', 'params/{0}/kernel', rules.conv),
    Rule(r'(synthesis/b4/const)', 'params/{0}', lambda x: x.transpose(1, 2, 0)),
)
CREPS_RULES = (
    Rule(r'synthesis/b4/(input/affine)/weight', 'params/synthesis/{0}/kernel', rules.dense),
    Rule(r'synthesis/b4/(input/affine/bias)', 'params/synthesis/{0}', np.asarray),
    Rule(r'synthesis/b4/(input/weight)', 'params/synthesis/{0}', lambda x: x[0, :, 0]),
    Rule(r'synthesis/b4/(input/freqs)', 'buffers/synthesis/{0}', rules.flat),
    Rule(r'(synthesis/decoder_\w+)/(\d)/weight', 'params/{0}/fc{1}/kernel', rules.pointwise),
    Rule(r'(synthesis/decoder_\w+)/(\d)/bias', 'params/{0}/fc{1}/bias', np.asarray),
    Rule(r'(synthesis/(?:decoder_img|.*affine))/weight', 'params/{0}/kernel', rules.dense),
    Rule(r'(synthesis/.*(?:fc[01]|tores)/weight)', 'params/{0}', rules.dense),
    *_BOTH,
)
D_RULES = (
    *_BOTH,
    Rule(r'(b\d+/(?:fromrgb|conv0|conv1|skip|conv))/weight', 'params/{0}/kernel', rules.conv),
    Rule(r'b4/fc/weight', 'params/b4/fc/kernel', rules.flattened_dense(4, 4)),
    Rule(r'b4/out/weight', 'params/b4/out/kernel', rules.dense),
)


def variables(name: str, network: Network, table: tuple[Rule, ...], target: dict) -> dict:
    """{'params', 'buffers'} of a network, with the tree of `target`.

    The filters of layers that do not resample, which files also have, are left out, and so are CREPS's positions.
    Raises: ForeignFileError as `rules.fill`.
    """
    source = {k.replace('.', '/'): v for k, v in (network.params | network.buffers).items()}
    wanted = {jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in jax.tree.leaves_with_path(target)}
    unused = {k for k in source if k.endswith(('resample_filter', 'input/coords')) and f'buffers/{k}' not in wanted}
    return rules.fill(name, {k: v for k, v in source.items() if k not in unused}, table, target)


def load(tree: Any, *, sampling_only: bool = False) -> Imported:
    """Converts what `reader.read` returned; a discriminator in the file makes it a training state with new optimisers.

    Args:
      sampling_only: leave out the discriminator.
    Raises: ForeignFileError if the file is not such a pickle, or one array is left over, missing or misshapen.
    """
    config, inferred = infer(tree, sampling_only=sampling_only)
    found = networks(tree)
    gan = system_module(config.system).build(config)
    params, buffers, stats = jax.eval_shape(gan.init, jax.random.key(0))
    target = {net: {'params': params[net], 'buffers': buffers[net]} for net in ('g', 'd')}
    g_rules = CREPS_RULES if config.system == 'creps' else G_RULES
    ema = variables('G_ema', found['G_ema'], g_rules, target['g'])
    if sampling_only or 'D' not in found:
        return Imported(config, inferred, ema, None)
    g = variables('G', found['G'], g_rules, target['g']) if 'G' in found else ema
    d = variables('D', found['D'], D_RULES, target['d'])
    stats = {
        name: jnp.full(x.shape, config.model.augment_p if name == 'augment_p' else 0, x.dtype)
        for name, x in stats.items()
    }
    state = first_state(gan, {'g': {**ema, 'params': g['params']}, 'd': d}, ema['params'], stats)
    return Imported(config, inferred, state.sampling, state)
