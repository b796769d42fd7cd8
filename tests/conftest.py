"""Settings for every test: CPU, fast compilation, exact matmuls, strict promotion.

With PEGAN_TEST_AS_USERS=1 programs are compiled and matmuls computed as they are for users: slower to compile, and with
the roundings that optimisation and the platform's default precision bring.
"""

import ctypes
import os
import pathlib
import tempfile
from importlib import metadata

import pytest
import tiers

as_users = os.environ.get('PEGAN_TEST_AS_USERS', '0') == '1'
platforms = os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Tests start processes that compile the same programs: one of them compiles, the others read.
cache = pathlib.Path(__file__).parents[1] / '.cache' / 'jax'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# As the commands have it; tests of one process may compile before they call a command.
flags = [os.environ.get('XLA_FLAGS', ''), '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE']
if platforms == 'cpu' and not as_users:  # the flags are the CPU compiler's
    flags.append('--xla_backend_optimization_level=0')
    if metadata.version('jaxlib').startswith('0.10.'):  # 0.12 stops at this flag and is fast without it
        flags.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join(flags)

import jax  # noqa: E402

if not as_users:
    jax.config.update('jax_default_matmul_precision', 'highest')
jax.config.update('jax_numpy_rank_promotion', 'raise')

LIMIT = 4 * 2**30


def pytest_addoption(parser):
    # pytest has a flag of this name that lists its own fixtures (also spelled --funcargs); ours takes its place.
    group = parser.getgroup('parity')
    group._arggroup.conflict_handler = 'resolve'
    group.addoption('--fixtures', dest='golden', help='folder of golden .npz files, one sub-folder per system')


def pytest_collection_modifyitems(config, items):
    """Marks of tests that were seen to be long. Lines of the list that name no test are an error."""
    listed = tiers.read()
    for item in items:
        own = item.get_closest_marker('hand') or item.get_closest_marker('slow')
        if own:
            item.user_properties.append((tiers.MARKED, own.name))
        if item.nodeid in listed:
            item.add_marker(listed.pop(item.nodeid))
    chosen = config.getoption('golden') or config.getoption('lf', False) or any('::' in arg for arg in config.args)
    files = {item.nodeid.split('::')[0] for item in items}
    if unknown := [test for test in listed if not chosen and test.split('::')[0] in files]:
        raise pytest.UsageError(f'tests/tiers.txt names no test with {unknown[0]}; remove or rename its line.')


def _resident() -> int:
    """Bytes of memory that this process holds; 0 where that cannot be read."""
    statm = pathlib.Path('/proc/self/statm')
    return int(statm.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') if statm.is_file() else 0


@pytest.fixture(scope='module', autouse=True)
def bounded_memory():
    """Programs of finished files go where a process holds more than 4 GiB; the cache on the disk keeps them."""
    yield
    if _resident() > LIMIT:
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', lambda pad: None)  # what is free goes back to the system
        trim(0)
        if _resident() > LIMIT:
            jax.clear_caches()
            trim(0)


@pytest.fixture(scope='session', autouse=True)
def temporary_folder(tmp_path_factory):
    """What libraries and child processes leave in the folder for temporary files goes with pytest's own."""
    folder = str(tmp_path_factory.mktemp('temporary'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TMPDIR', folder)
        patch.setattr(tempfile, 'tempdir', folder)
        yield
