"""VGG-16 and HED with weights from files."""

from collections import OrderedDict

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pegan_jax.cli import main
from pegan_jax.weights import features
from pegan_jax.weights.contents import ForeignFileError

INDICES = [index for block in features.BLOCKS for index, _ in block]


@pytest.fixture(scope='module')
def convolutions():
    return foreign.vgg16()


@jax.jit
def by_hand(arrays, x):
    """The maps before each pool, from torch's arrays in torch's layout: [N, C, H, W]."""
    maps = []
    for n, block in enumerate(features.BLOCKS):
        if n:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), 'VALID')
        for index, _ in block:
            x = jax.lax.conv(x, arrays[f'features.{index}.weight'], (1, 1), 'SAME')
            x = jax.nn.relu(x + arrays[f'features.{index}.bias'][None, :, None, None])
        maps.append(x)
    return maps


def test_vgg_is_that_of_torchvision_behind_three_pools(tmp_path, convolutions):
    classifier = {'classifier.0.weight': np.zeros((2, 2), np.float32), 'classifier.0.bias': np.zeros(2, np.float32)}
    params = features.load_vgg(foreign.write_state_dict(tmp_path / 'vgg16.pth', convolutions | classifier))
    images = np.random.default_rng(1).random((2, 19, 16, 3), np.float32)
    got = jax.jit(features.vgg_pools)(params, images)
    normal = (images - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    maps = by_hand(convolutions, np.moveaxis(normal, -1, 1).astype(np.float32))
    assert [g.shape for g in got] == [(2, 9, 8, 64), (2, 4, 4, 128), (2, 2, 2, 256)]
    for g, want in zip(got, maps[:3], strict=True):
        want = np.moveaxis(np.asarray(want), 1, -1)
        h, w = (n // 2 * 2 for n in want.shape[1:3])
        want = want[:, :h, :w].reshape(2, h // 2, 2, w // 2, 2, -1).max(axis=(2, 4))
        np.testing.assert_allclose(g, want, rtol=1e-4, atol=1e-4)


def test_files_that_are_not_vgg_are_refused_with_what_is_wrong(tmp_path, convolutions):
    first = dict(list(convolutions.items())[:4])
    with pytest.raises(ForeignFileError, match=r'vgg\.pth: .*not filled: features_5/bias'):
        features.load_vgg(foreign.write_state_dict(tmp_path / 'vgg.pth', first))
    with pytest.raises(ForeignFileError, match=r'left over: avgpool\.weight'):
        features.load_vgg(
            foreign.write_state_dict(tmp_path / 'vgg.pth', convolutions | {'avgpool.weight': np.zeros(1, np.float32)})
        )
    with pytest.raises(ForeignFileError, match='is not a file'):
        features.load_vgg(tmp_path / 'none.pth')


@pytest.fixture(scope='module')
def heads():
    """The side outputs and the fusion of HED, by torch's layout."""
    rng = np.random.default_rng(2)
    sizes = [*[64, 128, 256, 512, 512], 5]
    return [(rng.standard_normal((1, n, 1, 1), np.float32) / n, rng.standard_normal(1, np.float32)) for n in sizes]


def hed_file(path, convolutions, heads, *, interleaved):
    """Weights and biases in turn, under names that say nothing; side outputs behind their block or all at the end."""
    pairs = [(convolutions[f'features.{i}.weight'], convolutions[f'features.{i}.bias']) for i in INDICES]
    if interleaved:
        for n, end in reversed(list(enumerate((2, 4, 7, 10, 13)))):
            pairs.insert(end, heads[n])
        pairs.append(heads[5])
    else:
        pairs += heads
    return foreign.write_state_dict(
        path, OrderedDict((f'module{n}.x{k}', a) for n, pair in enumerate(pairs) for k, a in enumerate(pair))
    )


def test_hed_fuses_enlarged_side_outputs_of_the_image_in_bgr(tmp_path, convolutions, heads):
    image = np.random.default_rng(3).integers(0, 256, (64, 40, 3)).astype(np.uint8)
    drawings = []
    for interleaved in (False, True):
        params = features.load_hed(hed_file(tmp_path / 'hed.pth', convolutions, heads, interleaved=interleaved))
        drawings.append(features.hed_edges(params, image))
    np.testing.assert_array_equal(*drawings)
    padded = np.pad(image, ((0, 0), (0, 24), (0, 0)), mode='edge')[..., ::-1] - np.array(
        [104.007, 116.66877, 122.67891]
    )
    maps = by_hand(convolutions, np.moveaxis(padded, -1, 0)[None].astype(np.float32))
    logits = heads[5][1][0]
    for n, (x, (weight, bias)) in enumerate(zip(maps, heads[:5], strict=True)):
        side = np.tensordot(weight[0, :, 0, 0], np.asarray(x)[0], 1) + bias[0]
        enlarged = jax.image.resize(side, (64, 64), 'linear')  # half-pixel centres
        logits = logits + heads[5][0][0, n, 0, 0] * np.asarray(enlarged)
    want = 255 / (1 + np.exp(-logits[:, :40].astype(np.float64)))
    assert drawings[0].shape == (64, 40, 1) and drawings[0].dtype == np.uint8
    assert np.std(want) > 5
    np.testing.assert_allclose(drawings[0][..., 0], want, atol=0.6)
    (tmp_path / 'images').mkdir()
    Image.fromarray(image).save(tmp_path / 'images' / 'a.png')
    weights = ['--method', 'hed', '--weights', str(tmp_path / 'hed.pth')]
    assert main(['edges', '--folder', str(tmp_path / 'images'), '--out', str(tmp_path / 'lines'), *weights]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'lines' / 'a_edge.png')), drawings[0][..., 0])


def test_files_that_are_not_hed_are_refused(tmp_path, convolutions, heads):
    with pytest.raises(ForeignFileError, match='it has 26 arrays; expected 38'):
        features.load_hed(foreign.write_state_dict(tmp_path / 'vgg.pth', convolutions))
    with pytest.raises(ForeignFileError, match='safetensors have none; give the torch file'):
        features.load_hed(tmp_path / 'hed.safetensors')
    with pytest.raises(ForeignFileError, match=r'wrong shape: .*side_0/kernel'):
        features.load_hed(hed_file(tmp_path / 'a.pth', convolutions, heads[::-1], interleaved=False))
    swapped = {k: v.T for k, v in convolutions.items() if k.endswith('bias')} | convolutions
    extra = {f'more{n}': np.zeros(1, np.float32) for n in range(12)}
    with pytest.raises(ForeignFileError, match='weights and biases in turn'):
        features.load_hed(foreign.write_state_dict(tmp_path / 'b.pth', swapped | extra))
