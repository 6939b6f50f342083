"""Tables of `benchmarks.few_runs`: weights in a few runs against the best of 48 static points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.markdown_table import markdown_table
from hpo.compare.intervals import interval
from hpo.core.arm import FIXED, Arm
from hpo.core.number_format import ratio, signed_with_bounds
from hpo.report.arm_labels import arm_label

SEARCH, SHORT = "static search", "shortlist"
MODEL, RANDOM = "refine gp", "refine random"


class Pick(NamedTuple):
    """An arm with fixed weights, and the best of the static points by the same rule."""

    arm: str
    static: str


def load(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the trials of each problem, by its name."""
    return {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}


def tables(studies: dict[str, pd.DataFrame], order: Sequence[str]) -> str:
    """Return the text that `docs/results.py` puts into the page."""
    named = {name: studies[name] for name in order if name in studies}
    head = ["problem", "way", "weights", "regret", "regret, chosen on one seed", "regret, chosen on all seeds"]
    rows = [row for name, study in named.items() for row in _rows(name, study)]
    return markdown_table([*head, "runs", "steps / search", "seconds / search"], rows)


def samplers(studies: dict[str, pd.DataFrame], order: Sequence[str]) -> str:
    """Return a table of the picks of two refinements: the difference of their scores on test, paired by seed."""
    rows = []
    for name in (name for name in order if name in studies):
        study = studies[name]
        picks = {way: program_pick(study, way).arm for way in (MODEL, RANDOM)}
        scores = {way: _ours(study, way, "score_test")[arm] for way, arm in picks.items()}
        tried = [str(int((_searched(study, way)["phase"] == "refine").sum())) for way in picks]
        rows.append([name, *map(arm_label, picks.values()), *tried, _shown(scores[MODEL] - scores[RANDOM])])
    return markdown_table(["problem", "gp", "random", "runs of gp", "runs of random", "gp minus random"], rows)


def _rows(name: str, study: pd.DataFrame) -> Iterator[list[str]]:
    searched = _searched(study, SEARCH)
    for way in dict.fromkeys(study["way"]):
        if way == SEARCH:
            continue
        trials = _searched(study, way)
        chosen = program_pick(study, way)
        picks = [chosen, one_seed_pick(study, way), all_seeds_pick(study, way)]
        regrets = [_regret(study, way, pick) for pick in picks]
        costs = [ratio(trials[unit].sum() / searched[unit].sum()) for unit in ("steps", "seconds")]
        yield [name, way, arm_label(chosen.arm), *regrets, str(len(trials)), *costs]


def program_pick(study: pd.DataFrame, way: str) -> Pick:
    """Return the arm that gradsweep names at the end of a way's search, and the best confirmed static point."""
    confirmed = set(_confirm(study, way)["arm"])
    refined = sorted(arm for arm in confirmed if Arm.parse(arm).kind == "refined")
    if refined:
        return Pick(refined[0], _best_static(study))
    kept = confirmed & set(_fixed(_search_seed(study, way))["arm"])
    table = _searched(study, way).pivot_table(index="seed", columns="arm", values="score_val")
    most = table.notna().sum()
    raced = table.loc[:, [arm for arm in table if most[arm] == most.max() and arm in kept]].dropna().mean()
    return Pick(str(raced.idxmin()), _best_static(study))


def one_seed_pick(study: pd.DataFrame, way: str) -> Pick:
    """Return the arms with the best validation score on the search seed, among those with a confirm phase."""
    known = set(study.loc[study["phase"] == "confirm", "arm"])
    ours = _fixed(_search_seed(study, way))
    ours = ours[ours["arm"].isin(_ours(study, way, "score_test").columns)]
    static = _search_seed(study, SEARCH)
    static = static[static["phase"] == "static"]
    static = static[static["arm"].isin(known)]
    return Pick(*(str(part.loc[part["score_val"].idxmin(), "arm"]) for part in (ours, static)))


def all_seeds_pick(study: pd.DataFrame, way: str) -> Pick:
    """Return the arms with the best mean validation score over all confirm seeds."""
    ours = set(_fixed(_search_seed(study, way))["arm"])
    means = _ours(study, way, "score_val").mean()
    return Pick(str(means[[arm for arm in means.index if arm in ours]].idxmin()), _best_static(study))


def _best_static(study: pd.DataFrame) -> str:
    means = _scores(study, SEARCH, "score_val").mean()
    return str(means[[arm for arm in means.index if Arm.parse(arm).kind in ("static", "equal")]].idxmin())


def _regret(study: pd.DataFrame, way: str, pick: Pick) -> str:
    """The difference on test, paired over seeds, with its 95% interval."""
    ours, static = _ours(study, way, "score_test")[pick.arm], _scores(study, SEARCH, "score_test")[pick.static]
    return _shown(ours - static)


def _shown(differences: pd.Series) -> str:
    found = interval(differences.dropna())
    return signed_with_bounds(found.mean, found.low, found.high)


def _ours(study: pd.DataFrame, way: str, column: str) -> pd.DataFrame:
    """Scores of the confirm phase of a way and, of the arms that it has not confirmed, of the whole shortlist."""
    return _scores(study, way, column).combine_first(_scores(study, SHORT, column))


def _scores(study: pd.DataFrame, way: str, column: str) -> pd.DataFrame:
    """Scores of the confirm phase, seeds in rows and arms in columns."""
    return _confirm(study, way).pivot_table(index="seed", columns="arm", values=column)


def _confirm(study: pd.DataFrame, way: str) -> pd.DataFrame:
    return study[(study["phase"] == "confirm") & study["score_test"].notna() & (study["way"] == way)]


def _searched(study: pd.DataFrame, way: str) -> pd.DataFrame:
    """The trials of a way before its confirm phase, references included."""
    return study[(study["way"] == way) & (study["phase"] != "confirm")]


def _search_seed(study: pd.DataFrame, way: str) -> pd.DataFrame:
    trials = _searched(study, way)
    return trials[(trials["seed"] == trials["seed"].min()) & trials["score_val"].notna()]


def _fixed(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[trials["arm"].map(lambda arm: Arm.parse(arm).kind in FIXED)]
