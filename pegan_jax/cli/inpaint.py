"""The command inpaint."""

import argparse
import sys

from PIL import ImageColor

from pegan_jax import inpainting
from pegan_jax.cli import options
from pegan_jax.inpainting import strategies
from pegan_jax.settings import UserError

HELP = 'Fill the holes of images; all other pixels stay as they are.'

EPILOG = """White in the mask is the hole, black is known. Labels, colours and transparency are understood too; the
command says what it has guessed. Known pixels are written as they are, so the format must be lossless.

In folders, images, masks and sketches are matched by their names without suffix; photo_mask.png is the mask of
photo.jpg, also in the same folder. One mask may serve a whole folder of images. A file that cannot be read does not
keep the others from being filled.

Sketches are for models that were trained with them (configs/deepfill.py:guided): white lines on black. Only lines in
the hole count.

Large photographs: --strategy crop fills a window around every hole at full resolution, resize fills a smaller image and
enlarges what is in the holes; original, the default, takes the photograph as it is, which may take minutes and
gigabytes.

The method biharmonic needs no model: it is the smooth interpolation of scikit-image, a baseline that invents nothing.

examples:
  --model runs/faces --image photo.jpg --mask hole.png --out filled.png
  --model runs/guided --image photo.jpg --mask hole.png --sketch lines.png --flow --out filled.png
  --model runs/faces --image photos --mask masks --out filled
  --model runs/faces --image photos --mask photos --out filled           photos/a.jpg with photos/a_mask.png
  --model runs/faces --image photo.jpg --mask labels.png --mask-colour 3 --out filled.png
  --model runs/faces --image large.jpg --mask hole.png --strategy crop --margin 200 --out filled.png
  --method biharmonic --image photo.jpg --mask hole.png --out smooth.png
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument('--model', type=options.model, metavar='MODEL', help=options.MODEL)
    p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")
    p.add_argument(
        '--method', choices=('model', 'biharmonic'), default='model', help='what fills the holes (default: model)'
    )
    p.add_argument('--image', type=options.source, required=True, metavar='FILE|FOLDER', help='images with holes')
    p.add_argument('--mask', type=options.source, required=True, metavar='FILE|FOLDER', help='masks; white is the hole')
    p.add_argument(
        '--sketch', type=options.source, metavar='FILE|FOLDER', help='white lines to follow, for a guided model'
    )
    p.add_argument('--invert-mask', action='store_true', help='black is the hole')
    p.add_argument(
        '--mask-colour', type=_colour, metavar='R,G,B|NAME|N',
        help='the hole has this colour in the mask, such as 255,0,0 or red, or this value in a mask of labels',
    )  # fmt: skip
    p.add_argument('--invert-sketch', action='store_true', help='lines are black')
    p.add_argument(
        '--flow', action='store_true', help='also write NAME_flow.png, a picture of where the attention copies from'
    )
    p.add_argument(
        '--strategy',
        choices=strategies.NAMES,
        default='original',
        help='what is done with large photographs (default: original)',
    )
    p.add_argument(
        '--margin', type=int, metavar='PIXELS', help='how much --strategy crop sees around a hole (default 128)'
    )
    p.add_argument('--limit', type=int, metavar='PIXELS', help='longer side for --strategy resize (default 1024)')
    p.add_argument('--batch-size', type=int, help='images of one size computed at once (default 8)')
    p.add_argument('--out', type=options.path, required=True, metavar='FILE.png|FOLDER', help='filled images')


def _colour(text: str) -> int | tuple[int, ...]:
    """'255,0,0', 'red' or '#f00' -> (255, 0, 0); '3' -> 3"""
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return ImageColor.getrgb(f'rgb({text})' if text.count(',') == 2 and text[0].isdigit() else text)[:3]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no colour; write 255,0,0 or red, or of a mask of labels a number.'
        ) from None


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if (args.method == 'model') != (args.model is not None):
        raise UserError(
            'name a trained --model, or choose --method biharmonic.'
            if args.model is None
            else f'--method {args.method} takes no --model; leave one of them out.'
        )
    alone = args.model is None or args.strategy != 'original'  # images are filled one by one
    for name, useless, why in (
        ('step', args.model is None, 'is of a --model'),
        ('invert_sketch', args.sketch is None, 'is of a --sketch'),
        ('batch_size', alone, 'is of a --model with --strategy original'),
    ):
        if getattr(args, name) not in (None, False) and useless:
            raise UserError(f'--{name.replace("_", "-")} {why}; leave it out.')
    args.batch_size = 8 if args.batch_size is None else args.batch_size
    options.at_least_one(args, 'batch_size')
    chosen = {}
    for name, strategy in (('margin', 'crop'), ('limit', 'resize')):
        if (value := getattr(args, name)) is not None:
            if args.strategy != strategy:
                raise UserError(f'--{name} {value} goes with --strategy {strategy}; leave it out, or add that.')
            chosen[name] = value
    files = inpainting.pairs(args.image, args.mask, args.out, args.sketch)
    model = None if args.model is None else options.load(args)
    inpainting.inpaint_files(
        model, files, invert_mask=args.invert_mask, mask_colour=args.mask_colour,
        invert_sketch=args.invert_sketch, flow=args.flow,
        strategy=strategies.Strategy(args.strategy, **chosen),
        batch_size=args.batch_size, progress=sys.stderr.isatty(),
    )  # fmt: skip
    if model is None:
        print('smooth interpolation (biharmonic equation, scikit-image), no model')
    print(args.out)
