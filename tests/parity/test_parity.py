"""Same numbers as the public implementations: `pytest tests/parity --fixtures DIR` compares every DIR/<system>/*.npz.

A file is taken by the check of the longest (system, prefix) that its name starts with; without one it fails.
"""

import importlib
import pathlib

import numpy as np
import pytest
from compare import assert_close, bound, entry, load

# Seconds each; the others show the same.
LONG = set(
    """
    discriminator_skip disc_r16_b8_defaultfir equivariance_metric_r gen_channel_growth gen_csg gen_interp_pad
    gen_official_guided_c4_40 gen_skip_r16 generator_r_64_full interpolation_ops loss_sg2 loss_sg3 loss_step_csg_nobn
    loss_step_zero_pad ms_d_pool ms_g_i_nopad_csg pyramid resize_antialiased_bicubic state_dict_names stylegan2_d
    tf_bundle_tiny train_grads_port_tf train_loop_csg train_steps_skip_r8
""".split()
)
DEFAULT = pathlib.Path(__file__).parent.parent / 'fixtures'

# Of a module that needs a package which is not there, every file fails; the other modules' files are still compared.
CHECKS, MISSING, COUNT = {}, {}, 0
for module in sorted(path.stem for path in pathlib.Path(__file__).parent.glob('check_*.py')):
    try:
        found = importlib.import_module(module).CHECKS
    except ImportError as error:
        MISSING[module] = str(error)
    else:
        CHECKS |= found
        COUNT += len(found)


def fixture_files(config):
    folder = pathlib.Path(config.getoption('--fixtures') or DEFAULT)
    files = sorted(folder.glob('*/*.npz'))
    if not files:
        raise pytest.UsageError(f'--fixtures={folder} holds no <system>/*.npz.')
    return files


def pytest_generate_tests(metafunc):
    if 'path' in metafunc.fixturenames:
        files = fixture_files(metafunc.config)
        marks = {path: [pytest.mark.slow] if path.stem in LONG else [] for path in files}
        metafunc.parametrize('path', [pytest.param(p, marks=marks[p], id=f'{p.parent.name}/{p.stem}') for p in files])


def test_numbers_of_the_public_implementation(path):
    found = entry(path.parent.name, path.stem, CHECKS)
    assert found is not None, f'no check takes {path.parent.name}/{path.name}; not imported: {MISSING}'
    CHECKS[found](*load(path))


def test_every_check_runs_by_default():
    """The compact copy in tests/fixtures has a file for each check, and no two modules check the same."""
    found = {entry(path.parent.name, path.stem, CHECKS) for path in DEFAULT.glob('*/*.npz')}
    assert found == CHECKS.keys(), MISSING
    assert len(CHECKS) == COUNT


def test_unknown_files_have_no_check():
    assert entry('cips', 'unheard_of', CHECKS) is None
    assert entry('unheard_of', 'grids', CHECKS) is None
    assert entry('s', 'abc', {('s', 'a'): 0, ('s', 'ab'): 0, ('t', 'abc'): 0}) == ('s', 'ab')


@pytest.mark.parametrize(
    ('tolerance', 'allowed'),
    [
        ({'rtol': 0.1, 'atol': 1.0}, [1.2, 1.4]),
        ({'rtol': 0.1, 'atol_relative_to_max': 0.5}, [2.2, 2.4]),
        ({'rtol': 0.1, 'atol': 9.0, 'atol_factor_of_key_max': 0.5}, [2.2, 2.4]),
        ({'rtol': 9.0, 'atol': 9.0, 'rel_to_max': 0.5}, [2.0, 2.0]),
    ],
)
def test_tolerances_mean_what_the_files_say(tolerance, allowed):
    want = np.array([2.0, -4.0])
    np.testing.assert_allclose(bound(want, tolerance), allowed)
    assert_close('inside', want + 0.999 * np.array(allowed), want, tolerance)
    with pytest.raises(AssertionError, match='outside'):
        assert_close('outside', want + np.array([0.0, 1.001 * allowed[1]]), want, tolerance)


def test_comparison_refuses_other_shapes_nan_and_unknown_tolerances():
    one = np.ones((1, 2))
    for got in (np.ones((2,)), np.full((1, 2), np.nan)):
        with pytest.raises(AssertionError):
            assert_close('x', got, one, {'atol': 1e9})
    for tolerance in ({}, {'atol': 1.0, 'psnr_db': 0.05}):
        with pytest.raises(ValueError, match='tolerance'):
            assert_close('x', one, one, tolerance)
