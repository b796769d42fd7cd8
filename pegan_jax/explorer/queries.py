"""What the page asks for, checked: numbers in their ranges, and which image of a model is meant."""

import functools
import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.gan import per_layer
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

Query = Mapping[str, str]


def number(query: Query, name: str, low: float, high: float, default: float | None = None) -> float:
    """A number from low to high. Raises: UserError for anything else, or if it is missing and has no default."""
    text = query.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text)
    except (TypeError, ValueError):
        raise UserError(f'{name}={text!r} is no number; give one from {low:g} to {high:g}.') from None
    if not (math.isfinite(value) and low <= value <= high):
        raise UserError(f'{name}={text} must lie between {low:g} and {high:g}.')
    return value


def whole(query: Query, name: str, low: int, high: int, default: int | None = None) -> int:
    """`number`, without a fraction."""
    value = number(query, name, low, high, default)
    if value != int(value):
        raise UserError(f'{name}={value} is no whole number.')
    return int(value)


def one_of(query: Query, name: str, known: tuple[str, ...]) -> str:
    """One of these words; the first is the default. Raises: UserError for another."""
    word = query.get(name, known[0])
    if word not in known:
        raise UserError(f'{name}={word!r}; use {", ".join(known)}.')
    return word


class Style(NamedTuple):
    """Which image of a model: seed, truncation, class; and, with `to`, how far it has moved to another seed.

    layers: the first and the last layer that go to the other seed; None: all do.
    """

    seed: int
    psi: float = 1.0
    label: int | None = None
    to: int | None = None
    t: float = 0.0
    layers: tuple[int, int] | None = None


def style(query: Query) -> Style:
    """The style of a query: seed, psi, class, to, t, layers ('0-3'). Raises: UserError as `number`."""
    label = whole(query, 'class', 0, 10**6) if 'class' in query else None
    to = whole(query, 'to', 0, 2**32 - 1) if 'to' in query else None
    layers = None
    if 'layers' in query:
        first, _, last = query['layers'].partition('-')
        pair = {'the first of layers': first, 'the last of layers': last}
        layers = tuple(whole(pair, name, 0, 1000) for name in pair)
    seed, psi = whole(query, 'seed', 0, 2**32 - 1, 0), number(query, 'psi', -4, 4, 1.0)
    return Style(seed, psi, label, to, 0.0 if to is None else number(query, 't', 0, 1, 0.0), layers)


def kept(maxsize: int) -> Callable:
    """`functools.lru_cache` for functions of a model and more: `maxsize` results per model, while the model exists."""

    def decorate(function: Callable) -> Callable:
        caches = weakref.WeakKeyDictionary()

        @functools.wraps(function)
        def call(model: Model, *args: Any) -> Any:
            if (cache := caches.get(model)) is None:
                found = weakref.ref(model)  # a cache that held its model would keep it for ever
                cache = caches[model] = functools.lru_cache(maxsize)(lambda *args: function(found(), *args))
            return cache(*args)

        return call

    return decorate


@kept(64)
def _of_seed(model: Model, seed: int, psi: float, label: int | None) -> jax.Array:
    return per_layer(model.sampler, model.styles([seed], psi, label=label))


def styles(model: Model, wanted: Style) -> jax.Array:
    """w of a style, one per layer where layers have their own: [1, num_ws, w_dim], else [1, ...].

    Raises: UserError as `Model.styles`, for layers that do not exist, and for blends of latents that are keys.
    """
    w = _of_seed(model, wanted.seed, wanted.psi, wanted.label)
    if wanted.to is None:
        return w
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise UserError(f'{model.config.system} has nothing between two seeds: its latents are keys of noise.')
    other = _of_seed(model, wanted.to, wanted.psi, wanted.label)
    share = np.float32(wanted.t)
    if wanted.layers is not None:
        first, last = wanted.layers
        if not first <= last < model.num_ws:
            raise UserError(f'layers={first}-{last}; the model has layers 0 to {model.num_ws - 1}.')
        index = np.arange(model.num_ws)[None, :, None]
        share = np.where((first <= index) & (index <= last), share, np.float32(0))
    return (1 - share) * w + share * other


def model_words(model: Model) -> list[str]:
    """The words of a command that load a model: ['--model', path], and --step where one was asked for."""
    path, step = model.loaded or ('MODEL', None)
    return ['--model', path, *([] if step is None else ['--step', str(step)])]


def load_line(model: Model) -> str:
    """The line of Python that loads a model."""
    path, step = model.loaded or ('MODEL', None)
    return f'model = pegan_jax.load({path!r}{"" if step is None else f", {step!r}"})'


def style_text(wanted: Style) -> str:
    """The arguments of `Model.styles` as Python: ', truncation_psi=0.7, label=3', or nothing."""
    psi = '' if wanted.psi == 1 else f', truncation_psi={wanted.psi:g}'
    return psi + ('' if wanted.label is None else f', label={wanted.label}')


def style_options(wanted: Style) -> str:
    """The same as options of commands: ' --truncation-psi 0.7 --class 3', or nothing."""
    psi = '' if wanted.psi == 1 else f' --truncation-psi {wanted.psi:g}'
    return psi + ('' if wanted.label is None else f' --class {wanted.label}')


def blend_lines(wanted: Style) -> list[str]:
    """Python lines that make `w` of a style that is between two seeds, as `styles` does."""
    arguments = style_text(wanted)
    lines = [f'a, b = (model.styles([seed]{arguments}) for seed in ({wanted.seed}, {wanted.to}))']
    if wanted.layers is None:
        return [*lines, f'w = (1 - {wanted.t:g}) * a + {wanted.t:g} * b']
    first, last = wanted.layers
    return [
        *lines,
        'a, b = (np.repeat(np.asarray(w)[:, None], model.num_ws, axis=1) if w.ndim == 2 else w for w in (a, b))',
        't = np.zeros((1, model.num_ws, 1), np.float32)',
        f't[:, {first}:{last + 1}] = {wanted.t:g}',
        'w = (1 - t) * a + t * b',
    ]
