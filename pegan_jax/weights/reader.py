"""Reads torch checkpoints (zip and legacy), plain pickles and safetensors into NumPy, without torch and without running
the file; each size that a file declares is checked against the bytes that are really there."""

import io
import os
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors

from pegan_jax.files import as_path, on_disk
from pegan_jax.weights import kinds
from pegan_jax.weights.contents import MAX_BYTES, Budget, ForeignFileError, from_bytes, shown
from pegan_jax.weights.pickles import Machine

_TORCH_MAGIC, _TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# By their names in safetensors.
_SAFE_DTYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'I64': np.int64,
    'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_,
}  # fmt: skip


def read(path: str | os.PathLike) -> Any:
    """The object that a torch checkpoint, a pickle or a safetensors file holds; tensors are read-only NumPy arrays.

    Containers, numbers, strings and NumPy arrays come unchanged, torch.Size as a tuple, torch.device and paths as text,
    network objects of NVIDIA's pickles as the dictionaries that describe them (the source text in them is never used),
    objects of other programs as `Record`s.

    Raises: ForeignFileError, which says what the file is if it is none of these.
    """
    path = as_path(path)
    if not path.is_file():
        raise ForeignFileError(f'{path} is not a file.')
    local = on_disk(path)
    size = local.stat().st_size
    if size > MAX_BYTES:
        raise ForeignFileError(f'{path} has {size:,} bytes; at most {MAX_BYTES:,} are read.')
    try:
        with local.open('rb') as stream:
            head = stream.read(kinds.HEAD)
            stream.seek(0)
            if problem := kinds.refusal(head):
                raise ForeignFileError(problem)
            if kinds.is_safetensors(head):
                return _read_safetensors(stream.read())
            if head.startswith(b'PK\x03\x04'):
                return _read_zip(stream)
            return _read_stream(_Bounded(stream, size), size, Budget())
    except ForeignFileError as error:
        raise ForeignFileError(f'{path}: {error}') from None


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ForeignFileError(f'is a damaged safetensors file: {shown(error)}.') from None
    if unknown := {tensor['dtype'] for _, tensor in found} - _SAFE_DTYPES.keys():
        raise ForeignFileError(f'has tensors of the type {shown(unknown.pop())}; only plain numbers are read.')
    return {
        name: from_bytes(bytes(tensor['data']), np.dtype(_SAFE_DTYPES[tensor['dtype']])).reshape(tensor['shape'])
        for name, tensor in found
    }


# The zip format of torch ----------------------------------------------------------------------------------------------


def _read_zip(stream: BinaryIO) -> Any:
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise ForeignFileError(f'is a damaged zip file: {shown(error)}.') from None
    with archive:
        members = archive.infolist()
        pickles = [m for m in members if m.filename.count('/') == 1 and m.filename.endswith('/data.pkl')]
        if not pickles:
            raise ForeignFileError(kinds.refusal_of_zip(archive.namelist()))
        _check_members(members, stream.seek(0, io.SEEK_END))
        if len(pickles) > 1:
            raise ForeignFileError(f'is a zip file with {len(pickles)} data.pkl, so it is no torch checkpoint.')
        root = pickles[0].filename.removesuffix('/data.pkl')
        if f'{root}/constants.pkl' in archive.namelist():
            raise ForeignFileError(
                'is a TorchScript program, which is code and weights in one; save the weights alone where it was made: '
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')."
            )
        if f'{root}/byteorder' in archive.namelist():
            order = _member(archive, archive.getinfo(f'{root}/byteorder'))
            if order != b'little':
                raise ForeignFileError(f'has byte order {shown(order.decode("latin1"))!r}; only little is read.')
        code = io.BytesIO(_member(archive, pickles[0]))
        return Machine(Budget(), _ZipStorages(archive, root).get, _read_inside).run(code)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    seen = set()
    for member in members:
        name = member.orig_filename
        if name.startswith('/') or '\\' in name or ':' in name or '\0' in name or '..' in name.split('/'):
            raise ForeignFileError(f'the zip has a member with the unsafe path {shown(name)!r}.')
        if name in seen:
            raise ForeignFileError(f'the zip has two members {shown(name)!r}.')
        seen.add(name)
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ForeignFileError(
                f'the zip member {shown(name)} is compressed or declares {member.file_size} bytes for '
                f'{member.compress_size} stored; torch stores its members as they are.'
            )
    total = sum(m.file_size for m in members)
    if total > size:
        raise ForeignFileError(f'the zip declares members of {total} bytes in a file of {size}.')


class _ZipStorages:
    """Storages of a torch zip: `<root>/data/<key>`, each read once."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root, self._read = archive, root, {}

    def get(self, key: str, dtype: np.dtype, numel: int) -> np.ndarray:
        if key not in self._read:
            name = f'{self._root}/data/{key}'
            try:
                info = self._archive.getinfo(name)
            except KeyError:
                raise ForeignFileError(f'storage {shown(key)!r} has no member {shown(name)} in the zip.') from None
            if info.file_size != numel * dtype.itemsize:
                raise ForeignFileError(
                    f'storage {shown(key)!r} is declared with {numel} values of {dtype}, {numel * dtype.itemsize} '
                    f'bytes, but its member has {info.file_size}.'
                )
            self._read[key] = from_bytes(_member(self._archive, info), dtype)
        return self._read[key]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ForeignFileError(f'the zip member {shown(info.filename)} is damaged: {shown(error)}.') from None


# Pickles, and the legacy format of torch ------------------------------------------------------------------------------


class _Bounded:
    """A file from which no more is requested than it has left: Python allocates what is requested before it looks."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self.readline, self.tell = file, size, file.readline, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(count if count < 2**16 else min(count, self._size - self._file.tell()))


def _read_stream(stream: BinaryIO, size: int, budget: Budget, nested: bool = False) -> Any:
    """A plain pickle, or the legacy torch format: magic, protocol, system, object, keys; then the storages."""

    def run(storage: Callable | None = None) -> Any:
        return Machine(budget, storage, None if nested else _read_inside).run(stream)

    first = run()
    if type(first) is not int or first != _TORCH_MAGIC:
        if nested:
            raise ForeignFileError('holds a tensor whose bytes are not in the torch format.')
        return first
    protocol, system = run(), run()
    if type(protocol) is not int or protocol != _TORCH_PROTOCOL or not isinstance(system, dict):
        raise ForeignFileError(f'has the torch format {shown(protocol)}; {_TORCH_PROTOCOL} is read.')
    if system.get('little_endian') is not True:
        raise ForeignFileError("has byte order 'big'; only little is read.")
    storages = _LegacyStorages(size)
    value = run(storages.get)
    storages.fill(stream, run())
    return value


def _read_inside(data: bytes, budget: Budget) -> Any:
    """The legacy torch format inside a pickle; NVIDIA's have one for each tensor."""
    return _read_stream(io.BytesIO(data), len(data), budget, nested=True)


class _LegacyStorages:
    """Storages of a legacy torch stream, whose bytes follow the pickle that declares them."""

    def __init__(self, size: int) -> None:
        self._size, self._total, self._declared = size, 0, {}

    def get(self, key: str, dtype: np.dtype, numel: int) -> np.ndarray:
        if key not in self._declared:
            self._total = total = self._total + numel * dtype.itemsize
            if total > self._size:
                raise ForeignFileError(
                    f'storage {shown(key)!r} is declared with {numel} values of {dtype}; with the storages before it '
                    f'that is {total} bytes in a file of {self._size}.'
                )
            self._declared[key] = np.zeros(numel, dtype)
        return self._declared[key]

    def fill(self, stream: BinaryIO, keys: Any) -> None:
        words = isinstance(keys, list) and all(isinstance(k, str) for k in keys)
        if not words or sorted(keys) != sorted(self._declared):
            raise ForeignFileError('the list of storages does not match the storages that its tensors use.')
        for key in keys:
            array = self._declared[key]
            numel = int.from_bytes(_exactly(stream, 8), 'little', signed=True)
            if numel != array.size:
                raise ForeignFileError(f'storage {shown(key)!r} is declared with {array.size} values but has {numel}.')
            array[:] = from_bytes(_exactly(stream, array.nbytes), array.dtype)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise ForeignFileError('is cut off: it ends inside a storage.')
    return data
