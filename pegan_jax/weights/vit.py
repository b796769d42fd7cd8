"""Vision transformers whose features scores compare: DINOv2, and the image encoder of CLIP, with weights from files."""

import math
import pathlib
import re
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.ops import resize_bicubic, resize_bicubic_half_pixel
from pegan_jax.weights import contents, reader, rules
from pegan_jax.weights.features import IMAGENET_MEAN, IMAGENET_STD

HEAD = 64  # channels of an attention head, whatever the size of the network
SIDE = 224  # of the images that DINOv2 gets
OFFSET = 0.1  # see `dinov2_features`
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class _Block(nn.Module):
    """x + s attention(norm(x)), then x + s dense(norm(x)) (Dosovitskiy et al. 2021, eqs. 2 and 3), x [N, T, D].

    hidden: channels between the two dense layers, and their activation.
    epsilon: that of both norms.
    scaled: whether s is learnt, one per channel (Touvron et al. 2021, eq. 8), or is 1.
    """

    hidden: int
    activation: Callable[[jax.Array], jax.Array]
    epsilon: float
    scaled: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def scale(name: str) -> jax.Array | int:
            return self.param(name, nn.initializers.ones, x.shape[2:])[None, None, :] if self.scaled else 1

        y = _norm(self.epsilon, 'norm1')(x)
        q, k, v = (
            nn.Dense(x.shape[2], name=name)(y).reshape(*x.shape[:2], -1, HEAD) for name in ('query', 'key', 'value')
        )
        weights = jax.nn.softmax(jnp.einsum('nqhc,nkhc->nhqk', q, k) / math.sqrt(HEAD))
        y = jnp.einsum('nhqk,nkhc->nqhc', weights, v).reshape(x.shape)
        x = x + scale('scale1') * nn.Dense(x.shape[2], name='out')(y)
        y = self.activation(nn.Dense(self.hidden, name='fc1')(_norm(self.epsilon, 'norm2')(x)))
        return x + scale('scale2') * nn.Dense(x.shape[2], name='fc2')(y)


def _norm(epsilon: float, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


class DINOv2(nn.Module):
    """x [N, H, W, 3] as DINOv2 (Oquab et al. 2023) expects it, sides multiples of a patch -> its class token [N, D].

    width, layers, hidden, patch: D, blocks, channels inside them, pixels of a patch's side.
    grid: positions per side that the file has; if an image has others, they are read from it bicubically.
    offset: that of this reading, see `ops.resize_bicubic_half_pixel`.
    """

    width: int
    layers: int
    hidden: int
    patch: int
    grid: int
    offset: float = OFFSET

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (self.patch, self.patch), (self.patch, self.patch), 'VALID', name='patches')(x)
        token, positions = _tokens(self, self.grid, self.width)
        positions = resize_bicubic_half_pixel(positions, x.shape[1:3], offset=self.offset)
        x = _sequence(token, x + positions[None])
        for n in range(self.layers):
            x = _Block(self.hidden, _gelu, 1e-6, True, name=f'layer_{n}')(x)
        return _norm(1e-6, 'norm')(x[:, 0])


class CLIPVision(nn.Module):
    """x [N, S, S, 3] as CLIP (Radford et al. 2021) expects it, S = patch grid -> embeddings [N, E] of length 1.

    Fields as in `DINOv2`; embedding: E.
    """

    width: int
    layers: int
    hidden: int
    patch: int
    grid: int
    embedding: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.patch, self.patch)
        x = nn.Conv(self.width, shape, shape, 'VALID', use_bias=False, name='patches')(x)
        token, positions = _tokens(self, self.grid, self.width)
        x = _norm(1e-5, 'pre_norm')(_sequence(token, x + positions[None]))
        for n in range(self.layers):
            x = _Block(self.hidden, _quick_gelu, 1e-5, False, name=f'layer_{n}')(x)
        x = nn.Dense(self.embedding, use_bias=False, name='projection')(_norm(1e-5, 'norm')(x[:, 0]))
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def _quick_gelu(x: jax.Array) -> jax.Array:
    """What CLIP was trained with instead of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


def _tokens(net: nn.Module, grid: int, width: int) -> tuple[jax.Array, jax.Array]:
    """The class token with its own position, [D]; positions of patches, [grid, grid, D]."""
    token = net.param('class_token', nn.initializers.zeros, (width,))
    positions = net.param('positions', nn.initializers.normal(0.02), (1 + grid**2, width))
    return token + positions[0], positions[1:].reshape(grid, grid, width)


def _sequence(token: jax.Array, x: jax.Array) -> jax.Array:
    """[N, 1 + H W, D]: the class token, then patches row by row."""
    first = jnp.broadcast_to(token, (len(x), 1, x.shape[3]))
    return jnp.concatenate([first, x.reshape(len(x), -1, x.shape[3])], axis=1)


# Images ---------------------------------------------------------------------------------------------------------------


def _resized(images: jax.Array, side: int) -> jax.Array:
    """uint8 [N, H, W, 3] -> [N, side, side, 3], whole numbers of 0 to 255: Pillow's BICUBIC of images of 8 bits."""
    x = images.astype(jnp.float32)
    for size in ((x.shape[1], side), (side, side)):  # as Pillow: along rows, rounded, along columns
        x = jnp.clip(jnp.floor(resize_bicubic(x, size) + 0.5), 0, 255)
    return x


def _normalised(x: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    mean, std = (jnp.array(v)[None, None, None, :] for v in (mean, std))
    return (x / 255 - mean) / std


def dinov2_features(net: DINOv2, params: dict, images: jax.Array) -> jax.Array:
    """Class tokens [N, D] of images uint8 [N, H, W, 3], each resized to 224 x 224 whatever its shape.

    Stein et al. 2023 compare those of ViT-L. Positions are read with an offset of 0.1, as in DINOv2's program, which
    computed the published numbers (transformers 4.40 has the offset, 4.46 and later have none).
    """
    x = _normalised(_resized(images, SIDE), IMAGENET_MEAN, IMAGENET_STD)
    return net.apply({'params': params}, x)


def clip_features(net: CLIPVision, params: dict, images: jax.Array) -> jax.Array:
    """Embeddings [N, E] of images uint8 [N, H, W, 3], of the largest centred square of each."""
    side = min(images.shape[1:3])
    top, left = ((length - side) // 2 for length in images.shape[1:3])
    images = images[:, top : top + side, left : left + side]
    x = _normalised(_resized(images, net.patch * net.grid), CLIP_MEAN, CLIP_STD)
    return net.apply({'params': params}, x)


# Files ----------------------------------------------------------------------------------------------------------------


def load_dinov2(path: str | pathlib.Path) -> tuple[DINOv2, dict]:
    """DINOv2 in one of the sizes S, B and L without registers, and its parameters.

    Args:
      path: a file with the names of Hugging Face (facebook/dinov2-large), or DINOv2's own (dinov2_vitl14_pretrain.pth).
    Raises: ForeignFileError if there is no such file, or it holds anything else.
    """
    found = {}
    for name, array in contents.arrays(reader.read(path)).items():
        if match := re.fullmatch(r'(blocks\.\d+\.attn)\.qkv\.(weight|bias)', name):
            for part, third in zip(('query', 'key', 'value'), np.array_split(array, 3), strict=True):
                found[f'{match[1]}.{part}.{match[2]}'] = third
        else:
            found[name] = array
    block = r'(?:encoder\.layer|blocks)\.(\d+)\.'
    table = [
        rules.Rule(r'(?:embeddings\.)?cls_token', 'class_token', rules.flat),
        rules.Rule(r'embeddings\.position_embeddings|pos_embed', 'positions', lambda x: x[0]),
        *_layer(r'(?:embeddings\.patch_embeddings\.projection|patch_embed\.proj)', 'patches', rules.conv),
        *_layer(block + r'(norm[12])', 'layer_{0}/{1}', None),
        *_layer(block + r'(?:attention\.attention|attn)\.(query|key|value)', 'layer_{0}/{1}'),
        *_layer(block + r'(?:attention\.output\.dense|attn\.proj)', 'layer_{0}/out'),
        *_layer(block + r'mlp\.(fc[12])', 'layer_{0}/{1}'),
        rules.Rule(block + r'l(?:ayer_scale|s)([12])\.(?:lambda1|gamma)', 'layer_{0}/scale{1}', rules.flat),
        *_layer(r'(?:layer)?norm', 'norm', None),
    ]
    return _loaded(path, found, table, DINOv2, 'DINOv2 (ViT-S, B or L)', ignored=[r'(?:embeddings\.)?mask_token'])


def load_clip(path: str | pathlib.Path) -> tuple[CLIPVision, dict]:
    """The image encoder of CLIP in any size, and its parameters.

    Args:
      path: a file with the names of Hugging Face (openai/clip-vit-large-patch14-336); the text part is left out.
    Raises: ForeignFileError if there is no such file, or it holds anything else.
    """
    found = {k: v for k, v in contents.arrays(reader.read(path)).items() if k.startswith(('vision_model.', 'visual_'))}
    block = r'vision_model\.encoder\.layers\.(\d+)\.'
    parts = {'q': 'query', 'k': 'key', 'v': 'value', 'out': 'out'}
    table = [
        rules.Rule(r'vision_model\.embeddings\.class_embedding', 'class_token', rules.flat),
        rules.Rule(r'vision_model\.embeddings\.position_embedding\.weight', 'positions', np.asarray),
        rules.Rule(r'vision_model\.embeddings\.patch_embedding\.weight', 'patches/kernel', rules.conv),
        *_layer(r'vision_model\.pre_layrnorm', 'pre_norm', None),  # their spelling
        *_layer(block + r'layer_norm([12])', 'layer_{0}/norm{1}', None),
        *(rule for k, part in parts.items() for rule in _layer(block + rf'self_attn\.{k}_proj', f'layer_{{0}}/{part}')),
        *_layer(block + r'mlp\.(fc[12])', 'layer_{0}/{1}'),
        *_layer(r'vision_model\.post_layernorm', 'norm', None),
        rules.Rule(r'visual_projection\.weight', 'projection/kernel', rules.dense),
    ]
    ignored = [r'vision_model\.embeddings\.position_ids']
    return _loaded(path, found, table, CLIPVision, 'CLIP', embedding='projection/kernel', ignored=ignored)


def _layer(pattern: str, path: str, kernel: Callable | None = rules.dense) -> list[rules.Rule]:
    """Rules of a layer's weight and bias; kernel: how the weight changes, None for that of a norm."""
    weight = (f'{path}/scale', rules.flat) if kernel is None else (f'{path}/kernel', kernel)
    return [rules.Rule(rf'{pattern}\.weight', *weight), rules.Rule(rf'{pattern}\.bias', f'{path}/bias', rules.flat)]


def _loaded(
    path: str | pathlib.Path,
    found: dict[str, np.ndarray],
    table: list[rules.Rule],
    kind: Callable[..., nn.Module],
    what: str,
    *,
    ignored: list[str],
    embedding: str | None = None,
) -> tuple[nn.Module, dict]:
    """The network in the size that a file's arrays say, and its parameters."""
    try:
        renamed = [rules.renamed(name, array, table) for name, array in found.items()]
        shapes = {name: array.shape for name, array in renamed if name is not None}
        axes = {'patches/kernel': 4, 'positions': 2, 'layer_0/fc1/kernel': 2} | ({embedding: 2} if embedding else {})
        if wrong := [name for name, count in axes.items() if len(shapes.get(name, ())) != count]:
            raise contents.ForeignFileError(f'is not a file of {what}: nothing in it is {wrong[0]}.')
        (patch, _, _, width), (positions, _) = shapes['patches/kernel'], shapes['positions']
        grid = math.isqrt(max(positions - 1, 0))
        if width % HEAD or not width or positions != 1 + grid**2 or not grid:
            raise contents.ForeignFileError(
                f'is not a file of {what}: it has {width} channels, which should be a multiple of {HEAD}, and '
                f'{positions} positions, which should be one more than those of a square.'
            )
        sizes = {
            'width': width, 'patch': patch, 'grid': grid, 'hidden': shapes['layer_0/fc1/kernel'][1],
            'layers': len({name.partition('/')[0] for name in shapes if name.startswith('layer_')}),
        }  # fmt: skip
        net = kind(**sizes, **({} if embedding is None else {'embedding': shapes[embedding][1]}))
        images = jax.ShapeDtypeStruct((1, patch * grid, patch * grid, 3), np.float32)
        target = jax.eval_shape(net.init, jax.random.key(0), images)['params']
        return net, rules.apply(found, table, target, ignored=ignored)
    except contents.ForeignFileError as error:
        raise contents.ForeignFileError(f'{path}: {error}') from None
