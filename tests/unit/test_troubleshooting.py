"""Every message that the troubleshooting page quotes is one that the program still has."""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
QUOTED = re.findall(r'^### `(.+)`$', (ROOT / 'docs' / 'troubleshooting.md').read_text(), re.MULTILINE)


@functools.cache
def texts():
    """Every text in the package, values in it as '…'."""
    found = set()
    for path in sorted((ROOT / 'pegan_jax').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add(''.join(v.value if isinstance(v, ast.Constant) else '…' for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub('%[ds]', '…', node.value))
    return found


@pytest.mark.parametrize('message', QUOTED)
def test_a_quoted_message_is_in_the_source(message):
    pattern = '.*'.join(re.escape(part) for part in message.split('…'))
    assert any(re.search(pattern, text, re.DOTALL) for text in texts() if len(text) < 600)


def test_the_page_has_messages_and_quotes_each_once():
    assert len(QUOTED) > 30 and len(set(QUOTED)) == len(QUOTED)
