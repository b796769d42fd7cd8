"""Trains a small GAN for some steps on the devices of this process (and of its peers) and saves the resulting state.

python worker.py GAN OUT.npz BACKEND STEPS [PORT PROCESS COUNT]
"""

import functools
import pathlib
import sys

import jax
import numpy as np
import optax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from toy import toy_batch, toy_gan

from pegan_jax.config import Config, DataConfig
from pegan_jax.models import dcgan
from pegan_jax.train.step import compile_step, data_mesh, device_step, due_updates, place_batch, replicated_state

BATCH = 8


def dcgan_gan():
    """Batch normalisation in both networks, of large features; with SGD, as Adam hides factors."""
    model = dcgan.Config(img_resolution=16, z_dim=3, base_channels=4, d_base_channels=3)
    gan = dcgan.build(Config('dcgan', model, DataConfig(resolution=16)))

    def init(key):
        params, *rest = gan.init(key)
        return jax.tree.map(lambda w: 20 * w if w.ndim == 4 else w, params), *rest

    return gan._replace(init=init, optimizers={net: optax.sgd(0.02) for net in ('g', 'd')})


GANS = {'toy': toy_gan, 'dcgan': dcgan_gan}


def main(name, out, backend, steps, port=None, process=0, count=1):
    if port is not None:
        jax.distributed.initialize(f'127.0.0.1:{port}', num_processes=int(count), process_id=int(process))
    mesh, gan = data_mesh(), GANS[name]()
    state = replicated_state(gan, 0, mesh)
    programs, metrics = {}, []
    for step in range(int(steps)):
        due = due_updates(gan, step)
        if due not in programs:
            per_device = functools.partial(device_step, gan=gan, stage=gan.stage_at(step, 0, 0), due=due, seed=0)
            programs[due] = compile_step(per_device, backend, mesh)
        share = BATCH // int(count)
        rows = toy_batch(step, BATCH)[int(process) * share : (int(process) + 1) * share]
        state, scalars = programs[due](state, place_batch({'image': rows}, backend, mesh))
        jax.block_until_ready(state)
        metrics.append({k: float(v) for k, v in scalars.items()})
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        copies = [np.asarray(s.data) for s in leaf.addressable_shards]
        for copy in copies[1:]:
            np.testing.assert_array_equal(copies[0], copy, f'replicas differ in {jax.tree_util.keystr(path)}')
        flat[jax.tree_util.keystr(path)] = copies[0]
    np.savez(out, **flat, **{f'metric/{i}/{k}': v for i, m in enumerate(metrics) for k, v in m.items()})
    if port is not None:
        jax.distributed.shutdown()


if __name__ == '__main__':
    main(*sys.argv[1:])
