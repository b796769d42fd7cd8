"""Measures of frequencies, which need no network: radial spectra, and the Frechet distance of wavelet packets."""

import numpy as np

from pegan_jax.metrics.gaussians import Gaussian, Moments, frechet_distance

GREY = (0.299, 0.587, 0.114)
LEVEL = 4  # of wavelet packets
MAX_PACKET = 768  # numbers of a packet: 256 covariances of them take 1.2 GB


def radial_power(images: np.ndarray) -> np.ndarray:
    """Power at every radius of the spectra of grey images (the analysis of Anokhin et al. 2021, figure 7).

    Args:
      images: [N, H, W, C], with one, three or four channels; the fourth, opacity, is left out.
    Returns: [N, min(H, W) // 2] float64: entry r is the mean of |F|^2 over frequencies, in cycles per side of the
      shorter one's pixels, whose rounded radius is r. `relative` turns them into the published curve.
    """
    curves = []
    for image in images:  # one by one: complex numbers of all would take many times their memory
        image = np.asarray(image, np.float64)
        grey = image[..., :3] @ np.array(GREY) if image.shape[-1] >= 3 else image[..., 0]
        curves.append(radial_curve(np.abs(np.fft.fft2(grey)) ** 2))
    return np.stack(curves)


def relative(power: np.ndarray) -> np.ndarray:
    """The mean of curves of `radial_power`, [N, R], divided by its entry 0: [R]."""
    mean = np.mean(power, axis=0)
    return mean / max(mean[0], np.finfo(np.float64).tiny)


def radial_curve(power: np.ndarray) -> np.ndarray:
    """Means over the radii of `radial_power`, [min(H, W) // 2], of a spectrum [H, W] in the order of `np.fft.fft2`."""
    side = min(power.shape)
    y, x = (np.fft.fftfreq(n) * side for n in power.shape)
    radius = np.rint(np.hypot(y[:, None], x[None, :])).astype(int)
    kept = radius < side // 2
    counts = np.bincount(radius[kept], minlength=side // 2)
    return np.bincount(radius[kept], weights=power[kept], minlength=side // 2) / counts


def spectral_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Root mean square difference, in dB, of two curves of `relative`, [R] each; radius 0 is left out."""
    levels = [10 * np.log10(np.maximum(np.asarray(curve[1:], np.float64), 1e-20)) for curve in (real, fake)]
    return float(np.sqrt(np.mean((levels[0] - levels[1]) ** 2)))


def wavelet_packets(images: np.ndarray, level: int = LEVEL) -> np.ndarray:
    """Haar wavelet packets: every band of a level is split again, so that all have the same size.

    Args:
      images: [N, H, W, C], sides multiples of 2^level.
    Returns: [4^level, N, H W C / 4^level] float64, in natural order; the transform is orthogonal.
    Raises: ValueError for other sides.
    """
    packets = np.asarray(images, np.float64)[None]
    if images.ndim != 4 or any(n % 2**level for n in images.shape[1:3]):
        raise ValueError(f'images have the shape {images.shape}; expected [N, H, W, C], sides multiples of {2**level}.')
    for _ in range(level):
        rows = packets[:, :, 0::2], packets[:, :, 1::2]
        rows = rows[0] + rows[1], rows[0] - rows[1]
        bands = [part for row in rows for part in (row[:, :, :, 0::2] + row[:, :, :, 1::2],
                                                   row[:, :, :, 0::2] - row[:, :, :, 1::2])]  # fmt: skip
        packets = np.stack(bands, axis=1).reshape(-1, *bands[0].shape[1:]) / 2
    return packets.reshape(*packets.shape[:2], -1)


class PacketMoments:
    """Gaussians of every wavelet packet of images that arrive in pieces."""

    def __init__(self) -> None:
        self._moments = [Moments() for _ in range(4**LEVEL)]

    def add(self, images: np.ndarray) -> None:
        """Takes images uint8 [n, H, W, C]. Raises: ValueError as `wavelet_packets`, and for more than 256 x 256."""
        if images.shape[1] * images.shape[2] * images.shape[3] > MAX_PACKET * 4**LEVEL:
            raise ValueError(
                f'images of {images.shape[2]} x {images.shape[1]} have packets of more than {MAX_PACKET} numbers, '
                'whose covariances need too much memory; compare them at 256 x 256.'
            )
        for moments, packet in zip(self._moments, wavelet_packets(images / 255.0), strict=True):
            moments.add(packet)

    def gaussians(self) -> list[Gaussian]:
        """One per packet. Raises: ValueError for fewer than two images."""
        return [moments.gaussian(ddof=1) for moments in self._moments]


def wavelet_distance(real: list[Gaussian], fake: list[Gaussian]) -> float:
    """Frechet Wavelet Distance (Veeramacheneni et al. 2025): the mean over packets of the distances of Gaussians.

    As published and as in their program `pytorchfwd`: Haar packets of level 4 of images in [0, 1], without logarithms,
    all channels and positions of a packet in one vector, covariances with N - 1.
    """
    return float(np.mean([frechet_distance(a, b) for a, b in zip(real, fake, strict=True)]))
