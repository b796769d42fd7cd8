"""Random access to images: TFDS datasets without TensorFlow, folders, single files, the procedural worlds through TFDS.

A source has `__len__` and `__getitem__(index) -> {'image': encoded bytes}`, with 'label' where the dataset has one.
"""

import concurrent.futures
import dataclasses
import io
import json
import logging
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageOps
from tqdm import tqdm

from pegan_jax.config import ConfigError
from pegan_jax.data import worlds
from pegan_jax.sampling import to_uint8

logger = logging.getLogger(__name__)

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF')


class Source(Protocol):
    """Random access to encoded images."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


class UnreadableImage(ValueError):
    """Bytes that are no image that can be used; the message says why."""


# One image ------------------------------------------------------------------------------------------------------------


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only. Raises UnreadableImage for what is no image, or has more than max_pixels."""
    if not data:
        raise UnreadableImage('empty file')
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more pixels than Pillow's limit of {2 * Image.MAX_IMAGE_PIXELS}") from error
    except Exception as error:  # Pillow's decoders raise many types on malformed headers
        raise UnreadableImage(f'not an image: {error}') from error
    if image.width * image.height > max_pixels:
        raise UnreadableImage(f'{image.width} x {image.height} pixels, more than data.max_pixels={max_pixels}')
    return image


def decode_image(data: bytes, max_pixels: int, *, draft: bool = False) -> np.ndarray:
    """Decodes PNG, JPEG, WebP, BMP or TIFF bytes to uint8 RGB [H, W, 3].

    Turned upright by its EXIF orientation; transparency is composited over black; 16-bit grey is scaled to 8 bits; of
    several frames, the first.

    Args:
      draft: JPEG only: read everything, but compute an eighth of the resolution.
    Raises: UnreadableImage for what is no image, is truncated, has float pixels, or has more than max_pixels (which the
      header says, before anything is decoded; Pillow's own limit of 179 million applies as well).
    """
    image = _open(data, max_pixels)
    try:
        if draft:
            image.draft(None, (1, 1))
        image = ImageOps.exif_transpose(image)
        if image.mode == 'F':
            raise ValueError('float pixels have no defined range')
        if image.mode.startswith('I'):  # 16 bits, stored in 16 or 32: white is 65535
            grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
            return np.repeat(np.round(grey / 257).astype(np.uint8)[..., None], 3, axis=-1)
        if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
            image = image.convert('RGBA')
            image = Image.alpha_composite(Image.new('RGBA', image.size, (0, 0, 0, 255)), image)
        return np.array(image.convert('RGB'))
    except Exception as error:  # as above, and truncated data
        raise UnreadableImage(f'cannot be decoded: {error}') from error


# Folders --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files in a fixed order."""

    paths: tuple[pathlib.Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'image': self.paths[index].read_bytes()}


def _defect(path: pathlib.Path, max_pixels: int) -> str | None:
    """Why a file cannot be used, or None. Reads all of it, so that truncated files are found."""
    try:
        decode_image(path.read_bytes(), max_pixels, draft=True)
    except (UnreadableImage, OSError) as error:
        return str(error)
    return None


def _defects(folder: pathlib.Path, names: list[str], max_pixels: int, workdir: pathlib.Path) -> dict[str, str]:
    """The unusable files among `names`, with the reason. Unchanged files are not read again."""
    record = workdir / 'checked_images.json'
    try:
        known = dict(json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
        known = {}
    prefix = f'{folder.absolute()}:{max_pixels}:'
    stamps = {n: [(st := (folder / n).stat()).st_size, st.st_mtime_ns] for n in names}
    todo = [n for n in names if known.get(prefix + n, [None])[0] != stamps[n]]
    if todo:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            checks = pool.map(lambda n: _defect(folder / n, max_pixels), todo)
            checks = tqdm(checks, f'checking {folder}', len(todo), unit='image', disable=len(todo) < 1000)
            known |= {prefix + n: [stamps[n], reason] for n, reason in zip(todo, checks, strict=True)}
        workdir.mkdir(parents=True, exist_ok=True)
        unfinished = record.with_suffix(f'.{uuid.uuid4().hex}')  # several processes may write at once
        unfinished.write_text(json.dumps(known))
        unfinished.replace(record)
    return {n: known[prefix + n][1] for n in names if known[prefix + n][1] is not None}


def open_folder(folder: str, max_pixels: int, workdir: pathlib.Path) -> Files:
    """All readable images under a folder, sorted by their relative path.

    Every image is read and checked once, which `workdir` remembers; unusable files are left out and reported. Hidden
    files, hidden folders and other file types are passed over.

    Raises: ConfigError if the folder does not exist, or holds no readable image.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise ConfigError(f'data.folder={folder!r} is not a folder; give the path of a folder of images.')
    names = []
    for where, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith('.')]
        found = (pathlib.Path(where, f).relative_to(root) for f in files if not f.startswith('.'))
        names += [f.as_posix() for f in found if f.suffix.lower() in SUFFIXES and (root / f).is_file()]
    names.sort()
    bad = _defects(root, names, max_pixels, workdir)
    if bad:
        shown = ''.join(f'\n  {n}: {reason}' for n, reason in list(bad.items())[:5])
        more = f'\n  and {len(bad) - 5} more' if len(bad) > 5 else ''
        logger.warning('%d of %d images in %s are left out:%s%s', len(bad), len(names), folder, shown, more)
    usable = tuple(root / n for n in names if n not in bad)
    if not usable:
        raise ConfigError(
            f'data.folder={folder!r} holds no readable image ({len(bad)} unreadable); '
            f'expected files named {", ".join("*" + s for s in SUFFIXES)}, in any sub-folder.'
        )
    return Files(usable)


def open_image(image: str, max_pixels: int) -> Files:
    """A source of length one. Raises ConfigError if the file does not exist or cannot be read."""
    path = pathlib.Path(image)
    if not path.is_file():
        raise ConfigError(f'data.image={image!r} is not a file.')
    if reason := _defect(path, max_pixels):
        raise ConfigError(f'data.image={image!r} is unusable: {reason}.')
    return Files((path,))


# TFDS -----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Records:
    """A split of a TFDS dataset; images stay encoded."""

    records: Any  # TFDS data source
    image: str  # names of features
    label: str | None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.records[index]
        if example[self.image] is None:  # array_record reads nothing where a file was cut at the end of a block
            raise UnreadableImage('the record is missing')
        label = {} if self.label is None else {'label': np.int32(example[self.label])}
        return {'image': example[self.image], **label}


def _feature(features: dict[str, Any], kind: type, usual: str) -> str | None:
    """The name of the only feature of a kind, or of the one that has the usual name."""
    names = [n for n, f in features.items() if isinstance(f, kind)]
    return usual if usual in names else names[0] if len(names) == 1 else None


def open_builder(builder: tfds.core.DatasetBuilder, split: str) -> Records:
    """A split of a prepared TFDS dataset, read without TensorFlow.

    The image is the only feature of type Image, or the one called 'image'; the label is the only ClassLabel, or the one
    called 'label'; there may be none.

    Raises: ConfigError if the dataset is not prepared, not stored as ArrayRecord, has no such split or no such image.
    """
    name = builder.info.full_name.rsplit('/', 1)[0]
    root = builder.data_dir_root
    how = (
        f'prepare it once with: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{root}', file_format='array_record').download_and_prepare()\""
        f" (most datasets need TensorFlow for this, but not for training: pip install 'pegan_jax[tf]')."
    )
    if not builder.is_prepared():
        raise ConfigError(f'data.tfds={name!r} is not prepared in {root}; {how}')
    formats = {f.value for f in builder.info.available_file_formats()}
    if 'array_record' not in formats:
        raise ConfigError(
            f'data.tfds={name!r} in {root} is stored as {", ".join(sorted(formats))}, which has no random access; '
            f'choose another data.data_dir or delete {builder.data_dir}, then {how}'
        )
    features = builder.info.features
    image = _feature(features, tfds.features.Image, 'image')
    if image is None:
        raise ConfigError(f'data.tfds={name!r} has no image, or several and none is called "image": {dict(features)}.')
    label = _feature(features, tfds.features.ClassLabel, 'label')
    images = [n for n, f in features.items() if isinstance(f, tfds.features.Image)]
    try:
        records = builder.as_data_source(split, decoders={n: tfds.decode.SkipDecoding() for n in images})
    except ValueError as error:
        raise ConfigError(
            f'data.split={split!r} of {name!r}: {error}; known: {", ".join(builder.info.splits)}.'
        ) from error
    source = Records(records, image, label)
    try:
        source[0], source[len(source) - 1]
    except Exception as error:  # array_record raises many types on missing and cut files
        raise ConfigError(f'{builder.data_dir} is damaged ({error}); delete it and prepare it again.') from error
    return source


def open_tfds(name: str, split: str, data_dir: str | None) -> Records:
    """A split of the TFDS dataset `name` ('name', 'name/config', 'name/config:version'), prepared as ArrayRecord.

    Raises: ConfigError as `open_builder`, or if there is no such dataset.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ConfigError(
            f'data.tfds={name!r} is no TFDS dataset, and none is prepared in data.data_dir={data_dir!r}.'
        ) from None
    except ImportError as error:  # TFDS wraps TensorFlow's absence without a name
        missing, package = (error.name, error.name) if error.name else ('TensorFlow', "'pegan_jax[tf]'")
        raise ConfigError(f'data.tfds={name!r} cannot be opened without {missing}: pip install {package}.') from error
    except (ValueError, AssertionError) as error:  # malformed name, unknown configuration or version
        raise ConfigError(f'data.tfds={name!r}: {error}') from error
    return open_builder(builder, split)


# Worlds ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class WorldsConfig(tfds.core.BuilderConfig):
    """Size of the images and how many there are: worlds 0 to num - 1."""

    height: int = 64
    width: int = 64
    num: int = 4096


class Worlds(tfds.core.GeneratorBasedBuilder):
    """Images of `pegan_jax.data.worlds` with their truths, prepared locally without TensorFlow.

    Configurations are named <height>x<width>x<num>.
    """

    VERSION = tfds.core.Version('1.0.0')  # to be raised when the look of the worlds changes
    # Nothing is downloaded. Without this, TFDS looks for checksums beside this module, which takes a package that
    # it does not declare as a dependency (importlib_resources).
    url_infos = None

    @classmethod
    def get_builder_config(cls, name: str, version: str | None = None) -> WorldsConfig:
        """Every size is a configuration, with a folder of its own."""
        height, width, num = map(int, name.split('x'))
        return WorldsConfig(name=name, height=height, width=width, num=num)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self.builder_config.height, self.builder_config.width, 3)
        return tfds.core.DatasetInfo(
            builder=self,
            description='Procedural landscapes with known horizons.',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=shape, encoding_format='png'),
                    'seed': tfds.features.Scalar(np.int32),
                    'horizon': tfds.features.Scalar(np.float32),
                    'hour': tfds.features.Scalar(np.float32),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {'train': self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        height, width, num = self.builder_config.height, self.builder_config.width, self.builder_config.num
        chunk = min(num, max(1, 2**18 // (height * width)))
        for start in range(0, num, chunk):
            seeds = jnp.arange(start, start + chunk)  # the last chunk may be longer than needed: one compiled shape
            images = to_uint8(worlds.render_world(seeds, height, width))
            truths = jax.vmap(worlds.truth)(seeds)
            for k in range(min(chunk, num - start)):
                png = io.BytesIO()
                Image.fromarray(images[k]).save(png, 'png', compress_level=3)
                example = {'image': png.getvalue(), 'seed': start + k}
                yield start + k, example | {n: float(getattr(truths, n)[k]) for n in ('horizon', 'hour')}


def open_worlds(size: tuple[int, int], num: int, split: str, data_dir: str) -> Records:
    """The worlds dataset for (height, width) and `num` images, prepared in data_dir on first use.

    TFDS writes to a temporary folder and renames it when it is complete: an interrupted preparation starts again.

    Raises: ConfigError for an unknown split, or if the folder is damaged.
    """

    def builder() -> Worlds:
        return Worlds(data_dir=data_dir, config=f'{size[0]}x{size[1]}x{num}', file_format='array_record')

    target = builder()
    if target.data_path.exists() and not target.is_prepared():
        raise ConfigError(f'{target.data_dir} is damaged; delete it and it will be prepared again.')
    if not target.is_prepared():
        logger.info('preparing %d worlds of %d x %d pixels in %s', num, *size, data_dir)
        try:
            target.download_and_prepare()
        except OSError:
            if not builder().is_prepared():  # otherwise another process has finished the same folder first
                raise
    return open_builder(builder(), split)
