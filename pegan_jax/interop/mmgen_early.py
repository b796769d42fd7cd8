"""Checkpoints of the mmgen program (PyTorch) of PGGAN and DCGAN.

A file has {'state_dict': {'generator.noise2feat...': ..., 'discriminator...': ..., 'generator_ema...': ...}}; DCGAN has
no EMA. Images are BGR there and RGB here: the colours of all layers that see or make them are swapped.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, system_module
from pegan_jax.interop.imported import Imported, count_of, first_state, shape_of
from pegan_jax.models import dcgan, pggan
from pegan_jax.weights import contents, rules
from pegan_jax.weights.contents import ForeignFileError, shown
from pegan_jax.weights.rules import Rule

LICENCE = (
    'Converted weights keep the licence under which their source was published (official files: the Apache-2.0 licence '
    'of MMGeneration); converting them grants no other.'
)


def transposed_conv(array: np.ndarray) -> np.ndarray:
    """(in, out, k, k) of a transposed convolution -> [k, k, in, out] of `ops.conv_transpose2d`."""
    return array.transpose(2, 3, 0, 1)


def maps_dense(array: np.ndarray) -> np.ndarray:
    """Kernel of a dense layer whose outputs become 4x4 maps: (C * 4 * 4, in) -> [in, 4 * 4 * C]."""
    return array.reshape(-1, 4, 4, array.shape[1]).transpose(3, 1, 2, 0).reshape(array.shape[1], -1)


def _critic_block(number: str) -> str:
    """Path of the critic's n-th convolution, counted from 1: odd ones keep the size, even ones halve it."""
    return f'params/{"same" if int(number) % 2 else "down"}_{(int(number) - 1) // 2}'


def pggan_rules(model: pggan.Config) -> dict[str, tuple[Rule, ...]]:
    """The rules for the generator and the critic."""
    up = transposed_conv if model.upsampling == 'fused' else rules.conv
    return {
        'g': (
            Rule(r'noise2feat\.linear\.weight_orig', 'params/noise2feat/linear/kernel', maps_dense),
            Rule(r'noise2feat\.bias', 'params/noise2feat/bias', rules.flat),
            Rule(r'(conv_blocks\.\d*[13579])\.conv\.weight_orig', 'params/{0}/kernel', up),
            Rule(r'((?:conv_blocks|torgb_layers)\.\d+)\.conv\.weight_orig', 'params/{0}/kernel', rules.conv),
            Rule(r'((?:conv_blocks|torgb_layers)\.\d+)\.conv\.bias', 'params/{0}/bias', rules.flat),
        ),
        'd': (
            Rule(r'(fromrgb_layers\.\d+)\.conv\.weight_orig', 'params/{0}/kernel', rules.conv),
            Rule(r'(fromrgb_layers\.\d+)\.conv\.bias', 'params/{0}/bias', rules.flat),
            Rule(r'conv_blocks\.([1-9]\d*)\.conv\.weight_orig', lambda n: f'{_critic_block(n)}/kernel', rules.conv),
            Rule(r'conv_blocks\.([1-9]\d*)\.conv\.bias', lambda n: f'{_critic_block(n)}/bias', rules.flat),
            Rule(r'decision\.linear0\.weight_orig', 'params/linear0/kernel', rules.flattened_dense(4, 4)),
            Rule(r'decision\.linear1\.weight_orig', 'params/linear1/kernel', rules.dense),
            Rule(r'decision\.(linear[01])\.bias', 'params/{0}/bias', rules.flat),
        ),
    }


def dcgan_rules(model: dcgan.Config) -> dict[str, tuple[Rule, ...]]:
    """The rules for the generator and the discriminator."""
    up = transposed_conv if model.padding == 'zero' else rules.conv
    shared = (
        Rule(r'([\w.]+)\.conv\.bias', 'params/{0}/bias', rules.flat),
        Rule(r'([\w.]+)\.bn\.weight', 'params/{0}/bn/scale', rules.flat),
        Rule(r'([\w.]+)\.bn\.bias', 'params/{0}/bn/bias', rules.flat),
        Rule(r'([\w.]+)\.bn\.running_mean', 'buffers/{0}/bn/mean', rules.flat),
        Rule(r'([\w.]+)\.bn\.running_var', 'buffers/{0}/bn/var', rules.flat),
    )
    first = Rule(r'(noise2feat)\.conv\.weight', 'params/{0}/kernel', transposed_conv)
    return {
        'g': (first, Rule(r'([\w.]+)\.conv\.weight', 'params/{0}/kernel', up), *shared),
        'd': (Rule(r'([\w.]+)\.conv\.weight', 'params/{0}/kernel', rules.conv), *shared),
    }


class _Family(NamedTuple):
    """What differs between the systems.

    rules: model -> {'g', 'd'}; ignored: patterns of names that are knowingly left out; makes, sees: patterns of the
    layers that make and see colours; constant: buffers of a trained model that no array fills.
    """

    rules: Any
    ignored: tuple[str, ...]
    makes: str
    sees: str
    constant: Any


# The critic of the published PGGAN has one convolution that nothing uses.
FAMILIES = {
    'pggan': _Family(
        pggan_rules,
        (r'conv_blocks\.0\.conv\.(weight_orig|bias)',),
        r'torgb_layers_\d+',
        r'fromrgb_layers_\d+',
        lambda model: {'progress': np.float32(model.last_level)},
    ),
    'dcgan': _Family(
        dcgan_rules, (r'[\w.]+\.bn\.num_batches_tracked',), 'output_layer', 'downsamples_0', lambda model: {}
    ),
}
SCALARS = ('shown_nkimg', '_curr_transition_weight', '_next_scale_int', '_curr_scale_int')


def recognises(tree: Any) -> bool:
    """Whether what `reader.read` returned is a PGGAN or DCGAN of mmgen."""
    found = tree.get('state_dict') if isinstance(tree, dict) else None
    return isinstance(found, dict) and any(
        f'{net}.noise2feat.{layer}' in found
        for net in ('generator', 'generator_ema')
        for layer in ('conv.weight', 'linear.weight_orig')
    )


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """{'generator.noise2feat.bias': array, ...}."""
    return contents.arrays(tree['state_dict'])


def parts(tree: Any) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of 'generator', 'discriminator' and 'generator_ema', those that exist, under their own names.

    Raises: ForeignFileError for anything else.
    """
    out = {}
    for name, array in arrays(tree).items():
        net, _, rest = name.partition('.')
        if net in ('generator', 'discriminator', 'generator_ema'):
            out.setdefault(net, {})[rest] = array
        elif name not in SCALARS:
            raise ForeignFileError(f'left over: {shown(name)}.')
    return out


def infer(tree: Any) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run with this model, and {setting: value} of what the file tells.

    Raises: ForeignFileError.
    """
    found = parts(tree)
    g = found.get('generator_ema', found.get('generator'))
    system = 'pggan' if 'noise2feat.linear.weight_orig' in g else 'dcgan'
    of = _pggan_fields if system == 'pggan' else _dcgan_fields
    fields = of(g, found.get('discriminator', {}))
    side = fields['img_resolution']
    try:
        if system == 'pggan':
            stages = (600.0,) + (1200.0,) * (side.bit_length() - 4)
            model = pggan.Config(**fields, stage_kimg=stages)
            optim, batch_size = OptimConfig(g_lr=0.001, d_lr=0.001), 32
        else:
            model = dcgan.Config(**fields)
            optim, batch_size = OptimConfig(g_lr=2e-4, d_lr=2e-4, beta1=0.5, beta2=0.999), 128
        labels = {'folder': 'unknown', 'labels': True} if fields.get('c_dim') else {}
        data = DataConfig(resolution=side, channels=model.img_channels, **labels)
        config = Config(system, model, data, optim, TrainConfig(batch_size=batch_size))
    except ConfigError as error:
        raise ForeignFileError(f'does not describe a {system} of this library: {error}') from None
    return config, fields


def _pggan_fields(g: Mapping[str, np.ndarray], d: Mapping[str, np.ndarray]) -> dict[str, Any]:
    last = count_of(g, r'torgb_layers\.\d+\.conv\.weight_orig') - 1
    widths = [shape_of(g, f'torgb_layers.{i}.conv.weight_orig', 4)[1] for i in range(last + 1)]
    # The weight of a transposed convolution has its inputs first. With as many inputs as outputs, a convolution is
    # taken for a transposed one, as in all published models.
    ups = [shape_of(g, f'conv_blocks.{2 * i - 1}.conv.weight_orig', 4)[:2] for i in range(1, last + 1)]
    pairs = list(zip(widths[1:], widths, strict=False))
    # Without a critic, labels cannot be told from latents.
    c_dim = shape_of(d, 'decision.linear1.weight_orig', 2)[0] - 1 if d else 0
    unfused = ups == pairs and any(out != inputs for out, inputs in pairs)
    return {
        'img_resolution': 4 * 2**last,
        'img_channels': shape_of(g, 'torgb_layers.0.conv.weight_orig', 4)[0],
        'c_dim': c_dim,
        'z_dim': shape_of(g, 'noise2feat.linear.weight_orig', 2)[1] - c_dim,
        'channel_base': widths[-1] * 2 ** (last + 1),
        'channel_max': widths[0],
        'upsampling': 'unfused' if unfused else 'fused',
    }


def _dcgan_fields(g: Mapping[str, np.ndarray], d: Mapping[str, np.ndarray]) -> dict[str, Any]:
    z_dim, base = shape_of(g, 'noise2feat.conv.weight', 4)[:2]
    fields = {
        'img_resolution': 8 * 2 ** count_of(g, r'upsampling\.\d+\.conv\.weight'),
        'img_channels': shape_of(g, 'output_layer.conv.bias', 1)[0],
        'z_dim': z_dim,
        'base_channels': base,
    }
    return fields | ({'d_base_channels': shape_of(d, 'downsamples.0.conv.weight', 4)[0]} if d else {})


def load(tree: Any, *, sampling_only: bool = False) -> Imported:
    """Converts what `reader.read` returned; both networks in the file make it a training state with new optimisers.

    Args:
      sampling_only: leave out the discriminator.
    Raises: ForeignFileError if one array is left over, missing or misshapen.
    """
    config, inferred = infer(tree)
    found, gan = parts(tree), system_module(config.system).build(config)
    nets = {name: network(config, name, source) for name, source in found.items()}
    best = nets.get('generator_ema', nets.get('generator'))
    scalars = {name: float(array) for name, array in arrays(tree).items() if name in SCALARS}
    if config.system == 'pggan':
        best = {**best, 'buffers': {'progress': np.float32(_progress(scalars, config.model))}}
    if sampling_only or not {'generator', 'discriminator'} <= nets.keys():
        return Imported(config, inferred, best, None)
    g, d = nets['generator'], nets['discriminator']
    ema = None if gan.ema is None else best['params']
    state = first_state(gan, {'g': {**best, 'params': g['params']}, 'd': d}, ema, {})
    state = state.replace(nimg=jnp.int32(round(1000 * scalars.get('shown_nkimg', 0))))
    return Imported(config, inferred, state.sampling, state)


def _progress(scalars: Mapping[str, float], model: pggan.Config) -> float:
    """The growth at which a training file was saved: the level that is complete, and the weight of the next one."""
    side = scalars.get('_curr_scale_int')
    if side not in [4 * 2**level for level in range(model.last_level + 1)]:
        return model.last_level
    level = math.log2(side) - 2
    return level and level - 1 + scalars.get('_curr_transition_weight', 1.0)


def network(config: Config, name: str, source: Mapping[str, np.ndarray]) -> dict:
    """{'params', 'buffers'} of 'generator', 'generator_ema' or 'discriminator', with colours in RGB order."""
    net, family = 'd' if name == 'discriminator' else 'g', FAMILIES[config.system]
    shapes = jax.eval_shape(system_module(config.system).build(config).init, jax.random.key(0))
    constant = family.constant(config.model) if net == 'g' else {}
    target = {'params': shapes[0][net], 'buffers': {} if constant else shapes[1][net]}
    ignored = family.ignored if net == 'd' or config.system == 'dcgan' else ()
    out = rules.fill(name, source, family.rules(config.model)[net], target, ignored=ignored)
    turn_colours(config.system, out['params'])
    return {'params': out['params'], 'buffers': constant or out['buffers']}


def turn_colours(system: str, params: dict) -> None:
    """Swaps the colours in a generator or discriminator, in place: BGR to RGB and back."""
    family = FAMILIES[system]
    for name, layer in params.items():
        if re.fullmatch(family.makes, name):
            layer['kernel'], layer['bias'] = rules.swap_colours(layer['kernel']), rules.swap_colours(layer['bias'])
        elif re.fullmatch(family.sees, name):
            layer['kernel'] = rules.swap_colours(layer['kernel'], 2)
