"""The interpreter of pickles: what they may hold, and everything that it refuses."""

import argparse
import io
import os
import pathlib
import pickle
import struct
import sys
import time
import types
from collections import OrderedDict, defaultdict

import foreign
import numpy as np
import pytest
from foreign import Call, Name, Persistent, Raw

from pegan_jax.weights import contents
from pegan_jax.weights.contents import Budget, ForeignFileError
from pegan_jax.weights.pickles import Machine


def _read(code):
    return Machine(Budget(), None, None).run(io.BytesIO(code))


def _refused(code, match):
    with pytest.raises(ForeignFileError, match=match) as caught:
        _read(code)
    assert len(str(caught.value)) < 1000
    return True


@pytest.mark.parametrize('protocol', range(6))
def test_what_python_pickles_is_read_in_every_protocol(protocol):
    value = {'n': [1, 2.5, -3, 10**30, True, None], 's': ('text', 'ünï', ()), 'long': list(range(2000))}
    value |= {'d': OrderedDict([('a', {1: 2}), ('b', [])])}
    if protocol > 2:
        value |= {'bytes': b'\x00\xff' * 200, 'set': {1, 2}, 'frozen': frozenset('ab')}
        value |= {'array': np.arange(6, dtype=np.int16).reshape(2, 3).T, 'number': np.float64(0.25)}
    got = _read(pickle.dumps(value, protocol=protocol))
    if protocol > 2:
        np.testing.assert_array_equal(got.pop('array'), value.pop('array'))
    assert got == value


class _Reduces:
    def __init__(self, *reduction):
        self.reduction = reduction

    def __reduce__(self):
        return self.reduction


class Module:
    """Pickled as a torch module is: an object of a class of its program, and its state."""

    def __init__(self, parameters=(), buffers=(), modules=(), **attributes):
        self._parameters, self._buffers, self._modules = (
            OrderedDict(parameters),
            OrderedDict(buffers),
            OrderedDict(modules),
        )
        self._backward_hooks = OrderedDict()
        self.__dict__ |= attributes


def as_theirs(value, protocol, monkeypatch):
    """A pickle whose modules are of a program that is not there when it is read."""
    module = types.ModuleType('theirs.models')
    module.Module, Module.__module__ = Module, 'theirs.models'
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'theirs', types.ModuleType('theirs'))
        patch.setitem(sys.modules, 'theirs.models', module)
        return pickle.dumps(value, protocol)


@pytest.mark.parametrize('protocol', [0, 1, 2, 4, 5])
def test_whole_modules_are_their_state_dicts(protocol, monkeypatch):
    weight, mean = np.arange(6.0).reshape(2, 3), np.ones(3)
    conv = Module(
        {'weight': weight, 'bias': None}, {'mean': mean, 'passing': mean}, _non_persistent_buffers_set={'passing'}
    )
    net = Module(modules={'head': conv, 'act': Module(), 'none': None}, training=False)
    got = _read(as_theirs([net, net], protocol, monkeypatch))
    assert [g.class_name for g in got] == ['theirs.models.Module'] * 2
    assert list(got[0]) == ['head.weight', 'head.mean']
    np.testing.assert_array_equal(got[1]['head.weight'], weight)


def test_the_class_of_a_legacy_module_comes_with_its_source_which_is_not_used():
    class_ = Persistent(('module', Name('theirs.Net'), 'net.py', 'raise SystemExit'))
    new = Call('copyreg._reconstructor', (class_, Name('builtins.object'), None), {'_parameters': {}, '_modules': {}})
    (got,) = _read(foreign.dumps([new]))
    assert got == {} and got.class_name == 'theirs.Net'


@pytest.mark.parametrize('protocol', [0, 2, 5])
def test_settings_beside_the_networks_are_inert(protocol):
    value = {'args': argparse.Namespace(size=8, root=pathlib.PurePosixPath('/a/b')), 'more': defaultdict(list, a=[1])}
    got = _read(pickle.dumps(value, protocol))
    assert got == {'args': {'size': 8, 'root': '/a/b'}, 'more': {'a': [1]}}
    assert got['args'].class_name == 'argparse.Namespace' and list(contents.records(got)) == ['args']
    device, _, three = _read(foreign.dumps([Call('torch.device', ('cuda', 1)), Name('torch.float16'), 3]))
    assert (device, three) == ('cuda:1', 3)


def test_names_and_texts_that_would_grow_without_bound_are_not_made(monkeypatch):
    """A short file can nest lists by reference, and give one long name to many modules inside of each other."""
    nested = []
    for _ in range(60):  # whose text would have 2^60 letters
        nested = [nested, nested]
    assert _read(pickle.dumps(_Reduces(pathlib.PurePosixPath, tuple(nested)), 4)) == 'a list/a list'
    inner = Module({str(i): np.zeros(1) for i in range(9)})
    for _ in range(9):
        inner = Module(modules={'n' * 100_000: inner})
    for _ in range(3):
        inner = Module(modules=dict.fromkeys('abcdefgh', inner))
    code = as_theirs(inner, 4, monkeypatch)
    assert len(code) < 2_000_000
    assert _refused(code, 'takes more than 5,000,000 instructions')


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'function, arguments, asked',
    [
        (os.system, ('touch {marker}',), f'{os.name}.system'),
        (eval, ("open('{marker}', 'w')",), 'builtins.eval'),
        (exec, ("open('{marker}', 'w')",), 'builtins.exec'),
        (getattr, (dict, 'get'), 'builtins.getattr'),
        (__import__, ('os',), 'builtins.__import__'),
        (np.load, ('{marker}',), 'numpy.load'),
        (pickle.loads, (b'',), '_?pickle.loads'),
    ],
)
@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused_by_name(tmp_path, function, arguments, asked, protocol):
    marker = tmp_path / 'marker'
    arguments = tuple(a.format(marker=marker) if isinstance(a, str) else a for a in arguments)
    code = pickle.dumps({'g_ema': _Reduces(function, arguments)}, protocol=protocol)
    # Python 2 called the module of builtins by another name, which the first protocols write.
    asked = asked.replace('builtins', '(builtins|__builtin__)')
    assert _refused(code, f'asks for {asked}, which is not allowed')
    assert not marker.exists()


@pytest.mark.parametrize(
    'value, match',
    [
        (Call(Call('builtins.dict'), ()), 'calls a OrderedDict, which is not allowed'),
        (Call('numpy.ndarray', ((2,),)), 'calls numpy.ndarray, which is not allowed'),
        (Call('torch.FloatStorage', (10**12,)), 'calls torch.FloatStorage, which is not allowed'),
        (Call(Raw(b'}'), ()), 'calls a dict, which is not allowed'),
        (Call('builtins.list', (), {'a': 1}), 'sets attributes of a list'),
        (Call(Raw(b'ccollections\nOrderedDict\nN}b'), ()), 'sets attributes of a'),
        (Raw(b'ccollections\nOrderedDict\n}b'), 'sets attributes of a _Name'),
        (Raw(b'\x82\x01'), 'uses the pickle instruction EXT1|damaged'),
        (Raw(b'Pkey\n'), 'uses the pickle instruction PERSID'),
        (Raw(b'(ios\nsystem\n'), 'uses the pickle instruction INST'),
        (Raw(b'\x8c\x02os\x8c\x06system\x93'), 'asks for os.system'),
        (Raw(b'\x8c\x08builtins\x8c\x0edict.__class__\x93'), 'asks for builtins.dict.__class__'),
        (Raw(b'K\x01K\x02\x93'), 'asks for 1.2'),
        (Call('theirs.models.run', ()), 'calls theirs.models.run, which is not allowed'),
        (Call('argparse.Namespace', (), [1]), 'gives argparse.Namespace a list for attributes'),
        (Raw(b'cos\nsystem\n)\x81'), 'asks for os.system'),
        (Raw(b'cnumpy\nload\n)\x81'), 'asks for numpy.load'),
        (Raw(b'ctorch.hub\nload\n)\x81'), 'asks for torch.hub.load'),
        (Name('os.\x1b[31mred'), r"asks for (os|'os).*x1b.*not allowed"),
        (Call('builtins.set', ([((((),),),)],)), 'key of type tuple'),
        (Raw(b'}}N\x73'), 'key of type dict'),
        (Raw(b']K\x01K\x02\x73'), 'adds items to a list as if it were a dict'),
        (Raw(b'g99\n'), 'damaged.*KeyError'),
        (Raw(b'R'), 'damaged.*IndexError'),
        (Raw(b'N(K\x01u'), 'damaged|adds items'),
        (Call('_codecs.encode', ('a', 'rot13')), 'encodes a str as rot13'),
        (Call('torch._utils._rebuild_parameter', (1, True, None)), 'a parameter that is a int'),
        (Call('torch_utils.persistence._reconstruct_persistent_obj', ([],)), 'described by a list'),
        (Call('numpy.dtype', ('O8', False, True)), 'dtype O8; only plain numbers'),
        (Call('numpy.dtype', ('f4', False, True), (3, '>', None, None, None, -1, -1, 0)), 'byte order'),
        (
            Call(
                'numpy.core.multiarray._reconstruct',
                (Name('numpy.ndarray'), (0,), b'b'),
                (1, (2**40,), Call('numpy.dtype', ('f8', False, True)), False, b'abc'),
            ),
            'shape .1099511627776,. and float64 with 3 bytes',
        ),
    ],
)
def test_every_other_trick_is_refused(value, match):
    assert _refused(foreign.dumps([value]), match)


def test_depth_costs_no_stack_and_memory_is_bounded(monkeypatch):
    depth = 200_000
    deep = _read(b'\x80\x02' + b']' * depth + b'a' * (depth - 1) + b'.')
    with pytest.raises(ForeignFileError, match='nested more than 32 deep'):
        contents.arrays(deep)
    assert depth > sys.getrecursionlimit()

    # Lists that hold the same list twice, 25 deep: a few bytes, but 2^25 ways through them.
    twice = _read(b'\x80\x02' + b']q\x00' + b'](h\x00h\x00eq\x00' * 25 + b'.')
    monkeypatch.setattr(contents, 'MAX_WORK', 100_000)
    with pytest.raises(ForeignFileError, match='takes more than 100,000 instructions'):
        contents.arrays(twice)
    # Copies of one long list.
    long = b']q\x00(' + b'K\x01' * 1000 + b'e'
    code = b'\x80\x02' + long + b'c__builtin__\nlist\nh\x00\x85R' * 200 + b'.'
    assert _refused(code, 'takes more than 100,000 instructions')
    # Many modules with one dictionary of parameters, and many calls with one tuple of arguments.
    array = pickle.dumps(np.zeros(1, 'f4'), 2)[2:-1] + b'q\x010'
    names = b'}(' + b''.join(b'X\x04\x00\x00\x00%04dh\x01' % i for i in range(2000)) + b'u'
    state = b'}X\x0b\x00\x00\x00_parameters' + names + b'sX\x08\x00\x00\x00_modules}sq\x020'
    modules = b'](' + b'ca.b\nC\n)\x81h\x02b' * 100 + b'e.'
    assert _refused(b'\x80\x02' + array + state + modules, 'takes more than 100,000 instructions')
    calls = b'(' + b'N' * 2000 + b'tq\x030](' + b'ctorch\ndevice\nh\x03R' * 100 + b'e.'
    assert _refused(b'\x80\x02' + calls, 'takes more than 100,000 instructions')
    # Keys that share a hash.
    keys = b''.join(b'\x8a\x0c' + (i * (2**61 - 1)).to_bytes(12, 'little') + b'N' for i in range(1, 9))
    assert _refused(b'\x80\x02}(' + keys + b'u.', 'a key of more than 61 bits')
    # Arrays from one long string.
    array = Call(
        'numpy.core.multiarray._reconstruct',
        (Name('numpy.ndarray'), (0,), b'b'),
        (1, (2**20,), Call('numpy.dtype', ('u1', False, True)), False, Raw(b'h\x00')),
    )
    head = b'\x80\x02B' + struct.pack('<I', 2**20) + bytes(2**20) + b'q\x00'
    assert _refused(head + foreign.dumps(array)[2:-1] * 100 + b'.', 'takes more than 100,000 instructions')


def test_the_pickles_written_here_are_pickles():
    value = {'a': [1, 2**40, (2.5, None, True)], 'b': b'x'}
    assert pickle.loads(foreign.dumps(value)) == value


def test_long_numbers_in_a_shape_are_not_multiplied():
    number = b'\x8b' + struct.pack('<i', 50_000) + b'\x7f' * 50_000  # LONG4
    shape = Call('torch.Size', ([Raw(b'h\x63')] * 31 + [0],))
    array = Call(
        'numpy.core.multiarray._reconstruct',
        (Name('numpy.ndarray'), (0,), b'b'),
        (1, shape, Call('numpy.dtype', ('f4', False, True)), False, b''),
    )
    start = time.monotonic()
    assert _refused(b'\x80\x02' + number + b'q\x63' + foreign.dumps(array)[2:], 'has a NumPy array that is not well')
    assert time.monotonic() - start < 1


def test_long_names_cost_what_they_take(monkeypatch):
    name = 'a' * 4000
    monkeypatch.setattr(contents, 'MAX_WORK', 100_000)
    with pytest.raises(ForeignFileError, match='takes more than 100,000 instructions'):
        contents.arrays({name: {name: [np.zeros(1)] * 10_000}})
    with pytest.raises(ForeignFileError, match=r'has a name of 5,000 characters, a.*at most 4,096 are read'):
        contents.arrays({'a' * 5000: np.zeros(1)})
    with pytest.raises(ForeignFileError, match='a number of thousands of digits for a name'):
        contents.arrays({10**5000: np.zeros(1)})
    assert contents.shown(10**5000) == 'a int' and contents.shown([1, None, 0.5, True]) == '[1, None, 0.5, True]'
    assert list(contents.arrays({'a': [np.zeros(1), {'b': np.zeros(1), 3: np.zeros(1)}], '': np.zeros(1)})) == [
        'a.0', 'a.1.b', 'a.1.3', '',
    ]  # fmt: skip
