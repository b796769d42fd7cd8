import numpy as np
import pytest
from scipy import signal

from pegan_jax import filters


def response(f, cycles, angle=0.0):
    """Real response of a symmetric [n] or [n, n] filter at a frequency in cycles per tap, in a direction."""
    n = f.shape[0]
    x = np.arange(n) - (n - 1) / 2
    if f.ndim == 1:
        return np.sum(f * np.cos(2 * np.pi * cycles * x))
    phase = x[None, :] * np.cos(angle) + x[:, None] * np.sin(angle)
    return np.sum(f * np.cos(2 * np.pi * cycles * phase))


# Filters of checkpoints -----------------------------------------------------------------------------------------------


def test_short_filters_become_products_and_long_ones_stay_separable():
    short, long = filters.setup_filter([1, 3, 3, 1]), filters.setup_filter(range(1, 9))
    np.testing.assert_allclose(short, np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64)
    np.testing.assert_allclose(long, np.arange(1, 9) / 36, rtol=1e-6)
    assert short.dtype == long.dtype == np.float32
    assert filters.setup_filter([1, 3, 3, 1], separable=True).shape == (4,)
    assert filters.setup_filter(range(1, 9), separable=False).shape == (8, 8)
    np.testing.assert_array_equal(filters.setup_filter(None), [[1]])


@pytest.mark.parametrize('taps', [[1, 2, 4], range(1, 10), [[1, 2], [3, 5]]])
def test_gain_is_that_of_an_image_filtered_along_both_axes(taps):
    f = filters.setup_filter(taps, gain=3.0)
    assert (f.sum() ** 2 if f.ndim == 1 else f.sum()) == pytest.approx(3, rel=1e-6)


def test_flip_reverses_every_axis_and_normalize_can_be_left_out():
    np.testing.assert_array_equal(filters.setup_filter([[1, 2], [3, 5]], normalize=False, flip=True), [[5, 3], [2, 1]])


@pytest.mark.parametrize(
    'options, match',
    [
        ({'taps': []}, 'at least one tap'),
        ({'taps': np.ones((2, 2, 2))}, r'shape \(2, 2, 2\)'),
        ({'taps': [[1, 2], [3, 4]], 'separable': True}, 'separable=True'),
        ({'taps': [1, -1]}, 'normalize=False'),
    ],
)
def test_filters_that_cannot_be_set_up_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        filters.setup_filter(options.pop('taps'), **options)


# Low-pass filters -----------------------------------------------------------------------------------------------------

DESIGNS = [(12, 2.0, 4.58, 32), (24, 9.3, 13.5, 128), (36, 7.5, 2.0, 48), (11, 3.0, 2.5, 20)]


@pytest.mark.parametrize('n, cutoff, width, rate', DESIGNS)
def test_lowpass_is_the_kaiser_windowed_sinc(n, cutoff, width, rate):
    """Against the formula; the window's attenuation follows from the width in units of half the sampling rate."""
    attenuation = 2.285 * (n - 1) * np.pi * width / (rate / 2) + 7.95
    x = np.arange(n) - (n - 1) / 2
    want = np.sinc(2 * cutoff * x / rate) * np.kaiser(n, signal.kaiser_beta(attenuation))
    np.testing.assert_allclose(filters.lowpass(n, cutoff, width, rate), want / want.sum(), atol=1e-7)


@pytest.mark.parametrize('radial', [False, True])
@pytest.mark.parametrize('n, cutoff, width, rate', DESIGNS)
def test_lowpass_passes_constants_and_about_half_of_the_cutoff(n, cutoff, width, rate, radial):
    f = filters.lowpass(n, cutoff, width, rate, radial=radial)
    assert f.dtype == np.float32 and f.shape == ((n, n) if radial else (n,))
    assert response(f, 0) == pytest.approx(1, abs=1e-6)
    assert response(f, cutoff / rate) == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(f, np.flip(f))
    if width > 10:
        assert abs(response(f, (cutoff + width) / rate)) < 0.01


def test_radial_lowpass_is_the_same_in_all_directions_and_the_product_is_not():
    n, cutoff, width, rate = DESIGNS[1]
    along, across = (response(filters.lowpass(n, cutoff, width, rate, radial=True), 0.07, a) for a in (0, np.pi / 4))
    assert along == pytest.approx(across, abs=0.02)
    f = filters.lowpass(n, cutoff, width, rate)
    along, across = (response(np.outer(f, f), 0.07, a) for a in (0, np.pi / 4))
    assert abs(along - across) > 0.05


def test_a_single_tap_filters_nothing_and_is_none():
    assert filters.lowpass(1, 2.0, 4.0, 16) is None


@pytest.mark.parametrize(
    'arguments, match',
    [
        ((0, 2.0, 4.0, 16), 'num_taps=0'),
        ((12, 8.0, 4.0, 16), 'cutoff=8.0'),
        ((12, 0.0, 4.0, 16), 'cutoff=0.0'),
        ((12, 2.0, 0.0, 16), 'width=0.0'),
    ],
)
def test_designs_outside_the_band_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        filters.lowpass(*arguments)
