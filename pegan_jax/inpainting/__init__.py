"""Completes images with holes: arrays, files and folders of files, by a trained model or without one.

Masks are 1 (in files: white) where the image is to be filled, 0 (black) where it is known. Known pixels come back
unchanged, bit for bit: what a model makes of them is ignored.
"""

from pegan_jax.inpainting.arrays import (
    attention_flow,
    biharmonic,
    check_attention,
    check_model,
    composite,
    inpaint,
    padded_size,
)
from pegan_jax.inpainting.files import (
    SUFFIXES,
    Pair,
    Picture,
    as_seen,
    check_suffix,
    inpaint_files,
    pairs,
    read_mask,
    read_picture,
    read_sketch,
    save,
)
from pegan_jax.inpainting.strategies import Strategy, check_strategy, inpaint_by

__all__ = [
    'SUFFIXES',
    'Pair',
    'Picture',
    'Strategy',
    'as_seen',
    'attention_flow',
    'biharmonic',
    'check_attention',
    'check_model',
    'check_strategy',
    'check_suffix',
    'composite',
    'inpaint',
    'inpaint_by',
    'inpaint_files',
    'padded_size',
    'pairs',
    'read_mask',
    'read_picture',
    'read_sketch',
    'save',
]
