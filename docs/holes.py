"""Draws how a DeepFillv2 with sketches fills holes of procedural worlds that no training saw.

python docs/holes.py --model fill64 --out docs/fill64.png

Rows: worlds with holes as training has them, what the model makes of them, the smooth interpolation; boxes with lines,
what the model makes of the box alone, and with the lines, which are Canny's edges of the worlds.
"""

import argparse
import pathlib

import jax
import numpy as np
from PIL import Image

from pegan_jax import inpaint, inpainting, load
from pegan_jax.data import edges, masks, worlds
from pegan_jax.pixels import image_grid, to_uint8

FIRST, COLUMNS, SCALE = 900_000, 8, 2  # no training draws worlds of such numbers


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', type=pathlib.Path, required=True)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    model = load(args.model)
    height, width = model.size
    images = to_uint8(worlds.render_world(np.arange(FIRST, FIRST + COLUMNS), height, width))
    keys = jax.random.split(jax.random.key(0), COLUMNS)
    drawn = np.asarray(jax.vmap(lambda key: masks.draw(key, height, width, 'union'))(keys))[..., 0] > 0
    box = np.zeros_like(drawn)
    box[:, height * 5 // 16 : height * 11 // 16, width * 5 // 16 : width * 11 // 16] = True
    lines = box & np.stack([edges.extract(image, 'canny')[..., 0] > 127 for image in images])
    rows = [
        np.where(drawn[..., None], 255, images),
        inpaint(model, images, drawn),
        inpainting.biharmonic(images, drawn),
        np.where(lines[..., None], 255, np.where(box[..., None], 0, images)),
        inpaint(model, images, box),
        inpaint(model, images, box, lines),
    ]
    grid = image_grid(np.concatenate(rows).astype(np.uint8), COLUMNS)
    Image.fromarray(grid.repeat(SCALE, axis=0).repeat(SCALE, axis=1)).save(args.out)


if __name__ == '__main__':
    main()
