"""MS-PIE trained at two scales: programs when they are due, resuming, images of sizes that were not trained."""

import contextlib
import itertools
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax.cli import main
from pegan_jax.config import load_config, system_module
from pegan_jax.train import programs, run
from pegan_jax.train.step import all_programs, data_mesh

pytestmark = pytest.mark.slow

STEPS = 3


def settings(folder):
    overrides = {
        'model.img_resolution': 8, 'model.channels': (8, 4), 'model.d_channels': (8, 4), 'model.z_dim': 4,
        'model.mapping_layers': 1, 'model.r1_gamma': 0.0, 'model.pl_weight': 0.0, 'model.ema_beta': 0.5,
        'data.folder': folder, 'data.resolution': 12, 'train.batch_size': 2, 'train.total_kimg': STEPS * 2 / 1000,
        'train.log_every': 1, 'train.sample_every': 0, 'train.checkpoint_every': 2, 'train.keep_best': 0,
        'train.seed': 7,  # of the three steps, the last is at another scale
    }  # fmt: skip
    return load_config('mspie:f,tiny', [f'{k}={v}' for k, v in overrides.items()])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mspie')
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / 'images' / f'{i}.png')
    config = settings(folder / 'images')
    events = []
    with pytest.MonkeyPatch.context() as patch:
        for where, name in ((programs.Programs, '__call__'), (programs, 'compile_step')):
            function = getattr(where, name)
            patch.setattr(where, name, lambda *a, f=function, name=name, **k: (events.append(name), f(*a, **k))[1])
        straight = run(config, folder / 'straight')
    shutil.copytree(folder / 'straight', folder / 'again')
    (folder / 'again' / 'checkpoints' / str(STEPS)).rename(folder / 'last')  # as if it had been stopped at step 2
    return folder, events, straight, run(config, folder / 'again')


def test_a_run_of_several_scales_goes_on_exactly(trained):
    _, _, straight, resumed = trained
    assert int(straight.step) == STEPS
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_program_is_compiled_when_it_is_due(trained):
    folder, events, _, _ = trained
    gan = system_module('mspie').build(settings(folder / 'images'))
    drawn = [gan.stage_at(step, 0, settings(folder).train.seed) for step in range(STEPS)]
    new = [stage not in drawn[:step] for step, stage in enumerate(drawn)]
    _, *later = [i for i, event in enumerate(events) if event == '__call__']
    # The first program is begun before the first step.
    between = [events[i:j] for i, j in itertools.pairwise((0, *later, len(events)))]
    assert [part.count('compile_step') for part in between] == new and sum(new) == 2


def test_several_processes_compile_every_program_before_the_first_step(trained, monkeypatch):
    config = settings(trained[0] / 'images')
    gan = system_module('mspie').build(config)
    made = programs.Programs(gan, config.train, data_mesh(), announce=contextlib.nullcontext)
    stage = gan.stage_at(0, 0, 0)
    assert made._ahead(stage) == []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    assert made._ahead(stage) == [(*key, 1) for key in all_programs(gan)] and len(all_programs(gan)) == 2


def test_one_set_of_weights_makes_images_of_many_sizes(trained):
    folder, *_ = trained
    for size, shape in (('8', (8, 8)), ('12', (12, 12)), ('10x26', (10, 26))):
        out = folder / f'{size}.png'
        assert (
            main(['sample', '--model', str(folder / 'straight'), '--seeds', '0', '--size', size, '--out', str(out)])
            == 0
        )
        assert Image.open(out).size == shape[::-1]
    mix = ['--seeds', '0,1', '--style-mix', '2:0-1', '--truncation-psi', '0.7', '--noise-mode', 'random']
    out = folder / 'mix.png'
    assert main(['sample', '--model', str(folder / 'straight'), *mix, '--size', '8', '--out', str(out)]) == 0
    assert Image.open(out).size == (16, 24)


def test_sizes_and_views_that_there_are_not_are_refused(trained, capsys):
    folder, *_ = trained
    command = ['sample', '--model', str(folder / 'straight'), '--seeds', '0', '--out', str(folder / 'x.png')]
    for more, match in ((['--size', '9'], 'sides are multiples of 2'), (['--rotate', '10'], 'moves nothing')):
        assert main([*command, *more]) == 1
        assert match in capsys.readouterr().err
