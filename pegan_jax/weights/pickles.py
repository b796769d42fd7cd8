"""Interprets pickles, which are programs: what they call is looked up in one table of harmless constructors; nothing
is ever imported or called on a file's behalf."""

import math
import pickletools
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from pegan_jax.weights.contents import Budget, ForeignFileError, Record, from_bytes, shown

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


class _Storage:
    """A storage: a flat array, on which tensors are views."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


# Constructors: what names in a pickle stand for -----------------------------------------------------------------------


class _Name:
    """An allowed name; it can be called only through `Machine`."""

    def __init__(self, name: str) -> None:
        self.name = name


class _DType:
    """A NumPy dtype under construction."""

    def __init__(self, code: str) -> None:
        self.value = np.dtype(code)


def _keys(keys: Collection) -> Collection:
    """Only keys whose hash is cheap: hashing deeply nested tuples takes exponential time, or the stack.

    Integers from 2^61 - 1 on share their hashes with others, so that a dictionary of them takes quadratic time.
    """
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(part is None or isinstance(part, (str, int, float, bytes)) for part in parts):
            raise ForeignFileError(f'has a dictionary or a set with a key of type {type(key).__name__}.')
        if any(isinstance(part, int) and abs(part) >= 2**61 - 1 for part in parts):
            raise ForeignFileError('has a dictionary or a set with a key of more than 61 bits.')
    return keys


def _sequence(machine: 'Machine', items: Any = ()) -> Any:
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise ForeignFileError(f'makes a sequence of a {type(items).__name__}.')
    machine.budget.spend(len(items))
    return items


def _dict(machine: 'Machine', items: Any = ()) -> OrderedDict:
    pairs = list(items.items()) if isinstance(items, dict) else _sequence(machine, items)
    machine.budget.spend(len(pairs))
    if not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise ForeignFileError('makes a dictionary of something that is not pairs.')
    _keys([k for k, _ in pairs])
    return OrderedDict(pairs)


def _encode(machine: 'Machine', text: Any, encoding: Any = 'latin1') -> bytes:
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise ForeignFileError(f'encodes a {type(text).__name__} as {shown(encoding)}.')
    machine.budget.spend(len(text) // 16)
    return text.encode('latin1')


def _dtype(machine: 'Machine', code: Any, *_: Any) -> _DType:
    if not isinstance(code, str) or not re.fullmatch(r'[<|=]?(b1|[iu][1248]|f[248]|c8|c16)', code):
        raise ForeignFileError(f'has an array of dtype {shown(code)}; only plain numbers are read.')
    return _DType(code)


def _scalar(machine: 'Machine', dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, _DType) or not isinstance(data, bytes) or len(data) != dtype.value.itemsize:
        raise ForeignFileError('has a NumPy number that is not well formed.')
    return from_bytes(data, dtype.value)[0]


def _tensor(machine: 'Machine', storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, _Storage):
        raise ForeignFileError(f'has a tensor on a {type(storage).__name__}, which is no storage.')
    if not all(isinstance(p, tuple) and len(p) <= 32 for p in (size, stride)) or len(size) != len(stride):
        raise ForeignFileError('has a tensor whose size and stride do not match.')
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *size, *stride)):
        raise ForeignFileError('has a tensor whose size, stride or offset are not all natural numbers.')
    count, numel = math.prod(size), storage.array.size
    if not count:
        return np.zeros(size, storage.array.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= numel or count > numel:
        raise ForeignFileError(
            f'has a tensor of size {size}, stride {stride}, offset {offset} on a storage of only {numel} values.'
        )
    strides = [s * storage.array.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage.array[offset:], size, strides, writeable=False)


def _parameter(machine: 'Machine', tensor: Any, *_: Any) -> np.ndarray:
    if not isinstance(tensor, np.ndarray):
        raise ForeignFileError(f'has a parameter that is a {type(tensor).__name__}, not a tensor.')
    return tensor


def _load_from_bytes(machine: 'Machine', data: Any) -> Any:
    if machine.inside is None or not isinstance(data, bytes):
        raise ForeignFileError('has a storage inside the bytes of a storage.')
    machine.budget.spend(1 + len(data) // 1024)
    return machine.inside(data, machine.budget)


def _network(machine: 'Machine', meta: Any) -> dict:
    if not isinstance(meta, dict):
        raise ForeignFileError(f'has a network that is described by a {type(meta).__name__}.')
    return meta


def _empty_array(machine: 'Machine', *_: Any) -> np.ndarray:
    return np.zeros(0, np.uint8)  # BUILD gives it shape, dtype and values.


def _array_of_buffer(machine: 'Machine', data: Any, dtype: Any, shape: Any, order: Any = 'C') -> np.ndarray:
    """An array as in pickle protocol 5."""
    array = _empty_array(machine)
    machine.build(array, (1, shape, dtype, order == 'F', data))
    return array


def _device(machine: 'Machine', *parts: Any) -> str:
    return shown(':'.join(map(shown, parts)))


def _path(machine: 'Machine', *parts: Any) -> str:
    return shown('/'.join(map(shown, parts)).replace('//', '/'))


def _record(name: str) -> Callable:
    return lambda machine, *_: Record(name)


def _default_dict(machine: 'Machine', *factory: Any) -> dict:
    return {}


def _object(machine: 'Machine', kind: Any, base: Any, *_: Any) -> Any:
    """What protocols 0 and 1 write for NEWOBJ."""
    return machine.new(kind, ())


_TORCH_CONSTANTS = (
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
    **{f'torch.{name}': None for name in _TORCH_CONSTANTS},
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
# Modules whose names are refused unless in the table: these are not other programs' classes, or act when made.
_OURS = sys.stdlib_module_names | {'__builtin__', 'copy_reg', 'commands', 'numpy', 'torch', 'jax', 'jaxlib'}
_MODULES = re.compile(r'torch\.nn\.modules\.\w+\.\w+|torch\.nn\.parameter\.Parameter(Dict|List)')


def _is_foreign_class(full: str) -> bool:
    """Whether a name that is not in the table belongs to another program, so that its objects can be records."""
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


class Machine:
    """Runs one pickle. Containers hold only what this module made, and only its functions and these two are called.

    Args:
      storage: (key, dtype, number of values) -> [n], a storage outside the pickle; None: it may ask for none.
      inside: (bytes, budget) -> what a torch file inside the pickle holds; None: it may hold none.
    """

    def __init__(
        self,
        budget: Budget,
        storage: Callable[[str, np.dtype, int], np.ndarray] | None,
        inside: Callable[[bytes, Budget], Any] | None,
    ) -> None:
        self.budget, self.inside = budget, inside
        self._storage, self._stack, self._marks, self._memo = storage, [], [], {}

    def run(self, stream: BinaryIO) -> Any:
        """The object of the pickle that starts here; leaves the stream at its end."""
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
            stack.append(self._outside(stack.pop()))
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
        self.budget.spend(len(arguments))
        return _ALLOWED[function.name](self, *arguments)

    def new(self, kind: Any, arguments: Any) -> Any:
        """An object of a class: what the table has for it, or a record without attributes for another program's."""
        if isinstance(kind, _Name) and _is_foreign_class(kind.name):
            return Record(kind.name)
        return self._call(kind, arguments)

    def _module(self, state: dict) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of a torch module with these attributes, as its state dict has them."""
        passing = state.get('_non_persistent_buffers_set', ())
        self.budget.spend(len(state['_parameters']) + len(state.get('_buffers', {})) + len(state['_modules']))
        for name, array in [*state['_parameters'].items(), *state.get('_buffers', {}).items()]:
            if isinstance(array, np.ndarray) and name not in passing:
                yield str(name), array
        for name, module in state['_modules'].items():
            if isinstance(module, Record):
                for inner, array in module.items():
                    self.budget.spend(1 + (len(str(name)) + len(str(inner))) // 64)  # long names may be doubled often
                    yield f'{name}.{inner}', array

    def build(self, value: Any, state: Any) -> None:
        """Sets the state of NumPy objects and records; that of dictionaries, such as `_metadata`, is not used."""
        if isinstance(value, _DType):
            order = state[1]
            if order not in ('<', '|', '='):
                raise ForeignFileError(f'has an array of byte order {shown(order)!r}; only little is read.')
        elif isinstance(value, np.ndarray):
            _, shape, dtype, fortran, data = state
            sides = shape if isinstance(shape, tuple) and len(shape) <= 32 else (None,)
            whole = all(type(n) is int and 0 <= n < 2**62 for n in sides)
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

    def _outside(self, identity: Any) -> _Storage | _Name:
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == 'module':
            return identity[1]  # a class; the source text beside it is never used
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != 'storage':
            raise ForeignFileError('refers to something outside that is no storage.')
        if self._storage is None:
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
        array = self._storage(key, dtype, numel)
        if array.dtype != dtype or array.size != numel:
            raise ForeignFileError(
                f'declares the storage {shown(key)!r} twice: with {array.size} values of {array.dtype} and with '
                f'{numel} of {dtype}.'
            )
        return _Storage(array)
