"""Design of FIR filters, on the host in float64; the results are constants of a model."""

from collections.abc import Sequence
from typing import Literal

import numpy as np


def setup_filter(
    taps: float | Sequence | np.ndarray | None,
    *,
    normalize: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> np.ndarray:
    """A filter in the form that `ops.upfirdn2d` takes and StyleGAN checkpoints hold.

    Args:
      taps: [n] for both axes, [n, m] for rows and columns of a non-separable filter, a number, or None for 1.
      normalize: divide by the sum.
      flip: reverse every axis.
      gain: the factor on an image that is filtered along both axes.
      separable: keep [n]; otherwise it becomes the outer product with itself. The default is to keep 8 taps and more.
    Returns: [n] or [n, m] float32.
    Raises: ValueError for other ranks, an empty filter, a sum of zero to normalise by, or a separable [n, m].
    """
    f = np.atleast_1d(np.asarray(1.0 if taps is None else taps, np.float64))
    if f.ndim > 2 or f.size == 0:
        raise ValueError(f'filter taps of shape {f.shape}; expected [n] or [n, m] with at least one tap.')
    if separable is None:
        separable = f.ndim == 1 and f.size >= 8
    if separable and f.ndim == 2:
        raise ValueError(f'separable=True, but taps of shape {f.shape} are not those of one axis; give [n].')
    if f.ndim == 1 and not separable:
        f = np.outer(f, f)
    if normalize:
        if f.sum() == 0:
            raise ValueError('filter taps sum to zero and cannot be normalised; use normalize=False.')
        f = f / f.sum()
    if flip:
        f = np.flip(f)
    return (f * gain ** (f.ndim / 2)).astype(np.float32)


def lowpass(
    num_taps: int, cutoff: float, width: float, sampling_rate: float, *, radial: bool = False
) -> np.ndarray | None:
    """Kaiser-windowed low-pass filter with unit gain at frequency 0 (Karras et al. 2021, section 3.2 and appendix C).

    Along an axis h[i] ~ sinc(2 fc x_i) w[i] with x_i = (i - (n - 1) / 2) / sampling_rate and w the Kaiser window whose
    attenuation gives the transition width. The radial filter, h[i, j] ~ J1(2 pi fc r) / (pi r) w[i] w[j] with
    r = |(x_i, x_j)|, has the same response in all directions.

    Args:
      cutoff: fc, where the response is halved; in the same unit as width and sampling_rate, here cycles per image.
      width: that of the whole transition band.
    Returns: [num_taps], or [num_taps, num_taps] if radial, float32; None for a single tap, which would filter nothing.
    Raises: ValueError unless 0 < cutoff < sampling_rate / 2, num_taps >= 1 and width > 0.
    """
    if num_taps < 1:
        raise ValueError(f'num_taps={num_taps}; a filter has at least 1.')
    if num_taps == 1:
        return None
    if not (0 < cutoff < sampling_rate / 2 and width > 0):
        raise ValueError(
            f'cutoff={cutoff}, width={width}, sampling_rate={sampling_rate}: the cutoff must lie between 0 and half '
            'the sampling rate, the width above 0.'
        )
    from scipy import signal, special  # takes as long to import as JAX

    if not radial:
        return signal.firwin(num_taps, cutoff, width=width, fs=sampling_rate).astype(np.float32)
    beta = signal.kaiser_beta(signal.kaiser_atten(num_taps, width / (sampling_rate / 2)))
    x = (np.arange(num_taps) - (num_taps - 1) / 2) / sampling_rate
    r = np.hypot(x[:, None], x[None, :])
    # J1(2 pi fc r) / (pi r) tends to fc at the centre, where an odd number of taps has one.
    centre = r == 0
    r[centre] = 1
    jinc = np.where(centre, cutoff, special.j1(2 * np.pi * cutoff * r) / (np.pi * r))
    window = np.kaiser(num_taps, beta)
    f = jinc * window[:, None] * window[None, :]
    return (f / f.sum()).astype(np.float32)


def windowed(
    num_taps: int, cutoff: float, sampling_rate: float, kind: Literal['lanczos', 'gaussian']
) -> np.ndarray | None:
    """A low-pass filter without a Kaiser window, as a function of x = 2 cutoff t, in samples of the signal to keep.

    sinc(x) sinc(x / 2) for |x| < 2 ('lanczos', a = 2), or exp(-x^2 / (2 0.4^2)) ('gaussian').

    Returns: [num_taps] float32 with sum 1; None for a single tap.
    """
    if num_taps == 1:
        return None
    x = 2 * cutoff * (np.arange(num_taps) - (num_taps - 1) / 2) / sampling_rate
    f = np.sinc(x) * np.sinc(x / 2) * (np.abs(x) < 2) if kind == 'lanczos' else np.exp(-(x**2) / (2 * 0.4**2))
    return (f / f.sum()).astype(np.float32)


def attenuation(num_taps: int, width: float, sampling_rate: float) -> float:
    """Stopband attenuation of `lowpass` in dB (Kaiser): 2.285 (n - 1) pi width / (sampling_rate / 2) + 7.95."""
    return 2.285 * (num_taps - 1) * np.pi * width / (sampling_rate / 2) + 7.95
