"""Partial convolutions, their U-Net's losses and brush strokes against golden numbers."""

import jax
import jax.numpy as jnp
import numpy as np
from compare import assert_outputs, nchw, nhwc

from pegan_jax.data import masks
from pegan_jax.layers import PartialConv
from pegan_jax.models import pconv


def valid_sums(valid, options):
    """Sums of valid [N, H, W, C] over the windows of a layer, [N, H', W', 1]."""
    window, strides = ((1, options[name], options[name], 1) for name in ('ksize', 'stride'))
    pads = ((0, 0), *((options['padding'],) * 2,) * 2, (0, 0))
    return jnp.sum(jax.lax.reduce_window(valid, 0.0, jax.lax.add, window, strides, pads), axis=-1, keepdims=True)


def partial_conv(arrays, meta):
    """With the mask of the file; and without any, from which the last result of the file follows.

    That result is of a second call of the same layer without a mask, in which the public implementation uses the image
    as it is, but goes on with the window sums of the mask of the call before.
    """
    options, tolerance = meta['ctor'], meta['tol']['float32']
    pads = ((options['padding'],) * 2,) * 2
    layer = PartialConv(options['cout'], options['ksize'], options['stride'], pads, use_bias=options['bias'])
    params = {'kernel': arrays['param/weight'].transpose(2, 3, 1, 0)}
    if options['bias']:
        params['bias'] = arrays['param/bias']
    run = jax.jit(lambda x, valid: layer.apply({'params': params}, x, valid))
    x, valid = nhwc(arrays['in/x']), nhwc(arrays['in/mask'])
    y, new_valid = run(x, valid)
    alone, _ = run(x, None)
    np.testing.assert_allclose(run(x, np.ones_like(valid))[0], alone, rtol=1e-5, atol=1e-5)
    bias = params.get('bias', np.zeros(options['cout']))[None, None, None, :]
    found, all_valid = valid_sums(valid, options), valid_sums(jnp.ones_like(valid), options)
    again = jnp.where(found > 0, (alone - bias) * all_valid / jnp.maximum(found, 1) + bias, 0)
    got = {'y': y, 'mask_out': new_valid, 'y_nomask': again}
    assert_outputs(arrays, {name: nchw(value) for name, value in got.items()}, tolerance)


def mask_updates(arrays, meta):
    options = meta['ctor']
    layer = PartialConv(1, options['ksize'], options['stride'], ((options['padding'],) * 2,) * 2)
    run = jax.jit(lambda valid: layer.init_with_output(jax.random.key(0), jnp.ones((1, 24, 24, 1)), valid)[0][1])
    valid = nhwc(arrays['in/mask'])
    for n in range(1, meta['call']['layers_to_fill'] + 1):
        assert not np.all(valid == 1)
        valid = run(valid)
        np.testing.assert_array_equal(nchw(valid), arrays[f'out/mask_after{n}'])
    assert np.all(valid == 1)


def losses(arrays, meta):
    """Every term and the total, with random maps in the place of VGG's."""
    gt, out = (nhwc(arrays[f'in/{name}']) for name in ('gt', 'out'))
    mask = 1 - nhwc(arrays['in/mask_valid'])
    out_maps, comp_maps, gt_maps = (
        tuple(nhwc(arrays[f'in/feat_{kind}{n}']) for n in range(3)) for kind in ('out', 'comp', 'gt')
    )

    @jax.jit
    def run():
        terms = pconv.pixel_terms(out, gt, mask) | pconv.feature_terms(out_maps, comp_maps, gt_maps)
        return terms | {
            'total': pconv.total(terms),
            'comp': jnp.moveaxis(pconv.composite(out, gt, mask), -1, 1),
            'tv_region': jnp.moveaxis(pconv.tv_region(mask), -1, 1),
            'gram_gt0': pconv.gram(gt_maps[0]),
        }

    weights = meta['call']['weights']
    assert {name.partition('_')[0]: weight for name, weight in pconv.LOSS_WEIGHTS.items()} == weights
    assert_outputs(arrays, run(), meta['tol']['float32'])


def brush_raster(arrays, meta):
    """Intersection over union, as outlines of rasterisers differ by single pixels."""
    vertices, widths = arrays['in/vertices_xy'].astype(np.float32), arrays['in/widths'].astype(np.float32)
    lines, points = vertices.shape[:2]
    got = masks.raster(vertices, widths, np.full(lines, points - 1), meta['ctor']['H'], meta['ctor']['W'])[..., 0]
    want = arrays['out/mask'] > 0
    overlap = np.sum((got > 0) & want) / np.sum((got > 0) | want)
    assert overlap >= meta['tol']['min_iou'], overlap


CHECKS = {
    ('deepfill', 'brush_raster'): brush_raster,
    ('deepfill', 'pconv_k'): partial_conv,
    ('deepfill', 'pconv_losses'): losses,
    ('deepfill', 'pconv_mask_updates'): mask_updates,
}
