"""Settings for every test: CPU, fast compilation, strict promotion, exact matmuls."""

import os
import pathlib
from importlib import metadata

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Tests start processes that compile the same programs: one of them compiles, the others read.
cache = pathlib.Path(__file__).parents[1] / '.cache' / 'jax'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
flags = [os.environ.get('XLA_FLAGS', ''), '--xla_backend_optimization_level=0']
if metadata.version('jaxlib').startswith('0.10.'):  # 0.12 stops at this flag and is fast without it
    flags.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join(flags)

import jax  # noqa: E402

jax.config.update('jax_default_matmul_precision', 'highest')
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_addoption(parser):
    # pytest has a flag of this name that lists its own fixtures (also spelled --funcargs); ours takes its place.
    group = parser.getgroup('parity')
    group._arggroup.conflict_handler = 'resolve'
    group.addoption('--fixtures', dest='golden', help='folder of golden .npz files, one sub-folder per system')
