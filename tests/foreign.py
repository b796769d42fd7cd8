"""Writes checkpoints without torch and TensorFlow: pickles put together instruction by instruction, in both formats of
torch, and tensor bundles."""

import dataclasses
import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import google_crc32c
import ml_dtypes
import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {'protocol_version': PROTOCOL, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4, 'long': 4}}
STORAGES = {
    'float32': 'FloatStorage',
    'float64': 'DoubleStorage',
    'float16': 'HalfStorage',
    'bfloat16': 'BFloat16Storage',
    'int64': 'LongStorage',
    'int32': 'IntStorage',
    'int16': 'ShortStorage',
    'int8': 'CharStorage',
    'uint8': 'ByteStorage',
    'bool': 'BoolStorage',
    'complex64': 'ComplexFloatStorage',
}


@dataclasses.dataclass
class Name:
    """GLOBAL."""

    name: str


@dataclasses.dataclass
class Call:
    """REDUCE, then BUILD if there is a state."""

    name: object
    args: tuple = ()
    state: object = None


@dataclasses.dataclass
class Persistent:
    """BINPERSID."""

    identity: object


@dataclasses.dataclass
class Raw:
    """Any instructions; they leave one object."""

    code: bytes


class Storages(dict):
    """{key: bytes} of a file, in the order of use."""


def tensor(storages, array, *, size=None, stride=None, offset=0, key=None, numel=None, storage=None, parameter=False):
    """A tensor on a storage of its own, or on that of `key`; its size, stride and the like may be made wrong."""
    array = np.asarray(array)
    if key is None:
        key = str(len(storages))
        storages[key] = np.ascontiguousarray(array).tobytes()
    identity = (
        'storage',
        Name(f'torch.{storage or STORAGES[array.dtype.name]}'),
        key,
        'cuda:0',
        array.size if numel is None else numel,
    )
    size = array.shape if size is None else size
    if stride is None:
        stride = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
    arguments = (Persistent(identity), offset, size, stride, False, Call('collections.OrderedDict'))
    value = Call('torch._utils._rebuild_tensor_v2', arguments)
    return (
        Call('torch._utils._rebuild_parameter', (value, True, Call('collections.OrderedDict'))) if parameter else value
    )


def _save(value, out):
    if value is None:
        out(b'N')
    elif isinstance(value, bool):
        out(b'\x88' if value else b'\x89')
    elif isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
        out(b'J' + struct.pack('<i', value) if -(2**31) <= value < 2**31 else b'\x8a' + bytes([len(data)]) + data)
    elif isinstance(value, float):
        out(b'G' + struct.pack('>d', value))
    elif isinstance(value, str):
        data = value.encode()
        out(b'X' + struct.pack('<I', len(data)) + data)
    elif isinstance(value, bytes):
        out(b'B' + struct.pack('<I', len(value)) + value)
    elif isinstance(value, tuple):
        out(b'(')
        for item in value:
            _save(item, out)
        out(b't')
    elif isinstance(value, list):
        out(b'](')
        for item in value:
            _save(item, out)
        out(b'e')
    elif isinstance(value, set):
        _save(Call('builtins.set', (list(value),)), out)
    elif isinstance(value, dict):
        _save(Call('collections.OrderedDict'), out) if isinstance(value, OrderedDict) else out(b'}')
        out(b'(')
        for pair in value.items():
            for item in pair:
                _save(item, out)
        out(b'u')
        if isinstance(value, OrderedDict):  # As a state dict has: attributes.
            _save({'_metadata': Call('collections.OrderedDict')}, out)
            out(b'b')
    elif isinstance(value, Name):
        module, _, name = value.name.rpartition('.')
        out(f'c{module}\n{name}\n'.encode())
    elif isinstance(value, Call):
        _save(Name(value.name) if isinstance(value.name, str) else value.name, out)
        _save(value.args, out)
        out(b'R')
        if value.state is not None:
            _save(value.state, out)
            out(b'b')
    elif isinstance(value, Persistent):
        _save(value.identity, out)
        out(b'Q')
    elif isinstance(value, Raw):
        out(value.code)
    else:
        raise TypeError(value)


def dumps(value):
    """A pickle of protocol 2."""
    parts = [b'\x80\x02']
    _save(value, parts.append)
    return b''.join([*parts, b'.'])


def write_zip(path, value, storages, *, root='archive', byteorder='little', extra=(), compression=zipfile.ZIP_STORED):
    """torch.save as it is since version 1.6."""
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr(f'{root}/data.pkl', dumps(value))
        archive.writestr(f'{root}/byteorder', byteorder)
        for key, data in storages.items():
            archive.writestr(f'{root}/data/{key}', data)
        archive.writestr(f'{root}/version', '3\n')
        for name, data in extra:
            archive.writestr(name, data)


def legacy(value, storages, itemsizes, *, system=SYSTEM, protocol=PROTOCOL, keys=None):
    """The bytes of torch.save as it was before version 1.6."""
    keys = list(storages) if keys is None else keys
    out = io.BytesIO()
    for part in (MAGIC, protocol, system, value, keys):
        out.write(dumps(part))
    for key in keys:
        data = storages[key]
        out.write(struct.pack('<q', len(data) // itemsizes.get(key, 4)) + data)
    return out.getvalue()


def state_dict(arrays, storages, **options):
    """An OrderedDict of tensors, as a module's state_dict."""
    return OrderedDict((name, tensor(storages, array, **options)) for name, array in arrays.items())


def write_state_dict(path, arrays):
    """A file of a state_dict alone."""
    storages = Storages()
    write_zip(path, state_dict(arrays, storages), storages)
    return path


def vgg16():
    """{'features.N.weight' and '.bias'} of torchvision's vgg16, random."""
    rng, arrays, index, channels = np.random.default_rng(0), OrderedDict(), 0, 3
    for features, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            weight = rng.standard_normal((features, channels, 3, 3), np.float32)
            arrays[f'features.{index}.weight'] = weight * np.float32(np.sqrt(2 / (9 * channels)))
            arrays[f'features.{index}.bias'] = rng.standard_normal(features, np.float32) * np.float32(0.1)
            index, channels = index + 2, features  # a ReLU in between
        index += 1  # a pool
    return arrays


def _random(shapes):
    """{name: array} of RandomState(0), which no version changes; layers keep the size of what goes through them."""
    random, arrays = np.random.RandomState(0), OrderedDict()
    for name, shape in shapes.items():
        x = random.standard_normal(shape)
        if len(shape) in (2, 4) and 'position' not in name:
            x = x * 1.5 / np.sqrt(np.prod(shape[1:]))
        elif ('norm' in name and name.endswith('weight')) or 'lambda' in name:
            x = 1 + 0.3 * x
        else:
            x = 0.5 * x
        arrays[name] = x.astype(np.float32)
    return arrays


def dinov2(*, width=128, layers=2, hidden=256, patch=14, grid=37):
    """Arrays of Hugging Face's file of DINOv2, random; of two heads unless the width is another."""
    shapes = {
        'embeddings.cls_token': (1, 1, width), 'embeddings.mask_token': (1, width),
        'embeddings.position_embeddings': (1, 1 + grid**2, width),
        'embeddings.patch_embeddings.projection.weight': (width, 3, patch, patch),
        'embeddings.patch_embeddings.projection.bias': (width,),
    }  # fmt: skip
    for n in range(layers):
        for part, size in {
            'norm1': (width,), 'attention.attention.query': (width, width), 'attention.attention.key': (width, width),
            'attention.attention.value': (width, width), 'attention.output.dense': (width, width), 'norm2': (width,),
            'mlp.fc1': (hidden, width), 'mlp.fc2': (width, hidden),
        }.items():  # fmt: skip
            shapes |= {f'encoder.layer.{n}.{part}.weight': size, f'encoder.layer.{n}.{part}.bias': size[:1]}
        shapes |= {f'encoder.layer.{n}.layer_scale{k}.lambda1': (width,) for k in (1, 2)}
    return _random(shapes | {'layernorm.weight': (width,), 'layernorm.bias': (width,)})


def clip(*, width=128, layers=2, hidden=96, patch=14, grid=5, embedding=24):
    """Arrays of Hugging Face's file of CLIP that its image encoder takes, random."""
    shapes = {
        'embeddings.class_embedding': (width,), 'embeddings.patch_embedding.weight': (width, 3, patch, patch),
        'embeddings.position_embedding.weight': (1 + grid**2, width),
        'pre_layrnorm.weight': (width,), 'pre_layrnorm.bias': (width,),
    }  # fmt: skip
    for n in range(layers):
        for part, size in {
            'self_attn.k_proj': (width, width), 'self_attn.v_proj': (width, width), 'self_attn.q_proj': (width, width),
            'self_attn.out_proj': (width, width), 'layer_norm1': (width,), 'mlp.fc1': (hidden, width),
            'mlp.fc2': (width, hidden), 'layer_norm2': (width,),
        }.items():  # fmt: skip
            shapes |= {f'encoder.layers.{n}.{part}.weight': size, f'encoder.layers.{n}.{part}.bias': size[:1]}
    shapes |= {'post_layernorm.weight': (width,), 'post_layernorm.bias': (width,)}
    shapes = {f'vision_model.{name}': shape for name, shape in shapes.items()}
    return _random(shapes | {'visual_projection.weight': (embedding, width)})


def pictures(count=3, height=40, width=61):
    """Coarse colours with some noise, uint8 [count, height, width, 3]."""
    random = np.random.RandomState(1)
    coarse = random.randint(0, 256, (count, height // 8 + 1, width // 8 + 1, 3)).repeat(8, axis=1).repeat(8, axis=2)
    x = coarse[:, :height, :width] + random.randint(-20, 21, (count, height, width, 3))
    return x.clip(0, 255).astype(np.uint8)


def adam_state(arrays, storages, rng, *, step, lr, betas, as_tensor):
    """An optimiser's state_dict for parameters, and the moments in it: {name: (exp_avg, exp_avg_sq)}."""
    moments = {k: (rng.normal(size=a.shape), rng.random(a.shape)) for k, a in arrays.items()}
    moments = {k: tuple(m.astype(np.float32) for m in pair) for k, pair in moments.items()}
    state = {
        i: {
            'step': tensor(storages, np.float32(step)) if as_tensor else step,
            'exp_avg': tensor(storages, first),
            'exp_avg_sq': tensor(storages, second),
        }
        for i, (first, second) in enumerate(moments.values())
    }
    group = {'lr': lr, 'betas': betas, 'eps': 1e-8, 'weight_decay': 0, 'amsgrad': False, 'params': list(state)}
    return {'state': state, 'param_groups': [group]}, moments


def split(arrays):
    """{'a': ..., 'b.c': ..., 'b.d': ...} -> {'a': ...}, {'b': {'c': ..., 'd': ...}}: what a module has, its parts."""
    here, inside = {}, {}
    for name, array in arrays.items():
        head, dot, rest = name.partition('.')
        if dot:
            inside.setdefault(head, {})[rest] = array
        else:
            here[name] = array
    return here, inside


def bfloat16(array):
    return np.asarray(array).astype(ml_dtypes.bfloat16)


# NVIDIA's pickles -----------------------------------------------------------------------------------------------------


class _Reduced:
    """Pickled by Python itself as a call of a function that only has to have a name."""

    def __init__(self, function, arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _function(module, name):
    def function(*arguments):
        raise AssertionError(f'{module}.{name} was called: something in the file was run')

    function.__module__, function.__name__, function.__qualname__ = module, name, name
    return function


class NvidiaPickles:
    """Writes networks as the official programs do, with Python's pickle, in any protocol.

    The names that such a file mentions exist while it is written, in modules that hold nothing else.
    """

    def __init__(self):
        self._names = {
            'torch_utils.persistence': ('_reconstruct_persistent_obj',),
            'torch._utils': ('_rebuild_parameter', '_rebuild_tensor_v2'),
            'torch.storage': ('_load_from_bytes',),
        }
        self._functions = {n: _function(m, n) for m, names in self._names.items() for n in names}
        self.EasyDict = type('EasyDict', (dict,), {'__module__': 'dnnlib.util', '__qualname__': 'EasyDict'})

    def tensor(self, array, parameter=False):
        array = np.asarray(array)
        identity = ('storage', Name(f'torch.{STORAGES[array.dtype.name]}'), '94', 'cuda:0', array.size, None)
        data = legacy(Persistent(identity), {'94': np.ascontiguousarray(array).tobytes()}, {'94': array.itemsize})
        stride = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        storage = _Reduced(self._functions['_load_from_bytes'], (data,))
        arguments = (storage, 0, array.shape, stride, parameter, OrderedDict())
        value = _Reduced(self._functions['_rebuild_tensor_v2'], arguments)
        return _Reduced(self._functions['_rebuild_parameter'], (value, True, OrderedDict())) if parameter else value

    def module(self, class_name, arrays, kwargs=None, *, buffers=(), passing=(), attributes=None):
        """A module of {'b4.conv1.weight': array}; `buffers` are the names among them that are not parameters."""
        here, inside = split(arrays)
        below = {
            head: self.module(
                head.title(),
                part,
                buffers={b.partition('.')[2] for b in buffers if b.startswith(f'{head}.')},
            )
            for head, part in inside.items()
        }
        state = {
            'training': False,
            '_parameters': OrderedDict(
                (k, self.tensor(v, True)) for k, v in here.items() if k not in buffers and k not in passing
            ),
            '_buffers': OrderedDict((k, self.tensor(v)) for k, v in here.items() if k in buffers or k in passing),
            '_non_persistent_buffers_set': set(passing),
            '_backward_hooks': OrderedDict(),
            '_modules': OrderedDict(below),
            '_init_args': (),
            '_init_kwargs': self.EasyDict(kwargs or {}),
            'num_ws': np.int64(14),
            'sampling_rates': np.array([16.0, 32.0]),
            **(attributes or {}),
        }
        state['_parameters']['absent'] = None
        meta = self.EasyDict(
            type='class', version=6, module_src='raise SystemExit("run")', class_name=class_name, state=state
        )
        return _Reduced(self._functions['_reconstruct_persistent_obj'], (meta,))

    def write(self, path, value, protocol, monkeypatch):
        """value: whatever the file holds, of dictionaries and `module`s."""
        contents = {m: {n: self._functions[n] for n in names} for m, names in self._names.items()}
        contents |= {'dnnlib.util': {'EasyDict': self.EasyDict}, 'torch_utils': {}, 'torch': {}, 'dnnlib': {}}
        with monkeypatch.context() as patch:
            for module, names in contents.items():
                patch.setitem(sys.modules, module, types.ModuleType(module))
                sys.modules[module].__dict__.update(names)
            path.write_bytes(pickle.dumps(value, protocol))
        return path


# TensorFlow -----------------------------------------------------------------------------------------------------------

TF_MAGIC = bytes.fromhex('57fb808b247547db')
TF_TYPES = {'float32': 1, 'float64': 2, 'int32': 3, 'int64': 9, 'bfloat16': 14, 'float16': 19}


def varint(number):
    out = b''
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def masked_crc(data):
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def message(fields):
    """A protocol buffer of [(number, value)]: ints, ('fixed32', int), bytes; zeros are left out, as is usual."""
    out = b''
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        elif isinstance(value, tuple):
            out += varint(number << 3 | 5) + struct.pack('<I', value[1])
        elif value:
            out += varint(number << 3) + varint(value)
    return out


def bundle_entry(array, offset, **changes):
    """What the index says of an array; code, shape, shard, offset, size, crc and slices may be made wrong."""
    said = {
        'code': TF_TYPES[array.dtype.name], 'shape': array.shape, 'shard': 0, 'offset': offset,
        'size': array.nbytes, 'crc': masked_crc(array.tobytes()), 'slices': None,
    } | changes  # fmt: skip
    shape = message([(2, message([(1, side)])) for side in said['shape']])
    fields = [(1, said['code']), (2, shape), (3, said['shard']), (4, said['offset']), (5, said['size'])]
    fields.append((6, ('fixed32', said['crc'])))
    return message(fields + ([] if said['slices'] is None else [(7, said['slices'])]))


def table_block(entries, *, every=16, kind=0):
    """A block of [(key, value)], keys shortened but for every sixteenth, and its trailer."""
    out, restarts, last = b'', [], b''
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    out += b''.join(struct.pack('<I', r) for r in restarts or [0]) + struct.pack('<I', len(restarts or [0]))
    return out + bytes([kind]) + struct.pack('<I', masked_crc(out + bytes([kind])))


def table(entries, *, per_block=4, kind=0):
    """A sorted table of {key: value}, as the index file of a checkpoint is one."""
    items, out, handles = list(entries.items()), b'', []
    for i in range(0, len(items), per_block):
        block = table_block(items[i : i + per_block], kind=kind)
        handles.append((items[i : i + per_block][-1][0], varint(len(out)) + varint(len(block) - 5)))
        out += block
    ends = b''
    for block in (table_block([]), table_block(handles, every=1)):
        ends += varint(len(out)) + varint(len(block) - 5)
        out += block
    return out + ends.ljust(40, b'\0') + TF_MAGIC


BUNDLE_HEADER = message([(1, 1), (3, message([(1, 1)]))])


def write_bundle(folder, arrays, *, prefix='snap-7', changes=None, header=BUNDLE_HEADER, **options):
    """A checkpoint of TensorFlow; changes: {name: of `bundle_entry`}. Returns the path of its index."""
    entries, data = {b'': header}, b''
    for name in sorted(arrays, key=str.encode):
        array = np.asarray(arrays[name])
        entries[name.encode()] = bundle_entry(array, **({'offset': len(data)} | (changes or {}).get(name, {})))
        data += array.tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{prefix}.data-00000-of-00001').write_bytes(data)
    (folder / f'{prefix}.index').write_bytes(table(entries, **options))
    (folder / 'checkpoint').write_text(
        f'model_checkpoint_path: "/data/logs/{prefix}"\nall_model_checkpoint_paths: "a"\n'
    )
    return folder / f'{prefix}.index'
