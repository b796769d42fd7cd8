"""The models that come with the library: every one is there, is what its card and its configuration say, and draws."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from toy import assert_equal_up_to_rounding

import pegan_jax
from pegan_jax import coords, editing, inpainting
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.data import edges, worlds
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import of_styles
from pegan_jax.train import exported

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(exported.SHIPPED.iterdir())
FACES = ('smileys32', 'turn32')
CARDS = (ROOT / 'docs' / 'models.md').read_text()


def test_they_are_small_and_no_other_file_lies_beside_them():
    assert {file.suffix for file in FILES} == {'.safetensors'}
    assert all(file.stat().st_size < 4e6 for file in FILES) and sum(file.stat().st_size for file in FILES) < 16e6


@pytest.mark.parametrize('name', [file.stem for file in FILES])
def test_a_model_is_that_of_its_configuration_and_has_a_card(name):
    model, card = pegan_jax.load(name), re.search(rf'^## {name}\n(.*?)(?=^## |\Z)', CARDS, re.M | re.S)[1]
    config = load_config(re.search(r'--config (\S+)', card)[1])
    assert model.config.model == config.model and model.config.data.size == config.data.size
    assert f'{model.images:,} images' in card


@pytest.mark.parametrize('name', [file.stem for file in FILES if file.stem not in ('fill64', *FACES)])
def test_a_model_draws_scenes_that_differ_with_a_sky_above_the_ground(name):
    images = np.asarray(pegan_jax.sample(pegan_jax.load(name), range(32)))
    assert images.std(0).mean() > (0.05 if name == 'mountain' else 0.2), 'variants of one photograph differ less'
    assert np.abs(np.diff(images, axis=2)).mean() < 0.3 * images.std(), 'neighbours are as different as strangers'
    blue = (images[..., 2] - images[..., 0]).mean((0, 2))  # over red, of every row
    assert blue[: len(blue) // 3].mean() > blue[-(len(blue) // 3) :].mean() + 0.3


@pytest.mark.parametrize('name', FACES)
def test_a_model_draws_yellow_disks_on_white_with_eyes_and_mouths_that_differ(name):
    images = np.asarray(pegan_jax.sample(pegan_jax.load(name), range(32)))
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    face, corners = images[:, np.hypot(x, y) < 0.6], images[:, np.hypot(x, y) > 1.2]
    assert corners.mean() > 0.9 and np.median(face[..., 0] - face[..., 2]) > 0.8
    assert (face.mean(-1) < -0.3).mean(1).min() > 0.01, 'a face without eyes and mouth'
    assert face.std(0).mean() > 0.3, 'all faces are alike'


def test_faces_of_turn32_are_turned_as_their_pixels_are_and_between_right_angles_too():
    model = pegan_jax.load('turn32')
    w = model.styles(range(8))
    straight, right, half = (of_styles(model, w, transform=coords.rotate(n * np.pi / 4)) for n in (0, 2, 1))
    assert_equal_up_to_rounding(right, np.rot90(straight, 1, (1, 2)))
    pixels = [Image.fromarray(image).rotate(45, Image.Resampling.BICUBIC) for image in to_uint8(straight)]
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    apart = np.abs(to_uint8(half).astype(int) - np.stack(pixels))[:, np.hypot(x, y) < 0.8].mean()
    assert apart < 0.2 * np.abs(to_uint8(half).astype(int) - to_uint8(straight))[:, np.hypot(x, y) < 0.8].mean()


def test_sizes64_shows_the_scene_of_a_latent_at_every_size():
    model, bands = pegan_jax.load('sizes64'), []
    for size in ((32, 32), (48, 48), (64, 64), (64, 128)):
        images = np.asarray(pegan_jax.sample(model, range(16), size=size))
        assert images.shape == (16, *size, 3)
        bands.append(images.reshape(16, 8, -1, 3).mean(2))  # colours of eight heights
    same = np.std(bands, axis=0).mean()
    assert same < 0.4 * np.std(bands, axis=1).mean(), 'a latent is another scene at another size'


def test_the_mountain_gives_its_photograph_back_and_a_wide_one_keeps_its_order():
    model = pegan_jax.load('mountain')
    real = editing.real_image(model)
    assert np.mean((editing.reconstruct(model) - real) ** 2) < 0.1 * real.std() ** 2
    wide = editing.samples(model, [0], size=(80, 360))[0]
    # Sky, wood and grass, by their rows: their mean colours are those of the photograph.
    np.testing.assert_allclose(wide.mean(1)[::8], real.mean(1)[::8], atol=0.25)


def test_fill64_fills_what_it_never_saw_nearer_than_a_smooth_surface_and_follows_lines():
    model, unseen = pegan_jax.load('fill64'), to_uint8(worlds.render_world(np.arange(900_000, 900_048), 64, 64))
    hole = np.zeros(unseen.shape[:3], bool)
    hole[:, 20:44, 20:44] = True
    lines = hole & np.stack([edges.extract(image, 'canny')[..., 0] > 127 for image in unseen])
    alone, told = pegan_jax.inpaint(model, unseen, hole), pegan_jax.inpaint(model, unseen, hole, lines)
    np.testing.assert_array_equal(told[~hole], unseen[~hole])

    def error(images):
        return np.square(images.astype(float) - unseen)[hole].mean()

    assert error(alone) < 0.9 * error(inpainting.biharmonic(unseen, hole))
    assert error(told) < 0.8 * error(alone)


def test_the_name_alone_is_a_model_wherever_one_is_and_a_folder_of_that_name_goes_first(
    tmp_path, tmp_path_factory, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(['sample', '--model', 'worlds32', '--seeds', '0-3', '--out', 'samples.png']) == 0
    assert Image.open('samples.png').size == (128, 32)
    assert main(['inspect', '--model', 'worlds32']) == 0
    assert (
        main(
            ['evaluate', '--model', 'worlds32', '--metrics', 'rows8', '--cache', str(tmp_path_factory.mktemp('cache'))]
        )
        == 0
    )
    assert 'in worlds32' in capsys.readouterr().out and [*tmp_path.iterdir()] == [tmp_path / 'samples.png']
    (tmp_path / 'worlds32').mkdir()
    assert main(['sample', '--model', 'worlds32', '--seeds', '0', '--out', 'again.png']) == 1
    assert 'worlds32' in capsys.readouterr().err and not (tmp_path / 'again.png').exists()
    assert main(['sample', '--model', 'worlds65', '--seeds', '0', '--out', 'again.png']) == 1
    assert 'a model that ships (' in capsys.readouterr().err
