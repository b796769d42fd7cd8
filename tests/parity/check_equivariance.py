"""Operators and metrics of equivariance against golden numbers."""

import functools

import check_stylegan3
import jax
import jax.numpy as jnp
import numpy as np
from compare import assert_outputs, fields, nchw, nhwc, select

from pegan_jax import coords
from pegan_jax.metrics import equivariance
from pegan_jax.models.stylegan3 import Generator


def operators(arrays, meta):
    """Images and masks, of which the files have one per channel and sample."""
    x, turned = nhwc(arrays['in/x']), nhwc(arrays['in/x_rot'])
    size, got = np.array(x.shape[2:0:-1]), {}

    def found(prefix, out, shape):
        image, mask = out
        got[f'{prefix}z'] = nchw(image)
        got[f'{prefix}mask'] = nchw(np.broadcast_to(np.asarray(mask)[None, :, :, None], shape))

    for case in meta['cases']:
        case = fields(case, {'id': 'id', 'tx': 't', 'ty': lambda v: {'ty': v}, 'angle': 'angle'})
        if 'angle' in case:
            angle, name = case['angle'], case['id']
            f, pseudo = (equivariance.band_limit(equivariance.rotation(a), up) for a, up in ((angle, 4), (-angle, 1)))
            got |= {f'{name}/filter_up4': f, f'{name}/filter_up1': pseudo}
            # The released rotation is one of a square, whatever the sides.
            matrix = np.eye(3, dtype=np.float32)
            matrix[:2, :2] = equivariance.rotation(angle)
            found(f'{name}/rot_', jax.jit(equivariance.moved)(turned, matrix, f), turned.shape)
            found(f'{name}/pseudo_', jax.jit(equivariance.blurred)(turned, pseudo), turned.shape)
        else:
            pixels = np.array([case['t'], case['ty']]) * size
            whole = np.round(pixels).astype(np.int32)
            found(f'{case["id"]}/int_', jax.jit(equivariance.shifted)(x, whole), x.shape)
            moved = jax.jit(equivariance.shifted_lanczos)(x, pixels.astype(np.float32))
            found(f'{case["id"]}/frac_', moved, x.shape)
    if 'in/affine_mat' in arrays:
        matrix = arrays['in/affine_mat']
        f = equivariance.band_limit(matrix[:2, :2], 4)
        found('affine/', jax.jit(equivariance.moved)(turned, matrix, f), turned.shape)
    assert_outputs(arrays, got, meta['tolerance'])


DRAWS = {'eqt50k_int': 'u_int', 'eqt50k_frac': 'u_frac', 'eqr50k': 'u_rot'}
RESULTS = {'eqt50k_int': 'eqt_int_psnr', 'eqt50k_frac': 'eqt_frac_psnr', 'eqr50k': 'eqr_psnr'}


def metric(arrays, meta):
    """Scores of a generator under recorded transforms, one per batch; and images of the first batch."""
    model = check_stylegan3.model_of(meta['kwargs'])
    module = Generator(model)
    z = jnp.asarray(arrays['in/z'])
    expected = jax.eval_shape(module.init, jax.random.key(0), z[0])
    variables = check_stylegan3.fill(select(arrays, 'param/'), expected)

    @jax.jit
    def render(z, transform):
        return module.apply(variables, module.apply(variables, z, method='map'), transform, method='synthesise')

    sums, got = {name: np.zeros(2) for name in DRAWS}, {}
    for i in range(len(z)):
        original = render(z[i], jnp.eye(3))
        if i == 0:
            angle = float((2 * arrays['in/u_rot'][0] - 1) * np.pi)
            got |= {'batch0/orig': nchw(original), 'batch0/img_rot': nchw(render(z[0], coords.rotate(angle)))}
        for name, draw in DRAWS.items():
            squares, count = equivariance.compare(
                name, functools.partial(render, z[i]), original, arrays[f'in/{draw}'][i], model.resolution
            )
            sums[name] += np.sum(np.asarray(squares, np.float64)), len(z[i]) * float(count)
    assert meta['num_samples'] == z.shape[0] * z.shape[1]
    got |= {out: equivariance.decibels(*sums[name]) for name, out in RESULTS.items()}
    rules = fields(meta['tolerance'], {'psnr_db': 'atol'})
    assert_outputs(arrays, got, lambda name: rules if 'psnr' in name else {'rel_to_max': 1e-4})


CHECKS = {('stylegan3', 'equivariance_ops'): operators, ('stylegan3', 'equivariance_metric'): metric}
