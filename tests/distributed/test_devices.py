"""One device equals several, both backends agree, two processes equal one; the worker compares replicas."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy

WORKER = pathlib.Path(__file__).with_name('worker.py')


def _start(devices, *args):
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
    env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu', 'JAX_DEFAULT_MATMUL_PRECISION': 'highest'}
    return subprocess.Popen([sys.executable, str(WORKER), *map(str, args)], env=env, stderr=subprocess.PIPE, text=True)


def _finish(*processes):
    for p in processes:
        _, err = p.communicate(timeout=200)
        assert p.returncode == 0, err[-3000:]


def _run(tmp, devices, backend, gan='toy', steps=3):
    out = tmp / f'{gan}{devices}{backend}.npz'
    _finish(_start(devices, gan, out, backend, steps))
    return dict(np.load(out))


@pytest.fixture(scope='module')
def one_device(tmp_path_factory):
    return _run(tmp_path_factory.mktemp('one'), 1, 'jit')


def _assert_equal_up_to_rounding(got, want):
    assert got.keys() == want.keys()
    for name in want:
        toy.assert_equal_up_to_rounding(got[name], want[name], name)


@pytest.mark.parametrize('backend', ['jit', 'pmap'])
def test_four_devices_equal_one(one_device, tmp_path, backend):
    _assert_equal_up_to_rounding(_run(tmp_path, 4, backend), one_device)


def test_two_processes_with_two_devices_each_equal_one_device(one_device, tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    outs = [tmp_path / f'{i}.npz' for i in range(2)]
    _finish(*(_start(2, 'toy', outs[i], 'jit', 3, port, i, 2) for i in range(2)))
    first, second = (dict(np.load(o)) for o in outs)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], name)
    _assert_equal_up_to_rounding(first, one_device)


def test_the_single_device_run_moves_every_parameter(one_device):
    # Guards the comparisons above against comparing states that never changed.
    params, _, _ = toy.toy_gan().init(jax.random.fold_in(jax.random.key(0), 2**32 - 1))
    for net in ('g', 'd'):
        for name, start in params[net].items():
            assert np.abs(one_device[f".params['{net}']['{name}']"] - start).max() > 1e-3
    assert one_device['.nimg'] == 24 and one_device['.step'] == 3


@pytest.mark.slow
def test_batch_normalisation_counts_all_devices_as_one_batch(tmp_path):
    one = _run(tmp_path, 1, 'jit', 'dcgan')
    for backend in ('jit', 'pmap'):
        _assert_equal_up_to_rounding(_run(tmp_path, 4, backend, 'dcgan'), one)
    stats = [name for name in one if name.startswith('.buffers')]
    assert len(stats) == 6
    assert all(np.abs(one[name] - (1 if "['var']" in name else 0)).max() > 1e-4 for name in stats)
