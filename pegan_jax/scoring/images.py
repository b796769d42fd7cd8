"""Sets of images to be scored: data, and what a generator makes. Real or not, they are uint8 RGB."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pegan_jax.data import pipeline, sources, worlds
from pegan_jax.files import Path
from pegan_jax.gan import GAN, Completer, Sampler, per_layer, size_of_samples
from pegan_jax.layers import truncate
from pegan_jax.pixels import decode_image, to_uint8, with_channels
from pegan_jax.settings import DataConfig, UserError

THREADS = 4
# Procedural worlds that no training sees: real ones, and others to compare with them.
REAL_WORLDS, FAKE_WORLDS = 1_000_000, 2_000_000


class Images(NamedTuple):
    """Numbered rows, such as images; row i is always the same one.

    count: how many there are; None: no limit.
    key: (start, stop) -> text that differs whenever these rows may differ.
    read: (start, stop) -> rows [stop - start, ...]; images are uint8 [..., H, W, 3].
    about: what is needed to repeat them, for people.
    """

    count: int | None
    key: Callable[[int, int], str]
    read: Callable[[int, int], np.ndarray]
    about: dict[str, Any]


def of_source(
    source: sources.Source, size: tuple[int, int] | None, crop: str, max_pixels: int, *, grey: bool = False
) -> Images:
    """All images of a data set, in an order drawn once, so that the first ones come from all classes; never mirrored.

    They are identified by their content: the bytes of their files, and what is done to them.

    Args:
      size, crop: as for `pipeline.fit`; None: images stay as they are, and all must have one size.
      grey: as a model of one channel shows them.
    """
    order = np.random.RandomState(0).permutation(len(source))

    def key(start: int, stop: int) -> str:
        digest = hashlib.sha256(repr((size, crop, *['grey'] * grey)).encode())
        for i in order[start:stop]:
            digest.update(hashlib.sha256(source[int(i)]['image']).digest())
        return digest.hexdigest()

    def one(index: np.integer) -> np.ndarray:
        pixels = with_channels(decode_image(source[int(index)]['image'], max_pixels, 1 if grey else 3), 3)
        return pixels if size is None else pipeline.fit(pixels, size, crop)

    def read(start: int, stop: int) -> np.ndarray:
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            rows = list(pool.map(one, order[start:stop]))
        if other := [x.shape for x in rows if x.shape != rows[0].shape]:
            shapes = ' and '.join(f'{w} x {h}' for h, w, _ in (rows[0].shape, other[0]))
            raise UserError(f'images of {source.contents().root} have the sizes {shapes}; give --size H[xW].')
        return np.stack(rows)

    about = {'data': source.contents().root, 'images': len(source), 'size': size, 'crop': size and crop}
    about |= {'grey': True} if grey else {}
    return Images(len(source), key, read, about)


_drawn_worlds = jax.jit(worlds.render_world, static_argnums=(1, 2))


def of_worlds(size: tuple[int, int], first: int = REAL_WORLDS, *, grey: bool = False) -> Images:
    """Procedural worlds from number `first` on; grey as a model of one channel shows them."""

    def read(start: int, stop: int) -> np.ndarray:
        rows = []
        for i in range(start, stop, 64):
            # The last ones are drawn together with others: one compiled program serves all.
            seeds = first + np.arange(i, i + 64, dtype=np.int32)
            rows.append(to_uint8(_drawn_worlds(seeds, *size))[: stop - i])
        drawn = np.concatenate(rows)
        return with_channels(with_channels(drawn, 1), 3) if grey else drawn

    about = {'data': 'worlds', 'first': first, 'size': size} | ({'grey': True} if grey else {})
    return Images(None, lambda start, stop: repr((about, worlds_digest(), start, stop)), read, about)


@functools.cache
def worlds_digest() -> str:
    """Hash of the program that draws the worlds: features are kept under it."""
    return hashlib.sha256(pathlib.Path(worlds.__file__).read_bytes()).hexdigest()


def is_worlds(data: DataConfig) -> bool:
    """Whether a configuration names the procedural worlds."""
    return data.tfds == 'worlds' and data.folder is None and data.image is None


def of_data(data: DataConfig, folder: Path, *, first_world: int = REAL_WORLDS, as_they_are: bool = False) -> Images:
    """The images that a configuration names, fitted to its size; worlds are those that no training sees.

    For data with windows outside, they show the frame; for data with one channel, they are grey.

    Args:
      folder: where findings about them are kept.
      as_they_are: they keep their sizes.
    Raises: ConfigError as `pipeline.open_source`.
    """
    if is_worlds(data):
        return of_worlds(data.size, first_world, grey=data.channels == 1)
    source = pipeline.open_source(dataclasses.replace(data, labels=False, edges='none'), folder)
    size, grey = None if as_they_are else data.canvas, data.channels == 1
    images = of_source(source, size, crop_of(data), data.max_pixels, grey=grey)
    return images if as_they_are or not data.outside else _middle(images, data.size)


def crop_of(data: DataConfig) -> str:
    """How whole images of data are fitted, even if training sees windows of them: 'stretch' or 'center'."""
    return data.crop if data.crop == 'stretch' else 'center'


def middle(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle (height, width) of images [N, H, W, C], cut without resizing."""
    (height, width), (top, left) = size, ((n - m) // 2 for n, m in zip(images.shape[1:3], size, strict=True))
    return images[:, top : top + height, left : left + width]


def _middle(images: Images, size: tuple[int, int]) -> Images:
    height, width = size
    return images._replace(
        key=lambda start, stop: f'{images.key(start, stop)} {height} {width}',
        read=lambda start, stop: middle(images.read(start, stop), size), about=images.about | {'window': size},
    )  # fmt: skip


def like_samples(gan: GAN, variables: dict, data: DataConfig, folder: Path) -> Images:
    """`of_data` in the size of samples: the middle of what `fitted` gives."""
    size = size_of_samples(gan, variables)
    data = fitted(gan, data, size)
    images = of_data(data, folder)
    return images if data.size == size else _middle(images, size)


def fitted(gan: GAN, data: DataConfig, size: tuple[int, int]) -> DataConfig:
    """Data whose middle is like samples of a size; only larger ones, from which rotations are cut, are not resized.

    Those of a stage are resized, and the image of a SinGAN, which alone has a number of steps of its own.
    """
    borders = [(n - m) // 2 for n, m in zip(data.size, size, strict=True)]
    stages = {stage.size for stage in gan.stages()} if gan.stages else set()
    kept = gan.num_steps is None and size not in stages and max(borders) >= 1 and min(borders) >= 0
    return data if kept else dataclasses.replace(data, resolution=size)


# Generated images -----------------------------------------------------------------------------------------------------


class Generator(NamedTuple):
    """A network that makes images, and how.

    identity: that of its variables, such as their `digest_of`.
    truncation_psi, truncation_cutoff: as for `Model.styles`.
    labels: (first, count) -> labels [count, c_dim] of images from number `first` on; None: it takes none.
    noise: 'random', drawn anew for every image, or 'const', 'none'; for systems that have noise.
    seed: that of the first image.
    settings: what else its images follow from, such as the configuration of the network.
    """

    gan: GAN
    variables: dict
    identity: str
    truncation_psi: float = 1.0
    truncation_cutoff: int | None = None
    labels: Callable[[int, int], np.ndarray] | None = None
    noise: str = 'random'
    seed: int = 0
    settings: str = ''

    TOLD = ('truncation_psi', 'truncation_cutoff', 'noise', 'seed')

    @property
    def key(self) -> str:
        """Text that differs whenever its images may differ."""
        return repr((self.about, self.settings))

    @property
    def about(self) -> dict[str, Any]:
        """What is needed to repeat its images."""
        return {'network': self.identity} | {name: getattr(self, name) for name in self.TOLD}


def digest_of(variables: dict) -> str:
    """SHA-256 of names and values of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(variables):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def drawn_labels(data: DataConfig, c_dim: int, folder: Path) -> Callable[[int, int], np.ndarray] | None:
    """`Generator.labels`: those of images of the data, drawn at random; None for a model without labels.

    Raises: ConfigError as `pipeline.open_source`, and for labels of another size.
    """
    if not c_dim:
        return None
    source = pipeline.open_source(dataclasses.replace(data, edges='none'), folder)
    pipeline.check_labels(source, c_dim)

    def labels(first: int, count: int) -> np.ndarray:
        rows = [np.random.RandomState(i).randint(len(source)) for i in range(first, first + count)]
        found = np.stack([source[row]['label'] for row in rows])
        return np.eye(c_dim, dtype=np.float32)[found] if found.ndim == 1 else found.astype(np.float32)

    return labels


def check_generator(gan: GAN, system: str) -> None:
    """Raises: UserError for a system that completes images."""
    if isinstance(gan.sampler, Completer):
        raise UserError(f'{system} completes images; its scores are l1, l2, psnr, ssim and tv.')


def local_sharding(*axes: str) -> NamedSharding:
    """Over this process's devices: 'rows' along the first axis, or copies everywhere."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), ('rows',)), P(*axes))


def generated(generator: Generator, batch_size: int = 32) -> Images:
    """Images of latents of the seeds seed, seed + 1, ...; made on all devices of this process.

    Args:
      batch_size: images made at once; rounded up to a multiple of the devices.
    """
    sampler, about = generator.gan.sampler, generator.about
    batch_size += -batch_size % len(jax.local_devices())
    variables = jax.device_put(generator.variables, local_sharding())
    make = _maker(sampler, generator.truncation_psi, generator.truncation_cutoff, generator.noise)

    def read(start: int, stop: int) -> np.ndarray:
        rows = []
        for i in range(start, stop, batch_size):
            seeds = generator.seed + np.arange(i, i + batch_size)
            labels = None if generator.labels is None else generator.labels(int(seeds[0]), batch_size)
            inputs = jax.device_put((sampler.draw(seeds), labels, seeds.astype(np.uint32)), local_sharding('rows'))
            rows.append(with_channels(to_uint8(make(variables, *inputs)), 3)[: stop - i])
        return np.concatenate(rows)

    return Images(None, lambda start, stop: repr((generator.key, start, stop)), read, about)


@functools.lru_cache(4)  # a run scores many checkpoints with one program
def _maker(sampler: Sampler, psi: float, cutoff: int | None, noise: str) -> Callable:
    """(variables, latents, labels or None, seeds) -> images, compiled."""

    def make(variables: dict, z: jax.Array, labels: jax.Array | None, seeds: jax.Array) -> jax.Array:
        w = z if sampler.map is None else sampler.map(variables, z, labels)
        if psi != 1:
            w = truncate(w if cutoff is None else per_layer(sampler, w), sampler.w_avg(variables), psi, cutoff)
        return sampler.synthesise(variables, per_layer(sampler, w), **noise_options(sampler, noise, seeds))

    return jax.jit(make)


def noise_options(sampler: Sampler, noise: str, seeds: jax.Array) -> dict[str, Any]:
    """Options of `Sampler.synthesise` for images of these seeds [N]."""
    if 'noise' not in sampler.options:
        return {}
    return {'noise': jax.vmap(jax.random.key)(seeds) if noise == 'random' else noise}


def check_truncation(generator: Generator, system: str) -> None:
    """Raises: UserError for a truncation that the system does not have."""
    sampler = generator.gan.sampler
    if generator.truncation_psi != 1 and sampler.w_avg is None:
        raise UserError(f'{system} has no mean style to truncate towards; leave --truncation-psi at 1.')
    if generator.truncation_cutoff is not None and not 0 <= generator.truncation_cutoff <= (sampler.num_ws or 0):
        raise UserError(f'--truncation-cutoff {generator.truncation_cutoff}; use 0 to {sampler.num_ws or 0}.')
