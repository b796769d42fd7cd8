"""The code is linted and formatted, and importing the package stays light."""

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


def test_importing_the_package_imports_no_dataset_library_and_no_other_framework():
    code = 'import sys, pegan_jax; print(sorted({m.split(".")[0] for m in sys.modules}))'
    modules = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    heavy = [m for m in ('tensorflow', 'tensorflow_datasets', 'grain', 'torch') if f"'{m}'" in modules]
    assert "'pegan_jax'" in modules and not heavy
