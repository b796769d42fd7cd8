"""Devices that are not here, for which programs can be compiled: slices of TPUs, GPUs of one host."""

import importlib.util
import os

from jax.experimental import topologies

from pegan_jax.settings import UserError

# What CUDA says of a device, in the text form of XLA's GpuTargetConfigProto.
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared} shared_memory_per_core: {shared_of_core} core_count: {cores}
  l2_cache_size: {l2} clock_rate_ghz: {ghz} memory_bandwidth: {bandwidth} device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} minor: 0 }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{name}"
"""
GPUS = {
    'a100': dict(
        name='NVIDIA A100-SXM4-80GB', major=8, cores=108, fpus=64, shared=166_912, shared_of_core=167_936,
        l2=40 * 2**20, ghz=1.41, bandwidth=2_039_000_000_000, memory=80 * 2**30,
    ),
    'h100': dict(
        name='NVIDIA H100 80GB HBM3', major=9, cores=132, fpus=128, shared=232_448, shared_of_core=233_472,
        l2=50 * 2**20, ghz=1.98, bandwidth=3_352_000_000_000, memory=79 * 2**30,
    ),
}  # fmt: skip


def described_devices(topology: str) -> list:
    """Devices that programs can be compiled for and that are not here.

    Args:
      topology: a slice of TPUs, such as 'v5e:4x4', or a number of GPUs of one host, such as 'h100:8'.
    Raises: UserError if the compiler for them is missing, or for a name that it does not know.
    """
    kind, _, count = topology.partition(':')
    if kind in GPUS:
        return _gpus(topology, kind, count)
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f"--topology {topology} needs TPU's compiler, which runs anywhere: pip install 'pegan_jax[tpu]'."
        )
    # Without these libtpu looks for a TPU and its neighbours, or for other processes that compile.
    for name, value in {
        'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_STDERR_LOG_LEVEL': '3', 'TPU_MIN_LOG_LEVEL': '3',
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
    except Exception as error:  # of several types
        raise UserError(
            f'--topology {topology}: {str(error).splitlines()[0]}; write a kind and its shape, such as v5e:4x4, '
            f'v5p:2x2x4 or v6e:16x16, or {" or ".join(f"{gpu}:8" for gpu in GPUS)}.'
        ) from None


def _gpus(topology: str, kind: str, count: str) -> list:
    if importlib.util.find_spec('jax_cuda13_plugin') is None:
        raise UserError(
            f"--topology {topology} needs CUDA's compiler, which runs on any Linux: pip install 'pegan_jax[cuda]'."
        )
    if not count.isdecimal() or not 1 <= int(count) <= 16:
        raise UserError(f'--topology {topology}: write how many GPUs the host has, 1 to 16, such as {kind}:8.')
    target = _GPU.format(**GPUS[kind])
    return topologies.get_topology_desc(
        platform='cuda', topology_name=kind, target_config=target, topology=f'1x1x{count}'
    ).devices


def memory_of(device: object) -> int | None:
    """Bytes of a described GPU, whose compiler does not refuse what is larger; None: unknown, or the compiler does."""
    return next((gpu['memory'] for gpu in GPUS.values() if gpu['name'] == device.device_kind), None)
