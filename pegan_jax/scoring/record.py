"""Results of scores: a line of JSON each, with everything that is needed to repeat them."""

import contextlib
import datetime
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from pegan_jax.files import Path, end_line, in_bucket

PACKAGES = ('pegan_jax', 'jax', 'jaxlib', 'flax', 'numpy', 'scipy', 'pillow')


def about_this() -> dict[str, Any]:
    """Date, versions and devices."""
    versions = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # it is used from its folder
            versions[name] = 'not installed'
    device = jax.devices()[0]
    devices = f'{jax.device_count()} x {device.device_kind} ({device.platform}), {jax.process_count()} processes'
    return {
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'), 'versions': versions,
        'devices': devices,
    }  # fmt: skip


def append(path: Path, step: int | None, values: dict[str, float], about: dict[str, Any]) -> None:
    """Adds a line to a file such as a run's metrics.jsonl: step, time, values, and `about` as 'evaluation'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {'time': time.time(), **values, 'evaluation': about | about_this()}
    text = json.dumps(({} if step is None else {'step': step}) | line) + '\n'
    if in_bucket(path):  # where nothing is appended
        before = path.read_text() if path.exists() else ''
        path.write_text(before + '\n' * (before[-1:] not in ('', '\n')) + text)
        return
    end_line(path)
    # In one write, so that a training that logs at the same time cannot interrupt it.
    with path.open('ab', buffering=0) as file:
        file.write(text.encode())


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, oldest first, without those cut off or still being written; [] if there is no file."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def scored(path: Path, results: Sequence[str], alike: Callable[[dict], bool] = lambda about: True) -> set[int]:
    """Steps for which the file has all these results, of lines whose 'evaluation' ({} of a training) is alike."""
    steps = {}
    for found in rows(path):
        if 'step' in found and alike(found.get('evaluation') or {}):
            steps.setdefault(found['step'], set()).update(found)
    return {step for step, names in steps.items() if names.issuperset(results)}
