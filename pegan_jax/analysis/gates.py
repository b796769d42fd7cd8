"""What gates of gated convolutions do, layer by layer, beside the mask of partial ones (Yu et al. 2019, section 3.1).

A partial convolution knows which of its inputs are valid, by a rule: after a few layers all of them are. A gate is
learned: each channel has its own, and deep layers can still tell holes from what is known.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.analysis.drawing import SEQUENTIAL, Study, coloured, number_table, picture_table, rounded
from pegan_jax.analysis.holes import box_mask, share_of_hole
from pegan_jax.models import deepfill
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

SEPARATES = 0.75  # a gate tells holes apart from this area under the ROC curve on, or below 1 minus it


class Separation(NamedTuple):
    """How two sets of gates differ, for each channel.

    first, second: means, [C]. auc: the probability that a gate of the first set is larger, [C]; 1/2 tells nothing.
    """

    first: np.ndarray
    second: np.ndarray
    auc: np.ndarray

    @property
    def strength(self) -> np.ndarray:
        """The larger of auc and 1 - auc, [C]."""
        return np.maximum(self.auc, 1 - self.auc)


def gates_of(model: deepfill.Config, params: dict, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """{layer: gates [N, h, w, C] in (0, 1)} in the order of the layers; for partial convolutions, valid positions.

    Args: inputs: those of `deepfill.Generator`.
    Raises: ValueError for vanilla convolutions.
    """
    if model.conv_type == 'vanilla':
        raise UserError("this model has no gates: model.conv_type='vanilla'; choose one that is gated.")
    found, out = _sown(model, params, inputs), {}
    for name in deepfill.layer_names():
        sown = found[name]['gate'] if name in found else found.get(f'{name}_valid')
        if sown is not None:
            out[name] = np.asarray(sown[0])
    return out


@functools.partial(jax.jit, static_argnums=0)
def _sown(model: deepfill.Config, params: dict, inputs: dict) -> dict:
    return deepfill.Generator(model).apply({'params': params}, **inputs, mutable=['gates'])[1]['gates']


def partial_masks(model: deepfill.Config, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """{layer: valid positions [N or 1, h, w, 1]} of partial convolutions on the same layers; weights do not matter."""
    model = dataclasses.replace(model, conv_type='partial', gate='full')
    init = deepfill.Generator(model).init
    params = jax.eval_shape(lambda x: init(jax.random.key(0), **x)['params'], inputs)
    return gates_of(model, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params), inputs)


def separation(first: np.ndarray, second: np.ndarray) -> Separation:
    """`Separation` of two sets of gates, [P, C] and [Q, C]."""
    from scipy import stats  # takes long to import

    first, second = first.astype(np.float64), second.astype(np.float64)
    ranks = stats.rankdata(np.concatenate([first, second]), axis=0)[: len(first)]
    # Mann and Whitney: the rank sum counts the pairs in which the first is larger.
    pairs = ranks.sum(axis=0) - len(first) * (len(first) + 1) / 2
    return Separation(first.mean(axis=0), second.mean(axis=0), pairs / (len(first) * len(second)))


def gate_study(models: dict[str, Model], images: np.ndarray) -> Study:
    """Gates of every layer inside a hole in the middle, beside what partial convolutions call valid.

    They are compared with those outside the hole, and with those at the same places of the same images without a
    hole: images differ from place to place, so gates outside differ for other reasons too. Positions that are partly
    in the hole do not count. Pictures have a column per layer: `coarse` and `refined` show, for the first image, the
    mean of the gates, the two that the hole opens and closes most, and partial convolution's mask; `separating` has
    the shares of gates that tell the hole apart, for both comparisons.

    Args:
      models: by the name to show; of the system 'deepfill', with gated convolutions.
      images: [N, H, W, C] float32 in [-1, 1], sides multiples of 8.
    Raises: ValueError for models without gates.
    """
    inputs = {'image': images, 'mask': box_mask(*images.shape[1:3])}
    mask = np.broadcast_to(inputs['mask'], (len(images), *inputs['mask'].shape[1:]))
    shares, numbers, partial, rows = {}, {}, [], {'coarse': {}, 'refined': {}}
    for name, loaded in models.items():
        model = loaded.config.model
        kind = f', model.conv_type={model.conv_type!r}' if isinstance(model, deepfill.Config) else ''
        if not kind or model.conv_type != 'gated':
            what = f'{loaded.config.system}{kind}'
            raise UserError(f"{name} has no gates ({what}); choose a deepfill with model.conv_type='gated'.")
        drawn = {'sketch': np.zeros_like(inputs['mask'])} if model.guided else {}
        params, hidden = loaded.variables['params'], inputs | drawn
        whole = gates_of(model, params, hidden | {'mask': np.zeros_like(inputs['mask'])})
        gates, masks = gates_of(model, params, hidden), partial_masks(model, hidden)
        here, there = (shares.setdefault(f'{name}: hole against {what}', []) for what in ('elsewhere', 'no hole'))
        numbers[name], partial = {}, []
        for layer, gate in gates.items():
            part_in_hole = share_of_hole(mask, gate.shape[1:3])
            around = separation(gate[part_in_hole == 1], gate[part_in_hole == 0])
            told = separation(gate[part_in_hole == 1], whole[layer][part_in_hole == 1])
            valid = np.broadcast_to(masks[layer], (len(masks[layer]), *gate.shape[1:3], 1))
            here.append(float(np.mean(around.strength >= SEPARATES)))
            there.append(float(np.mean(told.strength >= SEPARATES)))
            partial.append(float(valid[0, part_in_hole[0] == 1].mean()))
            numbers[name][layer] = {
                'shape': list(gate.shape[1:]),
                'range': rounded([gate.min(), gate.max()]),
                'spread_of_channels': rounded(gate.mean(axis=(0, 1, 2)).std()),
                'mean_in_hole': rounded(told.first.mean()),
                'mean_elsewhere': rounded(around.second.mean()),
                'mean_without_hole': rounded(told.second.mean()),
                'separating_from_elsewhere': rounded(here[-1]),
                'separating_from_no_hole': rounded(there[-1]),
                'best_auc_from_elsewhere': rounded(around.strength.max()),
                'best_auc_from_no_hole': rounded(told.strength.max()),
                'partial_valid_in_hole': rounded(partial[-1]),
                'partial_all_valid': bool(valid.all()),
            }
            part = rows['coarse' if layer in deepfill.COARSE else 'refined']
            for label, picture in (
                ('mean of gates', gate[0].mean(axis=-1)),
                ('opened most\nby the hole', gate[0, ..., (told.first - told.second).argmax()]),
                ('closed most\nby the hole', gate[0, ..., (told.first - told.second).argmin()]),
                ('partial: valid', valid[0, ..., 0]),
            ):
                caption = f'{_short(layer)}, {gate.shape[1]}x{gate.shape[2]}'
                part.setdefault(f'{name}\n{label}', []).append((caption, coloured(picture, 0, 1)))
    titles = {'coarse': 'Gates of the coarse network', 'refined': 'Gates of the refinement network'}
    legend = (0, 1, SEQUENTIAL, 'gate of the first image, hole in the middle; of partial convolution, 1 is valid')
    pictures = {kind: picture_table(title, rows[kind], legend) for kind, title in titles.items()}
    columns = [_short(layer) for layer in next(iter(numbers.values()))]
    what = f'share of gates that tell the hole apart (AUC of {SEPARATES:g}); last row: share of the hole that is valid'
    table = {name: list(zip(columns, row, strict=True)) for name, row in (shares | {'partial, valid': partial}).items()}
    pictures['separating'] = number_table('Gates and holes', table, what)
    return Study(numbers, pictures)


def _short(layer: str) -> str:
    """'conv10_atrous' -> 'conv10'."""
    return layer.partition('_')[0]
