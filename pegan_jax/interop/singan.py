"""SinGAN checkpoints of the mmgen program (PyTorch), and blocks of the original program.

A checkpoint has the networks, {'state_dict': {'generator.blocks.0.head.conv.weight': ...}}; a second file, a pickle,
has the noise that makes the reconstruction and the amplitudes, {'fixed_noises', 'noise_weights', 'curr_stage'}. Images
are BGR there and RGB here: the colours of all layers that see or make them are swapped.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig
from pegan_jax.interop.imported import Imported
from pegan_jax.models import singan
from pegan_jax.weights import contents, rules
from pegan_jax.weights.contents import ForeignFileError, shown
from pegan_jax.weights.rules import Rule

LICENCE = (
    'Converted weights keep the licence under which their source was published (official files: the Apache-2.0 licence '
    'of MMGeneration, and the rights in the image that was learned); converting them grants no other.'
)

_LAYER = r'blocks\.(\d+)\.(head|body\.block\d+|tail)'


def _path(collection: str, leaf: str) -> Any:
    def path(block: str, layer: str) -> str:
        return f'{collection}/block{block}/{re.sub("^body_block", "body", layer)}/{leaf}'

    return path


RULES = (
    Rule(_LAYER + r'\.conv\.weight', _path('params', 'conv/kernel'), rules.conv),
    Rule(_LAYER + r'\.conv\.bias', _path('params', 'conv/bias'), rules.flat),
    Rule(_LAYER + r'\.bn\.weight', _path('params', 'bn/scale'), rules.flat),
    Rule(_LAYER + r'\.bn\.bias', _path('params', 'bn/bias'), rules.flat),
    Rule(_LAYER + r'\.bn\.running_mean', _path('stats', 'bn/mean'), rules.flat),
    Rule(_LAYER + r'\.bn\.running_var', _path('stats', 'bn/var'), rules.flat),
)
IGNORED = (_LAYER + r'\.bn\.num_batches_tracked', r'head_position_encode\._float_tensor')


def folded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Blocks of the original program under the names of mmgen's.

    There, convolutions before a normalisation have a bias. In evaluation mode it only shifts the running mean:
    (x + b - mean) = (x - (mean - b)).
    """
    out = {k.replace('.norm.', '.bn.').replace('tail.0.', 'tail.conv.'): v for k, v in arrays.items()}
    for name in [k for k in out if k.endswith('.bn.running_mean')]:
        bias = out.pop(name.replace('bn.running_mean', 'conv.bias'), 0.0)
        out[name] = out[name] - bias
    return out


def recognises(tree: Any) -> bool:
    """Whether what `reader.read` returned is a SinGAN of mmgen."""
    found = tree.get('state_dict') if isinstance(tree, dict) else None
    return isinstance(found, dict) and 'generator.blocks.0.head.conv.weight' in found


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """{'generator.blocks.0.head.conv.weight': array, ...}."""
    return contents.arrays(tree['state_dict'])


def infer(tree: Any, *, noises: Any = None) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run with this model, and {setting: value} of what the files tell.

    Padding leaves no trace in the weights. It is taken from the released models: those with an encoding pad every
    layer; of those without, the one whose noise has one channel for all colours pads nothing.

    Args:
      noises: what the second file holds; without it, noise channels and sizes are unknown, and left as published.
    Raises: ForeignFileError.
    """
    found = arrays(tree)
    blocks = sum(re.fullmatch(r'generator\.blocks\.\d+\.head\.conv\.weight', name) is not None for name in found)
    first = found['generator.blocks.0.head.conv.weight']
    tail = found.get('generator.blocks.0.tail.conv.weight')
    if first.ndim != 4 or tail is None or tail.ndim != 4:
        raise ForeignFileError('is not a SinGAN of mmgen: the first block has no head and tail of convolutions.')
    channels, img_channels = first.shape[1], tail.shape[0]
    encoding = {2: {'encoding': 'csg'}, img_channels: {'encoding': 'none'}}.get(channels)
    if encoding is None:
        if channels % 4:
            raise ForeignFileError(
                f'has {channels} input channels at the coarsest scale; {img_channels}, 2 and 4 n are known.'
            )
        encoding = {'encoding': 'spe', 'spe_dim': channels // 2}
    layers = sum(name.startswith('generator.blocks.0.') and name.endswith('conv.weight') for name in found)
    fields = {
        'img_channels': img_channels,
        'kernel_size': first.shape[2],
        'num_layers': layers,
        'base_channels': first.shape[0],
        'min_feat_channels': tail.shape[1],
        'd_norm': 'discriminator.blocks.0.head.bn.weight' in found,
        'rules': 'mmgen',
        **encoding,
    }
    if noises is not None:
        shapes = [noise.shape for noise in _noises(noises, blocks)]
        fields |= {'first_noise_channels': shapes[0][1], 'noise_channels': shapes[-1][1]}
    one = fields.get('noise_channels') == 1 < img_channels
    fields['padding'] = ('interp' if one else 'zero') if fields['encoding'] == 'none' else 'zero-layer'
    try:
        model = singan.Config(**fields)
        config = Config(
            'singan',
            model,
            DataConfig(image='unknown', channels=img_channels),
            OptimConfig(g_lr=5e-4, d_lr=5e-4, beta1=0.5, beta2=0.999),
            TrainConfig(batch_size=1, keep_best=0),
        )
    except ConfigError as error:
        raise ForeignFileError(f'does not describe a SinGAN of this library: {error}') from None
    return config, fields


def load(tree: Any, *, sampling_only: bool = False, noises: Any = None) -> Imported:
    """Converts what `reader.read` returned, to sample from and to edit with; critics are checked and left out.

    No file has the learned image. The model's reconstruction of it is used instead.

    Args:
      noises: what the second file holds.
    Raises: ForeignFileError if the second file is missing, or one array is left over, missing or misshapen.
    """
    if noises is None:
        raise ForeignFileError(
            'holds the networks of a SinGAN; its noises are in a second file, a .pkl: name it with --noises.'
        )
    config, inferred = infer(tree, noises=noises)
    model, found = config.model, arrays(tree)
    count = sum(name.endswith('head.conv.weight') and name.startswith('generator.') for name in found)
    generator = networks(model, found, 'generator.', count, singan.g_block)
    networks(model, found, 'discriminator.', count, singan.d_block)
    if extra := [name for name in found if not name.startswith(('generator.', 'discriminator.'))]:
        raise ForeignFileError(f'left over: {", ".join(map(shown, extra))}.')
    fixed = [noise.transpose(0, 2, 3, 1)[0].astype(np.float32) for noise in _noises(noises, count)]
    if model.encoding == 'none':
        fixed[0] = rules.swap_colours(fixed[0])
    amp = np.asarray(noises['noise_weights'], np.float32)
    if amp.shape != (count,) or any(np.any(noise) for noise in fixed[1:]):
        raise ForeignFileError(
            'the noises do not fit the networks: an amplitude per scale, zeros but for the coarsest.'
        )
    margin = 2 * model.noise_margin
    sizes = [(noise.shape[0] - margin, noise.shape[1] - margin) for noise in fixed]
    buffers = {
        'stats': generator['stats'],
        'noise': fixed[0],
        'amp': amp,
        'scale': np.int32(min(int(noises.get('curr_stage', count - 1)), count - 1)),
        'reals': {f'scale{s}': np.zeros((*size, model.img_channels), np.float32) for s, size in enumerate(sizes)},
    }
    on_device = jax.tree.map(jnp.asarray, buffers)
    images, _ = singan.generate(
        model, generator['params'], on_device, singan.fixed_noises(model, on_device, count), ratio=0.5
    )
    buffers['reals'] = {f'scale{s}': np.clip(np.asarray(image[0]), -1, 1) for s, image in enumerate(images)}
    return Imported(config, inferred, {'params': generator['params'], 'buffers': buffers}, None)


def networks(
    model: singan.Config, found: Mapping[str, np.ndarray], prefix: str, count: int, block: Any, bgr: bool = True
) -> dict:
    """{'params', 'stats'} of `count` blocks from the arrays under `prefix`; colours become RGB if they are BGR."""
    source = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    target, side = {'params': {}, 'stats': {}}, 2 * model.margin + 1
    for s in range(count):
        channels = model.in_channels(s) if block is singan.g_block else model.img_channels
        x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        shapes = jax.eval_shape(lambda x, s=s: block(model, s).init(jax.random.key(0), x, False), x)
        target['params'][f'block{s}'] = shapes['params']
        target['stats'][f'block{s}'] = shapes.get('batch_stats', {})
    out = rules.fill(f'{prefix}blocks', source, RULES, target, ignored=IGNORED)
    if bgr:
        turn_colours(model, out['params'], block)
    return out


def turn_colours(model: singan.Config, params: dict, block: Any) -> None:
    """Swaps the colours in the blocks of a generator or critic, in place: BGR to RGB and back."""
    for name, layers in params.items():
        head, tail = layers['head']['conv'], layers['tail']['conv']
        if block is singan.d_block or name != 'block0' or model.encoding == 'none':
            head['kernel'] = rules.swap_colours(head['kernel'], 2)
        tail['kernel'], tail['bias'] = rules.swap_colours(tail['kernel']), rules.swap_colours(tail['bias'])


def _noises(noises: Any, count: int) -> list[np.ndarray]:
    """The noise of each scale, [1, C, h, w]."""
    found = noises.get('fixed_noises') if isinstance(noises, dict) else None
    if not isinstance(found, list) or len(found) != count or 'noise_weights' not in noises:
        raise ForeignFileError(
            f"the noises are not a dictionary with 'noise_weights' and 'fixed_noises', a list of {count} arrays."
        )
    if not all(isinstance(noise, np.ndarray) and noise.ndim == 4 and len(noise) == 1 for noise in found):
        raise ForeignFileError('the noises are not all arrays of shape (1, channels, height, width).')
    return found
