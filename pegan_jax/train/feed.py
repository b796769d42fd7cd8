"""Feeds batches to the devices."""

import collections
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import jax

POLL = 0.002  # seconds


class Feed:
    """Places batches on the devices ahead of the steps that take them; measures how long devices waited for them."""

    def __init__(self, batches: Iterator[dict], place: Callable[[dict], dict]) -> None:
        self._batches, self._place, self._idle = batches, place, 0.0
        self._thread, self._ahead = futures.ThreadPoolExecutor(1), collections.deque()

    def take(self, count: int, running: Sequence[jax.Array]) -> tuple[dict, ...]:
        """The next batches.

        running: arrays of the previous step, ready when the devices have nothing left to do; none before the first.
        """
        self._ask(count)
        batches = tuple(self._awaited(self._ahead.popleft(), running) for _ in range(count))
        self._ask(count)
        return batches

    def coming(self, count: int) -> tuple[dict, ...]:
        """What `take` will return, which stays to be taken."""
        self._ask(count)
        return tuple(batch.result() for batch in itertools.islice(self._ahead, count))

    def _ask(self, count: int) -> None:
        while len(self._ahead) < count:
            self._ahead.append(self._thread.submit(lambda: self._place(next(self._batches))))

    def _awaited(self, batch: futures.Future, running: Sequence[jax.Array]) -> dict:
        since = None
        while running and not batch.done():
            if since is None and all(x.is_ready() for x in running):
                since = time.perf_counter()
            futures.wait([batch], timeout=POLL if since is None else None)
        if since is not None:
            self._idle += time.perf_counter() - since
        return batch.result()

    def idle(self) -> float:
        """Seconds since the last call in which devices did nothing but wait for data."""
        found, self._idle = self._idle, 0.0
        return found

    def close(self) -> None:
        """Stops after the batch that is being placed."""
        self._thread.shutdown(cancel_futures=True)
