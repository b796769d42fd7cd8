"""A run's folder: one process writes in it at a time, it holds one model, and records what that was trained on."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import filelock
import jax

from pegan_jax import config as configs
from pegan_jax.config import Config, ConfigError
from pegan_jax.data.sources import Contents
from pegan_jax.files import Path, in_bucket, whole
from pegan_jax.settings import UserError
from pegan_jax.train.checkpoint import steps_of
from pegan_jax.train.state import create_state, without_files

log = logging.getLogger(__name__)

CONFIG, DATA, IMPORTED = 'config.json', 'data.json', 'imported.json'


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes the folder, and keeps other runs out of it. The lock of a process that has died does not count.

    Nothing can be locked in a bucket: there, a warning reports a run that has not ended properly.

    Raises: UserError, which names the process that is at work there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    owner, lock = workdir / '.lock.json', None
    if in_bucket(workdir):
        if owner.exists():
            log.warning('%s was last used by %s, which did not end by itself. If it still runs, stop it: runs in '
                        'buckets cannot keep each other out.', workdir, _owner(owner))  # fmt: skip
    else:
        lock = filelock.FileLock(workdir / '.lock')
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f'{workdir} is in use by {_owner(owner)}: wait for it, stop it, or choose another --workdir.'
            ) from None
    try:
        who = {'process': os.getpid(), 'host': socket.gethostname(), 'since': time.strftime('%Y-%m-%d %H:%M:%S')}
        owner.write_text(json.dumps(who))
        yield
    finally:
        owner.unlink(missing_ok=True)
        if lock is not None:
            lock.release()


def _owner(file: Path) -> str:
    """Who uses a workdir."""
    try:
        by = json.loads(file.read_text())
        return f'process {by["process"]} on {by["host"]}, since {by["since"]}'
    except (OSError, ValueError, KeyError):  # it is just being written, or removed
        return 'another process'


def check_config(workdir: Path, config: Config) -> None:
    """A workdir holds one model; settings that do not change what it is may change between launches, and are reported.

    Fields that the version of its first launch did not have take their defaults.

    Raises: ConfigError for another model, or another image that a run of a single image learns.
    """
    if not (workdir / CONFIG).is_file() or not steps_of(workdir / 'checkpoints'):
        return
    try:
        launched = configs.from_json((workdir / CONFIG).read_text())
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f'{workdir / CONFIG} is damaged ({error}), so nothing tells which model the checkpoints are of; delete it, '
            'and launch the run with its own configuration.'
        ) from None
    old, new = (json.loads(configs.to_json(c)) for c in (launched, config))
    changes = {'system': (old['system'], new['system'])} if old['system'] != new['system'] else {}
    for section in ('model', 'data', 'optim', 'train'):
        before, after = old[section], new[section]
        names = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        changes |= {f'{section}.{k}': (before.get(k), after.get(k)) for k in names}
    training = {f'model.{name}' for name in configs.system_module(config.system).TRAINING_FIELDS}
    refused = {k: v for k, v in changes.items() if k == 'system' or (k.startswith('model.') and k not in training)}
    # What both are trained on may have moved since, and makes no difference here.
    moved = dataclasses.replace(launched, data=config.data)
    if not refused and changes.keys() & training and _shapes(moved) != _shapes(config):
        refused = {k: v for k, v in changes.items() if k in training}
    if refused:
        told = '; '.join(f'{k}: {before} -> {after}' for k, (before, after) in refused.items())
        raise ConfigError(
            f'{workdir} holds a run of another model ({told}). Choose another --workdir; --config.train.init_from='
            f'{workdir} --config.train.init_partial=True begins there with the networks of this one, where they fit.'
        )
    for name, (before, after) in changes.items():
        log.warning('resuming with a changed %s: %s -> %s', name, before, after)


def _shapes(config: Config) -> Any:
    """Paths, shapes and types of a run's state, without computing it."""
    gan = configs.system_module(config.system).build(without_files(config))
    state = jax.eval_shape(functools.partial(create_state, gan, config.train.seed))
    return [(jax.tree_util.keystr(path), x.shape, x.dtype) for path, x in jax.tree.leaves_with_path(state)]


def check_data(workdir: Path, contents: Contents) -> list[str]:
    """What has changed in the data since the last launch, as lines.

    Raises: ConfigError if the run has begun to learn another single image.
    """
    try:
        before = Contents(**json.loads((workdir / DATA).read_text()))
    except (OSError, ValueError, TypeError):  # there is none, it is of another version, or damaged
        return []
    if before.files is None or contents.files is None or before.files == contents.files:
        return []
    if before.single and contents.single:
        if [*before.files.values()] != [*contents.files.values()] and steps_of(workdir / 'checkpoints'):
            raise ConfigError(
                f'{workdir} has learned {before.root}, and data.image={contents.root!r} is another image. A run of one '
                'image is this image: choose another --workdir for the new one.'
            )
        return []
    old, new = before.files, contents.files
    kinds = {
        'added': [n for n in new if n not in old],
        'gone': [n for n in old if n not in new],
        'changed': [n for n in new if n in old and new[n] != old[n]],
    }
    told = [f'{len(names)} {kind}, such as {names[0]}' for kind, names in kinds.items() if names]
    return [f'the data have changed since the last launch: {"; ".join(told)}']


def write(workdir: Path, config: Config, contents: Contents) -> None:
    """Writes config.json, and data.json: what the run is trained on."""
    for name, text in ((CONFIG, configs.to_json(config)), (DATA, json.dumps(contents._asdict()))):
        with whole(workdir / name) as unfinished:
            unfinished.write_text(text)


def check_there(workdir: Path) -> None:
    """Raises: UserError for a folder that was taken away while the run used it."""
    if not (workdir / CONFIG).is_file():
        raise UserError(
            f'{workdir} was deleted or moved while the run used it: nothing more can be saved there, and what was '
            'trained since the last checkpoint is lost.'
        )


def read_classes(workdir: Path) -> tuple[str, ...]:
    """The names of the classes that a run was trained with, in order; none if they have no names."""
    try:
        return tuple(json.loads((workdir / DATA).read_text())['classes'])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def read_imported(workdir: Path) -> dict | None:
    """Where converted weights come from, {'file', 'inferred', 'licence'}; None if nothing says so."""
    try:
        return dict(json.loads((workdir / IMPORTED).read_text()))
    except (OSError, ValueError, TypeError):
        return None
