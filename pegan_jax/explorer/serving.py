"""Serves the page: for a command until it is stopped, or from a thread beside a notebook."""

import os
import secrets
import socket
import threading
import weakref
import webbrowser
from collections.abc import Mapping

import uvicorn

from pegan_jax.explorer import maps
from pegan_jax.explorer.page import LOOPBACK, page
from pegan_jax.sampling import Model, load
from pegan_jax.settings import UserError


def _bind(host: str, port: int) -> socket.socket:
    """A socket on an address; port 0 is any free one. Raises: UserError for one that cannot be used."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen()  # from here on a browser waits for the server
    except (OSError, OverflowError) as error:
        found.close()
        raise UserError(f'--host {host} --port {port} cannot be used: {error}; choose another, or port 0.') from None
    return found


def _server(models: Mapping[str, Model], token: str | None, embedded: bool) -> uvicorn.Server:
    # Programs are compiled, or read from the cache, while a browser starts. A process that ends waits for that, because
    # a thread that ends inside XLA aborts it.
    threading.Thread(target=maps.prepare, args=(list(models.values()),)).start()
    app = page(models, token=token, embedded=embedded)
    # Its own configuration of logs would close what other libraries of this process write to.
    quiet = {'log_config': None, 'log_level': 'warning', 'access_log': False}
    return uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **quiet))


def serve(models: Mapping[str, Model], *, host: str = LOOPBACK[0], port: int = 8000, show: bool = False) -> None:
    """Serves the page until the process is stopped.

    Args:
      models: by name, see `page`.
      host: the address to listen on; if other machines can reach it, the page gets a token, which is printed.
      port: 0 is any free one.
      show: open a browser.
    Raises: UserError for an address that cannot be used.
    """
    token = None if host in LOOPBACK else secrets.token_urlsafe(16)
    with _bind(host, port) as found:
        name = {'0.0.0.0': socket.gethostname(), '::': socket.gethostname()}.get(host, host)
        name = f'[{name}]' if ':' in name else name
        address = f'http://{name}:{found.getsockname()[1]}/' + ('' if token is None else f'?token={token}')
        print(address, flush=True)
        if show:
            webbrowser.open(address)
        _server(models, token, False).run(sockets=[found])


class _Serving(threading.Thread):
    """A server on a socket, which it closes when it ends."""

    def __init__(self, server: uvicorn.Server, found: socket.socket) -> None:
        super().__init__(target=server.run, kwargs={'sockets': [found]}, daemon=True)
        self._server = server

    def end(self) -> None:
        """Tells the server to end, without waiting: the garbage collector calls it in any thread."""
        self._server.should_exit = True

    def close(self) -> None:
        self.end()
        self.join()


_SERVED: weakref.WeakValueDictionary[int, _Serving] = weakref.WeakValueDictionary()  # by port


class Explorer:
    """A page that is served by a thread of this process; a notebook shows it as the value of a cell.

    The server ends with `close()`, when nothing refers to the explorer any longer, or when another one takes its port.

    address: for a browser on this machine.
    """

    def __init__(self, models: Mapping[str, Model], port: int, height: int) -> None:
        self._token, self._height = secrets.token_urlsafe(16), height
        if (before := _SERVED.get(port)) is not None:
            before.close()
        found = _bind(LOOPBACK[0], port)
        self._port = found.getsockname()[1]
        self.address = f'http://{LOOPBACK[0]}:{self._port}/?token={self._token}'
        self._thread = _SERVED[self._port] = _Serving(_server(models, self._token, True), found)
        self._thread.start()
        weakref.finalize(self, self._thread.end)

    def close(self) -> None:
        """Ends the server."""
        self._thread.close()

    def __repr__(self) -> str:
        return f'Explorer at {self.address}'

    def _repr_html_(self) -> str:
        # Colab runs elsewhere: its page asks for an address that leads there.
        frame = f'pegan_jax-{self._port}'
        return (
            f'<iframe id="{frame}" src="{self.address}" width="100%" height="{self._height}" style="border:0"></iframe>'
            '<script>if (window.google && google.colab) google.colab.kernel.proxyPort('
            f'{self._port}, {{cache: false}}).then(address => document.getElementById("{frame}").src = '
            f'address + "?token={self._token}")</script>'
        )


def explore(*models: Model | str | os.PathLike, port: int = 0, height: int = 780) -> Explorer:
    """Shows models in a notebook, or serves them for a browser on this machine.

    Args:
      models: from `load`, or what it takes: working directories of runs, names of models that ship.
      port: 0 is any free one; an explorer of this process on the same port is closed.
      height: that of the page in the notebook, in pixels.
    Returns: what a notebook shows when it is the last value of a cell; `address`, and `close()` to end it.
    Raises: UserError for no models, or an address that cannot be used; CheckpointError as `load`.
    """
    if not models:
        raise UserError("explore() needs a model, such as explore(pegan_jax.load('runs/quickstart')).")
    named = {}
    for index, model in enumerate(model if isinstance(model, Model) else load(model) for model in models):
        path, step = model.loaded or (f'MODEL {index + 1}', None)
        name = path if step is None else f'{path}, step {step}'
        named[name if name not in named else f'{name} ({index + 1})'] = model
    return Explorer(named, port, height)
