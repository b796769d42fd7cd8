"""Renames and reshapes the arrays of a foreign checkpoint, strictly: nothing left over, nothing unfilled."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.weights.contents import ForeignFileError, shown

MORE_DIGITS = r'\d{6}'  # than a layer's number or a side of images has


class Rule(NamedTuple):
    """Arrays whose whole source name matches `pattern` go to `path`, changed by `transform`.

    path: 'a/b/{0}', filled with the pattern's groups, their dots turned into underscores; or a function of the groups.
    """

    pattern: str
    path: str | Callable[..., str]
    transform: Callable[[np.ndarray], np.ndarray]


def apply(source: Mapping[str, np.ndarray], rules: Sequence[Rule], target: Any, *, ignored: Sequence[str] = ()) -> dict:
    """The arrays of `source` in the tree of `target`.

    Args:
      source: {name: array}.
      target: nested dictionaries of anything with shape and dtype (jax.ShapeDtypeStruct).
      ignored: patterns of source names that are knowingly left out.
    Returns: nested dictionaries of NumPy arrays, with the target's paths, shapes and dtypes.
    Raises: ForeignFileError, which lists every name that is left over, every path that stays empty or is filled twice,
      and every array that has another shape, is not real or not finite.
    """
    wanted = {_path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(target)}
    filled, problems = {}, []
    for name, array in source.items():
        path, changed = renamed(name, array, rules)
        if path is None:
            if not any(re.fullmatch(pattern, name) for pattern in ignored):
                problems.append(f'left over: {shown(name)} {array.shape}')
        elif path not in wanted:
            problems.append(f'left over: {shown(name)} {array.shape}, as there is no {shown(path)}')
        elif path in filled:
            problems.append(f'filled twice: {path}, the second time by {shown(name)}')
        else:
            filled[path] = changed
            problems += _problems(f'{shown(name)} for {path}', changed, wanted[path])
    problems += [f'not filled: {path} {wanted[path].shape}' for path in wanted if path not in filled]
    if problems:
        raise ForeignFileError('the checkpoint does not fit the model: ' + '; '.join(problems) + '.')
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(filled[_path_name(path)], leaf.dtype, copy=True), target
    )


def fill(what: str | os.PathLike, source: Mapping, rules: Sequence[Rule], target: Any, **options: Any) -> dict:
    """Like `apply`, but its error begins with `what`: a file, or a network in it."""
    try:
        return apply(source, rules, target, **options)
    except ForeignFileError as error:
        raise ForeignFileError(f'{what}: {error}') from None


def _path_name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def renamed(name: str, array: np.ndarray, rules: Sequence[Rule]) -> tuple[str | None, np.ndarray | None]:
    """The path and the changed array of the first rule that matches a name; (None, None) if none does."""
    for rule in rules:
        match = re.fullmatch(rule.pattern, name, flags=re.ASCII)
        if match and (path := _path_of(rule, match)):
            try:
                return path, rule.transform(array)
            except (ValueError, IndexError, TypeError) as error:
                raise ForeignFileError(f'{shown(name)} has the shape {array.shape}: {error}') from None
    return None, None


def _path_of(rule: Rule, match: re.Match) -> str | None:
    """Where a rule sends a name; None if a number in it belongs to no layer: paths have powers of two in them."""
    groups = [g.replace('.', '_') for g in match.groups()]
    if any(re.search(MORE_DIGITS, g) for g in groups):
        return None
    try:
        return rule.path(*groups) if callable(rule.path) else rule.path.format(*groups)
    except ValueError:  # a negative power, or one of thousands of digits
        return None


def _problems(what: str, array: np.ndarray, leaf: Any) -> list[str]:
    if array.shape != leaf.shape:
        return [f'wrong shape: {what} is {array.shape}, expected {leaf.shape}']
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return [f'wrong type: {what} is {array.dtype}']
    if not np.all(np.isfinite(array.astype(leaf.dtype))):
        return [f'not finite: {what}']
    return []


# Layouts: torch to Flax -----------------------------------------------------------------------------------------------


def flat(array: np.ndarray) -> np.ndarray:
    """Any shape -> [size]."""
    return array.reshape(-1)


def scalar(array: np.ndarray) -> np.ndarray:
    """One number in any shape -> []."""
    return array.reshape(())


def dense(array: np.ndarray) -> np.ndarray:
    """(out, in), also as a 1x1 convolution (out, in, 1, 1) or a modulated one (1, out, in, 1, 1) -> [in, out]."""
    array = array[0] if array.ndim == 5 else array
    return array.reshape(array.shape[:2]).T


def conv(array: np.ndarray) -> np.ndarray:
    """(out, in, k, k) -> [k, k, in, out]."""
    return array.transpose(2, 3, 1, 0)


def quarter(kernel: np.ndarray) -> np.ndarray:
    """An upsampling filter without the gain of a factor of 2 per axis, which `ops` adds."""
    return kernel / 4


def pointwise(array: np.ndarray) -> np.ndarray:
    """(out, in) -> [1, 1, in, out]."""
    return dense(array)[None, None]


def swap_colours(array: np.ndarray, axis: int = -1, channels: int | None = None) -> np.ndarray:
    """BGR to RGB and back, along an axis that begins with the channels of an image; grey and opacity stay in place.

    channels: those of the image; None: as many as the axis has.
    """
    order = np.arange(array.shape[axis])
    if (channels or len(order)) >= 3:
        order[:3] = 2, 1, 0
    return np.take(array, order, axis)


def flattened_dense(height: int, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """Kernel of a dense layer after flattening: (out, C * H * W), as torch does -> [H * W * C, out], as NHWC does."""

    def transform(array: np.ndarray) -> np.ndarray:
        return array.reshape(len(array), -1, height, width).transpose(2, 3, 1, 0).reshape(-1, len(array))

    return transform


# And back: Flax to torch ----------------------------------------------------------------------------------------------


def rename(source: Any, rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """{name: array} of the leaves of a tree, each by the first rule that matches its path.

    Raises: ForeignFileError, which lists every path that no rule matches.
    """
    leaves = {_path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(source)}
    found = {path: renamed(path, array, rules) for path, array in leaves.items()}
    if left := [path for path, (name, _) in found.items() if name is None]:
        raise ForeignFileError(f'has no place there for {", ".join(left)}.')
    return dict(found.values())


def to_dense(array: np.ndarray) -> np.ndarray:
    """[in, out] -> (out, in)."""
    return array.T


def to_conv(array: np.ndarray) -> np.ndarray:
    """[k, k, in, out], or [in, out] of a 1x1 convolution -> (out, in, k, k)."""
    array = array[None, None] if array.ndim == 2 else array
    return array.transpose(3, 2, 0, 1)


def to_modulated(array: np.ndarray) -> np.ndarray:
    """As `to_conv` -> (1, out, in, k, k)."""
    return to_conv(array)[None]


def to_channels(array: np.ndarray) -> np.ndarray:
    """[C] -> (1, C, 1, 1)."""
    return array.reshape(1, -1, 1, 1)
