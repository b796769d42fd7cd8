"""The count of FLOPs."""

import jax
import jax.numpy as jnp

from pegan_jax.train.report import matmul_flops


def test_matmuls_and_convolutions_count_as_often_as_they_run():
    a, b, image, kernel = jnp.ones((3, 5)), jnp.ones((5, 7)), jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))

    def looped(a, b, image, kernel):
        many = jax.lax.map(jax.jit(lambda a: jnp.sin(a) @ b), jnp.stack([a] * 11))
        y = jax.lax.conv_general_dilated(image, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
        return many, y

    assert matmul_flops(jax.make_jaxpr(looped)(a, b, image, kernel)) == 11 * 2 * 3 * 5 * 7 + 2 * 2 * 4 * 4 * 6 * 9 * 4
    backward = jax.make_jaxpr(jax.grad(lambda x: looped(a, b, x, kernel)[1].sum()))(image)
    assert matmul_flops(backward) == 11 * 2 * 3 * 5 * 7 + 2 * (2 * 2 * 4 * 4 * 6 * 9 * 4)
    depthwise = jax.make_jaxpr(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=4
        )
    )(image, kernel[:, :, :1, :4])
    assert matmul_flops(depthwise) == 2 * 2 * 8 * 8 * 4 * 9
