"""Files that are whole, or not there."""

import contextlib
import pathlib
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path beside `path` to write to, and moves it there at the end; after an error nothing is left.

    Several processes may write at once. The new name does not have the old one in it, which may be as long as can be.
    """
    unfinished = path.with_name(f'.{uuid.uuid4().hex}')
    _open.add(unfinished)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
        _open.discard(unfinished)


_open: set[pathlib.Path] = set()


def remove_unfinished() -> None:
    """Takes away what is being written, for a process that is about to end at once."""
    for path in list(_open):
        path.unlink(missing_ok=True)
