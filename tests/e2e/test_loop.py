"""A run can be interrupted, damaged and moved, and ends in the state of the uninterrupted one."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import SingleDeviceSharding
from PIL import Image

from pegan_jax import gan
from pegan_jax.data import pipeline, sources
from pegan_jax.scoring import record
from pegan_jax.settings import TrainConfig
from pegan_jax.train import checkpoint, log, loop, metrics, pictures, programs, report
from pegan_jax.train.checkpoint import CheckpointError, Checkpoints, load_sampling, verify
from pegan_jax.train.state import TrainState


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('images')
    for i, image in enumerate(toy.toy_batch(0, 21)):
        Image.fromarray(image.repeat(2, 0).repeat(2, 1)).save(path / f'{i}.png')
    return path


def _config(folder, **train):
    config = toy.get_config(str(folder))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


@pytest.fixture(scope='module')
def uninterrupted(folder, tmp_path_factory):
    return jax.device_get(loop.run(_config(folder), tmp_path_factory.mktemp('whole')))


def _assert_same_state(got, want):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), want)
    assert jax.tree.structure(jax.device_get(got)) == jax.tree.structure(want)


def _launch(folder, workdir, *overrides, devices=1, code=None):
    """The command line in a process of its own."""
    env = {
        **os.environ,
        'PYTHONPATH': str(pathlib.Path(toy.__file__).parent),
        'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}',
        'JAX_DEFAULT_MATMUL_PRECISION': 'highest',
    }
    start = [sys.executable, '-c', code] if code else [sys.executable, '-m', 'pegan_jax']
    arguments = ['train', '--config', f'{toy.__file__}:{folder}', '--workdir', str(workdir), '--debug', *overrides]
    return subprocess.Popen(start + arguments, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _wait_for(condition, process, seconds=100):
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.time() < end, 'nothing happened'
        time.sleep(0.02)


def test_a_second_launch_goes_on_exactly(folder, uninterrupted, tmp_path):
    first = loop.run(_config(folder, total_kimg=0.04), tmp_path)
    assert int(first.step) == 5
    _assert_same_state(loop.run(_config(folder), tmp_path), uninterrupted)
    assert int(uninterrupted.step) == 10 and int(uninterrupted.nimg) == 80
    # A third launch finds nothing left to do.
    _assert_same_state(loop.run(_config(folder), tmp_path), uninterrupted)


def test_any_letters_may_be_in_the_name_of_a_workdir(folder, uninterrupted, tmp_path):
    workdir = tmp_path / 'run [1] *?{a,b} ~ü#%20'
    loop.run(_config(folder, total_kimg=0.04), workdir)
    assert load_sampling(workdir / 'checkpoints')[2] == 5
    shutil.copytree(workdir, tmp_path / 'copy')
    for place in (workdir, tmp_path / 'copy'):
        _assert_same_state(loop.run(_config(folder), place), uninterrupted)
    begun = loop.run(_config(folder, total_kimg=0.008, init_from=str(workdir)), tmp_path / 'begun')
    assert int(begun.step) == 1


def test_a_checkpoint_that_cannot_be_read_back_ends_the_run(folder, tmp_path, monkeypatch):
    """The first one: what cannot be read is no success, however well it was written."""
    write = checkpoint._write_sums

    def damaging(root):
        write(root)
        (place,) = root.glob('*.orbax-checkpoint-tmp')
        largest = max((p for p in (place / 'training').rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
        largest.write_bytes(b'')

    monkeypatch.setattr(checkpoint, '_write_sums', damaging)
    with pytest.raises(CheckpointError, match=r'step 4 .* was written, but cannot be read back'):
        loop.run(_config(folder), tmp_path)


def test_a_run_with_another_batch_size_ends_after_as_many_images(folder, tmp_path):
    loop.run(_config(folder, total_kimg=0.032), tmp_path)
    for batch_size, total, steps in ((4, 0.048, 4), (16, 0.096, 3), (16, 0.096, 0)):
        step = load_sampling(tmp_path / 'checkpoints')[2]
        state = loop.run(_config(folder, total_kimg=total, batch_size=batch_size), tmp_path)
        assert int(state.nimg) == total * 1000 and int(state.step) == step + steps


def test_sigterm_saves_and_exits_cleanly(folder, uninterrupted, tmp_path):
    process = _launch(folder, tmp_path, '--config.train.total_kimg=1e6', '--config.train.checkpoint_every=0')
    _wait_for(lambda: (tmp_path / 'metrics.jsonl').is_file() and (tmp_path / 'metrics.jsonl').stat().st_size, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors[-3000:]
    step = Checkpoints(tmp_path / 'checkpoints').steps()[-1]
    assert f'stopped at step {step}' in errors
    resumed = loop.run(_config(folder, total_kimg=(step + 2) * 8 / 1000), tmp_path)
    whole = loop.run(_config(folder, total_kimg=(step + 2) * 8 / 1000, checkpoint_every=0), tmp_path / 'whole')
    _assert_same_state(resumed, jax.device_get(whole))


def test_sigkill_in_the_middle_of_a_save_leaves_the_checkpoint_before_it(folder, uninterrupted, tmp_path):
    # The second save stops between writing its files and committing them, which is where the kill finds it.
    code = (
        'import sys, time\n'
        'from pegan_jax.train import checkpoint\n'
        'write = checkpoint._write_sums\n'
        'def slow(root):\n'
        '    write(root)\n'
        '    if any(p.name.startswith("8.") for p in root.iterdir()):\n'
        '        (root.parent / "reached").touch(); time.sleep(100)\n'
        'checkpoint._write_sums = slow\n'
        'from pegan_jax.cli import main\n'
        'sys.exit(main(sys.argv[1:]))\n'
    )
    process = _launch(folder, tmp_path, code=code)
    _wait_for((tmp_path / 'reached').exists, process)
    process.kill()
    process.communicate()
    checkpoints = tmp_path / 'checkpoints'
    assert any('tmp' in p.name for p in checkpoints.iterdir())
    assert sorted(p.name for p in checkpoints.iterdir() if p.name.isdigit()) == ['4']
    _assert_same_state(loop.run(_config(folder, checkpoint_every=5), tmp_path), uninterrupted)
    assert not any('tmp' in p.name for p in checkpoints.iterdir())


def _flip_a_byte(step_dir):
    path = max((p for p in (step_dir / 'training').rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_byte_is_noticed_and_the_checkpoint_before_it_is_used(folder, uninterrupted, tmp_path, caplog):
    loop.run(_config(folder, total_kimg=0.064), tmp_path)
    _flip_a_byte(tmp_path / 'checkpoints' / '8')
    with caplog.at_level(logging.WARNING):
        resumed = loop.run(_config(folder), tmp_path)
    assert 'checkpoint of step 8 cannot be used' in caplog.text and 'has changed since it was written' in caplog.text
    _assert_same_state(resumed, uninterrupted)
    assert (tmp_path / 'damaged' / '8').is_dir() and verify(tmp_path / 'checkpoints' / '8') is None


@pytest.mark.parametrize('damaged, left', [(4, 8), (8, 4)])
def test_damaged_numbers_of_one_step_do_not_keep_the_others_from_being_read(damaged, left, tmp_path):
    def state(step):
        params = {'g': {'w': jnp.arange(4.0) + step}}
        return TrainState(
            step=jnp.int32(step),
            nimg=jnp.int32(step),
            params=params,
            buffers={'g': {}},
            opt={'g': {}},
            ema=None,
            stats={},
        )

    with contextlib.closing(Checkpoints(tmp_path, keep=2, keep_best=1)) as checkpoints:
        for step in (4, 8):
            checkpoints.save(state(step), {'config': {}}, {'swd': float(step)})
    (tmp_path / str(damaged) / 'metrics' / 'metrics').write_bytes(b'')
    if damaged == 4:
        assert load_sampling(tmp_path)[2] == load_sampling(tmp_path, 'best')[2] == 8
    else:
        with pytest.raises(CheckpointError, match=r'the checkpoint of step 8 in .* is damaged'):
            load_sampling(tmp_path)
    place = SingleDeviceSharding(jax.devices()[0])
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state(0))
    with contextlib.closing(Checkpoints(tmp_path, keep=2, keep_best=1)) as checkpoints:
        assert int(checkpoints.restore(template)[0].step) == left


def test_a_log_that_was_cut_off_loses_that_line_alone(folder, tmp_path):
    path = tmp_path / 'metrics.jsonl'

    def logged():
        with contextlib.closing(log.RunLog(tmp_path, _config(folder), 100, 0)) as runlog:
            runlog.scalars(8, 64, {'loss/d': 1.0})

    for append in (logged, lambda: record.append(path, 8, {'fid': 1.0}, {})):
        append()
        before = record.rows(path)
        with path.open('a') as file:
            file.write('{"step": 1')
        append()
        rows = record.rows(path)
        assert rows[: len(before)] == before and rows[len(before)]['step'] == 8


def test_pictures_are_no_part_of_the_time_of_steps(folder, tmp_path, monkeypatch):
    paused, grid, inside, seen = metrics.Metrics.paused, pictures.Pictures.grid, [], []

    @contextlib.contextmanager
    def noted(*args):
        inside.append(args)
        with paused(*args):
            yield
        inside.pop()

    monkeypatch.setattr(metrics.Metrics, 'paused', noted)
    monkeypatch.setattr(pictures.Pictures, 'grid', lambda *args: (seen.append(bool(inside)), grid(*args))[1])
    loop.run(_config(folder, total_kimg=0.032, sample_every=4), tmp_path)
    assert seen == [True, True]


def test_nothing_is_started_afresh_when_every_checkpoint_is_damaged(folder, tmp_path):
    loop.run(_config(folder, total_kimg=0.032), tmp_path)
    _flip_a_byte(tmp_path / 'checkpoints' / '4')
    shutil.rmtree(tmp_path / 'checkpoints' / '4' / 'meta')
    with pytest.raises(CheckpointError, match=r'none of the checkpoints .* can be read \(step 4: .*\)'):
        loop.run(_config(folder), tmp_path)
    assert (tmp_path / 'checkpoints' / '4').is_dir()


def test_damage_that_no_checksum_tells_is_one_error_when_sampling(tmp_path):
    checkpoints = Checkpoints(tmp_path, checksums=False)
    checkpoints.save_items(3, {'sampling': {'params': {'w': np.arange(3.0)}, 'buffers': {}}}, {'config': {}})
    checkpoints.close()
    for path in (tmp_path / '3' / 'sampling').rglob('*'):
        if path.is_file():
            path.write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'the checkpoint of step 3 in .* cannot be read'):
        load_sampling(tmp_path)


@pytest.mark.parametrize('backends', [('jit', 'pmap')])
def test_a_run_moves_to_another_number_of_devices(folder, uninterrupted, tmp_path, backends):
    first, second = backends
    process = _launch(folder, tmp_path, '--config.train.total_kimg=0.032', f'--config.train.backend={first}', devices=4)
    assert process.wait(100) == 0, process.communicate()[1][-3000:]
    process = _launch(
        folder, tmp_path, '--config.train.total_kimg=0.064', f'--config.train.backend={second}', devices=2
    )
    assert process.wait(100) == 0, process.communicate()[1][-3000:]
    moved = jax.device_get(loop.run(_config(folder), tmp_path))
    assert int(moved.step) == 10
    jax.tree.map(toy.assert_equal_up_to_rounding, moved, uninterrupted)


@pytest.mark.slow
def test_two_processes_that_share_a_workdir_equal_one(folder, uninterrupted, tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        peers = f'127.0.0.1:{s.getsockname()[1]},2'
    for limit in ('0.032', '0.08'):  # the second launch resumes
        settings = (f'--config.train.total_kimg={limit}', '--config.train.sample_every=5')
        processes = [_launch(folder, tmp_path, *settings, f'--distributed={peers},{i}') for i in range(2)]
        for process in processes:
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors[-3000:]
    moved = jax.device_get(loop.run(_config(folder), tmp_path))
    assert int(moved.step) == 10 and verify(tmp_path / 'checkpoints' / '10') is None
    jax.tree.map(toy.assert_equal_up_to_rounding, moved, uninterrupted)
    steps = [json.loads(line)['step'] for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10]


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(folder, tmp_path):
    loop.run(_config(folder, total_kimg=0.032), tmp_path)
    config = _config(folder, total_kimg=1.0)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, g_lr=1e38, d_lr=1e38))
    with pytest.raises(
        metrics.NonFiniteError,
        match=r'^a loss \(.*\) is not finite at step [56]; the last good checkpoint is of step 4 ',
    ):
        loop.run(config, tmp_path)
    assert Checkpoints(tmp_path / 'checkpoints').steps() == [4]
    _, meta, step = load_sampling(tmp_path / 'checkpoints')
    assert step == 4 and meta['images'] == 32


def test_parameters_that_are_not_finite_are_never_saved(folder, tmp_path, monkeypatch):
    broken = toy.toy_gan(0.02)
    updates = tuple(dataclasses.replace(u, loss=_nan_gradient(u.loss)) if u.net == 'g' else u for u in broken.updates)
    monkeypatch.setattr(toy.SYSTEMS['waves'], 'build', lambda config: broken._replace(updates=updates))
    with pytest.raises(metrics.NonFiniteError, match=r'^a parameter is not finite at step 1; nothing had been saved'):
        loop.run(_config(folder, checkpoint_every=1), tmp_path)
    assert Checkpoints(tmp_path / 'checkpoints').steps() == []


def _nan_gradient(loss):
    def fn(params, *args):
        value, aux = loss(params, *args)
        # The square root of zero: a finite value with a gradient that is not.
        return value + jax.numpy.sqrt(0 * params['xy'][0, 0]), aux

    return fn


def test_the_newest_and_the_best_checkpoints_are_kept(folder, tmp_path, monkeypatch):
    scores = iter([5.0, 1.0, 3.0, 4.0, 2.0])
    monkeypatch.setattr(pictures.Pictures, 'distance', lambda *_: next(scores))
    loop.run(_config(folder, checkpoint_every=2, keep=2, keep_best=1, metric_images=8), tmp_path)
    assert Checkpoints(tmp_path / 'checkpoints').steps() == [4, 8, 10]
    assert load_sampling(tmp_path / 'checkpoints', 'best')[2] == 4
    assert load_sampling(tmp_path / 'checkpoints', None)[2] == 10
    with pytest.raises(CheckpointError, match=r'has no checkpoint of step 6; there are 4, 8, 10'):
        load_sampling(tmp_path / 'checkpoints', 6)


def test_a_length_of_its_own_is_told_where_another_one_is_asked_for(folder, tmp_path, monkeypatch, capsys):
    build = toy.waves.build
    monkeypatch.setattr(toy.waves, 'build', lambda config: build(config)._replace(num_steps=lambda: 2))
    few = {'sample_every': 0, 'checkpoint_every': 0, 'keep_best': 0}
    config = _config(folder, **few, total_kimg=0.048)
    assert int(loop.run(config, tmp_path).step) == 2
    told = capsys.readouterr().err
    assert f'train.total_kimg=0.048 does nothing: {config.system} trains 2 steps' in told
    assert '2, 0.016 kimg (a length of its own: train.total_kimg does nothing)' in report.dry_run(config)
    loop.run(_config(folder, **few, total_kimg=TrainConfig.total_kimg), tmp_path)
    assert 'does nothing' not in capsys.readouterr().err


@pytest.mark.parametrize('vectors', [False, True])
def test_samples_have_the_labels_of_the_images_that_they_are_compared_with(folder, vectors):
    count, c_dim = 30, 20
    label = np.random.default_rng(0).random((count, c_dim), np.float32) if vectors else np.arange(count) * 7 % c_dim

    def batches(batch_size, start_image):
        for i in range(start_image, count, batch_size):
            rows = slice(i, i + batch_size)
            yield {'image': np.zeros((len(label[rows]), 4, 4, 3), np.uint8), 'label': label[rows]}

    def images(_, labels):  # of a channel for each entry
        return jnp.broadcast_to(labels[:, None, None], (len(labels), 2, 2, c_dim))

    sampler = gan.Sampler(lambda seeds: gan.latents(seeds, 4), images, lambda _, z, labels: labels)
    system = gan.GAN(None, (), {}, sampler, None, c_dim=c_dim)
    shown = pictures.Pictures(system, _config(folder), batches)
    found = shown.images(types.SimpleNamespace(sampling={}), count)
    np.testing.assert_array_equal(found[:, 0, 0], label if vectors else np.eye(c_dim)[label])
    assert [len(z) for z, _ in shown.inputs(3)] == [3]  # no more than are asked for, if they are few


def test_pictures_read_few_images_more_than_they_show(folder, monkeypatch):
    read, get = [], sources.Files.__getitem__
    config = _config(folder)
    source = pipeline.open_source(config.data, folder.parent)
    monkeypatch.setattr(sources.Files, '__getitem__', lambda self, i: read.append(i) or get(self, i))
    batches = functools.partial(pipeline.batches, source, config.data, seed=0)
    images = pictures.Pictures(toy.toy_gan(), config, batches)._first(64)['image']
    assert len(read) <= 64 + 2 * pipeline.READ_AHEAD
    with contextlib.closing(batches(batch_size=64)) as whole:
        np.testing.assert_array_equal(images, next(whole)['image'])


def test_logs_hold_every_interval_and_samples(folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop.run(_config(folder, sample_every=5, keep_best=1, metric_images=8), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    losses = [line for line in lines if 'loss/g' in line]
    assert [line['step'] for line in losses] == [2, 4, 6, 8, 10] and all(line['loss/g'] > 0 for line in losses)
    assert [line['step'] for line in lines if 'swd' in line] == [4, 8, 10]
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [e.step for e in events.Scalars('loss/d')] == [2, 4, 6, 8, 10]
    assert [e.step for e in events.Images('samples')] == [0, 5, 10]
    names = sorted(p.name for p in (tmp_path / 'samples').iterdir())
    assert names == ['reals.png', 'samples_00000000.png', 'samples_00000005.png', 'samples_00000010.png']
    assert np.asarray(Image.open(tmp_path / 'samples' / 'reals.png')).shape == (16, 16, 3)


def test_runs_that_differ_in_their_seed_share_their_programs(folder, tmp_path, monkeypatch):
    texts, states, compile_step = {0: [], 1: []}, [], programs.compile_step

    def spy(*args, **kwargs):
        def lower(*values):
            lowered = compile_step(*args, **kwargs).lower(*values)
            texts[seed].append(lowered.as_text())
            return lowered

        return types.SimpleNamespace(lower=lower)

    monkeypatch.setattr(programs, 'compile_step', spy)
    for seed in texts:
        states.append(loop.run(_config(folder, total_kimg=0.016, seed=seed), tmp_path / str(seed)))
    assert texts[0] == texts[1] != []
    assert not np.array_equal(*(jax.tree.leaves(jax.device_get(state.params))[0] for state in states))


def test_programs_to_come_compile_beside_the_first_steps(folder, uninterrupted, tmp_path, monkeypatch):
    """As on a GPU or TPU, while whose first steps the cores of the host are idle."""
    known, made = [], []
    init, call, compile_step = programs.Programs.__init__, programs.Programs.__call__, programs.compile_step

    def beside(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._beside = True

    def spy(self, *args):
        known.append(set(self._compiled))
        return call(self, *args)

    monkeypatch.setattr(programs.Programs, '__init__', beside)
    monkeypatch.setattr(programs.Programs, '__call__', spy)
    monkeypatch.setattr(
        programs, 'compile_step', lambda *args, **kwargs: (made.append(1), compile_step(*args, **kwargs))[1]
    )
    _assert_same_state(loop.run(_config(folder), tmp_path), uninterrupted)
    assert len(known) == 10 and len(known[0]) > 1 and known[-1] == known[0]
    assert len(made) == len(known[0])


def test_the_first_step_compiles_while_the_state_and_the_first_pictures_are_made(
    folder, uninterrupted, tmp_path, monkeypatch
):
    events, made, compile_step = [], [], programs.compile_step

    def slow(*args, **kwargs):
        made.append(threading.current_thread())
        time.sleep(1)
        return compile_step(*args, **kwargs)

    def note(owner, name, event):
        old = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (events.append(event), old(*args))[1])

    monkeypatch.setattr(programs, 'compile_step', slow)
    note(loop, 'replicated_state', 'state')
    note(pictures.Pictures, 'grid', 'picture')
    note(programs.Programs, 'begin', 'compilation')
    note(programs.Programs, '__call__', 'step')
    _assert_same_state(loop.run(_config(folder, sample_every=50), tmp_path), uninterrupted)
    assert events[:4] == ['compilation', 'state', 'picture', 'step']
    assert threading.main_thread() not in made and len(made) == 2  # each is compiled once


def test_steps_in_a_loop_on_the_device_are_the_same_steps(folder, tmp_path, monkeypatch):
    whole = toy.toy_gan(0.02)
    monkeypatch.setattr(toy.SYSTEMS['waves'], 'build', lambda config: whole._replace(updates=whole.updates[::2]))
    lengths, states, logs, device_steps = [], [], [], programs.device_steps

    def spy(state, batches, *args, **kwargs):
        lengths.append(len(batches))
        return device_steps(state, batches, *args, **kwargs)

    monkeypatch.setattr(programs, 'device_steps', spy)
    for inner in (1, 3):
        workdir = tmp_path / str(inner)
        config = _config(folder, total_kimg=0.104, inner_steps=inner, log_every=4, checkpoint_every=8, sample_every=6)
        states.append(jax.device_get(loop.run(config, workdir)))
        lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
        logs.append([(line['step'], line['loss/g'], line['loss/d']) for line in lines])
    # Programs of three steps from 0 and 8; from 3 and 6 something is due amid; from 11 the run ends.
    assert set(lengths) == {1, 3} and [step for step, *_ in logs[1]] == [4, 8, 12, 13]
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-5, atol=1e-5)
    jax.tree.map(toy.assert_equal_up_to_rounding, *states)


def test_a_workdir_of_another_model_is_refused_and_left_alone(folder, tmp_path):
    config = _config(folder, total_kimg=0.032)
    loop.run(config, tmp_path)
    before = (tmp_path / 'config.json').read_text()
    with pytest.raises(ValueError, match=r'holds a run of another model \(model.width: 8 -> 16\)'):
        loop.run(dataclasses.replace(config, model=toy.Config(width=16)), tmp_path)
    assert (tmp_path / 'config.json').read_text() == before
    # A field that the model did not have then is no difference.
    tree = json.loads(before)
    del tree['model']['width']
    (tmp_path / 'config.json').write_text(json.dumps(tree))
    loop.run(config, tmp_path)
    assert (tmp_path / 'config.json').read_text() == before


def test_a_run_from_before_a_field_was_there_goes_on(folder, tmp_path):
    config = _config(folder, total_kimg=0.032)
    loop.run(config, tmp_path)
    written = json.loads((tmp_path / 'config.json').read_text())
    del written['model']['width'], written['train']['compilation_cache']
    (tmp_path / 'config.json').write_text(json.dumps(written))
    assert int(loop.run(_config(folder, total_kimg=0.04), tmp_path).step) == 5


def test_a_batch_that_does_not_divide_over_devices_names_sizes_that_do():
    from pegan_jax.train.step import check_batch_size

    with pytest.raises(ValueError, match=r'batch_size=30 is not divisible by 8 devices; use 24 or 32\.'):
        check_batch_size(30, 8)
    with pytest.raises(ValueError, match=r'batch_size=3 is not divisible by 8 devices; use 8\.'):
        check_batch_size(3, 8)
    check_batch_size(32, 8)
    told = r'batch_size=32 is not divisible by 1 device in 3 parts \(train.accumulate\); use 30 or 33\.'
    with pytest.raises(ValueError, match=told):
        check_batch_size(32, 1, 3)
