"""The searched region: whether a point is inside, against scipy's triangulation and the ranges themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull, Delaunay

from hpo.compare.searched_region import SearchedRegion, direction_words
from search_spaces.log_ratio import clr, clr_inverse, ilr_inverse


def test_a_hull_of_three_tasks_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    tried = random.normal(size=(12, 2))
    searched, triangles = SearchedRegion(ilr_inverse(tried)), Delaunay(tried)
    for z in random.normal(0, 1.5, (300, 2)):
        assert bool(searched.beyond(ilr_inverse(z))) == (triangles.find_simplex(z) < 0)
    corners = set(ConvexHull(tried).vertices)
    for place, z in enumerate(tried):
        assert len(searched.touched(np.atleast_2d(ilr_inverse(z)))) == (2 if place in corners else 0)
        assert searched.beyond(ilr_inverse(z)) == []


def test_sides_point_outward() -> None:
    random = np.random.default_rng(1)
    tried = random.normal(size=(12, 2))
    searched = SearchedRegion(ilr_inverse(tried))
    for z in tried[ConvexHull(tried).vertices]:
        w = ilr_inverse(z)
        for side in searched.touched(np.atleast_2d(w)):
            assert side.sum() == pytest.approx(0, abs=1e-9)
            assert searched.beyond(clr_inverse(clr(w) + 0.01 * side))
            inward = clr_inverse(clr(w) + 0.01 * (clr(ilr_inverse(tried.mean(axis=0))) - clr(w)))
            assert searched.beyond(inward) == []


@given(st.integers(0, 10_000), st.sampled_from([2, 4, 5]), st.integers(1, 9))
def test_other_regions_are_ranges_of_log_ratios(seed: int, T: int, n: int) -> None:
    random = np.random.default_rng(seed)
    shares = clr(np.exp(random.normal(size=(n, T))))
    searched = SearchedRegion(clr_inverse(shares))
    at = clr(np.exp(random.normal(size=T)))
    outside = (at > shares.max(axis=0)).sum() + (at < shares.min(axis=0)).sum()
    assert len(searched.beyond(clr_inverse(at))) == outside
    ends = np.isclose(shares, shares.max(axis=0)).sum(axis=1) + np.isclose(shares, shares.min(axis=0)).sum(axis=1)
    assert [len(searched.touched(np.atleast_2d(clr_inverse(one)))) for one in shares] == ends.tolist()


def test_three_tasks_on_a_line_have_ranges() -> None:
    line = ilr_inverse(np.outer([-1.0, 0.0, 1.0], [1.0, 2.0]))
    searched = SearchedRegion(line)
    assert searched.beyond(line[1]) == searched.touched(np.atleast_2d(line[1])) == []
    assert searched.touched(np.atleast_2d(line[0]))
    assert searched.beyond(ilr_inverse([1.5, 3.0]))


def test_directions_in_words() -> None:
    tasks = ("income", "age", "sex")
    for direction, words in (
        ([2.0, 0.0, 0.0], "more income"),
        ([0.0, -3.0, 0.0], "less age"),
        ([1.0, -1.0, 0.0], "more income, less age"),
        ([-2.0, 0.8, 1.2], "more sex, less income"),
    ):
        assert direction_words(np.array(direction), tasks) == words
