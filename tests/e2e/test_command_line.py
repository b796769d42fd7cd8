"""The command line, as a user would type it, on the tiny CIPS and the procedural world."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pegan_jax import cli, load, sample
from pegan_jax.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings('ignore::DeprecationWarning')]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp('run')
    settings = ['--config.data.num_worlds=32', '--config.train.checkpoint_every=8', '--config.train.sample_every=8']
    train = ['train', '--config', 'cips:tiny', '--workdir', str(path), *settings]
    assert main([*train, '--config.train.total_kimg=0.064']) == 0
    assert main([*train, '--config.train.total_kimg=0.128', '--config.train.log_every', '4']) == 0
    return path


def _read(path):
    return np.asarray(Image.open(path))


def test_training_goes_on_and_leaves_samples_metrics_and_checkpoints(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert {8, 12, 16} <= {line['step'] for line in lines}
    assert _read(workdir / 'samples' / 'samples_00000016.png').shape == (2 * 16, 4 * 16, 3)
    assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['16', '8']


def test_sample_writes_the_images_that_python_gives(workdir, tmp_path):
    grid, folder = tmp_path / 'grid.png', tmp_path / 'images'
    for out in (grid, folder):
        command = ['sample', '--model', str(workdir), '--seeds', '0,4-5', '--out', str(out), '--truncation-psi', '0.7']
        assert main(command) == 0
    from pegan_jax.pixels import to_uint8

    images = to_uint8(sample(load(workdir), [0, 4, 5], truncation_psi=0.7))
    np.testing.assert_array_equal(_read(grid), np.concatenate(images, axis=1))
    np.testing.assert_array_equal(_read(folder / 'seed000004.png'), images[1])
    assert np.abs(images[0].astype(int) - images[1]).max() > 0


def test_a_folder_of_samples_grows_where_it_was_cut_and_holds_no_other_settings(workdir, tmp_path, capsys):
    out = tmp_path / 'psi0.7'  # no suffix of a picture, so a folder
    command = ['sample', '--model', str(workdir), '--seeds', '0-10', '--batch-size', '4', '--out', str(out)]
    assert main([*command, '--truncation-psi', '0.7']) == 0
    images = {path.name: path.read_bytes() for path in out.glob('*.png')}
    assert len(images) == 11
    (out / 'seed000009.png').unlink()
    (out / 'seed000003.png').write_bytes(b'left as it is')
    assert main([*command, '--truncation-psi', '0.7']) == 0
    assert '10 of 11 images are there already' in capsys.readouterr().err
    assert (out / 'seed000009.png').read_bytes() == images['seed000009.png']
    assert (out / 'seed000003.png').read_bytes() == b'left as it is'
    assert main([*command, '--truncation-psi', '1.3']) == 1
    assert 'holds samples of other settings (truncation_psi 0.7, not 1.3)' in capsys.readouterr().err
    (out / 'samples.json').write_text('{"a": 1')
    assert main([*command, '--truncation-psi', '0.7']) == 1
    assert 'samples.json is damaged' in capsys.readouterr().err
    (out / 'samples.json').unlink()
    assert main([*command, '--truncation-psi', '0.7']) == 1
    assert 'seed000000.png is there, and this command did not write it' in capsys.readouterr().err
    assert (out / 'seed000003.png').read_bytes() == b'left as it is'


def test_a_camera_films_seeds_in_turn_where_there_are_more_cells(workdir, tmp_path):
    out = tmp_path / 'a.gif'
    words = ['--seeds', '0-2', '--video', 'rotate', '--grid', '4x2', '--frames', '2', '--out', str(out)]
    assert main(['sample', '--model', str(workdir), *words]) == 0
    with Image.open(out) as film:
        frame = np.asarray(film.convert('RGB')).reshape(4, 16, 2, 16, 3).swapaxes(1, 2).reshape(8, 16, 16, 3)
    np.testing.assert_array_equal(frame[3:6], frame[:3])
    assert len({image.tobytes() for image in frame}) == 3


@pytest.mark.parametrize(
    'options, message',
    [
        ('--out a.pgn', "no picture is written as '.pgn'; write FILE.png, or a.pgn/ for a folder"),
        ('--out a.png --seeds random', "'random' names no numbers; write 3, 0-31 or 0,3,8-11"),
        ('--out a.png --seeds -1', "'-1' names no numbers"),
        ('--out a.png --seeds 4294967296', 'goes beyond the largest seed'),
        ('--out a.gif --video --grid 0x3', "'0x3' is no grid; write ROWSxCOLUMNS, such as 2x4"),
        ('--out a.png --seeds 5-2', 'write the smaller number first'),
        ('--out=', 'the path is empty'),
    ],
)
def test_options_of_sample_are_checked_before_anything_else(capsys, options, message):
    with pytest.raises(SystemExit, match='2'):
        main(['sample', '--model', 'none', *options.split()])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('saves', [False, True])
def test_ctrl_c_is_heard_while_the_main_thread_is_busy_outside_of_python(tmp_path, saves):
    code = (
        'import hashlib, pathlib, signal\n'
        # What starts in the background of a shell ignores Ctrl-C. A command that saves has a handler of its own.
        f'signal.signal(signal.SIGINT, {"lambda *_: None" if saves else "signal.default_int_handler"})\n'
        'from pegan_jax.cli.interrupts import Interrupts\n'
        'from pegan_jax.files import whole\n'
        f'with Interrupts({saves}), whole(pathlib.Path({str(tmp_path / "a.txt")!r})) as unfinished:\n'
        "    unfinished.write_text('half')\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    if saves:  # the first one is the command's
        assert process.stderr.readline() == '\n' and 'Ctrl-C once more ends at once' in process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read() == '\nstopped.\n' and not list(tmp_path.iterdir())


def test_render_in_chunks_equals_the_sample_and_crops_keep_their_place(workdir, tmp_path):
    def render(name, *options):
        out = tmp_path / f'{name}.png'
        assert main(['render', '--model', str(workdir), '--seed', '3', '--out', str(out), *options]) == 0
        return _read(out).astype(int)

    assert main(['sample', '--model', str(workdir), '--seeds', '3', '--out', str(tmp_path / 's.png')]) == 0
    whole = render('whole', '--chunk', '37')
    assert np.abs(whole - _read(tmp_path / 's.png')).max() <= 1
    # 31 samples over twice the extent have the 16 of the training frame in their middle.
    wide = render('wide', '--size', '31', '--extent=-2,2,-2,2')
    assert (
        np.abs(
            wide[8:23:2, 8:23:2] - render('half', '--size', '8', '--extent=-0.9333333,0.9333333,-0.9333333,0.9333333')
        ).max()
        <= 1
    )
    assert np.abs(render('turned', '--rotate', '90') - np.rot90(whole)).max() <= 1
    # One column to the right: the step of the training grid is 2 / 15.
    moved = render('moved', '--translate', f'{2 / 15},0')
    assert np.abs(moved[:, 1:] - whole[:, :-1]).max() <= 1
    assert render('panorama', '--size', '8x24').shape == (8, 24, 3)


def test_inspect_lists_configuration_and_arrays(workdir, capsys):
    assert main(['inspect', '--model', str(workdir), '--step', '8']) == 0
    out = capsys.readouterr().out
    assert 'cips, step 8' in out and '"hidden_size": 16' in out and 'params/emb' in out and '16x16x16' in out


def test_dry_run_reports_without_training(tmp_path, capsys):
    assert main(['train', '--config', 'cips:tiny', '--dry-run', '--workdir', str(tmp_path / 'none')]) == 0
    out = capsys.readouterr().out
    for word in ('parameters', 'FLOPs per image', 'memory per device', '"batch_size": 8'):
        assert word in out
    assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize(
    'command, message',
    [
        ('train --config cips:tiny', '--workdir is missing'),
        ('train --config cips:tiny --workdir {tmp} --config.optim.lr=1', "did you mean 'g_lr'"),
        ('train --config cips:tiny --workdir {tmp} --config.data.folder={tmp}/no', '{tmp}/no'),
        ('sample --model {tmp}/no --out {tmp}/a.png', '--model {tmp}/no does not exist; give the --workdir of a run'),
        ('sample --model {tmp} --out {tmp}/a.png', '{tmp} has no checkpoints; give the --workdir of a run'),
        ('sample --model {run} --ws w.npz --class 1 --out {tmp}/a.png', '--ws does not go with --class'),
        ('sample --model {run} --video --style-mix 1:0 --out {tmp}/a.gif', '--video does not go with --style-mix'),
        ('sample --model {run} --ws w.npz --seeds 3 --out {tmp}/a.png', '--ws does not go with --seeds'),
        ('sample --model {run} --video --columns 2 --out {tmp}/a.gif', '--video does not go with --columns'),
        ('sample --model {run} --columns 2 --out {tmp}/a/', '--columns is of one picture'),
        ('sample --model {run} --style-mix 1:0 --out {tmp}/a/', '--style-mix makes one file'),
        (
            'sample --model {run} --video zoom --seeds 0-2 --grid 1x2 --out {tmp}/a.gif',
            '--video zoom has a --grid of 1x2, and --seeds names 3',
        ),
        ('sample --model {run} --grid 2x2 --out {tmp}/a.gif', '--grid is of a video; add --video'),
        ('sample --model {run} --fps 9 --out {tmp}/a.gif', '--fps is of a video; add --video'),
        ('sample --model {run} --out {tmp}/a.mp4', 'is a video; add --video'),
        ('sample --model {run} --video --fps 0 --out {tmp}/a.gif', '--fps 0.0 must be positive'),
        ('sample --model {run} --video --fps 60 --out {tmp}/a.gif', 'fps=60, and a .gif shows a frame for 0.02'),
        ('sample --model {run} --direction d.npz:pca:0:-1..1 --out {tmp}/a/', '--direction makes one file'),
        ('render --model {run} --out {tmp}/a.jpg', "the suffix is '.jpg'; use .png, or .npy for float32"),
        ('render --model {run} --zoom 0 --out {tmp}/a.png', '--zoom 0.0 must be positive'),
        ('inspect --model {run} --step 3', 'has no checkpoint of step 3; there are'),
        ('inspect --model {run} --activation sin', '--activation sin goes with a file of another program; leave it'),
        ('sample --model {run} --out {tmp}/a.png --config.train.seed=1', 'is for the command train'),
        ('sample --model {run} --seeds 0 --out {run}/config.json/a.png', 'config.json'),
        ('sample --model {run} --seeds 0 --columns 0 --out {tmp}/a.png', '--columns 0 must be at least 1'),
        ('train --config {run}/metrics.jsonl --workdir {tmp}', 'is no configuration, which is a Python file'),
        ('render --model {run} --crop 9,0,9,9 --out {tmp}/a.png', 'outside of'),
        *(
            (f'train --config cips:tiny --workdir {{tmp}}/no --distributed={peers}', f"--distributed '{peers}'; write")
            for peers in ('10.0.0.1,1,0', '10.0.0.1:9911,2,2', '10.0.0.1:9911,0,0', '10.0.0.1:9911,1,-1')
        ),
        (
            'render --model {run} --coords {tmp}/no.npy --out {tmp}/a.png',
            '--coords {tmp}/no.npy does not exist; name a',
        ),
        ('render --model {run} --foveate 2 --out {tmp}/a.png', 'fraction=2.0 must be in'),
    ],
)
def test_an_error_is_one_line(workdir, tmp_path, capsys, command, message):
    names = {'tmp': tmp_path, 'run': workdir}
    assert main(command.format(**names).split()) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and message.format(**names) in errors[0]
    assert not (tmp_path / 'no').exists()


@pytest.mark.parametrize(
    'options, message',
    [
        ('--zoom nan', "'nan' is not finite"),
        ('--extent=-1e39,1e39,-1,1', "'-1e39' is too large; numbers here are below 1e+30"),
        ('--extent=-1,inf,-1,1', "'inf' is not finite"),
        ('--size 8x', "'8x' is not a size; write 256 or 256x512"),
        ('--seed -1', "'-1' is no seed; write a whole number from 0"),
        ('--zoom two', "'two' is no number; write one such as 0.5"),
        ('--crop 1,2,a,4', 'are no whole numbers; write TOP,LEFT,H,W'),
        ('--model=', 'the path is empty; name a file or folder'),
        ('--crop 1,2', 'write TOP,LEFT,H,W'),
    ],
)
def test_an_option_that_is_no_number_is_refused_before_anything_else(capsys, options, message):
    with pytest.raises(SystemExit, match='2'):
        main(['render', '--model', 'none', '--out', 'a.png', *options.split()])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('error', [KeyError('dtype'), ValueError('shapes differ'), OSError('no path of a user')])
def test_an_error_of_the_program_keeps_its_traceback(monkeypatch, capsys, error):
    def fails(args):
        raise error

    monkeypatch.setattr(cli.inspect, 'run', fails)
    with pytest.raises(type(error)) as caught:
        main(['inspect', '--model', 'run'])
    assert caught.value is error and 'error:' not in capsys.readouterr().err


@pytest.mark.parametrize('command', ['inspect --model {run}', '--help'])
def test_a_closed_pipe_is_no_error(workdir, command):
    arguments = [sys.executable, '-m', 'pegan_jax', *command.format(run=workdir).split()]
    buffered = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    process = subprocess.Popen(arguments, env=buffered, **pipes)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ('', 0)


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match='--workdir is missing'):
        main(['train', '--debug', '--config', 'cips:tiny'])


def test_a_host_of_no_cluster_is_told_to_name_its_peers(tmp_path):
    words = [sys.executable, '-m', 'pegan_jax', 'train', '--config', 'cips:tiny', '--workdir', tmp_path / 'run']
    ran = subprocess.run([*words, '--distributed'], capture_output=True, text=True)
    assert ran.returncode == 1 and 'write --distributed=HOST:PORT,COUNT,INDEX, such as' in ran.stderr
    assert 'Traceback' not in ran.stderr and not (tmp_path / 'run').exists()
