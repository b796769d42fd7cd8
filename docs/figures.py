"""Draws the README's figure.

python docs/figures.py --model worlds64 --seed 29 --circle panorama64 --out docs/figure.png

Rows: images of the procedural world, samples of the trained model, one sample on other coordinates, and with --circle
the whole circle of a model on a cylinder, and two little planets.
"""

import argparse
import math
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pegan_jax import coords, load, render, sample, sampling
from pegan_jax.data import worlds
from pegan_jax.pixels import to_uint8

TILE, GAP, CAPTION = 176, 6, 22


def row(tiles: list[tuple[str, np.ndarray]]) -> Image.Image:
    """Captioned images side by side, each TILE pixels high, without smoothing."""
    images = [Image.fromarray(image) for _, image in tiles]
    images = [im.resize((im.width * TILE // im.height, TILE), Image.Resampling.NEAREST) for im in images]
    out = Image.new('RGB', (sum(im.width + GAP for im in images) - GAP, TILE + CAPTION), 'white')
    draw, x, font = ImageDraw.Draw(out), 0, ImageFont.load_default(13)
    for (caption, _), im in zip(tiles, images, strict=True):
        out.paste(im, (x, CAPTION))
        draw.text((x + 2, 3), caption, 'black', font)
        x += im.width + GAP
    return out


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', type=pathlib.Path, required=True)
    parser.add_argument('--seed', type=int, default=0, help='of the sample on other coordinates')
    parser.add_argument('--circle', type=pathlib.Path, help='a model on a cylinder')
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    model = load(args.model)
    height, width = model.config.data.size
    real = to_uint8(worlds.render_world(np.arange(6), 2 * TILE, 2 * TILE))
    fake = to_uint8(sample(model, range(6)))

    def at(grid: np.ndarray) -> np.ndarray:
        return to_uint8(render(model, args.seed, grid))

    turn = coords.compose(coords.zoom(0.9), coords.rotate(math.radians(20)))
    columns = coords.grid(height, 2 * width, x=(-2, 2))
    rows = [
        row([('procedural world' if i == 0 else '', image) for i, image in enumerate(real)]),
        row([(f'samples, {height} px' if i == 0 else '', image) for i, image in enumerate(fake)]),
        row(
            [
                ('as trained', at(coords.grid(height, width))),
                (f'same, {8 * height} px', at(coords.grid(8 * height, 8 * width))),
                ('its middle, enlarged', at(coords.transform(coords.grid(TILE, TILE), coords.zoom(3)))),
                ('turned', at(coords.transform(coords.grid(4 * height, 4 * width), turn))),
                ('beyond the frame, x in [-2, 2]', at(columns)),
            ]
        ),
    ]
    if args.circle is not None:
        around = load(args.circle)
        strip = render(around, 12, sampling.panorama(around, TILE))
        planets = [render(around, seed, sampling.planet(around, 2 * TILE, 2 * TILE)) for seed in (12, 3)]
        captions = ('a model on a cylinder, the whole circle', 'as a planet', '')
        rows.append(row([(c, to_uint8(x)) for c, x in zip(captions, (strip, *planets), strict=True)]))
    out = Image.new('RGB', (max(r.width for r in rows), sum(r.height + GAP for r in rows) - GAP), 'white')
    y = 0
    for r in rows:
        out.paste(r, (0, y))
        y += r.height + GAP
    out.quantize(192).save(args.out, optimize=True)


if __name__ == '__main__':
    main()
