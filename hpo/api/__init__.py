"""Studies from Python: the classes and functions that notebooks, scripts and the command line use."""

from hpo.api.problem_check import CheckResult, check
from hpo.api.result import Result, Verdict
from hpo.api.study import Study, StudyPlan
from hpo.api.try_training import try_training
from hpo.api.weights import find_weights
from hpo.training.function_trial import Trial

__all__ = ["CheckResult", "Result", "Study", "StudyPlan", "Trial", "Verdict", "check", "find_weights", "try_training"]
