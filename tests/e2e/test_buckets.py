"""Runs, data and results in buckets, against servers on this machine that speak the protocols of the real ones."""

import contextlib
import http.client
import io
import json
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
import time
import zipfile

import foreign
import jax
import numpy as np
import pytest
import toy
from PIL import Image

from pegan_jax import evaluation, files, interop, load
from pegan_jax.cli import main
from pegan_jax.data import pipeline
from pegan_jax.interop import singan_original
from pegan_jax.scoring import record
from pegan_jax.settings import ConfigError, DataConfig, UserError
from pegan_jax.train import loop
from pegan_jax.train.checkpoint import COMMITTED, CheckpointError, load_sampling, steps_of, verify
from pegan_jax.train.log import RunLog
from pegan_jax.weights.contents import ForeignFileError

# What the libraries need to find the servers is in their own settings: fsspec's, Google's and Amazon's, tensorstore's.
SETTINGS = {
    'gs': lambda url: {
        'STORAGE_EMULATOR_HOST': url,
        'TENSORSTORE_GCS_HTTP_URL': url,
        'GOOGLE_CLOUD_PROJECT': 'here',
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # which would ask Google what kind of bucket it is
    },
    's3': lambda url: {
        'AWS_ENDPOINT_URL': url,
        'AWS_ACCESS_KEY_ID': 'key',
        'AWS_SECRET_ACCESS_KEY': 'secret',
        'AWS_DEFAULT_REGION': 'us-east-1',
    },
}
SERVERS = {
    'gs': lambda port: [str(pathlib.Path(toy.__file__).with_name('gs_server.py')), port],
    's3': lambda port: ['-m', 'moto.server', '-H', '127.0.0.1', '-p', port],
}


def _answers(port):
    try:
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=5)
        connection.request('GET', '/')
        return bool(connection.getresponse().status)
    except OSError:
        return False


@pytest.fixture(scope='module', params=[pytest.param(name, marks=pytest.mark.slow) for name in SERVERS])
def bucket(request, tmp_path_factory):
    """The address of an empty bucket on a server of its own."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, *SERVERS[request.param](str(port))], **quiet)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS[request.param](f'http://127.0.0.1:{port}').items():
            patch.setenv(name, value)
        patch.setattr(files, 'CACHE', tmp_path_factory.mktemp('cache'))
        patch.setenv('HOME', str(tmp_path_factory.mktemp('home')))  # of processes that are started
        end = time.time() + 60
        while not _answers(port):
            assert server.poll() is None and time.time() < end
            time.sleep(0.1)
        if request.param == 's3':
            files.as_path('s3://bucket')
            import s3fs

            s3fs.S3FileSystem().mkdir('bucket')
        yield f'{request.param}://bucket'
    server.terminate()
    server.wait()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return toy.write_images(tmp_path_factory.mktemp('images'), 12)


@pytest.fixture(scope='module')
def uninterrupted(folder, tmp_path_factory):
    return jax.device_get(loop.run(toy.settings(folder), tmp_path_factory.mktemp('whole')))


def test_a_run_in_a_bucket_is_killed_and_goes_on_to_the_same_end(bucket, folder, uninterrupted, capsys):
    workdir = f'{bucket}/runs/first run'
    # The second save stops where all of it is written but the commit, and there the process is killed.
    code = (
        'import os, sys\n'
        'from pegan_jax.files import as_path\n'
        'from pegan_jax.train import checkpoint\n'
        'write = checkpoint._write_sums\n'
        'def slow(root):\n'
        '    if len(checkpoint.steps_of(as_path(sys.argv[5]) / "checkpoints")) == 1:\n'
        '        os.kill(os.getpid(), 9)\n'
        '    write(root)\n'
        'checkpoint._write_sums = slow\n'
        'from pegan_jax.cli import main\n'
        'sys.exit(main(sys.argv[1:]))\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(pathlib.Path(toy.__file__).parent)}
    command = [sys.executable, '-c', code, 'train', '--config', f'{toy.__file__}:{folder}', '--workdir', workdir]
    found = subprocess.run(
        [*command, '--config.train.sample_every=4'], env=environment, capture_output=True, text=True, timeout=200
    )
    assert found.returncode == -signal.SIGKILL, found.stderr[-2000:]
    place = files.as_path(workdir)
    assert steps_of(place / 'checkpoints') == [4]
    assert load_sampling(place / 'checkpoints')[2] == 4

    state = loop.run(toy.settings(folder, 'sample_every=5'), workdir)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), uninterrupted)
    assert 'resumed from step 4' in capsys.readouterr().err
    assert steps_of(place / 'checkpoints') == [8, 10] and files.children(place / 'checkpoints') == ['10', '8']
    assert all(verify(place / 'checkpoints' / str(step)) is None for step in (8, 10))
    lines = [json.loads(line) for line in (place / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss/g' in line][-3:] == [6, 8, 10]
    assert 'samples_00000010.png' in files.children(place / 'samples')
    assert any('tfevents' in name for name in files.below(place / 'tensorboard'))
    assert not pathlib.Path(f'{bucket[:2]}:').exists()


def test_what_others_score_stays_in_the_log_of_a_run_that_goes_on(bucket, folder):
    place = files.as_path(f'{bucket}/runs/scored')
    with contextlib.closing(RunLog(place, toy.get_config(str(folder)), 80, 0)) as log:
        log.scalars(4, 32, {'loss/g': 1.0})
        log.upload()
        record.append(place / 'metrics.jsonl', 4, {'rows18': 2.0}, {})
        log.scalars(8, 64, {'loss/g': 0.5})
        log.upload()
    lines = [json.loads(line) for line in (place / 'metrics.jsonl').read_text().splitlines()]
    assert [(line['step'], line.get('loss/g'), line.get('rows18')) for line in lines] == [
        (4, 1.0, None), (8, 0.5, None), (4, None, 2.0),
    ]  # fmt: skip


def test_a_changed_object_is_noticed_and_set_aside(bucket, folder, uninterrupted):
    workdir = files.as_path(f'{bucket}/runs/damaged')
    loop.run(toy.settings(folder, 'total_kimg=0.064'), str(workdir))
    step = workdir / 'checkpoints' / '8'
    stamps = files.stamps_below(step / 'training')
    name = max(stamps, key=lambda n: stamps[n][0])  # the largest
    data = bytearray((step / 'training' / name).read_bytes())
    data[len(data) // 2] ^= 1
    (step / 'training' / name).write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match='has changed since it was written'):
        load_sampling(workdir / 'checkpoints', 8)
    state = loop.run(toy.settings(folder), str(workdir))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), uninterrupted)
    assert files.children(workdir / 'damaged') == ['8']
    (workdir / 'checkpoints' / '10' / COMMITTED).unlink()
    assert steps_of(workdir / 'checkpoints') == [8]


def test_a_run_may_be_copied_from_and_to_a_disk(bucket, folder, uninterrupted, tmp_path):
    loop.run(toy.settings(folder, 'total_kimg=0.032'), tmp_path / 'run')
    there = files.as_path(f'{bucket}/runs/copied')
    files.copy_below(tmp_path / 'run', there)
    (there / 'checkpoints' / '4' / COMMITTED).write_text('')
    assert load_sampling(there / 'checkpoints')[2] == 4
    loop.run(toy.settings(folder, 'total_kimg=0.064'), str(there))
    files.copy_below(there, tmp_path / 'back')
    state = loop.run(toy.settings(folder), tmp_path / 'back')
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), uninterrupted)


@pytest.fixture(scope='module')
def data(bucket, folder):
    """Folders of images with labels, and a ZIP file of them, in the bucket."""
    place = files.as_path(f'{bucket}/data')
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as packed:
        for i in range(6):
            content = (folder / f'{i}.png').read_bytes()
            packed.writestr(f'{"ab"[i % 2]}/{i}.png', content)
            target = place / 'images' / 'ab'[i % 2] / f'{i}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    (place / 'images.zip').write_bytes(archive.getvalue())
    return str(place)


def test_folders_and_zip_files_in_buckets_are_data(data, folder, tmp_path):
    for name in ('images', 'images.zip'):
        source = pipeline.open_source(DataConfig(folder=f'{data}/{name}', labels=True), tmp_path)
        assert len(source) == 6 and source.c_dim == 2
        assert source[0]['image'] == (folder / '0.png').read_bytes() and source[3]['label'] == 1
    source = pipeline.open_source(DataConfig(image=f'{data}/images/a/0.png'), tmp_path)
    assert source[0]['image'] == (folder / '0.png').read_bytes()
    with pytest.raises(ConfigError, match='is not a folder of images'):
        pipeline.open_source(DataConfig(folder=f'{data}/nowhere'), tmp_path)


def test_a_second_launch_asks_for_a_listing_and_for_no_image_of_it(data, tmp_path, monkeypatch):
    if data.startswith('gs'):
        import gcsfs.core

        system, name = gcsfs.core.GCSFileSystem, '_request'
    else:
        import s3fs

        system, name = s3fs.S3FileSystem, '_call_s3'
    request, asked = getattr(system, name), []

    async def noted(self, *words, **options):
        asked.append(f'{words} {options}')
        return await request(self, *words, **options)

    settings = DataConfig(folder=f'{data}/images', labels=True)
    before = pipeline.open_source(settings, tmp_path).contents()
    monkeypatch.setattr(system, name, noted)
    assert pipeline.open_source(settings, tmp_path).contents() == before
    assert asked and not [words for words in asked if '.png' in words]
    place = files.as_path(f'{data}/images')
    assert before.files == {name: (place / name).stat().length for name in files.below(place)}


def test_commands_read_and_write_buckets(bucket, data, tmp_path):
    run, out = f'{bucket}/runs/commands', files.as_path(f'{bucket}/results')
    loop.run(toy.settings(f'{data}/images', 'total_kimg=0.032'), run)
    assert main(['sample', '--model', run, '--seeds', '0-3', '--out', f'{out}/grid.png']) == 0
    assert Image.open(io.BytesIO((out / 'grid.png').read_bytes())).size[0] >= 8
    assert main(['sample', '--model', run, '--seeds', '0-1', '--out', f'{out}/images/']) == 0
    assert {'seed000000.png', 'seed000001.png'} <= {*files.children(out / 'images')}
    arguments = ['--metrics', 'swd6', '--cache', str(tmp_path), '--out', f'{out}/scores.jsonl']
    assert main(['evaluate', '--model', run, '--data', f'{data}/images', *arguments]) == 0
    assert main(['evaluate', '--model', run, '--data', f'{data}/images.zip', *arguments]) == 0
    scores = [json.loads(line)['swd6'] for line in (out / 'scores.jsonl').read_text().splitlines()]
    assert len(scores) == 2 and scores[0] == scores[1]
    begun = loop.run(toy.settings(f'{data}/images', 'total_kimg=0.008', f'init_from={run}'), str(tmp_path / 'new'))
    assert int(begun.step) == 1
    assert evaluation.steps_to_score(files.as_path(run), ['swd6']) == [4]


def test_converted_networks_go_to_a_bucket_and_come_from_one(bucket, capsys):
    source = pathlib.Path(__file__).parents[1] / 'checkpoints' / 'stylegan2_port_tiny.pt'
    place = files.as_path(f'{bucket}/foreign/port.pt')
    place.write_bytes(source.read_bytes())
    out = f'{bucket}/runs/converted'
    assert main(['convert', str(place), '--out', out, '--sampling-only']) == 0
    assert main(['inspect', '--model', out]) == 0 and main(['inspect', '--model', str(place)]) == 0
    assert 'stylegan2' in capsys.readouterr().out
    assert main(['export', '--model', out, '--out', f'{bucket}/runs/given']) == 0
    assert main(['inspect', '--model', f'{bucket}/runs/given/model.safetensors']) == 0
    assert load(f'{bucket}/runs/given').config == load(out).config
    assert main(['convert', str(place), '--out', out]) == 1
    assert 'is not an empty folder' in capsys.readouterr().err


def test_checkpoints_of_several_files_are_read_by_their_folder_and_by_each_file(bucket, tmp_path):
    foreign.write_bundle(tmp_path, {'inpaint_net/conv1/kernel': np.zeros((5, 5, 5, 4), np.float32)})
    for name in singan_original.FILES:
        (tmp_path / f'{name}.pth').write_bytes(pickle.dumps([]))
    for file in tmp_path.iterdir():
        kind = 'singan' if file.suffix == '.pth' else 'tf'
        files.as_path(f'{bucket}/several/{kind}/{file.name}').write_bytes(file.read_bytes())
    for name in ('tf', 'tf/snap-7.index', 'tf/snap-7', 'tf/checkpoint', 'singan', 'singan/reals.pth'):
        place = f'{bucket}/several/{name}'
        assert interop.is_foreign(place)
        tree, _ = interop.read(place)
        assert tree.keys() == ({'inpaint_net/conv1/kernel'} if name.startswith('tf') else set(singan_original.FILES))
    files.as_path(f'{bucket}/several/tf/snap-7.index').write_bytes(b'other')
    with pytest.raises(ForeignFileError, match=f'^{bucket}/several/tf/snap-7.index: is no index'):
        interop.read(f'{bucket}/several/tf')


def test_a_prepared_dataset_in_a_bucket_is_copied_and_read(bucket, tmp_path):
    from pegan_jax.data import records

    records.open_worlds((8, 8), 4, 'train', str(tmp_path / 'tfds'))
    files.copy_below(tmp_path / 'tfds', files.as_path(f'{bucket}/tfds'))
    source = records.open_tfds('worlds/8x8x4', 'train', f'{bucket}/tfds')
    assert len(source) == 4 and source[3]['image'].startswith(b'\x89PNG')


def test_other_addresses_are_refused_with_what_would_do(monkeypatch, tmp_path):
    for text, match in (
        ('ftp://host/run', r'begin with gs:// or s3://'),
        ('gs://bucket/run [1]', r'must not have'),
    ):
        with pytest.raises(UserError, match=match):
            files.as_path(text)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'pegan_jax\[gs\]'"):
        files.as_path('gs://bucket/run')
    assert files.as_path('~/run') == pathlib.Path.home() / 'run'
    assert files.as_path('~no such user/run') == pathlib.Path('~no such user/run')
