"""The command inspect."""

import argparse

import jax

from pegan_jax import config as configs
from pegan_jax import interop
from pegan_jax.cli import options
from pegan_jax.settings import UserError
from pegan_jax.train import exported
from pegan_jax.train.report import layer_table
from pegan_jax.weights import contents

HELP = 'List what a checkpoint of a run or of another program holds.'
EPILOG = ''


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_model(p)
    options.add_activation(p)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if not exported.is_name(args.model) and interop.is_foreign(args.model):
        if args.step is not None:
            raise UserError(f'--step {args.step} goes with the folder of a run; {args.model} is a file. Leave it out.')
        return _inspect_foreign(args)
    if args.activation is not None:
        raise UserError(f'--activation {args.activation} goes with a file of another program; leave it out.')
    model = options.load(args)
    print(f'{model.config.system}, step {model.step}, in {args.model}\n')
    print(configs.to_json(model.config), '\n')
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.variables):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        print(f'{name:60} {leaf.dtype!s:9} {"x".join(map(str, leaf.shape)) or "scalar"}')
    print(f'\n{layer_table(model.gan, model.config, model.variables)}')


def _inspect_foreign(args: argparse.Namespace) -> None:
    tree, part = interop.read(args.model)
    try:
        importer, problem = interop.importer_of(tree), None
    except contents.ForeignFileError as error:
        importer, problem = contents, error
    found = importer.arrays(tree)
    for name, array in found.items():
        print(f'{contents.shown(name):60} {array.dtype!s:9} {"x".join(map(str, array.shape)) or "scalar"}')
    for name, record in contents.records(tree).items():
        settings = ', '.join(f'{contents.shown(key)}={contents.shown(value)}' for key, value in record.items())
        print(f'{contents.shown(name)} ({contents.shown(record.class_name)}): {settings or "no attributes"}')
    print(f'{sum(x.size for x in found.values()):,} numbers in {len(found)} arrays\n')
    try:
        if problem:
            raise problem
        config, inferred = interop.infer(tree, part, activation=args.activation)
        print(interop.described(config.system, inferred, importer.LICENCE))
    except contents.ForeignFileError as error:
        print(f'{args.model} cannot be converted as it is: {error}')
