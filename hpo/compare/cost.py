"""What finding weights took."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hpo.core.arm import SEARCHED
from hpo.core.trial import TrialStatus


def cost(trials: pd.DataFrame) -> pd.DataFrame:
    """What each way to find weights took on the search seed, in steps and measured seconds, and its ratio to the
    static search: all alpha sweeps together, each recipe's sweep, and one run, all that is left once alpha is known.
    """
    search = trials[trials["search"].astype(bool)]
    sweeps = search[search["kind"] == "gradnorm"]
    ways = {"static search": search[search["kind"].isin(SEARCHED)], "GradNorm, all alpha sweeps": sweeps}
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
    table = pd.DataFrame(rows)
    for unit in ("steps", "seconds"):
        whole = float(table[unit].iloc[0])
        table[f"{unit}_ratio"] = table[unit] / whole if whole else np.nan
    return table
