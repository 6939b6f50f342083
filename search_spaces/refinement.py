"""Weights near good ones: Bayesian optimisation in log-ratio coordinates, asked in batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from search_spaces.checks import Array, check_integer, check_number, fail
from search_spaces.log_ratio import ilr, ilr_inverse

SPAN = 8.0

# The models that propose weights, by name. Each gets the seed of a proposal and the number of known scores.
SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "gp": lambda seed, _: optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=False),
    "tpe": lambda seed, known: optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=min(known, 4), multivariate=True, constant_liar=True
    ),
    "random": lambda seed, _: optuna.samplers.RandomSampler(seed=seed),
}


def refined(
    centre: Sequence[float],
    known: Sequence[tuple[Sequence[float], float]],
    count: int,
    sampler: str = "gp",
    seed: int = 0,
    *,
    span: float = SPAN,
) -> Array:
    """Propose weights near a good point, given the scores of others.

    The search runs over the isometric log-ratios of w / centre (Egozcue et al., Mathematical Geology 35, 2003), each
    between -ln(span) and ln(span). The proposals of a batch are made one after another; each counts as a run with
    the mean score of the known ones before the next is made ("constant liar": Ginsbourger, Le Riche, Carraro,
    "Kriging is Well-Suited to Parallelize Optimization", 2010), so that they spread.

    Args:
        centre: weights, shape (T,), > 0.
        known: pairs of weights, shape (T,), and score, lower is better; those outside the range are not used.
        count: number of proposals.
        sampler: a key of `SAMPLERS`: ``gp`` (Gaussian process), ``tpe`` or ``random``.
        seed: the same arguments and seed give the same proposals.
        span: factor by which a log-ratio may move in either direction.

    Returns:
        Weights, shape (count, T), each row with sum T.

    Raises:
        ValueError: an unknown sampler, a centre that is not positive, a count below 1, a span not above 1.

    >>> refined([1.0, 1.0], [([1.0, 1.0], 0.0)], count=2, sampler="random").shape
    (2, 2)
    """
    _check(centre, count, sampler, span)
    check_integer("seed", seed, 0)
    middle, reach = ilr(np.asarray(centre, dtype=np.float64)), math.log(span)
    ranges = {f"z{k}": FloatDistribution(-reach, reach) for k in range(len(middle))}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=SAMPLERS[sampler](seed, len(known)))
            lie = _tell(study, [(ilr(np.asarray(w, dtype=np.float64)) - middle, s) for w, s in known], ranges)
            rows = [_ask(study, ranges, lie) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    return ilr_inverse(np.array(rows) + middle)


def _tell(study: optuna.Study, known: Sequence[tuple[Array, float]], ranges: dict[str, FloatDistribution]) -> float:
    """Add the known scores inside the range; return their mean, 0 if there is none."""
    reach = next(iter(ranges.values())).high if ranges else 0.0
    scores = []
    for z, score in known:
        if math.isfinite(score) and (np.abs(z) <= reach).all():
            values = dict(zip(ranges, z.tolist(), strict=True))
            study.add_trial(create_trial(params=values, distributions=dict(ranges), value=score))
            scores.append(score)
    return float(np.mean(scores)) if scores else 0.0


def _ask(study: optuna.Study, ranges: dict[str, FloatDistribution], lie: float) -> list[float]:
    trial = study.ask(dict(ranges))
    study.tell(trial, lie)
    return [trial.params[name] for name in ranges]


def _check(centre: Sequence[float], count: int, sampler: str, span: float) -> None:
    check_integer("count", count, 1)
    check_number("span", span)
    if sampler not in SAMPLERS:
        fail("sampler", f"one of {', '.join(SAMPLERS)}", sampler)
    if span <= 1:
        fail("span", "> 1", span)
    w = np.asarray(centre, dtype=np.float64)
    if w.ndim != 1 or len(w) < 2 or not (np.isfinite(w) & (w > 0)).all():
        fail("centre", "at least two numbers > 0", centre)
