"""Parity of coordinates, encodings, resizing and FIR filters."""

import jax
import jax.numpy as jnp
import numpy as np
from check_cips import select
from compare import assert_outputs, nchw, nhwc, outputs

from pegan_jax import coords, encodings, ops
from pegan_jax.layers import minibatch_std, pixel_norm

# CIPS ---------------------------------------------------------------------------------------------------------------


def coords_grids_crops(arrays, meta):
    side, patch = meta['resolution'], meta['crop_size']
    # One program for all sizes, here and below: compiling is what takes the time.
    regular, integer, native = jax.jit(
        lambda: (
            [coords.grid(n, n) for n in meta['sizes']],
            [coords.pixel_grid(n, n) for n in meta['sizes']],
            coords.grid(side, side),
        )
    )()
    got = {f'float_{n}': np.repeat(nchw(g)[None], 2, axis=0) for n, g in zip(meta['sizes'], regular, strict=True)}
    got |= {f'integer_{n}': nchw(g)[None] for n, g in zip(meta['sizes'], integer, strict=True)}
    cut = jax.jit(coords.multiscale_crop, static_argnums=3)
    stack = np.concatenate([nhwc(arrays['in/image']), native], axis=-1)
    for item in (0, 1):
        draws = iter(arrays[f'in/draws_item{item}'].tolist())
        bounds = iter(arrays[f'in/draw_bounds_item{item}'].tolist())
        for scale in (0, *range(coords.multiscale_count(side, patch) - 1, 0, -1)):
            stride = 2**scale
            start = [0, 0]
            if scale > 0:
                start = [next(draws), next(draws)]
                assert [next(bounds), next(bounds)] == [side - stride * patch + stride] * 2
            for axis in (0, 1):
                left_over = len(range(start[axis], side, stride)) - patch
                if left_over > 0:
                    assert next(bounds) == left_over
                    start[axis] += stride * next(draws)
            got[f'item{item}_scale{scale}'] = nchw(cut(stack, np.array(start), stride, patch))
        assert not [*draws, *bounds]
    assert_outputs(arrays, got, meta['tolerance'])


def _at_all_coords(arrays, encode):
    """Results of encode([N, 2]) for every 'in/coords_NAME' of a file, all sets in one call."""
    sets = {name.removeprefix('in/coords_'): nhwc(x) for name, x in arrays.items() if name.startswith('in/coords_')}
    values = np.asarray(jax.jit(encode)(np.concatenate([x.reshape(-1, 2) for x in sets.values()])))
    parts = np.split(values, np.cumsum([x[..., 0].size for x in sets.values()])[:-1])
    return {name: nchw(p.reshape(*x.shape[:-1], -1)) for (name, x), p in zip(sets.items(), parts, strict=True)}


def fourier_features(arrays, meta):
    weight = arrays['param/lff.ffm.conv.weight'][:, :, 0, 0].T
    bias = arrays['param/lff.ffm.conv.bias']
    got = _at_all_coords(arrays, lambda points: encodings.fourier_features(points, weight, bias))
    assert_outputs(arrays, got, meta['tolerance'])


def coord_embedding(arrays, meta):
    table = jnp.array(nhwc(arrays['param/emb.input'])[0])
    got = _at_all_coords(arrays, lambda points: encodings.embedding(table, points))
    got['train_native'] = nchw(encodings.embedding_raw(table, nhwc(arrays['in/coords_native'])))
    assert_outputs(arrays, got, meta['tolerance'])


# Positional encoding in GANs ------------------------------------------------------------------------------------------


def _spe(hw, tables, instance, embedding_dim, init_size, padding_idx, div_half_dim=False, center_shift=None):
    """A call on an instance of the reference, whose table may have grown; `tables` holds what became of it."""
    height, width = hw
    div_half_dim, length = tables.get(instance, (div_half_dim, init_size))
    for n in (width, height):
        div_half_dim, length = encodings.spe_table_growth(n, length, padding_idx=padding_idx, div_half_dim=div_half_dim)
    tables[instance] = div_half_dim, length
    return encodings.spe(
        height, width, embedding_dim, div_half_dim=div_half_dim, center_shift=center_shift, padding_idx=padding_idx
    )


def grids(arrays, meta):
    @jax.jit
    def encode():
        results, tables = {}, {}
        for call in meta['calls']:
            name, options = call['name'], call.get('constructor', {})
            if 'kind' not in call:
                results[name] = jnp.stack([encodings.csg(*call['hw'])] * call['num_batches'])
            elif call['kind'] == 'spe':
                # Calls with one name before the size are made on one instance.
                results[name] = _spe(call['hw'], tables, name.rpartition('_')[0], **(options | call['call']))[None]
        return results

    got = {name: nchw(value) for name, value in encode().items()}
    (call,) = (call for call in meta['calls'] if call.get('kind') == 'spe 1-D')
    options = call['constructor']
    got[call['name']] = encodings.spe_1d(
        jnp.array(arrays[call['input']], jnp.int32), options['embedding_dim'], padding_idx=options['padding_idx']
    )
    assert_outputs(arrays, got, meta['tolerance'])


def singan_encodings(arrays, meta):
    @jax.jit
    def encode():
        results = {}
        for case in meta['cases']:
            options = {name: value for name, value in case.items() if name not in ('key', 'h', 'w')}
            hw = case['h'], case['w']
            results[case['key']] = (
                _spe(hw, {}, None, **options)[None] if options else jnp.stack([encodings.csg(*hw)] * 2)
            )
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
    options, params = call['constructor'], select(arrays, f'param/{call["name"]}/')
    x, style = jnp.array(nhwc(arrays[call['input']])), jnp.array(arrays[call['style']])
    affine = params['style_modulation.linear.weight_orig']
    styles = style @ (affine.T / np.sqrt(affine.shape[1])) + params['style_modulation.bias'][None]
    size = options['kernel_size']
    weight = jnp.transpose(params['weight_orig'][0], (2, 3, 1, 0)) / np.sqrt(size**2 * options['in_channels'])
    up, down = (2 if options.get(name) else 1 for name in ('upsample', 'downsample'))
    fir = params.get('blur.kernel')
    return ops.modulated_conv_resample(
        x,
        weight,
        styles,
        fir / 4 if up == 2 else fir,  # the file has the gain of upsampling in it
        up=up,
        down=down,
        padding=size // 2,
        demodulate=options.get('demodulate', True),
        flip_weight=up == 1,
    )


def deviation(arrays, call):
    """A minibatch standard deviation; PGGAN's is the same."""
    x = jnp.array(nhwc(arrays['in/xm']))
    if 'small' in call['name']:
        corner = 1e-4 * arrays['in/x'][0, 0, :3, :3]
        x = jnp.array(np.tile((corner[None] * np.arange(8)[:, None, None])[..., None], 4))
    if 'batch3' in call['name']:
        x = x[:3]
    options = call.get('constructor', {})
    return minibatch_std(x, options.get('group_size', 4), options.get('channel_groups', 1))


def primitives(arrays, meta):
    """Resizing, pooling, FIR filters, bias and activation, normalisation, statistics, modulated convolutions."""
    calls = {call['name']: call for call in meta['calls']}
    assert outputs(arrays) == set(calls)

    @jax.jit
    def run(x, bias, kernels):
        results = {}
        for name, call in calls.items():
            if call['op'] in RESIZES:
                results[name] = RESIZES[call['op']](x, call['hw'])
            elif call['op'] == 'upfirdn2d':
                kernel, pad = kernels[call['kernel']], tuple(call['pad'])
                results[name] = ops.upfirdn2d(x, kernel, up=call['up'], down=call['down'], padding=pad * 2)
            elif call['op'] == 'bias + leaky relu 0.2 * sqrt2':
                results[name] = ops.bias_act(x, bias, act='lrelu')
            elif 'pixel norm' in call['op']:
                results[name] = pixel_norm(1e-6 * x if 'small' in name else x)
            elif 'minibatch stddev' in call['op']:
                results[name] = deviation(arrays, call)
            elif call['op'] == 'modulated conv':
                results[name] = modulated(arrays, call)
        return results

    kernels = {name: arrays[f'in/{name}'] for name in ('k3', 'k4')}
    got = run(nhwc(arrays['in/x']), jnp.array(arrays['in/bias']), kernels)
    assert_outputs(arrays, {name: nchw(value) for name, value in got.items()}, meta['tolerance'])


# StyleGAN3 ------------------------------------------------------------------------------------------------------------


def synthesis_input(arrays, meta):
    options = dict(meta['kwargs'])
    size = options['size']
    width, height = (size, size) if isinstance(size, int) else size

    @jax.jit
    def run(weight, affine_weight, affine_bias, transform):
        t = arrays['in/w'] @ affine_weight.T / np.sqrt(options['w_dim']) + affine_bias[None, :]
        features = encodings.sg3_fourier_input(
            t,
            jnp.array(arrays['param/freqs']),
            jnp.array(arrays['param/phases']),
            transform,
            height=height,
            width=width,
            sampling_rate=options['sampling_rate'],
            bandwidth=options['bandwidth'],
        )
        return encodings.sg3_mix(features, weight.T)

    names = ('weight', 'affine.weight', 'affine.bias')
    params = [jnp.array(arrays[f'param/{name}']) for name in names]
    got = {
        name.removeprefix('in/transform/'): nchw(run(*params, jnp.array(arrays[name])))
        for name in arrays
        if name.startswith('in/transform/')
    }
    got = {f'x/{name}': value for name, value in got.items()}
    dy = jnp.array(nhwc(arrays['in/dy']))
    gradient = jax.grad(lambda *p: jnp.sum(run(*p, jnp.array(arrays['param/transform'])) * dy), argnums=(0, 1, 2))
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
