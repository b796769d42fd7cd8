"""Rendering beyond regular grids: warps, panoramas, spheres, styles of every position, supersampling, pyramids."""

import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import coords, pixels
from pegan_jax.cli import main
from pegan_jax.config import load_config, system_module, to_dict
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import (
    Blend,
    Model,
    frame_grid,
    lazy_grid,
    painted,
    panorama,
    planet,
    render,
    render_foveated,
    render_tiles,
    sample,
    sphere,
)
from pegan_jax.sampling.grids import cropped, half_height, lookup


def untrained(name, *overrides):
    config = load_config(name, overrides)
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    return Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


@pytest.fixture(scope='module')
def model():
    return untrained('cips:tiny')


@pytest.fixture(scope='module')
def round_model():
    """A quarter of the circle is 16 pixels."""
    return untrained('cips:panorama,tiny')


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """(model) -> the folder of a run of which it is the checkpoint."""
    from pegan_jax.train.checkpoint import Checkpoints

    folders = {}

    def save(model):
        if model not in folders:
            folders[model] = tmp_path_factory.mktemp('run')
            checkpoints = Checkpoints(folders[model] / 'checkpoints')
            parts = {'params': model.variables['params'], 'buffers': model.variables['buffers']}
            checkpoints.save_items(0, {'sampling': parts}, {'config': to_dict(model.config), 'images': 0})
            checkpoints.close()
        return folders[model]

    return save


def close(a, b, atol=2e-5):
    np.testing.assert_allclose(a, b, atol=atol)


# Grids ----------------------------------------------------------------------------------------------------------------


def test_a_warped_grid_is_the_warped_coordinates(model):
    def swirl(points):
        return coords.transform(points, coords.rotate(0.7)) * (1 + points[..., :1] ** 2)

    motion = coords.translate(0.2, -0.1)
    warped = swirl(coords.transform(coords.grid(9, 7), motion))
    lazy = lazy_grid(9, 7, matrix=motion, warp=swirl)
    close(render(model, 3, lazy, chunk=20), render(model, 3, warped))
    close(
        render(model, 3, lazy_grid(9, 7, matrix=motion, warp=swirl, crop=(2, 1, 4, 5))),
        render(model, 3, warped)[2:6, 1:6],
    )


def test_supersampling_is_the_mean_over_the_square_of_a_pixel(model):
    grid = lazy_grid(6, 5, x=(-1, 1), y=(-0.5, 2))
    pitch_x, pitch_y = 2 / 4, 2.5 / 5
    x = (-1 - pitch_x / 2 + pitch_x / 6, 1 + pitch_x / 2 - pitch_x / 6)
    y = (-0.5 - pitch_y / 2 + pitch_y / 6, 2 + pitch_y / 2 - pitch_y / 6)
    fine = np.asarray(model.synthesise(model.styles([2]), grid=coords.grid(18, 15, x=x, y=y)))
    want = fine.reshape(6, 3, 5, 3, 3).mean((1, 3))
    close(render(model, 2, grid, supersample=3), want)
    close(render(model, 2, grid, supersample=3, chunk=40), want)  # four pixels at once
    close(render(model, 2, coords.grid(6, 5, y=(-0.5, 2)), supersample=3), want)
    # A window of one row or column has the squares of the whole.
    for crop in ((2, 0, 1, 5), (0, 3, 6, 1), (5, 4, 1, 1)):
        window = (slice(crop[0], crop[0] + crop[2]), slice(crop[1], crop[1] + crop[3]))
        close(render(model, 2, cropped(grid, *crop), supersample=3), want[window])
    # A matrix turns the squares with the grid.
    turned = lazy_grid(6, 5, y=(-0.5, 2), matrix=coords.rotate(0.4))
    array = coords.transform(coords.grid(6, 5, y=(-0.5, 2)), coords.rotate(0.4))
    close(render(model, 2, turned, supersample=2), render(model, 2, array, supersample=2))
    assert np.abs(render(model, 2, grid) - want).max() > 1e-3
    for bad, match in ((0, 'supersample=0 must be at least 1'), (2, 'scattered coordinates have no pixels')):
        with pytest.raises(ValueError, match=match):
            render(model, 2, coords.grid(6, 5).reshape(-1, 2), supersample=bad)
    with pytest.raises(ValueError, match=r'chunk=8 must be at least 9, the coordinates of one pixel'):
        render(model, 2, grid, supersample=3, chunk=8)


# Cylinders ------------------------------------------------------------------------------------------------------------


def test_panoramas_close_and_any_arc_is_a_part_of_them(round_model):
    whole = panorama(round_model, 16)
    assert whole.shape == (16, 64, 2)
    image = render(round_model, 5, whole)
    close(image, render(round_model, 5, coords.panorama_grid(16, 64)))
    close(render(round_model, 5, panorama(round_model, 16, azimuth=math.pi / 2)), np.roll(image, -16, axis=1), 1e-4)
    # A quarter about azimuth 0 is the frame of training, and twice around shows everything twice.
    close(render(round_model, 5, panorama(round_model, 16, arc=0.25)), image[:, 24:40], 1e-4)
    close(render(round_model, 5), sample(round_model, [5])[0], 1e-4)
    close(
        render(round_model, 5, panorama(round_model, 16, arc=2)), np.roll(np.tile(image, (1, 2, 1)), 32, axis=1), 1e-4
    )


def test_planets_and_spheres_read_the_panorama_along_their_rays(round_model):
    h = half_height(round_model)
    assert h == pytest.approx(math.pi / 4)

    def at(azimuth, latitude):
        y = np.clip(-math.tan(latitude) / h, -1, 1)
        return render(round_model, 1, np.array([azimuth / math.pi, y], np.float32))

    ball = render(round_model, 1, sphere(round_model, 8))
    assert ball.shape == (8, 16, 3)
    for i, j in ((0, 3), (3, 8), (5, 15), (7, 0)):
        close(ball[i, j], at((-1 + j / 8) * math.pi, math.pi / 2 * (1 - (2 * i + 1) / 8)), 1e-4)
    turned = render(round_model, 1, sphere(round_model, 8, azimuth=math.pi / 4))
    close(turned, np.roll(ball, -2, axis=1), 1e-4)
    # Nine pixels, radius 2: neighbours are half a unit apart, the horizon is two of them away.
    ground, sky = (render(round_model, 1, planet(round_model, 9, up=up)) for up in (False, True))
    close(ground[2, 4], at(0, 0), 1e-4)  # above: straight on, at the horizon
    close(ground[4, 6], at(math.pi / 2, 0), 1e-4)  # on the right, the right
    close(ground[4, 5], at(math.pi / 2, 2 * math.atan(0.5) - math.pi / 2), 1e-4)
    close(sky[6, 4], at(0, 0), 1e-4)
    close(sky[4, 5], at(math.pi / 2, math.pi / 2 - 2 * math.atan(0.5)), 1e-4)
    close(render(round_model, 1, planet(round_model, 9, azimuth=math.pi / 2))[2, 4], at(math.pi / 2, 0), 1e-4)
    close(render(round_model, 1, planet(round_model, 9, azimuth=math.pi / 2, up=True))[6, 4], at(math.pi / 2, 0), 1e-4)


def test_the_default_azimuth_changes_nothing(round_model, saved, tmp_path, capsys):
    for name, words in (('without', []), ('with', ['--azimuth', '0'])):
        out = ['--size', '16x48', '--out', str(tmp_path / f'{name}.npy')]
        assert main(['render', '--model', str(saved(round_model)), *out, *words]) == 0
    np.testing.assert_array_equal(*(np.load(tmp_path / f'{name}.npy') for name in ('without', 'with')))
    assert main(['render', '--model', str(saved(round_model)), *out, '--arc', '0']) == 1
    assert '--arc 0 must be positive; 360 is the whole circle' in capsys.readouterr().err
    with pytest.raises(ValueError, match=r'arc=0.0 must be positive; 1 is'):
        panorama(round_model, 8, arc=0.0)


def test_a_flat_model_has_no_circle(model):
    for view in (panorama, sphere, planet):
        with pytest.raises(ValueError, match='this cips is not on a cylinder'):
            view(model, 8)


# Styles of every position ---------------------------------------------------------------------------------------------


def test_seeds_blend_across_the_plane(model):
    grid = coords.grid(4, 9)
    one, other = render(model, 1, grid), render(model, 2, grid)
    image = render(model, 1, grid, blend=Blend((2,), coords.across), chunk=10)
    close(image[:, 0], one[:, 0])
    close(image[:, -1], other[:, -1])
    between = (model.styles([1]) + model.styles([2])) / 2
    close(image[:, 4], np.asarray(model.synthesise(between, grid=grid[:, 4]))[0])
    close(render(model, 1, grid, blend=Blend((2,), lambda p: coords.across(p, 1)))[0], one[0])
    # Truncation and styles per layer hold for all of them.
    few = {'truncation_psi': 0.5, 'truncation_cutoff': 2}
    image = render(model, 1, grid, blend=Blend((2,), coords.across), **few)
    close(image[:, -1], render(model, 2, grid, **few)[:, -1])


def test_a_style_field_is_painted_by_a_mask_of_the_frame(model):
    mask = np.zeros((8, 8, 2), np.uint8)
    mask[:, 4:, 0], mask[:4, :4, 1] = 255, 255
    grid = coords.grid(8, 8, centered=True)
    image = render(model, 1, grid, blend=Blend((2, 3), painted(model, mask)))
    for seed, part in ((1, np.s_[4:, :4]), (2, np.s_[:, 4:]), (3, np.s_[:4, :4])):
        close(image[part], render(model, seed, grid)[part])
    # It stays with the content, and its border goes on outside.
    wide = render(
        model, 1, coords.grid(16, 16, x=(-2, 2), y=(-2, 2), centered=True), blend=Blend((2, 3), painted(model, mask))
    )
    far = coords.grid(16, 16, x=(-2, 2), y=(-2, 2), centered=True)
    close(wide[:, 13:], render(model, 2, far)[:, 13:])
    # Where the shares are more than all, they are scaled to it.
    both = render(model, 1, grid, blend=Blend((2, 3), painted(model, np.full((8, 8, 2), 255, np.uint8))))
    between = (model.styles([2]) + model.styles([3])) / 2
    close(both, np.asarray(model.synthesise(between, grid=grid))[0])
    with pytest.raises(ValueError, match='2 shares for 1 other seeds'):
        render(model, 1, grid, blend=Blend((2,), painted(model, mask)))


def test_blends_around_a_cylinder_are_continuous(round_model):
    grid = panorama(round_model, 4, 32)
    image = render(round_model, 1, grid, blend=Blend((2,), coords.around))
    close(image[:, 16], render(round_model, 1, grid)[:, 16])
    close(image[:, 0], render(round_model, 2, grid)[:, 0])
    mask = np.zeros((2, 4), np.uint8)
    mask[:, 0] = mask[:, 3] = 255  # both sides of the seam
    near = coords.grid(2, 2, x=(1 - 1e-3, 1 + 1e-3), y=(-0.5, 0.5))
    image = render(round_model, 1, near, blend=Blend((2,), painted(round_model, mask)))
    close(image, render(round_model, 2, near), 1e-4)


def test_styles_that_were_found_are_rendered_as_a_seed_is(model):
    ws = np.asarray(model.styles([4]))[0]
    grid = coords.grid(5, 6)
    close(render(model, ws, grid), render(model, 4, grid))
    close(render(model, np.repeat(ws[None], model.num_ws, 0), grid), render(model, 4, grid))
    blend = Blend((2,), coords.across)
    close(render(model, ws, grid, blend=blend), render(model, 4, grid, blend=blend))
    with pytest.raises(ValueError, match=r'styles have the shape \(3,\); this model takes \[16\]'):
        render(model, np.zeros(3), grid)


# Pyramids -------------------------------------------------------------------------------------------------------------


def _tiles(folder, level):
    """The image of a level, put together."""
    names = {p: tuple(map(int, p.stem.split('_'))) for p in (folder / 'image_files' / str(level)).iterdir()}
    rows = {}
    for path, (_, row) in sorted(names.items(), key=lambda item: item[1]):
        rows.setdefault(row, []).append(np.asarray(Image.open(path)).astype(int))
    return np.concatenate([np.concatenate(rows[row], axis=1) for row in sorted(rows)])


@pytest.mark.parametrize('lazy', [True, False])
def test_a_pyramid_of_tiles_is_the_image_and_its_halves(model, tmp_path, lazy):
    grid = lazy_grid(21, 37) if lazy else coords.grid(21, 37)
    image = np.clip(render(model, 2, grid), -1, 1)
    path = render_tiles(model, 2, grid, tmp_path / 'zoom', side=8)
    assert path == tmp_path / 'zoom' / 'image.dzi'
    assert re.search(r'TileSize="8".*Width="37" Height="21"', path.read_text(), re.DOTALL)
    assert sorted(p.name for p in (tmp_path / 'zoom' / 'image_files').iterdir()) == list('0123456')
    for level in range(6, -1, -1):
        got = _tiles(tmp_path / 'zoom', level)
        assert got.shape == image.shape and np.abs(got - to_uint8(image)).max() <= 1
        image = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode='edge')
        image = image.reshape(image.shape[0] // 2, 2, -1, 2, 3).mean((1, 3))
    assert np.asarray(Image.open(tmp_path / 'zoom/image_files/6/4_2.png')).shape == (5, 5, 3)
    (tmp_path / 'zoom' / 'tiles.json').unlink()
    with pytest.raises(ValueError, match='is not an empty folder'):
        render_tiles(model, 2, grid, tmp_path / 'zoom')
    with pytest.raises(ValueError, match='side=7'):
        render_tiles(model, 2, grid, tmp_path / 'other', side=7)


def test_a_pyramid_goes_on_where_it_was_cut_and_no_other_image_joins_it(model, tmp_path, monkeypatch):
    grid, folder = lazy_grid(21, 37), tmp_path / 'zoom'
    whole = render_tiles(model, 2, grid, tmp_path / 'whole', side=8).parent
    saved, left = pixels.as_image, iter(range(7))
    monkeypatch.setattr(pixels, 'as_image', lambda image: next(left) + 1 and saved(image))
    with pytest.raises(StopIteration):
        render_tiles(model, 2, grid, folder, side=8)
    monkeypatch.setattr(pixels, 'as_image', saved)
    first = {path: path.stat().st_mtime_ns for path in folder.rglob('*.png')}
    assert len(first) == 7 and not (folder / 'image.dzi').exists()
    for seed, other, side in (
        (3, grid, 8),
        (2, lazy_grid(21, 37, x=(-1, 0.9)), 8),
        (2, lazy_grid(21, 36), 8),
        (2, grid, 4),
    ):
        with pytest.raises(ValueError, match='holds tiles of another image'):
            render_tiles(model, seed, other, folder, side=side)
    record = folder / 'tiles.json'
    kept = record.read_text()
    grey = {**json.loads(kept), 'pixels': [pixel[:2] for pixel in json.loads(kept)['pixels']]}
    other, broken = 'holds tiles of another image', r'tiles\.json is damaged, or not what this command wrote'
    # Of other programs, of a model of other channels, and cut off.
    ragged = json.dumps({**json.loads(kept), 'pixels': [[1, 2], [3]]})
    for text, message in (
        ('[]', broken),
        ('{}', other),
        (json.dumps(grey), other),
        (ragged, other),
        (kept[:9], broken),
    ):
        record.write_text(text)
        with pytest.raises(ValueError, match=message):
            render_tiles(model, 2, grid, folder, side=8)
    record.write_text(kept)
    # Tiles that are damaged, or of another size, are made again.
    cut, other, *_ = sorted(first)
    cut.write_bytes(cut.read_bytes()[:40])
    Image.new('RGB', (3, 3)).save(other)
    render_tiles(model, 2, grid, folder, side=8)
    assert all(path.stat().st_mtime_ns == time for path, time in first.items() if path not in (cut, other))
    files = {str(path.relative_to(whole)): path.read_bytes() for path in whole.rglob('*') if path.is_file()}
    assert files == {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_tiles_that_are_larger_than_the_image_cost_no_more_than_it(model, tmp_path):
    path = render_tiles(model, 2, lazy_grid(21, 37), tmp_path / 'zoom', side=2**20)
    got = _tiles(path.parent, 6)
    assert np.abs(got - to_uint8(render(model, 2, lazy_grid(21, 37)))).max() <= 1


# Systems that make whole images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['dcgan:tiny', 'mspie:tiny'])
def test_systems_of_any_size_are_rendered_at_a_size_and_no_further(name, tmp_path):
    model = untrained(name)
    size = (32, 48)
    system = model.config.system
    options = {'noise_mode': 'none'} if system == 'mspie' else {}
    want = sample(model, [3], size=size, **options)[0]
    close(render(model, 3, frame_grid(model, size), **options), want)
    close(render(model, 3, **options), sample(model, [3], **options)[0])
    render_tiles(model, 3, frame_grid(model, size), tmp_path / 'zoom', side=16, **options)
    assert np.abs(_tiles(tmp_path / 'zoom', 6) - to_uint8(want)).max() <= 1
    for grid, more, match in (
        (lazy_grid(*size, x=(0, 1)), {}, f'{system} moves nothing: it takes a size'),
        (frame_grid(model, size, matrix=coords.rotate(1.0)), {}, f'{system} moves nothing'),
        (coords.grid(*size), {}, f'{system} makes whole images, not single coordinates.*It takes a size'),
        (frame_grid(model, size, crop=(0, 0, 2, 2)), {}, f'{system} makes whole images'),
        (None, {'blend': Blend((1,), coords.across)}, f'{system} has one style for all positions'),
        (None, {'supersample': 2}, f'{system} takes no samples between pixels'),
    ):
        with pytest.raises(ValueError, match=match):
            render(model, 3, grid, **more)
    with pytest.raises(ValueError, match='makes whole images'):
        render_foveated(model, 3, frame_grid(model, size), 0.5)


# The command ----------------------------------------------------------------------------------------------------------


def _command(folder, out, *options):
    assert main(['render', '--model', str(folder), '--seed', '3', '--out', str(out), *options]) == 0
    return np.load(out) if out.suffix == '.npy' else None


def test_the_command_takes_coordinates_blends_and_tiles(model, saved, tmp_path):
    out, folder = tmp_path / 'out.npy', saved(model)
    points = np.asarray(coords.grid(5, 6)) ** 3
    np.save(tmp_path / 'points.npy', points)
    got = _command(folder, out, '--coords', str(tmp_path / 'points.npy'), '--rotate', '30')
    close(got, render(model, 3, coords.transform(points, coords.rotate(math.pi / 6))))
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    got = _command(folder, out, '--blend', '5', '--shares', str(tmp_path / 'mask.png'), '--size', '12')
    close(got, render(model, 3, frame_grid(model, (12, 12)), blend=Blend((5,), painted(model, mask))))
    got = _command(folder, out, '--blend', '5', '--shares', 'y', '--supersample', '2')
    close(got, render(model, 3, blend=Blend((5,), lambda p: coords.across(p, 1)), supersample=2))
    np.savez(tmp_path / 'w.npz', w=np.asarray(model.styles([7]))[:, None].repeat(model.num_ws, 1))
    assert (
        main(['render', '--model', str(folder), '--ws', str(tmp_path / 'w.npz'), '--size', '9', '--out', str(out)]) == 0
    )
    close(np.load(out), render(model, 7, frame_grid(model, (9, 9))))
    _command(folder, tmp_path / 'zoom', '--size', '20', '--tiles', '8')
    assert _tiles(tmp_path / 'zoom', 5).shape == (20, 20, 3)


@pytest.mark.parametrize('name', ['cips:panorama,tiny', 'cips:tiny'])
def test_what_turns_keeps_its_shape_whatever_the_units_of_coordinates(name):
    config = load_config(name, ['data.resolution=(16,24)', 'model.img_resolution=(16,24)'] * (name == 'cips:tiny'))
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    model = Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    height, width = config.data.size
    unit = np.array([width / (model.sampler.span or 1), height])  # of half a frame, in pixels
    motion = {'matrix': coords.rotate(0.5)}
    views = [(frame_grid(model, **motion), 0.0, unit)]
    if 'panorama' in name:
        ball = dataclasses.replace(
            sphere(model, 16, azimuth=2.0, **motion), warp=None
        )  # the rays, twice as wide as high
        views.append((panorama(model, 16, azimuth=2.0, **motion), 2.0 / math.pi, unit))
        views.append((ball, 2.0 / math.pi, np.array([32, 16])))
    for grid, middle, unit in views:
        (rows, columns), at = lookup(grid)
        points = np.asarray(at(np.arange(rows * columns))).reshape(rows, columns, 2)
        right, down = ((points[i] - points[7, 7]) * unit for i in ((7, 8), (8, 7)))
        assert abs(right @ down) < 0.15 * (right @ right) and right @ right == pytest.approx(down @ down, rel=0.3)
        around = points[rows // 2 - 1 : rows // 2 + 1, columns // 2].mean(0)
        assert np.abs((around - (middle, 0)) * unit).max() < 2


def test_the_command_shows_arcs_planets_and_spheres(round_model, saved, tmp_path):
    out, folder = tmp_path / 'out.npy', saved(round_model)
    close(_command(folder, out), sample(round_model, [3])[0], 1e-4)
    close(_command(folder, out, '--arc', '360'), render(round_model, 3, panorama(round_model, 16)))
    got = _command(folder, out, '--arc', '90', '--azimuth', '180', '--size', '8x10')
    close(got, render(round_model, 3, panorama(round_model, 8, 10, arc=0.25, azimuth=math.pi)))
    assert _command(folder, out, '--arc', '360', '--size', '8').shape == (8, 32, 3)
    size = '=(16, 32)'
    wide = saved(untrained('cips:panorama,tiny', f'data.resolution{size}', f'model.img_resolution{size}'))
    assert _command(wide, out, '--azimuth', '0', '--size', '8').shape == (8, 16, 3)
    assert _command(folder, out, '--view', 'sphere', '--size', '8').shape == (8, 16, 3)
    turned = ['--rotate', '20', '--zoom', '1.5']
    motion = coords.compose(coords.zoom(1.5), coords.rotate(math.radians(20)))
    close(_command(folder, out, *turned), sample(round_model, [3], transform=motion)[0], 1e-4)
    close(_command(folder, out, '--view', 'planet', '--size', '20'), render(round_model, 3, planet(round_model, 20)))
    close(
        _command(folder, out, '--view', 'sky', '--size', '20'), render(round_model, 3, planet(round_model, 20, up=True))
    )
    close(_command(folder, out, '--view', 'sphere'), render(round_model, 3, sphere(round_model, 32)))
    got = _command(folder, out, '--arc', '360', '--blend', '4', '--shares', 'around')
    close(got, render(round_model, 3, panorama(round_model, 16), blend=Blend((4,), coords.around)))


@pytest.mark.parametrize(
    'options, message',
    [
        ('--arc 90', 'this cips is not on a cylinder'),
        ('--view planet', 'this cips is not on a cylinder'),
        ('--coords {here}/nowhere.npy --size 3', '--size and --coords exclude each other'),
        ('--coords {here}/nowhere.npy', 'nowhere.npy'),
        ('--coords {here}/text.npy', 'text.npy is no array of NumPy'),
        ('--coords {here}/zip.npy', 'zip.npy is no array of NumPy'),
        ('--coords {here}', '--coords {here}: is a directory; name another'),
        ('--truncation-cutoff 1', 'says which styles are truncated, and none are; add --truncation-psi'),
        ('--zoom 1e-40', '--zoom 1e-40 must be positive'),
        ('--arc -5', '--arc -5 must be positive; 360 is the whole circle'),
        ('--extent=-1e30,1e30,-1,1 --zoom 1e-20', 'are moved beyond the range of float32; choose a smaller extent'),
        ('--translate 1e30,1e30 --zoom 1e-20', '--zoom 1e-20 and --translate 1e+30,1e+30 together go beyond'),
        ('--size 100000000000', 'float32 tells at most 16,777,216 rows or columns apart'),
        ('--supersample 300', 'chunk=65536 must be at least 90000, the coordinates of one pixel'),
        ('--step ²', 'has no checkpoint of step ²; there are 0.'),
        ('--out {here}/text.npy/a.png', 'text.npy is a file, so nothing can be written below it'),
        ('--ws {here}/maps.npz', 'the noise map synthesis/noise_const is of another model'),
        ('--coords {here}/flat.npy', 'expected real numbers [..., 2]'),
        ('--ws {here}/text.npy', 'is no .npz file of NumPy'),
        ('--ws {here}/letters.npy', 'is <U1 (1, 1); expected real numbers [N, num_ws, w_dim]'),
        ('--ws {here}/number.npy', 'is float64 (); expected real numbers'),
        ('--ws {here}/none.npy', 'is float64 (0, 16); expected real numbers'),
        ('--ws {here}/nan.npy', 'has numbers that are not finite'),
        ('--ws {here}/w.npy --truncation-psi 0.5', 'leave out truncation_psi, or --truncation-psi'),
        ('--ws {here}/w.npy --class 5', 'leave out label, or --class'),
        ('--out {here}/b.npy --bits 16', '--bits 16: a .npy keeps float32'),
        ('--shares around', 'name the others with --blend'),
        ('--blend 1,2', 'blends two seeds, --blend names 2 others'),
        ('--blend 1,2,3,4 --shares a.png', 'names 4 seeds; up to three'),
        ('--blend 1 --shares nowhere.png', 'neither x, y nor around, nor a file'),
        ('--supersample 0', 'supersample=0 must be at least 1'),
        ('--tiles 8 --bits 16', 'tiles have 8 bits'),
        ('--tiles 8 --foveate 0.5', 'exclude each other'),
    ],
)
def test_what_cannot_be_rendered_is_told_in_one_line(model, saved, tmp_path, capsys, options, message):
    (tmp_path / 'text.npy').write_text('x')
    (tmp_path / 'zip.npy').write_bytes(b'PK\3\4junk')
    w = np.zeros((1, model.w_avg.shape[-1]))
    arrays = {'flat': np.zeros((4, 3)), 'letters': np.array([['a']]), 'number': np.array(3.0), 'nan': np.nan * w}
    for name, array in (arrays | {'none': np.zeros((0, 16)), 'w': w}).items():
        np.save(tmp_path / f'{name}.npy', array)
    np.savez(tmp_path / 'maps.npz', w=w, **{'synthesis/noise_const': np.zeros((4, 4))})
    words, message = options.format(here=tmp_path).split(), message.format(here=tmp_path)
    assert main(['render', '--model', str(saved(model)), '--out', str(tmp_path / 'out.png'), *words]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: ') and message in error and not (tmp_path / 'out.png').exists()
