"""Closed forms of the moments of two layers, against golden maps."""

import re

import jax.numpy as jnp
import numpy as np
from compare import assert_outputs, fields, nchw, outputs

from pegan_jax.analysis import padding as closed_forms
from pegan_jax.analysis.features import stack


def two_layers(arrays, meta):
    layers = [
        (jnp.asarray(arrays[f'param/w{i}'].transpose(2, 3, 1, 0)), jnp.asarray(arrays[f'param/b{i}'])) for i in (1, 2)
    ]
    fields({'negative_slope': meta.get('negative_slope', 0.2)}, {'negative_slope': (0.2,)})
    size = (meta['H'], meta['W'])
    padded, bare = (closed_forms.two_layers(layers, size, padding=padding) for padding in (True, False))
    got = {
        'mean_F1_pad': nchw(padded.mean1),
        'var_F1_pad': nchw(padded.var1),
        'mean_act1_pad': nchw(padded.mean_act1),
        'mean_F2_pad': nchw(padded.mean2),
        # One value per channel: equal at all positions.
        'mean_F1_nopad': bare.mean1[0, 0],
        'var_F1_nopad': bare.var1[0, 0],
        'mean_act1_nopad': bare.mean_act1[0, 0],
        'mean_F2_nopad': bare.mean2[0, 0],
        'autocorr_F1_nopad': nchw(closed_forms.autocorrelation(*layers[0])),
    }
    for moment in (bare.mean1, bare.var1, bare.mean2):
        spread = np.abs(moment - moment[:1, :1]).max()
        assert spread <= 1e-5 * np.abs(moment).max(), f'moments without padding differ by {spread}'
    for name in outputs(arrays):
        found = re.fullmatch(r'identical_input_(-?\d+)p(\d+)_F([12])_(pad|nopad)', name)
        if found:
            x = jnp.full((1, *size, layers[0][0].shape[2]), float(f'{found[1]}.{found[2]}'))
            got[name] = nchw(stack(x, layers, padding=found[4] == 'pad')[int(found[3]) - 1][0])
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {('positional_encoding_gans', 'analysis_two_layer'): two_layers}
