"""Text that others wrote, on a terminal: no character of it moves the cursor, hides text or gives a command."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text


def printable(text: str, keep: str = "") -> str:
    r"""Text with every character escaped that is not printable: control and format characters, lone surrogates.

    >>> printable("\x1b[31mred\u202e\n"), printable("a\nb\r", keep="\n")
    ('\\x1b[31mred\\u202e\\n', 'a\nb\\r')
    """
    if text.isprintable():
        return text
    return "".join(
        character if _may_be_shown(character) or character in keep else _escaped(character) for character in text
    )


def commands_in(argument: str) -> str:
    r"""The first character of an argument that no argument needs; joiners, which some scripts are written with, are.

    >>> commands_in("a b"), commands_in("\x1b[31m")
    ('', '\x1b')
    """
    obeyed = (c for c in argument if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    return next((c for c in obeyed if c not in "\u200c\u200d"), "")


def _may_be_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of other scripts


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class Console(RichConsole):
    """Rich's console for texts that others wrote: what it draws is escaped by `printable`, and no markup is read."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """See `rich.console.Console`."""
        return super().render_str(printable(text, keep="\n\t"), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `rich.console.Console`: here too, since a `rich.text.Text` does not come by `render_str`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, keep="\n\t"))
