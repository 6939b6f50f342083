"""The search space of GradNorm's own hyperparameters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import optuna

from search_spaces.checks import check_integer, check_number, fail

FIRST_ALPHAS = (0.0, 0.5, 1.5)
LEARNING_RATE = 0.025
STARTUP_TRIALS = 5


@dataclass(frozen=True)
class AlphaSpace:
    r"""The range of alpha, and optionally of the learning rate of the weights, for an Optuna study.

    alpha is the exponent in GradNorm's target ``Gbar * r_i**alpha`` for the gradient norm of task i (Gbar: the mean
    norm over tasks; r_i: the relative inverse training rate, above 1 for a slow task). At 0 every task pulls equally
    hard on the shared layer; the larger alpha, the harder a slow task pulls.

    Source: Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in
    Deep Multitask Networks", ICML 2018, https://arxiv.org/abs/1711.02257, Algorithm 1.

    Args:
        low: smallest alpha, >= 0.
        high: largest alpha, >= low; 3 is twice the value that the paper used for its SegNet.
        learning_rate: (smallest, largest) learning rate of the weights, 0 < smallest <= largest, searched on a log
            scale; ``None`` leaves it at the balancer's default, the paper's 0.025.
        arguments: names of the settings of the network's own training (see `argument_values`) that are searched along
            with alpha; empty if there is one setting.

    Raises:
        ValueError: a bound that is not a finite number or out of order.

    >>> import optuna
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> space = AlphaSpace(high=2.0)
    >>> study = optuna.create_study(sampler=space.sampler(seed=0))
    >>> for point in space.starting_points():
    ...     study.enqueue_trial(point)
    >>> study.optimize(lambda trial: (space.suggest(trial)["alpha"] - 0.5) ** 2, n_trials=5)
    >>> study.best_params
    {'alpha': 0.5}
    """

    low: float = 0.0
    high: float = 3.0
    learning_rate: tuple[float, float] | None = None
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_number("low", self.low)
        check_number("high", self.high)
        if self.low < 0.0:
            fail("low", "a number >= 0", self.low)
        if self.high < self.low:
            fail("high", f"a number >= low = {self.low}", self.high)
        if self.learning_rate is not None:
            self._check_learning_rate(self.learning_rate)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask a trial for ``"alpha"``, and for ``"learning_rate"`` and ``"arguments"`` if they are searched."""
        values: dict[str, Any] = {"alpha": trial.suggest_float("alpha", self.low, self.high)}
        if self.learning_rate is not None:
            values["learning_rate"] = trial.suggest_float("learning_rate", *self.learning_rate, log=True)
        if self.arguments:
            values["arguments"] = trial.suggest_categorical("arguments", self.arguments)
        return values

    def starting_points(self) -> list[dict[str, Any]]:
        """Return the points to try first, for ``study.enqueue_trial``: distinct, and moved into the range.

        alpha = 0 (equal gradient norms, nothing else: the plainest answer to losses of different scale), 0.5 (tasks
        that differ in difficulty more than in scale need little asymmetry; the paper's toy data took 0.12), and 1.5
        (the paper's value for its SegNet on NYUv2). The learning rate starts at the paper's 0.025, and each alpha at
        the next one of `arguments`.

        >>> AlphaSpace(high=1.0, learning_rate=(0.05, 0.5)).starting_points()[2]
        {'alpha': 1.0, 'learning_rate': 0.05}
        """
        alphas = dict.fromkeys(_clip(alpha, self.low, self.high) for alpha in FIRST_ALPHAS)
        points: list[dict[str, Any]] = [{"alpha": alpha} for alpha in alphas]
        for k, point in enumerate(points):
            if self.learning_rate is not None:
                point["learning_rate"] = _clip(LEARNING_RATE, *self.learning_rate)
            if self.arguments:
                point["arguments"] = self.arguments[k % len(self.arguments)]
        return points

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return Optuna's TPE sampler (Bergstra et al., NeurIPS 2011), set for a short sweep with parallel trials.

        Only 5 trials, the starting points among them, come before the model; two parameters are modelled jointly;
        running trials count as bad ("constant liar"), so that a parallel sweep does not ask for one alpha twice.

        Args:
            seed: of the random numbers, >= 0.
        """
        check_integer("seed", seed, 0)
        with warnings.catch_warnings():  # Optuna 4 calls two of these arguments experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=STARTUP_TRIALS,
                multivariate=self.learning_rate is not None or bool(self.arguments),
                constant_liar=True,
                seed=seed,
            )

    def _check_learning_rate(self, bounds: tuple[float, float]) -> None:
        if not isinstance(bounds, tuple) or len(bounds) != 2:
            fail("learning_rate", "a tuple (smallest, largest)", bounds)
        for k, bound in enumerate(bounds):
            check_number(f"learning_rate[{k}]", bound)
        if not 0.0 < bounds[0] <= bounds[1]:
            fail("learning_rate", "a tuple (smallest, largest) with 0 < smallest <= largest", bounds)


def _clip(value: float, low: float, high: float) -> float:
    return float(min(max(value, low), high))
