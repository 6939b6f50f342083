"""The Sobol design: even in log-ratio space, inside the bound, fair to all tasks."""

import warnings

import numpy as np
import pytest

from search_spaces import clr, ilr, sobol

RATIO = 50.0


def test_uniform_in_the_hexagon_of_three_tasks():
    z = ilr(sobol(3, 2048, ratio=RATIO)) / np.log(RATIO)
    # a regular hexagon of side a = sqrt(2/3) has the mean squared radius 5/12 a**2, the same in each direction
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(2) * 5 / 36, atol=2e-3)
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=5e-3)


@pytest.mark.parametrize("tasks", [2, 4, 7, 20])
def test_every_task_is_smallest_equally_often(tasks):
    smallest = np.bincount(sobol(tasks, 1024).argmin(axis=1), minlength=tasks)
    assert np.ptp(smallest) <= 2


def test_two_tasks_are_one_point_in_each_interval():
    z = clr(sobol(2, 64, ratio=RATIO))[:, 0]
    counts, _ = np.histogram(z, bins=64, range=(-np.log(RATIO) / 2, np.log(RATIO) / 2))
    np.testing.assert_array_equal(counts, 1)


def test_any_number_of_points_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sobol(3, 5).shape == (5, 3)
