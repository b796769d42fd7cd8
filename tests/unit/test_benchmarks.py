"""Benchmarks measure what the configuration says."""

import argparse
import functools
import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import toy
from PIL import Image

from pegan_jax import editing, load, train
from pegan_jax.analysis import extrapolation
from pegan_jax.config import load_config, system_module
from pegan_jax.models import deepfill
from pegan_jax.settings import UserError
from pegan_jax.train.report import abstract_batch
from pegan_jax.train.state import create_state
from pegan_jax.train.step import SKIPPED, data_mesh

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'benchmarks'))
import ada
import bench
import device
import inpainting
import singan_extrapolation
import singan_positions
import startup


def built(spec, *overrides):
    config = load_config(spec, overrides)
    return config, system_module(config.system).build(config)


@pytest.mark.parametrize(
    'spec, overrides, names',
    [
        ('stylegan3:tiny,scales', ['train.init_from=x'], {'image', 'scale', 'offset'}),
        ('stylegan2:tiny', ['model.c_dim=3', 'data.labels=True', 'data.folder=x'], {'image', 'label'}),
        ('deepfill:tiny,guided', ['model.masks=folder', 'model.mask_folder=x'], {'image', 'edge', 'mask'}),
    ],
)
def test_a_batch_has_what_the_steps_of_a_configuration_take(spec, overrides, names):
    config = load_config(spec, overrides)
    batch = bench.random_batch(config, 4)
    assert batch.keys() == names and batch['image'].std() > 70
    assert {k: (x.shape, x.dtype) for k, x in batch.items()} == {
        k: (x.shape, x.dtype) for k, x in abstract_batch(config, 4).items()
    }
    assert np.all(batch.get('scale', 1) == 1) and set(np.unique(batch.get('edge', [0, 255]))) == {0, 255}


def test_a_step_is_compiled_as_the_run_has_it():
    config = toy.settings('x', 'batch_size=32', 'non_finite=skip', 'accumulate=2', 'backend=pmap')
    gan = toy.toy_gan()
    state, program = jax.eval_shape(functools.partial(create_state, gan, 0)), (gan.stage_at(0, 0, 0), (0, 1, 2))
    lowered, flops = bench.lowered_step(config, gan, program, state, 4, data_mesh())
    assert SKIPPED in lowered.out_info[1] and lowered.in_avals[0][1]['image'].shape == (1, 4, 8, 8, 3)
    with pytest.raises(UserError, match=r'batch_size=3 is not divisible by 1 device in 2 parts'):
        bench.lowered_step(config, gan, program, state, 3, data_mesh())
    plain = toy.settings('x', 'remat=True')
    again, plain_flops = bench.lowered_step(plain, gan, program, state, 4, data_mesh())
    assert SKIPPED not in again.out_info[1] and plain_flops == flops  # what is computed twice counts once


def test_the_attention_counts_by_its_definition():
    """Scores of 3x3 windows and pasted windows of 4x4, whatever the program shares; three times that with gradients."""
    f, mask = jax.ShapeDtypeStruct((2, 8, 12, 5), np.float32), jax.ShapeDtypeStruct((2, 4, 6, 1), np.float32)

    def run(f, mask):
        return deepfill.contextual_attention(f, f, mask, nearest='aligned').y.sum()

    assert bench.definition_flops(run, f, mask) == 2 * 2 * 24**2 * 5 * (9 + 16)
    assert bench.definition_flops(jax.grad(run), f, mask) == 3 * 2 * 2 * 24**2 * 5 * (9 + 16)


def test_programs_are_those_at_the_end_of_every_size():
    def flags(spec, *overrides):
        return [
            {(stage.resolution, stage.level, stage.flags, due): share for (stage, due), share in planned.items()}
            for planned in bench.programs_of(*built(spec, *overrides))
        ]

    # The blur of the first 200 kimg is over; R1 is in every sixteenth step, and there is no path length.
    assert flags('stylegan3:r,images256') == [{(256, 0, (), (0, 1)): 15 / 16, (256, 0, (), (0, 1, 2)): 1 / 16}]
    found = flags('mspie:f')  # R1 and path length are flags of three sizes in turn
    assert {resolution for planned in found for resolution, *_ in planned} == {(s, s) for s in (256, 384, 512)}
    for planned in found:
        shares = {names: share for (_, _, names, _), share in planned.items()}
        assert shares == pytest.approx({('r1', 'path'): 1 / 16, ('path',): 3 / 16, (): 3 / 4}, abs=0.06)
    levels = flags('pggan:tiny')
    assert [next(iter(planned))[0] for planned in levels] == sorted(next(iter(planned))[0] for planned in levels)
    config, gan = built('pggan:tiny')
    stage, _ = next(iter(bench.largest(bench.programs_of(config, gan))))
    assert stage.resolution == config.model.img_resolution


def test_a_comparison_that_was_stopped_scores_nothing(monkeypatch, tmp_path):
    asked = []
    stopped = SimpleNamespace(step=500)
    monkeypatch.setattr(inpainting, 'run', lambda config, workdir: asked.append(config.train.total_steps) or stopped)
    args = argparse.Namespace(side=32, batch=8, cnum=16, gan_weight=0.0, steps=1000, out=tmp_path)
    with pytest.raises(SystemExit, match='gated-0 is not finished'):
        inpainting.trained(args, 'gated', {}, False, 0)
    assert asked == [1000]


def test_seconds_of_a_training_are_those_of_all_of_it(monkeypatch, tmp_path):
    model = SimpleNamespace(gan=SimpleNamespace(num_steps=lambda: 9))
    monkeypatch.setattr(singan_positions, 'load', lambda workdir: model)

    def launch(step):
        monkeypatch.setattr(singan_positions, 'run', lambda config, workdir: SimpleNamespace(step=step))
        return singan_positions.trained(None, tmp_path)[1]

    assert launch(9).keys() == {'seconds of training'}
    with pytest.raises(SystemExit, match='is not finished'):
        launch(4)
    monkeypatch.setattr(singan_positions, 'steps_of', lambda folder: [4])
    assert launch(9) == {}


def test_singans_that_train_in_one_program_are_those_of_single_runs(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    configs = []
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f'{i}.png')
        changes = {'d_steps': 1, 'g_steps': 1, 'num_layers': 3}
        configs.append(singan_positions.configuration(tmp_path / f'{i}.png', (16, 16), changes, 3, 4, seed=5 + i))
    together = singan_extrapolation.trained(configs[0], frames)
    alone = train.run(configs[1], tmp_path / 'run')
    own = jax.tree.map(lambda leaf: leaf[1], together)
    jax.tree.map(toy.assert_equal_up_to_rounding, jax.device_get(own.sampling), jax.device_get(alone.sampling))
    images = singan_extrapolation.of_states(configs[0], jax.device_get(together.sampling), 2)
    made = images(np.array([3]), extrapolation.window(16, 'right', 0.5))  # the second sample of the second model
    wide = editing.samples(load(tmp_path / 'run'), [1], size=(16, 32))
    toy.assert_equal_up_to_rounding(made, np.clip(wide[:, :, 16:], -1, 1))


def test_models_of_other_options_are_not_taken_for_what_was_asked(tmp_path, monkeypatch, capsys):
    (tmp_path / 'models.json').write_text(json.dumps({'worlds': 16, 'iterations': 400, 'width': 16, 'seed': 0}))
    monkeypatch.setattr(sys, 'argv', ['x', '--out', str(tmp_path), '--worlds', '32'])
    monkeypatch.setattr(singan_extrapolation, 'to_uint8', lambda _: pytest.fail('it went on'))
    with pytest.raises(SystemExit, match='2'):
        singan_extrapolation.main()
    assert "holds models of {'worlds': 16," in capsys.readouterr().err


def test_a_longer_training_is_not_taken_for_a_shorter_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['x', '--out', str(tmp_path)])
    monkeypatch.setattr(ada.worlds, 'render_world', lambda seeds, *size: np.zeros((len(seeds), *size, 3)))
    monkeypatch.setattr(ada.loop, 'run', lambda *_: SimpleNamespace(step=10**9))
    with pytest.raises(SystemExit, match=r'is trained beyond .* kimg; name another --out'):
        ada.main()


@pytest.mark.parametrize('status', [0, 3])
def test_a_worker_that_fails_leaves_a_part_incomplete(tmp_path, monkeypatch, status):
    ended = [sys.executable, '-c', f'raise SystemExit({status})']
    monkeypatch.setattr(device, 'worker', lambda *_, **__: subprocess.Popen(ended))
    found = {}
    device.parity(tmp_path, SimpleNamespace(put=found.__setitem__), float('inf'), True)
    assert found['parity']['complete'] == (status == 0)


@pytest.mark.parametrize('spec', startup.PUBLISHED)
def test_a_start_ends_with_its_first_step(spec):
    config = load_config(spec, [f'{name}={value}' for name, value in startup.settings(1).items()])
    assert config.train.total_steps == 1
