"""The Pallas kernel of contextual attention, interpreted on the CPU in small tiles; compiled for TPUs."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from pegan_jax.models import attention, attention_kernel
from pegan_jax.ops import fir
from pegan_jax.train.targets import described_devices


@pytest.fixture
def on(monkeypatch):
    monkeypatch.setattr(fir, 'KERNELS', True)


def features(seed, *shape):
    """So small that the softmax is of many weights."""
    return jnp.asarray(0.05 * np.random.default_rng(seed).normal(size=shape))


def by_strips(*args):
    """Without the kernel, which does not give the weights."""
    return attention.contextual_attention(*args, return_weights=True)


@pytest.mark.parametrize(
    'grid, background, hole, most',
    [
        ((5, 7), (5, 7), (1, 1), (2, 3)),  # tiles that end outside of both grids
        ((4, 4), (6, 3), (5, 2), (16, 62)),  # one tile, another one of the background
        ((9, 5), (4, 11), (0, 10), (3, 1)),  # strips of one column
        ((3, 3), (3, 3), (1, 1), (3, 3)),  # in the first image no background is left
    ],
)
def test_it_gives_what_strips_give(grid, background, hole, most, on, monkeypatch):
    monkeypatch.setattr(attention_kernel, 'MOST', most)
    with jax.enable_x64(True):
        f, b = (features(i, 2, 2 * h, 2 * w, 3) for i, (h, w) in enumerate((grid, background)))
        mask = jnp.zeros((2, *background, 1)).at[0, hole[0], hole[1]].set(1.0)
        got, want = jax.jit(attention.contextual_attention)(f, b, mask), jax.jit(by_strips)(f, b, mask)
    np.testing.assert_allclose(got.y, want.y, atol=1e-12)
    np.testing.assert_array_equal(got.offsets, want.offsets)
    assert got.weights is None


def test_each_image_meets_its_own_background(on):
    f, b = features(0, 3, 8, 8, 2).astype(jnp.float32), features(1, 3, 8, 8, 2).astype(jnp.float32)
    run = jax.jit(attention.contextual_attention)
    alone = jnp.concatenate([run(f[i : i + 1], b[i : i + 1]).y for i in range(3)])
    np.testing.assert_allclose(run(f, b).y, alone, atol=1e-6)


def test_derivatives_are_those_of_the_strips(on):
    """Where they are asked for, the kernel takes no part: nothing is computed twice."""
    f, b = features(2, 1, 8, 10, 2).astype(jnp.float32), features(3, 1, 8, 10, 2).astype(jnp.float32)

    def score(run, f, b):
        return jnp.sum(run(f, b).y ** 3)

    got, want = (
        jax.grad(functools.partial(score, run), argnums=(0, 1)) for run in (attention.contextual_attention, by_strips)
    )
    for one, other in zip(jax.jit(got)(f, b), jax.jit(want)(f, b), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())
    assert 'pallas' in str(jax.make_jaxpr(attention.contextual_attention)(f, b))
    assert 'pallas' not in str(jax.make_jaxpr(got)(f, b))


def test_tiles_hold_every_position_once_and_neighbours_around_it():
    found = attention_kernel.tiles(5, 7, attention.strips, 8, 128, (2, 3))
    assert sorted(found.number[found.number >= 0]) == list(range(35))
    assert found.index.shape[1] % 128 == 0 and found.span % 8 == 0
    at = int(np.flatnonzero(found.number[0] == 7 + 2)[0])  # row 1, column 2, the last one of its tile
    assert found.index[0][[at - 1, at + 1, at - found.span, at + found.span]].tolist() == [8, 10, 2, 16]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason="pip install 'pegan_jax[tpu]'")
def test_a_tpu_compiles_it_and_stores_no_scores(on):
    place = SingleDeviceSharding(described_devices('v5e:2x2')[0])
    f = jax.ShapeDtypeStruct((1, 128, 170, 96), jnp.float32, sharding=place)
    jax.config.update('jax_enable_compilation_cache', False)  # a process without a TPU cannot read its programs back
    try:
        program = jax.jit(lambda f: attention.contextual_attention(f, f)[:2]).lower(f).compile()
    finally:
        jax.config.update('jax_enable_compilation_cache', True)
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 1
    assert 'f32[1,5440,5440]' not in program.as_text()
