"""Masks in files: white holes, labels, colours, transparency, fringes; what is guessed is told."""

import numpy as np
import pytest
from PIL import Image

from pegan_jax.config import ConfigError
from pegan_jax.data import mask_files
from pegan_jax.pixels import UnreadableImage
from pegan_jax.settings import UserError


def save(path, image):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(image).save(path)


def test_a_folder_of_masks_is_read_as_holes_where_it_is_white(tmp_path, caplog):
    left = np.zeros((8, 16), np.uint8)
    left[:, :8] = 255
    save(tmp_path / 'a.png', left)
    save(tmp_path / 'b' / 'rgb.png', np.repeat(left.T[..., None], 3, axis=-1))
    save(tmp_path / 'c.bmp', left // 255)
    (tmp_path / 'notes.txt').write_text('no mask')
    found = mask_files.read_folder(tmp_path, 4, 4)
    assert found.shape == (3, 4, 4) and found.dtype == np.uint8 and not caplog.records
    half = np.repeat([[1, 1, 0, 0]], 4, axis=0)
    np.testing.assert_array_equal(found, [half, half.T, half])


def test_masks_are_resized_by_taking_single_pixels(tmp_path):
    thin = np.zeros((8, 8), np.uint8)
    thin[:, 2] = 255
    save(tmp_path / 'thin.png', thin)
    np.testing.assert_array_equal(mask_files.read_folder(tmp_path, 2, 2), [[[1, 0], [1, 0]]])


def test_grey_masks_are_cut_in_the_middle_with_a_warning(tmp_path, caplog):
    save(tmp_path / 'grey.png', np.array([[0, 100], [127, 128]], np.uint8))
    np.testing.assert_array_equal(mask_files.read_folder(tmp_path, 2, 2), [[[0, 0], [0, 1]]])
    assert 'grey.png: it has 4 grey values' in caplog.text


def test_folders_without_usable_masks_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='is not a folder'):
        mask_files.read_folder(tmp_path / 'none', 8, 8)
    with pytest.raises(ConfigError, match='holds no mask'):
        mask_files.read_folder(tmp_path, 8, 8)
    save(tmp_path / 'black.png', np.zeros((8, 8), np.uint8))
    with pytest.raises(ConfigError, match='has a hole'):
        mask_files.read_folder(tmp_path, 8, 8)
    save(tmp_path / 'all.png', np.full((8, 8), 255, np.uint8))
    with pytest.raises(ConfigError, match=r'all\.png is a hole everywhere'):
        mask_files.read_folder(tmp_path, 8, 8)
    (tmp_path / 'all.png').unlink()
    (tmp_path / 'broken.png').write_bytes(b'no image')
    with pytest.raises(ConfigError, match=r'broken\.png: not an image .* repair this mask'):
        mask_files.read_folder(tmp_path, 8, 8)


HOLE = np.zeros((24, 32), bool)
HOLE[4:12, 8:20] = True


def painted(hole, ground=(0, 0, 0)):
    """uint8 [24, 32, 3]."""
    return np.where(HOLE[..., None], np.uint8(hole), np.uint8(ground))


def with_alpha(pixels, opaque):
    return np.concatenate([pixels, np.where(opaque, np.uint8(255), np.uint8(0))[..., None]], -1)


NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
OBJECTS = np.where(HOLE, 1, 0).astype(np.uint8)
OBJECTS[20:, :] = 2
TWO = painted((200, 30, 30))
TWO[20:] = (30, 30, 220)


@pytest.mark.parametrize(
    'story, image, told',
    [
        ('white on black', HOLE * np.uint8(255), None),
        ('labels 0 and 1', HOLE * np.uint8(1), None),
        ('labels 0 and 2, as trimaps have', HOLE * np.uint8(2), 'values 0, 2, of which all but 0 are the hole'),
        ('labels 0 and 100', HOLE * np.uint8(100), 'values 0, 100'),
        ('16 bits', HOLE * np.uint16(65535), None),
        ('16 bits with labels', HOLE * np.uint16(3), 'values 0, 3'),
        ('green on black, as annotation tools paint', painted((0, 255, 0)), 'all colours but black are the hole'),
        ('red on white', painted((255, 0, 0), (255, 255, 255)), 'all colours but white are the hole'),
        ('blue on orange', painted((0, 0, 255), (255, 128, 0)), 'all colours but the colour 255,128,0'),
        ('erased from a white layer', with_alpha(painted(255, (255, 255, 255)), ~HOLE), 'transparent is the hole'),
        ('erased from a photograph', with_alpha(NOISE, ~HOLE), 'what is transparent is the hole'),
        (
            'white strokes on a transparent layer',
            with_alpha(painted((255, 255, 255)), HOLE),
            'strokes on a transparent',
        ),
        ('red strokes on a clear layer', with_alpha(painted((250, 20, 20)), HOLE), 'strokes on a transparent'),
    ],
)
def test_the_hole_of_a_mask_as_people_make_them(tmp_path, caplog, story, image, told):
    Image.fromarray(image).save(tmp_path / 'm.png')
    np.testing.assert_array_equal(mask_files.read(tmp_path / 'm.png'), HOLE, err_msg=story)
    assert bool(caplog.records) == (told is not None)
    if told:
        assert told in caplog.text and f'{100 * HOLE.mean():.1f} % of the image is hole' in caplog.text
    np.testing.assert_array_equal(mask_files.read(tmp_path / 'm.png', invert=True), ~HOLE)


@pytest.mark.parametrize('colours', [(255, 255, 255), (0, 255, 0)])
def test_fringes_of_a_jpeg_belong_to_what_they_surround(tmp_path, colours):
    large = np.kron(painted(colours), np.ones((16, 16, 1), np.uint8))
    Image.fromarray(large).save(tmp_path / 'm.jpg', quality=60)
    found = mask_files.read(tmp_path / 'm.jpg')
    assert np.mean(found != np.kron(HOLE, np.ones((16, 16), bool))) < 0.005


def test_one_of_several_objects_is_picked_by_its_colour_or_value(tmp_path):
    Image.fromarray(TWO).save(tmp_path / 'm.png')
    np.testing.assert_array_equal(mask_files.read(tmp_path / 'm.png', colour=(205, 25, 35)), HOLE)
    assert mask_files.read(tmp_path / 'm.png').mean() > HOLE.mean()
    with pytest.raises(UserError, match=r'no pixel of --mask-colour 0,255,0; its most frequent are 0,0,0 30,30,220'):
        mask_files.read(tmp_path / 'm.png', colour=(0, 255, 0))
    Image.fromarray(OBJECTS).save(tmp_path / 'o.png')
    np.testing.assert_array_equal(mask_files.read(tmp_path / 'o.png', colour=1), HOLE)
    with pytest.raises(UserError, match='no pixel of --mask-colour 7; its most frequent are 0 2 1'):
        mask_files.read(tmp_path / 'o.png', colour=7)


def test_a_mask_that_is_no_image_is_named(tmp_path):
    (tmp_path / 'm.png').write_bytes(b'x')
    with pytest.raises(UnreadableImage, match=r'm\.png: not an image'):
        mask_files.read(tmp_path / 'm.png')


def test_a_number_is_that_of_a_palette_and_the_advice_is_for_who_can_follow_it(tmp_path, caplog):
    labels = Image.fromarray(np.repeat(np.uint8([0, 2, 3, 3]), 4).reshape(4, 4), 'P')
    labels.putpalette([0, 0, 0, 9, 9, 9, 128, 128, 0, 0, 128, 0])
    labels.save(tmp_path / 'labels.png')
    hole = mask_files.read(tmp_path / 'labels.png', colour=3)
    np.testing.assert_array_equal(hole, np.arange(16).reshape(4, 4) >= 8)
    for option in (None, '--mask-colour'):
        caplog.clear()
        mask_files.read(tmp_path / 'labels.png', option=option)
        assert ('picks one' in caplog.text) == (option is not None)
