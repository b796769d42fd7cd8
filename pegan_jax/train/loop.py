"""The training loop: data, step, log, sample, save."""

import contextlib
import functools
import json
import logging
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pegan_jax import config as configs
from pegan_jax.config import Config, ConfigError
from pegan_jax.data import pipeline
from pegan_jax.gan import GAN, Completer, Stage, images_of, inputs_of
from pegan_jax.metrics.distribution import sliced_wasserstein
from pegan_jax.ops import resize_align_corners
from pegan_jax.pixels import image_grid, to_uint8
from pegan_jax.train.checkpoint import Checkpoints, read_networks, with_networks
from pegan_jax.train.log import RunLog
from pegan_jax.train.state import TrainState, create_state
from pegan_jax.train.step import (
    all_programs,
    as_floats,
    check_batch_size,
    compile_step,
    data_mesh,
    device_steps,
    due_updates,
    place_batch,
    replicated_state,
)

log = logging.getLogger(__name__)


class NonFiniteError(FloatingPointError):
    """A loss or a parameter is no longer a number; the message names the step and the last good checkpoint."""


def run(config: Config, workdir: str | pathlib.Path) -> TrainState:
    """Trains to `config.train.total_kimg`; a second call with the same workdir goes on where the first one stopped.

    Writes in workdir only: config.json, checkpoints/, samples/, tensorboard/, metrics.jsonl (and tfds/ for 'worlds').
    SIGTERM or SIGINT saves and returns. On several processes, every process calls it after jax.distributed.initialize,
    with the same arguments and a workdir that all of them see.

    Raises: ConfigError, ValueError for what cannot run; CheckpointError; NonFiniteError.
    """
    workdir, train = pathlib.Path(workdir), config.train
    mesh = data_mesh()
    check_batch_size(train.batch_size, mesh.size)
    main = jax.process_index() == 0
    gan = configs.system_module(config.system).build(config)
    total_steps = train.total_steps if gan.num_steps is None else gan.num_steps()
    replicated = NamedSharding(mesh, P())
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        jax.eval_shape(functools.partial(create_state, gan, train.seed)),
    )
    if main:
        workdir.mkdir(parents=True, exist_ok=True)
        _check_workdir(workdir, config)
    _barrier('workdir')

    checkpoints = Checkpoints(
        workdir / 'checkpoints', keep=train.keep, keep_best=train.keep_best, checksums=train.checksums
    )
    restored = checkpoints.restore(template)
    if restored is not None:
        state = restored[0]
    else:
        networks = {} if train.init_from is None else read_networks(template, train.init_from)
        state = with_networks(replicated_state(gan, train.seed, mesh), networks)
    step, nimg = int(state.step), int(state.nimg)
    if main:
        _write_atomically(workdir / 'config.json', configs.to_json(config))

    # The first process prepares what has to be prepared; the others then find it there.
    source = pipeline.open_source(config.data, workdir) if main else None
    _barrier('data')
    source = source if main else pipeline.open_source(config.data, workdir)
    pipeline.check_labels(source, gan.c_dim)
    batches = functools.partial(pipeline.batches, source, config.data, seed=train.seed)
    data = batches(
        batch_size=train.batch_size,
        start_image=nimg,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    runlog = RunLog(workdir, total_steps * train.batch_size, nimg, main)
    if restored is not None:
        runlog.say(f'resumed from step {step} ({nimg / 1000:.1f} kimg)')
    sampler = _Sampler(gan, config, batches)
    if train.sample_every and step == 0:
        for name, picture in sampler.start():
            runlog.image(name, 0, picture)
        runlog.image('samples_00000000', 0, sampler.grid(state))

    programs: dict[tuple[Stage, tuple[int, ...], int], Callable] = {}
    stage = gan.stage_at(step - 1, nimg - train.batch_size, train.seed) if step else None
    metrics = _Metrics(checkpoints, runlog, train.batch_size)
    # Simulated devices on a CPU can deadlock in their collectives when steps are queued.
    wait_each_step = mesh.size > 1 and mesh.devices.flat[0].platform == 'cpu'

    def save(measure: bool) -> None:
        metrics.flush()
        with metrics.paused():
            if not bool(_all_finite(state.params)):
                raise NonFiniteError(_non_finite_message('a parameter', step, checkpoints))
            scores = None
            if measure and train.keep_best:
                scores = {'swd': sampler.distance(state)}
                runlog.scalars(step, nimg, scores)
            checkpoints.save(state, {'config': configs.to_dict(config), 'images': nimg}, scores)

    try:
        with _StopSignal() as stop:
            while step < total_steps:
                new_stage = gan.stage_at(step, nimg, train.seed)
                if gan.enter is not None and stage is not None and new_stage != stage:
                    state = gan.enter(state, stage, new_stage)
                stage = new_stage
                due, count = due_updates(gan, step), _loop_length(gan, train, step, nimg, total_steps)
                loaded = tuple(place_batch(next(data), train.backend, mesh) for _ in range(count))
                program = (stage, due, count)
                first = [(*p, 1) for p in all_programs(gan)] if gan.stages is not None and not programs else []
                for wanted in (*first, program):
                    if wanted not in programs:
                        with metrics.paused():
                            runlog.say(f'compiling the step for {wanted[0]}, updates {wanted[1]}')
                            per_device = functools.partial(
                                device_steps, gan=gan, stage=wanted[0], due=wanted[1], seed=train.seed
                            )
                            compiled = compile_step(per_device, train.backend, mesh)
                            programs[wanted] = compiled.lower(state, loaded[: wanted[2]]).compile()
                state, scalars = programs[program](state, loaded)
                if wait_each_step:
                    jax.block_until_ready(state)
                step, nimg = step + count, nimg + count * train.batch_size
                metrics.add(step, nimg, scalars)
                runlog.progress(count * train.batch_size)

                last = step == total_steps
                if step % train.log_every == 0 or last:
                    metrics.report()
                if train.sample_every and (step % train.sample_every == 0 or last):
                    with metrics.paused():
                        runlog.image(f'samples_{step:08d}', step, sampler.grid(state))
                if (train.checkpoint_every and step % train.checkpoint_every == 0) or last:
                    save(measure=True)
                elif stop.requested(step):
                    save(measure=False)
                    runlog.say(f'stopped at step {step}; the same command goes on from here.')
                    break
        metrics.flush()
    finally:
        data.close()
        runlog.close()
        checkpoints.close()
    return state


def _loop_length(gan: GAN, train: configs.TrainConfig, step: int, nimg: int, total_steps: int) -> int:
    """How many steps from `step` on run as one program: inner_steps, if they are alike and nothing is due amid."""
    count, last = train.inner_steps, step + train.inner_steps - 1
    if count == 1 or last >= total_steps:
        return 1
    if any(
        every and step // every != last // every
        for every in (train.log_every, train.sample_every, train.checkpoint_every)
    ):
        return 1
    alike = {
        (gan.stage_at(step + i, nimg + i * train.batch_size, train.seed), due_updates(gan, step + i))
        for i in range(count)
    }
    return count if len(alike) == 1 else 1


class _Metrics:
    """Scalars of every step. They stay on the device until the log step after next, so that the host does not wait."""

    def __init__(self, checkpoints: Checkpoints, runlog: RunLog, batch_size: int) -> None:
        self._checkpoints, self._runlog, self._batch_size = checkpoints, runlog, batch_size
        self._fresh, self._ready, self._ready_rate = [], [], 0.0
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count in images per second."""
        jax.block_until_ready(self._fresh[-1:])
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def add(self, step: int, nimg: int, scalars: dict) -> None:
        """Takes the scalars, [count] each, of the steps up to `step`."""
        self._fresh.append((step, nimg, scalars))

    def report(self) -> None:
        """Logs the interval before the last one, whose steps are done by now."""
        self._log(self._ready, self._ready_rate)
        now, steps = time.perf_counter(), sum(len(scalars['finite']) for *_, scalars in self._fresh)
        self._ready, self._ready_rate = self._fresh, steps * self._batch_size / (now - self._since)
        self._fresh, self._since = [], now

    def flush(self) -> None:
        """Logs everything; waits for the device."""
        self.report()
        self.report()

    def _log(self, steps: list, rate: float) -> None:
        if not steps:
            return
        values = []
        for (step, _, _), scalars in zip(steps, jax.device_get([scalars for *_, scalars in steps]), strict=True):
            finite = scalars.pop('finite')
            values += [{name: value[i] for name, value in scalars.items()} for i in range(len(finite))]
            if not finite.all():
                i = int(np.argmin(finite)) - len(finite)
                shown = ', '.join(f'{k}={v:.4g}' for k, v in values[i].items())
                raise NonFiniteError(_non_finite_message(f'a loss ({shown})', step + 1 + i, self._checkpoints))
        names = sorted({name for scalars in values for name in scalars})
        means = {name: float(np.mean([s[name] for s in values if name in s])) for name in names}
        self._runlog.scalars(steps[-1][0], steps[-1][1], {**means, 'perf/images_per_second': rate})


class _Sampler:
    """Images of fixed inputs from a training state: latents of seeds 0, 1, 2, ..., or the first images of the data."""

    batch_size = 8

    def __init__(self, gan: GAN, config: Config, batches: Callable) -> None:
        self._gan, self._config, self._batches = gan, config, batches
        self._sample, self._floats = jax.jit(functools.partial(images_of, gan)), jax.jit(as_floats)
        # The batch that the grid shows and the one whose distance is measured.
        self._first = functools.lru_cache(2)(self._read)

    def _read(self, count: int) -> dict[str, np.ndarray]:
        """The first images of the data, and what comes with them."""
        with contextlib.closing(self._batches(batch_size=count, start_image=0)) as reals:
            return next(reals)

    def inputs(self, count: int) -> Iterator[Any]:
        """What `images_of` takes for `count` images or a few more, batch_size of them at once."""
        for start in range(0, count, self.batch_size):
            index = np.arange(start, start + self.batch_size)

            def rows(index: np.ndarray = index) -> dict:
                return self._floats({name: values[index % count] for name, values in self._first(count).items()})

            yield inputs_of(self._gan, index, rows, jax.random.key(self._config.train.seed))

    def images(self, state: TrainState, count: int) -> np.ndarray:
        """[count, H, W, C] float32."""
        return np.concatenate([np.asarray(self._sample(state.sampling, x)) for x in self.inputs(count)])[:count]

    def grid(self, state: TrainState) -> np.ndarray:
        """The sample image, uint8."""
        rows, columns = self._config.train.sample_grid
        return image_grid(to_uint8(self.images(state, rows * columns)), columns)

    def start(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and pictures, uint8, of what there is before training: images, and what is left of them to complete."""
        rows, columns = self._config.train.sample_grid
        count = rows * columns
        yield 'reals', image_grid(self._first(count)['image'], columns)
        if isinstance(self._gan.sampler, Completer):
            parts = [drawn(inputs) for inputs in self.inputs(count)]
            yield 'inputs', image_grid(to_uint8(np.concatenate(parts)[:count]), columns)

    def distance(self, state: TrainState) -> float:
        """Sliced Wasserstein distance between samples and real images, quantised alike and of the samples' size."""
        count, stages = self._config.train.metric_images, self._gan.stages
        samples, images = to_uint8(self.images(state, count)), self._first(count)['image']
        height, width = samples.shape[1:3]
        if stages and (height, width) in {stage.size for stage in stages()}:
            # As the training step does it.
            images = to_uint8(resize_align_corners(images / np.float32(127.5) - 1, (height, width)))
        # Data for random rotations are larger than what is cut from them.
        top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
        return sliced_wasserstein(samples, images[:, top : top + height, left : left + width])


def drawn(inputs: dict) -> np.ndarray:
    """Inputs of a system that completes images as pictures [N, H, W, 3]: holes are grey, lines in them white."""
    image, mask = np.asarray(inputs['image']), np.asarray(inputs['mask'])
    return image * (1 - mask) + mask * np.asarray(inputs.get('sketch', 0.0))


class _StopSignal:
    """Turns SIGTERM and SIGINT into a question that the loop asks between steps."""

    def __enter__(self) -> '_StopSignal':
        self._requested, self._previous = False, {}
        # On several processes JAX's preemption service takes SIGTERM and lets all of them agree on a step.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, *_: object) -> None:
        self._requested = True

    def requested(self, step: int) -> bool:
        """Whether to save and stop after `step`; equal on all processes."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@jax.jit
def _all_finite(tree: dict) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def _non_finite_message(what: str, step: int, checkpoints: Checkpoints) -> str:
    steps = checkpoints.steps()
    last = f'the last good checkpoint is of step {steps[-1]}' if steps else 'nothing had been saved yet'
    return (
        f'{what} is not finite at step {step}; {last} ({checkpoints.root}). '
        'Lower optim.g_lr and optim.d_lr or the weight of the regulariser, or train in float32.'
    )


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f'pegan_jax_{name}')


def _check_workdir(workdir: pathlib.Path, config: Config) -> None:
    """A workdir holds one model; other settings may change between launches, and are told."""
    if not (workdir / 'config.json').is_file() or not any((workdir / 'checkpoints').glob('[0-9]*')):
        return
    old, new = json.loads((workdir / 'config.json').read_text()), json.loads(configs.to_json(config))
    changes = [f'system: {old["system"]} -> {new["system"]}'] if old['system'] != new['system'] else []
    for section in ('model', 'data', 'optim', 'train'):
        before, after = old[section], new[section]
        names = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        changes += [f'{section}.{k}: {before.get(k)} -> {after.get(k)}' for k in names]
    if refused := [c for c in changes if c.startswith(('system', 'model.'))]:
        raise ConfigError(f'{workdir} holds a run of another model ({"; ".join(refused)}); choose another --workdir.')
    for change in changes:
        log.warning('resuming with a changed %s', change)


def _write_atomically(path: pathlib.Path, text: str) -> None:
    temporary = path.with_suffix('.tmp')
    temporary.write_text(text)
    os.replace(temporary, path)
