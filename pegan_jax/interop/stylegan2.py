"""StyleGAN2 of the widespread PyTorch port (`.pt`), and of the first release in TensorFlow (`.pkl`).

The port's file is {'g_ema': state dict} with 'g', 'd', 'latent_avg' and more beside it, or only a generator's state
dict. The release's is (G, D, Gs): objects of `dnnlib.tflib.network.Network`, which hold their variables by name and
have parts of the same kind; Gs is the running mean. All sizes are read from the shapes of the arrays.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import filters
from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig
from pegan_jax.gan import size_of
from pegan_jax.interop import cips
from pegan_jax.interop.imported import Imported, Table, check_official, first_state, plain, settings
from pegan_jax.models import stylegan2
from pegan_jax.models.discriminator import num_halvings, widths
from pegan_jax.weights import contents, rules
from pegan_jax.weights.contents import MAX_DEPTH, Budget, ForeignFileError, shown
from pegan_jax.weights.rules import Rule

LICENCE = (
    'Converted weights keep the licence under which their source was published (networks of the first release: the '
    'Nvidia Source Code License-NC, non-commercial use only; fine-tuned ones: also what their author says); converting '
    'them grants no other.'
)

NETWORKS = ('g_ema', 'g', 'd')
_LEFT_OUT = ('g_optim', 'd_optim', 'args', 'ada_aug_p', 'iter', 'e', 'd_ema')  # of the port, beside the networks
_TF_NETWORK = 'dnnlib.tflib.network.Network'
MEAN_SAMPLES = 4096  # mapped latents whose mean replaces one that a file does not have, as in the port


class _Layout(NamedTuple):
    """Where the arrays of a program go, and the names that tell sizes."""

    g: tuple[Rule, ...]
    d: Callable[[int], tuple[Rule, ...]]
    ignored: tuple[str, ...]
    mapping: str  # pattern of the mapping network's weights
    first_width: Callable[[Mapping[str, np.ndarray]], int]


# The port -------------------------------------------------------------------------------------------------------------


def _side(n: str) -> int:
    """Side of the maps after the n-th of `convs`, or after noise n + 1."""
    return 8 << int(n) // 2


def _of_convs(leaf: str) -> Callable:
    return lambda n, collection='params': f'{collection}/synthesis/b{_side(n)}/conv{int(n) % 2}/{leaf}'


def _noise(n: str) -> str:
    place = 'b4/conv1' if n == '0' else f'b{_side(str(int(n) - 1))}/conv{(int(n) - 1) % 2}'
    return f'buffers/synthesis/{place}/noise_const'


def _mapping_layer(leaf: str, first: int) -> Callable:
    return lambda n: f'params/mapping/fc{int(n) - first}/{leaf}'


def _modulated(array: np.ndarray) -> np.ndarray:
    """(1, out, in, k, k) -> [k, k, in, out]."""
    return rules.conv(array[0])


def _each(pattern: str, path: Callable[[str], Any]) -> tuple[Rule, ...]:
    """The rules for one kind of layer; path: leaf -> path of it."""
    return (
        Rule(pattern + r'\.conv\.weight', path('weight'), _modulated),
        Rule(pattern + r'\.conv\.modulation\.weight', path('affine/kernel'), rules.dense),
        Rule(pattern + r'\.conv\.modulation\.bias', path('affine/bias'), rules.flat),
        Rule(pattern + r'\.noise\.weight', path('noise_strength'), rules.scalar),
        Rule(pattern + r'(?:\.activate)?\.bias', path('bias'), rules.flat),
    )


_PORT_G = (
    Rule(r'style\.(\d+)\.weight', _mapping_layer('kernel', 1), rules.dense),  # style.0 is the normalisation
    Rule(r'style\.(\d+)\.bias', _mapping_layer('bias', 1), rules.flat),
    Rule(r'latent_avg', 'buffers/mapping/w_avg', rules.flat),
    Rule(r'input\.input', 'params/synthesis/b4/const', lambda x: x[0].transpose(1, 2, 0)),
    *_each(r'conv1', lambda leaf: f'params/synthesis/b4/conv1/{leaf}'),
    *_each(r'convs\.(\d+)', _of_convs),
    *_each(r'to_rgb1', lambda leaf: f'params/synthesis/b4/torgb/{leaf}'),
    *_each(r'to_rgbs\.(\d+)', lambda leaf: lambda n: f'params/synthesis/b{8 << int(n)}/torgb/{leaf}'),
    Rule(r'convs\.(\d+)\.conv\.blur\.kernel', lambda n: _of_convs('resample_filter')(n, 'buffers'), rules.quarter),
    Rule(
        r'to_rgbs\.(\d+)\.upsample\.kernel',
        lambda n: f'buffers/synthesis/b{8 << int(n)}/resample_filter',
        rules.quarter,
    ),
    Rule(r'noises\.noise_(\d+)', _noise, lambda x: x[0, 0]),
)
_PORT = _Layout(_PORT_G, cips.d_rules, (), r'style\.\d+\.weight', lambda d: d['convs.0.0.weight'].shape[0])


def _place(path: str) -> str:
    """'b16/conv0' -> 'convs.2', 'b16/torgb' or 'b16' -> 'to_rgbs.1'; those of 4 pixels have other names."""
    side, _, kind = path.partition('/')
    level = int(side[1:]).bit_length() - 4  # 8 pixels are 0
    if kind.startswith('conv'):
        return 'conv1' if level < 0 else f'convs.{2 * level + int(kind[4:])}'
    return 'to_rgb1' if level < 0 else f'to_rgbs.{level}'


def _placed(end: str) -> Callable:
    return lambda path: _place(path) + end


_BACK = (
    Rule(r'params/mapping/fc(\d+)/kernel', lambda i: f'style.{int(i) + 1}.weight', rules.to_dense),
    Rule(r'params/mapping/fc(\d+)/bias', lambda i: f'style.{int(i) + 1}.bias', rules.flat),
    Rule(r'buffers/mapping/w_avg', 'latent_avg', rules.flat),
    Rule(r'params/synthesis/b4/const', 'input.input', lambda x: x.transpose(2, 0, 1)[None]),
    Rule(r'params/synthesis/(.+)/affine/kernel', _placed('.conv.modulation.weight'), rules.to_dense),
    Rule(r'params/synthesis/(.+)/affine/bias', _placed('.conv.modulation.bias'), rules.flat),
    Rule(r'params/synthesis/(.+)/weight', _placed('.conv.weight'), rules.to_modulated),
    Rule(r'params/synthesis/(.+)/noise_strength', _placed('.noise.weight'), rules.flat),
    Rule(r'params/synthesis/(b\d+/conv\d)/bias', _placed('.activate.bias'), rules.flat),
    Rule(r'params/synthesis/(b\d+/torgb)/bias', _placed('.bias'), rules.to_channels),
    Rule(r'buffers/synthesis/(b\d+/conv0)/resample_filter', _placed('.conv.blur.kernel'), lambda x: 4 * x),
    Rule(r'buffers/synthesis/(b\d+)/resample_filter', _placed('.upsample.kernel'), lambda x: 4 * x),
    Rule(
        r'buffers/synthesis/b(\d+)/conv(\d)/noise_const',
        lambda side, k: f'noises.noise_{2 * int(side).bit_length() - 7 + int(k) if side != "4" else 0}',
        lambda x: x[None, None],
    ),
)


def official(model: stylegan2.Config, variables: dict) -> dict[str, np.ndarray]:
    """The state dict of the port's generator, with latent_avg beside it. Raises: UserError for what the port lacks."""
    needed = {'c_dim': 0, 'architecture': 'skip', 'input': 'const', 'use_noise': True, 'conv_clamp': None,
              'w_dim': model.z_dim, 'img_channels': 3}  # fmt: skip
    check_official(model, needed, side=4 << num_halvings(model.size))
    return rules.rename(variables, _BACK)


# The first release ----------------------------------------------------------------------------------------------------


def _flipped(array: np.ndarray) -> np.ndarray:
    """The kernel of an upsampling convolution, which their program reverses."""
    return array[::-1, ::-1]


def _first_dense(array: np.ndarray) -> np.ndarray:
    """[C * 16, out], flattened as C, H, W -> [16 * C, out], flattened as H, W, C."""
    return array.reshape(-1, 4, 4, array.shape[1]).transpose(1, 2, 0, 3).reshape(array.shape)


def _tf_layer(theirs: str, ours: str, change: Callable = np.asarray) -> tuple[Rule, ...]:
    """The rules for a modulated convolution."""
    ours = f'params/synthesis/b{{0}}/{ours}/'
    pattern = rf'synthesis/(\d+)x\d+/{theirs}/'
    return (
        Rule(pattern + 'weight', ours + 'weight', change),
        Rule(pattern + 'mod_weight', ours + 'affine/kernel', np.asarray),
        Rule(pattern + 'mod_bias', ours + 'affine/bias', lambda x: x + 1),
        Rule(pattern + 'noise_strength', ours + 'noise_strength', rules.scalar),
        Rule(pattern + 'bias', ours + 'bias', np.asarray),
    )


_TF_G = (
    Rule(r'mapping/Dense(\d+)/weight', _mapping_layer('kernel', 0), np.asarray),
    Rule(r'mapping/Dense(\d+)/bias', _mapping_layer('bias', 0), np.asarray),
    Rule(r'dlatent_avg', 'buffers/mapping/w_avg', rules.flat),
    Rule(r'synthesis/4x4/Const/const', 'params/synthesis/b4/const', lambda x: x[0].transpose(1, 2, 0)),
    *_tf_layer('Conv', 'conv1'),
    *_tf_layer('Conv0_up', 'conv0', _flipped),
    *_tf_layer('Conv1', 'conv1'),
    *_tf_layer('ToRGB', 'torgb'),
    Rule(r'synthesis/(\d+)x\d+/Skip/weight', 'params/synthesis/b{0}/skip/kernel', _flipped),
    Rule(r'synthesis/noise(\d+)', _noise, lambda x: x[0, 0]),
)


def _tf_d(side: int) -> tuple[Rule, ...]:
    names = {'FromRGB': 'fromrgb', 'Conv0': 'conv0', 'Conv1_down': 'conv1', 'Skip': 'skip', 'Conv': 'conv'}
    return (
        *(
            Rule(rf'(\d+)x\d+/{theirs}/{leaf}', f'params/b{{0}}/{ours}/{kind}', np.asarray)
            for theirs, ours in names.items()
            for leaf, kind in (('weight', 'kernel'), ('bias', 'bias'))
        ),
        Rule(r'4x4/Dense0/weight', 'params/b4/fc/kernel', _first_dense),
        Rule(r'4x4/Dense0/bias', 'params/b4/fc/bias', np.asarray),
        Rule(r'Output/weight', 'params/b4/out/kernel', np.asarray),
        Rule(r'Output/bias', 'params/b4/out/bias', np.asarray),
    )


_TF = _Layout(
    _TF_G,
    _tf_d,
    (r'(synthesis/|mapping/)?lod',),
    r'mapping/Dense\d+/weight',
    lambda d: max((int(n.split('x')[0]), d[n].shape[-1]) for n in d if n.endswith('/FromRGB/weight'))[1],
)


def _variables(network: Any, budget: Budget, prefix: str = '') -> dict[str, np.ndarray]:
    """{'synthesis/4x4/Const/const': array, ...} of a network and its parts."""
    if prefix.count('/') > MAX_DEPTH:
        raise ForeignFileError(f'networks are nested more than {MAX_DEPTH} deep.')
    found = network.get('variables', []) if isinstance(network, dict) else None
    if not isinstance(found, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in found):
        raise ForeignFileError(f'{shown(prefix) or "a network"} has no list of variables.')
    budget.spend((100 + len(found)) * (1 + len(prefix) // 64))  # long names may be doubled often
    out = {f'{prefix}{shown(name)}': array for name, array in found if isinstance(array, np.ndarray)}
    for name, part in _components(network).items():
        out |= _variables(part, budget, f'{prefix}{shown(name)}/')
    return out


def _components(network: Mapping[str, Any]) -> Mapping[str, Any]:
    found = network.get('components') or {}
    if not isinstance(found, dict):
        raise ForeignFileError(f'a network has {shown(found)} for components.')
    return found


# What its networks were made with. Sizes, widths and the architecture show in the arrays; truncation, random noise and
# how a program computes are up to whoever makes images; labels are refused by their arrays.
_TF_ARGUMENTS: Table = {
    name: None
    for name in (
        'latent_size', 'label_size', 'dlatent_size', 'dlatent_broadcast', 'mapping_layers', 'mapping_fmaps',
        'num_channels', 'resolution', 'fmap_base', 'fmap_decay', 'fmap_min', 'fmap_max', 'architecture', 'dtype',
        'randomize_noise', 'fused_modconv', 'num_fp16_res', 'truncation_psi', 'truncation_cutoff',
        'truncation_psi_val', 'truncation_cutoff_val', 'style_mixing_prob', 'is_training', 'is_validation',
        'is_template_graph', 'return_dlatents', 'mapping_func', 'synthesis_func', 'freeze_layers',
    )
}  # fmt: skip
_TF_ARGUMENTS |= {
    'nonlinearity': ('lrelu',), 'resample_kernel': ([1, 3, 3, 1],), 'conv_clamp': 'conv_clamp',
    'mapping_nonlinearity': ('lrelu',), 'mapping_lrmul': (0.01,), 'normalize_latents': (True,),
    'use_noise': 'use_noise', 'dlatent_avg_beta': 'w_avg_beta',
}  # fmt: skip
_TF_D: Table = _TF_ARGUMENTS | {'mbstd_group_size': 'mbstd_group_size', 'mbstd_num_features': (1,)}


def _tf_fields(tree: Any, sampling_only: bool) -> tuple[dict[str, Any], list[str]]:
    """{setting: value} that the networks were made with, and names of arguments that are in no table.

    Raises: ForeignFileError for what this library does not have, and if the settings of the networks differ.
    """
    budget, g, unknown = Budget(), {}, set()
    g_net, d_net, mean = tree
    for name, network in (('Gs', mean), *(() if sampling_only else (('G', g_net),))):
        for part, made in ((name, network), *((f'{name}.{shown(k)}', v) for k, v in _components(network).items())):
            arguments = _tf_arguments(part, made, budget)
            unknown |= arguments.keys() - _TF_ARGUMENTS.keys()
            found = settings(part, _known(arguments, _TF_ARGUMENTS), _TF_ARGUMENTS)
            _same_settings(part, found, g)
            g |= found
    if sampling_only:
        return g, sorted(unknown)
    arguments = _tf_arguments('D', d_net, budget)
    unknown |= arguments.keys() - _TF_D.keys()
    d = settings('D', _known(arguments, _TF_D), _TF_D)
    clamp = {'conv_clamp': d.get('conv_clamp')}
    _same_settings('D', clamp, {'conv_clamp': g.get('conv_clamp')})
    return g | {name: d[name] for name in ('mbstd_group_size',) if name in d}, sorted(unknown)


def _known(arguments: dict[str, Any], table: Table) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in table}


def _tf_arguments(what: str, network: Any, budget: Budget) -> dict[str, Any]:
    found = network.get('static_kwargs', {}) if isinstance(network, dict) else None
    if not isinstance(found, dict):
        raise ForeignFileError(f'{what} has {shown(found)} for static_kwargs.')
    return plain(found, budget)


def _same_settings(what: str, found: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    for name in found.keys() & others.keys():
        if found[name] != others[name]:
            raise ForeignFileError(
                f'{what} has {name}={shown(found[name])}, another network of the file {shown(others[name])}; one for '
                'all is supported. --sampling-only looks at Gs alone.'
            )


# Both -----------------------------------------------------------------------------------------------------------------


def recognises(tree: Any) -> bool:
    """Whether what `reader.read` returned is one of these."""
    return _is_tf(tree) or (isinstance(tree, dict) and _is_generator(tree.get('g_ema', tree)))


def _is_generator(found: Any) -> bool:
    return isinstance(found, dict) and {'input.input', 'conv1.conv.modulation.weight'} <= found.keys()


def _is_tf(tree: Any) -> bool:
    return (
        isinstance(tree, (tuple, list))
        and len(tree) == 3
        and all(getattr(network, 'class_name', None) == _TF_NETWORK for network in tree)
    )


def parts(tree: Any) -> dict[str, dict[str, np.ndarray]]:
    """{'g_ema': {name: array}}, and 'g' and 'd' if the file has them; the mean of w is in the generators.

    Raises: ForeignFileError for what is left over.
    """
    if _is_tf(tree):
        budget = Budget()
        return {net: _variables(network, budget) for net, network in zip(('g', 'd', 'g_ema'), tree, strict=True)}
    if 'g_ema' not in tree:
        return {'g_ema': contents.arrays(tree)}
    rest = {k: v for k, v in tree.items() if k not in (*NETWORKS, *_LEFT_OUT, 'latent_avg')}
    if extra := contents.arrays(rest):
        raise ForeignFileError(f'left over: {", ".join(map(shown, extra))}.')
    found = {net: contents.arrays(tree[net]) for net in NETWORKS if isinstance(tree.get(net), dict)}
    if isinstance(tree.get('latent_avg'), np.ndarray):
        for net in found.keys() & {'g_ema', 'g'}:
            found[net] = {'latent_avg': tree['latent_avg'], **found[net]}
    return found


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """{'g_ema.conv1.conv.weight': array, ...} of all networks."""
    return {f'{net}.{name}': array for net, found in parts(tree).items() for name, array in found.items()}


def infer(tree: Any, *, sampling_only: bool = False) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run with these networks, and {setting: value} of what the file tells.

    Raises: ForeignFileError for networks that this library does not have.
    """
    found, layout = parts(tree), _TF if _is_tf(tree) else _PORT
    g = found['g_ema']
    if any('ToRGB_lod' in name for name in g):
        raise ForeignFileError('is a StyleGAN of 2018, the one before StyleGAN2, which this library does not have.')
    if any('Label' in name for name in g):
        raise ForeignFileError('was trained with labels in the way of the first release, which is not supported.')
    fields, told = _generator_fields(g, layout), {}
    if layout is _TF:
        made, unknown = _tf_fields(tree, sampling_only)
        fields |= made
        told = {'unknown_arguments': ', '.join(unknown)} if unknown else {}
    if 'd' in found and not sampling_only:
        fields |= _discriminator_fields(found['d'], layout, fields['img_resolution'])
    try:
        # What no file has is as in the programs.
        known = {'conv_clamp': None, 'num_fp16_res': 0, 'r1_gamma': 10.0, 'ema_kimg': 10.0, 'ema_rampup': None}
        model = stylegan2.Config(**known | fields)
        for prefix in ('', 'd_'):
            model = _published_widths(model, prefix)
        data = DataConfig(resolution=model.img_resolution, channels=model.img_channels)
        return Config('stylegan2', model, data, OptimConfig(g_lr=0.002)), fields | told
    except ConfigError as error:
        raise ForeignFileError(f'does not describe a StyleGAN2 of this library: {error}') from None


def _published_widths(model: stylegan2.Config, prefix: str) -> stylegan2.Config:
    """The same model, with widths given by `channel_base` if they have this form, as in shipped configurations."""
    channels = getattr(model, f'{prefix}channels')
    if channels is None:
        return model
    base = channels[-1] * 4 * 2 ** (len(channels) - 1)
    if widths(model.size, base, getattr(model, f'{prefix}channel_max')) != channels:
        return model
    return dataclasses.replace(model, **{f'{prefix}channel_base': base, f'{prefix}channels': None})


def _shapes(net: str, part: Mapping[str, np.ndarray], table: tuple[Rule, ...]) -> dict[str, tuple[int, ...]]:
    """{path: shape} of what the table renames."""
    out = {}
    for name, array in part.items():
        path, changed = rules.renamed(name, array, table)
        if path is not None:
            out[path.removeprefix('params/')] = changed.shape
    if not out:
        raise ForeignFileError(f'{net} has none of the layers of a StyleGAN2.')
    return out


def _generator_fields(g: Mapping[str, np.ndarray], layout: _Layout) -> dict[str, Any]:
    shapes = _shapes('g_ema', g, layout.g)
    sides = sorted(int(m[1]) for path in shapes if (m := re.fullmatch(r'synthesis/b(\d+)/conv1/weight', path)))
    try:
        height, width = shapes['synthesis/b4/const'][:2]
        scale = 2 ** (len(sides) - 1)
        return {
            'img_resolution': height * scale if height == width else (height * scale, width * scale),
            'img_channels': shapes[f'synthesis/b{sides[-1]}/torgb/weight'][-1],
            'z_dim': shapes['mapping/fc0/kernel'][0],
            'w_dim': shapes['synthesis/b4/conv1/affine/kernel'][0],
            'mapping_layers': sum(re.fullmatch(layout.mapping, name) is not None for name in g),
            'channels': tuple(shapes[f'synthesis/b{side}/conv1/weight'][-1] for side in sides),
            'architecture': _architecture(shapes, sides[-1]),
        }
    except (KeyError, IndexError) as error:
        raise ForeignFileError(f'g_ema is not a whole StyleGAN2: {shown(error)} is missing.') from None


def _architecture(shapes: Mapping[str, tuple], last: int) -> str:
    if f'synthesis/b{last}/skip/kernel' in shapes:
        return 'resnet'
    return 'skip' if 'synthesis/b4/torgb/weight' in shapes else 'orig'


def _discriminator_fields(d: Mapping[str, np.ndarray], layout: _Layout, size: int | tuple[int, int]) -> dict[str, Any]:
    side = 4 << num_halvings(size_of(size))
    shapes = _shapes('d', d, layout.d(side))
    try:
        blocks = [side >> i for i in range(num_halvings(size_of(size)))]
        inner = [shapes[f'b{block}/conv1/kernel'][-1] for block in blocks]
        plain = 'skip' if 'b4/fromrgb/kernel' in shapes else 'orig'
        return {
            'd_channels': (layout.first_width(d), *inner)[::-1],
            'd_architecture': 'resnet' if f'b{side}/skip/kernel' in shapes else plain,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise ForeignFileError(f'd is not the discriminator of {size} pixels: {shown(error)} is missing.') from None


def load(tree: Any, *, sampling_only: bool = False) -> Imported:
    """Converts what `reader.read` returned; both networks in the file make it a training state with new optimisers.

    A generator without the mean of w gets that of MEAN_SAMPLES latents, as in the port.

    Args:
      sampling_only: leave out the discriminator.
    Raises: ForeignFileError if one array is left over, missing or misshapen; and as `infer`.
    """
    config, inferred = infer(tree, sampling_only=sampling_only)
    found, layout = parts(tree), _TF if _is_tf(tree) else _PORT
    gan = stylegan2.build(config)
    params, buffers, stats = jax.eval_shape(gan.init, jax.random.key(0))
    target = {net: {'params': params[net], 'buffers': buffers[net]} for net in ('g', 'd')}
    ema = _generator('g_ema', found['g_ema'], layout, target['g'], config)
    if sampling_only or 'd' not in found:
        return Imported(config, inferred, ema, None)
    g = _generator('g', found['g'], layout, target['g'], config) if 'g' in found else ema
    side = 4 << num_halvings(config.model.size)
    d = _apply('d', found['d'], layout.d(side), target['d'])
    stats = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), stats)
    state = first_state(gan, {'g': {**ema, 'params': g['params']}, 'd': d}, ema['params'], stats)
    return Imported(config, inferred, state.sampling, state)


def _generator(net: str, source: Mapping[str, np.ndarray], layout: _Layout, target: dict, config: Config) -> dict:
    missing = not {'latent_avg', 'dlatent_avg'} & source.keys()
    if missing:
        source = {**source, 'latent_avg' if layout is _PORT else 'dlatent_avg': np.zeros(config.model.w_dim)}
    out = _apply(net, source, layout.g, target, layout.ignored)
    if missing:
        z = np.random.default_rng(0).standard_normal((MEAN_SAMPLES, config.model.z_dim), np.float32)
        w = stylegan2.generator(config.model).apply(out, z, method='map')[:, 0]
        out['buffers']['mapping']['w_avg'] = np.asarray(jnp.mean(w, 0))
    return out


def _apply(net: str, source: Mapping, table: tuple[Rule, ...], target: dict, ignored: tuple[str, ...] = ()) -> dict:
    """`rules.fill`; filters that the file does not hold are those of both programs."""
    fir = {path: filters.setup_filter((1, 3, 3, 1)) for path in _filters(target)}
    given = {rules.renamed(name, array, table)[0] for name, array in source.items()}
    source = {**source, **{path: taps for path, taps in fir.items() if path not in given}}
    table = (*table, Rule(r'(buffers/.*resample_filter)', '{0}', np.asarray))
    return rules.fill(net, source, table, target, ignored=ignored)


def _filters(target: dict) -> list[str]:
    paths = (jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in jax.tree.leaves_with_path(target))
    return [path for path in paths if path.endswith('resample_filter')]
