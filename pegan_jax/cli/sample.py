"""The command sample."""

import argparse
import json
import math
import re
import sys
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pegan_jax import analysis, animation, coords, sampling
from pegan_jax.cli import options
from pegan_jax.files import Path, absolute, read_record, whole
from pegan_jax.pixels import as_image, image_grid, to_uint8
from pegan_jax.settings import UserError
from pegan_jax.train import exported

HELP = 'Draw images from seeds, as one grid or one file each; also mixed styles and videos.'

EPILOG = """examples, each after python -m pegan_jax sample --model MODEL:
  --seeds 0-31 --out grid.png                                      a grid of images
  --seeds 0-31 --truncation-psi 0.7 --out images                   a folder of files
  --seeds 0-49999 --out images                                     thousands, in bounded memory
  --seeds 0-3 --class 5 --out class.png                            a class, for a model with labels
  --seeds 0-2 --class 0,1,2 --out classes.png                      a class for each seed
  --seeds 0-3 --style-mix 10-14:0-6 --out mix.png                  the first seven styles from seeds 10 to 14
  --seeds 0-31 --video --grid 2x4 --out loop.mp4                   a loop through four seeds in each of eight cells
  --seeds 3 --video tour --frames 300 --out tour.gif               a camera moves, turns and zooms
  --seeds 0-3 --direction studies/directions.npz:pca:2:-3..3 --out along.png   seven steps along a direction
  --ws found/projected_w.npz --out again.png                       what project has found
  --seeds 0-3 --size 256x512 --rotate 20 --out wide.png            more of the scene, turned
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    p.add_argument(
        '--seeds',
        type=options.numbers,
        metavar='0,3,8-11',
        help='seeds of the images (default: 0-31)',
    )
    options.add_styles(p)
    p.add_argument(
        '--style-mix', type=_mix, metavar='SEEDS:LAYERS',
        help='draw a table: rows for --seeds, columns for SEEDS, whose styles replace LAYERS (from 0)',
    )  # fmt: skip
    p.add_argument(
        '--size',
        type=options.size,
        metavar='H[xW]',
        help='size of the images; a larger one shows more of the scene, with pixels as wide as in training '
        '(render makes them finer)',
    )
    p.add_argument(
        '--translate', type=options.tuple_of(options.real, 'X,Y'), default=(0.0, 0.0), metavar='X,Y',
        help='move the content right and down, in shorter sides of the training images, as the official script of '
        'StyleGAN3 does',
    )  # fmt: skip
    p.add_argument(
        '--rotate', type=options.real, default=0.0, metavar='DEGREES', help='turn the content counter-clockwise'
    )
    p.add_argument(
        '--ws',
        type=options.source,
        metavar='FILE.npz',
        help='draw the styles w [N, num_ws, w_dim] of a file instead of seeds',
    )
    p.add_argument(
        '--direction', type=_direction, metavar='FILE.npz:KIND:K:LOW..HIGH',
        help='draw a table of --seeds along direction K that analyze directions has found; KIND is pca or sefa',
    )  # fmt: skip
    p.add_argument(
        '--video', nargs='?', const='interpolate', choices=('interpolate', *sampling.CAMERAS),
        help='film a way through the latents of --seeds and back (default), or the same images under a moving camera',
    )  # fmt: skip
    p.add_argument(
        '--grid',
        type=_cells,
        metavar='ROWSxCOLUMNS',
        help='images side by side in a video (default 1)',
    )
    p.add_argument('--frames', type=int, help='frames from seed to seed (default 120), or of a camera (default 240)')
    p.add_argument('--fps', type=options.real, help='frames per second (default: 60 for an .mp4, 20 for a .gif)')
    p.add_argument('--columns', type=int, help='columns of the grid (default 8)')
    p.add_argument('--batch-size', type=int, help='images computed at once (default 8)')
    p.add_argument(
        '--out', type=options.picture_or_folder, required=True, metavar='FILE.png|FOLDER',
        help='a picture for a grid, or a folder for single files, where a second launch resumes',
    )  # fmt: skip


def _mix(text: str) -> tuple[list[int], list[int]]:
    """'10-14:0-6' -> seeds of columns and layers, each as `numbers`"""
    seeds, colon, layers = text.partition(':')
    if not colon:
        raise argparse.ArgumentTypeError(f'{text!r} names no layers; write SEEDS:LAYERS, such as 10-14:0-6.')
    return options.numbers(seeds), options.numbers(layers)


def _cells(text: str) -> tuple[int, int]:
    """'2x4' -> (2, 4)"""
    found = re.fullmatch(r'([1-9]\d*)[x×]([1-9]\d*)', text.strip().lower(), re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f'{text!r} is no grid; write ROWSxCOLUMNS, such as 2x4.')
    return int(found[1]), int(found[2])


class _Direction(NamedTuple):
    file: Path
    kind: str
    number: int
    low: float
    high: float


def _direction(text: str) -> _Direction:
    """'directions.npz:pca:2:-3..3'"""
    found = re.fullmatch(r'(.+):(pca|sefa):(\d+):(-?[\d.]+?)\.\.(-?[\d.]+)', text)
    if not found:
        raise argparse.ArgumentTypeError(f'{text!r}; write FILE.npz:pca:2:-3..3, for the third of that kind.')
    return _Direction(options.source(found[1]), found[2], int(found[3]), options.real(found[4]), options.real(found[5]))


# What may be given together with an option that replaces plain seeds.
_VIEW = ('noise-mode', 'size', 'rotate', 'translate', 'batch-size')
_BESIDE = {
    'video': ('seeds', 'class', 'truncation-psi', 'truncation-cutoff', *_VIEW),
    'ws': ('columns', *_VIEW),
    'direction': ('seeds', 'class', 'truncation-psi'),
    'style-mix': ('seeds', 'class', 'truncation-psi', 'truncation-cutoff', *_VIEW),
}


def _check_together(args: argparse.Namespace) -> None:
    """Raises: UserError for combinations in which an option would be ignored."""
    given = {
        'video': args.video, 'ws': args.ws, 'direction': args.direction, 'style-mix': args.style_mix,
        'class': args.label is not None, 'truncation-psi': args.truncation_psi != 1, 'noise-mode': args.noise_mode,
        'truncation-cutoff': args.truncation_cutoff is not None, 'size': args.size, 'rotate': args.rotate,
        'translate': any(args.translate), 'seeds': args.seeds is not None, 'columns': args.columns is not None,
        'batch-size': args.batch_size is not None,
    }  # fmt: skip
    for name in ('grid', 'frames', 'fps'):
        if getattr(args, name) is not None and not args.video:
            raise UserError(f'--{name} is of a video; add --video, or leave it out.')
    if args.out.path.suffix.lower() == '.mp4' and not args.video:
        raise UserError(f'--out {args.out.path} is a video; add --video, or write a .png.')
    if args.fps is not None and not args.fps > 0:
        raise UserError(f'--fps {args.fps} must be positive; 20 to 60 are usual.')
    for option, beside in _BESIDE.items():
        if given[option]:
            if extra := [name for name, value in given.items() if value and name not in (option, *beside)]:
                raise UserError(f'--{option} does not go with --{extra[0]}; leave one of them out.')
            if args.out.folder:
                raise UserError(f'--{option} makes one file, but --out {args.out.path} is a folder; write FILE.')
    if args.columns is not None and args.out.folder:
        raise UserError(f'--columns is of one picture, but --out {args.out.path} is a folder; leave it out.')
    rows, columns = args.grid or (1, 1)
    if args.video in sampling.CAMERAS and args.seeds is not None and len(args.seeds) > rows * columns:
        raise UserError(
            f'--video {args.video} has a --grid of {rows}x{columns}, and --seeds names {len(args.seeds)}; give a '
            'larger one, or fewer seeds.'
        )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    given = [name for name in ('columns', 'batch_size', 'frames') if getattr(args, name) is not None]
    options.at_least_one(args, *given)
    out, folder = args.out
    _check_together(args)
    if args.video:
        args.fps = args.fps or animation.usual_fps(out)
        animation.check(out, args.fps)
    args.seeds = list(range(32)) if args.seeds is None else args.seeds
    args.columns, args.batch_size = args.columns or 8, args.batch_size or 8
    model = options.load(args)
    chosen = {'size': args.size, 'noise_mode': args.noise_mode, **options.styles(args)}
    if args.rotate or any(args.translate):
        turn = coords.rotate(math.radians(args.rotate))
        chosen['transform'] = coords.compose(turn, coords.translate(*args.translate))
    if args.direction:
        _write_walk(args, model, out)
    elif args.video:
        _write_video(args, model, out, {**chosen, 'batch_size': args.batch_size})
    elif folder:
        _write_folder(args, model, out, chosen)
    else:
        options.check_picture(out, model.config.data.channels)
        if args.style_mix:
            table = sampling.style_mix(model, args.seeds, *args.style_mix, **chosen, batch_size=args.batch_size)
            images, args.columns = to_uint8(table.reshape(-1, *table.shape[2:])), table.shape[1]
        elif args.ws:
            model, ws = options.read_ws(args.ws, model)
            few = {k: v for k, v in chosen.items() if k in ('size', 'transform', 'noise_mode')}
            images = to_uint8(sampling.of_styles(model, ws, batch_size=args.batch_size, **few))
        else:
            batches = sampling.stream(model, args.seeds, batch_size=args.batch_size, **chosen)
            images = np.concatenate([to_uint8(batch) for batch in batches])
        options.write_picture(out, image_grid(images, min(args.columns, len(images))))
    print(out)


def _write_walk(args: argparse.Namespace, model: sampling.Model, out: Path) -> None:
    """A row for each seed, seven columns along a direction."""
    options.check_picture(out, model.config.data.channels)
    file, kind = args.direction.file, args.direction.kind
    found = options.read_arrays(file, '--direction', 'the directions.npz that analyze directions wrote')
    if not isinstance(found, dict) or not {kind, f'{kind}_scale'} <= found.keys():
        there = ', '.join(found) if isinstance(found, dict) else 'one array without a name'
        raise UserError(f'--direction {file} has no {kind}; it has {there}.')
    directions, scales = found[kind], found[f'{kind}_scale']
    w_dim = model.styles(args.seeds[:1], label=args.label).shape[-1]
    if directions.shape[-1] != w_dim:
        raise UserError(
            f'--direction {file} is of another model: its directions have {directions.shape[-1]} numbers, styles of '
            f'this one {w_dim}; run analyze directions with this --model.'
        )
    if args.direction.number >= len(directions):
        raise UserError(f'--direction: {args.direction.file} has directions 0 to {len(directions) - 1}.')
    direction, scale = (array[args.direction.number] for array in (directions, scales))
    strengths = np.linspace(args.direction.low, args.direction.high, 7)
    chosen = {'label': args.label, 'truncation_psi': args.truncation_psi}
    images = to_uint8(analysis.walk(model, direction, scale, args.seeds, strengths, **chosen))
    options.write_picture(out, image_grid(images.reshape(-1, *images.shape[2:]), len(strengths)))


def _write_video(args: argparse.Namespace, model: sampling.Model, out: Path, chosen: dict) -> None:
    if args.video == 'interpolate':
        count, frames = sampling.interpolation(
            model, args.seeds, cells=args.grid or (1, 1), w_frames=args.frames or 120, **chosen
        )
    else:
        if 'transform' in chosen:
            raise UserError(f'--video {args.video} moves the camera; leave out --rotate and --translate.')
        cells = args.grid or (1, 1)
        turns = [i % len(args.seeds) for i in range(math.prod(cells))]
        if isinstance(chosen['label'], list):
            chosen['label'] = model.labels(chosen['label'], len(args.seeds))[turns]
        seeds = [args.seeds[i] for i in turns]
        count, frames = sampling.camera(model, seeds, args.video, columns=cells[1], frames=args.frames or 240, **chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    animation.write(out, tqdm(frames, total=count, unit='frame', disable=not sys.stderr.isatty()), args.fps)


def _write_folder(args: argparse.Namespace, model: sampling.Model, out: Path, chosen: dict) -> None:
    """A file per seed; those that an earlier launch with the same settings has written are left as they are.

    Raises: UserError for a folder that holds samples of other settings.
    """
    labels = chosen['label'] if isinstance(chosen['label'], list) else [None] * len(args.seeds)
    ends = ['' if label is None else f'_class{label}' for label in labels]
    files = [out / f'seed{seed:06d}{end}.png' for seed, end in zip(args.seeds, ends, strict=True)]
    names = ('truncation_psi', 'truncation_cutoff', 'noise_mode', 'size', 'translate', 'rotate')
    about = {name: getattr(args, name) for name in names}
    about |= {
        'model': str(args.model if exported.is_name(args.model) else absolute(args.model)),
        'step': model.step,
        'class': args.label if not any(ends) else None,
    }
    about, record = json.loads(json.dumps(about)), out / 'samples.json'
    if record.is_file() and (earlier := read_record(record)) != about:
        name = next(name for name in about | earlier if earlier.get(name) != about.get(name))
        raise UserError(
            f'{out} holds samples of other settings ({name} {earlier.get(name)}, not {about.get(name)}); name another '
            'folder, or delete this one.'
        )
    if not record.is_file() and (there := [file for file in files if file.exists()]):
        raise UserError(f'{there[0]} is there, and this command did not write it; name another folder.')
    todo = [i for i, file in enumerate(files) if not file.is_file()]
    if len(todo) < len(files):
        print(f'{len(files) - len(todo)} of {len(files)} images are there already', file=sys.stderr)
    if not todo:
        return
    if any(ends):
        chosen = {**chosen, 'label': [labels[i] for i in todo]}
    batches = sampling.stream(model, [args.seeds[i] for i in todo], batch_size=args.batch_size, **chosen)
    out.mkdir(parents=True, exist_ok=True)
    with whole(record) as unfinished:
        unfinished.write_text(json.dumps(about, indent=2))
    with tqdm(total=len(todo), unit='image', disable=not sys.stderr.isatty()) as bar:
        waiting = iter(todo)
        for images in batches:
            for image in to_uint8(images):
                with whole(files[next(waiting)]) as unfinished:
                    as_image(image).save(unfinished, 'PNG')
                bar.update()
