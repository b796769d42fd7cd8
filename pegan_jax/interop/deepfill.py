"""DeepFillv2: checkpoints of the official TensorFlow program, and files of its PyTorch port in both of its layouts.

An official checkpoint is {variable: array}, kernels [k, k, in, out]; a file of the port {'G': state dict, 'D': ...},
kernels (out, in, k, k). Names tell its layout: 'port-tf', meant for converted official weights, or 'port-pt', its own
networks. The official program reads BGR images; here everything is RGB, so its colours are swapped.
"""

import re
from typing import Any

import jax
import numpy as np

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig
from pegan_jax.interop.imported import Imported, first_state
from pegan_jax.models import deepfill
from pegan_jax.settings import UserError
from pegan_jax.weights import contents, rules
from pegan_jax.weights.contents import ForeignFileError, shown
from pegan_jax.weights.rules import Rule

LICENCE = (
    'Converted weights keep the licence under which their source was published, which may exclude commercial use, and '
    'converting them grants no other: read it where the file came from.'
)

# Layers, and their names in layout 'port-pt'.
LAYERS = {
    'conv1': 'stage1.conv1',
    'conv2_downsample': 'stage1.down_block1.conv1_downsample',
    'conv3': 'stage1.down_block1.conv2',
    'conv4_downsample': 'stage1.down_block2.conv1_downsample',
    'conv5': 'stage1.down_block2.conv2',
    'conv6': 'stage1.conv_bn1',
    'conv7_atrous': 'stage1.conv_bn2',
    'conv8_atrous': 'stage1.conv_bn3',
    'conv9_atrous': 'stage1.conv_bn4',
    'conv10_atrous': 'stage1.conv_bn5',
    'conv11': 'stage1.conv_bn6',
    'conv12': 'stage1.conv_bn7',
    'conv13_upsample': 'stage1.up_block1.conv1_upsample.conv',
    'conv14': 'stage1.up_block1.conv2',
    'conv15_upsample': 'stage1.up_block2.conv1_upsample.conv',
    'conv16': 'stage1.up_block2.conv2',
    'conv17': 'stage1.conv_to_rgb',
    'xconv1': 'stage2.conv_conv1',
    'xconv2_downsample': 'stage2.conv_down_block1.conv1_downsample',
    'xconv3': 'stage2.conv_down_block1.conv2',
    'xconv4_downsample': 'stage2.conv_down_block2.conv1_downsample',
    'xconv5': 'stage2.conv_down_block2.conv2',
    'xconv6': 'stage2.conv_conv_bn1',
    'xconv7_atrous': 'stage2.conv_conv_bn2',
    'xconv8_atrous': 'stage2.conv_conv_bn3',
    'xconv9_atrous': 'stage2.conv_conv_bn4',
    'xconv10_atrous': 'stage2.conv_conv_bn5',
    'pmconv1': 'stage2.ca_conv1',
    'pmconv2_downsample': 'stage2.ca_down_block1.conv1_downsample',
    'pmconv3': 'stage2.ca_down_block1.conv2',
    'pmconv4_downsample': 'stage2.ca_down_block2.conv1_downsample',
    'pmconv5': 'stage2.ca_down_block2.conv2',
    'pmconv6': 'stage2.ca_conv_bn1',
    'pmconv9': 'stage2.ca_conv_bn4',
    'pmconv10': 'stage2.ca_conv_bn5',
    'allconv11': 'stage2.conv_bn6',
    'allconv12': 'stage2.conv_bn7',
    'allconv13_upsample': 'stage2.up_block1.conv1_upsample.conv',
    'allconv14': 'stage2.up_block1.conv2',
    'allconv15_upsample': 'stage2.up_block2.conv1_upsample.conv',
    'allconv16': 'stage2.up_block2.conv2',
    'allconv17': 'stage2.conv_to_rgb',
}
D_LAYERS = tuple(f'conv{i}' for i in range(1, 7))
_OFFICIAL_G, _OFFICIAL_D = 'inpaint_net/', 'discriminator/sn_patch_gan/'
# Names from the official optimiser and the trainer: the moments of every variable, and counters.
_TRAINING = r'(.+)/Adam(_1)?|beta[12]_power|global_step|lr'


def recognises(tree: Any) -> bool:
    """Whether what `interop.read` returned is a DeepFillv2."""
    return _layout(tree) is not None


def _layout(tree: Any) -> str | None:
    if not isinstance(tree, dict):
        return None
    if f'{_OFFICIAL_G}conv1/kernel' in tree:
        return 'official'
    g = tree.get('G')
    if not isinstance(g, dict):
        return None
    first = {'port-pt': 'stage1.conv1.conv.weight', 'port-tf': 'xconv1.conv.weight'}
    return next((layout for layout, name in first.items() if name in g), None)


def names(layout: str, net: str) -> dict[str, str]:
    """{name in the file, without 'weight', 'kernel' and the like: layer} of net 'g' or 'd'."""
    if net == 'd':
        form = _OFFICIAL_D + '{}' if layout == 'official' else '{}.conv_sn'
        return {form.format(name): name for name in D_LAYERS}
    if layout == 'port-pt':
        return {f'{theirs}.conv': name for name, theirs in LAYERS.items()}
    up = {name: 'upsample' in name for name in LAYERS}
    if layout == 'port-tf':
        return {f'{name}.conv.conv' if up[name] else f'{name}.conv': name for name in LAYERS}
    return {f'{_OFFICIAL_G}{name}/{name}_conv' if up[name] else f'{_OFFICIAL_G}{name}': name for name in LAYERS}


def rules_of(layout: str, net: str) -> tuple[Rule, ...]:
    """Where the arrays of a network go."""
    out = []
    for theirs, name in names(layout, net).items():
        if layout == 'official':
            leaves = [('/kernel', 'params/{}/kernel', np.asarray), ('/bias', 'params/{}/bias', rules.flat)]
            leaves += [('/kernel_sn/u', 'buffers/{}/u', np.asarray)] if net == 'd' else []
        else:
            leaves = [('.weight', 'params/{}/kernel', rules.conv), ('.bias', 'params/{}/bias', rules.flat)]
            leaves += [('.weight_u', 'buffers/{}/u', np.transpose)] if net == 'd' else []
        out += [Rule(re.escape(theirs + leaf), path.format(name), change) for leaf, path, change in leaves]
    return tuple(out)


def turn_colours(params: dict[str, dict], channels: int) -> None:
    """Swaps the colours in a generator's or discriminator's parameters, in place: BGR to RGB and back.

    channels: those of images, which come first among the inputs of all layers that see one.
    """
    for name in params.keys() & {'conv1', 'xconv1', 'pmconv1'}:
        params[name]['kernel'] = rules.swap_colours(params[name]['kernel'], 2, channels)
    for name in params.keys() & {'conv17', 'allconv17'}:
        params[name] |= {leaf: rules.swap_colours(array) for leaf, array in params[name].items()}


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """All arrays by name; the port's begin with the part of the file: 'G.stage1.conv1.conv.weight'."""
    if _layout(tree) == 'official':
        return {name: array for name, array in tree.items() if isinstance(array, np.ndarray)}
    return contents.arrays(tree)


def parts(tree: Any) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """The arrays of 'g' and, if there is one, of 'd'; and the names of what is knowingly left out.

    What belongs to training (optimisers, counters) is left out, and so is what an official checkpoint has in neither
    network.
    """
    found, layout = arrays(tree), _layout(tree)
    prefixes = {'g': _OFFICIAL_G, 'd': _OFFICIAL_D} if layout == 'official' else {'g': 'G.', 'd': 'D.'}
    nets, skipped = {'g': {}, 'd': {}}, []
    for name, array in found.items():
        net = next((net for net, prefix in prefixes.items() if name.startswith(prefix)), None)
        constant = name == 'G.stage2.contextual_attention.fuse_weight'
        if net is None or constant or (layout == 'official' and re.fullmatch(_TRAINING, name)):
            skipped.append(name)
        else:
            nets[net][name if layout == 'official' else name.removeprefix(prefixes[net])] = array
    return {net: source for net, source in nets.items() if source}, skipped


def infer(tree: Any, *, colours: str | None = None) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run with this model, and {setting: value} of what the file tells, with what is left out.

    Args:
      colours: 'bgr' or 'rgb', what the weights expect; None: 'bgr' for the official program, and 'rgb' for the port. It
        is uncertain for the port's files in the official layout: its scripts feed RGB, but nothing says whether the
        weights were swapped when they were converted. If the colours of holes look wrong, try 'bgr'.
    Raises: ForeignFileError; ValueError for other colours.
    """
    layout = _layout(tree)
    if colours not in (None, 'rgb', 'bgr'):
        raise UserError(f"colours={colours!r}; use 'rgb' or 'bgr'.")
    nets, skipped = parts(tree)
    first = {'official': f'{_OFFICIAL_G}conv1/kernel', 'port-tf': 'conv1.conv.weight'}
    kernel = nets['g'].get(first.get(layout, 'stage1.conv1.conv.weight'))
    if kernel is None or kernel.ndim != 4:
        shape = 'is missing' if kernel is None else f'has the shape {kernel.shape}; expected four axes'
        raise ForeignFileError(f'the kernel of conv1 {shape}.')
    inputs, cnum = kernel.shape[2:] if layout == 'official' else kernel.shape[1::-1]
    last = next(theirs for theirs, name in names(layout, 'g').items() if name == 'conv17')
    bias = nets['g'].get(f'{last}/bias' if layout == 'official' else f'{last}.bias')
    if bias is None or bias.ndim != 1:
        raise ForeignFileError('the generator is not complete: conv17 has no bias.')
    img_channels, more = bias.shape[0], inputs - bias.shape[0]
    if more not in (2, 3):
        raise ForeignFileError(
            f'conv1 has {inputs} input channels; known are {img_channels + 2}, and {img_channels + 3} with sketches.'
        )
    fields = {'img_channels': img_channels, 'cnum': cnum, 'guided': more == 3, **deepfill.VARIANTS[layout]}
    if 'd' in nets:
        bias = nets['d'].get(f'{_OFFICIAL_D}conv1/bias' if layout == 'official' else 'conv1.conv_sn.bias')
        if bias is None or bias.ndim != 1:
            raise ForeignFileError('the discriminator is not complete: conv1 has no bias.')
        fields['d_cnum'] = bias.shape[0]
    try:
        model = deepfill.Config(**fields)
        # No file says with which edges it was trained; further training takes those of --config.data.edges.
        edges = {'edges': 'canny'} if fields['guided'] else {}
        config = Config(
            'deepfill',
            model,
            DataConfig(resolution=256, channels=img_channels, crop='window', flip=False, **edges),
            OptimConfig(g_lr=1e-4, d_lr=1e-4, beta1=0.5, beta2=0.999),
            TrainConfig(batch_size=16),
        )
    except ConfigError as error:
        raise ForeignFileError(f'does not describe a DeepFillv2 of this library: {error}') from None
    told = {'layout': layout, 'colours': colours or ('bgr' if layout == 'official' else 'rgb'), **fields}
    return config, told | ({'left_out': summary(skipped)} if skipped else {})


def summary(skipped: list[str]) -> str:
    """What is left out, in one line: the moments of optimisers and all names of the rest."""
    moments = [name for name in skipped if re.fullmatch(r'(.+)/Adam(_1)?|[GD]_optim\..+', name)]
    rest = [shown(name) for name in skipped if name not in set(moments)]
    return ', '.join(([f'{len(moments)} arrays of optimisers'] if moments else []) + rest)


def load(tree: Any, *, sampling_only: bool = False, colours: str | None = None) -> Imported:
    """Converts what `interop.read` returned; a discriminator in the file makes it a training state with new optimisers.

    Args:
      sampling_only: leave out the discriminator.
      colours: as for `infer`.
    Raises: ForeignFileError if one array of a network is left over, missing or misshapen; ValueError as `infer`.
    """
    config, told = infer(tree, colours=colours)
    nets, _ = parts(tree)
    gan = deepfill.build(config)
    shapes = jax.eval_shape(gan.init, jax.random.key(0))
    out = {}
    for net, source in nets.items():
        target = {'params': shapes[0][net], 'buffers': shapes[1][net]}
        out[net] = rules.apply(source, rules_of(told['layout'], net), target)
        if told['colours'] == 'bgr':
            turn_colours(out[net]['params'], told['img_channels'])
    sampling = {'params': out['g']['params'], 'buffers': out['g']['buffers']}
    if sampling_only or 'd' not in out:
        return Imported(config, told, sampling, None)
    state = first_state(gan, out, None, {})
    return Imported(config, told, state.sampling, state)
