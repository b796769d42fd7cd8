"""Random access to images: TFDS datasets without TensorFlow, folders, ZIP files, single files, the procedural worlds.

A source has `__len__`, `__getitem__(index) -> {'image': encoded bytes}`, with 'label' where labels were asked for and
'edge', encoded too, where files of edges were, and `c_dim`, the number of classes or the length of a label; 0 without.
"""

import concurrent.futures
import dataclasses
import io
import json
import logging
import os
import pathlib
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from pegan_jax.config import ConfigError
from pegan_jax.data import decode, worlds
from pegan_jax.sampling import to_uint8

logger = logging.getLogger(__name__)

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')


class Source(Protocol):
    """Random access to encoded images."""

    c_dim: int

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
        image = Image.open(io.BytesIO(data), formats=decode.FORMATS)
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
        pixels, alpha = decode.to_rgb(image)
    except Exception as error:  # as above, and truncated data
        raise UnreadableImage(f'cannot be decoded: {error}') from error
    return pixels if alpha is None else np.round(pixels * (alpha[..., None] / 255)).astype(np.uint8)


# Folders and ZIP files ------------------------------------------------------------------------------------------------

Path = pathlib.Path | zipfile.Path


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files, in a folder or a ZIP file, in a fixed order.

    labels: int32 [n] or float32 [n, c_dim], or None.
    edges: of every image the file of its edges, or None.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray | None = None
    c_dim: int = 0
    edges: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = {} if self.labels is None else {'label': self.labels[index]}
        edge = {} if self.edges is None else {'edge': _read(self.edges[index])}
        return {'image': _read(self.paths[index]), **edge, **label}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()  # of a ZIP file, threads take turns
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableImage(f'damaged in the ZIP file: {error}') from error


def _defect(path: Path, max_pixels: int) -> str | None:
    """Why a file cannot be used, or None. Reads all of it, so that truncated files are found."""
    try:
        decode_image(_read(path), max_pixels, draft=True)
    except (UnreadableImage, OSError) as error:
        return str(error)
    return None


def _stamp(path: Path) -> list[int]:
    """What tells that a file has not changed."""
    if isinstance(path, zipfile.Path):
        info = path.root.getinfo(path.at)
        return [info.file_size, info.CRC]
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _defects(root: Path, names: list[str], max_pixels: int, workdir: pathlib.Path) -> dict[str, str]:
    """The unusable files among `names`, with the reason. Unchanged files are not read again."""
    record = workdir / 'checked_images.json'
    try:
        known = dict(json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
        known = {}
    prefix = f'{pathlib.Path(str(root)).absolute()}:{max_pixels}:'
    stamps = {n: _stamp(root / n) for n in names}
    todo = [n for n in names if known.get(prefix + n, [None])[0] != stamps[n]]
    if todo:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            checks = pool.map(lambda n: _defect(root / n, max_pixels), todo)
            checks = tqdm(checks, f'checking {root}', len(todo), unit='image', disable=len(todo) < 1000)
            known |= {prefix + n: [stamps[n], reason] for n, reason in zip(todo, checks, strict=True)}
        workdir.mkdir(parents=True, exist_ok=True)
        unfinished = record.with_suffix(f'.{uuid.uuid4().hex}')  # several processes may write at once
        unfinished.write_text(json.dumps(known))
        unfinished.replace(record)
    return {n: known[prefix + n][1] for n in names if known[prefix + n][1] is not None}


def image_names(root: Path) -> list[str]:
    """Relative paths of the image files in a folder or ZIP file, sorted, without hidden files and folders."""
    if isinstance(root, zipfile.Path):
        names = [n for n in root.root.namelist() if not n.endswith('/')]
    else:
        names = []
        for where, folders, files in os.walk(root):
            folders[:] = [f for f in folders if not f.startswith('.')]
            found = (pathlib.Path(where, f).relative_to(root) for f in files)
            names += [f.as_posix() for f in found if (root / f).is_file()]
    hidden = ('.', '__MACOSX')
    return sorted(
        n for n in names if n.lower().endswith(SUFFIXES) and not any(p.startswith(hidden) for p in n.split('/'))
    )


def edge_files(names: list[str]) -> dict[str, str]:
    """{image: file of its edges} of those images among `names` that have one: a.jpg has a_edge.png, of any type."""
    edges = {n.rpartition('.')[0]: n for n in names}
    found = {n: edges.get(n.rpartition('.')[0] + '_edge') for n in names}
    return {n: edge for n, edge in found.items() if edge is not None}


def _labels(root: Path, folder: str, names: list[str]) -> tuple[dict[str, Any], int]:
    """The label of every name, and c_dim.

    As `dataset.json` says, {'labels': [[name, class or vector], ...]}, the format of NVlabs/stylegan3; where there is
    no such file, classes are the first-level folders, in sorted order.
    """
    if not (root / 'dataset.json').is_file():
        classes = sorted({n.partition('/')[0] for n in names if '/' in n})
        if loose := [n for n in names if '/' not in n]:
            raise ConfigError(
                f'data.labels=True, but {loose[0]} is in no sub-folder of data.folder={folder!r}, and there is no '
                'dataset.json; put every class in a folder of its own, or set data.labels=False.'
            )
        return {n: classes.index(n.partition('/')[0]) for n in names}, len(classes)
    try:
        table = dict(json.loads((root / 'dataset.json').read_text())['labels'] or {})
        values = [table[n] for n in names]
        labels = np.array(values)
        if labels.dtype == object or labels.ndim > 2 or (labels.ndim == 1 and labels.dtype.kind != 'i'):
            raise ValueError('labels must be whole numbers, or lists of numbers of one length')
    except KeyError as error:
        raise ConfigError(
            f'data.labels=True, but dataset.json of data.folder={folder!r} has no label of {error}; set '
            'data.labels=False, or complete it.'
        ) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f'dataset.json of data.folder={folder!r} cannot be used: {error}.') from error
    if labels.ndim == 2:
        return dict(zip(names, values, strict=True)), labels.shape[1]
    if labels.min() < 0:
        raise ConfigError(f'dataset.json of data.folder={folder!r} has a negative class, {labels.min()}.')
    return dict(zip(names, values, strict=True)), int(labels.max()) + 1


def open_folder(
    folder: str, max_pixels: int, workdir: pathlib.Path, labels: bool = False, edges: bool = False
) -> Files:
    """All readable images under a folder, or in a ZIP file, sorted by their relative path.

    Every image is read and checked once, which `workdir` remembers; unusable files are left out and reported. Hidden
    files, hidden folders and other file types are passed over, and so are the edges of other images (see `edge_files`).

    Args:
      labels: read a label for every image, from `dataset.json` or the sub-folders' names.
      edges: read the file of edges of every image.
    Raises: ConfigError if there is no such folder or ZIP file, it holds no readable image, or labels or edges lack.
    """
    root = pathlib.Path(folder)
    if zipfile.is_zipfile(root):
        root = zipfile.Path(zipfile.ZipFile(root))
    elif not root.is_dir():
        raise ConfigError(f'data.folder={folder!r} is not a folder of images, nor a ZIP file; give the path of one.')
    names = image_names(root)
    edge_of = edge_files(names)
    names = sorted(set(names) - set(edge_of.values()))
    if edge_of and not edges:
        logger.warning('%d files in %s are named as the edges of others (*_edge) and left out.', len(edge_of), folder)
    bad = _defects(root, names, max_pixels, workdir)
    if edges:
        without = [n for n in names if n not in edge_of]
        if without:
            stem = without[0].rpartition('.')[0]
            raise ConfigError(
                f"data.edges='files', but {len(without)} of {len(names)} images in {folder} have none, such as "
                f'{without[0]}: {stem}_edge.png (or another type) is missing; make them with '
                f"python -m pegan_jax edges --folder {folder} --out {folder}, or set data.edges='canny'."
            )
        broken = _defects(root, sorted(edge_of.values()), max_pixels, workdir)
        bad |= {n: f'{edge}, its edges: {broken[edge]}' for n, edge in edge_of.items() if edge in broken}
    if bad:
        shown = ''.join(f'\n  {n}: {reason}' for n, reason in list(bad.items())[:5])
        more = f'\n  and {len(bad) - 5} more' if len(bad) > 5 else ''
        logger.warning('%d of %d images in %s are left out:%s%s', len(bad), len(names), folder, shown, more)
    usable = [n for n in names if n not in bad]
    if not usable:
        raise ConfigError(
            f'data.folder={folder!r} holds no readable image ({len(bad)} unreadable); '
            f'expected files named {", ".join("*" + s for s in SUFFIXES)}, in any sub-folder.'
        )
    paths = tuple(root / n for n in usable)
    edge_paths = tuple(root / edge_of[n] for n in usable) if edges else None
    if not labels:
        return Files(paths, edges=edge_paths)
    # Of all files, so that a damaged one does not change the numbers of the classes.
    table, c_dim = _labels(root, folder, names)
    values = np.array([table[n] for n in usable])
    return Files(paths, values.astype(np.int32 if values.ndim == 1 else np.float32), c_dim, edge_paths)


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
    c_dim: int = 0

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


def open_builder(builder: tfds.core.DatasetBuilder, split: str, labels: bool = False) -> Records:
    """A split of a prepared TFDS dataset, read without TensorFlow.

    The image is the only feature of type Image, or the one called 'image'; the label, which is read with `labels`, is
    the only ClassLabel, or the one called 'label'.

    Raises: ConfigError if the dataset is not prepared, not stored as ArrayRecord, has no such split, image or label.
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
    label = _feature(features, tfds.features.ClassLabel, 'label') if labels else None
    if labels and label is None:
        raise ConfigError(f'data.labels=True, but data.tfds={name!r} has no label, or several: {dict(features)}.')
    images = [n for n, f in features.items() if isinstance(f, tfds.features.Image)]
    try:
        records = builder.as_data_source(split, decoders={n: tfds.decode.SkipDecoding() for n in images})
    except ValueError as error:
        raise ConfigError(
            f'data.split={split!r} of {name!r}: {error}; known: {", ".join(builder.info.splits)}.'
        ) from error
    source = Records(records, image, label, 0 if label is None else features[label].num_classes)
    try:
        source[0], source[len(source) - 1]
    except Exception as error:  # array_record raises many types on missing and cut files
        raise ConfigError(f'{builder.data_dir} is damaged ({error}); delete it and prepare it again.') from error
    return source


def open_tfds(name: str, split: str, data_dir: str | None, labels: bool = False) -> Records:
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
    return open_builder(builder, split, labels)


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
