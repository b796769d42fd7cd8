"""Every system and every command: it works, or one line says why not and what would do."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax.cli import main
from pegan_jax.config import load_config, system_module, to_dict, to_json
from pegan_jax.models import SYSTEMS
from pegan_jax.train.checkpoint import Checkpoints
from pegan_jax.train.state import create_state

pytestmark = pytest.mark.slow

IN_CI = {'cips', 'deepfill', 'singan', 'stylegan2'}  # between them they have every kind of model

SEEDS = {'cips', 'creps', 'dcgan', 'mspie', 'pggan', 'singan', 'stylegan2', 'stylegan3'}
HOLES = {'deepfill', 'pconv'}
SIZED = SEEDS - {'stylegan2'}
MIXED = {'cips', 'creps', 'mspie', 'stylegan2', 'stylegan3'}
MOVED = {'cips', 'stylegan3'}

# Command: the systems for which it works. {image}, {mask}, {out} and {folder} are paths.
COMMANDS = {
    'inspect': SEEDS | HOLES,
    'sample --seeds 0,1 --out {out}.png': SEEDS,
    'sample --seeds 0,1 --out {folder}': SEEDS,
    'sample --seeds 0 --truncation-psi 1.3 --out {out}.png': MIXED,
    'sample --seeds 0 --truncation-psi 0.5 --truncation-cutoff 1 --out {out}.png': MIXED,
    'sample --seeds 0 --style-mix 1:0 --out {out}.png': MIXED,
    'sample --seeds 0 --size 32x40 --out {out}.png': SIZED,
    'sample --seeds 0 --translate 0.1,0 --out {out}.png': MOVED | {'creps'},
    'sample --seeds 0 --rotate 10 --translate 0.1,0 --out {out}.png': MOVED,
    'sample --seeds 0 --noise-mode random --out {out}.png': {'cips', 'mspie', 'stylegan2'},
    'sample --seeds 0 --class 1 --out {out}.png': set(),
    'render --seed 1 --out {out}.png': SEEDS,
    'render --size 32 --extent -2,2,-2,2 --out {out}.png': MOVED | {'creps'},
    'render --size 32x40 --out {out}.png': SIZED,
    'render --tiles 8 --out {folder}': SEEDS,
    'render --crop 2,2,8,8 --out {out}.npy': {'cips'},
    'render --blend 1 --supersample 2 --out {out}.png': {'cips'},
    'render --arc 90 --out {out}.png': set(),
    'render --foveate 0.5 --out {out}.png': {'cips'},
    'edit --mode samples --size 24x32 --out {out}.png': {'singan'},
    'edit --mode animate --frames 2 --out {out}.GIF': {'singan'},
    'edit --mode inject --image {image} --out {out}.png': {'singan'},
    'inpaint --image {image} --mask {mask} --out {out}.png': HOLES,
    'inpaint --image {image} --mask {mask} --flow --out {out}.png': {'deepfill'},
    'inpaint --image {image} --mask {mask} --sketch {mask} --out {out}.png': set(),
    'evaluate --images 2 --masks 1 --kinds box --metrics l1': HOLES,
    'evaluate --metrics swd4,rows4,ppl2_wend': set(),
    'evaluate --metrics eqt4_int,eqt4_frac': MOVED | {'creps'},
    'evaluate --metrics eqr4': MOVED,
    'evaluate --metrics swd4,rows4,horizon4,spectral4': SEEDS,
    'analyze padding --samples 128 --out {folder}': SEEDS - {'cips', 'singan'},
    'analyze encodings --out {folder}': {'stylegan2'},
    'analyze gates --out {folder}': {'deepfill'},
    'analyze skips --out {folder}': {'pconv'},
    'analyze filters --out {folder}': {'stylegan3'},
    'analyze noise --samples 2 --out {folder}': {'cips', 'mspie', 'stylegan2'},
    'analyze sticking --samples 2 --out {folder}': MIXED,
    'analyze foveation --samples 2 --out {folder}': {'cips'},
    'analyze latents --samples 2 --out {folder}': MIXED,
    'analyze spectrum --samples 2 --out {folder}': SEEDS | HOLES,
    'export --out {folder}': SEEDS | HOLES,
    'export --format stablehlo --out {folder}': SEEDS | HOLES,
    'export --format official --out {folder}': {'cips'},
}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('files'), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(folder / 'image.png')
    mask = np.zeros((32, 40), np.uint8)
    mask[8:20, 8:20] = 255
    Image.fromarray(mask).save(folder / 'mask.png')
    return folder


@functools.cache
def untrained(system, files):
    """A workdir of a model as it begins."""
    config = load_config(f'{system}:{"t,tiny" if system == "stylegan3" else "tiny"}')
    if system == 'singan':
        data = dataclasses.replace(config.data, image=str(files / 'image.png'))
        config = dataclasses.replace(config, data=data)
    gan = system_module(system).build(config)
    state = jax.jit(functools.partial(create_state, gan), static_argnums=0)(0)
    workdir = files / system
    checkpoints = Checkpoints(workdir / 'checkpoints')
    checkpoints.save_items(0, {'sampling': state.sampling}, {'config': to_dict(config), 'images': 0})
    checkpoints.close()
    (workdir / 'config.json').write_text(to_json(config))
    return workdir


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize(
    'system',
    [pytest.param(name, marks=() if name in IN_CI else pytest.mark.hand) for name in sorted({*SYSTEMS} - {'waves'})],
)
def test_it_works_or_says_why_not_in_one_line(system, command, files, tmp_path, capsys):
    names = {
        'image': files / 'image.png',
        'mask': files / 'mask.png',
        'out': tmp_path / 'out',
        'folder': tmp_path / 'f',
    }
    verb, *words = command.format(**names).split()
    place = ['analyze', words.pop(0)] if verb == 'analyze' else [verb]
    status = main([*place, '--model', str(untrained(system, files)), *words])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    if system in COMMANDS[command]:
        assert status == 0 and not errors
        made = [p for p in tmp_path.rglob('*') if p.is_file()]
        assert made or verb in ('inspect', 'evaluate')
    else:
        assert status == 1 and len(errors) == 1 and errors[0].endswith('.'), errors
        assert not any(p.is_file() for p in tmp_path.rglob('*'))
