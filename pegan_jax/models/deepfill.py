"""DeepFillv2 (Yu et al. 2019, arXiv 1806.03589): free-form inpainting with gated convolution and a patch discriminator.

An image with holes is completed twice: a coarse network paints all of it, then a refinement network with two branches,
one of which copies patches from outside of the holes (contextual attention, Yu et al. 2018, arXiv 1801.07892).
Masks are 1 in holes and 0 elsewhere, everywhere. Between the published programs there are differences, which are
options here; VARIANTS has those of each.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import losses, ops, optim
from pegan_jax.data import masks
from pegan_jax.gan import GAN, Stage, Update, sample_keys
from pegan_jax.layers import PartialConv
from pegan_jax.settings import ConfigError, at_least, check_types

Nearest = Literal['aligned', 'linspace', 'plain']
# How the published programs differ: the TensorFlow release, the networks of its PyTorch port that are meant for
# converted weights, and the port's own networks.
VARIANTS = {
    'official': {'padding': 'same', 'fuse': True, 'nearest': 'aligned', 'mask_resize': 'two-step', 'sn': 'raw'},
    'port-tf': {'padding': 'same', 'fuse': False, 'nearest': 'linspace', 'mask_resize': 'one-step', 'sn': 'divided'},
    'port-pt': {'padding': 'symmetric', 'fuse': True, 'nearest': 'plain', 'mask_resize': 'one-step', 'sn': 'divided'},
}
SKETCH_THRESHOLD = 0.6  # of edges in [0, 1]: above it there is a line
MAX_SCORES = 2**25  # scores of the attention that are held at once


@dataclass(frozen=True)
class Config:
    """The model; defaults are those of the official release (VARIANTS['official']) for Places2.

    img_resolution: side, or (height, width), of the training images; multiples of 8. Other sizes can be completed.
    cnum: channels of the first convolution, of which gating leaves half; a multiple of 4, all widths scale with it.
    d_cnum: channels of the discriminator's first layer.
    conv_type: 'gated'; or, on the same layers with the width that gating leaves, 'vanilla' convolutions, or 'partial'
      ones (Liu et al. 2018), which know the mask instead of learning it.
    gate: 'full' is published: a gate per channel from a convolution of its own. 'depthwise' makes that convolution
      depthwise with a pointwise one behind it; 'single_channel' has one gate for all channels (both: Yi et al. 2020).
    padding: of zeros: 'same' as TensorFlow's, with strides more behind than in front; or 'symmetric'.
    fuse: whether the attention prefers neighbouring patches for neighbouring positions.
    nearest: how features are thinned out for the attention: 'aligned' keeps the corners, and so does 'linspace' with
      another rounding, see `nearest_index`; 'plain' takes every second.
    mask_resize: by the same rule, from the image to the attention at once ('one-step') or by 4, then by 2 ('two-step').
    guided: a sketch tells what to paint: lines inside the holes, in training edges of the image.
    masks: of training: strokes of a brush, a box, the union of both; or any of those in mask_folder ('folder').
    mask_folder: images, white where holes are, resized to img_resolution.
    sn: how the spectral norm divides the discriminator's kernels: 'raw' keeps the undivided kernel, and the gradient
      passes through the norm; 'divided' stores the divided one at each evaluation, and the norm is a constant.
    gan_loss: 'hinge' or 'least-squares'.
    gan_weight, l1_weight: of the adversarial term and of the mean absolute errors of both images.
    dtype: of the inputs of convolutions.
    """

    img_resolution: int | tuple[int, int] = 256
    cnum: int = 48
    d_cnum: int = 64
    conv_type: Literal['gated', 'partial', 'vanilla'] = 'gated'
    gate: Literal['full', 'depthwise', 'single_channel'] = 'full'
    padding: Literal['same', 'symmetric'] = 'same'
    fuse: bool = True
    nearest: Nearest = 'aligned'
    mask_resize: Literal['two-step', 'one-step'] = 'two-step'
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
        side = self.img_resolution
        return (side, side) if isinstance(side, int) else side


# What partial convolutions need too ----------------------------------------------------------------------------------


def check_masks(model: Any) -> None:
    """Raises ConfigError unless there is a folder of masks where, and only where, masks come from one."""
    if (model.masks == 'folder') != (model.mask_folder is not None):
        raise ConfigError(
            f"model.masks={model.masks!r} and model.mask_folder={model.mask_folder!r}: masks='folder' needs one, and "
            'the other masks have none.'
        )


def check_data(config: Any) -> None:
    """Raises ConfigError unless images have the model's size, and no labels."""
    data, model = config.data, config.model
    if data.size != model.size:
        raise ConfigError(
            f'data.resolution={data.resolution} differs from model.img_resolution={model.img_resolution}: set both to '
            'the same size.'
        )
    if data.labels:
        raise ConfigError('data.labels=True, but the model takes no labels; set it to False.')


# Padding and nearest resizing -----------------------------------------------------------------------------------------


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Zeros (before, after) that make ceil(size / stride) outputs, the odd one behind: TensorFlow's SAME."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def nearest_index(size: int, smaller: int, rule: Nearest) -> np.ndarray:
    """Where a nearest resize from `size` to `smaller` positions reads, int [smaller].

    'aligned' and 'linspace': i (size - 1) / (smaller - 1), and 0 for a single one, halves rounded up. Which of two
    pixels an exact half falls to depends on the rounding of float32, as in the published programs; 'linspace' counts
    the second half of the positions from the end. 'plain': i size / smaller.
    """
    if rule == 'plain' or smaller == 1:
        return np.arange(smaller) * (size // smaller)
    step, index = np.float32(size - 1) / np.float32(smaller - 1), np.arange(smaller, dtype=np.float32)
    position = index * step
    if rule == 'linspace':
        position = np.where(index < smaller // 2, position, np.float32(size - 1) - step * index[::-1])
    return np.minimum(np.floor(position.astype(np.float64) + 0.5).astype(int), size - 1)


def thin_out(x: jax.Array, rate: int, rule: Nearest) -> jax.Array:
    """Nearest resize [N, H, W, C] -> [N, H // rate, W // rate, C] by `nearest_index`."""
    rows, columns = (nearest_index(n, n // rate, rule) for n in x.shape[1:3])
    return x[:, rows][:, :, columns]


def double(x: jax.Array) -> jax.Array:
    """Every pixel four times: [N, H, W, C] -> [N, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


# Contextual attention -------------------------------------------------------------------------------------------------


class Attended(NamedTuple):
    """What `contextual_attention` gives.

    y: [N, H, W, C] the foreground, made of patches of the background.
    offsets: [N, h, w, 2] int32, (row, column) from each thinned-out position to the one that it attends to most.
    weights: [N, h w, B], how much each position attends to each of the B of the background; None unless asked for.
    """

    y: jax.Array
    offsets: jax.Array
    weights: jax.Array | None


def patches3(x: jax.Array) -> jax.Array:
    """3x3 windows with a border of zeros: [N, h, w, C] -> [N, h w, 9 C]."""
    n, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, axis=-1).reshape(n, h * w, -1)


def copied_patches(b: jax.Array, rate: int) -> jax.Array:
    """Windows of side 2 rate every rate pixels, padded as `same_padding`: [N, H, W, C] -> [N, B, 2 rate, 2 rate, C]."""
    n, height, width, c = b.shape
    pad = same_padding(height, 2 * rate, rate)  # the same for all multiples of rate
    padded = jnp.pad(b, ((0, 0), pad, pad, (0, 0)))
    blocks = padded.reshape(n, height // rate + 1, rate, width // rate + 1, rate, c).swapaxes(2, 3)
    rows = jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=3)
    return jnp.concatenate([rows[:, :, :-1], rows[:, :, 1:]], axis=4).reshape(n, -1, 2 * rate, 2 * rate, c)


def paste_patches(patches: jax.Array, rate: int) -> jax.Array:
    """Adjoint of `copied_patches`, divided by 4: [N, h, w, 2 rate, 2 rate, C] -> [N, h rate, w rate, C].

    Four patches meet in a pixel, at the image's edges two and in its corners one: these are attenuated, as published.
    """
    n, h, w, _, _, c = patches.shape
    total = 0.0
    for i in range(2):
        for j in range(2):
            part = patches[:, :, :, i * rate : (i + 1) * rate, j * rate : (j + 1) * rate]
            total += jnp.pad(part, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0), (0, 0), (0, 0)))
    image = total.swapaxes(2, 3).reshape(n, (h + 1) * rate, (w + 1) * rate, c)
    before = rate // 2
    return image[:, before : before + h * rate, before : before + w * rate] / 4


def query_windows(h: int, w: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which queries the fusion of a strip of `rows` rows reads, for every strip of an h x w grid.

    Row r of a strip is its own; a row above and one below hold the neighbours of column-major order, which for the
    first row of the grid are at its bottom, one column to the left. Every row begins one query early and ends one late.

    Returns: flat indices [strips, rows + 2, w + 2], h w where there is no query, and whether the query in the middle
      columns exists, bool [strips, rows + 2, w].
    """
    row = np.arange(-(-h // rows) * rows).reshape(-1, rows)
    row = np.concatenate([row[:, :1] - 1, row, row[:, -1:] + 1], axis=1)[:, :, None]
    column = np.arange(w)[None, None, :]
    exists = (row >= 0) & (row < h) | ((row < 0) & (column > 0)) | ((row == h) & (column < w - 1))
    first = np.where(row < 0, (h - 1) * w - 1, np.where(row < h, row * w, 1))
    index = first + np.arange(-1, w + 1)[None, None, :]
    return np.where((index >= 0) & (index < h * w) & (row <= h), index, h * w), exists


def sum_diagonals(scores: jax.Array) -> jax.Array:
    """First half of the fusion: sum over t = -1, 0, 1 of the scores of query q + t and background j + t.

    scores: [..., w + 2, bh, bw] of queries in row-major order, one more on either side -> [..., w, bh, bw].
    """
    *rest, queries, bh, bw = scores.shape
    flat = jnp.pad(scores.reshape(*rest, queries, bh * bw), [(0, 0)] * (len(rest) + 1) + [(1, 1)])
    w, b = queries - 2, bh * bw
    total = flat[..., :w, :b] + flat[..., 1 : w + 1, 1 : b + 1] + flat[..., 2:, 2:]
    return total.reshape(*rest, w, bh, bw)


def next_in_column(x: jax.Array) -> jax.Array:
    """What comes next in column-major order on [..., bh, bw], zero behind the last."""
    wrapped = jnp.pad(x[..., :1, 1:], [(0, 0)] * (x.ndim - 1) + [(0, 1)])
    return jnp.concatenate([x[..., 1:, :], wrapped], axis=-2)


def previous_in_column(x: jax.Array) -> jax.Array:
    """What comes before in column-major order on [..., bh, bw], zero in front of the first."""
    wrapped = jnp.pad(x[..., -1:, :-1], [(0, 0)] * (x.ndim - 1) + [(1, 0)])
    return jnp.concatenate([wrapped, x[..., :-1, :]], axis=-2)


def fuse_scores(scores: jax.Array, exists: jax.Array) -> jax.Array:
    """Adds to each score those of neighbouring queries with backgrounds moved alike (Yu et al. 2018, section 3.2).

    First along rows, then along columns, each in flattened order: behind the end of a row comes the next one's start.

    Args:
      scores: [N, rows + 2, w + 2, bh, bw] of the queries of `query_windows`, 0 where there is none.
      exists: [rows + 2, w].
    Returns: [N, rows, w, bh, bw].
    """
    along = jnp.where(exists[None, :, :, None, None], sum_diagonals(scores), 0.0)
    return previous_in_column(along[:, :-2]) + along[:, 1:-1] + next_in_column(along[:, 2:])


def contextual_attention(
    f: jax.Array,
    b: jax.Array,
    mask: jax.Array | None = None,
    *,
    rate: int = 2,
    fuse: bool = True,
    nearest: Nearest = 'aligned',
    softmax_scale: float = 10.0,
    max_scores: int = MAX_SCORES,
    return_weights: bool = False,
) -> Attended:
    """Makes a foreground of patches of a background (Yu et al. 2018, section 3.2).

    On grids thinned out by `rate`, the score of position q and background j is <F_q, P_j> / |P_j|, of 3x3 windows F
    and P, then fused. Softmax over j of 10 times the scores weights the background's patches of side 2 rate, which
    are pasted over each other. A background is valid if no pixel of its 3x3 window is masked; the scores of the others
    are 0 before the softmax, and their weights after it, so that weights add up to less than 1, as published.

    Args:
      f: [N, H, W, C]; b: [N, H', W', C], sides multiples of rate.
      mask: of the thinned-out background, [1 or N, H' / rate, W' / rate, 1], 1 in holes; None: there are none. The
        references take the first image's mask for all of a batch; here each image may have its own.
      max_scores: scores that are held at once, and once more for the gradient: queries are taken in strips of rows.
      return_weights: takes memory for all of them, whatever max_scores.
    Raises: ValueError for sides that are not multiples of rate, or a mask of another size.
    """
    n, c = f.shape[0], f.shape[3]
    if any(side % rate for side in (*f.shape[1:3], *b.shape[1:3])):
        raise ValueError(f'features of shapes {f.shape} and {b.shape}; sides must be multiples of rate={rate}.')
    (h, w), (bh, bw) = ((x.shape[1] // rate, x.shape[2] // rate) for x in (f, b))
    if mask is not None and (mask.shape[1:] != (bh, bw, 1) or mask.shape[0] not in (1, n)):
        raise ValueError(f'mask of shape {mask.shape}; expected [1 or {n}, {bh}, {bw}, 1].')
    valid = jnp.ones((1, bh * bw)) if mask is None else (jnp.sum(patches3(mask), axis=2) == 0).astype(jnp.float32)
    match = patches3(thin_out(b, rate, nearest))
    # The root has no derivative at 0, where a window of zeros would put it; this one's is 0 there.
    match = match / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(match), axis=2, keepdims=True), 1e-8))
    copied = copied_patches(b, rate).reshape(n, bh * bw, -1)
    queries = jnp.pad(patches3(thin_out(f, rate, nearest)), ((0, 0), (0, 1), (0, 0)))  # the last one is 0

    rows = min(h, max(1, max_scores // (n * w * bh * bw)))
    windows, exists = query_windows(h, w, rows)
    if not fuse:
        windows, exists = windows[:, 1:-1, 1:-1], exists[:, 1:-1]

    def strip(window: jax.Array, exists: jax.Array) -> tuple:
        scores = jnp.einsum('nqk,njk->nqj', queries[:, window.reshape(-1)], match)
        if fuse:
            scores = fuse_scores(scores.reshape(n, *window.shape, bh, bw), exists).reshape(n, rows * w, bh * bw)
        weights = jax.nn.softmax(softmax_scale * scores * valid[:, None, :], axis=2) * valid[:, None, :]
        pasted = jnp.einsum('nqj,njk->nqk', weights, copied)
        best = jnp.argmax(weights, axis=2).astype(jnp.int32)
        return pasted, best, weights if return_weights else None

    if len(windows) == 1:
        strips = jax.tree.map(lambda x: x[None], strip(windows[0], exists[0]))
    else:
        strips = jax.lax.map(lambda inputs: jax.checkpoint(strip)(*inputs), (windows, exists))
    pasted, best, weights = jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, 1).reshape(n, -1, *x.shape[3:])[:, : h * w], strips
    )
    y = paste_patches(pasted.reshape(n, h, w, 2 * rate, 2 * rate, c), rate)
    here = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing='ij'), axis=-1).astype(np.int32)
    offsets = jnp.stack([best // bw, best % bw], axis=-1).reshape(n, h, w, 2) - here[None]
    return Attended(y, offsets, weights)


def attention_mask(mask: jax.Array, model: Config) -> jax.Array:
    """A mask of the image, [N, H, W, 1], as the attention needs it, [N, H / 8, W / 8, 1]."""
    steps = (4, 2) if model.mask_resize == 'two-step' else (8,)
    return functools.reduce(lambda m, rate: thin_out(m, rate, model.nearest), steps, mask)


def colour_wheel() -> np.ndarray:
    """55 colours around a circle, red, yellow, green, cyan, blue, magenta (Baker et al. 2007, Middlebury): [55, 3]."""
    runs = ((15, 0, 1), (6, 1, 0), (4, 1, 2), (11, 2, 1), (13, 2, 0), (6, 0, 2))  # length, full channel, ramp
    wheel = []
    for k, (length, full, ramp) in enumerate(runs):
        colours = np.zeros((length, 3))
        up = np.floor(255 * np.arange(length) / length)
        colours[:, full], colours[:, ramp] = 255, up if k % 2 == 0 else 255 - up
        wheel.append(colours)
    return np.concatenate(wheel)


def flow_picture(offsets: np.ndarray | jax.Array, rate: int = 2) -> np.ndarray:
    """Offsets of the attention as colours: direction is hue, distance is saturation, white is no offset.

    Distances are relative to the largest one of the image and those before it in the batch.

    Args:
      offsets: [N, h, w, 2], (row, column).
      rate: the picture is enlarged by it, bilinearly.
    Returns: [N, h rate, w rate, 3] float32 in [-1, 1].
    """
    u, v = np.moveaxis(np.asarray(offsets, np.float64), -1, 0)
    radius = np.hypot(u, v)
    largest = np.maximum.accumulate(radius.max(axis=(1, 2))) + np.finfo(np.float64).eps
    radius = (radius / largest[:, None, None])[..., None]
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    low = np.floor(position).astype(int)
    wheel, part = colour_wheel() / 255, (position - low)[..., None]
    colour = (1 - part) * wheel[low] + part * wheel[(low + 1) % 55]
    levels = np.floor(255 * (1 - radius * (1 - colour)))
    height, width = (rate * n for n in u.shape[1:])
    return np.asarray(ops.resize_align_corners((levels / 127.5 - 1).astype(np.float32), (height, width)))


# Generator ------------------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A convolution: width behind the gate in units of cnum / 2, and whether it doubles the size first."""

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
    Without a gate it is a convolution. Kernels begin Glorot-uniform, biases at 0.
    """

    model: Config
    features: int
    layer: Layer
    gate: Literal['full', 'depthwise', 'single_channel'] | None
    activation: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        glorot, layer, c = nn.initializers.glorot_uniform(), self.layer, x.shape[-1]
        if layer.up:
            x = double(x)
        x = x.astype(self.model.dtype)
        conv = functools.partial(
            ops.conv2d,
            padding=pads(self.model, x.shape[1:3], layer),
            stride=layer.stride,
            dilation=layer.dilation,
        )
        gates = {'full': self.features, 'single_channel': 1}.get(self.gate, 0)
        window = (layer.kernel, layer.kernel)
        kernel = self.param('kernel', glorot, (*window, c, self.features + gates))
        bias = self.param('bias', nn.initializers.zeros, (self.features + gates,))
        y = ops.bias_act(conv(x, kernel), bias)
        feature = self.activation(y[..., : self.features])
        if self.gate is None:
            return feature
        logits = y[..., self.features :]
        if self.gate == 'depthwise':
            spread = conv(x, self.param('gate_depthwise', glorot, (*window, 1, c)), groups=c)
            mixed = ops.conv2d(spread, self.param('gate_pointwise', glorot, (1, 1, c, self.features)))
            logits = ops.bias_act(mixed, self.param('gate_bias', nn.initializers.zeros, (self.features,)))
        gate = jax.nn.sigmoid(logits)
        self.sow('gates', 'gate', gate)
        return feature * gate


class Result(NamedTuple):
    """coarse, refined: [N, H, W, 3] in (-1, 1), all of the image; offsets: of the attention, see `Attended`."""

    coarse: jax.Array
    refined: jax.Array
    offsets: jax.Array


class Generator(nn.Module):
    """Both stages of the network. Layers have the names of the official checkpoints: conv1, ..., allconv17.

    Applied with the collection 'gates' mutable it also gives the gates of all layers, {layer: {'gate': (array,)}}, or
    with partial convolutions where their outputs are valid, {'<layer>_valid': (array,)}.
    """

    model: Config

    @nn.compact
    def __call__(self, image: jax.Array, mask: jax.Array, sketch: jax.Array | None = None) -> Result:
        """Completes images.

        Args:
          image: [N, H, W, 3] in [-1, 1], sides multiples of 8; what it has in holes does not matter.
          mask: [N or 1, H, W, 1], 1 in holes, 0 elsewhere.
          sketch: of a guided model, [N or 1, H, W, 1], 1 on lines; it counts inside the holes only.
        Raises: ValueError for other shapes, a sketch too much or too few.
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
        """The layers of a table, and where their outputs are valid, which only partial convolutions ask."""
        for name, layer in table.items():
            features = int(layer.width * self.model.cnum / 2)
            x, valid = self._convolve(name, layer, features, jax.nn.relu if name == 'pmconv6' else jax.nn.elu, x, valid)
        return x, valid

    def _image(self, name: str, x: jax.Array, valid: jax.Array) -> jax.Array:
        y, _ = self._convolve(name, Layer(0), 3, jnp.tanh, x, valid)
        return y.astype(jnp.float32)

    def _convolve(
        self, name: str, layer: Layer, features: int, activation: Callable, x: jax.Array, valid: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(activation of the layer, or gated, and where it is valid); images are never gated."""
        model = self.model
        if model.conv_type != 'partial':
            gate = model.gate if model.conv_type == 'gated' and features != 3 else None
            return GatedConv(model, features, layer, gate, activation, name=name)(x), valid
        if layer.up:
            x, valid = double(x), double(valid)
        left, right, top, bottom = pads(model, x.shape[1:3], layer)
        y, valid = PartialConv(
            features,
            layer.kernel,
            layer.stride,
            ((top, bottom), (left, right)),
            layer.dilation,
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=jnp.dtype(model.dtype),
            name=name,
        )(x, valid)
        self.sow('gates', f'{name}_valid', valid)
        return activation(y), valid


def check_inputs(model: Config, image: jax.Array, mask: jax.Array, sketch: jax.Array | None) -> None:
    """Raises ValueError unless images, masks and sketches have the shapes that `Generator` asks for."""
    n, height, width = image.shape[:3] if image.ndim == 4 else (0, 0, 0)
    if image.shape != (n, height, width, 3) or not n or height % 8 or width % 8:
        raise ValueError(f'image of shape {image.shape}; expected [N, H, W, 3] with sides that are multiples of 8.')
    if (sketch is not None) != model.guided:
        fix = 'give one, zeros for no lines' if model.guided else 'leave it out, or train with model.guided=True'
        state = 'missing' if sketch is None else 'given'
        raise ValueError(f'the sketch is {state}, and model.guided={model.guided}; {fix}.')
    shapes = [(count, height, width, 1) for count in (1, n)]
    for name, plane in (('mask', mask), ('sketch', sketch)):
        if plane is not None and plane.shape not in shapes:
            raise ValueError(f'{name} of shape {plane.shape}; expected [1 or {n}, {height}, {width}, 1].')


def composite(refined: jax.Array, image: jax.Array, mask: jax.Array) -> jax.Array:
    """The generated pixels in the holes, elsewhere exactly those of the image."""
    return refined * mask + image * (1 - mask)


# Discriminator --------------------------------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """SN-PatchGAN (Yu et al. 2019, section 3.3): six convolutions, each of whose outputs is a score of its own.

    Parameters are {conv1, ..., conv6: {kernel, bias}}; `normalised` makes the kernels that it is applied with.
    """

    model: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, 4 or 5], the image, the mask and the sketch inside of it -> scores [N, h w channels], float32."""
        layer, shapes = Layer(0, kernel=5, stride=2), (1, 2, 4, 4, 4, 4)
        for i, width in enumerate(shapes, start=1):
            features = width * self.model.d_cnum
            leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
            x = GatedConv(self.model, features, layer, None, leaky, name=f'conv{i}')(x)
        return x.reshape(len(x), -1).astype(jnp.float32)


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
        v = unit(buffers[name]['u'] @ w.T)
        u = unit(v @ w)
        kernel = layer['kernel'] / jnp.sum((v @ w) * u)
        if model.sn == 'divided':
            kernel = layer['kernel'] + jax.lax.stop_gradient(kernel - layer['kernel'])
        out[name] = {**layer, 'kernel': kernel}
        new[name] = {'u': jax.lax.stop_gradient(u)}
    return out, new


# Losses ---------------------------------------------------------------------------------------------------------------


def d_input(image: jax.Array, mask: jax.Array, sketch: jax.Array | None = None) -> jax.Array:
    """What the discriminator sees, [N, H, W, 4 or 5]: the image, the mask, and the sketch inside of it."""
    ones = jnp.ones_like(image[..., :1])
    drawn = [] if sketch is None else [ones * sketch * mask]
    return jnp.concatenate([image, ones * mask, *drawn], axis=-1)


def reconstruction(result: Result, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean absolute errors of the coarse and of the refined image, over all pixels, holes or not."""
    return jnp.mean(jnp.abs(image - result.coarse)), jnp.mean(jnp.abs(image - result.refined))


def d_main(model: Config, params: dict, buffers: dict, refined: jax.Array, batch: dict) -> tuple:
    """Loss of D on the images and on their completions, which it sees in one pass.

    Args:
      refined: what the generator painted, [N, H, W, 3].
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
        image, mask = jnp.zeros((1, *model.size, 3)), jnp.zeros((1, *model.size, 1))
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
        # One mask for all images of a step, on all devices: it depends on the step alone.
        mask = sampler()(key)[None]
        return {**batch, 'mask': mask, 'sketch': sketch_of(model, batch)}

    # Read when it is first needed: a model can be used without the masks that it was trained with.
    sampler = functools.cache(lambda: masks.sampler(model.masks, *model.size, model.mask_folder))

    def fields(state: Any, used: dict, new: dict) -> dict:
        """What evaluating D leaves behind."""
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
        drawn = jax.vmap(sampler())(sample_keys(key, batch['index']))
        sketch = {'sketch': sketch_of(model, batch)} if model.guided else {}
        return {'image': batch['image'], 'mask': drawn, **sketch}

    return GAN(
        init=init,
        updates=(Update('d', d_loss), Update('g', g_loss)),
        optimizers={net: optim.adam(config.optim, getattr(config.optim, f'{net}_lr')) for net in ('g', 'd')},
        sample=functools.partial(sample, model),
        stage_at=lambda step, nimg, seed: Stage(model.img_resolution),
        prepare=prepare,
        inputs=inputs,
    )


def sketch_of(model: Config, batch: dict) -> jax.Array | None:
    """The edges of a batch as a sketch, [N, H, W, 1] of 0 and 1, no lines where it has none; None if unguided."""
    if not model.guided:
        return None
    if 'edge' not in batch:
        return jnp.zeros_like(batch['image'][..., :1])
    return (batch['edge'] > SKETCH_THRESHOLD * 255).astype(jnp.float32)


def sample(model: Config, variables: dict, inputs: dict) -> jax.Array:
    """Completed images.

    Args:
      variables: {'params', 'buffers'} of the generator.
      inputs: 'image' [N, H, W, 3] in [-1, 1], 'mask' [N or 1, H, W, 1], and for a guided model 'sketch', 1 on lines;
        without one nothing is drawn. Sides are multiples of 8.
    Returns: [N, H, W, 3]; outside of the holes exactly the image.
    Raises: ValueError as `Generator`.
    """
    image, mask = inputs['image'], inputs['mask']
    sketch = inputs.get('sketch', jnp.zeros_like(mask) if model.guided else None)
    return composite(Generator(model).apply({'params': variables['params']}, image, mask, sketch).refined, image, mask)


SAMPLE_OPTIONS = ()  # of `sample`, for pictures of seeds: there are none


def side_multiple(model: Config) -> int:
    """What the sides of images must be multiples of."""
    return 8
