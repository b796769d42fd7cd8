"""What foreign files hold, in any format: arrays by name, records, words; limits, and the error for what is refused."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pegan_jax.settings import UserError

MAX_BYTES = 16 * 2**30  # of a file: far above every published checkpoint
MAX_WORK = 5_000_000  # instructions and items copied: a state dict of a thousand tensors takes some fifty thousand
MAX_DEPTH = 32  # of containers that `arrays` descends into
MAX_NAME = 4096  # characters of one of their keys
# Limits of numbers in a file's settings, far above anything published: networks are built before their arrays are
# compared with those of the file. The first pattern that fits a name counts.
MAX_SETTINGS = {
    r'.*layers': 50, r'num_.*|.*_scales': 100, r'.*resolution': 16384, r'filter_size': 64, r'(?s:.*)': 2**24,
}  # fmt: skip
MAX_WIDTHS = 100  # numbers in one setting
MAX_TAPS = 8192  # of a low-pass filter of StyleGAN3


class ForeignFileError(UserError):
    """A file that is damaged, asks for something that is not allowed, or does not hold what is expected."""


class Record(dict):
    """An object of another program: its attributes, or for a torch module {name: array} of its state dict."""

    def __init__(self, class_name: str) -> None:
        super().__init__()
        self.class_name = class_name


def shown(word: Any) -> str:
    """A file's own word, safe to print: short, without control characters; for what is no word or number, its type."""
    # Only short lists of numbers are printed among containers: the text of nested ones can be exponentially long.
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

    def walk(node: Any, name: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
        budget.spend(1 + len(name) // 64)  # a long name may be that of many arrays
        if depth > MAX_DEPTH:
            raise ForeignFileError(f'nested more than {MAX_DEPTH} deep, at {shown(name)}.')
        if isinstance(node, np.ndarray):
            yield name, node
        elif isinstance(node, (dict, list, tuple)):
            start = f'{name}.' if depth else ''
            for key, value in node.items() if isinstance(node, dict) else enumerate(node):
                yield from walk(value, f'{start}{_key(key)}', depth + 1)

    return dict(walk(tree, '', 0))


def _key(key: Any) -> str:
    try:
        text = str(key)
    except ValueError:  # a number of thousands of digits
        raise ForeignFileError('has a number of thousands of digits for a name.') from None
    if len(text) > MAX_NAME:
        raise ForeignFileError(f'has a name of {len(text):,} characters, {shown(text)}; at most {MAX_NAME:,} are read.')
    return text


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises: ForeignFileError for settings of a model that would take for ever to build; see MAX_SETTINGS."""
    for name, value in settings.items():
        most = next(most for pattern, most in MAX_SETTINGS.items() if re.fullmatch(pattern, name))
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if len(numbers) > MAX_WIDTHS:
            raise ForeignFileError(f'has {len(numbers)} numbers in {shown(name)}; at most {MAX_WIDTHS} are read.')
        for number in numbers:
            if isinstance(number, int) and abs(number) > most:
                raise ForeignFileError(f'has {shown(name)}={shown(number)}; at most {most:,} is read.')
    side = settings.get('img_resolution')
    side = max(side) if isinstance(side, (list, tuple)) and all(type(x) is int for x in side) and side else side
    size, stopband = settings.get('filter_size'), settings.get('first_stopband', 4)
    factors = side, size, settings.get('lrelu_upsampling', 2), stopband
    if all(isinstance(x, (int, float)) and x > 0 for x in factors):
        taps = side * size * factors[2] / (2 * stopband)  # about, between the lowest rate and the highest
        if not taps <= MAX_TAPS:
            raise ForeignFileError(f'has filter_size={size}, which makes filters of {taps:.3g} taps; it is too large.')


def records(tree: Any) -> dict[str, Record]:
    """{name: record} of the settings beside the networks of a file; they are read but not used."""
    found = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {shown(name): value for name, value in found if isinstance(value, Record) and not arrays(value)}


def from_bytes(data: bytes, dtype: np.dtype) -> np.ndarray:
    """The numbers in a file's bytes, [n]."""
    if dtype == np.bool_:
        return np.frombuffer(data, np.uint8) != 0  # A bool byte other than 0 and 1 would be undefined behaviour.
    return np.frombuffer(data, dtype)
