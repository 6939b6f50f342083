"""The glossary of the report, read from glossary.md, which docs/glossary.md includes."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from markupsafe import Markup, escape

LINKED = (  # anchors of the terms that are links in the report's texts; everyday words are not
    "aitchison", "alpha", "alpha-sweep", "arm", "baseline", "cohort", "confirm", "mean-weights", "first-step-weights",
    "margin", "pareto", "recipe", "regret", "surface", "score", "search-seed", "selection-bias", "shared-layer",
    "static-arm", "static-point", "trajectory",
)  # fmt: skip
_ENTRY = re.compile(r"^([^\n]+?) \{#([a-z-]+)\}\n:   (.+?)(?=\n\n|\n?\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


class Term(NamedTuple):
    """A word with its definition, as plain text, and the anchor of its entry."""

    name: str
    anchor: str
    definition: str


@cache
def glossary() -> tuple[Term, ...]:
    """Read all terms in alphabetical order."""
    text = files("hpo.report").joinpath("glossary.md").read_text(encoding="utf-8")
    return tuple(Term(name, anchor, _plain(definition)) for name, anchor, definition in _ENTRY.findall(text))


def linked(text: str) -> Markup:
    """Link the first occurrence of each term in a text to its entry on the page; the rest is escaped.

    >>> linked("regret < 0").startswith('<a class="term" href="#term-regret" title="The score of an arm minus ')
    True
    """
    seen: set[str] = set()
    parts, end = [], 0
    for found in _pattern().finditer(text):
        term = _by_name()[found[1].lower()]
        if term.anchor in seen:
            continue
        seen.add(term.anchor)
        link = '<a class="term" href="#term-{}" title="{}">{}</a>'
        parts += [escape(text[end : found.start()]), Markup(link).format(term.anchor, term.definition, found[0])]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _plain(definition: str) -> str:
    """Return a definition without Markdown and without the sentence that refers to a page of the documentation."""
    text = " ".join(definition.split()).partition(" See [")[0]
    return _LINK.sub(r"\1", text).replace("`", "")


@cache
def _by_name() -> dict[str, Term]:
    return {term.name.lower(): term for term in glossary() if term.anchor in LINKED}


@cache
def _pattern() -> re.Pattern[str]:
    """Match the linked terms, also in the plural, the longest first."""
    names = "|".join(re.escape(name) for name in sorted(_by_name(), key=len, reverse=True))
    return re.compile(rf"(?<![\w-])({names})s?(?![\w-])", re.IGNORECASE)
