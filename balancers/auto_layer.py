"""W that GradNorm finds by itself: `shared="auto"`."""

from __future__ import annotations

from collections.abc import Sequence

from balancers.losses import StepLosses
from balancers.ranks import several_ranks
from balancers.shared_layer import SharedLayer, SharedOrAuto, is_auto
from balancers.shared_search import SharedSearch, is_present
from balancers.weights import fail


def auto_or_named(shared: SharedOrAuto, tasks: Sequence[str]) -> SharedLayer:
    """W as it is named, or to be found.

    Raises:
        ValueError: see `SharedLayer`.
    """
    if not isinstance(shared, str):
        return SharedLayer(shared)
    if not is_auto(shared):
        fail("shared", "a module, a parameter, a list of these, or 'auto'", repr(shared))
    return AutoLayer(tasks)


class AutoLayer(SharedLayer):
    """W found from the graph of the losses, once every task has had one.

    Args:
        tasks: T names.
    """

    absence = "The shared layer was not found yet, or did not require grad,"

    def __init__(self, tasks: Sequence[str]) -> None:
        self._parts = []
        self._tasks, self._search = list(tasks), SharedSearch()

    def look_at(self, step: StepLosses) -> None:
        """Take in the tasks that are present for the first time. Waits for the device, until W is found.

        Raises:
            ValueError: W cannot be found; several processes train, which might each find another.
        """
        if self._parts:
            return
        if several_ranks():
            fail("shared", "a module or parameters where several processes train; see `find_shared_layer`", "auto")
        for number, loss in zip(step.numbers, step.graphs, strict=True):
            if self._tasks[number] not in self._search.tasks and is_present(loss):
                self._search.add(self._tasks[number], loss)
        if len(self._search.tasks) == len(self._tasks):
            self._parts = list(self._search.last())
            self._search = SharedSearch()

    def notes(self) -> list[str]:
        """Say what was found. A balancer knows no names, so a weight is described by its shape."""
        if self._parts:
            shapes = ", ".join(str(tuple(weight.shape)) for weight in self.trained())
            return [f"The shared layer was found from the losses: weights of shape {shapes}; see `shared`."]
        missing = [task for task in self._tasks if task not in self._search.tasks]
        return [
            f"The shared layer is not found yet: no step had a loss of {', '.join(missing)} that reaches a weight."
        ]
