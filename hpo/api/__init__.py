"""Studies from Python: what a notebook or a script imports, and what the command line calls."""

from hpo.api.problem_check import CheckResult, check
from hpo.api.result import Result, Verdict
from hpo.api.study import Study, StudyPlan

__all__ = ["CheckResult", "Result", "Study", "StudyPlan", "Verdict", "check"]
