"""The command analyze."""

import argparse

import jax
import numpy as np

from pegan_jax import analysis
from pegan_jax.cli import options
from pegan_jax.files import whole
from pegan_jax.settings import UserError

HELP = 'Studies of zero padding, of positional encodings and of gates.'

EPILOG = """Studies of where a generator knows its position from, and holes; pictures and numbers go to --out.
  padding     means, spreads and autocorrelation of maps without and with zero padding, layer by layer
  position    how well a linear map tells the position of a feature vector, layer by layer
  encodings   the spaces that a learned constant, the Cartesian grid and sinusoids span, at 5x5 and 7x7
  gates       of DeepFillv2: what gates tell of a hole, layer by layer, beside the mask of partial convolutions
  directions  of w, along which images change: principal components (GANSpace) and in closed form (SeFa)
  skips       of the U-Net of partial convolutions: what skips bring to the middle of a hole

Generators are one random stack of convolutions without and with padding; or those of --config, with random weights;
or that of --model.

examples:
  padding --out studies
  position --config mspie:d,tiny --config mspie:i,tiny --out studies
  encodings --model runs/mspie-c --out studies
  gates --model runs/faces --out studies
  directions --model runs/faces --out studies
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument('study', choices=('padding', 'position', 'encodings', 'gates', 'skips', 'directions'))
    source = p.add_mutually_exclusive_group()
    source.add_argument('--model', type=options.path, metavar='WORKDIR', help='the --workdir of a run')
    source.add_argument(
        '--config', action='append', metavar='FILE[:ARG]', help='a generator with random weights; may be repeated'
    )
    p.add_argument('--step', help="step of the checkpoint of --model, or 'best'; default: the newest")
    p.add_argument('--samples', type=int, help='of maps, a multiple of 64; padding and position only (default 4096)')
    p.add_argument('--seed', type=int, default=0, help='of random weights and of samples (default 0)')
    p.add_argument('--out', type=options.path, required=True, metavar='FOLDER')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    key, model = jax.random.key(args.seed), None if args.model is None else options.load(args)
    if args.samples is not None and args.study not in ('padding', 'position'):
        raise UserError(f'--samples {args.samples}: the study {args.study} draws no samples; leave it out.')
    if args.study == 'directions':
        if model is None:
            raise UserError('directions are those of a trained model; name it with --model.')
        study, arrays = analysis.directions_study(model, seed=args.seed)
        paths = analysis.save(study, args.out, 'directions', {'model': str(args.model), 'seed': args.seed})
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
