"""A trained model as one safetensors file: the arrays that sampling needs, by their paths, and a description.

The header holds, as text, the configuration without the paths of the machine that trained it, the step, the images
shown, the names of classes, and for converted weights where they come from, with their licence.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors
from flax import traverse_util
from safetensors.numpy import save

from pegan_jax import config as configs
from pegan_jax import hub
from pegan_jax.config import Config
from pegan_jax.files import Path, as_path, on_disk, whole
from pegan_jax.settings import TrainConfig, UserError
from pegan_jax.train.state import without_files
from pegan_jax.weights import contents, reader, rules
from pegan_jax.weights.contents import ForeignFileError

FILE, OWN, VERSION = 'model.safetensors', 'pegan_jax', '1'
META = {'step': int, 'images': int, 'classes': list, 'imported': dict | None}
SHIPPED = pathlib.Path(__file__).parents[1] / 'shipped'  # models that come with this library, NAME.safetensors
HALVES = {'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}


def find(place: Path) -> Path | None:
    """The file of an exported model: the path itself if it ends in .safetensors, or FILE in a folder; or None."""
    if place.suffix.lower() == '.safetensors' and place.is_file():
        return place
    return place / FILE if place.is_dir() and (place / FILE).is_file() else None


def shipped(name: str | os.PathLike) -> pathlib.Path | None:
    """The file of a model that comes with this library, by its name; None if a file or folder has the name."""
    file = SHIPPED / f'{os.fspath(name)}.safetensors'
    return file if file.parent == SHIPPED and file.is_file() and not os.path.lexists(name) else None


def is_name(model: str | os.PathLike) -> bool:
    """Whether a model is named by an address on the hub, or as one that ships, and not by a path."""
    return hub.is_address(model) or shipped(model) is not None


def place(path: str | os.PathLike) -> Path:
    """Where the model is that a user names by a path, by the name of one that ships, or by an address on the hub.

    A file on the hub is fetched.
    """
    return hub.fetch(path, FILE) if hub.is_address(path) else shipped(path) or as_path(path)


def is_own(path: Path) -> bool:
    """Whether `find` finds a file here that claims to be written by `write`."""
    try:
        return (file := find(path)) is not None and OWN in _header(file)
    except safetensors.SafetensorError:
        return False


def _header(file: Path) -> dict[str, str]:
    with safetensors.safe_open(on_disk(file), 'np') as opened:
        return opened.metadata() or {}


def without_paths(config: Config) -> Config:
    """The configuration without what is private to a machine: only the last name of paths stays."""

    def last(path: str | None) -> str | None:
        return path and (path.rstrip('/').rpartition('/')[2] or path)

    data, model, train = config.data, config.model, config.train
    texts = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    model = dataclasses.replace(model, **{name: last(x) for name, x in texts.items() if isinstance(x, str)})
    data = dataclasses.replace(data, folder=last(data.folder), image=last(data.image), data_dir=None)
    cache = TrainConfig.compilation_cache
    train = dataclasses.replace(train, init_from=last(train.init_from), compilation_cache=cache)
    return dataclasses.replace(config, data=data, model=model, train=train)


def write(path: Path, config: Config, variables: dict, meta: dict[str, Any], dtype: str = 'float32') -> None:
    """Writes `path`, whole or not at all.

    Args:
      variables: {'params', 'buffers'} of the generator, float32.
      meta: JSON: 'step', 'images', 'classes' and 'imported'.
      dtype: 'float32', or one of HALVES with half of the bytes: `read` returns float32 again, rounded. Single numbers
        stay as they are.
    Raises: UserError for a number that float16 cannot hold.
    """
    flat = traverse_util.flatten_dict(jax.device_get(variables), keep_empty_nodes=True, sep='/')
    empty = [name for name, x in flat.items() if x is traverse_util.empty_node]
    arrays = {name: np.asarray(x) for name, x in flat.items() if name not in empty}
    if dtype in HALVES:
        for name, x in arrays.items():
            if x.dtype == np.float32 and x.ndim:
                with np.errstate(over='ignore'):
                    arrays[name] = x.astype(HALVES[dtype])
                if not np.all(np.isfinite(arrays[name].astype(np.float32))):
                    raise UserError(f'{name} holds {np.abs(x).max():.3g}, too large for float16; use bfloat16.')
    told = {'config': configs.to_dict(without_paths(config)), 'empty': empty, **meta}
    header = {OWN: VERSION, **{name: json.dumps(value) for name, value in told.items()}}
    content = save({name: np.ascontiguousarray(x).reshape(x.shape) for name, x in arrays.items()}, header)
    with whole(path) as unfinished:
        unfinished.write_bytes(content)


def read(path: Path) -> tuple[Config, dict, dict[str, Any]]:
    """What `write` wrote: configuration, variables as float32 NumPy arrays, meta.

    Raises: ForeignFileError for another file, a damaged one, and arrays that are not those of the configuration's
      model. Shapes are not compared for a model of one image, because only that image tells them.
    """
    arrays = reader.read(path)
    try:
        header = _header(path)
        if OWN not in header:
            raise ForeignFileError(
                f'is not a model that export wrote; if it is of another program, convert {path} --out DIR makes a '
                'model of it.'
            )
        if header[OWN] != VERSION:
            raise ForeignFileError('was written by another version of this library; update it, or export again.')
        meta = {name: json.loads(header[name]) for name in ('config', 'empty', *META)}
        contents.check_settings(meta['config']['model'])
        contents.check_settings({'resolution': meta['config'].get('data', {}).get('resolution')})
        config = configs.from_dict(meta.pop('config'))
        empty = {name: traverse_util.empty_node for name in meta.pop('empty')}
        wrong = [name for name, kind in META.items() if not isinstance(meta[name], kind)]
        if wrong or not all(isinstance(name, str) for name in meta['classes']):
            raise ForeignFileError(f'has a header in which {(wrong or ["classes"])[0]} is something else.')
        variables = traverse_util.unflatten_dict({**arrays, **empty}, sep='/')
        if config.data.image is None:
            params, buffers, _ = _shapes(config)
            as_it_is = rules.Rule('(.+)', lambda name: name, np.asarray)
            variables = rules.apply(arrays, [as_it_is], {'params': params['g'], 'buffers': buffers['g']})
    except ForeignFileError as error:
        raise ForeignFileError(f'{path} {error}') from None
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ForeignFileError(f'{path} does not describe a model of this library: {contents.shown(error)}.') from None
    halves = tuple(HALVES.values())
    return config, jax.tree.map(lambda x: x.astype(np.float32) if x.dtype in halves else x, variables), meta


def _shapes(config: Config) -> tuple[dict, dict, dict]:
    """What `GAN.init` returns, without computing it. No file that training needs is opened."""
    return jax.eval_shape(configs.system_module(config.system).build(without_files(config)).init, jax.random.key(0))


def networks(path: Path) -> dict[str, dict]:
    """Like `checkpoint.load_networks`, for a file that `write` wrote."""
    _, variables, _ = read(path)
    return {'ema': variables['params'], 'g': variables['params'], 'g_buffers': variables['buffers']}
