"""The command project."""

import argparse
import functools
import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from pegan_jax import animation
from pegan_jax.cli import options
from pegan_jax.data import mask_files
from pegan_jax.data.pipeline import fit
from pegan_jax.files import whole
from pegan_jax.inpainting.files import check_size
from pegan_jax.metrics.image import psnr
from pegan_jax.pixels import as_floats, as_image, read_image, to_uint8
from pegan_jax.projection import observe, picture_of, project, project_points
from pegan_jax.scoring.networks import open_network
from pegan_jax.settings import UserError
from pegan_jax.weights.perceptual import lpips

HELP = 'Find the latent whose image is nearest to a photograph.'

EPILOG = """Writes target.png, projected.png and projected_w.npz, which sample --ws and render --ws take: the array w
[1, num_ws, w_dim], and for a StyleGAN2 the maps of noise that were found.
The image is cropped to the aspect of the model and resized. The distance is LPIPS on VGG-16 if --weights names its file
or --distance lpips asks for it; otherwise the squared errors of images and of their gradients at several sizes.

A CIPS is a function of coordinates, so a part of the pixels is enough: --given fits these alone, by squared errors.
given.png shows them, and render --ws shows the rest, finer or wider. The command prints PSNR for the pixels that are
given and for those that are held out.

examples, each after python -m pegan_jax project --model MODEL:
  --image face.png --out found
  --image face.png --distance lpips --out found
  --image face.png --given scattered:0.25 --out found       a quarter of the pixels, anywhere
  --image face.png --given foveated:0.1 --out found         a tenth, dense in the middle
  --image face.png --given coarse:4 --out found             means of blocks of 4 x 4 pixels
  --image face.png --given hole.png --out found             all but those that are white in a mask
  --image face.png --space w+ --steps 500 --video found/search.mp4 --out found
"""

MOST_FRAMES = 300  # of a film: memory holds them


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    p.add_argument('--image', type=options.source, required=True, metavar='FILE', help='the photograph')
    p.add_argument(
        '--space', choices=('w', 'w+'), default='w', help='w: one style for all layers (default); w+: one for each'
    )
    p.add_argument('--steps', type=int, default=1000, help='steps of the search (default 1000)')
    p.add_argument(
        '--distance',
        choices=('plain', 'lpips'),
        help='distance that the search makes small (default: lpips with --weights, otherwise plain)',
    )
    p.add_argument('--given', metavar='KIND:NUMBER|FILE', help='fit only these pixels; a CIPS alone takes it')
    p.add_argument('--seed', type=options.seed, default=0, help='seed of the noise and of scattered pixels (default 0)')
    p.add_argument(
        '--class',
        type=options.classes,
        dest='label',
        metavar='N|NAME',
        help='class of the image, if the model has labels',
    )
    p.add_argument(
        '--video',
        type=options.path,
        metavar='FILE.mp4|FILE.gif',
        help=f'film of the search: target and image, in {MOST_FRAMES} steps at most',
    )
    p.add_argument('--out', type=options.path, required=True, metavar='FOLDER', help='folder for images and latents')
    options.add_networks(p)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    options.at_least_one(args, 'steps')
    if args.out.is_file():
        raise UserError(f'--out {args.out} is a file; name a folder.')
    if args.video is not None:
        animation.check(args.video, animation.usual_fps(args.video))
    measured = {}
    if (args.distance or ('lpips' if args.weights else 'plain')) == 'lpips':
        network = open_network('lpips', dict(args.weights), args.cache, fetch=args.fetch)
        measured = {'distance': functools.partial(lpips, network.params), 'measure': 'LPIPS on VGG-16'}
    elif args.weights or args.fetch:
        raise UserError('--weights and --fetch are of --distance lpips; add that, or leave them out.')
    if isinstance(args.label, list):
        raise UserError(f'--class names {len(args.label)} classes, and the image has one; name one.')
    model = options.load(args)
    data = model.config.data
    image = read_image(args.image, data.max_pixels, data.channels)
    target = fit(image, model.size, 'center')
    observed = None
    if args.given is not None:
        if measured or args.label is not None:
            raise UserError('--given compares single pixels; leave out --distance lpips, --weights and --class.')
        given = args.given
        if options.path(given).is_file():
            hole = mask_files.read(options.path(given), max_pixels=data.max_pixels)
            check_size(options.path(given), hole.shape, image.shape[:2], 'mask')
            given = fit(np.uint8(255) * hole[..., None], model.size, 'center')[..., 0] < 128
        elif ':' not in given:
            raise UserError(f'--given {given} is no file, nor pixels of a kind, such as scattered:0.25 or coarse:2.')
        observed = observe(model, as_floats(target), given, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    frames = []
    with tqdm(total=args.steps, disable=not sys.stderr.isatty()) as bar:

        def watch(step: int, distance: float, image: Callable[[], np.ndarray]) -> None:
            bar.set_postfix(distance=f'{distance:.4g}')
            bar.update()
            if args.video is not None and step % -(-args.steps // MOST_FRAMES) == 0:
                frames.append(to_uint8(image()))

        if observed is None:
            found = project(
                model, as_floats(target), space=args.space, steps=args.steps, seed=args.seed, label=args.label,
                watch=watch, **measured,
            )  # fmt: skip
        else:
            found = project_points(
                model,
                observed.points,
                observed.colours,
                space=args.space,
                steps=args.steps,
                seed=args.seed,
                watch=watch,
            )
    pictures = {'target': target, 'projected': to_uint8(found.image)}
    if observed is not None:
        pictures['given'] = picture_of(observed)
    for name, pixels in pictures.items():
        with whole(args.out / f'{name}.png') as unfinished:
            as_image(pixels).save(unfinished, 'PNG')
    with whole(args.out / 'projected_w.npz') as unfinished, unfinished.open('wb') as file:
        np.savez(file, w=found.ws[None], **found.maps)
    if args.video is not None:
        args.video.parent.mkdir(parents=True, exist_ok=True)
        beside = (np.concatenate([target, frame], axis=1) for frame in frames)
        animation.write(args.video, beside, animation.usual_fps(args.video))
    print(f'distance {found.distance:.5g} ({found.measure})')
    if observed is not None:
        names = {'given': observed.pixels, 'held out': ~observed.pixels}
        for name, chosen in names.items():
            if chosen.any():
                decibels = psnr(target, pictures['projected'], chosen)
                of = f', as means of {len(observed.points)} blocks' * (observed.points.shape[1] > 1)
                print(f'PSNR {decibels:.2f} dB of {chosen.sum()} pixels {name}{of}')
    print(args.out)
