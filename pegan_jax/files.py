"""Paths that users give, on disks and in buckets; files that are either complete or absent.

What a library can only do on disks happens there: what is read is copied first (`on_disk`), what is written is
uploaded afterwards (`whole`). An object appears in a bucket when all its bytes are there, so `whole` needs no rename.
"""

import contextlib
import glob
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from pegan_jax.settings import UserError

# If TensorFlow is installed, epath would reach buckets only through it, and it does not know s3://.
os.environ.setdefault('EPATH_USE_TF', 'false')

BUCKETS = {'gs://': 'gcsfs', 's3://': 's3fs'}  # and the packages that epath needs for them
CACHE = pathlib.Path('~/.cache/pegan_jax')  # on this machine

Path = pathlib.Path | epath.Path


def as_path(text: str | os.PathLike) -> Path:
    """A path on a disk, `~` expanded, or in a bucket, which epath reaches: gs://bucket/name, s3://bucket/name.

    Raises: UserError for another scheme, for a name that the libraries for buckets take as a pattern or cut off, and
      if the package for such buckets is missing.
    """
    if isinstance(text, epath.Path):
        return text
    text = os.fspath(text)
    scheme = re.match(r'[a-z][a-z0-9+.-]*://', text)
    if scheme is None:
        path = pathlib.Path(text)
        try:
            return path.expanduser()
        except RuntimeError:  # there is no such user: a name that begins with ~
            return path
    if scheme[0] not in BUCKETS:
        raise UserError(f'{text}: paths are on disks, or begin with {" or ".join(BUCKETS)}; mount other storage.')
    if found := re.search(r'[][*?#]', text):
        raise UserError(f'{text}: names in buckets must not have {found[0]!r}, which libraries take for a pattern.')
    package = BUCKETS[scheme[0]]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{text} needs the package {package}: pip install 'pegan_jax[{scheme[0][:2]}]'.")
    import fsspec  # as only buckets need it

    # Orbax writes past fsspec, and so do other machines: what a folder held a while ago is no answer.
    fsspec.config.conf.setdefault(scheme[0][:2], {})['use_listings_cache'] = False
    fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
    return epath.Path(text)


def of_bucket(error: Exception) -> bool:
    """Whether an error comes from the libraries that reach buckets: no such bucket, no network, no permission."""
    return type(error).__module__.partition('.')[0] in ('aiohttp', 'botocore', 'gcsfs', 'google', 's3fs')


def in_bucket(path: Path) -> bool:
    """Whether a path of `as_path` is in a bucket."""
    return isinstance(path, epath.Path)


@epath.register_path_cls
class _Exact(type(epath.Path('/'))):
    """A path on a disk whose own letters, such as [1], are no pattern: Orbax globs below the folders that it gets."""

    def glob(self, pattern: str) -> Iterator['_Exact']:
        yield from (self / name for name in glob.glob(pattern, root_dir=self))


def absolute(path: Path) -> Path:
    """The path with links resolved, or that of a bucket, which is absolute."""
    return path if in_bucket(path) else path.resolve()


def for_orbax(path: Path) -> epath.Path:
    """The absolute path for Orbax."""
    return path if in_bucket(path) else _Exact(path.absolute())


def _objects(path: epath.Path) -> tuple[Any, dict[str, dict]]:
    """fsspec's file system, and {name below the path: what it knows about the object}; '' is the path itself."""
    import fsspec  # as only buckets need it

    system, base = fsspec.core.url_to_fs(str(path))
    found = system.find(base, detail=True)
    return system, {name.removeprefix(base).removeprefix('/'): about for name, about in found.items()}


def _marks(about: dict) -> list[str]:
    """The parts of fsspec's knowledge of an object that change with it."""
    return [str(about.get(mark)) for mark in ('size', 'etag', 'ETag', 'md5Hash', 'crc32c', 'generation')]


def stamps_below(folder: epath.Path) -> dict[str, list]:
    """{name: [bytes, what changes with its content]} of all objects below a folder in a bucket, by one listing."""
    found = _objects(folder)[1]
    return {n: [about['size'], _marks(about)] for n, about in found.items() if n and not n.endswith('/')}


def below(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, sorted."""
    if in_bucket(folder):
        return sorted(stamps_below(folder))
    return sorted(
        pathlib.Path(where, name).relative_to(folder).as_posix()
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def children(folder: Path) -> list[str]:
    """Names of what is in a folder, sorted; none if there is no such folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def remove(folder: Path) -> None:
    """Removes a folder and everything in it, if it exists."""
    if in_bucket(folder):
        folder.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def copy_below(folder: Path, target: Path, *, last: str | None = None) -> None:
    """Copies all files below a folder; the one named `last`, which says that all are there, comes after the others."""
    for name in sorted(below(folder), key=lambda name: name == last):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        epath.Path(folder / name).copy(target / name, overwrite=True)


def move(folder: Path, target: Path) -> None:
    """Moves a folder. If one side is a bucket, where nothing can be renamed, its files are copied and removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (in_bucket(folder) or in_bucket(target)):
        shutil.move(folder, target)
        return
    copy_below(folder, target)
    remove(folder)


def on_disk(path: Path) -> pathlib.Path:
    """The path itself, or a copy on this machine of what is in a bucket, for libraries that read only disks.

    Copies stay in CACHE and are recognised by sizes and checksums of the objects: a changed one is copied again.

    Raises: FileNotFoundError.
    """
    if not in_bucket(path):
        return path
    system, found = _objects(path)
    found = {name: about for name, about in found.items() if about['type'] == 'file' and not name.endswith('/')}
    if not found:
        raise FileNotFoundError(2, 'there is no such object', str(path))
    about = sorted((name, *_marks(about)) for name, about in found.items())
    digest = hashlib.sha256(repr((str(path), about)).encode()).hexdigest()
    copy = CACHE.expanduser() / 'buckets' / digest / path.name
    if not copy.exists():
        unfinished = copy.parent.with_name(f'.{uuid.uuid4().hex}')
        try:
            for name, about in found.items():
                target = unfinished / path.name / name if name else unfinished / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(about['name'], str(target))
            with contextlib.suppress(OSError):  # another process has copied it first
                unfinished.rename(copy.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return copy


def scratch(folder: Path) -> pathlib.Path:
    """Where what can be computed again is kept: in the folder, or on this machine if that is in a bucket."""
    if not in_bucket(folder):
        return folder
    return CACHE.expanduser() / 'scratch' / hashlib.sha256(str(folder).encode()).hexdigest()


def check_file(path: Path) -> None:
    """Raises: UserError, before anything is computed, unless a file can be written at a path on a disk."""
    if path.is_dir():
        raise UserError(f'{path} is a folder; name a file in it.')
    if not in_bucket(path):
        there = next(folder for folder in absolute(path).parents if folder.exists())
        if not there.is_dir():
            raise UserError(f'{path}: {there} is a file, so nothing can be written below it; name another folder.')
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f'{path}: you may not write in {there}; name another folder.')


def read_record(path: Path) -> dict:
    """The JSON object in a file. Raises: UserError for anything else."""
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(path.read_text()), dict):
            return found
    raise UserError(f'{path} is damaged, or not what this command wrote; name another folder.')


def end_line(path: pathlib.Path) -> None:
    """Ends the last line of a file that was cut off while it was written, so that what is appended is a line too."""
    if path.is_file() and path.stat().st_size:
        with path.open('rb+') as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b'\n':
                file.write(b'\n')


@contextlib.contextmanager
def whole(path: Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, and moves the file to `path` at the end; after an error nothing is left.

    Several processes may write at once. The temporary name does not contain the old one, which may have maximal length.
    """
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            unfinished = pathlib.Path(folder, 'file')
            yield unfinished
            epath.Path(unfinished).copy(path, overwrite=True)
        return
    unfinished = path.with_name(f'.{uuid.uuid4().hex}')
    _open.add(unfinished)
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        if error.filename == str(unfinished):  # a name that nobody knows
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        unfinished.unlink(missing_ok=True)
        _open.discard(unfinished)


_open: set[pathlib.Path] = set()


def remove_unfinished() -> None:
    """Removes what is being written, for a process that is about to end at once."""
    for path in list(_open):
        path.unlink(missing_ok=True)
