"""What the trainer says of the scalars of its steps."""

import logging
import types

import numpy as np

from pegan_jax.train.metrics import Metrics


def report(*intervals):
    """Logs intervals of steps, each with the numbers of entries that were not finite; the scalars that were logged."""
    logged = []
    runlog = types.SimpleNamespace(scalars=lambda step, nimg, values: logged.append(values))
    metrics = Metrics(None, runlog, 4)
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
