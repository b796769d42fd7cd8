"""Scores of features against loops over their definitions: kernel distance, balls, classes, paths, projections."""

import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax.metrics import neighbours
from pegan_jax.metrics.classes import inception_score, softmax
from pegan_jax.metrics.distribution import monge_distance
from pegan_jax.metrics.kernel import cmmd, kernel_distance
from pegan_jax.metrics.paths import lerp, path_length, slerp

RNG = np.random.default_rng(0)


def test_kernel_distance_of_one_subset_is_its_definition():
    real, fake = RNG.standard_normal((6, 3)), RNG.standard_normal((5, 3)) + 1
    random, m = np.random.RandomState(7), 4
    x, y = fake[random.choice(5, m, replace=False)], real[random.choice(6, m, replace=False)]

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(m) for j in range(m)]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / (m * (m - 1))
    want = within - 2 * sum(k(x[i], y[j]) for i, j in pairs) / m**2
    got = kernel_distance(real, fake, subsets=1, subset_size=4, seed=7)
    assert got.value == pytest.approx(want, rel=1e-12) and got.error == 0
    with pytest.raises(ValueError, match='N, M >= 2'):
        kernel_distance(real[:1], fake)
    with pytest.raises(ValueError, match='expected'):
        kernel_distance(real[:, :2], fake)


def test_kernel_distance_of_all_there_is_has_no_error():
    clouds = RNG.standard_normal((20, 2, 30, 4))
    assert all(kernel_distance(real, fake).error == 0 for real, fake in clouds)  # 100 equal numbers have rounding
    assert kernel_distance(*clouds[0], subset_size=20).error > 0


def test_kernel_distance_has_no_bias_over_subsets_and_grows_with_the_difference():
    clouds = RNG.standard_normal((4, 2000, 8))
    same = [kernel_distance(a, b, subsets=50, subset_size=50) for a in clouds[:2] for b in clouds[2:]]
    assert abs(np.mean([d.value for d in same])) < 4 * np.mean([d.error for d in same])
    far = [kernel_distance(clouds[0], clouds[1] + shift, subsets=50, subset_size=50).value for shift in (0.3, 0.6)]
    assert 10 * same[0].error < far[0] < far[1]


@pytest.mark.parametrize('block', [1, 3, 100])
def test_cmmd_is_a_mean_over_pairs_of_different_embeddings_whatever_the_block(block):
    real, fake = RNG.standard_normal((7, 4)).astype(np.float32), RNG.standard_normal((5, 4)).astype(np.float32) + 0.5
    real, fake = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (real, fake))

    def k(x, y):
        return np.exp(-((x.astype(float) - y) ** 2).sum() / 200)

    within = [np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]) for x in (real, fake)]
    across = np.mean([k(a, b) for a in real for b in fake])
    assert cmmd(real, fake, block=block) == pytest.approx(1000 * (sum(within) - 2 * across), rel=1e-9)
    # With each embedding beside itself, as the paper's program has it.
    more = [np.mean([k(a, b) for a in x for b in x]) for x in (real, fake)]
    added = 1000 * (sum(more) - 2 * across) - cmmd(real, fake, block=block)
    assert 0 < added < 20 / 7 + 20 / 5
    with pytest.raises(ValueError, match='N, M >= 2'):
        cmmd(real[:1], fake)
    with pytest.raises(ValueError, match='expected'):
        cmmd(real[:, :2], fake)


def test_cmmd_has_no_bias_and_grows_with_the_difference():
    clouds = np.random.default_rng(1).standard_normal((80, 60, 6))
    clouds[1::2, :, 0] += np.repeat([0, 0, 1, 2], 10)[:, None]
    clouds /= np.linalg.norm(clouds, axis=-1, keepdims=True)
    found = np.reshape([cmmd(x, y, block=32) for x, y in zip(clouds[::2], clouds[1::2], strict=True)], (4, 10))
    same = found[:2].ravel()
    assert abs(same.mean()) < 3 * same.std() / np.sqrt(20) and same.min() < 0
    assert same.max() < found[2].mean() < found[3].mean() / 2


def by_hand(real, fake, k):
    """Precision, recall, density and coverage from all distances at once."""
    rr, ff, fr = (np.linalg.norm(a[:, None] - b[None], axis=-1) for a, b in ((real, real), (fake, fake), (fake, real)))
    balls_r, balls_f = np.sort(rr, axis=1)[:, k], np.sort(ff, axis=1)[:, k]
    inside = fr <= balls_r
    return (
        inside.any(1).mean(),
        (fr <= balls_f[:, None]).any(0).mean(),
        inside.sum() / (k * len(fake)),
        inside.any(0).mean(),
    )


@pytest.mark.parametrize('block', [7, 64, 1000])
def test_balls_are_those_of_all_distances_whatever_the_block(block):
    real = (RNG.standard_normal((90, 5)) + 100).astype(np.float32)
    fake = (1.3 * RNG.standard_normal((70, 5)) + 100.2).astype(np.float32)
    for k in (1, 3, 5):
        got = neighbours.compare(real, fake, k, block=block)
        np.testing.assert_allclose(got, by_hand(real.astype(float), fake.astype(float), k), rtol=1e-6)


def test_balls_on_manifolds_that_are_known():
    """Reals on a circle: fakes on half of it are precise and cover half; fakes far away do neither."""
    angle = np.sort(RNG.random(400)) * 2 * np.pi
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1).astype(np.float32)
    whole, half = neighbours.compare(circle, circle, 3), neighbours.compare(circle, circle[:200], 3)
    assert whole.precision == whole.recall == whole.coverage == 1 and 1.2 < whole.density < 1.4  # 4 / 3
    assert half.precision == 1 and half.recall == pytest.approx(0.5, abs=0.05)
    assert half.coverage == pytest.approx(0.5, abs=0.05)
    far = neighbours.compare(circle, circle + np.float32([0, 0, 9]), 3)
    assert far == (0, 0, 0, 0)
    one_place = neighbours.compare(circle, np.repeat(circle[:1], 50, axis=0), 3)
    assert one_place.precision == 1 and one_place.recall == pytest.approx(1 / 400) and one_place.coverage < 0.02
    with pytest.raises(ValueError, match=r'k=3; expected .* N, M > k'):
        neighbours.compare(circle, circle[:3], 3)


def test_rounding_to_half_precision_is_asked_for():
    real, fake = (RNG.standard_normal((60, 4)).astype(np.float32) for _ in range(2))
    halves = [x.astype(np.float16).astype(np.float64) for x in (real, fake)]
    r = np.linalg.norm(halves[0][:, None] - halves[0][None], axis=-1).astype(np.float32).astype(np.float16)
    f = np.linalg.norm(halves[1][:, None] - halves[0][None], axis=-1).astype(np.float32).astype(np.float16)
    want = (f <= np.sort(r, axis=1)[:, 3]).any(1).mean()
    assert neighbours.compare(real, fake, 3, half=True, block=32).precision == pytest.approx(want)


def test_inception_score_is_exp_of_mutual_information_in_each_split():
    certain = np.eye(4)[np.arange(40) % 4]
    assert inception_score(certain, 10) == pytest.approx((4, 0))
    assert inception_score(np.full((40, 4), 0.25), 10) == pytest.approx((1, 0))
    p = softmax(RNG.standard_normal((23, 5)) * 3)
    want = []
    for part in (p[:7], p[7:15], p[15:]):
        mean = part.mean(axis=0)
        want.append(np.exp(np.mean([sum(q * np.log(q / m) for q, m in zip(row, mean, strict=True)) for row in part])))
    got = inception_score(p, 3)
    assert got.mean == pytest.approx(np.mean(want), rel=1e-12) and got.std == pytest.approx(np.std(want), rel=1e-9)
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0]])), 0.5)
    with pytest.raises(ValueError, match='N >= 10 splits'):
        inception_score(p[:9])


def test_paths_start_and_end_at_latents_and_great_circles_have_even_steps():
    a, b = RNG.standard_normal((2, 6, 8)).astype(np.float32)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b)]
    ends = [np.asarray(slerp(a, b, jnp.full((6, 1), t))) for t in (0, 0.5, 1)]
    np.testing.assert_allclose(ends[0], unit[0], atol=1e-6)
    np.testing.assert_allclose(ends[2], unit[1], atol=1e-6)
    for first, second in ((0, 1), (1, 2)):
        np.testing.assert_allclose(
            (ends[first] * ends[second]).sum(1), np.cos(np.arccos((unit[0] * unit[1]).sum(1)) / 2), atol=1e-5
        )
    np.testing.assert_allclose(lerp(a, b, 0.25), 0.75 * a + 0.25 * b, atol=1e-6)


def test_path_length_leaves_out_the_percent_at_both_ends():
    distances = np.concatenate([np.arange(1, 1001), [1e9]])
    got = path_length(RNG.permutation(distances))
    assert got == pytest.approx(np.arange(11, 992).mean())
    assert path_length(np.array([3.0])) == 3
    with pytest.raises(ValueError, match='no distances'):
        path_length(np.zeros(0))


def test_monge_distance_of_shifted_features_is_three_times_the_squared_shift():
    x, shift = RNG.standard_normal((50, 6)), np.array([1, 0, 2, 0, 0, 0.5])
    got = monge_distance(x, RNG.permutation(x + shift), directions=20000)
    assert got == pytest.approx(3 * (shift**2).sum(), rel=0.03)
    assert monge_distance(x, x[::-1]) == 0
    line = np.sort(x[:, :1], axis=0) - np.sort(x[:, 1:2], axis=0)
    assert monge_distance(x[:, :1], x[:, 1:2], directions=3) == pytest.approx(3 * (line**2).mean())
    with pytest.raises(ValueError, match='two of one shape'):
        monge_distance(x, x[:-1])
