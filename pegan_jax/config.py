"""Configurations: frozen dataclasses that validate themselves, files that build them, overrides and JSON.

A configuration file is Python with `get_config(arg='') -> Config`;
`load_config('configs/cips.py:tiny', ['optim.g_lr=0.001'])` calls it and replaces single fields. Every error names the
field, the value it got and what would be accepted.
"""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
import pathlib
import re
import sys
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """A configuration that cannot run; the message says which field, what it got and what to do."""


@dataclass(frozen=True)
class DataConfig:
    """Where images come from. `image` or `folder`, when set, is read instead of `tfds`.

    tfds: name of a TFDS dataset prepared as ArrayRecord, or 'worlds', which is prepared on first use.
    folder: path of a folder of images, searched recursively, or of a ZIP file of images that are not compressed again.
    image: path of one image.
    split: TFDS split, slices included ('train[:90%]').
    data_dir: TFDS data directory; None: the TFDS default, and `<workdir>/tfds` for 'worlds'.
    num_worlds: how many images 'worlds' holds.
    resolution: side, or (height, width), of the images that training sees.
    crop: 'center' cuts the largest window of the wanted aspect and resizes it; 'random' resizes the same way and cuts a
      random window of the wanted size; 'window' cuts that from the image as it is, enlarged only where it is smaller;
      'stretch' resizes and ignores the aspect.
    flip: mirror half of the images at random.
    labels: read the class of every image: of a TFDS dataset its label, of a folder the sub-folder that an image is in,
      or what `dataset.json` in the folder or ZIP file says.
    edges: give a drawing of the lines of every image: computed by 'canny' or 'dog', or from 'files', those of a folder
      that are named as an image with `_edge` behind (photo.jpg: photo_edge.png). A model that is trained with one kind
      expects this kind.
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
    crop: Literal['center', 'random', 'window', 'stretch'] = 'center'
    flip: bool = True
    labels: bool = False
    edges: Literal['none', 'canny', 'dog', 'files'] = 'none'
    cache: bool = False
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        check_types(self)
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

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution


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
        for name in ('beta1', 'beta2'):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f'optim.{name}={getattr(self, name)} must lie in [0, 1).')


@dataclass(frozen=True)
class TrainConfig:
    """The loop. `batch_size` counts images of a step over all devices and processes; `*_every` count steps, 0 is never.

    total_kimg: length of the run in thousands of real images shown.
    backend: 'jit' (shard_map under jit) or 'pmap'.
    keep: newest checkpoints kept.
    keep_best: checkpoints kept besides for the lowest `swd`, the sliced Wasserstein distance between `metric_images`
      samples and as many real images, measured when a checkpoint is saved; 0: not measured.
    inner_steps: steps that one program makes in a loop on the device, where so many in a row are alike and nothing is
      due between them: less time between short steps on a GPU or TPU, the same results. On a CPU gradients of
      convolutions are many times slower in a loop.
    sample_grid: (rows, columns) of the sample image.
    checksums: write and verify SHA-256 sums of every checkpoint.
    init_from: a run's working directory, or what `convert` made: a new run begins with the networks in its newest
      checkpoint, and with a fresh discriminator where that has none; optimisers begin anew.
    """

    batch_size: int = 32
    total_kimg: float = 25_000.0
    seed: int = 0
    backend: Literal['jit', 'pmap'] = 'jit'
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 5000
    keep: int = 2
    keep_best: int = 1
    metric_images: int = 256
    inner_steps: int = 1
    sample_grid: tuple[int, int] = (4, 8)
    checksums: bool = True
    init_from: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('batch_size', 'log_every', 'keep', 'inner_steps'):
            at_least(self, name, 1)
        for name in ('total_kimg', 'seed', 'sample_every', 'checkpoint_every', 'keep_best', 'metric_images'):
            at_least(self, name, 0)
        if min(self.sample_grid) < 1:
            raise ConfigError(f'train.sample_grid={self.sample_grid} needs at least one row and one column.')
        if self.keep_best and self.metric_images < 2:
            raise ConfigError(
                f'train.keep_best={self.keep_best} needs train.metric_images of at least 2, got {self.metric_images}.'
            )

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; the last one may overshoot total_kimg by less than a batch."""
        return -int(-self.total_kimg * 1000 // self.batch_size)


@dataclass(frozen=True)
class Config:
    """A whole run. `model` is the configuration dataclass of `system` (a name in `pegan_jax.models.SYSTEMS`)."""

    system: str
    model: Any
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        module = system_module(self.system)
        check_types(self)
        if not isinstance(self.model, module.Config):
            raise ConfigError(f'model={type(self.model).__name__} is not the configuration of system={self.system!r}.')
        module.validate(self)


def system_module(name: str) -> types.ModuleType:
    """The module of a system. Raises ConfigError naming the known ones."""
    from pegan_jax.models import SYSTEMS

    if name not in SYSTEMS:
        raise ConfigError(f'unknown system {name!r}{_nearest(name, SYSTEMS)}; known: {", ".join(sorted(SYSTEMS))}.')
    return SYSTEMS[name]


# Checks ---------------------------------------------------------------------------------------------------------------


def _nearest(name: str, candidates: typing.Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(candidates), n=1)
    return f'; did you mean {found[0]!r}?' if found else ''


def _section(config: Any) -> str:
    """The section of a dataclass: 'data' for DataConfig, 'model' for a system's Config, 'config' for the whole."""
    return 'config' if type(config) is Config else type(config).__name__.removesuffix('Config').lower() or 'model'


def at_least(config: Any, name: str, low: float) -> None:
    """Raises ConfigError unless field `name` of the dataclass is >= low."""
    if getattr(config, name) < low:
        raise ConfigError(f'{_section(config)}.{name}={getattr(config, name)} must be at least {low}.')


def _matches(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, a) for a in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_matches(v, args[0]) for v in value)
        return len(value) == len(args) and all(map(_matches, value, args))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return ' or '.join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace('typing.', '')


def check_types(config: Any) -> None:
    """Raises ConfigError naming the first field of a dataclass whose value does not have the annotated type."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if not _matches(value, hints[f.name]):
            raise ConfigError(
                f'{_section(config)}.{f.name}={value!r} is a {type(value).__name__}; '
                f'expected {_type_name(hints[f.name])}.'
            )


# Files, overrides, JSON -----------------------------------------------------------------------------------------------


def _config_path(name: str) -> pathlib.Path:
    """A path as it is given, or a name among the configurations that come with the package."""
    package = pathlib.Path(__file__).parent
    shipped = next(p for p in (package / 'configs', package.parent / 'configs') if p.is_dir())
    for path in (pathlib.Path(name), shipped / pathlib.Path(name).name, shipped / f'{name}.py'):
        if path.is_file():
            return path
    known = sorted(p.stem for p in shipped.glob('*.py'))
    stem = pathlib.Path(name).stem
    raise ConfigError(f'no configuration file {name!r}{_nearest(stem, known)}; shipped: {", ".join(known)}.')


def load_config(spec: str, overrides: typing.Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
      spec: 'path.py' or the name of a shipped file, then optionally ':arg'; arguments combine with commas ('cips:a,b').
      overrides: 'a.b=value' strings; the value is a Python literal, or else a string.
    Raises: ConfigError.
    """
    name, _, arg = spec.partition(':')
    path = _config_path(name)
    module_spec = importlib.util.spec_from_file_location(f'pegan_jax_config_{path.stem}', path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
        raise ConfigError(f"{path} defines no get_config(arg='').")
    try:
        config = module.get_config(arg)
    except TypeError as error:
        unknown = re.search(r"^(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if not unknown:
            raise
        fields = [f.name for c in _dataclasses(module) for f in dataclasses.fields(c)]
        hint = _nearest(unknown[2], fields)
        raise ConfigError(f'unknown field {unknown[2]!r} of {unknown[1]} in {path}{hint}') from None
    if not isinstance(config, Config):
        raise ConfigError(f'get_config of {path} returned {type(config).__name__}; expected Config.')
    return override(config, overrides)


def _dataclasses(module: types.ModuleType) -> list[type]:
    sections = [c for c in globals().values() if inspect.isclass(c) and dataclasses.is_dataclass(c)]
    imported = [getattr(m, 'Config', None) for m in vars(module).values() if inspect.ismodule(m)]
    return sections + [c for c in imported if c and dataclasses.is_dataclass(c)]


def pick(arg: str, choices: typing.Iterable[str], file: str) -> list[str]:
    """Splits a configuration file's argument ('churches256,tiny') and refuses words that are not among `choices`."""
    words = [w for w in arg.split(',') if w]
    for word in words:
        if word not in choices:
            raise ConfigError(
                f'{file} has no argument {word!r}{_nearest(word, choices)}; known: {", ".join(sorted(choices))}.'
            )
    if {'small', 'tiny'} <= set(words):
        raise ConfigError(f'{file}: small and tiny exclude each other; choose one of them.')
    return words


def override(config: Config, overrides: typing.Sequence[str]) -> Config:
    """Replaces fields: 'model.hidden_size=64' and the like; all of them at once, then validates."""
    tree = to_dict(config)
    for item in overrides:
        path, sep, text = item.partition('=')
        if not sep:
            raise ConfigError(f'override {item!r} has no value; write --config.{path}=VALUE.')
        *parents, last = path.split('.')
        node, hints = tree, typing.get_type_hints(Config)
        for i, name in enumerate([*parents, last]):
            if not isinstance(node, dict) or name not in node:
                where = '.'.join(parents[:i]) or 'Config'
                known = node if isinstance(node, dict) else []
                raise ConfigError(f'unknown config field {path!r}: {where} has no {name!r}{_nearest(name, known)}')
            if i < len(parents):
                node = node[name]
                section = system_module(tree['system']).Config if name == 'model' else hints.get(name)
                hints = typing.get_type_hints(section) if dataclasses.is_dataclass(section) else {}
        if isinstance(node[last], dict):
            raise ConfigError(f'{path} is a section; override one of its fields: {", ".join(node[last])}.')
        node[last] = _parse(text, hints[last])
    return from_dict(tree)


def _parse(text: str, hint: Any) -> Any:
    """A Python literal where it fits the field's type, else the text itself; 'true', 'false', 'none' in any case."""
    lower = text.lower()
    value: Any = {'true': True, 'false': False, 'none': None}.get(lower, text)
    if value is text:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    if _matches(text, hint) and not _matches(value, hint):
        return text
    return value


def to_dict(config: Any) -> dict:
    """Nested plain dictionaries of a configuration; tuples stay tuples."""
    return {
        f.name: to_dict(v) if dataclasses.is_dataclass(v := getattr(config, f.name)) else v
        for f in dataclasses.fields(config)
    }


def _build(cls: type, tree: dict, where: str) -> Any:
    names = {f.name for f in dataclasses.fields(cls)}
    for name in tree:
        if name not in names:
            raise ConfigError(f'unknown config field {name!r} in {where}{_nearest(name, names)}')
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()})


def from_dict(tree: dict) -> Config:
    """Inverse of `to_dict`; lists become tuples. Raises ConfigError for unknown fields, wrong types and the like."""
    tree = dict(tree)
    sections = {'data': DataConfig, 'optim': OptimConfig, 'train': TrainConfig}
    if 'system' in tree and 'model' in tree:
        sections['model'] = system_module(tree['system']).Config
    for name, cls in sections.items():
        if name in tree:
            tree[name] = _build(cls, tree[name], name)
    return _build(Config, tree, 'Config')


def to_json(config: Config) -> str:
    """JSON text of a configuration; `from_json` gives an equal one back."""
    return json.dumps(to_dict(config), indent=2)


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote."""
    return from_dict(json.loads(text))
