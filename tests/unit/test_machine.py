"""doctor: what is there is shown, what is missing comes with what to type, and only what is essential fails."""

import importlib.util
import json
import pathlib
import re
import shutil
import tomllib
from importlib import metadata

import jax
import pytest

from pegan_jax import machine
from pegan_jax.cli import main
from pegan_jax.weights import public

PROJECT = tomllib.loads((pathlib.Path(__file__).parents[2] / 'pyproject.toml').read_text())['project']


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """A peak that is not measured, and a home without weights."""
    monkeypatch.setattr(machine, 'matmul_peaks', lambda: {'float32': 5e9})
    monkeypatch.setattr(machine, 'CACHE', tmp_path / 'cache')


def found():
    return {finding.name: finding for finding in machine.examine()}


def test_a_machine_on_which_the_tests_run_is_not_broken(capsys):
    assert main(['doctor']) == 0
    out = capsys.readouterr().out
    assert re.search(rf'^jax +{jax.__version__}$', out, re.MULTILINE)
    assert re.search(r'^device 0 +cpu cpu, [\d,.]+ GiB$', out, re.MULTILINE)
    assert re.search(r'^matmul float32 +5 GFLOP/s$', out, re.MULTILINE)
    assert re.search(r'^disk here +[\d,.]+ GiB free$', out, re.MULTILINE)


def test_json_is_the_same_findings(capsys):
    assert main(['doctor', '--json']) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry['name'] for entry in listed] == list(found())
    assert set(listed[0]) == {'name', 'found', 'advice', 'broken'} and not any(entry['broken'] for entry in listed)


def test_the_peak_is_that_of_a_matmul(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(machine, 'best_seconds', lambda run, repeats: run().shape[0] / 64)
    assert machine.matmul_peaks(64) == {'float32': 2 * 64**3}


def test_a_missing_extra_comes_with_the_line_that_installs_it_and_does_no_harm(monkeypatch, capsys):
    find = importlib.util.find_spec
    packages = {package for package, _ in machine.EXTRAS.values()}
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in packages else find(name))
    assert main(['doctor']) == 0
    out = capsys.readouterr().out
    for extra, (_, what) in machine.EXTRAS.items():
        assert f"missing: {what}\n{'':27}-> pip install 'pegan_jax[{extra}]'\n" in out
        assert extra in PROJECT['optional-dependencies']


def test_weights_are_found_in_the_cache_and_missing_ones_say_where_to_put_them(tmp_path):
    address = public.FILES['vgg16'].url
    path = tmp_path / 'cache' / 'weights' / address.rpartition('/')[2]
    assert found()['weights vgg16'].advice.startswith(f'save {address} as {path}')
    path.parent.mkdir(parents=True)
    path.write_bytes(b'')
    assert found()['weights vgg16'] == ('weights vgg16', str(path), '', False)


def test_a_dependency_that_is_too_old_or_missing_is_broken(monkeypatch, capsys):
    version = metadata.version

    def older(name):
        if name == 'optax':
            raise metadata.PackageNotFoundError
        return {'jax': '0.4.30', 'pegan_jax': '0.1.0'}.get(name) or version(name)

    monkeypatch.setattr(metadata, 'version', older)
    monkeypatch.setattr(metadata, 'requires', lambda name: [*PROJECT['dependencies'], 'no-such; extra == "gs"'])
    assert main(['doctor']) == 1
    error = capsys.readouterr().err
    assert error == (
        "error: nothing works until this is fixed: jax (pip install 'jax<0.13,>=0.10.2'); "
        "optax (pip install 'optax<0.3,>=0.2.8').\n"
    )


@pytest.mark.parametrize('error', [RuntimeError('Unable to initialize backend\nmore'), AssertionError()])
def test_no_device_is_broken_and_the_rest_is_still_looked_at(monkeypatch, error):
    def devices():
        raise error

    monkeypatch.setattr(jax, 'devices', devices)
    findings = found()
    assert findings['devices'].broken and 'JAX_PLATFORMS=cpu' in findings['devices'].advice
    assert '\n' not in findings['devices'].found and 'matmul float32' not in findings and 'disk here' in findings


@pytest.fixture
def programs(tmp_path):
    """A folder for compiled programs that is not there yet."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'programs'))
    yield tmp_path / 'programs'
    jax.config.update('jax_compilation_cache_dir', before)


def test_where_compiled_programs_are_kept_how_much_and_whether_it_can_be_written(monkeypatch, programs):
    assert found()['compiled programs'].found == f'{programs}, 0 MiB'
    programs.mkdir()
    (programs / 'one').write_bytes(bytes(3 * 2**20))
    assert found()['compiled programs'] == ('compiled programs', f'{programs}, 3 MiB', '', False)
    monkeypatch.setattr(machine.os, 'access', lambda path, mode: path != programs)
    assert found()['compiled programs'].advice.startswith('it cannot be written')


def test_on_a_cpu_another_allocator_than_that_of_glibc_is_advised(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.platform, 'libc_ver', lambda: ('glibc', '2.36'))
    monkeypatch.setattr(machine, 'LIBRARIES', tmp_path / 'maps')
    assert 'allocator' not in found()  # no Linux
    machine.LIBRARIES.write_text('7f00-7f01 r-xp /usr/lib/libtcmalloc_minimal.so.4.5.10')
    assert found()['allocator'] == ('allocator', 'tcmalloc', '', False)
    machine.LIBRARIES.write_text('7f00-7f01 r-xp /usr/lib/libc.so.6')
    assert found()['allocator'].found == 'glibc' and 'LD_PRELOAD=libtcmalloc' in found()['allocator'].advice


def test_a_disk_that_is_nearly_full_is_told(monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(2**40, 2**40 - 2**30, 2**30))
    assert found()['disk here'].found == '1.0 GiB free' and 'larger disk' in found()['disk here'].advice
