"""Which check takes a golden fixture, layout changes and the tolerance rules."""

import numpy as np

RULES = {'rtol', 'atol', 'rel_to_max', 'atol_relative_to_max', 'atol_factor_of_key_max'}


def entry(system, name, table):
    """The key of `table` for a file: its system and the longest prefix of its name, or None."""
    keys = [key for key in table if key[0] == system and name.startswith(key[1])]
    return max(keys, key=lambda key: len(key[1]), default=None)


def nhwc(x):
    """[..., C, H, W] -> [..., H, W, C]."""
    return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x):
    """[..., H, W, C] -> [..., C, H, W]."""
    return np.moveaxis(np.asarray(x), -1, -3)


def bound(want, tolerance):
    """Largest allowed |got - want|, elementwise.

    'rtol', 'atol': atol + rtol |want|. 'atol_relative_to_max' and 'atol_factor_of_key_max' replace atol
    by that factor of max |want|. 'rel_to_max' is that factor of max |want| and supersedes all others.
    """
    if not tolerance or not set(tolerance) <= RULES:
        raise ValueError(f'tolerance={tolerance} must be made of {sorted(RULES)}')
    largest = np.max(np.abs(want), initial=0.0)
    if 'rel_to_max' in tolerance:
        return np.full(np.shape(want), tolerance['rel_to_max'] * largest)
    factor = tolerance.get('atol_relative_to_max', tolerance.get('atol_factor_of_key_max'))
    atol = tolerance.get('atol', 0.0) if factor is None else factor * largest
    return atol + tolerance.get('rtol', 0.0) * np.abs(want)


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


def assert_outputs(arrays, got, tolerance):
    """Asserts that `got` has every golden result of the file and no other, each within tolerance."""
    assert set(got) == outputs(arrays), f'not in both: {sorted(set(got) ^ outputs(arrays))}'
    for name, value in got.items():
        assert_close(name, value, arrays[f'out/{name}'], tolerance)
