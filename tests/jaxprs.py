"""What a traced function computes: its matmuls and convolutions."""

from typing import NamedTuple

import jax


class Contraction(NamedTuple):
    """dtype and shape of its first input; precision that was asked for."""

    dtype: str
    precision: object
    shape: tuple


def contractions(function, *args):
    """The matmuls and convolutions of a function of arrays or their shapes, in the order in which they are computed."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ('dot_general', 'conv_general_dilated'):
                x = eqn.invars[0].aval
                precision = eqn.params['precision']
                yield Contraction(str(x.dtype), precision[0] if isinstance(precision, tuple) else precision, x.shape)
            for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, 'eqns')):
                # A closed one has the other inside.
                inner = getattr(inner, 'jaxpr', inner)
                if hasattr(inner, 'eqns'):
                    yield from walk(inner)

    # The tests ask for exact matmuls everywhere; here the library has to ask itself.
    with jax.default_matmul_precision(None):
        return list(walk(jax.make_jaxpr(function)(*args).jaxpr))
