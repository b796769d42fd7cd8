"""Arguments that several commands share, and what they stand for."""

import argparse
import io
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from pegan_jax import animation, hub, sampling
from pegan_jax.files import Path, as_path, check_file, in_bucket, on_disk, whole
from pegan_jax.pixels import as_image
from pegan_jax.projection import with_maps
from pegan_jax.settings import TrainConfig, UserError
from pegan_jax.train import exported
from pegan_jax.weights.public import FILES

_SHIPPED = ', '.join(sorted(file.stem for file in exported.SHIPPED.glob('*.safetensors')))
MODEL = f'the --workdir of a run, what convert or export made, a model that ships ({_SHIPPED}), or hf://user/name'
LARGEST = 1e30  # numbers become float32, and are added and multiplied
HEARTBEAT = 30  # seconds after which a process that is not heard of counts as dead


def path(text: str) -> Path:
    """A path on a disk, where ~ is the home folder, or in a bucket."""
    if not text:
        raise argparse.ArgumentTypeError('the path is empty; name a file or folder.')
    try:
        return as_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def model(text: str) -> str | Path:
    """A model: hf://user/name on the hub, which stays text, or a path or the name of one that ships."""
    try:
        return hub.parse(text) and text if hub.is_address(text) else path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def disk(text: str) -> pathlib.Path:
    """A folder that is read in pieces, which needs a disk."""
    if in_bucket(folder := path(text)):
        raise argparse.ArgumentTypeError(
            f'{text} is in a bucket, and what is kept here is read in pieces, as only disks give it; name a folder on '
            'a disk, such as ~/cache, which several processes may share.'
        )
    return folder


def source(text: str) -> pathlib.Path:
    """A file or folder to read; if it is in a bucket, a copy on this machine."""
    try:
        return on_disk(path(text))
    except FileNotFoundError:
        raise argparse.ArgumentTypeError(f'{text}: there is nothing of this name.') from None


def seed(text: str) -> int:
    """'7' -> 7"""
    if not re.fullmatch(r'\d{1,10}', text.strip(), re.ASCII) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f'{text!r} is no seed; write a whole number from 0 to {2**32 - 1}.')
    return int(text)


def numbers(text: str) -> list[int]:
    """'0,3,8-11' -> [0, 3, 8, 9, 10, 11]"""
    out = []
    for part in text.split(','):
        found = re.fullmatch(r'\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?', part, re.ASCII)
        if not found:
            raise argparse.ArgumentTypeError(f'{text!r} names no numbers; write 3, 0-31 or 0,3,8-11.')
        low, high = int(found[1]), int(found[2] or found[1])
        if high < low:
            raise argparse.ArgumentTypeError(f'{text!r} is an empty range; write the smaller number first.')
        if high >= 2**32:
            raise argparse.ArgumentTypeError(f'{text!r} goes beyond the largest seed, {2**32 - 1}.')
        out += range(low, high + 1)
    return out


def height_and_width(text: str) -> tuple[int, int | None]:
    """'256' or '256x512' (height x width) -> (256, None) or (256, 512)"""
    found = re.fullmatch(r'(\d+)(?:[x×](\d+))?', text.strip().lower(), re.ASCII)
    parts = [int(p) for p in found.groups() if p is not None] if found else [0]
    if min(parts) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a size; write 256 or 256x512 (height x width).')
    return (parts[0], parts[1] if len(parts) > 1 else None)


def size(text: str) -> tuple[int, int]:
    """'256' or '256x512' (height x width) -> (height, width)"""
    height, width = height_and_width(text)
    return (height, width or height)


class Target(NamedTuple):
    """Where results go, and whether that is a folder."""

    path: Path
    folder: bool


def picture_or_folder(text: str) -> Target:
    """'a.png' -> a picture; 'images', 'psi0.7' and 'a.b/' -> folders."""
    place = path(text)
    suffix = place.suffix.lower()
    Image.init()
    if text.endswith(('/', os.sep)) or place.is_dir() or not re.fullmatch(r'\.[a-z][a-z0-9]{1,4}', suffix):
        return Target(place, True)
    if suffix not in Image.EXTENSION and suffix not in animation.SUFFIXES:
        raise argparse.ArgumentTypeError(
            f'{text!r}: no picture is written as {suffix!r}; write FILE.png, or {text}/ for a folder.'
        )
    return Target(place, False)


def real(text: str) -> float:
    """'0.5' -> 0.5; neither nan nor inf"""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no number; write one such as 0.5.') from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f'{text!r} is not finite.')
    if abs(value) > LARGEST:
        raise argparse.ArgumentTypeError(f'{text!r} is too large; numbers here are below {LARGEST:g}.')
    return value


def tuple_of(kind: Callable[[str], float], form: str) -> Callable[[str], tuple]:
    """A parser of as many numbers as the form has, such as 'X,Y'."""
    count = form.count(',') + 1

    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(kind(p) for p in text.split(','))
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} are no whole numbers; write {form}.') from None
        if len(values) != count:
            raise argparse.ArgumentTypeError(f'{text!r} has {len(values)} numbers; write {form}.')
        return values

    parse.__name__ = form
    return parse


def add_model(p: argparse.ArgumentParser) -> None:
    """A trained model."""
    p.add_argument('--model', type=model, required=True, metavar='MODEL', help=MODEL)
    p.add_argument('--step', help="step of the checkpoint, or 'best'; default: the newest")


def add_distributed(p: argparse.ArgumentParser) -> None:
    """Several processes."""
    p.add_argument(
        '--distributed',
        nargs='?',
        const='',
        metavar='HOST:PORT,COUNT,INDEX',
        help='run as one process of several; JAX finds the others on TPU pods and Slurm; elsewhere, give the address '
        'of the first process, how many there are, and the index of this one',
    )


def join(args: argparse.Namespace) -> None:
    """Meets the other processes of `add_distributed`, if this is one of several. Raises: UserError for another form."""
    if args.distributed is not None:
        peers = _peers(args.distributed)
        try:
            jax.distributed.initialize(**peers, heartbeat_timeout_seconds=HEARTBEAT)
        except ValueError as error:  # before anything is connected: it knows no cluster's variables here
            raise UserError(
                f'--distributed: JAX finds no other processes by itself here ({error}); write '
                '--distributed=HOST:PORT,COUNT,INDEX, such as 10.0.0.1:9911,2,0, or leave it out on one machine.'
            ) from None


def _peers(text: str) -> dict:
    """'host:port,count,index' -> arguments of jax.distributed.initialize; '' -> none: JAX finds them itself."""
    if not text:
        return {}
    found = re.fullmatch(r'(.+:\d{1,5}),(\d{1,9}),(\d{1,9})', text, re.ASCII)
    if not found or int(found[3]) >= int(found[2]):
        raise UserError(
            f'--distributed {text!r}; write HOST:PORT,COUNT,INDEX with an index below the count, such as '
            '10.0.0.1:9911,2,0.'
        )
    return {'coordinator_address': found[1], 'num_processes': int(found[2]), 'process_id': int(found[3])}


def add_styles(p: argparse.ArgumentParser) -> None:
    """Which image a seed stands for."""
    p.add_argument(
        '--class', type=classes, dest='label', metavar='N|NAME',
        help='class of the images, if the model was trained with labels: one for all, or one per seed, such as 0,1,2',
    )  # fmt: skip
    p.add_argument(
        '--truncation-psi', type=real, default=1.0, metavar='PSI',
        help='pull styles towards their mean: 1 (default) is off, 0 the mean image; 0.5 to 1.3 are usual',
    )  # fmt: skip
    p.add_argument('--truncation-cutoff', type=int, metavar='N', help='truncate the first N styles only (default: all)')
    p.add_argument(
        '--noise-mode',
        choices=('const', 'random', 'none'),
        help='noise of a StyleGAN2 or MS-PIE (default: const); sample takes it for a CIPS too',
    )


def classes(text: str) -> int | str | list[int] | list[str]:
    """'3' -> 3, 'cat' -> 'cat', '0,1,2' -> [0, 1, 2]"""
    parts = [part.strip() for part in text.split(',')]
    found = [int(part) for part in parts] if all(part.isdecimal() for part in parts) else parts
    return found[0] if len(found) == 1 else found


def add_activation(p: argparse.ArgumentParser) -> None:
    """What a file of CIPS may leave open."""
    p.add_argument(
        '--activation',
        choices=('lrelu', 'sin', 'sinrelu'),
        help='activation of a CIPS, if its file does not tell it',
    )


def add_networks(p: argparse.ArgumentParser) -> Any:
    """Files of feature networks. Returns: their group, to which a command may add options."""
    group = p.add_argument_group('networks')
    group.add_argument(
        '--weights', type=_weights, action='append', default=[], metavar='NAME=FILE',
        help=f'the file of a network: {", ".join(FILES)}',
    )  # fmt: skip
    group.add_argument('--fetch', action='store_true', help='fetch files that are not here from their public addresses')
    group.add_argument(
        '--cache', type=disk, metavar='DIR', default=path(TrainConfig.compilation_cache),
        help='folder for weights and features, on a disk (default ~/.cache/pegan_jax); several processes divide the '
        'work if they share it',
    )  # fmt: skip
    return group


def _weights(text: str) -> tuple[str, pathlib.Path]:
    """'inception=FILE' -> ('inception', FILE)"""
    name, _, file = text.partition('=')
    if name not in FILES or not file:
        known = ', '.join(FILES)
        raise argparse.ArgumentTypeError(f'{text!r}; write NAME=FILE with a name of {known}.')
    return name, source(file)


def load(args: argparse.Namespace) -> sampling.Model:
    """The model of `add_model`."""
    if not exported.is_name(args.model) and not args.model.exists():
        raise UserError(f'--model {args.model} does not exist; give {MODEL}.')
    step = int(args.step) if args.step is not None and re.fullmatch(r'\d+', args.step, re.ASCII) else args.step
    return sampling.load(args.model, step)


def styles(args: argparse.Namespace) -> dict:
    """Those of `add_styles` that `Model.styles` takes."""
    check_cutoff(args)
    return {
        'label': args.label, 'truncation_psi': args.truncation_psi, 'truncation_cutoff': args.truncation_cutoff
    }  # fmt: skip


def check_cutoff(args: argparse.Namespace) -> None:
    """Raises: UserError for a --truncation-cutoff that truncates nothing."""
    if args.truncation_cutoff is not None and args.truncation_psi == 1:
        raise UserError(
            f'--truncation-cutoff {args.truncation_cutoff} says which styles are truncated, and none are; add '
            '--truncation-psi, such as 0.7, or leave it out.'
        )


def read_ws(path: pathlib.Path, model: sampling.Model) -> tuple[sampling.Model, np.ndarray]:
    """The array w [N, num_ws, w_dim] of an .npz file, or that of an .npy file; the model with the file's noise maps.

    Raises: UserError if there is no w, if it holds no image, no real numbers, or numbers that are not finite, or if the
      maps are of another model.
    """
    found = read_arrays(path, '--ws', 'what project wrote')
    if isinstance(found, dict) and 'w' not in found:
        raise UserError(f'--ws {path} has no array w; it has {", ".join(found)}.')
    w = found['w'] if isinstance(found, dict) else found
    if w.dtype.kind not in 'iuf' or w.ndim < 2 or not w.size:
        raise UserError(f'--ws {path} is {w.dtype} {w.shape}; expected real numbers [N, num_ws, w_dim] or [N, w_dim].')
    if not np.isfinite(w).all():
        raise UserError(f'--ws {path} has numbers that are not finite; make the styles again.')
    maps = {name: x for name, x in found.items() if name != 'w'} if isinstance(found, dict) else {}
    return with_maps(model, maps), w


def read_arrays(path: pathlib.Path, option: str, wanted: str) -> dict[str, np.ndarray] | np.ndarray:
    """The arrays of an .npz file, or that of an .npy file. Raises: UserError for other files."""
    try:
        found = np.load(path)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return dict(found)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'{option} {path} is no .npz file of NumPy; give {wanted} ({error}).') from None


def check_used(args: argparse.Namespace, what: str, defaults: Mapping[str, Any], used: Container[str]) -> None:
    """Gives options that are left out their defaults. Raises: UserError for an option that `what` would ignore."""
    for name, default in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif name not in used:
            raise UserError(f'{what} does not take --{name.replace("_", "-")}; leave it out.')


def at_least_one(args: argparse.Namespace, *names: str) -> None:
    """Raises: ValueError unless these numbers are positive."""
    for name in names:
        if getattr(args, name) < 1:
            raise UserError(f'--{name.replace("_", "-")} {getattr(args, name)} must be at least 1.')


def write_picture(out: Path, image: np.ndarray) -> None:
    """Writes uint8 pixels [H, W, C] as a file of the suffix's format."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as unfinished:
        as_image(image).save(unfinished, Image.registered_extensions()[out.suffix.lower()])


def check_picture(out: Path, channels: int) -> None:
    """Raises: UserError unless Pillow writes images with this number of channels in the suffix's format."""
    check_file(out)
    Image.init()
    kind = Image.EXTENSION.get(out.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f'--out {out}: no picture is written as {out.suffix!r}; use .png.')
    try:
        as_image(np.zeros((8, 8, channels), np.uint8)).save(io.BytesIO(), kind)
    except (OSError, ValueError) as error:
        raise UserError(f'--out {out}: images of the model have {channels} channels; use .png ({error}).') from None
