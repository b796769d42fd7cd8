"""The command push."""

import argparse

from pegan_jax import sharing
from pegan_jax.cli import options

HELP = 'Put a trained model on the Hugging Face Hub, with a card; load and --model read it from there.'

EPILOG = """Uploads what export writes, samples, and a card with the scores that evaluate wrote into the model's folder.
Paths on this machine are cut to their last names. An existing card stays as it is. Needs the extra: pip install
'pegan_jax[hub]'; log in first: hf auth login.

examples, each after python -m pegan_jax push --model MODEL:
  --to hf://user/worlds64 --licence cc-by-4.0
  --to hf://user/worlds64@v2 --licence cc-by-4.0 --dtype float16 --private
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    p.add_argument(
        '--to', required=True, metavar='hf://USER/NAME[@BRANCH]', help='the repository; it is created if it is missing'
    )
    p.add_argument(
        '--licence', required=True, metavar='NAME',
        help="licence of the weights, by the hub's name for it, such as cc-by-4.0, apache-2.0 or other",
    )  # fmt: skip
    p.add_argument(
        '--dtype', choices=('float32', 'float16', 'bfloat16'), default='float32',
        help='numbers in the file; 16 bits halve the bytes and round the numbers (default: float32)',
    )  # fmt: skip
    p.add_argument('--private', action='store_true', help='make it a private repository; refuse a public one')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    model = options.load(args)
    scores = sharing.scores_of(args.model, model.step)
    print(sharing.push(model, args.to, licence=args.licence, dtype=args.dtype, private=args.private, scores=scores))
