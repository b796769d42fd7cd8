"""The feature network that comes with the package."""

import importlib.resources
import pathlib

import jax
import numpy as np
import pytest
from scipy import ndimage

from pegan_jax.metrics.names import parse_all
from pegan_jax.scoring import images
from pegan_jax.scoring.scores import Scorer, open_networks
from pegan_jax.weights.worlds import load_worlds, worlds_features


@pytest.fixture(scope='module')
def kinds():
    """Other worlds than the real ones, as they are and spoilt; uint8 [64, 32, 32, 3] each."""
    whole, rng = images.of_worlds((32, 32), images.FAKE_WORLDS).read(0, 64), np.random.default_rng(0)
    noisy = np.clip(whole + rng.normal(0, 25, whole.shape), 0, 255).astype(np.uint8)
    return {
        'worlds': whole,
        'blurred': ndimage.gaussian_filter(whole, (0, 1.5, 1.5, 0)),
        'noisy': noisy,
        'flipped': whole[:, ::-1],
        'noise': rng.integers(0, 256, whole.shape).astype(np.uint8),
    }


def test_it_is_small_and_its_features_are_of_any_size():
    path = importlib.resources.files('pegan_jax.weights').joinpath('worlds.npz')
    assert 100_000 < pathlib.Path(str(path)).stat().st_size < 2_000_000
    run = jax.jit(worlds_features)
    for side in (16, 64, 100):
        features = run(load_worlds(), np.zeros((2, side, side, 3), np.uint8))
        assert features.shape == (2, 128) and np.isfinite(features).all()


def test_distances_of_worlds_grow_with_what_spoils_them(kinds, tmp_path):
    scores = parse_all('fd_worlds64,kid_worlds64,mind_worlds64')
    scorer = Scorer(scores, open_networks(scores, {}, tmp_path), tmp_path, batch_size=64)
    found = {}
    for kind, rows in kinds.items():
        fake = images.Images(64, lambda *at, k=kind: f'{k} {at}', lambda i, j, x=rows: x[i:j], {'kind': kind})
        found[kind], about = scorer(fake, images.of_worlds((32, 32)))
    assert about['networks']['worlds']['sha256']
    for score in scores:
        value = {kind: values[score.name] for kind, values in found.items()}
        assert value['worlds'] < 0.5 * min(value['blurred'], value['noisy'], value['flipped']), value
        assert max(value['blurred'], value['noisy']) < value['noise'], value
