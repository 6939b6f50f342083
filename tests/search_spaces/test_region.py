"""The region of a static search around weights that need no search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import clr, points, region
from search_spaces.region import BEYOND, LEAST

weights = st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3)


@given(st.lists(weights, min_size=1, max_size=4))
def test_every_weighting_lies_well_within_the_region(found: list[list[float]]) -> None:
    center, ratio = region(found)
    assert center.sum() == pytest.approx(3)
    assert ratio >= LEAST
    for w in found:
        relative = np.asarray(w) / center
        assert relative.max() / relative.min() <= ratio / BEYOND * (1 + 1e-9)


def test_its_center_is_the_mean_in_log_ratios() -> None:
    center, ratio = region([[1.0, 1e4], [1.0, 1.0]])
    assert center[1] / center[0] == pytest.approx(100)
    assert ratio == pytest.approx(1000)


def test_a_design_around_a_center_is_the_design_moved_there() -> None:
    around = points("log_lattice", 3, 7, center=[1.0, 10.0, 100.0], ratio=4.0)
    plain = points("log_lattice", 3, 7, ratio=4.0)
    assert around[0].tolist() == [1.0, 1.0, 1.0]
    moved = {tuple(row) for row in (clr(plain) + clr([1.0, 10.0, 100.0])).round(6)}
    assert {tuple(row) for row in clr(around[1:]).round(6)} < moved


@pytest.mark.parametrize("center", [[1.0, -1.0, 1.0], [0.0, 1.0, 1.0], [np.nan, 1.0, 1.0]])
def test_a_center_is_positive(center: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^center"):
        points("log_lattice", 3, 4, center=center)


def test_no_weighting_makes_no_region() -> None:
    with pytest.raises(ValueError, match=r"^weightings: expected at least one"):
        region([])
