"""Partial convolutions, their U-Net's losses and brush strokes against golden numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from compare import anything, assert_close, assert_outputs, fields, nchw, nhwc, outputs, select

from pegan_jax.data import masks
from pegan_jax.layers import PartialConv
from pegan_jax.models import pconv


def valid_sums(valid, layer):
    """Sums of valid [N, H, W, C] over the windows of a layer, [N, H', W', 1]."""
    window, strides = ((1, n, n, 1) for n in (layer.kernel_size, layer.stride))
    pads = ((0, 0), *layer.padding, (0, 0))
    return jnp.sum(jax.lax.reduce_window(valid, 0.0, jax.lax.add, window, strides, pads), axis=-1, keepdims=True)


def layer_of(options):
    """A layer from the arguments of the public implementation; whether there is a mask per channel, the mask shows."""
    rules = {
        'cout': 'features',
        'ksize': 'kernel_size',
        'stride': 'stride',
        'padding': lambda p: {'padding': ((p, p), (p, p))},
        'bias': 'use_bias',
        'cin': anything,
        'multi_channel': anything,
    }
    return PartialConv(**{'features': 1, 'padding': ((0, 0), (0, 0))} | fields(options, rules))


def partial_conv(arrays, meta):
    """With the mask of the file; and without any, from which the last result of the file follows.

    That result is of a second call of the same layer without a mask, in which the public implementation uses the image
    as it is, but goes on with the window sums of the mask of the call before.
    """
    tolerance, layer = meta['tol']['float32'], layer_of(meta['ctor'])
    params = {'kernel': arrays['param/weight'].transpose(2, 3, 1, 0)}
    if layer.use_bias:
        params['bias'] = arrays['param/bias']
    run = jax.jit(lambda x, valid: layer.apply({'params': params}, x, valid))
    x, valid = nhwc(arrays['in/x']), nhwc(arrays['in/mask'])
    assert valid.shape[3] == (x.shape[3] if meta['ctor'].get('multi_channel') else 1), 'option multi_channel'
    y, new_valid = run(x, valid)
    alone, _ = run(x, None)
    assert_close('without a mask', run(x, np.ones_like(valid))[0], alone, {'rel_to_max': 1e-5})
    bias = params.get('bias', np.zeros(layer.features))[None, None, None, :]
    found, all_valid = valid_sums(valid, layer), valid_sums(jnp.ones_like(valid), layer)
    again = jnp.where(found > 0, (alone - bias) * all_valid / jnp.maximum(found, 1) + bias, 0)
    got = {'y': y, 'mask_out': new_valid, 'y_nomask': again}
    assert_outputs(arrays, {name: nchw(value) for name, value in got.items()}, tolerance)


def mask_updates(arrays, meta):
    """The masks behind one layer, two, and so on; after as many as the file says, all is valid, and not before."""
    layer, filled = layer_of(meta['ctor']), meta['call'].get('layers_to_fill')

    @jax.jit
    def run(valid):
        return layer.init_with_output(jax.random.key(0), jnp.ones(valid.shape), valid)[0][1]

    valid, got = nhwc(arrays['in/mask']), {}
    last = max([filled or 0, *(int(name[10:]) for name in outputs(arrays) if re.fullmatch(r'mask_after\d+', name))])
    for n in range(1, last + 1):
        assert filled is None or bool(np.all(valid == 1)) == (n > filled)
        valid = run(valid)
        got[f'mask_after{n}'] = nchw(valid)
    assert filled is None or np.all(valid == 1)
    assert_outputs(arrays, got, meta['tol'])


def losses(arrays, meta):
    """Every term and the total, with the file's maps in the place of VGG's."""
    gt, out = (nhwc(arrays[f'in/{name}']) for name in ('gt', 'out'))
    mask = 1 - nhwc(arrays['in/mask_valid'])
    maps = {kind: select(arrays, f'in/feat_{kind}') for kind in ('out', 'comp', 'gt')}
    maps = {kind: tuple(nhwc(found[str(n)]) for n in range(len(found))) for kind, found in maps.items()}

    @jax.jit
    def run():
        terms = pconv.pixel_terms(out, gt, mask) | pconv.feature_terms(maps['out'], maps['comp'], maps['gt'])
        grams = {f'gram_{kind}{n}': pconv.gram(x) for kind, found in maps.items() for n, x in enumerate(found)}
        return terms | grams | {
            'total': pconv.total(terms),
            'comp': jnp.moveaxis(pconv.composite(out, gt, mask), -1, 1),
            'tv_region': jnp.moveaxis(pconv.tv_region(mask), -1, 1),
        }  # fmt: skip

    fields(meta['ctor'], {})
    known = {name.partition('_')[0]: (weight,) for name, weight in pconv.LOSS_WEIGHTS.items()}
    fields(meta['call'].get('weights'), known)
    assert_outputs(arrays, run(), meta['tol']['float32'])


def brush_raster(arrays, meta):
    """Intersection over union, as outlines of rasterisers differ by single pixels."""
    vertices, widths = arrays['in/vertices_xy'].astype(np.float32), arrays['in/widths'].astype(np.float32)
    lines, points = vertices.shape[:2]
    got = masks.raster(vertices, widths, np.full(lines, points - 1), meta['ctor']['H'], meta['ctor']['W'])[..., 0]
    assert outputs(arrays) == {'mask'}, f'nothing to compare with: {sorted(outputs(arrays) - {"mask"})}'
    want = arrays['out/mask'] > 0
    overlap = np.sum((got > 0) & want) / np.sum((got > 0) | want)
    assert overlap >= meta['tol']['min_iou'], overlap


CHECKS = {
    ('deepfill', 'brush_raster'): brush_raster,
    ('deepfill', 'pconv_k'): partial_conv,
    ('deepfill', 'pconv_losses'): losses,
    ('deepfill', 'pconv_mask_updates'): mask_updates,
}
