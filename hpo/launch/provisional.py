"""The provisional answer: the weights that the shortlist chooses, while the study goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from hpo.compare.shortlist import shortlist
from hpo.core.number_format import signed
from hpo.core.trial import EpochReport, PlannedTrial, TrialResult
from hpo.launch.weights_export import provisional_content, write_weights
from hpo.report import arm_label
from hpo.study.phases.shortlist import Shortlist
from hpo.study.schedule import Schedule


class ProvisionalAnswer:
    """A `hpo.execution.events.Listener` that writes and prints the shortlist's weights as soon as they are known.

    A weights file of the study's end is never replaced.

    Args:
        schedule: of the study.
        path: of the weights file.
        console: for the user.
    """

    def __init__(self, schedule: Schedule, path: Path, console: Console) -> None:
        self._schedule, self._path, self._console = schedule, path, console
        self._phase = next((phase for phase in schedule.phases if isinstance(phase, Shortlist)), None)
        self._given = self._phase is None or self._phase.is_decided

    def trial_started(self, planned: PlannedTrial) -> None:
        """See `Listener`."""

    def trial_reported(self, planned: PlannedTrial, report: EpochReport) -> None:
        """See `Listener`."""

    def trial_paused(self, planned: PlannedTrial) -> None:
        """See `Listener`."""

    def noticed(self, text: str) -> None:
        """See `Listener`."""

    def time_passed(self) -> None:
        """See `Listener`."""

    def trial_ended(self, planned: PlannedTrial, result: TrialResult) -> None:  # noqa: ARG002 - of `Listener`
        """Give the answer once the race is decided. See `Listener`."""
        if self._given or self._phase is None or not self._phase.is_decided:
            return
        self._given = True
        plan = self._schedule.plan
        table = shortlist(self._schedule.table(), plan.scoring)
        chosen = table[table["chosen"].astype(bool)]
        if chosen.empty:
            return
        self._give(table, chosen.iloc[0])

    def _give(self, table: pd.DataFrame, row: pd.Series) -> None:
        plan = self._schedule.plan
        weights = ", ".join(f"{task} {row[f'w/{task}']:.4g}" for task in plan.tasks)
        seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
        score = f"score on validation {signed(row['score'])} ({seeds}){_against(table, row)}"
        if row["beyond"] > 0:
            score += f"; beyond the limits by {signed(row['beyond']).lstrip('+')} points so far"
        lines = [f"So far, train with {arm_label(row['arm'])}: {weights}", f"  {score}; the study goes on"]
        if is_provisional(self._path):
            write_weights(self._path, provisional_content(plan, row))
            lines.append(f"  written to {self._path}, marked provisional")
        self._console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _against(table: pd.DataFrame, row: pd.Series) -> str:
    """The scores of equal weights and the baseline."""
    others = table[table["kind"].isin(["equal", "baseline"]) & (table["arm"] != row["arm"])]
    told = [f"{arm_label(other['arm'])} {signed(other['score'])}" for _, other in others.iterrows()]
    return f"; {', '.join(told)}" if told else ""


def is_provisional(path: Path) -> bool:
    """Return whether there is no weights file, or one that a later answer replaces."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return not path.exists()
    return isinstance(content, dict) and content.get("provisional") is True
