from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpo.compare.rank_correlation import spearman

NAN = float("nan")


@given(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=3, max_size=9))
def test_each_rho_is_that_of_its_pair_alone(rows: list[list[int]]) -> None:
    """With ties and constant columns."""
    one, *others = np.array(rows, dtype=float).T
    for other, rho in zip(others, spearman(one, others), strict=True):
        if np.ptp(one) == 0 or np.ptp(other) == 0:
            assert np.isnan(rho)
        else:
            assert rho == pytest.approx(np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1], abs=1e-15)


def test_a_variable_without_a_value_has_no_rho_and_spoils_no_other() -> None:
    found = spearman([1.0, 2.0, 3.0], [[1.0, NAN, 3.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, np.inf]])
    np.testing.assert_array_equal(found, [NAN, -1.0, NAN, 1.0])
    assert np.isnan(spearman([1.0, NAN, 3.0], [[1.0, 2.0, 3.0]])).all()


def test_two_values_have_no_order_to_agree_on() -> None:
    assert np.isnan(spearman([1.0, 2.0], [[1.0, 2.0]])).all()
    assert spearman([], np.empty((2, 0))).shape == (2,)
