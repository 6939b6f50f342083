"""The GradNorm paper's design."""

import numpy as np

from search_spaces import uniform


def test_two_tasks_have_the_ratio_distribution_of_uniforms():
    w = uniform(2, 20_000)
    for factor in (2.0, 10.0):  # P(x_1 / x_2 > c) = 1 / (2 c) for independent uniforms
        np.testing.assert_allclose((w[:, 0] > factor * w[:, 1]).mean(), 1 / (2 * factor), atol=0.01)
