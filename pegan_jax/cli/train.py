"""The command train."""

import argparse

import jax

from pegan_jax import train
from pegan_jax.cli import options
from pegan_jax.config import ConfigError, load_config
from pegan_jax.settings import UserError
from pegan_jax.train.report import dry_run

HELP = 'Train a model, or go on with the run in --workdir.'
EPILOG = """Single settings are changed with --config.SECTION.FIELD=VALUE, for example --config.optim.g_lr=0.001,
--config.data.folder=photos, --config.train.total_kimg=100. --dry-run shows all of them."""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument(
        '--config',
        required=True,
        metavar='FILE[:ARG]',
        help='a configuration file, the name of a shipped one, or the config.json of a run',
    )
    p.add_argument('--workdir', type=options.path, help='everything is written here; a second launch resumes')
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


def _peers(text: str) -> dict:
    """'host:port,count,index' -> arguments of jax.distributed.initialize; '' -> none, it looks for itself."""
    if not text:
        return {}
    try:
        address, count, index = text.split(',')
        return {'coordinator_address': address, 'num_processes': int(count), 'process_id': int(index)}
    except ValueError:
        raise UserError(f'--distributed {text!r}; write HOST:PORT,COUNT,INDEX, such as 10.0.0.1:9911,2,0.') from None


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.distributed is not None:
        jax.distributed.initialize(**_peers(args.distributed))
    config = load_config(args.config, args.overrides)
    if args.dry_run:
        print(dry_run(config))
        return
    if args.workdir is None:
        raise ConfigError('--workdir is missing; name a folder for the run, such as --workdir runs/first.')
    train.run(config, args.workdir)
    print(f'samples are in {args.workdir / "samples"}')
