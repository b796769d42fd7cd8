"""What a run would be, without running it."""

import functools
import math
import re
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pegan_jax import config as configs
from pegan_jax import ops
from pegan_jax.config import Config
from pegan_jax.gan import GAN, images_of, inputs_of
from pegan_jax.settings import UserError
from pegan_jax.train.state import create_state
from pegan_jax.train.step import as_floats, compile_step, data_mesh, device_step, step_options
from pegan_jax.train.targets import described_devices, memory_of


def matmul_flops(jaxpr: Any) -> int:
    """Multiplications and additions of the matmuls and convolutions of a jaxpr, in loops as often as they run.

    XLA's own count takes the body of a loop once. All branches of a conditional are counted.
    """
    total = 0
    for eqn in jaxpr.eqns:
        times = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
        inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, 'eqns'))
        total += times * sum(matmul_flops(j) for j in inner if hasattr(j, 'eqns'))
        if eqn.primitive.name == 'dot_general':
            (contracted, _), _ = eqn.params['dimension_numbers']
            x = eqn.invars[0].aval
            total += 2 * eqn.outvars[0].aval.size * math.prod(x.shape[axis] for axis in contracted)
        elif eqn.primitive.name == 'conv_general_dilated':
            kernel = eqn.invars[1].aval
            features = kernel.shape[eqn.params['dimension_numbers'].rhs_spec[0]]
            # The gradient of a strided convolution has zeros between its inputs, which need no work.
            zeros = math.prod(eqn.params['lhs_dilation'])
            total += 2 * eqn.outvars[0].aval.size * kernel.size // (features * zeros)
    return total


def abstract_batch(config: Config, count: int) -> dict:
    """Shapes of `count` rows of a batch, as in a run."""
    batch = {'image': jax.ShapeDtypeStruct((count, *config.data.size, config.data.channels), jnp.uint8)}
    if config.data.labels:
        batch['label'] = jax.ShapeDtypeStruct((count,), jnp.int32)
    if config.data.edges != 'none':
        batch['edge'] = jax.ShapeDtypeStruct((count, *config.data.size, 1), jnp.uint8)
    if config.data.outside:
        batch['offset'] = jax.ShapeDtypeStruct((count, 2), jnp.int32)
    if config.data.crop == 'scales':
        batch |= {'offset': jax.ShapeDtypeStruct((count, 2), jnp.float32)}
        batch |= {'scale': jax.ShapeDtypeStruct((count,), jnp.float32)}
    if getattr(config.model, 'masks', None) == 'folder':  # from `GAN.rows`, whose files need not be here
        batch['mask'] = jax.ShapeDtypeStruct((count, *config.data.size), jnp.bool_)
    return batch


def abstract_inputs(gan: GAN, config: Config, count: int) -> Any:
    """Shapes of what `images_of` takes for `count` images."""

    def inputs(batch: dict) -> Any:
        return inputs_of(gan, np.arange(count), lambda: as_floats(batch), jax.random.key(0))

    return jax.eval_shape(inputs, abstract_batch(config, count))


def layer_table(gan: GAN, config: Config, variables: dict) -> str:
    """The layers of a generator in the order of their calls for one image: parameters, buffers, output, dtype.

    Numbers of a layer are its own: layers inside it have rows of their own. Nothing is computed.

    Args:
      variables: {'params', 'buffers'} of the generator, arrays or their shapes.
    """
    rows, counted, inside = [], set(), []

    def own(module: nn.Module, trained: bool) -> int:
        """Numbers in the arrays that the module itself has, if they are not counted yet."""
        found = {
            id(x): x.size
            for kind, variables in module.variables.items() if (kind == 'params') == trained
            for x in variables.values() if hasattr(x, 'shape') and id(x) not in counted
        }  # fmt: skip
        counted.update(found)
        return sum(found.values())

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module, method = context.module, context.method_name
        if method == 'setup' or (method != '__call__' and inside):
            return call(*args, **kwargs)
        place = len(rows)
        rows.append(())
        inside.append(place)
        y = call(*args, **kwargs)
        inside.pop()
        outputs = [x for x in jax.tree.leaves(y) if hasattr(x, 'shape')]
        name = '/'.join(module.path) or (type(module).__name__ if method == '__call__' else method)
        shapes = ', '.join('x'.join(map(str, x.shape)) or 'scalar' for x in outputs)
        dtypes = ', '.join(dict.fromkeys(str(x.dtype) for x in outputs))
        rows[place] = (name, own(module, True), own(module, False), shapes, dtypes)
        return y

    with nn.intercept_methods(intercept):
        jax.eval_shape(functools.partial(images_of, gan), variables, abstract_inputs(gan, config, 1))
    totals = [sum(x.size for x in jax.tree.leaves(variables.get(kind, {}))) for kind in ('params', 'buffers')]
    rest = [total - sum(row[column] for row in rows) for column, total in enumerate(totals, start=1)]
    rows += [('elsewhere', *rest, '', '')] if any(rest) else []
    lines = [('layer', 'parameters', 'buffers', 'output', 'dtype')]
    lines += [(name, f'{p:,}', f'{b:,}', *rest) for name, p, b, *rest in (*rows, ('all', *totals, '', ''))]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return '\n'.join(
        '  '.join(f'{cell:{"<>"[i in (1, 2)]}{widths[i]}}' for i, cell in enumerate(line)).rstrip() for line in lines
    )


COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'collective-permute', 'all-to-all')
_BITS = {'pred': 8, 'bf16': 16, 'f16': 16, 'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128}


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """{kind: (how many, bytes of their results)} of what devices exchange in a compiled program, as XLA prints it.

    If one operation combines several and its result is a tuple, bytes are those of all.
    """
    found = {}
    for result, kind in re.findall(rf'= (\S.*?) ({"|".join(COLLECTIVES)})(?:-start)?\(', program):
        count, size = found.get(kind, (0, 0))
        for dtype, shape in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', result):
            bits = _BITS.get(dtype) or int(re.sub(r'\D', '', dtype) or 32)
            size += math.prod(int(n) for n in shape.split(',') if n) * bits // 8
        found[kind] = (count + 1, size)
    return found


def dry_run(config: Config, topology: str | None = None) -> str:
    """The resolved configuration, parameter counts, FLOPs per image and a memory estimate, for the devices at hand.

    FLOPs are those of matmuls and convolutions in the step in which every update is due, and in sampling; memory is
    XLA's plan for that step, per device. The step is compiled, nothing is allocated or trained.

    Args:
      topology: what to compile for instead of these devices, as for `described_devices`; the text then also says what
        its devices exchange in that step.
    Raises: UserError if the step does not fit into a device.
    """
    train, mesh = config.train, data_mesh(None if topology is None else described_devices(topology))
    options = step_options(train, mesh)
    gan = configs.system_module(config.system).build(config)
    steps, own_length = train.total_steps, ''
    if gan.num_steps is not None:
        steps, own_length = gan.num_steps(), ' (a length of its own: train.total_kimg does nothing)'
    state = jax.eval_shape(functools.partial(create_state, gan, train.seed))
    count = {net: sum(x.size for x in jax.tree.leaves(state.params[net])) for net in state.params}
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    def abstract(tree: dict, spec: P) -> dict:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)), tree)

    batch = abstract_batch(config, train.batch_size)
    stage = gan.stage_at(0, 0, train.seed)
    if gan.stages is not None:
        stage = max(gan.stages(), key=lambda stage: (math.prod(stage.size), len(stage.flags)))
    everything = tuple(range(len(gan.updates)))

    def trace(platform: str) -> jax.stages.Traced:
        step = functools.partial(device_step, gan=gan, stage=stage, due=everything, seed=train.seed, **options)
        with ops.for_platform(platform):
            return compile_step(step, 'jit', mesh).trace(abstract(state, P()), abstract(batch, P('data')))

    platform = mesh.devices.flat[0].platform
    # At its default effort, the TPU compiler takes twenty minutes and more for steps that take one minute like this.
    effort = None
    if platform == 'tpu' and topology is not None:
        effort = {'exec_time_optimization_effort': -1.0, 'memory_fitting_effort': -1.0}
    lowered, begin = trace(platform).lower(), time.perf_counter()

    def too_large(reason: str) -> UserError:
        return UserError(
            f'the step does not fit into a device ({reason}). Make train.batch_size smaller, which is '
            f'{train.batch_size} over {mesh.size} devices, or set train.accumulate or train.remat.'
        )

    try:
        compiled = lowered.compile(compiler_options=effort)
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        raise too_large(' '.join(str(error).split())[:300]) from None
    took, memory = time.perf_counter() - begin, compiled.memory_analysis()
    inputs = abstract_inputs(gan, config, 1)
    with ops.for_platform('gpu'):  # where a convolution is one: its replacement on a CPU computes more, or less
        sampling = matmul_flops(jax.make_jaxpr(functools.partial(images_of, gan))(state.sampling, inputs))
    training = matmul_flops(trace('gpu').jaxpr) * mesh.size / train.batch_size
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    has = memory_of(mesh.devices.flat[0])
    if has is not None and peak > has:
        raise too_large(f'{peak / 2**30:.1f} GiB of {has / 2**30:.0f}')
    # TPU's compiler counts what is in use at once, by which it refuses a step; the sum can be more than a device has.
    busiest = getattr(memory, 'peak_memory_in_bytes', 0)
    at_once = f', at most {busiest / 2**20:,.1f} at once' if 0 < busiest < peak else ''
    exchanged = []
    if mesh.size > 1:
        exchanged = [
            f'{kind:18} {number} in a step, {size / 2**20:,.2f} MiB'
            for kind, (number, size) in collectives(compiled.as_text()).items()
        ]
    return '\n'.join(
        [
            configs.to_json(config),
            '',
            f'devices            {mesh.size} x {mesh.devices.flat[0].device_kind}, batch {train.batch_size}',
            f'steps              {steps:,}, {steps * train.batch_size / 1000:,g} kimg{own_length}',
            f'parameters         generator {count["g"]:,}; discriminator {count.get("d", 0):,}',
            f'state              {total / 2**20:,.1f} MiB on every device and in a checkpoint',
            f'FLOPs per image    {sampling:.3e} sampling; {training:.3e} training',
            f'FLOPs per device   {training * train.batch_size / mesh.size:.3e} for a training step',
            f'memory per device  {peak / 2**20:,.1f} MiB for a training step{at_once}',
            *exchanged,
            f'compiled in        {took:.0f} s; nothing was run',
        ]
    )
