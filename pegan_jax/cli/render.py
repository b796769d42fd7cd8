"""The command render."""

import argparse
import math
import sys
from collections.abc import Callable

import numpy as np

from pegan_jax import coords, pixels, sampling
from pegan_jax.cli import options
from pegan_jax.settings import UserError

HELP = 'Render one image on any grid of coordinates, at any size, in bounded memory.'

EPILOG = """The grid of --size samples over --extent is cropped, then its content is zoomed, turned and moved.

CIPS computes any coordinates. StyleGAN3 and CREPS compute a canvas of --size at the pixel pitch of training, moved so
that it shows --extent (CREPS without --rotate); MS-PIE, SinGAN, DCGAN and PGGAN take a --size. These make whole images:
no single coordinates (--coords, --crop, --foveate, --supersample), no style per position (--blend). StyleGAN2 has
one view, or, with Fourier features as its input (stylegan3:b and c), moves it at its own size.

A CIPS on a cylinder (model.panorama_width) shows --arc of the circle, or the --view planet, sky or sphere. Azimuths and
arcs are in degrees; in --extent, x goes once around from -1 to 1.

--blend gives every position its own style, mixed from --seed and up to three others. --shares says how much the others
count: from left to right (x), from top to bottom (y), from azimuth 0 to its opposite (around), or a picture over the
training frame (on a cylinder, over the circle), whose grey is the share of one other seed, or whose red, green and blue
are those of several.

examples, each after python -m pegan_jax render --model MODEL:
  --size 4096 --out large.png                          sixteen times the detail of 256 pixels
  --size 4096 --crop 1024,2048,512,512 --out part.png  a window of it, without the rest
  --size 65536 --tiles 256 --out zoom                  a pyramid of tiles; viewers open zoom/image.dzi
  --size 512 --extent=-2,2,-2,2 --out wide.png         twice as far as the training images
  --size 256 --supersample 4 --out smooth.png          the mean of 16 samples in every pixel
  --rotate 20 --zoom 1.5 --bits 16 --out turned.png    16 bits per channel
  --coords swirl.npy --out swirl.png                   any coordinates [H, W, 2], (x, y)
  --blend 5 --shares mask.png --out painted.png        seed 5 where the picture is white
  --arc 360 --blend 5 --shares around --out round.png  a panorama with two landscapes on opposite sides
  --view planet --size 512 --out planet.png            the ground in the middle, the sky around it
  --ws found/projected_w.npz --size 256 --out a.png    what project found
  --out values.npy                                     float32, not clamped
  --size 512 --foveate 0.25 --out sharp_middle.png     a quarter of the pixels, interpolated elsewhere
"""

POINTS = ('coords', 'crop', 'foveate', 'chunk', 'supersample', 'view', 'arc', 'azimuth', 'blend')  # for one coordinate


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    style = p.add_mutually_exclusive_group()
    style.add_argument('--seed', type=options.seed, default=0, help='seed of the image (default 0)')
    style.add_argument(
        '--ws', type=options.source, metavar='FILE.npz', help='styles that project found, instead of a seed'
    )
    p.add_argument(
        '--size', type=options.height_and_width, metavar='H[xW]',
        help='pixels; default: the training size. H alone is a square, or the height for --arc, --azimuth and --view '
        'sphere',
    )  # fmt: skip
    p.add_argument(
        '--extent', type=options.tuple_of(options.real, 'X0,X1,Y0,Y1'), metavar='X0,X1,Y0,Y1',
        help='coordinates of the borders; the training frame is -1,1,-1,1; default: -1,1 along the shorter side, and '
        'more along the longer one, so that nothing is stretched',
    )  # fmt: skip
    p.add_argument(
        '--coords', type=options.source, metavar='FILE.npy', help='an array [H, W, 2] of any coordinates (x, y)'
    )
    p.add_argument(
        '--translate',
        type=options.tuple_of(options.real, 'DX,DY'),
        default=(0.0, 0.0),
        metavar='DX,DY',
        help="move the content right and down, in halves of the frame's shorter side: 1,0 is half a square frame",
    )
    p.add_argument(
        '--rotate', type=options.real, default=0.0, metavar='DEGREES', help='turn the content counter-clockwise'
    )
    p.add_argument('--zoom', type=options.real, default=1.0, help='enlarge the content: 2 doubles its size (default 1)')
    p.add_argument(
        '--crop',
        type=options.tuple_of(int, 'TOP,LEFT,H,W'),
        metavar='TOP,LEFT,H,W',
        help='only this window of the image, in pixels',
    )
    p.add_argument(
        '--arc', type=options.real, metavar='DEGREES', help='part of the circle that a model on a cylinder shows'
    )
    p.add_argument(
        '--view', choices=('planet', 'sky', 'sphere'),
        help='projection of a model on a cylinder: stereographic with the ground (planet) or the sky in the middle, or '
        'equirectangular; rays above and below the cylinder show its edge',
    )  # fmt: skip
    p.add_argument(
        '--azimuth', type=options.real, metavar='DEGREES', help='direction of the middle of --arc or --view (default 0)'
    )
    p.add_argument(
        '--blend', type=options.numbers, metavar='SEED[,SEED]', help='blend in the styles of other seeds, up to three'
    )
    p.add_argument(
        '--shares',
        default='x',
        metavar='x|y|around|FILE',
        help='how shares of the other seeds change: along x (default), y, around, or as a picture says',
    )
    p.add_argument(
        '--foveate', type=options.real, metavar='FRACTION',
        help='synthesise this share of the pixels, dense in the middle, and interpolate the others',
    )  # fmt: skip
    p.add_argument(
        '--supersample', type=int, metavar='N', help='average N x N samples, evenly over each pixel (a box filter)'
    )
    options.add_styles(p)
    p.add_argument('--chunk', type=int, help='coordinates computed at once (default 65536); bounds the memory')
    p.add_argument('--bits', type=int, choices=(8, 16), default=8, help='bits per channel of a PNG (default 8)')
    p.add_argument(
        '--tiles', type=int, metavar='SIDE', help='write a pyramid of tiles of this side to the folder --out'
    )
    p.add_argument(
        '--out', type=options.path, required=True, metavar='FILE.png|FILE.npy|FOLDER',
        help='the image; .npy keeps float32, not clamped',
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    _check(args)
    model = options.load(args)
    system = model.config.system
    if not model.sampler.pixelwise:
        for name in POINTS:
            if getattr(args, name) is not None:
                able = 'leave it out' if model.sampler.view is None else 'choose --size'
                able += ' and --extent' * ('transform' in model.sampler.options)
                raise UserError(f'--{name}: {system} computes whole images, not single pixels; {able}, or use a cips.')
    elif args.noise_mode is not None:
        raise UserError(f'--noise-mode {args.noise_mode}: {system} renders without noise.')
    grid = _grid(args, model)
    chosen = {**_chosen(args, model), **options.styles(args)}
    if not model.sampler.pixelwise and args.noise_mode is not None:
        chosen['noise_mode'] = args.noise_mode
    model, seed = (model, args.seed) if args.ws is None else _one(args, model)
    if args.tiles is not None:
        print(sampling.render_tiles(model, seed, grid, args.out, side=args.tiles, **chosen))
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.foveate is None:
        sampling.render_file(model, seed, grid, args.out, bits=args.bits, **chosen)
    else:
        image, _ = sampling.render_foveated(model, seed, grid, args.foveate, **chosen)
        pixels.save(image, args.out, bits=args.bits)
    print(args.out)


def _one(args: argparse.Namespace, model: sampling.Model) -> tuple[sampling.Model, np.ndarray]:
    model, ws = options.read_ws(args.ws, model)
    if len(ws) != 1:
        raise UserError(f'--ws {args.ws} holds styles of {len(ws)} images; render makes one, sample makes all.')
    return model, ws[0]


def _check(args: argparse.Namespace) -> None:
    """Raises: UserError for options that exclude each other."""
    if args.arc is not None and not args.arc > 0:
        raise UserError(f'--arc {args.arc:g} must be positive; 360 is the whole circle.')
    if args.zoom < 1 / options.LARGEST:
        raise UserError(f'--zoom {args.zoom} must be positive; 2 doubles the size of the content, 0.5 halves it.')
    if args.tiles is None:
        pixels.check_name(args.out)
    for name, others in (
        ('coords', ('size', 'extent', 'crop', 'arc', 'view', 'azimuth')),
        ('view', ('extent', 'crop', 'arc')),
        ('extent', ('arc', 'azimuth')),
        ('foveate', ('supersample', 'tiles')),
    ):
        if getattr(args, name) is not None:
            for other in others:
                if getattr(args, other) is not None:
                    raise UserError(f'--{other} and --{name} exclude each other; leave one out.')
    if args.tiles is not None and args.bits != 8:
        raise UserError(f'--bits {args.bits}: tiles have 8 bits per channel; leave it out.')
    if args.out.suffix.lower() == '.npy' and args.bits != 8:
        raise UserError(f'--bits {args.bits}: a .npy keeps float32; leave it out, or write a .png.')
    if args.blend is None and args.shares != 'x':
        raise UserError(f'--shares {args.shares} divides the image among seeds; name the others with --blend.')
    if args.blend is not None and len(args.blend) > 3:
        raise UserError(f'--blend names {len(args.blend)} seeds; up to three have a colour in a picture of shares.')
    if args.blend is not None and len(args.blend) > 1 and args.shares in ('x', 'y', 'around'):
        raise UserError(f'--shares {args.shares} blends two seeds, --blend names {len(args.blend)} others; name one.')


def _grid(args: argparse.Namespace, model: sampling.Model) -> sampling.Grid | None:
    """The coordinates that are asked for; None: those of training."""
    matrix = coords.compose(
        coords.zoom(args.zoom), coords.rotate(math.radians(args.rotate)), coords.translate(*args.translate)
    )
    if not np.isfinite(matrix).all():
        raise UserError(
            f'--zoom {args.zoom:g} and --translate {args.translate[0]:g},{args.translate[1]:g} together go beyond the '
            'range of float32; use smaller ones.'
        )
    frame, span = model.size, model.sampler.span
    size = args.size and (args.size[0], args.size[1] or args.size[0])
    asked = (args.size, args.extent, args.coords, args.crop, args.arc, args.view, args.azimuth)
    if all(value is None for value in asked) and np.array_equal(matrix, np.eye(3)):
        return None
    if args.coords is not None:
        return sampling.read_coords(args.coords, sampling.motion(model, matrix))
    if args.extent is not None:
        x, y = args.extent[:2], args.extent[2:]
        return sampling.lazy_grid(*(size or frame), x=x, y=y, crop=args.crop, matrix=sampling.motion(model, matrix))
    around = {'azimuth': math.radians(args.azimuth or 0.0), 'matrix': matrix}
    if args.view is not None:
        across = round(frame[1] / (span or 1))  # pixels of the circle
        if args.view == 'sphere':
            return sampling.sphere(model, *(args.size or (across // 2, across)), **around)
        return sampling.planet(model, *(size or (across, across)), up=args.view == 'sky', **around)
    if args.arc is None and args.azimuth is not None and span is not None:
        if args.size is not None and args.size[1] is None:
            size = (size[0], max(round(size[0] * frame[1] / frame[0]), 1))
        return sampling.frame_grid(model, size, crop=args.crop, **around)
    if args.arc is not None or args.azimuth is not None:  # which a flat model refuses
        arc = 1.0 if args.arc is None else args.arc / 360
        return sampling.panorama(model, *(args.size or frame[:1]), arc=arc, crop=args.crop, **around)
    return sampling.frame_grid(model, size, crop=args.crop, matrix=matrix)


def _chosen(args: argparse.Namespace, model: sampling.Model) -> dict:
    """Options of `sampling.render` that are not its defaults."""
    chosen = {'progress': sys.stderr.isatty()}
    if args.chunk is not None:
        chosen['chunk'] = args.chunk
    if args.supersample is not None:
        chosen['supersample'] = args.supersample
    if args.blend is not None:
        chosen['blend'] = sampling.Blend(tuple(args.blend), _shares(args, model))
    return chosen


def _shares(args: argparse.Namespace, model: sampling.Model) -> Callable:
    if args.shares == 'around':
        return coords.around
    if args.shares in ('x', 'y'):
        axis = 'xy'.index(args.shares)
        return lambda points: coords.across(points, axis)
    path = options.source(args.shares)
    if not path.is_file():
        raise UserError(f'--shares {args.shares} is neither x, y nor around, nor a file; name a picture.')
    count = len(args.blend)
    mask = pixels.read_image(path, model.config.data.max_pixels, 1 if count == 1 else 3)
    return sampling.painted(model, mask[..., :count])
