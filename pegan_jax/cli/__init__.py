"""Command line: python -m pegan_jax COMMAND; without one, it lists them.

A command is a module with HELP, EPILOG, add_arguments(parser) and run(arguments).
"""

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence

from pegan_jax.cli import (
    analyze,
    convert,
    doctor,
    edges,
    edit,
    evaluate,
    explore,
    export,
    inpaint,
    inspect,
    project,
    push,
    render,
    sample,
    study,
    train,
)
from pegan_jax.cli.interrupts import Interrupts
from pegan_jax.files import of_bucket
from pegan_jax.processes import end_alone, lost_peer, several
from pegan_jax.settings import TrainConfig, UserError
from pegan_jax.train.step import persistent_cache, products_without_ynnpack

COMMANDS = {
    'train': train, 'sample': sample, 'render': render, 'edit': edit, 'inpaint': inpaint, 'evaluate': evaluate,
    'explore': explore, 'project': project, 'edges': edges, 'analyze': analyze, 'inspect': inspect, 'convert': convert,
    'study': study, 'export': export, 'push': push, 'doctor': doctor,
}  # fmt: skip

EPILOG = """examples:
  python -m pegan_jax train --config quickstart --workdir runs/quickstart
  python -m pegan_jax sample --model worlds64 --seeds 0-31 --out samples.png
  python -m pegan_jax render --model worlds64 --seed 29 --size 512 --extent=-2,2,-2,2 --out wide.png
  python -m pegan_jax explore --model worlds64
  python -m pegan_jax edit --model mountain --mode animate --start-scale 2 --out moving.gif
  python -m pegan_jax inpaint --model runs/photos --image photo.jpg --mask hole.png --out filled.png
  python -m pegan_jax evaluate --model runs/faces --data test_photos --out scores.json
  python -m pegan_jax project --model runs/faces --image face.png --out found
  python -m pegan_jax edges --folder photos --out photos
  python -m pegan_jax analyze padding --out studies
  python -m pegan_jax study padding --out runs/padding
  python -m pegan_jax inspect --model worlds64
  python -m pegan_jax convert ffhq256_g_ema.pt --out runs/ffhq256
  python -m pegan_jax convert stylegan3-r-ffhq-1024x1024.pkl --out runs/ffhq1024
  python -m pegan_jax export --model worlds64 --out shared.safetensors --dtype float16
  python -m pegan_jax push --model runs/quickstart --to hf://user/quickstart --licence cc-by-4.0
  python -m pegan_jax doctor --json
"""


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        'pegan_jax',
        description='GANs that know where a pixel is. COMMAND --help lists the options of a command.',
        epilog=EPILOG,
        formatter_class=form,
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, module in COMMANDS.items():
        p = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=module.EPILOG, formatter_class=form
        )
        p.add_argument('--debug', action='store_true', help='show the traceback of every error')
        module.add_arguments(p)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    Errors that are meant for users are one line: UserErrors, and what the operating system says about a path. All
    others are faults of the program, which are raised as they are.
    """
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except BrokenPipeError:
        # The reader of the output, such as `head`, has seen enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments, with those that begin with --config. as `overrides`; exits where they are wrong."""
    overrides, rest = [], []
    words = iter(argv)
    for word in words:
        if word.startswith('--config.'):
            item = word.removeprefix('--config.')
            overrides.append(item if '=' in item else f'{item}={next(words, "")}')
        elif re.match(r'-[\d.]', word) and rest and rest[-1].startswith('--') and '=' not in rest[-1]:
            rest[-1] += f'={word}'  # --extent -2,2,-2,2: argparse would take the numbers for an option
        else:
            rest.append(word)
    args = _parser().parse_args(rest)
    args.overrides, args.words = overrides, list(argv)
    return args


def _told(error: Exception, args: argparse.Namespace) -> Exception | str | None:
    """What a user is told about an error; None for a fault of the program."""
    if getattr(args, 'distributed', None) is not None and lost_peer(error):
        told = ' '.join(str(error).split())[:300]
        return f'another process of this run has ended or cannot be reached; start all of them again ({told}).'
    if isinstance(error, OSError) and error.filename:  # by the option that named the path, if one did
        for name, value in vars(args).items():
            if str(getattr(value, 'path', value)) == str(error.filename):
                option = f'--{name.replace("_", "-")} {error.filename}'
                if isinstance(error, FileNotFoundError) and name != 'out':
                    return f'{option} does not exist; name a file or folder that is there.'
                return f'{option}: {(error.strerror or "it fails").lower()}; name another.'
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.filename):
        return error
    if of_bucket(error):
        return f'the bucket cannot be used ({type(error).__name__}: {error}); check its name, network and credentials.'
    return None


def _run(argv: list[str]) -> int:
    try:
        args = parse(argv)
    finally:
        sys.stdout.flush()  # of --help, which ends here
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s %(name)s: %(message)s')
    logging.getLogger('absl').setLevel(logging.ERROR)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    products_without_ynnpack()
    try:
        if args.overrides and args.command != 'train':
            raise UserError(f'--config.{args.overrides[0]} is for the command train.')
        if args.command != 'train':  # whose configuration says where
            persistent_cache(TrainConfig.compilation_cache)
        trains = args.command == 'study' or (args.command == 'train' and not args.dry_run and args.distributed is None)
        with Interrupts(saves=trains):
            COMMANDS[args.command].run(args)
        sys.stdout.flush()  # while a closed pipe can still be told
    except KeyboardInterrupt:  # of a run that has nothing to save yet; it was heard, see Interrupts
        return 130
    except Exception as error:
        told = None if args.debug else _told(error, args)
        if told is not None:
            print(f'error: {told}'.replace('\n', ' '), file=sys.stderr)
        if getattr(args, 'distributed', None) is not None and ((lost := lost_peer(error)) or several()):
            if told is None:
                traceback.print_exception(error)
            end_alone(lost)
        if told is None:
            raise
        return 1
    return 0
