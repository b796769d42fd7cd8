"""What this machine has for the library: versions, devices, speed, extras, weights, room on the disk."""

import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
from packaging.requirements import Requirement

from pegan_jax.files import CACHE, as_path, in_bucket
from pegan_jax.weights import public

SHOWN = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'tensorflow-datasets')
# The package that tells whether an extra is installed, and what needs it.
EXTRAS = {
    'video': ('imageio_ffmpeg', 'FFmpeg, for MP4'),
    'heif': ('pillow_heif', 'HEIC photographs'),
    'explore': ('starlette', 'the explorer'),
    'view': ('tensorboard', 'TensorBoard, which shows the events of a run'),
    'wandb': ('wandb', 'train.logger=wandb'),
    'hub': ('huggingface_hub', 'models at hf://'),
    'gs': ('gcsfs', 'paths in gs://'),
    's3': ('s3fs', 'paths in s3://'),
}
LIBRARIES = pathlib.Path('/proc/self/maps')  # those that Linux has loaded
LITTLE = 5 * 2**30  # free bytes below which a run would soon fill the disk


class Finding(NamedTuple):
    """One thing that was examined.

    found: what it is, or 'missing' and what needs it.
    advice: what to do about it; '' if nothing has to be done.
    broken: nothing works without it.
    """

    name: str
    found: str
    advice: str = ''
    broken: bool = False


def best_seconds(run: Callable, repeats: int) -> float:
    """Least wall time of run(), which is called once before."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_peaks(size: int | None = None) -> dict[str, float]:
    """{dtype: FLOP/s of a matmul, best of twenty}; bfloat16 only if there are units for it.

    size: rows and columns of both matrices; default: 4096, and 1024 on a CPU, which reaches its peak there.
    """
    on_cpu = jax.default_backend() == 'cpu'
    size = size or (1024 if on_cpu else 4096)
    peaks = {}
    for dtype in ('float32',) if on_cpu else ('float32', 'bfloat16'):
        a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
        matmul = jax.jit(lambda a: a @ a)
        peaks[dtype] = 2 * size**3 / best_seconds(functools.partial(matmul, a), 20)
    return peaks


def examine() -> Iterator[Finding]:
    """Examines everything, in a few seconds; nothing is fetched, and nothing is written except compiled programs."""
    yield from _versions()
    devices = list(_devices())
    yield from devices
    if not any(device.broken for device in devices):
        for dtype, peak in matmul_peaks().items():
            yield Finding(f'matmul {dtype}', f'{peak / 1e9:,.0f} GFLOP/s')
        yield from _allocator()
    yield from _extras()
    yield from _weights(CACHE.expanduser())
    yield _compiled_programs()
    free = shutil.disk_usage('.').free
    advice = 'choose a --workdir on a larger disk: a run keeps several checkpoints' if free < LITTLE else ''
    yield Finding('disk here', f'{free / 2**30:,.1f} GiB free', advice)


def _versions() -> Iterator[Finding]:
    """Python and the libraries; every dependency that is missing, or has a version that the library does not accept."""
    yield Finding('python', f'{platform.python_version()} on {platform.platform()}')
    try:
        yield Finding('pegan_jax', importlib.metadata.version('pegan_jax'))
        required = [Requirement(text) for text in importlib.metadata.requires('pegan_jax') or ()]
    except importlib.metadata.PackageNotFoundError:
        required = []
        yield Finding('pegan_jax', 'runs from a folder', 'install it, so that versions can be checked: pip install .')
    accepted = {r.name: r for r in required if r.marker is None or r.marker.evaluate()}
    for name in dict.fromkeys((*SHOWN, *accepted)):
        requirement = accepted.get(name)
        version = _version(name)
        if version is None or (requirement and not requirement.specifier.contains(version, prereleases=True)):
            wanted = f'{name}{requirement.specifier}' if requirement else name
            yield Finding(name, version or 'missing', f"pip install '{wanted}'", broken=True)
        elif name in SHOWN:
            yield Finding(name, version)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    """JAX's devices and their memory, and an accelerator that JAX does not see."""
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts if a platform that was asked for has no device
        asked = os.environ.get('JAX_PLATFORMS', '')
        told = (str(error).splitlines() or [f'JAX found none for JAX_PLATFORMS={asked!r}'])[0]
        advice = 'set JAX_PLATFORMS=cpu to use the CPU, or install JAX for this device: jax[cuda13] or jax[tpu]'
        yield Finding('devices', f'none: {told}', advice, broken=True)
        return
    for device in devices:
        memory = (device.memory_stats() or {}).get('bytes_limit')
        if memory is None and device.platform == 'cpu':
            memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
        told = '' if memory is None else f', {memory / 2**30:,.1f} GiB'
        yield Finding(f'device {device.id}', f'{device.platform} {device.device_kind}{told}')
    if jax.default_backend() == 'cpu':
        for file, extra, what in (('/dev/nvidia0', 'cuda', 'an NVIDIA GPU'), ('/dev/accel0', 'tpu', 'a TPU')):
            if pathlib.Path(file).exists():
                yield Finding('accelerator', f'{what} that JAX does not use', f"pip install 'pegan_jax[{extra}]'")


def _allocator() -> Iterator[Finding]:
    """What hands out the memory of a CPU: glibc gives large blocks back after every step, and asks for them again."""
    if jax.default_backend() == 'cpu' and platform.libc_ver()[0] == 'glibc' and LIBRARIES.exists():
        if 'tcmalloc' in LIBRARIES.read_text():
            yield Finding('allocator', 'tcmalloc')
        else:
            advice = 'tcmalloc is faster: apt install libtcmalloc-minimal4; LD_PRELOAD=libtcmalloc_minimal.so.4 COMMAND'
            yield Finding('allocator', 'glibc', advice)


def _extras() -> Iterator[Finding]:
    for extra, (package, what) in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        advice = '' if there else f"pip install 'pegan_jax[{extra}]'"
        yield Finding(extra, what if there else f'missing: {what}', advice)


def _weights(cache: pathlib.Path) -> Iterator[Finding]:
    for name, file in public.FILES.items():
        path = public.where(name, cache)
        found, advice = (f'missing: {file.what}', public.advice(name, cache)) if path is None else (str(path), '')
        yield Finding(f'weights {name}', found, advice)


def _compiled_programs() -> Finding:
    """The folder that keeps compiled programs."""
    place = jax.config.jax_compilation_cache_dir
    if not place:
        return Finding('compiled programs', 'not kept', 'every launch compiles again; set JAX_COMPILATION_CACHE_DIR')
    folder = as_path(place)
    if in_bucket(folder):
        return Finding('compiled programs', place)
    size = sum(path.stat().st_size for path in folder.glob('*') if path.is_file()) if folder.is_dir() else 0
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    advice = '' if writable else 'it cannot be written; set JAX_COMPILATION_CACHE_DIR to a folder that can'
    return Finding('compiled programs', f'{place}, {size / 2**20:,.0f} MiB', advice)
