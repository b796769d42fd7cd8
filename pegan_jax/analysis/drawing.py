"""The numbers and pictures that a study gives, and how pictures are drawn."""

import contextlib
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pegan_jax.files import Path, as_path, whole
from pegan_jax.pixels import as_image, to_uint8

SEQUENTIAL = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
DIVERGING = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))
_TILE, _GAP, _LABEL = 132, 10, 150


def coloured(x: np.ndarray, low: float, high: float, ramp: tuple = SEQUENTIAL) -> np.ndarray:
    """[H, W] -> uint8 [H, W, 3], grey where x is NaN."""
    t = np.clip((x - low) / ((high - low) or 1.0), 0, 1)
    stops = np.linspace(0, 1, len(ramp))
    rgb = np.stack([np.interp(np.nan_to_num(t), stops, [c[i] for c in ramp]) for i in range(3)], -1)
    return np.where(np.isnan(x)[..., None], 160, rgb.round()).astype(np.uint8)


def as_picture(image: np.ndarray) -> np.ndarray:
    """[H, W, C] in [-1, 1] -> uint8 [H, W, 3]; a fourth channel is left out."""
    return np.broadcast_to(to_uint8(image[..., :3]), (*image.shape[:2], 3))


def picture_table(
    title: str, rows: dict[str, list[tuple[str, np.ndarray]]], legend: tuple | None = None, tile: int = _TILE
) -> Image.Image:
    """Rows of captioned uint8 pictures under a title, their longer sides `tile`.

    legend: (low, high, ramp, what) of a colour bar.
    """
    small, large, across = ImageFont.load_default(12), ImageFont.load_default(15), max(map(len, rows.values()))
    label = max(_LABEL, *(20 + int(small.getlength(line)) for name in rows for line in name.split('\n')))
    width = max(label + across * (tile + _GAP), 8 + int(large.getlength(title)), 760)

    def scaled(picture: np.ndarray) -> Image.Image:
        image = as_image(picture)
        scale = tile / max(image.size)
        size = tuple(max(round(n * scale), 1) for n in image.size)
        return image.resize(size, Image.Resampling.NEAREST)

    images = {name: [(caption, scaled(picture)) for caption, picture in row] for name, row in rows.items()}
    heights = [max(image.height for _, image in row) + 24 for row in images.values()]
    y = 34
    out = Image.new('RGB', (width, y + sum(heights) + (44 if legend else 6)), 'white')
    draw = ImageDraw.Draw(out)
    draw.text((8, 8), title, 'black', large)
    for (name, row), height in zip(images.items(), heights, strict=True):
        draw.multiline_text((8, y + 18 + (height - 24) // 3), name, 'black', small)
        for j, (caption, image) in enumerate(row):
            x = label + j * (tile + _GAP)
            draw.text((x, y + 2), caption, 'black', small)
            out.paste(image, (x, y + 18))
        y += height
    if legend:
        low, high, ramp, what = legend
        y, bar = y + 4, coloured(np.linspace(0, 1, 240)[None].repeat(12, 0), 0, 1, ramp)
        out.paste(Image.fromarray(bar), (label, y))
        draw.text((label, y + 15), f'{low:.3g}', 'black', small)
        draw.text((label + 240, y + 15), f'{high:.3g}', 'black', small, anchor='ra')
        draw.text((label + 252, y), what, 'black', small)
    return out


def number_table(title: str, rows: dict[str, Sequence[tuple[str, float]]], what: str) -> Image.Image:
    """Rows of (column, number in [0, 1]), on colours; NaN stays empty. Rows of other columns have their own head."""
    font = ImageFont.load_default(12)
    columns = {name: [column for column, _ in row] for name, row in rows.items()}
    heads = [head for head, _ in itertools.groupby(columns.values())]
    cell = max(64, *(12 + int(font.getlength(column)) for head in heads for column in head))
    label = 40 + max(int(font.getlength(name)) for name in rows)
    width = max(label + cell * max(map(len, heads)) + 10, 560)
    out = Image.new('RGB', (width, 62 + 30 * (len(rows) + len(heads) - 1) + 24), 'white')
    draw = ImageDraw.Draw(out)
    draw.text((8, 8), title, 'black', ImageFont.load_default(15))
    y, head = 32, None
    for name, row in rows.items():
        if columns[name] != head:
            head = columns[name]
            for j, column in enumerate(head):
                draw.text((label + j * cell + cell / 2, y + 18), column, 'black', font, anchor='mm')
            y += 30
        draw.text((8, y + 15), name, 'black', font, anchor='lm')
        for j, (_, value) in enumerate(row):
            x = label + j * cell
            fill = tuple(coloured(np.array([[value]]), 0, 1)[0, 0].tolist())
            draw.rectangle((x, y, x + cell - 3, y + 27), fill)
            if not np.isnan(value):
                ink = 'black' if value > 0.55 else 'white'
                draw.text((x + cell / 2 - 1, y + 14), f'{round(value, 3) + 0.0:.3f}', ink, font, anchor='mm')
        y += 30
    draw.text((8, y + 4), what, 'black', font)
    return out


def stack(title: str, pictures: dict[str, np.ndarray]) -> Image.Image:
    """Wide uint8 pictures [h, w, 3] one below another under a title, each 640 x 128 under its name."""
    size, step = (640, 128), 152
    out = Image.new('RGB', (size[0] + 16, 34 + step * len(pictures)), 'white')
    draw = ImageDraw.Draw(out)
    draw.text((8, 8), title, 'black', ImageFont.load_default(15))
    for i, (name, picture) in enumerate(pictures.items()):
        draw.text((8, 36 + step * i), name, 'black', ImageFont.load_default(12))
        out.paste(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), (8, 52 + step * i))
    return out


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Image.Image:
    """Rows of words and numbers, as wide as they are."""
    font, large = ImageFont.load_default(12), ImageFont.load_default(15)
    cells = [list(columns), *map(list, rows)]
    widths = [16 + max(int(font.getlength(row[j])) for row in cells) for j in range(len(columns))]
    width = max(sum(widths), 16 + int(large.getlength(title)))
    out = Image.new('RGB', (width + 16, 44 + 20 * len(cells)), 'white')
    draw = ImageDraw.Draw(out)
    draw.text((8, 8), title, 'black', large)
    for i, row in enumerate(cells):
        for j, text in enumerate(row):
            draw.text((8 + sum(widths[:j]), 38 + 20 * i), text, 'black' if i else (80, 80, 80), font)
    draw.line((8, 55, width, 55), (160, 160, 160))
    return out


LINES = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))


def line_chart(
    title: str,
    curves: dict[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    y_range: tuple[float, float] | None = None,
    ramp: bool = False,
) -> Image.Image:
    """Curves (x, y) by name, with axes and a legend; ramp: colours in the order of SEQUENTIAL, for many.

    Points that are not finite are left out; the legend tells how many.
    """
    curves = dict(_finite(name, *curve) for name, curve in curves.items())
    scale, small = 2, ImageFont.load_default(12 * 2)
    names = 54 + int(max(map(small.getlength, curves)) / scale)
    left, right, top, bottom = 70, max(170, names), 40, 48
    width, height = 590 + right, 420
    xs, ys = np.concatenate(list(curves.values()), axis=1)
    (x0, x1), (low, high) = _ends(xs), y_range or _ends(ys)
    pad = 0 if y_range else 0.05 * ((high - low) or 1.0)
    y0, y1 = low - pad, high + pad
    out = Image.new('RGB', (width * scale, height * scale), 'white')
    draw = ImageDraw.Draw(out)

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x0) / ((x1 - x0) or 1.0), (np.clip(y, y0, y1) - y0) / ((y1 - y0) or 1.0)
        return scale * (left + across * (width - left - right)), scale * (
            height - bottom - up * (height - top - bottom)
        )

    for ticks, vertical in ((_ticks(x0, x1, bool(np.all(xs == np.rint(xs)))), True), (_ticks(y0, y1), False)):
        for tick in ticks:
            ends = (at(tick, y0), at(tick, y1)) if vertical else (at(x0, tick), at(x1, tick))
            draw.line([*ends[0], *ends[1]], (225, 225, 225), scale)
            x, y = ends[0]
            place, anchor = ((x, y + 6 * scale), 'mt') if vertical else ((x - 6 * scale, y), 'rm')
            draw.text(place, f'{tick:g}', 'black', small, anchor=anchor)
    draw.rectangle([*at(x0, y1), *at(x1, y0)], outline=(120, 120, 120), width=scale)
    count = len(curves)
    for i, (name, (x, y)) in enumerate(curves.items()):
        shade = coloured(np.array([[i / max(count - 1, 1)]]), 0, 1.15)[0, 0] if ramp else LINES[i % len(LINES)]
        colour = tuple(int(v) for v in shade)
        draw.line([at(*p) for p in zip(x, y, strict=True)], colour, 2 * scale, joint='curve')
        row = scale * (top + 6 + 18 * i)
        draw.line(
            [scale * (width - right + 12), row + 7 * scale, scale * (width - right + 32), row + 7 * scale],
            colour,
            3 * scale,
        )
        draw.text((scale * (width - right + 38), row), name, 'black', small)
    draw.text((8 * scale, 8 * scale), title, 'black', ImageFont.load_default(15 * scale))
    draw.text((scale * (left + (width - left - right) / 2), scale * (height - 8)), x_label, 'black', small, anchor='mb')
    sideways = Image.new('RGB', (int(small.getlength(y_label)) + 4, 18 * scale), 'white')
    ImageDraw.Draw(sideways).text((2, 0), y_label, 'black', small)
    sideways = sideways.rotate(90, expand=True)
    out.paste(sideways, (4 * scale, int(scale * (top + (height - top - bottom) / 2) - sideways.height / 2)))
    return out.resize((width, height), Image.Resampling.LANCZOS)


def dot_chart(title: str, values: dict[str, Sequence[float]], label: str) -> Image.Image:
    """Numbers by name, a row each: a dot for every one, and a bar at their mean.

    Those that are not finite are left out; the name tells how many.
    """
    values = dict(_finite(name, numbers) for name, numbers in values.items())
    scale, step, small = 2, 26, ImageFont.load_default(24)
    left = 24 + max(int(small.getlength(name)) for name in values) // scale
    width, height, (top, bottom, right) = left + 420, 40 + step * len(values) + 48, (40, 48, 30)
    low, high = _ends(np.concatenate(list(values.values()), axis=1))
    pad = 0.05 * ((high - low) or 1.0)
    x0, x1 = low - pad, high + pad
    out = Image.new('RGB', (width * scale, height * scale), 'white')
    draw = ImageDraw.Draw(out)

    def at(x: float) -> float:
        return scale * (left + (x - x0) / (x1 - x0) * (width - left - right))

    for tick in _ticks(x0, x1):
        draw.line([at(tick), scale * top, at(tick), scale * (height - bottom)], (225, 225, 225), scale)
        draw.text((at(tick), scale * (height - bottom + 6)), f'{tick:g}', 'black', small, anchor='mt')
    for i, (name, (numbers,)) in enumerate(values.items()):
        y, colour = scale * (top + step * (i + 0.5)), LINES[0]
        draw.text((scale * 8, y), name, 'black', small, anchor='lm')
        if not len(numbers):
            continue
        mean = at(float(np.mean(numbers)))
        draw.line([mean, y - 9 * scale, mean, y + 9 * scale], colour, 3 * scale)
        for x in map(at, numbers):
            draw.ellipse([x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale], outline=colour, width=2 * scale)
    draw.text((8 * scale, 8 * scale), title, 'black', ImageFont.load_default(15 * scale))
    middle = scale * (left + (width - left - right) / 2)
    draw.text((middle, scale * (height - 6)), label, 'black', small, anchor='mb')
    return out.resize((width, height), Image.Resampling.LANCZOS)


def _finite(name: str, *columns: Sequence[float]) -> tuple[str, np.ndarray]:
    """The name, with the number of points that are not finite, and the finite ones, [number of columns, n]."""
    points = np.array([np.asarray(column, float) for column in columns])
    finite = np.isfinite(points).all(axis=0)
    lost = len(finite) - int(finite.sum())
    return name + (f' ({lost} not finite)' if lost else ''), points[:, finite]


def _ends(numbers: np.ndarray) -> tuple[float, float]:
    """The least and the largest number; 0 and 1 if there are none."""
    return (numbers.min(), numbers.max()) if numbers.size else (0.0, 1.0)


def _ticks(low: float, high: float, whole: bool = False) -> np.ndarray:
    """About six round numbers, or whole ones."""
    raw = (high - low) / 6 or 1.0
    power = 10 ** np.floor(np.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(m * power - raw))
    step = max(step, 1.0) if whole else step
    return np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step + 0.0


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


def save(study: Study, folder: str | os.PathLike, name: str, about: dict[str, Any]) -> list[Path]:
    """Writes folder/NAME.json, `about` and the numbers, and a PNG per picture, once all are made. Returns: paths."""
    folder = as_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f'{name}.json', *(f'{name}_{kind}.png' for kind in study.pictures)]
    with contextlib.ExitStack() as stack:
        table, *files = (stack.enter_context(whole(folder / file)) for file in names)
        table.write_text(json.dumps(about | {'numbers': study.numbers}, indent=1) + '\n')
        for file, picture in zip(files, study.pictures.values(), strict=True):
            picture.save(file, 'PNG')
    return [folder / file for file in names]
