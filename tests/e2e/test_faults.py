"""What goes wrong around a run ends as the documentation says: an error with its reason, and never half a state."""

import ctypes
import dataclasses
import logging
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import toy

from pegan_jax.config import override
from pegan_jax.data import pipeline
from pegan_jax.pixels import UnreadableImage
from pegan_jax.settings import DataConfig, UserError
from pegan_jax.train import feed, loop, metrics, pictures
from pegan_jax.train.checkpoint import steps_of, verify


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return toy.write_images(tmp_path_factory.mktemp('images'), 21)


@pytest.fixture(scope='module')
def uninterrupted(folder, tmp_path_factory):
    return jax.device_get(loop.run(toy.settings(folder), tmp_path_factory.mktemp('whole')))


def assert_equal(state, want):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), want)


def launch(folder, workdir, *overrides, **options):
    """The command in a process of its own: exit status, errors."""
    environment = {
        **os.environ,
        'PYTHONPATH': f'{pathlib.Path(toy.__file__).parent}:{os.environ.get("PYTHONPATH", "")}',
    }
    command = [sys.executable, '-m', 'pegan_jax', 'train', '--config', f'{toy.__file__}:{folder}']
    command += ['--workdir', str(workdir), *(f'--config.train.{o}' for o in overrides)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, **options)
    return found.returncode, found.stderr


def test_a_workdir_that_is_deleted_ends_the_run_at_its_next_checkpoint(folder, tmp_path, monkeypatch):
    workdir = tmp_path / 'run'

    def deleting(self, state):
        if int(state.step) == 8:
            shutil.rmtree(workdir)
        return 0.0

    monkeypatch.setattr(pictures.Pictures, 'distance', deleting)
    with pytest.raises(UserError, match=r'was deleted or moved while the run used it'):
        loop.run(toy.settings(folder, 'keep_best=1', 'metric_images=8', 'total_kimg=0.16'), workdir)
    assert not (workdir / 'config.json').exists() and steps_of(workdir / 'checkpoints') in ([], [8])


def test_a_disk_that_is_full_leaves_the_checkpoint_before_it_and_the_run_goes_on_later(folder, uninterrupted, tmp_path):
    workdir = tmp_path / 'run'
    loop.run(toy.settings(folder, 'total_kimg=0.032'), workdir)

    def full():
        # Writing beyond this size fails as on a full disk. Results of the arrays are larger, the texts are not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    environment = {'sample_every': 0}
    status, errors = launch(folder, workdir, *(f'{k}={v}' for k, v in environment.items()), preexec_fn=full)
    assert status == 1 and 'a checkpoint could not be saved' in errors and 'the newest whole one is of step 4' in errors
    assert '/pegan_jax/train/' not in errors.split('error: ')[-1]  # threads of Orbax may tell of their own end
    assert steps_of(workdir / 'checkpoints') == [4] and verify(workdir / 'checkpoints' / '4') is None
    assert_equal(loop.run(toy.settings(folder), workdir), uninterrupted)


def test_a_workdir_that_cannot_be_written_is_one_line(folder, tmp_path):
    (tmp_path / 'run').mkdir(mode=0o555)

    def obey_modes():
        # Root writes where it likes, unless a program it starts may not have CAP_DAC_OVERRIDE.
        if os.getuid() == 0:
            pr_capbset_drop, cap_dac_override = 24, 1
            ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0)

    status, errors = launch(folder, tmp_path / 'run', preexec_fn=obey_modes)
    assert status == 1 and 'Traceback' not in errors
    assert 'error: ' in errors and 'Permission denied' in errors and str(tmp_path / 'run') in errors


def test_a_missing_file_is_noticed_and_the_checkpoint_before_it_is_used(folder, uninterrupted, tmp_path, caplog):
    loop.run(toy.settings(folder, 'total_kimg=0.064'), tmp_path)
    next(p for p in (tmp_path / 'checkpoints' / '8' / 'training').rglob('*') if p.is_file()).unlink()
    with caplog.at_level(logging.WARNING):
        assert_equal(loop.run(toy.settings(folder), tmp_path), uninterrupted)
    assert 'checkpoint of step 8 cannot be used' in caplog.text and 'is missing' in caplog.text


@pytest.mark.parametrize('count', [1, 3])
def test_fewer_images_than_a_batch_are_enough(folder, tmp_path, count):
    (tmp_path / 'few').mkdir()
    for i in range(count):
        shutil.copy(folder / f'{i}.png', tmp_path / 'few')
    assert int(loop.run(toy.settings(tmp_path / 'few', 'total_kimg=0.016'), tmp_path / 'run').step) == 2


def test_images_that_disappear_are_replaced_and_a_folder_that_does_ends_the_run(folder, tmp_path, caplog):
    shutil.copytree(folder, tmp_path / 'data')
    source = pipeline.open_source(DataConfig(folder=str(tmp_path / 'data'), resolution=8), tmp_path)
    batches = pipeline.batches(source, DataConfig(resolution=8), batch_size=8, seed=0)
    (tmp_path / 'data' / '3.png').unlink()
    (tmp_path / 'data' / '5.png').write_bytes((folder / '5.png').read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert all(next(batches)['image'].shape == (8, 8, 8, 3) for _ in range(6))
    batches.close()
    assert 'unreadable images replaced by the next ones' in caplog.text
    shutil.rmtree(tmp_path / 'data')
    batches = pipeline.batches(source, DataConfig(resolution=8), batch_size=8, seed=0)
    with pytest.raises(UnreadableImage, match=r'are all unreadable; is the storage still there\?'):
        next(batches)
    batches.close()


def test_a_run_whose_data_fail_keeps_the_steps_since_its_last_checkpoint(folder, uninterrupted, tmp_path, monkeypatch):
    taken, take = [], feed.Feed.take

    def gone(self, *words):
        taken.append(words)
        if len(taken) == 7:
            raise UnreadableImage('images [...] are all unreadable; is the storage still there?')
        return take(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(feed.Feed, 'take', gone)
        with pytest.raises(UnreadableImage, match='is the storage still there'):
            loop.run(toy.settings(folder), tmp_path)
    assert steps_of(tmp_path / 'checkpoints') == [4, 6]
    assert_equal(loop.run(toy.settings(folder), tmp_path), uninterrupted)


@pytest.mark.parametrize('setting', ['stop', 'skip'])
def test_gradients_that_are_not_finite_stop_the_run_or_are_skipped_and_counted(
    folder, tmp_path, setting, monkeypatch, caplog
):
    plain = toy.toy_gan(0.02)

    def poisoned(loss):
        def fn(params, state, *rest):
            value, aux = loss(params, state, *rest)
            # A finite value whose gradient at step 6 is none.
            return value + jax.numpy.sqrt(jax.numpy.where(state.step == 6, 0.0, 1.0) + 0 * params['xy'][0, 0]), aux

        return fn

    updates = tuple(dataclasses.replace(u, loss=poisoned(u.loss)) if u.net == 'g' else u for u in plain.updates)
    monkeypatch.setattr(toy.SYSTEMS['waves'], 'build', lambda config: plain._replace(updates=updates))
    config = toy.settings(folder, f'non_finite={setting}')
    if setting == 'stop':
        with pytest.raises(metrics.NonFiniteError, match='not finite at step 8'):
            loop.run(config, tmp_path)
        assert steps_of(tmp_path / 'checkpoints') == [4]
    else:
        state = loop.run(config, tmp_path)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state.params)))
        assert (
            '1 of the last 2 steps (to step 8)' in caplog.text
            and '"gradients/skipped": 0.5' in (tmp_path / 'metrics.jsonl').read_text()
        )


def test_every_update_skipped_is_the_end(folder, tmp_path):
    config = toy.settings(folder, 'non_finite=skip', 'total_kimg=1.0')
    with pytest.raises(metrics.NonFiniteError, match=r'each of the last 2 steps is not finite'):
        loop.run(override(config, ['optim.g_lr=1e38', 'optim.d_lr=1e38']), tmp_path)
    for step in steps_of(tmp_path / 'checkpoints'):
        assert verify(tmp_path / 'checkpoints' / str(step)) is None


@pytest.mark.parametrize('kills', [pytest.param(5, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.hand)])
def test_a_run_that_is_killed_again_and_again_ends_in_the_very_state_of_the_uninterrupted_one(folder, tmp_path, kills):
    """At random moments: in a step, a save, a log line, a sample, a measurement."""
    often = ('checkpoint_every=3', 'sample_every=5', 'keep_best=1', 'metric_images=8', 'log_every=1')
    config = toy.settings(folder, *often, f'total_kimg={0.32 * kills}')
    environment = {
        **os.environ,
        'PYTHONPATH': f'{pathlib.Path(toy.__file__).parent}:{os.environ.get("PYTHONPATH", "")}',
    }
    command = [sys.executable, '-m', 'pegan_jax', 'train', '--config', f'{toy.__file__}:{folder}', '--workdir']
    command += [
        str(tmp_path / 'run'),
        *(f'--config.train.{o}' for o in (*often, f'total_kimg={config.train.total_kimg}')),
    ]
    rng, log, reached = np.random.default_rng(kills), tmp_path / 'run' / 'metrics.jsonl', [[]]
    for k in range(kills):
        before = log.stat().st_size if log.is_file() else 0
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        end = time.time() + 100

        def goes_on(k=k, before=before):  # every other time as far as a checkpoint, however slow the machine is
            logged = log.is_file() and log.stat().st_size > before
            return logged and (k % 2 or steps_of(tmp_path / 'run' / 'checkpoints')[-1:] > reached[-1])

        while not goes_on():
            assert process.poll() is None and time.time() < end, process.communicate()[1][-3000:]
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.8))
        assert process.poll() is None, 'the run was over before it could be killed; make it longer'
        process.kill()
        process.communicate()
        reached.append(steps_of(tmp_path / 'run' / 'checkpoints')[-1:])
    state = loop.run(config, tmp_path / 'run')
    whole = loop.run(
        toy.settings(folder, f'total_kimg={config.train.total_kimg}', 'checkpoint_every=0'), tmp_path / 'whole'
    )
    assert_equal(state, jax.device_get(whole))
    assert len({*map(tuple, reached)}) > kills // 2
