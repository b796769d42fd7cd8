"""Cuts a training folder out of the photographs that come with scikit-image: python benchmarks/photo_crops.py FOLDER.

Windows of random size and place, each shrunk to --side. scikit-image is in the extra `test`; nothing is downloaded.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image


def photographs() -> dict[str, np.ndarray]:
    """The colour photographs, uint8 [H, W, 3]."""
    from skimage import data

    left, _, _ = data.stereo_motorcycle()
    photos = {name: getattr(data, name)() for name in ('astronaut', 'chelsea', 'coffee', 'rocket')}
    return {**photos, 'motorcycle': left}


def main() -> None:
    """Writes --count PNG files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--count', type=int, default=2000, help='crops (default 2000)')
    parser.add_argument('--side', type=int, default=64, help='pixels of a crop (default 64)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rng, photos = np.random.default_rng(args.seed), photographs()
    names = sorted(photos)
    for i in range(args.count):
        name = names[i % len(names)]
        height, width, _ = photos[name].shape
        side = int(rng.integers(args.side, min(height, width) + 1))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = Image.fromarray(photos[name][top : top + side, left : left + side])
        crop.resize((args.side, args.side), Image.Resampling.LANCZOS).save(args.folder / f'{i:05d}_{name}.png')
    print(f'{args.count} crops of {len(names)} photographs in {args.folder}')


if __name__ == '__main__':
    main()
