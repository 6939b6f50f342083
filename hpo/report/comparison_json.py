"""``comparison.json``: the comparison for programs.

docs/comparison.schema.json is its schema, written by:
``python -c "from hpo.report.comparison_schema import schema_text; print(schema_text(), end='')"``.

Unknown numbers (no interval with one seed, a metric not measured) are ``null``. A new field does not change the
version; a field that is removed or changes its meaning does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from hpo.compare import Comparison, Interval
from hpo.core.arm import REFERENCE
from hpo.report.answers import moving_winner
from hpo.report.arm_labels import arm_label
from hpo.report.comparison_schema import SCHEMA, VERSION, Document, Number
from hpo.report.report_data import ReportData, recommended_weights
from hpo.report.sentences import sentences


def document(data: ReportData) -> Document:
    """Return the comparison as a document."""
    found = data.comparison
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "study": data.study,
        "tasks": [
            {
                "name": task,
                "metric": data.metrics.get(task, ""),
                "direction": "minimize" if how.direction > 0 else "maximize",
                "change": how.change,
                "priority": how.priority,
                "limit": how.limit,
            }
            for task, how in found.scoring.items()
        ],
        "verdict": _verdict(found),
        "recommended": _recommended(found),
        "winner": _winner(found),
        "alarms": list(found.alarms),
        "arms": [_arm(row, found) for _, row in found.arms.iterrows()],
        "distances": list(_rows(found.distances, found.tasks)),
        "region": list(found.region["arm"]),
        "noise": _number(found.noise[0]),
        "surface": _surface(found),
        "ranks": list(_rows(found.ranks)),
        "best_of_k": list(_rows(found.budget.curve)),
        "budget": list(_rows(found.budget.table)),
        "figure4": list(_rows(found.figure4)),
        "agreement": _number(found.agreement),
        "cost": list(_rows(found.cost)),
        "searched": found.searched,
        "baseline": {"arm": found.baseline, "gain": _mean(found.baseline_gain)} if found.baseline else None,
        "shortlist": list(_rows(found.shortlist, found.tasks)),
        "best_epochs": list(found.best_epochs) if found.best_epochs else None,
        "tuning": _tuning(found),
        "provenance": dict(data.provenance),
    }
    return Document.model_validate(content)


def document_text(data: ReportData) -> str:
    """Return the document as JSON text."""
    return document(data).model_dump_json(by_alias=True, indent=2) + "\n"


def _recommended(found: Comparison) -> dict[str, Any] | None:
    if not found.recommended:
        return None
    misses = list(found.misses(found.recommended))
    return {"arm": found.recommended, "weights": recommended_weights(found), "misses": misses}


def _winner(found: Comparison) -> dict[str, Any] | None:
    winner, answer = found.winner, moving_winner(found)
    if not winner.arm:
        return None
    words, code = (" ".join(answer.sentences), answer.code) if answer else ("", "")
    same = {"arm": winner.arm, "exportable": winner.exportable, "gain": _mean(winner.gain)}
    return {**same, "words": words, "code": code}


def _tuning(found: Comparison) -> dict[str, Any] | None:
    tuning = found.tuning
    if not tuning.sets:
        return None
    common = tuning.common
    return {
        "sets": [{"label": label, "values": dict(values)} for label, values in tuning.sets.items()],
        "scores": list(_rows(tuning.scores)),
        "gains": {arm: _mean(gain) for arm, gain in tuning.gains.items()},
        "common": {"kind": common.kind, "arm": common.arm, "static": common.static, "regret": _mean(common.regret)},
    }


def _verdict(found: Comparison) -> dict[str, Any]:
    verdict = found.verdict
    return {
        "kind": verdict.kind,
        "arm": verdict.arm,
        "static": verdict.static,
        "regret": _mean(verdict.regret),
        "paired": _mean(verdict.paired),
        "margin": found.margin,
        "seeds_needed": verdict.seeds_needed,
        "reason": verdict.reason,
        "sentences": list(sentences(found)),
    }


def _arm(row: pd.Series, found: Comparison) -> dict[str, Any]:
    same = ("arm", "kind", "recipe", "verdict", "recommended", "best_static", "dominated_by")
    return {
        **{name: row[name] for name in same},
        **{name: _number(row[name]) for name in ("alpha", "chosen", "gap", "steps", "seconds")},
        "label": arm_label(row["arm"]),
        "seeds": int(row["seeds"]),
        "misses": list(found.misses(str(row["arm"]))),
        "weights": {} if row["kind"] == REFERENCE else {task: _number(row[f"w/{task}"]) for task in found.tasks},
        "score_validation": _number(row["score_val"]),
        "score_test": _mean(Interval(row["score_test"], row["low"], row["high"], int(row["score_seeds"]))),
        "regret": _mean(Interval(row["regret"], row["regret_low"], row["regret_high"], int(row["regret_seeds"]))),
        "metrics": {
            split: {task: _number(row.get(f"{split}/{task}", math.nan)) for task in found.tasks}
            for split in ("train", "val", "test")
        },
    }


def _surface(found: Comparison) -> dict[str, Any]:
    surface = found.surface
    return {
        "identified": surface.identified,
        "located": surface.located,
        "reason": surface.reason,
        "r2": _number(surface.r2),
        "optimum": {task: float(w) for task, w in zip(found.tasks, surface.optimum, strict=False)},
        "score": _number(surface.score),
    }


def _rows(table: pd.DataFrame, tasks: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, with its ``w/<task>`` columns as one field ``weights``."""
    for row in table.to_dict("records"):
        plain = {
            str(k): _number(v) if isinstance(v, float) else v for k, v in row.items() if not str(k).startswith("w/")
        }
        yield plain | ({"weights": {task: _number(row[f"w/{task}"]) for task in tasks}} if tasks else {})


def _mean(found: Interval) -> dict[str, Any]:
    return {name: _number(value) if name != "seeds" else value for name, value in found._asdict().items()}


def _number(value: float) -> Number:
    return float(value) if math.isfinite(value) else None
