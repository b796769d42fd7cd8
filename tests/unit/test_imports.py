"""Imports go down only, importing the package is light, and errors meant for users have their class."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_imports_go_down_only_and_never_in_circles():
    told = run('-c', 'from importlinter.cli import lint_imports_command as lint; lint()', '--no-cache')
    assert 'Contracts: 2 kept, 0 broken.' in told


def test_an_import_inside_a_function_is_of_a_heavy_library_and_says_so():
    heavy = (
        'grain',
        'fsspec',
        'huggingface_hub',
        'imageio',
        'pillow_heif',
        'scipy',
        'skimage',
        'tensorboardX',
        'wandb',
        'pegan_jax.data.records',
        'pegan_jax.explorer',
        'pegan_jax.models.attention_kernel',
        'pegan_jax.ops.kernels',
    )  # records need TFDS, the explorer Starlette, kernels Pallas
    for path in sorted((ROOT / 'pegan_jax').rglob('*.py')):
        lines = path.read_text().splitlines()
        functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
        for node in {n for function in functions for n in ast.walk(function)}:
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, 'module', None)
                names = [f'{module}.{alias.name}' if module else alias.name for alias in node.names]
                where = f'{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}'
                assert all(name.startswith(heavy) for name in names), where
                assert '#' in lines[node.lineno - 1] + lines[node.lineno - 2], f'{where}: say why beside it'


def modules(code):
    """What is imported after some code."""
    return set(run('-c', f'import sys\n{code}\nprint(*sys.modules)').split())


def test_importing_the_package_imports_little_more_than_jax():
    more = modules('import pegan_jax') - modules('import flax.linen')
    assert 'pegan_jax.coords' in more and len(more) < 30, sorted(more)


def test_public_names_come_when_asked_for_and_without_what_only_some_need():
    code = 'import pegan_jax\nassert {*pegan_jax.__all__} <= {*dir(pegan_jax)}\nfrom pegan_jax import *\nload, sample'
    big = (
        'grain',
        'scipy.signal',
        'scipy.interpolate',
        'scipy.stats',
        'skimage',
        'tensorboardX',
        'tensorflow',
        'torch',
    )
    found = modules(code)
    assert 'pegan_jax.sampling' in found
    assert not [name for name in found if name.startswith((*big, 'tensorflow_datasets'))]


def test_what_commands_call_raises_no_error_that_would_pass_for_a_fault_of_the_program():
    mathematics = ('encodings', 'filters', 'layers', 'losses', 'metrics', 'models', 'ops')
    for path in sorted((ROOT / 'pegan_jax').rglob('*.py')):
        if path.relative_to(ROOT / 'pegan_jax').parts[0].removesuffix('.py') not in mathematics:
            for node in ast.walk(ast.parse(path.read_text())):
                raised = ast.unparse(node.exc) if isinstance(node, ast.Raise) and node.exc else ''
                where = f'{path.relative_to(ROOT)}:{getattr(node, "lineno", 0)}: {raised}'
                assert not raised.startswith(('ValueError', 'RuntimeError', 'TypeError', 'Exception')), where
