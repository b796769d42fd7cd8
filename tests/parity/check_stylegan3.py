"""StyleGAN3's generator, its layers and its schedule, against golden numbers."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from checkpoints import conv, dense, flat, paths, rename
from compare import anything, assert_outputs, fields, nchw, nhwc, select

from pegan_jax.layers import truncate
from pegan_jax.models.stylegan3 import (
    Config,
    Generator,
    Layer,
    Signal,
    SynthesisLayer,
    canvas,
    layers,
    resampling,
    schedule,
)

MODULE = r'((?:synthesis\.|mapping\.)?(?:(?:input|L\d+_\d+_\d+)\.)?)'
RULES = [
    (MODULE + r'(affine|embed|fc\d+)\.weight', '{}{}/kernel', dense),
    (MODULE + r'(affine|embed|fc\d+)\.bias', '{}{}/bias', flat),
    (r'((?:synthesis\.)?input\.)weight', '{}weight', dense),
    (r'((?:synthesis\.)?(?:L\d+_\d+_\d+\.)?)weight', '{}weight', conv),
    (MODULE + r'(bias|magnitude_ema|up_filter|down_filter|transform|freqs|phases|w_avg)', '{}{}', np.asarray),
]
LAYER_OPTIONS = {
    name: name
    for name in (
        'conv_kernel', 'filter_size', 'lrelu_upsampling', 'use_radial_filters', 'conv_clamp', 'magnitude_ema_beta',
    )
}  # fmt: skip
SYNTHESIS_OPTIONS = LAYER_OPTIONS | {
    name: name
    for name in (
        'z_dim', 'c_dim', 'w_dim', 'img_resolution', 'channel_base', 'channel_max', 'num_layers', 'num_critical',
        'first_cutoff', 'first_stopband', 'last_stopband_rel', 'margin_size', 'output_scale', 'num_fp16_res',
    )
}  # fmt: skip
MAPPING_OPTIONS = {'num_layers': 'mapping_layers', 'lr_multiplier': 'lr_multiplier', 'w_avg_beta': 'w_avg_beta'}
MAPPING_OPTIONS |= {'activation': ('lrelu',)}
G_OPTIONS = SYNTHESIS_OPTIONS | {
    'img_channels': 'img_channels',
    'mapping_kwargs': lambda options: fields(options, MAPPING_OPTIONS),
}


def fill(arrays, expected):
    """Variables with the paths and shapes of `expected`, all of them and no others, from the arrays of a checkpoint."""
    named = rename(arrays, RULES)
    want = paths(expected)
    got = {k: named.get(re.sub('^(params|buffers)/', '', k)) for k in want}
    assert len(named) == len(want), sorted({re.sub('^(params|buffers)/', '', k) for k in want} ^ named.keys())
    assert {k: np.shape(v) for k, v in got.items()} == {k: v.shape for k, v in want.items()}
    tree = jax.tree_util.tree_structure(expected)
    return jax.tree_util.tree_unflatten(tree, [jnp.asarray(got[k]) for k in want])


def as_checkpoint(tree, want):
    """{official name: array} of our variables, in the layout of the golden arrays `want`, a subset."""
    ours = {k.replace('/', '.'): np.asarray(v) for k, v in paths(tree).items()}
    out = {}
    for name in want:
        value = ours[re.sub(r'((?:affine|embed|fc\d+)\.)weight$', r'\1kernel', name)]
        out[name] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return out


def model_of(kwargs):
    """A `Config` from the options of the official constructor; the resolution has a default there too."""
    return Config(r1_gamma=1.0, **fields(kwargs, G_OPTIONS))


# Schedule -------------------------------------------------------------------------------------------------------------


def published_schedule(arrays, meta):
    """Signals, canvases, factors, paddings and filters of configurations. Files have the filters of some of them."""
    designed = {}
    for config, want in meta['configs'].items():
        model = model_of(want['kwargs'])
        signals, first, num_ws = schedule(model), want['input'], Generator(model).num_ws
        assert num_ws == want.get('num_ws', num_ws) and len(signals) == len(want['layers'])
        assert [*signals[0][:3]] == [first['channels'], first['sampling_rate'], first['bandwidth']]
        assert [*canvas(model, 0, model.size)] == first['size']
        for i, (layer, row) in enumerate(zip(layers(model), want['layers'], strict=True)):
            plan, got = resampling(model, layer), {}
            sizes = {'in': canvas(model, max(i - 1, 0), model.size), 'out': canvas(model, i, model.size)}
            for side, signal in (('in', layer.source), ('out', layer.target)):
                got |= {f'{side}_size': sizes[side][0], f'{side}_rate': signal.sampling_rate}
                got |= {f'{side}_cutoff': signal.cutoff, f'{side}_half_width': signal.half_width}
                got |= {f'{side}_channels': signal.channels}
            wider = 0 if layer.to_rgb else model.conv_kernel - 1
            before = tuple(n + wider for n in sizes['in'])
            got |= {'up': plan.up, 'down': plan.down, 'padding': [*plan.padding(before, sizes['out'])]}
            got |= {'name': layer.name, 'critical': layer.critical, 'is_torgb': layer.to_rgb}
            got |= {'use_fp16': layer.low_precision, 'tmp_rate': layer.source.sampling_rate * plan.up}
            for name, f in (('up', plan.up_filter), ('down', plan.down_filter)):
                got[f'{name}_taps'] = 1 if f is None else len(f)
                if f is not None:
                    designed[f'{config}/{layer.name}/{name}_filter'] = f
            got['radial'] = plan.down_filter is not None and plan.down_filter.ndim == 2
            assert row.keys() <= got.keys(), f'{layer.name}: nothing to compare with: {row.keys() - got.keys()}'
            for name, value in row.items():
                if isinstance(value, float):
                    np.testing.assert_allclose(got[name], value, rtol=1e-12, err_msg=f'{config}/{layer.name}/{name}')
                else:
                    assert got[name] == value, f'{config}/{layer.name}/{name}: {got[name]}, expected {value}'
    assert_outputs(arrays, designed, meta['tolerance'])


# Layers and generators ------------------------------------------------------------------------------------------------


def synthesis_layer(arrays, meta):
    """Result, gradients of all parameters, and both with the running mean updated first."""
    kwargs = meta['kwargs']
    sides = {f'{side}_{name}' for side in ('in', 'out')
             for name in ('channels', 'size', 'sampling_rate', 'cutoff', 'half_width')}  # fmt: skip
    own = dict.fromkeys(sides | {'w_dim', 'is_torgb', 'is_critically_sampled'}, anything)
    model = Config(r1_gamma=1.0, img_resolution=32, **fields(kwargs, LAYER_OPTIONS | own | {'use_fp16': (False,)}))

    def signal(side):
        return Signal(*(kwargs[f'{side}_{name}'] for name in ('channels', 'sampling_rate', 'cutoff', 'half_width')))

    layer = Layer('', signal('in'), signal('out'), kwargs['is_critically_sampled'], kwargs['is_torgb'])
    size = tuple(np.broadcast_to(kwargs['out_size'], 2).tolist()[::-1])
    module, x, w = SynthesisLayer(model, layer), jnp.asarray(nhwc(arrays['in/x'])), jnp.asarray(arrays['in/w'])
    expected = jax.eval_shape(functools.partial(module.init, size=size), jax.random.key(0), x, w)
    variables = fill(select(arrays, 'param/'), expected)

    @jax.jit
    def run(params, dy):
        y, pullback = jax.vjp(lambda p: module.apply({**variables, 'params': p}, x, w, size), params)
        return y, None if dy is None else pullback(dy)[0]

    y, gradient = run(variables['params'], jnp.asarray(nhwc(arrays['in/dy'])) if 'in/dy' in arrays else None)
    update = jax.jit(lambda v: module.apply(v, x, w, size, True, mutable=['buffers']))
    y_update, after = update(variables)
    got = {'y': nchw(y), 'y_update': nchw(y_update)}
    got['magnitude_ema_after_update'] = after['buffers']['magnitude_ema']
    if gradient is not None:
        got |= {f'grad/{k}': v for k, v in as_checkpoint(gradient, select(arrays, 'out/grad/')).items()}
    assert_outputs(arrays, got, meta['tolerance'])


def generator(arrays, meta):
    """Images, with truncation, mixed styles, transforms and updated running means, and what every layer puts out."""
    truncation = fields(meta.get('trunc'), {'truncation_psi': 'psi', 'truncation_cutoff': 'cutoff'})
    model = model_of(meta['kwargs'])
    names = [layer.name for layer in layers(model)]
    assert [row['name'] for row in meta.get('layers', [])] in ([], names)
    module = Generator(model)
    assert meta.get('num_ws', module.num_ws) == module.num_ws
    z, c = jnp.asarray(arrays['in/z']), jnp.asarray(arrays['in/c']) if model.c_dim else None
    variables = fill(select(arrays, 'param/'), jax.eval_shape(module.init, jax.random.key(0), z, c))

    @jax.jit
    def run(variables, ws, transform):
        return module.apply(
            variables, ws, transform, method='synthesise', capture_intermediates=True, mutable=['intermediates']
        )

    @jax.jit
    def run_and_update(variables, z, c):
        def both(module, z, c):
            return module.synthesise(module.map(z, c, update_emas=True), update_emas=True)

        return module.apply(variables, z, c, method=both, mutable=['buffers'])

    ws = module.apply(variables, z, c, method='map')
    stored, w_avg = variables['buffers']['synthesis']['input']['transform'], variables['buffers']['mapping']['w_avg']
    img, captured = run(variables, ws, stored)
    got, step = {'ws': ws, 'img': nchw(img)}, meta.get('layer_output_stride', 1)
    for name, outputs in captured['intermediates']['synthesis'].items():
        if name != '__call__':
            got[f'layer/{name}'] = nchw(outputs['__call__'][0])[:, :, ::step, ::step]
    for name, transform in select(arrays, 'in/transform/').items():
        got[f'img_transform/{name}'] = nchw(run(variables, ws, jnp.asarray(transform))[0])
    if truncation:
        got['img_trunc'] = nchw(run(variables, truncate(ws, w_avg, **truncation), stored)[0])
    if 'in/ws_mixed' in arrays:
        got['img_ws_mixed'] = nchw(run(variables, jnp.asarray(arrays['in/ws_mixed']), stored)[0])
    names = select(arrays, 'out/after_update/')
    if names or 'out/img_update' in arrays:
        img_update, after = run_and_update(variables, z, c)
        got['img_update'] = nchw(img_update)
        got |= {f'after_update/{k}': v for k, v in as_checkpoint(after['buffers'], names).items()}
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {
    ('stylegan3', 'generator_'): generator,
    ('stylegan3', 'schedule'): published_schedule,
    ('stylegan3', 'synthesis_layer'): synthesis_layer,
}
