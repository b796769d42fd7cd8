"""The kind of device for which a program is traced: CPUs take other forms of some operators than GPUs and TPUs."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_CHOSEN = contextvars.ContextVar('platform', default=None)


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': what `for_platform` says, otherwise JAX's default backend."""
    return _CHOSEN.get() or jax.default_backend()


@contextlib.contextmanager
def for_platform(name: str) -> Iterator[None]:
    """Traces the code inside the `with` for devices of this kind, which need not be present."""
    token = _CHOSEN.set(name)
    try:
        yield
    finally:
        _CHOSEN.reset(token)
