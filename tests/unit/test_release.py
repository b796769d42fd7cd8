"""The version stands in one place, and what goes with a release agrees with it and with the code."""

import importlib
import pathlib
import re
import tomllib

import pytest
import yaml

import pegan_jax

ROOT = pathlib.Path(__file__).parents[2]
CITATION = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
NAMES = re.findall(r'`([A-Za-z_./]+)`', (ROOT / 'CONTRIBUTING.md').read_text())


def test_the_version_stands_in_the_package_and_everything_else_agrees():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    assert 'version' in project['project']['dynamic'] and 'version' not in project['project']
    assert project['tool']['hatch']['version']['path'] == 'pegan_jax/__init__.py'
    newest = re.search(r'^## (\S+?),? ', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert newest[1] == CITATION['version'] == pegan_jax.__version__
    assert CITATION['license'] == project['project']['license']


def test_every_paper_of_the_table_of_systems_can_be_cited():
    titles = ' '.join(paper['title'] for paper in CITATION['references'])
    assert all(paper['authors'] and paper['year'] for paper in CITATION['references'])
    rows = re.findall(r'^\| [^|]+ \| ([^|]*\*[^|]*) \|', (ROOT / 'README.md').read_text(), re.MULTILINE)
    papers = [title for row in rows for title in re.findall(r'\*([^*]+)\*', row)]
    assert len(papers) >= 8 and not [title for title in papers if title not in titles]


@pytest.mark.parametrize('name', sorted({n for n in NAMES if '/' in n and 'NAME' not in n and not n.startswith('--')}))
def test_the_contributing_page_names_files_that_exist(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize('name', sorted({n for n in NAMES if re.fullmatch(r'[a-z]+(\.[a-z]+)*(\.[A-Za-z_]+)', n)}))
def test_the_contributing_page_names_code_that_exists(name):
    module, _, member = name.rpartition('.')
    if name == 'metrics.jsonl':
        return
    try:
        importlib.import_module(f'pegan_jax.{name}')
    except ImportError:
        assert hasattr(importlib.import_module(f'pegan_jax.{module}'), member)
