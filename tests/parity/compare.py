"""Golden files: which check takes one, options, arrays, layouts, tolerances; and what a network does inside."""

import json
import re

import flax.linen as nn
import numpy as np

RULES = {'rtol', 'atol', 'rel_to_max', 'atol_relative_to_max', 'atol_factor_of_key_max', 'max_abs', 'exact'}


def entry(system, name, table):
    """The key of `table` for a file: its system and the longest prefix of its name, or None."""
    keys = [key for key in table if key[0] == system and name.startswith(key[1])]
    return max(keys, key=lambda key: len(key[1]), default=None)


def load(path):
    """(arrays, meta) of a file. meta has, beside what the file says, the folder of the file as 'folder'."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays.pop('meta'))) | {'folder': str(path.parent)}


# Options --------------------------------------------------------------------------------------------------------------


def anything(value):
    """Rule of `fields` for an option that changes no number here."""
    return {}


def fields(options, rules):
    """{field: value} of this library from the options of a file. One that it lacks, or a value, fails by its name.

    options: {option: value}, or None for none.
    rules: {option: name of its field; (values,) that are the only ones here; or a function of the value that gives
      {field: value}, or None for a value that the library lacks}.
    """
    found = {}
    for name, value in (options or {}).items():
        value = tuple(value) if isinstance(value, list) else value
        assert name in rules, f'option {name}={value!r}: this library has no such option'
        rule = rules[name]
        if isinstance(rule, str):
            new = {rule: value}
        elif callable(rule):
            new = rule(value)
        else:
            new = {} if value in rule else None
        assert new is not None, f'option {name}={value!r}: this library lacks this value'
        found |= new
    return found


def select(arrays, prefix):
    """The arrays whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


# Layout ---------------------------------------------------------------------------------------------------------------


def nhwc(x):
    """[..., C, H, W] -> [..., H, W, C]."""
    return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x):
    """[..., H, W, C] -> [..., C, H, W]."""
    return np.moveaxis(np.asarray(x), -1, -3)


# Comparison -----------------------------------------------------------------------------------------------------------


def bound(want, tolerance):
    """Largest allowed |got - want|, elementwise.

    'rtol', 'atol': atol + rtol |want|; 'max_abs' is another word for atol, and 'exact' allows nothing.
    'atol_relative_to_max' and 'atol_factor_of_key_max' replace atol by that factor of max |want|. 'rel_to_max' is that
    factor of max |want| and supersedes all others. A 'note' says nothing to programs.
    """
    rules = {name: value for name, value in tolerance.items() if name != 'note'}
    if not rules or not set(rules) <= RULES:
        raise ValueError(f'tolerance={tolerance} must be made of {sorted(RULES)}')
    largest = np.max(np.abs(want), initial=0.0)
    if 'rel_to_max' in rules:
        return np.full(np.shape(want), rules['rel_to_max'] * largest)
    factor = rules.get('atol_relative_to_max', rules.get('atol_factor_of_key_max'))
    atol = rules.get('atol', rules.get('max_abs', 0.0)) if factor is None else factor * largest
    return atol + rules.get('rtol', 0.0) * np.abs(want)


def assert_close(name, got, want, tolerance):
    """Asserts equal shapes, finite numbers and |got - want| <= bound(want, tolerance) everywhere."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f'{name}: shape {got.shape}, expected {want.shape}'
    assert np.isfinite(got).all(), f'{name}: not finite'
    allowed = bound(want, tolerance)
    excess = np.abs(got - want) - allowed
    if excess.size and excess.max() > 0:
        at = np.unravel_index(excess.argmax(), excess.shape)
        raise AssertionError(
            f'{name}: {np.mean(excess > 0):.1%} of {got.size} elements off; worst at {tuple(map(int, at))}: '
            f'got {got[at]:.8g}, expected {want[at]:.8g} within {allowed[at]:.3g}'
        )


def outputs(arrays):
    """Names of the golden results among the arrays of a fixture file, without 'out/'."""
    return {name.removeprefix('out/') for name in arrays if name.startswith('out/')}


def assert_outputs(arrays, got, tolerance, ignored=()):
    """Asserts that every golden result of the file is within tolerance of that in `got`.

    got: {name: array}, all that can be computed from what the file holds; it may hold the results of a part.
    tolerance: rules as for `bound`, or a function of the name that gives them.
    ignored: patterns of names that this library has nothing to compare with; the caller says why.
    """
    wanted = {name for name in outputs(arrays) if not any(re.fullmatch(pattern, name) for pattern in ignored)}
    assert wanted, 'the file has no results to compare'
    assert wanted <= got.keys(), f'nothing to compare with: {sorted(wanted - got.keys())}'
    for name in sorted(wanted):
        rules = tolerance(name) if callable(tolerance) else tolerance
        assert_close(name, got[name], arrays[f'out/{name}'], rules)


# Inside of networks ---------------------------------------------------------------------------------------------------


def watched(run):
    """(run(), {'b4/conv': (input, output)} of every module that it calls, by path), also inside of jitted functions."""
    seen = {}

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == '__call__' and args:
            seen['/'.join(context.module.path)] = (args[0], out)
        return out

    with nn.intercept_methods(watch):
        result = run()
    return result, seen
