"""The benchmark for an accelerator runs where some of the library's dependencies are missing."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MISSING = ('tensorflow_datasets', 'grain', 'array_record', 'tensorboardX', 'google_crc32c', 'importlib_resources')


def run(folder, *parts):
    """device.json of the given parts at test size, without the packages in MISSING."""
    (folder / 'site').mkdir()
    block = f'import sys\nsys.modules.update(dict.fromkeys({MISSING}))\n'  # None: an import of it fails
    (folder / 'site' / 'sitecustomize.py').write_text(block)
    command = [sys.executable, ROOT / 'benchmarks' / 'device.py', '--tiny', '--seconds', '1200', '--out', folder]
    command += ['--parts', ','.join(parts)]
    done = subprocess.run(
        command, env=os.environ | {'PYTHONPATH': str(folder / 'site')}, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / 'device.json').read_text())


@pytest.mark.slow
def test_golden_numbers_are_checked_without_the_missing_packages(tmp_path):
    found = run(tmp_path, 'parity')['parity']
    assert found['complete'] and found['passed'] == 4 and not found['failed'] and not found['not run']


@pytest.mark.hand
def test_all_other_parts_give_numbers(tmp_path):
    found = run(tmp_path, 'speed', 'kernels', 'steps', 'train')
    golden, operators, layers = (found['kernels'][name] for name in ('parity', 'operators float32', 'dcgan:tiny'))
    assert [row['outcome'] for row in golden['rows']] == ['passed']
    assert {row['candidate'] for row in operators['rows']} == {'depthwise', 'banded', 'pegan_jax', 'pallas'}
    assert max(row['relative_error'] for row in operators['rows']) < 1e-5
    assert layers['complete'] and {row['kind'] for row in layers['rows']} == {'generator', 'step'}
    for job in found['speed']:
        assert job['complete'] and {row['kind'] for row in job['rows']} == {'generator', 'step'}
        assert all(row['images_per_second'] > 0 and 0 < max(row['share_of_peak'].values()) < 1 for row in job['rows'])
    assert [row['inner_steps'] for row in found['steps']['rows']] == [1, 10]
    assert found['train']['rows'][0]['finite'] == 1 and (tmp_path / 'train.png').exists()
