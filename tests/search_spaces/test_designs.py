"""Properties of every design; a new one is tested here once it is registered."""

import inspect
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import DESIGNS, clr, explicit, points

RANDOM = ["dirichlet", "sobol", "uniform"]
designs = st.sampled_from(sorted(DESIGNS))
seeds = st.integers(0, 2**32)


def largest_ratio(w):
    return (w.max(axis=1) / w.min(axis=1)).max()


def assert_weightings(w, shape):
    assert w.shape == shape
    assert w.dtype == np.float64
    assert np.isfinite(w).all()
    assert (w > 0).all()
    np.testing.assert_allclose(w.sum(axis=1), shape[1], rtol=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
def test_signature(design):
    parameters = list(inspect.signature(DESIGNS[design].draw).parameters.values())
    assert [p.name for p in parameters[:3]] == ["tasks", "points", "seed"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[3:])


@settings(deadline=None)
@given(designs, st.integers(2, 12), st.integers(1, 70), seeds)
def test_a_design_gives_weightings(design, tasks, n, seed):
    assert_weightings(DESIGNS[design].draw(tasks, n, seed), (n, tasks))


@settings(deadline=None)
@given(designs, st.integers(2, 12), st.integers(1, 70), seeds)
def test_points_are_different_weightings_with_equal_first(design, tasks, n, seed):
    w = points(design, tasks, n, seed)
    assert_weightings(w, (n, tasks))
    np.testing.assert_array_equal(w[0], np.ones(tasks))
    assert len(np.unique(clr(w).round(9) + 0.0, axis=0)) == n
    np.testing.assert_array_equal(points(design, tasks, n, seed), w)


@settings(deadline=None)
@given(st.sampled_from(RANDOM), st.integers(2, 8), st.integers(2, 40), st.integers(1, 40), seeds)
def test_more_points_begin_with_the_same_points(design, tasks, n, more, seed):
    np.testing.assert_array_equal(points(design, tasks, n + more, seed)[:n], points(design, tasks, n, seed))


@pytest.mark.parametrize("design", RANDOM)
def test_another_seed_gives_other_points(design):
    assert not np.isclose(points(design, 3, 20, seed=0)[1:], points(design, 3, 20, seed=1)[1:]).all(axis=1).any()


@pytest.mark.parametrize("design", DESIGNS)
def test_one_task_has_one_weighting(design):
    np.testing.assert_array_equal(points(design, 1, 1), [[1.0]])
    with pytest.raises(ValueError, match="points: expected 1 for one task"):
        points(design, 1, 2)


@pytest.mark.parametrize("design", ["log_lattice", "sobol"])
def test_the_ratio_is_a_bound_that_is_used(design):
    for ratio in (1.5, 1e3, 1e300):
        assert 0.8 * np.log(ratio) < np.log(largest_ratio(points(design, 3, 64, ratio=ratio))) <= np.log(ratio) + 1e-9


def test_a_design_that_runs_out_of_directions_says_so():
    with pytest.raises(ValueError, match=r"^points: expected at most \d+, all directions of the design"):
        points("sobol", 2, 500, ratio=1 + 1e-8)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("grid", 2, 3), {}, f"design: expected one of {sorted(DESIGNS)}, got 'grid'"),
        (("sobol", 0, 3), {}, "tasks: expected an integer >= 1, got 0"),
        (("sobol", 2.0, 3), {}, "tasks: expected an integer >= 1, got 2.0"),
        (("sobol", 2, 0), {}, "points: expected an integer >= 1, got 0"),
        (("sobol", 2, True), {}, "points: expected an integer >= 1, got True"),
        (("sobol", 2, 3, -1), {}, "seed: expected an integer >= 0, got -1"),
        (
            ("sobol", 2, 3),
            {"ratoi": 2.0},
            "options: expected options among ['ratio'] for the design 'sobol', got ['ratoi']",
        ),
        (
            ("uniform", 2, 3),
            {"ratio": 2.0},
            "options: expected no options for the design 'uniform', got ['ratio']",
        ),
        (("sobol", 2, 1), {"ratio": 1.0}, "ratio: expected a number > 1 and <= 1e+300, got 1.0"),
        (
            ("log_lattice", 2, 3),
            {"ratio": 1e301},
            "ratio: expected a number > 1 and <= 1e+300, got 1e+301",
        ),
        (("sobol", 2, 3), {"ratio": "2"}, "ratio: expected a finite number, got '2'"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        points(*arguments, **options)


def test_explicit_puts_equal_first_and_drops_repeats():
    w = explicit([[2, 6], [5, 5], [1, 3], [0.3, 0.1]], tasks=2)
    np.testing.assert_allclose(w, [[1.0, 1.0], [0.5, 1.5], [1.5, 0.5]])
    np.testing.assert_array_equal(explicit(np.empty((0, 3)), tasks=3), np.ones((1, 3)))


@given(designs, st.integers(2, 6), seeds, st.floats(1e-6, 1e6))
@settings(deadline=None)
def test_explicit_leaves_points_as_they_are(design, tasks, seed, scale):
    w = points(design, tasks, 20, seed)
    np.testing.assert_allclose(explicit(scale * w, tasks), w, rtol=1e-12)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [[1, 2], [1, 2, 3]],
            "rows[1]: expected 2 weights, one for each task, got [1.0, 2.0, 3.0]",
        ),
        ([[1, 0]], "rows[0][1]: expected a number > 0, got 0.0"),
        ([[1, 1], [np.nan, 1]], "rows[1][0]: expected a finite number, got nan"),
        ([4], "rows[0]: expected an array of numbers, got 4"),
    ],
)
def test_explicit_bad_input(rows, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        explicit(rows, tasks=2)
