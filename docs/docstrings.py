"""A griffe extension: examples in docstrings, which follow the text without a heading, become blocks of code."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)
LITERAL = re.compile(r"::\n(?=\n +\S)")  # a block of code, as reStructuredText announces it


def readable(docstring: str) -> str:
    """Fence the examples of a docstring."""

    def fenced(example: re.Match[str]) -> str:
        return textwrap.indent("```pycon\n" + textwrap.dedent(example[0]) + "\n```", example[1])

    return LITERAL.sub(":\n", EXAMPLE.sub(fenced, docstring))


class Examples(griffe.Extension):
    """Apply `readable` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring before its sections are read."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
