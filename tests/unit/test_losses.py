import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import losses


def test_logistic_losses_at_hand_computed_logits():
    real, fake = jnp.array([0.0, 2.0]), jnp.array([-1.0, 1.0])
    d = (np.log(2) + np.log1p(np.exp(-2))) / 2 + (np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 2
    g = (np.log1p(np.exp(1)) + np.log1p(np.exp(-1))) / 2
    assert losses.logistic_d(real, fake) == pytest.approx(d, rel=1e-6)
    assert losses.logistic_g(fake) == pytest.approx(g, rel=1e-6)


def test_logistic_losses_stay_finite_and_linear_far_out():
    assert losses.logistic_d(jnp.array([-1e4]), jnp.array([1e4])) == 2e4
    assert losses.logistic_g(jnp.array([-1e4])) == 1e4
    assert jax.grad(losses.logistic_g)(jnp.array([-1e4]))[0] == -1


def quadratic(a, x):
    """D(x) = sum a x^2 / 2, whose gradient is a x."""
    return jnp.sum(a[None] * x**2, axis=(1, 2)) / 2


def test_r1_of_a_quadratic_and_its_derivative_are_as_computed_by_hand():
    a = jnp.arange(1.0, 7.0).reshape(2, 3)
    x = jax.random.normal(jax.random.key(0), (4, 2, 3))
    value, slope = jax.value_and_grad(lambda a: losses.r1_penalty(lambda x: quadratic(a, x), x))(a)
    np.testing.assert_allclose(value, np.mean(np.sum((a[None] * x) ** 2, axis=(1, 2))), rtol=1e-5)
    np.testing.assert_allclose(slope, np.mean(2 * a[None] * x**2, axis=0), rtol=1e-5)


def test_r1_is_zero_for_a_constant_and_ignores_an_added_constant():
    a, x = jnp.ones((2, 3)), jax.random.normal(jax.random.key(0), (4, 2, 3))
    assert losses.r1_penalty(lambda x: jnp.full(len(x), 3.0), x) == 0
    with_constant = losses.r1_penalty(lambda x: quadratic(a, x) + 5.0, x)
    assert with_constant == losses.r1_penalty(lambda x: quadratic(a, x), x) > 0
