"""Tables of the comparison: for readers with text in every cell, and for programs with numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from hpo.compare import Comparison, reference_arms
from hpo.compare.intervals import NO_INTERVAL
from hpo.core.arm import KNOWN, REFERENCE, Arm
from hpo.core.number_format import (
    NOTHING,
    bounds,
    count,
    duration,
    metric,
    percent,
    ratio,
    signed,
    signed_with_bounds,
    weight,
)
from hpo.report.arm_labels import arm_label
from hpo.report.report_data import ReportData
from hpo.report.score_words import score_words
from hpo.report.sentences import rival_arm, span

NOTES = "Notes"  # column whose entries the page shows as badges
ARM = "arm"  # column of keys that link rows to figures; not shown
PARETO = "Pareto front"
MOST_ROWS = 1000  # of the table of trials, which a browser lays out whole
_TRIAL_COLUMNS = ["phase", "arm", "seed", "status", "score_val", "score_test", "steps", "seconds", "identity"]


def arms_table(data: ReportData) -> pd.DataFrame:
    """Return one row per arm, best validation score first, without single-task networks, which define the score."""
    comparison = data.comparison
    arms = comparison.arms[comparison.arms["kind"] != REFERENCE]
    planned = int(arms["seeds"].max()) if len(arms) else 0
    lost = _lost(data)
    rows = [_arm_row(row, comparison, planned, lost.get(row["arm"], [])) for _, row in arms.iterrows()]
    known = set(comparison.arms["arm"])
    rows += [
        {ARM: arm, "Arm": arm_label(arm), NOTES: ", ".join(notes)} for arm, notes in lost.items() if arm not in known
    ]
    return pd.DataFrame(rows, dtype=object).fillna(NOTHING) if rows else pd.DataFrame(columns=["Arm", NOTES])


def _arm_row(row: pd.Series, comparison: Comparison, planned: int, lost: list[str]) -> dict[str, str]:
    marks = [
        ("recommended", row["recommended"]),
        ("best static" if comparison.searched else "compared with", row["best_static"]),
    ]
    marks += [("best GradNorm", row["arm"] == comparison.verdict.arm)]
    marks += [("best on validation", comparison.winner.moves and row["arm"] == comparison.winner.arm)]
    notes = [name for name, applies in marks if applies] + lost
    notes += [f"misses the limit of {task}" for task in comparison.misses(str(row["arm"]))]
    if row["seeds"] < planned:
        notes.append(f"{row['seeds']} of {planned} seeds")
    return {
        ARM: row["arm"],
        "Arm": arm_label(row["arm"]),
        NOTES: ", ".join(notes),
        "Seeds": count(row["seeds"]),
        "Score, validation": signed(row["score_val"]),
        "Score, test (95% interval)": signed_with_bounds(row["score_test"], row["low"], row["high"]),
        "Regret (95% interval)": signed_with_bounds(row["regret"], row["regret_low"], row["regret_high"]),
        "Verdict": row["verdict"] or NOTHING,
        "Chosen in resamples": percent(row["chosen"]),
        **{f"w {task}": weight(row[f"w/{task}"]) for task in comparison.tasks},
    }


def _lost(data: ReportData) -> dict[str, list[str]]:
    """Return for each confirm arm the trials that did not finish, as "diverged: seed 2"."""
    if data.unfinished.empty:
        return {}
    trials = data.unfinished[~data.unfinished["search"].astype(bool)]
    return {
        str(arm): [f"{status}: seed {_listed(some['seed'])}" for status, some in group.groupby("status")]
        for arm, group in trials.groupby("arm")
    }


def _listed(values: pd.Series) -> str:
    return " and ".join(str(value) for value in sorted(values))


def shortlist_table(comparison: Comparison) -> pd.DataFrame:
    """One row per arm of the shortlist, those that raced longest first."""
    return pd.DataFrame(
        {
            ARM: row["arm"],
            "Arm": arm_label(row["arm"]),
            NOTES: "best with fixed weights" if row["chosen"] else "",
            "Seeds": count(row["seeds"]),
            "Score, validation": signed(row["score"]),
            **{f"w {task}": weight(row[f"w/{task}"]) for task in comparison.tasks},
        }
        for _, row in comparison.shortlist.iterrows()
    )


def limits_table(comparison: Comparison) -> pd.DataFrame:
    """Return by how much each arm is behind the single-task network of each limited task."""
    return pd.DataFrame(
        {
            ARM: row["arm"],
            "Arm": arm_label(row["arm"]),
            "Task": row["task"],
            "Limit, %": f"{row['limit']:g}",
            "Behind, validation, %": signed(row["change"]),
            "Upper bound (95%)": signed(row["bound"]),
            "Limit kept": "yes" if row["kept"] else "no",
        }
        for _, row in comparison.limits.iterrows()
    )


def tuning_table(comparison: Comparison) -> pd.DataFrame:
    """Return one row per arm that was trained with several sets of arguments, the best first."""
    found, scores = comparison.tuning, comparison.arms.set_index("arm")["score_test"]
    best = found.scores[found.scores["best"].astype(bool)].sort_values("score", kind="stable")
    rows = []
    for _, row in best.iterrows():
        arm, label = str(row["arm"]), str(row["arguments"])
        tuned = replace(Arm.parse(arm), arguments=label).key
        gain = found.gains.get(arm, NO_INTERVAL)
        rows.append(
            {
                ARM: tuned if tuned in scores else arm,
                "Arm": arm_label(arm),
                "Best arguments": label.replace(",", ", ") or "the problem's own",
                "Score, validation": signed(row["score"]),
                "Score, test, own arguments": signed(scores.get(arm, math.nan)),
                "Score, test, best arguments": signed(scores.get(tuned, math.nan)),
                "Gain from tuning (95% interval)": signed_with_bounds(gain.mean, gain.low, gain.high),
            }
        )
    return pd.DataFrame(rows, dtype=object)


def metrics_table(data: ReportData) -> pd.DataFrame:
    """Return each arm's metrics on the test split, mean over seeds; the first row has the single-task networks."""
    arms = data.comparison.arms
    if arms.empty:
        return pd.DataFrame()
    heads = {task: _metric_head(task, data) for task in data.comparison.tasks}
    alone = reference_arms(data.comparison.confirm, data.comparison.scoring)
    reference = {
        head: metric(float(value))
        for task, head in heads.items()
        for value in arms.loc[arms["arm"] == alone[task], f"test/{task}"]
    }
    rows = [{"Arm": "single-task networks", **reference}] if reference else []
    for _, row in arms[arms["kind"] != REFERENCE].iterrows():
        metrics = {head: metric(row[f"test/{task}"]) for task, head in heads.items()}
        rows.append({ARM: row["arm"], "Arm": arm_label(row["arm"]), **metrics, PARETO: _pareto(row)})
    return pd.DataFrame(rows, columns=[ARM, "Arm", *heads.values(), PARETO], dtype=object).fillna(NOTHING)


def _pareto(row: pd.Series) -> str:
    if pd.isna(row["score_test"]) or row["kind"] == KNOWN:
        return NOTHING
    return f"dominated by {arm_label(row['dominated_by'])}" if row["dominated_by"] else "on the front"


def _metric_head(task: str, data: ReportData) -> str:
    better = "lower" if data.comparison.scoring[task].direction > 0 else "higher"
    return f"{task}: {data.metrics.get(task, 'metric')} ({better} is better)"


def cost_table(comparison: Comparison) -> pd.DataFrame:
    """Return the cost of each way to find weights, absolute and in multiples of the static search."""
    return pd.DataFrame(
        {
            "Way to find weights": row["way"],
            "Trials": count(row["trials"]),
            "Steps": count(row["steps"]),
            "Steps, times static": ratio(row["steps_ratio"]),
            "Time": duration(row["seconds"]),
            "Time, times static": ratio(row["seconds_ratio"]),
        }
        for _, row in comparison.cost.iterrows()
        if row["trials"]
    )


def distances_table(comparison: Comparison) -> pd.DataFrame:
    """Return the distances of E_t[w] of each recipe's best alpha to the best static weights."""
    return pd.DataFrame(
        {
            "Recipe": row["recipe"],
            "E_t[w], average": row["average"],
            "alpha": weight(row["alpha"]),
            "Aitchison distance": weight(row["aitchison"]),
            "L2 distance": weight(row["l2"]),
            "Largest factor": ratio(row["factor"]),
            "Nearest equally good point": arm_label(row["nearest"]) if row["nearest"] else NOTHING,
            "Aitchison distance to it": weight(row["region_aitchison"]),
            "Largest factor to it": ratio(row["region_factor"]),
            **_from_known(row),
            **{f"w {task}": weight(row[f"w/{task}"]) for task in comparison.tasks},
        }
        for _, row in comparison.distances.iterrows()
    )


def _from_known(row: pd.Series) -> dict[str, str]:
    """Return the distance to the weights known to be best, which only constructed problems have."""
    if math.isnan(row["known_aitchison"]):
        return {}
    return {
        "Aitchison distance to the known best": weight(row["known_aitchison"]),
        "Largest factor to the known best": ratio(row["known_factor"]),
    }


def ranks_table(comparison: Comparison) -> pd.DataFrame:
    """Return the rank of each recipe's best run among the static points, and the search that matches it."""
    return pd.DataFrame(
        {
            "Recipe": row["recipe"],
            "Best alpha": weight(row["alpha"]),
            "Score, validation": signed(row["score"]),
            "Rank": f"{row['rank']} of {row['points'] + 1}{_rank_bounds(row)}",
            **_share(row, comparison.random_points),
            **_budget(row["recipe"], comparison),
        }
        for _, row in comparison.ranks.iterrows()
    )


def _rank_bounds(row: pd.Series) -> str:
    return f" ({row['rank_low']:.0f} to {row['rank_high']:.0f})" if math.isfinite(row["rank_low"]) else ""


def _share(row: pd.Series, random_points: bool) -> dict[str, str]:
    """Return the share of better points, which is defined for points drawn at random only."""
    if not random_points:
        return {}
    known = math.isfinite(row["better_low"])
    interval = f" ({percent(row['better_low'])} to {percent(row['better_high'])})" if known else ""
    return {"Random points that are better": percent(row["better"]) + interval}


def _budget(recipe: str, comparison: Comparison) -> dict[str, str]:
    table, n = comparison.budget.table, comparison.budget.points
    row = next((row for _, row in table.iterrows() if row["recipe"] == recipe), None)
    if row is None:
        return {}
    few, k, most = row["k_low"], row["k"], f"{row['k_high']}" if row["k_high"] < n else f"{n} or more"
    return {
        "Static points to match": f"more than {n} ({few} or more)" if row["beyond"] else f"{k} ({few} to {most})",
        "Their steps / sweep": f"{ratio(row['steps_sweep'])} (at least {ratio(row['steps_sweep_low'])})",
        "Their time / sweep": f"{ratio(row['seconds_sweep'])} (at least {ratio(row['seconds_sweep_low'])})",
        "Their time / one run": f"{ratio(row['seconds_run'])} (at least {ratio(row['seconds_run_low'])})",
    }


def figure4_table(comparison: Comparison) -> pd.DataFrame:
    """Return Spearman's rho of score and distance to E_t[w], with that of reference points."""
    return pd.DataFrame(
        {
            "Recipe": row["recipe"],
            "Distance": {"aitchison": "Aitchison", "l2": "L2"}[row["distance"]],
            "Spearman's rho": signed(row["rho"]),
            "Percentile": count(row["percentile"]),
            "rho of 95% of random points": bounds(row["null_low"], row["null_high"]),
        }
        for _, row in comparison.figure4.iterrows()
    )


def surface_table(comparison: Comparison) -> pd.DataFrame:
    """Return the lowest point of the response surface; empty if it does not locate one."""
    surface = comparison.surface
    if not surface.located:
        return pd.DataFrame()
    row = {f"w {task}": weight(w) for task, w in zip(comparison.tasks, surface.optimum, strict=True)}
    return pd.DataFrame([{"Score there": signed(surface.score), **row}])


def gap_table(comparison: Comparison) -> pd.DataFrame:
    """Return by how much each arm is worse on test than on its own training data."""
    arms = comparison.arms[comparison.arms["gap"].notna()]
    return pd.DataFrame(
        {
            ARM: row["arm"],
            "Arm": arm_label(row["arm"]),
            "Gap, percentage points": signed(row["gap"]),
            **{f"{task}: train": metric(row[f"train/{task}"]) for task in comparison.tasks},
            **{f"{task}: test": metric(row[f"test/{task}"]) for task in comparison.tasks},
        }
        for _, row in arms.iterrows()
    )


def trials_table(data: ReportData) -> pd.DataFrame:
    """Return one row per trial, without the worst of a large search; ``Run`` is the link to its MLflow run."""
    trials = all_trials(data)
    worst_first = np.flatnonzero(trials["identity"].isin(data.comparison.search["identity"]))[::-1]
    shown = trials.drop(index=worst_first[: max(0, len(trials) - MOST_ROWS)].tolist())
    return pd.DataFrame(_trial_rows(shown, data.run_links))


def trials_caption(data: ReportData) -> str:
    """Return which trials `trials_table` has."""
    every, shown = len(all_trials(data)), len(trials_table(data))
    if shown == every:
        return f"All {every} trials (also in trials.csv)"
    return f"{shown:,} of {every:,} trials, without the worst of the search (all are in trials.csv)"


def _trial_rows(trials: pd.DataFrame, links: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for row in trials.to_dict("records"):
        yield {
            ARM: row["arm"],
            "Phase": row["phase"],
            "Arm": arm_label(row["arm"]),
            "Seed": str(row["seed"]),
            "Status": row["status"],
            "Score, validation": signed(row["score_val"]),
            "Score, test": signed(row["score_test"]),
            "Steps": count(row["steps"]),
            "Time": duration(row["seconds"]),
            "Identity": row["identity"],
            "Run": links.get(row["identity"], NOTHING),
        }


def all_trials(data: ReportData) -> pd.DataFrame:
    """Return all trials as numbers: ``score_val``, ``score_test`` and the columns given to `compare`."""
    found = data.comparison
    search, further = (part.rename(columns={"score": "score_val"}) for part in (found.search, found.further))
    parts = (search, further, found.confirm, data.unfinished)
    whole = pd.concat([part for part in parts if len(part)] or [search])
    whole = whole.drop_duplicates("identity").reindex(columns=list(dict.fromkeys([*_TRIAL_COLUMNS, *whole.columns])))
    return whole.drop(columns=["search", "objective", "beyond"], errors="ignore").reset_index(drop=True)


def arms_numbers(comparison: Comparison) -> pd.DataFrame:
    """Return the table of arms as numbers, with labels."""
    labels = [arm_label(arm) for arm in comparison.arms["arm"]]
    table = comparison.arms.copy()
    table.insert(1, "label", labels)
    return table


def definitions(comparison: Comparison) -> str:
    """Return the rules of this study's comparison, which the glossary does not have."""
    best = comparison.best_epochs
    epoch = f"Each trial counts at its best epoch on validation, in the confirm phase {span(*best)}. " if best else ""
    words = "".join(f" {sentence}" for sentence in score_words(comparison.scoring))
    return (
        "Arms are chosen on validation and compared on test, on seeds that no search trial has used. "
        f"{epoch}A regret within "
        f"±{comparison.margin:g} percentage points counts as equivalent. The verdict's regret is corrected for "
        "selection bias: each seed evaluates arms that were chosen on other seeds. The regrets in the table of arms "
        f"are not corrected: each compares one arm with {rival_arm(comparison)}."
        f"{words}"
    )
