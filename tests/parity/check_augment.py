"""Adaptive augmentation against golden numbers, whose random draws are recorded, or the quantiles of a percentile."""

import functools

import jax
import numpy as np
from compare import anything, assert_outputs, fields, nchw, nhwc, select
from scipy.special import erfinv

from pegan_jax import augment

PIPE = {name: name for name in augment.Pipe._fields}
MARGIN = 3  # pixels that the filter of the warp reaches


def margins(matrices, size):
    """(left, right, top, bottom) that the released pipe pads a whole batch by: as its farthest corner needs."""
    height, width = size
    half = np.array([width - 1, height - 1]) / 2
    corners = np.array([[x, y, 1] for x in (-half[0], half[0]) for y in (-half[1], half[1])])
    reached = np.einsum('nij,kj->nki', np.asarray(matrices, np.float64)[:, :2], corners).reshape(-1, 2)
    wanted = np.stack([-reached.min(0), reached.max(0)]) + 2 * MARGIN - half  # before and after, of (x, y)
    return tuple(np.ceil(np.clip(wanted, 0, 2 * half)).T.astype(int).ravel().tolist())


def theta(matrices, size, pads):
    """[N, 2, 3] from the coordinates of the doubled output, with its margin, to those of the doubled padded input.

    Both span [-1, 1].
    """
    g = np.asarray(matrices, np.float64)
    (height, width), (x0, x1, y0, y1) = size, pads

    def shift(x, y):
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])

    def scale(x, y):
        return np.diag([x, y, 1.0])

    g = shift(-0.5, -0.5) @ scale(2, 2) @ shift((x0 - x1) / 2, (y0 - y1) / 2) @ g @ scale(0.5, 0.5) @ shift(0.5, 0.5)
    inside = scale(1 / (width + x0 + x1), 1 / (height + y0 + y1))
    return (inside @ g @ scale(width + 2 * MARGIN, height + 2 * MARGIN))[:, :2]


@functools.partial(jax.jit, static_argnums=0)
def augmented(pipe, images, values, gates, p):
    draws = augment.gated(pipe, values, gates, p)
    return augment.augment(pipe, images, draws), augment.geometry(draws, images.shape[1:3])


CASE = dict.fromkeys(('id', 'kwargs', 'p', 'draws', 'kinds', 'reflect_pad_x0x1y0y1', 'debug_percentile'), anything)


def recorded(arrays, meta):
    """Every image has draws and gates of its own."""
    got = {}
    for case in meta['cases']:
        fields(case, CASE)
        pipe = augment.Pipe(**fields(case['kwargs'], PIPE))
        images = nhwc(arrays[f'in/{case["id"]}/img'])
        drawn, values, gates = select(arrays, f'in/{case["id"]}/draw/'), {}, {}
        for name in case['draws']:
            name, kind = name.split('/')
            if kind == 'field':
                values['field'] = nhwc(drawn[f'{name}/field'])
            else:
                array = drawn[f'{name}/{kind}']
                both = kind == 'value' and augment.DRAWS[name].count
                (values if kind == 'value' else gates)[name] = array.reshape(len(images), *([2] if both else []))
        y, matrices = augmented(pipe, images, values, gates, case['p'])
        pads = margins(matrices, images.shape[1:3])
        assert list(pads) == case['reflect_pad_x0x1y0y1']
        got |= {f'{case["id"]}/y': nchw(y), f'{case["id"]}/theta': theta(matrices, images.shape[1:3], pads)}
    assert_outputs(arrays, got, meta['tolerance'])


def quantile(name, q):
    """The number that the percentile q stands for; of normal ones without the root of 2, and no second rotation."""
    how = augment.DRAWS[name]
    number = {'uniform': q, 'normal': erfinv(2 * q - 1)}[how.distribution]
    return 0.5 if name == 'rotate_post' else number


def percentiles(arrays, meta):
    """All images alike, whatever the gates; and the filters."""
    got = {'Hz_geom': augment.warp_filter(), 'Hz_fbank': augment.filter_bank()}
    for case in meta['cases']:
        fields(case, CASE | {'image': anything})
        options = fields(case['kwargs'], PIPE)
        pipe, images = augment.Pipe(**options), nhwc(arrays[f'in/{case["image"]}'])
        shape = (len(images),)
        values, gates = {}, {}
        for name, how in augment.DRAWS.items():
            if getattr(pipe, how.of):
                full = np.full((*shape, how.count) if how.count else shape, quantile(name, case['debug_percentile']))
                values[name], gates[name] = full.astype(np.float32), np.zeros(shape, np.float32)
        got[f'debug/{case["id"]}'] = nchw(augmented(pipe, images, values, gates, 1.0)[0])
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {('stylegan3', 'ada_draws'): recorded, ('stylegan3', 'ada_debug'): percentiles}
