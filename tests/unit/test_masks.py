"""Random holes, classes of hole ratios, folders of masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pegan_jax.config import load_config, system_module
from pegan_jax.data import masks
from pegan_jax.train.report import abstract_batch


def draw_many(kind, size):
    """1024 masks, [1024, size, size] bool."""
    keys = jax.random.split(jax.random.key(0), 1024)
    draw = jax.jit(lambda keys: jax.lax.map(lambda k: masks.draw(k, size, size, kind)[..., 0] > 0, keys))
    return np.asarray(draw(keys))


@pytest.fixture(scope='module')
def brushes():
    return draw_many('brush', 64)


@pytest.mark.parametrize(
    ('kind', 'mean', 'spread', 'low', 'high'),
    [
        ('box', 0.191, 0.024, 0.152, 0.232),
        pytest.param('brush', 0.149, 0.078, 0.035, 0.285, marks=pytest.mark.slow),
        pytest.param('union', 0.308, 0.069, 0.208, 0.433, marks=pytest.mark.slow),
    ],
)
def test_hole_ratios_are_those_of_the_released_program(kind, mean, spread, low, high):
    """Strokes at half the size, which takes a quarter of the time; a test below shows that they are the same."""
    found = draw_many(kind, 256 if kind == 'box' else 128).mean(axis=(1, 2))
    assert abs(found.mean() - mean) < 0.01
    assert abs(found.std() - spread) < 0.01
    np.testing.assert_allclose(np.percentile(found, [5, 95]), [low, high], atol=0.02)


def test_boxes_have_even_sides_of_96_to_128_pixels_and_lie_inside():
    draw = jax.jit(lambda key: masks.draw(key, 256, 256, 'box'))
    sides, corners = set(), []
    for seed in range(200):
        box = np.asarray(draw(jax.random.key(seed)))[..., 0]
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one full rectangle
        sides |= {len(rows), len(columns)}
        corners.append((rows[0], columns[0]))
    assert sides == set(range(96, 129, 2))
    assert np.min(corners) < 10 and 118 < np.max(corners) <= 143  # the last place for 128 pixels is 127


def test_masks_are_zero_or_one_and_the_union_is_that_of_its_parts():
    for seed in range(8):
        key = jax.random.key(seed)
        box, brush, union = (np.asarray(masks._candidate(key, 64, 48, kind)) for kind in ('box', 'brush', 'union'))
        assert union.shape == (64, 48, 1) and union.dtype == np.float32
        assert set(np.unique(union)) <= {0.0, 1.0}
        np.testing.assert_array_equal(union, np.maximum(box, brush))
        assert box.any() and brush.any()


def test_a_key_gives_the_same_strokes_at_every_size(brushes):
    small = brushes[:16].astype(float)
    keys = jax.random.split(jax.random.key(0), 1024)[:16]
    big = np.stack([masks._candidate(k, 256, 256, 'brush')[..., 0] for k in keys])
    reduced = big.reshape(16, 64, 4, 64, 4).mean(axis=(2, 4))
    assert np.abs(small - reduced).mean() < 0.02
    assert abs(brushes.mean() - 0.149) < 0.01


def test_strokes_lie_everywhere_and_do_not_prefer_a_side(brushes):
    """The released program's hang below their start: the flips, which it forgets, even this out."""
    density = brushes.mean(axis=0)
    assert density.min() > 0.02
    for axis in (0, 1):
        assert abs(density.mean(axis=axis)[:32].mean() - density.mean(axis=axis)[32:].mean()) < 0.02


def test_strokes_of_a_wide_image_reach_its_far_end():
    vertices, _, segments = jax.jit(jax.vmap(lambda k: masks.strokes(k, 32, 96)))(
        jax.random.split(jax.random.key(0), 64)
    )
    used = np.asarray(vertices)[np.asarray(segments) > 0]
    assert used[..., 0].max() > 90 and used[..., 1].max() < 33
    assert set(np.unique(segments)) == {0, *range(4, 12)}


@pytest.fixture(scope='module')
def lines():
    """Vertices, widths and numbers of segments of 256 masks of 256 pixels, and the same at 64."""
    keys = jax.random.split(jax.random.key(2), 256)
    return tuple(
        jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda k, n=n: masks.strokes(k, n, n)))(keys)) for n in (256, 64)
    )


def test_strokes_are_zigzags_of_the_published_angles_lengths_and_widths(lines):
    """Angles are 48 to 96 degrees below the horizontal, or as many above it, in turn, where the border cuts nothing."""
    (vertices, widths, _), _ = lines
    assert set(np.unique(widths)) == set(range(12, 40))
    np.testing.assert_array_equal(vertices, np.round(vertices))
    assert vertices.min() >= 0 and vertices.max() <= 256
    moves = np.diff(vertices, axis=2)
    inside = np.all((vertices[:, :, 1:] > 0) & (vertices[:, :, 1:] < 256), axis=-1)
    length = np.linalg.norm(moves, axis=-1)
    angle = np.degrees(np.arctan2(moves[..., 1], moves[..., 0])) * np.where(np.arange(masks.STEPS) % 2 == 0, -1, 1)
    chosen = angle[inside & (length > 40)]  # truncation to pixels turns them by less than two degrees
    assert len(chosen) > 1000 and 46 < chosen.min() < 52 and 92 < chosen.max() < 98
    assert 89 < length.max() < 93 and abs(np.median(length[inside]) - 45) < 4  # twice an eighth of the diagonal


def test_strokes_of_a_quarter_of_the_size_are_the_same_in_pixels_four_times_as_large(lines):
    large, small = lines
    np.testing.assert_allclose((large[0] + 0.5) / 4 - 0.5, small[0], atol=1e-4)
    np.testing.assert_allclose(large[1] / 4, small[1], rtol=1e-6)
    np.testing.assert_array_equal(large[2], small[2])


def test_raster_is_the_line_of_pixels_within_half_the_width():
    vertices = jnp.array([[[4.0, 8.0], [12.0, 8.0], [12.0, 8.0]]])
    mask = np.asarray(masks.raster(vertices, jnp.array([3.0]), jnp.array([2]), 17, 17))[..., 0]
    want = np.zeros((17, 17))
    want[7:10, 4:13] = 1
    want[8, 3] = want[8, 13] = want[7, 3] = want[9, 3] = want[7, 13] = want[9, 13] = 1  # the ends are round
    np.testing.assert_array_equal(mask, want)
    assert not masks.raster(vertices, jnp.array([3.0]), jnp.array([0]), 17, 17).any()


@pytest.mark.parametrize(('height', 'width', 'kind', 'match'), [(4, 64, 'box', 'at least 8'), (64, 64, 'disc', 'disc')])
def test_other_kinds_and_tiny_masks_are_refused(height, width, kind, match):
    with pytest.raises(ValueError, match=match):
        masks.draw(jax.random.key(0), height, width, kind)


# Hole ratios ----------------------------------------------------------------------------------------------------------


def test_bucket_is_the_class_that_the_share_of_holes_is_in():
    for holes, want in ((1, None), (2, (0.01, 0.1)), (10, (0.01, 0.1)), (11, (0.1, 0.2)), (60, (0.5, 0.6)), (61, None)):
        mask = np.zeros((10, 10, 1), np.float32)
        mask.reshape(-1)[:holes] = 1
        assert masks.bucket(mask) == want


@pytest.mark.parametrize('wanted', masks.BUCKETS)
def test_masks_of_a_wanted_class(wanted):
    found = masks.draw_in_bucket(3, 3, 64, 64, 'brush', wanted)
    assert found.shape == (3, 64, 64, 1) and set(np.unique(found)) == {0, 1}
    assert [masks.bucket(mask) for mask in found] == [wanted] * 3
    assert len({mask.tobytes() for mask in found}) == 3
    np.testing.assert_array_equal(masks.draw_in_bucket(3, 1, 64, 64, 'brush', wanted), found[:1])
    assert (masks.draw_in_bucket(4, 1, 64, 64, 'brush', wanted) != found[:1]).any()


def test_a_class_that_boxes_cannot_have_is_refused():
    with pytest.raises(ValueError, match='no mask of kind'):
        masks.draw_in_bucket(0, 1, 64, 64, 'box', (0.01, 0.1))


@pytest.mark.parametrize('system', ['pconv', 'deepfill'])
def test_masks_of_a_folder_come_with_the_batch_and_are_in_no_program(tmp_path, system):
    for i in range(3):
        image = np.zeros((16, 16), np.uint8)
        image[i] = 255
        Image.fromarray(image).save(tmp_path / f'{i}.png')
    changes = ['model.img_resolution=16', 'data.resolution=16', 'model.masks=folder', f'model.mask_folder={tmp_path}']
    config = load_config(f'{system}:tiny', changes)
    gan = system_module(system).build(config)
    drawn = gan.rows(7, range(16))['mask']
    assert {int(np.argmax(mask[:, 0])) for mask in drawn} == {0, 1, 2} and (drawn.sum((1, 2)) == 16).all()
    np.testing.assert_array_equal(gan.rows(7, [5, 5])['mask'], drawn[[5, 5]])
    assert (gan.rows(8, range(16))['mask'] != drawn).any()

    batch = {'image': np.zeros((16, 16, 16, 3), np.float32), 'index': np.arange(16), 'mask': drawn}
    prepare = jax.jit(lambda batch, key: gan.prepare(batch, key, gan.stage_at(0, 0, 0))['mask'])
    inputs, key = jax.jit(lambda batch, key: gan.sampler.inputs(batch, key)['mask']), jax.random.key(0)
    np.testing.assert_array_equal(prepare(batch, key), drawn[:1, ..., None])
    np.testing.assert_array_equal(inputs(batch, key), drawn[..., None])
    for function in (prepare, inputs):
        assert 'dense<"' not in function.lower(batch, key).as_text()
    assert abstract_batch(config, 2)['mask'] == jax.ShapeDtypeStruct((2, *drawn.shape[1:]), drawn.dtype)
