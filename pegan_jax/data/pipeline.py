"""Batches: decode, crop, resize, flip; in an order that depends only on the seed and on the position in the stream."""

import functools
import logging
import os
import sys
from typing import Any

import numpy as np
from PIL import Image

from pegan_jax.data import edges, sources
from pegan_jax.files import Path, of_bucket, scratch
from pegan_jax.pixels import UnreadableImage, as_image, decode_image
from pegan_jax.settings import ConfigError, DataConfig

logger = logging.getLogger(__name__)

READ_THREADS = min(16, max(4, os.cpu_count() or 4))  # each of them reads batches
READ_AHEAD = READ_THREADS  # batches
SUBSTITUTES = 16  # neighbours that are tried for an image that cannot be read
FINER = 4  # pixels of a world per pixel of the wanted size, along each axis, if patches are cut at random scales


def open_source(data: DataConfig, workdir: Path) -> sources.Source:
    """Opens the images that a configuration names; findings about them are kept in `workdir`.

    Raises: ConfigError, saying what to do, if there is nothing to read, or labels are wanted but missing.
    """
    if data.folder is not None:
        return sources.open_folder(data.folder, data.max_pixels, workdir, data.labels, data.edges == 'files')
    if data.labels and (data.image is not None or data.tfds == 'worlds'):
        raise ConfigError('data.labels=True, but neither a single image nor the worlds have labels.')
    if data.image is not None:
        return sources.open_image(data.image, data.max_pixels)
    from pegan_jax.data import records  # TFDS takes as long to import as everything else together

    if data.tfds == 'worlds':
        finer = FINER if data.crop == 'scales' else 1
        size, folder = (finer * data.size[0], finer * data.size[1]), data.data_dir or str(scratch(workdir) / 'tfds')
        return records.open_worlds(size, data.num_worlds, data.split, folder, data.margin)
    return records.open_tfds(data.tfds, data.split, data.data_dir, data.labels)


def check_labels(source: sources.Source, c_dim: int) -> None:
    """Raises ConfigError unless the labels of a source have the size that a model takes."""
    if source.c_dim != c_dim:
        raise ConfigError(
            f'model.c_dim={c_dim}, but labels of the data have {source.c_dim} classes (or entries); '
            f'set model.c_dim={source.c_dim}.'
        )


def fit(image: np.ndarray, size: tuple[int, int], crop: str) -> np.ndarray:
    """Resizes uint8 [h, w, C] with a Lanczos filter, as wide as the reduction.

    Colours are weighted by their opacity, if any, so that none leaks from transparent pixels.

    Args:
      size: the desired (height, width).
      crop: 'stretch' ignores the aspect; 'center', and 'scales' for whole images, take the largest centred window of
        the wanted aspect; 'random' keeps everything: the smallest size of the image's own aspect that covers the wanted
        one; 'window' does the same, but makes no image smaller.
    Returns: uint8 [height, width, C], larger along one axis for 'random', and any for 'window'.
    """
    if crop in ('center', 'scales'):
        return cut_patch(image, size, 1, 0, 0)
    (h, w), (height, width) = image.shape[:2], size
    if crop in ('random', 'window'):
        scale = max(height / h, width / w, 1.0 if crop == 'window' else 0.0)
        height, width = max(height, round(h * scale)), max(width, round(w * scale))
    if (h, w) == (height, width):
        return image
    resized = as_image(image).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized).reshape(height, width, -1)


def most_scale(image: np.ndarray, size: tuple[int, int]) -> float:
    """How much finer an image is than its 'center' fit of a size: pixels of its own per pixel of that, at least 1."""
    return max(1.0, min(image.shape[0] / size[0], image.shape[1] / size[1]))


def cut_patch(image: np.ndarray, size: tuple[int, int], scale: float, down: float, across: float) -> np.ndarray:
    """A patch of what 'center' cuts from an image, resized to `scale` times the size; only the patch is computed.

    Args:
      size: (height, width) of the patch; the whole has `scale` times as many pixels along each axis.
      scale: at least 1, which gives `fit(image, size, 'center')`; the whole need not have whole pixels.
      down, across: from 0, at the top or left border of the whole, to 1, at the opposite one.
    Returns: uint8 [height, width, C].
    """
    (h, w), (height, width) = image.shape[:2], size
    unit = min(h / height, w / width)
    if scale == 1 and (h, w) == size:
        return image
    tall, wide = unit * height / scale, unit * width / scale
    top = (h - unit * height) / 2 + down * (unit * height - tall)
    left = (w - unit * width) / 2 + across * (unit * width - wide)
    # Rounding may put a border outside the image, which Pillow refuses.
    box = (max(left, 0), max(top, 0), min(left + wide, w), min(top + tall, h))
    # The filter reaches beyond the box, where the image continues.
    resized = as_image(image).resize((width, height), Image.Resampling.LANCZOS, box)
    return np.asarray(resized).reshape(height, width, -1)


def _loader(source: sources.Source, data: DataConfig) -> Any:
    """index -> example with the image decoded and fitted; an unreadable image is replaced by the next readable one.

    For patches at random scales, the image stays as it is.
    """
    unreadable = set()

    def read(index: int) -> dict[str, np.ndarray] | None:
        try:
            example = source[index]
            channels = {'image': data.channels, 'edge': 3}
            pictures = {k: decode_image(example[k], data.max_pixels, n) for k, n in channels.items() if k in example}
            if len({pixels.shape[:2] for pixels in pictures.values()}) > 1:
                sizes = ' and '.join(f'{p.shape[1]} x {p.shape[0]}' for p in pictures.values())
                raise UnreadableImage(f'the image and its edges differ in size, {sizes}')
        except Exception as error:
            if not (isinstance(error, UnreadableImage | OSError) or of_bucket(error)):
                raise
            if index not in unreadable:
                unreadable.add(index)
                if len(unreadable).bit_count() == 1:  # the first, second, fourth, eighth ...
                    logger.warning(
                        '%d unreadable images replaced by the next ones; image %d: %s', len(unreadable), index, error
                    )
            return None
        if data.crop != 'scales':
            pictures = {k: fit(pixels, data.canvas, data.crop) for k, pixels in pictures.items()}
        return example | pictures

    def load(index: int) -> dict[str, np.ndarray]:
        candidates = [(index + k) % len(source) for k in range(min(SUBSTITUTES + 1, len(source)))]
        for candidate in candidates:
            if (example := read(candidate)) is not None:
                return example
        raise UnreadableImage(f'images {candidates} are all unreadable; is the storage still there?')

    return functools.cache(load) if data.cache else load


def batches(
    source: sources.Source,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start_image: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Any:
    """Endless batches of {'image': uint8 [batch_size / process_count, H, W, data.channels]}.

    With 'label' if the source has labels, and 'edge', uint8 [..., H, W, 1] with 255 on lines, unless data.edges='none'.
    With data.outside also 'offset', int32 [..., 2]: pixels (right, down) from the frame to what the image shows.
    With data.crop='scales' also 'scale', float32 [...], how many times finer than the frame a patch is, and 'offset',
    float32 [..., 2], from the middle of the frame to that of the patch, in pixels of the frame.

    The stream of images is a function of the seed: position g holds an image with its crop and its flip, whatever the
    batch size, the process count and the position where the iteration began. Every epoch is shuffled anew. Batch k
    covers positions start_image + k batch_size onwards; each process gets a contiguous block of it.

    Args:
      batch_size: images per batch over all processes.
      start_image: position of the first one, the number of images seen so far.
    Returns: an iterator; its `close()` stops its threads.
    Raises: ConfigError if the batch does not divide among the processes.
    """
    import grain  # takes seconds to import

    if batch_size % process_count:
        lower = batch_size - batch_size % process_count
        raise ConfigError(
            f'train.batch_size={batch_size} is not divisible by {process_count} processes; '
            f'use {lower or process_count} or {lower + process_count}.'
        )
    share = batch_size // process_count
    (height, width), margin = data.size, data.margin
    order_seed, augment_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))

    def patch(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        scale = rng.uniform(1, most_scale(example['image'], data.size))
        down, across = rng.random(2)
        mirror = -1 if data.flip and rng.random() < 0.5 else 1
        if rng.random() < data.frame_share:
            scale = 1.0
        found = {
            k: cut_patch(example[k], data.size, scale, down, across)[:, ::mirror]
            for k in ('image', 'edge') if k in example
        }  # fmt: skip
        offset = (1 - 1 / scale) * np.array([mirror * width * (across - 0.5), height * (down - 0.5)])
        return found | {'offset': offset.astype(np.float32), 'scale': np.float32(scale)}

    def window(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        top = rng.integers(example['image'].shape[0] - height + 1)
        left = rng.integers(example['image'].shape[1] - width + 1)
        mirror = -1 if data.flip and rng.random() < 0.5 else 1
        if data.outside and rng.random() < data.frame_share:
            top, left = margin
        where = (slice(top, top + height), slice(left, left + width))
        found = {k: example[k][where][:, ::mirror] for k in ('image', 'edge') if k in example}
        if data.outside:
            found['offset'] = np.array([mirror * (left - margin[1]), top - margin[0]], np.int32)
        return found

    def augment(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        pictures = (patch if data.crop == 'scales' else window)(example, rng)
        if data.edges == 'files':
            pictures['edge'] = pictures['edge'][..., :1]
        elif data.edges != 'none':
            pictures['edge'] = edges.extract(pictures['image'], data.edges)
        return example | pictures

    # Random numbers are tied to positions, so they are drawn before the stream is divided into batches.
    stream = (
        grain.MapDataset.range(len(source))
        .shuffle(seed=order_seed)
        .repeat()
        .map(_loader(source, data))
        .random_map(augment, seed=augment_seed)
    )

    def batch(k: int) -> dict[str, np.ndarray]:
        first = start_image + k * batch_size + process_index * share
        examples = [stream[first + j] for j in range(share)]
        return {name: np.stack([e[name] for e in examples]) for name in examples[0]}

    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=READ_AHEAD)
    return iter(grain.MapDataset.range(sys.maxsize // batch_size).map(batch).to_iter_dataset(options))
