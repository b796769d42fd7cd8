"""Ctrl-C is heard at once, even while the main thread is inside a compilation, where Python's own handlers wait."""

import os
import signal
import sys
import threading

from pegan_jax.files import remove_unfinished


class Interrupts:
    """Ends the process on Ctrl-C with one line and no half-written file.

    saves: the command handles the first Ctrl-C itself, to save and stop; the second one ends it.
    """

    def __init__(self, saves: bool) -> None:
        self._saves, self._count = saves, 0

    def __enter__(self) -> None:
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.getsignal(signal.SIGINT)
            if not self._saves:
                signal.signal(signal.SIGINT, lambda *_: None)  # the thread below does all
            self._read, write = os.pipe()
            os.set_blocking(write, False)
            # The C-level handler of any signal that Python handles writes its number, at once.
            self._previous, self._write = signal.set_wakeup_fd(write, warn_on_full_buffer=False), write
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while (number := os.read(self._read, 1)) not in (b'', b'\0'):
            if number == bytes([signal.SIGINT]):
                self._count += 1
                if self._saves and self._count == 1:
                    print(
                        '\nstopping: what is trained so far is saved first; Ctrl-C once more ends at once.',
                        file=sys.stderr,
                    )
                    continue
                remove_unfinished()
                print('\nstopped.', file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
        os.close(self._read)

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.set_wakeup_fd(self._previous)
            signal.signal(signal.SIGINT, self._handler)
            os.write(self._write, b'\0')
            os.close(self._write)
