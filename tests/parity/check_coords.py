"""Parity of coordinates, encodings, resizing and FIR filters."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from compare import anything, assert_outputs, fields, nchw, nhwc, outputs, select

from pegan_jax import coords, encodings, ops
from pegan_jax.layers import minibatch_std, pixel_norm

# CIPS ---------------------------------------------------------------------------------------------------------------


def coords_grids_crops(arrays, meta):
    """Grids, and the crops that recorded draws make; their bounds are checked where a file has them."""
    side, patch = meta['resolution'], meta['crop_size']
    # One program for all sizes, here and below: compiling is what takes the time.
    regular, integer, native = jax.jit(
        lambda: (
            [coords.grid(n, n) for n in meta['sizes']],
            [coords.pixel_grid(n, n) for n in meta['sizes']],
            coords.grid(side, side),
        )
    )()
    got = {}
    for kind, grids in (('float', regular), ('integer', integer)):
        for n, grid in zip(meta['sizes'], grids, strict=True):
            batch = len(arrays.get(f'out/{kind}_{n}', [0]))
            got[f'{kind}_{n}'] = np.repeat(nchw(grid)[None], batch, axis=0)
    cut = jax.jit(coords.multiscale_crop, static_argnums=3)
    for item, recorded in select(arrays, 'in/draws_item').items():
        stack = np.concatenate([nhwc(arrays['in/image']), native], axis=-1)
        draws, bounds = iter(recorded.tolist()), iter(arrays.get(f'in/draw_bounds_item{item}', np.zeros(0)).tolist())
        for scale in (0, *range(coords.multiscale_count(side, patch) - 1, 0, -1)):
            stride = 2**scale
            start = [0, 0]
            if scale > 0:
                start = [next(draws), next(draws)]
                bound = side - stride * patch + stride
                assert [next(bounds, bound), next(bounds, bound)] == [bound] * 2
            for axis in (0, 1):
                left_over = len(range(start[axis], side, stride)) - patch
                if left_over > 0:
                    assert next(bounds, left_over) == left_over
                    start[axis] += stride * next(draws)
            got[f'item{item}_scale{scale}'] = nchw(cut(stack, np.array(start), stride, patch))
        assert not [*draws, *bounds]
    assert_outputs(arrays, got, meta['tolerance'])


def _at_all_coords(arrays, encode):
    """Results of encode([N, 2]) for every 'in/coords_NAME' of a file, all sets in one call."""
    sets = {name: nhwc(x) for name, x in select(arrays, 'in/coords_').items()}
    values = np.asarray(jax.jit(encode)(np.concatenate([x.reshape(-1, 2) for x in sets.values()])))
    parts = np.split(values, np.cumsum([x[..., 0].size for x in sets.values()])[:-1])
    return {name: nchw(p.reshape(*x.shape[:-1], -1)) for (name, x), p in zip(sets.items(), parts, strict=True)}


def fourier_features(arrays, meta):
    fields(meta.get('kwargs'), {'hidden_size': (len(arrays['param/lff.ffm.conv.bias']),)})
    weight = arrays['param/lff.ffm.conv.weight'][:, :, 0, 0].T
    bias = arrays['param/lff.ffm.conv.bias']
    got = _at_all_coords(arrays, lambda points: encodings.fourier_features(points, weight, bias))
    assert_outputs(arrays, got, meta['tolerance'])


def coord_embedding(arrays, meta):
    """Training takes the entries of the table for a grid of its shape, whatever the coordinates."""
    table = jnp.array(nhwc(arrays['param/emb.input'])[0])
    fields(meta.get('kwargs'), {'size': (len(table),), 'channel': (table.shape[2],)})
    got = _at_all_coords(arrays, lambda points: encodings.embedding(table, points))
    for name, grid in select(arrays, 'in/coords_').items():
        raw = grid.shape[2:] == table.shape[:2]
        got[f'train_{name}'] = nchw(encodings.embedding_raw(table, nhwc(grid))) if raw else got[name]
    assert_outputs(arrays, got, meta['tolerance'])


# Positional encoding in GANs ------------------------------------------------------------------------------------------

SPE = {'embedding_dim': 'dim', 'padding_idx': 'padding_idx', 'div_half_dim': 'div_half_dim', 'init_size': 'init_size'}
SPE |= {'center_shift': 'center_shift'}


def spe_of(hw, tables, instance, options):
    """A sinusoidal encoding [h, w, C] by an instance of mmgen's, whose table may have grown.

    A table shorter than padding_idx + 1 + n is rebuilt with that length when an axis of n samples is looked up, the
    horizontal one first, and from then on without div_half_dim, whatever the option says.

    tables: {instance: (div_half_dim in force, table length)}, changed in place.
    """
    options = {'init_size': 1024, 'padding_idx': 0, 'div_half_dim': False} | fields(options, SPE)
    fresh = options.pop('div_half_dim'), options.pop('init_size')
    half, length = tables.get(instance, fresh)
    axes = []
    for axis, n in enumerate((hw[1], hw[0])):
        needed = options['padding_idx'] + 1 + n
        half, length = (False, needed) if needed > length else (half, length)
        both = encodings.spe(*hw, div_half_dim=half, **options)
        axes.append(jnp.split(both, 2, axis=-1)[axis])
    tables[instance] = half, length
    return jnp.concatenate(axes, axis=-1)


def grids(arrays, meta):
    tables, plans = {}, {}
    for call in meta['calls']:
        name, kind = call['name'], call.get('kind', 'csg')
        fields(call, dict.fromkeys(('name', 'hw', 'constructor', 'call', 'note', 'num_batches', 'input'), anything)
               | {'kind': ('csg', 'spe', 'spe 1-D')})  # fmt: skip
        plans[name] = (kind, call.get('constructor') or {}, call.get('call') or {}, call.get('num_batches', 1))

    @jax.jit
    def encode():
        results = {}
        for call in meta['calls']:
            name, (kind, options, changes, batch) = call['name'], plans[call['name']]
            if kind == 'csg':
                fields(options, {})
                results[name] = jnp.stack([encodings.csg(*call['hw'])] * batch)
            elif kind == 'spe':
                # Calls with one name before the size are made on one instance.
                encoded = spe_of(call['hw'], tables, name.rpartition('_')[0], options | changes)
                results[name] = jnp.stack([encoded] * batch)
        return results

    got = {name: nchw(value) for name, value in encode().items()}
    for call in meta['calls']:
        kind, options, _, _ = plans[call['name']]
        if kind == 'spe 1-D':
            chosen = fields(options, SPE)
            chosen.pop('init_size', None)
            got[call['name']] = encodings.spe_1d(jnp.array(arrays[call['input']], jnp.int32), **chosen)
    assert_outputs(arrays, got, meta['tolerance'])


def singan_encodings(arrays, meta):
    @jax.jit
    def encode():
        results = {}
        for case in meta['cases']:
            options, hw = {k: v for k, v in case.items() if k not in ('key', 'h', 'w')}, (case['h'], case['w'])
            encoded = spe_of(hw, {}, None, options) if options else encodings.csg(*hw)
            batch = len(arrays.get(f'out/{case["key"]}', [0]))
            results[case['key']] = jnp.stack([encoded] * batch)
        return results

    got = {name: nchw(value) for name, value in encode().items()}
    assert_outputs(arrays, got, meta['tolerance'])


RESIZES = {
    'resize bilinear align_corners': ops.resize_align_corners,
    'adaptive average pool': ops.adaptive_average_pool,
    'resize nearest': ops.resize_nearest,
    'resize bilinear, half-pixel centres': ops.resize_half_pixel,
}


def modulated(arrays, call):
    """A modulated convolution of mmgen, whose weight is scaled before it is demodulated."""
    params = select(arrays, f'param/{call["name"]}/')
    rules = dict.fromkeys(('in_channels', 'out_channels', 'style_channels', 'kernel_size', 'blur_kernel'), anything)
    rules |= {'upsample': lambda on: {'up': 1 + on}, 'downsample': lambda on: {'down': 1 + on}}
    options = {'up': 1, 'down': 1} | fields(call['constructor'], rules | {'demodulate': 'demodulate'})
    x, style = jnp.array(nhwc(arrays[call['input']])), jnp.array(arrays[call['style']])
    affine = params['style_modulation.linear.weight_orig']
    styles = style @ (affine.T / np.sqrt(affine.shape[1])) + params['style_modulation.bias'][None]
    weight = params['weight_orig'][0]
    size, fir = weight.shape[-1], params.get('blur.kernel')
    return ops.modulated_conv_resample(
        x,
        jnp.transpose(weight, (2, 3, 1, 0)) / np.sqrt(size**2 * weight.shape[1]),
        styles,
        fir / 4 if options['up'] == 2 else fir,  # the file has the gain of upsampling in it
        padding=size // 2,
        flip_weight=options['up'] == 1,
        **options,
    )


def deviation(arrays, call):
    """A minibatch standard deviation; PGGAN's is the same. A file says in words what those of another input see."""
    batch = len(arrays[f'out/{call["name"]}'])
    scaled = re.search(r'of ([\d.e+-]+)\*x\[0,0,:(\d+),:\d+\]\*n .* (\d+) equal channels', call['op'])
    if scaled:
        factor, side, channels = float(scaled[1]), int(scaled[2]), int(scaled[3])
        corner = np.float32(factor) * arrays['in/x'][0, 0, :side, :side]
        x = np.tile((corner[None] * np.arange(batch, dtype=np.float32)[:, None, None])[..., None], channels)
    else:
        x = nhwc(arrays[f'in/{call["input"].partition("[")[0]}'])[:batch]
    options = call.get('constructor') or {k: call[k] for k in ('group_size', 'channel_groups') if k in call}
    rules = {'group_size': 'group_size', 'channel_groups': 'num_channels'}
    return minibatch_std(jnp.array(x), **{'group_size': 4} | fields(options, rules))


def primitive(arrays, call):
    """The result of one call, NHWC."""
    op = call['op']
    known = ('name', 'op', 'input', 'style', 'constructor', 'kernel', 'up', 'down', 'pad', 'hw', 'note')
    fields(call, dict.fromkeys((*known, 'group_size', 'channel_groups'), anything))
    x = jnp.array(nhwc(arrays[call.get('input', 'in/x')])) if 'in/x' in arrays and 'minibatch' not in op else None
    if op in RESIZES:
        return RESIZES[op](x, call['hw'])
    if op == 'upfirdn2d':
        pad = tuple(call['pad'])
        kernel = jnp.array(arrays[f'in/{call["kernel"]}'])
        return ops.upfirdn2d(x, kernel, up=call['up'], down=call['down'], padding=pad * (4 // len(pad)))
    if op.startswith('bias + leaky relu'):
        return ops.bias_act(x, jnp.array(arrays['in/bias']), act='lrelu')
    if op.startswith('pixel norm'):
        scaled = re.search(r'of ([\d.e+-]+)\*x', op)
        return pixel_norm(x if scaled is None else np.float32(scaled[1]) * x)
    if 'minibatch stddev' in op:
        return deviation(arrays, call)
    assert op == 'modulated conv', f'{call["name"]}: this library has no op {op!r}'
    return modulated(arrays, call)


def primitives(arrays, meta):
    """Resizing, pooling, FIR filters, bias and activation, normalisation, statistics, modulated convolutions."""
    wanted = outputs(arrays)
    got = jax.jit(lambda: {c['name']: primitive(arrays, c) for c in meta['calls'] if c['name'] in wanted})()
    assert_outputs(arrays, {name: nchw(value) for name, value in got.items()}, meta['tolerance'])


# StyleGAN3 ------------------------------------------------------------------------------------------------------------


def synthesis_input(arrays, meta):
    """With every transform of the file; and the gradients of all parameters, with the stored one."""
    rules = {'w_dim': anything, 'channels': anything, 'sampling_rate': 'sampling_rate', 'bandwidth': 'bandwidth'}
    rules['size'] = lambda size: dict(zip(('width', 'height'), np.broadcast_to(size, 2).tolist(), strict=True))
    options = fields(meta['kwargs'], rules)
    freqs, phases = (jnp.array(arrays[f'param/{name}']) for name in ('freqs', 'phases'))

    @jax.jit
    def run(weight, affine_weight, affine_bias, transform):
        t = arrays['in/w'] @ affine_weight.T / np.sqrt(affine_weight.shape[1]) + affine_bias[None, :]
        features = encodings.sg3_fourier_input(t, freqs, phases, transform, **options)
        return encodings.sg3_mix(features, weight.T)

    names = ('weight', 'affine.weight', 'affine.bias')
    params = [jnp.array(arrays[f'param/{name}']) for name in names]
    transforms = select(arrays, 'in/transform/')
    got = {f'x/{name}': nchw(run(*params, jnp.array(matrix))) for name, matrix in transforms.items()}
    if 'in/dy' in arrays:
        dy, stored = jnp.array(nhwc(arrays['in/dy'])), jnp.array(arrays['param/transform'])
        gradient = jax.grad(lambda *p: jnp.sum(run(*p, stored) * dy), argnums=(0, 1, 2))
        got |= {f'grad/{name}': value for name, value in zip(names, gradient(*params), strict=True)}
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {
    ('cips', 'coords_grids_crops'): coords_grids_crops,
    ('cips', 'fourier_features'): fourier_features,
    ('cips', 'coord_embedding'): coord_embedding,
    ('positional_encoding_gans', 'grids'): grids,
    ('positional_encoding_gans', 'primitives'): primitives,
    ('singan', 'positional_encodings'): singan_encodings,
    ('stylegan3', 'synthesis_input'): synthesis_input,
}
