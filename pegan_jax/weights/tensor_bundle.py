"""Reads TensorFlow checkpoints of version 2 ("tensor bundles") into NumPy, without TensorFlow.

A checkpoint is `<prefix>.index`, a sorted table in LevelDB's format from names to messages that say where an array is,
and `<prefix>.data-00000-of-00001`, the bytes of all arrays. Both have CRC-32C checksums, which are verified. Every size
and position that a file declares is checked against the bytes that are really there.
"""

import logging
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c
import ml_dtypes
import numpy as np

from pegan_jax.files import Path, as_path, on_disk
from pegan_jax.weights.contents import MAX_BYTES, ForeignFileError, from_bytes, shown

logger = logging.getLogger(__name__)

MAX_INDEX_BYTES = 16 * 2**20  # an index of a thousand variables has some hundred kilobytes
MAX_NAMES, MAX_NAME_BYTES = 100_000, 4096

_MAGIC = bytes.fromhex('57fb808b247547db')
_FOOTER_BYTES, _TRAILER_BYTES = 48, 5
# Numbers of tensorflow/core/framework/types.proto.
_DTYPES = {
    1: '<f4', 2: '<f8', 3: '<i4', 4: 'u1', 5: '<i2', 6: 'i1', 9: '<i8', 10: '?', 14: ml_dtypes.bfloat16, 17: '<u2',
    19: '<f2', 22: '<u4', 23: '<u8',
}  # fmt: skip


class _Entry(NamedTuple):
    """Where an array lies."""

    dtype: np.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def find(path: str | os.PathLike) -> Path | None:
    """The index file of the checkpoint that `path` names, or None if it names none.

    Args:
      path: `<prefix>.index` or one of the files beside it, `<prefix>`, the text file `checkpoint` (or `checkpoint.txt`)
        that names the newest prefix, or a folder with that file.
    Raises: ForeignFileError if the text file names a checkpoint that is not beside it.
    """
    path = as_path(path)
    names = ('checkpoint', 'checkpoint.txt')
    named = [path] if path.name in names else []
    for text in [*named, *(path / name for name in names)]:
        if text.is_file() and (index := _newest(text)):
            return index
    prefix = re.sub(r'\.(index|meta|data-\d{5}-of-\d{5})$', '', path.name)
    index = path.with_name(f'{prefix}.index') if prefix else path
    return index if index.is_file() else None


def _newest(text: Path) -> Path | None:
    with text.open('rb') as stream:
        content = stream.read(2**20).decode('utf-8', 'replace')
    found = re.search(r'^\s*model_checkpoint_path:\s*"([^"\n]*)"', content, re.MULTILINE)
    if found is None:
        return None
    # The path is that on the machine that wrote it; its last part names what lies here.
    prefix = re.split(r'[/\\]', found[1])[-1]
    index = text.with_name(f'{prefix}.index')
    if '\0' in prefix or not index.is_file():
        raise ForeignFileError(f'{text} names the checkpoint {shown(prefix)!r}, but there is no such .index beside it.')
    return index


def read(index: str | os.PathLike) -> dict[str, np.ndarray]:
    """{variable name: array} of a checkpoint; arrays are read-only.

    Entries that are not plain numbers, such as strings, are left out, with a warning.

    Args:
      index: as `find` returns it.
    Raises: ForeignFileError for files that are damaged or cut off, and for what is not read: compressed tables,
      big-endian files, partitioned variables.
    """
    index = as_path(index)
    try:
        entries, shards = _index(_checked(index, MAX_INDEX_BYTES).read_bytes())
        prefix = index.name.removesuffix('.index')
        files = [_checked(index.with_name(f'{prefix}.data-{i:05d}-of-{shards:05d}'), MAX_BYTES) for i in range(shards)]
        return _arrays(entries, files)
    except ForeignFileError as error:
        raise ForeignFileError(f'{index}: {error}') from None


def _checked(path: Path, limit: int) -> pathlib.Path:
    """The file, or a copy on this machine of one in a bucket. Raises: ForeignFileError if it is missing, or larger."""
    if not path.is_file():
        raise ForeignFileError(f'the file {path.name} is missing.')
    path = on_disk(path)
    if (size := path.stat().st_size) > limit:
        raise ForeignFileError(f'{path.name} has {size:,} bytes; at most {limit:,} are read.')
    return path


def _unmasked(masked: int) -> int:
    """The checksum that is stored as ((crc >> 15 | crc << 17) + 0xa282ead8) mod 2^32."""
    rotated = (masked - 0xA282EAD8) % 2**32
    return (rotated >> 17 | rotated << 15) % 2**32


# Arrays ---------------------------------------------------------------------------------------------------------------


def _arrays(entries: dict[str, _Entry], files: list[pathlib.Path]) -> dict[str, np.ndarray]:
    sizes = [file.stat().st_size for file in files]
    # Overlapping arrays could ask for far more memory than the files have bytes.
    declared = sum(entry.size for entry in entries.values())
    if declared > sum(sizes):
        raise ForeignFileError(f'declares arrays of {declared} bytes; the data has {sum(sizes)}. Is it cut off?')
    out = {}
    for name, entry in entries.items():
        if entry.shard >= len(files):
            raise ForeignFileError(f'{shown(name)} lies in data file number {entry.shard}, but there are {len(files)}.')
        end = entry.offset + entry.size
        if end > sizes[entry.shard]:
            raise ForeignFileError(
                f'{shown(name)} lies at bytes {entry.offset} to {end} of {files[entry.shard].name}, which has '
                f'{sizes[entry.shard]}. Is it cut off?'
            )
        with files[entry.shard].open('rb') as stream:
            stream.seek(entry.offset)
            data = stream.read(entry.size)
        if google_crc32c.value(data) != entry.crc:
            raise ForeignFileError(f'{shown(name)} is damaged: its checksum does not match.')
        out[name] = from_bytes(data, entry.dtype).reshape(entry.shape)
    return out


# The table of names ---------------------------------------------------------------------------------------------------


def _index(data: bytes) -> tuple[dict[str, _Entry], int]:
    """Entries by name, and the number of data files."""
    if len(data) < _FOOTER_BYTES or data[-len(_MAGIC) :] != _MAGIC:
        raise ForeignFileError('is no index of a TensorFlow checkpoint, or it is cut off.')
    footer, position = data[-_FOOTER_BYTES : -len(_MAGIC)], 0
    handles = []
    for _ in range(4):
        number, position = _varint(footer, position)
        handles.append(number)
    table, last, behind = {}, b'', 0
    list(_block(data, *handles[:2]))  # The table of metadata is empty; this verifies its checksum.
    for _, value in _block(data, *handles[2:]):
        offset, at = _varint(value, 0)
        size, _ = _varint(value, at)
        if offset < behind:  # a block that is named often would be read as often
            raise ForeignFileError(f'is damaged: the block at byte {offset} lies before the end of another one.')
        behind = offset + size + _TRAILER_BYTES
        for key, entry in _block(data, offset, size):
            if table and key <= last:
                raise ForeignFileError(f'is damaged: {_text(key)!r} comes after {_text(last)!r}.')
            if len(table) == MAX_NAMES:
                raise ForeignFileError(f'has more than {MAX_NAMES:,} names.')
            table[key], last = entry, key
    if b'' not in table:
        raise ForeignFileError('has no header entry, so it is no index of a TensorFlow checkpoint.')
    header = _message(table.pop(b''))
    if _last(header, 2):
        raise ForeignFileError('is big-endian; only little-endian files are read.')
    shards = _last(header, 1)
    if not 1 <= shards <= 1000:
        raise ForeignFileError(f'declares {shards} data files; 1 to 1000 are read.')
    names = [_text(key) for key in table]
    entries = {name: _entry(name, value) for name, value in zip(names, table.values(), strict=True)}
    return {name: entry for name, entry in entries.items() if entry is not None}, shards


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise ForeignFileError(f'has a name that is no UTF-8: {shown(ascii(key))}.') from None


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block of the table, whose checksum is verified first."""
    end = offset + size
    if end + _TRAILER_BYTES > len(data) - _FOOTER_BYTES:
        raise ForeignFileError(f'declares a block at bytes {offset} to {end}; the table has {len(data)}.')
    if google_crc32c.value(data[offset : end + 1]) != _unmasked(int.from_bytes(data[end + 1 : end + 5], 'little')):
        raise ForeignFileError(f'is damaged: the checksum of the block at byte {offset} does not match.')
    if data[end]:
        raise ForeignFileError(f'has a compressed block (type {data[end]}), which TensorFlow does not write.')
    block = data[offset:end]
    restarts = int.from_bytes(block[-4:], 'little')
    stop = size - 4 - 4 * restarts
    if stop < 0:
        raise ForeignFileError(f'is damaged: the block at byte {offset} has {restarts} restarts in {size} bytes.')
    position, key = 0, b''
    while position < stop:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        middle, after = position + unshared, position + unshared + length
        if shared > len(key) or shared + unshared > MAX_NAME_BYTES or after > stop:
            raise ForeignFileError(f'is damaged: an entry of the block at byte {offset} runs over its end.')
        key = key[:shared] + block[position:middle]
        yield key, block[middle:after]
        position = after


# Messages -------------------------------------------------------------------------------------------------------------


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of 7 bits per byte, least significant first, and the position after it."""
    number = 0
    for i, byte in enumerate(data[position : position + 10]):
        number |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return number, position + i + 1
    raise ForeignFileError('is damaged: a number does not end where it should.')


def _message(data: bytes) -> dict[int, list]:
    """The fields of a protocol buffer: numbers, or bytes, in the order in which they come."""
    fields, position = {}, 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(data, position)
        elif kind in (1, 2, 5):
            size, position = _varint(data, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
            value = data[position : position + size]
            if len(value) != size:
                raise ForeignFileError('is damaged: a field runs over the end of its message.')
            value = value if kind == 2 else int.from_bytes(value, 'little')
            position += size
        else:
            raise ForeignFileError(f'is damaged: a field has the wire type {kind}.')
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _last(fields: dict[int, list], number: int) -> int:
    """A number; fields that are 0 are not written."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ForeignFileError(f'is damaged: field {number} of a message is no number.')
    return value


def _submessages(fields: dict[int, list], number: int) -> list[dict[int, list]]:
    values = fields.get(number, [])
    if not all(isinstance(value, bytes) for value in values):
        raise ForeignFileError(f'is damaged: field {number} of a message is no message.')
    return [_message(value) for value in values]


def _entry(name: str, value: bytes) -> _Entry | None:
    fields = _message(value)
    if fields.get(7):
        raise ForeignFileError(f'{shown(name)} is a partitioned variable, which is not read.')
    code = _last(fields, 1)
    if code not in _DTYPES:
        logger.warning('left out: %s, whose type, number %d, is no plain number', shown(name), code)
        return None
    dtype = np.dtype(_DTYPES[code])
    shapes = _submessages(fields, 2)
    sides = [_last(side, 1) for shape in shapes for side in _submessages(shape, 2)]
    if len(sides) > 32 or any(side >= 2**62 for side in sides):
        raise ForeignFileError(f'{shown(name)} has a shape of {len(sides)} sides that is not well formed.')
    size = _last(fields, 5)
    if math.prod(sides) * dtype.itemsize != size:
        raise ForeignFileError(f'{shown(name)} has {size} bytes for the shape {tuple(sides)} of {dtype}.')
    return _Entry(dtype, tuple(sides), _last(fields, 3), _last(fields, 4), size, _unmasked(_last(fields, 6) % 2**32))
