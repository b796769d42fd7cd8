"""Projection into w and w+: the latent of a generated image is found again."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import coords, projection, sample
from pegan_jax.cli import main
from pegan_jax.config import load_config, system_module, to_dict
from pegan_jax.ops import halve
from pegan_jax.pixels import to_uint8
from pegan_jax.projection import observe, plain_distance, project, project_points, with_maps
from pegan_jax.sampling import Model, frame_grid, of_styles, render
from pegan_jax.settings import UserError
from pegan_jax.train.checkpoint import Checkpoints


@functools.cache
def model(name='stylegan2:tiny', overrides=()):
    config = load_config(name, overrides)
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    return Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


def psnr(a, b):
    return 10 * np.log10(4 / np.mean((a - b) ** 2))


@pytest.mark.parametrize(
    'name, space', [pytest.param('stylegan2:tiny', 'w', marks=pytest.mark.slow), ('cips:tiny', 'w+')]
)
def test_the_latent_of_a_generated_image_is_found(name, space):
    loaded = model(name)
    loaded = dataclasses.replace(loaded, variables=jax.device_get(loaded.variables))  # as of a checkpoint
    target = sample(loaded, [3])[0]
    steps = []
    found = project(loaded, target, space=space, steps=250, watch=lambda i, far, image: steps.append(far))
    start = of_styles(loaded, np.asarray(loaded.w_avg)[None])[0]
    assert psnr(found.image, target) > psnr(start, target) + 10 and psnr(found.image, target) > 22
    assert len(steps) == 250 and found.distance < 0.1 * steps[0] and 'gradients' in found.measure
    assert found.ws.shape == (loaded.num_ws, loaded.w_avg.shape[-1])
    assert (found.ws == found.ws[:1]).all() == (space == 'w')
    # The styles give the image again, with the noise that was found.
    again = of_styles(with_maps(loaded, found.maps), found.ws[None])[0]
    np.testing.assert_allclose(again, found.image, atol=1e-4)


def test_distances_see_colours_and_edges_at_every_size():
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    assert float(plain_distance(image, image)[0]) == 0
    np.testing.assert_allclose(plain_distance(image, image + 0.5), [0.25], rtol=1e-5)  # edges are the same
    fine = image + 0.5 * (-1) ** np.arange(32)[None, None, :, None]
    # At the full size 0.25 and, of neighbours that differ by 1, 1; at smaller sizes nothing is left of it.
    np.testing.assert_allclose(plain_distance(image, fine), [1.25 / 3], rtol=1e-4)


def test_large_images_are_compared_at_256_pixels():
    image = np.random.default_rng(0).normal(size=(1, 512, 640, 1)).astype(np.float32)
    np.testing.assert_array_equal(projection.compared(image), halve(image))
    assert projection.compared(image[:, :256]).shape == (1, 256, 640, 1)
    thirds = projection.compared(np.repeat(np.repeat(image[:, :256, :256], 3, 1), 3, 2))
    np.testing.assert_allclose(thirds, image[:, :256, :256], atol=1e-6)
    steps = projection.compared(np.float32(np.broadcast_to(np.arange(384)[None, :, None, None], (1, 384, 400, 1))))
    assert steps.shape == (1, 256, 267, 1)
    np.testing.assert_allclose(steps[0, :4, 0, 0], [0.5, 1.5, 3.5, 4.5], atol=1e-4)


@pytest.mark.parametrize('row, side, count', [('a', 16, 5), ('f', 24, 0)])
def test_only_noise_maps_that_the_picture_depends_on_are_searched(row, side, count, monkeypatch):
    """Row f shows its largest scale, for which noise is drawn."""
    searched = []

    def search(far, start, maps, *rest):
        searched.extend(maps)
        raise StopIteration

    monkeypatch.setattr(projection, '_search', search)
    with pytest.raises(StopIteration):
        project(model(f'mspie:{row},tiny'), np.zeros((side, side, 3), np.float32))
    assert len(searched) == count


def test_noise_maps_stay_white():
    noise = projection._normalised(jax.random.normal(jax.random.key(0), (16, 16)) + 3)
    np.testing.assert_allclose((noise.mean(), (noise**2).mean()), (0, 1), atol=1e-5)
    smooth = projection._normalised(np.sin(np.arange(16) / 16 * 2 * np.pi)[:, None] * np.ones((1, 16), np.float32))
    assert projection._correlations(smooth) > 20 * projection._correlations(noise)


def test_what_cannot_be_projected_is_told():
    with pytest.raises(ValueError, match='dcgan has no w to project into; use stylegan2'):
        project(model('dcgan:tiny'), np.zeros((32, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r'the image is \(8, 9, 3\), but the model makes'):
        project(model(), np.zeros((8, 9, 3), np.float32))
    with pytest.raises(ValueError, match="space='z'"):
        project(model(), np.zeros((16, 16, 3), np.float32), space='z')
    with pytest.raises(ValueError, match="space='w\\+': cips of this configuration has one style; use 'w'"):
        project(model('cips:no-modulation,tiny'), np.zeros((16, 16, 3), np.float32), space='w+')


# By coordinates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('given', ['scattered:0.25', 'foveated:0.25', 'coarse:2', 'hole'])
def test_a_generated_image_is_recovered_from_a_quarter_of_its_pixels(given):
    loaded = model('cips:tiny')
    loaded = dataclasses.replace(loaded, variables=jax.device_get(loaded.variables))
    target = sample(loaded, [3])[0]
    if given == 'hole':
        given = np.zeros((16, 16), bool)
        given[:8, 4:12] = True  # one corner of the image, and nothing of its lower half
    observed = observe(loaded, target, given)
    assert len(observed.points) == 64 and observed.pixels.sum() in (64, 256)
    found = project_points(loaded, observed.points, observed.colours, steps=250)
    rest = ~observed.pixels if not observed.pixels.all() else observed.pixels
    start = of_styles(loaded, np.asarray(loaded.w_avg)[None])[0]
    assert psnr(found.image[rest], target[rest]) > max(psnr(start[rest], target[rest]) + 6, 20)
    # What was found is rendered anywhere; the image is that of the frame.
    np.testing.assert_allclose(render(loaded, found.ws, frame_grid(loaded)), found.image, atol=1e-4)
    assert found.distance < 0.01


def test_a_model_with_one_style_is_fitted_too():
    loaded = model('cips:no-modulation,tiny')
    observed = observe(loaded, sample(loaded, [3])[0], 'scattered:0.1')
    found = project_points(loaded, observed.points, observed.colours, steps=2)
    np.testing.assert_allclose(render(loaded, found.ws), found.image, atol=1e-4)
    for use, ws in ((render, found.ws[None]), (of_styles, found.ws[None, None])):
        with pytest.raises(UserError, match=r'styles have the shape .*; this model takes \[16\]\.'):
            use(loaded, ws)


def test_blocks_have_the_mean_of_their_pixels():
    loaded, image = model('cips:tiny'), np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    observed = observe(loaded, image, 'coarse:4')
    np.testing.assert_allclose(observed.colours[5], image[4:8, 4:8].mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(observed.points[5].reshape(4, 4, 2), coords.grid(16, 16)[4:8, 4:8], atol=1e-6)
    picture = projection.picture_of(observed)
    np.testing.assert_array_equal(picture[4:8, 4:8], np.broadcast_to(to_uint8(observed.colours[5]), (4, 4, 3)))
    few = observe(loaded, image, 'scattered:0.1')
    shown = (projection.picture_of(few) == to_uint8(image)).all(-1)
    assert few.pixels.sum() == 26 and (shown >= few.pixels).all() and shown.sum() < 40
    # Scattered pixels are anywhere, foveated ones rather in the middle.
    wide, narrow = (
        observe(loaded, image, f'{kind}:0.3').pixels[4:12, 4:12].mean() for kind in ('scattered', 'foveated')
    )
    assert wide < 0.4 < narrow, (wide, narrow)


def test_what_cannot_be_given_is_told():
    image = np.zeros((16, 16, 3), np.float32)
    with pytest.raises(ValueError, match='stylegan2 makes whole images: it is fitted to all pixels'):
        observe(model(), image, 'scattered:0.5')
    for given in ('scattered:0', 'scattered:2', 'coarse:5', 'coarse:1', 'all', 'foveated:x'):
        with pytest.raises(ValueError, match='is nothing to give; use scattered:SHARE'):
            observe(model('cips:tiny'), image, given)
    with pytest.raises(ValueError, match='the pixels given are 0 of'):
        observe(model('cips:tiny'), image, np.zeros((16, 16), bool))
    with pytest.raises(ValueError, match=r'points \(4, 1, 2\) and colours \(3, 3\)'):
        project_points(model('cips:tiny'), np.zeros((4, 2)), np.zeros((3, 3)))


def test_the_command_fits_what_is_given_and_tells_the_rest(tmp_path, capsys):
    loaded, workdir = model('cips:tiny'), tmp_path / 'run'
    checkpoints = Checkpoints(workdir / 'checkpoints')
    checkpoints.save_items(0, {'sampling': loaded.variables}, {'config': to_dict(loaded.config), 'images': 0})
    checkpoints.close()
    Image.fromarray(to_uint8(sample(loaded, [3])[0])).save(tmp_path / 'image.png')
    hole = np.zeros((16, 16), np.uint8)
    hole[:, 8:] = 255
    Image.fromarray(hole // 255).save(tmp_path / 'ones.png')  # as programs write them
    Image.fromarray(hole).save(tmp_path / 'hole.png')
    for given, count in (('scattered:0.25', 64), (f'{tmp_path}/ones.png', 128), (f'{tmp_path}/hole.png', 128)):
        words = ['--model', str(workdir), '--image', str(tmp_path / 'image.png'), '--out', str(tmp_path / 'found')]
        assert main(['project', *words, '--given', given, '--steps', '20']) == 0
        printed = capsys.readouterr().out
        assert f'dB of {count} pixels given' in printed and f'dB of {256 - count} pixels held out' in printed
    Image.new('L', (8, 8)).save(tmp_path / 'small.png')
    for given, match in (
        (f'{tmp_path}/small.png', 'the mask must be as large'),
        ('scattered', 'such as scattered:0.25'),
    ):
        assert main(['project', *words, '--given', given, '--steps', '1']) == 1
        assert match in capsys.readouterr().err
    shown = np.asarray(Image.open(tmp_path / 'found' / 'given.png'))
    assert (shown[:, 8:] == 128).all() and shown[:, :8].std() > 10
    out = tmp_path / 'wide.npy'
    words = ['--model', str(workdir), '--ws', str(tmp_path / 'found' / 'projected_w.npz'), '--out', str(out)]
    assert main(['render', *words, '--size', '24', '--extent=-2,2,-2,2']) == 0 and np.load(out).shape == (24, 24, 3)


def test_what_the_command_found_is_drawn_again_with_its_noise(tmp_path):
    loaded, workdir = model('stylegan2:tiny'), tmp_path / 'run'
    loud = jax.tree_util.tree_map_with_path(lambda path, x: x + 0.3 * ('noise_strength' in str(path)), loaded.variables)
    checkpoints = Checkpoints(workdir / 'checkpoints')
    checkpoints.save_items(0, {'sampling': loud}, {'config': to_dict(loaded.config), 'images': 0})
    checkpoints.close()
    Image.fromarray(to_uint8(sample(loaded, [3])[0])).save(tmp_path / 'image.png')
    words = ['--model', str(workdir), '--image', str(tmp_path / 'image.png'), '--steps', '3']
    assert main(['project', *words, '--out', str(tmp_path / 'found')]) == 0
    styles = ['--model', str(workdir), '--ws', str(tmp_path / 'found' / 'projected_w.npz')]
    for command in ('sample', 'render'):
        assert main([command, *styles, '--out', str(tmp_path / f'{command}.png')]) == 0
        drawn, found = (np.asarray(Image.open(tmp_path / name)) for name in (f'{command}.png', 'found/projected.png'))
        np.testing.assert_allclose(drawn.astype(int), found, atol=1)


def test_a_film_of_any_search_has_a_bounded_number_of_frames(tmp_path, monkeypatch):
    from pegan_jax.cli import project as command

    def search(loaded, target, *, steps, watch, **rest):
        images = np.linspace(-1, 1, steps)[:, None, None, None] * np.ones((16, 16, 3))
        for step, image in enumerate(images):
            watch(step, 0.0, lambda image=image: image)
        return projection.Projection(np.zeros((1, 4)), images[-1], 0.0, 'nothing', {})

    monkeypatch.setattr(command, 'project', search)
    monkeypatch.setattr(command.options, 'load', lambda args: model('cips:tiny'))
    monkeypatch.setattr(command, 'MOST_FRAMES', 3)
    Image.new('RGB', (16, 16)).save(tmp_path / 'photo.png')
    film = ['--steps', '7', '--video', str(tmp_path / 'film.gif'), '--out', str(tmp_path / 'found')]
    assert main(['project', '--model', 'worlds32', '--image', str(tmp_path / 'photo.png'), *film]) == 0
    with Image.open(tmp_path / 'film.gif') as image:
        assert image.n_frames == 3
