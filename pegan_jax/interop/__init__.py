"""Import of checkpoints that other programs wrote."""

import inspect
import json
import pathlib
import shutil
import tempfile
import types
from typing import Any

from pegan_jax.config import Config, to_dict, to_json
from pegan_jax.interop import cips, deepfill, mmgen, mmgen_early, nvidia, singan
from pegan_jax.interop.imported import Imported
from pegan_jax.settings import UserError
from pegan_jax.train.checkpoint import Checkpoints, split_state
from pegan_jax.weights import reader, tensor_bundle


def convert(
    source: str | pathlib.Path,
    out: str | pathlib.Path,
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
        NVIDIA's StyleGAN2-ADA or StyleGAN3; a torch file of mmgen's SinGAN, StyleGAN2, MS-PIE, PGGAN or DCGAN; of
        DeepFillv2 the official checkpoint (its prefix, one of its files, or the folder), or a torch file of the port.
      out: the new directory; it may exist if it is empty. Nothing is left there if the conversion fails.
      activation: 'sin' or 'sinrelu', for CIPS with sines throughout, whose files do not tell these apart.
      noises: for SinGAN, the second file, with the noise of the reconstruction.
      config: for mmgen's StyleGAN2 and MS-PIE, whose files do not tell all, the configuration, such as 'mspie:e'.
      colours: 'rgb' or 'bgr', the order that the weights of a DeepFillv2 file expect, where that is not certain.
      sampling_only: leave out the discriminator and the optimisers.
    Returns: the inferred configuration.
    Raises: ForeignFileError; ValueError if `out` holds something.
    """
    source, out = pathlib.Path(source), pathlib.Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f'{out} exists and is not an empty folder; choose another --out.')
    tree = read(source)
    try:
        importer = importer_of(tree)
        noises = None if noises is None else reader.read(noises)
        options = _options(importer, activation=activation, noises=noises, config=config, colours=colours)
        imported = importer.load(tree, sampling_only=sampling_only, **options)
    except reader.ForeignFileError as error:
        raise reader.ForeignFileError(f'{source}: {error}') from None
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    try:
        _write(imported, source, importer.LICENCE, temporary)
        temporary.chmod(0o755)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return imported.config


def is_foreign(path: str | pathlib.Path) -> bool:
    """Whether a path names a file of another program, or a checkpoint of TensorFlow, which is several files."""
    return pathlib.Path(path).is_file() or tensor_bundle.find(path) is not None


def read(path: str | pathlib.Path) -> Any:
    """What a file holds: `tensor_bundle.read` of a checkpoint of TensorFlow, `reader.read` of all others."""
    index = tensor_bundle.find(path)
    return reader.read(path) if index is None else tensor_bundle.read(index)


def importer_of(tree: Any) -> types.ModuleType:
    """The module that reads what `read` gave; `cips`, which says what is missing, for what none recognises."""
    modules = (nvidia, singan, mmgen, mmgen_early, deepfill)
    return next((module for module in modules if module.recognises(tree)), cips)


def infer(
    tree: Any,
    *,
    activation: str | None = None,
    noises: Any = None,
    config: str | None = None,
    colours: str | None = None,
) -> tuple[Config, dict[str, Any]]:
    """The configuration that a checkpoint describes, and {setting: value} of what it tells; or ForeignFileError."""
    importer = importer_of(tree)
    options = _options(importer, activation=activation, noises=noises, config=config, colours=colours)
    return importer.infer(tree, **options)


def described(system: str, inferred: dict[str, Any], licence: str) -> str:
    """What a file tells, as text."""
    lines = [f'  {name} = {value}' for name, value in inferred.items()]
    return '\n'.join([f'{system}, with these settings; what a file does not tell is as published:', *lines, licence])


def _options(importer: types.ModuleType, **options: Any) -> dict[str, Any]:
    """Those that were given. Raises: ValueError for one that this kind of file does not have."""
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := given.keys() - inspect.signature(importer.infer).parameters.keys():
        kind = importer.__name__.rpartition('.')[2]
        raise UserError(f'--{unknown.pop()} does not apply to this file, which is one of {kind}.')
    return given


def _write(imported: Imported, source: pathlib.Path, licence: str, folder: pathlib.Path) -> None:
    (folder / 'config.json').write_text(to_json(imported.config))
    origin = {'file': source.name, 'inferred': imported.inferred, 'licence': licence}
    (folder / 'imported.json').write_text(json.dumps(origin, indent=2))
    items = {'sampling': imported.sampling} if imported.state is None else split_state(imported.state)
    checkpoints = Checkpoints(folder / 'checkpoints')
    checkpoints.save_items(0, items, {'config': to_dict(imported.config), 'images': 0})
    checkpoints.close()
