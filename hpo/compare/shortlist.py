"""The shortlist: arms that need no search, compared on the search seed and, where they are close, on more seeds."""

from __future__ import annotations

import pandas as pd

from hpo.compare.race import leader
from hpo.compare.scores import scored_validation
from hpo.compare.scoring import Scoring
from hpo.compare.weight_distances import mean_weights
from hpo.core.arm import FIXED, OUTSIDE

PHASES = ("references", "shortlist")  # of the trials that take part


def shortlist(trials: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Compare the arms of the shortlist on validation.

    Args:
        trials: see `hpo.compare`.
        scoring: how each task is measured.

    Returns:
        One row per arm, those on the most seeds first, then by score: ``arm, kind, seeds``, ``score`` (mean over its
        seeds, relative to the single-task references of the search seed), ``beyond`` (the limits, likewise),
        ``chosen`` (true for the best with fixed weights) and ``w/<task>``. Empty if the study has no shortlist.
    """
    part = trials[trials["search"].astype(bool) & trials["phase"].isin(PHASES)]
    columns = ["arm", "kind", "seeds", "score", "beyond", "chosen", *(f"w/{task}" for task in scoring)]
    if not (part["phase"] == PHASES[1]).any():
        return pd.DataFrame(columns=columns)
    scored = scored_validation(part, scoring)
    scored = scored[~scored["kind"].isin(OUTSIDE) & scored["score"].notna()]
    table = scored.pivot_table(index="seed", columns="arm", values="objective", sort=False)
    fixed = list(dict.fromkeys(scored.loc[scored["kind"].isin(FIXED), "arm"]))
    chosen = leader(table, fixed)
    w = mean_weights(scored, tuple(scoring))
    rows = [
        {"arm": str(arm), "kind": group["kind"].iloc[0], "seeds": len(group), "score": group["score"].mean()}
        | {"beyond": group["beyond"].mean(), "chosen": arm == chosen, **w.loc[arm]}
        for arm, group in scored.groupby("arm", sort=False)
    ]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values(["seeds", "score"], ascending=[False, True], kind="stable").reset_index(drop=True)
