"""What foreign files hold, in any format: arrays by name, records, words; limits, and the error of what is refused."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pegan_jax.settings import UserError

MAX_BYTES = 16 * 2**30  # of a file: far above every published checkpoint
MAX_WORK = 5_000_000  # instructions and items copied: a state dict of a thousand tensors takes some fifty thousand
MAX_DEPTH = 32  # of containers that `arrays` descends into


class ForeignFileError(UserError):
    """A file that is damaged, asks for something that is not allowed, or does not hold what is expected."""


class Record(dict):
    """An object of another program: its attributes; of a torch module, {name: array} of its state dict."""

    def __init__(self, class_name: str) -> None:
        super().__init__()
        self.class_name = class_name


def shown(word: Any) -> str:
    """A file's own word, safe to print: short, without control characters; of what is no word or number, the type."""
    # Of containers only short lists of numbers are printed: the text of nested ones can be exponentially long.
    flat = word if type(word) in (list, tuple) and len(word) <= 8 else [word]
    if isinstance(word, (str, BaseException)) or all(_is_number(x) for x in flat):
        text = str(word)
    else:
        text = f'a {type(word).__name__}'
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 120 else f'{text[:117]}...'


def _is_number(x: Any) -> bool:
    """Whether it is None, a truth value, or a number that is not too long to be printed."""
    return x is None or type(x) in (bool, float) or (type(x) is int and abs(x) < 2**64)


class Budget:
    """Bounds time and memory: a short pickle can ask for a long computation."""

    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise ForeignFileError(f'takes more than {MAX_WORK:,} instructions to read; no checkpoint does.')


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """{'a.b.0': array} of all arrays in nested dictionaries and sequences.

    Raises: ForeignFileError for nesting deeper than MAX_DEPTH.
    """
    budget = Budget()

    def walk(node: Any, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
        budget.spend(1)
        if len(names) > MAX_DEPTH:
            raise ForeignFileError(f'nested more than {MAX_DEPTH} deep, at {shown(".".join(names))}.')
        if isinstance(node, np.ndarray):
            yield '.'.join(names), node
        elif isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, (*names, str(key)))
        elif isinstance(node, (list, tuple)):
            for i, value in enumerate(node):
                yield from walk(value, (*names, str(i)))

    return dict(walk(tree, ()))


def records(tree: Any) -> dict[str, Record]:
    """{name: record} of the settings that lie beside the networks of a file, which are read but not used."""
    found = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {str(name): value for name, value in found if isinstance(value, Record) and not arrays(value)}


def from_bytes(data: bytes, dtype: np.dtype) -> np.ndarray:
    """The numbers that lie in a file's bytes, [n]."""
    if dtype == np.bool_:
        return np.frombuffer(data, np.uint8) != 0  # A bool byte other than 0 and 1 would be undefined behaviour.
    return np.frombuffer(data, dtype)
