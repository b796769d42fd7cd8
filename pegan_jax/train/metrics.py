"""Scalars of a run: kept on the device until they can be fetched without waiting, checked, averaged and logged."""

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.settings import UserError
from pegan_jax.train.checkpoint import Checkpoints
from pegan_jax.train.feed import Feed
from pegan_jax.train.log import RunLog
from pegan_jax.train.state import TrainState
from pegan_jax.train.step import NON_FINITE, SKIPPED

log = logging.getLogger(__name__)


SLOW = 0.1  # the share of time spent waiting for data from which it is reported


class NonFiniteError(UserError):
    """A loss or a parameter is no longer a number; the message names the step and the last good checkpoint."""


class Metrics:
    """Scalars of every step. They stay on the device until the log step after next, so that the host does not wait."""

    def __init__(self, checkpoints: Checkpoints, runlog: RunLog, feed: Feed, batch_size: int) -> None:
        self._checkpoints, self._runlog, self._feed, self._batch_size = checkpoints, runlog, feed, batch_size
        self._fresh, self._ready, self._slow_intervals = [], [], 0
        self._thread, self._paused = futures.ThreadPoolExecutor(1), 0.0
        # When the steps in _ready are done, and for how many of their seconds devices had no data.
        self._end, self._idle = self._thread.submit(self._end_of, []), 0.0
        self._since, self._bad_intervals = self._clock(), 0
        self._skipped, self._skipped_in_a_row = 0, 0

    @contextlib.contextmanager
    def paused(self, say: str | None = None) -> Iterator[None]:
        """Steps stand still: time spent inside does not count in images per second, and the host may use the device."""
        self._end.result()
        start = self._end_of(self._fresh)
        if say is not None:
            self._runlog.say(say)
        with jax.transfer_guard('allow'):
            yield
        self._paused += self._clock() - start

    def add(self, step: int, nimg: int, scalars: dict) -> None:
        """Takes the scalars, [count] each, of the steps up to `step`."""
        self._fresh.append((step, nimg, scalars))

    def report(self) -> None:
        """Logs the interval before the last one, whose steps are done by now."""
        self._log()
        self._ready, self._fresh, self._idle = self._fresh, [], self._feed.idle()
        # How far the host is ahead of the device changes, so its own clock says nothing.
        self._end = self._thread.submit(self._end_of, self._ready)

    def flush(self) -> None:
        """Logs everything; waits for the device."""
        self.report()
        self.report()

    def _clock(self) -> float:
        """Seconds, not counting pauses."""
        return time.perf_counter() - self._paused

    def _end_of(self, steps: list) -> float:
        """Waits for steps; when they were done."""
        jax.block_until_ready(steps[-1:])
        return self._clock()

    def check_parameters(self, state: TrainState, step: int) -> None:
        """Raises NonFiniteError unless all parameters are finite; waits for the device."""
        if not _all_finite(state.params).item():
            raise NonFiniteError(self._message('a parameter', step))

    def _log(self) -> None:
        if not (steps := self._ready):
            return
        values = []
        for (step, _, _), scalars in zip(steps, jax.device_get([scalars for *_, scalars in steps]), strict=True):
            finite = scalars.pop('finite')
            values += [{name: value[i] for name, value in scalars.items()} for i in range(len(finite))]
            if not finite.all():
                i = int(np.argmin(finite)) - len(finite)
                shown = ', '.join(f'{k}={v:.4g}' for k, v in values[i].items())
                raise NonFiniteError(self._message(f'a loss ({shown})', step + 1 + i))
        names = sorted({name for scalars in values for name in scalars})
        # What was left out says nothing about the others.
        whole = [s for s in values if not s.get(SKIPPED)] or values
        found = {n: [s[n] for s in (values if n.startswith('gradients/') else whole) if n in s] for n in names}
        means = {name: float(np.mean(numbers)) for name, numbers in found.items() if numbers}
        self._check_skipped(values, steps[-1][0])
        self._warn_of_gradients(values, steps[-1][0])
        end = self._end.result()
        took, self._since = end - self._since, end
        perf = {
            'perf/images_per_second': len(values) * self._batch_size / took,
            'perf/waiting_for_data': min(1.0, self._idle / took),
        }
        self._runlog.scalars(steps[-1][0], steps[-1][1], {**means, **perf})
        self._tell_of_waiting(perf['perf/waiting_for_data'], steps[-1][0])

    def _tell_of_waiting(self, share: float, step: int) -> None:
        if share > SLOW:
            self._slow_intervals += 1
            if self._slow_intervals.bit_count() == 1:  # the first, second, fourth, eighth ...
                self._runlog.say(
                    f'waiting for data {100 * share:.0f} % of the time (to step {step}): reading images is slower '
                    'than the step. Files of about the training size, a faster disk or more cores help.'
                )

    def _check_skipped(self, values: list[dict], step: int) -> None:
        """Reports steps with updates left out. Raises: NonFiniteError if all of them, and more than one, had such."""
        count = sum(bool(s.get(SKIPPED, 0.0)) for s in values)
        self._skipped_in_a_row = self._skipped_in_a_row + count if count == len(values) else 0
        if self._skipped_in_a_row > 1:
            what = f'a loss or a gradient of each of the last {self._skipped_in_a_row} steps'
            raise NonFiniteError(self._message(what, step))
        if count:
            self._skipped += count
            log.warning(
                '%d of the last %d steps (to step %d) had a loss or a gradient that is not finite, whose update was '
                'left out; %d since the launch.', count, len(values), step, self._skipped,
            )  # fmt: skip

    def _warn_of_gradients(self, values: list[dict], step: int) -> None:
        """Warns of replaced non-finite gradients: systems may replace them for a while, but not at every step."""
        bad = sum(any(v > 0 for name, v in s.items() if name.startswith(NON_FINITE)) for s in values)
        self._bad_intervals = self._bad_intervals + 1 if bad == len(values) else 0
        if self._bad_intervals and self._bad_intervals.bit_count() == 1:  # the first, second, fourth, eighth ...
            log.warning(
                'gradients had entries that are not finite, replaced before the optimiser, in all of the last %d steps '
                '(to step %d): the networks learn little or nothing. Lower optim.g_lr and optim.d_lr or the weight of '
                'the regulariser, or train in float32.', len(values), step,
            )  # fmt: skip

    def _message(self, what: str, step: int) -> str:
        steps = self._checkpoints.steps()
        last = f'the last good checkpoint is of step {steps[-1]}' if steps else 'nothing had been saved yet'
        return (
            f'{what} is not finite at step {step}; {last} ({self._checkpoints.root}). '
            'Lower optim.g_lr and optim.d_lr or the weight of the regulariser, or train in float32.'
        )


@jax.jit
def _all_finite(tree: dict) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))
