"""A call of a training function outside a study, as a person who writes it wants to debug it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.core.errors import OptionError, ProblemError
from hpo.core.text import complaint, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.core.trial import TrialResult
    from hpo.problems.training_function import TrainingFunction


def try_training(
    training: TrainingFunction,
    *,
    weights: Mapping[str, float] | None = None,
    alpha: float | None = None,
    seed: int = 0,
    epochs: int | None = None,
    test: bool = False,
    device: str | None = None,
    **arguments: Any,
) -> TrialResult:
    """Call a training function as one trial, in this process, without Ray and MLflow.

    Args:
        training: the function below ``@gradsweep.training``.
        weights: to train with, by task; default: equal weights.
        alpha: trains with GradNorm of this alpha (recipe ``robust``) in place of fixed weights.
        seed: of the trial.
        epochs: default: those of the function.
        test: whether the test split is read at the end.
        device: where to train: ``"cpu"``, ``"cuda:1"``, ...; default: a GPU if torch sees one.
        **arguments: of the function, as ``problem`` in a study file sets them.

    Returns:
        Its metrics, average weights and trajectory. Exceptions of the function are raised, so that a debugger stops
        at them.

    Raises:
        OptionError, ProblemError: bad input.

    >>> from gradsweep import Task, training, try_training
    >>> @training([Task("near", "MSE"), Task("far", "MSE")], epochs=2)
    ... def train(trial):
    ...     w = trial.weights
    ...     for epoch in trial.epochs():
    ...         trial.report({"near": 1 / w["near"], "far": epoch}, test=lambda: {"near": 0, "far": 0})
    >>> try_training(train).validation
    {'near': 1.0, 'far': 1.0}
    """
    from hpo.api.problem_check import device_of
    from hpo.core.trial import TrialConfig
    from hpo.problems.registry import bound
    from hpo.problems.training_function import FunctionProblem, TrainingFunction
    from hpo.training.function_training import call_once

    if not isinstance(training, TrainingFunction):
        raise ProblemError(complaint("training", "a function below @gradsweep.training(...)", quoted(training)))
    if weights is not None and alpha is not None:
        raise OptionError("alpha: expected none where weights are given, got both")
    problem = bound(training.__qualname__, training, arguments)
    assert isinstance(problem, FunctionProblem)
    method: tuple[str, dict[str, Any]] = ("equal", {})
    if weights is not None:
        method = "static", {"weights": dict(weights)}
    elif alpha is not None:
        method = "gradnorm", {"recipe": "robust", "alpha": alpha}
    config = TrialConfig("", {}, "", *method, seed, epochs or problem.epochs, test)
    return call_once(config, problem, device_of(device))
