"""Cost of finding weights, in steps and seconds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hpo.compare.scores import on_search_seed
from hpo.compare.tuning import PHASE as TUNE
from hpo.core.arm import FIXED, SEARCHED
from hpo.core.trial import TrialStatus

SWEEP = "alpha sweep"  # in the names of ways that are one or all of them
WHOLE = "the whole search"
ONE_FIXED = "one run with fixed weights"


def cost(trials: pd.DataFrame, searched: bool = True, swept: bool = True) -> pd.DataFrame:
    """Sum the optimizer steps and measured seconds of each way to find weights, and divide by the static search's.

    The ways are the static search, all alpha sweeps together, each recipe's sweep, one GradNorm run (the cost once
    alpha is known), tuning, and the whole search with references and retrainings. One run with fixed weights is the
    cost of training today. Without an alpha sweep the GradNorm runs are those of the shortlist, and no sweep has a
    cost.
    """
    every = trials[trials["search"].astype(bool)]  # with the further seeds of the shortlist and of tuning
    every = every.drop_duplicates("identity")  # arms with the same weights share a trial
    tuned = every[every["phase"] == TUNE]
    search = on_search_seed(trials[trials["phase"] != TUNE])
    sweeps = search[search["kind"] == "gradnorm"]
    ways = {
        "static search": search[search["kind"].isin(SEARCHED if searched else ())],
        "GradNorm, all alpha sweeps": sweeps,
    }
    recipes = {str(recipe): runs for recipe, runs in sweeps.groupby("recipe", sort=False)}
    whole_runs = {recipe: runs[runs["status"] == TrialStatus.FINISHED] for recipe, runs in recipes.items()}
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
    ended = trials[trials["kind"].isin(FIXED) & (trials["status"] == TrialStatus.FINISHED)]
    fixed = on_search_seed(ended)
    fixed = ended if fixed.empty else fixed  # without shortlist and static search they are in the confirm phase alone
    units = ["steps", "seconds"]
    if len(tuned):
        rows.append({"way": "tuning of arguments", "trials": len(tuned), **tuned[units].sum()})
    rows.append({"way": WHOLE, "trials": len(every), **every[units].sum()})
    rows.append({"way": ONE_FIXED, "trials": min(1, len(fixed)), **fixed[units].mean()})
    table = pd.DataFrame(rows)
    for unit in ("steps", "seconds"):
        whole = float(table[unit].iloc[0])
        table[f"{unit}_ratio"] = table[unit] / whole if whole else np.nan
    if not swept:
        table = table[~table["way"].str.contains(SWEEP)].reset_index(drop=True)
    if searched or (search["phase"] == "sweep").any():
        return table
    return table[~table["way"].isin(ways)].reset_index(drop=True)  # the shortlist alone has GradNorm runs
