"""The alarm on a flat optimum: it sounds where static points far apart score alike, and nowhere else."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpo.compare import Comparison, compare, seed_noise
from hpo.compare.flatness import FEWEST, flat_optimum
from hpo.compare.scores import scored_confirm, scored_search
from hpo.compare.verdicts import best_arm
from hpo.compare.weight_distances import region
from hpo.core.arm import FIXED, SEARCHED
from hpo.core.trial import AVERAGES
from search_spaces import points
from search_spaces.log_ratio import clr
from tests.helpers.compare_tables import NAN, SCORING, references, row

SOUND = re.compile(r"(\d+) of (\d+) static points cannot be distinguished from the best one")
RATIO = 1e3
NOISE = 0.3  # of a score, from seed to seed


def study(curvature: float, number: int = 48, seeds: int = 5, stream: int = 0, top: int = 4) -> pd.DataFrame:
    """A search over points whose score is ``curvature`` times the squared distance to the best weights, and noise."""
    random = np.random.default_rng([stream, number, seeds])
    w = points("sobol", 2, number, stream, ratio=RATIO)
    best = clr(np.array([0.6, 1.4]))
    truth = curvature * ((clr(w) - best) ** 2).sum(axis=1)
    names = ["equal", *(f"static/{i:02d}" for i in range(1, len(w)))]
    rows = [_row(name, 0, truth[i] + random.normal(0, NOISE), w[i]) for i, name in enumerate(names)]
    by_score = sorted(range(len(w)), key=lambda i: rows[i]["val/error"])
    for i in sorted({0, *by_score[:top]}):
        for seed in range(1, seeds + 1):
            rows.append(_row(names[i], seed, truth[i] + random.normal(0, NOISE), w[i]))
    for name in ("uncertainty", "gradnorm/paper/alpha=1"):
        rows += [_row(name, seed, 1.0 + random.normal(0, NOISE), w[1]) for seed in range(1, seeds + 1)]
    return pd.DataFrame([*references(seeds), *rows])


def _row(name: str, seed: int, score: float, w: Any) -> dict[str, Any]:
    columns = {f"{average}/{task}": x for average in AVERAGES for task, x in zip(SCORING, w, strict=True)}
    return row(name, seed, score, score if seed else NAN, **columns)


def flat_alarms(comparison: Comparison) -> list[str]:
    return [alarm for alarm in comparison.alarms if SOUND.search(alarm)]


def counted(trials: pd.DataFrame) -> list[str]:
    """The same from the parts of `compare` that it rests on, which take a hundredth of its time."""
    search, confirm = scored_search(trials, SCORING), scored_confirm(trials, SCORING)
    equals = region(search, best_arm(confirm, SEARCHED), seed_noise(confirm))
    columns = ["arm", "recommended", "regret", "regret_low", *(f"w/{task}" for task in SCORING)]
    return said(search, equals, pd.DataFrame(columns=columns).astype({"recommended": bool}))


@pytest.mark.parametrize("seeds", [3, 6])
def test_it_sounds_on_a_flat_optimum(seeds: int) -> None:
    found = [counted(study(0.0, seeds=seeds, stream=stream)) for stream in range(50)]
    assert sum(map(len, found)) >= 48  # three seeds may show less noise than there is


@pytest.mark.parametrize("number", [12, 48])
@pytest.mark.parametrize("seeds", [3, 6])
def test_it_is_silent_on_a_sharp_optimum(number: int, seeds: int) -> None:
    assert [counted(study(10.0, number, seeds, stream)) for stream in range(50)] == [[]] * 50


def test_a_whole_study_sounds_it_or_not() -> None:
    flat, sharp = (compare(study(curvature), SCORING, 1.0) for curvature in (0.0, 10.0))
    assert [len(flat_alarms(flat)), len(flat_alarms(sharp))] == [1, 0]
    assert flat.recommended == next(iter(flat.arms.loc[flat.arms["kind"].isin(FIXED), "arm"]))  # as ever


def test_it_says_how_many_points_and_how_far_apart_they_are() -> None:
    comparison = compare(study(0.0), SCORING, 1.0)
    (alarm,) = flat_alarms(comparison)
    assert SOUND.search(alarm).groups() == (str(len(comparison.region)), "48")
    w = comparison.region[[f"geometric/{task}" for task in SCORING]]
    spread = w.max() / w.min()
    low, high = w[spread.idxmax()].min(), w[spread.idxmax()].max()
    assert f"weight of {spread.idxmax().split('/')[1]} ranges from {low:.2g} to {high:.2g}" in alarm
    assert "confirm.top_static" in alarm


def test_it_is_silent_below_three_seeds_where_the_noise_is_a_guess() -> None:
    assert [flat_alarms(compare(study(0.0, seeds=seeds), SCORING, 1.0)) for seeds in (1, 2)] == [[], []]


def table(scores: list[float], kinds: list[str] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Static points along a line in log-ratios, the i-th with the i-th score, and the table of arms of all."""
    names = [f"static/{i:02d}" for i in range(len(scores))] if kinds is None else kinds
    z = np.linspace(-3, 3, len(scores))
    w = np.exp(np.stack([z, -z], axis=1))
    w = 2 * w / w.sum(axis=1, keepdims=True)
    search = pd.DataFrame(
        {"arm": names, "kind": [name.split("/")[0] for name in names], "score": scores, "status": "finished"}
        | {f"geometric/{task}": w[:, i] for i, task in enumerate(SCORING)}
    )
    arms = search[["arm", "kind"]].assign(recommended=False, regret=0.1, regret_low=-1.0)
    for i, task in enumerate(SCORING):
        arms[f"w/{task}"] = w[:, i]
    return search, arms


def said(search: pd.DataFrame, equals: pd.DataFrame, arms: pd.DataFrame) -> list[str]:
    return list(flat_optimum(search, equals, arms, tuple(SCORING)))


@pytest.mark.parametrize(
    ("alike", "points", "sounds"),
    [(FEWEST, 5, True), (FEWEST - 1, 4, False), (16, 48, True), (15, 48, False), (FEWEST, 16, False)],
)
def test_it_takes_a_third_of_the_points_and_at_least_five(alike: int, points: int, sounds: bool) -> None:
    search, arms = table([0.0] * points)
    assert bool(said(search, search.head(alike), arms)) is sounds


def test_points_that_were_stopped_early_count_as_told_apart() -> None:
    search, arms = table([0.0] * 20)
    search.loc[6:, "status"] = "stopped"
    assert said(search, search.head(6), arms) == []


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (0, "static/00, is extreme: 9 of the 10 other points are nearer"),
        (10, "static/10, is extreme: 9 of the 10 other points are nearer"),
        (3, "Of the other points, 3 are nearer to their centre than the recommended arm, static/03"),
        (5, "The recommended arm, static/05, is the one nearest to their centre"),
    ],
)
def test_it_says_where_the_recommended_point_lies(place: int, words: str) -> None:
    search, arms = table([0.0] * 11)
    arms.loc[place, "recommended"] = True
    (alarm,) = said(search, search, arms)
    assert words in alarm
    assert ("static/05, is as good" in alarm) is (place in (0, 10))  # what would do in the place of an extreme one


def test_a_point_that_the_confirm_seeds_tell_apart_is_not_offered() -> None:
    search, arms = table([0.0] * 11)
    arms.loc[0, "recommended"] = True
    arms.loc[5, "regret_low"] = 0.1
    (alarm,) = said(search, search, arms)
    assert "static/05" not in alarm
    assert re.search(r"static/0[46], is as good", alarm)


def test_equal_weights_would_do_if_they_are_among_the_points_and_not_found_worse() -> None:
    search, arms = table([0.0] * 6, ["static/01", "static/02", "equal", "static/03", "static/04", "static/05"])
    (alarm,) = said(search, search, arms)
    assert "Equal weights are among them" in alarm
    arms.loc[2, "regret_low"] = 0.1
    (alarm,) = said(search, search, arms)
    assert "Equal weights" not in alarm


def test_the_recommended_arm_need_not_be_a_static_point() -> None:
    search, arms = table([0.0] * 6)
    outside = arms.iloc[:1].assign(arm="frozen/loss", kind="frozen", recommended=True)
    outside[[f"w/{task}" for task in SCORING]] = [[1.9999, 0.0001]]
    (alarm,) = said(search, search, pd.concat([arms, outside]))
    assert "frozen/loss, is extreme: 6 of the 6 other points" in alarm
