"""CREPS's generator against golden numbers: images at the trained positions, finer, wider and shifted ones."""

import jax
import jax.numpy as jnp
import numpy as np
from compare import assert_outputs, fields, nchw, select

from pegan_jax.interop import nvidia
from pegan_jax.layers import truncate
from pegan_jax.models import creps

OPTIONS = {name: name for name in ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels', 'channel_base')}
OPTIONS |= {name: name for name in ('biline_channels', 'channel_max', 'fc_clamp')} | {'architecture': ('skip',)}
OPTIONS |= {'mapping_kwargs': lambda options: fields(options, {'num_layers': 'mapping_layers'})}


def generator(arrays, meta):
    """Values, in float32."""
    model = creps.Config(**fields(meta['kwargs'], OPTIONS))
    module = creps.Generator(model)
    z, c = jnp.asarray(arrays['in/z']), jnp.asarray(arrays['in/c']) if model.c_dim else None
    network = nvidia.Network('Generator', {}, (), select(arrays, 'param/'), {})
    variables = nvidia.variables('G', network, nvidia.CREPS_RULES, jax.eval_shape(module.init, jax.random.key(0), z, c))
    trained = arrays['param/synthesis.b4.input.coords'][0, :, :, 0]
    np.testing.assert_allclose(np.stack(creps.positions(model.size, model.size), axis=1), trained, atol=1e-6)

    @jax.jit
    def run(variables, ws, rows, columns):
        return module.apply(
            variables,
            ws,
            at=(rows, columns),
            method='synthesise',
            capture_intermediates=True,
            mutable=['intermediates'],
        )

    ws = module.apply(variables, z, c, method='map')
    img, captured = run(variables, ws, *trained.T)
    lines = captured['intermediates']['synthesis']['input']['__call__'][0]
    lines = np.asarray(lines).reshape(len(z), 2, len(trained), model.rank, -1)
    got = {
        'ws': ws,
        'img': nchw(img),
        'input': np.concatenate([lines[:, 0], lines[:, 1]], axis=2).transpose(0, 3, 1, 2),
    }
    for name, at in select(arrays, 'in/coords_').items():
        got[f'img_{name}'] = nchw(run(variables, ws, *at.T)[0])
    trunc = fields(meta['trunc'], {'truncation_psi': 'psi', 'truncation_cutoff': 'cutoff'})
    w_avg = variables['buffers']['mapping']['w_avg']
    got['img_trunc'] = nchw(run(variables, truncate(ws, w_avg, **trunc), *trained.T)[0])
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {('creps', 'creps_g'): generator}
