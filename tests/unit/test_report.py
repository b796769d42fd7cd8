"""The count of FLOPs, and the table of layers."""

import functools

import jax
import jax.numpy as jnp
import pytest

from pegan_jax.config import load_config, system_module
from pegan_jax.gan import images_of
from pegan_jax.train.report import abstract_inputs, layer_table, matmul_flops


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


@pytest.mark.parametrize('name', ['stylegan3:tiny', 'cips:tiny', 'dcgan:tiny', 'deepfill:tiny', 'creps:tiny'])
def test_every_number_of_a_generator_stands_in_one_row(name):
    config = load_config(name)
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    variables = {'params': params['g'], 'buffers': buffers['g']}
    header, *rows, total = (line.split() for line in layer_table(gan, config, variables).splitlines())
    assert header == ['layer', 'parameters', 'buffers', 'output', 'dtype']
    for column, kind in enumerate(('params', 'buffers'), start=1):
        wanted = {}
        for path, leaf in jax.tree.leaves_with_path(variables[kind]):
            layer = jax.tree_util.keystr(path[:-1], simple=True, separator='/')
            wanted[layer] = wanted.get(layer, 0) + leaf.size
        found = {row[0]: int(row[column].replace(',', '')) for row in rows}
        # What lies at the top is of a method, such as the embedding of CIPS; what no layer reads is elsewhere.
        named = {layer: size for layer, size in wanted.items() if layer in found}
        assert {layer: found[layer] for layer in named} == named and (named or kind == 'buffers')
        assert sum(found.values()) == int(total[column].replace(',', '')) == sum(wanted.values())
        assert min(found.values()) >= 0
    image = jax.eval_shape(functools.partial(images_of, gan), variables, abstract_inputs(gan, config, 1))
    pixelwise = name == 'cips:tiny'  # whose pixels come from a function of these layers' weights
    assert pixelwise or 'x'.join(map(str, image.shape)) in {row[3] for row in rows if len(row) > 3}
