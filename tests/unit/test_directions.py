"""Directions of w: what they are by definition, and what a walk along one is."""

import numpy as np
from test_projection import model

from pegan_jax import sample
from pegan_jax.analysis import directions, walk
from pegan_jax.cli import main


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


def test_a_walk_begins_at_the_image_and_the_command_writes_what_sample_takes(tmp_path, monkeypatch):
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
