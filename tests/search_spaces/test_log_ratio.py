"""Coordinates of weights: each pair of conversions is an inverse, and distances are Aitchison's."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from search_spaces import close, clr, clr_inverse, ilr, ilr_inverse
from search_spaces.log_ratio import centred

LOGARITHMS = st.floats(-20.0, 20.0)


def weightings(shape=None):
    shape = shape or array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6)
    return arrays(np.float64, shape, elements=LOGARITHMS).map(np.exp)


pairs = st.integers(1, 8).flatmap(lambda T: st.tuples(weightings(T), weightings(T)))


@settings(deadline=None)
@given(weightings())
def test_close_sums_to_tasks_and_keeps_ratios(w):
    closed = close(w)
    assert closed.shape == w.shape
    assert (closed > 0).all()
    np.testing.assert_allclose(closed.sum(-1), w.shape[-1])
    np.testing.assert_allclose(closed / closed[..., :1], w / w[..., :1], rtol=1e-12)


@settings(deadline=None)
@given(weightings())
def test_clr_and_its_inverse(w):
    z = clr(w)
    assert z.shape == w.shape
    np.testing.assert_allclose(z.sum(-1), 0.0, atol=1e-12)
    np.testing.assert_allclose(clr_inverse(z), close(w), rtol=1e-12)


@settings(deadline=None)
@given(weightings())
def test_ilr_and_its_inverse(w):
    z = ilr(w)
    assert z.shape == (*w.shape[:-1], w.shape[-1] - 1)
    np.testing.assert_allclose(ilr_inverse(z), close(w), rtol=1e-12)


@settings(deadline=None)
@given(arrays(np.float64, array_shapes(max_dims=3, max_side=6), elements=LOGARITHMS))
def test_every_vector_is_a_weighting_in_ilr(z):
    np.testing.assert_allclose(ilr(ilr_inverse(z)), z, atol=1e-11)


@settings(deadline=None)
@given(pairs)
def test_distances_are_aitchison_in_both_coordinates(pair):
    v, w = pair
    ratios_v, ratios_w = (np.log(x[:, None] / x[None, :]) for x in pair)
    aitchison = np.sqrt(((ratios_v - ratios_w) ** 2).sum() / (2 * len(v)))
    np.testing.assert_allclose(np.linalg.norm(clr(v) - clr(w)), aitchison, atol=1e-11)
    np.testing.assert_allclose(np.linalg.norm(ilr(v) - ilr(w)), aitchison, atol=1e-11)


@settings(deadline=None)
@given(pairs, st.floats(1e-6, 1e6), st.randoms(use_true_random=False))
def test_clr_permutes_with_the_tasks_and_forgets_the_scale(pair, scale, random):
    w = pair[0]
    order = random.sample(range(len(w)), len(w))
    np.testing.assert_allclose(clr(w[order]), clr(w)[order], atol=1e-12)
    np.testing.assert_allclose(clr(scale * w), clr(w), atol=1e-12)


def test_a_row_that_lacks_a_logarithm_spoils_no_other():
    with np.errstate(divide="ignore", invalid="ignore"):
        z = centred(np.log([[4.0, 1.0], [np.nan, 1.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(z[0], clr([4.0, 1.0]))
    assert np.isnan(z[1]).all()
    assert not np.isfinite(z[2]).any()


def test_one_task_has_no_log_ratio():
    np.testing.assert_array_equal(close([5.0]), [1.0])
    np.testing.assert_array_equal(clr([5.0]), [0.0])
    assert ilr([[5.0], [7.0]]).shape == (2, 0)
    np.testing.assert_array_equal(ilr_inverse(np.empty((2, 0))), np.ones((2, 1)))


def test_the_largest_ratio_survives_and_nothing_beyond():
    np.testing.assert_allclose(clr_inverse(clr([1e150, 1e-150])), [2.0, 2e-300], rtol=1e-12)
    message = "w: expected weights of which no two are more than a factor of 1e+300 apart, got ["
    with pytest.raises(ValueError, match=re.escape(message + "1e-200, 1e+200]")):
        close([[1.0, 1.0], [1e-200, 1e200]])
    for inverse in (clr_inverse, ilr_inverse):
        with pytest.raises(ValueError, match=r"a factor of 1e\+300 apart, got \[0\.0, 900\.0\]"):
            inverse([0.0, 900.0])


@pytest.mark.parametrize(
    ("conversion", "bad", "message"),
    [
        (close, [1.0, -1.0], "w[1]: expected a number > 0, got -1.0"),
        (clr, [[1.0, 2.0], [0.0, 1.0]], "w[1, 0]: expected a number > 0, got 0.0"),
        (ilr, [1.0, np.inf], "w[1]: expected a finite number, got inf"),
        (close, [], "w: expected at least one weight, got []"),
        (close, 3.0, "w: expected an array of numbers, got 3.0"),
        (close, ["a"], "w: expected an array of numbers, got ['a']"),
        (clr_inverse, [np.nan, 0.0], "z[0]: expected a finite number, got nan"),
        (clr_inverse, [], "z: expected at least one log-ratio, got []"),
        (ilr_inverse, [-np.inf], "z[0]: expected a finite number, got -inf"),
    ],
)
def test_bad_input(conversion, bad, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conversion(bad)
