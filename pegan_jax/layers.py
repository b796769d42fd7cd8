"""Linen layers that several systems share. Parameters are float32; `dtype` is that of the inputs of convolutions."""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import filters, ops
from pegan_jax.settings import UserError


def lrelu(x: jax.Array) -> jax.Array:
    """sqrt(2) leaky_relu(x, slope 0.2): nearly keeps the second moment of a symmetric input (Karras et al. 2020)."""
    return jax.nn.leaky_relu(x, 0.2) * math.sqrt(2)


def normalize_2nd_moment(x: jax.Array, axis: int = -1, eps: float = 1e-8) -> jax.Array:
    """x / sqrt(mean(x^2) + eps), the mean taken over `axis`."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=axis, keepdims=True) + eps)


def pixel_norm(x: jax.Array) -> jax.Array:
    """x / (sqrt(mean(x^2)) + 1e-6), the mean over channels (Karras et al. 2018, section 4.2).

    As in mmgen, the small number is added to the root; `normalize_2nd_moment` adds it under the root. The derivative at
    0 is 0. Computed in float32; the result has the dtype of x.
    """
    x32 = x.astype(jnp.float32)
    squares = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    positive = squares > 0
    return (x32 / (jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0) + 1e-6)).astype(x.dtype)


class EqualDense(nn.Module):
    """Dense layer with equalised learning rate (Karras et al. 2018): y = x @ (kernel * m / sqrt(in)) + bias * m.

    m is `lr_multiplier`. The kernel [in, features] starts as N(0, 1) weight_init / m, the bias as `bias_init`, a number
    or one per feature, not divided by m. Without `use_bias` there is no bias. Always float32, even inside the matmul:
    these layers make styles and logits.
    """

    features: int
    lr_multiplier: float = 1.0
    weight_init: float = 1.0
    bias_init: float | tuple[float, ...] = 0.0
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        in_features = x.shape[-1]
        kernel = self.param(
            'kernel', nn.initializers.normal(self.weight_init / self.lr_multiplier), (in_features, self.features)
        )
        kernel = kernel * (self.lr_multiplier / math.sqrt(in_features))
        y = jnp.matmul(x, kernel, precision='highest')
        if not self.use_bias:
            return y
        bias = self.param('bias', nn.initializers.constant(np.asarray(self.bias_init)), (self.features,))
        return y + (bias * self.lr_multiplier)[None, :]


def truncate(w: jax.Array, w_avg: jax.Array, psi: float, cutoff: int | None = None) -> jax.Array:
    """w_avg + psi (w - w_avg), from w [..., w_dim] and w_avg [w_dim]; with a cutoff, only for w[:, :cutoff]."""
    centre = w_avg.reshape((1,) * (w.ndim - 1) + w_avg.shape)
    truncated = centre + psi * (w - centre)
    return truncated if cutoff is None else jnp.concatenate([truncated[:, :cutoff], w[:, cutoff:]], axis=1)


def mean_w(map_latents: Callable, z_dim: int, variables: dict) -> jax.Array:
    """Centre of truncation [w_dim] for a model that stores none: the mean w of a fixed set of 4096 latents.

    map_latents: (variables, z [N, z_dim]) -> w [N, w_dim].
    """
    return jnp.mean(map_latents(variables, jax.random.normal(jax.random.key(0), (4096, z_dim))), axis=0)


class MappingNetwork(nn.Module):
    """z, a label, or both -> w (Karras et al. 2019, section 2): normalised, then activated dense layers fc0, fc1, ...

    A label [N, c_dim] passes through the dense layer `embed`; z and the embedded label are each divided by their root
    mean square, and concatenated. Always float32.

    w_dim: size of the result.
    num_ws: copies of w, one per layer of the synthesis: [N, num_ws, w_dim]; None: one w, [N, w_dim].
    embed_features, layer_features: width of the embedded label and of the layers before the last; None: w_dim.
    activation: that of all layers, a key of `ops.ACTIVATIONS`.
    w_avg_beta: decay of the mean of all w in the buffer `w_avg` [w_dim], the centre of truncation; None: no such
      buffer. Without num_ws there is no buffer either.
    """

    w_dim: int
    num_layers: int = 8
    lr_multiplier: float = 0.01
    num_ws: int | None = None
    embed_features: int | None = None
    layer_features: int | None = None
    activation: str = 'lrelu'
    w_avg_beta: float | None = 0.998

    @nn.compact
    def __call__(self, z: jax.Array | None, c: jax.Array | None = None, *, update_emas: bool = False) -> jax.Array:
        """w of latents [N, z_dim] or None and labels [N, c_dim] or None, not truncated.

        update_emas: w_avg <- lerp(batch mean of w, w_avg, w_avg_beta); 'buffers' must be mutable.
        """
        parts = [] if z is None else [normalize_2nd_moment(z.astype(jnp.float32))]
        if c is not None:
            label = EqualDense(self.embed_features or self.w_dim, name='embed')(c.astype(jnp.float32))
            parts.append(normalize_2nd_moment(label))
        w = jnp.concatenate(parts, axis=-1)
        for i in range(self.num_layers):
            features = self.w_dim if i == self.num_layers - 1 else self.layer_features or self.w_dim
            w = ops.bias_act(EqualDense(features, self.lr_multiplier, name=f'fc{i}')(w), act=self.activation)
        if self.num_ws is None:
            return w
        ws = jnp.repeat(w[:, None, :], self.num_ws, axis=1)
        if self.w_avg_beta is None:
            return ws
        w_avg = self.variable('buffers', 'w_avg', jnp.zeros, (self.w_dim,))
        if update_emas:
            mean = jax.lax.stop_gradient(jnp.mean(w, axis=0))
            w_avg.value = mean + self.w_avg_beta * (w_avg.value - mean)
        return ws


class EqualConv(nn.Module):
    """Convolution with equalised learning rate, HWIO kernel ~ N(0, 1) scaled by 1 / sqrt(in * size^2) at run time.

    up, down: resample by 2 with the FIR filter in the buffer `resample_filter`, see `ops.conv2d_resample`.
    activate: add a bias and apply lrelu; without it the layer has no bias.
    gain, clamp: factor on the result, and limit on its absolute value, which the gain scales too; None: no limit.
    resample_filter: taps; ignored without resampling.
    trainable: whether the kernel and the bias are parameters; otherwise they are buffers of the same names.
    """

    features: int
    kernel_size: int
    up: int = 1
    down: int = 1
    activate: bool = True
    gain: float = 1.0
    clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    trainable: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        in_features, size = x.shape[-1], self.kernel_size
        kernel = self._weight('kernel', nn.initializers.normal(1.0), (size, size, in_features, self.features))
        kernel = (kernel / math.sqrt(in_features * size**2)).astype(self.dtype)
        fir = None
        if self.up * self.down > 1:
            fir = self.variable('buffers', 'resample_filter', filters.setup_filter, self.resample_filter).value
        y = ops.conv2d_resample(x.astype(self.dtype), kernel, fir, up=self.up, down=self.down, padding=size // 2)
        clamp = None if self.clamp is None else self.clamp * self.gain
        if not self.activate:
            return ops.bias_act(y, gain=self.gain, clamp=clamp)
        bias = self._weight('bias', nn.initializers.zeros, (self.features,))
        return ops.bias_act(y, bias, act='lrelu', gain=math.sqrt(2) * self.gain, clamp=clamp)

    def _weight(self, name: str, init: Any, shape: tuple[int, ...]) -> jax.Array:
        if self.trainable:
            return self.param(name, init, shape)
        return self.variable('buffers', name, lambda: init(self.make_rng('params'), shape)).value


def minibatch_std(x: jax.Array, group_size: int | None = 4, num_channels: int = 1, batches: int = 1) -> jax.Array:
    """Appends channels with the standard deviation over groups of samples (Karras et al. 2018, section 3), in float32.

    With g = min(b, group_size), sample n belongs to group n mod (b / g). The channels of x are divided into
    `num_channels` parts in order. One new channel of the group's samples is filled with sqrt(population variance over
    the group + 1e-8), averaged over the positions and channels of a part.

    Args:
      x: [batches b, H, W, C]; b is the batch of one device.
      group_size: None means the whole batch.
      batches: x is so many batches, one after the other, such as real and generated images, that share no group.
    Returns: [batches b, H, W, C + num_channels] float32.
    Raises: ValueError unless g divides b, and num_channels divides C.
    """
    h, w, c = x.shape[1:]
    b = len(x) // batches
    g = b if group_size is None else min(b, group_size)
    if b % g:
        raise UserError(
            f'minibatch standard deviation: {b} samples at once are not a multiple of the group of {g}; use '
            f'{b // g * g} or {-(-b // g) * g} (train.batch_size, divided by devices and by train.accumulate).'
        )
    if c % num_channels:
        raise ValueError(f'minibatch standard deviation: {num_channels} statistics do not divide {c} channels.')
    x = x.astype(jnp.float32)
    groups = x.reshape(batches, g, b // g, h, w, num_channels, c // num_channels)
    # The variance, not jnp.std: the gradient of a root at zero is NaN.
    std = jnp.sqrt(jnp.var(groups, axis=1) + 1e-8).mean(axis=(2, 3, 5))
    std = jnp.tile(std, (1, g, 1)).reshape(-1, 1, 1, num_channels)
    return jnp.concatenate([x, jnp.broadcast_to(std, (*x.shape[:3], num_channels))], axis=-1)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last: (x - mean) / sqrt(var + 1e-5) * scale + bias, in float32.

    train: normalise by the biased variance of x, and move the running statistics a tenth of the way to its mean and
    *unbiased* variance, as torch does; otherwise normalise by the running statistics.

    scale_init: initialiser of the scale.
    axis_name: name of a mapped axis; in training, the batch is then that of all its devices together.
    """

    scale_init: Callable = nn.initializers.ones
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        c, axes = x.shape[-1], tuple(range(x.ndim - 1))
        scale = self.param('scale', self.scale_init, (c,))
        bias = self.param('bias', nn.initializers.zeros, (c,))
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (c,))
        running_var = self.variable('batch_stats', 'var', jnp.ones, (c,))
        x32, shape = x.astype(jnp.float32), (1,) * len(axes) + (c,)
        if train:
            mean = self._over_devices(jnp.mean(x32, axes))
            var = self._over_devices(jnp.mean(jnp.square(x32 - mean.reshape(shape)), axes))
            if not self.is_initializing():
                count = x.size // c * (1 if self.axis_name is None else jax.lax.axis_size(self.axis_name))
                running_mean.value = 0.9 * running_mean.value + 0.1 * jax.lax.stop_gradient(mean)
                unbiased = jax.lax.stop_gradient(var) * (count / max(count - 1, 1))
                running_var.value = 0.9 * running_var.value + 0.1 * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        y = (x32 - mean.reshape(shape)) * (scale * jax.lax.rsqrt(var + 1e-5)).reshape(shape) + bias.reshape(shape)
        return y.astype(x.dtype)

    def _over_devices(self, mean: jax.Array) -> jax.Array:
        return mean if self.axis_name is None or self.is_initializing() else jax.lax.pmean(mean, self.axis_name)


class PartialConv(nn.Module):
    """Partial convolution (Liu et al. 2018, section 3.1) with the rules of NVIDIA's layer; kernel [k, k, C, features].

    S is the number of weights of a window and V the sum of its valid ones; positions outside the image are invalid.
    y = conv(x * valid) S / V + bias and valid' = 1 where V > 0; y = 0 and valid' = 0 elsewhere. Hence an image
    that is valid everywhere is renormalised at its borders.

    padding: zeros ((top, bottom), (left, right)), or XLA's 'SAME'.
    dilation: distance between neighbouring taps.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: str | tuple[tuple[int, int], tuple[int, int]] = 'SAME'
    dilation: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """(y [N, H', W', features], valid' [N, H', W', features or 1]).

        Args:
          x: [N, H, W, C].
          valid: 1 for valid, 0 for a hole; no gradient reaches it. [N or 1, H, W, 1] is one for all channels: V counts
            positions, and valid' has one channel too. [N or 1, H, W, C] is one per channel, as concatenated features
            need: V counts all of them, and valid' has `features` equal channels. None: all are valid, [1, H, W, 1].
        Raises: AssertionError for another shape.
        """
        size, channels = self.kernel_size, x.shape[-1]
        if valid is None:
            valid = jnp.ones((1, *x.shape[1:3], 1), jnp.float32)
        chex.assert_shape(valid, ({1, len(x)}, *x.shape[1:3], {1, channels}))
        kernel = self.param('kernel', self.kernel_init, (size, size, channels, self.features))
        valid = jax.lax.stop_gradient(valid.astype(jnp.float32))

        pads = self.padding
        if pads == 'SAME':
            reach = ((size - 1) * self.dilation + 1,) * 2
            pads = jax.lax.padtype_to_pads(x.shape[1:3], reach, (self.stride,) * 2, 'SAME')
        (top, bottom), (left, right) = pads
        conv = functools.partial(
            ops.conv2d, padding=(left, right, top, bottom), stride=self.stride, dilation=self.dilation
        )
        # Sums of zeros and ones are exact in float32, whatever the compute dtype.
        found = conv(jnp.sum(valid, axis=-1, keepdims=True), jnp.ones((size, size, 1, 1)))
        new_valid = jnp.clip(found, 0, 1)
        ratio = size**2 * valid.shape[-1] / (found + 1e-8) * new_valid
        y = conv((x * valid).astype(self.dtype), kernel.astype(self.dtype)) * ratio.astype(self.dtype)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            y = jnp.where(found > 0, ops.bias_act(y, bias), 0)
        if valid.shape[-1] > 1:
            new_valid = jnp.broadcast_to(new_valid, (*new_valid.shape[:3], self.features))
        return y, new_valid
