"""The glossary: one source, read whole, linked once per term and never as markup."""

from __future__ import annotations

import re

from hpo.report.glossary import LINKED, glossary, linked


def test_every_term_has_a_definition_in_plain_text():
    terms = glossary()
    assert len(terms) > 30
    assert [term.name.lower() for term in terms] == sorted(term.name.lower() for term in terms)
    assert [term for term in terms if re.search(r"[`\[{]|\bSee\b", term.definition.replace("E_t[w]", ""))] == []
    assert set(LINKED) <= {term.anchor for term in terms}


def test_terms_are_linked_once_each_also_in_the_plural():
    text = str(linked("Static points near E_t[w]: a static point, arms, a farm, arm-in-arm"))
    assert re.findall(r'href="#term-([a-z-]+)"', text) == ["static-point", "mean-weights", "arm"]
    assert ">Static points</a> near " in text


def test_text_is_escaped_inside_and_outside_links():
    text = str(linked("<b>regret</b> & score"))
    assert text.startswith("&lt;b&gt;<a ")
    assert "</a>&lt;/b&gt; &amp; <a " in text
