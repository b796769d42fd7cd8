"""Closed forms of the moments of two layers, against golden maps."""

import jax.numpy as jnp
import numpy as np
from compare import assert_outputs, nchw

from pegan_jax.analysis import padding as closed_forms
from pegan_jax.analysis.features import stack


def two_layers(arrays, meta):
    layers = [
        (jnp.asarray(arrays[f'param/w{i}'].transpose(2, 3, 1, 0)), jnp.asarray(arrays[f'param/b{i}'])) for i in (1, 2)
    ]
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
        'mean_F2_nopad': bare.mean2[0, 0],
        'autocorr_F1_nopad': nchw(closed_forms.autocorrelation(*layers[0])),
    }
    for moment in (bare.mean1, bare.var1, bare.mean2):
        np.testing.assert_allclose(moment, jnp.broadcast_to(moment[:1, :1], moment.shape), rtol=1e-5)
    x = jnp.full((1, *size, arrays['param/w1'].shape[1]), 0.7)
    for name, padding in (('pad', True), ('nopad', False)):
        got[f'identical_input_0p7_F2_{name}'] = nchw(stack(x, layers, padding=padding)[1][0])
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {('positional_encoding_gans', 'analysis_two_layer'): two_layers}
