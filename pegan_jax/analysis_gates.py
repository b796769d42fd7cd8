"""What gates of gated convolutions do, layer by layer, beside the mask of partial ones (Yu et al. 2019, section 3.1).

A partial convolution knows which of its inputs are valid, by a rule: after a few layers all of them are. A gate is
learned: each channel has its own, and deep layers can still tell holes from what is known.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from pegan_jax.analysis import SEQUENTIAL, Study, coloured, number_table, picture_table, rounded
from pegan_jax.config import DataConfig, load_config, system_module
from pegan_jax.evaluation import read_images
from pegan_jax.models import deepfill
from pegan_jax.sampling import Model

SEPARATES = 0.75  # area under the ROC curve, from which on (or under 1 minus it) a gate tells holes apart


class Separation(NamedTuple):
    """How gates [N, h, w, C] differ between holes and what is known, of each channel.

    inside, outside: means, [C]. auc: the probability that a gate is larger inside than outside, [C]; 1/2 tells nothing.
    """

    inside: np.ndarray
    outside: np.ndarray
    auc: np.ndarray


def gates_of(model: deepfill.Config, params: dict, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """{layer: gates [N, h, w, C] in (0, 1)} in the order of the layers; of partial convolutions the valid positions.

    Args: inputs of `deepfill.Generator`.
    Raises: ValueError for vanilla convolutions.
    """
    if model.conv_type == 'vanilla':
        raise ValueError("this model has no gates: model.conv_type='vanilla'; choose one that is gated.")
    generator = deepfill.Generator(model)
    _, found = jax.jit(lambda p, x: generator.apply({'params': p}, **x, mutable=['gates']))(params, inputs)
    found, out = found['gates'], {}
    for name in deepfill.layer_names():
        sown = found[name]['gate'] if name in found else found.get(f'{name}_valid')
        if sown is not None:
            out[name] = np.asarray(sown[0])
    return out


def partial_masks(model: deepfill.Config, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """{layer: valid positions [N or 1, h, w, 1]} of partial convolutions on the same layers; weights do not matter."""
    model = dataclasses.replace(model, conv_type='partial', gate='full')
    init = deepfill.Generator(model).init
    params = jax.eval_shape(lambda x: init(jax.random.key(0), **x)['params'], inputs)
    return gates_of(model, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params), inputs)


def share_of_hole(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of hole of the pixels that lie under each position of a smaller map: [N, H, W, 1] -> [N, h, w]."""
    n, height, width, _ = mask.shape
    blocks = np.asarray(mask).reshape(n, size[0], height // size[0], size[1], width // size[1])
    return blocks.mean(axis=(2, 4))


def separation(gates: np.ndarray, mask: np.ndarray) -> Separation:
    """`Separation` of gates [N, h, w, C] for a mask [N, H, W, 1]; positions that are partly in a hole do not count."""
    share = np.broadcast_to(share_of_hole(mask, gates.shape[1:3]), gates.shape[:3])
    inside, outside = gates[share == 1].astype(np.float64), gates[share == 0].astype(np.float64)
    ranks = stats.rankdata(np.concatenate([inside, outside]), axis=0)[: len(inside)]
    # Mann and Whitney: the rank sum counts the pairs in which the inside is larger.
    pairs = ranks.sum(axis=0) - len(inside) * (len(inside) + 1) / 2
    return Separation(inside.mean(axis=0), outside.mean(axis=0), pairs / (len(inside) * len(outside)))


def box_mask(height: int, width: int) -> np.ndarray:
    """A box of half the height and width in the middle, from multiples of 8: [1, height, width, 1] float32."""
    mask = np.zeros((1, height, width, 1), np.float32)
    top, left = (n // 4 // 8 * 8 for n in (height, width))
    mask[:, top : height - top, left : width - left] = 1
    return mask


def random_models(names: Sequence[str] | None, key: jax.Array) -> dict[str, Model]:
    """Shipped configurations with random weights, by name; None: ('deepfill:tiny',)."""
    models = {}
    for name in names or ('deepfill:tiny',):
        config = load_config(name)
        gan = system_module(config.system).build(config)
        params, buffers, _ = gan.init(key)
        models[name] = Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    return models


def worlds_for(models: dict[str, Model], count: int = 4) -> np.ndarray:
    """Procedural worlds that training does not see, of the models' size: [count, H, W, 3] float32 in [-1, 1].

    Raises: ValueError for models of several sizes.
    """
    sizes = {model.config.data.size for model in models.values()}
    if len(sizes) > 1:
        raise ValueError(f'the models are for images of {sorted(sizes)}; compare models of one size.')
    images = read_images(DataConfig(tfds='worlds', resolution=sizes.pop()), count)
    return images.astype(np.float32) / 127.5 - 1


def gate_study(models: dict[str, Model], images: np.ndarray) -> Study:
    """Gates of every layer inside and outside of a hole in the middle, beside what partial convolutions call valid.

    Pictures, a column per layer: `coarse` and `refined` show, of the first image, the mean of the gates and the two
    that tell the hole best, in either direction, and partial convolution's mask; `separating` has the share of the
    gates that tell the hole apart.

    Args:
      models: by the name to show; of the system 'deepfill', with gated convolutions.
      images: [N, H, W, 3] float32 in [-1, 1], sides multiples of 8.
    Raises: ValueError for models without gates.
    """
    inputs = {'image': images, 'mask': box_mask(*images.shape[1:3])}
    mask = np.broadcast_to(inputs['mask'], (len(images), *inputs['mask'].shape[1:]))
    numbers, shares, partial, rows = {}, {}, [], {'coarse': {}, 'refined': {}}
    for name, loaded in models.items():
        model = loaded.config.model
        if loaded.config.system != 'deepfill' or model.conv_type != 'gated':
            kind = getattr(model, 'conv_type', None)
            what = loaded.config.system if kind is None else f'{loaded.config.system}, model.conv_type={kind!r}'
            raise ValueError(f"{name} has no gates ({what}); choose a deepfill with model.conv_type='gated'.")
        drawn = {'sketch': np.zeros_like(inputs['mask'])} if model.guided else {}
        gates = gates_of(model, loaded.variables['params'], inputs | drawn)
        masks = partial_masks(model, inputs | drawn)
        numbers[name], shares[name], partial = {}, [], []
        for layer, gate in gates.items():
            told = separation(gate, mask)
            valid = np.broadcast_to(masks[layer], (len(masks[layer]), *gate.shape[1:3], 1))
            hole = share_of_hole(mask[:1], gate.shape[1:3])[0] == 1
            share = np.mean(np.maximum(told.auc, 1 - told.auc) >= SEPARATES)
            shares[name].append(share)
            partial.append(float(valid[0, hole].mean()))
            numbers[name][layer] = {
                'shape': list(gate.shape[1:]),
                'range': rounded([gate.min(), gate.max()]),
                'mean_in_hole': rounded(told.inside.mean()),
                'mean_outside': rounded(told.outside.mean()),
                'difference': rounded(np.abs(told.inside - told.outside).mean()),
                'spread_of_channels': rounded(gate.mean(axis=(0, 1, 2)).std()),
                'separating': rounded(share),
                'best_auc': rounded(np.maximum(told.auc, 1 - told.auc).max()),
                'partial_valid_in_hole': rounded(valid[0, hole].mean()),
                'partial_all_valid': bool(valid.all()),
            }
            part = rows['coarse' if layer in deepfill.COARSE else 'refined']
            for label, picture in (
                ('mean of gates', gate[0].mean(axis=-1)),
                ('most open\nin the hole', gate[0, ..., told.auc.argmax()]),
                ('most closed\nin the hole', gate[0, ..., told.auc.argmin()]),
                ('partial: valid', valid[0, ..., 0]),
            ):
                caption = f'{short(layer)}, {gate.shape[1]}x{gate.shape[2]}'
                part.setdefault(f'{name}\n{label}', []).append((caption, coloured(picture, 0, 1)))
    titles = {'coarse': 'Gates of the coarse network', 'refined': 'Gates of the refinement network'}
    legend = (0, 1, SEQUENTIAL, 'gate of the first image, hole in the middle; of partial convolution, 1 is valid')
    pictures = {kind: picture_table(title, rows[kind], legend) for kind, title in titles.items()}
    columns = [short(layer) for layer in next(iter(numbers.values()))]
    what = f'share of gates that tell hole from known (AUC over {SEPARATES:g}); last: share of the hole that is valid'
    pictures['separating'] = number_table('Gates and holes', columns, shares | {'partial, valid': partial}, what)
    return Study(numbers, pictures)


def short(layer: str) -> str:
    """'conv10_atrous' -> 'conv10'."""
    return layer.partition('_')[0]
