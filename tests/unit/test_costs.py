"""Where the time of a program goes is told by layer, and what its matmuls multiply is what they do."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'benchmarks'))
import costs


def network(x, kernels):
    with jax.named_scope('wide'):
        y = jnp.tanh(jnp.einsum('nc,cd->nd', x, kernels['wide']))
    with jax.named_scope('deep'):
        y, _ = jax.lax.scan(lambda y, k: (jnp.sin(y @ k), None), y, kernels['deep'])
    return jnp.sum(y * y)


@pytest.fixture(scope='module')
def found():
    rng = np.random.default_rng(0)
    kernels = {'wide': rng.normal(size=(96, 128)), 'deep': rng.normal(size=(5, 128, 128)) / 12}
    args = jnp.float32(rng.normal(size=(256, 96))), jax.tree.map(jnp.float32, kernels)
    compiled = jax.jit(jax.grad(network, (0, 1))).lower(*args).compile()
    return costs.costs(compiled, lambda: compiled(*args), depth=1)


def test_products_are_counted_in_loops_too_by_layer_and_direction(found):
    flops = {(c.layer, c.direction): c.flops for c in found if c.kind == 'matmul'}
    wide, deep = 2 * 256 * 96 * 128, 5 * 2 * 256 * 128 * 128
    assert flops == {
        ('wide', 'forward'): wide, ('wide', 'gradient'): 2 * wide,
        ('deep', 'forward'): deep, ('deep', 'gradient'): 2 * deep,
    }  # fmt: skip


def test_the_dearest_come_first_and_a_table_has_sums(found):
    seconds = [cost.seconds for cost in found]
    assert seconds == sorted(seconds, reverse=True) and min(seconds) > 0
    lines = list(costs.table(found, 2))
    kinds = {(cost.direction, cost.kind) for cost in found}
    assert len(lines) == 1 + 2 + len(kinds) and sum(line.startswith('  all ') for line in lines) == len(kinds)


def test_time_in_which_several_ran_is_shared():
    shares = costs._shares([(0, 4_000_000_000, 'a'), (1_000_000_000, 3_000_000_000, 'b')])
    assert shares == {'a': 3.0, 'b': 1.0}


@pytest.mark.parametrize(
    'scope, layer, direction',
    [
        ('jit(step)/jvp(Generator)/b8/conv0/nhwc,cd->nhwd/dot_general', 'Generator/b8', 'forward'),
        ('jit(step)/transpose(jvp(Generator))/b8/conv0/mul', 'Generator/b8', 'gradient'),
        ('jit(step)/transpose(jvp(transpose(jvp(D))))/while/body/mul', 'D', 'second'),
        ('jit(step)/add', '(no layer)', 'forward'),
    ],
)
def test_scopes_name_layers(scope, layer, direction):
    assert costs.layer_of(scope, 2) == (layer, direction)
