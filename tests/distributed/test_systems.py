"""Every system: several devices equal one, replicas stay equal, one bad device stops all, constants stay at home."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from systems_worker import CHANGES

IN_CI = ('dcgan', 'stylegan2:afhqv2')  # two programs of each take a minute or two

WORKER = pathlib.Path(__file__).with_name('systems_worker.py')
# Its batch normalisation is that of a device's own samples, of which a published run has one.
PER_DEVICE = {'singan'}
# Numbers that are averaged besides gradients: metrics, running statistics, and the moments of batch normalisation.
BESIDES = {'dcgan': 1000, 'pconv': 1000, 'cips': 100, 'deepfill': 400, 'singan': 1000, 'stylegan3:t': 100}


def each(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in IN_CI else pytest.mark.hand) for name in names]


@pytest.fixture(scope='module')
def results(request, tmp_path_factory):
    wanted = {item.callspec.params['system'] for item in request.session.items if item.path == request.path}
    out = tmp_path_factory.mktemp('systems') / 'results.jsonl'
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=4'
    env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_DEFAULT_MATMUL_PRECISION': 'highest'}
    done = subprocess.run(
        [sys.executable, WORKER, out, *sorted(wanted)], env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]  # the worker compares replicas
    return {row['system']: row for row in map(json.loads, out.read_text().splitlines())}


@pytest.mark.parametrize('system', each(name for name in CHANGES if name not in PER_DEVICE))
def test_four_devices_equal_one(results, system):
    differences = results[system]['differences']
    farthest = max(moved for name, (moved, *_) in differences.items() if name.startswith('.params'))
    assert sum(moved > 0 for moved, *_ in differences.values()) > 0.2 * len(differences)
    for name, (moved, apart, scale) in differences.items():
        # Rounding of the numbers themselves, of the steps that they took, and of sums whose terms cancel.
        assert apart <= 1e-6 * scale + 0.05 * moved + 1e-3 * farthest, (name, moved, apart, scale)


@pytest.mark.slow
@pytest.mark.parametrize('system', ['stylegan2:afhqv2'])
def test_signs_are_counted_over_all_devices(results, system):
    """After five steps p has changed once, by as much as the signs of four steps say, and counts anew."""
    found = results[system]['differences']
    moved, apart, p = found[".stats['augment_p']"]
    assert p == moved > 0 == apart
    for name in ('ada_signs', 'ada_batches'):
        moved, apart, _ = found[f".stats['{name}']"]
        assert moved > 0 == apart


@pytest.mark.parametrize('system', each(CHANGES))
def test_a_loss_that_is_not_finite_on_one_device_of_four_is_not_finite(results, system):
    assert results[system]['finite with a poisoned device'] == 0


@pytest.mark.parametrize('system', each(CHANGES))
def test_only_what_changes_is_added_up_over_devices(results, system):
    found = results[system]
    assert 0 < found['reduced'] <= BESIDES.get(system, 60)
    if system in ('mspie', 'stylegan2', 'singan'):  # which hold noise, or a photograph
        assert found['constants'] > 5 * found['reduced']
