"""Renders from a checkpoint in a process of its own.

python render_worker.py devices WORKDIR OUT.npy     on all devices of this process, in pieces that do not divide evenly
python render_worker.py memory WORKDIR OUT.png      prints by how many MB memory peaks when the image grows 36 times
"""

import pathlib
import re
import sys

import jax
import numpy as np

from pegan_jax import coords
from pegan_jax.sampling import lazy_grid, load, render, render_file


def peak_megabytes():
    """Most memory that this process has held; unlike getrusage's, this number does not begin with the parent's."""
    return int(re.search(r'VmHWM:\s+(\d+) kB', pathlib.Path('/proc/self/status').read_text())[1]) / 1024


def main(task, workdir, out):
    model = load(workdir)
    if task == 'devices':
        assert jax.device_count() == 4
        image = render(model, 5, coords.grid(19, 7), truncation_psi=0.7, chunk=30)
        np.save(out, image)
        return
    peaks = []
    for side in (256, 1536):
        render_file(model, 5, lazy_grid(side, side), out, chunk=4096)
        peaks.append(peak_megabytes())
    print(peaks[1] - peaks[0])


if __name__ == '__main__':
    main(*sys.argv[1:])
