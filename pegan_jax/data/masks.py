"""Holes for inpainting: random boxes and brush strokes (Yu et al. 2019), classes of hole ratios.

One polarity everywhere: 1 (in files: white) is a hole, 0 is a known pixel.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.settings import UserError

Kind = Literal['box', 'brush', 'union']

LINES = 3  # polylines of a mask, at most
STEPS = 11  # segments of a polyline, at most
FRAME = 256  # pixels: the square that lengths below are given for

# Hole ratios (low, high] of the six classes that Liu et al. 2018 report.
BUCKETS = ((0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6))


# Random masks ---------------------------------------------------------------------------------------------------------


def draw(key: jax.Array, height: int, width: int, kind: Kind) -> jax.Array:
    """A random mask like those that train DeepFillv2: a box, up to three brush strokes, or the union of both.

    At 256 x 256 pixels, masks are those of the released program. At other sizes, strokes scale with the diagonal, so
    that a key gives the same picture at 128 x 128 and at 512 x 512, and boxes with the height and the width.

    Args:
      height, width, kind: static. The union of a key is that of the box and of the strokes of the same key.
    Returns: [height, width, 1] float32; 1 is a hole.
    Raises: ValueError for another kind, or sides below 8.
    """
    if kind not in ('box', 'brush', 'union'):
        raise UserError(f"kind={kind!r} of mask; use 'box', 'brush' or 'union'.")
    if min(height, width) < 8:
        raise UserError(f'a random mask of {height} x {width} pixels; both sides must be at least 8.')
    box_key, brush_key = jax.random.split(key)
    if kind == 'box':
        return box(box_key, height, width)
    if kind == 'brush':
        return brush(brush_key, height, width)
    return jnp.maximum(box(box_key, height, width), brush(brush_key, height, width))


def box(key: jax.Array, height: int, width: int) -> jax.Array:
    """A rectangle of 3/8 to 1/2 of the sides (96 to 128 pixels of 256), anywhere inside: [height, width, 1] float32.

    A window of half the sides is placed uniformly, then up to a sixteenth is removed at either end.
    """

    def interval(key: jax.Array, side: int) -> jax.Array:
        """[side] bool."""
        place, shrink = jax.random.split(key)
        start = jax.random.randint(place, (), 0, side - side // 2)
        off = jax.random.randint(shrink, (), 0, side // 16 + 1)
        at = jnp.arange(side)
        return (at >= start + off) & (at < start + side // 2 - off)

    rows, columns = jax.random.split(key)
    inside = interval(rows, height)[:, None] & interval(columns, width)[None, :]
    return inside[..., None].astype(jnp.float32)


def brush(key: jax.Array, height: int, width: int) -> jax.Array:
    """One to three zigzag strokes, mirrored along each axis with probability 1/2: [height, width, 1] float32.

    Differs from the released program, which draws the flips but discards them.
    """
    strokes_key, flip_key = jax.random.split(key)
    mask = raster(*strokes(strokes_key, height, width), height, width)
    flips = jax.random.bernoulli(flip_key, shape=(2,))
    mask = jnp.where(flips[0], mask[::-1], mask)
    return jnp.where(flips[1], mask[:, ::-1], mask)


def strokes(key: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random polylines (Yu et al. 2019, algorithm 1, with the numbers of the released program).

    A 256 x 256 image has one to three polylines of 4 to 11 segments. The length of a segment is N(R, floor(R / 2))
    clipped to [0, 2R], with R an eighth of the diagonal; its angle is U(a, b) or 2 pi - U(a, b) in turn, where each
    polyline has a = 2 pi / 5 - U(0, 2 pi / 15) and b = 2 pi / 5 + U(0, 2 pi / 15). Vertices are clipped to the image
    and truncated to whole pixels; the brush is 12 to 39 pixels wide. For an image of another size, the unit makes its
    diagonal as long as that of 256 x 256 is in pixels, and the result is turned into its pixels.

    Returns: vertices [LINES, STEPS + 1, 2] float32 (x, y) in pixels; brush widths [LINES] in pixels; the number of
      segments [LINES] int32, 0 for polylines that do not exist.
    """
    unit = math.hypot(height, width) / math.hypot(FRAME, FRAME)  # pixels
    size = jnp.array([width / unit, height / unit], jnp.float32)
    # Differs from the released program, which exchanges height and width here.
    mean = math.hypot(FRAME, FRAME) / 8
    spread = math.floor(mean / 2)
    turn = 2 * math.pi

    def line(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = jax.random.split(key, 6)
        segments = jax.random.randint(keys[0], (), 4, STEPS + 1)
        low, high = turn / 5 + jnp.array([-1, 1]) * jax.random.uniform(keys[1], (2,), maxval=turn / 15)
        angle = jax.random.uniform(keys[2], (STEPS,), minval=low, maxval=high)
        angle = jnp.where(jnp.arange(STEPS) % 2 == 0, turn - angle, angle)
        length = jnp.clip(mean + spread * jax.random.normal(keys[3], (STEPS,)), 0, 2 * mean)
        moves = length[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        start = jnp.floor(jax.random.uniform(keys[4], (2,)) * size)

        def step(at: jax.Array, move: jax.Array) -> tuple[jax.Array, jax.Array]:
            at = jnp.floor(jnp.clip(at + move, 0, size))
            return at, at

        _, rest = jax.lax.scan(step, start, moves)
        brush_width = jnp.floor(jax.random.uniform(keys[5], (), minval=12.0, maxval=40.0))
        return jnp.concatenate([start[None], rest]), brush_width, segments

    count_key, *keys = jax.random.split(key, LINES + 1)
    vertices, widths, segments = jax.vmap(line)(jnp.stack(keys))
    there = jnp.arange(LINES) < jax.random.randint(count_key, (), 1, LINES + 1)
    # Pixel i of the result covers the units around (i + 1/2) / unit - 1/2.
    return (vertices + 0.5) * unit - 0.5, widths * unit, jnp.where(there, segments, 0)


def raster(vertices: jax.Array, widths: jax.Array, segments: jax.Array, height: int, width: int) -> jax.Array:
    """Pixels under thick polylines: segments of a width, and a disc of half the width around every vertex.

    Args:
      vertices: [L, S + 1, 2] (x, y) in pixels, centres of pixels at whole numbers.
      widths: [L] in pixels.
      segments: [L], how many of the S segments exist; with 0, no vertex does either.
    Returns: [height, width, 1] float32.
    """
    lines, count = vertices.shape[0], vertices.shape[1] - 1
    start, end = vertices[:, :-1], vertices[:, 1:]
    there = jnp.arange(count)[None, :] < segments[:, None]
    radius = jnp.broadcast_to(widths[:, None] / 2, there.shape)
    parts = jax.tree.map(lambda v: v.reshape(lines * count, *v.shape[2:]), (start, end - start, radius, there))
    x, y = jnp.arange(width, dtype=jnp.float32)[None, :], jnp.arange(height, dtype=jnp.float32)[:, None]

    def cover(mask: jax.Array, part: tuple) -> tuple[jax.Array, None]:
        (x0, y0), (dx, dy), radius, there = part
        # The distance to the segment, ends included: whatever is within half the width is the line and both discs.
        along = ((x - x0) * dx + (y - y0) * dy) / jnp.maximum(dx**2 + dy**2, 1e-6)
        along = jnp.clip(along, 0, 1)
        squares = jnp.square(x - x0 - along * dx) + jnp.square(y - y0 - along * dy)
        return mask | (there & (squares <= jnp.square(radius))), None

    mask, _ = jax.lax.scan(cover, jnp.zeros((height, width), bool), parts)
    return mask[..., None].astype(jnp.float32)


# Hole ratios ----------------------------------------------------------------------------------------------------------


def bucket(mask: np.ndarray | jax.Array) -> tuple[float, float] | None:
    """The class (low, high] of BUCKETS for the share of holes in a mask [H, W] or [H, W, 1], or None."""
    ratio = float(np.mean(np.asarray(mask), dtype=np.float64))
    return next((b for b in BUCKETS if b[0] < ratio <= b[1]), None)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _candidate(key: jax.Array, height: int, width: int, kind: Kind) -> jax.Array:
    return draw(key, height, width, kind)


def draw_in_bucket(
    seed: int, count: int, height: int, width: int, kind: Kind, wanted: tuple[float, float]
) -> np.ndarray:
    """A fixed list of masks of one class, for evaluations: unions of random masks with a share of holes in (low, high].

    Masks are united until the share is large enough; one that would make it too large is drawn again. Mask n depends
    only on the seed and on n.

    Args:
      wanted: (low, high], such as an entry of BUCKETS.
    Returns: [count, height, width, 1] uint8; 1 is a hole.
    Raises: ValueError if no such masks seem to exist, such as boxes that cover less than a tenth, and as `draw`.
    """
    low, high = wanted
    masks = np.zeros((count, height, width, 1), np.uint8)
    for n in range(count):
        key = jax.random.fold_in(jax.random.key(seed), n)
        for attempt in range(1000):
            candidate = np.asarray(_candidate(jax.random.fold_in(key, attempt), height, width, kind), np.uint8)
            candidate = np.maximum(candidate, masks[n])
            ratio = candidate.mean()
            if ratio <= high:
                masks[n] = candidate
            if low < ratio <= high:
                break
        else:
            raise UserError(
                f'no mask of kind={kind!r} and {height} x {width} pixels with a share of holes in ({low}, {high}] '
                'among 1000; choose another class, or another kind of mask.'
            )
    return masks
