"""The compiled programs of a run: one for every stage, set of due updates and number of steps."""

import concurrent.futures
import functools
import os
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pegan_jax.gan import GAN, Stage
from pegan_jax.settings import TrainConfig
from pegan_jax.train.state import TrainState
from pegan_jax.train.step import all_due, all_programs, compile_step, device_steps, due_updates, step_options

Key = tuple[Stage, tuple[int, ...], int]


def _shape(x: jax.Array | np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, 'sharding', None))  # pmap takes NumPy arrays


class Programs:
    """Compiles what a run needs when it is due. Programs that are known to come compile earlier:

    - in one process, the first ones while the run makes its state and its first pictures (`begin`);
    - on a GPU or TPU of one process, those of the same stage, or of all stages if the system lists them, on idle cores
      of the host while the first steps run;
    - on several processes, those of listed stages before the first step.

    announce: gets the name of what is being waited for, and returns a context to wait in.
    """

    def __init__(self, gan: GAN, train: TrainConfig, mesh: Mesh, announce: Callable) -> None:
        self._gan, self._train, self._mesh, self._announce = gan, train, mesh, announce
        self._compiled: dict[Key, concurrent.futures.Future] = {}
        self._options = step_options(train, mesh)
        # An argument, so that runs that differ only in it share their programs.
        self._seed = jax.make_array_from_process_local_data(NamedSharding(mesh, P()), np.uint32(train.seed))
        self._on_cpu = mesh.devices.flat[0].platform == 'cpu'
        self._beside = not self._on_cpu and jax.process_count() == 1
        cores = os.cpu_count() or 1
        self._pool = concurrent.futures.ThreadPoolExecutor(min(4, max(1, cores // 4)) if self._beside else 1)

    def __call__(self, key: Key, state: TrainState, batches: tuple[dict, ...]) -> tuple[TrainState, dict]:
        """The state after as many steps as there are batches, and metrics [steps]; `state` is donated."""
        self.begin(key, state, batches)
        for stage, due, count in [key] if self._beside else self._compiled:
            if not self._compiled[stage, due, count].done():
                with self._announce(f'compiling the step for {stage}, updates {due}'):
                    self._compiled[stage, due, count].result()
        state, metrics = self._compiled[key].result()(state, batches, self._seed)
        # Simulated devices on a CPU can deadlock in their collectives when steps are queued.
        if self._mesh.size > 1 and self._on_cpu:
            jax.block_until_ready(state)
        return state, metrics

    def begin(self, key: Key, state: TrainState, batches: tuple[dict, ...]) -> None:
        """Begins to compile what a call with these arguments needs, and does not wait; only shapes are taken."""
        new = [k for k in dict.fromkeys((key, *self._ahead(key[0]))) if k not in self._compiled]
        shapes = jax.tree.map(_shape, (state, batches)) if new else ()
        self._compiled |= {k: self._pool.submit(self._compile, k, *shapes) for k in new}

    def close(self) -> None:
        """Lets running compilations finish, and starts no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ahead(self, stage: Stage) -> list[Key]:
        """Programs of single steps that will come and should be compiled before they are due."""
        if self._gan.stages:
            at_start = jax.process_count() > 1 and not self._compiled
            return [(*k, 1) for k in all_programs(self._gan)] if self._beside or at_start else []
        return [(stage, due, 1) for due in all_due(self._gan, self._train.total_steps)] if self._beside else []

    def _compile(self, key: Key, state: TrainState, batches: tuple[dict, ...]) -> Callable:
        stage, due, count = key
        step = functools.partial(device_steps, gan=self._gan, stage=stage, due=due, **self._options)
        program = compile_step(step, self._train.backend, self._mesh, seeded=True)
        return program.lower(state, batches[:count], self._seed).compile()

    def key(self, stage: Stage, step: int, nimg: int, total_steps: int) -> Key:
        """The program of the next steps: inner_steps of them if they are alike and nothing is due between, or one."""
        train, count = self._train, self._train.inner_steps
        due, last = due_updates(self._gan, step), step + count - 1
        every = (train.log_every, train.sample_every, train.checkpoint_every)
        if count == 1 or last >= total_steps or any(n and step // n != last // n for n in every):
            return stage, due, 1
        alike = all(
            (self._gan.stage_at(step + i, nimg + i * train.batch_size, train.seed), due_updates(self._gan, step + i))
            == (stage, due)
            for i in range(1, count)
        )
        return stage, due, count if alike else 1
