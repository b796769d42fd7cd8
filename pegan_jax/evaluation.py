"""Scores of models: of completions, with masks that are the same for all models with the same seed, and of samples."""

import dataclasses
import functools
import json
import math
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from pegan_jax import config as configs
from pegan_jax.data import masks, pipeline, worlds
from pegan_jax.files import Path, absolute, as_path, whole
from pegan_jax.metrics import image as measures
from pegan_jax.metrics.names import ALONE, CHANGES
from pegan_jax.pixels import as_floats, decode_image, to_uint8, with_channels
from pegan_jax.processes import everywhere, of_first, together
from pegan_jax.sampling import Model, load
from pegan_jax.scoring import changes, record
from pegan_jax.scoring import images as sets
from pegan_jax.scoring.networks import Network, exactly
from pegan_jax.scoring.scores import Scorer
from pegan_jax.scoring.scores import check as check_scores
from pegan_jax.settings import DataConfig, UserError
from pegan_jax.train.checkpoint import CheckpointError, steps_of
from pegan_jax.weights import perceptual

METRICS = tuple(measures.DEFINITIONS)  # for completions
LPIPS = {'lpips': 'learned perceptual distance of the whole image, on VGG-16 (Zhang et al. 2018)'}
KINDS = ('box', 'brush', 'union')


class Case(NamedTuple):
    """One mask for one image.

    kind: the mask's; bucket: (low, high] of the share of holes; mask: [H, W] uint8, 1 is a hole; image: which one.
    """

    kind: str
    bucket: tuple[float, float]
    mask: np.ndarray
    image: int


def cases(seed: int, count: int, size: tuple[int, int], num_images: int, kinds: Sequence[str] = KINDS) -> list[Case]:
    """`count` masks for each kind and class of hole ratio, for the images in turn; a function of the arguments alone.

    A box covers at least a seventh of an image, so boxes and unions with strokes have no class below a tenth.

    Raises: ValueError for another kind.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f'unknown kind of mask {unknown[0]!r}; known: {", ".join(KINDS)}.')
    out = []
    for kind in kinds:
        for bucket in masks.BUCKETS if kind == 'brush' else masks.BUCKETS[1:]:
            drawn = masks.draw_in_bucket(seed, count, *size, kind, bucket)
            out += [Case(kind, bucket, mask[..., 0], i % num_images) for i, mask in enumerate(drawn, len(out))]
    return out


def data_of(name: str, data: DataConfig) -> DataConfig:
    """Settings like `data`, but for other images: a folder, ZIP file or file with this path, or a TFDS dataset."""
    path = as_path(name)
    kind = 'folder' if path.is_dir() or path.suffix.lower() == '.zip' else 'image' if path.is_file() else 'tfds'
    return dataclasses.replace(data, **({'tfds': None, 'folder': None, 'image': None} | {kind: name}))


def read_images(data: DataConfig, count: int) -> np.ndarray:
    """The first `count` images of a data set, or as many as there are, in their frame: uint8 [N, H, W, C].

    They are fitted as in `scoring.images.of_data`; the procedural worlds are ones that no training sees, from that
    module's `REAL_WORLDS` on.

    Raises: ConfigError as `pipeline.open_source`.
    """
    if sets.is_worlds(data):
        seeds = [np.arange(i, i + 1, dtype=np.int32) for i in range(sets.REAL_WORLDS, sets.REAL_WORLDS + count)]
        drawn = np.concatenate([to_uint8(worlds.render_world(seed, *data.size)) for seed in seeds])
        return with_channels(drawn, data.channels)
    with tempfile.TemporaryDirectory() as folder:
        source = pipeline.open_source(data, pathlib.Path(folder))
        encoded = [source[i]['image'] for i in range(min(count, len(source)))]
    decoded = (decode_image(e, data.max_pixels, data.channels) for e in encoded)
    whole = np.stack([pipeline.fit(pixels, data.canvas, sets.crop_of(data)) for pixels in decoded])
    return sets.middle(whole, data.size)


def check_metrics(metrics: Sequence[str], size: tuple[int, int]) -> None:
    """Raises: ValueError for a name in neither METRICS nor LPIPS, or one that needs more than (height, width)."""
    if unknown := [name for name in metrics if name not in (*METRICS, *LPIPS)]:
        raise UserError(f'unknown metric {unknown[0]!r}; known: {", ".join([*METRICS, *LPIPS])}.')
    if 'lpips' in metrics and min(size) < 16:
        raise UserError(f'lpips needs sides of 16 pixels; images of {size[1]} x {size[0]} are too small.')
    if 'ssim' in metrics:
        measures.check_ssim(size)


def evaluate(
    methods: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]],
    images: np.ndarray,
    masked: Sequence[Case],
    metrics: Sequence[str] = METRICS,
    *,
    batch_size: int = 8,
    progress: bool = False,
    lpips: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Scores of inpainting methods.

    Args:
      methods: by name, (images [N, H, W, C] uint8, masks [N, H, W]) -> completed images, such as
        functools.partial(pegan_jax.inpaint, model).
      images: uint8 [N, H, W, C]; masked: from `cases`.
      metrics: names among METRICS, and 'lpips'.
      lpips: from `perceptual_distance`, for 'lpips'.
    Returns: {method: {kind or 'all': {'0.1-0.2' or 'all': {'images', 'hole_ratio', metric: mean}}}}; means are over
      images, None if no image has a finite value.
    Raises: ValueError for an unknown metric, and as the measures.
    """
    check_metrics(metrics, images.shape[1:3])
    results, of_pixels = {}, tuple(name for name in metrics if name not in LPIPS)
    with tqdm(total=len(methods) * len(masked), unit='image', disable=not progress) as bar:
        for method, complete in methods.items():
            rows = []
            for i in range(0, len(masked), batch_size):
                batch = masked[i : i + batch_size]
                # The last batch is filled up: one compiled program serves all.
                filled = [*batch, *[batch[-1]] * (batch_size - len(batch))]
                real, mask = images[[c.image for c in filled]], np.stack([c.mask for c in filled])
                completed = complete(real, mask)
                distances = lpips(real, completed) if 'lpips' in metrics else [None] * len(real)
                for case, x, y, distance in zip(batch, real, completed, distances, strict=False):
                    scores = measures.measure(x, y, case.mask, of_pixels)
                    scores |= {} if distance is None else {'lpips': float(distance)}
                    rows.append((case, {'hole_ratio': float(case.mask.mean())} | scores))
                    bar.update()
            results[method] = _table(rows)
    return results


def perceptual_distance(network: Network) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS of images uint8 [N, H, W, C], [N], by the network 'lpips' of `networks.open_network`."""
    run = jax.jit(exactly(perceptual.lpips))
    return lambda *pair: np.asarray(run(network.params, *(as_floats(with_channels(x, 3)) for x in pair)))


def _table(rows: list[tuple[Case, dict[str, float]]]) -> dict[str, dict[str, dict[str, Any]]]:
    kinds = ['all', *dict.fromkeys(case.kind for case, _ in rows)]
    out = {}
    for kind in kinds:
        of_kind = [(case, scores) for case, scores in rows if kind in ('all', case.kind)]
        buckets = sorted({case.bucket for case, _ in of_kind})
        out[kind] = {'all': _means([scores for _, scores in of_kind])} | {
            f'{low:g}-{high:g}': _means([scores for case, scores in of_kind if case.bucket == (low, high)])
            for low, high in buckets
        }
    return out


def _means(scores: list[dict[str, float]]) -> dict[str, Any]:
    out = {'images': len(scores)}
    for name in scores[0]:
        finite = [s[name] for s in scores if math.isfinite(s[name])]
        out[name] = float(f'{np.mean(finite):.6g}') if finite else None
    return out


def table(results: dict[str, Any]) -> str:
    """Results of `evaluate` as text: a line per method, kind of mask and class of hole ratio."""
    lines = []
    for method, kinds in results.items():
        for kind, buckets in kinds.items():
            for bucket, scores in buckets.items():
                if not lines:
                    lines.append(['method', 'masks', 'holes', *scores])
                values = ['-' if v is None else str(v) if type(v) is int else f'{v:.4g}' for v in scores.values()]
                lines.append([method, kind, bucket, *values])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join(
        '  '.join(
            word.ljust(n) if i < 3 else word.rjust(n) for i, (word, n) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def save(results: dict[str, Any], path: Path, about: dict[str, Any], metrics: Sequence[str] = METRICS) -> None:
    """Writes `about`, the definitions of the metrics and the results as JSON."""
    known = measures.DEFINITIONS | {'lpips': LPIPS}
    definitions = {name: text for metric in metrics for name, text in known[metric].items()}
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(about | {'metrics': definitions, 'results': results}, indent=1) + '\n')


# Samples --------------------------------------------------------------------------------------------------------------


def score_model(
    model: Model,
    scorer: Scorer,
    data: str | None = None,
    *,
    noise: str = 'random',
    batch_size: int = 32,
    **options: Any,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores of the samples of a model.

    Args:
      scorer: from `scorer_of`.
      data: name of the real images as for `data_of`; those of the training if None.
      noise, options: those of `images.Generator`: truncation_psi, truncation_cutoff, seed.
      batch_size: images made at once.
    Returns: as `Scorer`.
    Raises: UserError for what the model or its images do not have, and as `pipeline.open_source`.
    """
    system, folder = model.config.system, scorer.folder
    sets.check_generator(model.gan, system)
    check_scores(scorer.scores, model.size, generated=True)
    identity = sets.digest_of(model.variables)
    settings = configs.to_json(model.config)
    generator = sets.Generator(model.gan, model.variables, identity, noise=noise, settings=settings, **options)
    sets.check_truncation(generator, system)
    for score in scorer.scores:
        if score.kind in CHANGES:
            changes.check(generator, score, system)
    alone = all(score.kind in ALONE for score in scorer.scores)

    def opened() -> tuple:
        labels = sets.drawn_labels(model.config.data, model.gan.c_dim, folder)
        reals = model.config.data if data is None else data_of(data, model.config.data)
        return labels, None if alone else sets.like_samples(model.gan, model.variables, reals, folder)

    labels, real = together(opened)
    generator = generator._replace(labels=labels)
    values, about = scorer(sets.generated(generator, batch_size), real, functools.partial(changes.rows, generator))
    return values, {'step': model.step, 'data': _whole_name(data)} | about


def _whole_name(data: str | None) -> str | None:
    """A name of `data_of` that is the same in every folder."""
    return data if data is None or not as_path(data).exists() else str(absolute(as_path(data)))


def score_data(fake: DataConfig, real: DataConfig, scorer: Scorer, *, as_they_are: bool = False) -> tuple[dict, dict]:
    """Scores of one data set against another; two sets of worlds differ. Args and errors as for `images.of_data`."""

    def opened() -> list[sets.Images]:
        both = ((fake, sets.FAKE_WORLDS), (real, sets.REAL_WORLDS))
        return [sets.of_data(data, scorer.folder, first_world=first, as_they_are=as_they_are) for data, first in both]

    sides = together(opened)
    check_scores(scorer.scores, sides[0].read(0, 1).shape[1:3], generated=False)
    return scorer(*sides)


def steps_to_score(workdir: Path, results: Sequence[str], data: str | None = None, **options: Any) -> list[int]:
    """Steps of a run's checkpoints for which its metrics.jsonl lacks some results, oldest first.

    data, options: those of `score_model`; results that were measured with others do not count.
    """
    data = _whole_name(data)
    usual = {name: value for name, value in sets.Generator._field_defaults.items() if name in sets.Generator.TOLD}
    wanted = usual | options

    def alike(about: dict) -> bool:
        made = usual | (about.get('fake') or {})
        return about.get('data') == data and all(made[name] == value for name, value in wanted.items())

    return sorted({*steps_of(workdir / 'checkpoints')} - record.scored(workdir / 'metrics.jsonl', results, alike))


def watch(
    workdir: Path, scorer: Scorer, score: Callable[[Model], None], *, seconds: float = 30.0, **options: Any
) -> None:
    """Calls score(model) for each checkpoint that a run saves, until all have their scores and the run has ended.

    Several processes score the steps that the first one finds. options: as for `steps_to_score`.
    """
    results = [name for s in scorer.scores for name in s.results]

    def loaded(step: int) -> Model | None:
        try:
            return load(workdir, step)
        except CheckpointError:
            if (workdir / 'checkpoints' / str(step)).is_dir():
                raise
            return None  # it has been replaced by a newer one

    def steps() -> list[int]:
        """The newest step, if there is one, and those that lack results."""
        return [*steps_of(workdir / 'checkpoints')[-1:], *steps_to_score(workdir, results, **options)]

    seen, told = None, jax.process_index() > 0
    while True:
        newest, *missing = of_first(together(steps, first_only=True) or []) or [None]
        if newest is None and not told:
            print(f'waiting for the first checkpoint of {workdir}', file=sys.stderr)
            told = True
        for step in missing or [newest] * (newest != seen):
            model = together(functools.partial(loaded, step))
            if not everywhere(model is not None):
                continue
            if missing:
                score(model)
            if model.gan.num_steps is None:
                ended = model.images >= model.config.train.total_images
            else:
                ended = step >= model.gan.num_steps()
            if ended:
                return
            seen = step
        time.sleep(seconds)
