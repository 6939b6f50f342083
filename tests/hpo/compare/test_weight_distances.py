"""Distances by their definitions, and the region by its formula."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpo.compare import distance, distances_to
from hpo.compare.weight_distances import distances, region
from hpo.core.trial import AVERAGES
from tests.helpers.compare_tables import NAN, arms_by_name, compared, points, run, weighted

weights = st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=6)


@given(
    weights.flatmap(lambda a: st.tuples(st.just(a), st.lists(st.floats(1e-4, 1e4), min_size=len(a), max_size=len(a))))
)
def test_distances_by_their_definitions(pair: tuple[list[float], list[float]]) -> None:
    a, b = pair
    T = len(a)
    pairs = [math.log(a[i] / a[j]) - math.log(b[i] / b[j]) for i in range(T) for j in range(T)]
    x, y = [[T * w / sum(v) for w in v] for v in (a, b)]
    found = distance(a, b)
    assert found.aitchison == pytest.approx(math.sqrt(sum(p * p for p in pairs) / (2 * T)), abs=1e-6)
    assert found.l2 == pytest.approx(math.dist(x, y), abs=1e-9)
    assert found.factor == pytest.approx(max(max(p / q, q / p) for p, q in zip(x, y, strict=True)))


def test_distances_do_not_see_scale_or_side() -> None:
    a, b = np.array([0.1, 1.0, 1.9]), np.array([1.5, 0.5, 1.0])
    assert distance(7 * a, b) == pytest.approx(distance(a, b))
    assert distance(a, 0.01 * b) == pytest.approx(distance(a, b))
    assert distance(b, a) == pytest.approx(distance(a, b))
    assert distance(a, 3 * a) == pytest.approx((0.0, 0.0, 1.0), abs=1e-12)


def test_distances_are_those_of_the_best_alpha_to_the_best_static_point() -> None:
    averages = {"arithmetic": [0.5, 1.5], "geometric": [0.4, 1.6], "tail": [1.0, 1.0], "geometric_tail": [1.1, 0.9]}
    comparison = compared(
        [weighted("static/01", s, -1.0, [0.2, 1.8]) for s in range(4)],
        [weighted("static/02", s, 3.0, [1.8, 0.2]) for s in range(4)],
        [weighted("gradnorm/paper/alpha=2", 0, -2.0, averages), weighted("gradnorm/paper/alpha=1", 0, 5.0, [1, 1])],
    )
    found = comparison.distances.set_index("average")
    assert list(found.index) == list(AVERAGES)
    for average, w in averages.items():
        expected = distance(w, [0.2, 1.8])
        assert found.loc[average, ["aitchison", "l2", "factor"]].tolist() == pytest.approx(list(expected))
        assert found.loc[average, ["w/error", "w/accuracy"]].tolist() == pytest.approx(w)
        assert found.loc[average, "alpha"] == 2.0


def test_the_weights_of_an_arm_are_the_geometric_mean_over_seeds() -> None:
    rows = [weighted("frozen/loss", 1, 0.0, [0.2, 1.8]), weighted("frozen/loss", 2, 0.0, [1.6, 0.4])]
    found = arms_by_name(compared(rows, seeds=2))
    mean = np.sqrt(np.multiply([0.2, 1.8], [1.6, 0.4]))
    assert found["frozen/loss"][["w/error", "w/accuracy"]].tolist() == pytest.approx((2 * mean / mean.sum()).tolist())


def test_a_single_task_arm_has_no_weights_of_a_ratio() -> None:
    rows = [weighted("single_task/extra", 1, 0.0, [0.0, 2.0])]
    assert np.isnan(arms_by_name(compared(rows))["single_task/extra"]["w/error"])


@given(st.data(), st.integers(2, 5), st.integers(1, 6))
def test_distances_to_many_are_those_to_each(data: st.DataObject, T: int, n: int) -> None:
    point = st.lists(st.floats(1e-3, 1e3), min_size=T, max_size=T)
    one, many = data.draw(point), data.draw(st.lists(point, min_size=n, max_size=n))
    rows = np.transpose(distances_to(one, many))
    for found, other in zip(rows, many, strict=True):
        assert found == pytest.approx(tuple(distance(one, other)), abs=1e-9)


def test_a_weight_of_zero_is_infinitely_far() -> None:
    aitchison, l2, factor = distances_to([1.0, 1.0, 1.0], [[0.0, 1.5, 1.5], [1.0, 1.0, 1.0]])
    assert aitchison.tolist() == [math.inf, 0.0]
    assert factor.tolist() == [math.inf, 1.0]
    assert l2.tolist() == pytest.approx([math.sqrt(1.5), 0.0])
    left, right, middle = [0.0, 2.0], [2.0, 0.0], [1.0, 1.0]
    for pair in ((left, middle), (middle, right), (left, right), (left, left)):
        found = distance(*pair)
        assert (found.aitchison, found.factor) == (math.inf, math.inf)
        assert found.l2 == pytest.approx(math.dist(*pair))


def test_a_point_with_a_weight_of_zero_is_never_the_nearest() -> None:
    search = pd.concat([points([[2.0, 0.0], [0.5, 1.5]], [1.0, 2.0]), run([0.6, 1.4], 0.0)])
    equals = search[search["kind"] == "static"]
    (near,) = set(distances(search, _arms("static/000", [1.0, 1.0]), "static/000", equals, (0, 1))["nearest"])
    assert near == "static/001"


def test_weights_that_are_not_known_have_no_distance() -> None:
    assert all(math.isnan(x) for x in distance([NAN, 1.0], [1.0, 1.0]))


def test_weights_known_to_be_best_have_a_distance_and_take_part_in_nothing() -> None:
    known = [1.9, 0.1]
    rows = [
        [weighted("static/01", s, -1.0, [0.2, 1.8]) for s in range(4)],
        [weighted("known_optimum", s, -9.0, known) for s in range(1, 4)],
        [weighted("gradnorm/paper/alpha=2", 0, -2.0, [0.5, 1.5])],
    ]
    with_it, without = compared(*rows), compared(rows[0], rows[2])
    found = with_it.distances.iloc[0]
    assert found[["known_aitchison", "known_l2", "known_factor"]].tolist() == pytest.approx(
        list(distance([0.5, 1.5], known))
    )
    assert with_it.recommended == without.recommended == "static/01"
    assert with_it.verdict.static == "static/01"
    assert with_it.noise == pytest.approx(without.noise, nan_ok=True)
    assert list(with_it.region["arm"]) == list(without.region["arm"])
    assert set(with_it.arms["dominated_by"]) == set(without.arms["dominated_by"])
    assert with_it.agreement == pytest.approx(without.agreement, nan_ok=True)
    assert without.distances["known_aitchison"].isna().all()


def _arms(name: str, w: list[float]) -> pd.DataFrame:
    return pd.DataFrame([{"arm": name, **{f"w/{task}": x for task, x in enumerate(w)}}])


measured_or_not = st.lists(st.one_of(st.floats(-20, 20), st.just(NAN)), min_size=2, max_size=12)


@given(
    measured_or_not.filter(lambda scores: np.isfinite(scores).any()),
    st.floats(0, 5),
    st.integers(1, 40),
    st.data(),
)
def test_the_region_by_its_formula(scores: list[float], sigma: float, df: int, data: st.DataObject) -> None:
    search = pd.concat([points([[1.0, 1.0]] * len(scores), scores), run([1.0, 1.0], -99.0)], ignore_index=True)
    measured = {f"static/{i:03d}": score for i, score in enumerate(scores) if np.isfinite(score)}
    best = data.draw(st.sampled_from(sorted(measured)))  # which the confirm seeds choose, perhaps not the first
    reach = measured[best] + stats.t.ppf(0.975, df) * math.sqrt(2 * sigma**2)
    expected = {name for name, score in measured.items() if score <= reach}
    near = {name for name, score in measured.items() if abs(score - reach) < 1e-9}  # rounding decides
    found = region(search, best, (sigma, df))
    assert set(found["arm"]) - near == expected - near
    assert found["score"].is_monotonic_increasing
    if sigma > 1e-6:
        assert best in set(found["arm"])


def test_the_region_without_noise_is_the_best_and_its_equals() -> None:
    search = points([[1.0, 1.0]] * 4, [3.0, 1.0, 2.0, 1.0])
    assert list(region(search, "static/001", (NAN, 0.0))["arm"]) == ["static/001", "static/003"]
    assert list(region(search, "static/001", (NAN, 0.0))["score"]) == [1.0, 1.0]
    assert region(search, "static/999", (1.0, 10.0)).empty
    assert region(search, "", (1.0, 10.0)).empty


@given(st.data(), st.integers(2, 4), st.integers(1, 8))
def test_the_distance_to_the_region_is_that_to_its_nearest_point(data: st.DataObject, T: int, n: int) -> None:
    point = st.lists(st.floats(0.01, 100), min_size=T, max_size=T)
    w, many = data.draw(point), data.draw(st.lists(point, min_size=n, max_size=n))
    search = pd.concat([points(many, range(n)), run(w, 0.0, alpha=0.5)], ignore_index=True)
    found = distances(search, _arms("static/000", many[0]), "static/000", points(many, range(n)), tuple(range(T)))
    each = [distance(w, other) for other in many]
    for _, line in found.iterrows():
        assert line["region_aitchison"] == pytest.approx(min(d.aitchison for d in each), abs=1e-9)
        at = each[int(line["nearest"].removeprefix("static/"))]
        assert (line["region_l2"], line["region_factor"]) == pytest.approx((at.l2, at.factor), abs=1e-9)
        assert (line["aitchison"], line["l2"], line["factor"]) == pytest.approx(tuple(each[0]), abs=1e-9)
    assert list(found["average"]) == list(AVERAGES)


def test_weights_on_a_point_of_the_region_are_at_no_distance() -> None:
    """The best static point is elsewhere, and yet GradNorm's weights are as good as its."""
    w = {"static/01": [0.2, 1.8], "static/02": [0.9, 1.1], "static/03": [1.9, 0.1]}
    score = {"static/01": -1.0, "static/02": -0.9, "static/03": 40.0}
    noise = {"static/01": [0.0, 0.5, -0.5], "static/02": [0.4, -0.4, 0.3], "equal": [-0.5, 0.5, 0.5]}
    rows = [weighted(name, 0, score[name], w[name]) for name in w]
    rows += [weighted(name, s, 10 * (name == "equal") + x, w.get(name, [1, 1])) for name, xs in noise.items()
             for s, x in enumerate(xs, 1)]  # fmt: skip
    comparison = compared(rows, [weighted("gradnorm/paper/alpha=1", 0, 0.0, [0.9, 1.1])])
    assert list(comparison.region["arm"]) == ["static/01", "static/02"]
    assert (comparison.verdict.kind, comparison.verdict.static) == ("none", "static/01")  # GradNorm was not confirmed
    found = comparison.distances
    for _, line in found.iterrows():
        assert line["nearest"] == "static/02"
        assert line["region_aitchison"] == pytest.approx(0, abs=1e-9)
        assert line["region_factor"] == pytest.approx(1)
        assert line["aitchison"] == pytest.approx(distance([0.9, 1.1], [0.2, 1.8]).aitchison)


def test_no_region_no_distance_to_it() -> None:
    search = pd.concat([points([[1.0, 1.0]], [0.0]), run([0.5, 1.5], 0.0)])
    found = distances(search, _arms("equal", [1.0, 1.0]), "equal", search.iloc[:0], (0, 1))
    assert found["region_aitchison"].isna().all()
    assert set(found["nearest"]) == {""}
    assert distances(search, _arms("equal", [1.0, 1.0]), "other", search.iloc[:0], (0, 1)).empty
