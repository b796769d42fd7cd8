"""Maps of generators at random inputs, which the studies measure, and sums over batches of them.

A *feature source* is a function (key, count, head) -> {layer: maps [count, H, W, C]}; `head` says what the first
convolution sees: 'own', the generator's own input; 'iid', standard normal numbers; 'identical', one random vector at
all positions, and no noise.
"""

import collections
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import ops
from pegan_jax.config import load_config, system_module
from pegan_jax.gan import GAN, Completer, images_of
from pegan_jax.settings import UserError

Head = Literal['own', 'iid', 'identical']
Features = Callable[[jax.Array, int, Head], dict[str, jax.Array]]


def random_layers(key: jax.Array, depth: int, width: int, kernel_size: int = 3) -> list[tuple[jax.Array, jax.Array]]:
    """Kernels [k, k, width, width] ~ N(0, 2 / (1.04 k^2 width)), which keep the variance, and biases ~ N(0, 0.2^2)."""
    std = math.sqrt(2 / (1.04 * kernel_size**2 * width))
    keys = jax.random.split(key, 2 * depth)
    shape = (kernel_size, kernel_size, width, width)
    kernels = [std * jax.random.normal(k, shape) for k in keys[:depth]]
    return list(zip(kernels, [0.2 * jax.random.normal(k, (width,)) for k in keys[depth:]], strict=True))


def stack(x: jax.Array, layers: Sequence[tuple[jax.Array, jax.Array]], *, padding: bool) -> list[jax.Array]:
    """F_1 = conv(x) + b_1, F_l = conv(lrelu(F_l-1)) + b_l with a slope of 0.2, of x [N, H, W, C].

    padding: zeros that keep the size of the maps; otherwise a k x k kernel costs k - 1 rows and columns.
    """
    maps = []
    for kernel, bias in layers:
        x = jax.nn.leaky_relu(x, 0.2) if maps else x
        x = ops.bias_act(ops.conv2d(x, kernel, padding=kernel.shape[0] // 2 if padding else 0), bias)
        maps.append(x)
    return maps


def _head(head: Head, key: jax.Array, x: jax.Array) -> jax.Array:
    """What stands in for an input [N, H, W, C]."""
    if head == 'identical':
        return jnp.broadcast_to(jax.random.normal(key, (x.shape[0], 1, 1, x.shape[-1])), x.shape)
    return jax.random.normal(key, x.shape) if head == 'iid' else x


def stack_features(layers: Sequence[tuple[jax.Array, jax.Array]], size: tuple[int, int], *, padding: bool) -> Features:
    """The maps of `stack` on i.i.d. numbers, its own head. `size`: that of the last maps; with padding, of all."""
    lost = 0 if padding else sum(kernel.shape[0] - 1 for kernel, _ in layers)

    def features(key: jax.Array, count: int, head: Head) -> dict[str, jax.Array]:
        x = jnp.zeros((count, size[0] + lost, size[1] + lost, layers[0][0].shape[2]))
        maps = stack(_head('iid' if head == 'own' else head, key, x), layers, padding=padding)
        return {f'conv {i + 1}': y for i, y in enumerate(maps)}

    return features


def record_maps(run: Callable[[], jax.Array], head: Callable[[jax.Array], jax.Array]) -> dict[str, jax.Array]:
    """All maps [N, H, W, C] that the Flax modules called by run() return, by path; its own result is 'image'.

    Later calls by the same path, such as those of SinGAN's scales, are 'path (2)', 'path (3)' ...
    Modules around others and to-RGB layers are left out. The input of the first layer, x, becomes head(x).
    """
    maps, calls, first = {}, collections.Counter(), []

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        is_layer = context.method_name == '__call__' and args and getattr(args[0], 'ndim', 0) == 4
        if is_layer and not first and min(args[0].shape[1:3]) > 1:
            first.append(context.module.path)
            args = (head(args[0]), *args[1:])
        y = call(*args, **kwargs)
        if context.method_name == '__call__' and getattr(y, 'ndim', 0) == 4 and context.module.path:
            path = '/'.join(context.module.path)
            calls[path] += 1
            maps[path if calls[path] == 1 else f'{path} ({calls[path]})'] = path, y
        return y

    with nn.intercept_methods(intercept):
        image = run()
    inner = [path for path in calls if not any(other.startswith(f'{path}/') for other in calls) and 'rgb' not in path]
    return {name: y for name, (path, y) in maps.items() if path in inner} | {'image': image}


def network_features(gan: GAN, variables: dict) -> Features:
    """The maps of a generator at random latents, by layer, with new noise for every image if it has any.

    Args:
      gan: one whose generator has maps; variables: {'params', 'buffers'} of the generator.
    Raises: ValueError for generators without maps or latents.
    """
    sampler = gan.sampler
    # Latents that are keys stand for noise in every scale, which no head replaces.
    if isinstance(sampler, Completer) or sampler.pixelwise or sampler.draw([0]).dtype.kind != 'f':
        raise UserError('this study is about maps of convolutions on latents; use a system that has them.')
    shape = sampler.draw([0]).shape[1:]

    def features(key: jax.Array, count: int, head: Head) -> dict[str, jax.Array]:
        z_key, noise_key, head_key = jax.random.split(key, 3)
        options = {'scale': 0} if 'scale' in sampler.options else {}
        if 'noise' in sampler.options:
            options['noise'] = 'none' if head == 'identical' else jax.random.split(noise_key, count)
        z = jax.random.normal(z_key, (count, *shape))
        run = functools.partial(images_of, gan, variables, z, **options)
        return record_maps(run, functools.partial(_head, head, head_key))

    return features


def random_network(config: str, key: jax.Array) -> Features:
    """`network_features` of a shipped configuration's generator with random weights, such as 'mspie:i,tiny'."""
    loaded = load_config(config)
    gan = system_module(loaded.system).build(loaded)
    params, buffers, _ = jax.jit(gan.init)(key)
    return network_features(gan, {'params': params['g'], 'buffers': buffers['g']})


def default_sources(key: jax.Array, *, depth: int = 6, width: int = 16, size: int = 16) -> dict[str, Features]:
    """One random stack of 3x3 convolutions without and with zero padding; `size`: that of the last maps."""
    layers = random_layers(key, depth, width)
    return {
        name: stack_features(layers, (size, size), padding=name == 'zero padding')
        for name in ('no padding', 'zero padding')
    }


# Sums over batches ----------------------------------------------------------------------------------------------------


def batch_keys(key: jax.Array, samples: int, batch: int) -> Iterable[jax.Array]:
    """A key per batch. Raises: ValueError unless samples is a multiple of batch, at least twice it."""
    if samples < 2 * batch or samples % batch:
        raise UserError(f'samples={samples} must be a multiple of the batch of {batch}, at least twice it.')
    return jax.random.split(key, samples // batch)


def in_order(features: Features, key: jax.Array, batch: int, head: Head, found: dict) -> dict:
    """The entries of `found` in the order of the layers, which compiled functions do not keep."""
    names = []
    jax.eval_shape(lambda key: names.extend(features(key, batch, head)), key)
    return {name: found[name] for name in names}


def sum_over(program: Callable, keys: Iterable[jax.Array]) -> Any:
    """The sum of program(key) in float64, over batches that are float32 inside."""
    total = None
    for key in keys:
        part = jax.tree.map(lambda x: np.asarray(x, np.float64), program(key))
        total = part if total is None else jax.tree.map(np.add, total, part)
    return total
