"""Completes images with holes: arrays, files and folders of files, by a trained model or without one.

Masks are 1 (in files: white) where the image is to be filled, 0 (black) where it is known. Known pixels come back as
they are, bit for bit: whatever a model says of them is not looked at.
"""

from pegan_jax.inpainting.arrays import attention_flow, biharmonic, check_model, composite, inpaint, padded_size
from pegan_jax.inpainting.files import (
    SUFFIXES,
    Pair,
    Picture,
    check_suffix,
    inpaint_files,
    pairs,
    read_mask,
    read_picture,
    read_sketch,
    save,
)

__all__ = [
    'SUFFIXES',
    'Pair',
    'Picture',
    'attention_flow',
    'biharmonic',
    'check_model',
    'check_suffix',
    'composite',
    'inpaint',
    'inpaint_files',
    'padded_size',
    'pairs',
    'read_mask',
    'read_picture',
    'read_sketch',
    'save',
]
