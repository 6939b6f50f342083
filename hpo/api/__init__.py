"""Studies from Python: the classes and functions that notebooks, scripts and the command line use."""

from hpo.api.problem_check import CheckResult, check
from hpo.api.result import Result, Verdict
from hpo.api.study import Study, StudyPlan
from hpo.api.weights import find_weights

__all__ = ["CheckResult", "Result", "Study", "StudyPlan", "Verdict", "check", "find_weights"]
