"""What a study gives, numbers and pictures, and how pictures are drawn."""

import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SEQUENTIAL = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
DIVERGING = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))
_TILE, _GAP, _LABEL = 132, 10, 150


def coloured(x: np.ndarray, low: float, high: float, ramp: tuple = SEQUENTIAL) -> np.ndarray:
    """[H, W] -> uint8 [H, W, 3], grey where x is NaN."""
    t = np.clip((x - low) / ((high - low) or 1.0), 0, 1)
    stops = np.linspace(0, 1, len(ramp))
    rgb = np.stack([np.interp(np.nan_to_num(t), stops, [c[i] for c in ramp]) for i in range(3)], -1)
    return np.where(np.isnan(x)[..., None], 160, rgb.round()).astype(np.uint8)


def picture_table(
    title: str, rows: dict[str, list[tuple[str, np.ndarray]]], legend: tuple | None = None
) -> Image.Image:
    """Rows of captioned uint8 pictures under a title; legend: (low, high, ramp, what) of a colour bar."""
    small, large, across = ImageFont.load_default(12), ImageFont.load_default(15), max(map(len, rows.values()))
    label = max(_LABEL, *(20 + int(small.getlength(line)) for name in rows for line in name.split('\n')))
    width = label + across * (_TILE + _GAP)
    top, step = 34, _TILE + 24
    out = Image.new('RGB', (max(width, 760), top + len(rows) * step + (44 if legend else 6)), 'white')
    draw = ImageDraw.Draw(out)
    draw.text((8, 8), title, 'black', large)
    for i, (name, pictures) in enumerate(rows.items()):
        y = top + i * step
        draw.multiline_text((8, y + 18 + _TILE // 3), name, 'black', small)
        for j, (caption, picture) in enumerate(pictures):
            x = label + j * (_TILE + _GAP)
            draw.text((x, y + 2), caption, 'black', small)
            image = Image.fromarray(picture)
            scale = _TILE / max(image.size)
            size = tuple(max(round(n * scale), 1) for n in image.size)
            out.paste(image.resize(size, Image.Resampling.NEAREST), (x, y + 18))
    if legend:
        low, high, ramp, what = legend
        y, bar = top + len(rows) * step + 4, coloured(np.linspace(0, 1, 240)[None].repeat(12, 0), 0, 1, ramp)
        out.paste(Image.fromarray(bar), (label, y))
        draw.text((label, y + 15), f'{low:.3g}', 'black', small)
        draw.text((label + 240, y + 15), f'{high:.3g}', 'black', small, anchor='ra')
        draw.text((label + 252, y), what, 'black', small)
    return out


def number_table(title: str, columns: Sequence[str], rows: dict[str, Sequence[float]], what: str) -> Image.Image:
    """Rows of numbers in [0, 1], on colours; NaN stays empty."""
    font = ImageFont.load_default(12)
    cell = max(64, *(12 + int(font.getlength(name)) for name in columns))
    label = 40 + max(int(font.getlength(name)) for name in rows)
    out = Image.new('RGB', (max(label + cell * len(columns) + 10, 560), 86 + 30 * len(rows)), 'white')
    draw = ImageDraw.Draw(out)
    draw.text((8, 8), title, 'black', ImageFont.load_default(15))
    for j, name in enumerate(columns):
        draw.text((label + j * cell + cell / 2, 50), name, 'black', font, anchor='mm')
    for i, (name, values) in enumerate(rows.items()):
        y = 62 + 30 * i
        draw.text((8, y + 15), name, 'black', font, anchor='lm')
        for j, value in enumerate(values):
            x = label + j * cell
            fill = tuple(coloured(np.array([[value]]), 0, 1)[0, 0].tolist())
            draw.rectangle((x, y, x + cell - 3, y + 27), fill)
            if not np.isnan(value):
                ink = 'black' if value > 0.55 else 'white'
                draw.text((x + cell / 2 - 1, y + 14), f'{round(value, 3) + 0.0:.3f}', ink, font, anchor='mm')
    draw.text((8, 66 + 30 * len(rows)), what, 'black', font)
    return out


def short(name: str) -> str:
    """The end of a layer's name."""
    return name.removeprefix('synthesis/')[-20:]


def rounded(x: Any) -> Any:
    """Arrays and numbers as JSON, to five digits."""
    return [rounded(v) for v in x] if np.ndim(x) else float(f'{float(x):.5g}')


def wrapped(name: str) -> str:
    """A line for every part of a name."""
    return name.replace(', ', ',\n')


# Studies --------------------------------------------------------------------------------------------------------------


class Study(NamedTuple):
    """numbers: JSON values by name; pictures: by file name without suffix."""

    numbers: dict[str, Any]
    pictures: dict[str, Image.Image]


def save(study: Study, folder: str | pathlib.Path, name: str, about: dict[str, Any]) -> list[pathlib.Path]:
    """Writes folder/NAME.json, `about` and the numbers, and a PNG per picture, once all are made. Returns: paths."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f'{name}.json', *(f'{name}_{kind}.png' for kind in study.pictures)]
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        unfinished = pathlib.Path(directory)
        (unfinished / names[0]).write_text(json.dumps(about | {'numbers': study.numbers}, indent=1) + '\n')
        for file, picture in zip(names[1:], study.pictures.values(), strict=True):
            picture.save(unfinished / file)
        return [(unfinished / file).replace(folder / file) for file in names]
