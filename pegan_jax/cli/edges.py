"""The command edges."""

import argparse
import functools

from pegan_jax.cli import options
from pegan_jax.data import edges
from pegan_jax.settings import UserError
from pegan_jax.weights import features

HELP = 'Draw the lines of all images in a folder, for training with sketches.'
EPILOG = """Writes <name>_edge.png for every image, in the same sub-folders. Training finds them beside the images with
--config.data.edges=files. HED needs its weights, as a torch file; they are not downloaded."""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument('--folder', type=options.path, required=True, help='folder of images')
    p.add_argument(
        '--out',
        type=options.path,
        required=True,
        metavar='FOLDER',
        help='folder for the drawings; it may be the same one',
    )
    p.add_argument(
        '--method', choices=('canny', 'dog', 'hed'), default='canny', help='how lines are found (default: canny)'
    )
    p.add_argument('--weights', type=options.source, metavar='FILE.pth', help='parameters of HED, as a torch file')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if (args.weights is not None) != (args.method == 'hed'):
        raise UserError(
            '--method hed needs --weights FILE.pth, the parameters of HED as a torch file.'
            if args.weights is None
            else f'--method {args.method} takes no --weights; use --method hed.'
        )
    draw = functools.partial(edges.extract, method=args.method)
    if args.method == 'hed':
        draw = functools.partial(features.hed_edges, features.load_hed(args.weights))
    drawn, count = edges.extract_folder(args.folder, args.out, draw, progress=True)
    print(f'{drawn} of {count} images: {args.out}')
