"""What a run leaves to look at: progress bar, TensorBoard events, metrics.jsonl, sample images, a run of wandb."""

import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import time
import uuid
from typing import Any

import numpy as np
from tqdm import tqdm

from pegan_jax import config as configs
from pegan_jax.config import Config
from pegan_jax.files import Path, copy_below, end_line, in_bucket, scratch, whole
from pegan_jax.pixels import as_image
from pegan_jax.settings import UserError

WANDB_ID = 'wandb_id'  # a file in the workdir: later launches continue this run of wandb


def check_logger(logger: str | None) -> None:
    """Raises: UserError if train.logger needs a package that is missing."""
    if logger == 'wandb' and importlib.util.find_spec('wandb') is None:
        raise UserError("train.logger='wandb' needs the package wandb: pip install 'pegan_jax[wandb]'.")


class RunLog:
    """Writes in `workdir`; does nothing on processes other than the first.

    metrics.jsonl has one line per log step. After a resume, the steps since the checkpoint are logged again: the last
    line of a step counts. With train.logger='wandb', the same numbers and images go to one run of wandb, which later
    launches in this workdir continue.

    Nothing can be appended to an object in a bucket: metrics.jsonl and TensorBoard's events are then written on this
    machine, and `upload` copies them.
    """

    def __init__(self, workdir: Path, config: Config, total_images: int, start_images: int, main: bool = True) -> None:
        self._main = main
        if not main:
            return
        from tensorboardX import SummaryWriter  # not above: it takes long to import, and only runs need it

        self._workdir, self._here, self._samples = workdir, workdir, workdir / 'samples'
        if in_bucket(workdir):
            self._kept = tempfile.TemporaryDirectory()
            self._here = pathlib.Path(self._kept.name)
            if (workdir / 'metrics.jsonl').exists():
                (self._here / 'metrics.jsonl').write_bytes((workdir / 'metrics.jsonl').read_bytes())
        self._samples.mkdir(parents=True, exist_ok=True)
        self._events = SummaryWriter(str(self._here / 'tensorboard'))
        end_line(self._here / 'metrics.jsonl')
        self._jsonl = (self._here / 'metrics.jsonl').open('a')
        self._wandb = _wandb_run(workdir, config) if config.train.logger == 'wandb' else None
        self._bar = tqdm(
            total=total_images, initial=start_images, unit='img', unit_scale=True, smoothing=0.05, dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
        )  # fmt: skip

    def progress(self, images: int) -> None:
        """Advances the bar by a number of images."""
        if self._main:
            self._bar.update(images)

    def scalars(self, step: int, nimg: int, values: dict[str, float]) -> None:
        """One log step."""
        if not self._main:
            return
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._jsonl.write(json.dumps({'step': step, 'kimg': nimg / 1000, 'time': time.time(), **values}) + '\n')
        self._jsonl.flush()
        if self._wandb is not None:
            self._wandb.log({'step': step, 'kimg': nimg / 1000, **values})
        self._bar.set_postfix({k: f'{v:.3g}' for k, v in values.items() if k.startswith('loss/')}, refresh=False)

    def image(self, name: str, step: int, grid: np.ndarray) -> None:
        """A uint8 image [H, W, C], as `samples/<name>.png` and in TensorBoard."""
        if self._main:
            with whole(self._samples / f'{name}.png') as unfinished:
                as_image(grid).save(unfinished, 'PNG')
            title = name.rsplit('_', 1)[0]
            self._events.add_image(title, grid, step, dataformats='HWC')
            if self._wandb is not None:
                import wandb  # an extra, which takes long to import

                self._wandb.log({'step': step, title: wandb.Image(grid)})

    def say(self, text: str) -> None:
        """A line of text above the progress bar."""
        if self._main:
            self._bar.write(text, file=sys.stderr)

    def upload(self) -> None:
        """Copies what has been written so far into the bucket, if the workdir is in one."""
        if self._main and in_bucket(self._workdir):
            self._events.flush()
            self._take_evaluations()
            copy_below(self._here, self._workdir)

    def _take_evaluations(self) -> None:
        """Adds what `evaluate` has written to the bucket's metrics.jsonl, which the upload replaces."""
        here, there = (folder / 'metrics.jsonl' for folder in (self._here, self._workdir))
        if there.exists():
            known = set(here.read_text().splitlines())
            lines = [line for line in there.read_text().splitlines() if '"evaluation"' in line and line not in known]
            with here.open('a') as file:
                file.write(''.join(f'{line}\n' for line in lines))

    def close(self) -> None:
        """Flushes everything."""
        if self._main:
            self._bar.close()
            self._events.close()
            self._jsonl.close()
            if self._wandb is not None:
                self._wandb.finish(exit_code=int(sys.exc_info()[0] is not None))  # how the run ended
            self.upload()


def _wandb_run(workdir: Path, config: Config) -> Any:
    """The run of wandb that belongs to a workdir: begun at the first launch, continued at later ones.

    Its numbers are plotted against a `step` of their own: a launch repeats those since the last checkpoint, which
    wandb's step counter would refuse. The files of wandb stay on this machine if the workdir is in a bucket.

    Raises: UserError if wandb cannot begin, such as without a login.
    """
    import wandb  # an extra, which takes long to import

    mark, files = workdir / WANDB_ID, scratch(workdir)
    if not mark.exists():
        with whole(mark) as unfinished:
            unfinished.write_text(uuid.uuid4().hex)
    files.mkdir(parents=True, exist_ok=True)
    options = {'project': os.environ.get('WANDB_PROJECT', 'pegan_jax'), 'name': workdir.name, 'dir': str(files)}
    try:
        run = wandb.init(id=mark.read_text(), resume='allow', config=configs.to_dict(config), **options)
    except wandb.errors.Error as error:
        raise UserError(
            f'wandb cannot begin ({" ".join(str(error).split())}): log in with "wandb login", set WANDB_MODE=offline '
            'to keep its files here, or leave train.logger out.'
        ) from None
    run.define_metric('*', step_metric='step')
    return run
