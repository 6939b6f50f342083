"""Compare samplers of the refinement on the surfaces that the seven studies of the results page have measured.

    python -m benchmarks.stored_surfaces                # 20 studies per row: a quarter of an hour on one core

The score of weights is a smooth interpolation of the validation scores in docs/results: 48 static points on one
seed, and arms with fixed weights as means over six seeds. Each simulated study has first-step weights, GradNorm's
averages and equal weights as its shortlist and lets them race over three seeds. It refines the best by 16 points in
batches of four, and lets the best three race against it, as `hpo.study.phases.refine` does, with the noise between
seeds that was measured. Shown is the score of its pick above that of the best of the 48 points, without noise;
every sampler sees the same noise.

Beside the samplers of `search_spaces.refined` are two that it does not have: `quadratic`, the lowest point of a ridge
regression of second order within a trust region, and `cma`, Optuna's CMA-ES started from the known points
(`pip install cmaes`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from scipy.interpolate import RBFInterpolator

from search_spaces import SAMPLERS, ilr, ilr_inverse, points, refined

ROOT = Path(__file__).parents[1]
PROBLEMS = ("toy", "toy-scaled", "toy-ten", "census", "qm9", "earth", "multi_fashion")
SHORTLIST = ("frozen/loss", "frozen/gradient", "gradnorm_static/direct/geometric", "gradnorm_static/direct/tail")
SPAN, BATCH, BATCHES, RACED = 8.0, 4, 4, 3
REACH = math.log(SPAN)

Array = NDArray[np.float64]
Known = list[tuple[Array, float]]  # log-ratios relative to the center, and their score
Proposer = Callable[[Array, Known, int, int], Array]


class Surface:
    """The score of weights, as one study on the results page has measured it.

    Attributes:
        starts: log-ratios of the shortlist.
        noise: standard deviation of a score between seeds, without what all arms share.
        best: the score of the best of the 48 points.
    """

    def __init__(self, name: str) -> None:
        folder = ROOT / "docs" / "results" / name
        study = json.loads((folder / "comparison.json").read_text())
        trials = pd.read_csv(folder / "trials.csv")
        tasks = [task["name"] for task in study["tasks"]]
        arms = {arm["arm"]: arm for arm in study["arms"]}
        given = yaml.safe_load((ROOT / "studies" / f"{name}.yaml").read_text())
        rows = points("sobol", len(tasks), 48, given.get("seed", 0), ratio=float(given["static"]["ratio"]))
        scores = trials[trials["phase"].isin(["static", "references"])].set_index("arm")["score_val"]
        named = {("equal" if k == 0 else f"static/{k:02d}"): ilr(w) for k, w in enumerate(rows)}
        places = [(z, scores[arm]) for arm, z in named.items() if np.isfinite(scores.get(arm, np.nan))]
        fixed = [arm for arm in arms.values() if arm["kind"] in ("gradnorm_static", "frozen")]
        places += [(ilr([arm["weights"][t] for t in tasks]), arm["score_validation"]) for arm in fixed]
        Z, y = np.array([z for z, _ in places]), np.array([score for _, score in places])
        self._low, self._places = y.min(), Z
        self._offset = max(1.0, 0.05 * (float(np.median(y)) - self._low))
        smoothing = 0.05 if len(tasks) == 2 else 0.3
        kernel = "linear" if len(tasks) > 4 else "thin_plate_spline"
        self._fit = RBFInterpolator(Z, np.log(y - self._low + self._offset), kernel=kernel, smoothing=smoothing)
        self.starts = [ilr([arms[arm]["weights"][t] for t in tasks]) for arm in SHORTLIST] + [
            np.zeros(len(tasks) - 1)
        ]
        confirm = trials[(trials["phase"] == "confirm") & trials["arm"].isin([*SHORTLIST, scores.idxmin()])]
        table = confirm.pivot_table(index="seed", columns="arm", values="score_val")
        residuals = table.sub(table.mean(axis=1), axis=0)
        self.noise = float(np.sqrt((residuals - residuals.mean()).pow(2).to_numpy().mean()))
        self.best = min(self(z) for arm, z in named.items() if arm in scores.index)

    def __call__(self, z: Array) -> float:
        """Return the score without noise; it rises outside the region that was measured."""
        outside = max(0.0, float(np.sqrt(((self._places - z) ** 2).sum(axis=1)).min()) - 2)
        logarithm = min(float(self._fit(z[None])[0]), 8.0)
        return math.exp(logarithm) - self._offset + self._low + 0.3 * outside**2


def of_sampler(name: str) -> Proposer:
    """Return a sampler of `search_spaces.refined`."""

    def propose(center: Array, known: Known, count: int, seed: int) -> Array:
        pairs = [(ilr_inverse(center + z), score) for z, score in known]
        found = refined(ilr_inverse(center).tolist(), pairs, count, name, seed, span=SPAN)
        return np.array([ilr(w) for w in found]) - center

    return propose


def quadratic(center: Array, known: Known, count: int, seed: int) -> Array:
    """Propose the lowest points of a ridge regression of second order, none close to a known one."""
    rng, n = np.random.default_rng(seed), len(center)
    Z, y = np.array([z for z, _ in known]), np.array([score for _, score in known])
    inside = (np.abs(Z) <= REACH).all(axis=1)
    Z, y = Z[inside], np.minimum(y, y.min() + 2 * (np.median(y) - y.min()))[inside]
    upper = np.triu_indices(n)
    prior = np.concatenate([np.zeros(n + 1), np.where(upper[0] == upper[1], 0.3 * y.std(), 0.0)])
    ridge = np.diag(0.1 * len(Z) * np.concatenate([[1e-6], np.full(n, 0.1), np.full(len(upper[0]), 0.3)]))
    spread, found = y.std(), []
    for _ in range(count):
        X, mean = _terms(Z, upper), y.mean()
        b = prior + np.linalg.solve(X.T @ X + ridge, X.T @ (y - mean - X @ prior))
        around = Z[np.argmin(X @ b)] + rng.uniform(-REACH / 2, REACH / 2, (2048, n))
        tried = np.clip(around, -REACH, REACH)
        near = np.sqrt(((tried[:, None] - Z[None]) ** 2).sum(axis=-1)).min(axis=1)
        z = tried[np.argmin(_terms(tried, upper) @ b - 0.6 * spread * np.minimum(near, 0.5))]
        found.append(z)
        Z, y = np.vstack([Z, z]), np.append(y, mean + _terms(z[None], upper) @ b)
    return np.array(found)


def cma(center: Array, known: Known, count: int, seed: int) -> Array:
    """Propose a generation of CMA-ES that starts from the known points; it has no step in one dimension."""
    names = [f"z{k}" for k in range(max(2, len(center)))]
    ranges: dict[str, Any] = {name: FloatDistribution(-REACH, REACH) for name in names}
    inside = [(z, score) for z, score in known if (np.abs(z) <= REACH).all()]
    trials = [
        create_trial(params=dict(zip(names, [*z.tolist(), 0.0], strict=False)), distributions=ranges, value=score)
        for z, score in inside
    ]
    if len(trials) < 10:  # fewer leave it no best tenth to start from
        return of_sampler("random")(center, known, count, seed)
    sampler = optuna.samplers.CmaEsSampler(seed=seed, source_trials=trials, popsize=BATCH, n_startup_trials=0)
    study = optuna.create_study(sampler=sampler)
    study.add_trials(trials)
    asked = [study.ask(ranges) for _ in range(count)]
    return np.array([[trial.params[name] for name in names[: len(center)]] for trial in asked])


def excess(surface: Surface, propose: Proposer, seed: int) -> tuple[float, float]:
    """Run one study; return how far its pick and its start are above the best of the 48 points."""
    rng, most = np.random.default_rng(seed), len(surface.starts) + BATCH * BATCHES
    strays = rng.normal(0, surface.noise, (5, most))  # the search seed, two of the race, two of the duel
    places = list(surface.starts)

    def mean(seeds: slice) -> Callable[[int], float]:
        return lambda k: surface(places[k]) + float(strays[seeds, k].mean())

    start = min(range(len(places)), key=mean(slice(3)))
    first = len(places)
    for batch in range(BATCHES):
        known = [(z - places[start], surface(z) + strays[0, k]) for k, z in enumerate(places)]
        scores = [score for _, score in known]
        if batch > 2 and min(scores[-2 * BATCH :]) >= min(scores[: -2 * BATCH]):
            break
        places += list(places[start] + propose(places[start], known, BATCH, 100 * seed + batch))
    best = sorted(range(first, len(places)), key=lambda k: surface(places[k]) + strays[0, k])[:RACED]
    leader = min([start, *best], key=mean(slice(1, 3)))
    pick = min([start, leader], key=mean(slice(1, 5)))
    return surface(places[pick]) - surface.best, surface(places[start]) - surface.best


def _terms(z: Array, upper: Sequence[NDArray[np.intp]]) -> Array:
    return np.hstack([np.ones((len(z), 1)), z, z[:, upper[0]] * z[:, upper[1]]])


def main() -> None:
    """Print, for each problem, the excess of the start and of each sampler's pick with its standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20, help="simulated per problem and sampler")
    studies = parser.parse_args().studies
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    proposers: dict[str, Proposer] = {name: of_sampler(name) for name in SAMPLERS} | {"quadratic": quadratic}
    if importlib.util.find_spec("cmaes"):
        proposers["cma"] = cma
    print(f"| problem | start | {' | '.join(proposers)} |\n|{'---|' * (2 + len(proposers))}")
    surfaces = cache(Surface)
    for name in PROBLEMS:
        cells, start = [], 0.0
        for propose in proposers.values():
            found = np.array([excess(surfaces(name), propose, seed) for seed in range(studies)])
            start = found[:, 1].mean()
            cells.append(f"{found[:, 0].mean():+.2f} ± {found[:, 0].std(ddof=1) / math.sqrt(studies):.2f}")
        print(f"| {name} | {start:+.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
