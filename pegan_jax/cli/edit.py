"""The command edit."""

import argparse

import numpy as np

from pegan_jax import animation, editing
from pegan_jax.cli import options
from pegan_jax.data import mask_files
from pegan_jax.inpainting.files import check_size
from pegan_jax.pixels import as_floats, image_grid, read_image, to_uint8
from pegan_jax.settings import UserError

HELP = 'Use a SinGAN: sample, edit, paint, harmonise, enlarge or animate the image that it learned.'

EPILOG = """What --mode does, with the files that it needs:
  samples                              random images, of any --size, as one grid
  inject       --image                 the scales from --scale on make the image look like the training image
  paint        --image                 the same, for a painting
  edit         --image --mask          the same where the mask is not black; the rest is the training image
  harmonise    --image --mask          the same with a narrower border, for an object that was pasted in
  super-resolution                     the training image enlarged; trained with configs/singan.py:sr
  animate                              the training image in motion, as .gif or .mp4

An --image is read as the training image was: a model of a grey one (data.channels=1) sees the luminance of colours.

examples, each after python -m pegan_jax edit --model MODEL:
  --mode samples --seeds 0-5 --size 250x500 --out wide.png
  --mode harmonise --image pasted.png --mask mask.png --scale 7 --out harmonised.png
  --mode animate --start-scale 2 --out moving.gif
"""


# What each mode takes, and what is meant if that is left out; for files, what it needs.
MODES = {
    'samples': ('seeds', 'size', 'start_scale'),
    'inject': ('image', 'scale', 'seeds'),
    'paint': ('image', 'scale', 'seeds'),
    'edit': ('image', 'mask', 'scale', 'seeds'),
    'harmonise': ('image', 'mask', 'scale', 'seeds'),
    'super-resolution': ('seeds',),
    'animate': ('seeds', 'start_scale', 'frames', 'alpha', 'beta'),
}
DEFAULTS = {
    'image': None, 'mask': None, 'scale': 1, 'seeds': (0,), 'size': None, 'start_scale': 0, 'frames': 100,
    'alpha': 0.1, 'beta': 0.9,
}  # fmt: skip


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    p.add_argument('--mode', choices=tuple(MODES), required=True, help='what is done; see below')
    p.add_argument('--image', type=options.source, metavar='FILE', help='an edited copy, or a painting')
    p.add_argument(
        '--mask',
        type=options.source,
        metavar='FILE',
        help='a picture as large as --image, not black where it was changed',
    )
    p.add_argument('--scale', type=int, help='scale at which --image enters, from 1 (default) to the finest')
    p.add_argument(
        '--seeds',
        type=options.numbers,
        metavar='0,3,8-11',
        help='seeds of the noise (default: 0); an animation has one',
    )
    p.add_argument(
        '--size', type=options.size, metavar='H[xW]', help='size of samples; default: that of the training image'
    )
    p.add_argument('--start-scale', type=int, help='scales below it show the training image (default 0)')
    p.add_argument('--frames', type=int, help='frames of an animation (default 100, at 10 per second)')
    p.add_argument('--alpha', type=options.real, help='pull of an animation towards the image (default 0.1)')
    p.add_argument('--beta', type=options.real, help='smoothness of an animation (default 0.9)')
    p.add_argument('--out', type=options.path, required=True, metavar='FILE.png|FILE.gif|FILE.mp4', help='the result')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    options.check_used(args, f'--mode {args.mode}', DEFAULTS, MODES[args.mode])
    for name in ('image', 'mask'):
        if name in MODES[args.mode] and getattr(args, name) is None:
            raise UserError(f'--mode {args.mode} needs --{name}.')
    if args.mode == 'animate':
        animation.check(args.out, editing.FPS)
        if len(args.seeds) > 1:
            raise UserError(f'--mode animate makes one film, and --seeds names {len(args.seeds)}; name one.')
    model, seed = options.load(args), args.seeds[0]
    data = model.config.data
    if args.mode != 'animate':
        options.check_picture(args.out, data.channels)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.mode == 'animate':
        chosen = {'alpha': args.alpha, 'beta': args.beta, 'start_scale': args.start_scale, 'seed': seed}
        editing.save_animation(editing.animate(model, args.frames, **chosen), args.out)
    else:
        if args.mode == 'samples':
            images = editing.samples(model, args.seeds, size=args.size, start_scale=args.start_scale)
        elif args.mode == 'super-resolution':
            images = np.stack([editing.super_resolve(model, seed) for seed in args.seeds])
        else:
            image = as_floats(read_image(args.image, data.max_pixels, data.channels))
            if args.mask is None:
                images = np.stack([editing.inject(model, image, args.scale, seed) for seed in args.seeds])
            else:
                mask = mask_files.read(args.mask, max_pixels=data.max_pixels)
                check_size(args.mask, mask.shape, image.shape[:2], 'mask')
                radius = editing.EDIT_RADIUS if args.mode == 'edit' else editing.HARMONISE_RADIUS
                images = np.stack(
                    [editing.edit(model, image, mask, args.scale, seed, radius=radius) for seed in args.seeds]
                )
        grid = image_grid(to_uint8(images), min(4, len(images)))
        options.write_picture(args.out, grid)
    print(args.out)
