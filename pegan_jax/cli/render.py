"""The command render."""

import argparse
import math
import sys

from pegan_jax import coords, pixels, sampling
from pegan_jax.cli import options
from pegan_jax.settings import UserError

HELP = 'One image on any grid of coordinates, of any size: memory does not grow with it.'

EPILOG = """The grid of --size samples over --extent is cropped, then its content is zoomed, turned and moved.

CIPS computes any grid. StyleGAN3 computes a canvas of --size at the pixel pitch of training, whose Fourier features are
moved so that it shows --extent; it cannot leave out pixels (--crop, --foveate, --chunk). StyleGAN2 has one view only.

examples:
  --size 4096 --out large.png                          sixteen times the detail of 256 pixels
  --size 4096 --crop 1024,2048,512,512 --out part.png  a window of it, without the rest
  --size 512 --extent=-2,2,-2,2 --out wide.png         twice as far as the training images
  --rotate 20 --zoom 1.5 --bits 16 --out turned.png    16 bits per channel
  --out values.npy                                     float32, not clamped
  --size 512 --foveate 0.25 --out sharp_middle.png     a quarter of the pixels, interpolated elsewhere
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    p.add_argument('--seed', type=options.seed, default=0)
    p.add_argument('--size', type=options.size, metavar='H[xW]', help='pixels; default: the training size')
    p.add_argument(
        '--extent', type=options.tuple_of(options.real, 'X0,X1,Y0,Y1'), metavar='X0,X1,Y0,Y1',
        help='coordinates of the borders; the training frame is -1,1,-1,1; default: that on the shorter side, '
        'and more on the longer one, so that nothing is stretched',
    )  # fmt: skip
    p.add_argument(
        '--translate',
        type=options.tuple_of(options.real, 'DX,DY'),
        default=(0.0, 0.0),
        metavar='DX,DY',
        help='move the content',
    )
    p.add_argument(
        '--rotate', type=options.real, default=0.0, metavar='DEGREES', help='turn the content counter-clockwise'
    )
    p.add_argument('--zoom', type=options.real, default=1.0, help='enlarge the content')
    p.add_argument(
        '--crop',
        type=options.tuple_of(int, 'TOP,LEFT,H,W'),
        metavar='TOP,LEFT,H,W',
        help='only this window of the image, in pixels',
    )
    p.add_argument(
        '--foveate', type=options.real, metavar='FRACTION',
        help='synthesise this share of the pixels, dense in the middle, and interpolate the others',
    )  # fmt: skip
    options.add_styles(p)
    p.add_argument('--chunk', type=int, help='coordinates computed at once (default 65536); bounds the memory')
    p.add_argument('--bits', type=int, choices=(8, 16), default=8, help='per channel of a PNG (default 8)')
    p.add_argument(
        '--out', type=options.path, required=True, metavar='FILE.png|FILE.npy', help='.npy keeps float32, not clamped'
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.zoom <= 0:
        raise UserError(f'--zoom {args.zoom} must be positive; 2 doubles the size of the content, 0.5 halves it.')
    pixels.check_name(args.out)
    model = options.load(args)
    frame = model.config.data.size
    size = args.size or frame
    extent = sampling.unstretched(frame, size) if args.extent is None else {'x': args.extent[:2], 'y': args.extent[2:]}
    motion = coords.compose(
        coords.zoom(args.zoom), coords.rotate(math.radians(args.rotate)), coords.translate(*args.translate)
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not model.sampler.pixelwise:
        _render_canvas(args, model, size, {**extent, 'matrix': motion})
        print(args.out)
        return
    grid = sampling.lazy_grid(*size, **extent, crop=args.crop, matrix=motion)
    chosen = {
        'chunk': 65_536 if args.chunk is None else args.chunk,
        'progress': sys.stderr.isatty(),
        **options.styles(args),
    }
    if args.noise_mode is not None:
        raise UserError(f'--noise-mode {args.noise_mode}: {model.config.system} renders without noise.')
    if args.foveate is None:
        sampling.render_file(model, args.seed, grid, args.out, bits=args.bits, **chosen)
    else:
        image, _ = sampling.render_foveated(model, args.seed, grid, args.foveate, **chosen)
        pixels.save(image, args.out, bits=args.bits)
    print(args.out)


def _render_canvas(args: argparse.Namespace, model: sampling.Model, size: tuple[int, int], extent: dict) -> None:
    """The same view by a model that computes whole images."""
    for name in ('crop', 'foveate', 'chunk'):
        if getattr(args, name) is not None:
            way = 'leave it out' if model.sampler.view is None else 'choose --size and --extent'
            raise UserError(f'--{name}: {model.config.system} computes whole images, not single pixels; {way}.')
    moved = args.size or args.extent or args.rotate or any(args.translate) or args.zoom != 1
    chosen = {'noise_mode': args.noise_mode, **options.styles(args)}
    if moved:
        chosen |= {'size': size, 'transform': sampling.frame_view(model.config.data.size, size, **extent)}
    pixels.save(sampling.sample(model, [args.seed], **chosen)[0], args.out, bits=args.bits)
