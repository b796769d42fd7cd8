"""Draws faces of a model four times finer than it was trained, the training images nearest to them, and a way between.

python docs/faces.py --model smileys32 --images smileys --out docs/smileys.png
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from pegan_jax import coords, load
from pegan_jax.pixels import image_grid, to_uint8
from pegan_jax.sampling import of_styles

COLUMNS, FINER = 10, 4


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', type=pathlib.Path, required=True)
    parser.add_argument('--images', type=pathlib.Path, required=True, help='the folder that it learnt')
    parser.add_argument('--seeds', type=int, nargs=2, default=(2, 1), help='of the way between two')
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    model = load(args.model)
    height, width = model.size
    grid = coords.grid(FINER * height, FINER * width)
    seeds = range(2 * COLUMNS)
    known = np.stack([np.asarray(Image.open(file).convert('RGB')) for file in sorted(args.images.glob('*.png'))])
    known = np.concatenate([known, known[:, :, ::-1]])  # training mirrors
    w = model.styles(seeds)
    samples = to_uint8(of_styles(model, w))
    far = [np.square(known.astype(np.int32) - sample).mean((1, 2, 3)) for sample in samples.astype(np.int32)]
    nearest = known[[of.argmin() for of in far]].repeat(FINER, 1).repeat(FINER, 2)
    print(f'mean squared distance to the nearest training image, levels: {np.min(far, 1).mean() ** 0.5:.1f}')
    fine = to_uint8(of_styles(model, w, grid=grid))
    first, last = model.styles(args.seeds)
    way = to_uint8(of_styles(model, np.linspace(first, last, COLUMNS), grid=grid))
    halves = [rows for part in (slice(COLUMNS), slice(COLUMNS, None)) for rows in (fine[part], nearest[part])]
    rows = np.concatenate([*halves, way])
    Image.fromarray(image_grid(rows, COLUMNS)).quantize(192).save(args.out, optimize=True)


if __name__ == '__main__':
    main()
