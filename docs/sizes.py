"""Draws the latents of six columns at the sizes that an MS-PIE was trained at, and at others.

python docs/sizes.py --model sizes64 --out docs/mspie.png
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from pegan_jax import load, sample
from pegan_jax.pixels import to_uint8

SIZES = (32, 32), (48, 48), (64, 64), (80, 80), (64, 128)  # the last two were not trained
COLUMNS, LARGER, MARGIN = 6, 2, 8


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', type=pathlib.Path, required=True)
    parser.add_argument('--seed', type=int, default=0, help='that of the first column')
    parser.add_argument('--psi', type=float, default=1.0, help='truncation')
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    model, rows = load(args.model), []
    for size in SIZES:
        seeds = range(args.seed, args.seed + COLUMNS)
        images = to_uint8(sample(model, seeds, size=size, truncation_psi=args.psi)).repeat(LARGER, 1).repeat(LARGER, 2)
        framed = np.pad(images, ((0, 0), (0, MARGIN), (0, MARGIN), (0, 0)), constant_values=255)
        rows.append(np.concatenate(framed, axis=1))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    Image.fromarray(np.concatenate(rows)[:-MARGIN, :-MARGIN]).save(args.out, optimize=True)


if __name__ == '__main__':
    main()
