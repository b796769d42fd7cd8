"""The command sample."""

import argparse
import math
import pathlib

from pegan_jax import coords, sampling
from pegan_jax.cli import options
from pegan_jax.pixels import as_image, image_grid, to_uint8
from pegan_jax.settings import UserError

HELP = 'Images of seeds, as one grid or one file each.'

EPILOG = """examples:
  --seeds 0-31 --out grid.png                                      a grid of images
  --seeds 0-31 --truncation-psi 0.7 --out images                   a folder of files
  --seeds 0-3 --class 5 --out class.png                            of a model with labels
  --seeds 0-3 --style-mix 10-14:0-6 --out mix.png                  the first seven styles from seeds 10 to 14
  --seeds 0-3 --size 256x512 --rotate 20 --out wide.png            more of the scene, turned
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    p.add_argument('--seeds', type=options.numbers, default=list(range(32)), metavar='0,3,8-11', help='default: 0-31')
    options.add_styles(p)
    p.add_argument(
        '--style-mix', type=_mix, metavar='SEEDS:LAYERS',
        help='a table: its rows are --seeds, its columns these seeds, whose styles they get in these layers (from 0)',
    )  # fmt: skip
    p.add_argument(
        '--size', type=options.size, metavar='H[xW]', help='a larger image shows more, at the pitch of training'
    )
    p.add_argument(
        '--translate', type=options.tuple_of(options.real, 'X,Y'), default=(0.0, 0.0), metavar='X,Y',
        help='move the content right and down, in image widths, as the official script of StyleGAN3 does',
    )  # fmt: skip
    p.add_argument(
        '--rotate', type=options.real, default=0.0, metavar='DEGREES', help='turn the content counter-clockwise'
    )
    p.add_argument('--columns', type=int, default=8, help='of the grid (default 8)')
    p.add_argument(
        '--out',
        type=pathlib.Path,
        required=True,
        metavar='FILE.png|FOLDER',
        help='a grid, or a folder for single files',
    )


def _mix(text: str) -> tuple[list[int], list[int]]:
    """'10-14:0-6' -> seeds of columns and layers, each as `numbers`"""
    seeds, colon, layers = text.partition(':')
    if not colon:
        raise argparse.ArgumentTypeError(f'{text!r} names no layers; write SEEDS:LAYERS, such as 10-14:0-6.')
    return options.numbers(seeds), options.numbers(layers)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    options.at_least_one(args, 'columns')
    model = options.load(args)
    if args.out.suffix:
        options.check_picture(args.out, model.config.data.channels)
    chosen = {'size': args.size, 'noise_mode': args.noise_mode, **options.styles(args)}
    if args.rotate or any(args.translate):
        turn = coords.rotate(math.radians(args.rotate))
        chosen['transform'] = coords.compose(turn, coords.translate(*args.translate))
    if args.style_mix:
        if not args.out.suffix:
            raise UserError(f'--style-mix makes one picture, but --out {args.out} is a folder; write FILE.png.')
        table = sampling.style_mix(model, args.seeds, *args.style_mix, **chosen)
        images, args.columns = to_uint8(table.reshape(-1, *table.shape[2:])), table.shape[1]
    else:
        images = to_uint8(sampling.sample(model, args.seeds, **chosen))
    if args.out.suffix:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        as_image(image_grid(images, min(args.columns, len(images)))).save(args.out)
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        for seed, image in zip(args.seeds, images, strict=True):
            as_image(image).save(args.out / f'seed{seed:06d}.png')
    print(args.out)
