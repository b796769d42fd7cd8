"""The command export."""

import argparse

from pegan_jax import sharing
from pegan_jax.cli import options
from pegan_jax.settings import UserError

HELP = 'Write a trained model as a file to give away: its weights, or a program that runs without this library.'

EPILOG = """formats:
  safetensors  The weights that sampling needs, and the configuration, with only the last names of paths on this
               machine. All commands take it as --model, load reads it, train.init_from starts from it. --out is a file
               that ends in .safetensors, or a folder.
  official     The weights as safetensors under the names of the program that published the system: CIPS, and the
               PyTorch port of StyleGAN2.
  stablehlo    A program with the weights inside, for any number of images. JAX runs it without this library:
               jax.export.deserialize(open(FILE, 'rb').read()).call(z, truncation_psi); what it takes is printed.

examples, each after python -m pegan_jax export --model MODEL:
  --out shared --dtype float16
  --format stablehlo --platforms cpu,cuda --out model.stablehlo
  --format official --out g_ema.safetensors
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    p.add_argument('--out', type=options.path, required=True, metavar='FILE|DIR', help='where the file is written')
    p.add_argument(
        '--format', choices=('safetensors', 'official', 'stablehlo'), default='safetensors',
        help='what is written, see below (default: safetensors)',
    )  # fmt: skip
    p.add_argument(
        '--dtype', choices=('float32', 'float16', 'bfloat16'),
        help='numbers in a safetensors file; 16 bits halve the bytes and round the numbers (default: float32)',
    )  # fmt: skip
    p.add_argument(
        '--platforms', metavar='NAME,...',
        help=f'where a program can run, from {", ".join(sharing.PLATFORMS)} (default: cpu,cuda,tpu)',
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    for name, kind in (('dtype', 'safetensors'), ('platforms', 'stablehlo')):
        if getattr(args, name) is not None and args.format != kind:
            raise UserError(f'--{name} {getattr(args, name)} goes with --format {kind}; leave it out.')
    model = options.load(args)
    if args.format == 'safetensors':
        print(sharing.export(model, args.out, dtype=args.dtype or 'float32'))
    elif args.format == 'official':
        print(sharing.export_official(model, args.out))
    else:
        chosen = (
            {} if args.platforms is None else {'platforms': tuple(name.strip() for name in args.platforms.split(','))}
        )
        program = sharing.export_program(model, args.out, **chosen)
        for name, shape in program.arguments.items():
            print(f'{name}: {shape}')
        print(program.file)
