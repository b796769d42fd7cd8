"""Checkpoints: Orbax, asynchronous, with checksums that are committed together with the data.

A step's folder holds the items `sampling` (what sampling needs: EMA parameters and G's buffers), `training` (the rest
of the state), `meta` (JSON: configuration, images shown) and `checksums.json`.

On a disk, renaming its folder commits a step. A bucket has no renames: there, the object COMMITTED, written after all
others, commits it. A folder without it does not count, and the next launch removes it.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import math
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers as policies

from pegan_jax.files import Path, below, children, copy_below, for_orbax, in_bucket, move, remove
from pegan_jax.settings import ConfigError, UserError
from pegan_jax.train import exported
from pegan_jax.train.state import TrainState

log = logging.getLogger(__name__)

SUMS = 'checksums.json'
COMMITTED = 'commit_success.txt'  # as Orbax names it in gs://


class CheckpointError(UserError):
    """A checkpoint could not be read or written; the message says which, and why."""


def steps_of(root: Path) -> list[int]:
    """Steps that are committed in a folder of checkpoints, oldest first; none if there is no such folder."""
    found = sorted(int(name) for name in children(root) if name.isdecimal())
    return [step for step in found if not in_bucket(root) or (root / str(step) / COMMITTED).exists()]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while piece := file.read(2**24):
            digest.update(piece)
    return digest.hexdigest()


def _write_sums(root: Path) -> None:
    # Orbax calls this when every item is complete, before it commits the step. So the sums are part of the commit, and
    # a kill at any moment leaves either a whole step with sums or none.
    if jax.process_index() == 0:
        done = {str(step) for step in steps_of(root)}
        for name in children(root):
            if name.isdecimal() and name not in done if in_bucket(root) else name.endswith('.orbax-checkpoint-tmp'):
                # Only the items: Orbax still writes to its own top-level file when it commits.
                files = [file for file in below(root / name) if '/' in file]
                sums = {file: _digest(root / name / file) for file in files}
                (root / name / SUMS).write_text(json.dumps(sums, indent=1))


def verify(step_dir: Path) -> str | None:
    """What is wrong with a step's files, or None. A step without checksums (saved with them off) passes."""
    if not (step_dir / SUMS).is_file():
        return None
    try:
        sums = json.loads((step_dir / SUMS).read_text())
    except ValueError:
        return f'{SUMS} is not readable'
    for name, want in sums.items():
        if not (step_dir / name).is_file():
            return f'{name} is missing'
        if _digest(step_dir / name) != want:
            return f'{name} has changed since it was written'
    return None


def split_state(state: TrainState) -> dict[str, Any]:
    """The items of a checkpoint; every array is there once, except G's parameters if there is no EMA."""
    training = {
        'step': state.step,
        'nimg': state.nimg,
        'params': state.params,
        'd_buffers': state.buffers.get('d', {}),
        'opt': state.opt,
        'stats': state.stats,
    }
    return {'sampling': state.sampling, 'training': training}


def join_state(items: dict[str, Any], has_ema: bool) -> TrainState:
    """Inverse of `split_state`."""
    sampling, training = items['sampling'], dict(items['training'])
    buffers = {'g': sampling['buffers'], 'd': training.pop('d_buffers')}
    return TrainState(
        buffers={net: tree for net, tree in buffers.items() if net in training['params']},
        ema=sampling['params'] if has_ema else None,
        **training,
    )


class _Mirror:
    """A folder on this machine that stands for one in s3://, to which Orbax cannot write: whole steps are uploaded."""

    def __init__(self, root: Path) -> None:
        self._root, self._kept = root, tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._kept.name)
        for step in steps_of(root):
            copy_below(root / str(step), self.folder / str(step))

    def upload(self) -> None:
        """Makes the bucket hold the steps that the folder holds; COMMITTED is written last and removed first."""
        here, there = steps_of(self.folder), steps_of(self._root)
        for step in here:
            if step not in there:
                (self.folder / str(step) / COMMITTED).touch()
                copy_below(self.folder / str(step), self._root / str(step), last=COMMITTED)
        for name in children(self._root):
            if name.isdecimal() and int(name) not in here:
                (self._root / name / COMMITTED).unlink(missing_ok=True)
                remove(self._root / name)


class _Manager(ocp.CheckpointManager):
    """Orbax's, which reads the numbers of all steps at once: a step with damaged ones counts as not measured."""

    def metrics(self, step: int) -> Any:
        try:
            return super().metrics(step)
        except ValueError:
            return None


class Checkpoints:
    """The checkpoints of one run, in `root`.

    Keeps the newest `keep`, and the `keep_best` with the lowest number named `best`, or the highest if `highest`.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: int = 2,
        keep_best: int = 0,
        best: str = 'swd',
        highest: bool = False,
        checksums: bool = True,
    ) -> None:
        self.root = root if in_bucket(root) else root.absolute()
        self._best, self._sign = best, -1 if highest else 1
        self._mirror = None
        if str(root).startswith('s3://'):
            if jax.process_count() > 1:
                raise UserError(f'{root}: several processes save to a common disk or to gs://, not to s3://.')
            self._mirror = _Mirror(root)
        self._uploads, self._upload = concurrent.futures.ThreadPoolExecutor(1), None
        self._folder = self.root if self._mirror is None else self._mirror.folder
        kept = [policies.LatestN(keep)]
        if keep_best:
            # A save without the metric (on an interrupt) is kept only by LatestN.
            kept.append(
                policies.BestN(
                    get_metric_fn=self._rank, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False
                )
            )
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            best_fn=self._rank if keep_best else None,
            best_mode='min',
            cleanup_tmp_directories=True,
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=(lambda: _write_sums(self._folder)) if checksums else None
            ),
        )
        self._manager = _Manager(for_orbax(self._folder), options=self._options)

    def _rank(self, metrics: dict) -> float:
        """Lowest is best; checkpoints of an earlier launch that measured something else come last."""
        return self._sign * metrics[self._best] if self._best in metrics else math.inf

    def steps(self) -> list[int]:
        """Steps on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, meta: dict, metrics: dict | None = None) -> None:
        """Starts saving; returns as soon as the state has been copied off the devices. Every process calls it."""
        if int(state.step) not in self.steps():
            self.save_items(int(state.step), split_state(state), meta, metrics)

    def save_items(self, step: int, items: dict, meta: dict, metrics: dict | None = None) -> None:
        """Starts saving the items of `split_state`, or only 'sampling', which is enough to sample."""
        args = {k: ocp.args.StandardSave(v) for k, v in items.items()}
        if metrics is not None and self._best in metrics:
            metrics = {**metrics, 'rank': self._rank(metrics), 'ranked_by': self._best}
        with self._told():
            self._uploaded()
            self._manager.save(step, metrics=metrics, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args))
            if self._mirror is not None:
                self._upload = self._uploads.submit(self._finish_upload)

    def _finish_upload(self) -> None:
        self._manager.wait_until_finished()
        self._mirror.upload()

    def _uploaded(self) -> None:
        """Waits for what is being uploaded to a bucket."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            upload.result()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what goes wrong inside into a CheckpointError."""
        try:
            yield
        except Exception as error:  # of many types, as below; from the disk, the network, Orbax
            newest = 'none was saved before'
            with contextlib.suppress(Exception):  # the place itself may be gone
                newest = f'the newest whole one is of step {steps_of(self.root)[-1]}'
            raise CheckpointError(
                f'a checkpoint could not be saved in {self.root}: {_line(error)}; {newest}. Once that is in order, the '
                'same command goes on from there.'
            ) from error

    def read_back(self, state: TrainState) -> None:
        """Waits for the step of a state to be saved, reads it, and compares. Raises: CheckpointError."""
        self.wait()
        step, want = int(state.step), split_state(state)
        try:
            items, _ = _load(self.root, step, tuple(want), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), want))
            jax.tree.map(np.testing.assert_array_equal, {name: items[name] for name in want}, jax.device_get(want))
        except (CheckpointError, AssertionError, ValueError, KeyError) as error:
            raise CheckpointError(
                f'the checkpoint of step {step} in {self.root} was written, but cannot be read back: {_line(error)}. '
                'Nothing of this run would be kept; choose another --workdir.'
            ) from error

    def restore(self, template: TrainState) -> tuple[TrainState, dict] | None:
        """The newest state that is intact, and its meta; None if nothing was ever saved.

        Damaged steps are reported and moved to `<root>/../damaged/`, so that training can save those steps again.

        Args:
          template: leaves are jax.ShapeDtypeStruct with the sharding to restore to, on any number of devices.
        Raises: CheckpointError if there are checkpoints and none can be read.
        """
        steps, failures = self.steps(), {}
        for step in reversed(steps):
            reason = verify(self._folder / str(step))
            if reason is None:
                try:
                    args = {k: ocp.args.StandardRestore(v) for k, v in split_state(template).items()}
                    items = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **args))
                except Exception as error:  # Orbax raises bare Exceptions and many others for damaged files.
                    reason = _line(error)
                else:
                    self._set_aside(failures)
                    return join_state(items, template.ema is not None), items['meta']
            failures[step] = reason
            log.warning('checkpoint of step %d cannot be used: %s', step, reason)
        if not steps:
            return None
        tried = '; '.join(f'step {s}: {r}' for s, r in failures.items())
        raise CheckpointError(
            f'none of the checkpoints in {self.root} can be read ({tried}). '
            'Nothing was changed; move the folder away to start anew.'
        )

    def _set_aside(self, failures: dict[int, str]) -> None:
        if not failures:
            return
        self._manager.close()
        if jax.process_index() == 0:
            for step in failures:
                target = self.root.parent / 'damaged' / str(step)
                while target.exists():
                    target = target.with_name(target.name + '_')
                move(self._folder / str(step), target)
                log.warning('moved the damaged checkpoint of step %d to %s', step, target)
            if self._mirror is not None:
                self._mirror.upload()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('pegan_jax_damaged_checkpoints')
        self._manager = _Manager(for_orbax(self._folder), options=self._options)

    def wait(self) -> None:
        """Returns when every save that was started has arrived. Raises: CheckpointError if one failed."""
        with self._told():
            self._manager.wait_until_finished()
            self._uploaded()

    def close(self) -> None:
        """Finishes all saves that were started."""
        try:
            self.wait()
        finally:
            self._uploads.shutdown()
            self._manager.close()


def _line(error: Exception) -> str:
    """A library's error as one short line."""
    return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0][:400]}'


def load_sampling(root: Path, step: int | str | None = None) -> tuple[dict, dict, int]:
    """Reads what sampling needs from a run's checkpoints.

    Args:
      root: folder of `Checkpoints`.
      step: a step, 'best' (by the run's first score, or the lowest 'swd'), or None for the newest.
    Returns: variables {'params', 'buffers'} as NumPy arrays, meta, step.
    Raises: CheckpointError if there is none, or it is damaged.
    """
    items, step = _load(root, step, ('sampling',))
    return items['sampling'], items['meta'], step


def load_networks(root: Path) -> dict[str, dict]:
    """The networks of the newest checkpoint in `root`, as NumPy arrays.

    Returns: 'ema', 'g' and 'g_buffers'; also 'd' and 'd_buffers' unless the checkpoint is for sampling alone; its 'g'
      is the EMA.
    Raises: CheckpointError if there is none, or it is damaged.
    """
    items, _ = _load(root, None, ('sampling', 'training'))
    sampling, training = items['sampling'], items.get('training')
    networks = {'ema': sampling['params'], 'g': sampling['params'], 'g_buffers': sampling['buffers']}
    if training is None:
        return networks
    return networks | {'d_buffers': training['d_buffers'], **training['params']}


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a library's warnings to itself."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load(root: Path, step: int | str | None, names: tuple[str, ...], like: dict | None = None) -> tuple[dict, int]:
    # like: {name: tree of arrays} that is expected; without it, what is there is read onto a device of this process.
    # Every process reads everything for itself: not all need to ask, and there may be more or fewer of them than saved.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'process_{me}'
    )
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda m: math.inf,  # without it, there would be no metrics
        read_only=True,
        create=False,
        save_interval_steps=0,
        multiprocessing_options=alone,
    )
    if not root.is_dir():
        what = 'has no checkpoints' if root.parent.is_dir() else 'does not exist'
        raise CheckpointError(f'{root.parent} {what}; give the --workdir of a run, or what convert made.')
    mirror = _Mirror(root) if str(root).startswith('s3://') else None
    place = for_orbax(root if mirror is None else mirror.folder)
    with _quiet('absl'):  # it warns about every folder that is opened only to be read
        manager = _Manager(place, options=options)
    steps = sorted(manager.all_steps())
    if not steps:
        raise CheckpointError(f'{root.parent} has saved no checkpoint yet; let the run go on to its first one.')
    chosen = {None: steps[-1], 'best': _best(manager, steps)}.get(step, step)
    if chosen not in steps:
        there = f'there are {", ".join(map(str, steps))}'
        if step == 'best':
            raise CheckpointError(
                f'{root.parent} has no best checkpoint, because none was measured (train.keep_best=0); {there}.'
            )
        raise CheckpointError(f'{root.parent} has no checkpoint of step {step}; {there}.')
    folder = place / str(chosen)
    reason = verify(folder)
    if reason is not None:
        raise CheckpointError(f'the checkpoint of step {chosen} in {root} is damaged: {reason}. Others: {steps}.')
    try:
        args = {
            name: ocp.args.StandardRestore(_template(folder / name, alone) if like is None else like[name])
            for name in names
            if (folder / name).is_dir()
        }
        items = manager.restore(chosen, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **args))
    except Exception as error:  # of many types, as above; for a step without sums, or damaged since they were checked
        raise CheckpointError(f'the checkpoint of step {chosen} in {root} cannot be read: {error}') from error
    manager.close()
    return {'meta': items['meta'], **{name: jax.device_get(items[name]) for name in args}}, chosen


def _best(manager: ocp.CheckpointManager, steps: list[int]) -> int | None:
    """The step with the lowest rank among those that were ranked by the same number as the newest."""
    measured = {step: found for step in steps if (found := manager.metrics(step))}
    if not measured:
        return None
    by = measured[max(measured)].get('ranked_by')
    ranks = {s: m.get('rank', m.get('swd', math.inf)) for s, m in measured.items() if m.get('ranked_by') == by}
    return min(ranks, key=ranks.get)


def _template(item: Path, alone: ocp.options.MultiprocessingOptions) -> Any:
    """What StandardRestore takes for the arrays of an item, on a device of this process."""
    found = ocp.StandardCheckpointHandler(multiprocessing_options=alone).metadata(item)
    here = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), found.tree)


def _networks(state: TrainState) -> dict[str, Any]:
    """The trees of a state that `load_networks` names."""
    buffers = {f'{net}_buffers': tree for net, tree in state.buffers.items()}
    return {**state.params, **buffers, **({} if state.ema is None else {'ema': state.ema})}


def read_networks(template: TrainState, init_from: str, partial: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The networks that another run's newest checkpoint has for this model, on the host.

    What is frozen in only one of the runs is in that run's buffers and in the other's parameters, so a network is
    compared as a whole. A state's 'teacher' is that of the other run, or what that run samples with if it has none.

    Args:
      partial: leave out what does not fit; it is None in the result. A teacher must fit as a whole.
    Returns: the networks, and the paths of what was left out.
    Raises: ConfigError for another model, unless `partial` and something fits.
    """

    def leaves(networks: dict[str, Any]) -> dict[str, Any]:
        return {
            _variable(name, path): x for name, tree in networks.items() for path, x in jax.tree.leaves_with_path(tree)
        }

    place = exported.place(init_from)
    file, root = exported.find(place), place / 'checkpoints'
    if file is None and not root.is_dir():
        raise ConfigError(
            f'train.init_from={init_from!r} has no checkpoints; give the --workdir of a run, or what convert or export '
            'made.'
        )
    found = load_networks(root) if file is None else exported.networks(file)
    found.setdefault('teacher', {'params': found['ema'], 'buffers': found['g_buffers']})
    wanted = {name: tree for name, tree in _networks(template).items() if name in found}
    here, there = leaves(wanted), leaves({name: found[name] for name in wanted})
    shapes = [{path: x.shape for path, x in tree.items()} for tree in (here, there)]
    wrong = [path for path in sorted(here.keys() | there.keys()) if shapes[0].get(path) != shapes[1].get(path)]
    if partial and (unfit := [path for path in wrong if path.startswith('teacher/')]):
        raise ConfigError(
            f'train.init_from={init_from!r} cannot be the teacher, of which {len(unfit)} arrays do not fit, such as '
            f'{unfit[0]}: give a model of whole images, of the same size and settings, or set model.teacher_weight=0.'
        )
    if wrong and (not partial or not here.keys() - set(wrong)):
        told = '; '.join(
            f'{path} is {shapes[0].get(path, "not")} here and {shapes[1].get(path, "not")} there' for path in wrong[:3]
        )
        more = f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        way = 'Nothing fits' if partial else 'To take what fits, add --config.train.init_partial=True'
        raise ConfigError(
            f'train.init_from={init_from!r} holds another model than this run, in {len(wrong)} of {len(here)} arrays: '
            f'{told}{more}. {way}.'
        )
    fitting = {path: x for path, x in there.items() if path not in wrong}
    networks = {
        name: jax.tree_util.tree_map_with_path(lambda path, _, name=name: fitting.get(_variable(name, path)), tree)
        for name, tree in wanted.items()
    }
    return networks, [path for path in wrong if path in here]


def _variable(name: str, path: tuple) -> str:
    """'d/b8/conv0/kernel', for both parameters and buffers of the network."""
    return f'{name.removesuffix("_buffers")}/{jax.tree_util.keystr(path, simple=True, separator="/")}'


def with_networks(state: TrainState, networks: dict[str, Any]) -> TrainState:
    """The state with these networks instead of its own; an array that is None there stays as it is."""

    def taken(x: jax.Array, y: np.ndarray | None) -> jax.Array:
        return x if y is None else jax.device_put(np.asarray(y, x.dtype), x.sharding)

    new = {
        name: jax.tree.map(taken, tree, networks[name]) if name in networks else tree
        for name, tree in _networks(state).items()
    }
    return state.replace(
        params={net: new[net] for net in state.params},
        buffers={net: new[f'{net}_buffers'] for net in state.buffers},
        ema=new.get('ema'),
    )
