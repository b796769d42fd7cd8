"""The command analyze."""

import argparse

import jax
import numpy as np

from pegan_jax import analysis
from pegan_jax.cli import options
from pegan_jax.files import check_file, whole
from pegan_jax.settings import UserError

HELP = 'Studies of padding, encodings, coordinates, gates, directions, filters, noise, sticking details and spectra.'

EPILOG = """Every study writes pictures and numbers into --out.
  padding     means, spreads and autocorrelation of maps without and with zero padding, layer by layer
  position    how well a linear map tells the position of a feature vector, layer by layer
  encodings   the spaces that a learned constant, the Cartesian grid and sinusoids span, at 5x5 and 7x7
  gates       what the gates of DeepFillv2 tell about a hole, layer by layer, beside the mask of partial convolutions
  directions  directions of w along which images change: principal components (GANSpace), closed form (SeFa)
  skips       what the skips of the U-Net of partial convolutions bring to the middle of a hole
  filters     rates, cutoffs and attenuations of StyleGAN3's layers, and aliases with and without their filters
  noise       what differs between draws of noise, in StyleGAN2, MS-PIE and CIPS
  sticking    details that stay where they are when a style changes: means of neighbours, and a strip of a walk
  spectrum    average power spectra of real and generated images by radius, for every system
  extrapolation  windows ever farther outside the frame, against the true procedural worlds there
  latents     rows of images between latents, and towards the mean style

Experiments of the CIPS paper, and some that it leaves open:
  halves      the halves of its encoding: principal components, spectra, and samples without one of them
  detail      four times finer than training, beside Lanczos, bicubic and the truth of the procedural worlds
  foveation   5, 25, 50 and 100 % of the pixels, dense in the middle
  inversion   w from a few pixels: PSNR of held-out pixels, against the share of given ones
  artefacts   waves: energy in narrow bands, and what a low-pass over a finer render leaves of it
  panorama    a CIPS on a cylinder: the seam, mirror symmetry by azimuth, two styles on opposite sides

--model names a trained generator, --config one with random weights. Without both, padding and position take a random
stack of convolutions, and other studies a small configuration with random weights. directions needs --model, and
encodings takes no --config. The studies from filters on take several models.

examples:
  padding --out studies
  position --config mspie:d,tiny --config mspie:i,tiny --out studies
  encodings --model runs/mspie-c --out studies
  gates --model runs/faces --out studies
  directions --model runs/faces --out studies
  filters --config stylegan3:t --config stylegan3:r --out studies
  sticking --model runs/stylegan2 --model runs/t --model runs/r --out studies
  spectrum --model runs/cips --model runs/cips-ne --model runs/stylegan2 --out studies
  detail --model runs/quickstart --out studies
  panorama --config cips:panorama,tiny --out studies
  extrapolation --model runs/cips --model runs/t --out studies
"""

# Study of models: the configurations that it has by default, and how many samples.
MODELS = {
    'filters': (('stylegan3:t,small', 'stylegan3:r,small'), None),
    'noise': (('stylegan2:small',), 64),
    'sticking': (('stylegan2:small', 'stylegan3:t,small', 'stylegan3:r,small'), 64),
    'spectrum': (('stylegan2:small',), 256),
    'extrapolation': (('quickstart',), 1000),
    'latents': (('quickstart',), 3),
    'halves': (('quickstart',), 4),
    'detail': (('quickstart',), 4),
    'foveation': (('quickstart',), 4),
    'inversion': (('quickstart',), 2),
    'artefacts': (('quickstart',), 32),
    'panorama': (('cips:panorama,tiny',), 4),
}


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument(
        'study',
        choices=('padding', 'position', 'encodings', 'gates', 'skips', 'directions', *MODELS),
        help='what is studied; see below',
    )
    source = p.add_mutually_exclusive_group()
    source.add_argument('--model', type=options.model, action='append', metavar='MODEL', help=options.MODEL)
    source.add_argument(
        '--config', action='append', metavar='FILE[:ARG]', help='a generator with random weights; may be repeated'
    )
    p.add_argument('--step', help="step of the checkpoint of --model, or 'best'; default: the newest")
    p.add_argument(
        '--samples', type=int,
        help='how many samples: maps for padding and position, a multiple of 64 (default 4096); draws of noise, and '
        'neighbours (64); images for a spectrum (256), artefacts (32), each score of extrapolation (1000), other '
        'studies (2 to 4)',
    )  # fmt: skip
    p.add_argument('--seed', type=options.seed, help='seed of random weights and of samples (default 0)')
    p.add_argument('--out', type=options.path, required=True, metavar='FOLDER', help='folder for pictures and JSON')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.step is not None and args.model is None:
        raise UserError(f'--step {args.step} is of a checkpoint of --model; leave it out, or name a model.')
    if args.seed is not None and args.model is not None and args.study in ('encodings', 'gates', 'skips'):
        raise UserError(f'--seed {args.seed}: the study {args.study} of a --model draws no numbers; leave it out.')
    args.seed = args.seed or 0
    check_file(args.out / f'{args.study}.json')
    if args.study in MODELS:
        run_models(args)
        return
    if args.model is not None:
        if len(args.model) > 1:
            raise UserError(f'--model is given {len(args.model)} times; the study {args.study} takes one model.')
        args.model = args.model[0]
    key, model = jax.random.key(args.seed), None if args.model is None else options.load(args)
    if args.samples is not None and args.study not in ('padding', 'position'):
        raise UserError(f'--samples {args.samples}: the study {args.study} draws no samples; leave it out.')
    if args.study == 'directions':
        if model is None:
            raise UserError('directions are those of a trained model; name it with --model.')
        label = model.classes_of([args.seed])  # of a model of classes
        study, arrays = analysis.directions_study(model, seed=args.seed, label=label and label[0])
        about = {'model': str(args.model), 'seed': args.seed, 'class': label and label[0]}
        paths = analysis.save(study, args.out, 'directions', about)
        with whole(args.out / 'directions.npz') as unfinished, unfinished.open('wb') as file:
            np.savez(file, **arrays)
        print(*paths, args.out / 'directions.npz', sep='\n')
        return
    about = {'study': args.study, 'seed': args.seed, 'model': args.model and str(args.model), 'config': args.config}
    if args.study in ('gates', 'skips'):
        names = args.config or ['deepfill:tiny' if args.study == 'gates' else 'pconv:tiny']
        models = {str(args.model): model} if model else analysis.random_models(names, key)
        study = analysis.gate_study if args.study == 'gates' else analysis.skip_study
        studies = {args.study: study(models, analysis.worlds_for(models))}
    elif args.study == 'encodings':
        if args.config:
            raise UserError('encodings have no random generator; leave out --config, or name a trained --model.')
        random = np.random.default_rng(args.seed).normal(size=(4, 4, 16))
        studies = {
            'encodings': analysis.encodings_study(
                random if model is None else analysis.constant_of(model.variables['params'])
            )
        }
    else:
        about['samples'] = samples = 4096 if args.samples is None else args.samples
        if model is not None:
            sources = {str(args.model): analysis.network_features(model.gan, model.variables)}
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


def run_models(args: argparse.Namespace) -> None:
    """Studies of what models make."""
    configs, default = MODELS[args.study]
    if args.samples is not None and (default is None or args.samples < 2):
        wrong = 'draws no samples; leave it out' if default is None else 'needs at least 2'
        raise UserError(f'--samples {args.samples}: the study {args.study} {wrong}.')
    count = default if args.samples is None else args.samples
    if args.model:
        models = {str(path): options.load(argparse.Namespace(model=path, step=args.step)) for path in args.model}
    else:
        models = analysis.random_models(args.config or configs, jax.random.key(args.seed))
    study = {
        'filters': lambda: analysis.filter_study(models, args.seed),
        'noise': lambda: analysis.noise_study(models, count, args.seed),
        'sticking': lambda: analysis.sticking_study(models, count, args.seed),
        'spectrum': lambda: analysis.spectrum_study(models, count, args.seed),
        'extrapolation': lambda: analysis.extrapolation_study(models, count, args.out, args.seed),
        'latents': lambda: analysis.latent_study(models, count, args.seed),
        'halves': lambda: analysis.halves_study(models, count, args.seed),
        'detail': lambda: analysis.detail_study(models, count, args.seed),
        'foveation': lambda: analysis.foveation_study(models, count, args.seed),
        'inversion': lambda: analysis.inversion_study(models, count, args.seed),
        'artefacts': lambda: analysis.artefact_study(models, count, args.seed),
        'panorama': lambda: analysis.panorama_study(models, count, args.seed),
    }[args.study]()
    about = {'study': args.study, 'seed': args.seed, 'model': [*map(str, args.model or [])], 'config': args.config}
    for path in analysis.save(study, args.out, args.study, about | ({'samples': count} if count else {})):
        print(path)
