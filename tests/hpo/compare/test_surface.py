"""The response surface: quadratics recovered, leave-one-out by refitting, and what its region covers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from statsmodels.api import OLS

from hpo.compare import Surface, fit_surface
from search_spaces.log_ratio import ilr, ilr_inverse
from tests.helpers.compare_tables import NAN, points, run


def fitted(z: np.ndarray, scores: np.ndarray) -> Surface:
    return fit_surface(points(ilr_inverse(z), scores), range(z.shape[1] + 1))


def polynomial(z: np.ndarray) -> np.ndarray:
    """1, z_i, and z_i z_j for i <= j, term by term."""
    d = z.shape[1]
    squares = [z[:, i] * z[:, j] for i in range(d) for j in range(i, d)]
    return np.column_stack([np.ones(len(z)), *z.T, *squares])


def bowl(d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Points, a centre, and a quadratic with its lowest point there: 2 + (z - centre)' A (z - centre)."""
    random = np.random.default_rng([seed, d])
    root = random.normal(size=(d, d))
    A, centre = root @ root.T + np.eye(d), random.uniform(-0.5, 0.5, d)
    z = random.normal(0, 1.5, (12 * d * d, d))
    return z, centre, lambda at: 2 + np.einsum("ni,ij,nj->n", at - centre, A, at - centre)


@pytest.mark.parametrize("T", [2, 3, 4])
def test_a_quadratic_is_recovered(T: int) -> None:
    z, centre, height = bowl(T - 1)
    found = fitted(z, height(z))
    assert (found.identified, found.located, found.reason) == (True, True, "")
    assert found.r2 == pytest.approx(1, abs=1e-9)
    assert ilr(found.optimum) == pytest.approx(centre, abs=1e-6)
    assert found.optimum.sum() == pytest.approx(T)
    assert found.score == pytest.approx(2)
    other = np.random.default_rng(9).normal(size=(7, T - 1))
    assert found.predict(ilr_inverse(other)) == pytest.approx(height(other), abs=1e-7)
    assert found.predict(ilr_inverse(other)) == pytest.approx(polynomial(other) @ found.coefficients)
    assert float(found.predict(ilr_inverse(other[0]))) == pytest.approx(height(other[:1])[0], abs=1e-7)


def kept(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Not further above the median than the third quartile is above the best."""
    ordered = np.sort(y)
    return y <= np.median(ordered) + (np.percentile(ordered, 75) - ordered[0])


@pytest.mark.parametrize("T", [2, 3])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_r2_is_that_of_refitting_without_each_point(T: int, noise: float) -> None:
    z, _, height = bowl(T - 1)
    y = height(z) + noise * np.random.default_rng(1).normal(size=len(z))
    found = fitted(z, y)
    near = kept(z, y)
    X, y = polynomial(z[near]), y[near]
    assert 0 < near.sum() < len(near)
    assert found.coefficients == pytest.approx(OLS(y, X).fit().params)
    errors, spread = [], []
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        refitted = OLS(y[others], X[others]).fit()
        errors.append(y[i] - float(refitted.predict(X[i : i + 1])[0]))
        spread.append(y[i] - y[others].mean())
    assert found.r2 == pytest.approx(1 - np.sum(np.square(errors)) / np.sum(np.square(spread)))
    assert found.identified == (found.r2 >= 0.5)


def test_points_far_above_the_rest_are_left_out() -> None:
    z, centre, height = bowl(2)
    y = height(z)
    far = np.argsort(y)[-6:]
    wild = y.copy()
    wild[far] = 1e4 * (1 + np.arange(6))
    found = fitted(z, wild)
    assert found.limit == pytest.approx(np.median(wild) + np.percentile(wild, 75) - wild.min())
    assert found.r2 == pytest.approx(1, abs=1e-9)
    assert ilr(found.optimum) == pytest.approx(centre, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_not_identified(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = fitted(random.normal(size=(30, 2)), random.normal(size=30))
    assert (found.identified, found.located) == (False, False)
    assert found.r2 < 0.5
    assert found.reason == f"leave-one-out R\N{SUPERSCRIPT TWO} is {found.r2:.2f}"
    assert found.optimum.size == 0


@pytest.mark.parametrize(("T", "needed"), [(2, 3), (3, 6), (4, 10)])
def test_too_few_points(T: int, needed: int) -> None:
    """Equal scores, so that none is left out."""
    random = np.random.default_rng(0)
    for n in (1, needed):
        found = fitted(random.normal(size=(n, T - 1)), np.ones(n))
        assert (found.identified, found.located) == (False, False)
        assert found.reason == f"{n} point{'s' * (n > 1)}, but more than {needed} are needed"
        assert np.isnan(found.r2)
    assert "takes more" not in fitted(random.normal(size=(needed + 1, T - 1)), np.ones(needed + 1)).reason
    nothing = fit_surface(points([[1.0] * T], [1.0]).iloc[:0], range(T))
    assert nothing.reason == f"0 points, but more than {needed} are needed"


def test_scores_that_are_all_equal_are_not_identified() -> None:
    found = fitted(np.random.default_rng(0).normal(size=(20, 2)), np.full(20, 3.0))
    assert (found.identified, found.located) == (False, False)
    assert found.reason


def test_one_task_has_no_surface() -> None:
    assert not fit_surface(points([[1.0]] * 9, range(9)), [0]).identified


def test_points_on_a_line_do_not_span_the_log_ratios() -> None:
    z = np.outer(np.linspace(-1, 1, 20), [1.0, 2.0])
    found = fitted(z, (z**2).sum(axis=1))
    assert not found.identified
    assert found.reason == "the points do not span the log-ratios"


@pytest.mark.parametrize(
    ("name", "height"),
    [
        ("saddle", lambda z: z[:, 0] ** 2 - 0.9 * z[:, 1] ** 2),
        ("hill", lambda z: -((z - 0.1) ** 2).sum(axis=1)),
        ("outside", lambda z: ((z - [6.0, 5.0]) ** 2).sum(axis=1)),
    ],
)
def test_no_lowest_point_inside(name: str, height: Callable[[np.ndarray], np.ndarray]) -> None:
    z = np.random.default_rng(0).normal(size=(60, 2))
    found = fitted(z, height(z) + 1e-3 * np.random.default_rng(1).normal(size=60))
    assert (found.identified, found.located) == (True, False), name
    assert found.reason == "its lowest point is inside the searched region in only 0% of resamples"
    assert found.optimum.size == found.optima.size == 0
    assert found.predict(ilr_inverse(z)) == pytest.approx(height(z), abs=0.01)


def test_an_uncertain_lowest_point_is_not_located() -> None:
    z = np.random.default_rng(0).normal(size=(40, 2))
    y = z[:, 0] ** 2 + 0.02 * z[:, 1] ** 2 + 0.3 * np.random.default_rng(1).normal(size=40)  # a valley
    found = fitted(z, y)
    assert (found.identified, found.located) == (True, False)
    share = int(found.reason.split(" in only ")[1].split("%")[0])
    assert 0 <= share < 95


@pytest.mark.parametrize("T", [2, 3, 4])
def test_the_region_is_around_the_lowest_point(T: int) -> None:
    z, _, height = bowl(T - 1)
    found = fitted(z, height(z) + 0.5 * np.random.default_rng(3).normal(size=len(z)))
    assert found.located
    assert bool(found.holds(found.optimum))
    inside = found.holds(found.optima)
    assert 0.95 <= inside.mean() <= 1  # above 95% by as much as few residuals call for
    np.testing.assert_array_equal(found.region(), found.optima[inside])
    assert found.holds(found.region()).all()
    far = ilr_inverse(np.eye(T - 1) * 3)
    assert not found.holds(far).any()
    if T > 2:
        distance = np.linalg.norm(ilr(found.optima) - ilr(found.optimum), axis=1)
        assert distance[inside].mean() < distance[~inside].mean()


@pytest.mark.parametrize(("T", "n", "noise"), [(2, 20, 0.3), (2, 20, 1.0), (3, 20, 0.3), (3, 40, 1.0), (4, 40, 0.5)])
def test_the_region_covers_the_truth(T: int, n: int, noise: float) -> None:
    random = np.random.default_rng([T, n])
    held = []
    for _ in range(300):
        z, centre = random.normal(0, 1.5, (n, T - 1)), random.uniform(-0.5, 0.5, T - 1)
        y = ((z - centre) ** 2 * random.uniform(1, 2, T - 1)).sum(axis=1)
        found = fitted(z, y + noise * random.normal(size=n))
        if found.located:
            held.append(bool(found.holds(ilr_inverse(centre))))
    assert len(held) > 200
    assert 0.9 < np.mean(held) < 0.99


def test_what_is_no_static_point_is_not_fitted() -> None:
    z, _, height = bowl(2)
    table = points(ilr_inverse(z), height(z))
    extra = [run([0.1, 0.1, 2.8], -50.0), points([[0.0, 1.0, 2.0]], [1.0]), points([[1.0, 1.0, NAN]], [1.0])]
    extra.append(points([[1.0, 1.0, 1.0]], [NAN]))
    found = fit_surface(pd.concat([table, *extra], ignore_index=True), range(3))
    assert found.coefficients == pytest.approx(fit_surface(table, range(3)).coefficients)
