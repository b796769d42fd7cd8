"""Command line: python -m pegan_jax COMMAND; without one, it lists them."""

import argparse
import logging
import os
import pathlib
import sys
from collections.abc import Sequence

EDIT = """What --mode does, with the files that it needs:
  samples                              random images, of any --size, as one grid
  inject       --image                 the scales from --scale on make the image look like the training image
  paint        --image                 the same, for a painting
  edit         --image --mask          the same where the mask is not black; the rest is the training image
  harmonise    --image --mask          the same with a narrower border, for an object that was pasted in
  super-resolution                     the training image enlarged; trained with configs/singan.py:sr
  animate                              the training image in motion, as .gif or .mp4

examples:
  --mode samples --seeds 0-5 --size 250x500 --out wide.png
  --mode harmonise --image pasted.png --mask mask.png --scale 7 --out harmonised.png
  --mode animate --start-scale 2 --out moving.gif
"""

ANALYZE = """Studies of where a generator knows its position from, and holes; pictures and numbers go to --out.
  padding     means, spreads and autocorrelation of maps without and with zero padding, layer by layer
  position    how well a linear map tells the position of a feature vector, layer by layer
  encodings   the spaces that a learned constant, the Cartesian grid and sinusoids span, at 5x5 and 7x7
  gates       of DeepFillv2: what gates tell of a hole, layer by layer, beside the mask of partial convolutions
  skips       of the U-Net of partial convolutions: what skips bring to the middle of a hole

Generators are one random stack of convolutions without and with padding; or those of --config, with random weights;
or that of --model.

examples:
  padding --out studies
  position --config mspie:d,tiny --config mspie:i,tiny --out studies
  encodings --model runs/mspie-c --out studies
  gates --model runs/faces --out studies
"""

INPAINT = """White in the mask is the hole, black is known; known pixels are written as they are, which takes a format
without losses. Of folders, images, masks and sketches belong together by their names without suffix; one mask may serve
a whole folder of images.

Sketches are for models that were trained with them (configs/deepfill.py:guided): white lines on black, of which those
in the hole count.

The method biharmonic needs no model: it is the smooth interpolation of scikit-image, a baseline that invents nothing.

examples:
  --model runs/faces --image photo.jpg --mask hole.png --out filled.png
  --model runs/guided --image photo.jpg --mask hole.png --sketch lines.png --flow --out filled.png
  --model runs/faces --image photos --mask masks --out filled
  --method biharmonic --image photo.jpg --mask hole.png --out smooth.png
"""

EVALUATE = """Images are completed under a fixed list of masks: --masks of every kind and class of hole ratio (0.01-0.1,
0.1-0.2, ... 0.5-0.6), drawn with --seed, the same for every model. Numbers are means over images:
  l1, l2      100 mean |e| and 100 mean e^2 of values in [0, 1]; _hole: of the pixels in holes; _relative: 100 sum |e| /
              sum |x|, and with squares, which published tables may mean
  psnr        in dB
  ssim        of Wang et al. 2004, Gaussian window
  tv          100 mean |difference of neighbours| of the result, and of the real image (tv_real)

Without --data, images are those that the model was trained with; but of the procedural worlds, others.

examples:
  --model runs/faces --data test_photos --out scores.json
  --model runs/faces --method biharmonic --kinds brush --metrics l1,psnr --out scores.json
"""

EPILOG = """examples:
  python -m pegan_jax train --config quickstart --workdir runs/quickstart
  python -m pegan_jax sample --model runs/quickstart --seeds 0-31 --out samples.png
  python -m pegan_jax render --model runs/quickstart --seed 3 --size 512 --extent -2,2,-2,2 --out wide.png
  python -m pegan_jax edit --model runs/singan --mode animate --out moving.gif
  python -m pegan_jax inpaint --model runs/faces --image photo.jpg --mask hole.png --out filled.png
  python -m pegan_jax evaluate --model runs/faces --data test_photos --out scores.json
  python -m pegan_jax edges --folder photos --out photos
  python -m pegan_jax analyze padding --out studies
  python -m pegan_jax inspect --model runs/quickstart
  python -m pegan_jax convert ffhq256_g_ema.pt --out runs/ffhq256
  python -m pegan_jax convert stylegan3-r-ffhq-1024x1024.pkl --out runs/ffhq1024
"""

SAMPLE = """examples:
  --seeds 0-31 --out grid.png                                      a grid of images
  --seeds 0-31 --truncation-psi 0.7 --out images                   a folder of files
  --seeds 0-3 --class 5 --out class.png                            of a model with labels
  --seeds 0-3 --style-mix 10-14:0-6 --out mix.png                  the first seven styles from seeds 10 to 14
  --seeds 0-3 --size 256x512 --rotate 20 --out wide.png            more of the scene, turned
"""

RENDER = """The grid of --size samples over --extent is cropped, then its content is zoomed, turned and moved.

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


def _numbers(text: str) -> list[int]:
    """'0,3,8-11' -> [0, 3, 8, 9, 10, 11]"""
    out = []
    for part in text.split(','):
        low, dash, high = part.strip().partition('-')
        out += range(int(low), int(high) + 1) if dash else [int(low)]
    if not out:
        raise argparse.ArgumentTypeError(f'{text!r} is an empty range; write the smaller number first.')
    return out


def _size(text: str) -> tuple[int, int]:
    """'256' or '256x512' (height x width) -> (height, width)"""
    parts = [int(p) for p in text.lower().split('x')]
    if len(parts) > 2 or min(parts) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a size; write 256 or 256x512 (height x width).')
    return (parts[0], parts[-1])


def _mix(text: str) -> tuple[list[int], list[int]]:
    """'10-14:0-6' -> seeds of columns and layers, each as `_numbers`"""
    seeds, colon, layers = text.partition(':')
    if not colon:
        raise argparse.ArgumentTypeError(f'{text!r} names no layers; write SEEDS:LAYERS, such as 10-14:0-6.')
    return _numbers(seeds), _numbers(layers)


def _tuple(kind: type, form: str) -> 'type':
    count = form.count(',') + 1

    def parse(text: str) -> tuple[float, ...]:
        values = tuple(kind(p) for p in text.split(','))
        if len(values) != count:
            raise argparse.ArgumentTypeError(f'{text!r} has {len(values)} numbers; write {form}.')
        return values

    parse.__name__ = form
    return parse


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        'pegan_jax', description='GANs that know where a pixel is.', epilog=EPILOG, formatter_class=form
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def command(name: str, help: str, epilog: str = '') -> argparse.ArgumentParser:
        p = commands.add_parser(name, help=help, description=help, epilog=epilog, formatter_class=form)
        p.add_argument('--debug', action='store_true', help='show the traceback of an error')
        return p

    p = command(
        'train',
        'Train a model, or go on with the run in --workdir.',
        'Single settings are changed with --config.SECTION.FIELD=VALUE, for example --config.optim.g_lr=0.001,\n'
        '--config.data.folder=photos, --config.train.total_kimg=100. --dry-run shows all of them.',
    )
    p.add_argument(
        '--config', required=True, metavar='FILE[:ARG]', help='a configuration file, or the name of a shipped one'
    )
    p.add_argument('--workdir', type=pathlib.Path, help='everything is written here; a second launch resumes')
    p.add_argument(
        '--dry-run', action='store_true', help='print configuration, parameters, FLOPs and memory; do not train'
    )
    p.add_argument(
        '--distributed',
        nargs='?',
        const='',
        metavar='HOST:PORT,COUNT,INDEX',
        help='this is one process of several: call jax.distributed.initialize(), which finds its peers on TPU pods and '
        'Slurm; elsewhere, name the first process, how many there are and which this is',
    )

    def model_command(name: str, help: str, epilog: str = '') -> argparse.ArgumentParser:
        p = command(name, help, epilog)
        p.add_argument('--model', type=pathlib.Path, required=True, metavar='WORKDIR', help='the --workdir of a run')
        p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")
        return p

    def style_options(p: argparse.ArgumentParser) -> None:
        p.add_argument('--class', type=int, dest='label', metavar='N', help='of a model that was trained with labels')
        p.add_argument(
            '--truncation-psi', type=float, default=1.0, metavar='PSI', help='1 (default) is off, 0 the mean image'
        )
        p.add_argument(
            '--truncation-cutoff', type=int, metavar='N', help='truncate the first N styles only (default: all)'
        )
        p.add_argument(
            '--noise-mode', choices=('const', 'random', 'none'), help="of StyleGAN2's noise (default: const)"
        )

    def activation_option(p: argparse.ArgumentParser) -> None:
        p.add_argument('--activation', choices=('lrelu', 'sin', 'sinrelu'), help='of a CIPS file that does not tell it')

    p = model_command('sample', 'Images of seeds, as one grid or one file each.', SAMPLE)
    p.add_argument('--seeds', type=_numbers, default=list(range(32)), metavar='0,3,8-11', help='default: 0-31')
    style_options(p)
    p.add_argument(
        '--style-mix', type=_mix, metavar='SEEDS:LAYERS',
        help='a table: its rows are --seeds, its columns these seeds, whose styles they get in these layers (from 0)',
    )  # fmt: skip
    p.add_argument('--size', type=_size, metavar='H[xW]', help='a larger image shows more, at the pitch of training')
    p.add_argument(
        '--translate', type=_tuple(float, 'X,Y'), default=(0.0, 0.0), metavar='X,Y',
        help='move the content right and down, in image widths, as the official script of StyleGAN3 does',
    )  # fmt: skip
    p.add_argument('--rotate', type=float, default=0.0, metavar='DEGREES', help='turn the content counter-clockwise')
    p.add_argument('--columns', type=int, default=8, help='of the grid (default 8)')
    p.add_argument(
        '--out',
        type=pathlib.Path,
        required=True,
        metavar='FILE.png|FOLDER',
        help='a grid, or a folder for single files',
    )

    p = model_command(
        'render', 'One image on any grid of coordinates, of any size: memory does not grow with it.', RENDER
    )
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--size', type=_size, metavar='H[xW]', help='pixels; default: the training size')
    p.add_argument(
        '--extent', type=_tuple(float, 'X0,X1,Y0,Y1'), metavar='X0,X1,Y0,Y1',
        help='coordinates of the borders; the training frame is -1,1,-1,1; default: that on the shorter side, '
        'and more on the longer one, so that nothing is stretched',
    )  # fmt: skip
    p.add_argument(
        '--translate', type=_tuple(float, 'DX,DY'), default=(0.0, 0.0), metavar='DX,DY', help='move the content'
    )
    p.add_argument('--rotate', type=float, default=0.0, metavar='DEGREES', help='turn the content counter-clockwise')
    p.add_argument('--zoom', type=float, default=1.0, help='enlarge the content')
    p.add_argument(
        '--crop',
        type=_tuple(int, 'TOP,LEFT,H,W'),
        metavar='TOP,LEFT,H,W',
        help='only this window of the image, in pixels',
    )
    p.add_argument(
        '--foveate', type=float, metavar='FRACTION',
        help='synthesise this share of the pixels, dense in the middle, and interpolate the others',
    )  # fmt: skip
    style_options(p)
    p.add_argument('--chunk', type=int, help='coordinates computed at once (default 65536); bounds the memory')
    p.add_argument('--bits', type=int, choices=(8, 16), default=8, help='per channel of a PNG (default 8)')
    p.add_argument(
        '--out', type=pathlib.Path, required=True, metavar='FILE.png|FILE.npy', help='.npy keeps float32, not clamped'
    )

    p = model_command('edit', 'What a SinGAN can do with the image that it learned.', EDIT)
    p.add_argument('--mode', choices=tuple(EDIT_MODES), required=True)
    p.add_argument('--image', type=pathlib.Path, metavar='FILE', help='an edited copy, or a painting')
    p.add_argument(
        '--mask', type=pathlib.Path, metavar='FILE', help='as large as --image; not black where it was changed'
    )
    p.add_argument('--scale', type=int, default=1, help='where --image enters: 1 (default) to the finest')
    p.add_argument('--seeds', type=_numbers, default=[0], metavar='0,3,8-11', help='of the noise (default: 0)')
    p.add_argument('--size', type=_size, metavar='H[xW]', help='of samples; default: that of the training image')
    p.add_argument('--start-scale', type=int, default=0, help='scales below it show the training image (default 0)')
    p.add_argument('--frames', type=int, default=100, help='of an animation (default 100, at 10 per second)')
    p.add_argument('--alpha', type=float, default=0.1, help='pull of an animation towards the image (default 0.1)')
    p.add_argument('--beta', type=float, default=0.9, help='smoothness of an animation (default 0.9)')
    p.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.png|FILE.gif|FILE.mp4')

    p = command('inpaint', 'Fill the holes of images; all other pixels stay as they are.', INPAINT)
    p.add_argument('--model', type=pathlib.Path, metavar='WORKDIR', help='the --workdir of a run')
    p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")
    p.add_argument('--method', choices=('model', 'biharmonic'), default='model', help='default: model')
    p.add_argument('--image', type=pathlib.Path, required=True, metavar='FILE|FOLDER')
    p.add_argument('--mask', type=pathlib.Path, required=True, metavar='FILE|FOLDER', help='white is the hole')
    p.add_argument('--sketch', type=pathlib.Path, metavar='FILE|FOLDER', help='white lines, of a guided model')
    p.add_argument('--invert-mask', action='store_true', help='black is the hole')
    p.add_argument('--invert-sketch', action='store_true', help='lines are black')
    p.add_argument('--flow', action='store_true', help='write NAME_flow.png too: from where the attention copies')
    p.add_argument('--batch-size', type=int, default=8, help='images of one size computed at once (default 8)')
    p.add_argument('--out', type=pathlib.Path, required=True, metavar='FILE.png|FOLDER')

    p = command('evaluate', 'Measure how well a model completes images.', EVALUATE)
    p.add_argument('--model', type=pathlib.Path, metavar='WORKDIR', help='the --workdir of a run')
    p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")
    p.add_argument(
        '--method', choices=('biharmonic',), help='also this baseline; without --model, it alone (see inpaint --help)'
    )
    p.add_argument('--data', metavar='PATH|NAME', help='a folder, a ZIP file, an image, worlds, or a TFDS dataset')
    p.add_argument('--size', type=_size, metavar='H[xW]', help='of the images; default: as in training, or 256')
    p.add_argument('--images', type=int, default=64, help='the first of the data (default 64)')
    p.add_argument('--metrics', default='l1,l2,psnr,ssim,tv', help='default: l1,l2,psnr,ssim,tv')
    p.add_argument('--kinds', default='box,brush,union', help='of masks; default: box,brush,union')
    p.add_argument('--masks', type=int, default=8, help='per kind and class of hole ratio (default 8)')
    p.add_argument('--seed', type=int, default=0, help='of the masks (default 0)')
    p.add_argument('--batch-size', type=int, default=8, help='images computed at once (default 8)')
    p.add_argument('--out', type=pathlib.Path, metavar='FILE.json')

    p = command(
        'edges',
        'Draw the lines of all images in a folder, for training with sketches.',
        'Writes <name>_edge.png for every image, in the same sub-folders. Training finds them beside the images with\n'
        '--config.data.edges=files. HED needs its weights, as a torch file; they are not downloaded.',
    )
    p.add_argument('--folder', type=pathlib.Path, required=True, help='of images')
    p.add_argument('--out', type=pathlib.Path, required=True, metavar='FOLDER', help='may be the same folder')
    p.add_argument('--method', choices=('canny', 'dog', 'hed'), default='canny', help='default: canny')
    p.add_argument('--weights', type=pathlib.Path, metavar='FILE.pth', help='of HED')

    p = command('analyze', 'Studies of zero padding, of positional encodings and of gates.', ANALYZE)
    p.add_argument('study', choices=('padding', 'position', 'encodings', 'gates', 'skips'))
    source = p.add_mutually_exclusive_group()
    source.add_argument('--model', type=pathlib.Path, metavar='WORKDIR', help='the --workdir of a run')
    source.add_argument(
        '--config', action='append', metavar='FILE[:ARG]', help='a generator with random weights; may be repeated'
    )
    p.add_argument('--step', help="step of the checkpoint of --model, or 'best'; default: the newest")
    p.add_argument('--samples', type=int, help='of maps, a multiple of 64; padding and position only (default 4096)')
    p.add_argument('--seed', type=int, default=0, help='of random weights and of samples (default 0)')
    p.add_argument('--out', type=pathlib.Path, required=True, metavar='FOLDER')

    p = model_command('inspect', 'What a checkpoint holds: of a run, or a foreign file.')
    activation_option(p)

    p = command(
        'convert',
        'Make an official checkpoint (CIPS, SinGAN, MS-PIE, StyleGAN2, StyleGAN3, DeepFillv2) one of this library.',
        'sample, render and inspect take the new directory as --model; training starts from it with\n'
        '--config.train.init_from=DIR and a configuration of the same model. No code in the file is run.',
    )
    p.add_argument(
        'source', type=pathlib.Path, metavar='FILE', help='of a TensorFlow checkpoint, any of its files or the folder'
    )
    p.add_argument('--out', type=pathlib.Path, required=True, metavar='DIR', help='a new directory')
    p.add_argument(
        '--noises', type=pathlib.Path, metavar='FILE.pkl', help='of a SinGAN: the second file of the release'
    )
    p.add_argument(
        '--config', metavar='FILE[:ARGUMENTS]', help='of an MS-PIE: its configuration, such as mspie:e, if need be'
    )
    p.add_argument(
        '--colours', choices=('rgb', 'bgr'),
        help='of a DeepFillv2: what its weights expect; default: bgr of the official program, rgb of the PyTorch port '
        '(not certain of its converted weights: if the colours of holes look wrong, try bgr)',
    )  # fmt: skip
    p.add_argument('--sampling-only', action='store_true', help='leave out discriminator and optimisers')
    activation_option(p)
    return parser


def _peers(text: str) -> dict:
    """'host:port,count,index' -> arguments of jax.distributed.initialize; '' -> none, it looks for itself."""
    if not text:
        return {}
    try:
        address, count, index = text.split(',')
        return {'coordinator_address': address, 'num_processes': int(count), 'process_id': int(index)}
    except ValueError:
        raise ValueError(f'--distributed {text!r}; write HOST:PORT,COUNT,INDEX, such as 10.0.0.1:9911,2,0.') from None


def _train(args: argparse.Namespace, overrides: list[str]) -> None:
    if args.distributed is not None:
        import jax

        jax.distributed.initialize(**_peers(args.distributed))
    from pegan_jax.config import ConfigError, load_config

    config = load_config(args.config, overrides)
    if args.dry_run:
        from pegan_jax.train.report import dry_run

        print(dry_run(config))
        return
    if args.workdir is None:
        raise ConfigError('--workdir is missing; name a folder for the run, such as --workdir runs/first.')
    from pegan_jax.train import run

    run(config, args.workdir)
    print(f'samples are in {args.workdir / "samples"}')


def _load(args: argparse.Namespace) -> 'object':
    from pegan_jax import sampling

    if args.model.is_file():
        raise ValueError(f'--model {args.model} is a file, not a folder; make one with convert {args.model} --out DIR.')
    step = int(args.step) if args.step is not None and args.step.isdigit() else args.step
    return sampling.load(args.model, step)


def _styles(args: argparse.Namespace) -> dict:
    return {
        'label': args.label, 'truncation_psi': args.truncation_psi, 'truncation_cutoff': args.truncation_cutoff
    }  # fmt: skip


def _sample(args: argparse.Namespace, _: list[str]) -> None:
    import math

    from PIL import Image

    from pegan_jax import coords, sampling

    model, options = _load(args), {'size': args.size, 'noise_mode': args.noise_mode, **_styles(args)}
    if args.rotate or any(args.translate):
        turn = coords.rotate(math.radians(args.rotate))
        options['transform'] = coords.compose(turn, coords.translate(*args.translate))
    if args.style_mix:
        if not args.out.suffix:
            raise ValueError(f'--style-mix makes one picture, but --out {args.out} is a folder; write FILE.png.')
        table = sampling.style_mix(model, args.seeds, *args.style_mix, **options)
        images, args.columns = sampling.to_uint8(table.reshape(-1, *table.shape[2:])), table.shape[1]
    else:
        images = sampling.to_uint8(sampling.sample(model, args.seeds, **options))
    if args.out.suffix:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sampling.image_grid(images, min(args.columns, len(images)))).save(args.out)
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        for seed, image in zip(args.seeds, images, strict=True):
            Image.fromarray(image).save(args.out / f'seed{seed:06d}.png')
    print(args.out)


def _render(args: argparse.Namespace, _: list[str]) -> None:
    import math

    from pegan_jax import coords, sampling

    if args.zoom <= 0:
        raise ValueError(f'--zoom {args.zoom} must be positive; 2 doubles the size of the content, 0.5 halves it.')
    model = _load(args)
    train_height, train_width = model.config.data.size
    height, width = args.size or (train_height, train_width)
    # Square pixels unless told otherwise: the shorter side keeps [-1, 1], the longer one shows more.
    aspect = (width / height) / (train_width / train_height)
    x0, x1, y0, y1 = args.extent or (-max(aspect, 1), max(aspect, 1), -max(1 / aspect, 1), max(1 / aspect, 1))
    motion = coords.compose(
        coords.zoom(args.zoom), coords.rotate(math.radians(args.rotate)), coords.translate(*args.translate)
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if 'grid' not in model.system.SAMPLE_OPTIONS:
        _render_canvas(args, model, (height, width), {'x': (x0, x1), 'y': (y0, y1), 'matrix': motion})
        print(args.out)
        return
    grid = sampling.lazy_grid(height, width, x=(x0, x1), y=(y0, y1), crop=args.crop, matrix=motion)
    options = {'chunk': 65_536 if args.chunk is None else args.chunk, 'progress': sys.stderr.isatty(), **_styles(args)}
    if args.noise_mode is not None:
        raise ValueError(f'--noise-mode {args.noise_mode}: {model.config.system} renders without noise.')
    if args.foveate is None:
        sampling.render_file(model, args.seed, grid, args.out, bits=args.bits, **options)
    else:
        image, _ = sampling.render_foveated(model, args.seed, grid, args.foveate, **options)
        sampling.save(image, args.out, bits=args.bits)
    print(args.out)


def _render_canvas(args: argparse.Namespace, model: 'object', size: tuple[int, int], extent: dict) -> None:
    """The same view by a model that computes whole images."""
    from pegan_jax import sampling

    for name in ('crop', 'foveate', 'chunk'):
        if getattr(args, name) is not None:
            raise ValueError(
                f'--{name}: {model.config.system} computes whole images, not single pixels; choose --size and --extent.'
            )
    moved = args.size or args.extent or args.rotate or any(args.translate) or args.zoom != 1
    options = {'noise_mode': args.noise_mode, **_styles(args)}
    if moved:
        options |= {'size': size, 'transform': sampling.frame_view(model.config.data.size, size, **extent)}
    sampling.save(sampling.sample(model, [args.seed], **options)[0], args.out, bits=args.bits)


EDIT_MODES = {
    'samples': (),
    'inject': ('image',),
    'paint': ('image',),
    'edit': ('image', 'mask'),
    'harmonise': ('image', 'mask'),
    'super-resolution': (),
    'animate': (),
}


def _edit(args: argparse.Namespace, _: list[str]) -> None:
    import numpy as np
    from PIL import Image

    from pegan_jax import editing, sampling
    from pegan_jax.data import sources

    for name in ('image', 'mask'):
        given, needed = getattr(args, name) is not None, name in EDIT_MODES[args.mode]
        if given != needed:
            raise ValueError(f'--mode {args.mode} {"needs" if needed else "does not take"} --{name}.')
    model, seed = _load(args), args.seeds[0]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.mode == 'animate':
        options = {'alpha': args.alpha, 'beta': args.beta, 'start_scale': args.start_scale, 'seed': seed}
        editing.save_animation(editing.animate(model, args.frames, **options), args.out)
    else:
        if args.mode == 'samples':
            images = editing.samples(model, args.seeds, size=args.size, start_scale=args.start_scale)
        elif args.mode == 'super-resolution':
            images = np.stack([editing.super_resolve(model, seed) for seed in args.seeds])
        else:
            pixels = sources.decode_image(args.image.read_bytes(), model.config.data.max_pixels)
            image = pixels.astype(np.float32) / 127.5 - 1
            if args.mask is None:
                images = np.stack([editing.inject(model, image, args.scale, seed) for seed in args.seeds])
            else:
                mask = np.asarray(Image.open(args.mask).convert('L'))
                radius = editing.EDIT_RADIUS if args.mode == 'edit' else editing.HARMONISE_RADIUS
                images = np.stack(
                    [editing.edit(model, image, mask, args.scale, seed, radius=radius) for seed in args.seeds]
                )
        grid = sampling.image_grid(sampling.to_uint8(images), min(4, len(images)))
        Image.fromarray(grid).save(args.out)
    print(args.out)


def _inpaint(args: argparse.Namespace, _: list[str]) -> None:
    from pegan_jax import inpainting

    if (args.method == 'model') != (args.model is not None):
        raise ValueError(
            'name a trained --model, or choose --method biharmonic.'
            if args.model is None
            else f'--method {args.method} takes no --model; leave one of them out.'
        )
    _at_least_one(args, 'batch_size')
    files = inpainting.pairs(args.image, args.mask, args.out, args.sketch)
    model = None if args.model is None else _load(args)
    inpainting.inpaint_files(
        model, files, invert_mask=args.invert_mask, invert_sketch=args.invert_sketch, flow=args.flow,
        batch_size=args.batch_size, progress=len(files) > 1 and sys.stderr.isatty(),
    )  # fmt: skip
    if model is None:
        print('smooth interpolation (biharmonic equation, scikit-image), no model')
    print(args.out)


def _at_least_one(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(args, name) < 1:
            raise ValueError(f'--{name.replace("_", "-")} {getattr(args, name)} must be at least 1.')


def _evaluate(args: argparse.Namespace, _: list[str]) -> None:
    import dataclasses
    import functools

    import numpy as np

    from pegan_jax import evaluation, inpainting
    from pegan_jax.config import DataConfig

    if args.model is None and args.method is None:
        raise ValueError('name a trained --model, or --method biharmonic.')
    _at_least_one(args, 'images', 'masks', 'batch_size')
    model = None if args.model is None else _load(args)
    data = DataConfig(resolution=256) if model is None else model.config.data
    if args.data is not None:
        path = pathlib.Path(args.data)
        kind = 'folder' if path.is_dir() or path.suffix.lower() == '.zip' else 'image' if path.is_file() else 'tfds'
        data = dataclasses.replace(data, **({'tfds': None, 'folder': None, 'image': None} | {kind: args.data}))
    data = dataclasses.replace(data, labels=False, edges='none', resolution=args.size or data.resolution)
    metrics, kinds = (
        tuple(dict.fromkeys(name.strip() for name in getattr(args, n).split(','))) for n in ('metrics', 'kinds')
    )
    evaluation.check_metrics(metrics, data.size)
    if args.out is not None:
        if args.out.is_dir():
            raise ValueError(f'--out {args.out} is a folder; name a file, such as {args.out / "scores.json"}.')
        args.out.parent.mkdir(parents=True, exist_ok=True)
    methods = {}
    if model is not None:
        inpainting.check_model(model)
        methods[str(args.model)] = functools.partial(inpainting.inpaint, model)
    if args.method is not None:
        methods[args.method] = lambda images, masks: np.stack(
            [inpainting.biharmonic(x, m) for x, m in zip(images, masks, strict=True)]
        )
    images = evaluation.read_images(data, args.images)
    cases = evaluation.cases(args.seed, args.masks, data.size, len(images), kinds)
    results = evaluation.evaluate(
        methods, images, cases, metrics, batch_size=args.batch_size, progress=sys.stderr.isatty()
    )
    print(evaluation.table(results))
    if args.out is not None:
        about = {
            'model': args.model and str(args.model), 'step': model and model.step, 'images': len(images),
            'data': data.folder or data.image or data.tfds, 'size': list(data.size), 'masks': args.masks,
            'kinds': kinds, 'seed': args.seed,
        }  # fmt: skip
        evaluation.save(results, args.out, about, metrics)
        print(args.out)


def _edges(args: argparse.Namespace, _: list[str]) -> None:
    import functools

    from tqdm import tqdm

    from pegan_jax import inpainting
    from pegan_jax.config import DataConfig
    from pegan_jax.data import edges, sources

    if (args.weights is not None) != (args.method == 'hed'):
        raise ValueError(
            '--method hed needs --weights FILE.pth, the parameters of HED as a torch file.'
            if args.weights is None
            else f'--method {args.method} takes no --weights; use --method hed.'
        )
    if not args.folder.is_dir():
        raise ValueError(f'--folder {args.folder} is not a folder of images.')
    if args.folder.resolve() in args.out.resolve().parents:
        raise ValueError(
            f'--out {args.out} lies inside of --folder {args.folder}, whose images would then include '
            'the edges; choose the folder itself, or one outside.'
        )
    names = sources.image_names(args.folder)
    names = sorted(set(names) - set(sources.edge_files(names).values()))
    if not names:
        known = ', '.join('*' + suffix for suffix in sources.SUFFIXES)
        raise ValueError(f'--folder {args.folder} holds no image; expected files named {known}.')
    targets = {}
    for name in names:
        target = pathlib.PurePath(name).with_suffix('')
        targets.setdefault(args.out / target.with_name(f'{target.name}_edge.png'), []).append(name)
    if twice := [shared for shared in targets.values() if len(shared) > 1]:
        raise ValueError(f'{" and ".join(twice[0])} would share one file of edges; rename all but one of them.')
    draw = functools.partial(edges.extract, method=args.method)
    if args.method == 'hed':
        from pegan_jax.metrics import features

        draw = functools.partial(features.hed_edges, features.load_hed(args.weights))
    written = 0
    for target, (name,) in tqdm(targets.items(), 'edges', unit='image'):
        try:
            image = sources.decode_image((args.folder / name).read_bytes(), DataConfig.max_pixels)
        except (sources.UnreadableImage, OSError) as error:
            print(f'left out: {name}: {error}', file=sys.stderr)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        inpainting.save(target, inpainting.Picture(draw(image)[..., 0], None, None))
        written += 1
    print(f'{written} of {len(names)} images: {args.out}')


def _analyze(args: argparse.Namespace, _: list[str]) -> None:
    import jax
    import numpy as np

    from pegan_jax import analysis, analysis_gates

    key, model = jax.random.key(args.seed), None if args.model is None else _load(args)
    if args.samples is not None and args.study not in ('padding', 'position'):
        raise ValueError(f'--samples {args.samples}: the study {args.study} draws no samples; leave it out.')
    about = {'study': args.study, 'seed': args.seed, 'model': args.model and str(args.model), 'config': args.config}
    if args.study in ('gates', 'skips'):
        names = args.config or ['deepfill:tiny' if args.study == 'gates' else 'pconv:tiny']
        models = {str(args.model): model} if model else analysis_gates.random_models(names, key)
        study = analysis_gates.gate_study if args.study == 'gates' else analysis_gates.skip_study
        studies = {args.study: study(models, analysis_gates.worlds_for(models))}
    elif args.study == 'encodings':
        if args.config:
            raise ValueError('encodings have no random generator; leave out --config, or name a trained --model.')
        random = np.random.default_rng(args.seed).normal(size=(4, 4, 16))
        studies = {
            'encodings': analysis.encodings_study(
                random if model is None else analysis.constant_of(model.variables['params'])
            )
        }
    else:
        about['samples'] = samples = 4096 if args.samples is None else args.samples
        if model is not None:
            sources = {str(args.model): analysis.network_features(model.system, model.config.model, model.variables)}
        elif args.config:
            sources = {name: analysis.random_network(name, key) for name in args.config}
        else:
            sources = analysis.default_sources(key)
        study = analysis.padding_study if args.study == 'padding' else analysis.position_study
        studies = {args.study: study(sources, key, samples)}
        if args.study == 'padding' and model is None and not args.config:
            studies['autocorrelation'] = analysis.autocorrelation_study(sources, 'conv 3', key, samples)
    for name, study in studies.items():
        for path in analysis.save(study, args.out, name, about):
            print(path)


def _inspect(args: argparse.Namespace, _: list[str]) -> None:
    import jax

    from pegan_jax import config as configs
    from pegan_jax import interop

    if interop.is_foreign(args.model):
        return _inspect_foreign(args)
    model = _load(args)
    print(f'{model.config.system}, step {model.step}, in {args.model}\n')
    print(configs.to_json(model.config), '\n')
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.variables):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        print(f'{name:60} {leaf.dtype!s:9} {"x".join(map(str, leaf.shape)) or "scalar"}')
    print(f'{sum(x.size for x in jax.tree.leaves(model.variables["params"])):,} parameters in the generator')


def _inspect_foreign(args: argparse.Namespace) -> None:
    from pegan_jax import interop
    from pegan_jax.interop import reader

    tree = interop.read(args.model)
    found = interop.importer_of(tree).arrays(tree)
    for name, array in found.items():
        print(f'{reader.shown(name):60} {array.dtype!s:9} {"x".join(map(str, array.shape)) or "scalar"}')
    print(f'{sum(x.size for x in found.values()):,} numbers in {len(found)} arrays\n')
    try:
        config, inferred = interop.infer(tree, activation=args.activation)
        _print_inferred(config.system, inferred, interop.importer_of(tree).LICENCE)
    except reader.ForeignFileError as error:
        print(f'{args.model} cannot be converted as it is: {error}')


def _print_inferred(system: str, inferred: dict, licence: str) -> None:
    print(f'{system}, with these settings; what a file does not tell is as published:')
    for name, value in inferred.items():
        print(f'  {name} = {value}')
    print(licence)


def _convert(args: argparse.Namespace, _: list[str]) -> None:
    import json

    from pegan_jax import interop

    names = ('activation', 'noises', 'config', 'colours', 'sampling_only')
    config = interop.convert(args.source, args.out, **{name: getattr(args, name) for name in names})
    origin = json.loads((args.out / 'imported.json').read_text())
    _print_inferred(config.system, origin['inferred'], origin['licence'])
    print(args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    overrides, rest = [], []
    words = iter(argv)
    for word in words:
        if word.startswith('--config.'):
            item = word.removeprefix('--config.')
            overrides.append(item if '=' in item else f'{item}={next(words, "")}')
        else:
            rest.append(word)
    args = _parser().parse_args(rest)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s %(name)s: %(message)s')
    logging.getLogger('absl').setLevel(logging.ERROR)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    try:
        if overrides and args.command != 'train':
            raise ValueError(f'--config.{overrides[0]} is for the command train.')
        commands = {
            'train': _train, 'sample': _sample, 'render': _render, 'edit': _edit, 'edges': _edges,
            'inpaint': _inpaint, 'evaluate': _evaluate, 'analyze': _analyze, 'inspect': _inspect,
            'convert': _convert,
        }  # fmt: skip
        commands[args.command](args, overrides)
    except Exception as error:
        if args.debug:
            raise
        print(f'error: {error}'.replace('\n', ' '), file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
