"""Scores of two sets of images, or of one: features are collected, and numbers computed from them."""

import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from pegan_jax.data import worlds
from pegan_jax.files import Path, children, scratch, whole
from pegan_jax.metrics import classes, distribution, equivariance, gaussians, image, kernel, neighbours, paths, spectra
from pegan_jax.metrics.names import ALONE, CHANGES, Score
from pegan_jax.pixels import as_floats
from pegan_jax.processes import together
from pegan_jax.scoring.images import Images
from pegan_jax.scoring.networks import ROWS, Network, open_network
from pegan_jax.scoring.parts import Features, collect
from pegan_jax.settings import UserError

LEAST_REALS = {'fid': 2, 'fd': 2, 'kid': 2, 'cmmd': 2, 'fwd': 2}  # others take one
LEAST_SIDE = {'vgg16': 16, 'lpips': 16, 'stem': 23, 'msssim': 16, 'eqr': 13}  # of networks and kinds; others take 8
# For `_full` scores, as in NVlabs/stylegan3; that of CMMD is this library's own.
MOST_REALS = {'kid': 1_000_000, 'pr': 200_000, 'dc': 200_000, 'cmmd': 200_000}


@dataclasses.dataclass(frozen=True)
class Sides:
    """Features that a score compares, and how many rows of them; `real` is None if there are none."""

    score: Score
    network: Network
    fake: Features
    fakes: int
    real: Features | None = None
    reals: int = 0

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of features, real and fake."""
        return self.real.rows(self.reals), self.fake.rows(self.fakes)

    def parts(self) -> tuple:
        """The same, in parts."""
        return self.real.parts(self.reals), self.fake.parts(self.fakes)


def _moments(sides: Sides, kind: Callable[[], Any]) -> list[Any]:
    """Streamed moments of both sides."""
    both = [kind(), kind()]
    for moments, parts in zip(both, sides.parts(), strict=True):
        for part in parts:
            moments.add(part)
    return both


def _frechet(sides: Sides) -> list[float]:
    return [gaussians.frechet_distance(*(m.gaussian() for m in _moments(sides, gaussians.Moments)))]


def _kernel(sides: Sides) -> list[float]:
    return list(kernel.kernel_distance(*sides.arrays()))


def _balls(sides: Sides) -> neighbours.Manifolds:
    # Published numbers, on features of VGG-16's classifier, are computed in float16.
    return neighbours.compare(*sides.arrays(), sides.score.k, half=sides.network.identity.startswith('vgg16_fc'))


def _classes(sides: Sides) -> list[float]:
    return list(classes.inception_score(classes.softmax(sides.fake.rows(sides.fakes) @ sides.network.classifier)))


def _equal(sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """Rows of features, as many real as fake ones."""
    count = min(sides.fakes, sides.reals)
    return sides.real.rows(count), sides.fake.rows(count)


def _wavelets(sides: Sides) -> list[float]:
    return [spectra.wavelet_distance(*(m.gaussians() for m in _moments(sides, spectra.PacketMoments)))]


def _spectral(sides: Sides) -> list[float]:
    power = [np.concatenate([spectra.radial_power(part) for part in parts]) for parts in sides.parts()]
    return [spectra.spectral_distance(*map(spectra.relative, power))]


def _variety(sides: Sides) -> list[float]:
    rows = sides.fake.rows(sides.fakes)
    return [float(np.mean([image.ms_ssim(a, b) for a, b in zip(rows[::2], rows[1::2], strict=False)]))]


def _horizons(sides: Sides) -> list[float]:
    """How far apart the heights of horizons are: mean |difference| of sorted ones, each kept inside the frame."""
    count = min(sides.fakes, sides.reals)
    heights = []
    for side in (sides.real, sides.fake):
        parts = [worlds.horizon_height(as_floats(rows)) for rows in side.parts(count)]
        heights.append(np.sort(np.clip(np.concatenate(parts), -1, 1)))
    return [float(np.abs(heights[0] - heights[1]).mean())]


def _rows(sides: Sides) -> list[float]:
    """Root mean square difference of the mean colours of rows, of 255 levels."""
    means = [rows.mean(axis=(0, 2)) for rows in _equal(sides)]
    return [float(np.sqrt(np.mean((means[0] - means[1]) ** 2)))]


def _single(sides: Sides) -> list[float]:
    """Mean distance of fakes to the real images in turn: of Gaussians over positions of features."""
    real, fake = sides.arrays()
    fitted = [gaussians.fit(x, ddof=1) for x in real]
    return [float(np.mean([
        gaussians.frechet_distance(fitted[i % len(fitted)], gaussians.fit(x, ddof=1)) for i, x in enumerate(fake)
    ]))]  # fmt: skip


def _moved(sides: Sides) -> list[float]:
    return [equivariance.decibels(*sides.fake.rows(sides.fakes).sum(axis=0))]


VALUES: dict[str, Callable[[Sides], Sequence[float]]] = {
    'fid': _frechet,
    'fd': _frechet,
    'kid': _kernel,
    'pr': lambda sides: _balls(sides)[:2],
    'dc': lambda sides: _balls(sides)[2:],
    'cmmd': lambda sides: [kernel.cmmd(*sides.arrays())],
    'mind': lambda sides: [distribution.monge_distance(*_equal(sides))],
    'is': _classes,
    'sifid': _single,
    'ppl2': lambda sides: [paths.path_length(sides.fake.rows(sides.fakes))],
    'eqt': _moved,
    'eqr': _moved,
    'swd': lambda sides: [distribution.sliced_wasserstein(*_equal(sides))],
    'fwd': _wavelets,
    'spectral': _spectral,
    'msssim': _variety,
    'horizon': _horizons,
    'rows': _rows,
}


def _reals(score: Score, count: int | None) -> int:
    """How many real images a score takes out of `count`; if they are unlimited, as many as fake ones."""
    if score.kind in ALONE:
        return 0
    if count is None:
        return score.count
    return min(count, MOST_REALS.get(score.kind, count) if score.full else score.count)


def check(scores: Sequence[Score], size: tuple[int, int], *, generated: bool) -> None:
    """Raises: UserError for scores that images of a size (height, width) do not have, or that need a generator."""
    for score in scores:
        if score.kind in CHANGES and not generated:
            raise UserError(f'{score.name} changes what a generator gets; it needs a --model.')
        if score.kind == 'fwd' and (size[0] % 16 or size[1] % 16 or size[0] * size[1] > 256 * 256):
            raise UserError(
                f'{score.name} takes sides that are multiples of 16, and at most 256 x 256 pixels, not {size[1]} x '
                f'{size[0]}; give --size.'
            )
        least = max(LEAST_SIDE.get(name, 8) for name in (score.kind, score.network))
        if min(size) < least:
            raise UserError(
                f'{score.name}: images of {size[1]} x {size[0]} pixels are too small; their sides must have {least}.'
            )


class Scorer(NamedTuple):
    """Scores, and what computes them.

    scores: from `names.parse_all`; networks: from `open_networks`.
    folder: for features; those of real images stay there, for other scores of the same data.
    batch_size: images that a network gets at once; progress: show a bar.
    """

    scores: Sequence[Score]
    networks: Mapping[str, Network]
    folder: Path
    batch_size: int = 32
    progress: bool = False

    def __call__(
        self, fake: Images, real: Images | None, changes: Callable[[Score, Network], Images] | None = None
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Numbers of all scores. An interrupted call resumes where it was.

        On several processes all call it, each computes its share, and all get the numbers.

        Args:
          fake, real: images of one size, all treated the same way; no real ones for scores that need none.
          changes: `changes.rows` of a generator, for scores of CHANGES.
        Returns: {result: number}; and what is needed to repeat them: images, digests of their contents, networks.
        Raises: UserError for two sizes, or fewer images than a score needs.
        """
        plain = [score for score in self.scores if score.kind not in CHANGES]
        changing = [score for score in self.scores if score.kind in CHANGES]
        counts = {'real': {s: _reals(s, real and real.count) for s in plain}, 'fake': {s: s.count for s in plain}}
        check_counts(plain, fake, real)
        if any(counts['real'].values()):
            _check_sizes(fake, real)
        total = sum(max(n.values(), default=0) for n in counts.values()) + sum(score.count for score in changing)
        with contextlib.ExitStack() as stack:
            passing = stack.enter_context(_used(self.folder))
            bar = stack.enter_context(tqdm(total=total, unit='image', disable=not self.progress, dynamic_ncols=True))
            found = {
                side: self._features(images, counts[side], bar) for side, images in (('real', real), ('fake', fake))
            }
            sides = []
            for score in self.scores:
                network = self.networks[score.network]
                if score.kind in CHANGES:
                    rows = self._rows(changes(score, network), score.count, bar)
                    sides.append(Sides(score, network, rows, score.count))
                else:
                    both = (found['fake'][network.identity], score.count, found['real'].get(network.identity))
                    sides.append(Sides(score, network, *both, counts['real'][score]))
            numbers = together(lambda: [list(map(float, VALUES[s.score.kind](s))) for s in sides], first_only=True)
            numbers = _from_first(numbers, sum(len(score.results) for score in self.scores))
            for side in sides:
                passing += side.fake.paths
                if side.network is ROWS and side.real is not None:  # the images themselves
                    passing += side.real.paths
        about = {
            'fake': fake.about,
            'real': real and real.about,
            'reals': {s.name: n for s, n in counts['real'].items() if n},
            'contents': {side: {k[:24]: f.digest for k, f in features.items()} for side, features in found.items()},
            'networks': {name: dict(network.about) for name, network in self.networks.items() if network.about},
        }
        return dict(zip([name for score in self.scores for name in score.results], numbers, strict=True)), about

    def _features(self, images: Images, counts: Mapping[Score, int], bar: tqdm) -> dict[str, Features]:
        """{network.identity: features} of as many images as each network's scores need."""
        most = {}
        for score, count in counts.items():
            if count:
                most[score.network] = max(count, most.get(score.network, 0))
        wanted = [(self.networks[name], count) for name, count in most.items()]
        return collect(images, wanted, self.folder, batch_size=self.batch_size, bar=bar) if wanted else {}

    def _rows(self, images: Images, count: int, bar: tqdm) -> Features:
        return collect(images, [(ROWS, count)], self.folder, batch_size=self.batch_size, bar=bar)[ROWS.identity]


def _from_first(numbers: list[list[float]] | None, count: int) -> list[float]:
    """The numbers of the first process, on all of them."""
    flat = np.zeros(count) if numbers is None else np.array([x for group in numbers for x in group])
    if jax.process_count() > 1:
        flat = multihost_utils.broadcast_one_to_all(flat.view(np.uint32)).view(np.float64)
    return flat.tolist()


@contextlib.contextmanager
def _used(folder: Path) -> Iterator[list[Path]]:
    """A list for the files that a call is done with: they are deleted as soon as no other call uses the folder.

    An interrupted call leaves its files, and resumes from them. A killed one is waited for no longer than a day.
    """
    passing = []
    if jax.process_index() > 0:
        yield passing
        return
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f'{uuid.uuid4().hex}.used'
    mark.touch()
    try:
        yield passing
    finally:
        if passing:
            with whole(mark.with_suffix('.done')) as unfinished:
                unfinished.write_text(json.dumps([path.name for path in passing]))
        mark.unlink(missing_ok=True)  # after a day, another call has taken this one for killed
        with contextlib.suppress(FileNotFoundError):  # another call, which ends now, cleans up too
            names, since = children(folder), time.time() - 86400
            if not any(name.endswith('.used') and (folder / name).stat().st_mtime > since for name in names):
                for name in names:
                    if name.endswith('.done'):
                        for part in json.loads((folder / name).read_text()):
                            (folder / part).unlink(missing_ok=True)
                    if name.endswith(('.done', '.used')):
                        (folder / name).unlink(missing_ok=True)


def check_counts(scores: Sequence[Score], fake: Images | None, real: Images | None) -> None:
    """Raises: UserError for too few images. fake: None if a generator makes as many as are asked for."""
    for score in scores:
        least = score.k + 1 if score.kind in ('pr', 'dc') else LEAST_REALS.get(score.kind, 1)
        if score.kind not in ALONE and (reals := _reals(score, real.count)) < least:
            raise UserError(f'{score.name} needs at least {least} real images, and there are {reals}.')
        if fake is not None and fake.count is not None and fake.count < score.count:
            raise UserError(
                f'{score.name} takes {score.count} images, and there are {fake.count}; write that number in its name.'
            )


def _check_sizes(fake: Images, real: Images) -> None:
    sizes = [images.read(0, 1).shape[1:3] for images in (fake, real)]
    if sizes[0] != sizes[1]:
        told = ', real ones '.join(f'{width} x {height}' for height, width in sizes)
        raise UserError(f'fake images have {told} pixels; give --size H[xW], the size of both.')


def scorer_of(scores: Sequence[Score], folder: Path) -> Scorer:
    """A `Scorer` whose networks come with the package, or have their files in the folder. Errors as `open_network`."""
    folder = scratch(folder)
    return Scorer(scores, open_networks(scores, {}, folder), folder / 'features')


def open_networks(
    scores: Sequence[Score], given: Mapping[str, Path], cache: Path, **options: Any
) -> dict[str, Network]:
    """{score.network: network} of all scores. Args and errors as for `networks.open_network`."""
    return {name: open_network(name, given, cache, **options) for name in dict.fromkeys(s.network for s in scores)}
