"""Several processes that act as one: a failure on one stops all, and all of them stop after the same step."""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pegan_jax.settings import ConfigError

MESSAGE_BYTES = 2000
PARTING = 5  # seconds in which the others, which end with the first process, can still report an error of their own


def together(action: Callable[[], Any], *, first_only: bool = False) -> Any:
    """action() on every process, or only on the first; returns what it returned here, None where it did not run.

    All processes call it, and none returns before all have. If the action fails on any of them, it raises its error
    there, and the others raise ConfigError with the number of that process and its message, instead of waiting for it.
    """
    result, error = None, None
    if jax.process_index() == 0 or not first_only:
        try:
            result = action()
        except Exception as caught:
            error = caught
    if jax.process_count() > 1:
        text = '' if error is None else str(error) or type(error).__name__
        message = text.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b'\0')
        messages = multihost_utils.process_allgather(np.frombuffer(message, np.uint8))
        for process, found in enumerate(messages):
            text = found.tobytes().rstrip(b'\0').decode(errors='replace')
            if text and error is None:
                error = ConfigError(f'process {process} of {jax.process_count()}: {text}')
    if error is not None:
        raise error
    return result


def of_first(numbers: Sequence[int]) -> list[int]:
    """The whole numbers below 2^31 that the first process passes. All processes call it."""
    if jax.process_count() == 1:
        return [*numbers]
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    given = np.asarray(numbers, np.int32) if jax.process_index() == 0 else np.zeros(count, np.int32)
    return multihost_utils.broadcast_one_to_all(given).tolist() if count else []


def everywhere(true: bool) -> bool:
    """Whether it is true on all processes. All of them call it."""
    return jax.process_count() == 1 or bool(multihost_utils.process_allgather(np.bool_(true)).all())


def agree(settings: dict[str, Any]) -> None:
    """All processes call it with what must be equal among them. Raises: ConfigError on all, naming what is not."""
    if jax.process_count() == 1:
        return
    text = json.dumps(settings, default=str, sort_keys=True).encode()
    digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
    digests = multihost_utils.process_allgather(np.concatenate([np.int64([len(text)]).view(np.uint8), digest]))
    if (digests == digests[0]).all():
        return
    longest = int(digests[:, :8].copy().view(np.int64).max())
    padded = np.frombuffer(text.ljust(longest), np.uint8)
    flat = [_flat(json.loads(row.tobytes())) for row in multihost_utils.process_allgather(padded)]
    different = []
    for name in sorted({name for one in flat for name in one}):
        values = [one.get(name) for one in flat]
        if any(value != values[0] for value in values):
            other = next(i for i, value in enumerate(values) if value != values[0])
            different.append(f'{name} is {values[0]!r} in process 0 and {values[other]!r} in process {other}')
    raise ConfigError(
        f'the {jax.process_count()} processes were not started alike: {"; ".join(different)}. Start all of them with '
        'the same command, on the same data.'
    )


def _flat(tree: Any, name: str = '') -> dict[str, Any]:
    """{'train.batch_size': 8, ...}"""
    if not isinstance(tree, dict):
        return {name: tree}
    return {
        path: x for key, value in tree.items() for path, x in _flat(value, f'{name}.{key}' if name else key).items()
    }


def lost_peer(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is that another process cannot be reached."""
    signs = ('Gloo', 'UNAVAILABLE', 'heartbeat', 'Connection closed by peer', 'coordination service')
    while error is not None:
        if not isinstance(error, ConfigError) and any(sign in str(error) for sign in signs):
            return True
        error = error.__cause__ or error.__context__
    return False


def several() -> bool:
    """Whether this process has met others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def end_alone(lost: bool) -> None:
    """Ends this process, as failed. JAX would first wait for the others, for minutes if they wait for this one.

    lost: whether the reason is that another one has already gone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if not lost and jax.process_index() == 0:
        time.sleep(PARTING)
    os._exit(1)


class StopSignal:
    """Turns SIGTERM and SIGINT into a question that the loop asks after every program."""

    def __enter__(self) -> 'StopSignal':
        self._requested, self._asked, self._previous = False, 0, {}
        # On several processes JAX's preemption service takes SIGTERM and lets all of them agree on a moment.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, *_: object) -> None:
        self._requested = True

    def requested(self) -> bool:
        """Whether to save and stop now; equal on all processes, which ask equally often.

        JAX agrees on one future number and says yes only to it, so questions are counted, not steps.
        """
        self._asked += 1
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self._requested

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
