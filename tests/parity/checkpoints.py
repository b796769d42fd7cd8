"""From the names and layouts of published checkpoints to those of this library."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from compare import nhwc, select


def flat(w):
    return w.reshape(-1)


def scalar(w):
    return w.reshape(())


def dense(w):
    """(out, in), with any axes of length 1 around them -> [in, out]."""
    w = w[0] if w.ndim == 5 else w
    return w.reshape(w.shape[:2]).T


def conv(w):
    """(out, in, k, k) -> [k, k, in, out]."""
    return w.transpose(2, 3, 1, 0)


def flattened_dense(w, side=4):
    """(out, C * side * side), flattened as C, H, W -> [side * side * C, out], flattened as H, W, C."""
    return w.reshape(len(w), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(w))


def rename(named, rules):
    """{official name: array} -> {our path: array}; rules: (pattern, path or function of its groups, change)."""
    out = {}
    for name, array in named.items():
        found = [(m, path, change) for rule, path, change in rules if (m := re.fullmatch(rule, name))]
        assert len(found) == 1, f'{len(found)} rules match {name}'
        match, path, change = found[0]
        groups = [re.sub(r'\.(\d)', r'_\1', g).replace('.', '/') for g in match.groups()]
        path = path(*groups) if callable(path) else path.format(*groups)
        assert path not in out, f'{path} is filled twice, the second time by {name}'
        out[path] = change(array)
    return out


def dotted(layer):
    """'convs_0' -> 'convs.0', as in published checkpoints."""
    return re.sub(r'_(\d+)$', r'.\1', layer)


def nested(flat_tree):
    """Nested dictionaries of {'a/b': array}."""
    tree = {}
    for path, array in flat_tree.items():
        *parents, leaf = path.split('/')
        node = functools.reduce(lambda t, p: t.setdefault(p, {}), parents, tree)
        node[leaf] = jnp.asarray(array)
    return tree


def paths(tree):
    """{path: leaf} of nested dictionaries."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {'/'.join(p.key for p in path): leaf for path, leaf in leaves}


def check_filled(tree, expected):
    """The converted tree has exactly the paths and shapes that the module would create."""
    got, want = ({k: np.shape(v) for k, v in paths(t).items()} for t in (tree, expected))
    assert got == want, {k: (got.get(k), want.get(k)) for k in got.keys() | want.keys() if got.get(k) != want.get(k)}


def filled(arrays, rules, expected, prefix='param/'):
    """{'params', 'buffers'} of a module from those of a file, which may hold filters of layers that do not resample.

    expected: what the module would create, arrays or their shapes; without buffers there is an empty tree of them.
    """
    named = rename(select(arrays, prefix), rules)
    used = paths(expected.get('buffers', {}))
    named = {k: v for k, v in named.items() if k in used or not k.endswith('resample_filter')}
    variables = {
        'params': nested({k: v for k, v in named.items() if k not in used}),
        'buffers': nested({k: v for k, v in named.items() if k in used}),
    }
    for collection, tree in variables.items():
        check_filled(tree, expected.get(collection, {}))
    return variables


def flat_nhwc(arrays):
    """Arrays of a file, those of four axes with the channels last."""
    return {k: nhwc(v) if v.ndim == 4 else v for k, v in arrays.items()}
