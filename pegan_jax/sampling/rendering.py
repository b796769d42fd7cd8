"""One image of any size, at any coordinates that a system can show: `render`, `render_file`, `render_foveated`."""

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image
from tqdm import tqdm

from pegan_jax import coords, encodings, pixels
from pegan_jax.files import Path, as_path, read_record, whole
from pegan_jax.gan import per_layer
from pegan_jax.sampling.grids import Grid, LazyGrid, frame_grid, lookup, unstretched
from pegan_jax.sampling.model import Model, local_mesh
from pegan_jax.sampling.pictures import frame_view, of_styles, sample
from pegan_jax.settings import UserError

Seed = int | np.ndarray | jax.Array  # or styles [w_dim] or [num_ws, w_dim], such as a projection finds
OF_SEEDS = ('label', 'truncation_psi', 'truncation_cutoff')  # options that say which style a seed stands for

# Styles of every position ---------------------------------------------------------------------------------------------


class Blend(NamedTuple):
    """Further seeds, and their shares in the style of every position; the rest is the seed's own.

    shares: coordinates [n, 2] -> [n] or [n, len(seeds)]: `coords.across`, `coords.around`, `painted` or any function.
    """

    seeds: tuple[int, ...]
    shares: Callable


def painted(model: Model, mask: np.ndarray) -> Callable:
    """`Blend.shares` of a picture, uint8 [H, W] or [H, W, K], read bilinearly; 255 is a full share of the k-th seed.

    It covers the training frame and its border continues beyond; on a cylinder it covers the whole circle.
    """
    table = jnp.asarray(np.asarray(mask, np.float32).reshape(*mask.shape[:2], -1) / 255)
    wrap = model.sampler.span is not None
    return jax.jit(lambda points: encodings.embedding(table, points, wrap_x=wrap))


def _shares(blend: Blend, points: np.ndarray) -> np.ndarray:
    """Shares [n, 1 + K] at coordinates [n, 2], the seed's own first; sums above 1 are scaled to 1."""
    others = np.asarray(blend.shares(points), np.float32).reshape(len(points), -1)
    if others.shape[1] != len(blend.seeds):
        raise UserError(f'{others.shape[1]} shares for {len(blend.seeds)} other seeds; give one share of each.')
    others = others / np.maximum(others.sum(1, keepdims=True), 1)
    return np.concatenate([1 - others.sum(1, keepdims=True), others], axis=1)


def _styles(model: Model, seed: Seed, others: tuple[int, ...], styles: dict) -> jax.Array:
    """w of a seed, or given styles, and w of other seeds: [1 + len(others), ...]."""
    if isinstance(seed, (int, np.integer)):
        return model.styles([seed, *others], **styles)
    if not others:
        _check_given(styles)
    given = np.asarray(seed, np.float32)
    model.check_styles(given.shape)
    parts = [given[None], *([model.styles(others, **styles)] if others else [])]
    return jnp.concatenate([per_layer(model.sampler, w) for w in parts])


def _check_given(styles: dict) -> None:
    """Raises: UserError for options of `Model.styles` beside given styles: these options are for seeds."""
    for name, value in styles.items():
        if name in OF_SEEDS and value is not None and not (name == 'truncation_psi' and value == 1):
            option = 'class' if name == 'label' else name.replace('_', '-')
            raise UserError(
                f'{name}={value}: styles that are given are shown as they are; leave out {name}, or --{option}, or '
                'give a seed.'
            )


# Pieces ---------------------------------------------------------------------------------------------------------------


def _colours(model: Model, seed: Seed, blend: Blend | None, styles: dict) -> Callable:
    """Coordinates [n, 2], n a multiple of the number of devices, -> colours [n, C]."""
    if not model.sampler.pixelwise:
        raise UserError(
            f'{model.config.system} makes whole images, not single coordinates; use sample with size and transform.'
        )
    if blend is not None and 'shares' not in model.sampler.options:
        raise UserError(f'{model.config.system} has one style for all positions; leave out the other seeds.')
    w = _styles(model, seed, () if blend is None else blend.seeds, styles)
    w, variables = jax.device_put((w, model.variables), NamedSharding(local_mesh(), P()))

    def colours(points: np.ndarray) -> np.ndarray:
        shares = () if blend is None else (_shares(blend, points),)
        return np.asarray(model.synthesise_points(variables, w, points, *shares))[0]

    return colours


def _pieces(
    colours: Callable, count: int, at: Callable, chunk: int, supersample: int, progress: bool
) -> Iterator[np.ndarray]:
    """The colours of pixels at(0), ..., at(count - 1), in order: arrays [at most chunk, C]; at: `LazyGrid.at`."""
    per, devices = supersample**2, local_mesh().size
    if chunk < per:
        raise UserError(
            f'chunk={chunk} must be at least {per}, the coordinates of one pixel (the square of supersample).'
        )
    chunk = -(-min(chunk // per, count) // devices) * devices
    places = (np.arange(supersample, dtype=np.float32) + 0.5) / supersample - 0.5
    down, right = (part.reshape(-1, 1) for part in np.meshgrid(places, places, indexing='ij'))
    with tqdm(total=count, unit='px', unit_scale=True, disable=not progress) as bar:
        for start in range(0, count, chunk):
            # Past the end the last coordinate is repeated: one compiled program serves all pieces.
            index = np.minimum(np.arange(start, start + chunk), count - 1)
            piece = colours(at(index, down, right).reshape(-1, 2)).reshape(per, chunk, -1).mean(0)[: count - start]
            bar.update(len(piece))
            yield piece


def _check_supersample(supersample: int, shape: tuple[int, ...]) -> None:
    if supersample < 1:
        raise UserError(f'supersample={supersample} must be at least 1, which takes one sample of each pixel.')
    if supersample > 1 and len(shape) != 2:
        raise UserError(
            f'supersample={supersample}: scattered coordinates have no pixels between them; use a grid [H, W, 2].'
        )


def render(
    model: Model,
    seed: Seed,
    grid: Grid | None = None,
    *,
    blend: Blend | None = None,
    supersample: int = 1,
    chunk: int = 65_536,
    progress: bool = False,
    out: np.ndarray | None = None,
    **styles: Any,
) -> np.ndarray:
    """One image at any coordinates, in pieces, so that memory, except the image's own, does not grow with the grid.

    Every piece is divided over the devices of this process; neither their number nor `chunk` changes the image. A model
    that makes whole images shows what it can of a `lazy_grid`: extent and matrix (StyleGAN3, CREPS), or a size alone.

    Args:
      seed: or styles, [w_dim] or [num_ws, w_dim], such as `project` finds.
      grid: coordinates [..., 2] from `coords`, of any shape, inside or outside the training range; or a `lazy_grid`,
        `panorama`, `sphere` or `planet`; None: what images of training show.
      blend: further seeds with their shares in the style of every position.
      supersample: each pixel is the mean of this number squared of coordinates, spread evenly over its square (a box
        filter). The square is as large as the distances to its neighbours in the grid.
      chunk: coordinates computed at once, on all devices together.
      progress: show a bar.
      out: array [*grid.shape[:-1], C], such as a np.memmap, to be filled and returned.
      styles: truncation_psi, truncation_cutoff and label for seeds, as in `sample`.
    Returns: float32 [*grid.shape[:-1], C].
    Raises: ValueError naming what the system cannot show, for supersample below 1, a chunk below the coordinates of a
      pixel, coordinates that are not finite, an `out` of another shape; and as `Model.styles`.
    """
    if not model.sampler.pixelwise:
        image = _whole_image(model, seed, grid, blend, supersample, styles)
        if out is None:
            return image
        pieces, shape = [image.reshape(-1, image.shape[-1])], image.shape[:2]
    else:
        shape, at = lookup(frame_grid(model) if grid is None else grid)
        _check_supersample(supersample, shape)
        colours = _colours(model, seed, blend, styles)
        pieces = _pieces(colours, int(np.prod(shape)), at, chunk, supersample, progress)
    start, flat = 0, None
    for piece in pieces:
        if flat is None:
            wanted = (*shape, piece.shape[-1])
            out = np.empty(wanted, np.float32) if out is None else out
            if out.shape != wanted or not out.flags.c_contiguous:
                raise UserError(f'out has shape {out.shape}; expected a contiguous array {wanted}.')
            flat = out.reshape(-1, piece.shape[-1])
        flat[start : start + len(piece)] = piece
        start += len(piece)
    return out


def _whole_image(
    model: Model, seed: Seed, grid: Grid | None, blend: Blend | None, supersample: int, styles: dict
) -> np.ndarray:
    """What a model that makes whole images shows of a grid, [H, W, C]. Raises: ValueError for what it cannot."""
    system, sampler = model.config.system, model.sampler
    moves, sized = 'transform' in sampler.options, sampler.view is not None
    able = 'a size, an extent and a matrix' if moves else 'a size' if sized else 'nothing but its one view'
    if blend is not None or supersample != 1:
        what = 'has one style for all positions' if blend is not None else 'takes no samples between pixels'
        raise UserError(f'{system} {what}, as it makes whole images; leave it out, or use cips.')
    chosen = {}
    if grid is not None:
        if not isinstance(grid, LazyGrid) or grid.extent is None or grid.warp is not None:
            raise UserError(
                f'{system} makes whole images, not single coordinates: no warp, window or set of points. It takes '
                f'{able}; any coordinates are for cips.'
            )
        frame, size, (x, y) = model.size, grid.shape[:2], grid.extent
        still = grid.matrix is None or np.array_equal(grid.matrix, np.eye(3))
        plain = still and {'x': x, 'y': y} == unstretched(frame, size)
        if moves and not (plain and size == frame):
            chosen = {'transform': frame_view(frame, size, x=x, y=y, matrix=grid.matrix)}
            chosen |= {} if size == frame else {'size': size}
        elif not moves and not plain:
            raise UserError(
                f'{system} moves nothing: it takes {able}; extents and motions are for cips, stylegan3 and creps.'
            )
        elif not moves and (sized or size != frame):
            chosen = {'size': size}
    if isinstance(seed, (int, np.integer)):
        return sample(model, [seed], **chosen, **styles)[0]
    _check_given(styles)
    beside = {name: value for name, value in styles.items() if name not in OF_SEEDS}
    return of_styles(model, np.asarray(seed)[None], **chosen, **beside)[0]


def render_file(
    model: Model,
    seed: Seed,
    grid: Grid | None,
    path: str | os.PathLike,
    *,
    bits: int = 8,
    blend: Blend | None = None,
    supersample: int = 1,
    chunk: int = 65_536,
    progress: bool = False,
    **styles: Any,
) -> None:
    """`render` into a file, piece by piece, so that memory does not grow with the image.

    Args:
      path: a .png (grey, RGB or RGBA like the model), clamped to [-1, 1] and rounded to `bits`; or .npy, float32
        unchanged. It appears when complete.
      bits: 8 or 16, per channel of a PNG.
      The rest as in `render`.
    Raises: ValueError for another suffix, other bits, a PNG of a grid that is not [H, W, 2]; and as `render`.
    """
    path = as_path(path)
    if not model.sampler.pixelwise:
        pixels.save(_whole_image(model, seed, grid, blend, supersample, styles), path, bits=bits)
        return
    shape, at = lookup(frame_grid(model) if grid is None else grid)
    _check_supersample(supersample, shape)
    colours = _colours(model, seed, blend, styles)
    pixels.write(path, _pieces(colours, int(np.prod(shape)), at, chunk, supersample, progress), shape, bits)


# Pyramids -------------------------------------------------------------------------------------------------------------


def render_tiles(
    model: Model,
    seed: Seed,
    grid: Grid | None,
    folder: str | os.PathLike,
    *,
    side: int = 256,
    blend: Blend | None = None,
    supersample: int = 1,
    chunk: int = 65_536,
    progress: bool = False,
    **styles: Any,
) -> Path:
    """One huge image as a pyramid of tiles, each level half the size of the next, in the Deep Zoom format of viewers.

    The finest level is `render`; pixels of the others are means of 2 x 2 of the next. Memory holds a few tiles. Tiles
    that an earlier launch wrote for the same image are kept.

    Args:
      folder: new, empty, or that of an earlier launch; gets image.dzi once all is there, tiles.json, which tells this
        image from others, and image_files/LEVEL/COLUMN_ROW.png; level 0 is one pixel.
      side: that of the tiles, even; those at the right and at the bottom may be smaller.
      The rest as in `render`.
    Returns: the path of image.dzi.
    Raises: ValueError for a folder with anything else in it, an odd side, a grid that is not [H, W, 2]; and as
      `render`.
    """
    folder = as_path(folder)
    record = folder / 'tiles.json'
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not record.is_file()):
        raise UserError(f'{folder} is not an empty folder; name a new one for the tiles.')
    if side < 2 or side % 2:
        raise UserError(f'side={side}: tiles are halved for the next level; use an even number, such as 256.')
    if model.sampler.pixelwise:
        shape, at = lookup(frame_grid(model) if grid is None else grid)
        _check_supersample(supersample, shape)
        colours, image = _colours(model, seed, blend, styles), None
    else:
        image = _whole_image(model, seed, grid, blend, supersample, styles)
        shape = image.shape[:2]
    if len(shape) != 2:
        raise UserError(f'grid has shape {(*shape, 2)}; tiles are cut from a grid [H, W, 2].')
    (height, width), top = shape, (max(shape) - 1).bit_length()
    sizes = [(-(-height >> top - level), -(-width >> top - level)) for level in range(top)] + [(height, width)]

    tall, wide = min(side, height), min(side, width)

    def of_pixels(index: np.ndarray) -> np.ndarray:
        """Colours, uint8 [tall * wide, C], of so many pixels, counted row by row: one compiled program serves all."""
        if image is not None:
            return pixels.to_uint8(image.reshape(-1, image.shape[-1])[index])
        pieces = _pieces(colours, tall * wide, lambda i, *beside: at(index[i], *beside), chunk, supersample, False)
        return pixels.to_uint8(np.concatenate(list(pieces)))

    def finest(row: int, column: int) -> np.ndarray:
        # Tiles at the edge are filled up, and cut afterwards.
        rows = np.minimum(side * row + np.arange(tall), height - 1)
        columns = np.minimum(side * column + np.arange(wide), width - 1)
        tile = of_pixels((rows[:, None] * width + columns).ravel()).reshape(tall, wide, -1)
        return tile[: height - side * row, : width - side * column]

    anywhere = (np.arange(tall * wide) * 2_654_435_761) % (height * width)  # all over the image, in no particular order
    about = {'size': [height, width], 'side': side, 'pixels': of_pixels(anywhere)[:256].tolist()}
    if record.is_file():
        if not _same_image(read_record(record), about):
            raise UserError(f'{folder} holds tiles of another image; name a new folder.')
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with whole(record) as unfinished:
            unfinished.write_text(json.dumps(about))

    with tqdm(total=-(-height // side) * -(-width // side), unit='tile', disable=not progress) as bar:

        def tile(level: int, row: int, column: int) -> np.ndarray:
            path = folder / 'image_files' / str(level) / f'{column}_{row}.png'
            shape = tuple(min(side, n - side * k) for k, n in zip((row, column), sizes[level], strict=True))
            if (out := _kept(path, shape)) is not None:
                spans = [
                    min((k + 1) << top - level, -(-n // side)) - (k << top - level)
                    for k, n in ((row, height), (column, width))
                ]
                bar.update(math.prod(spans))
                return out
            if level == top:
                out = finest(row, column)
                bar.update()
            else:
                rows, columns = (
                    [k for k in (2 * i, 2 * i + 1) if side * k < n]
                    for i, n in zip((row, column), sizes[level + 1], strict=True)
                )
                parts = [np.concatenate([tile(level + 1, r, c) for c in columns], axis=1) for r in rows]
                out = np.rint(_halved(np.concatenate(parts))).astype(np.uint8)
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as unfinished:
                pixels.as_image(out).save(unfinished, 'PNG')
            return out

        tile(0, 0, 0)
    size = f'<Size Width="{width}" Height="{height}"/>'
    about = f'xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="png" Overlap="0" TileSize="{side}"'
    with whole(folder / 'image.dzi') as unfinished:
        unfinished.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n<Image {about}>{size}</Image>\n')
    return folder / 'image.dzi'


def _kept(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A tile [*shape, C] that an earlier launch wrote; None if there is none, or something else."""
    if not path.is_file():
        return None
    try:
        tile = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
    except (OSError, SyntaxError):  # Pillow's words for a damaged PNG
        return None
    return tile.reshape(*shape, -1) if tile.shape[:2] == shape else None


def _same_image(there: dict, about: dict) -> bool:
    """Whether two records of pyramids agree; pixels may differ by the rounding of another machine."""
    if there.keys() != about.keys() or any(there[name] != about[name] for name in ('size', 'side')):
        return False
    try:
        a, b = np.array(there['pixels'], int), np.array(about['pixels'])
    except (TypeError, ValueError):
        return False
    return a.shape == b.shape and bool(np.abs(a - b).max() <= 1)


def _halved(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2; an odd last row or column counts twice."""
    height, width = image.shape[:2]
    image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
    return image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, -1).mean((1, 3))


# Foveated images ------------------------------------------------------------------------------------------------------


def render_foveated(
    model: Model,
    seed: Seed,
    grid: Grid | None,
    fraction: float,
    *,
    std: float = 0.4,
    position_seed: int = 0,
    chunk: int = 65_536,
    progress: bool = False,
    **styles: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """An image with a fraction of its pixels synthesised, dense in the middle, and the rest interpolated.

    Args:
      grid: [H, W, 2], array or `lazy_grid`.
      fraction, std: as for `coords.foveated`; the CIPS paper shows 0.05, 0.25, 0.5 and 1.
      position_seed: chooses the pixels.
      chunk, progress, styles: as in `render`; `blend` too.
    Returns: the image, float32 [H, W, C], and which of its pixels were synthesised, bool [H, W].
    Raises: ValueError as `render`, `coords.foveated` and `fill_scattered`.
    """
    shape, at = lookup(frame_grid(model) if grid is None else grid)
    if len(shape) != 2:
        raise UserError(f'grid has shape {(*shape, 2)}; foveation chooses from a grid [H, W, 2].')
    index, _ = coords.foveated(jax.random.key(position_seed), coords.pixel_grid(*shape), fraction, std=std)
    index = np.sort(np.asarray(index))
    values = render(model, seed, at(index), chunk=chunk, progress=progress, **styles)
    chosen = np.zeros(shape, bool)
    chosen.flat[index] = True
    return fill_scattered(index, values, *shape), chosen


def fill_scattered(index: np.ndarray, values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fills an image from some known pixels: cubic between them (Clough-Tocher on their Delaunay triangulation).

    Args:
      index: distinct indices [K] into the flattened image, ascending; values: [K, C].
    Returns: float32 [height, width, C]: `values` at `index`, the nearest of them outside their convex hull.
    Raises: ValueError if some pixel is missing and the known ones do not span a triangle.
    """
    from scipy.interpolate import CloughTocher2DInterpolator, NearestNDInterpolator  # takes long to import
    from scipy.spatial import QhullError  # as well

    out = np.empty((height * width, values.shape[-1]), np.float32)
    out[index] = values
    missing = np.setdiff1d(np.arange(height * width), index, assume_unique=True)
    if len(missing):
        known = np.stack(np.divmod(index, width), axis=-1)
        wanted = np.stack(np.divmod(missing, width), axis=-1)
        try:
            filled = CloughTocher2DInterpolator(known, values)(wanted)
        except QhullError:
            raise UserError(
                f'{len(index)} of {height} x {width} pixels do not span a triangle; take a larger fraction.'
            ) from None
        outside = np.isnan(filled).any(axis=-1)
        filled[outside] = NearestNDInterpolator(known, values)(wanted[outside])
        out[missing] = filled
    return out.reshape(height, width, -1)
