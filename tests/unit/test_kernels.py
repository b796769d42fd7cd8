"""The Pallas kernels, interpreted on the CPU in tiles so small that images have several; compiled for TPU and GPU."""

import functools
import importlib.util
import pathlib

import check_operators
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import load
from jax import export
from jax.sharding import SingleDeviceSharding
from test_operators import assert_same_orders, draw, naive_filtered_lrelu, naive_upfirdn2d

from pegan_jax import filters, ops
from pegan_jax.ops import fir, kernels
from pegan_jax.train.targets import described_devices

pytestmark = pytest.mark.slow

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'stylegan3'
# Small tiles, in the shapes that devices take.
TPU, GPU = kernels.Blocks(2, 8, 128, 8, False), kernels.Blocks(2, 16, 16, 1, True)


@pytest.fixture
def on(monkeypatch):
    monkeypatch.setattr(fir, 'KERNELS', True)


@pytest.fixture
def tiled(monkeypatch, on):
    """Chooses the tiles of what is traced from then on."""
    return lambda blocks: monkeypatch.setattr(kernels, '_blocks', lambda *_: blocks)


# The same numbers -----------------------------------------------------------------------------------------------------

FIR_CASES = [
    (TPU, (12,), {'up': 2, 'padding': (9, 8, 6, 7), 'gain': 4.0}),
    (TPU, (12,), {'down': 2, 'padding': (0, 3, -2, 1)}),
    (TPU, (5,), {'up': (2, 1), 'down': (1, 3), 'padding': (2, 1, 4, 0), 'gain': 2.5}),
    (TPU, (3, 4), {'up': 4, 'down': 2, 'padding': (-3, 8, 5, -2), 'flip_filter': True}),
    (GPU, (6, 6), {'down': 4, 'padding': 2}),
    (GPU, None, {'up': 3, 'down': 2, 'padding': (1, 0, -2, 4), 'gain': 9.0}),
]


@pytest.mark.parametrize('blocks, taps, options', FIR_CASES)
def test_upfirdn2d_and_its_derivatives_follow_the_definition(blocks, taps, options, tiled):
    tiled(blocks)
    with jax.enable_x64(True):
        x, f = draw(2, 13, 19, 3), None if taps is None else draw(*taps)
        want = functools.partial(naive_upfirdn2d, f=f, **options)
        got = functools.partial(ops.upfirdn2d, f=f, **options)
        assert_same_orders(got, want, draw(*jax.eval_shape(want, x).shape), x)


LRELU_CASES = [
    (TPU, (8,), (8,), {'up': 2, 'down': 2, 'padding': (6, 5, 6, 5)}),
    (TPU, (8,), (4, 4), {'up': 4, 'down': 2, 'padding': (-3, 2, 5, -2)}),
    (GPU, None, (6,), {'up': 1, 'down': 4, 'padding': 3}),
    (GPU, (6, 5), None, {'up': 2, 'down': 1, 'padding': (3, 4, 2, 5)}),
]


@pytest.mark.parametrize('blocks, up_taps, down_taps, options', LRELU_CASES)
def test_filtered_lrelu_and_its_derivatives_follow_the_definition(blocks, up_taps, down_taps, options, tiled):
    tiled(blocks)
    with jax.enable_x64(True):
        x, b = draw(1, 11, 14, 3), draw(3)
        fu, fd = (None if t is None else 0.3 * draw(*t) for t in (up_taps, down_taps))
        want = functools.partial(naive_filtered_lrelu, fu=fu, fd=fd, clamp=1.5, **options)
        got = functools.partial(ops.filtered_lrelu, fu=fu, fd=fd, clamp=1.5, **options)
        assert_same_orders(got, want, draw(*jax.eval_shape(want, x, b).shape), x, b)


@pytest.mark.parametrize('name', ['upfirdn2d', 'filtered_lrelu'])
def test_golden_numbers_are_met(name, tiled):
    tiled(TPU)
    getattr(check_operators, name)(*load(FIXTURES / f'{name}.npz'))


def test_more_channels_than_lanes_are_tiles_too(tiled, monkeypatch):
    tiled(TPU._replace(channels=16))
    x, f = jnp.float32(draw(2, 9, 7, 37)), filters.lowpass(6, 1.0, 2.0, 8)
    run = functools.partial(ops.filtered_lrelu, b=None, fu=f, fd=f, up=2, down=2, padding=6)
    got = jax.jit(run)(x)
    monkeypatch.setattr(fir, 'KERNELS', False)
    np.testing.assert_allclose(got, jax.jit(lambda x: run(x))(x), atol=2e-6 * np.max(np.abs(got)))


def test_bfloat16_loses_no_more_than_with_xla(on, monkeypatch):
    """Beside float64; a filter of bfloat16 taps would be half as exact."""
    f = filters.lowpass(12, 1.0, 2.0, 8)
    x = jnp.asarray(1 + 0.01 * draw(1, 40, 24, 2), jnp.bfloat16)
    with jax.enable_x64(True):
        want = naive_upfirdn2d(jnp.float64(x), np.float64(f), up=2, padding=9, gain=4.0)

    def error():
        y = jax.jit(lambda x: ops.upfirdn2d(x, f, up=2, padding=9, gain=4.0))(x)
        assert y.dtype == jnp.bfloat16
        return float(np.sqrt(np.mean((np.float64(y) - want) ** 2)))

    with_kernel = error()
    monkeypatch.setattr(fir, 'KERNELS', False)
    assert with_kernel < 1.1 * error()


# What devices compile -------------------------------------------------------------------------------------------------


def layer(x, b, radial):
    """A layer of StyleGAN3 and its gradients."""
    fu, fd = (filters.lowpass(12, 1.0, 2.0, 8, radial=kind) for kind in (False, radial))

    def score(x, b):
        y = ops.filtered_lrelu(x, b, fu, fd, up=2, down=2, padding=(9, 8, 9, 8), clamp=256.0)
        return jnp.sum(y.astype(jnp.float32) ** 2)

    return jax.grad(score, argnums=(0, 1))(x, b)


@pytest.mark.parametrize('radial, dtype', [(False, 'bfloat16'), (True, 'float32')])
def test_a_gpu_gets_triton_kernels(radial, dtype, on):
    x, b = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 36, 36, 48), (48,)))
    checks = [export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')]
    run = jax.jit(functools.partial(layer, radial=radial))
    assert (
        export.export(run, platforms=['cuda'], disabled_checks=checks)(x, b).mlir_module().count('xla.gpu.triton') == 2
    )


@pytest.fixture
def no_cache():
    """A process without a TPU cannot read its programs back."""
    jax.config.update('jax_enable_compilation_cache', False)
    yield
    jax.config.update('jax_enable_compilation_cache', True)


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason="pip install 'pegan_jax[tpu]'")
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('radial', [False, True])
def test_a_tpu_compiles_the_kernels_and_stores_no_upsampled_image(radial, dtype, on, no_cache):
    place = SingleDeviceSharding(described_devices('v5e:2x2')[0])
    channels = 48 if radial else 256
    shapes = (2, 148, 148, channels), (channels,)
    x, b = (jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape in shapes)
    program = jax.jit(functools.partial(layer, radial=radial)).lower(x, b).compile()
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 2
    assert program.memory_analysis().temp_size_in_bytes < 4 * x.size * x.dtype.itemsize
