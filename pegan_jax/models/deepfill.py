"""DeepFillv2 (Yu et al. 2019, arXiv 1806.03589): free-form inpainting with gated convolution and a patch discriminator.

An image with holes is completed twice: a coarse network paints all of it, then a refinement network with two branches
paints it again. One branch copies patches from outside the holes (contextual attention, Yu et al. 2018, arXiv
1801.07892). Masks are always 1 in holes and 0 elsewhere. Differences between the published programs are options here;
VARIANTS has those of each.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pegan_jax import losses, ops, optim
from pegan_jax.gan import GAN, Completer, Stage, Update, size_of
from pegan_jax.layers import PartialConv
from pegan_jax.models.attention import Nearest, contextual_attention, same_padding, thin_out
from pegan_jax.models.holes import check_data, check_masks, check_shapes, composite, folder_masks, row_masks, step_mask
from pegan_jax.settings import ConfigError, UserError, at_least, check_types

# How the published programs differ: the TensorFlow release, the networks of its PyTorch port for converted weights,
# and the port's own networks.
VARIANTS = {
    'official': {'padding': 'same', 'fuse': True, 'nearest': 'aligned', 'mask_resize': 'two-step', 'sn': 'raw'},
    'port-tf': {'padding': 'same', 'fuse': False, 'nearest': 'linspace', 'mask_resize': 'one-step', 'sn': 'divided'},
    'port-pt': {
        'padding': 'symmetric', 'fuse': True, 'nearest': 'plain', 'mask_resize': 'one-step', 'sn': 'divided',
        'init': 'he',
    },
}  # fmt: skip
SKETCH_THRESHOLD = 0.6  # edges, in [0, 1], above it are lines


# Fields that change how a model is trained, not what it is: a run may change them between launches.
TRAINING_FIELDS = frozenset('init masks mask_folder gan_loss gan_weight l1_weight dtype'.split())


@dataclass(frozen=True)
class Config:
    """The model; defaults are those of the official release (VARIANTS['official']) for Places2.

    img_resolution: side, or (height, width), of the training images; multiples of 8. Other sizes can be completed.
    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    cnum: channels of the first convolution; gating leaves half. A multiple of 4; all widths scale with it.
    d_cnum: channels of the discriminator's first layer.
    conv_type: 'gated'; or, on the same layers with the width that gating leaves, 'vanilla' convolutions, or 'partial'
      ones (Liu et al. 2018), which know the mask instead of learning it.
    gate: 'full' is published: a gate per channel from a convolution of its own. 'depthwise' makes that convolution
      depthwise, followed by a pointwise one; 'single_channel' has one gate for all channels (both: Yi et al. 2020).
    padding: zeros: 'same' as in TensorFlow, which with strides puts more after than before; or 'symmetric'.
    fuse: whether the attention prefers neighbouring patches for neighbouring positions.
    nearest: how features are thinned out for the attention: 'aligned' keeps the corners, and so does 'linspace' with
      another rounding, see `attention.nearest_index`; 'plain' takes every second one.
    mask_resize: by the same rule, from the image to the attention at once ('one-step') or by 4, then by 2 ('two-step').
    init: that of the generator's kernels: 'glorot', uniform; or 'he', uniform by the outputs (He et al. 2015), and up
      to 1 / sqrt(inputs) in the layers of the two images.
    guided: a sketch tells what to paint: lines inside the holes; in training, edges of the image. With conv_type
      'partial' only for comparison: it multiplies the lines by the mask, and a trained model is given none.
    masks: those of training: strokes of a brush, a box, the union of both; or any of those in mask_folder ('folder').
    mask_folder: images, white where holes are, resized to img_resolution.
    sn: how the spectral norm divides the discriminator's kernels: 'raw' keeps the undivided kernel, and the gradient
      passes through the norm; 'divided' stores the divided one at each evaluation, and the norm is a constant.
    gan_loss: 'hinge' or 'least-squares'.
    gan_weight, l1_weight: weights of the adversarial term and of the mean absolute errors of both images.
    dtype: that of the inputs of convolutions.
    """

    img_resolution: int | tuple[int, int] = 256
    img_channels: Literal[1, 3, 4] = 3
    cnum: int = 48
    d_cnum: int = 64
    conv_type: Literal['gated', 'partial', 'vanilla'] = 'gated'
    gate: Literal['full', 'depthwise', 'single_channel'] = 'full'
    padding: Literal['same', 'symmetric'] = 'same'
    fuse: bool = True
    nearest: Nearest = 'aligned'
    mask_resize: Literal['two-step', 'one-step'] = 'two-step'
    init: Literal['glorot', 'he'] = 'glorot'
    guided: bool = False
    masks: Literal['union', 'brush', 'box', 'folder'] = 'union'
    mask_folder: str | None = None
    sn: Literal['raw', 'divided'] = 'raw'
    gan_loss: Literal['hinge', 'least-squares'] = 'hinge'
    gan_weight: float = 1.0
    l1_weight: float = 1.0
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name, low in (('cnum', 4), ('d_cnum', 1), ('gan_weight', 0), ('l1_weight', 0)):
            at_least(self, name, low)
        if self.cnum % 4:
            raise ConfigError(f'model.cnum={self.cnum} must be a multiple of 4: two gated halvings share it.')
        if min(self.size) < 8 or self.size[0] % 8 or self.size[1] % 8:
            raise ConfigError(f'model.img_resolution={self.img_resolution}: sides must be multiples of 8.')
        if self.conv_type != 'gated' and self.gate != 'full':
            raise ConfigError(f"model.gate={self.gate!r} needs model.conv_type='gated', got {self.conv_type!r}.")
        check_masks(self)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the training images."""
        return size_of(self.img_resolution)


# Generator ------------------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A convolution: width after the gate in units of cnum / 2, and whether it doubles the size first."""

    width: float
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    up: bool = False


COARSE = {
    'conv1': Layer(1, kernel=5),
    'conv2_downsample': Layer(2, stride=2),
    'conv3': Layer(2),
    'conv4_downsample': Layer(4, stride=2),
    'conv5': Layer(4),
    'conv6': Layer(4),
    'conv7_atrous': Layer(4, dilation=2),
    'conv8_atrous': Layer(4, dilation=4),
    'conv9_atrous': Layer(4, dilation=8),
    'conv10_atrous': Layer(4, dilation=16),
    'conv11': Layer(4),
    'conv12': Layer(4),
    'conv13_upsample': Layer(2, up=True),
    'conv14': Layer(2),
    'conv15_upsample': Layer(1, up=True),
    'conv16': Layer(0.5),
}
HALLUCINATION = {
    'xconv1': Layer(1, kernel=5),
    'xconv2_downsample': Layer(1, stride=2),
    'xconv3': Layer(2),
    'xconv4_downsample': Layer(2, stride=2),
    'xconv5': Layer(4),
    'xconv6': Layer(4),
    'xconv7_atrous': Layer(4, dilation=2),
    'xconv8_atrous': Layer(4, dilation=4),
    'xconv9_atrous': Layer(4, dilation=8),
    'xconv10_atrous': Layer(4, dilation=16),
}
BEFORE_ATTENTION = {
    'pmconv1': Layer(1, kernel=5),
    'pmconv2_downsample': Layer(1, stride=2),
    'pmconv3': Layer(2),
    'pmconv4_downsample': Layer(4, stride=2),
    'pmconv5': Layer(4),
    'pmconv6': Layer(4),
}
BEHIND_ATTENTION = {'pmconv9': Layer(4), 'pmconv10': Layer(4)}
MERGED = {
    'allconv11': Layer(4),
    'allconv12': Layer(4),
    'allconv13_upsample': Layer(2, up=True),
    'allconv14': Layer(2),
    'allconv15_upsample': Layer(1, up=True),
    'allconv16': Layer(0.5),
}


def layer_names() -> list[str]:
    """All layers in the order of the official program."""
    behind = (*HALLUCINATION, *BEFORE_ATTENTION, *BEHIND_ATTENTION, *MERGED)
    return [*COARSE, 'conv17', *behind, 'allconv17']


def pads(model: Config, size: tuple[int, int], layer: Layer) -> tuple[int, int, int, int]:
    """Zeros (left, right, top, bottom) around a layer's input of (height, width)."""
    if model.padding == 'symmetric':
        return (layer.dilation * (layer.kernel - 1) // 2,) * 4
    top, left = (same_padding(n, layer.kernel, layer.stride, layer.dilation) for n in size)
    return (*left, *top)


class GatedConv(nn.Module):
    """Gated convolution (Yu et al. 2019, eq. 1): activation(feature) * sigmoid(gate), from one kernel for both.

    The first `features` channels of the convolution are the feature, the rest is the gate, which is sown into 'gates'.
    Without a gate it is a plain convolution. Biases begin at 0.
    """

    model: Config
    features: int
    layer: Layer
    gate: Literal['full', 'depthwise', 'single_channel'] | None
    activation: Callable
    kernel_init: Callable = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init, layer, c = self.kernel_init, self.layer, x.shape[-1]
        if layer.up:
            x = ops.double(x)
        x = x.astype(self.model.dtype)
        conv = functools.partial(
            ops.conv2d,
            padding=pads(self.model, x.shape[1:3], layer),
            stride=layer.stride,
            dilation=layer.dilation,
        )
        gates = {'full': self.features, 'single_channel': 1}.get(self.gate, 0)
        window = (layer.kernel, layer.kernel)
        kernel = self.param('kernel', init, (*window, c, self.features + gates))
        bias = self.param('bias', nn.initializers.zeros, (self.features + gates,))
        y = ops.bias_act(conv(x, kernel), bias)
        feature = self.activation(y[..., : self.features])
        if self.gate is None:
            return feature
        logits = y[..., self.features :]
        if self.gate == 'depthwise':
            spread = conv(x, self.param('gate_depthwise', init, (*window, 1, c)), groups=c)
            mixed = ops.conv2d(spread, self.param('gate_pointwise', init, (1, 1, c, self.features)))
            logits = ops.bias_act(mixed, self.param('gate_bias', nn.initializers.zeros, (self.features,)))
        gate = jax.nn.sigmoid(logits)
        self.sow('gates', 'gate', gate)
        return feature * gate


def kernel_init(model: Config, inner: bool) -> Callable:
    """Initialiser of a generator's kernels; inner: for layers other than those of the two images."""
    if model.init == 'glorot':
        return nn.initializers.glorot_uniform()
    if inner:
        return nn.initializers.variance_scaling(2.0, 'fan_out', 'uniform')
    return nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def attention_mask(mask: jax.Array, model: Config) -> jax.Array:
    """A mask of the image, [N, H, W, 1], as the attention needs it, [N, H / 8, W / 8, 1]."""
    steps = (4, 2) if model.mask_resize == 'two-step' else (8,)
    return functools.reduce(lambda m, rate: thin_out(m, rate, model.nearest), steps, mask)


class Result(NamedTuple):
    """coarse, refined: [N, H, W, img_channels] in (-1, 1), all of the image; offsets: those of the attention."""

    coarse: jax.Array
    refined: jax.Array
    offsets: jax.Array


class Generator(nn.Module):
    """Both stages of the network. Layers have the names of the official checkpoints: conv1, ..., allconv17.

    Applied with the collection 'gates' mutable, it also returns the gates of all layers, {layer: {'gate': (array,)}},
    or with partial convolutions where their outputs are valid, {'<layer>_valid': (array,)}.
    """

    model: Config

    @nn.compact
    def __call__(self, image: jax.Array, mask: jax.Array, sketch: jax.Array | None = None) -> Result:
        """Completes images.

        Args:
          image: [N, H, W, img_channels] in [-1, 1], sides multiples of 8; what it has in holes does not matter.
          mask: [N or 1, H, W, 1], 1 in holes, 0 elsewhere.
          sketch: for a guided model, [N or 1, H, W, 1], 1 on lines; it counts inside the holes only.
        Raises: ValueError for other shapes, a missing sketch, or one that is not wanted.
        """
        check_inputs(self.model, image, mask, sketch)
        dtype = self.model.dtype
        known = image * (1 - mask)
        ones = jnp.ones_like(image[..., :1])  # shows where the padding is
        drawn = [] if sketch is None else [ones * sketch * mask]
        x = jnp.concatenate([known, *drawn, ones, ones * mask], axis=-1)
        x, valid = self._layers(COARSE, x, 1 - mask)
        coarse = self._image('conv17', x, valid)

        pasted, valid = coarse * mask + known, ones[:1]  # no holes any more, if convolutions are partial
        hallucinated, at_quarter = self._layers(HALLUCINATION, pasted, valid)
        x, _ = self._layers(BEFORE_ATTENTION, pasted, valid)
        attended = contextual_attention(
            x.astype(jnp.float32),
            x.astype(jnp.float32),
            attention_mask(mask, self.model),
            fuse=self.model.fuse,
            nearest=self.model.nearest,
        )
        x, _ = self._layers(BEHIND_ATTENTION, attended.y.astype(dtype), at_quarter)
        x, valid = self._layers(MERGED, jnp.concatenate([hallucinated, x], axis=-1), at_quarter)
        return Result(coarse, self._image('allconv17', x, valid), attended.offsets)

    def _layers(self, table: dict[str, Layer], x: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The layers of a table, and where their outputs are valid, which matters only to partial convolutions."""
        for name, layer in table.items():
            features = int(layer.width * self.model.cnum / 2)
            activation = jax.nn.relu if name == 'pmconv6' else jax.nn.elu
            x, valid = self._convolve(name, layer, features, activation, x, valid, gated=True)
        return x, valid

    def _image(self, name: str, x: jax.Array, valid: jax.Array) -> jax.Array:
        y, _ = self._convolve(name, Layer(0), self.model.img_channels, jnp.tanh, x, valid, gated=False)
        return y.astype(jnp.float32)

    def _convolve(
        self,
        name: str,
        layer: Layer,
        features: int,
        activation: Callable,
        x: jax.Array,
        valid: jax.Array,
        *,
        gated: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """(the layer, activated or gated, and where it is valid); gated: whether it is, if the model's layers are."""
        model, init = self.model, kernel_init(self.model, gated)
        if model.conv_type != 'partial':
            gate = model.gate if model.conv_type == 'gated' and gated else None
            return GatedConv(model, features, layer, gate, activation, init, name=name)(x), valid
        if layer.up:
            x, valid = ops.double(x), ops.double(valid)
        left, right, top, bottom = pads(model, x.shape[1:3], layer)
        y, valid = PartialConv(
            features,
            layer.kernel,
            layer.stride,
            ((top, bottom), (left, right)),
            layer.dilation,
            kernel_init=init,
            dtype=jnp.dtype(model.dtype),
            name=name,
        )(x, valid)
        self.sow('gates', f'{name}_valid', valid)
        return activation(y), valid


def check_inputs(model: Config, image: jax.Array, mask: jax.Array, sketch: jax.Array | None) -> None:
    """Raises ValueError unless images, masks and sketches have the shapes that `Generator` asks for."""
    if (sketch is not None) != model.guided:
        fix = 'give one, zeros for no lines' if model.guided else 'leave it out, or train with model.guided=True'
        state = 'missing' if sketch is None else 'given'
        raise UserError(f'the sketch is {state}, and model.guided={model.guided}; {fix}.')
    check_shapes(8, model.img_channels, image, {'mask': mask, 'sketch': sketch} if model.guided else {'mask': mask})


# Discriminator --------------------------------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """SN-PatchGAN (Yu et al. 2019, section 3.3): six convolutions; every output number is a score of its own.

    Parameters are {conv1, ..., conv6: {kernel, bias}}; `normalised` makes the kernels that it is applied with.
    """

    model: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """What `d_input` returns, [N, H, W, C + 1 or C + 2] -> scores [N, h w channels], float32."""
        leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)

        def conv(i: int, width: int, model: Config, x: jax.Array) -> jax.Array:
            features, layer = width * model.d_cnum, Layer(0, kernel=5, stride=2)
            return GatedConv(model, features, layer, None, leaky, name=f'conv{i}')(x)

        for i, width in enumerate((1, 2, 4, 4, 4), start=1):
            x = conv(i, width, self.model, x)
        with jax.default_matmul_precision('highest'):
            scores = conv(6, 4, dataclasses.replace(self.model, dtype='float32'), x)
        return scores.reshape(len(x), -1)


def normalised(model: Config, params: dict, buffers: dict) -> tuple[dict, dict]:
    """The discriminator's kernels over their spectral norms, by one step of power iteration (Miyato et al. 2018).

    With W a kernel as a matrix [k k in, out], v = n(u W'), u' = n(v W), sigma = v W u''. Its gradient is that of the
    published program that `model.sn` names: through sigma, u' and v; or as if the divided kernel were the parameter.

    Args:
      params, buffers: {layer: {'kernel', 'bias'}} and {layer: {'u': [1, out]}}.
    Returns: parameters to apply the discriminator with, and buffers with the new u.
    """

    def unit(a: jax.Array) -> jax.Array:
        return a / (jnp.sqrt(jnp.sum(jnp.square(a))) + 1e-12)

    out, new = {}, {}
    for name, layer in params.items():
        w = layer['kernel'].reshape(-1, layer['kernel'].shape[-1])
        v = unit(jnp.matmul(buffers[name]['u'], w.T, precision='highest'))
        vw = jnp.matmul(v, w, precision='highest')
        u = unit(vw)
        kernel = layer['kernel'] / jnp.sum(vw * u)
        if model.sn == 'divided':
            kernel = layer['kernel'] + jax.lax.stop_gradient(kernel - layer['kernel'])
        out[name] = {**layer, 'kernel': kernel}
        new[name] = {'u': jax.lax.stop_gradient(u)}
    return out, new


# Losses ---------------------------------------------------------------------------------------------------------------


def d_input(image: jax.Array, mask: jax.Array, sketch: jax.Array | None = None) -> jax.Array:
    """What the discriminator sees, [N, H, W, C + 1 or C + 2]: the image, the mask, and the sketch inside the mask."""
    ones = jnp.ones_like(image[..., :1])
    drawn = [] if sketch is None else [ones * sketch * mask]
    return jnp.concatenate([image, ones * mask, *drawn], axis=-1)


def reconstruction(result: Result, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean absolute errors of the coarse and of the refined image, over all pixels, inside and outside holes."""
    return jnp.mean(jnp.abs(image - result.coarse)), jnp.mean(jnp.abs(image - result.refined))


def d_main(model: Config, params: dict, buffers: dict, refined: jax.Array, batch: dict) -> tuple:
    """Loss of D on the images and on their completions, which it sees in one pass.

    Args:
      refined: what the generator painted, [N, H, W, img_channels].
      batch: 'image', 'mask' and 'sketch' (None without guidance).
    Returns: the loss, and (the parameters with divided kernels, new buffers, metrics).
    """
    image, mask, sketch = (batch[name] for name in ('image', 'mask', 'sketch'))
    completed = composite(refined, image, mask)
    used, new = normalised(model, params, buffers)
    both = jnp.concatenate([d_input(image, mask, sketch), d_input(completed, mask, sketch)])
    real, fake = jnp.split(Discriminator(model).apply({'params': used}, both), 2)
    loss = (losses.hinge_d if model.gan_loss == 'hinge' else losses.least_squares_d)(real, fake)
    metrics = {'loss/d': loss, 'scores/real': jnp.mean(real), 'scores/fake': jnp.mean(fake)}
    return loss, (used, new, metrics)


def g_main(model: Config, params: dict, d_params: dict, buffers: dict, batch: dict) -> tuple:
    """Loss of G: the adversarial term of the completions, and the absolute errors of both images.

    Returns: the loss, and (D's parameters with divided kernels, its new buffers, metrics).
    """
    image, mask, sketch = (batch[name] for name in ('image', 'mask', 'sketch'))
    result = Generator(model).apply({'params': params}, image, mask, sketch)
    used, new = normalised(model, d_params, buffers)
    completed = composite(result.refined, image, mask)
    scores = Discriminator(model).apply({'params': used}, d_input(completed, mask, sketch))
    adversarial = (losses.hinge_g if model.gan_loss == 'hinge' else losses.least_squares_g)(scores)
    coarse, refined = reconstruction(result, image)
    loss = model.gan_weight * adversarial + model.l1_weight * (coarse + refined)
    metrics = {
        'loss/g': loss,
        'loss/g_adversarial': adversarial,
        'loss/l1_coarse': coarse,
        'loss/l1_refined': refined,
    }
    return loss, (used, new, metrics)


# The system -----------------------------------------------------------------------------------------------------------


def validate(config: Any) -> None:
    """Checks a whole run configuration whose model is a `Config`. Raises ConfigError."""
    data, model = config.data, config.model
    check_data(config)
    if model.guided != (data.edges != 'none'):
        raise ConfigError(
            f'model.guided={model.guided} and data.edges={data.edges!r}: sketches are made of edges; set '
            "model.guided=True and data.edges='canny' (or another source), or False and 'none'."
        )


def build(config: Any) -> GAN:
    """The GAN of a run configuration: D, then G, on the same images and under the same mask."""
    model = config.model

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key, u_key = jax.random.split(key, 3)
        image, mask = (jnp.zeros((1, *model.size, channels)) for channels in (model.img_channels, 1))
        sketch = mask if model.guided else None
        g = Generator(model).init(g_key, image, mask, sketch)['params']
        d = Discriminator(model).init(d_key, d_input(image, mask, sketch))['params']
        keys = jax.random.split(u_key, len(d))
        u = {
            name: {'u': jax.random.truncated_normal(k, -2.0, 2.0, (1, layer['bias'].size))}
            for k, (name, layer) in zip(keys, d.items(), strict=True)
        }
        return {'g': g, 'd': d}, {'g': {}, 'd': u}, {}

    def prepare(batch: dict, key: jax.Array, stage: Stage) -> dict:
        return {**batch, 'mask': step_mask(model, batch, key), 'sketch': sketch_of(model, batch)}

    def fields(state: Any, used: dict, new: dict) -> dict:
        """The state fields that evaluating D changes."""
        buffers = {'buffers': {**state.buffers, 'd': new}}
        if model.sn == 'raw':
            return buffers
        return buffers | {'params': {**state.params, 'd': jax.lax.stop_gradient(used)}}

    def d_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        image, mask, sketch = (batch[name] for name in ('image', 'mask', 'sketch'))
        refined = Generator(model).apply({'params': state.params['g']}, image, mask, sketch).refined
        loss, (used, new, metrics) = d_main(model, params, state.buffers['d'], refined, batch)
        return loss, (fields(state, used, new), metrics)

    def g_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        loss, (used, new, metrics) = g_main(model, params, state.params['d'], state.buffers['d'], batch)
        return loss, (fields(state, used, new), metrics)

    def inputs(batch: dict, key: jax.Array) -> dict:
        sketch = {'sketch': sketch_of(model, batch)} if model.guided else {}
        return {'image': batch['image'], 'mask': row_masks(model, batch, key), **sketch}

    return GAN(
        init=init,
        updates=(Update('d', d_loss), Update('g', g_loss)),
        optimizers={net: optim.adam(config.optim, getattr(config.optim, f'{net}_lr')) for net in ('g', 'd')},
        sampler=Completer(inputs, functools.partial(complete, model), side_multiple=8, guided=follows_lines(model)),
        stage_at=lambda step, nimg, seed: Stage(model.img_resolution),
        prepare=prepare,
        rows=folder_masks(model),
    )


def sketch_of(model: Config, batch: dict) -> jax.Array | None:
    """The edges of a batch as a sketch, [N, H, W, 1] of 0 and 1, no lines where it has none; None if unguided."""
    if not model.guided:
        return None
    if 'edge' not in batch:
        return jnp.zeros_like(batch['image'][..., :1])
    return (batch['edge'] > SKETCH_THRESHOLD * 255).astype(jnp.float32)


def follows_lines(model: Config) -> bool:
    """Whether a sketch changes anything: partial convolutions multiply its lines, which lie in holes, by the mask."""
    return model.guided and model.conv_type != 'partial'


def generate(model: Config, params: dict, inputs: dict) -> Result:
    """What `Generator` makes of the inputs of `complete`."""
    sketch = inputs.get('sketch', jnp.zeros_like(inputs['mask']) if model.guided else None)
    return Generator(model).apply({'params': params}, inputs['image'], inputs['mask'], sketch)


def complete(model: Config, variables: dict, inputs: dict) -> jax.Array:
    """Completed images.

    Args:
      variables: {'params', 'buffers'} of the generator.
      inputs: 'image' [N, H, W, img_channels] in [-1, 1], 'mask' [N or 1, H, W, 1], and for a guided model 'sketch', 1
        on lines; without one nothing is drawn. Sides are multiples of 8.
    Returns: as the image; outside the holes exactly the image.
    Raises: ValueError as `Generator`.
    """
    return composite(generate(model, variables['params'], inputs).refined, inputs['image'], inputs['mask'])
