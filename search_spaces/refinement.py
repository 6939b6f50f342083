"""Weights near good ones: Bayesian optimisation in log-ratio coordinates, asked in batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import create_trial

from search_spaces.checks import Array, check_integer, check_number, fail
from search_spaces.log_ratio import ilr, ilr_inverse
from search_spaces.own_sampler import TuneProposals, fault_of, made

SPAN = 8.0


def _gaussian_process(seed: int, _: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=False)


# The models that propose weights, by name. Each gets the seed of a proposal and the number of known scores.
SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "auto": _gaussian_process,
    "gp": _gaussian_process,
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
        sampler: a key of `SAMPLERS`: ``gp`` (Gaussian process; also ``auto``), ``tpe`` or ``random``; or your own as
            ``package.module:name``, a class or function that is called with ``seed`` and returns a sampler of Optuna,
            or a search algorithm of Ray Tune that takes known scores (`OptunaSearch` and `HEBOSearch` do).
        seed: the same arguments and seed give the same proposals.
        span: factor by which a log-ratio may move in either direction.

    Returns:
        Weights, shape (count, T), each row with sum T.

    Raises:
        ValueError: an unknown sampler, or one that proposes no points of the range; a centre that is not positive, a
            count below 1, a span not above 1.

    >>> refined([1.0, 1.0], [([1.0, 1.0], 0.0)], count=2, sampler="random").shape
    (2, 2)
    """
    _check(centre, count, sampler, span)
    check_integer("seed", seed, 0)
    middle, reach = ilr(np.asarray(centre, dtype=np.float64)), math.log(span)
    inside = [(ilr(np.asarray(w, dtype=np.float64)) - middle, score) for w, score in known]
    inside = [(z, score) for z, score in inside if math.isfinite(score) and (np.abs(z) <= reach).all()]
    lie = float(np.mean([score for _, score in inside])) if inside else 0.0
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            proposals = _proposals(sampler, seed, len(known), len(middle), reach)
            for z, score in inside:
                proposals.tell(dict(zip(proposals.names, z.tolist(), strict=True)), score)
            rows = [_ask(proposals, lie, reach) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    return ilr_inverse(np.array(rows) + middle)


class _OptunaProposals:
    """A sampler of Optuna that proposes points of a box; see `TuneProposals`."""

    def __init__(self, sampler: optuna.samplers.BaseSampler, names: Sequence[str], reach: float) -> None:
        self.names = names
        self._ranges: dict[str, BaseDistribution] = {name: FloatDistribution(-reach, reach) for name in names}
        self._study = optuna.create_study(sampler=sampler)

    def tell(self, point: Mapping[str, float], score: float) -> None:
        self._study.add_trial(create_trial(params=dict(point), distributions=self._ranges, value=score))

    def ask(self, lie: float) -> dict[str, float]:
        trial = self._study.ask(self._ranges)
        self._study.tell(trial, lie)
        return dict(trial.params)


def _proposals(
    sampler: str, seed: int, known: int, coordinates: int, reach: float
) -> _OptunaProposals | TuneProposals:
    names = [f"z{k}" for k in range(coordinates)]
    if sampler in SAMPLERS:
        return _OptunaProposals(SAMPLERS[sampler](seed, known), names, reach)
    search = made(sampler, seed)
    if isinstance(search, optuna.samplers.BaseSampler):
        return _OptunaProposals(search, names, reach)
    return TuneProposals(search, names, reach)


def _ask(proposals: _OptunaProposals | TuneProposals, lie: float, reach: float) -> list[float]:
    point = proposals.ask(lie)
    z = [point.get(name, math.nan) for name in proposals.names]
    if not all(abs(value) <= reach * (1 + 1e-9) for value in z):
        fail("sampler", f"proposals of numbers from {-reach:g} to {reach:g}", point)
    return z


def _check(centre: Sequence[float], count: int, sampler: str, span: float) -> None:
    check_integer("count", count, 1)
    check_number("span", span)
    if (rule := sampler_fault(sampler)) is not None:
        fail("sampler", rule, sampler)
    if span <= 1:
        fail("span", "> 1", span)
    w = np.asarray(centre, dtype=np.float64)
    if w.ndim != 1 or len(w) < 2 or not (np.isfinite(w) & (w > 0)).all():
        fail("centre", "at least two numbers > 0", centre)


def sampler_fault(sampler: str) -> str | None:
    """Return what `refined` expects of the name of a sampler, ``None`` if it knows it or finds it."""
    if sampler in SAMPLERS or (fault := fault_of(sampler)) is None:
        return None
    return fault if ":" in sampler else f"{', '.join(SAMPLERS)} or {fault}"
