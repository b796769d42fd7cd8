"""Parity of the operators of StyleGAN2 and StyleGAN3: FIR resampling, activations, resampling convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
from compare import anything, assert_outputs, fields, nchw

from pegan_jax import filters, ops


def padding(value):
    """A padding of two is (x, y)."""
    pads = (value,) if isinstance(value, int) else value
    return {'padding': value if len(pads) == 1 else tuple(np.repeat(pads, 4 // len(pads)).tolist())}


def options(case, *names):
    """Keyword arguments of a case: of its options, those in `names`, and none besides."""
    rules = dict.fromkeys(('id', 'op', 'filter', 'family', 'k', 'ig', 'noise', 'fused_modconv'), anything)
    return fields(case, rules | {name: name for name in names} | ({'padding': padding} if 'padding' in names else {}))


def hwio(kernel):
    return jnp.transpose(kernel, (2, 3, 1, 0))


def oihw(kernel):
    return np.transpose(kernel, (3, 2, 0, 1))


def image(x):
    return jnp.moveaxis(x, -3, -1)


def inputs(arrays):
    return {name: value.astype(np.float32) for name, value in arrays.items() if name.startswith('in/')}


RESAMPLINGS = {
    'upfirdn2d': ('up', 'down', 'padding', 'flip_filter', 'gain'),
    'filter2d': ('padding', 'flip_filter', 'gain'),
    'upsample2d': ('up', 'padding', 'flip_filter', 'gain'),
    'downsample2d': ('down', 'padding', 'flip_filter', 'gain'),
}


def upfirdn2d(arrays, meta):
    names = {'normalize': 'normalize', 'flip_filter': 'flip', 'gain': 'gain', 'separable': 'separable'}
    names |= dict.fromkeys(('id', 'op', 'f'), anything)
    for case in meta['cases']:
        assert case['op'] in (*RESAMPLINGS, 'setup_filter'), f'{case["id"]}: this library has no op {case["op"]!r}'

    @jax.jit
    def run(arrays):
        return {
            f'{case["id"]}/y': getattr(ops, case['op'])(
                image(arrays[f'in/{case["id"]}/x']),
                arrays.get(f'in/{case["id"]}/f'),
                **options(case, *RESAMPLINGS[case['op']]),
            )
            for case in meta['cases']
            if case['op'] != 'setup_filter'
        }

    got = {name: nchw(value) for name, value in run(inputs(arrays)).items()}
    for case in meta['cases']:
        if case['op'] == 'setup_filter':
            got[f'{case["id"]}/f'] = filters.setup_filter(case['f'], **fields(case, names))
    assert_outputs(arrays, got, meta['tolerance'])


def bias_act_conv_resample(arrays, meta):
    def own(arrays, case, name):
        """An input of the case, or the one for all."""
        return arrays.get(f'in/{case["id"]}/{name}', arrays.get(f'in/{name}'))

    @jax.jit
    def run(arrays):
        results = {}
        for case in meta['cases']:
            x = image(own(arrays, case, 'x'))
            if case['op'] == 'bias_act':
                assert case.get('dim', 1) == 1, f'option dim={case["dim"]}: biases here are of channels'
                rest = {name: value for name, value in case.items() if name != 'dim'}
                chosen = options(rest, 'act', 'alpha', 'gain', 'clamp')
                results[case['id']] = ops.bias_act(x, own(arrays, case, 'b'), **chosen)
            else:
                assert case['op'] == 'conv2d_resample', f'{case["id"]}: this library has no op {case["op"]!r}'
                chosen = options(case, 'up', 'down', 'padding', 'groups', 'flip_weight', 'flip_filter')
                kernel, f = (own(arrays, case, name) for name in 'wf')
                results[case['id']] = ops.conv2d_resample(x, hwio(kernel), f, **chosen)
        return results

    got = {name: nchw(value) for name, value in run(inputs(arrays)).items()}
    assert_outputs(arrays, got, meta['tolerance'])


def filter_design(arrays, meta):
    got = {}
    names = ('numtaps', 'cutoff', 'width', 'fs', 'radial')
    for case in meta['cases']:
        chosen = fields(case, {name: name for name in names} | {'id': anything, 'is_none': anything})
        f = filters.lowpass(*(chosen[name] for name in names[:4]), radial=chosen.get('radial', False))
        assert (f is None) == case.get('is_none', f is None), f'{case["id"]}: is_none'
        if f is not None:
            got[case['id']] = f
    assert_outputs(arrays, got, meta['tolerance'])


def filtered_lrelu(arrays, meta):
    @jax.jit
    def run(arrays):
        results = {}
        for case in meta['cases']:
            x, b, dy, fu, fd = (arrays.get(f'in/{case["id"]}/{name}') for name in ('x', 'b', 'dy', 'fu', 'fd'))
            chosen = options(case, 'up', 'down', 'padding', 'gain', 'slope', 'clamp', 'flip_filter')
            # The gain and the slope have defaults where a case has none; so has the operator.
            b = jnp.zeros(x.shape[1]) if b is None else b

            def operator(x, b, fu=fu, fd=fd, chosen=chosen):
                return ops.filtered_lrelu(x, b, fu, fd, **chosen)

            y, pull = jax.vjp(operator, image(x), b)
            results[case['id']] = (y, *(() if dy is None else pull(image(dy))))
        return results

    got = {}
    for name, (y, *slopes) in run(inputs(arrays)).items():
        got[f'{name}/y'] = nchw(y)
        if slopes:
            got |= {f'{name}/dx': nchw(slopes[0]), f'{name}/db': slopes[1]}
    assert_outputs(arrays, got, meta['tolerance'])


def modulated_conv(arrays, meta):
    """StyleGAN3's, with gradients; and StyleGAN2's, with resampling and noise."""

    def operator(case, gain, f, noise):
        """(x, kernel, styles) -> y, NHWC and HWIO."""
        if case['family'] == 'stylegan3':
            chosen = options(case, 'demodulate', 'padding')
            if isinstance(case.get('padding'), list):
                chosen['padding'] = tuple(np.repeat(case['padding'][::-1], 2).tolist())  # here (y, x)
            return lambda x, kernel, styles: ops.modulated_conv(x, kernel, styles, input_gain=gain, **chosen)
        assert case['family'] == 'stylegan2', f'{case["id"]}: this library has no family {case["family"]!r}'
        chosen = options(case, 'demodulate', 'padding', 'up', 'down', 'flip_weight')

        def run(x, kernel, styles):
            y = ops.modulated_conv_resample(x, kernel, styles, f, **chosen)
            return y if noise is None else y + noise.reshape(-1, *noise.shape[-2:], 1)

        return run

    @jax.jit
    def run(arrays):
        results = {}
        for case in meta['cases']:
            parts = {name: arrays.get(f'in/{case["id"]}/{name}') for name in ('input_gain', 'f', 'noise')}
            x, kernel, styles, dy = (arrays.get(f'in/{case["id"]}/{name}') for name in ('x', 'w', 's', 'dy'))
            y, pull = jax.vjp(operator(case, *parts.values()), image(x), hwio(kernel), styles)
            results[case['id']] = (y, *(() if dy is None else pull(image(dy))))
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
