"""How long the explorer takes for a view of 256 x 256 pixels in Chromium: all tiles are new, programs are warm.

python benchmarks/explorer.py --model runs/quickstart

Needs '.[test]' and the packages chromium and chromium-driver. The time is from a move of the slider between two seeds
until the last of four tiles is drawn.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from selenium import webdriver

VIEWS = 40


def main() -> None:
    """Prints milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, metavar='WORKDIR')
    args = parser.parse_args()
    command = [sys.executable, '-m', 'pegan_jax', 'explore', '--model', args.model, '--port', '0']
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        for flag in (
            'headless=new',
            'no-sandbox',
            'disable-gpu',
            'disable-background-networking',
            f'user-data-dir={folder}',
        ):
            options.add_argument(f'--{flag}')
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
        try:
            times = measure(driver, server.stdout.readline().strip())
        finally:
            driver.quit()
            server.kill()
    print(f'{statistics.median(times):.0f} ms (median of {VIEWS}; {min(times):.0f} to {max(times):.0f})')


def measure(driver: webdriver.Chrome, address: str) -> list[float]:
    """Milliseconds of every view."""

    def js(code: str) -> object:
        return driver.execute_script(code)

    def ready() -> float:
        while js("return document.querySelector('#map canvas').dataset.ready") != 'true':
            time.sleep(0.02)
        return float(js("return document.querySelector('#map canvas').dataset.ms"))

    driver.get(f'{address}#view=map&seed=4&to=9&t=0')
    ready()
    js("document.querySelector('#map .stage').style.cssText = 'width: 256px; height: 256px; flex: none'")
    time.sleep(1)
    js("document.querySelector('#map [data-do=home]').click()")
    ready()
    times = []
    for k in range(VIEWS):
        time.sleep(0.25)
        js(
            "const slider = document.querySelector('#map [data-role=t]');"
            f'slider.value = {(k + 1) / VIEWS}; slider.dispatchEvent(new Event("input"))'
        )
        times.append(ready())
    return times


if __name__ == '__main__':
    main()
