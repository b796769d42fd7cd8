"""The command evaluate on models that make images, and on folders."""

import dataclasses
import json
import os
from unittest.mock import ANY

import numpy as np
import pytest
import toy
from PIL import Image

from pegan_jax import evaluation, load
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.scoring import images
from pegan_jax.scoring import scores as scoring
from pegan_jax.settings import UserError
from pegan_jax.train import run, scores
from pegan_jax.train.checkpoint import Checkpoints, load_sampling


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return toy.write_images(tmp_path_factory.mktemp('images'), 21)


@pytest.fixture(scope='module')
def workdir(folder, tmp_path_factory):
    path, config = tmp_path_factory.mktemp('run'), toy.get_config(str(folder))
    run(dataclasses.replace(config, train=dataclasses.replace(config.train, keep=3)), path)
    return path


@pytest.fixture
def evaluated(tmp_path, capsys):
    def call(*words):
        status = main(['evaluate', *map(str, words), '--cache', str(tmp_path / 'cache')])
        printed = capsys.readouterr()
        return status, printed.err if status else printed.out

    return call


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_of_a_model_are_added_to_its_log_with_what_repeats_them(workdir, evaluated):
    before = lines_of(workdir / 'metrics.jsonl')
    told = ['--metrics', 'swd20,rows16', '--truncation-psi', '0.5', '--seed', '3', '--batch-size', '4']
    status, printed = evaluated('--model', workdir, *told)
    *kept, line = lines_of(workdir / 'metrics.jsonl')
    assert status == 0 and kept == before and line['step'] == 10
    assert f'swd20  {line["swd20"]:.6g}' in printed and f'rows16  {line["rows16"]:.6g}' in printed
    about = line['evaluation']
    assert about['command'].startswith(f'python -m pegan_jax evaluate --model {workdir} --metrics swd20,rows16')
    assert about['fake']['truncation_psi'] == 0.5 and about['fake']['seed'] == 3
    assert about['fake']['network'] == images.digest_of(load(workdir).variables)
    assert about['reals'] == {'swd20': 20, 'rows16': 16} and about['real']['images'] == 21
    assert {'jax', 'python', 'numpy'} <= about['versions'].keys() and about['contents'].keys() == {'real', 'fake'}
    evaluated('--model', workdir, *told)
    assert lines_of(workdir / 'metrics.jsonl')[-1]['swd20'] == line['swd20']


def test_folders_are_scored_as_the_model_they_are_from(workdir, folder, evaluated, tmp_path):
    out = tmp_path / 'samples'
    assert main(['sample', '--model', str(workdir), '--seeds', '0-19', '--out', f'{out}/']) == 0
    metrics = ['--metrics', 'rows20,horizon20', '--out', tmp_path / 'scores.jsonl']
    assert evaluated('--fake', out, '--real', folder, *metrics) == (0, ANY)
    assert evaluated('--model', workdir, *metrics) == (0, ANY)
    of_folder, of_model = lines_of(tmp_path / 'scores.jsonl')
    assert of_folder['rows20'] == pytest.approx(of_model['rows20'], rel=1e-6)
    assert of_folder['horizon20'] == pytest.approx(of_model['horizon20'], rel=1e-6)
    assert 'step' not in of_folder and of_model['step'] == 10
    noise = tmp_path / 'noise'
    noise.mkdir()
    for i in range(20):
        Image.fromarray(np.full((12, 12, 3), 9 * i, np.uint8)).save(noise / f'{i}.png')
    status, error = evaluated('--fake', noise, '--real', folder, *metrics)
    assert status == 1 and 'fake images have 12 x 12, real ones 8 x 8 pixels; give --size' in error
    assert evaluated('--fake', noise, '--real', folder, *metrics, '--size', '8')[0] == 0


def test_a_watched_run_has_every_checkpoint_scored_once(workdir, evaluated, monkeypatch):
    monkeypatch.setattr(evaluation.time, 'sleep', lambda _: pytest.fail('the run has ended: nothing to wait for'))
    status, printed = evaluated('--watch', workdir, '--metrics', 'rows18')
    scored = [line['step'] for line in lines_of(workdir / 'metrics.jsonl') if 'rows18' in line]
    assert status == 0 and scored == [4, 8, 10] and printed.count('step') == 3
    assert evaluation.steps_to_score(workdir, ['rows18']) == []
    assert evaluation.steps_to_score(workdir, ['rows18', 'swd18']) == [4, 8, 10]
    assert evaluated('--watch', workdir, '--metrics', 'rows18') == (0, '')  # nothing is left, and nothing will come
    with_others = ('--watch', workdir, '--metrics', 'rows18', '--real', 'worlds')
    assert evaluated(*with_others)[1].count('step') == 3 and evaluated(*with_others) == (0, '')
    assert evaluation.steps_to_score(workdir, ['rows18']) == []


def test_a_run_that_has_not_begun_is_waited_for_and_that_is_said_once(evaluated, tmp_path, capsys, monkeypatch):
    class EnoughError(Exception):
        pass

    waits = iter([None, None])

    def sleep(_):
        if next(waits, 'end') == 'end':
            raise EnoughError

    monkeypatch.setattr(evaluation.time, 'sleep', sleep)
    with pytest.raises(EnoughError):
        evaluated('--watch', tmp_path / 'none', '--metrics', 'rows18')
    assert capsys.readouterr().err == f'waiting for the first checkpoint of {tmp_path / "none"}\n'


def test_files_that_another_call_uses_stay(tmp_path):
    parts = [tmp_path / f'{i}.npy' for i in range(3)]
    for part in parts:
        part.touch()
    with scoring._used(tmp_path) as first:
        with scoring._used(tmp_path) as second:
            second += parts[:2]
        assert all(part.exists() for part in parts)
        first += parts[1:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['2.npy']
    (tmp_path / 'killed.used').touch()
    with scoring._used(tmp_path) as third:
        third += parts
    assert parts[2].exists()
    os.utime(tmp_path / 'killed.used', (0, 0))
    with scoring._used(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_scored_is_one_line(workdir, folder, evaluated, tmp_path):
    single = tmp_path / 'single'
    single.mkdir()
    toy.write_images(single, 1)
    for words, match in (
        (['--model', workdir], 'name scores, such as --metrics fd_worlds10k'),
        (['--model', workdir, '--metrics', 'fit50k'], "unknown score 'fit50k'"),
        (['--model', workdir, '--metrics', 'l1'], "unknown score 'l1'"),
        (['--model', workdir, '--metrics', 'fid50k_full'], '--weights inception=FILE'),
        (['--model', workdir, '--metrics', 'msssim10'], 'images of 8 x 8 pixels are too small'),
        (['--model', workdir, '--metrics', 'swd10', '--size', '9'], '--size is for --fake'),
        (['--model', workdir, '--metrics', 'swd10', '--truncation-cutoff', '2'], 'and none are; add --truncation-psi'),
        (['--watch', workdir, '--metrics', 'swd10', '--truncation-cutoff', '2'], 'and none are; add --truncation-psi'),
        (
            ['--model', workdir, '--metrics', 'swd9', '--truncation-cutoff', '2', '--truncation-psi', '0.5'],
            'use 0 to 0',
        ),
        (['--method', 'biharmonic', '--step', '3'], '--step 3 is of a --model; leave it out'),
        (
            ['--fake', folder, '--real', 'photos/none', '--metrics', 'swd9'],
            'there is none of this name here: check the',
        ),
        (['--fake', folder, '--metrics', 'swd10'], 'name them with --real'),
        (['--fake', folder, '--real', folder, '--metrics', 'swd22'], 'takes 22 images, and there are 21'),
        (['--fake', folder, '--real', folder, '--metrics', 'swd9', '--step', '3'], 'belong to --model'),
        (
            ['--fake', folder, '--real', folder, '--metrics', 'swd9', '--seed', '3'],
            '--fake does not take --seed',
        ),
        (['--model', workdir, '--metrics', 'swd9', '--kinds', 'box'], 'a score of samples does not take --kinds'),
        (['--model', workdir, '--metrics', 'swd9', '--out', tmp_path], f'--out {tmp_path} is a folder; name a file'),
        (['--watch', workdir, '--metrics', 'swd9', '--out', tmp_path / 'a.jsonl'], 'writes there; leave --out out'),
        (['--fake', tmp_path / 'none', '--real', folder, '--metrics', 'swd9'], 'none'),
        (['--fake', folder, '--real', single, '--metrics', 'fd_worlds9'], 'at least 2 real images, and there are 1'),
        (['--fake', folder, '--real', single, '--metrics', 'pr_worlds9'], 'at least 4 real images, and there are 1'),
        (['--fake', folder, '--real', folder, '--metrics', 'is9'], '9 images are too few; use at least 10'),
    ):
        status, error = evaluated(*words)
        assert status == 1 and match in error and error.count('\n') == 1, error


def test_features_are_not_kept_in_a_bucket(capsys):
    with pytest.raises(SystemExit):
        main(['evaluate', '--fake', 'a', '--real', 'b', '--metrics', 'swd9', '--cache', 'gs://bucket/cache'])
    assert 'gs://bucket/cache is in a bucket, and what is kept here is read in pieces' in capsys.readouterr().err


def test_a_run_scores_its_checkpoints_and_keeps_the_best(folder, tmp_path, evaluated, monkeypatch):
    config = toy.get_config(str(folder))

    def settings(**changes):
        return dataclasses.replace(config, train=dataclasses.replace(config.train, keep=1, keep_best=1, **changes))

    run(settings(metrics=('rows16', 'swd8'), metric_images=8), tmp_path)
    lines = [line for line in lines_of(tmp_path / 'metrics.jsonl') if 'rows16' in line]
    assert [line['step'] for line in lines] == [4, 8, 10] and all(line['swd8'] > 0 for line in lines)
    rows = {line['step']: line['rows16'] for line in lines}
    best = min(rows, key=rows.get)
    assert load(tmp_path, 'best').step == best
    assert {int(p.name) for p in (tmp_path / 'checkpoints').iterdir()} == {best, 10}
    assert evaluated('--model', tmp_path, '--metrics', 'rows16')[0] == 0
    assert lines_of(tmp_path / 'metrics.jsonl')[-1]['rows16'] == pytest.approx(rows[10], rel=1e-6)
    # The highest is the best of a score that should be high; what was kept by another number goes.
    numbers = iter([3.0, 5.0, 4.0])
    monkeypatch.setattr(scores.RunScores, '__call__', lambda *_: {'pr_worlds16_precision': next(numbers)})
    monkeypatch.setattr(scores, 'open_networks', lambda *_: {})
    run(settings(metrics=('pr_worlds16',), total_kimg=0.16), tmp_path)
    assert load(tmp_path, 'best').step == 16 and load(tmp_path).step == 20


def test_the_best_checkpoint_is_that_of_the_number_that_the_run_is_ranked_by_now(tmp_path):
    kept = {'keep': 3, 'keep_best': 2}
    for best, highest, saves in (('pr', True, {1: 0.3, 2: 0.5}), ('fid', False, {3: 90.0, 4: 80.0, 5: 85.0})):
        checkpoints = Checkpoints(tmp_path / 'checkpoints', best=best, highest=highest, **kept)
        for step, number in saves.items():
            checkpoints.save_items(step, {'sampling': {'x': np.zeros(2)}}, {}, {best: number})
            checkpoints.wait()
            # A precision of 0.5 is no FID of -0.5.
            assert load_sampling(tmp_path / 'checkpoints', 'best')[2] == {3: 3, 4: 4, 5: 4}.get(step, step)
        checkpoints.close()


def test_a_score_that_fails_loses_no_step(folder, tmp_path, monkeypatch):
    config = toy.get_config(str(folder))
    train = dataclasses.replace(config.train, metrics=('rows16',), checkpoint_every=4)

    def fail(*_):
        raise OSError('no space left on device')

    monkeypatch.setattr(scores.RunScores, '__call__', fail)
    with pytest.raises(OSError, match='no space left'):
        run(dataclasses.replace(config, train=train), tmp_path)
    assert load(tmp_path).step == 4


def test_a_run_that_cannot_be_scored_does_not_begin(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, 'CACHE', tmp_path / 'cache')
    config = toy.get_config(str(folder))
    for metrics, match in (
        (('fid10k',), 'save https.*inception.* options are those of `python -m pegan_jax evaluate`'),
        (('msssim10',), 'too small'),
        (('fid10q',), 'unknown score'),
    ):
        with pytest.raises(UserError, match=match):
            train = dataclasses.replace(config.train, metrics=metrics)
            run(dataclasses.replace(config, train=train), tmp_path / 'run')
        assert not (tmp_path / 'run' / 'metrics.jsonl').exists()
    assert load_config(f'{toy.__file__}:{folder}', ['train.metrics=rows16, swd8']).train.metrics == ('rows16', 'swd8')
