"""Images from trained models: `load`, then `sample`, `interpolate`, `style_mix`; or `render` at any coordinates."""

from pegan_jax.sampling.grids import (
    Grid,
    LazyGrid,
    frame_grid,
    lazy_grid,
    motion,
    panorama,
    planet,
    read_coords,
    sphere,
    unstretched,
)
from pegan_jax.sampling.model import Model, load
from pegan_jax.sampling.pictures import frame_view, interpolate, of_styles, sample, stream, style_mix
from pegan_jax.sampling.rendering import (
    Blend,
    fill_scattered,
    painted,
    render,
    render_file,
    render_foveated,
    render_tiles,
)
from pegan_jax.sampling.video import CAMERAS, camera, interpolation

__all__ = [
    'CAMERAS',
    'Blend',
    'Grid',
    'LazyGrid',
    'Model',
    'camera',
    'fill_scattered',
    'frame_grid',
    'frame_view',
    'interpolate',
    'interpolation',
    'lazy_grid',
    'load',
    'motion',
    'of_styles',
    'painted',
    'panorama',
    'planet',
    'read_coords',
    'render',
    'render_file',
    'render_foveated',
    'render_tiles',
    'sample',
    'sphere',
    'stream',
    'style_mix',
    'unstretched',
]
