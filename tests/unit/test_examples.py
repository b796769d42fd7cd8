"""Every command that help texts, pages and configurations show is one that the command line takes."""

import ast
import dataclasses
import importlib
import json
import pathlib
import re
import shlex
import tomllib

import pytest

from pegan_jax import cli
from pegan_jax.config import load_config
from pegan_jax.models import SYSTEMS
from pegan_jax.settings import DataConfig, OptimConfig, TrainConfig

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').rglob('*.md')),
    *sorted((ROOT / 'configs').glob('*.py')),
]
WITHOUT_MODEL = {'analyze', 'convert', 'edges', 'evaluate', 'inpaint', 'study', 'train'}
COMMAND = re.compile(r'(?:python -m pegan_jax|python train\.py) +(?!COMMAND|--help)([^`\n|"]*)')


def shown():
    """Words of every command that is shown somewhere, without those that leave something out."""
    for page in PAGES:
        text = page.read_text().replace('\\\n', ' ')
        if page.suffix == '.md':  # an inline command may go over lines
            text = re.sub(r'(?<!`)`([^`]+)`(?!`)', lambda code: code[0].replace('\n', ' '), text)
        for found in COMMAND.finditer(text):
            words = shlex.split(found[1], comments=True)
            if len(words) < 2 or '[' in found[1] or 'ARGUMENTS' in found[1] or '...' in found[1]:
                continue  # the name of a command, or how it is put together
            yield (
                str(page.relative_to(ROOT)),
                words if 'pegan_jax' in found[0].split(found[1])[0] else ['train', *words],
            )
    for found in COMMAND.finditer(cli.EPILOG):
        yield 'help', shlex.split(found[1])
    for name, module in cli.COMMANDS.items():
        lines = re.split(r'examples.*:\n', module.EPILOG)[-1].splitlines() if 'examples' in module.EPILOG else []
        for line in filter(str.strip, lines):
            words = shlex.split(re.split(r'\s{2,}', line.strip())[0])
            model = [] if name in WITHOUT_MODEL else ['--model', 'W']
            yield f'{name} --help', [name, *([] if '--model' in words else model), *words]


@pytest.mark.parametrize('place, words', [pytest.param(*e, id=f'{e[0]}: {" ".join(e[1])[:70]}') for e in shown()])
def test_a_command_that_is_shown_can_be_typed(place, words, monkeypatch):
    args = cli.parse(words)
    assert args.command in cli.COMMANDS
    if args.command == 'train' and not re.fullmatch(r'[A-Z.]+|RUN/config.json', args.config):
        monkeypatch.chdir(ROOT)
        load_config(args.config, [o for o in args.overrides if not o.split('=')[-1].isupper()])


def test_there_are_examples_everywhere():
    places = {place for place, _ in shown()}
    assert {str(page.relative_to(ROOT)) for page in (ROOT / 'docs' / 'tutorials').iterdir()} <= {
        *places,
        'docs/tutorials/colab.md',  # whose commands are those of notebooks
    }
    assert {
        'README.md',
        'docs/index.md',
        'docs/train.md',
        'help',
        'sample --help',
        'render --help',
        'inpaint --help',
    } <= places


@pytest.mark.parametrize('page', [p for p in PAGES if p.suffix == '.md'], ids=lambda p: str(p.relative_to(ROOT)))
def test_extras_scripts_and_notebooks_that_a_page_names_are_there(page):
    text, extras = page.read_text(), tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    for names in re.findall(r"(?:pegan_jax|[' ]\.)\[([a-z,]+)\]", text):
        assert set(names.split(',')) <= extras['optional-dependencies'].keys(), names
    for path in re.findall(r'(?:benchmarks|colab|configs|docs)/\w+\.(?:py|ipynb)', text):
        assert (ROOT / path).is_file() or path.endswith(('/new.py', '/NAME.py')), path


@pytest.mark.parametrize('path', sorted((ROOT / 'colab').glob('*.ipynb')), ids=lambda path: path.stem)
def test_what_a_notebook_imports_is_there(path):
    cells = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    lines = [line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(('%', '!'))]
    found = [n for n in ast.walk(ast.parse('\n'.join(lines))) if isinstance(n, ast.ImportFrom) and 'pegan' in n.module]
    assert found
    for node in found:
        module = importlib.import_module(node.module)
        for name in node.names:
            assert hasattr(module, name.name) or importlib.import_module(f'{node.module}.{name.name}'), name.name


def test_the_page_for_users_of_official_programs_names_fields_that_a_system_has():
    fields = {f'model.{f.name}' for system in SYSTEMS.values() for f in dataclasses.fields(system.Config)}
    for section, settings in (('data', DataConfig), ('optim', OptimConfig), ('train', TrainConfig)):
        fields |= {f'{section}.{f.name}' for f in dataclasses.fields(settings)}
    page = re.sub(r'train\.py', '', (ROOT / 'docs' / 'convert.md').read_text())
    named = set(re.findall(r'\b(?:data|model|optim|train)\.\w+', page))
    assert len(named) > 30 and named <= fields, named - fields
