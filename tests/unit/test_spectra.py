"""Radial spectra and wavelet packets."""

import numpy as np
import pytest

from pegan_jax.metrics.gaussians import fit, frechet_distance
from pegan_jax.metrics.spectra import (
    PacketMoments,
    radial_power,
    relative,
    spectral_distance,
    wavelet_distance,
    wavelet_packets,
)

RNG = np.random.default_rng(0)


def test_radial_power_of_a_wave_is_at_its_radius_and_shifts_change_nothing():
    x = np.arange(32) / 32
    wave = 0.5 + 0.25 * np.cos(2 * np.pi * (3 * x[None, :] + 4 * x[:, None]))
    images = np.stack([wave, np.roll(wave, 5, axis=1)])[..., None].repeat(3, axis=-1)
    curves = radial_power(images)
    assert curves.shape == (2, 16)
    np.testing.assert_allclose(curves[0], curves[1], atol=1e-12)
    # |F|^2 of the wave is (0.125 N)^2 at two of the frequencies whose radius is 5, of the mean (0.5 N)^2.
    ky, kx = np.meshgrid(np.fft.fftfreq(32) * 32, np.fft.fftfreq(32) * 32, indexing='ij')
    count = (np.rint(np.hypot(ky, kx)) == 5).sum()
    want = np.zeros(16)
    want[0], want[5] = 1, 2 * (0.125 / 0.5) ** 2 / count
    np.testing.assert_allclose(relative(curves), want, atol=1e-12)
    noise = radial_power(RNG.standard_normal((200, 32, 32, 1)) + 1).mean(axis=0)[1:]
    assert noise.std() / noise.mean() < 0.1  # white: the same at every radius
    assert radial_power(RNG.random((1, 20, 33, 3))).shape == (1, 10)
    colours = RNG.random((1, 8, 8, 3))
    opaque = np.concatenate([colours, np.ones((1, 8, 8, 1))], axis=-1)
    np.testing.assert_array_equal(radial_power(opaque), radial_power(colours))


def test_a_dark_image_weighs_no_more_than_it_shines():
    bright, dark = RNG.random((1, 16, 16, 1)) + 1, 0.01 * RNG.random((1, 16, 16, 1))
    alone, both = (relative(radial_power(x)) for x in (bright, np.concatenate([bright, dark])))
    np.testing.assert_allclose(both, alone, rtol=1e-2, atol=1e-6)
    assert relative(radial_power(np.zeros((2, 8, 8, 1)))).max() == 0


def test_spectral_distance_is_in_decibels():
    curve = np.array([1.0, 0.5, 0.25, 0.125])
    assert spectral_distance(curve, curve) == 0
    assert spectral_distance(curve, np.array([1, 5, 2.5, 1.25])) == pytest.approx(10)


def test_wavelet_packets_are_products_of_haar_matrices():
    images = RNG.standard_normal((3, 16, 32, 2))
    packets = wavelet_packets(images, 2)
    assert packets.shape == (16, 3, 16 * 32 * 2 // 16)
    assert (packets**2).sum() == pytest.approx((images**2).sum())
    with pytest.raises(ValueError, match='multiples of 16'):
        wavelet_packets(RNG.standard_normal((1, 24, 32, 3)))

    def bands(n):
        """The two-level packets of a signal of length n, [4, n / 4, n]."""
        low, high = (np.kron(np.eye(n // 2), row) / np.sqrt(2) for row in ([1, 1], [1, -1]))
        l2, h2 = (np.kron(np.eye(n // 4), row) / np.sqrt(2) for row in ([1, 1], [1, -1]))
        return np.stack([second @ first for first in (low, high) for second in (l2, h2)])

    want = np.einsum('ayh,bxw,nhwc->abnyxc', bands(16), bands(32), images)
    # By the letters of both levels: rows and columns of the first, then of the second.
    want = want.reshape(2, 2, 2, 2, 3, -1).transpose(0, 2, 1, 3, 4, 5).reshape(16, 3, -1)
    np.testing.assert_allclose(packets, want, atol=1e-12)


def test_wavelet_distance_is_the_mean_over_packets():
    real, fake = RNG.integers(0, 256, (2, 60, 16, 16, 3)).astype(np.uint8)
    fake = fake // 2
    sets = []
    for images in (real, fake):
        moments = PacketMoments()
        for start in range(0, 60, 25):
            moments.add(images[start : start + 25])
        sets.append(moments.gaussians())
    by_hand = [
        frechet_distance(fit(a, ddof=1), fit(b, ddof=1))
        for a, b in zip(wavelet_packets(real / 255), wavelet_packets(fake / 255), strict=True)
    ]
    assert len(by_hand) == 256
    assert wavelet_distance(*sets) == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert wavelet_distance(sets[0], sets[0]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match='compare them at 256 x 256'):
        PacketMoments().add(np.zeros((1, 272, 272, 3), np.uint8))
