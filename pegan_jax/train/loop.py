"""The training loop: data, step, log, sample, save, stop."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pegan_jax import config as configs
from pegan_jax.config import Config
from pegan_jax.data import pipeline
from pegan_jax.files import Path, as_path
from pegan_jax.gan import GAN
from pegan_jax.processes import StopSignal, agree, together
from pegan_jax.settings import TrainConfig
from pegan_jax.train.checkpoint import Checkpoints, read_networks, with_networks
from pegan_jax.train.feed import Feed
from pegan_jax.train.log import RunLog, check_logger
from pegan_jax.train.metrics import Metrics
from pegan_jax.train.pictures import Pictures
from pegan_jax.train.programs import Programs
from pegan_jax.train.scores import RunScores
from pegan_jax.train.state import TrainState, create_state
from pegan_jax.train.step import data_mesh, persistent_cache, place_batch, replicated_state, step_options
from pegan_jax.train.workdir import check_config, check_data, check_there, locked, write


def run(config: Config, workdir: str | os.PathLike) -> TrainState:
    """Trains to `config.train.total_kimg`; a second call with the same workdir resumes where the first one stopped.

    Writes only in workdir: config.json, data.json, checkpoints/, samples/, tensorboard/, metrics.jsonl (and a lock,
    checked_images.json for images in files, tfds/ for 'worlds', scores/ with train.metrics, wandb/ and wandb_id with
    train.logger='wandb', damaged/ for checkpoints that cannot be read); and compiled programs in
    train.compilation_cache. What can be computed again stays in ~/.cache/pegan_jax if the workdir is in a bucket.
    SIGTERM, or SIGINT on one process, saves and returns, if the main thread calls this. On several processes, every
    process calls it after jax.distributed.initialize, with the same arguments and a workdir that all of them see.

    Raises: ConfigError or ValueError for what cannot run; CheckpointError; NonFiniteError.
    """
    workdir, train, mesh = as_path(workdir), config.train, data_mesh()
    agree({**configs.to_dict(config), 'workdir': str(workdir), 'jax': jax.__version__})
    step_options(train, mesh)  # before anything is computed
    together(lambda: check_logger(train.logger), first_only=True)
    persistent_cache(train.compilation_cache)
    gan = configs.system_module(config.system).build(config)
    # These may read files: before anything is written.
    own_steps = None if gan.num_steps is None else gan.num_steps()
    if gan.rows is not None:
        agree(together(lambda: _digests(gan.rows(train.seed, range(64)))))
    with contextlib.ExitStack() as stack:
        together(lambda: stack.enter_context(locked(workdir)), first_only=True)
        together(lambda: check_config(workdir, config), first_only=True)
        source = _open_data(config, gan.c_dim, workdir)
        contents = source.contents()
        agree({'data': contents.identity()})
        changes = together(lambda: check_data(workdir, contents), first_only=True)
        run_scores = together(lambda: RunScores(gan, config, workdir)) if train.metrics else None
        kept = {'keep': train.keep, 'keep_best': train.keep_best, 'checksums': train.checksums}
        if run_scores is not None:
            kept |= {'best': run_scores.best, 'highest': run_scores.highest}
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir / 'checkpoints', **kept)))
        start = _start(gan, config, mesh, checkpoints)
        step, nimg, lines = start.step, start.nimg, start.lines
        # Images count, not steps: those of earlier launches may have had other batches.
        total_steps = step + train.steps_for(train.total_images - nimg) if own_steps is None else own_steps
        together(lambda: write(workdir, config, contents), first_only=True)
        # A run's pictures and scores are of the frame, whatever windows training sees.
        frame = dataclasses.replace(config.data, frame_share=1.0)
        data, frames = (
            functools.partial(pipeline.batches, source, seen, seed=train.seed) for seen in (config.data, frame)
        )
        data = stack.enter_context(
            contextlib.closing(
                data(
                    batch_size=train.batch_size,
                    start_image=nimg,
                    process_index=jax.process_index(),
                    process_count=jax.process_count(),
                )
            )
        )
        main = jax.process_index() == 0
        total_images = nimg + (total_steps - step) * train.batch_size
        runlog = together(lambda: RunLog(workdir, config, total_images, nimg, main))
        stack.enter_context(contextlib.closing(runlog))
        place = functools.partial(place_batch, backend=train.backend, mesh=mesh)
        feed, running = stack.enter_context(contextlib.closing(Feed(_with_rows(gan, train, data, nimg), place))), []
        metrics, pictures = Metrics(checkpoints, runlog, feed, train.batch_size), Pictures(gan, config, frames)
        programs = stack.enter_context(contextlib.closing(Programs(gan, train, mesh, announce=metrics.paused)))
        if own_steps is not None and train.total_kimg != TrainConfig.total_kimg:
            lines.append(
                f'train.total_kimg={train.total_kimg} does nothing: {config.system} trains {own_steps:,} steps, as '
                'its section model says, such as model.iters_per_scale'
            )
        for line in (contents.told(), *(changes or ()), *lines):
            runlog.say(line)
        if step < total_steps and jax.process_count() == 1:
            first = programs.key(gan.stage_at(step, nimg, train.seed), step, nimg, total_steps)
            programs.begin(first, start.shapes, feed.coming(first[-1]))
        state, launched = start.state(), start.config
        del start  # what the state was made of takes memory
        if train.sample_every and step == 0:
            with metrics.paused():
                for name, picture in pictures.start():
                    runlog.image(name, 0, picture)
                runlog.image('samples_00000000', 0, pictures.grid(state))

        def save(measure: bool) -> None:
            nonlocal proven
            metrics.flush()
            with metrics.paused():
                together(lambda: check_there(workdir), first_only=True)
                metrics.check_parameters(state, step)
                scores, meta = {}, {'config': configs.to_dict(config), 'images': nimg}
                try:
                    if measure and train.keep_best:
                        scores['swd'] = together(lambda: pictures.distance(state))
                    if measure and run_scores is not None:
                        scores |= run_scores(state)
                except Exception:  # whatever it is, the steps since the last checkpoint are kept
                    checkpoints.save(state, meta)
                    checkpoints.wait()
                    raise
                if scores:
                    runlog.scalars(step, nimg, scores)
                checkpoints.save(state, meta, scores or None)
                if not proven:
                    checkpoints.wait()
                    together(lambda: checkpoints.read_back(state), first_only=True)
                    proven = True
                runlog.upload()

        def due(every: int) -> bool:
            return every > 0 and step % every == 0

        proven = False  # whether what this launch saves can be read
        stage = gan.stage_at(step - 1, nimg - launched.train.batch_size, train.seed) if step else None
        if gan.enter is not None:
            with metrics.paused():
                state = gan.enter(state, None, stage or gan.stage_at(step, nimg, train.seed))
        stop = stack.enter_context(StopSignal())
        while step < total_steps:
            old, stage = stage, gan.stage_at(step, nimg, train.seed)
            if gan.enter is not None and old not in (None, stage):
                with metrics.paused():
                    state = gan.enter(state, old, stage)
            program = programs.key(stage, step, nimg, total_steps)
            count = program[-1]
            try:
                batches = feed.take(count, running)
            except Exception:  # whatever it is, the steps since the last checkpoint are kept
                if running and jax.process_count() == 1:  # several save together, and the others have their data
                    save(measure=False)
                raise
            state, scalars = programs(program, state, batches)
            running = [scalars['finite']]
            step, nimg = step + count, nimg + count * train.batch_size
            metrics.add(step, nimg, scalars)
            runlog.progress(count * train.batch_size)

            last, stopping = step == total_steps, stop.requested()
            if due(train.log_every) or last:
                metrics.report()
            if train.sample_every and (due(train.sample_every) or last):
                with metrics.paused():
                    runlog.image(f'samples_{step:08d}', step, pictures.grid(state))
            if due(train.checkpoint_every) or last:
                save(measure=last or not stopping)
            elif stopping:
                save(measure=False)
            if stopping and not last:
                runlog.say(f'stopped at step {step}; the same command goes on from here.')
                break
        metrics.flush()
    return state


class _Start(NamedTuple):
    """Where a run begins.

    shapes, state: the first state, as shapes and as a function, which may take a while.
    config: the settings that led there.
    lines: what the user should know.
    """

    step: int
    nimg: int
    shapes: TrainState
    state: Callable[[], TrainState]
    config: Config
    lines: list[str]


def _start(gan: GAN, config: Config, mesh: jax.sharding.Mesh, checkpoints: Checkpoints) -> _Start:
    """The newest state that the run has saved, or its first one."""
    train = config.train
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P())),
        jax.eval_shape(functools.partial(create_state, gan, train.seed)),
    )
    if (restored := checkpoints.restore(shapes)) is not None:
        state, meta = restored
        step, nimg = int(state.step), int(state.nimg)
        line = f'resumed from step {step} ({nimg / 1000:.1f} kimg)'
        return _Start(step, nimg, shapes, lambda: state, configs.from_dict(meta['config']), [line])
    networks, lines = {}, []
    if train.init_from is not None:
        networks, left = together(lambda: read_networks(shapes, train.init_from, train.init_partial))
        lines.append(f'starts from {train.init_from}: as if it had warmed up, and its blur and growth were over')
        if left:
            lines.append(
                f'{len(left)} arrays do not fit and begin anew: {", ".join(left[:8])}{", ..." * (len(left) > 8)}'
            )
    return _Start(0, 0, shapes, lambda: with_networks(replicated_state(gan, train.seed, mesh), networks), config, lines)


def _digests(rows: dict[str, np.ndarray]) -> dict[str, str]:
    """Hashes that tell whether processes read the same files: {'mask files': a hash}."""
    return {f'{name} files': hashlib.sha256(drawn.tobytes()).hexdigest() for name, drawn in rows.items()}


def _with_rows(gan: GAN, train: TrainConfig, data: Iterator[dict], nimg: int) -> Iterator[dict]:
    """Batches of the data, with what the system adds for the steps that take them."""
    for first, batch in zip(itertools.count(nimg, train.batch_size), data, strict=False):
        rows = {} if gan.rows is None else gan.rows(train.seed, [first] * len(batch['image']))
        yield batch | rows


def _open_data(config: Config, c_dim: int, workdir: Path) -> pipeline.sources.Source:
    """The run's images."""

    def opened() -> pipeline.sources.Source:
        source = pipeline.open_source(config.data, workdir)
        pipeline.check_labels(source, c_dim)
        return source

    # The first process prepares what has to be prepared; the others then find it there.
    first = together(opened, first_only=True)
    return together(lambda: opened() if first is None else first)
