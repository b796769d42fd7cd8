"""Images from trained models: `load`, then `sample`, `interpolate`, `render` and `render_foveated`."""

import dataclasses
import functools
import pathlib
import struct
import types
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.interpolate import CloughTocher2DInterpolator, NearestNDInterpolator
from scipy.spatial import QhullError
from tqdm import tqdm

from pegan_jax import config as configs
from pegan_jax import coords
from pegan_jax.gan import GAN
from pegan_jax.layers import truncate


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model; variables: {'params', 'buffers'} of the generator, EMA where the run kept one."""

    config: configs.Config
    gan: GAN
    variables: dict
    step: int

    @functools.cached_property
    def system(self) -> types.ModuleType:
        """The module of its system, such as `pegan_jax.models.cips`."""
        return configs.system_module(self.config.system)

    @functools.cached_property
    def _program(self) -> Callable:
        def run(variables: dict, w: jax.Array, arrays: dict, rest: tuple) -> jax.Array:
            return self.gan.sample(variables, w, space=_space(w), **arrays, **dict(rest))

        return jax.jit(run, static_argnums=3)

    def synthesise(self, w: jax.Array, **options: Any) -> jax.Array:
        """gan.sample of styles [N, w_dim] or [N, num_ws, w_dim], compiled; options: the system's SAMPLE_OPTIONS."""
        arrays = {k: v for k, v in options.items() if isinstance(v, (jax.Array, np.ndarray))}
        rest = tuple((k, v) for k, v in options.items() if k not in arrays)
        return self._program(self.variables, w, arrays, rest)

    @functools.cached_property
    def complete(self) -> Callable:
        """gan.sample of the inputs of a system that completes images, compiled: {'image', 'mask', ...} -> images."""
        return functools.partial(jax.jit(self.gan.sample), self.variables)

    @functools.cached_property
    def synthesise_points(self) -> Callable:
        """(variables, w, points [K, 2]) -> colours [N, K, C], divided over this process's devices; K is a multiple.

        Nothing is exchanged: a pixel needs its coordinate and the style, which every device has.
        """

        def run(variables: dict, w: jax.Array, points: jax.Array) -> jax.Array:
            return self.gan.sample(variables, w, grid=points, space=_space(w))

        specs = {'in_specs': (P(), P(), P('points')), 'out_specs': P(None, 'points')}
        return jax.jit(jax.shard_map(run, mesh=_local_mesh(), check_vma=False, **specs))

    @functools.cached_property
    def w_avg(self) -> jax.Array:
        """The centre of truncation, [w_dim]."""
        return self.system.mean_w(self.config.model, self.variables)

    @functools.cached_property
    def _map(self) -> Callable:
        return jax.jit(functools.partial(self.system.map_latents, self.config.model))

    def labels(self, label: int | np.ndarray | None, count: int) -> np.ndarray | None:
        """A class, or a label [c_dim], `count` times: [count, c_dim] float32; None for a model without labels.

        Raises: ValueError for a class that there is not, a label where there are none, none where there are.
        """
        c_dim = getattr(self.config.model, 'c_dim', 0)
        if not c_dim:
            if label is not None:
                raise ValueError(f'label={label}, but the model has no classes.')
            return None
        if label is None or (np.ndim(label) == 0 and not 0 <= label < c_dim) or np.shape(label) not in ((), (c_dim,)):
            raise ValueError(f'label={label}; this model needs a class from 0 to {c_dim - 1}, or {c_dim} numbers.')
        row = np.eye(c_dim)[label] if np.ndim(label) == 0 else np.asarray(label)
        return np.tile(row.astype(np.float32), (count, 1))

    def styles(
        self,
        seeds: Iterable[int],
        truncation_psi: float = 1.0,
        *,
        truncation_cutoff: int | None = None,
        label: int | np.ndarray | None = None,
    ) -> jax.Array:
        """w of seeds, [N, w_dim]; truncated, w_avg + psi (w - w_avg), for truncation_psi below 1.

        Args:
          truncation_cutoff: truncate the styles of this many layers only, which makes them ws [N, num_ws, w_dim].
          label: as for `labels`.
        Raises: ValueError for truncation_psi above 1, a cutoff that is not a number of layers, a system that completes
          images, and as `labels`.
        """
        if self.gan.inputs is not None:
            raise ValueError(f'{self.config.system} completes images, which no seed stands for; use inpaint.')
        if truncation_psi > 1:
            raise ValueError(f'truncation_psi={truncation_psi} must be at most 1, which is off.')
        z = latents(seeds, self.config.model.z_dim)
        w = self._map(self.variables, z, self.labels(label, len(z)))
        if truncation_cutoff is None:
            return w if truncation_psi == 1 else truncate(w, self.w_avg, truncation_psi)
        count = self.system.num_ws(self.config.model)
        if not 0 <= truncation_cutoff <= count:
            raise ValueError(f'truncation_cutoff={truncation_cutoff} with {count} styles per image; use 0 to {count}.')
        return truncate(jnp.repeat(w[:, None], count, axis=1), self.w_avg, truncation_psi, truncation_cutoff)


def _space(w: jax.Array) -> str:
    return 'w' if w.ndim == 2 else 'ws'


def load(path: str | pathlib.Path, step: int | str | None = None) -> Model:
    """Reads a model from a run's working directory.

    Args:
      path: the --workdir of a run.
      step: of the checkpoint; None is the newest, 'best' the one with the lowest sliced Wasserstein distance.
    Raises: CheckpointError if there is none or it is damaged.
    """
    from pegan_jax.train.checkpoint import load_sampling

    variables, meta, step = load_sampling(pathlib.Path(path) / 'checkpoints', step)
    config = configs.from_dict(meta['config'])
    return Model(config, configs.system_module(config.system).build(config), variables, step)


def latents(seeds: Iterable[int], z_dim: int) -> np.ndarray:
    """One z per seed, [N, z_dim] float32: `numpy.random.RandomState(seed).randn(1, z_dim)`, the field's convention."""
    return np.concatenate([np.random.RandomState(s).randn(1, z_dim) for s in seeds]).astype(np.float32)


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ('points',))


# Batches of images ----------------------------------------------------------------------------------------------------


def _options(
    model: Model,
    seeds: Sequence[int],
    grid: np.ndarray | jax.Array | None,
    size: tuple[int, int] | None,
    transform: np.ndarray | jax.Array | None,
    noise_mode: str | None,
) -> dict:
    """Options of gan.sample for as many images as there are seeds."""
    options = {} if grid is None else {'grid': grid}
    if size is not None or transform is not None:
        if grid is not None:
            raise ValueError('a grid already tells size and transform; leave those out.')
        matrix = None if transform is None else jnp.asarray(transform, jnp.float32)
        options = model.system.view(model.config, size, matrix)
    if noise_mode is not None:
        if noise_mode not in ('const', 'random', 'none'):
            raise ValueError(f"noise_mode={noise_mode!r}; use 'const', 'random' or 'none'.")
        options['noise'] = noise_mode if noise_mode != 'random' else jax.vmap(jax.random.key)(jnp.asarray(seeds))
    for name in options:
        if name not in model.system.SAMPLE_OPTIONS:
            takes = ', '.join(model.system.SAMPLE_OPTIONS)
            raise ValueError(f'{model.config.system} takes no {name} when sampling; it takes {takes}.')
    return options


def _pictures(
    model: Model,
    w: jax.Array,
    noise_seeds: Sequence[int],
    *,
    grid: np.ndarray | jax.Array | None = None,
    size: tuple[int, int] | None = None,
    transform: np.ndarray | jax.Array | None = None,
    noise_mode: str | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Images of styles [N, w_dim] or [N, num_ws, w_dim], batch_size of them at once; the rest as in `sample`."""
    options = _options(model, noise_seeds, grid, size, transform, noise_mode)
    # What there is for every image: random noise and, maybe, matrices.
    own = {
        k: v
        for k, v in options.items()
        if (k == 'noise' and noise_mode == 'random') or (k == 'transform' and v.ndim == 3)
    }
    out = []
    for i in range(0, len(w), batch_size):
        # The last batch is filled up: one compiled program serves all.
        index = np.minimum(np.arange(i, i + min(batch_size, len(w))), len(w) - 1)
        images = model.synthesise(w[index], **(options | {k: v[index] for k, v in own.items()}))
        out.append(np.asarray(images)[: len(w) - i])
    return np.concatenate(out)


def sample(
    model: Model,
    seeds: Sequence[int],
    *,
    label: int | np.ndarray | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    grid: np.ndarray | jax.Array | None = None,
    size: tuple[int, int] | None = None,
    transform: np.ndarray | jax.Array | None = None,
    noise_mode: str | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Images of seeds.

    Args:
      label: class, or label [c_dim], of a model that was trained with labels.
      truncation_psi: 1 is off, 0 the mean image.
      truncation_cutoff: how many layers, from the first on, are truncated; None: all.
      grid: of CIPS: coordinates [..., 2] from `coords`; None: the training grid.
      size: of models with coordinates: (height, width); a larger image shows more, at the pixel pitch of training.
      transform: of models with coordinates: [3, 3], or with StyleGAN3 [N, 3, 3], on positions in units of the training
        images' shorter side about the middle: `coords.translate`, `rotate`, `zoom` move the content as they say.
      noise_mode: of StyleGAN2: 'const' (default) takes the numbers of the model, 'random' draws them, 'none' has none.
      batch_size: images computed at once.
    Returns: float32 [N, H, W, C], with a grid [N, *grid.shape[:-1], C]; nominally in [-1, 1], not clamped.
    Raises: ValueError for no seeds, truncation_psi above 1, options that the model does not have.
    """
    if not len(seeds):
        raise ValueError('seeds is empty; give at least one, such as seeds=[0].')
    w = model.styles(seeds, truncation_psi, truncation_cutoff=truncation_cutoff, label=label)
    options = {'grid': grid, 'size': size, 'transform': transform, 'noise_mode': noise_mode}
    return _pictures(model, w, seeds, batch_size=batch_size, **options)


def interpolate(
    model: Model,
    seed_a: int,
    seed_b: int,
    steps: int,
    *,
    label: int | np.ndarray | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    **options: Any,
) -> np.ndarray:
    """Images on the way from one seed to another: w = (1 - t) w_a + t w_b for `steps` equal steps of t in [0, 1].

    Args: as in `sample`; options: its grid, size, transform, noise_mode (random as of seed_a), batch_size.
    Returns: float32 [steps, H, W, C]; the first and the last are the samples of the two seeds.
    Raises: ValueError for steps below 2, and as `sample`.
    """
    if steps < 2:
        raise ValueError(f'steps={steps} must be at least 2: both ends are among them.')
    ends = model.styles([seed_a, seed_b], truncation_psi, truncation_cutoff=truncation_cutoff, label=label)
    t = jnp.linspace(0, 1, steps).reshape(steps, *(1,) * (ends.ndim - 1))
    return _pictures(model, (1 - t) * ends[:1] + t * ends[1:], [seed_a] * steps, **options)


def style_mix(
    model: Model,
    rows: Sequence[int],
    columns: Sequence[int],
    layers: Iterable[int],
    *,
    label: int | np.ndarray | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    **options: Any,
) -> np.ndarray:
    """The picture of style mixing (Karras et al. 2019, figure 3): the images of `rows`, some of whose styles change.

    Args:
      rows, columns: seeds.
      layers: where the style of the column replaces that of the row, counted from 0 (coarse) to num_ws - 1 (fine).
      The rest as in `interpolate`; random noise is that of the row.
    Returns: float32 [1 + rows, 1 + columns, H, W, C]: the images of the columns above, those of the rows at the left,
      mixed ones elsewhere, and black at the top left.
    Raises: ValueError for no seeds, layers that there are not, and as `sample`.
    """
    count, layers = model.system.num_ws(model.config.model), sorted(set(layers))
    if not (len(rows) and len(columns)):
        raise ValueError(f'rows={list(rows)}, columns={list(columns)}; both need at least one seed.')
    if not layers or not 0 <= layers[0] <= layers[-1] < count:
        raise ValueError(f'layers={layers}; the model has layers 0 to {count - 1}, and at least one is to be mixed.')
    w = model.styles([*rows, *columns], truncation_psi, truncation_cutoff=truncation_cutoff, label=label)
    ws = w if w.ndim == 3 else jnp.repeat(w[:, None], count, axis=1)
    chosen = np.isin(np.arange(count), layers)[None, None, :, None]
    mixed = jnp.where(chosen, ws[None, len(rows) :], ws[: len(rows), None]).reshape(-1, *ws.shape[1:])
    noise = [*rows, *columns, *np.repeat(rows, len(columns)).tolist()]
    images = _pictures(model, jnp.concatenate([ws, mixed]), noise, **options)
    left, above, inner = np.split(images, [len(rows), len(rows) + len(columns)])
    inner = inner.reshape(len(rows), len(columns), *images.shape[1:])
    top = np.concatenate([np.full_like(images[:1], -1), above])
    return np.concatenate([top[None], np.concatenate([left[:, None], inner], axis=1)])


def frame_view(
    frame: tuple[int, int],
    size: tuple[int, int],
    *,
    x: tuple[float, float] = (-1.0, 1.0),
    y: tuple[float, float] = (-1.0, 1.0),
    matrix: np.ndarray | jax.Array | None = None,
) -> jax.Array:
    """The `transform` of `sample` that shows an extent in an image of a size.

    Args:
      frame: (height, width) of the training images, whose borders have the coordinates -1 and 1.
      size: of the image, as for `sample`.
      x, y: coordinates of its borders.
      matrix: [3, 3], moves the content; in units of half of the frame's shorter side, about its middle.
    Returns: [3, 3].
    """
    unit, scales, middles = min(frame), [], []
    for (low, high), side, pixels in ((x, frame[1], size[1]), (y, frame[0], size[0])):
        scales.append((high - low) * side / (2 * pixels))
        middles.append((high + low) * side / (4 * unit))
    extent = jnp.array([[scales[0], 0, middles[0]], [0, scales[1], middles[1]], [0, 0, 1]], jnp.float32)
    if matrix is None:
        return extent
    return coords.compose(coords.zoom(2), matrix, coords.zoom(0.5), extent)


# One image of any size ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class LazyGrid:
    """A grid that is never in memory: coordinate (i, j) is (x[j], y[i]), then moved by a matrix of `coords`.

    x, y: columns [W] and rows [H], float32; matrix: [3, 3] as for `coords.transform`, or None.
    """

    x: np.ndarray
    y: np.ndarray
    matrix: np.ndarray | jax.Array | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 2), as of the array it stands for."""
        return (len(self.y), len(self.x), 2)

    def at(self, index: np.ndarray) -> np.ndarray:
        """Coordinates [..., 2] of indices [...] into the flattened grid."""
        row, column = np.divmod(index, len(self.x))
        points = np.stack([self.x[column], self.y[row]], axis=-1)
        return points if self.matrix is None else np.asarray(coords.transform(points, self.matrix))


def lazy_grid(
    height: int,
    width: int,
    *,
    x: tuple[float, float] = (-1.0, 1.0),
    y: tuple[float, float] = (-1.0, 1.0),
    crop: tuple[int, int, int, int] | None = None,
    matrix: np.ndarray | jax.Array | None = None,
) -> LazyGrid:
    """`coords.grid`, and of that a `coords.crop`, and of that a `coords.transform`, for `render`; takes no memory.

    Args:
      height, width, x, y: as for `coords.grid`.
      crop: (top, left, height, width) in pixels, of which each keeps the coordinate it has in the whole.
      matrix: [3, 3], for example `coords.rotate(0.3)`.
    Raises: ValueError for an empty grid, a crop that is not inside it.
    """
    top, left, h, w = (0, 0, height, width) if crop is None else crop
    columns = coords.crop(coords.grid(1, width, x=x), 0, left, 1, w)[0, :, 0]
    rows = coords.crop(coords.grid(height, 1, y=y), top, 0, h, 1)[:, 0, 1]
    return LazyGrid(np.asarray(columns), np.asarray(rows), matrix)


Grid = np.ndarray | jax.Array | LazyGrid


def _lookup(grid: Grid) -> tuple[tuple[int, ...], Callable]:
    """A grid's shape without its last axis, and the function from flat indices to coordinates."""
    if isinstance(grid, LazyGrid):
        return grid.shape[:-1], grid.at
    points = np.asarray(coords.as_coords(grid))
    flat = points.reshape(-1, 2)
    return points.shape[:-1], lambda index: flat[index]


def _pieces(
    model: Model, seed: int, count: int, at: Callable, styles: dict, chunk: int, progress: bool
) -> Iterator[np.ndarray]:
    """The colours of coordinates at(0), ..., at(count - 1), in order: arrays [at most chunk, C]."""
    if chunk < 1:
        raise ValueError(f'chunk={chunk} must be at least 1.')
    if 'grid' not in model.system.SAMPLE_OPTIONS:
        raise ValueError(
            f'{model.config.system} makes whole images, not single coordinates; use sample with size and transform.'
        )
    mesh = _local_mesh()
    w, variables = jax.device_put((model.styles([seed], **styles), model.variables), NamedSharding(mesh, P()))
    chunk = -(-min(chunk, count) // mesh.size) * mesh.size
    with tqdm(total=count, unit='px', unit_scale=True, disable=not progress) as bar:
        for start in range(0, count, chunk):
            # Past the end the last coordinate is repeated: one compiled program serves all pieces.
            points = at(np.minimum(np.arange(start, start + chunk), count - 1))
            piece = np.asarray(model.synthesise_points(variables, w, points))[0, : count - start]
            bar.update(len(piece))
            yield piece


def render(
    model: Model,
    seed: int,
    grid: Grid,
    *,
    chunk: int = 65_536,
    progress: bool = False,
    out: np.ndarray | None = None,
    **styles: Any,
) -> np.ndarray:
    """One image at any coordinates, in pieces, so that beside the image itself memory does not grow with the grid.

    Every piece is divided over the devices of this process; neither their number nor `chunk` changes the image.

    Args:
      grid: coordinates [..., 2] from `coords`, of any shape, inside or outside the training range; or a `lazy_grid`.
      chunk: coordinates computed at once, on all devices together.
      progress: show a bar.
      out: array [*grid.shape[:-1], C], such as a np.memmap, to be filled and returned.
      styles: truncation_psi, truncation_cutoff and label, as in `sample`.
    Returns: float32 [*grid.shape[:-1], C].
    Raises: ValueError for a model that does not compute pixels one by one, chunk below 1, coordinates that are not
      finite, an `out` of another shape; and as `Model.styles`.
    """
    shape, at = _lookup(grid)
    start, flat = 0, None
    for piece in _pieces(model, seed, int(np.prod(shape)), at, styles, chunk, progress):
        if flat is None:
            whole = (*shape, piece.shape[-1])
            out = np.empty(whole, np.float32) if out is None else out
            if out.shape != whole or not out.flags.c_contiguous:
                raise ValueError(f'out has shape {out.shape}; expected a contiguous array {whole}.')
            flat = out.reshape(-1, piece.shape[-1])
        flat[start : start + len(piece)] = piece
        start += len(piece)
    return out


def render_file(
    model: Model,
    seed: int,
    grid: Grid,
    path: str | pathlib.Path,
    *,
    bits: int = 8,
    chunk: int = 65_536,
    progress: bool = False,
    **styles: Any,
) -> None:
    """`render` into a file, piece by piece, so that memory does not grow with the image.

    Args:
      path: an RGB .png, clamped to [-1, 1] and rounded to `bits`; or .npy, float32 as it is. It appears when complete.
      bits: 8 or 16, of each channel of a PNG.
      styles: as in `render`.
    Raises: ValueError for another suffix, other bits, a PNG of a grid that is not [H, W, 2]; and as `render`.
    """
    shape, at = _lookup(grid)
    pieces = _pieces(model, seed, int(np.prod(shape)), at, styles, chunk, progress)
    _write(pathlib.Path(path), pieces, shape, bits)


def save(image: np.ndarray, path: str | pathlib.Path, *, bits: int = 8) -> None:
    """One image [..., C] into a file as `render_file` writes it. Raises: ValueError as there."""
    _write(pathlib.Path(path), [image.reshape(-1, image.shape[-1])], image.shape[:-1], bits)


def _write(path: pathlib.Path, pieces: Iterable[np.ndarray], shape: tuple[int, ...], bits: int) -> None:
    """Colours [n, C] that arrive in pieces, into a .png or .npy of a `shape` [..., C]."""
    if path.suffix not in ('.png', '.npy'):
        raise ValueError(f'{path.name}: the suffix is {path.suffix!r}; use .png, or .npy for float32.')
    if path.suffix == '.png' and len(shape) != 2:
        raise ValueError(f'grid has shape {(*shape, 2)}; a PNG needs [H, W, 2], other coordinates can go to .npy.')
    if bits not in (8, 16):
        raise ValueError(f'bits={bits}; a PNG has 8 or 16 per channel.')
    unfinished = path.with_name(path.name + '.part')
    try:
        with unfinished.open('wb') as file:
            if path.suffix == '.png':
                _write_png(file, pieces, *shape, bits)
            else:
                for number, piece in enumerate(pieces):
                    if number == 0:
                        header = {'descr': '<f4', 'fortran_order': False, 'shape': (*shape, piece.shape[-1])}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(piece.astype('<f4').tobytes())
    except BaseException:
        unfinished.unlink()
        raise
    unfinished.replace(path)


def _write_png(file: BinaryIO, pieces: Iterable[np.ndarray], height: int, width: int, bits: int) -> None:
    """An RGB image whose pixels arrive in pieces, in order; Pillow writes no 16-bit RGB, and images only as a whole."""

    def block(kind: bytes, data: bytes) -> None:
        file.write(struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)))

    file.write(b'\x89PNG\r\n\x1a\n')
    block(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, 2, 0, 0, 0))
    compressor, row_bytes = zlib.compressobj(), width * 3 * bits // 8
    waiting, above = np.zeros(0, np.uint8), np.zeros((1, row_bytes), np.uint8)
    for piece in pieces:
        levels = to_uint(piece, bits).astype(f'>u{bits // 8}')
        waiting = np.concatenate([waiting, levels.reshape(-1).view(np.uint8)])
        rows = waiting[: len(waiting) // row_bytes * row_bytes].reshape(-1, row_bytes)
        waiting = waiting[rows.size :]
        # Filter 2, the difference to the row above: neighbours are alike, so it compresses.
        filtered = rows - np.concatenate([above, rows])[: len(rows)]
        above = rows[-1:] if len(rows) else above
        block(b'IDAT', compressor.compress(np.pad(filtered, ((0, 0), (1, 0)), constant_values=2).tobytes()))
    block(b'IDAT', compressor.flush())
    block(b'IEND', b'')


# Foveated images ------------------------------------------------------------------------------------------------------


def render_foveated(
    model: Model,
    seed: int,
    grid: Grid,
    fraction: float,
    *,
    std: float = 0.4,
    position_seed: int = 0,
    chunk: int = 65_536,
    progress: bool = False,
    **styles: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """An image of which a fraction of the pixels is synthesised, dense in the middle, and the rest interpolated.

    Args:
      grid: [H, W, 2], array or `lazy_grid`.
      fraction, std: of `coords.foveated`; CIPS shows 0.05, 0.25, 0.5 and 1.
      position_seed: of the choice of pixels.
      chunk, progress, styles: as in `render`.
    Returns: the image, float32 [H, W, C], and where its pixels were synthesised, bool [H, W].
    Raises: ValueError as `render`, `coords.foveated` and `fill_scattered`.
    """
    shape, at = _lookup(grid)
    if len(shape) != 2:
        raise ValueError(f'grid has shape {(*shape, 2)}; foveation chooses from a grid [H, W, 2].')
    index, _ = coords.foveated(jax.random.key(position_seed), coords.pixel_grid(*shape), fraction, std=std)
    index = np.sort(np.asarray(index))
    values = render(model, seed, at(index), chunk=chunk, progress=progress, **styles)
    chosen = np.zeros(shape, bool)
    chosen.flat[index] = True
    return fill_scattered(index, values, *shape), chosen


def fill_scattered(index: np.ndarray, values: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image of which some pixels are known: cubic between them (Clough-Tocher on their Delaunay triangulation).

    Args:
      index: distinct indices [K] into the flattened image, ascending; values: [K, C].
    Returns: float32 [height, width, C]: `values` at `index`, the nearest of them outside of their convex hull.
    Raises: ValueError if some pixel is missing and the known ones do not span a triangle.
    """
    out = np.empty((height * width, values.shape[-1]), np.float32)
    out[index] = values
    missing = np.setdiff1d(np.arange(height * width), index, assume_unique=True)
    if len(missing):
        known = np.stack(np.divmod(index, width), axis=-1)
        wanted = np.stack(np.divmod(missing, width), axis=-1)
        try:
            filled = CloughTocher2DInterpolator(known, values)(wanted)
        except QhullError:
            raise ValueError(
                f'{len(index)} of {height} x {width} pixels do not span a triangle; take a larger fraction.'
            ) from None
        outside = np.isnan(filled).any(axis=-1)
        filled[outside] = NearestNDInterpolator(known, values)(wanted[outside])
        out[missing] = filled
    return out.reshape(height, width, -1)


# Pixels for people ----------------------------------------------------------------------------------------------------


def to_uint(images: np.ndarray | jax.Array, bits: int) -> np.ndarray:
    """[-1, 1] to 0..2^bits - 1: round((2^bits - 1) (x + 1) / 2), clamped; bits is 8 or 16."""
    top = 2**bits - 1
    levels = np.clip(np.rint((np.asarray(images, np.float32) + 1) * (top / 2)), 0, top)
    return levels.astype(f'uint{bits}')


def to_uint8(images: np.ndarray | jax.Array) -> np.ndarray:
    """[-1, 1] to 0..255: round(127.5 (x + 1)), clamped."""
    return to_uint(images, 8)


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W, C] side by side, row by row: [rows * H, columns * W, C]; missing ones are zeros."""
    rows = -(-len(images) // columns)
    n, h, w, c = images.shape
    padded = np.zeros((rows * columns, h, w, c), images.dtype)
    padded[:n] = images
    return padded.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)
