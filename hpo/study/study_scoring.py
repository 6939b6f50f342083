"""The measure of each task in a study: of the problem's tasks, with the study's priorities and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpo.compare import Scoring, TaskScoring
from hpo.core.errors import StudyError
from hpo.core.text import complaint, cut, listed, quoted
from hpo.problems.base import Task
from hpo.study.spec import Study


def scoring_of(study: Study, tasks: Sequence[Task]) -> Scoring:
    """Return the measure of each task; one that the study does not name has priority 1 and no limit.

    Raises:
        StudyError: a priority or limit of an unknown task, or no task with a priority above 0.
    """
    names = [task.name for task in tasks]
    for field, given in (("priorities", study.priorities), ("limits", study.limits)):
        if unknown := [task for task in given if task not in names]:
            raise StudyError(
                complaint(field, f"tasks of the problem ({', '.join(names)})", cut(listed(map(repr, unknown))))
            )
    scoring = Scoring({task.name: _measure(task, study.priorities, study.limits) for task in tasks})
    if not any(how.priority > 0 for how in scoring.values()):
        raise StudyError(
            complaint("priorities", "a number > 0 for at least one task", quoted(dict(study.priorities)))
        )
    return scoring


def _measure(task: Task, priorities: Mapping[str, float], limits: Mapping[str, float]) -> TaskScoring:
    return TaskScoring(
        direction=task.sign,
        change=task.change,
        priority=priorities.get(task.name, 1.0),
        limit=limits.get(task.name),
    )
