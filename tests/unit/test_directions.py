"""Directions of w: what they are by definition, and what a walk along one is."""

import functools
import json

import jax
import numpy as np
from test_projection import model

from pegan_jax import analysis, sample
from pegan_jax.analysis import directions, walk
from pegan_jax.cli import main
from pegan_jax.config import load_config, system_module
from pegan_jax.sampling import Model


def test_principal_directions_are_ordered_by_the_variance_of_w():
    loaded = model()
    found = directions.principal_directions(loaded, 300)
    w = np.asarray(loaded.styles(range(300)))
    variances = np.var(w @ found.T, axis=0)
    assert (np.diff(variances) <= 1e-6).all() and variances[0] > 2 * variances[len(variances) // 2]
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-5)
    np.testing.assert_allclose(variances.sum(), np.var(w, axis=0).sum(), rtol=1e-4)


def test_closed_form_directions_change_the_styles_of_layers_most():
    loaded = model()
    found = directions.closed_form_directions(loaded)
    params = loaded.variables['params']['synthesis']
    layers = [layer for block in params.values() for layer in block.values() if isinstance(layer, dict)]
    maps = [layer['affine']['kernel'] for layer in layers if 'affine' in layer]
    maps = [np.asarray(m) / np.linalg.norm(m) for m in maps]

    def change(direction):
        return sum(np.sum((direction @ m) ** 2) for m in maps)

    changes = [change(d) for d in found]
    assert (np.diff(changes) <= 1e-6).all()
    random = np.random.default_rng(0).normal(size=(20, found.shape[1]))
    assert changes[0] > max(change(d / np.linalg.norm(d)) for d in random)


def test_a_walk_begins_at_the_image_and_the_command_writes_what_sample_takes(tmp_path, monkeypatch, capsys):
    loaded = model()
    direction = directions.closed_form_directions(loaded)[0]
    images = walk(loaded, direction, 2.0, [4, 5], [-1.0, 0.0, 1.0])
    np.testing.assert_allclose(images[:, 1], sample(loaded, [4, 5]), atol=1e-5)
    assert np.abs(images[:, 2] - images[:, 1]).mean() > 1e-3
    study, arrays = directions.directions_study(loaded, count=2, samples=64)
    assert set(study.pictures) == {'pca', 'sefa'} and arrays['pca'].shape == (2, 16)
    np.savez(tmp_path / 'd.npz', **arrays)
    monkeypatch.setattr('pegan_jax.cli.options.load', lambda args: loaded)
    walked = ['sample', '--model', str(tmp_path), '--seeds', '0-1', '--out', str(tmp_path / 'a.png')]
    assert main([*walked, '--direction', f'{tmp_path / "d.npz"}:sefa:1:-2..2.5']) == 0
    assert main([*walked, '--direction', f'{tmp_path / "d.npz"}:pca:7:-2..2']) == 1
    np.save(tmp_path / 'd.npy', direction)
    np.savez(tmp_path / 'other.npz', pca=np.zeros((2, 5)), pca_scale=np.ones(2))
    (tmp_path / 'd.py').write_text('x = 1')
    for file, match in (
        ('d.npy', 'has no pca; it has one array without a name'),
        ('other.npz', 'is of another model: its directions have 5 numbers'),
        ('d.py', 'is no .npz file of NumPy'),
    ):
        assert main([*walked, '--direction', f'{tmp_path / file}:pca:0:-2..2']) == 1
        assert match in capsys.readouterr().err


def test_directions_of_a_model_of_classes_are_those_of_one(tmp_path, monkeypatch):
    config = load_config('stylegan2:tiny', ['model.c_dim=3', 'data.labels=True'])
    gan = system_module('stylegan2').build(config)
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    loaded = Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    monkeypatch.setattr('pegan_jax.cli.options.load', lambda args: loaded)
    few = functools.partial(directions.directions_study, count=1, samples=32)
    monkeypatch.setattr(analysis, 'directions_study', few)
    words = ['--model', str(tmp_path), '--seed', '4', '--out', str(tmp_path / 'out')]
    assert main(['analyze', 'directions', *words]) == 0
    assert json.loads((tmp_path / 'out' / 'directions.json').read_text())['class'] == 1
