"""Mutated files through every reader of foreign files: no error but the documented one, nothing unbounded or run."""

import codecs
import contextlib
import pickle
import sys
import time
import tracemalloc
from collections import OrderedDict

import foreign
import numpy as np
import pytest
import safetensors.numpy
from foreign import Storages, tensor

from pegan_jax.weights import contents, reader, tensor_bundle
from pegan_jax.weights.contents import ForeignFileError

SECONDS, BYTES = 5.0, 64 * 2**20  # for a file of a few kilobytes
EVENTS = ('exec', 'import', 'os.', 'subprocess', 'socket', 'shutil', 'ctypes', 'marshal', 'pickle.find_class')
ALLOWED = {'os.listdir', 'os.scandir'}
seen = None  # names of what happened while a file was read


@sys.addaudithook
def _audit(event, arguments):
    if seen is not None and event.startswith(EVENTS) and event not in ALLOWED:
        seen.append(f'{event} {arguments!r:.200}')


@contextlib.contextmanager
def watched():
    """Collects what is imported, executed, opened or started meanwhile."""
    global seen
    seen = found = []
    try:
        yield found
    finally:
        seen = None


def whole_files(folder):
    """{kind: bytes} of small files of every kind that is read."""
    rng = np.random.default_rng(0)
    arrays = {f'layer.{i}.weight': rng.normal(size=(3, 4)).astype(np.float32) for i in range(3)}
    tree = {'state': OrderedDict(arrays), 'step': 7, 'rates': [1.5, (2, {'x'}), None, True], 'name': 'text' * 9}

    def with_tensors(storages):
        layers = {name: tensor(storages, array) for name, array in arrays.items()}
        return {'g_ema': OrderedDict(layers), 'step': 7, 'rates': [1.5, (2, {'x'}), None, 'text']}

    storages = Storages()
    foreign.write_zip(folder / 'whole.zip', with_tensors(storages), storages)
    storages = Storages()
    old = foreign.legacy(with_tensors(storages), storages, {})
    index = foreign.write_bundle(folder / 'bundle', arrays, per_block=2)
    return {
        'zip': (folder / 'whole.zip').read_bytes(),
        'legacy': old,
        'pickle': pickle.dumps(tree, protocol=4),
        'nvidia': foreign.dumps({'G': {'class_name': 'training.networks.Generator', 'state': [1, 2]}, 'resolution': 8}),
        'safetensors': safetensors.numpy.save(arrays),
        'bundle': index.read_bytes(),
    }


def mutated(data, others, rng):
    """A file that is no longer what it was, by one or several of the usual ways."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        at, kind = int(rng.integers(len(data))), rng.integers(8)
        length = int(rng.integers(1, 17))
        if kind == 0:
            data[at] = rng.integers(256)
        elif kind == 1:
            data[at] ^= 1 << rng.integers(8)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = rng.bytes(length)
        elif kind == 4:
            data[at:at] = data[at : at + length * 4] * int(rng.integers(1, 9))
        elif kind == 5:
            data = data[:at]
        elif kind == 6:  # numbers at which sizes overflow
            number = rng.choice(
                [0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
            )
            width = int(rng.choice([1, 2, 4, 8]))
            data[at : at + width] = int(number % 2 ** (8 * width)).to_bytes(width, str(rng.choice(['little', 'big'])))
        else:  # a piece of a file of another kind
            other = others[rng.integers(len(others))]
            start = int(rng.integers(len(other)))
            data[at : at + length] = other[start : start + 8 * length]
    return bytes(data)


@pytest.mark.parametrize('count', [3000, pytest.param(100_000, marks=pytest.mark.hand)])
def test_mutated_files_are_read_or_refused(tmp_path, count):
    files = whole_files(tmp_path)
    rng, outcomes, slowest = np.random.default_rng(count), {kind: [0, 0] for kind in files}, 0.0
    names = list(files)
    for codec in ('ascii', 'cp437', 'latin-1', 'raw_unicode_escape', 'unicode_escape', 'utf-8'):
        codecs.lookup(codec)  # Python imports these when they are first needed
    for kind, data in files.items():  # what is whole is read, and whatever that imports is imported
        _read(kind, data, tmp_path)
    tracemalloc.start()
    try:
        for number in range(count):
            kind = names[number % len(names)]
            data = mutated(files[kind], list(files.values()), rng)
            tracemalloc.reset_peak()
            used, begin = tracemalloc.get_traced_memory()[0], time.perf_counter()
            refused = False
            with watched() as found:
                try:
                    _read(kind, data, tmp_path)
                except ForeignFileError as error:
                    refused, text = True, str(error)
                except BaseException as error:
                    (tmp_path / 'failed').write_bytes(data)
                    raise AssertionError(f'{kind} {number}: {type(error).__name__}: {error}') from error
            took, peak = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1] - used
            assert not found, (kind, number, found[:3])
            assert took < SECONDS and peak < BYTES, (kind, number, took, peak)
            assert not refused or len(text) < 2000, (kind, number, text)
            outcomes[kind][refused] += 1
            slowest = max(slowest, took)
    finally:
        tracemalloc.stop()
    assert all(refused > 0.05 * sum((whole, refused)) for whole, refused in outcomes.values()), outcomes
    print(f'{count} files, slowest {slowest:.3f} s; read and refused: {outcomes}')


def _read(kind, data, folder):
    if kind == 'bundle':
        path = folder / 'bundle' / 'snap-7.index'
        path.write_bytes(data)
        return tensor_bundle.read(path)
    path = folder / 'file'
    path.write_bytes(data)
    return contents.arrays(reader.read(path))


def test_the_hook_sees_what_a_file_would_run(tmp_path):
    """So that the test above is not blind."""
    with watched() as found:
        pickle.loads(b"cos\nsystem\n(S'true'\ntR.")
    assert any('os.system' in event for event in found)
