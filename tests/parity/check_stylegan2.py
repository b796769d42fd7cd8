"""StyleGAN2, its discriminator, and the training that it shares with StyleGAN3, against golden numbers."""

import jax
import numpy as np
from check_cips import check_filled, dense, flat, nest, rename, select
from compare import assert_outputs

from pegan_jax.layers import MappingNetwork

MAPPING_RULES = [
    (r'(embed|fc\d+)\.weight', '{}/kernel', dense),
    (r'(embed|fc\d+)\.bias', '{}/bias', flat),
    (r'w_avg', 'w_avg', np.asarray),
]


def variables_of(arrays, rules, prefix='param/'):
    named = rename(select(arrays, prefix), rules)
    return {'params': nest(named), 'buffers': nest(named, buffers=True)}


def mapping(arrays, meta):
    kwargs = dict(meta['kwargs'])
    default = {'sg2': 8, 'sg3': 2}[meta['cls'].split('.')[0]]
    c_dim, z_dim = kwargs.pop('c_dim'), kwargs.pop('z_dim')
    module = MappingNetwork(**({'num_layers': default} | kwargs))
    variables = variables_of(arrays, MAPPING_RULES)
    inputs = arrays['in/z'] if z_dim else None, arrays['in/c'] if c_dim else None
    expected = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    for collection, tree in variables.items():
        check_filled(tree, expected.get(collection, {}))
    got = {}
    for call in meta['calls']:
        name = call.pop('out')
        got[name], after = module.apply(variables, *inputs, **call, mutable=['buffers'])
        if call.get('update_emas'):
            got['w_avg_after_update'] = after['buffers']['w_avg']
    assert_outputs(arrays, got, meta['tolerance'])


CHECKS = {('stylegan3', 'mapping_'): mapping}
