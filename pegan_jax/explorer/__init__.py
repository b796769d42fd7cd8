"""A browser page for trained models: a map of any coordinates, canvases with handles, photographs with holes.

`serve` runs it for the command of the same name, `explore` beside a notebook. Needs the extra `explore`.
"""

from pegan_jax.explorer.page import page
from pegan_jax.explorer.serving import Explorer, explore, serve

__all__ = ['Explorer', 'explore', 'page', 'serve']
