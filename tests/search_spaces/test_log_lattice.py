"""The lattice: its nearest points, all of them, on a grid of one step."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from search_spaces import clr, log_lattice

RATIO = 100.0


@settings(deadline=None)
@given(st.integers(2, 10), st.integers(2, 80), st.floats(1.1, 1e6))
def test_one_step_and_the_ratio_reached(tasks, points, ratio):
    logarithms = np.log(log_lattice(tasks, points, ratio=ratio))
    above_smallest = logarithms - logarithms.min(axis=1, keepdims=True)
    np.testing.assert_allclose(above_smallest.max(), np.log(ratio), rtol=1e-9)
    step = above_smallest[above_smallest > 1e-9].min()
    np.testing.assert_allclose(above_smallest / step, np.round(above_smallest / step), atol=1e-6)
    nearest = step * np.sqrt((tasks - 1) / tasks)
    assert pdist(clr(np.exp(logarithms))).min() >= nearest - 1e-9


@pytest.mark.parametrize(("tasks", "points"), [(2, 9), (3, 40), (4, 90)])
def test_none_nearer_was_left_out(tasks, points):
    vectors = np.array([n for n in product(range(9), repeat=tasks) if min(n) == 0], dtype=float)
    brute = np.sort(np.linalg.norm(vectors - vectors.mean(axis=1, keepdims=True), axis=1))[:points]
    found = np.linalg.norm(clr(log_lattice(tasks, points, ratio=RATIO)), axis=1)
    np.testing.assert_allclose(found / found[1], brute / brute[1])  # in units of the first shell; nearest first


def test_three_tasks_make_triangles():
    distances = np.sort(pdist(clr(log_lattice(3, 7))))
    np.testing.assert_allclose(distances[:12], distances[0])  # a hexagon and its centre have 12 nearest pairs
    assert distances[12] > 1.5 * distances[0]


@pytest.mark.parametrize(("tasks", "points"), [(3, 7), (3, 13), (4, 15), (5, 31)])
def test_whole_shells_favour_no_task(tasks, points):
    rows = {tuple(row) for row in log_lattice(tasks, points).round(9).tolist()}
    for order in permutations(range(tasks)):
        assert {tuple(row[i] for i in order) for row in rows} == rows


def test_the_seed_picks_within_the_outermost_shell():
    first, second = (log_lattice(4, 10, seed=seed) for seed in (0, 1))
    assert {tuple(row) for row in first.round(9).tolist()} != {tuple(row) for row in second.round(9).tolist()}
    np.testing.assert_allclose(np.linalg.norm(clr(first), axis=1), np.linalg.norm(clr(second), axis=1))


def test_twenty_tasks_do_not_enumerate_all_corners():
    assert log_lattice(20, 500).shape == (500, 20)
