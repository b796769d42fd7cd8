"""Rules: every source name is used once and every target is filled, or the error says what is wrong."""

import tracemalloc

import jax
import numpy as np
import pytest

from pegan_jax.weights import rules
from pegan_jax.weights.contents import ForeignFileError
from pegan_jax.weights.rules import Rule

RULES = [
    Rule(r'(fc|layer\.\d+)\.weight', '{0}/kernel', rules.dense),
    Rule(r'layer\.(\d+)\.bias', lambda i: f'layer_{i}/bias', rules.flat),
]
TARGET = {
    'layer_0': {'kernel': jax.ShapeDtypeStruct((3, 2), 'float32'), 'bias': jax.ShapeDtypeStruct((2,), 'float32')},
    'fc': {'kernel': jax.ShapeDtypeStruct((1, 4), 'float32')},
}


def _source():
    return {
        'fc.weight': np.arange(4, dtype=np.float64).reshape(4, 1),
        'layer.0.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
        'layer.0.bias': np.ones((1, 2, 1, 1), np.float16),
    }


def test_arrays_get_the_paths_shapes_and_dtypes_of_the_target():
    source = _source()
    got = rules.apply(source | {'step': np.zeros(1)}, RULES, TARGET, ignored=['step'])
    np.testing.assert_array_equal(got['layer_0']['kernel'], source['layer.0.weight'].T)
    np.testing.assert_array_equal(got['layer_0']['bias'], [1, 1])
    np.testing.assert_array_equal(got['fc']['kernel'], [[0, 1, 2, 3]])
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(got))
    source['layer.0.weight'][:] = 9
    assert got['layer_0']['kernel'].max() == 5  # A copy: the file may be gone.


@pytest.mark.parametrize(
    'change, message',
    [
        ({'extra.weight': np.zeros(2)}, r'left over: extra.weight \(2,\)'),
        ({'layer.1.bias': np.zeros(2)}, r'left over: layer.1.bias \(2,\), as there is no layer_1/bias'),
        ({'layer.00.bias': np.zeros(2)}, 'no layer_00/bias'),
        ({'fc.weight': None}, r'not filled: fc/kernel \(1, 4\)'),
        ({'fc.weight': np.zeros((4, 2))}, r'fc.weight for fc/kernel is \(2, 4\), expected \(1, 4\)'),
        ({'fc.weight': np.zeros((2, 3, 2))}, r'fc.weight has the shape .2, 3, 2.: cannot reshape'),
        ({'fc.weight': np.zeros((4, 1), int)}, 'wrong type: fc.weight for fc/kernel is int64'),
        ({'fc.weight': np.full((4, 1), np.nan)}, 'not finite: fc.weight'),
        ({'fc.weight': np.full((4, 1), 1e300)}, 'not finite: fc.weight'),
    ],
)
@pytest.mark.filterwarnings('ignore:overflow')
def test_whatever_does_not_fit_is_named(change, message):
    source = {k: v for k, v in (_source() | change).items() if v is not None}
    with pytest.raises(ForeignFileError, match=message):
        rules.apply(source, RULES, TARGET)


@pytest.mark.parametrize('number', ['0', '40000', '20000000000', '1' + 30 * '0', 5000 * '9'])
def test_a_number_that_is_that_of_no_layer_is_left_over_and_takes_no_memory(number):
    powers = Rule(r'side\.(\d+)', lambda n: f'b{4 << int(n) - 1}/weight', rules.flat)
    tracemalloc.start()
    with pytest.raises(ForeignFileError, match=rf'left over: side\.{number[:90]}'):
        rules.apply({f'side.{number}': np.zeros(1)}, [powers], {})
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert rules.renamed('side.3', np.zeros(1), [powers])[0] == 'b16/weight'


@pytest.mark.parametrize('array', [np.zeros(()), np.array(['text']), np.array([None])])
def test_an_array_that_cannot_be_changed_is_named(array):
    table = [Rule('a', 'a', rules.flattened_dense(4, 4)), Rule('b', 'b', rules.quarter)]
    with pytest.raises(ForeignFileError, match=r'^d: (a|b) has the shape \(1?,?\): '):
        rules.fill('d', {'b' if array.ndim else 'a': array}, table, {})


def test_a_path_that_two_names_claim_is_refused():
    both = [*RULES, Rule(r'other', 'fc/kernel', rules.dense)]
    with pytest.raises(ForeignFileError, match='filled twice: fc/kernel, the second time by other'):
        rules.apply(_source() | {'other': np.zeros((4, 1))}, both, TARGET)


def test_all_problems_are_told_at_once():
    with pytest.raises(ForeignFileError) as error:
        rules.apply({'a': np.zeros(1), 'b': np.zeros(1)}, RULES, TARGET)
    for words in ('left over: a', 'left over: b', 'layer_0/kernel', 'layer_0/bias', 'fc/kernel'):
        assert words in str(error.value)


def test_layouts_equal_what_torch_computes():
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(1, 5, 3, 1, 1)), rng.normal(size=(2, 3))
    np.testing.assert_allclose(x @ rules.dense(weight), np.einsum('oi,ni->no', weight[0, :, :, 0, 0], x))
    weight, x = rng.normal(size=(7, 3 * 4 * 2)), rng.normal(size=(2, 3, 4, 2))
    want = x.reshape(2, -1) @ weight.T
    got = x.transpose(0, 2, 3, 1).reshape(2, -1) @ rules.flattened_dense(4, 2)(weight)
    np.testing.assert_allclose(got, want)
    kernel, x = rng.normal(size=(5, 3, 3, 3)), rng.normal(size=(1, 3, 3, 3))
    want = np.einsum('oiyx,niyx->no', kernel, x)
    got = np.einsum('yxio,nyxi->no', rules.conv(kernel), x.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(got, want)
    assert rules.scalar(np.ones((1,))).shape == ()
