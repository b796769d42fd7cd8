"""Reads torch checkpoints (zip and legacy), plain pickles and safetensors into NumPy, without torch and without running
the file.

A pickle is a program. Here a small interpreter runs it, which `pickletools` decodes: the functions that it calls are
looked up in one table of harmless constructors, and nothing is ever imported or called on the file's behalf. An object
of a class that is not in the table is read as a record of its attributes if the class is another program's; a name of
Python, NumPy or torch that is not in the table is refused. Each size that a file declares is checked against the bytes
that are really there.
"""

import io
import math
import os
import pickletools
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors

from pegan_jax.files import as_path, on_disk
from pegan_jax.settings import UserError
from pegan_jax.weights import kinds

MAX_BYTES = 16 * 2**30  # of a file: far above every published checkpoint
MAX_WORK = 5_000_000  # instructions and items copied: a state dict of a thousand tensors takes some fifty thousand
MAX_DEPTH = 32  # of containers that `arrays` descends into

_TORCH_MAGIC, _TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    'FloatStorage': np.float32,
    'DoubleStorage': np.float64,
    'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16,
    'LongStorage': np.int64,
    'IntStorage': np.int32,
    'ShortStorage': np.int16,
    'CharStorage': np.int8,
    'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
    'ComplexFloatStorage': np.complex64,
    'ComplexDoubleStorage': np.complex128,
}


# By the names that safetensors has for them.
_SAFE_DTYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'I64': np.int64,
    'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_,
}  # fmt: skip


class ForeignFileError(UserError):
    """A file that is damaged, asks for something that is not allowed, or does not hold what is expected."""


class Record(dict):
    """An object of another program: its attributes; of a torch module, {name: array} of its state dict."""

    def __init__(self, class_name: str) -> None:
        super().__init__()
        self.class_name = class_name


def shown(word: Any) -> str:
    """A file's own word, safe to print: short, without control characters; of what is no word, the type."""
    # Containers are not printed: the text of nested ones can be exponentially long.
    text = str(word) if isinstance(word, (str, BaseException)) or type(word) is int else f'a {type(word).__name__}'
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 120 else f'{text[:117]}...'


def read(path: str | os.PathLike) -> Any:
    """The object that a torch checkpoint, a pickle or a safetensors file holds; tensors are read-only NumPy arrays.

    Containers, numbers, strings and NumPy arrays come as they are, torch.Size as a tuple, torch.device and paths as
    text, network objects of NVIDIA's pickles as the dictionaries that describe them (the source text in them is never
    used), objects of other programs as `Record`s.

    Raises: ForeignFileError, which says what the file is if it is none of these.
    """
    path = as_path(path)
    if not path.is_file():
        raise ForeignFileError(f'{path} is not a file.')
    path = on_disk(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ForeignFileError(f'{path} has {size:,} bytes; at most {MAX_BYTES:,} are read.')
    try:
        with path.open('rb') as stream:
            head = stream.read(kinds.HEAD)
            stream.seek(0)
            if problem := kinds.refusal(head):
                raise ForeignFileError(problem)
            if kinds.is_safetensors(head):
                return _read_safetensors(stream.read())
            return (
                _read_zip(stream)
                if head.startswith(b'PK\x03\x04')
                else _read_stream(_Bounded(stream, size), size, _Budget())
            )
    except ForeignFileError as error:
        raise ForeignFileError(f'{path}: {error}') from None


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """{'a.b.0': array} of all arrays in nested dictionaries and sequences.

    Raises: ForeignFileError for nesting deeper than MAX_DEPTH.
    """
    budget = _Budget()

    def walk(node: Any, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
        budget.spend(1)
        if len(names) > MAX_DEPTH:
            raise ForeignFileError(f'nested more than {MAX_DEPTH} deep, at {shown(".".join(names))}.')
        if isinstance(node, np.ndarray):
            yield '.'.join(names), node
        elif isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, (*names, str(key)))
        elif isinstance(node, (list, tuple)):
            for i, value in enumerate(node):
                yield from walk(value, (*names, str(i)))

    return dict(walk(tree, ()))


def records(tree: Any) -> dict[str, Record]:
    """{name: record} of the settings that lie beside the networks of a file, which are read but not used."""
    found = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {str(name): value for name, value in found if isinstance(value, Record) and not arrays(value)}


# Files ----------------------------------------------------------------------------------------------------------------


class _Budget:
    """Bounds time and memory: a short pickle can ask for a long computation."""

    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise ForeignFileError(f'takes more than {MAX_WORK:,} instructions to read; no checkpoint does.')


class _Bounded:
    """A file that is asked for no more than it has left: Python makes room for what is asked for, before it looks."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self.readline, self.tell = file, size, file.readline, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(count if count < 2**16 else min(count, self._size - self._file.tell()))


class _Storage:
    """A storage: a flat array, on which tensors are views."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class _ZipStorages:
    """Storages of a torch zip: `<root>/data/<key>`, each read once."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root, self._read = archive, root, {}

    def get(self, key: str, dtype: np.dtype, numel: int) -> _Storage:
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
            self._read[key] = _Storage(_from_bytes(_member(self._archive, info), dtype))
        return self._read[key]


class _LegacyStorages:
    """Storages of a legacy torch stream, whose bytes follow the pickle that declares them."""

    def __init__(self, size: int) -> None:
        self._size, self._declared = size, {}

    def get(self, key: str, dtype: np.dtype, numel: int) -> _Storage:
        if key not in self._declared:
            total = numel * dtype.itemsize + sum(s.array.nbytes for s in self._declared.values())
            if total > self._size:
                raise ForeignFileError(
                    f'storage {shown(key)!r} is declared with {numel} values of {dtype}; with the storages before it '
                    f'that is {total} bytes in a file of {self._size}.'
                )
            self._declared[key] = _Storage(np.zeros(numel, dtype))
        return self._declared[key]

    def fill(self, stream: BinaryIO, keys: Any) -> None:
        words = isinstance(keys, list) and all(isinstance(k, str) for k in keys)
        if not words or sorted(keys) != sorted(self._declared):
            raise ForeignFileError('the list of storages does not match the storages that its tensors use.')
        for key in keys:
            array = self._declared[key].array
            numel = int.from_bytes(_exactly(stream, 8), 'little', signed=True)
            if numel != array.size:
                raise ForeignFileError(f'storage {shown(key)!r} is declared with {array.size} values but has {numel}.')
            array[:] = _from_bytes(_exactly(stream, array.nbytes), array.dtype)


def _from_bytes(data: bytes, dtype: np.dtype) -> np.ndarray:
    if dtype == np.bool_:
        return np.frombuffer(data, np.uint8) != 0  # A bool byte other than 0 and 1 would be undefined behaviour.
    return np.frombuffer(data, dtype)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise ForeignFileError('is cut off: it ends inside a storage.')
    return data


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ForeignFileError(f'the zip member {shown(info.filename)} is damaged: {shown(error)}.') from None


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ForeignFileError(f'is a damaged safetensors file: {shown(error)}.') from None
    if unknown := {tensor['dtype'] for _, tensor in found} - _SAFE_DTYPES.keys():
        raise ForeignFileError(f'has tensors of the type {shown(unknown.pop())}; only plain numbers are read.')
    return {
        name: _from_bytes(bytes(tensor['data']), np.dtype(_SAFE_DTYPES[tensor['dtype']])).reshape(tensor['shape'])
        for name, tensor in found
    }


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
        return _Machine(_Budget(), _ZipStorages(archive, root)).run(code)


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


def _read_stream(stream: BinaryIO, size: int, budget: _Budget, nested: bool = False) -> Any:
    """A plain pickle, or the legacy torch format: magic, protocol, system, object, keys; then the storages."""
    first = _Machine(budget, None, nested).run(stream)
    if type(first) is not int or first != _TORCH_MAGIC:
        if nested:
            raise ForeignFileError('holds a tensor whose bytes are not in the torch format.')
        return first
    protocol, system = (_Machine(budget, None, nested).run(stream) for _ in range(2))
    if type(protocol) is not int or protocol != _TORCH_PROTOCOL or not isinstance(system, dict):
        raise ForeignFileError(f'has the torch format {shown(protocol)}; {_TORCH_PROTOCOL} is read.')
    if system.get('little_endian') is not True:
        raise ForeignFileError("has byte order 'big'; only little is read.")
    storages = _LegacyStorages(size)
    value = _Machine(budget, storages, nested).run(stream)
    storages.fill(stream, _Machine(budget, None, nested).run(stream))
    return value


# Constructors: what names in a pickle stand for -----------------------------------------------------------------------


class _Name:
    """An allowed name; it can be called only through `_Machine`."""

    def __init__(self, name: str) -> None:
        self.name = name


class _DType:
    """A NumPy dtype under construction."""

    def __init__(self, code: str) -> None:
        self.value = np.dtype(code)


def _keys(keys: Collection) -> Collection:
    """Only keys whose hash is cheap: hashing deeply nested tuples takes exponential time, or the stack."""
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(part is None or isinstance(part, (str, int, float, bytes)) for part in parts):
            raise ForeignFileError(f'has a dictionary or a set with a key of type {type(key).__name__}.')
    return keys


def _sequence(machine: '_Machine', items: Any = ()) -> Any:
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise ForeignFileError(f'makes a sequence of a {type(items).__name__}.')
    machine.budget.spend(len(items))
    return items


def _dict(machine: '_Machine', items: Any = ()) -> OrderedDict:
    pairs = list(items.items()) if isinstance(items, dict) else _sequence(machine, items)
    machine.budget.spend(len(pairs))
    if not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise ForeignFileError('makes a dictionary of something that is not pairs.')
    _keys([k for k, _ in pairs])
    return OrderedDict(pairs)


def _encode(machine: '_Machine', text: Any, encoding: Any = 'latin1') -> bytes:
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise ForeignFileError(f'encodes a {type(text).__name__} as {shown(encoding)}.')
    machine.budget.spend(len(text) // 16)
    return text.encode('latin1')


def _dtype(machine: '_Machine', code: Any, *_: Any) -> _DType:
    if not isinstance(code, str) or not re.fullmatch(r'[<|=]?(b1|[iu][1248]|f[248]|c8|c16)', code):
        raise ForeignFileError(f'has an array of dtype {shown(code)}; only plain numbers are read.')
    return _DType(code)


def _scalar(machine: '_Machine', dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, _DType) or not isinstance(data, bytes) or len(data) != dtype.value.itemsize:
        raise ForeignFileError('has a NumPy number that is not well formed.')
    return _from_bytes(data, dtype.value)[0]


def _tensor(machine: '_Machine', storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, _Storage):
        raise ForeignFileError(f'has a tensor on a {type(storage).__name__}, which is no storage.')
    if not all(isinstance(p, tuple) and len(p) <= 32 for p in (size, stride)) or len(size) != len(stride):
        raise ForeignFileError('has a tensor whose size and stride do not match.')
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *size, *stride)):
        raise ForeignFileError('has a tensor whose size, stride or offset are not all natural numbers.')
    count, last = math.prod(size), offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    numel = storage.array.size
    if count and (last >= numel or count > numel):
        raise ForeignFileError(
            f'has a tensor of size {size}, stride {stride}, offset {offset} on a storage of only {numel} values.'
        )
    if not count:
        return np.zeros(size, storage.array.dtype)
    strides = [s * storage.array.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage.array[offset:], size, strides, writeable=False)


def _parameter(machine: '_Machine', tensor: Any, *_: Any) -> np.ndarray:
    if not isinstance(tensor, np.ndarray):
        raise ForeignFileError(f'has a parameter that is a {type(tensor).__name__}, not a tensor.')
    return tensor


def _load_from_bytes(machine: '_Machine', data: Any) -> Any:
    if machine.nested or not isinstance(data, bytes):
        raise ForeignFileError('has a storage inside the bytes of a storage.')
    machine.budget.spend(1 + len(data) // 1024)
    return _read_stream(io.BytesIO(data), len(data), machine.budget, nested=True)


def _network(machine: '_Machine', meta: Any) -> dict:
    if not isinstance(meta, dict):
        raise ForeignFileError(f'has a network that is described by a {type(meta).__name__}.')
    return meta


def _empty_array(machine: '_Machine', *_: Any) -> np.ndarray:
    return np.zeros(0, np.uint8)  # BUILD gives it shape, dtype and values.


def _array_of_buffer(machine: '_Machine', data: Any, dtype: Any, shape: Any, order: Any = 'C') -> np.ndarray:
    """An array as pickle protocol 5 has it."""
    array = _empty_array(machine)
    machine.build(array, (1, shape, dtype, order == 'F', data))
    return array


def _device(machine: '_Machine', *parts: Any) -> str:
    return shown(':'.join(map(shown, parts)))


def _path(machine: '_Machine', *parts: Any) -> str:
    return shown('/'.join(map(shown, parts)).replace('//', '/'))


def _record(name: str) -> Callable:
    return lambda machine, *_: Record(name)


def _default_dict(machine: '_Machine', *factory: Any) -> dict:
    return {}


def _object(machine: '_Machine', kind: Any, base: Any, *_: Any) -> Any:
    """What protocols 0 and 1 write for NEWOBJ."""
    return machine.new(kind, ())


_TORCH_DTYPES = (
    'float32', 'float64', 'float16', 'bfloat16', 'uint8', 'int8', 'int16', 'int32', 'int64', 'bool', 'complex64',
    'channels_last', 'contiguous_format', 'preserve_format', 'strided',
)  # fmt: skip
_PATHS = ('Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath')

# Every name that a checkpoint may ask for, and the function (machine, *arguments) that stands in for it; None: the name
# is only ever an argument.
_ALLOWED: dict[str, Callable | None] = {
    'collections.OrderedDict': _dict,
    'dnnlib.util.EasyDict': _dict,
    'torch_utils.persistence._reconstruct_persistent_obj': _network,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch.storage._load_from_bytes': _load_from_bytes,
    'torch.Size': lambda machine, items=(): tuple(_sequence(machine, items)),
    '_codecs.encode': _encode,
    'numpy.ndarray': None,
    'numpy.dtype': _dtype,
    **{f'torch.{name}': None for name in _DTYPES},
    **{f'{m}.multiarray._reconstruct': _empty_array for m in ('numpy.core', 'numpy._core')},
    **{f'{m}.multiarray.scalar': _scalar for m in ('numpy.core', 'numpy._core')},
    **{f'{m}.numeric._frombuffer': _array_of_buffer for m in ('numpy.core', 'numpy._core')},
    # Settings beside the networks.
    'argparse.Namespace': _record('argparse.Namespace'),
    'types.SimpleNamespace': _record('types.SimpleNamespace'),
    'collections.defaultdict': _default_dict,
    'torch.device': _device,
    **{f'torch.{name}': None for name in _TORCH_DTYPES},
    **{f'pathlib.{name}': _path for name in _PATHS} | {f'pathlib._local.{name}': _path for name in _PATHS},
    **{f'{m}._reconstructor': _object for m in ('copyreg', 'copy_reg')},
}
for _module in ('builtins', '__builtin__'):
    _ALLOWED |= {
        f'{_module}.set': lambda machine, items=(): set(_keys(_sequence(machine, items))),
        f'{_module}.frozenset': lambda machine, items=(): frozenset(_keys(_sequence(machine, items))),
        f'{_module}.list': lambda machine, items=(): list(_sequence(machine, items)),
        f'{_module}.tuple': lambda machine, items=(): tuple(_sequence(machine, items)),
        f'{_module}.dict': _dict,
        f'{_module}.object': None,
    }
# Modules whose names are refused if they are not in the table: what is not another program's class, or acts when made.
_OURS = sys.stdlib_module_names | {'__builtin__', 'copy_reg', 'commands', 'numpy', 'torch', 'jax', 'jaxlib'}
_MODULES = re.compile(r'torch\.nn\.modules\.\w+\.\w+|torch\.nn\.parameter\.Parameter(Dict|List)')


def _is_foreign_class(full: str) -> bool:
    """Whether a name that is not in the table is of another program, so that an object of it can be a record."""
    if full in _ALLOWED or not re.fullmatch(r'[^\W\d]\w*(\.[^\W\d]\w*)+', full):
        return False
    return full.partition('.')[0] not in _OURS or _MODULES.fullmatch(full) is not None


# The interpreter ------------------------------------------------------------------------------------------------------

_LITERALS = frozenset(
    'INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES '
    'SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8'.split()
)
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_EMPTY = {'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple, 'EMPTY_DICT': dict, 'EMPTY_SET': set}


class _Machine:
    """Runs one pickle. Containers hold only what this module made, and only this module's functions are called."""

    def __init__(
        self, budget: _Budget, storages: '_ZipStorages | _LegacyStorages | None', nested: bool = False
    ) -> None:
        self.budget, self.nested = budget, nested
        self._storages, self._stack, self._marks, self._memo = storages, [], [], {}

    def run(self, stream: BinaryIO) -> Any:
        """The object of the pickle that starts here; leaves the stream behind it."""
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self.budget.spend(1)
                if opcode.name == 'STOP':
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except ForeignFileError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
            raise ForeignFileError(f'is damaged, or no checkpoint: {type(error).__name__}: {shown(error)}.') from None
        raise ForeignFileError('is damaged: the pickle does not end.')

    def _since_mark(self) -> list:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _step(self, op: str, argument: Any) -> None:
        stack = self._stack
        if op in _LITERALS:
            stack.append(bytes(argument) if op == 'BYTEARRAY8' else argument)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op in ('PROTO', 'FRAME'):
            pass
        elif op == 'MARK':
            self._marks.append(len(stack))
        elif op in ('PUT', 'BINPUT', 'LONG_BINPUT'):
            self._memo[argument] = stack[-1]
        elif op == 'MEMOIZE':
            self._memo[len(self._memo)] = stack[-1]
        elif op in ('GET', 'BINGET', 'LONG_BINGET'):
            stack.append(self._memo[argument])
        elif op == 'POP':
            stack.pop()
        elif op == 'POP_MARK':
            self._since_mark()
        elif op == 'DUP':
            stack.append(stack[-1])
        elif op in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
            stack[-int(op[-1]) :] = [tuple(stack[-int(op[-1]) :])]
        elif op == 'TUPLE':
            stack.append(tuple(self._since_mark()))
        elif op == 'LIST':
            stack.append(self._since_mark())
        elif op == 'FROZENSET':
            stack.append(frozenset(_keys(self._since_mark())))
        elif op == 'DICT':
            items = self._since_mark()
            stack.append(dict(zip(_keys(items[::2]), items[1::2], strict=True)))
        elif op in ('APPEND', 'APPENDS'):
            items = [stack.pop()] if op == 'APPEND' else self._since_mark()
            self._top(list).extend(items)
        elif op in ('SETITEM', 'SETITEMS'):
            items = [stack.pop(), stack.pop()][::-1] if op == 'SETITEM' else self._since_mark()
            self._top(dict).update(zip(_keys(items[::2]), items[1::2], strict=True))
        elif op == 'ADDITEMS':
            items = self._since_mark()
            self._top(set).update(_keys(items))
        elif op == 'GLOBAL':
            stack.append(self._name(*argument.split(' ', 1)))
        elif op == 'STACK_GLOBAL':
            name, module = stack.pop(), stack.pop()
            stack.append(self._name(module, name))
        elif op == 'REDUCE':
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif op == 'NEWOBJ':
            arguments, kind = stack.pop(), stack.pop()
            stack.append(self.new(kind, arguments))
        elif op == 'NEWOBJ_EX':
            _, arguments, kind = stack.pop(), stack.pop(), stack.pop()
            stack.append(self.new(kind, arguments))
        elif op == 'BUILD':
            state = stack.pop()
            self.build(stack[-1], state)
        elif op == 'BINPERSID':
            stack.append(self._storage(stack.pop()))
        else:
            raise ForeignFileError(f'uses the pickle instruction {op}, which checkpoints do not need.')

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ForeignFileError(f'adds items to a {type(self._stack[-1]).__name__} as if it were a {kind.__name__}.')
        return self._stack[-1]

    def _name(self, module: Any, name: Any) -> _Name:
        full = f'{shown(module)}.{shown(name)}'
        if full not in _ALLOWED and not _is_foreign_class(full):
            raise ForeignFileError(f'asks for {full}, which is not allowed; the file may be hostile.')
        return _Name(full)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or _ALLOWED.get(function.name) is None:
            what = function.name if isinstance(function, _Name) else f'a {type(function).__name__}'
            raise ForeignFileError(f'calls {what}, which is not allowed; the file may be hostile.')
        if not isinstance(arguments, tuple):
            raise ForeignFileError(f'calls {function.name} with a {type(arguments).__name__} for arguments.')
        return _ALLOWED[function.name](self, *arguments)

    def new(self, kind: Any, arguments: Any) -> Any:
        """An object of a class: of the table what it has for it, of another program's a record without attributes."""
        if isinstance(kind, _Name) and _is_foreign_class(kind.name):
            return Record(kind.name)
        return self._call(kind, arguments)

    def _module(self, state: dict) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of a torch module with these attributes, as its state dict has them."""
        passing = state.get('_non_persistent_buffers_set', ())
        for name, array in [*state['_parameters'].items(), *state.get('_buffers', {}).items()]:
            if isinstance(array, np.ndarray) and name not in passing:
                yield str(name), array
        for name, module in state['_modules'].items():
            if isinstance(module, Record):
                for inner, array in module.items():
                    self.budget.spend(1 + (len(str(name)) + len(str(inner))) // 64)  # long names may be doubled often
                    yield f'{name}.{inner}', array

    def build(self, value: Any, state: Any) -> None:
        """State of NumPy objects and records; that of dictionaries (such as a state dict's `_metadata`) is not used."""
        if isinstance(value, _DType):
            order = state[1]
            if order not in ('<', '|', '='):
                raise ForeignFileError(f'has an array of byte order {shown(order)!r}; only little is read.')
        elif isinstance(value, np.ndarray):
            _, shape, dtype, fortran, data = state
            whole = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
            if not (whole and isinstance(dtype, _DType) and isinstance(data, bytes) and value.flags.owndata):
                raise ForeignFileError('has a NumPy array that is not well formed.')
            if len(data) != math.prod(shape) * dtype.value.itemsize:
                raise ForeignFileError(f'has a NumPy array of shape {shape} and {dtype.value} with {len(data)} bytes.')
            self.budget.spend(1 + len(data) // 1024)
            value.__setstate__((1, shape, dtype.value, bool(fortran), data))
        elif isinstance(value, Record):
            if isinstance(state, tuple) and len(state) == 2:  # those of __dict__, those of __slots__
                state = (state[0] or {}) | (state[1] or {})
            if not isinstance(state, dict):
                raise ForeignFileError(f'gives {value.class_name} a {type(state).__name__} for attributes.')
            self.budget.spend(len(state))
            is_module = all(isinstance(state.get(k), dict) for k in ('_parameters', '_modules'))
            value.update(self._module(state) if is_module else state)
        elif not isinstance(value, dict):
            raise ForeignFileError(f'sets attributes of a {type(value).__name__}, which is not allowed.')

    def _storage(self, identity: Any) -> '_Storage | _Name':
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == 'module':
            return identity[1]  # a class; the source text beside it is never used
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != 'storage':
            raise ForeignFileError('refers to something outside that is no storage.')
        if self._storages is None:
            raise ForeignFileError('refers to a storage, but has none.')
        _, kind, key, _, numel, *view = identity
        if not isinstance(kind, _Name) or (name := kind.name.removeprefix('torch.')) not in _DTYPES:
            raise ForeignFileError(f'has a storage of unknown type {shown(getattr(kind, "name", kind))}.')
        if view not in ([], [None]):
            raise ForeignFileError(
                'has a view of a storage, as torch before 0.4 wrote; save it again with a newer one.'
            )
        if type(numel) is not int or numel < 0 or not isinstance(key, str):
            raise ForeignFileError(f'has a storage {shown(key)} of {shown(numel)} values.')
        dtype = np.dtype(_DTYPES[name])
        storage = self._storages.get(key, dtype, numel)
        if storage.array.dtype != dtype or storage.array.size != numel:
            raise ForeignFileError(
                f'declares the storage {shown(key)!r} twice: with {storage.array.size} values of '
                f'{storage.array.dtype} and with {numel} of {dtype}.'
            )
        return storage
