"""Errors and values as text: short, whole lines that can be sent, stored and printed."""

from __future__ import annotations

import traceback
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST_TRACEBACK = 20_000  # characters; MLflow keeps the first 4,000


def one_line(error: BaseException, most: int = 300) -> str:
    """An exception's type and text in one line. Never raises, whatever the exception's own ``__str__`` does.

    Args:
        error: the exception.
        most: characters of the line, at most.

    >>> one_line(ValueError("first line\\n  second line")), one_line(KeyError())
    ('ValueError: first line second line', 'KeyError')
    """
    text = message(error, most)
    return shortened(f"{_type_name(error)}: {text}" if text else _type_name(error), most)


def message(error: BaseException, most: int = 300) -> str:
    """An exception's text alone, in one line; empty if it has none. Never raises."""
    try:
        return shortened(str(error), most)
    except BaseException as fault:  # of the user's `__str__`; it may be a SystemExit too
        return f"its text cannot be read, since __str__ raised {_type_name(fault)}"


def with_traceback(error: BaseException) -> str:
    """An exception as one line, an empty line and its traceback, shortened if it is long. Never raises."""
    try:
        trace = "".join(traceback.format_exception(error))
    except BaseException as fault:  # of a cause or a note that cannot be read
        trace = f"Traceback that cannot be read, since formatting it raised {_type_name(fault)}"
    half = LONGEST_TRACEBACK // 2
    if len(trace) > 2 * half:
        trace = f"{trace[:half]}\n... {len(trace) - 2 * half:,} characters left out ...\n{trace[-half:]}"
    return f"{one_line(error, 1000)}\n\n{storable(trace)}"


def shortened(text: str, most: int = 300) -> str:
    """A text in one line of at most so many characters.

    >>> shortened("a  long\\ntext", 8)
    'a lon...'
    """
    line = storable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def storable(text: str) -> str:
    """A text in which characters that UTF-8 files and databases do not accept are written as escapes.

    >>> storable("a\\x00b\\udc80")
    'a\\\\x00b\\\\udc80'
    """
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _type_name(error: BaseException) -> str:
    try:
        return storable(str(type(error).__name__))
    except BaseException:  # of a metaclass
        return "an exception without a name"


def printable(text: str, keep: str = "") -> str:
    r"""A text in which every unprintable character is escaped: control and format characters, lone surrogates.

    >>> printable("\x1b[31mred\u202e\n"), printable("a\nb\r", keep="\n")
    ('\\x1b[31mred\\u202e\\n', 'a\nb\\r')
    """
    if text.isprintable():
        return text
    return "".join(
        character if _may_be_shown(character) or character in keep else _escaped(character) for character in text
    )


def commands_in(argument: str) -> str:
    r"""The first control or format character of an argument; joiners, which some scripts need, are allowed.

    >>> commands_in("a b"), commands_in("\x1b[31m")
    ('', '\x1b')
    """
    obeyed = (c for c in argument if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    return next((c for c in obeyed if c not in "\u200c\u200d"), "")


def _may_be_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of other scripts


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def complaint(field: str, rule: str, found: object) -> str:
    """The one grammar for bad input.

    >>> complaint("seeds", "a number >= 1", quoted(-3))
    'seeds: expected a number >= 1, got -3'
    """
    return f"{field}: {expected(rule, found)}"


def expected(rule: str, found: object) -> str:
    """The same without the field, for messages that name it elsewhere."""
    return f"expected {rule}, got {found}"


def quoted(value: Any) -> str:
    """A value as Python writes it, short enough for a message.

    >>> quoted("a"), quoted(None)
    ("'a'", 'nothing')
    """
    return cut("nothing" if value is None else repr(value))


def unquoted(value: Any, most: int = 120) -> str:
    """A value without quotes; characters that move the cursor, end the line or are invisible are escaped."""
    text = printable(str(value))
    return cut(text if text.isprintable() else repr(text)[1:-1], most)


def listed(names: Iterable[str], most: int = 4) -> str:
    """The first few names, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def cut(text: str, most: int = 120) -> str:
    """The beginning of a text, of at most so many characters.

    >>> cut("abcdefgh", 6)
    'abc...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."
