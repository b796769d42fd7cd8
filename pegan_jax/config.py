"""Configurations: a whole run, files that build one, overrides and JSON.

A configuration file is Python with `get_config(arg='') -> Config`;
`load_config('configs/cips.py:tiny', ['optim.g_lr=0.001'])` calls it and replaces single fields. Every error names the
field, the value it got and what would be accepted. A configuration file finds all that it needs here, including the
sections and `ConfigError` of `pegan_jax.settings`.
"""

import ast
import dataclasses
import importlib.util
import inspect
import json
import pathlib
import re
import sys
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from pegan_jax.files import Path, as_path, on_disk
from pegan_jax.metrics.names import parse_all
from pegan_jax.models import SYSTEMS
from pegan_jax.settings import ConfigError, DataConfig, OptimConfig, TrainConfig, check_types, matches, nearest

__all__ = [
    'Config',
    'ConfigError',
    'DataConfig',
    'OptimConfig',
    'TrainConfig',
    'from_dict',
    'from_json',
    'load_config',
    'merge',
    'override',
    'pick',
    'system_module',
    'to_dict',
    'to_json',
]


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
        check_types(self, 'config')
        if not isinstance(self.model, module.Config):
            raise ConfigError(f'model={type(self.model).__name__} is not the configuration of system={self.system!r}.')
        if self.model.img_channels != self.data.channels:
            raise ConfigError(
                f'model.img_channels={self.model.img_channels} differs from data.channels={self.data.channels}: set '
                'both to 1 (grey), 3 (RGB) or 4 (RGBA).'
            )
        if self.data.outside and not getattr(self.model, 'd_sees_coords', False):
            fix = 'set it to 0.0; CIPS and StyleGAN3 learn windows outside'
            if hasattr(self.model, 'd_sees_coords'):
                fix = 'set model.d_sees_coords=True, or G may show anything anywhere'
            raise ConfigError(
                f'data.outside={self.data.outside}, but the discriminator of {self.system} does not see where a window '
                f'is: {fix}.'
            )
        if self.data.crop == 'scales' and not hasattr(self.model, 'scale_layers'):
            raise ConfigError(
                f"data.crop='scales': {self.system} cannot show a patch of a finer image; use stylegan3, or "
                "data.crop='center' or 'random'."
            )
        if self.data.labels and not hasattr(self.model, 'c_dim'):
            raise ConfigError(f'data.labels=True, but {self.system} takes no labels; set data.labels=False.')
        if self.data.edges != 'none' and not hasattr(self.model, 'guided'):
            raise ConfigError(
                f"data.edges={self.data.edges!r}, but {self.system} takes no sketches; set data.edges='none', or use "
                'deepfill with model.guided=True.'
            )
        module.validate(self)
        if self.train.metrics:
            parse_all(self.train.metrics)


def system_module(name: str) -> types.ModuleType:
    """The module of a system. Raises ConfigError naming the known ones."""
    if name not in SYSTEMS:
        raise ConfigError(f'unknown system {name!r}{nearest(name, SYSTEMS)}; known: {", ".join(sorted(SYSTEMS))}.')
    return SYSTEMS[name]


def _config_path(name: str) -> Path:
    """The given path, or the file of a configuration that ships with the package, by its name."""
    package = pathlib.Path(__file__).parent
    shipped = next(p for p in (package / 'configs', package.parent / 'configs') if p.is_dir())
    given = pathlib.PurePath(name)
    bare = given.parent in (pathlib.PurePath(), pathlib.PurePath('configs'))  # any other folder means that very file
    ours = [shipped / given.name, shipped / f'{given.name}.py'] if bare else []
    for path in (as_path(name), *ours):
        if path.is_file():
            return path
    known = sorted(p.stem for p in shipped.glob('*.py'))
    stem = pathlib.Path(name).stem
    raise ConfigError(f'no configuration file {name!r}{nearest(stem, known)}; shipped: {", ".join(known)}.')


def _split(spec: str) -> tuple[str, str]:
    """'path.py:arg' -> its two parts; a path that has colons itself is recognised because its file exists."""
    places = [i for i, letter in enumerate(spec) if letter == ':']
    for i in (len(spec), *reversed(places)):
        if as_path(spec[:i]).is_file():
            return spec[:i], spec[i + 1 :]
    name, _, arg = spec.partition(':')
    return name, arg


def load_config(spec: str, overrides: typing.Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
      spec: 'path.py' or the name of a shipped file, then optionally ':arg'; arguments combine with commas ('cips:a,b');
        or the config.json of a run.
      overrides: 'a.b=value' strings; the value is a Python literal, or else a string.
    Raises: ConfigError.
    """
    name, arg = _split(spec)
    path = _config_path(name)
    if path.suffix == '.json':
        if arg:
            raise ConfigError(f'{path} is the configuration of a run, which takes no argument {arg!r}; leave it out.')
        try:
            return override(from_json(path.read_text()), overrides)
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise ConfigError(f'{path} is not the config.json of a run: {error}.') from None
    if path.suffix != '.py':
        raise ConfigError(f'{path} is no configuration, which is a Python file (.py) or the config.json of a run.')
    module_spec = importlib.util.spec_from_file_location(f'pegan_jax_config_{path.stem}', on_disk(path))
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
        hint = nearest(unknown[2], fields)
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
                f'{file} has no argument {word!r}{nearest(word, choices)}; known: {", ".join(sorted(choices))}.'
            )
    if {'small', 'tiny'} <= set(words):
        raise ConfigError(f'{file}: small and tiny exclude each other; choose one of them.')
    return words


def merge(words: typing.Sequence[str], changes: dict[str, dict], file: str) -> dict:
    """The fields of the model that words set together. Raises ConfigError if two of them disagree.

    changes: {word: {field: value}}; other words set nothing.
    """
    fields, by = {}, {}
    for word in words:
        for name, value in changes.get(word, {}).items():
            if fields.get(name, value) != value:
                raise ConfigError(
                    f'{file}: {by[name]} and {word} exclude each other, as both set model.{name}; choose one of them.'
                )
            fields[name], by[name] = value, word
    return fields


def override(config: Config, overrides: typing.Sequence[str]) -> Config:
    """Replaces fields, such as 'model.hidden_size=64', all at once, then validates."""
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
                raise ConfigError(f'unknown config field {path!r}: {where} has no {name!r}{nearest(name, known)}')
            if i < len(parents):
                node = node[name]
                section = system_module(tree['system']).Config if name == 'model' else hints.get(name)
                hints = typing.get_type_hints(section) if dataclasses.is_dataclass(section) else {}
        if isinstance(node[last], dict):
            raise ConfigError(f'{path} is a section; override one of its fields: {", ".join(node[last])}.')
        node[last] = _parse(text, hints[last])
    return from_dict(tree)


def _parse(text: str, hint: Any) -> Any:
    """A Python literal if it fits the field's type, else the text itself; 'true', 'false', 'none' in any case."""
    lower = text.lower()
    value: Any = {'true': True, 'false': False, 'none': None}.get(lower, text)
    if value is text:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pass
    if hint == tuple[str, ...] and isinstance(value, str):  # fid10k,kid10k
        return tuple(part.strip() for part in value.split(',') if part.strip())
    if matches(text, hint) and not matches(value, hint):
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
            raise ConfigError(f'unknown config field {name!r} in {where}{nearest(name, names)}')
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
    """JSON text of a configuration; `from_json` returns an equal one."""
    return json.dumps(to_dict(config), indent=2)


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote."""
    return from_dict(json.loads(text))
