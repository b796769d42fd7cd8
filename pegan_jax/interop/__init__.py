"""Import of checkpoints that other programs wrote."""

import contextlib
import inspect
import json
import os
import pathlib
import tempfile
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pegan_jax import hub
from pegan_jax.config import Config, to_dict, to_json
from pegan_jax.files import Path, as_path, in_bucket, remove
from pegan_jax.interop import cips, deepfill, mmgen, mmgen_early, nvidia, singan, singan_original, stylegan2
from pegan_jax.interop.imported import Imported
from pegan_jax.settings import UserError
from pegan_jax.train import exported
from pegan_jax.train.checkpoint import Checkpoints, load_sampling, split_state
from pegan_jax.train.workdir import IMPORTED
from pegan_jax.weights import contents, kinds, reader, tensor_bundle

IMPORTERS = (nvidia, singan_original, singan, mmgen, mmgen_early, deepfill, stylegan2, cips)
# Names under which people save a generator again: its running mean comes before the network that was trained.
EMA = ('params_ema', 'g_ema', 'G_ema', 'generator_ema', 'netG_ema', 'model_ema', 'state_dict_ema', 'ema')
PLAIN = ('state_dict', 'model', 'generator', 'params', 'netG')
# What is taken from files that hold more than networks; DeepFill's importer itself says what it leaves out.
USED = dict.fromkeys((singan, mmgen, mmgen_early), ('state_dict', 'meta'))
USED |= {stylegan2: (*stylegan2.NETWORKS, 'latent_avg')}


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    activation: str | None = None,
    noises: str | pathlib.Path | None = None,
    config: str | None = None,
    colours: str | None = None,
    sampling_only: bool = False,
) -> Config:
    """Converts an official checkpoint into a directory like a run's, which `load` and `train.init_from` take.

    Its imported.json says what was inferred, and the licence note of the source.

    Args:
      source: a torch file of CIPS, zip or legacy: a training checkpoint or a released generator; a network pickle of
        NVIDIA's StyleGAN2 (TensorFlow), StyleGAN2-ADA or StyleGAN3, or of CREPS; a torch file of the port of
        StyleGAN2, or mmgen's SinGAN, StyleGAN2, MS-PIE, PGGAN or DCGAN; the folder of a SinGAN of the original program;
        for DeepFillv2, the official checkpoint (its prefix, one of its files, or the folder), or a torch file of the
        port.
      out: the new directory; it may exist if it is empty. Nothing is left there if the conversion fails.
      activation: 'sin' or 'sinrelu', for CIPS with sines throughout, whose files do not distinguish them.
      noises: for SinGAN, the second file, with the noise of the reconstruction.
      config: for mmgen's StyleGAN2 and MS-PIE, whose files do not tell all, the configuration, such as 'mspie:e'.
      colours: 'rgb' or 'bgr', the order that the weights of a DeepFillv2 file expect, if that is uncertain.
      sampling_only: leave out the discriminator and the optimisers.
    Returns: the inferred configuration.
    Raises: ForeignFileError; ValueError if `out` is not empty.
    """
    source, out = _path(source), as_path(out)
    out = out if in_bucket(out) else out.absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f'{out} exists and is not an empty folder; choose another --out.')
    tree, part = read(source)
    try:
        importer = importer_of(tree)
        noises = None if noises is None else reader.read(noises)
        options = _options(importer, activation=activation, noises=noises, config=config, colours=colours)
        with _odd_files_refused():
            imported = importer.load(tree, sampling_only=sampling_only, **options)
        imported = imported._replace(inferred=imported.inferred | _taken(importer, tree, part))
    except contents.ForeignFileError as error:
        raise contents.ForeignFileError(f'{source}: {error}') from None
    out.parent.mkdir(parents=True, exist_ok=True)
    # In a bucket nothing can be renamed: config.json, written last, says that all is there.
    unfinished = out if in_bucket(out) else pathlib.Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    try:
        _write(imported, source, importer.LICENCE, unfinished)
        if unfinished != out:
            unfinished.chmod(0o755)
            unfinished.rename(out)
    except BaseException:
        remove(unfinished)
        raise
    return imported.config


def official(config: Config, variables: dict) -> dict[str, np.ndarray]:
    """{name: array} of a generator, as in the program that published its system: CIPS, and StyleGAN2's port.

    `convert` turns these arrays into this model again, number by number.

    Raises: UserError for another system, and for settings that the program does not have.
    """
    importer = {'cips': cips, 'stylegan2': stylegan2}.get(config.system)
    if importer is None:
        raise UserError(f'weights of {config.system} are not written for another program; only of cips and stylegan2.')
    arrays = importer.official(config.model, variables)
    again = importer.load(arrays, **({'activation': config.model.activation} if importer is cips else {})).sampling
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(variables))
    return arrays


def is_foreign(path: str | os.PathLike) -> bool:
    """Whether a path names a file of another program, or a checkpoint of it that consists of several files."""
    path = as_path(path)
    if exported.is_own(path):
        return False
    return any((path.is_file(), singan_original.find(path), tensor_bundle.find(path)))


def read(path: str | os.PathLike) -> tuple[Any, tuple[str, ...]]:
    """What a file holds, and the names of the wrappers that it was taken out of.

    It is read by `tensor_bundle.read` (a checkpoint of TensorFlow), `singan_original.read` (a SinGAN's four files) or
    `reader.read` (all others). If networks were saved again, in a wrapper that no program of `IMPORTERS` writes or with
    flattened names, they are returned as in their own program; if there is a generator and its running mean, the latter
    is.
    """
    path = _path(path)
    if folder := singan_original.find(path):
        return singan_original.read(folder), ()
    index = tensor_bundle.find(path)
    tree = reader.read(path) if index is None else tensor_bundle.read(index)
    for part, form in _forms(tree, 2):
        if any(module.recognises(form) for module in IMPORTERS):
            return form, part
    return tree, ()


def _path(path: str | os.PathLike) -> Path:
    if hub.is_address(path):
        name = hub.parse(path).repository
        raise UserError(
            f'{path}: convert takes a file on this machine: download it first, with hf download {name} FILE '
            '--local-dir .'
        )
    return as_path(path)


def _forms(tree: Any, depth: int, part: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A tree, then others with the same networks: unwrapped, with their own names, nested, in the usual wrappers.

    part: names of the wrappers around it, which come with every form.
    """
    if not isinstance(tree, dict) or not tree:
        yield part, tree
        return
    mean = next((name for name in EMA if isinstance(tree.get(name), dict)), None)
    if mean and any(name in tree for name in PLAIN):
        yield (*part, mean), {name: found for name, found in tree.items() if name not in PLAIN}
    yield part, tree
    plain = {name: _without_module(found) for name, found in _without_module(tree).items()}
    if plain.keys() != tree.keys() or any(plain[name] is not tree[name] for name in plain):
        yield from _forms(plain, depth, part)
        return
    nets = {}
    if all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in tree.items()):
        for name, array in tree.items():
            net, _, rest = name.partition('.')
            nets.setdefault(net, {})[rest] = array
        yield from _forms(nets, 0, part)
        yield from ((part, form) for form in ({'state_dict': tree}, {'G': tree}))
    if depth:
        for name in (*EMA, *PLAIN):
            if isinstance(found := (nets or tree).get(name), dict):
                yield from _forms(found, depth - 1, (*part, name))


def _without_module(found: Any) -> Any:
    """A state dict of torch's DataParallel without the prefix of its names; all else as it is."""
    if isinstance(found, dict) and found and all(isinstance(n, str) and n.startswith('module.') for n in found):
        return {name.removeprefix('module.'): array for name, array in found.items()}
    return found


def importer_of(tree: Any) -> types.ModuleType:
    """The module that reads what `read` returned. Raises: ForeignFileError, which says what it seems to be instead."""
    for module in IMPORTERS:
        if module.recognises(tree):
            return module
    found = tree if isinstance(tree, dict) else {}
    arrays = contents.arrays(tree)
    if not arrays:
        names = ', '.join(contents.shown(name) for name in list(found)[:8])
        raise contents.ForeignFileError(f'holds no arrays, so no networks; it holds {names or contents.shown(tree)}.')
    raise contents.ForeignFileError(kinds.program([contents.shown(name) for name in arrays]))


def infer(
    tree: Any,
    part: tuple[str, ...] = (),
    *,
    activation: str | None = None,
    noises: Any = None,
    config: str | None = None,
    colours: str | None = None,
) -> tuple[Config, dict[str, Any]]:
    """The configuration of a checkpoint, and {setting: value} of what it tells. Raises: ForeignFileError."""
    importer = importer_of(tree)
    options = _options(importer, activation=activation, noises=noises, config=config, colours=colours)
    with _odd_files_refused():
        settings, inferred = importer.infer(tree, **options)
    return settings, inferred | _taken(importer, tree, part)


@contextlib.contextmanager
def _odd_files_refused() -> Iterator[None]:
    """Turns what goes wrong in an importer with a damaged or odd file into ForeignFileError; the cause stays in it."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError) as error:
        what = f'{type(error).__name__}: {contents.shown(error)}'
        raise contents.ForeignFileError(f'is damaged, or not what its names say ({what}).') from error


def _taken(importer: types.ModuleType, tree: Any, part: tuple[str, ...]) -> dict[str, str]:
    """'part': the wrapper that is read; 'left_out': what else the file holds, such as the moments of optimisers."""
    used = USED.get(importer, ())
    known = isinstance(tree, dict) and not tree.keys().isdisjoint(used)
    names = [contents.shown(name) for name in tree if name not in used] if known else []
    told = {'left_out': ', '.join(names), 'part': '.'.join(contents.shown(name) for name in part)}
    return {name: text for name, text in told.items() if text}


def described(system: str, inferred: dict[str, Any], licence: str) -> str:
    """What a file tells, as text."""
    lines = [f'  {name} = {value}' for name, value in inferred.items()]
    return '\n'.join([f'{system}, with these settings; what a file does not tell is as published:', *lines, licence])


def _options(importer: types.ModuleType, **options: Any) -> dict[str, Any]:
    """The given options. Raises: ValueError for one that this kind of file does not have."""
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := given.keys() - inspect.signature(importer.infer).parameters.keys():
        kind = importer.__name__.rpartition('.')[2]
        raise UserError(f'--{unknown.pop()} does not apply to this file, which is one of {kind}.')
    return given


def _write(imported: Imported, source: Path, licence: str, folder: Path) -> None:
    origin = {'file': source.name, 'inferred': imported.inferred, 'licence': licence}
    (folder / IMPORTED).write_text(json.dumps(origin, indent=2))
    items = {'sampling': imported.sampling} if imported.state is None else split_state(imported.state)
    checkpoints = Checkpoints(folder / 'checkpoints')
    checkpoints.save_items(0, items, {'config': to_dict(imported.config), 'images': 0})
    checkpoints.close()
    written, *_ = load_sampling(folder / 'checkpoints')  # so that unreadable results are not reported as success
    jax.tree.map(np.testing.assert_array_equal, written, jax.device_get(items['sampling']))
    (folder / 'config.json').write_text(to_json(imported.config))
