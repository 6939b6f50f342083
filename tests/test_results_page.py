"""The results page says what the studies found, and nothing else."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_every_table_is_made_from_the_numbers_beside_it():
    spec = importlib.util.spec_from_file_location("results", DOCS / "results.py")
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    studies, text = results.load(), (DOCS / "results.md").read_text()
    assert list(studies) == list(results.STUDIES)
    assert results.filled(text, studies) == text
    worse = {
        name: study | {"verdict": study["verdict"] | {"kind": "worse than ever"}} for name, study in studies.items()
    }
    assert results.filled(text, worse).count("worse than ever") == len(studies)
