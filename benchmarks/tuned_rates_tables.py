"""Tables of `benchmarks.tuned_rates`: regrets with the learning rate fixed, and with it tuned for every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.markdown_table import markdown_table
from hpo.compare.intervals import interval
from hpo.core.arm import BALANCED, OUTSIDE, SEARCHED, Arm
from hpo.core.number_format import signed, signed_with_bounds
from hpo.report.arm_labels import arm_label

STATIC = "best static point"
FIXED_RATE, TUNED = "fixed", "tuned"
NOTHING = "-"


@dataclass(frozen=True)
class Side:
    """The confirmed arms of a study, each with one set of arguments.

    Attributes:
        keys: the arm as it was trained, by the arm without arguments.
        validation: scores, seeds in rows and arms as trained in columns.
        test: the same on the test split.
    """

    keys: Mapping[str, str]
    validation: pd.DataFrame
    test: pd.DataFrame

    @property
    def static(self) -> str:
        """The static point, equal weights among them, with the best mean on validation; without arguments."""
        points = [arm for arm in self.keys if Arm.parse(arm).kind in SEARCHED]
        return min(points, key=lambda arm: self.validation[self.keys[arm]].mean())

    def regret(self, arm: str) -> pd.Series:
        """The score on test above that of the best static point, by seed."""
        return (self.test[self.keys[arm]] - self.test[self.keys[self.static]]).dropna()


def sides(trials: pd.DataFrame) -> dict[str, Side]:
    """Return the arms of a study with the problem's own learning rate, and each with its best one."""
    confirm = trials[(trials["phase"] == "confirm") & trials["score_test"].notna()]
    confirm = confirm[~confirm["arm"].map(lambda arm: Arm.parse(arm).kind in OUTSIDE).astype(bool)]
    tables = [confirm.pivot_table(index="seed", columns="arm", values=f"score_{split}") for split in ("val", "test")]
    tables = [table.dropna(axis=1) for table in tables]  # as in a verdict: an arm counts if no seed has diverged
    parsed = {str(arm): Arm.parse(str(arm)) for arm in tables[0]}
    own = {key: key for key, arm in parsed.items() if not arm.arguments}
    best = own | {arm.base.key: key for key, arm in parsed.items() if arm.arguments}
    return {FIXED_RATE: Side(own, *tables), TUNED: Side(best, *tables)}


def regrets(studies: Mapping[str, pd.DataFrame], toys: Sequence[str]) -> str:
    """Return a table of the regret of each arm, fixed and tuned, one column per study, and its mean ranks.

    Args:
        studies: the trials by the name of the problem.
        toys: names that do not count for the ranks.
    """
    found = {name: sides(trials) for name, trials in studies.items()}
    arms = list(dict.fromkeys(_family(arm) for both in found.values() for arm in both[TUNED].keys))
    arms = [STATIC, *(arm for arm in arms if arm != STATIC)]
    means = {rate: _means({name: both[rate] for name, both in found.items()}, arms) for rate in (FIXED_RATE, TUNED)}
    ranks = {rate: table.drop(columns=list(toys), errors="ignore").rank(axis=0) for rate, table in means.items()}
    rows = []
    for arm in arms:
        for rate in (FIXED_RATE, TUNED):
            cells = [_cell(both[rate], arm) for both in found.values()]
            rank = ranks[rate].loc[arm].mean() if not ranks[rate].empty else np.nan
            rows.append([arm, rate, *cells, f"{rank:.1f}" if np.isfinite(rank) else NOTHING])
    return markdown_table(["arm", "learning rate", *studies, f"mean rank of {len(arms)}, real data"], rows)


def gains(studies: Mapping[str, pd.DataFrame]) -> str:
    """Return a table of the best static point and the best GradNorm arm of each study: rates, gains and regrets."""
    rows = []
    for name, trials in studies.items():
        both = sides(trials)
        tuned = both[TUNED]
        ours = _best_gradnorm(tuned)
        static = tuned.static
        rows.append(
            [
                name,
                f"{arm_label(ours)}: {_rate(tuned.keys[ours])}",
                f"{arm_label(static)}: {_rate(tuned.keys[static])}",
                *(_gain(tuned, arm) for arm in (ours, static)),
                *(_shown(both[rate].regret(_best_gradnorm(both[rate]))) for rate in (FIXED_RATE, TUNED)),
            ]
        )
    head = ["problem", "best GradNorm arm: learning rate", "best static point: learning rate"]
    head += ["gain from tuning, GradNorm", "gain from tuning, static"]
    return markdown_table([*head, "regret, fixed", "regret, tuned"], rows)


def _best_gradnorm(side: Side) -> str:
    ours = [arm for arm in side.keys if Arm.parse(arm).kind in BALANCED]
    return min(ours, key=lambda arm: side.validation[side.keys[arm]].mean())


def _gain(tuned: Side, arm: str) -> str:
    """By how much an arm is better with its best learning rate than with the problem's own, paired by seed."""
    if tuned.keys[arm] == arm:
        return NOTHING
    return _shown((tuned.test[arm] - tuned.test[tuned.keys[arm]]).dropna())


def _rate(key: str) -> str:
    return Arm.parse(key).arguments.partition("=")[2] or "own"


def _family(arm: str) -> str:
    """The name of an arm in all studies: static points are one, and so are the alphas of a recipe."""
    one = Arm.parse(arm)
    if one.kind == "static":
        return STATIC
    if one.kind in BALANCED:
        return f"{one.recipe}, {'dynamic' if one.kind == 'gradnorm' else f'{one.average} mean'}"
    return arm_label(arm)


def _arm_of(side: Side, family: str) -> str | None:
    if family == STATIC:
        return side.static
    return next((arm for arm in side.keys if _family(arm) == family), None)


def _means(found: Mapping[str, Side], arms: Sequence[str]) -> pd.DataFrame:
    """Mean regrets, arms in rows and studies in columns; NaN where a study has no such arm."""
    columns = {}
    for name, side in found.items():
        keys = {arm: _arm_of(side, arm) for arm in arms}
        columns[name] = [side.regret(key).mean() if key else np.nan for key in keys.values()]
    return pd.DataFrame(columns, index=list(arms))


def _cell(side: Side, family: str) -> str:
    arm = _arm_of(side, family)
    if arm is None:
        return NOTHING
    return "0" if family == STATIC else _shown(side.regret(arm))


def _shown(differences: pd.Series) -> str:
    found = interval(differences)
    return signed_with_bounds(found.mean, found.low, found.high) if found.seeds > 1 else signed(found.mean)
