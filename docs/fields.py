"""For the site: the lines `name: what it is` in the docstring of a class become a list."""

import re
from typing import Any

import griffe


class Fields(griffe.Extension):
    """Rewrites docstrings of classes before they are drawn."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called for every class."""
        if cls.docstring:
            cls.docstring.value = re.sub(r'(?m)^([a-z][\w, *]*): ', r'- **\1**: ', cls.docstring.value)
