"""Random access to image files: folders, ZIP files, single files.

A source has `__len__`, `__getitem__(index) -> {'image': encoded bytes}`, with 'label' if labels were asked for and
'edge', also encoded, if files of edges were, and `c_dim`, the number of classes or the length of a label, or 0.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from pegan_jax.files import Path, as_path, in_bucket, on_disk, scratch, stamps_below, whole
from pegan_jax.pixels import UnreadableImage, decode_image
from pegan_jax.settings import ConfigError, UserError

logger = logging.getLogger(__name__)

SUFFIXES = (
    '.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.webp', '.bmp', '.dib', '.tif', '.tiff', '.gif', '.avif', '.jp2', '.j2k',
    '.jpx', '.ppm', '.pgm', '.pbm', '.pnm', '.tga', '.heic', '.heif',
)  # fmt: skip
# Folders that a run makes in its workdir.
RUN_FOLDERS = ('checkpoints', 'damaged', 'samples', 'scores', 'tensorboard', 'tfds', 'wandb')
SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'test', 'testing'}  # of data sets; these are not classes


class Contents(NamedTuple):
    """What a source holds, to tell people and to compare with another time.

    root: its path or name.
    images: how many.
    classes: their names, in order, and how many images each has, if that is known; empty without classes.
    passed_over: {what: how many} of the files that are not used.
    files: {name: size, or checksum if at hand}; None if they are not files.
    single: whether it is one image, named by its own path.
    """

    root: str
    images: int
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    passed_over: dict[str, int] | None = None
    files: dict[str, Any] | None = None
    single: bool = False

    def identity(self) -> dict[str, Any]:
        """What is the same on all machines that hold the same data."""
        files = hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()
        return {'images': self.images, 'classes': self.classes, 'files': files}

    def told(self) -> str:
        """A line about it."""
        line = f'data: {self.images:,} image{"" if self.images == 1 else "s"} of {self.root}'
        if self.classes:
            counts = [f' {count:,}' for count in self.counts] or [''] * len(self.classes)
            pairs = [f'{name}{count}' for name, count in zip(self.classes, counts, strict=True)]
            line += f', {len(pairs)} classes ({", ".join(pairs[:10])}{", ..." if len(pairs) > 10 else ""})'
        if self.passed_over:
            line += f'; passed over: {", ".join(f"{count:,} {what}" for what, count in self.passed_over.items())}'
        return line


class Source(Protocol):
    """Random access to encoded images."""

    c_dim: int

    def contents(self) -> Contents: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


# Folders and ZIP files ------------------------------------------------------------------------------------------------

Place = Path | zipfile.Path


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files, in a folder or a ZIP file, in a fixed order.

    root: the folder or ZIP file, or the only image.
    paths: those of the images, below root.
    labels: int32 [n] or float32 [n, c_dim], or None.
    edges: the file of edges of every image, or None.
    classes: names of the classes.
    passed_over, files: see `Contents`; no files for a single image, which is read instead.
    """

    root: Place
    paths: tuple[Place, ...]
    labels: np.ndarray | None = None
    c_dim: int = 0
    edges: tuple[Place, ...] | None = None
    classes: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = dataclasses.field(default_factory=dict)
    files: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def contents(self) -> Contents:
        """What it holds."""
        if self.paths == (self.root,):
            digest = hashlib.sha256(self.root.read_bytes()).hexdigest()
            return Contents(str(self.root), 1, files={self.root.name: digest}, single=True)
        counts = tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist()) if self.classes else ()
        root = str(self.root.root.filename if isinstance(self.root, zipfile.Path) else self.root)
        return Contents(root, len(self), self.classes, counts, dict(self.passed_over), dict(self.files))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = {} if self.labels is None else {'label': self.labels[index]}
        edge = {} if self.edges is None else {'edge': _read(self.edges[index])}
        return {'image': _read(self.paths[index]), **edge, **label}


def _read(path: Place) -> bytes:
    try:
        return path.read_bytes()  # threads take turns to read a ZIP file
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableImage(f'damaged in the ZIP file: {error}') from error
    except RuntimeError as error:  # it is encrypted, or compressed in another way
        raise UnreadableImage(f'the ZIP file cannot be read: {error}') from error


def _defect(path: Place, max_pixels: int) -> str | None:
    """Why a file cannot be used, or None. Reads all of it, so that truncated files are found."""
    try:
        decode_image(_read(path), max_pixels, draft=True)
    except (UnreadableImage, OSError) as error:
        return str(error)
    return None


def _stamp(path: pathlib.Path | zipfile.Path) -> list[int]:
    """The size of a file in bytes, and what changes with its content."""
    if isinstance(path, zipfile.Path):
        info = path.root.getinfo(path.at)
        return [info.file_size, info.CRC]
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _defects(root: Place, stamps: dict[str, list], max_pixels: int, workdir: Path) -> dict[str, str]:
    """The unusable files, with the reason. Files that were good and have not changed are not read again.

    Files that were bad are: a package may have been installed since, or storage may be back.

    stamps: {name: what changes with it} of the files.
    """
    record = scratch(workdir) / 'checked_images.json'
    try:
        known = dict(json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
        known = {}
    prefix = f'{root if in_bucket(root) else pathlib.Path(str(root)).absolute()}:{max_pixels}:'
    todo = [n for n, stamp in stamps.items() if known.get(prefix + n) != [stamp, None]]
    if todo:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            checks = pool.map(lambda n: _defect(root / n, max_pixels), todo)
            checks = tqdm(checks, f'checking {root}', len(todo), unit='image', disable=len(todo) < 1000)
            known |= {prefix + n: [stamps[n], reason] for n, reason in zip(todo, checks, strict=True)}
        record.parent.mkdir(parents=True, exist_ok=True)
        with whole(record) as unfinished:
            unfinished.write_text(json.dumps(known))
    return {n: known[prefix + n][1] for n in stamps if known[prefix + n][1] is not None}


def image_names(root: Place) -> list[str]:
    """Relative paths of the image files in a folder or ZIP file, sorted, without hidden files and folders."""
    return list(_listed(root)[0])


def _listed(root: Place, workdir: Path | None = None) -> tuple[dict[str, list], dict[str, int]]:
    """The image files as in `image_names`, with their stamps, and how many others there are of each kind.

    A stamp is [bytes, what changes with the file]; those of a bucket come with the listing, not one by one.
    Links are followed. What a run writes in `workdir` is passed over without being counted.
    """
    if isinstance(root, zipfile.Path):
        names = [n for n in root.root.namelist() if not n.endswith('/')]
    elif in_bucket(root):
        names = (stamps := stamps_below(root))
        if workdir == root:
            names = [n for n in names if n.partition('/')[0] not in RUN_FOLDERS]
        elif str(workdir).startswith(f'{root}/'):
            run = f'{workdir}/'.removeprefix(f'{root}/')
            names = [n for n in names if not n.startswith(run)]
    else:
        names, seen = [], set()
        ours = set() if workdir is None else {workdir.resolve()}
        if root.resolve() in ours:
            ours = {root.resolve() / name for name in RUN_FOLDERS}
        for where, folders, files in os.walk(root, followlinks=True):
            here = pathlib.Path(where).resolve()
            if here in seen or here in ours:  # a link to a folder above it, or to one that is listed already
                folders.clear()
                continue
            seen.add(here)
            folders[:] = sorted(f for f in folders if not f.startswith('.'))
            found = (pathlib.Path(where, f).relative_to(root) for f in files)
            names += [f.as_posix() for f in found if (root / f).is_file()]
    hidden = ('.', '__MACOSX')
    visible = sorted(n for n in names if not any(p.startswith(hidden) for p in pathlib.PurePath(n).parts))
    images = [n for n in visible if n.lower().endswith(SUFFIXES)]
    others = collections.Counter(
        pathlib.PurePath(n).suffix.lower() or 'without suffix'
        for n in set(visible) - set(images)
        if pathlib.PurePath(n).name not in ('dataset.json', 'checked_images.json')
    )
    found = {n: stamps[n] if in_bucket(root) else _stamp(root / n) for n in images}
    return found, dict(sorted(others.items()))


def edge_files(names: list[str]) -> dict[str, str]:
    """{image: file of its edges} for those images among `names` that have one: a.jpg has a_edge.png, of any type."""
    edges = {n.rpartition('.')[0]: n for n in names}
    found = {n: edges.get(n.rpartition('.')[0] + '_edge') for n in names}
    return {n: edge for n, edge in found.items() if edge is not None}


def _labels(root: Place, folder: str, names: list[str]) -> tuple[dict[str, Any], int, tuple[str, ...]]:
    """The label of every name, c_dim, and the names of the classes if they have any.

    They come from `dataset.json`, {'labels': [[name, class or vector], ...]}, the format of NVlabs/stylegan3, at the
    top or in the only folder there; without such a file, classes are the first-level folders, in sorted order.
    """
    tops = {n.partition('/')[0] for n in names}
    inside = f'{next(iter(tops))}/' if len(tops) == 1 and '/' in names[0] else ''
    place = next((p for p in ('', inside) if (root / p / 'dataset.json').is_file()), None)
    if place is None:
        return _folder_labels(folder, names)
    try:
        table = dict(json.loads((root / place / 'dataset.json').read_text())['labels'] or {})
        values = [table[n.removeprefix(place)] for n in names]
        labels = np.array(values)
        if labels.dtype == object or labels.ndim > 2 or (labels.ndim == 1 and labels.dtype.kind != 'i'):
            raise UserError('labels must be whole numbers, or lists of numbers of one length')
        if not np.all(np.isfinite(labels)):
            raise UserError(f'the label of {names[int(np.argwhere(~np.isfinite(labels))[0][0])]} is not finite')
    except KeyError as error:
        raise ConfigError(
            f'data.labels=True, but dataset.json of data.folder={folder!r} has no label of {error}; set '
            'data.labels=False, or complete it.'
        ) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f'dataset.json of data.folder={folder!r} cannot be used: {error}.') from error
    if labels.ndim == 2:
        return dict(zip(names, values, strict=True)), labels.shape[1], ()
    if labels.min() < 0:
        raise ConfigError(f'dataset.json of data.folder={folder!r} has a negative class, {labels.min()}.')
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return dict(zip(names, values, strict=True)), len(classes), classes


def _folder_labels(folder: str, names: list[str]) -> tuple[dict[str, int], int, tuple[str, ...]]:
    tops = {n: pathlib.PurePath(n).parts[:-1][:1] for n in names}  # a ZIP file may have ./class/a.png
    classes = sorted({top for found in tops.values() for top in found})
    if loose := [n for n, top in tops.items() if not top]:
        raise ConfigError(
            f'data.labels=True, but {loose[0]} is in no sub-folder of data.folder={folder!r}, and there is no '
            'dataset.json; put every class in a folder of its own, or set data.labels=False.'
        )
    if {c.lower() for c in classes} <= SPLITS:
        raise ConfigError(
            f'data.labels=True, but the folders in data.folder={folder!r} are splits, not classes: '
            f'{", ".join(classes)}; name one of them, such as --config.data.folder={folder.rstrip("/")}/{classes[0]}.'
        )
    return {n: classes.index(top) for n, (top,) in tops.items()}, len(classes), tuple(classes)


def open_folder(folder: str, max_pixels: int, workdir: Path, labels: bool = False, edges: bool = False) -> Files:
    """All readable images under a folder, or in a ZIP file, sorted by their relative path.

    Every image is read and checked once, which `workdir` remembers; unusable files are left out and reported. Hidden
    files and folders are passed over, and so are other file types, which are counted, the edges of other images (see
    `edge_files`), and what a run wrote in `workdir`. Links are followed.

    Args:
      labels: read a label for every image, from `dataset.json` or the sub-folders' names.
      edges: read the file of edges of every image.
    Raises: ConfigError if there is no such folder or ZIP file, it holds no readable image, or labels or edges are
      missing.
    """
    root = as_path(folder)
    if in_bucket(root) and root.is_file():
        root = on_disk(root)  # images of an archive are read in any order
    if not in_bucket(root) and zipfile.is_zipfile(root):
        root = zipfile.Path(zipfile.ZipFile(root))
    elif not root.is_dir():
        raise ConfigError(f'data.folder={folder!r} is not a folder of images, nor a ZIP file; give the path of one.')
    stamps, passed_over = _listed(root, workdir)
    edge_of = edge_files(list(stamps))
    names = sorted(set(stamps) - set(edge_of.values()))
    if edge_of and not edges:
        logger.warning('%d files in %s are named as the edges of others (*_edge) and left out.', len(edge_of), folder)
    bad = _defects(root, {n: stamps[n] for n in names}, max_pixels, workdir)
    if edges:
        without = [n for n in names if n not in edge_of]
        if without:
            stem = without[0].rpartition('.')[0]
            raise ConfigError(
                f"data.edges='files', but {len(without)} of {len(names)} images in {folder} have none, such as "
                f'{without[0]}: {stem}_edge.png (or another type) is missing; make them with '
                f"python -m pegan_jax edges --folder {folder} --out {folder}, or set data.edges='canny'."
            )
        broken = _defects(root, {n: stamps[n] for n in sorted(edge_of.values())}, max_pixels, workdir)
        bad |= {n: f'{edge}, its edges: {broken[edge]}' for n, edge in edge_of.items() if edge in broken}
    if bad:
        shown = ''.join(f'\n  {n}: {reason}' for n, reason in list(bad.items())[:5])
        more = f'\n  and {len(bad) - 5} more' if len(bad) > 5 else ''
        logger.warning('%d of %d images in %s are left out:%s%s', len(bad), len(names), folder, shown, more)
        passed_over = {'unreadable': len(bad), **passed_over}
    usable = [n for n in names if n not in bad]
    if not usable:
        others = ', '.join(f'{count} {what}' for what, count in passed_over.items())
        raise ConfigError(
            f'data.folder={folder!r} holds no readable image{f" ({others})" if others else ""}; expected files named '
            f'{", ".join("*" + s for s in SUFFIXES)}, in any sub-folder.'
        )
    paths = tuple(root / n for n in usable)
    edge_paths = tuple(root / edge_of[n] for n in usable) if edges else None
    checksums = isinstance(root, zipfile.Path)
    files = {n: stamps[n][checksums] for n in usable}
    if not labels:
        return Files(root, paths, edges=edge_paths, passed_over=passed_over, files=files)
    # All files are counted, so that a damaged one does not change the numbers of the classes.
    table, c_dim, classes = _labels(root, folder, names)
    values = np.array([table[n] for n in usable])
    values = values.astype(np.int32 if values.ndim == 1 else np.float32)
    return Files(root, paths, values, c_dim, edge_paths, classes, passed_over, files)


def open_image(image: str, max_pixels: int) -> Files:
    """A source of length one. Raises ConfigError if the file does not exist or cannot be read."""
    path = as_path(image)
    if not path.is_file():
        raise ConfigError(f'data.image={image!r} is not a file.')
    if reason := _defect(path, max_pixels):
        raise ConfigError(f'data.image={image!r} is unusable: {reason}.')
    return Files(path, (path,))
