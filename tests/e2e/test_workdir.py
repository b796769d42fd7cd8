"""A run's folder: who may write there, what may change between launches, what the run is trained on."""

import dataclasses
import json
import multiprocessing
import shutil

import numpy as np
import pytest
import toy
from PIL import Image

from pegan_jax.cli import main
from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, load_config
from pegan_jax.data.sources import Contents
from pegan_jax.models import dcgan
from pegan_jax.settings import UserError
from pegan_jax.train import loop, workdir


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return folder


def config_of(folder, **train):
    config = toy.get_config(str(folder))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, total_kimg=0.016, **train))


def _hold(folder, held, done):
    with workdir.locked(folder):
        held.set()
        done.wait()


def test_a_workdir_in_use_names_who_uses_it_and_a_dead_ones_lock_does_not_count(tmp_path):
    spawn = multiprocessing.get_context('spawn')
    held, done = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(tmp_path / 'run', held, done))
    other.start()
    assert held.wait(60)
    with pytest.raises(UserError, match=rf'run is in use by process {other.pid} on .*choose another --workdir'):
        with workdir.locked(tmp_path / 'run'):
            pass
    other.kill()
    other.join()
    assert (tmp_path / 'run' / '.lock.json').is_file()  # it had no time to take it away
    with workdir.locked(tmp_path / 'run'):
        pass
    assert not (tmp_path / 'run' / '.lock.json').exists()


def test_training_settings_may_change_and_are_told_and_the_model_may_not(photos, tmp_path, caplog):
    config = config_of(photos)
    loop.run(config, tmp_path / 'run')
    noisier = dataclasses.replace(config, model=dataclasses.replace(config.model, noise=0.2))
    loop.run(noisier, tmp_path / 'run')
    assert 'resuming with a changed model.noise: 0.3 -> 0.2' in caplog.text
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, width=16))
    with pytest.raises(ConfigError, match=r'model.width: 8 -> 16.*--config.train.init_from=.*run') as caught:
        loop.run(other, tmp_path / 'run')
    assert 'init_partial=True' in str(caught.value)
    train = dataclasses.replace(other.train, init_from=str(tmp_path / 'run'))
    with pytest.raises(
        ConfigError, match=r'in 8 of 8 arrays: .*and 5 more. To take what fits, add .*init_partial=True'
    ):
        loop.run(dataclasses.replace(other, train=train), tmp_path / 'new')
    train = dataclasses.replace(train, init_partial=True)
    with pytest.raises(ConfigError, match='Nothing fits'):
        loop.run(dataclasses.replace(other, train=train), tmp_path / 'new')


def test_what_fits_is_taken_and_the_rest_begins_anew(photos, tmp_path, capsys):
    config = config_of(photos)
    before = loop.run(config, tmp_path / 'run')
    model = dataclasses.replace(config.model, z_dim=config.model.z_dim + 1)
    train = dataclasses.replace(config.train, init_from=str(tmp_path / 'run'), init_partial=True, total_kimg=0)
    after = loop.run(dataclasses.replace(config, model=model, train=train), tmp_path / 'new')
    np.testing.assert_array_equal(after.ema['rgb'], before.ema['rgb'])
    assert after.ema['style'].shape != before.ema['style'].shape
    assert 'do not fit and begin anew: ' in capsys.readouterr().err


def test_changed_data_are_told(photos, tmp_path, capsys):
    loop.run(config_of(photos), tmp_path / 'run')
    assert f'data: 4 images of {photos}' in capsys.readouterr().err
    shutil.copy(photos / '0.png', photos / 'new.png')
    (photos / '1.png').unlink()
    (photos / 'notes.txt').write_text('x')
    loop.run(config_of(photos, log_every=2), tmp_path / 'run')
    told = capsys.readouterr().err
    assert 'the data have changed since the last launch: 1 added, such as new.png; 1 gone, such as 1.png' in told
    assert 'passed over: 1 .txt' in told
    loop.run(config_of(photos, log_every=1), tmp_path / 'run')
    assert 'have changed' not in capsys.readouterr().err


def test_a_run_of_one_image_is_this_image(photos, tmp_path):
    def contents(name, digest):
        return Contents(name, 1, files={name: digest}, single=True)

    run, config = tmp_path / 'run', Config('dcgan', dcgan.Config(), DataConfig(), OptimConfig(), TrainConfig())
    (run / 'checkpoints' / '4').mkdir(parents=True)
    workdir.write(run, config, contents('one.png', 'a'))
    assert workdir.check_data(run, contents('one.png', 'a')) == []
    with pytest.raises(ConfigError, match=r"has learned one.png, and data.image='two.png' is another image"):
        workdir.check_data(run, contents('two.png', 'b'))
    assert workdir.check_data(run, contents('renamed.png', 'a')) == []
    shutil.rmtree(run / 'checkpoints')
    assert workdir.check_data(run, contents('two.png', 'b')) == []  # nothing was learned yet


@pytest.mark.parametrize(
    'name, file, change',
    [('pconv', 'model.vgg', 'model.vgg'), ('singan', 'data.image', 'model.recon_weight')],
)
def test_a_run_whose_files_have_moved_may_change_how_it_is_trained(name, file, change, tmp_path, caplog):
    run, here = tmp_path / 'run', tmp_path / 'here.png'
    Image.new('RGB', (32, 32)).save(here)
    (run / 'checkpoints' / '4').mkdir(parents=True)
    before, after = (load_config(f'{name}:tiny', [f'{file}={place}']) for place in (tmp_path / 'gone', here))
    if change != file:
        after = load_config(f'{name}:tiny', [f'{file}={here}', f'{change}=20.0'])
    workdir.write(run, before, Contents('x', 1))
    workdir.check_config(run, after)
    assert f'resuming with a changed {change}' in caplog.text


@pytest.mark.parametrize('text', ['{"system": ', '[]', '{"system": "cips"}'])
def test_a_damaged_configuration_of_a_run_is_told(tmp_path, text):
    (tmp_path / 'checkpoints' / '4').mkdir(parents=True)
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ConfigError, match=r'config\.json is damaged .*; delete it, and launch the run with its own'):
        workdir.check_config(tmp_path, load_config('cips:tiny'))


@pytest.mark.parametrize('name', ['data.folder', 'data.image', 'data.tfds', 'train.init_from'])
def test_an_empty_path_is_no_path(name, tmp_path, capsys):
    assert main(['train', '--config', 'quickstart', '--workdir', str(tmp_path), f'--config.{name}=']) == 1
    assert f'{name} is empty' in capsys.readouterr().err


def test_the_classes_of_a_run_keep_their_names(photos, tmp_path):
    assert workdir.read_classes(tmp_path) == ()
    (tmp_path / 'data.json').write_text(json.dumps({'classes': ['cat', 'dog']}))
    assert workdir.read_classes(tmp_path) == ('cat', 'dog')
