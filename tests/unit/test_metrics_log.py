"""What the trainer says of the scalars of its steps."""

import logging
import time
import types

import numpy as np
import pytest

from pegan_jax.train.feed import Feed
from pegan_jax.train.metrics import Metrics, NonFiniteError


def report(*intervals):
    """Logs intervals of steps, each with the numbers of entries that were not finite; the scalars that were logged."""
    logged = []
    runlog = types.SimpleNamespace(scalars=lambda step, nimg, values: logged.append(values))
    metrics = Metrics(None, runlog, types.SimpleNamespace(idle=lambda: 0.0), 4)
    for k, counts in enumerate(intervals):
        for i, count in enumerate(counts):
            scalars = {'finite': np.ones(1), 'gradients/non_finite_d': np.array([count]), 'loss/d': np.array([1.0 + i])}
            metrics.add(4 * k + i, 0, scalars)
        metrics.report()
    metrics.flush()
    return logged


def test_gradients_that_are_not_finite_are_counted_and_told_when_they_persist(caplog):
    with caplog.at_level(logging.WARNING):
        logged = report([0, 5, 1], [0, 0, 0])
    assert [values['gradients/non_finite_d'] for values in logged] == [2, 0] and logged[0]['loss/d'] == 2
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        report(*[[3, 5, 1]] * 5)
    assert len(caplog.records) == 3  # the first, the second and the fourth of five
    assert 'not finite' in caplog.text and 'all of the last 3 steps' in caplog.text and 'optim.d_lr' in caplog.text


def test_steps_that_were_left_out_do_not_count_in_means_and_end_the_run_in_a_row(caplog):
    logged = []
    runlog = types.SimpleNamespace(scalars=lambda step, nimg, values: logged.append(values))
    checkpoints = types.SimpleNamespace(steps=lambda: [], root='run')
    metrics = Metrics(checkpoints, runlog, types.SimpleNamespace(idle=lambda: 0.0), 4)
    for step, skipped in enumerate([0, 1, 0, 0, 1, 1]):
        loss = np.array([0.0 if skipped else 2.0])
        metrics.add(step, 0, {'finite': np.ones(1), 'gradients/skipped': np.array([skipped]), 'loss/d': loss})
        if step == 1:
            metrics.report()
    metrics.flush()
    assert [values['loss/d'] for values in logged] == [2, 2]
    assert [values['gradients/skipped'] for values in logged] == [0.5, 0.5]
    for step in (6, 7):  # intervals of one step
        metrics.add(step, 0, {'finite': np.ones(1), 'gradients/skipped': np.ones(1), 'loss/d': np.zeros(1)})
        if step == 6:
            metrics.flush()
    with pytest.raises(NonFiniteError, match='last 2 steps'):
        metrics.flush()


def test_a_term_that_was_left_out_whenever_it_was_due_is_not_logged():
    logged = []
    runlog = types.SimpleNamespace(scalars=lambda step, nimg, values: logged.append(values))
    metrics = Metrics(None, runlog, types.SimpleNamespace(idle=lambda: 0.0), 4)
    for step in range(8):
        lazy = {} if step % 4 else {'loss/r1': np.zeros(1)}
        skipped = np.array([float(not step % 4)])
        metrics.add(step, 0, {'finite': np.ones(1), 'gradients/skipped': skipped, 'loss/d': np.ones(1), **lazy})
    metrics.flush()
    assert logged[0]['loss/d'] == 1 and 'loss/r1' not in logged[0]


def test_batches_come_in_order_and_time_counts_only_while_devices_stand_still():
    slow = iter([{'n': i} for i in range(6)])

    class Array:
        """Ready after a while."""

        def __init__(self, after):
            self.at = time.perf_counter() + after

        def is_ready(self):
            return time.perf_counter() >= self.at

    def place(batch):
        time.sleep(0.1)
        return batch

    feed = Feed(slow, place)
    assert feed.take(1, []) == ({'n': 0},) and feed.idle() == 0  # before the first step nothing is late
    assert feed.take(1, [Array(0)]) == ({'n': 1},) and 0.05 < feed.idle() < 0.2
    assert feed.take(2, [Array(10)]) == ({'n': 2}, {'n': 3}) and feed.idle() == 0  # the step takes longer
    assert feed.coming(2) == ({'n': 4}, {'n': 5})  # which stay to be taken
    assert feed.take(2, [Array(0)]) == ({'n': 4}, {'n': 5}) and feed.idle() < 0.01  # they are there already
    with pytest.raises(RuntimeError, match='StopIteration'):
        feed.take(1, [])
    feed.close()


class Late:
    """A number on a device, where it is at some moment."""

    def __init__(self, at):
        self.at = at

    def block_until_ready(self):
        time.sleep(max(0.0, self.at - time.perf_counter()))
        return self

    def __array__(self, *_, **__):
        self.block_until_ready()
        return np.ones(1)


@pytest.mark.parametrize('pause', ['no pause', 'picture', 'picture in between', 'checkpoint'])
def test_images_per_second_are_those_of_the_device_whatever_comes_between_the_steps(pause):
    logged, free = [], 0.0
    runlog = types.SimpleNamespace(scalars=lambda step, nimg, values: logged.append(values))
    metrics = Metrics(None, runlog, types.SimpleNamespace(idle=lambda: 0.0), 4)
    for step in range(1, 13):  # each takes 0.04 s, and is on its way at once
        free = max(free, time.perf_counter()) + 0.04
        metrics.add(step, 4 * step, {'finite': Late(free)})
        if step % 3 == 0:
            metrics.report()
            if pause == 'checkpoint':
                metrics.flush()
        if pause != 'no pause' and step % 3 == (2 if pause == 'picture in between' else 0):
            with metrics.paused():
                time.sleep(0.1)
    metrics.flush()
    found = [values['perf/images_per_second'] for values in logged]
    np.testing.assert_allclose(found, 4 / 0.04, rtol=0.3)


def test_an_input_that_is_too_slow_is_told():
    said = []
    runlog = types.SimpleNamespace(scalars=lambda *_: None, say=said.append)
    metrics = Metrics(None, runlog, types.SimpleNamespace(idle=lambda: 1e9), 4)
    for step in range(5):
        metrics.add(step, 0, {'finite': np.ones(1)})
        metrics.report()
    metrics.flush()
    assert len(said) == 3 and said[0].startswith('waiting for data 100 % of the time (to step 0)')
