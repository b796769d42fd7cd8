"""The explorer in a real browser: what Chromium shows after gestures is what the library computes."""

import base64
import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from test_explorer import untrained

from pegan_jax import coords, inpainting, load, sampling
from pegan_jax.config import to_dict
from pegan_jax.explorer import queries
from pegan_jax.inpainting import Strategy
from pegan_jax.pixels import to_uint8
from pegan_jax.train.checkpoint import Checkpoints

CHROMIUM, DRIVER = (shutil.which(name) for name in ('chromium', 'chromedriver'))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason='no Chromium: apt-get install chromium chromium-driver'),
]
ROOT = pathlib.Path(__file__).parents[2]
MODELS = ('cips:tiny', 'stylegan3:t,tiny', 'deepfill:guided,tiny', 'mspie:tiny')


# The browser and the server -------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Working directories of models with random weights, by system."""
    found = {}
    for name in MODELS:
        model = untrained(name)
        workdir = found[model.config.system] = tmp_path_factory.mktemp(model.config.system)
        checkpoints = Checkpoints(workdir / 'checkpoints')
        checkpoints.save_items(0, {'sampling': model.variables}, {'config': to_dict(model.config), 'images': 0})
        checkpoints.close()
    return found


@pytest.fixture(scope='module')
def server(models):
    words = [word for workdir in models.values() for word in ('--model', str(workdir))]
    command = [sys.executable, '-m', 'pegan_jax', 'explore', *words, '--port', '0']
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@dataclasses.dataclass
class Page:
    """A tab of Chromium."""

    driver: webdriver.Chrome
    address: str
    downloads: pathlib.Path

    def open(self, state='', size=(1280, 800), mobile=False, ratio=1):
        self.resize(size, mobile, ratio)
        self.driver.get('about:blank')
        self.wait('location.href === "about:blank"')
        self.driver.get_log('browser')  # requests of the page that was left are cancelled, which it may tell
        self.driver.get(f'{self.address}#{state}')
        self.wait('document.querySelector("main:not([hidden])")')

    def resize(self, size, mobile=False, ratio=1):
        width, height = size
        self.run(
            'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=ratio, mobile=mobile
        )

    def run(self, command, **arguments):
        return self.driver.execute_cdp_cmd(command, arguments)

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def wait(self, condition, seconds=180):
        end = time.time() + seconds
        while not self.js(f'return {condition}'):
            assert time.time() < end, (condition, self.notice, self.driver.get_log('browser'))
            time.sleep(0.02)

    def ready(self):
        self.wait("document.querySelector('main:not([hidden]) canvas')?.dataset.ready === 'true'")

    def find(self, role, inside='main:not([hidden])'):
        return self.driver.find_element(By.CSS_SELECTOR, f'{inside} [data-role="{role}"]')

    def click(self, what, attribute='do'):
        inside = 'header' if attribute == 'kind' else 'main:not([hidden])'
        self.driver.find_element(By.CSS_SELECTOR, f'{inside} [data-{attribute}="{what}"]').click()

    def fill(self, role, value):
        """Types a value, or moves a slider there."""
        code = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
        self.js(code + "arguments[0].dispatchEvent(new Event('change', {bubbles: true}))", self.find(role), str(value))

    def drag(self, points, key=None):
        """Presses the mouse at the first of some points of the canvas, moves along the others, and lets go."""
        box = self.find('view').rect
        keys, actions = ActionChains(self.driver), ActionChains(self.driver, duration=20)
        mouse = actions.w3c_actions.pointer_action
        mouse.move_to_location(int(box['x'] + points[0][0]), int(box['y'] + points[0][1]))
        mouse.pointer_down()
        for x, y in points[1:]:
            mouse.move_to_location(int(box['x'] + x), int(box['y'] + y))
        mouse.pointer_up()
        if key:
            keys.key_down(key).perform()
        actions.perform()
        if key:
            keys.reset_actions()
            keys.key_up(key).perform()

    def mouse(self, kind, place, button='left', **more):
        """An event of the mouse at a place of the canvas: 'Pressed', 'Moved', 'Released' or 'Wheel'."""
        box, buttons = self.find('view').rect, {'left': 1, 'right': 2, 'none': 0}[button]
        self.run(
            'Input.dispatchMouseEvent', type=f'mouse{kind}', x=box['x'] + place[0], y=box['y'] + place[1],
            button=button, buttons=buttons, clickCount=int(kind in ('Pressed', 'Released')), **more,
        )  # fmt: skip

    def press(self, place, button='left'):
        for kind in ('Pressed', 'Released'):
            self.mouse(kind, place, button)

    def wheel(self, place, notches, size=100):
        for _ in range(abs(notches)):
            self.mouse('Wheel', place, 'none', deltaX=0, deltaY=-size * np.sign(notches).item())

    def touch(self, *steps):
        """Fingers at places of the canvas, step by step, of which all are lifted in the end."""
        box, fingers = self.find('view').rect, 0
        self.run('Emulation.setTouchEmulationEnabled', enabled=True, maxTouchPoints=5)
        for places in [*steps, []]:
            kind = 'End' if not places else 'Start' if len(places) > fingers else 'Move'
            points = [{'x': box['x'] + x, 'y': box['y'] + y, 'id': i} for i, (x, y) in enumerate(places)]
            self.run('Input.dispatchTouchEvent', type=f'touch{kind}', touchPoints=points)
            fingers = len(places)
        self.run('Emulation.setTouchEmulationEnabled', enabled=False)

    def key(self, key, code, modifiers=0, text=''):
        for kind in ('keyDown', 'keyUp'):
            more = {'text': text} if text and kind == 'keyDown' else {}
            self.run(
                'Input.dispatchKeyEvent', type=kind, key=key, windowsVirtualKeyCode=code, modifiers=modifiers, **more
            )

    def slow(self, path, seconds):
        """From now on, answers of a path of the server come late."""
        code = """const [path, ms] = arguments, real = window.fetch;
            window.fetch = async (url, options) => {
              const answer = await real(url, options);
              if (String(url).includes(path)) await new Promise(free => setTimeout(free, ms));
              return answer;
            }"""
        self.js(code, f'api/{path}', 1000 * seconds)

    def pixels(self):
        """The canvas, uint8 [H, W, 3]."""
        code = (
            "const c = document.querySelector('main:not([hidden]) canvas'); return [c.width, c.height, c.toDataURL()]"
        )
        width, height, data = self.js(code)
        image = np.asarray(Image.open(urllib.request.urlopen(data)).convert('RGB'))
        assert image.shape == (height, width, 3)
        return image

    def state(self):
        """What the address says, when it has come to rest."""
        time.sleep(0.6)
        return dict(urllib.parse.parse_qsl(self.driver.current_url.partition('#')[2]))

    def downloaded(self, name):
        path, end = self.downloads / name, time.time() + 60
        while not path.exists():
            assert time.time() < end, (name, [*self.downloads.iterdir()], self.notice)
            time.sleep(0.05)
        image = np.asarray(Image.open(path))
        path.unlink()
        return image

    @property
    def notice(self):
        return ' '.join(element.text for element in self.driver.find_elements(By.ID, 'notice'))

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.run('Page.captureScreenshot')['data']))


@pytest.fixture(scope='module')
def page(server, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.page_load_strategy = 'none'  # the tests wait for what they need; drivers sometimes miss the load event
    profile, downloads = tmp_path_factory.mktemp('profile'), tmp_path_factory.mktemp('downloads')
    for flag in (
        'headless=new', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking',
        'disable-component-update', 'disable-sync', 'disable-dev-shm-usage', f'user-data-dir={profile}',
    ):  # fmt: skip
        options.add_argument(f'--{flag}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    with contextlib.closing(_Quit(webdriver.Chrome(options, webdriver.ChromeService(DRIVER)))) as opened:
        found = Page(opened.driver, server, downloads)
        found.run('Browser.setDownloadBehavior', behavior='allow', downloadPath=str(downloads))
        yield found


class _Quit:
    def __init__(self, driver):
        self.driver, self.close = driver, driver.quit


@pytest.fixture(autouse=True)
def console(request):
    """Whatever a page complains about fails the test."""
    yield
    if 'page' in request.fixturenames:
        log = request.getfixturevalue('page').driver.get_log('browser')
        expected = getattr(request.node, 'expected', ())
        assert not [entry for entry in log if not any(word in entry['message'] for word in expected)]


def seen(model, state, shape):
    """The view of an address on a canvas of a shape, from the library: uint8 [H, W, 3]."""
    pitch, angle = 2 ** (-int(state['level']) / 4), float(state['angle'])
    c, s, x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle)), float(state['x']), float(state['y'])
    left = round((c * x + s * y) / pitch - shape[1] / 2)
    top = round((c * y - s * x) / pitch - shape[0] / 2)
    x, y = (((low + 0.5) * pitch, (low + side - 0.5) * pitch) for low, side in ((left, shape[1]), (top, shape[0])))
    grid = sampling.lazy_grid(*shape[:2], x=x, y=y, matrix=coords.rotate(math.radians(angle)))
    w = queries.styles(model, queries.style(state))
    return to_uint8(sampling.render(model, w[0], grid))


def assert_shows(page, model, state):
    got = page.pixels()
    assert np.abs(got.astype(int) - seen(model, state, got.shape)).max() <= 1


# Map ------------------------------------------------------------------------------------------------------------------

INSIDE = 'view=map&x=0.2&y=-0.1&level=40&angle=0'  # so near that the outline of the frame is not seen
SMALL = (640, 480)


def test_the_map_pans_zooms_and_turns_to_what_the_library_renders(page, models):
    model = load(models['cips'])
    page.open(INSIDE, SMALL, mobile=True)
    page.ready()
    first = page.state()
    assert_shows(page, model, first)
    page.drag([(300, 100), (250, 140), (200, 160)])
    page.ready()
    panned, pitch = page.state(), 2**-10
    assert float(panned['x']) == pytest.approx(0.2 + 100 * pitch) and float(panned['y']) == pytest.approx(
        -0.1 - 60 * pitch
    )
    assert_shows(page, model, panned)
    page.wheel((100, 100), 3)
    page.wheel((400, 150), -1)
    page.ready()
    zoomed = page.state()
    assert zoomed['level'] == '42'
    assert_shows(page, model, zoomed)
    page.drag([(500, 60), (520, 100), (530, 140)], key=Keys.SHIFT)
    page.ready()
    turned = page.state()
    assert 5 < abs(float(turned['angle'])) < 60
    assert_shows(page, model, turned)
    page.fill('angle', -90)
    page.ready()
    assert_shows(page, model, page.state())
    for _ in range(4):
        page.js('history.back()')
        time.sleep(0.3)
        page.ready()
    page.ready()
    assert page.state() == first
    assert_shows(page, model, first)


@pytest.mark.parametrize(
    'at, steps, size, level, atol', [((90, 70), 5, {}, None, 0.002), ((20, 30), 6, {'size': 40}, '42', 1.5 * 2**-10.5)]
)
def test_the_place_under_the_cursor_stays_there_while_the_wheel_zooms(page, at, steps, size, level, atol):
    page.open(INSIDE, SMALL, mobile=True)
    page.ready()
    code = f"""const {{left, top}} = document.querySelector('#map canvas').getBoundingClientRect();
        const there = {{clientX: left + {at[0]}, clientY: top + {at[1]}}};
        document.querySelector('#map canvas').dispatchEvent(new PointerEvent('pointermove', there));
        return document.querySelector('#map [data-role=place]').textContent.split(' ·')[0].split(', ').map(Number)"""
    before = page.js(code)
    page.wheel(at, steps, **size)
    if level is not None:  # it comes to rest between two notches
        assert page.state()['level'] == level
    page.ready()
    np.testing.assert_allclose(page.js(code), before, atol=atol)


def test_a_slow_hand_turns_as_far_as_a_quick_one(page):
    page.open(INSIDE, SMALL, mobile=True)
    page.ready()
    x, y = (side // 2 for side in page.pixels().shape[1::-1])
    page.mouse('Pressed', (x + 250, y), modifiers=8)
    for k in range(60):
        page.mouse('Moved', (x + 250, y + k / 4), modifiers=8)
    page.mouse('Released', (x + 250, y + 59 / 4), modifiers=8)
    angle = float(page.state()['angle'])
    assert angle == pytest.approx(-math.degrees(math.atan2(59 / 4, 250)), abs=0.2) and angle == round(angle, 1)


def test_back_leads_through_what_was_seen_and_tabs_remember(page):
    def history(code):
        page.js(f'history.{code}')
        time.sleep(0.3)
        return page.state()

    page.open('', SMALL, mobile=True)
    page.ready()
    first, length = page.state(), page.js('return history.length')
    assert first['view'] == 'map'
    page.js("location.hash = 'view=map&seed=3&x=0.2&y=-0.1&level=40'")
    page.ready()
    partial = page.state()
    assert partial['seed'] == '3' and partial['angle'] == '0'
    page.drag([(300, 100), (250, 140)])
    page.click('photo', 'kind')  # at once: what was seen last is an entry all the same
    assert page.state() == {'view': 'photo'} and page.js('return history.length') == length + 3
    page.click('map', 'kind')
    page.ready()
    panned = page.state()
    assert panned == {**partial, 'x': panned['x'], 'y': panned['y']} != partial
    assert history('back()') == {'view': 'photo'}
    assert [history('back()') for _ in range(3)] == [panned, partial, first]
    assert history('forward()') == partial


def test_the_whole_frame_is_seen_first_with_its_outline(page, models):
    page.open('', (1280, 800))
    page.ready()
    got, state = page.pixels(), page.state()
    differs = np.abs(got.astype(int) - seen(load(models['cips']), state, got.shape)).max(-1) > 1
    half = 2 ** (int(state['level']) / 4)
    rows, columns = np.nonzero(differs)
    height, width = differs.shape
    edges = [np.abs(columns - (width / 2 + half * k)) for k in (-1, 1)] + [
        np.abs(rows - (height / 2 + half * k)) for k in (-1, 1)
    ]
    assert differs.sum() > 1000 and np.min(edges, axis=0).max() <= 2


def test_layers_that_make_no_sense_are_told_and_change_nothing(page):
    page.open(f'{INSIDE}&to=9&t=0.5&layers=1-2', SMALL, mobile=True)
    page.ready()
    for typed, layers, wrong in (
        (' 0 - 3', '0-3', False),
        ('0,3', '0-3', True),
        ('3-1', '0-3', True),
        ('4', '4-4', False),
    ):
        page.fill('layers', typed)
        page.ready()
        told = page.find('layers').get_property('validationMessage')
        assert (page.state()['layers'], 'a range such as 0-3' in told) == (layers, wrong)
    page.fill('layers', '')
    page.ready()
    assert 'layers' not in page.state()


def test_seeds_truncation_and_the_way_to_another_seed_are_those_of_the_library(page, models):
    model = load(models['cips'])
    page.open(INSIDE, SMALL, mobile=True)
    page.ready()
    page.click('5', 'seed')
    page.fill('psi', 0.5)
    page.ready()
    state = page.state()
    assert state['seed'] == '5' and state['psi'] == '0.5'
    assert_shows(page, model, state)
    page.fill('to', 9)
    page.fill('t', 0.6)
    page.fill('layers', '0-2')
    page.ready()
    state = page.state()
    assert (state['to'], state['t'], state['layers']) == ('9', '0.6', '0-2')
    assert_shows(page, model, state)
    page.click('dice')
    page.ready()
    assert page.state()['seed'] != '5'
    images = 'document.querySelectorAll("#map .seeds img")'
    page.wait(f'[...{images}].length === 8 && [...{images}].every(image => image.naturalWidth === 128)')


def test_views_that_are_left_are_not_computed_and_tiles_are_bounded(page):
    page.open(INSIDE, SMALL, mobile=True)
    page.ready()
    before = int(page.js("return document.querySelector('#map canvas').dataset.tiles"))
    canvas = "const c = document.querySelector('#map canvas'); c.focus();"
    for _ in range(150):  # far away in a moment
        page.js(canvas + "c.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))")
    page.ready()
    computed = int(page.js("return document.querySelector('#map canvas').dataset.tiles")) - before
    assert computed < 150 * 64 / 128 * 3  # of three rows of tiles, and coarse ones besides


def test_a_view_is_saved_as_it_is_seen_and_its_command_is_copied(page, models):
    model = load(models['cips'])
    page.open(f'{INSIDE}&seed=3', SMALL, mobile=True)
    page.ready()
    got = page.pixels()
    page.fill('width', got.shape[1])
    page.fill('height', got.shape[0])
    page.click('save')
    saved = page.downloaded('seed3.png')
    assert np.abs(saved.astype(int) - got).max() <= 1
    page.fill('width', got.shape[1] // 2)
    page.fill('height', got.shape[1] // 2)
    page.click('save')
    saved = page.downloaded('seed3.png')
    assert saved.shape == (got.shape[1] // 2,) * 2 + (3,) and saved.std() > 1
    page.click('cli')
    page.wait("document.getElementById('notice').textContent.includes('python -m pegan_jax render')")
    assert f'--model {models["cips"]} --seed 3' in page.notice
    assert model.config.system == 'cips'


# Canvas ---------------------------------------------------------------------------------------------------------------


def test_a_canvas_is_moved_and_turned_by_its_handles(page, models):
    model = load(models['stylegan3'])
    page.open('view=canvas&seed=2')
    page.ready()

    def shown(state):
        motion = coords.compose(
            coords.rotate(math.radians(float(state['angle']))), coords.translate(float(state['dx']), float(state['dy']))
        )
        want = to_uint8(sampling.sample(model, [2], size=(16, 16), transform=motion))[0]
        scale = 24
        got, large = page.pixels(), want.repeat(scale, 0).repeat(scale, 1)
        top, left = ((side - 16 * scale) // 2 for side in got.shape[:2])
        part = np.abs(got[top : top + 16 * scale, left : left + 16 * scale].astype(int) - large).max(-1)
        return (part <= 1).mean()

    assert shown({'angle': 0, 'dx': 0, 'dy': 0}) > 0.97  # but for the handle
    width, height = page.pixels().shape[1::-1]
    middle, unit = (width // 2, height // 2), 16 * 24
    page.drag([(middle[0] - 60, middle[1] + 40), (middle[0] - 20, middle[1] + 60), (middle[0] + 36, middle[1] + 88)])
    page.ready()
    state = page.state()
    assert float(state['dx']) == pytest.approx(96 / unit) and float(state['dy']) == pytest.approx(48 / unit)
    assert shown(state) > 0.97
    x, y, reach = middle[0] + 96, middle[1] + 48, 0.32 * unit
    page.drag([(x + reach, y), (x + reach, y - 40), (x + 80, y - 80)])
    page.ready()
    state = page.state()
    assert float(state['angle']) == pytest.approx(45, abs=1)
    assert shown(state) > 0.97
    assert 'images/s' in page.find('state').text


def test_layers_are_listed_and_drawn(page):
    page.open('view=canvas&seed=2')
    page.ready()
    page.click('layers')
    rows = "document.querySelectorAll('#canvas tbody tr')"
    page.wait(f'{rows}.length > 3')
    page.js(f'{rows}[1].click()')
    page.wait("[...document.querySelectorAll('#canvas .layer img')].every(i => i.complete && i.naturalWidth > 8)")
    assert page.js(f'return {rows}[1].getAttribute("aria-selected")') == 'true'


def test_the_layers_are_those_of_the_image_that_is_seen_and_failures_are_told(page, request):
    request.node.expected = ('400', 'no-layers')
    page.open('view=canvas&seed=2')
    page.ready()
    page.js("""const real = window.fetch; let first = true;
        window.fetch = async (url, options) => {
          const wait = first && url.includes('api/layers'), answer = await real(url, options);
          first &&= !wait;
          if (wait) await new Promise(free => setTimeout(free, 3000));
          if (wait) window.late = true;
          return answer;
        }""")
    page.click('layers')
    page.fill('seed', 5)
    page.wait('window.late')
    rows = "[...document.querySelectorAll('#canvas tbody tr')].map(row => row.cells[2].textContent)"
    page.wait(f'{rows}.length > 3')
    time.sleep(0.5)
    query = 'model=1&seed=5&height=16&width=16&dx=0&dy=0&angle=0'
    with urllib.request.urlopen(f'{page.address}api/layers?{query}') as answer:
        assert page.js(f'return {rows}') == [f'{row["mean"]:.3f}' for row in json.load(answer)]
    page.js("""const real = window.fetch;
        window.fetch = (url, options) => real(url.replace('layers?', 'layers?psi=no-layers&'), options)""")
    page.fill('seed', 6)
    page.wait("document.getElementById('notice').textContent.includes('no-layers')")
    assert page.js(f'return {rows}') == []


def test_the_canvas_has_keys_one_finger_and_sizes_of_its_model_and_tells_what_it_cannot_save(page, request):
    request.node.expected = ('400', 'must lie between')
    text = "document.querySelector('#canvas [data-role=place]').textContent"

    def choose(index):
        code = (
            "const s = document.getElementById('model'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
        )
        page.js(code, str(index))
        page.ready()

    page.open('view=canvas&seed=2', SMALL, mobile=True)
    page.ready()
    page.touch([(100, 150)], [(100, 150), (300, 150)], [(102, 150), (300, 150)], [(102, 150), (301, 150)])
    page.ready()
    moved, scale = page.state(), float(page.js(f"return {text}.split('·')[1].match(/[\\d.-]+/)[0]"))
    assert 0 < float(moved['dx']) < 0.05 and moved['dy'] == '0' and 0 <= scale < 0.05
    page.key('0', 48)
    assert page.state()['dx'] == '0'
    page.key('ArrowRight', 39)
    assert float(page.state()['dx']) == 1 / 16
    page.key('r', 82)
    page.ready()
    assert page.state()['seed'] != '2'
    choose(3)
    assert page.js(f'return {text}').startswith('24 × 24')
    page.fill('width', 32)
    choose(1)
    assert page.js(f'return {text}').startswith('32 × 24')
    page.fill('width', 99999)
    page.wait("document.getElementById('notice').textContent.includes('width=99999')")
    page.js("document.getElementById('notice').textContent = ''")
    page.click('save')
    page.wait("document.getElementById('notice').textContent.includes('width=99999')")


def test_pictures_of_other_seeds_are_asked_for_one_by_one(page):
    pictures = "document.querySelectorAll('#canvas .seeds img[src]').length === 8"
    page.open('view=canvas', SMALL, mobile=True)
    page.wait(pictures)
    page.js("""const real = window.fetch; [window.now, window.most, window.count] = [0, 0, 0];
        window.fetch = async (url, options) => {
          window.most = Math.max(window.most, ++window.now);
          try { return await real(url, options); } finally { window.now--; window.count++; }
        }""")
    page.click('later')
    page.wait(f'window.count >= 8 && {pictures}')
    assert page.js('return window.most') == 1
    code = """const click = what => document.querySelector(`#canvas [data-do=${what}]`).click(), real = window.fetch;
        window.fetch = (url, options) => { window.signal ??= options.signal; return real(url, options); };
        click('later');
        click('dice');
        return window.signal.aborted"""
    assert page.js(code)
    page.ready()


# Photographs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    y, x = np.mgrid[:150, :200]
    image = np.stack([x, y, 127 + 100 * np.sin(x / 7 + y / 11)], axis=-1).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / 'my photo.png')
    return tmp_path / 'my photo.png'


def choose(page, photo):
    """Opens a photograph; returns where its middle is on the canvas."""
    page.find('file').send_keys(str(photo))
    page.wait("document.querySelector('#photo [data-role=drop]').hidden")
    return middle_of(page)


def middle_of(page):
    scale, x, y = map(float, page.find('view').get_attribute('data-at').split())
    return round(x + 100 * scale), round(y + 75 * scale)


def able(page, *what):
    return [page.driver.find_element(By.CSS_SELECTOR, f'#photo [data-do={name}]').is_enabled() for name in what]


def tick(page, *fillers):
    code = """for (const box of document.querySelectorAll('#photo [data-filler]')) {
          box.checked = arguments[0].includes(box.dataset.filler);
        }"""
    page.js(code, fillers)


def mask_of(page, stem='my photo'):
    page.click('mask')
    return page.downloaded(f'{stem}_mask.png')[..., 0]


def test_a_mask_and_a_sketch_are_drawn_and_filled_as_the_library_fills_them(page, models, photo):
    model = load(models['deepfill'])
    page.open('view=photo')
    middle = choose(page, photo)
    page.fill('size', 12)
    page.drag([(middle[0] - 80, middle[1]), (middle[0], middle[1] + 20), (middle[0] + 80, middle[1])])
    page.drag([(20, 20), (40, 40)])
    page.click('undo')
    page.click('pen', 'tool')
    page.drag([(middle[0] - 60, middle[1] - 10), (middle[0] + 60, middle[1] + 10)])
    page.click('biharmonic', 'filler')
    page.fill('strategy', 'crop')
    page.fill('margin', 16)
    page.click('run')
    page.wait("document.querySelectorAll('#photo .strip button').length === 3")
    page.wait("document.querySelector('#photo [data-do=run]').textContent === 'Fill'")
    page.click('mask')
    mask, sketch = (page.downloaded(f'my photo_{kind}.png')[..., 0] for kind in ('mask', 'sketch'))
    assert {*np.unique(mask), *np.unique(sketch)} == {0, 255}  # whatever is light for a command is painted here
    mask, sketch = mask > 127, sketch > 127
    assert 0.01 < mask.mean() < 0.2 and 0 < sketch.mean() < 0.05 and mask[75, 100] and not mask[:10].any()
    image, strategy = np.asarray(Image.open(photo)), Strategy('crop', margin=16)
    page.click('save')
    want = inpainting.inpaint_by(strategy, model, image, mask, sketch)
    # The browser compiles nothing: both are the library, in two processes.
    assert np.abs(page.downloaded('my photo_filled.png').astype(int) - want).max() <= 1
    assert (want != inpainting.inpaint_by(strategy, model, image, mask)).any()
    page.js("document.querySelectorAll('#photo .strip button')[2].click()")
    page.click('save')
    np.testing.assert_array_equal(
        page.downloaded('my photo_filled.png'), inpainting.inpaint_by(strategy, None, image, mask)
    )


def test_a_key_takes_no_tool_that_is_not_shown(page, photo):
    page.open('view=photo')
    choose(page, photo)
    pressed = "return document.querySelector('#photo [data-tool][aria-pressed=true]').dataset.tool"
    page.key('p', 80)
    assert page.js(pressed) == 'pen'
    page.key('b', 66)
    page.js("document.querySelector('#photo [data-tool=pen]').hidden = true")  # as where no model takes lines
    page.key('p', 80)
    assert page.js(pressed) == 'brush'


def test_a_photograph_far_larger_than_those_of_training_is_made_smaller_unless_somebody_chose(page, photo):
    def chosen():
        return page.find('strategy').get_property('value'), page.find('limit').get_property('value')

    page.open('view=photo')
    assert chosen() == ('crop', '1024')
    choose(page, photo)  # of 200 x 150 pixels, for a model of 32 x 32
    assert chosen() == ('resize', '64') and page.find('limit').is_displayed() and not page.find('margin').is_displayed()
    page.js("document.querySelector('#photo [data-filler]').click()")  # no model is left
    assert chosen()[0] == 'crop'
    page.fill('strategy', 'original')
    page.js("document.querySelector('#photo [data-filler]').click()")
    choose(page, photo)
    assert chosen()[0] == 'original'


def test_the_slider_parts_before_and_after_and_results_stand_side_by_side(page, photo):
    page.open('view=photo')
    middle = choose(page, photo)
    page.fill('size', 30)
    page.drag([(middle[0] - 40, middle[1]), (middle[0] + 40, middle[1])])
    page.click('flow', 'role')
    page.click('biharmonic', 'filler')
    page.click('run')
    page.wait("document.querySelectorAll('#photo .strip button').length === 4")
    page.wait("document.querySelector('#photo [data-do=run]').textContent === 'Fill'")
    half, middle = page.pixels(), middle_of(page)
    width = half.shape[1]
    page.drag([middle, (width - 5, middle[1])])
    before = page.pixels()
    page.drag([(page.js("return document.querySelector('#photo canvas').width") - 5, middle[1]), (5, middle[1])])
    page.js("document.querySelectorAll('#photo .strip button')[0].click()")
    assert np.abs(half.astype(int) - before).max() > 50
    page.click('side')
    page.wait("[...document.querySelectorAll('#photo .results img')].length === 3")
    page.js("document.querySelectorAll('#photo .strip button')[1].click()")
    page.click('keep')
    page.wait("document.querySelector('#photo [data-role=place]').textContent.startsWith('my photo_filled.png')")


def test_strokes_are_made_cleared_and_taken_back(page, photo):
    page.open('view=photo', (1000, 700))
    middle = choose(page, photo)
    page.fill('size', 20)
    page.press((middle[0] - 200, middle[1]), 'right')
    assert able(page, 'undo', 'redo', 'clear') == [False, False, False]
    page.press(middle)
    disc = mask_of(page)
    y, x = np.mgrid[:150, :200]
    inside = np.hypot(x - 99.5, y - 74.5)
    assert (disc[inside < 9] == 255).all() and (disc[inside > 11] == 0).all()
    page.click('clear')
    assert able(page, 'undo', 'clear', 'run') == [True, False, False]
    assert not mask_of(page).any()
    page.click('undo')
    np.testing.assert_array_equal(mask_of(page), disc)
    page.click('undo')
    assert able(page, 'undo', 'redo') == [False, True]
    left, right = (middle[0] - 60, middle[1]), (middle[0] + 60, middle[1])
    page.touch([left], [left, right], [(left[0] - 40, left[1]), right])
    assert able(page, 'undo', 'redo') == [False, True]
    page.click('redo')
    np.testing.assert_array_equal(mask_of(page), disc)


def test_keys_take_strokes_back_wherever_the_focus_is(page, photo):
    page.open('view=photo', (1000, 700))
    x, y = choose(page, photo)
    for k in range(3):
        page.press((x + 20 * k, y))
    page.js("document.querySelector('#photo [data-do=undo]').focus()")
    page.key(' ', 32, text=' ')
    page.js("document.querySelector('#photo [data-filler]').focus()")
    page.key('z', 90, modifiers=2)
    page.js("document.querySelector('#photo [data-role=size]').focus()")
    page.key('z', 90, modifiers=2)
    assert able(page, 'undo', 'redo') == [False, True]


def test_the_zoom_stays_when_the_window_changes_and_low_stages_show_the_photograph(page, photo):
    def written():
        return page.find('view').get_attribute('data-at')

    def place():
        return [float(number) for number in written().split()]

    def leaves(before):
        page.wait(f"document.querySelector('#photo canvas').dataset.at !== '{before}'")

    page.open('view=photo', (1000, 700), ratio=2)
    choose(page, photo)
    sides = page.js("const c = document.querySelector('#photo canvas'); return [c.width, c.clientWidth]")
    assert sides[0] == 2 * sides[1]
    first, before = place(), written()
    page.resize((1000, 480), ratio=2)
    leaves(before)
    fitted, before = place(), written()
    assert fitted[0] < first[0]
    page.wheel((300, 200), 3)
    leaves(before)
    near = place()
    assert near[0] > fitted[0]
    page.resize((1000, 640), ratio=2)
    page.wait("document.querySelector('#photo canvas').clientHeight > 580")
    assert place() == near
    page.open('view=photo', (740, 330), mobile=True)
    choose(page, photo)
    assert place()[0] * 150 > 150


def test_only_the_newest_photograph_counts(page, photo, tmp_path):
    other = tmp_path / 'other.png'
    Image.open(photo).rotate(180).save(other)
    text, strip = "document.querySelector('#photo [data-role=place]').textContent", '#photo .strip button'
    page.open('view=photo', (1000, 700))
    middle = choose(page, photo)
    tick(page, '2', 'biharmonic')
    page.drag([middle, (middle[0] + 40, middle[1])])
    page.slow('fill', 1)
    page.click('run')
    page.find('file').send_keys(str(other))
    page.wait(f"{text}.startsWith('other.png')")
    page.wait("document.querySelector('#photo [data-do=run]').textContent === 'Fill'")
    assert not page.driver.find_elements(By.CSS_SELECTOR, strip) and page.js(f'return {text}').startswith('other.png')
    # A result does not end the stroke during which it comes.
    tick(page, 'biharmonic')
    page.drag([middle, (middle[0] + 40, middle[1])])
    page.click('run')
    page.mouse('Pressed', (middle[0], middle[1] + 50))
    page.wait(f"document.querySelectorAll('{strip}').length === 2")
    page.mouse('Moved', (middle[0] + 30, middle[1] + 50))
    assert page.js(f'return {text}').startswith('other.png')
    page.mouse('Released', (middle[0] + 30, middle[1] + 50))
    # Of two that load at once, the one that was opened last is shown, even if it comes first.
    page.open('view=photo', (1000, 700))
    page.js("""const real = window.fetch; let count = 0;
        window.fetch = async (url, options) => {
          const first = !count++, answer = await real(url, options);
          if (first) await new Promise(free => setTimeout(free, 1500));
          return answer;
        }""")
    page.find('file').send_keys(str(photo))
    page.find('file').send_keys(str(other))
    page.wait(f"{text}.startsWith('other.png')")
    time.sleep(1.8)
    assert page.js(f'return {text}').startswith('other.png')


def test_what_follows_a_result_and_its_command(page, photo):
    page.open('view=photo', (1000, 700))
    middle = choose(page, photo)
    tick(page, 'biharmonic')
    page.press(middle)
    mask = mask_of(page)
    page.js('navigator.clipboard.writeText = () => Promise.reject(); document.execCommand = () => false')
    page.click('cli')
    page.wait("document.querySelector('#notice textarea')?.value.includes('inpaint --method biharmonic')")
    page.click('run')
    page.wait("document.querySelectorAll('#photo .strip button').length === 2")
    code = """const r = document.querySelector('#photo canvas').getBoundingClientRect();
        return document.elementFromPoint(r.left + 20, r.bottom - 70).tagName"""
    assert page.js(code) == 'CANVAS'
    code = 'return arguments[0].dispatchEvent(new Event(arguments[1], {bubbles: true, cancelable: true}))'
    assert not page.js(code, page.driver.find_element(By.CSS_SELECTOR, '#photo aside'), 'dragover')
    assert not page.js(f'const none = window; {code.replace("arguments[0]", "none")}', None, 'beforeunload')
    page.click('keep')
    text = "document.querySelector('#photo [data-role=place]').textContent"
    page.wait(f"{text}.startsWith('my photo_filled.png')")
    page.click('undo')
    assert page.js(f'return {text}').startswith('my photo.png')
    np.testing.assert_array_equal(mask_of(page), mask)


def test_what_cannot_be_loaded_is_told(page, tmp_path, request):
    request.node.expected = ('400', 'cannot be read as an image')
    (tmp_path / 'no.png').write_text('hello')
    page.open('view=photo')
    page.find('file').send_keys(str(tmp_path / 'no.png'))
    page.wait("document.getElementById('notice').textContent.includes('cannot be read as an image')")


# Screens --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size, mobile', [((1280, 800), False), ((390, 844), True)], ids=['desktop', 'phone'])
@pytest.mark.parametrize('view', ['map', 'canvas', 'photo'])
def test_nothing_sticks_out_of_the_screen(page, view, size, mobile, tmp_path):
    page.open(f'view={view}', size, mobile)
    if view != 'photo':
        page.ready()
    wide = "[...document.querySelectorAll('body, main:not([hidden]) aside')].map(e => e.scrollWidth - e.clientWidth)"
    assert page.js(f'return {wide}') == [0, 0]
    stage = page.driver.find_element(By.CSS_SELECTOR, 'main:not([hidden]) .stage').rect
    assert stage['width'] >= 0.7 * size[0] - 40 and stage['height'] >= 0.4 * size[1]
    page.screenshot(tmp_path / 'screen.png')
    assert np.asarray(Image.open(tmp_path / 'screen.png')).std() > 5
