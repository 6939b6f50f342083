"""A table of trials whose scores are what we write down: every single-task reference is 1."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hpo.compare import Comparison, Scoring, TaskScoring, compare
from hpo.core.trial import AVERAGES

SCORING = Scoring({"error": TaskScoring(1), "accuracy": TaskScoring(-1)})
NAN = float("nan")


def row(arm: str, seed: int, val: float = 0.0, test: float = NAN, **more: Any) -> dict[str, Any]:
    """A trial whose score is ``val`` percent on validation and ``test`` percent on test."""
    kind, *rest = arm.split("/")
    return {
        "identity": f"{arm} {seed}",
        "arm": arm,
        "phase": "confirm" if seed else "sweep" if kind == "gradnorm" else "static",
        "search": not seed,
        "kind": kind,
        "recipe": rest[0] if kind.startswith("gradnorm") else "",
        "alpha": float(rest[1].removeprefix("alpha=")) if kind == "gradnorm" else NAN,
        "seed": seed,
        "status": "finished",
        "steps": 100,
        "seconds": 10.0,
        "alarms": "",
        **{f"val/{task}": 1 + how.direction * val / 100 for task, how in SCORING.items()},
        **{f"test/{task}": 1 + how.direction * test / 100 for task, how in SCORING.items()},
        **{f"{average}/{task}": 1.0 for average in AVERAGES for task in SCORING},
    } | more


def arm(name: str, val: Sequence[float], test: Sequence[float], **more: Any) -> list[dict[str, Any]]:
    """The confirm trials of an arm, seed by seed."""
    return [row(name, seed, *scores, **more) for seed, scores in enumerate(zip(val, test, strict=True), 1)]


def references(seeds: int) -> list[dict[str, Any]]:
    """The single-task trials on the search seed and on the confirm seeds 1 .. ``seeds``."""
    rows = []
    for task, seed in itertools.product(SCORING, range(seeds + 1)):
        phase = {"phase": "confirm" if seed else "references"}
        rows.append(row(f"single_task/{task}", seed, 0.0, 0.0 if seed else NAN, **phase))
    return rows


def compared(
    *rows: list[dict[str, Any]], seeds: int = 3, margin: float = 1.0, scoring: Scoring = SCORING
) -> Comparison:
    """The comparison of these trials and the references."""
    return compare(pd.DataFrame([*references(seeds), *itertools.chain(*rows)]), scoring, margin)


def arms_by_name(comparison: Comparison) -> dict[str, pd.Series]:
    """The rows of the table of arms."""
    return {str(found["arm"]): found for _, found in comparison.arms.iterrows()}


def weighted(name: str, seed: int, val: float, w: Mapping[str, Sequence[float]] | Sequence[float]) -> dict[str, Any]:
    """A trial with a score and E_t[w], one for all averages or one for each."""
    by_average = w if isinstance(w, Mapping) else dict.fromkeys(AVERAGES, w)
    columns = {f"{a}/{task}": x for a, ws in by_average.items() for task, x in zip(SCORING, ws, strict=True)}
    return row(name, seed, val, val if seed else NAN, **columns)


def points(w: Sequence[Sequence[float]] | Any, scores: Sequence[float] | Any) -> pd.DataFrame:
    """The scored static points of a search, best first, with tasks 0, 1, ... ."""
    rows = [
        {
            "arm": f"static/{i:03d}",
            "kind": "static",
            "recipe": "",
            "alpha": NAN,
            "score": float(score),
            "objective": float(score),
        }
        | {f"{average}/{task}": float(x) for average in AVERAGES for task, x in enumerate(one)}
        for i, (one, score) in enumerate(zip(w, scores, strict=True))
    ]
    return pd.DataFrame(rows).sort_values("score", kind="stable").reset_index(drop=True)


def run(w: Sequence[float] | Any, score: float, recipe: str = "robust", alpha: float = 1.0) -> pd.DataFrame:
    """A search trial of GradNorm, to be put beside `points`."""
    columns = {f"{average}/{task}": float(x) for average in AVERAGES for task, x in enumerate(w)}
    name = f"gradnorm/{recipe}/alpha={alpha:g}"
    return pd.DataFrame(
        [
            {"arm": name, "kind": "gradnorm", "recipe": recipe, "alpha": alpha, "score": score, "objective": score}
            | columns
        ]
    )
