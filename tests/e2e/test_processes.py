"""Runs of several processes end together: on SIGTERM after the same step, on an error of one with its message."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import toy
from PIL import Image

from pegan_jax.train.checkpoint import Checkpoints, verify


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return toy.write_images(tmp_path_factory.mktemp('images'), 8)


def launch(folder, workdir, *overrides, env=(), peers=None, only=None, config=None):
    """The command line in one process, or in two that know each other."""
    common = {**os.environ, 'PYTHONPATH': str(pathlib.Path(toy.__file__).parent), **dict(env)}
    config = f'{toy.__file__}:{folder}' if config is None else config
    command = [sys.executable, '-m', 'pegan_jax', 'train', '--config', config, '--workdir', workdir]
    found = []
    for i in range(1 if peers is None else 2) if only is None else [only]:
        extra = [] if peers is None else [f'--distributed={peers},2,{i}']
        found.append(subprocess.Popen([*command, *overrides, *extra], env=common, stderr=subprocess.PIPE, text=True))
    return found


def address():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return f'127.0.0.1:{s.getsockname()[1]}'


@pytest.mark.parametrize(
    'settings', [pytest.param(('checkpoint_every=1',), marks=pytest.mark.slow), ('checkpoint_every=0', 'inner_steps=4')]
)
def test_one_sigterm_on_one_process_stops_both_after_the_same_step(folder, tmp_path, settings):
    overrides = [f'--config.train.{s}' for s in ('total_kimg=1e6', 'log_every=100', *settings)]
    processes = launch(folder, tmp_path, *overrides, peers=address())
    log, end = tmp_path / 'metrics.jsonl', time.time() + 100
    while not (log.is_file() and log.stat().st_size):
        assert all(p.poll() is None for p in processes) and time.time() < end, [p.communicate()[1] for p in processes]
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    errors = [p.communicate(timeout=100)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    step = Checkpoints(tmp_path / 'checkpoints').steps()[-1]
    assert f'stopped at step {step}' in errors[0] and verify(tmp_path / 'checkpoints' / str(step)) is None
    assert step >= json.loads(log.read_text().splitlines()[-1])['step']


@pytest.mark.slow
def test_an_error_of_the_first_process_alone_ends_the_others_with_its_words(folder, tmp_path):
    (process,) = launch(folder, tmp_path, '--config.train.total_kimg=0.032')
    assert process.wait(100) == 0
    processes = launch(folder, tmp_path, '--config.model.width=16', peers=address())  # the first one looks
    errors = [p.communicate(timeout=60)[1] for p in processes]
    assert [p.returncode for p in processes] == [1, 1]
    assert 'holds a run of another model' in errors[0]
    assert 'process 0 of 2:' in errors[1] and 'holds a run of another model' in errors[1]


def test_a_log_that_cannot_be_opened_on_the_first_process_ends_both(folder, tmp_path):
    tests = pathlib.Path(toy.__file__).parent
    env = {
        'PYTHONPATH': f'{tests}{os.pathsep}{tests / "fake"}',
        'WANDB_CALLS': str(tmp_path / 'calls'),
        'WANDB_MODE': '',
    }
    processes = launch(folder, tmp_path / 'run', '--config.train.logger=wandb', env=env, peers=address())
    errors = [p.communicate(timeout=60)[1] for p in processes]
    assert [p.returncode for p in processes] == [1, 1]
    assert all('wandb cannot begin (No API key configured.' in told for told in errors)
    assert len((tmp_path / 'calls').read_text().splitlines()) == 1


def test_settings_that_differ_end_all_processes_with_the_fields(folder, tmp_path):
    peers = address()
    processes = launch(folder, tmp_path, '--config.train.batch_size=8', peers=peers, only=0)
    processes += launch(
        folder, tmp_path, '--config.train.batch_size=16', '--config.optim.g_lr=0.5', peers=peers, only=1
    )
    errors = [p.communicate(timeout=60)[1] for p in processes]
    assert [p.returncode for p in processes] == [1, 1], errors
    for told in errors:
        assert 'the 2 processes were not started alike' in told
        assert 'train.batch_size is 8 in process 0 and 16 in process 1' in told and 'optim.g_lr is' in told
    assert not (tmp_path / 'config.json').exists()


def test_images_that_differ_between_hosts_end_all_processes(tmp_path):
    peers, processes = address(), []
    for i, count in enumerate((8, 7)):  # under the same name, each in a home of its own
        home = {'HOME': str(tmp_path / str(i))}
        (tmp_path / str(i) / 'images').mkdir(parents=True)
        toy.write_images(tmp_path / str(i) / 'images', count)
        processes += launch('~/images', tmp_path / 'run', env=home, peers=peers, only=i)
    for process in processes:
        told = process.communicate(timeout=60)[1]
        assert process.returncode == 1 and 'data.images is 8 in process 0 and 7 in process 1' in told, told
        assert 'with the same command, on the same data' in told


def test_masks_that_differ_between_hosts_end_all_processes(tmp_path):
    peers, processes = address(), []
    masks = ['--config.model.masks=folder', '--config.model.mask_folder=~/masks']
    for i in range(2):
        (tmp_path / str(i) / 'masks').mkdir(parents=True)
        hole = np.zeros((16, 16), np.uint8)
        hole[:4, : 4 + i] = 255
        Image.fromarray(hole).save(tmp_path / str(i) / 'masks' / 'a.png')
        home = {'HOME': str(tmp_path / str(i))}
        processes += launch(None, tmp_path / 'run', *masks, env=home, peers=peers, only=i, config='deepfill:tiny')
    for process in processes:
        told = process.communicate(timeout=60)[1]
        assert process.returncode == 1 and 'not started alike: mask files is ' in told, told
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow  # it takes as long as a heartbeat
@pytest.mark.parametrize('victim', [0, 1])
@pytest.mark.parametrize('fate', ['killed', 'without data'])
def test_a_process_that_ends_alone_ends_the_other_within_a_minute(tmp_path, victim, fate):
    peers, processes = address(), []
    homes = [tmp_path / str(i) for i in range(2)]
    for i, home in enumerate(homes):
        (home / 'images').mkdir(parents=True)
        toy.write_images(home / 'images', 8)
        settings = ['--config.train.total_kimg=1e6', '--config.train.log_every=5']
        processes += launch('~/images', tmp_path / 'run', *settings, env={'HOME': str(home)}, peers=peers, only=i)
    log, end = tmp_path / 'run' / 'metrics.jsonl', time.time() + 100
    while not (log.is_file() and log.stat().st_size):
        assert all(p.poll() is None for p in processes) and time.time() < end, [p.communicate()[1] for p in processes]
        time.sleep(0.05)
    if fate == 'killed':
        processes[victim].kill()
    else:
        shutil.rmtree(homes[victim] / 'images')
    begin = time.time()
    _, errors = processes[1 - victim].communicate(timeout=90)
    took = time.time() - begin
    assert processes[1 - victim].returncode not in (0, None) and took < 60, (took, errors[-3000:])
    # Either finds it first: this program in what it exchanges with the others, or JAX by its heartbeat.
    assert 'another process of this run has ended' in errors or 'another task died' in errors, errors[-3000:]
    if fate == 'without data':
        _, errors = processes[victim].communicate(timeout=10)
        assert processes[victim].returncode == 1 and 'are all unreadable; is the storage still there?' in errors


@pytest.mark.slow
def test_scores_of_two_processes_are_those_of_one(folder, tmp_path):
    overrides = [f'--config.train.{s}' for s in ('total_kimg=0.016', 'metrics=spectral1100,rows1100', 'keep_best=1')]
    found = []
    for peers in (None, address()):
        workdir = tmp_path / str(bool(peers))
        for process in launch(folder, workdir, *overrides, peers=peers):
            assert process.wait(timeout=120) == 0, process.communicate()[1][-3000:]
        lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
        found.append(next([line['spectral1100'], line['rows1100']] for line in lines if 'rows1100' in line))
    np.testing.assert_allclose(*found, rtol=0.02)


def evaluate(*words, peers=None, homes=(None, None)):
    """What the command prints, (out, err) of one process or of two that know each other."""
    program = 'import sys, toy\nfrom pegan_jax.cli import main\nsys.exit(main(sys.argv[1:]))'
    common = {**os.environ, 'PYTHONPATH': str(pathlib.Path(toy.__file__).parent)}
    extras = [[]] if peers is None else [[f'--distributed={peers},2,{i}'] for i in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', program, 'evaluate', *words, *extra],
            env=common if home is None else common | {'HOME': str(home)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for home, extra in zip(homes, extras, strict=False)
    ]  # fmt: skip
    told = [process.communicate(timeout=200) for process in processes]
    assert not any(process.returncode for process in processes), told
    return told


@pytest.mark.slow
def test_evaluate_divides_its_work_over_processes_and_gives_the_same_numbers(folder, tmp_path):
    (process,) = launch(folder, tmp_path / 'run', '--config.train.total_kimg=0.016')
    assert process.wait(100) == 0
    found, names = [], 'fd_worlds600,kid_worlds600,swd520'
    for peers, count in ((None, 1), (address(), 2)):
        out = tmp_path / f'{count}.jsonl'
        words = ['--model', tmp_path / 'run', '--metrics', names, '--out', out, '--data', 'worlds']
        told = evaluate(*words, '--cache', tmp_path / f'cache{count}', peers=peers)
        assert ['fd_worlds600' in words for words, _ in told] == [True, False][:count]
        (line,) = out.read_text().splitlines()
        found.append(json.loads(line))
        kept = list((tmp_path / f'cache{count}' / 'features').glob('*.npy'))
        assert len(kept) == 3  # of the real worlds, in parts
    assert '2 processes' in found[1]['evaluation']['devices']
    # Hosts without a common disk: the first one computes everything.
    out, homes = tmp_path / 'apart.jsonl', [tmp_path / 'home0', tmp_path / 'home1']
    words = ['--model', tmp_path / 'run', '--metrics', names, '--out', out, '--data', 'worlds', '--cache', '~/cache']
    evaluate(*words, peers=address(), homes=homes)
    found.append(json.loads(out.read_text()))
    assert len(list((homes[0] / 'cache' / 'features').glob('*.npy'))) == 3
    assert not list(homes[1].glob('cache/features/*'))
    for name in ('fd_worlds600', 'kid_worlds600', 'swd520'):
        assert [other[name] for other in found[1:]] == pytest.approx([found[0][name]] * 2, rel=1e-5)


@pytest.mark.slow
def test_two_processes_that_watch_a_run_score_every_checkpoint_once(folder, tmp_path):
    (process,) = launch(
        folder, tmp_path / 'run', '--config.train.total_kimg=0.024', '--config.train.checkpoint_every=2'
    )
    assert process.wait(100) == 0
    evaluate('--watch', tmp_path / 'run', '--metrics', 'rows18', '--cache', tmp_path / 'cache', peers=address())
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    scored = [line['step'] for line in lines if 'rows18' in line]
    assert scored == Checkpoints(tmp_path / 'run' / 'checkpoints').steps() == [2, 3]


@pytest.mark.slow
def test_one_process_of_two_reads_a_checkpoint_alone(folder, tmp_path):
    """So that one that cannot read it is an error for all, and nobody waits."""
    (process,) = launch(folder, tmp_path, '--config.train.total_kimg=0.016')
    assert process.wait(100) == 0
    program = 'import sys, jax, toy, pegan_jax\n'
    program += 'jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))\njax.devices()\n'
    program += "if sys.argv[2] == '1':\n    assert pegan_jax.load(sys.argv[3]).step == 2"
    environment, where = {**os.environ, 'PYTHONPATH': str(pathlib.Path(toy.__file__).parent)}, address()
    commands = [[sys.executable, '-c', program, where, str(i), str(tmp_path)] for i in range(2)]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0], [process.communicate()[1] for process in processes]


def test_a_second_launch_finds_the_compiled_programs_of_the_first(folder, tmp_path):
    env = {'JAX_COMPILATION_CACHE_DIR': '', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'JAX_LOG_COMPILES': '1'}
    short = ['--config.train.total_kimg=0.008', f'--config.train.compilation_cache={tmp_path}/cache']
    hits = []
    for name in ('first', 'second'):
        (process,) = launch(folder, tmp_path / name, *short, env=env)
        errors = process.communicate(timeout=100)[1]
        assert process.returncode == 0, errors
        hits.append(errors.count('Persistent compilation cache hit'))
    assert any((tmp_path / 'cache').iterdir()) and hits[1] > hits[0]


def test_the_time_of_every_step_is_that_of_the_device(folder, tmp_path, monkeypatch):
    """Nothing is handed to the device unasked while a run goes on: that would wait for it at every step."""
    assert_no_transfers(monkeypatch, toy.get_config(str(folder)), tmp_path)


@pytest.mark.parametrize(
    'name',
    [
        pytest.param('cips', marks=pytest.mark.slow),
        *(
            pytest.param(name, marks=pytest.mark.hand)
            for name in 'creps dcgan deepfill mspie:f pconv pggan singan stylegan2 stylegan3:t stylegan3:r'.split()
        ),
    ],
)  # fmt: skip
def test_no_system_hands_anything_to_the_device_unasked(name, tmp_path, monkeypatch):
    from pegan_jax.config import load_config

    (tmp_path / 'images').mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / 'images' / f'{i}.png')
    data = [f'data.image={tmp_path}/images/0.png'] if name == 'singan' else [f'data.folder={tmp_path}/images']
    config = load_config(
        f'{name}{"," if ":" in name else ":"}tiny',
        [*data, 'train.total_kimg=0.024', 'train.log_every=1', 'train.sample_every=2', 'train.checkpoint_every=0',
         'train.keep_best=0', *(['model.iters_per_scale=2'] if name == 'singan' else [])],
    )  # fmt: skip
    assert_no_transfers(monkeypatch, config, tmp_path / 'run')


def assert_no_transfers(monkeypatch, config, workdir):
    import jax

    from pegan_jax.train import loop

    entered = []

    class Guarded(loop.StopSignal):
        def __enter__(self):
            entered.append(True)
            self.guard = jax.transfer_guard('disallow')
            self.guard.__enter__()
            return super().__enter__()

        def __exit__(self, *error):
            self.guard.__exit__(*error)
            super().__exit__(*error)

    monkeypatch.setattr(loop, 'StopSignal', Guarded)
    state = loop.run(config, workdir)
    assert entered and int(state.step) > 1
