"""What gates tell of holes: the estimate, the layers, and the study of a model with random weights."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import analysis_gates
from pegan_jax.__main__ import main
from pegan_jax.models import deepfill

IMAGES = np.float32([0.8, 0.4, -0.5]) + np.random.default_rng(0).uniform(-0.2, 0.2, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def models():
    """One with larger weights than a new one has, whose deep features are hardly anything but biases."""
    models = analysis_gates.random_models(None, jax.random.key(0))
    for model in models.values():
        model.variables['params'] = jax.tree.map(lambda x: 3.0 * x, model.variables['params'])
    return models


@pytest.fixture(scope='module')
def study(models):
    return analysis_gates.gate_study(models, IMAGES)


@pytest.fixture(scope='module')
def gates(models):
    (model,) = models.values()
    inputs = {'image': IMAGES, 'mask': analysis_gates.box_mask(32, 32)}
    return analysis_gates.gates_of(model.config.model, model.variables['params'], inputs)


@pytest.fixture(scope='module')
def partial(models):
    (model,) = models.values()
    return analysis_gates.partial_masks(model.config.model, {'image': IMAGES, 'mask': analysis_gates.box_mask(32, 32)})


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(1)
    gates, mask = rng.integers(0, 5, (2, 4, 6, 3)) / 4, np.zeros((2, 8, 12, 1))
    mask[0, 2:6, 4:8], mask[1, :4, 4:12] = 1, 1
    mask[:, 7, 11] = 1  # a quarter of its position, which does not count
    got = analysis_gates.separation(gates, mask)
    inside = np.concatenate([gates[0, 1:3, 2:4].reshape(-1, 3), gates[1, :2, 2:6].reshape(-1, 3)])
    share = analysis_gates.share_of_hole(mask, (4, 6))
    assert share[0, 3, 5] == 0.25 and share.sum() == 4 + 8 + 0.5
    outside = gates[share == 0]
    assert len(outside) == 48 - 12 - 2
    larger = (inside[:, None] > outside[None]).mean((0, 1)) + (inside[:, None] == outside[None]).mean((0, 1)) / 2
    np.testing.assert_allclose(got.auc, larger, rtol=1e-12)
    np.testing.assert_allclose(got.inside, inside.mean(0))
    np.testing.assert_allclose(got.outside, outside.mean(0))


def test_gates_lie_in_the_open_interval_and_every_channel_has_its_own(gates):
    assert list(gates) == [name for name in deepfill.layer_names() if not name.endswith('17')]
    for name, gate in gates.items():
        assert 0 < gate.min() and gate.max() < 1, name
        means = gate.mean((0, 1, 2))
        assert len(np.unique(means)) == gate.shape[-1] > 1, name


def test_partial_convolutions_forget_the_hole_after_as_many_layers_as_its_size_tells(partial):
    """A 5x5 window takes 4 off its side of 16, a 3x3 one 2, one that halves the map more than half; conv5 has none."""
    sides = [round(np.sqrt((mask[0] == 0).sum())) for mask in partial.values()]
    assert list(partial)[:5] == ['conv1', 'conv2_downsample', 'conv3', 'conv4_downsample', 'conv5']
    assert sides[:4] == [12, 5, 3, 1] and not any(sides[4:])
    assert all(set(np.unique(mask)) <= {0.0, 1.0} for mask in partial.values())


def test_deep_gates_still_tell_the_hole_when_partial_convolutions_do_not(gates, partial):
    mask = np.broadcast_to(analysis_gates.box_mask(32, 32), (2, 32, 32, 1))
    for name in ('conv6', 'conv7_atrous', 'conv8_atrous'):
        told = analysis_gates.separation(gates[name], mask)
        assert np.maximum(told.auc, 1 - told.auc).max() > 0.7, name
        blind = analysis_gates.separation(np.broadcast_to(partial[name], (2, *partial[name].shape[1:])), mask)
        np.testing.assert_array_equal(blind.auc, 0.5)


def test_the_study_has_every_layer_in_numbers_and_pictures(study, gates):
    ((name, layers),) = study.numbers.items()
    assert name == 'deepfill:tiny' and list(layers) == list(gates)
    for layer, n in layers.items():
        assert n['shape'] == list(gates[layer].shape[1:]) and 0 <= n['separating'] <= 1 and n['best_auc'] >= 0.5
        assert n['range'] == pytest.approx([gates[layer].min(), gates[layer].max()], rel=1e-4)
        assert n['partial_all_valid'] == (n['partial_valid_in_hole'] == 1)
    assert not layers['conv4_downsample']['partial_all_valid'] and layers['conv5']['partial_all_valid']
    assert layers['conv1']['partial_valid_in_hole'] == pytest.approx(1 - 144 / 256)
    assert set(study.pictures) == {'coarse', 'refined', 'separating'}
    assert all(np.asarray(picture).std() > 5 for picture in study.pictures.values())


def test_the_command_writes_the_study(tmp_path, monkeypatch, study, capsys):
    monkeypatch.setattr(analysis_gates, 'gate_study', lambda models, images: study)
    monkeypatch.setattr(analysis_gates, 'worlds_for', lambda models: IMAGES)
    assert main(['analyze', 'gates', '--config', 'deepfill:tiny', '--out', str(tmp_path)]) == 0
    printed = capsys.readouterr().out.split()
    names = ['gates.json', 'gates_coarse.png', 'gates_refined.png', 'gates_separating.png']
    assert printed == [str(tmp_path / name) for name in names]
    assert json.loads((tmp_path / 'gates.json').read_text())['numbers'] == study.numbers
    assert Image.open(tmp_path / 'gates_coarse.png').size == study.pictures['coarse'].size


def test_models_without_gates_and_of_several_sizes_are_refused(models, monkeypatch):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"deepfill:vanilla,tiny has no gates \(deepfill, model.conv_type='vanilla'\)"):
        analysis_gates.gate_study(analysis_gates.random_models(['deepfill:vanilla,tiny'], key), IMAGES)
    with pytest.raises(ValueError, match=r'dcgan:tiny has no gates \(dcgan\)'):
        analysis_gates.gate_study(analysis_gates.random_models(['dcgan:tiny'], key), IMAGES)
    sizes = analysis_gates.random_models(['dcgan:tiny'], key) | models
    with pytest.raises(ValueError, match='compare models of one size'):
        analysis_gates.worlds_for(sizes)
