"""Records the explorer: real screenshots of Chromium, as a GIF and, of every view, as PNG.

python docs/recording.py --map runs/quickstart --holes runs/photos --image rocket.png --out docs

Needs '.[test]' and the packages chromium and chromium-driver.
"""

import argparse
import base64
import contextlib
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from PIL import Image
from selenium import webdriver

SIZE = (1000, 625)  # of the page
SHOWN = (480, 300)  # of the GIF
BEFORE, AFTER, LAST = 90, 700, 1800  # milliseconds: of a frame of a motion, at its end, at the end of a scene
FLAGS = (
    'headless=new', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking',
    'disable-component-update', 'disable-sync', 'disable-dev-shm-usage', 'hide-scrollbars',
)  # fmt: skip


class Recorder:
    """A page, and the pictures that were taken of it."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address, self.frames, self.times = driver, address, [], []

    def open(self, state: str, size: tuple[int, int], mobile: bool = False) -> None:
        screen = {'width': size[0], 'height': size[1], 'deviceScaleFactor': 1, 'mobile': mobile}
        self.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', screen)
        self.driver.get('about:blank')
        self.driver.get(f'{self.address}#{state}')
        self.wait('document.querySelector("main:not([hidden])")')

    def js(self, code: str, *arguments: object) -> object:
        return self.driver.execute_script(code, *arguments)

    def wait(self, condition: str) -> None:
        while not self.js(f'return {condition}'):
            time.sleep(0.05)

    def ready(self) -> None:
        self.wait("document.querySelector('main:not([hidden]) canvas').dataset.ready === 'true'")
        self.wait("[...document.querySelectorAll('main:not([hidden]) .seeds img')].every(i => i.naturalWidth)")

    def picture(self) -> Image.Image:
        data = self.driver.execute_cdp_cmd('Page.captureScreenshot', {})['data']
        return Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB')

    def frame(self, milliseconds: int = BEFORE) -> None:
        self.frames.append(self.picture().resize(SHOWN, Image.Resampling.LANCZOS))
        self.times.append(milliseconds)

    def move(self, code: str, steps: int, last: int = AFTER) -> None:
        """Frames of a motion, of which each is a call of some JavaScript, and of the view when it is there."""
        for _ in range(steps):
            self.js(code)
            time.sleep(0.15)
            self.frame()
        self.ready()
        self.frame(last)

    def set(self, role: str, value: object) -> None:
        code = 'const e = document.querySelector(`main:not([hidden]) [data-role=${arguments[0]}]`);'
        code += 'e.value = arguments[1];'
        self.js(code + "e.dispatchEvent(new Event('input', {bubbles: true}))", role, value)

    def mouse(self, what: str, x: float, y: float) -> None:
        place = {'x': x, 'y': y, 'button': 'left', 'buttons': 1, 'clickCount': 1}
        self.driver.execute_cdp_cmd('Input.dispatchMouseEvent', {'type': f'mouse{what}', **place})

    def click(self, what: str) -> None:
        self.js(f"document.querySelector('main:not([hidden]) {what}').click()")

    def save(self, path: pathlib.Path) -> None:
        first = self.frames[0].quantize(64, dither=Image.Dither.NONE)
        rest = [frame.quantize(64, dither=Image.Dither.NONE) for frame in self.frames[1:]]
        first.save(path, save_all=True, append_images=rest, duration=self.times, loop=0, optimize=True)


WHEEL = """const c = document.querySelector('#map canvas'), {{left, top}} = c.getBoundingClientRect();
    const there = {{clientX: left + {1}, clientY: top + {2}, cancelable: true}};
    c.dispatchEvent(new WheelEvent('wheel', {{deltaY: {0}, ...there}}))"""
KEY = "document.querySelector('#map canvas').dispatchEvent(new KeyboardEvent('keydown', {{key: '{0}'}}))"


def look_around(page: Recorder) -> None:
    """The map: out of the frame, into it, turned, other seeds."""
    page.open('view=map&seed=4', SIZE)
    page.ready()
    page.frame(AFTER)
    page.move(WHEEL.format(100, 340, 290), 6)
    page.move(KEY.format('['), 4)
    page.move(KEY.format(']'), 4)
    page.move(WHEEL.format(-100, 378, 292), 12, LAST)
    page.click('[data-do="home"]')
    page.ready()
    page.set('to', 7)
    for k in range(6):
        page.set('t', 0.2 * k)
        page.ready()
        page.frame(AFTER if k == 5 else 2 * BEFORE)
    page.times[-1] = LAST


def load(page: Recorder, image: pathlib.Path, size: tuple[int, int], mobile: bool = False) -> None:
    page.open('view=photo', size, mobile)
    page.driver.find_element('css selector', '#photo [data-role=file]').send_keys(str(image.resolve()))
    page.wait("document.querySelector('#photo [data-role=drop]').hidden")


def photograph(page: Recorder, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a position of the photograph is, in its pixels."""
    canvas = page.driver.find_element('css selector', '#photo canvas')
    scale, left, top = map(float, canvas.get_attribute('data-at').split())
    return canvas.rect['x'] + left + x * scale, canvas.rect['y'] + top + y * scale


def stroke(page: Recorder, points: list[tuple[float, float]], record: bool) -> None:
    """Paints along points, in shares of the photograph's width and height."""
    width, height = Image.open(page.image).size
    places = [photograph(page, x * width, y * height) for x, y in points]
    page.set('size', round(width / 14))
    page.mouse('Pressed', *places[0])
    for place in places:
        page.mouse('Moved', *place)
        if record:
            page.frame()
    page.mouse('Released', *places[-1])


def fill(page: Recorder) -> None:
    """All fillers, one after the other."""
    for box in page.driver.find_elements('css selector', '#photo [data-filler]'):
        if not box.is_selected():
            page.js('arguments[0].click()', box)
    count = 1 + len(page.driver.find_elements('css selector', '#photo [data-filler]'))
    page.click('[data-do="run"]')
    page.wait(f"document.querySelectorAll('#photo .strip button').length === {count}")
    page.wait("document.querySelector('#photo [data-do=run]').textContent === 'Fill'")
    time.sleep(0.5)


def remove(page: Recorder, points: list[tuple[float, float]]) -> None:
    """The inpainting view: a hole is painted and filled; before and after; side by side."""
    load(page, page.image, SIZE)
    page.frame(AFTER)
    stroke(page, points, record=True)
    page.frame(AFTER)
    fill(page)
    page.frame(AFTER)
    x, y = photograph(page, *(side / 2 for side in Image.open(page.image).size))
    page.mouse('Pressed', x, y)
    for k in range(1, 8):
        page.mouse('Moved', x - 45 * k, y)
        page.frame()
    page.mouse('Released', x - 315, y)
    page.frame(AFTER)
    page.click('[data-do="side"]')
    time.sleep(0.3)
    page.frame(LAST)


@contextlib.contextmanager
def served(models: list[pathlib.Path]) -> Iterator[str]:
    """The address of an explorer."""
    words = [word for model in models for word in ('--model', str(model))]
    command = [sys.executable, '-m', 'pegan_jax', 'explore', *words, '--port', '0']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    """Records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--map', type=pathlib.Path, required=True, help='workdir of a model with coordinates')
    parser.add_argument('--holes', type=pathlib.Path, required=True, help='workdir of a model that completes images')
    parser.add_argument('--image', type=pathlib.Path, required=True, help='a photograph')
    parser.add_argument(
        '--stroke',
        default='0.695,0.3 0.697,0.45 0.703,0.6 0.71,0.75 0.715,0.9',
        help='of the brush, X,Y in shares of the photograph',
    )
    parser.add_argument('--out', type=pathlib.Path, required=True, metavar='FOLDER')
    args = parser.parse_args()
    points = [tuple(map(float, pair.split(','))) for pair in args.stroke.split()]
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    with tempfile.TemporaryDirectory() as profile, served([args.map, args.holes]) as address:
        for flag in (*FLAGS, f'user-data-dir={profile}'):
            options.add_argument(f'--{flag}')
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
        try:
            page = Recorder(driver, address)
            page.image = args.image
            look_around(page)
            remove(page, points)
            page.save(args.out / 'explorer.gif')
            load(page, args.image, (1280, 800))
            stroke(page, points, record=False)
            fill(page)
            page.picture().save(args.out / 'explorer_photo.png', optimize=True)
        finally:
            driver.quit()
    print(args.out / 'explorer.gif')


if __name__ == '__main__':
    main()
