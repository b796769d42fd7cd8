"""SinGAN checkpoints of the mmgen program (PyTorch), and of the original's blocks."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pegan_jax.interop import rules
from pegan_jax.interop.rules import Rule

_LAYER = r'blocks\.(\d+)\.(head|body\.block\d+|tail)'


def _path(collection: str, leaf: str) -> Any:
    def path(block: str, layer: str) -> str:
        return f'{collection}/block{block}/{re.sub("^body_block", "body", layer)}/{leaf}'

    return path


RULES = (
    Rule(_LAYER + r'\.conv\.weight', _path('params', 'conv/kernel'), rules.conv),
    Rule(_LAYER + r'\.conv\.bias', _path('params', 'conv/bias'), rules.flat),
    Rule(_LAYER + r'\.bn\.weight', _path('params', 'bn/scale'), rules.flat),
    Rule(_LAYER + r'\.bn\.bias', _path('params', 'bn/bias'), rules.flat),
    Rule(_LAYER + r'\.bn\.running_mean', _path('stats', 'bn/mean'), rules.flat),
    Rule(_LAYER + r'\.bn\.running_var', _path('stats', 'bn/var'), rules.flat),
)
IGNORED = (_LAYER + r'\.bn\.num_batches_tracked', r'head_position_encode\._float_tensor')


def folded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Blocks of the original program under the names of mmgen's.

    There, convolutions in front of a normalisation have a bias. In evaluation mode it only shifts the running mean:
    (x + b - mean) = (x - (mean - b)).
    """
    out = {k.replace('.norm.', '.bn.').replace('tail.0.', 'tail.conv.'): v for k, v in arrays.items()}
    for name in [k for k in out if k.endswith('.bn.running_mean')]:
        bias = out.pop(name.replace('bn.running_mean', 'conv.bias'), 0.0)
        out[name] = out[name] - bias
    return out
