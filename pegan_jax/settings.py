"""The sections of a configuration that all systems share, and the checks of their fields.

Every error names the field, the value it got and what would be accepted.
"""

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal


class UserError(ValueError):
    """A request that cannot be met as it is; the message says why, and what would work. Commands print it as one line.

    It is a class of its own because Python, NumPy and JAX raise ValueErrors too, for faults of the program, whose
    traceback is needed. An array whose shape does not fit another's is such a fault, and remains a ValueError.
    """


class ConfigError(UserError):
    """A configuration that cannot run; the message says which field, what it got and what to do."""


@dataclass(frozen=True)
class DataConfig:
    """Where images come from. `image` or `folder`, when set, is read instead of `tfds`.

    Paths are on a disk (`~` is the home folder), or in a bucket, gs:// or s3://.

    tfds: name of a TFDS dataset prepared as ArrayRecord, or 'worlds', which is prepared on first use.
    folder: path of a folder of images, searched recursively, or of a ZIP file of images.
    image: path of one image.
    split: TFDS split, slices included ('train[:90%]').
    data_dir: TFDS data directory; None: the TFDS default, and `<workdir>/tfds` for 'worlds'.
    num_worlds: how many images 'worlds' holds.
    resolution: side, or (height, width), of the images that training sees.
    channels: 1 is grey, by luminance; 3 is RGB; both put transparent pixels over black. 4 is RGBA: colours stay as they
      are under their opacity, which is 255 if an image has none; opacity is a fourth channel like the others.
    crop: 'center' cuts the largest window of the wanted aspect and resizes it; 'random' resizes the same way and cuts a
      random window of the wanted size; 'window' cuts that from the original image, enlarged only if it is smaller;
      'stretch' resizes and ignores the aspect; 'scales' cuts patches of the wanted size at random scales: what 'center'
      cuts is resized to any size between the wanted one and its own. Worlds are drawn four times as fine.
    flip: mirror half of the images at random.
    outside: training also sees windows beside the frame, up to this many frames away from it along each axis, measured
      as in `pegan_jax.analysis.extrapolation`; 0: the frame alone. An image is fitted to 1 + 2 outside frames; the
      middle one is the frame, [-1, 1] in coordinates. Worlds are drawn as they are there.
    frame_share: with outside, or crop='scales', the share of images that training sees in the frame, at the wanted
      size; windows, or patches, of the others lie anywhere.
    labels: read the class of every image: its label in a TFDS dataset, the sub-folder that it is in, or what
      `dataset.json` in the folder or ZIP file says.
    edges: add a line drawing of every image: computed by 'canny' or 'dog', or from 'files', those of a folder that are
      named like an image plus `_edge` (photo.jpg: photo_edge.png). A model that is trained with one kind expects this
      kind.
    cache: keep decoded images in memory (small datasets).
    max_pixels: larger images are refused before they are decoded.
    """

    tfds: str | None = 'worlds'
    folder: str | None = None
    image: str | None = None
    split: str = 'train'
    data_dir: str | None = None
    num_worlds: int = 4096
    resolution: int | tuple[int, int] = 64
    channels: Literal[1, 3, 4] = 3
    crop: Literal['center', 'random', 'window', 'stretch', 'scales'] = 'center'
    flip: bool = True
    outside: float = 0.0
    frame_share: float = 0.5
    labels: bool = False
    edges: Literal['none', 'canny', 'dog', 'files'] = 'none'
    cache: bool = False
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        check_types(self)
        not_empty(self, 'tfds', 'folder', 'image', 'data_dir')
        if self.folder is not None and self.image is not None:
            raise ConfigError(
                f'data.folder={self.folder!r} and data.image={self.image!r} exclude each other; set one of them.'
            )
        if self.tfds is None and self.folder is None and self.image is None:
            raise ConfigError("no data: set one of data.tfds='worlds', data.folder=PATH, data.image=PATH.")
        if min(self.size) < 1:
            raise ConfigError(f'data.resolution={self.resolution} must be positive.')
        if self.edges == 'files' and self.folder is None:
            raise ConfigError(
                "data.edges='files' are files in data.folder, which is not set; or use data.edges='canny'."
            )
        at_least(self, 'num_worlds', 1)
        at_least(self, 'max_pixels', 1)
        if self.outside and not 1 <= self.outside * min(self.size) < math.inf:
            raise ConfigError(
                f'data.outside={self.outside} is a distance in frames, which are of {self.resolution} pixels: use 0.0, '
                f'or at least one pixel, {1 / min(self.size):g}.'
            )
        if self.outside and self.crop in ('random', 'window', 'scales'):
            why = 'patches lie in the frame' if self.crop == 'scales' else 'a random crop has no place in a frame'
            raise ConfigError(
                f'data.outside={self.outside} and data.crop={self.crop!r} exclude each other, as {why}; use '
                "data.crop='center' or 'stretch'."
            )
        if not 0 <= self.frame_share <= 1:
            raise ConfigError(f'data.frame_share={self.frame_share} must lie in [0, 1].')

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution

    @property
    def margin(self) -> tuple[int, int]:
        """The largest distance of windows above or below the frame, and beside it, in pixels."""
        return round(self.outside * self.size[0]), round(self.outside * self.size[1])

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) in pixels of the frame with its margin; windows are cut from it."""
        return self.size[0] + 2 * self.margin[0], self.size[1] + 2 * self.margin[1]


@dataclass(frozen=True)
class OptimConfig:
    """Adam for both networks, before the correction for lazy regularisation; eps is added to the root, as in Optax."""

    g_lr: float = 0.002
    d_lr: float = 0.002
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('g_lr', 'd_lr', 'eps'):
            at_least(self, name, 0.0)
        if self.eps == 0:
            raise ConfigError('optim.eps=0 divides nothing by nothing where there is no gradient; use 1e-8.')
        for name in ('beta1', 'beta2'):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f'optim.{name}={getattr(self, name)} must lie in [0, 1).')


@dataclass(frozen=True)
class TrainConfig:
    """The loop. `batch_size` counts the images of a step over all devices and processes; `*_every` count steps.

    total_kimg: length of the run in thousands of real images shown; a SinGAN runs model.iters_per_scale for each scale.
    sample_every, checkpoint_every: 0 is never; a run that makes a step saves a checkpoint at its end in any case.
    backend: 'jit' (shard_map under jit) or 'pmap'.
    keep: how many of the newest checkpoints are kept.
    metrics: names of scores, such as ('fid10k', 'kid10k'), measured when a checkpoint is saved; see docs/metrics.md.
    keep_best: how many more checkpoints are kept for the best number of the first of `metrics`; without metrics, for
      the lowest `swd`, the sliced Wasserstein distance between `metric_images` samples and as many real images,
      measured when a checkpoint is saved; 0: not measured.
    inner_steps: steps that one program makes in a loop on the device, where this many in a row are alike and nothing is
      due between them: less time between short steps on a GPU or TPU, the same results. On a CPU, gradients of
      convolutions are many times slower in a loop.
    sample_grid: (rows, columns) of the sample image.
    logger: 'wandb' also sends numbers and sample images to Weights & Biases; the environment variable WANDB_PROJECT
      names the project, WANDB_MODE=offline keeps everything in the workdir. None: only metrics.jsonl and TensorBoard.
    checksums: write and verify SHA-256 sums of every checkpoint.
    compilation_cache: folder that keeps compiled programs, so that a second launch does not compile again; None: off.
      The environment variable JAX_COMPILATION_CACHE_DIR takes precedence.
    accumulate: parts of a batch that every device computes one after the other, averaging their gradients: less memory,
      and the numbers of that many times more devices (what is computed from a whole batch per device, such as the
      deviation over a minibatch or batch normalisation, sees the smaller parts).
    remat: for gradients, keep only the results of convolutions and matmuls and compute the others again: less memory,
      more work, the same numbers.
    non_finite: what happens when a loss or a gradient is not finite: 'stop' ends the run at the last good checkpoint;
      'skip' leaves this update out, which `gradients/skipped` counts, and ends the run if all steps of a log
      interval, and at least two in a row, had one. StyleGAN2 and 3 and CREPS replace non-finite numbers in gradients,
      as published, and stop for losses alone.
    init_from: a run's working directory, what `convert` or `export` made, a model that ships, or hf://user/name. A new
      run begins with the networks in its newest checkpoint, and with a fresh discriminator if that has none;
      optimisers begin anew. Running means continue as if they had warmed up, and a blur of the first images is over.
    init_partial: take what fits of init_from's networks, such as everything but the first layers of another resolution
      or another number of classes; the log says what begins anew.
    """

    batch_size: int = 32
    total_kimg: float = 25_000.0
    seed: int = 0
    backend: Literal['jit', 'pmap'] = 'jit'
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 5000
    keep: int = 2
    metrics: tuple[str, ...] = ()
    keep_best: int = 1
    metric_images: int = 256
    inner_steps: int = 1
    sample_grid: tuple[int, int] = (4, 8)
    logger: Literal['wandb'] | None = None
    checksums: bool = True
    compilation_cache: str | None = '~/.cache/pegan_jax'
    accumulate: int = 1
    remat: bool = False
    non_finite: Literal['stop', 'skip'] = 'stop'
    init_from: str | None = None
    init_partial: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        not_empty(self, 'compilation_cache', 'init_from')
        for name in ('batch_size', 'log_every', 'keep', 'inner_steps', 'accumulate'):
            at_least(self, name, 1)
        for name in ('total_kimg', 'seed', 'sample_every', 'checkpoint_every', 'keep_best', 'metric_images'):
            at_least(self, name, 0)
        if self.seed >= 2**32:
            raise ConfigError(f'train.seed={self.seed} must be below 2^32 = {2**32}, such as {self.seed % 2**32}.')
        if self.total_kimg * 1000 >= 2**31:
            raise ConfigError(
                f'train.total_kimg={self.total_kimg:g} must be below {2**31 / 1000:,.0f}: 32 bits count images.'
            )
        if min(self.sample_grid) < 1:
            raise ConfigError(f'train.sample_grid={self.sample_grid} needs at least one row and one column.')
        if self.keep_best and self.metric_images < 2:
            raise ConfigError(
                f'train.keep_best={self.keep_best} needs train.metric_images of at least 2, got {self.metric_images}.'
            )

    @property
    def total_images(self) -> int:
        """Images of the whole run; its last step may overshoot this by less than a batch."""
        return math.ceil(round(self.total_kimg * 1000, 6))  # 0.07 * 1000 is a little above 70

    def steps_for(self, images: int) -> int:
        """Steps that show this many images, or less than a batch more."""
        return max(0, -(-images // self.batch_size))

    @property
    def total_steps(self) -> int:
        """Steps of a run that has this batch size from the start."""
        return self.steps_for(self.total_images)


# Checks ---------------------------------------------------------------------------------------------------------------


def nearest(name: str, candidates: typing.Iterable[str]) -> str:
    """'; did you mean ...?' with the closest of the candidates, or nothing if none is close."""
    found = difflib.get_close_matches(name, list(candidates), n=1)
    return f'; did you mean {found[0]!r}?' if found else ''


def _section(config: Any) -> str:
    """The section of a dataclass: 'data' for DataConfig, 'model' for a system's Config."""
    return type(config).__name__.removesuffix('Config').lower() or 'model'


def at_least(config: Any, name: str, low: float) -> None:
    """Raises ConfigError unless field `name` of the dataclass is >= low and finite."""
    if not low <= getattr(config, name) < math.inf:
        raise ConfigError(f'{_section(config)}.{name}={getattr(config, name)} must be at least {low}, and finite.')


def check_labels(data: DataConfig, c_dim: int) -> None:
    """Raises ConfigError unless data have labels if, and only if, a model takes labels."""
    if bool(c_dim) != data.labels:
        raise ConfigError(
            f'model.c_dim={c_dim} with data.labels={data.labels}: set data.labels=True and model.c_dim to the number '
            'of classes, or False and 0.'
        )


def not_empty(config: Any, *names: str) -> None:
    """Raises ConfigError if one of these fields of the dataclass is an empty string, which names nothing."""
    for name in names:
        if getattr(config, name) == '':
            raise ConfigError(
                f'{_section(config)}.{name} is empty; write --config.{_section(config)}.{name}=VALUE, or leave it out.'
            )


def matches(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type; an int is a float, a bool is not a number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, a) for a in args)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(matches(v, args[0]) for v in value)
        return len(value) == len(args) and all(map(matches, value, args))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return ' or '.join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace('typing.', '')


def check_types(config: Any, section: str | None = None) -> None:
    """Raises ConfigError naming the first field of a dataclass whose value does not have the annotated type.

    section: how the error names the dataclass; None: by its type.
    """
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if not matches(value, hints[f.name]):
            raise ConfigError(
                f'{section or _section(config)}.{f.name}={value!r} is a {type(value).__name__}; '
                f'expected {_type_name(hints[f.name])}.'
            )
