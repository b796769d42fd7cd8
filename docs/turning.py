"""Draws samples of a StyleGAN3-R, and one of them turned once around in ten steps.

python docs/turning.py --model turn32 --out docs/turning.png
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from pegan_jax import coords, load
from pegan_jax.pixels import image_grid, to_uint8
from pegan_jax.sampling import of_styles

COLUMNS, LARGER = 10, 3


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', type=pathlib.Path, required=True)
    parser.add_argument('--seed', type=int, default=0, help='of the image that is turned')
    parser.add_argument('--psi', type=float, default=0.8, help='truncation')
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    model = load(args.model)
    samples = of_styles(model, model.styles(range(2 * COLUMNS), truncation_psi=args.psi))
    w = model.styles([args.seed], truncation_psi=args.psi)
    angles = np.arange(COLUMNS) * 2 * np.pi / COLUMNS
    turned = np.concatenate([of_styles(model, w, transform=coords.rotate(angle)) for angle in angles])
    rows = to_uint8(np.concatenate([samples, turned])).repeat(LARGER, 1).repeat(LARGER, 2)
    Image.fromarray(image_grid(rows, COLUMNS)).save(args.out, optimize=True)


if __name__ == '__main__':
    main()
