"""Cuts a training folder out of the photographs that come with scikit-image: python benchmarks/photo_crops.py FOLDER.

Windows of random size and place, each shrunk to --side. scikit-image is in the extra `test`; nothing is downloaded.
"""

import argparse
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image


def photographs() -> dict[str, np.ndarray]:
    """The colour photographs, uint8 [H, W, 3]."""
    from skimage import data

    left, _, _ = data.stereo_motorcycle()
    photos = {name: getattr(data, name)() for name in ('astronaut', 'chelsea', 'coffee', 'rocket')}
    return {**photos, 'motorcycle': left}


def crops(count: int, side: int, seed: int) -> Iterator[tuple[str, Image.Image]]:
    """The name of a photograph, and a window of random size and place of it, shrunk to side x side pixels."""
    rng, photos = np.random.default_rng(seed), photographs()
    names = sorted(photos)
    for i in range(count):
        name = names[i % len(names)]
        height, width, _ = photos[name].shape
        reach = int(rng.integers(min(side, height, width), min(height, width) + 1))
        top, left = rng.integers(height - reach + 1), rng.integers(width - reach + 1)
        crop = Image.fromarray(photos[name][top : top + reach, left : left + reach])
        yield name, crop.resize((side, side), Image.Resampling.LANCZOS)


def main() -> None:
    """Writes --count PNG files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--count', type=int, default=2000, help='crops (default 2000)')
    parser.add_argument('--side', type=int, default=64, help='pixels of a crop (default 64)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for i, (name, crop) in enumerate(crops(args.count, args.side, args.seed)):
        crop.save(args.folder / f'{i:05d}_{name}.png')
    print(f'{args.count} crops of {len(photographs())} photographs in {args.folder}')


if __name__ == '__main__':
    main()
