"""The same seed and number of devices give the same bits, for every system, from two processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SYSTEMS = (
    'cips', 'creps', 'dcgan', 'deepfill', 'mspie:f', 'pconv', 'pggan', 'singan', 'stylegan2', 'stylegan3:t',
    'stylegan3:r',
)  # fmt: skip
IN_CI = ('cips', 'dcgan')
PROGRAM = """
import hashlib, json, sys
import jax, numpy as np
from pegan_jax.config import load_config
from pegan_jax.train import run
state = run(load_config(sys.argv[1], json.loads(sys.argv[3])), sys.argv[2])
digest = hashlib.sha256()
for path, leaf in jax.tree.leaves_with_path(jax.device_get(state)):
    digest.update(f'{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}'.encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
print('digest', int(state.step), digest.hexdigest())
"""


@pytest.mark.parametrize(
    'steps, system',
    [
        pytest.param(steps, system, marks=pytest.mark.slow if steps == 20 and system in IN_CI else pytest.mark.hand)
        for steps in (20, 200)
        for system in SYSTEMS
    ],
)
def test_two_runs_of_a_system_end_in_the_same_bits(steps, system, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / 'images' / f'{i}.png')
    data = f'data.image={tmp_path}/images/0.png' if system == 'singan' else f'data.folder={tmp_path}/images'
    name = f'{system}{"," if ":" in system else ":"}tiny'
    from pegan_jax.config import load_config

    batch = load_config(name, [data]).train.batch_size
    settings = [data, f'train.total_kimg={steps * batch / 1000}', 'train.keep_best=0', 'train.sample_every=0']
    settings += [f'model.iters_per_scale={max(1, steps // 5)}'] if system == 'singan' else []
    found = []
    for i in range(2):
        command = [sys.executable, '-c', PROGRAM, name, str(tmp_path / str(i)), json.dumps(settings)]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(next(line for line in done.stdout.splitlines() if line.startswith('digest')))
    assert found[0] == found[1] and int(found[0].split()[1]) >= min(steps, 5)
