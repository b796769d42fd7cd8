"""The compiled programs of a run: one for every stage, set of due updates and number of steps."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pegan_jax.gan import GAN, Stage
from pegan_jax.settings import TrainConfig
from pegan_jax.train.state import TrainState
from pegan_jax.train.step import all_programs, compile_step, device_steps, due_updates, step_options

Key = tuple[Stage, tuple[int, ...], int]


class Programs:
    """Compiles what a run needs: all programs before the first step where the system lists its stages, others when due.

    announce: is told the name of what is compiled, and returns a context to compile in.
    """

    def __init__(self, gan: GAN, train: TrainConfig, mesh: Mesh, announce: Callable) -> None:
        self._gan, self._train, self._mesh, self._announce = gan, train, mesh, announce
        self._compiled: dict[Key, Callable] = {}
        self._options = step_options(train, mesh)
        # An argument, so that runs that differ in it alone share their programs.
        self._seed = jax.make_array_from_process_local_data(NamedSharding(mesh, P()), np.uint32(train.seed))

    def __call__(self, key: Key, state: TrainState, batches: tuple[dict, ...]) -> tuple[TrainState, dict]:
        """The state after as many steps as there are batches, and metrics [steps]; `state` is donated."""
        first = (
            [(*program, 1) for program in all_programs(self._gan)] if self._gan.stages and not self._compiled else []
        )
        for stage, due, count in (*first, key):
            if (stage, due, count) not in self._compiled:
                with self._announce(f'compiling the step for {stage}, updates {due}'):
                    step = functools.partial(device_steps, gan=self._gan, stage=stage, due=due, **self._options)
                    program = compile_step(step, self._train.backend, self._mesh, seeded=True)
                    lowered = program.lower(state, batches[:count], self._seed)
                    self._compiled[stage, due, count] = lowered.compile()
        state, metrics = self._compiled[key](state, batches, self._seed)
        # Simulated devices on a CPU can deadlock in their collectives when steps are queued.
        if self._mesh.size > 1 and self._mesh.devices.flat[0].platform == 'cpu':
            jax.block_until_ready(state)
        return state, metrics

    def key(self, stage: Stage, step: int, nimg: int, total_steps: int) -> Key:
        """The program of the next steps: inner_steps of them if they are alike and nothing is due amid, or one."""
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
