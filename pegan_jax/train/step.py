"""One training step, written per device, and its two compilers."""

import functools
import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pegan_jax import pixels
from pegan_jax.files import as_path
from pegan_jax.gan import GAN, Stage, Update
from pegan_jax.ops import resize_align_corners
from pegan_jax.settings import TrainConfig, UserError
from pegan_jax.train.state import TrainState, create_state

AXIS = 'data'
NON_FINITE = (
    'gradients/non_finite_'  # metrics of this name plus a network's: entries of its gradient that are not finite
)


SKIPPED = 'gradients/skipped'  # a metric: 1.0 where an update of the step was left out


def persistent_cache(folder: str | None) -> None:
    """Keeps compiled programs in a folder, so that a second launch does not compile again; None keeps none.

    JAX_COMPILATION_CACHE_DIR, if set, takes precedence.
    """
    if folder is not None and not jax.config.jax_compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', str(as_path(folder)))


def products_without_ynnpack() -> None:
    """Has XLA take YNNPACK on a CPU for sums alone, unless XLA_FLAGS says what to take it for. Before a device is used.

    Products of the sizes that networks have are slower with it, and a program with thousands of them takes a minute to
    read back from the cache (docs/decisions.md).
    """
    flag, flags = '--xla_cpu_experimental_ynn_fusion_type', os.environ.get('XLA_FLAGS', '')
    if flag not in flags:
        os.environ['XLA_FLAGS'] = f'{flags} {flag}=LIBRARY_FUSION_TYPE_REDUCE'.strip()


def data_mesh(devices: list | None = None) -> Mesh:
    """All devices on one axis 'data', those of a process side by side, so that rows of a batch keep their order."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(sorted(devices, key=lambda d: (d.process_index, d.id))), (AXIS,))


def replicated_state(gan: GAN, seed: int, mesh: Mesh) -> TrainState:
    """`create_state`, replicated over the mesh."""
    return jax.jit(functools.partial(create_state, gan), out_shardings=NamedSharding(mesh, P()))(np.uint32(seed))


def due_updates(gan: GAN, step: int) -> tuple[int, ...]:
    """Indices of the updates that run at a step (lazy regularisation)."""
    return tuple(i for i, update in enumerate(gan.updates) if step % update.interval == 0)


def all_due(gan: GAN, steps: float = math.inf) -> list[tuple[int, ...]]:
    """What `due_updates` returns for the first steps of a run, each once."""
    cycle = math.lcm(*(update.interval for update in gan.updates))
    return sorted({due_updates(gan, step) for step in range(min(cycle, steps))})


def all_programs(gan: GAN) -> tuple[tuple[Stage, tuple[int, ...]], ...]:
    """(stage, due updates) of every step of a run, if the system lists its stages."""
    return tuple((stage, due) for stage in gan.stages() for due in all_due(gan))


def _pmean(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.pmean(x, AXIS) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


def _changed(new: dict, old: dict) -> dict:
    """Arrays that are not the very same as before; None for the others, equal in all parts and on all devices."""
    return jax.tree.map(lambda x, y: None if x is y else x, new, old)


def _pmean_changed(new: dict, old: dict) -> dict:
    """Means over devices of what `_changed` returns, with the old array instead of None."""
    return jax.tree.map(lambda x, y: y if x is None or x is y else _pmean(x), new, old, is_leaf=lambda x: x is None)


def _non_finite(tree: Any) -> jax.Array:
    """How many entries are NaN or infinite, float32 []."""
    return sum(jnp.sum(~jnp.isfinite(x), dtype=jnp.float32) for x in jax.tree.leaves(tree))


def _at(tree: dict, path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda node, name: node[name], path, tree)


def _put(tree: dict, path: tuple[str, ...], value: Any) -> dict:
    head, *rest = path
    return {**tree, head: _put(tree[head], tuple(rest), value) if rest else value}


def as_floats(batch: dict) -> dict:
    """The batch with its images, uint8, as float32 in [-1, 1]."""
    return {**batch, 'image': pixels.as_floats(batch['image'])}


def _matmuls(primitive: Any, *_: Any, **__: Any) -> bool:
    """What remat keeps."""
    return primitive.name in ('conv_general_dilated', 'dot_general')


def _mean_over_parts(function: Callable, parts: Any, unroll: bool) -> Any:
    """Means of what a function returns for each of the rows of `parts`; the last result for what is not a float."""

    def added(total: Any, part: Any) -> tuple[Any, None]:
        found = function(part)
        return jax.tree.map(lambda x, y: x + y if jnp.issubdtype(y.dtype, jnp.inexact) else y, total, found), None

    count = jax.tree.leaves(parts)[0].shape[0]
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    )
    total, _ = jax.lax.scan(added, zeros, parts, unroll=count if unroll else 1)
    return jax.tree.map(lambda x: x / count if jnp.issubdtype(x.dtype, jnp.inexact) else x, total)


def step_options(train: TrainConfig, mesh: Mesh) -> dict[str, Any]:
    """The options of `device_step` that the settings of a run choose.

    Raises: UserError unless every device, and each of its parts, gets the same number of images.
    """
    check_batch_size(train.batch_size, mesh.size, train.accumulate)
    return {
        'parts': train.accumulate,
        'unroll': mesh.devices.flat[0].platform == 'cpu',
        'remat': train.remat,
        'skip': train.non_finite == 'skip',
    }


def device_step(
    state: TrainState,
    batch: dict,
    *,
    gan: GAN,
    stage: Stage,
    due: tuple[int, ...],
    seed: int | jax.Array,
    parts: int = 1,
    unroll: bool = True,
    remat: bool = False,
    skip: bool = False,
) -> tuple[TrainState, dict]:
    """One step on one device's rows of the global batch; runs inside a mapped axis 'data'.

    Args:
      state: replicated.
      batch: 'image' [b, H, W, C] uint8, and whatever else the source gives, b rows each. Losses see images in [-1, 1],
        resized to the stage (corners are kept, as in grids of any size; low-passed if the stage is smaller).
      gan, stage, due: static; due as from `due_updates`. Updates that are alike and follow each other are a loop.
      seed: uint32 [], so that one program serves all seeds, or a number.
      parts: rows are divided into this many equal parts, one after the other. Their gradients, buffers and metrics are
        averaged like those of devices: the numbers are those of that many times more devices.
      unroll: no loop over the parts; on a CPU, gradients of convolutions are many times slower in a loop.
      remat: for the gradient, only results of convolutions and matmuls are kept; the others are computed again.
      skip: an update whose loss or gradient is not finite on any device changes nothing; metrics[SKIPPED] says so.
    Returns: the new state, equal on all devices, and scalar metrics averaged over them. metrics['finite'] is 1.0 if
      every loss of the step was finite on every device, otherwise 0.0; for every network that was trained, NON_FINITE
      counts the entries of its gradients that were not finite.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    rows = batch['image'].shape[0]
    batch = {**batch, 'index': jax.lax.axis_index(AXIS) * rows + jnp.arange(rows)}

    def prepared(batch: dict) -> dict:
        batch = as_floats(batch)
        if batch['image'].shape[1:3] != stage.size:
            batch['image'] = resize_align_corners(batch['image'], stage.size, antialias=True)
        if gan.prepare is not None:
            batch = gan.prepare(batch, jax.random.fold_in(key, len(gan.updates)), stage)
        return batch

    if parts == 1:
        batch = prepared(batch)
    nimg, metrics, finite = state.nimg, {}, jnp.float32(1)

    def updated(state: TrainState, i: int | jax.Array, update: Update) -> tuple[TrainState, tuple[dict, dict]]:
        """The state after update i, and its metrics: those of the loss, and how it went."""
        net = update.net
        path = (net,) if update.part is None else (net, update.part(stage))

        def loss(params: dict, batch: dict) -> tuple[jax.Array, tuple[dict, dict]]:
            params = _put(state.params, path, params)[path[0]]
            value, (fields, scalars) = update.loss(params, state, batch, jax.random.fold_in(key, i), stage)
            # Here, because arrays that come out of a loop or of `checkpoint` are different ones.
            fields = _changed(fields, {name: getattr(state, name) for name in fields})
            return value * update.interval, (fields, scalars)

        # The gradient of the *local* loss, then the mean over devices: under shard_map with its replication check on,
        # the gradient would already be summed over devices, and this mean would leave it too large by their number.
        gradient = jax.value_and_grad(jax.checkpoint(loss, policy=_matmuls) if remat else loss, has_aux=True)
        if parts == 1:
            (value, (fields, scalars)), grads = gradient(_at(state.params, path), batch)
        else:
            divided = jax.tree.map(lambda x: x.reshape(parts, rows // parts, *x.shape[1:]), batch)
            (value, (fields, scalars)), grads = _mean_over_parts(
                lambda part: gradient(_at(state.params, path), prepared(part)), divided, unroll
            )
        grads, scalars = _pmean((grads, scalars))
        finite = jax.lax.pmin(jnp.isfinite(value).astype(jnp.float32), AXIS)
        before = state
        state = state.replace(**_pmean_changed(fields, {name: getattr(state, name) for name in fields}))
        trained = _at(state.params, path)
        deltas, opt = gan.optimizers[net].update(grads, _at(state.opt, path), trained)
        state = state.replace(
            params=_put(state.params, path, optax.apply_updates(trained, deltas)), opt=_put(state.opt, path, opt)
        )
        told = {'finite': finite, f'{NON_FINITE}{net}': _non_finite(grads)}
        if skip:
            good = (finite > 0) & (told[f'{NON_FINITE}{net}'] == 0)
            state = jax.tree.map(lambda x, y: x if x is y else jnp.where(good, x, y), state, before)
            scalars = {name: jnp.where(good, x, 0.0) for name, x in scalars.items()}
            told |= {SKIPPED: jnp.where(good, 0.0, 1.0), 'finite': jnp.ones_like(finite)}
        return state, (scalars, told)

    for update, group in itertools.groupby(due, lambda i: gan.updates[i]):
        one, run = functools.partial(updated, update=update), list(group)
        if len(run) == 1:
            state, (scalars, told) = one(state, run[0])
        else:  # a loop: its body compiles once
            state, found = jax.lax.scan(one, state, jnp.array(run))
            scalars, told = jax.tree.map(lambda x: x[-1], found[0]), found[1]
        metrics |= scalars
        for name, value in told.items():
            if name == 'finite':
                finite = jnp.minimum(finite, jnp.min(value))
            elif name == SKIPPED:
                metrics[name] = jnp.maximum(metrics.get(name, 0.0), jnp.max(value))
            else:
                metrics[name] = metrics.get(name, 0.0) + jnp.sum(value)

    if gan.ema is not None:
        decay = gan.ema(nimg, state.step)
        state = state.replace(ema=optax.incremental_update(state.params['g'], state.ema, 1 - decay))
    global_rows = jax.lax.psum(rows, AXIS)
    state = state.replace(step=state.step + 1, nimg=nimg + global_rows)
    return state, {**metrics, 'finite': finite}


def device_steps(
    state: TrainState,
    batches: tuple[dict, ...],
    seed: int | jax.Array,
    *,
    gan: GAN,
    stage: Stage,
    due: tuple[int, ...],
    **options: Any,
) -> tuple[TrainState, dict]:
    """As many steps as there are batches, in a loop on the device; metrics [steps]. options: from `step_options`."""
    one = functools.partial(device_step, gan=gan, stage=stage, due=due, seed=seed, **options)
    if len(batches) == 1:
        state, metrics = one(state, batches[0])
        return state, jax.tree.map(lambda x: x[None], metrics)
    return jax.lax.scan(one, state, jax.tree.map(lambda *x: jnp.stack(x), *batches))


def compile_step(step: Callable, backend: str, mesh: Mesh, seeded: bool = False) -> Callable:
    """Compiles a per-device step over a mesh; the state is donated. The only place that knows the backend.

    Args:
      step: (state, batch or tuple of batches) -> (state, metrics) on one device, reducing over the axis 'data' itself.
      seeded: the step also takes a seed [], its last argument, equal on all devices.
      backend: 'jit', shard_map under jit; or 'pmap'.
    Returns: a function of the replicated state and a batch as `place_batch` returns it, with .lower() for ahead-of-time
      compilation.
    """
    if backend == 'pmap':
        devices = list(mesh.devices.flat)
        axes = (None, 0, None) if seeded else (None, 0)
        return jax.pmap(step, AXIS, in_axes=axes, out_axes=(None, None), donate_argnums=0, devices=devices)
    if backend != 'jit':
        raise UserError(f"backend={backend!r}; use 'jit' or 'pmap'.")
    specs = (P(), P(AXIS), P()) if seeded else (P(), P(AXIS))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=(P(), P()), check_vma=False)
    return jax.jit(mapped, donate_argnums=0)


def place_batch(batch: dict, backend: str, mesh: Mesh) -> dict:
    """Hands this process's rows of the global batch (NumPy) to its devices, in the layout that the backend takes."""
    if backend == 'pmap':
        n = len(mesh.local_devices)
        return {k: v.reshape(n, len(v) // n, *v.shape[1:]) for k, v in batch.items()}
    sharding = NamedSharding(mesh, P(AXIS))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def check_batch_size(batch_size: int, devices: int, parts: int = 1) -> None:
    """Raises UserError, with the nearest sizes that work, unless every device gets the same number of images.

    devices: those of the mesh; parts: train.accumulate.
    """
    if batch_size % (whole := devices * parts):
        low, high = batch_size // whole * whole, -(-batch_size // whole) * whole
        fix = f'{low} or {high}' if low else f'{high}'
        by = f'{devices} device{"s" * (devices > 1)}' + (f' in {parts} parts (train.accumulate)' if parts > 1 else '')
        raise UserError(f'batch_size={batch_size} is not divisible by {by}; use {fix}.')
