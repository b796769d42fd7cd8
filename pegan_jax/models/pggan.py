"""Progressive growing of GANs (Karras et al. 2018, arXiv 1710.10196), with and without zero padding and encodings.

The plain model is that of mmgeneration. Xu et al. 2021 (arXiv 2012.05217) study the one without padding, and what an
explicit encoding restores, but published no program for it; `Config.upsampling` says what it is here.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pegan_jax import losses, ops, optim
from pegan_jax.gan import GAN, Sampler, Stage, Update, labels_of, sample_keys, sample_normal
from pegan_jax.layers import minibatch_std, pixel_norm
from pegan_jax.models import dcgan
from pegan_jax.models.dcgan import Encoding, append_encoding, check_encoding, check_resolution, head_size
from pegan_jax.settings import ConfigError, at_least, check_labels, check_types


def validate(config: Any) -> None:
    """Checks a whole run configuration. Raises ConfigError."""
    dcgan.check_size(config)
    check_labels(config.data, config.model.c_dim)


# Learning rates, relative to those in the configuration, by the resolution of the stage.
LR_FACTORS = {128: 1.5, 256: 2.0, 512: 3.0, 1024: 3.0}


# Fields that change how a model is trained, not what it is: a run may change them between launches.
TRAINING_FIELDS = frozenset('mbstd_group_size gp_weight drift_weight label_weight ema_decay dtype'.split())


@dataclass(frozen=True)
class Config:
    """The model; defaults are those of the published program.

    img_resolution: side of the images of the last stage, a power of two; stages begin with 4 x 4 and double.
    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    c_dim: size of the labels (number of classes), which are appended to latents and predicted by the critic; 0: no
      labels.
    z_dim: numbers of a latent.
    channel_base, channel_max: at resolution r there are min(2 channel_base / r, channel_max) channels.
    upsampling: how feature maps double. 'fused', a transposed convolution; 'unfused', a nearest resize and a
      convolution; 'no-pad', a bilinear resize from h to 2h + 4 pixels and two unpadded convolutions. No feature map
      then has zeros around it: the first maps too are stretched, from 4 x 4 to 6 x 6.
    encoding: positional encoding, appended to the first feature maps, 4 x 4 or 6 x 6: the Cartesian grid (2 channels)
      or sinusoids (as many channels as the feature maps have).
    mbstd_group_size: samples per group of the minibatch standard deviation.
    stage_kimg: length of each stage but the last, in thousands of images; the last continues to the end of the run.
    fade_kimg: how long a stage takes to fade its new layers in.
    gp_weight, drift_weight: weights of the gradient penalty, and of the mean squares of the critic's scores of real and
      of generated images.
    label_weight: weight of the cross entropies of the labels that the critic predicts for real and for generated images
      (auxiliary classifier, Odena et al. 2017).
    ema_decay: decay of G's running mean, per step; for runs of fewer than some thousand steps it should be lower.
    dtype: that of the inputs of convolutions; layers to colours, the critic's dense layers and the penalty are float32.
    """

    img_resolution: int = 128
    img_channels: Literal[1, 3, 4] = 3
    c_dim: int = 0
    z_dim: int = 512
    channel_base: int = 8192
    channel_max: int = 512
    upsampling: Literal['fused', 'unfused', 'no-pad'] = 'fused'
    encoding: Encoding = 'none'
    mbstd_group_size: int = 4
    stage_kimg: tuple[float, ...] = (600.0, 1200.0, 1200.0, 1200.0, 1200.0)
    fade_kimg: float = 600.0
    gp_weight: float = 10.0
    drift_weight: float = 0.0005
    label_weight: float = 1.0
    ema_decay: float = 0.999
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        check_resolution(self.img_resolution)
        for name in ('z_dim', 'channel_max', 'mbstd_group_size'):
            at_least(self, name, 1)
        at_least(self, 'channel_base', self.img_resolution // 2)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f'model.ema_decay={self.ema_decay} must lie in [0, 1); published: 0.999.')
        for name in ('c_dim', 'gp_weight', 'drift_weight', 'label_weight'):
            at_least(self, name, 0)
        if not self.fade_kimg > 0 or not all(kimg > 0 for kimg in self.stage_kimg):
            raise ConfigError(
                f'model.fade_kimg={self.fade_kimg}, model.stage_kimg={self.stage_kimg}: all must be positive.'
            )
        if len(self.stage_kimg) != self.last_level:
            raise ConfigError(
                f'model.stage_kimg={self.stage_kimg} has {len(self.stage_kimg)} lengths; model.img_resolution='
                f'{self.img_resolution} needs {self.last_level}, of every stage but the last.'
            )
        check_encoding(self.encoding, self.channels(0))

    @property
    def last_level(self) -> int:
        """Level of the last stage; level l has 4 2^l pixels."""
        return int(math.log2(self.img_resolution // 4))

    def channels(self, level: int) -> int:
        """Number of channels of the feature maps of a level."""
        return min(self.channel_base // 2 ** (level + 1), self.channel_max)


# Networks -------------------------------------------------------------------------------------------------------------


def leaky(x: jax.Array) -> jax.Array:
    """Leaky ReLU with slope 0.2; gains are in `Conv` and `Dense`, before it."""
    return jax.nn.leaky_relu(x, 0.2)


def spread(kernel: jax.Array) -> jax.Array:
    """A 3x3 kernel as 4x4, the sum of its four positions in it: this includes nearest resampling by 2."""
    return sum(jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1))


class Conv(nn.Module):
    """Convolution with equalised learning rate and a bias: kernel ~ N(0, 1), times gain / sqrt(fan in) at run time.

    resample: 'up' doubles the sides by a transposed convolution, 'down' halves them by one of stride 2 (and a mean).
    """

    features: int
    kernel_size: int = 3
    padding: int = 1
    gain: float = math.sqrt(2)
    resample: Literal['none', 'up', 'down'] = 'none'
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, in_features, size = x.astype(self.dtype), x.shape[-1], self.kernel_size
        kernel = self.param('kernel', nn.initializers.normal(1.0), (size, size, in_features, self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        # The published program uses the outputs of a transposed convolution as its fan in.
        fan = size**2 * (self.features if self.resample == 'up' else in_features)
        kernel = kernel * (self.gain / math.sqrt(fan))
        if self.resample == 'up':
            y = ops.conv_transpose2d(x, spread(kernel), stride=2, padding=1)
        elif self.resample == 'down':
            y = ops.conv2d(x, spread(kernel) / 4, stride=2, padding=1)
        else:
            y = ops.conv2d(x, kernel, padding=self.padding)
        return ops.bias_act(y, bias)


class Dense(nn.Module):
    """The same for vectors [N, C]; no bias unless `use_bias`."""

    features: int
    gain: float = math.sqrt(2)
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', nn.initializers.normal(1.0), (x.shape[-1], self.features))
        y = jnp.matmul(x, kernel * (self.gain / math.sqrt(x.shape[-1])), precision='highest')
        return ops.bias_act(y, self.param('bias', nn.initializers.zeros, (self.features,))) if self.use_bias else y


class Projection(nn.Module):
    """Latents [N, z_dim + c_dim], labels last -> the first feature maps [N, 4, 4, features]."""

    features: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = Dense(16 * self.features, gain=math.sqrt(2) / 4, use_bias=False, name='linear')(pixel_norm(z))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return pixel_norm(leaky(ops.bias_act(x.reshape(-1, 4, 4, self.features), bias)))


class Generator(nn.Module):
    """Latents [N, z_dim + c_dim], labels last -> images [N, H, W, img_channels], nominally in [-1, 1]."""

    model: Config

    @nn.compact
    def __call__(
        self, z: jax.Array, progress: jax.Array | float, level: int | None = None, head: tuple[int, int] = (4, 4)
    ) -> jax.Array:
        """The image of a level.

        The layers of levels up to `progress` count fully, those of the next one by its fraction, and those above
        only enlarge the image.

        Args:
          progress: level - 1 + fade-in weight of the stage in training, [], traced.
          level: that of the image and of the last layers that are run; None: the last one.
          head: (height, width) of the first feature maps, to which those of training, 4 x 4, are stretched.
        """
        model, dtype = self.model, jnp.dtype(self.model.dtype)
        pad = 0 if model.upsampling == 'no-pad' else 1
        top = model.last_level if level is None else level

        def conv(i: int, features: int, x: jax.Array, resample: str = 'none') -> jax.Array:
            layer = Conv(features, padding=pad, resample=resample, dtype=dtype, name=f'conv_blocks_{i}')
            return pixel_norm(leaky(layer(x)))

        def to_rgb(i: int, x: jax.Array) -> jax.Array:
            return Conv(model.img_channels, 1, padding=0, gain=1.0, name=f'torgb_layers_{i}')(x)

        x = Projection(model.channels(0), name='noise2feat')(z)
        x = ops.resize_align_corners(x, tuple(side + 2 * (1 - pad) for side in head))
        x = conv(0, model.channels(0), append_encoding(x, model.encoding))
        image = to_rgb(0, x)
        for i in range(1, top + 1):
            if model.upsampling == 'unfused':
                x = ops.double(x)
            elif model.upsampling == 'no-pad':
                x = ops.resize_align_corners(x, (2 * x.shape[1] + 4, 2 * x.shape[2] + 4))
            x = conv(2 * i - 1, model.channels(i), x, 'up' if model.upsampling == 'fused' else 'none')
            x = conv(2 * i, model.channels(i), x)
            below = ops.double(image)
            image = below + jnp.clip(progress - (i - 1), 0, 1) * (to_rgb(i, x) - below)
        return image


class Discriminator(nn.Module):
    """The critic: images [N, H, H, img_channels] of any level -> scores [N], and logits of their labels [N, c_dim]."""

    model: Config

    def setup(self) -> None:
        model, last = self.model, self.model.last_level
        conv = functools.partial(Conv, dtype=jnp.dtype(model.dtype))
        self.fromrgb_layers = [conv(model.channels(i), 1, padding=0) for i in range(last + 1)]
        self.same = [conv(model.channels(i)) for i in range(1, last + 1)]
        self.down = [conv(model.channels(i - 1), resample='down') for i in range(1, last + 1)]
        self.linear0, self.linear1 = Dense(model.channels(-1)), Dense(1 + model.c_dim, gain=1.0)

    def __call__(
        self, images: jax.Array, level: int, fade: jax.Array | float, batches: int = 1
    ) -> tuple[jax.Array, jax.Array]:
        """Scores and logits of images of a level.

        Args:
          fade: weight of its layers against the image at half size, [], traced.
          batches: the images are so many batches, one after the other, whose minibatch standard deviations are apart.
        """
        x = leaky(self.fromrgb_layers[level](images))
        for i in range(level, 0, -1):
            x = leaky(self.down[i - 1](leaky(self.same[i - 1](x))))
            if i == level:
                below = leaky(self.fromrgb_layers[level - 1](ops.halve(images)))
                x = below + fade * (x - below)
        x = minibatch_std(x, self.model.mbstd_group_size, batches=batches)
        out = self.linear1(leaky(self.linear0(x.reshape(len(x), -1))))
        return out[:, 0], out[:, 1:]

    def every_level(self) -> None:
        """Uses every layer once, for `init`."""
        for level in range(self.model.last_level + 1):
            side = 4 * 2**level
            self(jnp.zeros((1, side, side, self.model.img_channels)), level, 1.0)


# Losses ---------------------------------------------------------------------------------------------------------------


def label_loss(model: Config, logits: jax.Array, labels: jax.Array | None) -> jax.Array:
    """label_weight times the mean cross entropy of the critic's predictions for labels [b, c_dim]; 0 without labels."""
    if labels is None:
        return jnp.float32(0)
    return model.label_weight * -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))


def d_loss(
    model: Config,
    params: dict,
    real: jax.Array,
    fake: jax.Array,
    mix: jax.Array,
    level: int,
    fade: jax.Array | float,
    labels: jax.Array | None = None,
) -> tuple[jax.Array, dict]:
    """The critic's loss (WGAN-GP, and a drift term on both kinds of images; Karras et al. 2018, section A.1).

    mean D(fake) - mean D(real) + gp_weight GP(mix real + (1 - mix) fake) + drift_weight (mean D(fake)^2 +
    mean D(real)^2), where GP is the mean over samples of (|gradient of D| - 1)^2; and `label_loss` of both.

    Args:
      real, fake: [b, h, h, img_channels]; mix: [b, 1, 1, 1] in [0, 1]; labels: those of both, [b, c_dim], or None.
    Returns: the loss, and metrics.
    """

    def critique(model: Config, images: jax.Array, batches: int = 1) -> tuple[jax.Array, jax.Array]:
        return Discriminator(model).apply({'params': params}, images, level, fade, batches)

    both = critique(model, jnp.concatenate([fake, real]), batches=2)
    (on_fake, on_real), (told_fake, told_real) = (jnp.split(logits, 2) for logits in both)
    exact = dataclasses.replace(model, dtype='float32')
    grads = losses.input_gradients(lambda images: critique(exact, images)[0], mix * real + (1 - mix) * fake)
    penalty = model.gp_weight * losses.unit_gradient_penalty(grads, axis=(1, 2, 3))
    drift = model.drift_weight * (jnp.mean(jnp.square(on_fake)) + jnp.mean(jnp.square(on_real)))
    metrics = {'critic/fake': jnp.mean(on_fake), 'critic/real': jnp.mean(on_real), 'loss/gp': penalty}
    loss = metrics['critic/fake'] - metrics['critic/real'] + penalty + drift
    if labels is not None:
        metrics['loss/labels'] = label_loss(model, told_fake, labels) + label_loss(model, told_real, labels)
        loss += metrics['loss/labels']
    return loss, metrics | {'loss/d': loss}


# Growth ---------------------------------------------------------------------------------------------------------------


def stage_starts(model: Config, batch_size: int) -> list[int]:
    """Images shown when each stage begins: after the first step that completes the images of all stages before it."""
    ends = np.cumsum([0.0, *model.stage_kimg]) * 1000
    return [math.ceil(round(end) / batch_size) * batch_size for end in ends]


def fade_in(model: Config, nimg: jax.Array | int, level: int, start: int) -> jax.Array:
    """Weight of the newest layers, []: 0 at the start of a stage, 1 after fade_kimg; 1 throughout the first stage."""
    if level == 0:
        return jnp.float32(1)
    return jnp.clip((nimg - start) / (1000 * model.fade_kimg), 0, 1)


# The system -----------------------------------------------------------------------------------------------------------


def build(config: Any) -> GAN:
    """The GAN of a run configuration: D, then G. A new stage begins with new optimisers and its own learning rates.

    With train.init_from, a run begins with the last stage, without a fade-in.
    Layers that a stage does not use have no gradient, and so, with new optimisers, do not change.
    """
    model = config.model
    g, d = Generator(model), Discriminator(model)
    starts = stage_starts(model, config.train.batch_size)
    if config.train.init_from is not None:  # growth is over
        starts = [-math.ceil(1000 * model.fade_kimg)] * len(starts)

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key = jax.random.split(key)
        params = {
            'g': g.init(g_key, jnp.zeros((1, model.z_dim + model.c_dim)), 0.0)['params'],
            'd': d.init(d_key, method='every_level')['params'],
        }
        return params, {'g': {'progress': jnp.float32(0)}, 'd': {}}, {}

    def generate(params: dict, state: Any, batch: dict, key: jax.Array, level: int) -> tuple[jax.Array, jax.Array]:
        fade = fade_in(model, state.nimg, level, starts[level])
        z = sample_normal(key, batch['index'], (model.z_dim,))
        if (labels := labels_of(batch, model.c_dim)) is not None:
            z = jnp.concatenate([z, labels], axis=-1)
        return g.apply({'params': params}, z, level - 1 + fade, level), fade

    def d_update(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        z_key, mix_key = jax.random.split(key)
        fake, fade = generate(state.params['g'], state, batch, z_key, stage.level)
        mix = jax.vmap(lambda k: jax.random.uniform(k, (1, 1, 1)))(sample_keys(mix_key, batch['index']))
        labels = labels_of(batch, model.c_dim)
        loss, metrics = d_loss(model, params, batch['image'], fake, mix, stage.level, fade, labels)
        return loss, ({}, metrics | {'fade_in': fade})

    def g_update(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        fake, fade = generate(params, state, batch, key, stage.level)
        scores, logits = d.apply({'params': state.params['d']}, fake, stage.level, fade)
        loss = label_loss(model, logits, labels_of(batch, model.c_dim)) - jnp.mean(scores)
        buffers = {**state.buffers, 'g': {'progress': stage.level - 1 + fade}}
        return loss, ({'buffers': buffers}, {'loss/g': loss})

    def stage_at(step: int, nimg: int, seed: int) -> Stage:
        level = sum(nimg >= start for start in starts) - 1
        return Stage(4 * 2**level, level=level)

    # The rate is part of the state, so that `enter` can change it.
    rates = {'g': config.optim.g_lr, 'd': config.optim.d_lr}
    optimizers = {
        net: optax.inject_hyperparams(lambda lr: optim.adam(config.optim, lr))(lr=rate) for net, rate in rates.items()
    }

    def enter(state: Any, old: Stage | None, new: Stage) -> Any:
        factor = LR_FACTORS.get(new.resolution, 1.0)

        def at_its_rate(params: dict, opt: dict) -> dict:
            if old is not None:
                opt = {net: optimizers[net].init(params[net]) for net in optimizers}
            return {
                net: part._replace(hyperparams={'lr': jnp.float32(rates[net] * factor)}) for net, part in opt.items()
            }

        shardings = jax.tree.map(lambda x: x.sharding, state.opt)
        return state.replace(opt=jax.jit(at_its_rate, out_shardings=shardings)(state.params, state.opt))

    return GAN(
        init=init,
        updates=(Update('d', d_update), Update('g', g_update)),
        optimizers=optimizers,
        sampler=sampler(model),
        c_dim=model.c_dim,
        stage_at=stage_at,
        ema=lambda nimg, step: model.ema_decay,
        enter=enter,
    )


def sampler(model: Config) -> Sampler:
    """How images are made from seeds: like DCGAN's, with labels appended to the latents."""
    plain = dcgan.sampler(model, synthesise)
    return plain._replace(map=lambda variables, z, c: jnp.concatenate([z, c], axis=-1)) if model.c_dim else plain


def synthesise(model: Config, variables: dict, z: jax.Array, *, size: tuple[int, int] | None = None) -> jax.Array:
    """Images of latents [N, z_dim + c_dim]; before the last stage of training, those of the current stage, enlarged.

    Args and errors as in `dcgan.synthesise`.
    Returns: [N, *size, img_channels] float32, nominally in [-1, 1], not clamped.
    """
    head, progress = head_size(size, model.img_resolution), variables['buffers']['progress']
    return Generator(model).apply({'params': variables['params']}, z, progress, None, head)
