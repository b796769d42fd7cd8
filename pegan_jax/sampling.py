"""Images from trained models: `load`, then `sample` and `render`."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from tqdm import tqdm

from pegan_jax import config as configs
from pegan_jax.gan import GAN


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model; variables: {'params', 'buffers'} of the generator, EMA where the run kept one."""

    config: configs.Config
    gan: GAN
    variables: dict
    step: int

    @functools.cached_property
    def synthesise(self) -> 'jax.stages.Wrapped':
        """gan.sample, compiled: (variables, z, grid, **options)."""
        return jax.jit(self.gan.sample, static_argnames=('truncation_psi', 'chunk'))

    @functools.cached_property
    def w_avg(self) -> jax.Array:
        """The centre of truncation, [z_dim]."""
        return configs.system_module(self.config.system).mean_w(self.config.model, self.variables['params'])


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


def _truncation(model: Model, psi: float) -> dict:
    # The centre is computed once, not with every batch or chunk.
    return {'truncation_psi': psi, 'w_avg': model.w_avg} if psi < 1 else {'truncation_psi': psi}


def sample(
    model: Model,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    grid: np.ndarray | jax.Array | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Images of seeds.

    Args:
      truncation_psi: 1 is off, 0 the mean image.
      grid: coordinates [..., 2] from `coords`; None: the training grid.
      batch_size: images computed at once.
    Returns: float32 [N, *grid.shape[:-1], C], nominally in [-1, 1], not clamped.
    """
    if not len(seeds):
        raise ValueError('seeds is empty; give at least one, such as seeds=[0].')
    z = latents(seeds, model.config.model.z_dim)
    options = _truncation(model, truncation_psi)
    out = []
    for i in range(0, len(z), batch_size):
        part = z[i : i + batch_size]
        padded = np.concatenate([part, np.repeat(part[-1:], min(batch_size, len(z)) - len(part), 0)])
        out.append(np.asarray(model.synthesise(model.variables, padded, grid, **options))[: len(part)])
    return np.concatenate(out)


def render(
    model: Model,
    seed: int,
    grid: np.ndarray | jax.Array,
    *,
    truncation_psi: float = 1.0,
    chunk: int = 65_536,
    progress: bool = False,
) -> np.ndarray:
    """One image at any coordinates, in pieces of `chunk` coordinates, so that memory does not grow with the grid.

    Args:
      grid: coordinates [..., 2] from `coords`, inside or outside the training range.
      chunk: coordinates computed at once.
    Returns: float32 [*grid.shape[:-1], C].
    """
    if chunk < 1:
        raise ValueError(f'chunk={chunk} must be at least 1.')
    z, options = latents([seed], model.config.model.z_dim), _truncation(model, truncation_psi)
    flat = np.asarray(grid, np.float32).reshape(-1, 2)
    chunk = min(chunk, len(flat))
    out = []
    for i in tqdm(range(0, len(flat), chunk), unit='chunk', disable=not progress):
        part = flat[i : i + chunk]
        padded = np.concatenate([part, np.repeat(part[-1:], chunk - len(part), 0)])
        out.append(np.asarray(model.synthesise(model.variables, z, padded, **options))[0, : len(part)])
    image = np.concatenate(out)
    return image.reshape(*np.shape(grid)[:-1], image.shape[-1])


def to_uint8(images: np.ndarray | jax.Array) -> np.ndarray:
    """[-1, 1] to 0..255: round(127.5 (x + 1)), clamped."""
    return np.clip(np.rint((np.asarray(images, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W, C] side by side, row by row: [rows * H, columns * W, C]; missing ones are zeros."""
    rows = -(-len(images) // columns)
    n, h, w, c = images.shape
    padded = np.zeros((rows * columns, h, w, c), images.dtype)
    padded[:n] = images
    return padded.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)
