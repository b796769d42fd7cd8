"""The wheel has all that a user needs: it is installed into a clean environment and used away from the sources."""

import os
import pathlib
import subprocess
import sys
import sysconfig
import zipfile

import pytest

import pegan_jax

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command, cwd):
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir', folder, ROOT, cwd=folder)
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Python of an environment that has the wheel, and by their path the packages that the tests run with."""
    folder = tmp_path_factory.mktemp('clean')
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder)
    python = folder / 'bin' / 'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', wheel, cwd=folder)
    # Python reads no .pth files in a folder that a .pth file names: an editable installation there is not seen.
    packages = pathlib.Path(
        run(python, '-c', "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return python


def test_the_wheel_has_every_file_of_the_package_and_the_configurations(wheel):
    assert wheel.name.startswith(f'pegan_jax-{pegan_jax.__version__}-')
    inside = set(zipfile.ZipFile(wheel).namelist())
    here = [p for p in (ROOT / 'pegan_jax').rglob('*') if p.is_file() and '__pycache__' not in p.parts]
    assert {str(path.relative_to(ROOT)) for path in here} <= inside
    assert {f'pegan_jax/configs/{path.name}' for path in (ROOT / 'configs').glob('*.py')} <= inside
    assert {'pegan_jax/explorer/static/index.html', 'pegan_jax/weights/worlds.npz'} <= inside
    assert not [name for name in inside if name.startswith(('tests/', 'docs/', 'benchmarks/'))]


def test_it_runs_away_from_the_sources_with_a_configuration_of_its_own(installed, tmp_path):
    told = run(installed, '-c', 'import pegan_jax; print(pegan_jax.__version__, pegan_jax.__file__)', cwd=tmp_path)
    version, file = told.split()
    assert version == pegan_jax.__version__ and pathlib.Path(file).is_relative_to(installed.parents[1])
    assert 'examples:' in run(installed, '-m', 'pegan_jax', '--help', cwd=tmp_path)
    assert 'examples:' in run(installed.with_name('pegan_jax'), '--help', cwd=tmp_path)
    dry = run(installed, '-m', 'pegan_jax', 'train', '--config', 'cips:tiny', '--dry-run', cwd=tmp_path)
    assert '"hidden_size": 16' in dry
    assert f'pegan_jax                  {version}' in run(installed, '-m', 'pegan_jax', 'doctor', cwd=tmp_path)
    code = 'from pegan_jax.weights.worlds import load_worlds; print(len(load_worlds()) > 0)'
    assert run(installed, '-c', code, cwd=tmp_path).strip() == 'True'
