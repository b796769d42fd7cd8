"""The code is linted and formatted."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('arguments', [['check'], ['format', '--check']], ids=['lint', 'format'])
def test_ruff_has_nothing_to_say(arguments):
    result = subprocess.run(
        [sys.executable, '-m', 'ruff', *arguments, '--quiet', '.'], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
