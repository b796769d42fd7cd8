"""A model as a file of safetensors, with its configuration."""

import os
import re

import numpy as np
from safetensors.numpy import save

from pegan_jax import interop
from pegan_jax.config import to_json
from pegan_jax.files import Path, as_path, check_file, whole
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError
from pegan_jax.train import exported
from pegan_jax.train.workdir import CONFIG

OFFICIAL = 'g_ema.safetensors'  # in a folder, which may hold an exported model too


def export(model: Model, out: str | os.PathLike, *, dtype: str = 'float32') -> Path:
    """Writes what sampling needs of a model, which `load`, `train.init_from` and --model take.

    Args:
      out: a file that ends in .safetensors; or a folder, which gets model.safetensors and, to read and to train with,
        config.json. What export wrote there before is replaced.
      dtype: 'float32'; 'float16' or 'bfloat16' for half of the bytes.
    Returns: the file.
    Raises: UserError for the folder of a run, a name with another suffix, and as `exported.write`.
    """
    file = file_of(out, exported.FILE)
    meta = {'step': model.step, 'images': model.images, 'classes': list(model.classes), 'imported': model.imported}
    exported.write(file, model.config, model.variables, meta, dtype)
    if file != as_path(out):
        with whole(file.with_name(CONFIG)) as unfinished:
            unfinished.write_text(to_json(exported.without_paths(model.config)))
    return file


def export_official(model: Model, out: str | os.PathLike) -> Path:
    """Writes the generator under the names of the program that published its system, as safetensors.

    In torch: generator.load_state_dict(safetensors.torch.load_file(FILE)); of StyleGAN2, the mean latent_avg is in the
    file too and is taken out first.

    Args: out: a file that ends in .safetensors, or a folder, which gets OFFICIAL.
    Raises: as `interop.official`.
    """
    arrays = interop.official(model.config, model.variables)
    file = file_of(out, OFFICIAL)
    with whole(file) as unfinished:
        unfinished.write_bytes(save({name: np.ascontiguousarray(x) for name, x in arrays.items()}))
    return file


def file_of(out: str | os.PathLike, name: str) -> Path:
    """The file that `out` is, if it has the suffix of `name`; otherwise the one of this name in the folder `out`.

    Folders are made.

    Raises: UserError for the folder of a run, and for a name with the suffix of something else.
    """
    out = as_path(out)
    wanted, found = os.path.splitext(name)[1], out.suffix.lower()
    file = out if found == wanted and not out.is_dir() else out / name
    if (file.parent / 'checkpoints').is_dir() and (file.parent / CONFIG).is_file():
        raise UserError(f'{file.parent} is the folder of a run; choose another place.')
    if out.is_file() and file != out:
        raise UserError(f'{out} is a file; choose a folder, or a file that ends in {wanted}.')
    if found != wanted and re.fullmatch(r'\.[a-z][a-z0-9]+', found) and not out.is_dir():
        other = f', add --format {found[1:]}' if found[1:] in ('safetensors', 'stablehlo') else ''
        raise UserError(
            f'{out}: no {found} is written in this format; write FILE{wanted}{other}, or name a folder without {found}.'
        )
    check_file(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
