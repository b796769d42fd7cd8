"""Parity of the operators of StyleGAN2 and StyleGAN3: FIR resampling, activations, resampling convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
from compare import assert_outputs, nchw

from pegan_jax import filters, ops

OPTIONS = ('up', 'down', 'padding', 'act', 'alpha', 'gain', 'slope', 'clamp', 'flip_filter', 'flip_weight', 'groups')


def options(case):
    """Keyword arguments of a case. A padding of two is (x, y)."""
    found = {
        name: tuple(case[name]) if isinstance(case[name], list) else case[name] for name in OPTIONS if name in case
    }
    if isinstance(found.get('padding'), tuple):
        found['padding'] = tuple(np.repeat(found['padding'], 4 // len(found['padding'])).tolist())
    return found


def hwio(kernel):
    return jnp.transpose(kernel, (2, 3, 1, 0))


def oihw(kernel):
    return np.transpose(kernel, (3, 2, 0, 1))


def image(x):
    return jnp.moveaxis(x, -3, -1)


def inputs(arrays):
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def upfirdn2d(arrays, meta):
    @jax.jit
    def run(arrays):
        return {
            f'{case["id"]}/y': getattr(ops, case['op'])(
                image(arrays[f'in/{case["id"]}/x']), arrays.get(f'in/{case["id"]}/f'), **options(case)
            )
            for case in meta['cases']
            if case['op'] != 'setup_filter'
        }

    got = {name: nchw(value) for name, value in run(inputs(arrays)).items()}
    for case in meta['cases']:
        if case['op'] == 'setup_filter':
            chosen = {name.removesuffix('_filter'): case[name] for name in case if name not in ('id', 'op', 'f')}
            got[f'{case["id"]}/f'] = filters.setup_filter(case['f'], **chosen)
    assert_outputs(arrays, got, meta['tolerance'])


def bias_act_conv_resample(arrays, meta):
    @jax.jit
    def run(arrays):
        results = {}
        for case in meta['cases']:
            if case['op'] == 'bias_act':
                assert case['dim'] == 1  # of channels
                results[case['id']] = ops.bias_act(image(arrays['in/x']), arrays['in/b'], **options(case))
            else:
                x, kernel, f = (arrays[f'in/{case["id"]}/{name}'] for name in 'xwf')
                results[case['id']] = ops.conv2d_resample(image(x), hwio(kernel), f, **options(case))
        return results

    got = {name: nchw(value) for name, value in run(inputs(arrays)).items()}
    assert_outputs(arrays, got, meta['tolerance'])


def filter_design(arrays, meta):
    got = {}
    for case in meta['cases']:
        names = ('numtaps', 'cutoff', 'width', 'fs')
        f = filters.lowpass(*(case[name] for name in names), radial=case.get('radial', False))
        if case['is_none']:
            assert f is None
        else:
            got[case['id']] = f
    assert_outputs(arrays, got, meta['tolerance'])


def filtered_lrelu(arrays, meta):
    @jax.jit
    def run(arrays):
        results = {}
        for case in meta['cases']:
            x, b, dy = (arrays[f'in/{case["id"]}/{name}'] for name in ('x', 'b', 'dy'))
            fu, fd = (arrays.get(f'in/{case["id"]}/{name}') for name in ('fu', 'fd'))

            def operator(x, b, fu=fu, fd=fd, case=case):
                return ops.filtered_lrelu(x, b, fu, fd, **options(case))

            y, pull = jax.vjp(operator, image(x), b)
            results[case['id']] = (y, *pull(image(dy)))
        return results

    got = {}
    for name, (y, dx, db) in run(inputs(arrays)).items():
        got |= {f'{name}/y': nchw(y), f'{name}/dx': nchw(dx), f'{name}/db': db}
    assert_outputs(arrays, got, meta['tolerance'])


def modulated_conv(arrays, meta):
    @jax.jit
    def run(arrays):
        results = {}
        for case in meta['cases']:
            parts = {name: arrays.get(f'in/{case["id"]}/{name}') for name in ('input_gain', 'dy', 'noise', 'f')}
            x, kernel, styles = (arrays[f'in/{case["id"]}/{name}'] for name in 'xws')
            chosen, demodulate = options(case), case['demodulate']
            if case['family'] == 'stylegan3':
                if isinstance(case['padding'], list):
                    chosen['padding'] = tuple(np.repeat(case['padding'][::-1], 2).tolist())  # here (y, x)

                def operator(x, kernel, styles, gain=parts['input_gain'], chosen=chosen, demodulate=demodulate):
                    return ops.modulated_conv(x, kernel, styles, demodulate=demodulate, input_gain=gain, **chosen)

                y, pull = jax.vjp(operator, image(x), hwio(kernel), styles)
                results[case['id']] = (y, *pull(image(parts['dy'])))
            else:
                y = ops.modulated_conv_resample(
                    image(x), hwio(kernel), styles, parts['f'], demodulate=demodulate, **chosen
                )
                noise = parts['noise']
                if noise is not None:
                    y += noise.reshape(-1, *noise.shape[-2:], 1)
                results[case['id']] = (y,)
        return results

    got = {}
    for name, (y, *slopes) in run(inputs(arrays)).items():
        got[f'{name}/y'] = nchw(y)
        if slopes:
            dx, dw, ds = slopes
            got |= {f'{name}/dx': nchw(dx), f'{name}/dw': oihw(dw), f'{name}/ds': ds}
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {
    ('stylegan3', 'upfirdn2d'): upfirdn2d,
    ('stylegan3', 'bias_act_conv_resample'): bias_act_conv_resample,
    ('stylegan3', 'filter_design'): filter_design,
    ('stylegan3', 'filtered_lrelu'): filtered_lrelu,
    ('stylegan3', 'modulated_conv'): modulated_conv,
}
