"""Names and shapes of all tensors of networks of official size."""

import jax
import numpy as np

from pegan_jax.config import Config, DataConfig, system_module
from pegan_jax.interop import nvidia
from pegan_jax.models import stylegan2, stylegan3
from pegan_jax.weights import rules

MODELS = {
    'G_t_256': stylegan3.Config(r1_gamma=2.0, channel_base=16384),
    'G_r_1024': stylegan3.Config(
        r1_gamma=32.8, img_resolution=1024, channel_base=65536, channel_max=1024, conv_kernel=1, use_radial_filters=True
    ),
    'G_sg2_256': stylegan2.Config(channel_base=16384),
    'D_256': stylegan2.Config(d_channel_base=16384),
    'D_1024': stylegan2.Config(img_resolution=1024),
    'D_32_cond10': stylegan2.Config(img_resolution=32, c_dim=10),
    'D_32_orig': stylegan2.Config(img_resolution=32, d_architecture='orig'),
    'D_32_skip': stylegan2.Config(img_resolution=32, d_architecture='skip'),
}


def state_dict_names(arrays, meta):
    assert meta['state_dicts'].keys() == MODELS.keys()
    for name, entries in meta['state_dicts'].items():
        model = MODELS[name]
        system = 'stylegan3' if isinstance(model, stylegan3.Config) else 'stylegan2'
        labels = {'folder': 'unknown', 'labels': True} if model.c_dim else {}
        config = Config(system, model, DataConfig(resolution=model.img_resolution, **labels))
        params, buffers, _ = jax.eval_shape(system_module(system).build(config).init, jax.random.key(0))
        net, table = ('g', nvidia.G_RULES) if name.startswith('G') else ('d', nvidia.D_RULES)
        tensors = {kind: {k: np.zeros(shape, np.float32) for k, shape, of in entries if of == kind}
                   for kind in ('param', 'buffer')}  # fmt: skip
        network = nvidia.Network('', {}, (), tensors['param'], tensors['buffer'])
        nvidia.variables(name, network, table, {'params': params[net], 'buffers': buffers[net]})
        for kind, found in tensors.items():
            for key in found:
                path, _ = rules._renamed(key.replace('.', '/'), np.zeros(found[key].shape), table)
                assert path.startswith(f'{kind}s/'), (name, key, path)


CHECKS = {('stylegan3', 'state_dict_names'): state_dict_names}
