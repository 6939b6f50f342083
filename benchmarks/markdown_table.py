"""A table in Markdown. Needs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in Markdown.

    >>> print(markdown_table(["arm", "runs"], [["equal", 2]]))
    | arm | runs |
    | --- | --- |
    | equal | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
