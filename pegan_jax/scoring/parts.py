"""Features of many images, in parts that are files: what is computed once is not computed again.

Only its images and the network identify a part: neither the number of devices nor the number of requested images
changes it. So an interrupted score resumes, and features of data serve all later scores.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from pegan_jax.files import Path, whole
from pegan_jax.processes import everywhere, of_first, together
from pegan_jax.scoring.images import Images, local_sharding
from pegan_jax.scoring.networks import Network, exactly

PART = 256  # images, which memory holds at once; sums over parts are taken in their order


class Features(NamedTuple):
    """Rows of features, in files of at most PART rows."""

    paths: Sequence[Path]
    digest: str  # that of the images

    def parts(self, count: int) -> Iterator[np.ndarray]:
        """The first `count` rows, part by part."""
        for i, path in enumerate(self.paths):
            if i * PART < count:
                yield np.load(path, mmap_mode='r')[: count - i * PART]

    def rows(self, count: int) -> np.ndarray:
        """The first `count` rows."""
        return np.concatenate(list(self.parts(count)))


def collect(
    images: Images,
    wanted: Sequence[tuple[Network, int]],
    folder: Path,
    *,
    batch_size: int = 32,
    bar: tqdm | None = None,
) -> dict[str, Features]:
    """Features of the first images by several networks; every image is read once for all of them.

    Every process computes some of the parts, on all of its devices, and returns when all parts are there. If the
    folder of the first process is not that of the others, as on hosts without a common disk, only the first one
    computes parts, and only it has them.

    Args:
      wanted: networks, and the number of images for each.
      folder: where parts are kept.
      batch_size: images that a network gets at once; rounded up to a multiple of the devices.
      bar: advances image by image.
    Returns: {network.identity: features}.
    """
    paths = {network.identity: [] for network, _ in wanted}
    digests = {network.identity: hashlib.sha256() for network, _ in wanted}
    todo = []
    for start in range(0, max(count for _, count in wanted), PART):
        part = []
        for network, count in wanted:
            if (stop := min(start + PART, count)) > start:
                key = images.key(start, stop)
                digests[network.identity].update(key.encode())
                name = hashlib.sha256(f'{network.identity} {key}'.encode()).hexdigest()
                paths[network.identity].append(folder / f'{name}.npy')
                part.append((network, stop, paths[network.identity][-1]))
        todo.append((start, part))
    share = (jax.process_index(), jax.process_count()) if _common(folder) else (0, 1)
    together(lambda: _compute(images, todo[share[0] :: share[1]], folder, batch_size, bar), first_only=share[1] == 1)
    return {name: Features(paths[name], digests[name].hexdigest()) for name in paths}


def _common(folder: Path) -> bool:
    """Whether all processes see the same folder."""
    if jax.process_count() == 1:
        return True
    (name,) = of_first([secrets.randbelow(2**31)])
    mark = folder / f'{name}.mark'

    def leave() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()

    together(leave, first_only=True)
    common = everywhere(mark.exists())
    together(lambda: mark.unlink(missing_ok=True), first_only=True)
    return common


def _compute(images: Images, todo: list, folder: Path, batch_size: int, bar: tqdm | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    programs = {}
    for start, part in todo:
        missing = [(network, stop, path) for network, stop, path in part if not path.is_file()]
        rows = images.read(start, max(stop for _, stop, _ in missing)) if missing else []
        for network, stop, path in missing:
            if network.identity not in programs:
                programs[network.identity] = _program(network, batch_size)
            with whole(path) as unfinished, unfinished.open('wb') as file:
                np.save(file, programs[network.identity](rows[: stop - start]))
        if bar is not None:
            bar.update(max(stop for _, stop, _ in part) - start)


def _program(network: Network, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """rows -> their features, compiled for batch_size at a time."""
    if network.features is None:
        return lambda rows: rows
    run, params = jax.jit(exactly(network.features)), jax.device_put(network.params, local_sharding())
    batch_size += -batch_size % len(jax.local_devices())

    def features(rows: np.ndarray) -> np.ndarray:
        out = []
        for i in range(0, len(rows), batch_size):
            batch = rows[i : i + batch_size]
            # The last batch is filled up: one compiled program serves all.
            filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
            found = run(params, jax.device_put(filled, local_sharding('rows')))
            out.append(np.asarray(found, np.float32)[: len(batch)])
        return np.concatenate(out)

    return features
