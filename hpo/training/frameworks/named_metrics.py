"""The metrics of the tasks among those that a framework has logged, by name. Uses only the standard library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from balancers.weights import fail
from hpo.core.text import quoted


class NamedMetrics:
    """The names under which a framework logs the metric of each task on a split.

    Args:
        where: begins a message of bad input.
        names: of the metrics, by task.
        tasks: of the trial.

    Raises:
        ValueError: an unknown or a missing task, or no text.
    """

    def __init__(self, where: str, names: Mapping[str, str], tasks: Sequence[str]) -> None:
        rule = f"the name of a logged metric for each of the tasks {', '.join(tasks)}"
        if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names.values()):
            fail(where, rule, quoted(names))
        if set(names) != set(tasks):
            fail(where, rule, f"names for {', '.join(map(str, names)) or 'none'}")
        self._where, self._names = where, dict(names)

    def read(self, logged: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metric of each task.

        Raises:
            ValueError: a name under which nothing was logged.
        """
        for task, name in self._names.items():
            if name not in logged:
                rule = f"names of logged metrics, of which there {_listed(logged)}"
                fail(self._where, rule, f"{name!r} for task {task}")
        return {task: logged[name] for task, name in self._names.items()}


def _listed(logged: Mapping[str, Any]) -> str:
    if not logged:
        return "are none"
    return f"{'is' if len(logged) == 1 else 'are'} {', '.join(sorted(logged))}"
