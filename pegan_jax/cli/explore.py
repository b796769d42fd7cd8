"""The command explore."""

import argparse

from pegan_jax.cli import options
from pegan_jax.settings import UserError

HELP = 'Look around in trained models with a browser: a map of any coordinates, moved canvases, photographs with holes.'

EPILOG = """Serves a page on this machine alone, and prints its address; Ctrl-C ends it. It writes a file only when you
save one. Needs the extra: pip install 'pegan_jax[explore]'.

--model may be repeated: models of one kind are chosen on the page, or fill holes side by side. On a remote machine,
leave --host as it is and forward the port: ssh -L 8000:localhost:8000 MACHINE. With another --host, anyone who
has the address with its token can use the page, but read nothing else; the connection is not encrypted.

examples:
  --model runs/quickstart
  --model runs/faces --model runs/places --port 8080
  --model runs/stylegan3 --open
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument(
        '--model', type=options.model, action='append', required=True, metavar='MODEL',
        help=f'{options.MODEL}; may be repeated',
    )  # fmt: skip
    p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")
    p.add_argument('--host', default='127.0.0.1', help='address to listen on (default 127.0.0.1: this machine alone)')
    p.add_argument('--port', type=int, default=8000, help='port of the page; 0 is any free one (default 8000)')
    p.add_argument('--open', action='store_true', help='open a browser')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    try:
        import pegan_jax.explorer as explorer  # needs Starlette and uvicorn, an extra
    except ModuleNotFoundError as error:
        if error.name not in ('starlette', 'uvicorn'):
            raise
        raise UserError(f"explore needs {error.name}: pip install 'pegan_jax[explore]'.") from None
    models = {str(path): options.load(argparse.Namespace(model=path, step=args.step)) for path in args.model}
    explorer.serve(models, host=args.host, port=args.port, show=args.open)
