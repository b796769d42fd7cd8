"""Checkpoints of the mmgen program (PyTorch): its StyleGAN2, and MS-PIE.

A file is {'meta', 'state_dict'}, and 'optimizer' if it was not published. Names in the state dict begin with the
network: 'generator_ema.', which is what to sample from, 'generator.' and 'discriminator.'. Images are BGR there and RGB
here: the colours of all layers that see or make them are swapped.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from pegan_jax.config import Config, ConfigError, DataConfig, load_config
from pegan_jax.interop.imported import Imported, count_of, first_state, shape_of
from pegan_jax.models import mspie
from pegan_jax.models.discriminator import num_halvings
from pegan_jax.weights import contents, rules
from pegan_jax.weights.contents import ForeignFileError, shown
from pegan_jax.weights.rules import Rule

LICENCE = (
    'Converted weights keep the licence under which their source was published (official files: the Apache-2.0 licence '
    'of MMGeneration, and the terms of the images that they were trained on); converting them grants no other.'
)

NETWORKS = ('generator_ema', 'generator', 'discriminator')
PUBLISHED = ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'f-896', 'f-1024')  # rows of configs/mspie.py
PATH_LENGTH = 'gen_auxiliary_losses.0.mean_path_length'


def recognises(tree: Any) -> bool:
    """Whether what `reader.read` returned is a StyleGAN2 or MS-PIE of mmgen."""
    found = tree.get('state_dict') if isinstance(tree, dict) else None
    return isinstance(found, dict) and any(f'{net}.style_mapping.1.bias' in found for net in NETWORKS[:2])


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """{'generator_ema.conv1.conv.weight_orig': array, ...}."""
    return contents.arrays(tree['state_dict'])


def _parts(tree: Any) -> dict[str, dict[str, np.ndarray]]:
    """{'generator_ema': {name: array}, ...}, for the networks that the file has."""
    if extra := tree.keys() - {'meta', 'state_dict', 'optimizer'}:
        raise ForeignFileError(f'left over: {", ".join(map(shown, sorted(extra, key=str)))}.')
    parts, extra = {}, []
    for name, array in arrays(tree).items():
        net, _, rest = name.partition('.')
        if net in NETWORKS:
            parts.setdefault(net, {})[rest] = array
        elif name != PATH_LENGTH:
            extra.append(name)
    if extra:
        raise ForeignFileError(f'left over: {", ".join(map(shown, extra))}.')
    return parts


# StyleGAN2 and MS-PIE: tensors ----------------------------------------------------------------------------------------

_LAYER = r'(conv1|convs\.\d+|to_rgb1|to_rgbs\.\d+)'


def _modulated(array: np.ndarray) -> np.ndarray:
    """(1, out, in, k, k) -> [k, k, in, out]; a to-RGB layer, whose kernel is 1 x 1, also goes from BGR to RGB."""
    kernel = rules.conv(array[0])
    return rules.swap_colours(kernel) if kernel.shape[:2] == (1, 1) else kernel


def _mapping(leaf: str) -> Callable:
    return lambda i: f'params/mapping/fc{int(i) - 1}/{leaf}'  # style_mapping.0 is the normalisation


def _noise(q: str) -> str:
    return f'buffers/synthesis/{"conv1" if q == "0" else f"convs_{int(q) - 1}"}/noise_const'


G_RULES = (
    Rule(r'style_mapping\.(\d+)\.linear\.weight_orig', _mapping('kernel'), rules.dense),
    Rule(r'style_mapping\.(\d+)\.bias', _mapping('bias'), rules.flat),
    Rule(r'constant_input\.input', 'params/synthesis/const', lambda x: x[0].transpose(1, 2, 0)),
    Rule(_LAYER + r'\.conv\.weight_orig', 'params/synthesis/{0}/weight', _modulated),
    Rule(_LAYER + r'\.conv\.style_modulation\.linear\.weight_orig', 'params/synthesis/{0}/affine/kernel', rules.dense),
    Rule(_LAYER + r'\.conv\.style_modulation\.bias', 'params/synthesis/{0}/affine/bias', rules.flat),
    Rule(_LAYER + r'\.activate\.bias', 'params/synthesis/{0}/bias', rules.flat),
    Rule(_LAYER + r'\.bias', 'params/synthesis/{0}/bias', lambda x: rules.swap_colours(rules.flat(x))),
    Rule(_LAYER + r'\.noise_injector\.weight', 'params/synthesis/{0}/noise_strength', rules.scalar),
    Rule(_LAYER + r'\.conv\.blur\.kernel', 'buffers/synthesis/{0}/resample_filter', rules.quarter),
    Rule(r'to_rgbs\.(\d+)\.upsample\.kernel', 'buffers/synthesis/rgb_filter_{0}', rules.quarter),
    Rule(r'injected_noise_(\d+)', _noise, lambda x: x[0, 0]),
)
G_IGNORED = (r'head_pos_enc\._float_tensor',)  # sinusoids have it, to mark the device


def d_rules(model: mspie.Config) -> tuple[Rule, ...]:
    """The rules for the discriminator of a model."""
    side = 4 << num_halvings(model.size)
    pooled = (model.d_pool,) * 2 if model.d_pool else mspie.base_size(model)

    def block(leaf: str, collection: str = 'params') -> Callable:
        return lambda j: f'{collection}/b{side >> int(j) - 1}/{leaf}'

    return (
        Rule(
            r'convs\.0\.0\.conv\.weight_orig',
            f'params/b{side}/fromrgb/kernel',
            lambda x: rules.swap_colours(rules.conv(x), 2),
        ),
        Rule(r'convs\.0\.1\.bias', f'params/b{side}/fromrgb/bias', rules.flat),
        Rule(r'convs\.(\d+)\.conv1\.0\.conv\.weight_orig', block('conv0/kernel'), rules.conv),
        Rule(r'convs\.(\d+)\.conv1\.1\.bias', block('conv0/bias'), rules.flat),
        Rule(r'convs\.(\d+)\.conv2\.0\.kernel', block('conv1/resample_filter', 'buffers'), np.asarray),
        Rule(r'convs\.(\d+)\.conv2\.1\.conv\.weight_orig', block('conv1/kernel'), rules.conv),
        Rule(r'convs\.(\d+)\.conv2\.2\.bias', block('conv1/bias'), rules.flat),
        Rule(r'convs\.(\d+)\.skip\.0\.kernel', block('skip/resample_filter', 'buffers'), np.asarray),
        Rule(r'convs\.(\d+)\.skip\.1\.conv\.weight_orig', block('skip/kernel'), rules.conv),
        Rule(r'final_conv\.0\.conv\.weight_orig', 'params/conv/kernel', rules.conv),
        Rule(r'final_conv\.1\.bias', 'params/conv/bias', rules.flat),
        Rule(r'final_linear\.0\.linear\.weight_orig', 'params/fc/kernel', rules.flattened_dense(*pooled)),
        Rule(r'final_linear\.0\.bias', 'params/fc/bias', rules.flat),
        Rule(r'final_linear\.1\.linear\.weight_orig', 'params/out/kernel', rules.dense),
        Rule(r'final_linear\.1\.bias', 'params/out/bias', rules.flat),
    )


def load(tree: Any, *, config: str | None = None, sampling_only: bool = False) -> Imported:
    """Converts what `reader.read` returned; both networks in the file make it a training state with new optimisers.

    Args:
      config: as for `infer`.
      sampling_only: leave out the discriminator.
    Raises: ForeignFileError if one array is left over, missing or misshapen; and as `infer`.
    """
    settings, inferred = infer(tree, config=config, sampling_only=sampling_only)
    parts, gan = _parts(tree), mspie.build(settings)
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    target = {net: {'params': params[net], 'buffers': buffers[net]} for net in ('g', 'd')}
    nets = {
        net: rules.fill(net, parts[net], G_RULES, target['g'], ignored=G_IGNORED)
        for net in NETWORKS[:2]
        if net in parts
    }
    ema = nets.get('generator_ema', nets.get('generator'))
    if sampling_only or 'discriminator' not in parts:
        return Imported(settings, inferred, ema, None)
    g = nets.get('generator', ema)
    d = rules.fill('discriminator', parts['discriminator'], d_rules(settings.model), target['d'])
    stats = {'pl_mean': np.asarray(arrays(tree).get(PATH_LENGTH, 0), np.float32).reshape(())}
    state = first_state(gan, {'g': {**ema, 'params': g['params']}, 'd': d}, ema['params'], stats)
    return Imported(settings, inferred, state.sampling, state)


# StyleGAN2 and MS-PIE: settings ---------------------------------------------------------------------------------------


def infer(tree: Any, *, config: str | None = None, sampling_only: bool = False) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run with this model, and {setting: value} of what the file tells.

    It tells neither its sizes, nor whether sinusoids are resized or expanded, nor, with zero padding, in which order
    the generator resizes and convolves. These come from the published configurations if only one of them fits.

    Args:
      config: that of the model, as for `load_config`, such as 'mspie:e'.
    Raises: ForeignFileError if the file does not fit this configuration, or fits several published ones; ConfigError.
    """
    parts = _parts(tree)
    if sampling_only:
        parts.pop('discriminator', None)
    fields = _generator_fields(parts.get('generator_ema', parts.get('generator')))

    def in_channels(settings: Config) -> Config:
        """A published configuration for the images of the file, which need not be RGB."""
        model = dataclasses.replace(settings.model, img_channels=fields['img_channels'])
        data = dataclasses.replace(settings.data, channels=fields['img_channels'])
        return dataclasses.replace(settings, model=model, data=data)

    if 'discriminator' in parts:
        fields |= _discriminator_fields(parts['discriminator'], fields)
    if config is not None:
        settings = load_config(config)
        if settings.system != 'mspie':
            raise ForeignFileError(
                f'is not of the system {settings.system}, as --config {config} says; use one of mspie.'
            )
        settings = in_channels(settings)
        if wrong := _differences(settings.model, fields):
            raise ForeignFileError(f'is not of --config {config}: {"; ".join(wrong)}.')
        return settings, fields
    fitting = {row: in_channels(load_config(f'mspie:{row}')) for row in PUBLISHED}
    fitting = {row: found for row, found in fitting.items() if not _differences(found.model, fields)}
    if len(fitting) == 1:
        return fitting.popitem()[1], fields
    if fitting:
        raise ForeignFileError(_choices(fitting))
    if fields['head'] == 'spe':
        raise ForeignFileError(
            'has sinusoids of sizes that no published configuration has, and does not tell whether they are resized or '
            'go on at other scales: write a configuration with its settings, and name it with --config FILE.'
        )
    try:
        scales = {'scales': (0, 2, 4)} if fields.get('d_pool') else {}
        model = mspie.Config(**fields | scales)
        largest = mspie.output_size(model, max(model.scales))
        return Config('mspie', model, DataConfig(resolution=largest, channels=model.img_channels)), fields
    except ConfigError as error:
        raise ForeignFileError(f'does not describe a model of this library: {error}') from None


def _choices(fitting: Mapping[str, Config]) -> str:
    """What to choose from, and how the choices differ."""
    every = {row: dataclasses.asdict(found.model) for row, found in fitting.items()}
    first = next(iter(every.values()))
    differing = [name for name in first if any(fields[name] != first[name] for fields in every.values())]
    choices = ' or '.join(
        f'--config mspie:{row} ({", ".join(f"{name}={fields[name]}" for name in differing)})'
        for row, fields in every.items()
    )
    return f'fits several published configurations, which weights do not tell apart: choose {choices}.'


def _differences(model: mspie.Config, fields: Mapping[str, Any]) -> list[str]:
    """What differs between a file and a model."""
    has = {name: getattr(model, name) for name in fields}
    has |= {'channels': mspie.g_widths(model)} | (
        {'d_channels': mspie.d_widths(model)} if 'd_channels' in fields else {}
    )
    if fields['upsampling'] != 'deconv' and has['upsampling'] != 'deconv' and has['padding'] and fields['padding']:
        has['upsampling'] = fields['upsampling']
    return [f'{name} is {fields[name]}, not {has[name]}' for name in fields if fields[name] != has[name]]


def _generator_fields(g: Mapping[str, np.ndarray]) -> dict[str, Any]:
    levels = 1 + count_of(g, r'to_rgbs\.\d+\.bias')
    names = ('conv1', *(f'convs.{2 * b}' for b in range(levels - 1)))
    widths = tuple(shape_of(g, f'{name}.conv.weight_orig', 5)[1] for name in names)
    first = shape_of(g, 'conv1.conv.weight_orig', 5)[2]
    base, behind = (shape_of(g, f'injected_noise_{q}', 4)[2:] for q in (0, 1))
    head = 'const' if 'constant_input.input' in g else 'csg' if first == 2 else 'spe'
    # Without padding, the noise after a resize is larger than the maps that follow.
    padding = behind[0] == 2 * base[0]
    upsampling = 'conv-resize' if padding else 'resize-conv'
    height, width = (side << levels - 1 for side in base)
    return {
        'img_resolution': height if height == width else (height, width),
        'img_channels': shape_of(g, 'to_rgb1.conv.weight_orig', 5)[1],
        'z_dim': shape_of(g, 'style_mapping.1.linear.weight_orig', 2)[0],
        'mapping_layers': count_of(g, r'style_mapping\.\d+\.bias'),
        'channels': widths,
        'head': head,
        'upsampling': 'deconv' if 'convs.0.conv.blur.kernel' in g else upsampling,
        'padding': padding,
    }


def _discriminator_fields(d: Mapping[str, np.ndarray], g: Mapping[str, Any]) -> dict[str, Any]:
    blocks = count_of(d, r'convs\.\d+\.conv1\.1\.bias')
    widths = (shape_of(d, 'convs.0.0.conv.weight_orig', 4)[0],)
    widths += tuple(shape_of(d, f'convs.{j + 1}.conv2.1.conv.weight_orig', 4)[0] for j in range(blocks))
    bins, left = divmod(shape_of(d, 'final_linear.0.linear.weight_orig', 2)[1], widths[-1])
    side, size = math.isqrt(bins), g['img_resolution']
    height, width = (size, size) if isinstance(size, int) else size
    unpooled = bins == (height >> blocks) * (width >> blocks)
    if left or not (unpooled or side**2 == bins):
        raise ForeignFileError(f'has a discriminator whose {widths[-1]} last maps have {bins} positions, no square.')
    return {'d_channels': widths[::-1], 'd_pool': None if unpooled else side}
