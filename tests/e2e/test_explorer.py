"""The explorer's server: what it sends is what the library makes; who may ask; what it refuses."""

import asyncio
import dataclasses
import functools
import gc
import io
import json
import logging
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import weakref

import jax
import numpy as np
import pytest
from PIL import Image, ImageCms
from starlette.testclient import TestClient

import pegan_jax
from pegan_jax import coords, explorer, inpainting, sampling
from pegan_jax.cli import main
from pegan_jax.config import load_config, system_module, to_dict
from pegan_jax.explorer import canvas, maps, photos, queries
from pegan_jax.inpainting import Strategy
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError
from pegan_jax.train.checkpoint import Checkpoints

pytestmark = pytest.mark.slow

NAMES = ('cips:tiny', 'stylegan3:t,tiny', 'deepfill:guided,tiny', 'dcgan:tiny', 'pconv:tiny')
CIPS, STYLEGAN3, DEEPFILL, DCGAN, PCONV = range(5)
HOME = 'http://127.0.0.1:8000'
SIDE = maps.SIDE


@functools.cache
def untrained(name):
    """A model with random weights, those of DeepFillv2 so large that its holes are not grey."""
    config = load_config(name)
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    if config.system == 'deepfill':
        params['g'] = jax.tree.map(lambda p: 2.5 * p, params['g'])
    return Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


@pytest.fixture(scope='module')
def models():
    return {name: dataclasses.replace(untrained(name), loaded=(name, None)) for name in NAMES}


@pytest.fixture(scope='module')
def client(models):
    with TestClient(explorer.page(models), base_url=HOME, raise_server_exceptions=False) as found:
        yield found


def image_of(response):
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def ask(client, path, **params):
    return client.get(f'/api/{path}', params={k.removesuffix('_'): v for k, v in params.items()})


def refusal(response, status=400):
    assert response.status_code == status, response.text
    return response.json()['error']


# Map ------------------------------------------------------------------------------------------------------------------


def test_the_page_has_its_files_and_says_what_it_knows_of_models(client):
    assert '<script type="module" src="static/main.js">' in client.get('/').text
    for name in ('main.js', 'map.js', 'canvas.js', 'photo.js', 'page.js', 'style.js', 'style.css', 'icon.svg'):
        assert client.get(f'/static/{name}').status_code == 200
    found = client.get('/api/models').json()
    assert [model['view'] for model in found] == ['map', 'canvas', 'photo', 'canvas', 'photo']
    assert found[CIPS]['frame'] == [1, 1] and found[CIPS]['layers'] == 10
    assert (
        found[STYLEGAN3]['moved'] and found[STYLEGAN3]['turned'] and not found[DCGAN]['moved'] and found[DCGAN]['sized']
    )
    assert found[DEEPFILL]['guided'] and found[DEEPFILL]['attention'] and not found[PCONV]['attention']


def test_a_page_loads_nothing_from_elsewhere(client):
    static = pathlib.Path(explorer.__file__).parent / 'static'
    for path in static.iterdir():
        text = path.read_text().replace('http://www.w3.org/2000/svg', '')
        assert 'http:' not in text and 'https:' not in text and '//cdn' not in text, path
    policy = client.get('/').headers['content-security-policy']
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and 'http' not in policy


def test_a_tile_is_what_the_library_renders(client, models):
    model, pitch = models['cips:tiny'], 3 / SIDE
    got = image_of(ask(client, 'tile', model=CIPS, seed=3, psi=0.7, x=-1 + pitch / 2, y=-2 + pitch / 2, pitch=pitch))
    grid = coords.grid(SIDE, SIDE, x=(-1, 2), y=(-2, 1), centered=True)
    want = to_uint8(sampling.render(model, 3, grid, truncation_psi=0.7))
    assert np.abs(got.astype(int) - want).max() <= 1 and np.ptp(want) > 100


def test_a_turned_tile_is_the_lattice_turned_about_the_origin(client, models):
    pitch = 1 / SIDE
    got = image_of(ask(client, 'tile', model=CIPS, x=0.2, y=-0.4, pitch=pitch, angle=30))
    ends = {'x': (0.2, 0.2 + pitch * (SIDE - 1)), 'y': (-0.4, -0.4 + pitch * (SIDE - 1))}
    grid = coords.transform(coords.grid(SIDE, SIDE, **ends), coords.rotate(np.pi / 6))
    want = to_uint8(sampling.render(models['cips:tiny'], 0, grid))
    assert np.abs(got.astype(int) - want).max() <= 1


def test_positions_of_a_frame_that_is_no_square_have_square_pixels():
    config = load_config('cips:tiny', ['model.img_resolution=(16,32)', 'data.resolution=(16,32)'])
    gan = system_module('cips').build(config)
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    model = Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    assert maps.frame(model) == ((2.0, 1.0), (0.5, 1.0))
    view = maps.View(-2 + 1 / 64, -1 + 1 / 64, 1 / 32, 0, 64, 128)
    want = coords.grid(64, 128, centered=True)
    np.testing.assert_allclose(maps.points(model, view), want, atol=1e-6)
    # A quarter turn: what was above is at the left, also where the frame is wide.
    turned = maps.points(model, view._replace(angle=90.0, height=1, width=1, x=0.0, y=-1.0))[0, 0]
    np.testing.assert_allclose(turned, (0.5, 0), atol=1e-6)


def test_positions_are_as_fine_as_float32_tells_them_apart():
    view = maps.View(0.3, 0.0, 2.0**-22, 0, SIDE, SIDE)
    x = maps.points(untrained('cips:tiny'), view)[0, :, 0]
    np.testing.assert_array_equal(x, (0.3 + 2.0**-22 * np.arange(SIDE)).astype(np.float32))
    assert len(np.unique(x)) == SIDE


def test_nothing_is_compiled_while_the_view_pans_zooms_turns_and_blends(client, caplog):
    def see(k):
        pitch, angle = 2.0 ** (-k / 4) / 64, (7 * k) % 40
        style = {'seed': k, 'psi': 0.5 + k / 10, 'to': 3, 't': k / 10, 'layers': f'{k % 3}-5'}
        assert ask(client, 'tile', model=CIPS, x=k / 7, y=-k / 3, pitch=pitch, angle=angle, **style).status_code == 200

    see(1)
    jax.config.update('jax_log_compiles', True)  # in all threads, unlike jax.log_compiles()
    try:
        with caplog.at_level(logging.WARNING):
            for k in range(2, 7):
                see(k)
    finally:
        jax.config.update('jax_log_compiles', False)
    assert not [r.getMessage() for r in caplog.records if 'Compiling' in r.getMessage()]


@pytest.fixture
def renders(monkeypatch):
    """Grids that are rendered."""
    found, real = [], sampling.render
    monkeypatch.setattr(sampling, 'render', lambda *args, **options: found.append(args[2]) or real(*args, **options))
    return found


def test_tiles_are_kept(client, renders):
    first = ask(client, 'tile', model=CIPS, x=5, y=5, pitch=0.01).content
    assert ask(client, 'tile', model=CIPS, x=5, y=5, pitch=0.01).content == first
    assert len(renders) == 1


def test_what_is_kept_of_a_model_is_bounded_and_goes_with_it():
    asked = []

    @queries.kept(2)
    def double(model, number):
        asked.append(number)
        return 2 * number

    model = dataclasses.replace(untrained('cips:tiny'))
    assert [double(model, number) for number in (1, 2, 2, 3, 1)] == [2, 4, 4, 6, 2] and asked == [1, 2, 3, 1]
    double(untrained('cips:tiny'), 3)
    assert asked[4:] == [3]
    maps.frame(model)
    queries.styles(model, queries.Style(0))
    there = weakref.ref(model)
    del model
    gc.collect()
    assert there() is None


def scope_of(path, query):
    return {
        'type': 'http', 'method': 'GET', 'path': path, 'raw_path': path.encode(), 'root_path': '',
        'query_string': query, 'headers': [(b'host', b'localhost:1')], 'scheme': 'http',
        'server': ('localhost', 1), 'client': ('localhost', 2), 'http_version': '1.1', 'asgi': {'version': '3.0'},
    }  # fmt: skip


def test_a_request_that_nobody_waits_for_is_not_computed(models, renders):
    app, scope, sent = explorer.page(models), scope_of('/api/tile', b'model=0&x=77&y=0&pitch=0.01'), []

    async def receive():
        return {'type': 'http.disconnect'}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]['status'] == 499 and not renders


def test_the_way_between_two_seeds_begins_and_ends_at_them_and_layers_mix(client, models):
    place = {'model': CIPS, 'x': -1, 'y': -1, 'pitch': 2 / SIDE}

    def see(**style):
        return image_of(ask(client, 'tile', **place, **style)).astype(int)

    a, b = see(seed=1), see(seed=2)
    assert np.abs(a - b).max() > 50
    np.testing.assert_array_equal(see(seed=1, to=2, t=0), a)
    np.testing.assert_array_equal(see(seed=1, to=2, t=1), b)
    between = see(seed=1, to=2, t=0.5)
    assert np.abs(between - a).max() > 20 and np.abs(between - b).max() > 20
    model = models['cips:tiny']
    mixed = np.asarray(queries.styles(model, queries.Style(1, to=2, t=1.0, layers=(0, 3))))[0]
    one, other = (np.asarray(model.styles([seed]))[0] for seed in (1, 2))
    np.testing.assert_array_equal(mixed[:4], np.broadcast_to(other, (4, 16)))
    np.testing.assert_array_equal(mixed[4:], np.broadcast_to(one, (6, 16)))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    path, model = tmp_path_factory.mktemp('run'), untrained('cips:tiny')
    checkpoints = Checkpoints(path / 'checkpoints')
    checkpoints.save_items(0, {'sampling': model.variables}, {'config': to_dict(model.config), 'images': 0})
    checkpoints.close()
    return path


VIEW = {'seed': 2, 'psi': 0.8, 'x': 0.1, 'y': -0.3, 'pitch': 0.01, 'width': 50, 'height': 30}


@pytest.mark.parametrize('angle', [0, 25])
def test_a_view_is_saved_at_any_size_and_its_commands_make_the_same_file(
    client, models, workdir, angle, tmp_path, monkeypatch
):
    place = {**VIEW, 'angle': angle, 'model': CIPS}
    folder = tmp_path / 'temporary'
    folder.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    response = ask(client, 'save', **place)
    assert 'view.png' in response.headers['content-disposition'] and not list(folder.iterdir())
    saved = image_of(response).astype(int)
    want = maps.points(models['cips:tiny'], maps.View(0.1, -0.3, 0.01, angle, 30, 50))
    want = to_uint8(sampling.render(models['cips:tiny'], 2, want, truncation_psi=0.8))
    assert saved.shape == (30, 50, 3) and np.abs(saved - want).max() <= 1
    found = ask(client, 'command', **place).json()
    monkeypatch.chdir(tmp_path)
    words = found['cli'].replace('cips:tiny', str(workdir)).split()
    assert words[:3] == ['python', '-m', 'pegan_jax'] and main(words[3:]) == 0
    by_command = np.asarray(Image.open('view.png')).astype(int)
    pathlib.Path('view.png').unlink()
    exec(found['python'].replace("'cips:tiny'", repr(str(workdir))), {})
    for got in (by_command, np.asarray(Image.open('view.png')).astype(int)):
        assert got.shape == saved.shape and np.abs(got - saved).max() <= 1


def test_a_file_that_nobody_waits_for_is_given_up(models, tmp_path):
    path, stop = tmp_path / 'view.png', threading.Event()
    stop.set()
    with pytest.raises(maps.Stopped):
        maps.save(models['cips:tiny'], queries.Style(0), maps.View(-1.0, -1.0, 0.1, 0.0, 8, 8), path, 8, stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('how, status', [('the browser leaves', 499), ('the server ends', 503)])
def test_one_file_is_computed_at_a_time_until_nobody_waits_for_it(models, tmp_path, monkeypatch, how, status):
    app, scope = explorer.page(models), scope_of('/api/save', b'model=0&x=0&y=0&pitch=1&width=2&height=2')
    begun, ended = threading.Event(), threading.Event()

    def save(model, style, place, path, bits, stop):
        begun.set()
        assert stop.wait(30) and path.parent.is_dir()
        ended.set()
        raise maps.Stopped

    monkeypatch.setattr(maps, 'save', save)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))

    async def ask_twice():
        sent, others, left = [], [], asyncio.Event()

        async def receive():
            await left.wait()
            return {'type': 'http.disconnect'}

        def send_to(messages):
            async def send(message):
                messages.append(message)

            return send

        first = asyncio.create_task(app(scope, receive, send_to(sent)))
        assert await asyncio.to_thread(begun.wait, 30)
        await app(scope, receive, send_to(others))
        if how == 'the browser leaves':
            left.set()
        else:
            first.cancel()
        await first
        return sent, others

    sent, others = asyncio.run(ask_twice())
    assert others[0]['status'] == 400 and b'another file is being computed, maybe from another tab' in others[1]['body']
    assert sent[0]['status'] == status and ended.wait(30) and not list(tmp_path.iterdir())


def test_names_in_commands_are_words_of_a_shell(models):
    name, style = 'my runs/$(rm *)', queries.Style(0)
    place = maps.View(-1.0, -1.0, 0.1, 0.0, 8, 8)
    cips, stylegan3, deepfill = (
        dataclasses.replace(models[known], loaded=(name, 'best'))
        for known in ('cips:tiny', 'stylegan3:t,tiny', 'deepfill:guided,tiny')
    )
    commands = [
        maps.command(cips, style, place, 8)['cli'],
        canvas.command(stylegan3, style, canvas.Place(None))['cli'],
        photos.command(deepfill, Strategy(), 'a b.jpg', False, False),
    ]
    for command in commands:
        words = shlex.split(command)
        at = words.index('--model')
        assert words[at : at + 4] == ['--model', name, '--step', 'best']
    assert 'a b_mask.png' in shlex.split(commands[2])


def test_commands_name_what_was_loaded(workdir):
    style, place = queries.Style(0), maps.View(-1.0, -1.0, 0.1, 0.0, 8, 8)
    for step, option, argument in ((None, '', ''), (0, ' --step 0', ', 0')):
        found = maps.command(pegan_jax.load(workdir, step), style, place, 8)
        assert f'render --model {workdir}{option} --seed 0' in found['cli']
        assert f'model = pegan_jax.load({str(workdir)!r}{argument})' in found['python']


def test_python_lines_of_a_mix_of_two_seeds_make_what_is_seen_and_there_is_no_command(
    client, workdir, tmp_path, monkeypatch
):
    place = {**VIEW, 'model': CIPS, 'to': 5, 't': 0.7, 'layers': '1-6', 'bits': 16}
    saved = image_of(ask(client, 'save', **{**place, 'bits': 8})).astype(int)
    found = ask(client, 'command', **{**place, 'bits': 8}).json()
    monkeypatch.chdir(tmp_path)
    exec(found['python'].replace("'cips:tiny'", repr(str(workdir))), {})
    assert found['cli'] is None and np.abs(np.asarray(Image.open('view.png')).astype(int) - saved).max() <= 1
    assert ', bits=16' in ask(client, 'command', **place).json()['python']


# Canvas ---------------------------------------------------------------------------------------------------------------


def test_a_canvas_is_moved_as_sample_moves_it(client, models, tmp_path, monkeypatch):
    place = {
        'model': STYLEGAN3,
        'seed': 4,
        'psi': 0.9,
        'height': 24,
        'width': 32,
        'dx': 0.25,
        'dy': -0.125,
        'angle': 20,
    }
    motion = coords.compose(coords.rotate(np.radians(20)), coords.translate(0.25, -0.125))
    model = models['stylegan3:t,tiny']
    want = to_uint8(sampling.sample(model, [4], size=(24, 32), transform=motion, truncation_psi=0.9))[0]
    np.testing.assert_array_equal(image_of(ask(client, 'picture', **place)), want)
    cli = ask(client, 'command', **place).json()['cli']
    assert '--seeds 4 --size 24x32 --rotate 20 --translate=0.25,-0.125 --truncation-psi 0.9' in cli
    assert 'dcgan moves nothing' in refusal(ask(client, 'picture', model=DCGAN, dx=0.5))


def test_python_lines_of_a_canvas_between_two_seeds_make_what_is_seen(models, tmp_path, monkeypatch):
    model, wanted, place = models['dcgan:tiny'], queries.Style(3, to=5, t=0.25), canvas.Place(None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pegan_jax, 'load', lambda path: model)
    exec(canvas.command(model, wanted, place)['python'], {})
    want = np.asarray(Image.open(io.BytesIO(canvas.picture(model, wanted, place)))).astype(int)
    assert np.abs(np.asarray(Image.open('image.png')) - want).max() <= 1
    with pytest.raises(UserError, match=r'styles have the shape \(7,\); this model takes \['):
        model.check_styles((7,))


@pytest.mark.parametrize(
    'name, sized, moved, turned',
    [
        ('creps:tiny', True, True, False),
        ('stylegan3:b,tiny', False, True, True),  # a StyleGAN2 of Fourier features
        ('stylegan2:tiny', False, False, False),
        ('mspie:tiny', True, False, False),
    ],
)
def test_a_canvas_has_controls_for_what_its_system_shows(name, sized, moved, turned):
    config = load_config(name)
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    model = Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    assert canvas.describe(model) == {'sized': sized, 'moved': moved, 'turned': turned}


def test_a_class_is_chosen_where_a_model_has_some():
    config = load_config('stylegan2:tiny', ['data.labels=True', 'model.c_dim=3'])
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    model = Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0, ('bird', 'cat', 'dog'))
    with TestClient(explorer.page({'animals': model}), base_url=HOME) as client:
        (found,) = ask(client, 'models').json()
        assert found['labels'] == 3 and found['classes'] == ['bird', 'cat', 'dog']
        pictures = [image_of(ask(client, 'picture', model=0, seed=5, class_=i)) for i in range(3)]
        for i, picture in enumerate(pictures):
            np.testing.assert_array_equal(picture, to_uint8(sampling.sample(model, [5], label=i))[0])
        assert not np.array_equal(pictures[0], pictures[2])
        assert '--seeds 5 --class 2' in ask(client, 'command', model=0, seed=5, class_=2).json()['cli']
        assert 'no class of this model' in refusal(ask(client, 'picture', model=0, seed=5, class_=3))


def test_layers_are_those_that_the_network_computes(client, models):
    place = {'model': STYLEGAN3, 'seed': 4, 'height': 16, 'width': 16}
    rows = ask(client, 'layers', **place).json()
    assert rows[-1]['name'] == 'image' and rows[-1]['shape'] == [16, 16, 3]
    image = sampling.sample(models['stylegan3:t,tiny'], [4], size=(16, 16))[0]
    assert rows[-1]['mean'] == pytest.approx(image.mean(), abs=1e-4)
    assert rows[-1]['std'] == pytest.approx(image.std(), rel=1e-3)
    name = rows[1]['name']
    picture = image_of(ask(client, 'layer', **place, layer=name, channel=1))
    spectrum = image_of(ask(client, 'layer', **place, layer=name, kind='spectrum'))
    assert picture.shape == (*rows[1]['shape'][:2], 3) and spectrum.shape == picture.shape[:2]
    assert 'is no layer of this image; it has' in refusal(ask(client, 'layer', **place, layer='nothing'))


def test_layers_that_are_not_finite_are_told(models, monkeypatch):
    found = {'conv': np.full((2, 2, 3), np.nan, np.float32), 'image': np.zeros((2, 2, 3), np.float32)}
    monkeypatch.setattr(canvas, 'layers', lambda *args: found)
    with TestClient(explorer.page(models), base_url=HOME) as client:
        rows = ask(client, 'layers', model=DCGAN).json()
    assert [(row['mean'], row['std']) for row in rows] == [(None, None), (0, 0)]


def test_the_spectrum_of_a_wave_is_two_points():
    wave = np.sin(2 * np.pi * 4 * np.arange(32) / 32)[None, :, None] * np.ones((32, 1, 1))
    found = canvas.spectrum(wave)[..., 0]
    assert [*map(tuple, np.argwhere(found == 255))] == [(16, 12), (16, 20)] and (found == 0).sum() == 32 * 32 - 2


# Photographs ----------------------------------------------------------------------------------------------------------


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, 'PNG')
    return file.getvalue()


@pytest.fixture(scope='module')
def photo():
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)


@pytest.fixture(scope='module')
def painted():
    """Hole, lines, and the picture in which the page sends them."""
    hole, lines = np.zeros((40, 48), bool), np.zeros((40, 48), bool)
    hole[10:26, 12:30], lines[18, 8:40] = True, True
    return hole, lines, png(np.stack([hole, lines, lines & False], axis=-1).astype(np.uint8) * 255)


def load_photo(client, data):
    response = client.post('/api/photo', content=data)
    assert response.status_code == 200, response.text
    return response.headers['x-photo'], image_of(response)


def fill(client, body, **params):
    return client.post('/api/fill', params=params, content=body)


def test_holes_are_filled_as_inpaint_fills_them(client, models, photo, painted):
    hole, lines, body = painted
    name, shown = load_photo(client, png(photo))
    np.testing.assert_array_equal(shown, photo)
    for index, sketch in ((DEEPFILL, lines), (PCONV, None)):
        got = image_of(fill(client, body, photo=name, model=index, strategy='original'))
        want = inpainting.inpaint(models[NAMES[index]], photo, hole, sketch)
        np.testing.assert_array_equal(got, want)
        assert got[hole].std() > 5
        if sketch is not None:
            assert (got != inpainting.inpaint(models[NAMES[index]], photo, hole)).any()
    got = image_of(fill(client, body, photo=name, model='biharmonic', strategy='original'))
    np.testing.assert_array_equal(got, inpainting.biharmonic(photo, hole))
    got = image_of(fill(client, body, photo=name, model=DEEPFILL, flow=1))
    flow = inpainting.attention_flow(models[NAMES[DEEPFILL]], photo, hole, lines)
    np.testing.assert_array_equal(got, np.where(hole[..., None], flow, photo))


def test_a_photograph_keeps_orientation_opacity_and_what_its_file_says(client, photo, painted):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, 'the photographer'
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    rgba = np.concatenate([photo, photo[..., :1]], axis=-1)
    Image.fromarray(np.rot90(rgba)).save(file, 'PNG', exif=exif, icc_profile=profile)
    response = client.post('/api/photo', content=file.getvalue())
    name, shown = response.headers['x-photo'], Image.open(io.BytesIO(response.content))
    np.testing.assert_array_equal(np.asarray(shown), rgba)
    assert shown.info['icc_profile'] == profile and not shown.getexif()
    response = fill(client, painted[2], photo=name, model='biharmonic')
    np.testing.assert_array_equal(image_of(response)[..., 3], rgba[..., 3])
    filled = Image.open(io.BytesIO(response.content))
    kept = filled.getexif()
    assert filled.info['icc_profile'] == profile
    assert kept[0x013B] == 'the photographer' and 0x0112 not in kept


def test_the_command_of_a_filling_names_files_and_strategy(client):
    params = {'model': DEEPFILL, 'file': 'photo.jpg', 'strategy': 'crop', 'margin': 64, 'sketch': 1, 'flow': 1}
    cli = ask(client, 'command', **params).json()['cli']
    assert cli == (
        'python -m pegan_jax inpaint --model deepfill:guided,tiny --image photo.jpg --mask photo_mask.png '
        '--sketch photo_sketch.png --flow --strategy crop --margin 64 --out photo_filled.png'
    )
    cli = ask(client, 'command', model='biharmonic', file='a.png').json()['cli']
    assert cli == 'python -m pegan_jax inpaint --method biharmonic --image a.png --mask a_mask.png --out a_filled.png'


def test_photographs_are_forgotten_when_there_are_more(client, photo, painted):
    first, _ = load_photo(client, png(photo))
    for k in range(photos.HELD):
        load_photo(client, png(photo[: 20 + k]))
    assert 'no longer held' in refusal(fill(client, painted[2], photo=first, model='biharmonic'))


def test_what_is_no_photograph_or_too_large_or_painted_wrongly_gets_a_clear_answer(client, photo, painted, monkeypatch):
    def load(data):
        return refusal(client.post('/api/photo', content=data))

    for data in (b'hello', b''):
        assert load(data).startswith('this file cannot be read as an image: it is damaged, or none of PNG, ')
    assert 'cannot be decoded' in load(png(photo)[:300])
    huge = bytearray(png(photo))
    huge[16:24] = (8_000).to_bytes(4, 'big') * 2  # what its header says of width and height
    import zlib

    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, 'big')
    assert 'has 8000 x 8000 pixels; at most 50,000,000 are read' in load(bytes(huge))
    monkeypatch.setattr(photos, 'MAX_BYTES', 1 << 20)
    assert 'more than 1 MB' in load(b'0' * (1 << 20) + b'0')
    name, _ = load_photo(client, png(photo))
    black = png(np.zeros_like(photo))
    assert 'paint over what should go' in refusal(fill(client, black, photo=name, model=PCONV))
    assert 'the mask is 1 everywhere' in refusal(fill(client, png(255 - np.zeros_like(photo)), photo=name, model=PCONV))
    other = png(np.zeros((8, 8, 3), np.uint8))
    assert 'the mask has 8 x 8 pixels and the photograph 48 x 40' in refusal(
        fill(client, other, photo=name, model=PCONV)
    )
    for wrong, message in (
        ({'model': CIPS}, 'makes images of seeds'),
        ({'model': 'none'}, "model='none' is no number"),
        ({'model': PCONV, 'strategy': 'magic'}, "strategy='magic'; use original, resize, crop"),
        ({'model': PCONV, 'strategy': 'crop', 'margin': 2}, 'margin=2 must be at least 8'),
        ({'model': PCONV, 'flow': 1}, 'has no attention'),
        ({'model': 'biharmonic', 'flow': 1}, 'biharmonic has no attention to show'),
    ):
        assert message in refusal(fill(client, painted[2], photo=name, **wrong))


def test_a_second_filling_at_the_same_time_is_told_to_wait(models, photo, painted, monkeypatch):
    begun, free, real = threading.Event(), threading.Event(), photos.fill

    def slow(*arguments):
        begun.set()
        assert free.wait(30)
        return real(*arguments)

    monkeypatch.setattr(photos, 'fill', slow)
    with TestClient(explorer.page(models), base_url=HOME) as client:
        name, _ = load_photo(client, png(photo))
        results = []
        first = threading.Thread(
            target=lambda: results.append(fill(client, painted[2], photo=name, model='biharmonic').status_code)
        )
        first.start()
        assert begun.wait(30)
        assert 'maybe from another tab' in refusal(fill(client, painted[2], photo=name, model='biharmonic'))
        free.set()
        first.join()
        assert results == [200]


# Who may ask, and what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'headers, reason',
    [
        ({'host': 'evil.example'}, 'answers on 127.0.0.1 only'),
        ({'host': 'localhost.evil.example:8000'}, 'answers on 127.0.0.1 only'),
        ({'host': ''}, 'answers on 127.0.0.1 only'),
        ({'host': '['}, 'the Host or the Origin of the request is no address'),
        ({'origin': 'http://['}, 'the Host or the Origin of the request is no address'),
        ({'origin': 'http://evil.example'}, 'requests from pages of http://evil.example'),
        ({'origin': 'http://127.0.0.1:9999'}, 'requests from pages of http://127.0.0.1:9999'),
        ({'origin': 'null'}, 'requests from pages of null'),
        ({'sec-fetch-site': 'cross-site'}, 'from other pages'),
        ({'sec-fetch-site': 'same-site'}, 'from other pages'),
    ],
)
def test_other_pages_and_names_are_refused(client, headers, reason):
    assert reason in refusal(client.get('/api/models', headers=headers), 403)


def test_the_page_itself_may_ask(client):
    for headers in ({}, {'host': 'localhost:8000'}, {'host': '[::1]:8000'}, {'sec-fetch-site': 'same-origin'}):
        assert client.get('/api/models', headers=headers).status_code == 200
    assert client.get('/api/models', headers={'origin': HOME, 'host': '127.0.0.1:8000'}).status_code == 200


def test_with_a_token_only_who_has_it_may_ask(models):
    with TestClient(explorer.page(models, token='secret'), base_url='http://server:8000') as client:
        for wrong in ('', '?token=', '?token=Secret', '?token=é'):
            assert 'open the whole address' in refusal(client.get(f'/{wrong}'), 403)
            assert 'open the whole address' in refusal(client.get(f'/api/models{wrong}'), 403)
        assert client.get('/?token=secret').status_code == client.get('/api/models?token=secret').status_code == 200
        foreign = {'origin': 'http://evil.example'}
        assert 'evil.example' in refusal(client.get('/api/models?token=secret', headers=foreign), 403)


@pytest.mark.parametrize(
    'path, message',
    [
        ('tile?model=9&x=0&y=0&pitch=1', 'model=9 must lie between 0 and 4'),
        ('tile?model=0', 'x=None is no number'),
        ('tile?model=0&x=nan&y=0&pitch=1', 'x=nan must lie between'),
        ('tile?model=0&x=0&y=0&pitch=0', 'pitch=0 must lie between'),
        ('tile?model=0&x=0&y=0&pitch=-1', 'pitch=-1 must lie between'),
        ('tile?model=0&x=0&y=0&pitch=1&seed=1.5', 'seed=1.5 is no whole number'),
        ('tile?model=0&x=0&y=0&pitch=1&seed=4294967296', 'seed=4294967296 must lie between'),
        ('tile?model=0&x=0&y=0&pitch=1&class=1', 'trained without labels'),
        ('tile?model=0&x=0&y=0&pitch=1&to=1&layers=2-99', 'the model has layers 0 to 9'),
        ('tile?model=0&x=0&y=0&pitch=1&layers=two', "the first of layers='two' is no number"),
        ('tile?model=1&x=0&y=0&pitch=1', 'makes whole images, which have no map'),
        ('tile?model=2&x=0&y=0&pitch=1', 'completes images'),
        ('save?model=0&x=0&y=0&pitch=1&width=100000&height=100000', 'more than a gigapixel'),
        ('save?model=0&x=0&y=0&pitch=1&width=0&height=1', 'width=0 must lie between'),
        ('picture?model=1&height=16384&width=16384', 'a canvas has at most'),
        ('picture?model=1&height=15&width=16', 'even'),
        ('picture?model=1&width=16', 'height=None is no number'),
        ('picture?model=1&height=16', 'width=None is no number'),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(client, path, message):
    assert message in refusal(client.get(f'/api/{path}'))


@pytest.mark.parametrize(
    'path', ['/etc/passwd', '/static/../page.py', '/static/%2e%2e/page.py', '/static//etc/passwd', '/api']
)
def test_nothing_outside_is_served(client, path):
    assert 'nothing is at' in refusal(client.get(path), 404)


def test_a_fault_of_the_program_is_told_as_one(client, monkeypatch):
    monkeypatch.setattr(canvas, 'picture', lambda *_: 1 / 0)
    assert 'a fault of the program, ZeroDivisionError' in refusal(ask(client, 'picture', model=1), 500)


# Serving --------------------------------------------------------------------------------------------------------------


def test_a_notebook_shows_the_page_of_a_thread_that_can_be_closed(models):
    model = models['cips:tiny']
    shown = pegan_jax.explore(model, dataclasses.replace(model, loaded=('run', 5)), model, height=500)
    try:
        with urllib.request.urlopen(shown.address.replace('/?', '/api/models?')) as response:
            names = [about['name'] for about in json.load(response)]
        assert names == ['cips:tiny', 'run, step 5', 'cips:tiny (3)']
        assert shown.address in shown._repr_html_() and 'height="500"' in shown._repr_html_()
        with urllib.request.urlopen(shown.address) as response:
            assert response.status == 200 and 'frame-ancestors' not in response.headers['content-security-policy']
        with pytest.raises(urllib.error.HTTPError, match='403'):
            urllib.request.urlopen(shown.address.partition('?')[0])
    finally:
        shown.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(shown.address)
    with pytest.raises(ValueError, match='needs a model, such as'):
        pegan_jax.explore()


def test_a_page_of_a_notebook_ends_with_its_explorer_and_with_the_next_one_on_its_port(models):
    def answers(address):
        try:
            with urllib.request.urlopen(address) as response:
                return response.status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    model = models['dcgan:tiny']
    first = pegan_jax.explore(model)
    port = int(first.address.rpartition(':')[2].partition('/')[0])
    second = pegan_jax.explore(model, port=port)
    address = second.address
    assert not answers(first.address) and answers(address)
    del first
    assert answers(address)
    del second
    gc.collect()
    end = time.time() + 30
    while answers(address):
        assert time.time() < end
        time.sleep(0.05)


def test_the_command_serves_loads_models_and_names_what_cannot_be_had(workdir, monkeypatch, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(['explore', '--model', str(workdir), '--port', str(port)]) == 1
    assert f'--port {port} cannot be used' in capsys.readouterr().err
    assert main(['explore', '--model', str(workdir / 'none')]) == 1
    assert 'does not exist' in capsys.readouterr().err
    served = {}
    monkeypatch.setattr('uvicorn.Server.run', lambda self, sockets: served.update(app=self.config.app))
    assert main(['explore', '--model', str(workdir), '--port', '0']) == 0
    address = capsys.readouterr().out.strip()
    assert address.startswith('http://127.0.0.1:') and 'token' not in address
    with TestClient(served['app'], base_url=address) as client:
        assert client.get('/api/models').json()[0]['name'] == str(workdir)
    assert main(['explore', '--model', str(workdir), '--port', '0', '--host', '0.0.0.0']) == 0
    assert '?token=' in capsys.readouterr().out


def test_ctrl_c_ends_the_command_while_programs_are_compiled():
    words = [sys.executable, '-m', 'pegan_jax', 'explore', '--model', 'worlds64', '--port', '0']
    compiled = {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    with subprocess.Popen(words, env=os.environ | compiled, **pipes) as process:
        with urllib.request.urlopen(process.stdout.readline().strip()) as response:
            assert response.status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
