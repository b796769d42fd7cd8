"""What a run leaves to look at: progress bar, TensorBoard events, metrics.jsonl, sample images."""

import json
import pathlib
import sys
import tempfile
import time

import numpy as np
from tqdm import tqdm

from pegan_jax.files import Path, copy_below, in_bucket, whole
from pegan_jax.pixels import as_image


class RunLog:
    """Writes in `workdir`; does nothing on processes other than the first.

    metrics.jsonl has one line per log step. After a resume the steps since the checkpoint are logged again: the last
    line of a step counts.

    Nothing can be appended to an object: of a workdir in a bucket, metrics.jsonl and TensorBoard's events are written
    on this machine, and `upload` copies them.
    """

    def __init__(self, workdir: Path, total_images: int, start_images: int, main: bool = True) -> None:
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
        self._jsonl = (self._here / 'metrics.jsonl').open('a')
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
        self._bar.set_postfix({k: f'{v:.3g}' for k, v in values.items() if k.startswith('loss/')}, refresh=False)

    def image(self, name: str, step: int, grid: np.ndarray) -> None:
        """A uint8 image [H, W, C], as `samples/<name>.png` and in TensorBoard."""
        if self._main:
            with whole(self._samples / f'{name}.png') as unfinished:
                as_image(grid).save(unfinished, 'PNG')
            self._events.add_image(name.rsplit('_', 1)[0], grid, step, dataformats='HWC')

    def say(self, text: str) -> None:
        """A line of text above the progress bar."""
        if self._main:
            self._bar.write(text, file=sys.stderr)

    def upload(self) -> None:
        """Copies what has been written so far into the bucket, for a workdir in one."""
        if self._main and in_bucket(self._workdir):
            self._events.flush()
            copy_below(self._here, self._workdir)

    def close(self) -> None:
        """Flushes everything."""
        if self._main:
            self._bar.close()
            self._events.close()
            self._jsonl.close()
            self.upload()
