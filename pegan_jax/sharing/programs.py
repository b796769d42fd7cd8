"""The sampling of a model as a program of StableHLO, parameters inside: JAX alone runs it, without this library."""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from pegan_jax import ops
from pegan_jax.files import Path, whole
from pegan_jax.gan import Completer, per_layer
from pegan_jax.layers import truncate
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError
from pegan_jax.sharing.models import file_of
from pegan_jax.train.report import abstract_inputs

FILE = 'model.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


class Program(NamedTuple):
    """A written program: its file, and what `call` takes, by name and shape, N being free."""

    file: Path
    arguments: dict[str, str]


def export_program(
    model: Model, out: str | os.PathLike, *, platforms: Sequence[str] = ('cpu', 'cuda', 'tpu'), noise: str | None = None
) -> Program:
    """Writes the program that makes images of latents; of a system that completes images, of images and masks.

    It is called with as many images as one likes, of the size of training, and gives [N, H, W, C], nominally in
    [-1, 1], as `sample` does: jax.export.deserialize(open(FILE, 'rb').read()).call(z, truncation_psi).

    Args:
      out: a file that ends in .stablehlo, or a folder, which gets model.stablehlo.
      platforms: where the program can run, of PLATFORMS.
      noise: 'const' (default) or 'none', of systems with noise.
    Raises: UserError for another platform or noise, and a name with another suffix.
    """
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        raise UserError(f'platforms has {unknown[0]!r}; there are {", ".join(PLATFORMS)}.')
    if not platforms:
        raise UserError(f'platforms is empty; name some of {", ".join(PLATFORMS)}.')
    completes = isinstance(model.gan.sampler, Completer)
    if noise not in (None, 'const', 'none'):
        raise UserError(f"noise={noise!r}; a program has 'const' or 'none'.")
    if noise is not None and (completes or 'noise' not in model.sampler.options):
        raise UserError(f'noise={noise!r}: {model.config.system} has no noise of its own; leave it out.')
    file = file_of(out, FILE)
    function, arguments = _completion(model) if completes else _sampling(model, noise)
    # The forms that a CPU takes of convolutions follow from the number of images, which is not known here.
    with ops.for_platform('gpu'):
        content = export.export(jax.jit(function), platforms=platforms)(*arguments.values()).serialize()
    with whole(file) as unfinished:
        unfinished.write_bytes(content)
    return Program(file, {name: _shape(found) for name, found in arguments.items()})


def _sampling(model: Model, noise: str | None) -> tuple[Any, dict[str, Any]]:
    sampler, c_dim, variables = model.sampler, model.gan.c_dim, _constants(model)
    options = {} if noise is None else {'noise': noise}
    free, z = _free(), sampler.draw([0])
    arguments = {'z': jax.ShapeDtypeStruct((free, *z.shape[1:]), z.dtype)}
    if c_dim:
        arguments['label'] = jax.ShapeDtypeStruct((free, c_dim), 'float32')
    if sampler.w_avg is not None:
        arguments['truncation_psi'] = jax.ShapeDtypeStruct((), 'float32')

    def run(*values: jax.Array) -> jax.Array:
        given = dict(zip(arguments, values, strict=True))
        w = given['z'] if sampler.map is None else sampler.map(variables, given['z'], given.get('label'))
        if 'truncation_psi' in given:
            w = truncate(w, sampler.w_avg(variables), given['truncation_psi'])
        return sampler.synthesise(variables, per_layer(sampler, w), **options)

    return run, arguments


def _completion(model: Model) -> tuple[Any, dict[str, Any]]:
    inputs, free = abstract_inputs(model.gan, model.config, 1), _free()
    shapes = {name: jax.ShapeDtypeStruct((free, *x.shape[1:]), x.dtype) for name, x in inputs.items()}
    variables = _constants(model)

    def one(inputs: dict) -> jax.Array:
        return model.completer.complete(variables, jax.tree.map(lambda x: x[None], inputs))[0]

    # One after the other: how attention is divided follows from the number of images, which is not known here.
    return functools.partial(jax.lax.map, one), {'inputs': shapes}


def _constants(model: Model) -> dict:
    return jax.tree.map(jnp.asarray, model.variables)


def _free() -> Any:
    return export.symbolic_shape('N')[0]


def _shape(found: Any) -> str:
    """'float32 [N, 512]'; of a dictionary, of all that is in it."""
    if isinstance(found, dict):
        return '{' + ', '.join(f'{name!r}: {_shape(x)}' for name, x in found.items()) + '}'
    return f'{found.dtype} [{", ".join(map(str, found.shape))}]'
