"""The Dirichlet design: its moments, and weights that stay above 0 where most draws have none."""

import re

import numpy as np
import pytest

from search_spaces import dirichlet


@pytest.mark.parametrize("concentration", [0.3, 1.0, 5.0])
def test_moments(concentration):
    w = dirichlet(4, 20_000, concentration=concentration)
    np.testing.assert_allclose(w.mean(axis=0), 1.0, atol=0.05)
    variance = (4 - 1) / (4 * concentration + 1)  # of T x_i
    np.testing.assert_allclose(w.var(axis=0), variance, rtol=0.05)


def test_small_concentration_stays_positive_in_float32():
    w = dirichlet(3, 50, concentration=0.005)
    assert (w.astype(np.float32) >= np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize(
    ("concentration", "message"),
    [
        (0.0, "concentration: expected a number > 0, got 0.0"),
        (np.inf, "concentration: expected a finite number, got inf"),
        (
            1e-6,
            "concentration: expected a number large enough that 3 random weights stay above 1.2e-38, got 1e-06",
        ),
    ],
)
def test_bad_input(concentration, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dirichlet(3, 5, concentration=concentration)
