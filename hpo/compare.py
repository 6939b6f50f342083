"""The comparison: statistics on DataFrames, pure functions, each with its formula and source.

Everything starts from a table of trials (`TRIAL_COLUMNS`), one row a trial:

=====================  ==================================================================================
``identity``           hash of the trial's config
``arm``                ``static/07``, ``equal``, ``gradnorm/robust/alpha=0.5``, ``gradnorm_static/robust/tail``
``phase``              ``references``, ``static``, ``sweep`` (these three: search seed), ``confirm``
``kind``               first part of the arm's name
``recipe``, ``alpha``  of GradNorm arms, else empty and NaN
``seed``, ``status``   ``finished``, ``diverged``, ``failed``
``steps``, ``seconds`` what training it took
``alarms``             what the trial itself had to say, a line each
``val/<task>``         metric on the validation split; ``test/<task>`` on the test split, NaN outside confirm
``arithmetic/<task>``  E_t[w]; also ``geometric/<task>`` and ``tail/<task>``; the weights themselves if fixed
=====================  ==================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Vector = NDArray[np.float64]

TRIAL_COLUMNS = [
    "identity",
    "arm",
    "phase",
    "kind",
    "recipe",
    "alpha",
    "seed",
    "status",
    "steps",
    "seconds",
    "alarms",
]
AVERAGES = ("arithmetic", "geometric", "tail")
SEARCHED = ("static", "equal")  # kinds of arm that are points of the static search
BALANCED = ("gradnorm", "gradnorm_static")  # kinds of arm that GradNorm stands for
FIXED = ("static", "equal", "frozen", "gradnorm_static")  # kinds of arm that a weights file can hold


class Interval(NamedTuple):
    """A mean over seeds with its two-sided confidence interval; NaN bounds below two seeds."""

    mean: float
    low: float
    high: float
    seeds: int


class Distance(NamedTuple):
    """How far two points of weights are apart."""

    aitchison: float
    l2: float
    factor: float


@dataclass(frozen=True)
class Verdict:
    """``kind`` is better, equivalent, worse, inconclusive, or none (``reason`` says why there is no verdict)."""

    kind: str
    regret: Interval
    arm: str
    static: str
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All that the report shows.

    Attributes:
        tasks: names; ``directions``: +1 where a smaller metric is better, -1 where a larger one is.
        search: the trials on the search seed with ``score`` (validation), best first.
        confirm: the trials on the confirm seeds with ``score_val`` and ``score_test``.
        arms: one row a confirm arm, best validation score first: ``arm, kind, recipe, alpha, seeds, score_val,
            score_test, low, high`` (of score_test), ``regret, regret_low, regret_high, verdict, recommended`` and for
            each task ``test/<task>``, ``val/<task>`` (means over seeds) and ``w/<task>``.
        verdict: on the best GradNorm arm against the best static arm.
        distances: for each recipe and average E_t[w] of the best alpha, its `Distance` to the best static point.
        ranks: for each recipe the rank of its best run among the static points, on the search seed.
        cost: for each way to find weights its trials, steps and seconds, and their ratio to the static search.
        recommended: the arm to train with, chosen on validation; empty if there is none.
        alarms: what a reader must know before he believes the rest.
    """

    tasks: tuple[str, ...]
    directions: Mapping[str, int]
    margin: float
    search: pd.DataFrame
    confirm: pd.DataFrame
    arms: pd.DataFrame
    verdict: Verdict
    distances: pd.DataFrame
    ranks: pd.DataFrame
    cost: pd.DataFrame
    recommended: str
    alarms: tuple[str, ...]


def compare(trials: pd.DataFrame, directions: Mapping[str, int], margin: float) -> Comparison:
    """Everything from the table of trials; works on an unfinished study as far as its trials carry it.

    Args:
        trials: see the module's docstring.
        directions: for each task +1 (minimize) or -1 (maximize), in the problem's order.
        margin: regret in percent of score that counts as equivalent.
    """
    tasks = tuple(directions)
    search = scored_search(trials, directions)
    confirm = trials[(trials["phase"] == "confirm") & (trials["status"] == "finished")].copy()
    for split in ("val", "test"):
        reference = baseline(confirm, tasks, split)
        confirm[f"score_{split}"] = score(confirm, reference, directions, split)
    arms = _arms(confirm, tasks, margin)
    verdict = _verdict(confirm, margin)
    return Comparison(
        tasks=tasks,
        directions=dict(directions),
        margin=margin,
        search=search,
        confirm=confirm,
        arms=arms,
        verdict=verdict,
        distances=_distances(search, arms, verdict.static, tasks),
        ranks=_ranks(search),
        cost=_cost(trials),
        recommended=next(iter(arms.loc[arms["recommended"], "arm"]), ""),
        alarms=tuple(_alarms(trials, confirm, arms, tasks)),
    )


def baseline(trials: pd.DataFrame, tasks: Sequence[str], split: str) -> pd.Series:
    """The single-task reference b_i: for each task the metric of the network trained on it alone, mean over seeds.

    NaN for a task whose reference did not finish.
    """
    alone = trials[(trials["kind"] == "single_task") & (trials["status"] == "finished")]
    means = {task: alone.loc[alone["arm"] == f"single_task/{task}", f"{split}/{task}"].mean() for task in tasks}
    return pd.Series(means, dtype=float)


def score(trials: pd.DataFrame, reference: pd.Series, directions: Mapping[str, int], split: str) -> pd.Series:
    """Delta_m of each trial in percent, lower is better: ``100 / T sum_i d_i (m_i - b_i) / |b_i|``.

    Maninis, Radosavovic, Kokkinos, "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, equation 5, with its
    sign turned. ``b_i`` is a mean over seeds, so that the mean of the scores over seeds is the score of the mean
    metrics: per-task mean first, then over tasks. Tasks without a reference are left out; single-task trials and
    trials that did not finish have no score.

    Args:
        trials: with columns ``<split>/<task>``.
        reference: b_i by task.
        directions: d_i by task, +1 or -1.
        split: ``val`` or ``test``.
    """
    known = [task for task in directions if np.isfinite(reference[task]) and reference[task] != 0]
    scored = (trials["kind"] != "single_task") & (trials["status"] == "finished")
    if not known:
        return pd.Series(np.nan, index=trials.index)
    change = [
        directions[task] * (trials[f"{split}/{task}"] - reference[task]) / abs(reference[task]) for task in known
    ]
    delta: pd.Series = 100 * pd.concat(change, axis=1).mean(axis=1, skipna=False)
    return delta.where(scored)


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval, ``mean +- t_{n-1} s / sqrt(n)``."""
    x = np.asarray(values, dtype=float)
    n, mean = len(x), float(np.mean(x)) if len(x) else float("nan")
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(x, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def regret(arm: pd.DataFrame, static: pd.DataFrame, split: str) -> pd.Series:
    """Score of an arm minus score of the best static arm, on the seeds that both have; index: seed."""
    column = f"score_{split}"
    return (arm.set_index("seed")[column] - static.set_index("seed")[column]).dropna()


def judge(regrets: ArrayLike, margin: float, level: float = 0.05) -> str:
    """One of four words on a regret paired by seed.

    *equivalent*: two one-sided t tests both reject a regret outside +-margin (TOST: Schuirmann, J. Pharmacokinetics
    and Biopharmaceutics 15, 1987), which is the same as the 90% interval lying inside. It comes first: a difference
    inside the margin was declared not to matter. *better*, *worse*: the 95% interval lies below or above 0.
    *inconclusive*: none of these, or fewer than two seeds.
    """
    wide, narrow = interval(regrets, 1 - level), interval(regrets, 1 - 2 * level)
    if wide.seeds < 2:
        return "inconclusive"
    if -margin < narrow.low and narrow.high < margin:
        return "equivalent"
    if wide.high < 0:
        return "better"
    return "worse" if wide.low > 0 else "inconclusive"


def distance(a: ArrayLike, b: ArrayLike) -> Distance:
    """Three distances between two points of weights, shape (T,), each scaled to sum to T first.

    *Aitchison*: Euclidean distance of the centred log-ratios ``ln w_i - mean_j ln w_j`` (Aitchison, "The Statistical
    Analysis of Compositional Data", 1986); it does not see the units of the losses. *L2*: Euclidean distance of w
    (the GradNorm paper, Figure 4). *factor*: the largest factor by which a weight is off, ``max_i max(a_i/b_i,
    b_i/a_i)``.
    """
    x, y = _closed(a), _closed(b)
    ratio = np.log(x) - np.log(y)
    return Distance(
        aitchison=float(np.linalg.norm(ratio - ratio.mean())),
        l2=float(np.linalg.norm(x - y)),
        factor=float(np.exp(np.abs(ratio).max())),
    )


def best_trial(trials: pd.DataFrame, column: str = "score") -> pd.Series | None:
    """The row with the lowest finite score, the first of equals; ``None`` if there is none."""
    finite = trials[np.isfinite(trials[column].astype(float))]
    return None if finite.empty else finite.iloc[int(finite[column].argmin())]


def weights_of(row: pd.Series, tasks: Sequence[str], average: str) -> Vector:
    """E_t[w] of a row of trials, shape (T,)."""
    return row[[f"{average}/{task}" for task in tasks]].to_numpy(dtype=np.float64)


def _closed(w: ArrayLike) -> Vector:
    x: Vector = np.asarray(w, dtype=np.float64)
    scale = len(x) / float(x.sum())
    return x * scale


def scored_search(trials: pd.DataFrame, directions: Mapping[str, int]) -> pd.DataFrame:
    """The trials of the search seed with their validation ``score``, best first, those without one last."""
    search = trials[trials["phase"] != "confirm"].copy()
    search["score"] = score(search, baseline(search, tuple(directions), "val"), directions, "val")
    return search.sort_values("score", kind="stable").reset_index(drop=True)


def _arms(confirm: pd.DataFrame, tasks: Sequence[str], margin: float) -> pd.DataFrame:
    """One row an arm; the best static arm is chosen on validation and read on test."""
    groups = {str(name): group for name, group in confirm.groupby("arm", sort=False)}
    static, recommended = _best(confirm, SEARCHED), _best(confirm, FIXED)
    rows = []
    for name, group in groups.items():
        first, score_test = group.iloc[0], interval(group["score_test"].dropna())
        row = {column: first[column] for column in ("arm", "kind", "recipe", "alpha")}
        row |= {"seeds": len(group), "score_val": group["score_val"].mean(), "score_test": score_test.mean}
        row |= {"low": score_test.low, "high": score_test.high, "steps": group["steps"].mean()}
        row |= {"seconds": group["seconds"].mean(), "recommended": name == recommended, "best_static": name == static}
        row |= _against(group, groups.get(static), margin) if name != static else _against(group, None, margin)
        row |= {f"{s}/{task}": group[f"{s}/{task}"].mean() for s in ("val", "test") for task in tasks}
        row |= _mean_weights(group, tasks)
        rows.append(row)
    columns = ["arm", "kind", "recipe", "alpha", "score_val", "score_test", "recommended", "best_static"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*columns, "regret", "verdict"])
    table = table.astype({"recommended": bool, "best_static": bool})
    return table.sort_values("score_val", kind="stable", na_position="last").reset_index(drop=True)


def _best(confirm: pd.DataFrame, kinds: Sequence[str]) -> str:
    """The arm of these kinds with the lowest mean validation score; empty if none has one.

    Only arms that have a score on as many seeds as any of them: a mean over the seeds that went well is no better.
    """
    scored = confirm[confirm["kind"].isin(kinds) & confirm["score_val"].notna()]
    means = scored.groupby("arm", sort=False)["score_val"].agg(["size", "mean"])
    means = means[means["size"] == means["size"].max()]
    return "" if means.empty else str(means["mean"].idxmin())


def _against(group: pd.DataFrame, static: pd.DataFrame | None, margin: float) -> dict[str, object]:
    values = pd.Series(dtype=float) if static is None else regret(group, static, "test")
    found = interval(values)
    word = judge(values, margin) if found.seeds else ""
    return {"regret": found.mean, "regret_low": found.low, "regret_high": found.high, "verdict": word}


def _mean_weights(group: pd.DataFrame, tasks: Sequence[str]) -> dict[str, float]:
    """Geometric mean over seeds of E_t[w] (geometric), which for fixed weights is the weights."""
    columns = [f"geometric/{task}" for task in tasks]
    w = group[columns].to_numpy(dtype=np.float64)
    known = bool(np.all(w > 0))
    mean = _closed(np.exp(np.log(w).mean(axis=0))) if known else np.full(len(tasks), np.nan)
    return {f"w/{task}": float(value) for task, value in zip(tasks, mean, strict=True)}


def _verdict(confirm: pd.DataFrame, margin: float) -> Verdict:
    nothing = Interval(float("nan"), float("nan"), float("nan"), 0)
    static, ours = _best(confirm, SEARCHED), _best(confirm, BALANCED)
    if not static:
        return Verdict("none", nothing, "", "", "no static arm has a score on the confirm seeds")
    if not ours:
        return Verdict("none", nothing, "", static, "no GradNorm arm has a score on the confirm seeds")
    regrets = regret(confirm[confirm["arm"] == ours], confirm[confirm["arm"] == static], "test")
    if regrets.empty:
        return Verdict("none", nothing, ours, static, "no seed has a test score of both arms")
    return Verdict(judge(regrets, margin), interval(regrets), ours, static)


def _distances(search: pd.DataFrame, arms: pd.DataFrame, static: str, tasks: Sequence[str]) -> pd.DataFrame:
    rows = []
    point = arms.loc[arms["arm"] == static]
    for recipe, runs in search[search["kind"] == "gradnorm"].groupby("recipe", sort=False):
        best = best_trial(runs)
        if best is None or point.empty:
            continue
        target = point.iloc[0][[f"w/{task}" for task in tasks]].to_numpy(dtype=np.float64)
        for average in AVERAGES:
            w = weights_of(best, tasks, average)
            row = {"recipe": recipe, "average": average, "alpha": best["alpha"], **distance(w, target)._asdict()}
            rows.append(row | {f"w/{task}": value for task, value in zip(tasks, w, strict=True)})
    return pd.DataFrame(rows, columns=["recipe", "average", "alpha", *Distance._fields, *(f"w/{t}" for t in tasks)])


def _ranks(search: pd.DataFrame) -> pd.DataFrame:
    """1 + the number of static points with a strictly lower validation score, on the same seed."""
    points = search[search["kind"].isin(SEARCHED) & search["score"].notna()]["score"]
    rows = []
    for recipe, runs in search[search["kind"] == "gradnorm"].groupby("recipe", sort=False):
        best = best_trial(runs)
        if best is not None:
            rank = 1 + int((points < best["score"]).sum())
            rows.append({"recipe": recipe, "alpha": best["alpha"], "score": best["score"], "rank": rank})
    return pd.DataFrame(rows, columns=["recipe", "alpha", "score", "rank"]).assign(points=len(points))


def _cost(trials: pd.DataFrame) -> pd.DataFrame:
    """What each way to find weights took on the search seed, and its ratio to the static search."""
    search = trials[trials["phase"] != "confirm"]
    sweeps = search[search["kind"] == "gradnorm"]
    ways = {"static search": search[search["kind"].isin(SEARCHED)], "GradNorm, all alpha sweeps": sweeps}
    recipes = {str(recipe): runs for recipe, runs in sweeps.groupby("recipe", sort=False)}
    whole_runs = {recipe: runs[runs["status"] == "finished"] for recipe, runs in recipes.items()}
    ways |= {f"GradNorm {recipe}, alpha sweep": runs for recipe, runs in recipes.items()}
    rows = [
        {"way": way, "trials": len(runs), "steps": runs["steps"].sum(), "seconds": runs["seconds"].sum()}
        for way, runs in ways.items()
    ]
    rows += [
        {
            "way": f"GradNorm {recipe}, one run",
            "trials": 1,
            "steps": runs["steps"].mean(),
            "seconds": runs["seconds"].mean(),
        }
        for recipe, runs in whole_runs.items()
    ]
    table = pd.DataFrame(rows)
    for unit in ("steps", "seconds"):
        whole = float(table[unit].iloc[0])
        table[f"{unit}_ratio"] = table[unit] / whole if whole else np.nan
    return table


def _alarms(trials: pd.DataFrame, confirm: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]) -> list[str]:
    """What a reader must know before he believes the rest, one line each."""
    alarms = [
        f"{_trials(trials[trials['status'] == status])} {status}"
        for status in ("diverged", "failed")
        if (trials["status"] == status).any()
    ]
    for phase, table, split in (
        ("search", trials[trials["phase"] != "confirm"], "val"),
        ("confirm", confirm, "test"),
    ):
        alarms += _reference_alarms(phase, baseline(table, tasks, split)) if len(table) else []
    if len(arms) and arms["seeds"].max() < 3:
        alarms.append(f"only {arms['seeds'].max()} seed(s): no interval is worth much below 3")
    steps = confirm["steps"].unique()
    if len(steps) > 1:
        alarms.append(f"arms took unequal numbers of steps: {sorted(int(s) for s in steps)}")
    told = trials.assign(alarm=trials["alarms"].str.split("\n")).explode("alarm")
    told = told[told["alarm"].fillna("") != ""]
    kinds = told.groupby(told["alarm"].map(kind_of), sort=False)  # one line for all counts
    return alarms + [f"{_trials(group)}: {group['alarm'].iloc[0]}" for _, group in kinds]


def kind_of(alarm: str) -> str:
    """An alarm without its numbers: many trials may tell the same with other figures."""
    return re.sub(r"\d[\d.]*", "", alarm)


def _reference_alarms(phase: str, reference: pd.Series) -> list[str]:
    return [
        f"{phase} seeds: the single-task reference of {task} {'is 0' if value == 0 else 'did not finish'}, "
        "so the task is left out of every score there"
        for task, value in reference.items()
        if value == 0 or not np.isfinite(value)
    ]


def _trials(trials: pd.DataFrame) -> str:
    """How many trials, of which arms: "3 trials (static/07, gradnorm/paper/alpha=0)"."""
    arms = list(dict.fromkeys(trials["arm"]))
    shown = ", ".join(arms[:4]) + (f" and {len(arms) - 4} more arms" if len(arms) > 4 else "")
    return f"{len(trials)} trial{'s' if len(trials) > 1 else ''} ({shown})"
