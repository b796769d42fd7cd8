"""The reader of foreign files: the formats that it reads, and every file that it refuses."""

import json
import os
import struct
import time
import zipfile
from collections import OrderedDict

import foreign
import numpy as np
import pytest
import safetensors.numpy
from foreign import Call, Name, Persistent, Storages, tensor

from pegan_jax.weights import contents, reader
from pegan_jax.weights.contents import ForeignFileError


def _write(path, value, storages, kind, itemsizes=None):
    if kind == 'zip':
        foreign.write_zip(path, value, storages)
    elif kind == 'plain':
        path.write_bytes(foreign.dumps(value))
    else:
        path.write_bytes(foreign.legacy(value, storages, itemsizes or {}))
    return path


def _refused(path, match):
    with pytest.raises(ForeignFileError, match=match) as caught:
        reader.read(path)
    assert str(caught.value).startswith(f'{path}: ') and len(str(caught.value)) < 1000
    return True


@pytest.fixture(params=['zip', 'legacy'])
def kind(request):
    return request.param


# What is read ---------------------------------------------------------------------------------------------------------


def test_tensors_of_every_type_keep_their_values(tmp_path, kind):
    storages, values, sizes = Storages(), {}, {}
    for name in foreign.STORAGES:
        array = np.arange(6).reshape(2, 3) % 2 if name == 'bool' else np.arange(-2, 4).reshape(2, 3) * 1.5
        values[name] = np.asarray(array).astype(foreign.bfloat16(0).dtype if name == 'bfloat16' else name)
        sizes[str(len(sizes))] = values[name].itemsize
    tree = OrderedDict((name, tensor(storages, value)) for name, value in values.items())
    got = reader.read(_write(tmp_path / 'a.pt', tree, storages, kind, sizes))
    assert list(got) == list(values)
    for name, value in values.items():
        assert got[name].dtype == value.dtype and not got[name].flags.writeable
        np.testing.assert_array_equal(got[name], value)


def test_views_share_their_storage_and_honour_offset_and_stride(tmp_path, kind):
    storages, data = Storages(), np.arange(12, dtype=np.float32)
    whole = tensor(storages, data, parameter=True)
    transposed = tensor(storages, data, key='0', size=(4, 3), stride=(1, 4))
    part = tensor(storages, data, key='0', size=(2, 2), stride=(5, 2), offset=2)
    scalar = tensor(storages, data, key='0', size=(), stride=(), offset=7)
    empty = tensor(storages, data, key='0', size=(0, 3), stride=(3, 1))
    got = reader.read(_write(tmp_path / 'a.pt', [whole, transposed, part, scalar, empty], storages, kind))
    np.testing.assert_array_equal(got[0], data)
    np.testing.assert_array_equal(got[1], data.reshape(3, 4).T)
    np.testing.assert_array_equal(got[2], [[2, 4], [7, 9]])
    assert got[3].shape == () and got[3] == 7 and got[4].shape == (0, 3)
    assert np.shares_memory(got[0], got[1]) and np.shares_memory(got[0], got[2])


def test_an_empty_storage_is_read(tmp_path, kind):
    storages = Storages()
    got = reader.read(_write(tmp_path / 'a.pt', [tensor(storages, np.zeros((0, 2), np.float32))], storages, kind))
    assert got[0].shape == (0, 2)


def test_containers_and_plain_values_come_as_they_are(tmp_path, kind):
    size = Call('torch.Size', ([2, 3],))
    value = {'a': [1, -(2**40), 2.5, True, None, 'ü', b'\x00\xff'], 'b': {'x', 'y'}, 'c': (1, (2,)), 3: size, 'e': {}}
    got = reader.read(_write(tmp_path / 'a.pt', value, Storages(), kind))
    assert got == value | {3: (2, 3)}


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'plain'])
def test_the_networks_in_a_pickle_are_dictionaries_and_their_source_is_only_text(tmp_path, kind):
    inner = foreign.legacy(
        Persistent(('storage', Name('torch.FloatStorage'), '7', 'cpu', 6, None)),
        {'7': np.arange(6, dtype=np.float32).tobytes()},
        {},
    )
    weight = Call(
        'torch._utils._rebuild_tensor_v2',
        (Call('torch.storage._load_from_bytes', (inner,)), 0, (2, 3), (3, 1), False, Call('collections.OrderedDict')),
    )
    meta = {'class_name': 'Generator', 'module_src': 'raise SystemExit', 'state': {'_parameters': {'weight': weight}}}
    network = Call('torch_utils.persistence._reconstruct_persistent_obj', (meta,))
    value = {'G_ema': network, 'D': Call('dnnlib.util.EasyDict')}
    got = reader.read(_write(tmp_path / 'network.pkl', value, Storages(), kind))
    assert got['D'] == {} and got['G_ema']['module_src'] == 'raise SystemExit'
    found = contents.arrays(got)
    assert list(found) == ['G_ema.state._parameters.weight']
    np.testing.assert_array_equal(found['G_ema.state._parameters.weight'], np.arange(6).reshape(2, 3))


def test_safetensors_are_read(tmp_path):
    path = tmp_path / 'a.safetensors'
    safetensors.numpy.save_file({'a.b': np.arange(6, dtype=np.float16).reshape(2, 3), 'n': np.int64([7])}, path)
    got = reader.read(path)
    assert got['a.b'].dtype == np.float16 and got['n'].tolist() == [7]
    np.testing.assert_array_equal(got['a.b'], np.arange(6).reshape(2, 3))
    path.write_bytes(path.read_bytes()[:-3])
    assert _refused(path, 'is a damaged safetensors file')
    header = json.dumps({'x': {'dtype': 'BF16', 'shape': [2], 'data_offsets': [0, 4]}}).encode()
    path.write_bytes(struct.pack('<Q', len(header)) + header + bytes([128, 63, 0, 192]))
    np.testing.assert_array_equal(reader.read(path)['x'].astype(np.float32), [1.0, -2.0])


@pytest.mark.parametrize(
    'data, match',
    [
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n', 'is a Git LFS pointer.*git lfs pull'),
        (b'<!DOCTYPE html><html><body>Sign in</body></html>', 'is a web page that was saved in place of a download'),
        (b'\n<HTML lang="en">', 'is a web page'),
        (b'{"weights": 1}', 'is JSON text'),
        (b'\x89HDF\r\n\x1a\n' + bytes(9), 'is an HDF5 file'),
        (b'\x1f\x8b\x08' + bytes(9), 'is compressed by gzip; unpack it'),
        (b'a/' + bytes(255) + b'ustar' + bytes(250), 'is a tar archive'),
        (b'\x89PNG\r\n', 'is an image'),
        (b'\x93NUMPY\x01', 'is one NumPy array'),
        (b'', 'is empty'),
    ],
)
def test_a_refusal_says_what_the_file_is(tmp_path, data, match):
    (tmp_path / 'a.pt').write_bytes(data)
    assert _refused(tmp_path / 'a.pt', match)


def test_zip_files_without_a_checkpoint_are_told_apart(tmp_path):
    np.savez_compressed(tmp_path / 'a.npz', x=np.zeros(3))
    assert _refused(tmp_path / 'a.npz', r'is a NumPy archive \(\.npz\)')
    for name, match in (('x/a.PNG', 'is a ZIP of images'), ('x/net.pth', 'with checkpoints inside; unpack it')):
        with zipfile.ZipFile(tmp_path / 'b.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, 'x')
        assert _refused(tmp_path / 'b.zip', match)


# Hostile pickles, in every format -------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'nested'])
def test_a_pickle_that_calls_something_is_refused_in_every_format(tmp_path, kind):
    path, evil = tmp_path / 'a.pt', Call('os.system', ('true',))
    if kind == 'nested':
        data = foreign.legacy(evil, Storages(), {})
        path.write_bytes(foreign.dumps(Call('torch.storage._load_from_bytes', (data,))))
    else:
        _write(path, evil, Storages(), kind)
    assert _refused(path, 'asks for os.system, which is not allowed')


def test_a_storage_inside_a_storage_is_refused(tmp_path):
    def load(data):
        return Call('torch.storage._load_from_bytes', (data,))

    path = tmp_path / 'a.pkl'
    path.write_bytes(foreign.dumps(load(foreign.legacy(load(foreign.legacy({}, {}, {})), {}, {}))))
    assert _refused(path, 'a storage inside the bytes of a storage')
    path.write_bytes(foreign.dumps(load(foreign.dumps([1]))))
    assert _refused(path, 'whose bytes are not in the torch format')


@pytest.mark.parametrize(
    'identity, match',
    [
        ('key', 'refers to something outside that is no storage'),
        (('module', Name('torch.FloatStorage'), '0', 'cpu', 4), 'no storage'),
        (('storage', Name('collections.OrderedDict'), '0', 'cpu', 4), 'unknown type collections.OrderedDict'),
        (('storage', 'FloatStorage', '0', 'cpu', 4), 'unknown type FloatStorage'),
        (('storage', Name('torch.FloatStorage'), '0', 'cpu', -4), 'of -4 values'),
        (('storage', Name('torch.FloatStorage'), 0, 'cpu', 4), 'a storage 0'),
        (('storage', Name('torch.FloatStorage'), '0', 'cpu', 2**60), 'declared with 1152921504606846976 values'),
        (('storage', Name('torch.FloatStorage'), '0', 'cpu', 4, ('1', 0, 2)), 'torch before 0.4'),
    ],
)
def test_a_persistent_id_that_lies_is_refused(tmp_path, kind, identity, match):
    storages = Storages({'0': bytes(16)})
    assert _refused(_write(tmp_path / 'a.pt', [Persistent(identity)], storages, kind), match)


def test_a_storage_outside_the_archive_or_declared_twice_is_refused(tmp_path, kind):
    storages, data = Storages({'0': bytes(16)}), np.zeros(4, np.float32)
    away = _write(tmp_path / 'a.pt', tensor(storages, data, key='../../x'), storages, kind)
    assert _refused(away, r"storage '../../x' has no member|list of storages does not match")
    both = [tensor(storages, data, key='0'), tensor(storages, data.astype(np.int32), key='0')]
    assert _refused(_write(tmp_path / 'b.pt', both, storages, kind), "declares the storage '0' twice")
    path = tmp_path / 'c.pkl'
    path.write_bytes(foreign.dumps(both))
    assert _refused(path, 'refers to a storage, but has none')


@pytest.mark.parametrize(
    'change, match',
    [
        ({'size': (5,), 'stride': (1,)}, 'storage of only 4 values'),
        ({'size': (2,), 'stride': (4,)}, 'storage of only 4 values'),
        ({'offset': 1}, 'storage of only 4 values'),
        ({'size': (2**40,), 'stride': (0,)}, 'storage of only 4 values'),
        ({'size': (-1,)}, 'not all natural numbers'),
        ({'stride': (-1,)}, 'not all natural numbers'),
        ({'offset': -1}, 'not all natural numbers'),
        ({'size': (2**61, 2**61, 8), 'stride': (0, 0, 0)}, 'storage of only 4 values'),
        ({'size': (True,)}, 'not all natural numbers'),
        ({'size': [4]}, 'do not match'),
        ({'size': (2, 2)}, 'do not match'),
        ({'size': (1,) * 100, 'stride': (1,) * 100}, 'do not match'),
        ({'size': (0, 2**61), 'stride': (1, 1)}, 'damaged'),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(tmp_path, kind, change, match):
    storages = Storages()
    value = tensor(storages, np.zeros(4, np.float32), **change)
    assert _refused(_write(tmp_path / 'a.pt', value, storages, kind), match)


# Hostile and damaged files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['/etc/x', '../x', 'archive/../../x', 'archive\\..\\x', 'C:/x'])
def test_a_zip_with_an_unsafe_path_is_refused(tmp_path, name):
    foreign.write_zip(tmp_path / 'a.pt', {}, Storages(), extra=[(name, b'x')])
    assert _refused(tmp_path / 'a.pt', 'unsafe path')


def test_compressed_members_and_declared_sizes_beyond_the_file_are_refused(tmp_path):
    storages = Storages({'0': bytes(10_000_000)})
    foreign.write_zip(tmp_path / 'bomb.pt', {}, storages, compression=zipfile.ZIP_DEFLATED)
    assert os.path.getsize(tmp_path / 'bomb.pt') < 20_000
    assert _refused(tmp_path / 'bomb.pt', 'torch stores its members as they are')

    # A stored member whose two sizes in the central directory agree on a lie.
    storages = Storages()
    foreign.write_zip(tmp_path / 'lie.pt', tensor(storages, np.zeros(4, np.float32)), storages)
    data = bytearray((tmp_path / 'lie.pt').read_bytes())
    at = data.rindex(b'archive/data/0') - 46
    assert data[at : at + 4] == b'PK\x01\x02'
    deflated = bytearray(data)
    deflated[at + 10 : at + 12] = struct.pack('<H', zipfile.ZIP_DEFLATED)
    (tmp_path / 'deflated.pt').write_bytes(deflated)
    assert _refused(tmp_path / 'deflated.pt', 'torch stores its members as they are')
    data[at + 20 : at + 28] = struct.pack('<II', 2**31, 2**31)
    (tmp_path / 'lie.pt').write_bytes(data)
    assert _refused(tmp_path / 'lie.pt', 'declares members of .* bytes in a file of')


def test_a_storage_member_of_another_size_than_declared_is_refused(tmp_path):
    storages = Storages()
    value = tensor(storages, np.zeros(4, np.float32))
    storages['0'] += bytes(4)
    foreign.write_zip(tmp_path / 'a.pt', value, storages)
    assert _refused(tmp_path / 'a.pt', 'declared with 4 values of float32, 16 bytes, but its member has 20')
    (tmp_path / 'b.pt').write_bytes(foreign.legacy(value, storages, {}))
    assert _refused(tmp_path / 'b.pt', "'0' is declared with 4 values but has 5")


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_other_zip_files_are_refused_with_the_reason(tmp_path):
    foreign.write_zip(tmp_path / 'twice.pt', {}, Storages(), extra=[('archive/version', b'x')])
    assert _refused(tmp_path / 'twice.pt', "two members 'archive/version'")
    foreign.write_zip(tmp_path / 'script.pt', {}, Storages(), extra=[('archive/constants.pkl', b'x')])
    assert _refused(tmp_path / 'script.pt', 'TorchScript')
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    assert _refused(tmp_path / 'other.zip', 'without a torch checkpoint')


def test_big_endian_files_are_refused(tmp_path):
    foreign.write_zip(tmp_path / 'a.pt', {}, Storages(), byteorder='big')
    assert _refused(tmp_path / 'a.pt', "byte order 'big'")
    (tmp_path / 'b.pt').write_bytes(
        foreign.legacy({}, Storages(), {}, system=foreign.SYSTEM | {'little_endian': False})
    )
    assert _refused(tmp_path / 'b.pt', "byte order 'big'")
    (tmp_path / 'c.pt').write_bytes(foreign.legacy({}, Storages(), {}, protocol=1002))
    assert _refused(tmp_path / 'c.pt', 'torch format 1002; 1001 is read')


def test_a_file_cut_off_anywhere_is_refused(tmp_path, kind):
    storages = Storages()
    value = {'a': tensor(storages, np.arange(4, dtype=np.float32)), 'b': 'text'}
    whole = _write(tmp_path / 'whole.pt', value, storages, kind).read_bytes()
    path = tmp_path / 'cut.pt'
    # The first pickle of the legacy format, a number, is itself a file that can be read.
    first = len(foreign.dumps(foreign.MAGIC))
    for end in {*range(0, len(whole) - 1, 7)} - {first}:
        path.write_bytes(whole[:end])
        assert _refused(path, 'damaged|cut off|is a zip|byte order|is empty')


def test_changed_bytes_of_a_zip_are_noticed(tmp_path):
    storages = Storages()
    foreign.write_zip(tmp_path / 'a.pt', tensor(storages, np.full(4, 1.5, np.float32)), storages)
    data = (tmp_path / 'a.pt').read_bytes()
    (tmp_path / 'a.pt').write_bytes(data.replace(np.float32(1.5).tobytes(), np.float32(2.5).tobytes(), 1))
    assert _refused(tmp_path / 'a.pt', 'archive/data/0 is damaged: Bad CRC-32')


def test_random_damage_never_escapes_as_another_error(tmp_path, kind):
    storages = Storages()
    value = {'a': tensor(storages, np.arange(4, dtype=np.float32)), 'b': [1, (2.5, {'x'})]}
    whole = _write(tmp_path / 'whole.pt', value, storages, kind).read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / 'damaged.pt', 0
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            reader.read(path)
        except ForeignFileError:
            refused += 1
    assert refused > 50


def test_texts_directories_and_missing_files_are_refused(tmp_path):
    (tmp_path / 'a.txt').write_text('hello')
    assert _refused(tmp_path / 'a.txt', 'no checkpoint')
    for path in (tmp_path, tmp_path / 'none'):
        with pytest.raises(ForeignFileError, match='is not a file'):
            reader.read(path)


def test_declared_lengths_far_beyond_the_file_are_refused_at_once(tmp_path):
    path = tmp_path / 'a.pkl'
    for code in (b'\x8e' + struct.pack('<Q', 2**62), b'\x8d' + struct.pack('<Q', 2**40), b'T' + b'\xff\xff\xff\x7f'):
        path.write_bytes(b'\x80\x04' + code + b'abc.')
        assert _refused(path, 'damaged')
    # A place in the memo far away: an array would need gigabytes for it, a dictionary does not.
    path.write_bytes(b'\x80\x02]r\xff\xff\xff\xff.')
    assert reader.read(path) == []


def test_a_file_above_the_limit_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / 'a.pkl'
    path.write_bytes(foreign.dumps([1, 2, 3]))
    monkeypatch.setattr(reader, 'MAX_BYTES', 8)
    with pytest.raises(ForeignFileError, match='at most 8 are read'):
        reader.read(path)


def test_many_storages_take_time_in_proportion():
    storages, start = reader._LegacyStorages(8), time.monotonic()
    for i in range(30_000):
        storages.get(str(i), np.dtype(np.float32), 0)
    storages.get('all', np.dtype(np.float32), 2)
    assert time.monotonic() - start < 2
    with pytest.raises(ForeignFileError, match='that is 12 bytes in a file of 8'):
        storages.get('more', np.dtype(np.float32), 1)
