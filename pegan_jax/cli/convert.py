"""The command convert."""

import argparse
import json

from pegan_jax import hub, interop
from pegan_jax.cli import options

HELP = 'Turn a checkpoint of another program, for all systems but partial convolutions, into a run of this library.'
EPILOG = """sample, render and inspect take the new directory as --model; training starts from it with
--config.train.init_from=DIR and a configuration of the same model. No code in the file is run.

examples:
  stylegan3-r-ffhq-1024x1024.pkl --out runs/ffhq1024
  ffhq256_g_ema.pt --out runs/ffhq256
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument(
        'source',
        type=lambda text: text if hub.is_address(text) else options.path(text),  # convert says what to do
        metavar='FILE',
        help='the checkpoint; if it is several files (TensorFlow, the original SinGAN), their folder or one of them',
    )
    p.add_argument('--out', type=options.path, required=True, metavar='DIR', help='a new directory')
    p.add_argument('--noises', type=options.source, metavar='FILE.pkl', help='the second file of a SinGAN release')
    p.add_argument(
        '--config',
        metavar='FILE[:ARGUMENTS]',
        help='configuration of a StyleGAN2 or MS-PIE of mmgen, such as mspie:e, if the file does not tell it',
    )
    p.add_argument(
        '--colours', choices=('rgb', 'bgr'),
        help='order of colours that a DeepFillv2 expects; default: bgr for the official program, rgb for the PyTorch '
        'port (its converted weights may expect bgr: try it if the colours of holes look wrong)',
    )  # fmt: skip
    p.add_argument('--sampling-only', action='store_true', help='leave out discriminator and optimisers')
    options.add_activation(p)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    names = ('activation', 'noises', 'config', 'colours', 'sampling_only')
    config = interop.convert(args.source, args.out, **{name: getattr(args, name) for name in names})
    origin = json.loads((args.out / 'imported.json').read_text())
    print(interop.described(config.system, origin['inferred'], origin['licence']))
    print(args.out)
