"""StyleGAN3's generator, its layers and its schedule, against golden numbers."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from check_cips import conv, dense, flat, paths, rename, select
from compare import assert_close, assert_outputs, nchw, nhwc

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


def model_of(kwargs, **more):
    """A `Config` from the options of the official constructor."""
    names = {'conv_kernel', 'filter_size', 'lrelu_upsampling', 'use_radial_filters', 'conv_clamp', 'magnitude_ema_beta'}
    names |= {'z_dim', 'c_dim', 'w_dim', 'img_resolution', 'channel_base', 'channel_max', 'num_layers'}
    changes = {k: v for k, v in kwargs.items() if k in names}
    if 'num_layers' in (mapping := kwargs.get('mapping_kwargs', {})):
        changes['mapping_layers'] = mapping['num_layers']
    return Config(r1_gamma=1.0, **(changes | more))


# Schedule -------------------------------------------------------------------------------------------------------------


def published_schedule(arrays, meta):
    """Signals, canvases, factors, paddings and filters of the published configurations."""
    left = dict(arrays)
    for config, want in meta['configs'].items():
        model = model_of(want['kwargs'])
        signals, first = schedule(model), want['input']
        assert Generator(model).num_ws == want['num_ws'] and len(signals) == len(want['layers'])
        assert [*signals[0][:3]] == [first['channels'], first['sampling_rate'], first['bandwidth']]
        assert [*canvas(model, 0, model.size)] == first['size']
        for i, (layer, row) in enumerate(zip(layers(model), want['layers'], strict=True)):
            plan, got = resampling(model, layer), {}
            sizes = {'in': canvas(model, max(i - 1, 0), model.size), 'out': canvas(model, i, model.size)}
            for side, signal in (('in', layer.source), ('out', layer.target)):
                got |= {f'{side}_size': sizes[side][0], f'{side}_rate': signal.sampling_rate}
                got |= {f'{side}_channels': signal.channels}
                np.testing.assert_allclose(signal.cutoff, row[f'{side}_cutoff'], rtol=1e-12)
                np.testing.assert_allclose(signal.half_width, row[f'{side}_half_width'], rtol=1e-12)
            wider = 0 if layer.to_rgb else model.conv_kernel - 1
            before = tuple(n + wider for n in sizes['in'])
            got |= {'up': plan.up, 'down': plan.down, 'padding': [*plan.padding(before, sizes['out'])]}
            got |= {'name': layer.name, 'critical': layer.critical, 'is_torgb': layer.to_rgb}
            got |= {'use_fp16': layer.low_precision}
            filters = {'up': plan.up_filter, 'down': plan.down_filter}
            for name, f in filters.items():
                got[f'{name}_taps'] = 1 if f is None else len(f)
                # The filters of 512 pixels are not among the golden numbers.
                if f is not None and config not in ('t512', 'r512'):
                    key = f'out/{config}/{layer.name}/{name}_filter'
                    assert_close(key, f, left.pop(key), meta['tolerance'])
            got['radial'] = plan.down_filter is not None and plan.down_filter.ndim == 2
            assert got == {k: row[k] for k in got}, layer.name
            assert row.keys() - got.keys() == {
                'tmp_rate', 'in_cutoff', 'in_half_width', 'out_cutoff', 'out_half_width'
            }  # fmt: skip
            assert row['tmp_rate'] == layer.source.sampling_rate * plan.up
    assert not left


# Layers and generators ------------------------------------------------------------------------------------------------


def synthesis_layer(arrays, meta):
    kwargs = meta['kwargs']

    def signal(side):
        return Signal(*(kwargs[f'{side}_{name}'] for name in ('channels', 'sampling_rate', 'cutoff', 'half_width')))

    model = model_of(kwargs | {'img_resolution': 32})
    layer = Layer('', signal('in'), signal('out'), kwargs['is_critically_sampled'], kwargs['is_torgb'])
    size = kwargs['out_size']
    size = (size, size) if isinstance(size, int) else tuple(size[::-1])
    module, x, w = SynthesisLayer(model, layer), jnp.asarray(nhwc(arrays['in/x'])), jnp.asarray(arrays['in/w'])
    expected = jax.eval_shape(functools.partial(module.init, size=size), jax.random.key(0), x, w)
    variables = fill(select(arrays, 'param/'), expected)
    dy = jnp.asarray(nhwc(arrays['in/dy']))

    @jax.jit
    def run(params):
        y, pullback = jax.vjp(lambda p: module.apply({**variables, 'params': p}, x, w, size), params)
        return y, pullback(dy)[0]

    y, gradient = run(variables['params'])
    update = jax.jit(lambda v: module.apply(v, x, w, size, True, mutable=['buffers']))
    y_update, after = update(variables)
    got = {'y': nchw(y), 'y_update': nchw(y_update)}
    got['magnitude_ema_after_update'] = after['buffers']['magnitude_ema']
    names = select(arrays, 'out/grad/')
    got |= {f'grad/{k}': v for k, v in as_checkpoint(gradient, names).items()}
    assert_outputs(arrays, got, meta['tolerance'])


def generator(arrays, meta):
    model = model_of(meta['kwargs'])
    assert [layer.name for layer in layers(model)] == [row['name'] for row in meta['layers']]
    module = Generator(model)
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
    stored = variables['buffers']['synthesis']['input']['transform']
    img, captured = run(variables, ws, stored)
    got, step = {'ws': ws, 'img': nchw(img)}, meta['layer_output_stride']
    for name, outputs in captured['intermediates']['synthesis'].items():
        if name != '__call__':
            got[f'layer/{name}'] = nchw(outputs['__call__'][0])[:, :, ::step, ::step]
    for name, transform in select(arrays, 'in/transform/').items():
        got[f'img_transform/{name}'] = nchw(run(variables, ws, jnp.asarray(transform))[0])
    psi, cutoff = (meta['trunc'].get(f'truncation_{word}') for word in ('psi', 'cutoff'))
    truncated = truncate(ws, variables['buffers']['mapping']['w_avg'], psi, cutoff)
    got['img_trunc'] = nchw(run(variables, truncated, stored)[0])
    got['img_ws_mixed'] = nchw(run(variables, jnp.asarray(arrays['in/ws_mixed']), stored)[0])
    img_update, after = run_and_update(variables, z, c)
    got['img_update'] = nchw(img_update)
    names = select(arrays, 'out/after_update/')
    got |= {f'after_update/{k}': v for k, v in as_checkpoint(after['buffers'], names).items()}
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {
    ('stylegan3', 'generator_'): generator,
    ('stylegan3', 'schedule'): published_schedule,
    ('stylegan3', 'synthesis_layer'): synthesis_layer,
}
