"""CIPS checkpoints of the official program (PyTorch): training files and the released generators.

A training file is {'g', 'd', 'g_ema': state dicts, 'g_optim', 'd_optim': states of Adam}; a released one is only the
state dict of the generator's running mean. All sizes are read from the shapes of the arrays.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig
from pegan_jax.interop.imported import Imported, check_official, count_of, first_state, shape_of
from pegan_jax.models import cips
from pegan_jax.settings import UserError
from pegan_jax.weights import rules
from pegan_jax.weights.contents import ForeignFileError, arrays, shown
from pegan_jax.weights.rules import Rule

LICENCE = (
    'Converted weights keep the licence under which their source was published (official files: the licence of '
    'github.com/saic-mdal/CIPS and of the images that they were trained on); converting them grants no other.'
)

_LAYER = r'(conv1|linears\.\d+(?:\.conv[12])?|to_rgbs\.\d+|to_rgb_last)'


def _layer(name: str) -> str:
    """'linears.2.conv1', whose dots are underscores by now -> 'linears_2/conv1'."""
    return re.sub(r'_(conv[12])$', r'/\1', name)


def _mapping(leaf: str) -> Any:
    return lambda i: f'mapping/fc{int(i) - 1}/{leaf}'  # style.0 is the normalisation.


G_RULES = (
    Rule(r'lff\.ffm\.conv\.weight', 'lff/kernel', rules.dense),
    Rule(r'lff\.ffm\.conv\.bias', 'lff/bias', rules.flat),
    Rule(r'emb\.input', 'emb', lambda x: x[0].transpose(1, 2, 0)),
    Rule(r'style\.(\d+)\.weight', _mapping('kernel'), rules.dense),
    Rule(r'style\.(\d+)\.bias', _mapping('bias'), rules.flat),
    Rule(_LAYER + r'\.conv\.weight', lambda k: f'{_layer(k)}/weight', rules.dense),
    Rule(_LAYER + r'\.conv\.modulation\.weight', lambda k: f'{_layer(k)}/affine/kernel', rules.dense),
    Rule(_LAYER + r'\.conv\.modulation\.bias', lambda k: f'{_layer(k)}/affine/bias', rules.flat),
    Rule(_LAYER + r'\.noise\.weight', lambda k: f'{_layer(k)}/noise_strength', rules.scalar),
    Rule(_LAYER + r'(?:\.activate)?\.bias', lambda k: f'{_layer(k)}/bias', rules.flat),
    Rule(r'(linears\.\d+)\.skip\.0\.weight', '{0}/skip/kernel', rules.dense),
)


def g_rules_back(activation: str) -> tuple[Rule, ...]:
    """The inverse of G_RULES: from our paths to the names of the official program."""
    layer = r'(conv1|linears_\d+(?:/conv[12])?)/'
    bias = ('.activate.bias', rules.flat) if activation == 'lrelu' else ('.bias', rules.to_channels)

    def named(end: str) -> Any:
        return lambda k: re.sub(r'_(\d)', r'.\1', k).replace('/', '.') + end  # 'linears_2/conv1', but 'to_rgb_last'

    return (
        Rule(r'lff/kernel', 'lff.ffm.conv.weight', rules.to_conv),
        Rule(r'lff/bias', 'lff.ffm.conv.bias', rules.flat),
        Rule(r'emb', 'emb.input', lambda x: x.transpose(2, 0, 1)[None]),
        Rule(r'mapping/fc(\d+)/kernel', lambda i: f'style.{int(i) + 1}.weight', rules.to_dense),
        Rule(r'mapping/fc(\d+)/bias', lambda i: f'style.{int(i) + 1}.bias', rules.flat),
        Rule(r'(.+)/affine/kernel', named('.conv.modulation.weight'), rules.to_dense),
        Rule(r'(.+)/affine/bias', named('.conv.modulation.bias'), rules.flat),
        Rule(r'(.+)/noise_strength', named('.noise.weight'), rules.flat),
        Rule(r'(.+)/weight', named('.conv.weight'), rules.to_modulated),
        Rule(layer + 'bias', named(bias[0]), bias[1]),
        Rule(r'(to_rgbs_\d+|to_rgb_last)/bias', named('.bias'), rules.to_channels),
        Rule(r'(linears_\d+)/skip/kernel', named('.skip.0.weight'), rules.to_conv),
    )


def d_rules(side: int) -> tuple[Rule, ...]:
    """The rules for the discriminator of `side` pixels; paths begin with 'params' or 'buffers'."""

    def block(leaf: str, collection: str = 'params') -> Any:
        return lambda j: f'{collection}/b{side >> int(j) - 1}/{leaf}'

    return (
        Rule(r'convs\.0\.0\.weight', f'params/b{side}/fromrgb/kernel', rules.conv),
        Rule(r'convs\.0\.1\.bias', f'params/b{side}/fromrgb/bias', rules.flat),
        Rule(r'convs\.(\d+)\.conv1\.0\.weight', block('conv0/kernel'), rules.conv),
        Rule(r'convs\.(\d+)\.conv1\.1\.bias', block('conv0/bias'), rules.flat),
        Rule(r'convs\.(\d+)\.conv2\.0\.kernel', block('conv1/resample_filter', 'buffers'), np.asarray),
        Rule(r'convs\.(\d+)\.conv2\.1\.weight', block('conv1/kernel'), rules.conv),
        Rule(r'convs\.(\d+)\.conv2\.2\.bias', block('conv1/bias'), rules.flat),
        Rule(r'convs\.(\d+)\.skip\.0\.kernel', block('skip/resample_filter', 'buffers'), np.asarray),
        Rule(r'convs\.(\d+)\.skip\.1\.weight', block('skip/kernel'), rules.conv),
        Rule(r'final_conv\.0\.weight', 'params/b4/conv/kernel', rules.conv),
        Rule(r'final_conv\.1\.bias', 'params/b4/conv/bias', rules.flat),
        Rule(r'final_linear\.0\.weight', 'params/b4/fc/kernel', rules.flattened_dense(4, 4)),
        Rule(r'final_linear\.0\.bias', 'params/b4/fc/bias', rules.flat),
        Rule(r'final_linear\.1\.weight', 'params/b4/out/kernel', rules.dense),
        Rule(r'final_linear\.1\.bias', 'params/b4/out/bias', rules.flat),
    )


def recognises(tree: Any) -> bool:
    """Whether what `reader.read` returned is a CIPS."""
    found = (tree, tree.get('g_ema'), tree.get('g')) if isinstance(tree, dict) else ()
    return any(map(_is_generator, found))


def _is_generator(net: Any) -> bool:
    return isinstance(net, dict) and not {'emb.input', 'lff.ffm.conv.weight'}.isdisjoint(net)


def load(tree: Any, *, activation: str | None = None, sampling_only: bool = False) -> Imported:
    """Converts what `reader.read` returned.

    Args:
      activation: 'sin' or 'sinrelu', for files whose layers have one of these two: both are stored the same way.
      sampling_only: leave out the discriminator and the optimisers of a training file.
    Raises: ForeignFileError if the file is not a CIPS checkpoint, or one array is left over, missing or misshapen.
    """
    parts = _parts(tree)
    training = not sampling_only and 'd' in parts
    config, inferred = infer(tree, activation=activation, sampling_only=sampling_only)
    gan = cips.build(config)
    params, buffers, stats = jax.eval_shape(gan.init, jax.random.key(0))
    ema = rules.fill('g_ema', parts['g_ema'], G_RULES, params['g'])
    if not training:
        return Imported(config, inferred, {'params': ema, 'buffers': {}}, None)

    g = rules.fill('g', parts['g'], G_RULES, params['g'])
    of_d = d_rules(_d_side(parts['d']))
    d = rules.fill('d', parts['d'], of_d, {'params': params['d'], 'buffers': buffers['d']})
    state = first_state(gan, {'g': {'params': g, 'buffers': {}}, 'd': d}, ema, stats)
    opt = state.opt
    if 'g_optim' in tree:
        mu, nu, count = _moments('g_optim', tree['g_optim'], parts['g'])
        mu, nu = (rules.fill('g_optim', m, G_RULES, params['g']) for m in (mu, nu))
        opt['g'] = optax.tree_utils.tree_set(opt['g'], mu=mu, nu=nu, count=jnp.int32(count))
    if 'd_optim' in tree:
        mu, nu, count = _moments('d_optim', tree['d_optim'], parts['d'])
        mu, nu = (rules.fill('d_optim', m, of_d, {'params': params['d']})['params'] for m in (mu, nu))
        opt['d'] = optax.tree_utils.tree_set(opt['d'], mu=mu, nu=nu, count=jnp.int32(count))
    return Imported(config, inferred, state.sampling, state.replace(opt=opt))


def official(model: cips.Config, variables: dict) -> dict[str, np.ndarray]:
    """The state dict of the official program's generator, as released. Raises: UserError for what it does not have."""
    needed = {'fourier_features': True, 'coord_embedding': True, 'modulation': True, 'panorama_width': None,
              'lr_multiplier': 0.01, 'img_channels': 3}  # fmt: skip
    check_official(model, needed, side=model.size[0])
    if model.wiring == 'plain':
        raise UserError("model.wiring='plain' is none of the official program, so its weights have no place there.")
    return rules.rename(variables['params'], g_rules_back(model.activation))


def infer(tree: Any, *, activation: str | None = None, sampling_only: bool = False) -> tuple[Config, dict[str, Any]]:
    """The first two fields of `Imported`; the arguments are those of `load`."""
    parts = _parts(tree)
    fields = _generator_fields(parts['g_ema'], activation)
    optim = {}
    if 'd' in parts and not sampling_only:
        fields |= _discriminator_fields(parts['d'], fields)
        optim = _adam_settings(tree)
    try:
        model = cips.Config(**fields)
        # Published widths are left to the configuration, so that it equals that of a shipped file.
        for name, widths in (('channels', 'level_widths'), ('d_channels', 'd_widths')):
            published = dataclasses.replace(model, **{name: None})
            if getattr(published, widths) == getattr(model, widths):
                model = published
        data = DataConfig(resolution=model.img_resolution, channels=model.img_channels)
        config = Config('cips', model, data, OptimConfig(**optim))
        return config, fields | optim
    except ConfigError as error:
        raise ForeignFileError(f'does not describe a CIPS model: {error}') from None


def _parts(tree: Any) -> dict[str, dict[str, np.ndarray]]:
    """{'g_ema': {name: array}} of what `recognises` finds, in a training file also 'g' and 'd'."""
    if _is_generator(tree):
        return {'g_ema': arrays(tree)}
    if not isinstance(tree.get('g_ema'), dict):
        raise ForeignFileError("has no 'g_ema', the running mean of the generator, to sample from.")
    nets = [name for name in ('g', 'd') if name in tree]
    if len(nets) == 1:
        raise ForeignFileError(f'has {nets[0]!r} without the other network of a training file.')
    if extra := arrays({k: v for k, v in tree.items() if k not in ('g', 'd', 'g_ema', 'g_optim', 'd_optim')}):
        raise ForeignFileError(f'left over: {", ".join(map(shown, extra))}.')
    return {name: arrays(tree[name]) for name in ('g_ema', *nets)}


def _generator_fields(g: Mapping[str, np.ndarray], activation: str | None) -> dict[str, Any]:
    _, hidden_size, height, width = shape_of(g, 'emb.input', 4)
    residual = 'to_rgb_last.bias' in g
    if residual:
        levels = count_of(g, r'linears\.\d+\.conv2\.conv\.weight')
        widths = tuple(shape_of(g, f'linears.{k + 1}.conv2.conv.weight', 5)[1] for k in range(levels))
    else:
        levels = count_of(g, r'to_rgbs\.\d+\.conv\.weight')
        widths = tuple(shape_of(g, f'to_rgbs.{k}.conv.weight', 5)[2] for k in range(levels))
    first, last = ('linears.0', 'to_rgb_last') if residual else ('conv1', 'to_rgbs.0')
    z_dim = shape_of(g, f'{first}.conv.modulation.weight', 2)[1]
    if f'{first}.activate.bias' in g:
        if activation not in (None, 'lrelu'):
            raise ForeignFileError(f"has leaky ReLUs, so it cannot have activation={activation!r}; use 'lrelu'.")
        activation = 'lrelu'
    elif activation not in ('sin', 'sinrelu'):
        raise ForeignFileError(
            'has sines for activations, but does not tell whether in every channel or in every second one: say '
            "activation='sin' or 'sinrelu'."
        )
    return {
        'img_resolution': height if height == width else (height, width),
        'img_channels': shape_of(g, f'{last}.conv.weight', 5)[1],
        'hidden_size': hidden_size,
        'z_dim': z_dim,
        'mapping_layers': count_of(g, r'style\.\d+\.weight'),
        'channels': widths,
        'activation': activation,
        'wiring': 'residual' if residual else 'skip',
    }


def _d_side(d: Mapping[str, np.ndarray]) -> int:
    return 4 * 2 ** count_of(d, r'convs\.\d+\.conv1\.0\.weight')


def _discriminator_fields(d: Mapping[str, np.ndarray], g: Mapping[str, Any]) -> dict[str, Any]:
    if extra := count_of(d, r'convs\.[1-9]\d*\.0\.weight'):
        raise ForeignFileError(
            f'has a discriminator with {extra} more first layers, which is not supported; '
            '--sampling-only leaves the discriminator out.'
        )
    width, inputs = shape_of(d, 'convs.0.0.weight', 4)[:2]
    image = g['img_channels']
    if inputs not in (image, image + 2):
        raise ForeignFileError(
            f'has a discriminator of {inputs} input channels; {image} (image) and {image + 2} (with coordinates) exist.'
        )
    side = _d_side(d)
    blocks = side.bit_length() - 3
    widths = (width, *(shape_of(d, f'convs.{j + 1}.conv2.1.weight', 4)[0] for j in range(blocks)))
    return {
        'd_channels': widths,
        'd_sees_coords': inputs == image + 2,
        'patch_size': None if side == g['img_resolution'] else side,
    }


# Optimisers -----------------------------------------------------------------------------------------------------------


def _group(tree: Any, part: str) -> dict:
    groups = tree[part].get('param_groups') if isinstance(tree[part], dict) else None
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise ForeignFileError(f'{part} does not have the one group of parameters that the official program writes.')
    return groups[0]


def _adam_settings(tree: Any) -> dict[str, float]:
    """Undoes the correction for lazy regularisation, `cips.optimizers`: lr * ratio and beta ** ratio."""
    found = {}
    for part, field, interval in (('g_optim', 'g_lr', 4), ('d_optim', 'd_lr', 16)):
        if part in tree:
            group, ratio = _group(tree, part), interval / (interval + 1)
            try:
                found[field] = round(float(group['lr']) / ratio, 12)
                found['beta1'], found['beta2'] = (round(float(b) ** (1 / ratio), 9) for b in group['betas'])
                found['eps'] = float(group['eps'])
            except (KeyError, TypeError, ValueError) as error:
                raise ForeignFileError(f'{part} has settings that are not those of Adam: {shown(error)}.') from None
    return found


def _moments(part: str, optim: Any, net: Mapping[str, np.ndarray]) -> tuple[dict, dict, int]:
    """Adam's moments by the names of the parameters, and its count of steps.

    The file has them by position: that of the parameters in the state dict, which also has buffers.
    """
    names = [name for name in net if not name.endswith('.kernel')]
    state = optim.get('state')
    order = _group({part: optim}, part).get('params')
    if not isinstance(state, dict) or not isinstance(order, list) or len(order) != len(names):
        raise ForeignFileError(f'{part} is not an optimiser of the {len(names)} parameters of its network.')
    mu, nu, counts = {}, {}, set()
    for name, position in zip(names, order, strict=True):
        entry = state.get(position) if isinstance(position, int) else None
        if not isinstance(entry, dict) or entry.keys() != {'step', 'exp_avg', 'exp_avg_sq'}:
            raise ForeignFileError(f'{part} has no step, exp_avg and exp_avg_sq for {shown(name)}.')
        mu[name], nu[name] = entry['exp_avg'], entry['exp_avg_sq']
        step = np.asarray(entry['step'])  # A number, or a tensor since torch 1.12.
        if (
            not all(isinstance(m, np.ndarray) for m in (mu[name], nu[name]))
            or step.shape
            or step.dtype.kind not in 'iuf'
        ):
            raise ForeignFileError(f'{part} has a state for {shown(name)} that is not made of tensors.')
        counts.add(float(step))
    if len(state) != len(names) or len(counts) != 1 or not 0 <= (count := counts.pop()) < 2**31 or count % 1:
        raise ForeignFileError(f'{part} has left-over states, or parameters that took different numbers of steps.')
    return mu, nu, int(count)
