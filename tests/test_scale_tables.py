"""The tables of docs/benchmarks.md on thousands of trials are made of the measurements, not by hand."""

import pytest

from benchmarks import scale_tables

CELL = {"tune_ms": 16.0, "schedule_ms": 1.0, "listeners_ms": 3.0, "writer_ms": 20.0}


def test_the_page_has_the_tables_of_the_measurements() -> None:
    page = scale_tables.PAGE.read_text(encoding="utf-8")
    assert scale_tables.page_with(page, scale_tables.text(scale_tables.figures())) == page


def test_the_driver_s_limit_is_that_of_both_of_its_threads() -> None:
    assert scale_tables.limit(CELL, 1) == pytest.approx(1000 / (16 + 1 + 3 + 20))
    assert scale_tables.limit(CELL, 16) == pytest.approx(1000 / (1 + 1 + 3 + 20))


def test_workers_are_the_bound_of_long_trials_and_the_driver_of_short_ones() -> None:
    rows = [line.strip("| ").split(" | ") for line in scale_tables.limits(CELL).splitlines()[2:]]
    by = {(row[0], row[1]): row[2:] for row in rows}
    assert by["1", "1"][:2] == ["1, workers", "0.1, workers"]
    assert by["1000", "1"] == ["25, driver", "25, driver", "16.7, workers", "1.67, workers", "40 s"]
    assert by["1000", "16"][0] == "40, driver"
