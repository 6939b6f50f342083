"""The comparison as tables for people (text in every cell), and as tables for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from hpo.compare import Comparison
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

NOTES = "Notes"  # the column whose words the page shows as badges
ARM = "arm"  # the column of keys that ties rows to figures; nobody reads it
PARETO = "Pareto front"
_TRIAL_COLUMNS = ["phase", "arm", "seed", "status", "score_val", "score_test", "steps", "seconds", "identity"]


def arms_table(data: ReportData) -> pd.DataFrame:
    """One row an arm, best validation score first; single-task networks, which define the score, left out."""
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
    marks = [("recommended", row["recommended"]), ("best static", row["best_static"])]
    marks += [("best GradNorm", row["arm"] == comparison.verdict.arm)]
    marks += [("best on validation", comparison.winner.moves and row["arm"] == comparison.winner.arm)]
    notes = [name for name, applies in marks if applies] + lost
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
        "By itself": row["verdict"] or NOTHING,
        "Chosen again": percent(row["chosen"]),
        **{f"w {task}": weight(row[f"w/{task}"]) for task in comparison.tasks},
    }


def _lost(data: ReportData) -> dict[str, list[str]]:
    """For each confirm arm what became of the trials that did not finish, as "diverged: seed 2"."""
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


def metrics_table(data: ReportData) -> pd.DataFrame:
    """For each arm its metrics on the test split, mean over seeds; the single-task networks in the first row."""
    arms = data.comparison.arms
    if arms.empty:
        return pd.DataFrame()
    heads = {task: _metric_head(task, data) for task in data.comparison.tasks}
    reference = {
        head: metric(float(value))
        for task, head in heads.items()
        for value in arms.loc[arms["arm"] == Arm(REFERENCE, task=task).key, f"test/{task}"]
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
    better = "lower" if data.comparison.directions[task] > 0 else "higher"
    return f"{task}: {data.metrics.get(task, 'metric')} ({better} is better)"


def cost_table(comparison: Comparison) -> pd.DataFrame:
    """What each way to find weights took, and how many times the static search that is."""
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
    """How far E_t[w] of each recipe's best alpha is from the best static weights."""
    return pd.DataFrame(
        {
            "Recipe": row["recipe"],
            "E_t[w], average": row["average"],
            "alpha": weight(row["alpha"]),
            "Aitchison distance": weight(row["aitchison"]),
            "L2 distance": weight(row["l2"]),
            "Off by a factor of": ratio(row["factor"]),
            "Nearest point as good": arm_label(row["nearest"]) if row["nearest"] else NOTHING,
            "Aitchison distance to it": weight(row["region_aitchison"]),
            "Off from it by a factor of": ratio(row["region_factor"]),
            **_from_known(row),
            **{f"w {task}": weight(row[f"w/{task}"]) for task in comparison.tasks},
        }
        for _, row in comparison.distances.iterrows()
    )


def _from_known(row: pd.Series) -> dict[str, str]:
    """Only a problem made for it has weights that are known to be best."""
    if math.isnan(row["known_aitchison"]):
        return {}
    return {
        "Aitchison distance to the known best": weight(row["known_aitchison"]),
        "Off from the known best by a factor of": ratio(row["known_factor"]),
    }


def ranks_table(comparison: Comparison) -> pd.DataFrame:
    """Where one run of each recipe's best alpha would stand among the static points."""
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
    """Only points drawn at random have a share that stands for others."""
    if not random_points:
        return {}
    known = math.isfinite(row["better_low"])
    interval = f" ({percent(row['better_low'])} to {percent(row['better_high'])})" if known else ""
    return {"Random points that are better": percent(row["better"]) + interval}


def _budget(recipe: str, comparison: Comparison) -> dict[str, str]:
    table, n = comparison.budget.table, len(comparison.budget.curve)
    row = next((row for _, row in table.iterrows() if row["recipe"] == recipe), None)
    if row is None:
        return {}
    few, k, most = row["k_low"], row["k"], f"{row['k_high']}" if row["k_high"] < n else f"{n} or more"
    return {
        "Static points to match": f"more than {n} ({few} or more)" if row["beyond"] else f"{k} ({few} to {most})",
        "Their steps, times the sweep": f"{ratio(row['steps_sweep'])} (at least {ratio(row['steps_sweep_low'])})",
        "Their time, times the sweep": f"{ratio(row['seconds_sweep'])} (at least {ratio(row['seconds_sweep_low'])})",
        "Their time, times one run": f"{ratio(row['seconds_run'])} (at least {ratio(row['seconds_run_low'])})",
    }


def figure4_table(comparison: Comparison) -> pd.DataFrame:
    """Spearman's rho of score and distance to E_t[w], beside that of reference points."""
    return pd.DataFrame(
        {
            "Recipe": row["recipe"],
            "Distance": {"aitchison": "Aitchison", "l2": "L2 (the paper's)"}[row["distance"]],
            "Spearman's rho": signed(row["rho"]),
            "Percentile among 200 reference points": count(row["percentile"]),
            "rho of the references, central 95%": bounds(row["null_low"], row["null_high"]),
        }
        for _, row in comparison.figure4.iterrows()
    )


def gap_table(comparison: Comparison) -> pd.DataFrame:
    """How much worse each arm is on test than on its own training data."""
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
    """Every trial in a line; ``Run`` holds its MLflow run's link."""
    return pd.DataFrame(_trial_rows(all_trials(data), data.run_links))


def _trial_rows(trials: pd.DataFrame, links: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for _, row in trials.iterrows():
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
    """Every trial with its numbers as they are: ``score_val``, ``score_test`` and the columns given to `compare`."""
    search = data.comparison.search.rename(columns={"score": "score_val"})
    whole = pd.concat([part for part in (search, data.comparison.confirm, data.unfinished) if len(part)] or [search])
    whole = whole.drop_duplicates("identity").reindex(columns=list(dict.fromkeys([*_TRIAL_COLUMNS, *whole.columns])))
    return whole.drop(columns="search", errors="ignore").reset_index(drop=True)


def arms_numbers(comparison: Comparison) -> pd.DataFrame:
    """The arms with their numbers as they are, and their label."""
    labels = [arm_label(arm) for arm in comparison.arms["arm"]]
    table = comparison.arms.copy()
    table.insert(1, "label", labels)
    return table


def definitions(comparison: Comparison) -> str:
    """What the numbers in the tables mean."""
    return (
        "A score is the mean over tasks of the relative change against single-task networks, in percent; lower is "
        "better, and below 0 the multitask network beats them. Regret is an arm's score minus the score of the best "
        "static arm, paired by seed, in percentage points. Arms are chosen on validation and read on test, on seeds "
        f"that no search trial has used. A regret within ±{comparison.margin:g} is equivalent. The verdict's regret "
        "is corrected for selection bias: every seed is read with arms chosen on other seeds. The table's regrets "
        "are not corrected: each compares one arm with the best static arm."
    )
