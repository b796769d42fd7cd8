"""Checkpoints of TensorFlow: what the reader of tensor bundles reads, and everything that it refuses."""

import struct

import foreign
import numpy as np
import pytest

from pegan_jax.weights import contents, tensor_bundle
from pegan_jax.weights.contents import ForeignFileError

ARRAYS = {
    'net/conv1/bias': np.arange(3, dtype=np.float32),
    'net/conv1/kernel': np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    'net/conv2/kernel': np.arange(6, dtype=np.float64).reshape(6, 1),
    'global_step': np.int32(7),
    'ids': np.arange(4, dtype=np.int64),
    'half': np.arange(4, dtype=np.float16),
    'brain': foreign.bfloat16([1, 2.5]),
    'nothing': np.zeros((0, 3), np.float32),
}
ONE = {'x': np.arange(6, dtype=np.float32)}


def _refused(index, match):
    with pytest.raises(ForeignFileError, match=match) as caught:
        tensor_bundle.read(index)
    assert str(caught.value).startswith(f'{index}: ') and len(str(caught.value)) < 500


def _same(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == np.asarray(array).dtype and got[name].shape == np.shape(array), name
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize('per_block', [1, 4, 100])
def test_arrays_of_every_type_keep_their_names_shapes_and_values(tmp_path, per_block):
    got = tensor_bundle.read(foreign.write_bundle(tmp_path, ARRAYS, per_block=per_block))
    _same(got, ARRAYS)
    assert not any(array.flags.writeable for array in got.values())


def test_a_checkpoint_in_two_data_files_is_read(tmp_path):
    header = foreign.message([(1, 2)])
    index = foreign.write_bundle(tmp_path, ONE, header=header, changes={'x': {'shard': 1}})
    (tmp_path / 'snap-7.data-00000-of-00001').rename(tmp_path / 'snap-7.data-00001-of-00002')
    _refused(index, 'snap-7.data-00000-of-00002 is missing')
    (tmp_path / 'snap-7.data-00000-of-00002').write_bytes(b'')
    _same(tensor_bundle.read(index), ONE)


def test_the_checkpoint_is_found_by_any_of_its_names(tmp_path):
    folder = tmp_path / 'a'
    index = foreign.write_bundle(folder, ONE)
    foreign.write_bundle(folder, ONE, prefix='snap-7-older')
    (folder / 'checkpoint').write_text('model_checkpoint_path: "snap-7"\n')
    for name in ('snap-7', 'snap-7.index', 'snap-7.data-00000-of-00001', 'snap-7.meta', 'checkpoint'):
        assert tensor_bundle.find(folder / name) == index
    assert tensor_bundle.find(folder) == index
    (folder / 'checkpoint').rename(folder / 'checkpoint.txt')
    assert tensor_bundle.find(folder) == index and tensor_bundle.find(folder / 'checkpoint.txt') == index
    assert tensor_bundle.find(tmp_path) is None and tensor_bundle.find(folder / 'other') is None
    folder = folder.rename(tmp_path / 'checkpoint')
    assert tensor_bundle.find(folder) == folder / index.name
    (folder / 'checkpoint.txt').write_text('model_checkpoint_path: "/elsewhere/../../etc/snap-8"')
    with pytest.raises(ForeignFileError, match=r"checkpoint 'snap-8', but there is no such \.index"):
        tensor_bundle.find(folder)
    (folder / 'checkpoint.txt').write_text('something else')
    assert tensor_bundle.find(folder) is None and tensor_bundle.find(folder / 'checkpoint.txt') is None


def test_no_cut_of_the_index_is_accepted(tmp_path):
    index = foreign.write_bundle(tmp_path, ARRAYS)
    data = index.read_bytes()
    for length in range(len(data)):
        index.write_bytes(data[:length])
        _refused(index, 'is no index|is cut off|damaged|declares')


def test_no_changed_byte_goes_unnoticed(tmp_path):
    arrays = {name: ARRAYS[name] for name in ('net/conv1/bias', 'net/conv1/kernel', 'ids')}
    index = foreign.write_bundle(tmp_path, arrays, per_block=2)
    for file in (index, tmp_path / 'snap-7.data-00000-of-00001'):
        data, unnoticed = file.read_bytes(), []
        for i in range(len(data)):
            file.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
            try:
                _same(tensor_bundle.read(index), arrays)
                unnoticed.append(i)
            except ForeignFileError:
                continue
        # Only the zeros that fill up the footer are not looked at.
        assert all(data[i] == 0 and i >= len(data) - 48 for i in unnoticed), (file.name, unnoticed)
        file.write_bytes(data)


def test_a_data_file_that_is_cut_off_is_refused(tmp_path):
    index = foreign.write_bundle(tmp_path, ARRAYS)
    data = tmp_path / 'snap-7.data-00000-of-00001'
    data.write_bytes(data.read_bytes()[:-1])
    _refused(index, 'cut off')
    data.unlink()
    _refused(index, 'data-00000-of-00001 is missing')


@pytest.mark.parametrize(
    'changes, match',
    [
        ({'offset': 8}, 'lies at bytes 8 to 32 of .* which has 24'),
        ({'offset': 2**63}, 'lies at bytes 9223372036854775808'),
        ({'size': 2**40, 'shape': (2**38,)}, 'declares arrays of 1099511627776 bytes; the data has 24'),
        ({'size': 20}, r'20 bytes for the shape \(6,\) of float32'),
        ({'shape': (2**62, 2**62)}, 'not well formed'),
        ({'shape': (1,) * 40}, 'a shape of 40 sides'),
        ({'shape': (2**64 - 1, 6)}, 'not well formed'),
        ({'code': 2}, 'of float64'),
        ({'shard': 1}, 'data file number 1, but there are 1'),
        ({'crc': 1}, 'x is damaged: its checksum'),
        ({'slices': b'\x08\x01'}, 'partitioned'),
    ],
)
def test_entries_that_lie_are_refused(tmp_path, changes, match):
    _refused(foreign.write_bundle(tmp_path, ONE, changes={'x': changes}), match)


def test_entries_that_are_no_plain_numbers_are_left_out_with_a_warning(tmp_path, caplog):
    index = foreign.write_bundle(tmp_path, ARRAYS, changes={'ids': {'code': 7}})
    _same(tensor_bundle.read(index), {name: array for name, array in ARRAYS.items() if name != 'ids'})
    assert 'left out: ids, whose type, number 7' in caplog.text


def test_arrays_on_top_of_each_other_are_refused(tmp_path):
    """They could ask for more memory than the file has bytes."""
    arrays = {f'x{i}': ONE['x'] for i in range(4)}
    index = foreign.write_bundle(tmp_path, arrays, changes={name: {'offset': 0} for name in arrays})
    data = tmp_path / 'snap-7.data-00000-of-00001'
    data.write_bytes(data.read_bytes()[:24])
    _refused(index, 'declares arrays of 96 bytes; the data has 24')


def _index_of(tmp_path, data):
    (tmp_path / 'a.data-00000-of-00001').write_bytes(b'')
    (tmp_path / 'a.index').write_bytes(data)
    return tmp_path / 'a.index'


def _table_of_one_block(block):
    handle = foreign.varint(0) + foreign.varint(len(block) - 5)
    index = foreign.table_block([(b'z', handle)])
    ends = 2 * (foreign.varint(len(block)) + foreign.varint(len(index) - 5))
    return block + index + ends.ljust(40, b'\0') + foreign.TF_MAGIC


def test_a_block_that_is_named_twice_is_refused(tmp_path):
    block = _sealed(b'\0' * 4 + b'\1\0\0\0')
    handle = foreign.varint(0) + foreign.varint(len(block) - 5)
    index = foreign.table_block([(b'y', handle), (b'z', handle)])
    ends = 2 * (foreign.varint(len(block)) + foreign.varint(len(index) - 5))
    data = block + index + ends.ljust(40, b'\0') + foreign.TF_MAGIC
    _refused(_index_of(tmp_path, data), 'the block at byte 0 lies before the end of another one')


def _sealed(content, kind=0):
    return content + bytes([kind]) + struct.pack('<I', foreign.masked_crc(content + bytes([kind])))


@pytest.mark.parametrize(
    'content, match',
    [
        (b'\x00\x01\x00a' + b'\0' * 4 + b'\xff' * 4, 'restarts in 12 bytes'),
        (b'\x01\x01\x00a' + b'\0' * 4 + b'\1\0\0\0', 'runs over its end'),
        (b'\x00\x01\x7fa' + b'\0' * 4 + b'\1\0\0\0', 'runs over its end'),
        (b'\x00\xff\xff\xff\x7f\x00a' + b'\0' * 4 + b'\1\0\0\0', 'runs over its end'),
        (b'\xff' * 30 + b'\0' * 4 + b'\1\0\0\0', 'a number does not end'),
        (b'\x00\x01\x00b' + b'\x00\x01\x00a' + b'\0' * 4 + b'\1\0\0\0', "'a' comes after 'b'"),
        (b'\x00\x01\x00b' + b'\x00\x01\x00b' + b'\0' * 4 + b'\1\0\0\0', "'b' comes after 'b'"),
        (b'\x00\x01\x00a' + b'\0' * 4 + b'\1\0\0\0', 'no header entry'),
        (b'', 'restarts in 0 bytes|no header entry'),
    ],
)
def test_blocks_that_are_sealed_and_still_wrong_are_refused(tmp_path, content, match):
    _refused(_index_of(tmp_path, _table_of_one_block(_sealed(content))), match)


@pytest.mark.parametrize(
    'entries, match',
    [
        ({b'': foreign.message([(1, 1), (2, 1)])}, 'big-endian'),
        ({b'': b''}, 'declares 0 data files'),
        ({b'': foreign.message([(1, 2**40)])}, 'declares 1099511627776 data files'),
        ({b'': foreign.message([(1, b'abc')])}, 'field 1 of a message is no number'),
        ({b'': b'\x0b'}, 'the wire type 3'),
        ({b'': b'\x0a\x7fabc'}, 'runs over the end of its message'),
        ({b'': b'\x0d\x01'}, 'runs over the end of its message'),
        ({b'': b'\x08\xff'}, 'a number does not end'),
        ({b'': foreign.BUNDLE_HEADER, b'\xff\xfe': b''}, 'no UTF-8'),
        ({b'': foreign.BUNDLE_HEADER, b'a': foreign.message([(1, 1), (2, 5), (5, 4)])}, 'field 2 of a message is no m'),
        ({b'': foreign.BUNDLE_HEADER, b'a' * 5000: b''}, 'runs over its end'),
    ],
)
def test_tables_of_nonsense_are_refused(tmp_path, entries, match):
    _refused(_index_of(tmp_path, foreign.table(entries)), match)


def test_compressed_tables_and_huge_ones_are_refused(tmp_path, monkeypatch):
    _refused(_index_of(tmp_path, foreign.table({b'': foreign.BUNDLE_HEADER}, kind=1)), r'compressed block \(type 1\)')
    index = foreign.write_bundle(tmp_path, ARRAYS)
    monkeypatch.setattr(tensor_bundle, 'MAX_NAMES', 5)
    _refused(index, 'more than 5 names')
    monkeypatch.setattr(tensor_bundle, 'MAX_INDEX_BYTES', 100)
    _refused(index, 'at most 100 are read')
    monkeypatch.undo()
    monkeypatch.setattr(tensor_bundle, 'MAX_BYTES', 10)
    _refused(index, 'at most 10 are read')


def test_names_of_a_file_are_shown_without_control_characters(tmp_path):
    index = foreign.write_bundle(tmp_path, {'a\x1b[31m': ONE['x']}, changes={'a\x1b[31m': {'crc': 1}})
    with pytest.raises(ForeignFileError) as caught:
        tensor_bundle.read(index)
    assert '\x1b' not in str(caught.value) and contents.shown('a\x1b[31m') in str(caught.value)
