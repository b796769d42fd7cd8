"""Arguments that several commands share, and what they stand for."""

import argparse
import io
import math
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from pegan_jax import sampling
from pegan_jax.pixels import as_image
from pegan_jax.settings import UserError


def numbers(text: str) -> list[int]:
    """'0,3,8-11' -> [0, 3, 8, 9, 10, 11]"""
    out = []
    for part in text.split(','):
        low, dash, high = part.strip().partition('-')
        out += range(int(low), int(high) + 1) if dash else [int(low)]
    if not out:
        raise argparse.ArgumentTypeError(f'{text!r} is an empty range; write the smaller number first.')
    return out


def size(text: str) -> tuple[int, int]:
    """'256' or '256x512' (height x width) -> (height, width)"""
    parts = [int(p) for p in text.lower().split('x')]
    if len(parts) > 2 or min(parts) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a size; write 256 or 256x512 (height x width).')
    return (parts[0], parts[-1])


def real(text: str) -> float:
    """'0.5' -> 0.5; neither nan nor inf"""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f'{text!r} is not finite.')
    return value


def tuple_of(kind: Callable[[str], float], form: str) -> Callable[[str], tuple]:
    """A parser of as many numbers as the form has, such as 'X,Y'."""
    count = form.count(',') + 1

    def parse(text: str) -> tuple[float, ...]:
        values = tuple(kind(p) for p in text.split(','))
        if len(values) != count:
            raise argparse.ArgumentTypeError(f'{text!r} has {len(values)} numbers; write {form}.')
        return values

    parse.__name__ = form
    return parse


def add_model(p: argparse.ArgumentParser) -> None:
    """A trained model."""
    p.add_argument('--model', type=pathlib.Path, required=True, metavar='WORKDIR', help='the --workdir of a run')
    p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")


def add_styles(p: argparse.ArgumentParser) -> None:
    """Which image a seed stands for."""
    p.add_argument('--class', type=int, dest='label', metavar='N', help='of a model that was trained with labels')
    p.add_argument(
        '--truncation-psi', type=real, default=1.0, metavar='PSI', help='1 (default) is off, 0 the mean image'
    )
    p.add_argument('--truncation-cutoff', type=int, metavar='N', help='truncate the first N styles only (default: all)')
    p.add_argument('--noise-mode', choices=('const', 'random', 'none'), help="of StyleGAN2's noise (default: const)")


def add_activation(p: argparse.ArgumentParser) -> None:
    """What a file of CIPS may leave open."""
    p.add_argument('--activation', choices=('lrelu', 'sin', 'sinrelu'), help='of a CIPS file that does not tell it')


def load(args: argparse.Namespace) -> sampling.Model:
    """The model of `add_model`."""
    if args.model.is_file():
        raise UserError(f'--model {args.model} is a file, not a folder; make one with convert {args.model} --out DIR.')
    step = int(args.step) if args.step is not None and args.step.isdigit() else args.step
    return sampling.load(args.model, step)


def styles(args: argparse.Namespace) -> dict:
    """Those of `add_styles` that `Model.styles` takes."""
    return {
        'label': args.label, 'truncation_psi': args.truncation_psi, 'truncation_cutoff': args.truncation_cutoff
    }  # fmt: skip


def at_least_one(args: argparse.Namespace, *names: str) -> None:
    """Raises: ValueError unless these numbers are positive."""
    for name in names:
        if getattr(args, name) < 1:
            raise UserError(f'--{name.replace("_", "-")} {getattr(args, name)} must be at least 1.')


def check_picture(path: pathlib.Path, channels: int) -> None:
    """Raises: UserError unless the suffix is of a format in which Pillow writes images of so many channels."""
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f'--out {path}: no picture is written as {path.suffix!r}; use .png.')
    try:
        as_image(np.zeros((8, 8, channels), np.uint8)).save(io.BytesIO(), kind)
    except (OSError, ValueError) as error:
        raise UserError(f'--out {path}: images of the model have {channels} channels; use .png ({error}).') from None
