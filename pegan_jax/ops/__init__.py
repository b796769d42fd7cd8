"""Image operators on NHWC arrays: resizing, FIR filters, activations, convolutions."""

from pegan_jax.ops.conv import conv2d, conv2d_resample, conv_transpose2d, modulated_conv, modulated_conv_resample
from pegan_jax.ops.fir import (
    ACTIVATIONS,
    Factor,
    Padding,
    bias_act,
    downsample2d,
    filter2d,
    filtered_lrelu,
    upfirdn2d,
    upsample2d,
)
from pegan_jax.ops.resize import (
    adaptive_average_pool,
    bilinear,
    double,
    halve,
    resize_align_corners,
    resize_bicubic,
    resize_bicubic_align_corners,
    resize_bicubic_half_pixel,
    resize_corner,
    resize_half_pixel,
    resize_nearest,
)
from pegan_jax.ops.targets import for_platform, platform

__all__ = [
    'ACTIVATIONS',
    'Factor',
    'Padding',
    'adaptive_average_pool',
    'bias_act',
    'bilinear',
    'conv2d',
    'conv2d_resample',
    'conv_transpose2d',
    'double',
    'downsample2d',
    'filter2d',
    'filtered_lrelu',
    'for_platform',
    'halve',
    'modulated_conv',
    'modulated_conv_resample',
    'platform',
    'resize_align_corners',
    'resize_bicubic',
    'resize_bicubic_align_corners',
    'resize_bicubic_half_pixel',
    'resize_corner',
    'resize_half_pixel',
    'resize_nearest',
    'upfirdn2d',
    'upsample2d',
]
