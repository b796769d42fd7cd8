"""A trained model, and how it is read."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from pegan_jax import config as configs
from pegan_jax.gan import GAN, Completer, Sampler, per_layer, size_of_samples
from pegan_jax.layers import truncate
from pegan_jax.settings import UserError
from pegan_jax.train import exported
from pegan_jax.train.checkpoint import load_sampling
from pegan_jax.train.workdir import read_classes, read_imported

Label = int | str | Sequence[int] | Sequence[str] | np.ndarray  # see `Model.labels`


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model.

    variables: {'params', 'buffers'} of the generator, or of its EMA if the run kept one.
    classes: names of the classes that it was trained with, in order, if they have names.
    images: how many images its training had shown.
    imported: where converted weights come from, {'file', 'inferred', 'licence'}.
    loaded: the arguments of `load`, path and step; None if nothing was loaded.
    """

    config: configs.Config
    gan: GAN
    variables: dict
    step: int
    classes: tuple[str, ...] = ()
    images: int = 0
    imported: dict | None = None
    loaded: tuple[str, int | str | None] | None = None

    @property
    def sampler(self) -> Sampler:
        """How it makes images from seeds. Raises: ValueError for a system that completes images."""
        if isinstance(self.gan.sampler, Completer):
            raise UserError(f'{self.config.system} completes images, which no seed stands for; use inpaint.')
        return self.gan.sampler

    @property
    def completer(self) -> Completer:
        """How it completes images. Raises: ValueError for a system that makes images from seeds."""
        if isinstance(self.gan.sampler, Sampler):
            raise UserError(
                f'{self.config.system} makes images of seeds; to complete images, use a run of deepfill or pconv.'
            )
        return self.gan.sampler

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of its images; those of its data may be larger (`outside`, rotations) or of other sizes."""
        if isinstance(self.gan.sampler, Completer):
            return self.config.data.size
        return size_of_samples(self.gan, self.variables)

    @functools.cached_property
    def _program(self) -> Callable:
        def run(variables: dict, w: jax.Array, arrays: dict, rest: tuple) -> jax.Array:
            return self.sampler.synthesise(variables, per_layer(self.sampler, w), **arrays, **dict(rest))

        return jax.jit(run, static_argnums=3)

    def synthesise(self, w: jax.Array, **options: Any) -> jax.Array:
        """Images of styles [N, w_dim] or [N, num_ws, w_dim], compiled; options: those of `Sampler.synthesise`."""
        arrays = {k: v for k, v in options.items() if isinstance(v, (jax.Array, np.ndarray))}
        rest = tuple((k, v) for k, v in options.items() if k not in arrays)
        return self._program(self.variables, w, arrays, rest)

    @functools.cached_property
    def complete(self) -> Callable:
        """`Completer.complete`, compiled: inputs {'image', 'mask', ...} -> images."""
        return functools.partial(jax.jit(self.completer.complete), self.variables)

    @functools.cached_property
    def synthesise_points(self) -> Callable:
        """(variables, w, points [K, 2]) -> colours [N, K, C], over all devices of this process; their number divides K.

        With `shares` [K, N] after the points, as in `Sampler.options`, it gives [1, K, C]. Nothing is exchanged: a
        pixel needs its coordinate and the styles, which every device has.
        """

        def run(variables: dict, w: jax.Array, points: jax.Array, *shares: jax.Array) -> jax.Array:
            options = {'shares': shares[0]} if shares else {}
            return self.sampler.synthesise(variables, per_layer(self.sampler, w), grid=points, **options)

        def program(variables: dict, w: jax.Array, *per_point: jax.Array) -> jax.Array:
            specs = {'in_specs': (P(), P(), *(P('points') for _ in per_point)), 'out_specs': P(None, 'points')}
            return jax.shard_map(run, mesh=local_mesh(), check_vma=False, **specs)(variables, w, *per_point)

        return jax.jit(program)

    @functools.cached_property
    def w_avg(self) -> jax.Array:
        """The centre of truncation, [w_dim]. Raises: ValueError for a system that has none."""
        if self.sampler.w_avg is None:
            raise UserError(
                f'{self.config.system} has no mean style to truncate towards; leave out truncation_psi, or '
                '--truncation-psi.'
            )
        return self.sampler.w_avg(self.variables)

    @property
    def num_ws(self) -> int:
        """The number of styles of an image. Raises: ValueError for a system whose images have one."""
        if self.sampler.num_ws is None:
            raise UserError(f'{self.config.system} has one style per image: none to mix, or to truncate apart.')
        return self.sampler.num_ws

    def check_styles(self, shape: tuple[int, ...]) -> None:
        """Raises: UserError unless styles of one image have this shape: [w_dim], or [num_ws, w_dim] for several."""
        w = jax.eval_shape(functools.partial(self.styles, [0], label=self.classes_of([0])))
        if not jnp.issubdtype(w.dtype, jnp.floating):
            raise UserError(f'{self.config.system} has no styles: its latents are keys of noise.')
        width, count = w.shape[-1], self.sampler.num_ws
        takes = [[width]] if count is None else [[width], [count, width]]
        if list(shape) not in takes:
            raise UserError(f'styles have the shape {shape}; this model takes {" or ".join(map(str, takes))}.')

    @functools.cached_property
    def _map(self) -> Callable:
        return jax.jit(self.sampler.map)

    def map(self, z: np.ndarray, c: np.ndarray | None) -> jax.Array:
        """w [N, w_dim] of latents and labels [N, c_dim] or None, not truncated."""
        return self._map(self.variables, z, c)

    def classes_of(self, index: Sequence[int]) -> list[int] | None:
        """A class for every index, in turn, for pictures and scores of all of them; None without labels."""
        return [int(i) % self.gan.c_dim for i in index] if self.gan.c_dim else None

    def labels(self, label: Label | None, count: int) -> np.ndarray | None:
        """Labels of `count` images, [count, c_dim] float32; None for a model without labels.

        Args:
          label: whole numbers or names are classes, one for all images or one for each; other numbers are labels
            themselves, [c_dim] for all or [count, c_dim].
        Raises: UserError for an unknown class, other shapes, a label for a model without labels, or none for a model
          with them.
        """
        c_dim = self.gan.c_dim
        if not c_dim:
            if label is not None:
                raise UserError(
                    f'label={label}, but the model was trained without labels; leave out label, or --class.'
                )
            return None
        known = f'a class from 0 to {c_dim - 1}'
        if self.classes:
            known += f' or its name ({", ".join(self.classes[:10])}{", ..." * (len(self.classes) > 10)})'
        if label is None:
            raise UserError(f'this model was trained with labels: give label, {known}, or {c_dim} numbers.')
        given = np.asarray(label)
        if given.dtype.kind == 'U':
            if unknown := [name for name in given.flat if name not in self.classes]:
                raise UserError(f'label={str(unknown[0])!r} is no class of this model; it takes {known}.')
            given = np.array([self.classes.index(name) for name in given.flat]).reshape(given.shape)
        if given.dtype.kind in 'iu':
            if given.shape not in ((), (1,), (count,)):
                raise UserError(
                    f'label (--class) has {given.size} classes for {count} images; give one, or one for each.'
                )
            if given.min() < 0 or given.max() >= c_dim:
                raise UserError(f'label={label} is no class of this model; it takes {known}.')
            rows = np.eye(c_dim)[given]
        elif given.dtype.kind == 'f' and given.shape in ((c_dim,), (count, c_dim)):
            rows = given
        else:
            raise UserError(
                f'label is {given.dtype} {given.shape}; give {known}, or floats [{c_dim}] or [{count}, {c_dim}].'
            )
        return np.broadcast_to(rows.astype(np.float32), (count, c_dim)).copy()

    def styles(
        self,
        seeds: Sequence[int],
        truncation_psi: float = 1.0,
        *,
        truncation_cutoff: int | None = None,
        label: Label | None = None,
    ) -> jax.Array:
        """w of seeds, [N, w_dim], truncated: w_avg + psi (w - w_avg).

        Args:
          truncation_psi: 1 is off; below 1, images are more alike and better; above, they differ more.
          truncation_cutoff: truncate the styles of this many layers only; the result is then ws [N, num_ws, w_dim].
          label: as for `labels`.
        Raises: UserError for a cutoff that is not a number of layers, a system that completes images, and as `labels`.
        """
        z, label = self.sampler.draw(seeds), self.labels(label, len(seeds))
        w = jnp.asarray(z) if self.sampler.map is None else self.map(z, label)
        if truncation_cutoff is not None:
            if not 0 <= truncation_cutoff <= self.num_ws:
                raise UserError(
                    f'truncation_cutoff={truncation_cutoff} with {self.num_ws} styles per image; use 0 to '
                    f'{self.num_ws}.'
                )
            w = per_layer(self.sampler, w)
        return w if truncation_psi == 1 else truncate(w, self.w_avg, truncation_psi, truncation_cutoff)


def load(path: str | os.PathLike, step: int | str | None = None) -> Model:
    """Reads a model.

    Args:
      path: the --workdir of a run, what `convert` made, what `export` made (a folder, or a .safetensors file), the
        name of a model that ships, such as worlds64, or the address of one on the hub, hf://user/name or
        hf://user/name@revision.
      step: that of the checkpoint; None is the newest, 'best' the best one by the run's first score (`train.metrics`),
        or by the lowest sliced Wasserstein distance if the run has no score. An exported model has one step.
    Raises: CheckpointError if there is no checkpoint or it is damaged, ForeignFileError likewise for an exported model,
      UserError for what is neither.
    """
    loaded, place = (os.fspath(path), step), exported.place(path)
    if (file := exported.find(place)) is None:
        if place.is_file():
            raise UserError(
                f'{place} is not a model that export wrote; if it is of another program, convert {place} --out DIR '
                'makes a model of it.'
            )
        variables, meta, step = load_sampling(place / 'checkpoints', step)
        config = configs.from_dict(meta['config'])
        meta = {'classes': read_classes(place), 'images': meta.get('images', 0), 'imported': read_imported(place)}
    else:
        config, variables, meta = exported.read(file)
        if step not in (None, meta['step']):
            raise UserError(f'{file} holds step {meta["step"]} alone, not {step}; leave the step out.')
        step = meta['step']
    gan = configs.system_module(config.system).build(config)
    return Model(config, gan, variables, step, tuple(meta['classes']), meta['images'], meta['imported'], loaded)


def local_mesh() -> Mesh:
    """This process's devices; points are divided over them."""
    return Mesh(np.array(jax.local_devices()), ('points',))
