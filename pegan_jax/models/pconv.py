"""Inpainting with partial convolutions (Liu et al. 2018, arXiv 1804.07723): a U-Net that knows which pixels are valid.

A baseline for DeepFillv2, with the same masks, which are 1 in holes and 0 elsewhere. The authors released the
convolution, not the network; this one is built from the paper's table.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from pegan_jax import ops, optim
from pegan_jax.gan import GAN, Completer, Stage, Update, size_of
from pegan_jax.layers import BatchNorm, PartialConv
from pegan_jax.models.holes import check_data, check_masks, check_shapes, composite, folder_masks, row_masks, step_mask
from pegan_jax.settings import ConfigError, UserError, at_least, check_types
from pegan_jax.weights import features

logger = logging.getLogger(__name__)

KERNELS = (7, 5, 5)  # of the encoder's first layers; later ones have 3
# Weights of the loss terms; the styles of the output and of the completed image count the same.
LOSS_WEIGHTS = {'valid': 1.0, 'hole': 6.0, 'perceptual': 0.05, 'style_out': 120.0, 'style_comp': 120.0, 'tv': 0.1}


# Fields that change how a model is trained, not what it is: a run may change them between launches.
TRAINING_FIELDS = frozenset('freeze_encoder_bn vgg masks mask_folder dtype'.split())


@dataclass(frozen=True)
class Config:
    """The model; defaults are those of the paper, at 256 pixels.

    img_resolution: side, or (height, width), of the training images; multiples of 2^levels. Others can be completed.
    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    channel_base: channels after the first layer; each of the next doubles them.
    channel_max: the largest number of channels.
    freeze_encoder_bn: for fine-tuning: the encoder's batch normalisations keep their statistics and parameters. With
      holes cut at random, batch statistics come from few valid pixels (section 4.2).
    vgg: a torch file of torchvision's vgg16, for the perceptual and the style terms. None: training goes without them,
      which is not the published loss. VGG knows colours: it sees a grey image as RGB, and RGBA is refused.
    masks: those of training: strokes of a brush, a box, the union of both; or any of those in mask_folder ('folder').
    mask_folder: images, white where holes are, resized to img_resolution.
    dtype: that of the inputs of convolutions.
    """

    img_resolution: int | tuple[int, int] = 256
    img_channels: Literal[1, 3, 4] = 3
    channel_base: int = 64
    channel_max: int = 512
    freeze_encoder_bn: bool = False
    vgg: str | None = None
    masks: Literal['union', 'brush', 'box', 'folder'] = 'union'
    mask_folder: str | None = None
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('channel_base', 'channel_max'):
            at_least(self, name, 1)
        if min(self.size) < 8 or any(side % 2**self.levels for side in self.size):
            raise ConfigError(
                f'model.img_resolution={self.img_resolution}: sides must be at least 8 and, for {self.levels} levels, '
                f'multiples of {2**self.levels}.'
            )
        if self.vgg is not None and self.img_channels == 4:
            raise ConfigError(
                f'model.vgg={self.vgg!r} with model.img_channels=4: VGG-16 knows no opacity; use model.vgg=None, or '
                '3 channels.'
            )
        check_masks(self)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the training images."""
        return size_of(self.img_resolution)

    @property
    def levels(self) -> int:
        """Layers of the encoder: 8 for 512 pixels, as published, 7 for 256; the smallest maps have sides of 2 or 3."""
        return min(self.size).bit_length() - 2

    def width(self, level: int) -> int:
        """Channels after layer `level` of the encoder, from 1."""
        return min(self.channel_base << (level - 1), self.channel_max)


# Network --------------------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """image [N, H, W, img_channels] in [-1, 1] and mask [N or 1, H, W, 1] -> as image, float32, not bounded.

    What the image has in holes does not matter. Every channel has valid positions of its own, so that enlarged features
    and the encoder's features beside them count separately; they are sown into the collection 'gates' as {layer}_valid.
    In training, norm statistics are those of all devices on `axis_name`.
    """

    model: Config
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        model = self.model
        check_shapes(2**model.levels, model.img_channels, image, {'mask': mask})

        def conv(name: str, x: jax.Array, valid: jax.Array, features: int, size: int, stride: int, bias: bool) -> tuple:
            pads = ((size // 2,) * 2,) * 2
            # A bias before a batch normalisation would do nothing except in holes.
            layer = PartialConv(features, size, stride, pads, use_bias=bias, dtype=jnp.dtype(model.dtype), name=name)
            y, valid = layer(x, valid)
            return y, jnp.broadcast_to(valid, (*valid.shape[:3], features))  # a grey image has one for all

        def norm(name: str, x: jax.Array, train: bool) -> jax.Array:
            return BatchNorm(axis_name=self.axis_name, name=name)(x, train)

        x, valid = image, jnp.repeat(1 - mask, model.img_channels, axis=-1)
        skips = []
        for level in range(1, model.levels + 1):
            skips.append((x, valid))
            size = KERNELS[level - 1] if level <= len(KERNELS) else 3
            x, valid = conv(f'enc_{level}', x, valid, model.width(level), size, 2, level == 1)
            self.sow('gates', f'enc_{level}_valid', valid)
            if level > 1:
                x = norm(f'enc_{level}_bn', x, train and not model.freeze_encoder_bn)
            x = jax.nn.relu(x)
        for level in range(model.levels, 0, -1):
            (skip, skip_valid), features = skips.pop(), model.img_channels if level == 1 else model.width(level - 1)
            x = jnp.concatenate([ops.double(x), skip.astype(x.dtype)], axis=-1)
            valid = jnp.concatenate([ops.double(valid), skip_valid], axis=-1)
            x, valid = conv(f'dec_{level}', x, valid, features, 3, 1, level == 1)
            self.sow('gates', f'dec_{level}_valid', valid)
            if level > 1:
                x = jax.nn.leaky_relu(norm(f'dec_{level}_bn', x, train), 0.2)
        return x.astype(jnp.float32)


# Losses ---------------------------------------------------------------------------------------------------------------


def gram(x: jax.Array) -> jax.Array:
    """A A' / (C h w) of the maps A of each image: [N, h, w, C] -> [N, C, C]."""
    _, h, w, c = x.shape
    return jnp.einsum('nhwc,nhwd->ncd', x, x, precision='highest') / (c * h * w)


def feature_terms(out: tuple, comp: tuple, gt: tuple) -> dict[str, jax.Array]:
    """Perceptual and style terms (Liu et al. 2018, eq. 3 to 5) from the feature maps of three images.

    Args:
      out, comp, gt: maps [N, h, w, C] of the output, of the completed image and of the true one.
    Returns: {'perceptual': sum over maps of the mean absolute differences of both to the true ones, 'style_out',
      'style_comp': the same of their Gram matrices}.
    """

    def distance(maps: tuple, of: Callable) -> jax.Array:
        return sum(jnp.mean(jnp.abs(of(x) - of(y))) for x, y in zip(maps, gt, strict=True))

    return {
        'perceptual': distance(out, lambda x: x) + distance(comp, lambda x: x),
        'style_out': distance(out, gram),
        'style_comp': distance(comp, gram),
    }


def tv_region(mask: jax.Array) -> jax.Array:
    """The holes and the pixels around them, in a window of 3x3: mask [N, H, W, 1] -> [N, H, W, 1]."""
    return nn.max_pool(mask, (3, 3), padding='SAME')


def pixel_terms(out: jax.Array, gt: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """The terms that need no features (Liu et al. 2018, section 3.3), from images [N, H, W, C] in [0, 1].

    Returns: {'valid', 'hole': sums of absolute differences in that part of the image, over the number of all elements,
      'tv': the same of neighbours in the completed image that are both in `tv_region`}.
    """
    comp, near = composite(out, gt, mask), tv_region(mask)
    error = jnp.abs(out - gt)
    across = jnp.abs(jnp.diff(comp, axis=2)) * near[:, :, 1:] * near[:, :, :-1]
    down = jnp.abs(jnp.diff(comp, axis=1)) * near[:, 1:] * near[:, :-1]
    return {
        'valid': jnp.mean(error * (1 - mask)),
        'hole': jnp.mean(error * mask),
        'tv': (jnp.sum(across) + jnp.sum(down)) / comp.size,
    }


def total(terms: dict[str, jax.Array]) -> jax.Array:
    """The weighted sum (Liu et al. 2018, eq. 7) of the given terms."""
    return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items())


# The system -----------------------------------------------------------------------------------------------------------


def validate(config: Any) -> None:
    """Checks a whole run configuration whose model is a `Config`. Raises ConfigError."""
    check_data(config)
    if config.model.freeze_encoder_bn and config.train.init_from is None:
        raise ConfigError(
            'model.freeze_encoder_bn=True needs train.init_from: frozen statistics would stay random; set it to the '
            'first run, or model.freeze_encoder_bn=False.'
        )


def frozen(params: dict) -> dict:
    """Parameters of `Generator`; no gradient reaches the encoder's batch normalisations."""
    encoder = {name for name in params if name.startswith('enc_') and name.endswith('_bn')}
    return {name: jax.lax.stop_gradient(layer) if name in encoder else layer for name, layer in params.items()}


def build(config: Any) -> GAN:
    """The system of a run configuration, which has no discriminator: its only update is that of G."""
    model = config.model
    g = Generator(model, 'data')

    @functools.cache
    def vgg() -> dict:
        return features.load_vgg(model.vgg)

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        if model.vgg is not None:
            vgg()  # so that a missing file shows before anything is compiled
        image, mask = (jnp.zeros((1, *model.size, channels)) for channels in (model.img_channels, 1))
        variables = g.init(key, image, mask, True)
        return {'g': variables['params']}, {'g': variables['batch_stats']}, {}

    def prepare(batch: dict, key: jax.Array, stage: Stage) -> dict:
        return {**batch, 'mask': step_mask(model, batch, key)}

    def g_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        variables = {'params': frozen(params) if model.freeze_encoder_bn else params, 'batch_stats': state.buffers['g']}
        mask = batch['mask']
        out, new = g.apply(variables, batch['image'], mask, True, mutable=['batch_stats'])
        out, gt = (out + 1) / 2, (batch['image'] + 1) / 2
        terms = pixel_terms(out, gt, mask)
        if model.vgg is None:
            logger.warning('model.vgg is not set: the loss has no perceptual and no style terms.')
        else:
            images = jnp.concatenate([out, composite(out, gt, mask), gt])
            colours = images if model.img_channels == 3 else jnp.repeat(images, 3, axis=-1)
            maps = features.vgg_pools(vgg(), colours)
            terms |= feature_terms(*zip(*(jnp.split(x, 3) for x in maps), strict=True))
        metrics = {f'loss/{name}': value for name, value in terms.items()}
        name = 'loss/g_without_vgg' if model.vgg is None else 'loss/g'
        return total(terms), ({'buffers': {'g': new['batch_stats']}}, {name: total(terms), **metrics})

    def inputs(batch: dict, key: jax.Array) -> dict:
        return {'image': batch['image'], 'mask': row_masks(model, batch, key)}

    return GAN(
        init=init,
        updates=(Update('g', g_loss),),
        optimizers={'g': optim.adam(config.optim, config.optim.g_lr)},
        sampler=Completer(inputs, functools.partial(complete, model), side_multiple=2**model.levels),
        stage_at=lambda step, nimg, seed: Stage(model.img_resolution),
        prepare=prepare,
        rows=folder_masks(model),
    )


def complete(model: Config, variables: dict, inputs: dict) -> jax.Array:
    """Completed images.

    Args:
      variables: {'params', 'buffers'} of the generator.
      inputs: 'image' [N, H, W, img_channels] in [-1, 1] and 'mask' [N or 1, H, W, 1]; sides are multiples of 2^levels.
    Returns: as the image; outside the holes exactly the image.
    Raises: ValueError for a sketch, and for other shapes.
    """
    if 'sketch' in inputs:
        raise UserError('partial convolutions take no sketch; use a guided DeepFillv2.')
    image, mask = inputs['image'], inputs['mask']
    variables = {'params': variables['params'], 'batch_stats': variables['buffers']}
    return composite(jnp.clip(Generator(model).apply(variables, image, mask, False), -1, 1), image, mask)
