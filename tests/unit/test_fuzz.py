"""Mutated files through every reader of foreign files: no error but the documented one, nothing unbounded or run."""

import codecs
import contextlib
import pickle
import re
import sys
import time
import tracemalloc
from collections import OrderedDict

import foreign
import numpy as np
import pytest
import safetensors.numpy
from foreign import Storages, tensor

from pegan_jax import interop
from pegan_jax.settings import UserError
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


def trees():
    """{kind: what `importer.infer` takes}, as small as they are taken for what they are."""

    def zeros(*shape):
        return np.zeros(shape, np.float32)

    def module(name, modules=None, parameters=None, **arguments):
        state = {'_parameters': parameters or {}, '_buffers': {}, '_modules': modules or {}}
        return {'class_name': name, 'state': {**state, '_init_args': (), '_init_kwargs': arguments}}

    port = {
        'input.input': zeros(1, 8, 4, 4), 'style.1.weight': zeros(8, 8), 'style.1.bias': zeros(8),
        'conv1.conv.weight': zeros(1, 8, 8, 3, 3), 'conv1.conv.modulation.weight': zeros(8, 8),
        'to_rgb1.conv.weight': zeros(1, 3, 8, 1, 1), 'convs.0.conv.weight': zeros(1, 8, 8, 3, 3),
        'convs.1.conv.weight': zeros(1, 8, 8, 3, 3), 'to_rgbs.0.conv.weight': zeros(1, 3, 8, 1, 1),
    }  # fmt: skip
    port_d = {
        'convs.0.0.weight': zeros(8, 3, 1, 1), 'convs.1.conv1.0.weight': zeros(8, 8, 3, 3),
        'convs.1.conv2.1.weight': zeros(8, 8, 3, 3), 'convs.1.skip.1.weight': zeros(8, 8, 1, 1),
        'final_linear.0.weight': zeros(8, 128),
    }  # fmt: skip
    cips = {
        'emb.input': zeros(1, 8, 16, 16), 'lff.ffm.conv.weight': zeros(8, 2, 1, 1), 'style.1.weight': zeros(8, 8),
        'conv1.conv.modulation.weight': zeros(16, 8), 'conv1.activate.bias': zeros(8),
        'to_rgbs.0.conv.weight': zeros(1, 3, 8, 1, 1),
    }  # fmt: skip
    adam = {'state': {}, 'param_groups': [{'lr': 0.002, 'betas': (0.0, 0.99), 'eps': 1e-8}]}
    deepfill = {
        'inpaint_net/conv1/kernel': zeros(5, 5, 5, 24), 'inpaint_net/conv17/bias': zeros(3),
        'discriminator/sn_patch_gan/conv1/bias': zeros(64), 'global_step': zeros(),
    }  # fmt: skip
    mmgen = {
        'style_mapping.1.bias': zeros(8), 'style_mapping.1.linear.weight_orig': zeros(8, 8),
        'conv1.conv.weight_orig': zeros(1, 8, 8, 3, 3), 'convs.0.conv.weight_orig': zeros(1, 8, 8, 3, 3),
        'injected_noise_0': zeros(1, 1, 4, 4), 'injected_noise_1': zeros(1, 1, 8, 8),
        'to_rgb1.conv.weight_orig': zeros(1, 3, 8, 1, 1), 'to_rgbs.0.bias': zeros(1, 3, 1, 1),
        'constant_input.input': zeros(1, 8, 4, 4),
    }  # fmt: skip
    dcgan = {'noise2feat.conv.weight': zeros(8, 16, 4, 4), 'output_layer.conv.bias': zeros(3)}
    pggan = {'noise2feat.linear.weight_orig': zeros(128, 8), 'conv_blocks.1.conv.weight_orig': zeros(8, 8, 3, 3)}
    pggan |= {f'torgb_layers.{i}.conv.weight_orig': zeros(3, 8, 1, 1) for i in range(2)}
    shapes = {'head': (8, 3, 3, 3), 'body.block0': (8, 8, 3, 3), 'tail': (3, 8, 3, 3)}
    singan = {f'generator.blocks.0.{layer}.conv.weight': zeros(*shape) for layer, shape in shapes.items()}
    one = {'head.conv.weight': zeros(8, 3, 3, 3), 'body.block1.conv.weight': zeros(8, 8, 3, 3)}
    four = {'Gs': [one | {'tail.0.weight': zeros(3, 8, 3, 3)}], 'Zs': [zeros(1, 3, 26, 26)], 'NoiseAmp': [1.0]}
    sizes = {'c_dim': 0, 'img_resolution': 8, 'img_channels': 3, 'channel_base': 64}
    parts = {'mapping': module('Map'), 'synthesis': module('Net', {'b4': module('Block', None, {'const': zeros(8)})})}
    g_ema = module('Generator', parts, z_dim=8, w_dim=8, mapping_kwargs={'num_layers': 2}, **sizes)
    found = {
        'stylegan2': {'g_ema': port, 'g': port, 'd': port_d, 'latent_avg': zeros(8)},
        'cips': {'g_ema': cips, 'g': cips, 'd': port_d, 'g_optim': adam, 'd_optim': adam},
        'deepfill': deepfill,
        'mmgen': {'state_dict': {f'generator_ema.{name}': array for name, array in mmgen.items()}, 'meta': {}},
        'dcgan': {'state_dict': {f'generator.{name}': array for name, array in dcgan.items()}},
        'pggan': {'state_dict': {f'generator.{name}': array for name, array in pggan.items()}},
        'singan': {'state_dict': singan},
        'singan_original': four | {'reals': [zeros(1, 3, 20, 20)]},
        'nvidia': {'G_ema': g_ema, 'D': module('Discriminator', **sizes)},
    }
    found = {kind: {'tree': tree} for kind, tree in found.items()}
    found['singan']['noises'] = {'fixed_noises': [zeros(1, 3, 26, 26)], 'noise_weights': [1.0]}
    return found


ODD = (
    None, True, -1, 0, 3.5, float('nan'), 1j, 10**30, 'x', b'x', [1, 2], (1,), [None], {}, {'a': 1}, np.zeros(()),
    np.zeros(0), np.zeros(2), np.zeros((1, 2, 3)), np.zeros((1, 0, 2, 2)), np.zeros((1, 1, 1, 1, 1)), np.array(['a']),
    np.array([None]), np.zeros(3, np.int64),
)  # fmt: skip


def places(node, place=()):
    """The keys that lead to everything inside of a tree."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield (*place, key)
        yield from places(node[key], (*place, key))


def changed(node, place, rng):
    """The tree with something odd, nothing, or another name at one place."""
    key, rest = place[0], place[1:]
    node = node.copy()
    if rest:
        node[key] = changed(node[key], rest, rng)
    elif (how := rng.random()) < 0.6 or not isinstance(key, str):
        node[key] = ODD[rng.integers(len(ODD))]
    else:
        found = node.pop(key)
        if how < 0.8:
            node[re.sub(r'\d+', lambda _: str(rng.choice(['0', '7', '999', 30 * '9'])), key)] = found
    return node


@pytest.mark.parametrize('count', [900, pytest.param(50_000, marks=pytest.mark.hand)])
def test_mutated_trees_are_described_or_refused(count):
    rng, kinds = np.random.default_rng(count), trees()
    for kind, given in kinds.items():
        assert interop.importer_of(given['tree']).__name__.endswith(kind if kind not in ('pggan', 'dcgan') else 'early')
        interop.infer(**given)
    refused = 0
    for number in range(count):
        kind = list(kinds)[number % len(kinds)]
        given = kinds[kind]
        for _ in range(rng.integers(1, 3)):
            found = list(places(given)) or [('tree',)]
            given = changed({'tree': None, **given}, found[rng.integers(len(found))], rng)
        given = {'tree': None, **given}
        try:
            interop.infer(given['tree'], noises=given.get('noises'))
            interop.importer_of(given['tree']).arrays(given['tree'])
        except UserError as error:
            refused += 1
            assert len(str(error)) < 2000
        except BaseException as error:
            raise AssertionError(f'{kind} {number}: {type(error).__name__}: {error}') from error
    assert 0.3 * count < refused < 0.95 * count


def test_the_hook_sees_what_a_file_would_run(tmp_path):
    """So that the test above is not blind."""
    with watched() as found:
        pickle.loads(b"cos\nsystem\n(S'true'\ntR.")
    assert any('os.system' in event for event in found)
