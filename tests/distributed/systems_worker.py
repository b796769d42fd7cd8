"""Every system's `:tiny`, without what is defined per batch, on one of this process's devices and on all of them.

python systems_worker.py OUT.json [SYSTEM ...]; the number of devices comes from XLA_FLAGS. SGD, as Adam hides factors.
"""

import functools
import json
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from pegan_jax import config as configs
from pegan_jax.train.step import compile_step, data_mesh, device_step, place_batch, replicated_state

BATCH, STEPS = 8, {'stylegan2:afhqv2': 5}  # of the others, 2
# Minibatch deviation looks at the rows of a device together.
CHANGES = {
    'cips': ['model.mbstd_group_size=1'],
    'creps': ['model.mbstd_group_size=1'],
    'dcgan': [],
    'deepfill': [],
    'mspie': ['model.mbstd_group_size=1'],
    'pconv': [],
    'pggan': ['model.mbstd_group_size=1'],
    'singan': [],
    'stylegan2': ['model.mbstd_group_size=1'],
    'stylegan2:afhqv2': ['model.mbstd_group_size=1'],  # whose augmentation is adaptive
    'stylegan3:t': ['model.mbstd_group_size=1'],
}


def rows(config, step, poison=1.0):
    """uint8 images and whatever else the source gives; 'poison' is added to losses times 0."""
    rng, count = np.random.default_rng(step), BATCH
    batch = {'image': rng.integers(0, 256, (count, *config.data.size, 3), np.uint8)}
    if config.data.edges != 'none':
        batch['edge'] = 255 * rng.integers(0, 2, (count, *config.data.size, 1), np.uint8)
    return {**batch, 'poison': np.array([1.0] * (count - 1) + [poison], np.float32)}


def poisonable(update):
    def loss(params, state, batch, key, stage):
        value, aux = update.loss(params, state, batch, key, stage)
        return value + 0 * jnp.sum(batch['poison']), aux

    return type(update)(update.net, loss, update.interval, update.part)


def reduced(step, state, batch):
    """How many numbers a step adds up over devices."""
    jaxpr = jax.make_jaxpr(step, axis_env=[('data', 1)])(state, batch)

    def count(jaxpr):
        total = 0
        for eqn in jaxpr.eqns:
            if 'psum' in eqn.primitive.name:
                total += sum(v.aval.size for v in eqn.invars)
            inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, 'eqns'))
            total += sum(count(j) for j in inner if hasattr(j, 'eqns'))
        return total

    return count(jaxpr.jaxpr)


def run(name, photo):
    overrides = [*CHANGES[name], *([f'data.image={photo}'] if 'singan' in name else [])]
    config = configs.load_config(f'{name}{"," if ":" in name else ":"}tiny', overrides)
    gan = configs.system_module(config.system).build(config)
    gan = gan._replace(
        updates=tuple(map(poisonable, gan.updates)), optimizers={net: optax.sgd(1e-3) for net in gan.optimizers}
    )
    everything = tuple(range(len(gan.updates)))
    step = functools.partial(device_step, gan=gan, stage=gan.stage_at(0, 0, 0), due=everything, seed=0)
    states, all_devices = [], jax.devices()
    for devices in (all_devices[:1], all_devices):
        mesh = data_mesh(devices)
        first = state = replicated_state(gan, 0, mesh)
        if len(states) == 0:
            begin = jax.device_get(state)
            sums = reduced(step, state, rows(config, 0))
        program = compile_step(step, 'jit', mesh)
        for i in range(STEPS.get(name, 2)):
            state, metrics = program(state, place_batch(rows(config, i), 'jit', mesh))
            jax.block_until_ready(state)
        assert first is not state and metrics['finite'] == 1, metrics
        for path, leaf in jax.tree.leaves_with_path(state):
            copies = [np.asarray(s.data) for s in leaf.addressable_shards]
            assert all(np.array_equal(copies[0], copy, equal_nan=True) for copy in copies), jax.tree_util.keystr(path)
        states.append(jax.device_get(state))
    _, metrics = program(state, place_batch(rows(config, 9, poison=np.nan), 'jit', mesh))

    differences = {}
    for (path, start), one, many in zip(
        jax.tree.leaves_with_path(begin), jax.tree.leaves(states[0]), jax.tree.leaves(states[1]), strict=True
    ):
        moved, apart = (float(np.max(np.abs(np.asarray(x, np.float64) - one), initial=0)) for x in (start, many))
        scale = float(np.max(np.abs(np.asarray(one, np.float64)), initial=0))
        differences[jax.tree_util.keystr(path)] = (moved, apart, scale)
    stage, gradients = gan.stage_at(0, 0, 0), 0
    for update in gan.updates:
        tree = begin.params[update.net] if update.part is None else begin.params[update.net][update.part(stage)]
        gradients += sum(x.size for x in jax.tree.leaves(tree))
    return {
        'finite with a poisoned device': float(metrics['finite']),
        'differences': differences,
        'reduced': sums - gradients,
        'constants': sum(x.size for x in jax.tree.leaves(begin.buffers)),
    }


def main(out, *names):
    with tempfile.TemporaryDirectory() as folder:
        photo = pathlib.Path(folder) / 'photo.png'
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(photo)
        for name in names or CHANGES:
            result = run(name, photo)
            with open(out, 'a') as file:
                file.write(json.dumps({'system': name, **result}) + '\n')


if __name__ == '__main__':
    main(*sys.argv[1:])
