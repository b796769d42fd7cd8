"""Steps compiled for slices of TPUs that are not here: what every device needs, and what they exchange."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from pegan_jax.settings import UserError
from pegan_jax.train import targets
from pegan_jax.train.report import collectives

needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec('jax_cuda13_plugin') is None, reason="pip install 'pegan_jax[cuda]'"
)
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason="pip install 'pegan_jax[tpu]'")
SYSTEMS = (
    'cips', 'creps', 'dcgan', 'deepfill', 'mspie:f', 'pconv', 'pggan', 'singan', 'stylegan2', 'stylegan3:t',
    'stylegan3:r',
)  # fmt: skip


def dry_run(tmp_path, system, topology, *overrides, size='tiny'):
    """Numbers that the command prints: (status, text, {name: number})."""
    from PIL import Image

    Image.new('RGB', (40, 40), 'white').save(tmp_path / 'photo.png')
    name = f'{system}{"," if ":" in system else ":"}{size}'
    settings = [*(['data.image=photo.png'] if system == 'singan' else []), *overrides]
    command = [sys.executable, '-m', 'pegan_jax', 'train', '--config', name, '--dry-run', '--topology', topology]
    done = subprocess.run(
        [*command, *(f'--config.{setting}' for setting in settings)],
        cwd=tmp_path, env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': ''}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    found = {}
    for line in done.stdout.splitlines():
        for what, pattern in {
            'memory': r'memory per device +([\d.,]+) MiB', 'reduces': r'all-reduce +(\d+) in a step',
            'bytes': r'all-reduce .*, ([\d.,]+) MiB', 'flops': r'FLOPs per device +([\d.e+-]+)',
            'seconds': r'compiled in +(\d+) s',
            'g': r'generator ([\d,]+)', 'd': r'discriminator ([\d,]+)', 'gathers': r'all-gather +(\d+)',
        }.items():  # fmt: skip
            if matched := re.search(pattern, line):
                found[what] = float(matched[1].replace(',', ''))
    return done.returncode, done.stdout + done.stderr, found


def test_what_a_program_exchanges_is_counted_with_its_bytes():
    text = """
  %all-reduce.1 = f32[8,4]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1}}
  %y = (f32[2]{0}, bf16[3,2]{1,0}) all-reduce-start(%a, %b), to_apply=%add
  ROOT %g = s32[] all-gather(%c), dimensions={0}
  %fusion = f32[100]{0} fusion(%all-reduce.1), calls=%all-reduce-like
"""
    assert collectives(text) == {'all-reduce': (2, 128 + 8 + 12), 'all-gather': (1, 4)}


@needs_libtpu
@pytest.mark.hand
def test_a_device_of_a_larger_slice_needs_no_more_and_exchanges_as_much(tmp_path):
    found = []
    for topology, batch in (('v5e:2x4', 8), ('v5e:4x4', 16)):
        status, text, numbers = dry_run(tmp_path, 'dcgan', topology, f'train.batch_size={batch}')
        assert status == 0, text[-2000:]
        found.append(numbers)
    small, large = found
    assert large['memory'] <= 1.02 * small['memory'] and large['bytes'] == small['bytes']
    assert large['flops'] == pytest.approx(small['flops'], rel=0.01) and 'gathers' not in large


@needs_libtpu
@pytest.mark.hand  # minutes for every system
@pytest.mark.parametrize('system', SYSTEMS)
def test_every_system_compiles_for_a_slice_and_moves_its_gradients_once(tmp_path, system):
    status, text, numbers = dry_run(tmp_path, system, 'v5e:2x4', 'train.batch_size=8')
    assert status == 0, text[-2000:]
    # A network has one or two updates in the step in which all are due, and the rest are statistics.
    assert numbers['bytes'] * 2**20 <= 4 * 2 * (numbers['g'] + numbers['d']) * 1.1 + 2**16
    assert 'gathers' not in numbers


@needs_libtpu
@pytest.mark.hand
def test_a_step_of_published_size_compiles_within_minutes(tmp_path):
    data = ('data.tfds=worlds', 'data.folder=None')
    status, text, numbers = dry_run(tmp_path, 'dcgan', 'v5e:2x4', *data, size='celeba64')
    assert status == 0, text[-2000:]
    assert re.search(r'MiB for a training step, at most [\d,.]+ at once$', text, re.MULTILINE)
    assert numbers['seconds'] < 300  # 15 s on two cores; at the default effort, more than 1200 s


@needs_libtpu
@pytest.mark.hand
def test_what_does_not_fit_and_unknown_slices_are_one_line(tmp_path):
    status, text, _ = dry_run(tmp_path, 'dcgan', 'v5e:2x4', 'train.batch_size=80000000')
    assert status == 1 and 'does not fit into a device' in text and 'Traceback' not in text, text[-2000:]
    status, text, _ = dry_run(tmp_path, 'dcgan', 'v9:2x4')
    assert status == 1 and 'error: --topology v9:2x4' in text and 'Traceback' not in text, text[-2000:]


@pytest.mark.parametrize('topology', ['h100', 'h100:0', 'a100:8x1', 'h100:17'])
def test_gpus_are_counted(topology, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
    with pytest.raises(UserError, match=rf'{topology}: write how many GPUs the host has, 1 to 16, such as .100:8'):
        targets.described_devices(topology)


def test_without_cudas_compiler_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"h100:8 needs CUDA's compiler, .* 'pegan_jax\[cuda\]'"):
        targets.described_devices('h100:8')


@needs_cuda
@pytest.mark.hand
def test_gpus_that_are_not_here_are_compiled_for(tmp_path):
    status, text, numbers = dry_run(tmp_path, 'dcgan', 'h100:8', 'train.batch_size=8')
    assert status == 0 and '8 x NVIDIA H100' in text, text[-2000:]
    assert numbers['bytes'] * 2**20 <= 4 * 2 * (numbers['g'] + numbers['d']) * 1.1 + 2**16


@needs_cuda
@pytest.mark.hand
def test_what_a_gpu_cannot_hold_is_told(tmp_path):
    status, text, _ = dry_run(tmp_path, 'dcgan', 'a100:1', f'train.batch_size={2**23}')
    assert status == 1 and 'the step does not fit into a device' in text and 'GiB of 80' in text, text[-2000:]
