"""train.logger=wandb: what metrics.jsonl and samples/ get goes to one run of wandb, also after a resume."""

import importlib.util
import json
import pathlib
import sys

import pytest
import toy

from pegan_jax.settings import UserError
from pegan_jax.train import checkpoint, log, loop

FAKE = pathlib.Path(toy.__file__).parent / 'fake'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return toy.write_images(tmp_path_factory.mktemp('images'), 9)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The calls so far: the module in tests/fake stands for wandb."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    monkeypatch.setenv('WANDB_CALLS', str(tmp_path / 'calls'))
    monkeypatch.setenv('WANDB_MODE', 'offline')
    yield lambda: [json.loads(line) for line in (tmp_path / 'calls').read_text().splitlines()]
    sys.modules.pop('wandb', None)


def config(images, kimg):
    settings = ('logger=wandb', f'total_kimg={kimg}', 'log_every=1', 'sample_every=3', 'checkpoint_every=3')
    return toy.settings(images, *settings)


def test_a_resumed_run_continues_the_same_run_of_wandb_with_the_numbers_of_metrics_jsonl(images, calls, tmp_path):
    workdir = tmp_path / 'run'
    loop.run(config(images, 0.024), workdir)
    loop.run(config(images, 0.048), workdir)
    first, second = (call for call in calls() if call['call'] == 'init')
    assert first['id'] == second['id'] == (workdir / 'wandb_id').read_text() and len(first['id']) == 32
    assert first['resume'] == second['resume'] == 'allow'
    assert (first['project'], first['name'], first['dir']) == ('pegan_jax', 'run', str(workdir))
    assert (first['config']['train']['total_kimg'], second['config']['train']['total_kimg']) == (0.024, 0.048)
    logged = [call['values'] for call in calls() if call['call'] == 'log']
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    for line in lines:
        line.pop('time')
    assert [values for values in logged if 'kimg' in values] == lines and lines[-1]['step'] == 6
    pictures = [(values['step'], *(set(values) - {'step'})) for values in logged if 'kimg' not in values]
    assert {(0, 'samples'), (3, 'samples'), (6, 'samples')} <= set(pictures)
    assert all(call['step_metric'] == 'step' for call in calls() if call['call'] == 'define_metric')
    assert [call['exit_code'] for call in calls() if call['call'] == 'finish'] == [0, 0]


def test_a_run_that_fails_is_shown_as_failed(images, calls, tmp_path, monkeypatch):
    def fails(*_):
        raise checkpoint.CheckpointError('the disk is full')

    monkeypatch.setattr(checkpoint.Checkpoints, 'save', fails)
    with pytest.raises(checkpoint.CheckpointError):
        loop.run(config(images, 0.024), tmp_path / 'run')
    assert calls()[-1] == {'call': 'finish', 'exit_code': 1}


def test_without_the_package_one_line_says_what_to_type_before_anything_is_made(images, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(log.importlib.util, 'find_spec', lambda name: None if name == 'wandb' else find(name))
    with pytest.raises(UserError, match=r"needs the package wandb: pip install 'pegan_jax\[wandb\]'"):
        loop.run(config(images, 0.024), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_without_a_login_one_line_says_what_to_do(images, calls, tmp_path, monkeypatch):
    monkeypatch.delenv('WANDB_MODE')
    with pytest.raises(UserError, match=r'wandb cannot begin \(No API key configured. Use.*set WANDB_MODE=offline'):
        loop.run(config(images, 0.024), tmp_path / 'run')
    assert not any((tmp_path / 'run' / 'checkpoints').glob('[0-9]*'))


def test_nothing_of_wandb_is_touched_without_the_option(images, calls, tmp_path):
    loop.run(toy.settings(images, 'total_kimg=0.008'), tmp_path / 'run')
    assert not (tmp_path / 'calls').exists() and not (tmp_path / 'run' / 'wandb_id').exists()
