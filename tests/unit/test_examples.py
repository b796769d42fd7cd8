"""Every command that help texts, pages and configurations show is one that the command line takes."""

import pathlib
import re
import shlex

import pytest

from pegan_jax import cli
from pegan_jax.config import load_config

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')), *sorted((ROOT / 'configs').glob('*.py'))]
WITHOUT_MODEL = {'analyze', 'convert', 'edges', 'evaluate', 'inpaint', 'study'}
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
            yield page.name, words if 'pegan_jax' in found[0].split(found[1])[0] else ['train', *words]
    for found in COMMAND.finditer(cli.EPILOG):
        yield 'help', shlex.split(found[1])
    for name, module in cli.COMMANDS.items():
        lines = module.EPILOG.partition('examples:')[2].splitlines()
        for line in filter(str.strip, lines):
            words = shlex.split(re.split(r'\s{2,}', line.strip())[0])
            model = [] if name in WITHOUT_MODEL else ['--model', 'W']
            yield f'{name} --help', [name, *([] if '--model' in words else model), *words]


@pytest.mark.parametrize('place, words', [pytest.param(*e, id=f'{e[0]}: {" ".join(e[1])[:70]}') for e in shown()])
def test_a_command_that_is_shown_can_be_typed(place, words, monkeypatch):
    args = cli.parse(words)
    assert args.command in cli.COMMANDS
    if args.command == 'train' and not re.fullmatch(r'[A-Z.]+', args.config):
        monkeypatch.chdir(ROOT)
        load_config(args.config, [o for o in args.overrides if not o.split('=')[-1].isupper()])


def test_there_are_examples_everywhere():
    places = {place for place, _ in shown()}
    assert {'README.md', 'help', 'sample --help', 'render --help', 'inpaint --help'} <= places
