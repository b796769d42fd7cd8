"""The command edges."""

import argparse
import functools
import pathlib
import sys

from tqdm import tqdm

from pegan_jax import inpainting
from pegan_jax.data import edges, sources
from pegan_jax.pixels import UnreadableImage, decode_image
from pegan_jax.settings import DataConfig, UserError
from pegan_jax.weights import features

HELP = 'Draw the lines of all images in a folder, for training with sketches.'
EPILOG = """Writes <name>_edge.png for every image, in the same sub-folders. Training finds them beside the images with
--config.data.edges=files. HED needs its weights, as a torch file; they are not downloaded."""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument('--folder', type=pathlib.Path, required=True, help='of images')
    p.add_argument('--out', type=pathlib.Path, required=True, metavar='FOLDER', help='may be the same folder')
    p.add_argument('--method', choices=('canny', 'dog', 'hed'), default='canny', help='default: canny')
    p.add_argument('--weights', type=pathlib.Path, metavar='FILE.pth', help='of HED')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if (args.weights is not None) != (args.method == 'hed'):
        raise UserError(
            '--method hed needs --weights FILE.pth, the parameters of HED as a torch file.'
            if args.weights is None
            else f'--method {args.method} takes no --weights; use --method hed.'
        )
    if not args.folder.is_dir():
        raise UserError(f'--folder {args.folder} is not a folder of images.')
    if args.folder.resolve() in args.out.resolve().parents:
        raise UserError(
            f'--out {args.out} lies inside of --folder {args.folder}, whose images would then include '
            'the edges; choose the folder itself, or one outside.'
        )
    names = sources.image_names(args.folder)
    names = sorted(set(names) - set(sources.edge_files(names).values()))
    if not names:
        known = ', '.join('*' + suffix for suffix in sources.SUFFIXES)
        raise UserError(f'--folder {args.folder} holds no image; expected files named {known}.')
    targets = {}
    for name in names:
        target = pathlib.PurePath(name).with_suffix('')
        targets.setdefault(args.out / target.with_name(f'{target.name}_edge.png'), []).append(name)
    if twice := [shared for shared in targets.values() if len(shared) > 1]:
        raise UserError(f'{" and ".join(twice[0])} would share one file of edges; rename all but one of them.')
    draw = functools.partial(edges.extract, method=args.method)
    if args.method == 'hed':
        draw = functools.partial(features.hed_edges, features.load_hed(args.weights))
    written = 0
    for target, (name,) in tqdm(targets.items(), 'edges', unit='image'):
        try:
            image = decode_image((args.folder / name).read_bytes(), DataConfig.max_pixels)
        except (UnreadableImage, OSError) as error:
            print(f'left out: {name}: {error}', file=sys.stderr)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        inpainting.save(target, inpainting.Picture(draw(image)[..., 0], None, None))
        written += 1
    print(f'{written} of {len(names)} images: {args.out}')
