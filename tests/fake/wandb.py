"""Stands in for wandb, which brings 60 MB: writes what it is asked for, one JSON line per call, into $WANDB_CALLS."""

import json
import os
import types


class Error(Exception):
    """wandb's own."""


errors = types.SimpleNamespace(Error=Error)


def _note(call, **values):
    with open(os.environ['WANDB_CALLS'], 'a') as file:
        file.write(json.dumps({'call': call, **values}) + '\n')


class Image:
    """The shape of an image is what is kept of it."""

    def __init__(self, array):
        self.shape = list(array.shape)


class _Run:
    def define_metric(self, name, step_metric):
        _note('define_metric', name=name, step_metric=step_metric)

    def log(self, values):
        _note('log', values={k: v.shape if isinstance(v, Image) else v for k, v in values.items()})

    def finish(self, exit_code):
        _note('finish', exit_code=exit_code)


def init(**options):
    """A run, or the error of one who is not logged in."""
    _note('init', **options)
    if os.environ.get('WANDB_MODE') != 'offline':
        raise Error('No API key configured.\n  Use `wandb login` to log in.')
    return _Run()
