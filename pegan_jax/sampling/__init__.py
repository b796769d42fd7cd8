"""Images from trained models: `load`, then `sample`, `interpolate`, `style_mix`, `render` and `render_foveated`."""

from pegan_jax.sampling.model import Model, load
from pegan_jax.sampling.pictures import frame_view, interpolate, of_styles, sample, stream, style_mix, unstretched
from pegan_jax.sampling.rendering import (
    Grid,
    LazyGrid,
    fill_scattered,
    lazy_grid,
    render,
    render_file,
    render_foveated,
)
from pegan_jax.sampling.video import CAMERAS, camera, interpolation

__all__ = [
    'CAMERAS',
    'Grid',
    'LazyGrid',
    'Model',
    'camera',
    'fill_scattered',
    'frame_view',
    'interpolate',
    'interpolation',
    'lazy_grid',
    'load',
    'of_styles',
    'render',
    'render_file',
    'render_foveated',
    'sample',
    'stream',
    'style_mix',
    'unstretched',
]
