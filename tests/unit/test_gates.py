"""What gates tell of holes: the estimate, the layers, and the study of a model with random weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import analysis
from pegan_jax.analysis import gates as module
from pegan_jax.analysis import holes, skips
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.models import deepfill
from pegan_jax.sampling import Model

IMAGES = np.float32([0.8, 0.4, -0.5]) + np.random.default_rng(0).uniform(-0.2, 0.2, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def models():
    """One with larger weights than a new one has, whose deep features are hardly anything, and with biases."""
    models, rng = holes.random_models(['deepfill:tiny'], jax.random.key(0)), np.random.default_rng(2)
    for model in models.values():
        model.variables['params'] = jax.tree.map(
            lambda x: 3 * x if x.ndim > 1 else rng.normal(0, 0.3, x.shape).astype(np.float32), model.variables['params']
        )
    return models


@pytest.fixture(scope='module')
def study(models):
    return module.gate_study(models, IMAGES)


@pytest.fixture(scope='module')
def gates(models):
    (model,) = models.values()
    inputs = {'image': IMAGES, 'mask': holes.box_mask(32, 32)}
    return module.gates_of(model.config.model, model.variables['params'], inputs)


@pytest.fixture(scope='module')
def partial(models):
    (model,) = models.values()
    return module.partial_masks(model.config.model, {'image': IMAGES, 'mask': holes.box_mask(32, 32)})


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 5, (12, 3)) / 4, rng.integers(0, 4, (20, 3)) / 4
    got = module.separation(first, second)
    larger = (first[:, None] > second[None]).mean((0, 1)) + (first[:, None] == second[None]).mean((0, 1)) / 2
    np.testing.assert_allclose(got.auc, larger, rtol=1e-12)
    np.testing.assert_allclose(got.strength, np.maximum(larger, 1 - larger))
    np.testing.assert_allclose(got.first, first.mean(0))
    np.testing.assert_allclose(got.second, second.mean(0))


def test_the_share_of_a_hole_is_of_the_pixels_under_a_position():
    mask = np.zeros((2, 8, 12, 1))
    mask[0, 2:6, 4:8], mask[1, :4, 4:12] = 1, 1
    mask[:, 7, 11] = 1
    share = holes.share_of_hole(mask, (4, 6))
    assert share.shape == (2, 4, 6) and share[0, 3, 5] == 0.25 and share.sum() == 4 + 8 + 0.5
    assert (share[0, 1:3, 2:4] == 1).all() and (share[1, :2, 2:6] == 1).all()


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
    hole = holes.share_of_hole(holes.box_mask(32, 32), (8, 8))[0] == 1
    assert hole.sum() == 16
    for name in ('conv6', 'conv7_atrous', 'conv8_atrous'):
        told = module.separation(gates[name][:, hole].reshape(32, -1), gates[name][:, ~hole].reshape(96, -1))
        assert told.strength.max() > 0.7, name
        np.testing.assert_array_equal(module.separation(partial[name][0, hole], partial[name][0, ~hole]).auc, 0.5)


def test_gates_are_compared_with_the_same_places_without_the_hole(models):
    """Images that are grey in the middle are the same with and without a hole, but for the channel that tells it."""
    images = IMAGES * (1 - holes.box_mask(32, 32))
    (numbers,) = module.gate_study(models, images).numbers.values()
    same = dict(models)
    for name, model in models.items():
        params = jax.tree.map(np.array, model.variables['params'])
        params['conv1']['kernel'][:, :, 4] = 0  # of the mask
        same[name] = dataclasses.replace(model, variables=model.variables | {'params': params})
    (blind,) = module.gate_study(same, images).numbers.values()
    for layer in ('conv1', 'conv4_downsample', 'conv9_atrous'):
        assert blind[layer]['best_auc_from_no_hole'] == 0.5 < numbers[layer]['best_auc_from_no_hole']
        assert blind[layer]['best_auc_from_elsewhere'] > 0.6


def test_the_study_has_every_layer_in_numbers_and_pictures(study, gates):
    ((name, layers),) = study.numbers.items()
    assert name == 'deepfill:tiny' and list(layers) == list(gates)
    for layer, n in layers.items():
        assert n['shape'] == list(gates[layer].shape[1:])
        assert 0 <= n['separating_from_elsewhere'] <= 1 and 1 >= n['best_auc_from_no_hole'] >= 0.5
        assert n['range'] == pytest.approx([gates[layer].min(), gates[layer].max()], abs=1e-4)
        assert n['partial_all_valid'] == (n['partial_valid_in_hole'] == 1)
    assert not layers['conv4_downsample']['partial_all_valid'] and layers['conv5']['partial_all_valid']
    assert layers['conv1']['partial_valid_in_hole'] == pytest.approx(1 - 144 / 256)
    assert set(study.pictures) == {'coarse', 'refined', 'separating'}
    assert all(np.asarray(picture).std() > 5 for picture in study.pictures.values())


def test_the_command_writes_the_study(tmp_path, monkeypatch, study, capsys):
    monkeypatch.setattr(analysis, 'gate_study', lambda models, images: study)
    monkeypatch.setattr(analysis, 'worlds_for', lambda models: IMAGES)
    assert main(['analyze', 'gates', '--config', 'deepfill:tiny', '--out', str(tmp_path)]) == 0
    printed = capsys.readouterr().out.split()
    names = ['gates.json', 'gates_coarse.png', 'gates_refined.png', 'gates_separating.png']
    assert printed == [str(tmp_path / name) for name in names]
    assert json.loads((tmp_path / 'gates.json').read_text())['numbers'] == study.numbers
    assert Image.open(tmp_path / 'gates_coarse.png').size == study.pictures['coarse'].size
    assert main(['analyze', 'gates', '--samples', '128', '--out', str(tmp_path)]) == 1
    assert '--samples 128: the study gates draws no samples' in capsys.readouterr().err


def test_models_without_gates_and_of_several_sizes_are_refused(models):
    vanilla, other = ({name: Model(load_config(name), None, {}, 0)} for name in ('deepfill:vanilla,tiny', 'dcgan:tiny'))
    with pytest.raises(ValueError, match=r"deepfill:vanilla,tiny has no gates \(deepfill, model.conv_type='vanilla'\)"):
        module.gate_study(vanilla, IMAGES)
    with pytest.raises(ValueError, match=r'dcgan:tiny has no gates \(dcgan\)'):
        module.gate_study(other, IMAGES)
    with pytest.raises(ValueError, match='compare models of one size'):
        holes.worlds_for(other | models)
    with pytest.raises(ValueError, match='24 x 32 pixels; both sides must be at least 32'):
        module.gate_study(models, IMAGES[:, :24])


def test_the_first_skips_of_a_u_net_bring_nothing_to_the_middle_of_a_hole():
    models = holes.random_models(['pconv:tiny'], jax.random.key(0))
    numbers = skips.skip_study(models, IMAGES).numbers
    assert list(numbers) == ['pconv:tiny, partial', 'pconv:tiny, ordinary']
    for entry in numbers.values():
        assert [name.partition(':')[2].strip() for name in entry] == ['32x32x3', '16x16x8', '8x8x16', '4x4x16']
        magnitude, spread = ([scores[kind] for scores in entry.values()] for kind in ('magnitude', 'spread'))
        # The first window is 7 pixels wide and the hole 16; the second sees 15.
        assert magnitude[:2] == spread[:2] == [0, 0] and min(magnitude[2:]) > 0.05
    # Partial convolutions make up for what is missing in a window.
    assert numbers['pconv:tiny, partial'] != numbers['pconv:tiny, ordinary']


def test_the_skips_are_what_the_network_computes():
    """The second level is the first convolution of the known pixels, divided by their share of the window."""
    ((_, model),) = holes.random_models(['pconv:tiny'], jax.random.key(0)).items()
    nothing = np.zeros((1, 32, 32, 1), np.float32)
    image, first, *_ = skips.skips_of(model.config.model, model.variables, IMAGES, nothing)
    layer = model.variables['params']['enc_1']
    np.testing.assert_array_equal(image, IMAGES)
    window = IMAGES[1, 13:20, 9:16]  # of output (8, 6): from 2 i - 3 on
    want = np.maximum(np.tensordot(window, layer['kernel'], 3) + layer['bias'], 0)
    np.testing.assert_allclose(first[1, 8, 6], want, rtol=1e-4, atol=1e-5)


def test_the_study_of_skips_needs_a_u_net(models):
    with pytest.raises(ValueError, match="deepfill:tiny is of system 'deepfill', which has no skips; choose a pconv"):
        skips.skip_study(models, IMAGES)
