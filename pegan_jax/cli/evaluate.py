"""The command evaluate."""

import argparse
import dataclasses
import functools
import sys

from pegan_jax import evaluation, inpainting
from pegan_jax.cli import options
from pegan_jax.settings import DataConfig, UserError

HELP = 'Measure how well a model completes images.'

EPILOG = """Images are completed under a fixed list of masks: --masks of every kind and class of hole ratio (0.01-0.1,
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


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument('--model', type=options.path, metavar='WORKDIR', help='the --workdir of a run')
    p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")
    p.add_argument(
        '--method', choices=('biharmonic',), help='also this baseline; without --model, it alone (see inpaint --help)'
    )
    p.add_argument('--data', metavar='PATH|NAME', help='a folder, a ZIP file, an image, worlds, or a TFDS dataset')
    p.add_argument('--size', type=options.size, metavar='H[xW]', help='of the images; default: as in training, or 256')
    p.add_argument('--images', type=int, default=64, help='the first of the data (default 64)')
    p.add_argument('--metrics', default='l1,l2,psnr,ssim,tv', help='default: l1,l2,psnr,ssim,tv')
    p.add_argument('--kinds', default='box,brush,union', help='of masks; default: box,brush,union')
    p.add_argument('--masks', type=int, default=8, help='per kind and class of hole ratio (default 8)')
    p.add_argument('--seed', type=int, default=0, help='of the masks (default 0)')
    p.add_argument('--batch-size', type=int, default=8, help='images computed at once (default 8)')
    p.add_argument('--out', type=options.path, metavar='FILE.json')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.model is None and args.method is None:
        raise UserError('name a trained --model, or --method biharmonic.')
    options.at_least_one(args, 'images', 'masks', 'batch_size')
    model = None if args.model is None else options.load(args)
    data = DataConfig(resolution=256) if model is None else model.config.data
    if args.data is not None:
        data = evaluation.data_of(args.data, data)
    data = dataclasses.replace(data, labels=False, edges='none', resolution=args.size or data.resolution)
    metrics, kinds = (
        tuple(dict.fromkeys(name.strip() for name in getattr(args, n).split(','))) for n in ('metrics', 'kinds')
    )
    evaluation.check_metrics(metrics, data.size)
    if args.out is not None:
        if args.out.is_dir():
            raise UserError(f'--out {args.out} is a folder; name a file, such as {args.out / "scores.json"}.')
        args.out.parent.mkdir(parents=True, exist_ok=True)
    methods = {}
    if model is not None:
        inpainting.check_model(model)
        methods[str(args.model)] = functools.partial(inpainting.inpaint, model)
    if args.method is not None:
        methods[args.method] = inpainting.biharmonic
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
