"""Figure 4 as a number, against scipy's Spearman and by counting."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial import Delaunay

from hpo.compare import distance, figure4
from hpo.compare.paper_figure4 import REFERENCES, reference_points
from search_spaces.log_ratio import clr, ilr, ilr_inverse
from tests.helpers.compare_tables import points, run

TASKS = (0, 1, 2)


def bowl(centre: list[float], at: list[float], noise: float = 0.1, n: int = 40) -> pd.DataFrame:
    """Points scattered over log-ratios, scores that rise with the distance to ``centre``, E_t[w] with ilr ``at``."""
    random = np.random.default_rng(5)
    z = random.normal(0, 1.2, (n, 2))
    scores = ((z - centre) ** 2).sum(axis=1) + noise * random.normal(size=n)
    return pd.concat([points(ilr_inverse(z), scores), run(ilr_inverse(at), 0.0)], ignore_index=True)


def rhos(search: pd.DataFrame, target: np.ndarray) -> tuple[float, float]:
    """Spearman's rho of score and either distance, by scipy."""
    static = search[search["kind"] == "static"]
    far = [distance(target, w) for w in static[[f"geometric/{task}" for task in TASKS]].to_numpy()]
    both = ([d.aitchison for d in far], [d.l2 for d in far])
    return tuple(float(stats.spearmanr(static["score"], one).statistic) for one in both)


@pytest.mark.parametrize("at", [[0.0, 0.0], [1.0, -0.5]])
def test_rho_and_its_percentile(at: list[float]) -> None:
    search = bowl([0.3, 0.4], at, noise=2.0)
    search.loc[3, "score"] = search.loc[5, "score"]  # a tie
    found = figure4(search, TASKS).set_index("distance")
    w = search.loc[search["kind"] == "static", [f"geometric/{task}" for task in TASKS]].to_numpy()
    null = np.array([rhos(search, reference) for reference in reference_points(w)])
    assert len(null) == REFERENCES
    for place, kind in enumerate(("aitchison", "l2")):
        rho = rhos(search, ilr_inverse(at))[place]
        assert found.loc[kind, "rho"] == pytest.approx(rho)
        assert found.loc[kind, "percentile"] == pytest.approx(100 * np.mean(null[:, place] < rho - 1e-12))
        low, high = np.quantile(null[:, place], [0.025, 0.975])
        assert found.loc[kind, ["null_low", "null_high"]].tolist() == pytest.approx([low, high])
        assert found.loc[kind, "points"] == 40


def test_the_percentile_tells_the_middle_of_the_bowl_from_any_other_place() -> None:
    middle = figure4(bowl([0.6, 0.6], [0.6, 0.6]), TASKS).set_index("distance")
    elsewhere = figure4(bowl([0.6, 0.6], [-1.0, -1.2]), TASKS).set_index("distance")
    assert middle.loc["aitchison", "rho"] > 0.98
    assert middle.loc["aitchison", "percentile"] > 98
    assert elsewhere.loc["aitchison", "percentile"] < 10
    assert middle.loc["aitchison", "rho"] > middle.loc["aitchison", "null_high"]
    assert elsewhere.loc["aitchison", "rho"] < elsewhere.loc["aitchison", "null_low"] + 0.2


def test_a_rho_that_impresses_can_be_worth_nothing() -> None:
    """Near the middle of the searched region any guess has a high rho; the percentile says so."""
    found = figure4(bowl([0.0, 0.0], [0.45, -0.45]), TASKS).set_index("distance").loc["aitchison"]
    assert found["rho"] > 0.6
    assert found["percentile"] < 75


def test_reference_points_lie_in_the_hull_of_the_points() -> None:
    w = ilr_inverse(np.random.default_rng(0).normal(0, 2, (12, 2)))
    found = reference_points(w, 500)
    assert found.shape == (500, 3)
    assert found.sum(axis=1) == pytest.approx(np.full(500, 3.0))
    assert (Delaunay(ilr(w)).find_simplex(ilr(found), tol=1e-9) >= 0).all()
    np.testing.assert_array_equal(found, reference_points(w, 500))
    assert np.ptp(clr(found), axis=0).min() > 0.5 * np.ptp(clr(w), axis=0).min()  # and not all in one place


def test_nothing_to_correlate() -> None:
    search = bowl([0.0, 0.0], [0.0, 0.0], n=3)
    assert len(figure4(search, TASKS)) == 2
    assert figure4(search.iloc[1:], TASKS).empty  # two points
    assert figure4(search[search["kind"] == "static"], TASKS).empty  # no run
    flat = search.assign(score=1.0)
    assert figure4(flat, TASKS)[["rho", "null_low", "null_high"]].isna().all(axis=None)
    zero = pd.concat([search, points([[0.0, 1.0, 2.0]], [9.0])])
    assert figure4(zero, TASKS)["points"].tolist() == [3, 3]  # a weight of 0 has no log-ratio


def test_a_line_for_every_recipe_with_the_arithmetic_mean_of_its_best_run() -> None:
    search = bowl([0.0, 0.0], [0.0, 0.0])
    others = [run(ilr_inverse([2.0, 2.0]), 5.0), run(ilr_inverse([0.5, 0.5]), 1.0, recipe="paper")]
    search = pd.concat([search, *others], ignore_index=True)
    search.loc[search["kind"] == "gradnorm", ["geometric/0", "tail/0"]] = 99.0  # not these averages
    found = figure4(search, TASKS).set_index(["recipe", "distance"])["rho"]
    assert found["robust"].tolist() == pytest.approx(rhos(search, ilr_inverse([0.0, 0.0])))
    assert found["paper"].tolist() == pytest.approx(rhos(search, ilr_inverse([0.5, 0.5])))
