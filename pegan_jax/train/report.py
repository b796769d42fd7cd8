"""What a run would be, without running it."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pegan_jax import config as configs
from pegan_jax.config import Config
from pegan_jax.train.state import create_state
from pegan_jax.train.step import check_batch_size, compile_step, data_mesh, device_step


def dry_run(config: Config) -> str:
    """The resolved configuration, parameter counts, FLOPs per image and a memory estimate, for the devices at hand.

    FLOPs are XLA's count for the step in which every update is due, and for sampling; memory is XLA's plan for that
    step, per device. The programs are compiled, nothing is allocated or trained.
    """
    train, mesh = config.train, data_mesh()
    check_batch_size(train.batch_size, mesh.size)
    gan = configs.system_module(config.system).build(config)
    state = jax.eval_shape(functools.partial(create_state, gan, train.seed))
    count = {net: sum(x.size for x in jax.tree.leaves(state.params[net])) for net in ('g', 'd')}
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    def abstract(tree: dict, spec: P) -> dict:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)), tree)

    image = jax.ShapeDtypeStruct((train.batch_size, *config.data.size, 3), jnp.uint8)
    stage = gan.stage_at(0, 0, train.seed)
    everything = tuple(range(len(gan.updates)))
    step = compile_step(
        functools.partial(device_step, gan=gan, stage=stage, due=everything, seed=train.seed), 'jit', mesh
    )
    compiled = step.lower(abstract(state, P()), abstract({'image': image}, P('data'))).compile()
    memory = compiled.memory_analysis()
    z = jax.ShapeDtypeStruct((1, config.model.z_dim), jnp.float32)
    sampler = jax.jit(lambda variables, z: gan.sample(variables, z, None)).lower(state.sampling, z).compile()

    per_image = compiled.cost_analysis()['flops'] * mesh.size / train.batch_size
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return '\n'.join(
        [
            configs.to_json(config),
            '',
            f'devices            {mesh.size} x {mesh.devices.flat[0].device_kind}, batch {train.batch_size}',
            f'steps              {train.total_steps:,}',
            f'parameters         generator {count["g"]:,}; discriminator {count["d"]:,}',
            f'state              {total / 2**20:,.1f} MiB on every device and in a checkpoint',
            f'FLOPs per image    {sampler.cost_analysis()["flops"]:.3e} sampling; {per_image:.3e} training',
            f'memory per device  {peak / 2**20:,.1f} MiB for a training step',
        ]
    )
