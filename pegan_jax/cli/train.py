"""The command train."""

import argparse

import jax

from pegan_jax import train
from pegan_jax.cli import options
from pegan_jax.config import ConfigError, load_config
from pegan_jax.train.report import dry_run

HELP = 'Train a model, or resume the run in --workdir.'
EPILOG = """--config.SECTION.FIELD=VALUE changes one setting, for example --config.optim.g_lr=0.001,
--config.data.folder=photos or --config.train.total_kimg=100. --dry-run shows all of them. The first lines of
configs/NAME.py say what may follow the colon.

examples:
  --config quickstart --workdir runs/quickstart
  --config quickstart --workdir runs/mine --config.data.folder=photos
  --config stylegan3:t,images256 --workdir runs/faces --config.data.folder=faces.zip --dry-run
  --config RUN/config.json --workdir runs/again --config.train.seed=1
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument(
        '--config',
        required=True,
        metavar='FILE[:ARG]',
        help='one of the configurations that ship (cips, creps, dcgan, deepfill, mspie, pconv, pggan, quickstart, '
        'singan, stylegan2, stylegan3), a file of your own, or the config.json of a run',
    )
    p.add_argument(
        '--workdir',
        type=options.path,
        help='folder of the run: checkpoints, samples and numbers; a second launch resumes',
    )
    p.add_argument(
        '--dry-run', action='store_true', help='print configuration, parameters, FLOPs and memory; do not train'
    )
    p.add_argument(
        '--topology', metavar='KIND:SHAPE',
        help='compile for devices that are not here, such as v5e:4x4 or h100:8; goes with --dry-run; see docs/pods.md',
    )  # fmt: skip
    options.add_distributed(p)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.topology is not None:
        if not args.dry_run or args.distributed is not None:
            raise ConfigError(f'--topology {args.topology} goes with --dry-run alone: nothing can be trained there.')
        jax.config.update('jax_platforms', 'cpu')  # this machine takes no part
    options.join(args)
    config = load_config(args.config, args.overrides)
    if args.dry_run:
        print(dry_run(config, args.topology))
        return
    if args.workdir is None:
        raise ConfigError('--workdir is missing; name a folder for the run, such as --workdir runs/first.')
    train.run(config, args.workdir)
    print(f'samples are in {args.workdir / "samples"}')
