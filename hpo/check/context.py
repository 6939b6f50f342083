"""The problem that is checked: what the checks share, and what each leaves for those after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hpo.check.batch_digests import Pass
from hpo.check.user_tracebacks import folders_of, place_of, told
from hpo.core.errors import ProblemError
from hpo.core.user_calls import is_interrupt
from hpo.problems import load_problem
from hpo.problems.base import Problem, Split
from hpo.problems.training_function import AnyProblem
from hpo.training.autocast import autocast, losses_of
from hpo.training.global_state import GlobalState, as_found
from hpo.training.resumable_loader import DataOrder, seed_all
from hpo.training.updates import Updates

Level = Literal["ok", "warning", "fault"]
Notes = Iterator[tuple[Level, str, str]]  # level, what was found, what is allowed

SEED, OTHER_SEED = 0, 1


class Watched:
    """A problem that is looked at, with the changes of the global state by the user's code.

    Args:
        name: a registered name, or ``package.module:Class``.
        problem: the problem of this name.
        code: the user's class or function.
        device: where trials would train.

    Attributes:
        folders: where the problem's own code is.
        hash: what ``data_hash()`` gave at first.
        state: the global state that ``build_model()`` leaves for all that a trial does later; ``None`` if unknown.
        left: what of the global state the user's code left changed, and in which check that was seen first.
    """

    def __init__(self, name: str, problem: AnyProblem, code: Any, device: torch.device) -> None:
        self.name, self.problem, self.device = name, problem, device
        self.folders = folders_of(code)
        self.hash = ""
        self.state: GlobalState | None = None
        self.left: dict[str, str] = {}

    @contextmanager
    def watched(self, subject: str) -> Iterator[None]:
        """Note what of the global state is changed inside."""
        before = GlobalState()
        try:
            yield
        finally:
            for name in before.changed():
                self.left.setdefault(name, subject)


def loaded(name: str, arguments: Mapping[str, Any]) -> AnyProblem:
    """A new instance, as another process would make it.

    Raises:
        ProblemError: what the user's module or constructor raises is told with the file and the line.
    """
    try:
        return load_problem(name, arguments)
    except ProblemError as error:
        where = place_of(error.__cause__) if error.__cause__ else ""
        raise ProblemError(f"{error} (at {where})" if where else str(error)) from error.__cause__
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise ProblemError(f"problem: {name!r} cannot be made: {told(error)}") from error


class CheckContext(Watched):
    """A problem that is looked at, driven as `hpo.training.training_loop` drives it.

    Args:
        name: a registered name, or ``package.module:Class``.
        arguments: keyword arguments of the class.
        problem: the problem of this name, with these arguments.
        device: where trials would train.

    Attributes:
        tasks: their names.
        passes: what a pass over each split has seen.
        steps: in an epoch, where that is known.
        batch: one to train on, of the first ones that with the most tasks.
        model: a network with its initial parameters.
        losses: of that network, of each task the first, with their graph.
        reached: for each task the ids of the leaves (including parameters) that its loss depends on.
        trained: a network and its optimizers after one step.
        curves: the losses of each task trained alone, step by step.
        alpha: of the GradNorm steps that are tried; 0, which reads no loss, if a first loss is below 0.
        metrics: on val, of a network that has not trained.
        evaluation: seconds that this takes.
    """

    problem: Problem
    batch: Any
    model: nn.Module
    losses: dict[str, Tensor]
    reached: dict[str, set[int]]
    trained: tuple[nn.Module, Updates]

    def __init__(self, name: str, arguments: Mapping[str, Any], problem: Problem, device: torch.device) -> None:
        super().__init__(name, problem, type(problem), device)
        self.arguments = arguments
        self.tasks = [task.name for task in problem.tasks]
        self.passes: dict[Split, Pass] = {}
        self.steps: int | None = None
        self.curves: dict[str, list[float]] = {}
        self.alpha = 0.5
        self.metrics: dict[str, float] = {}
        self.evaluation = 0.0

    @property
    def gradnorm(self) -> dict[str, Any]:
        """The settings of the GradNorm steps that are tried."""
        return {"recipe": "robust", "alpha": self.alpha}

    def load(self) -> Problem:
        """A new instance, as another process would make it.

        Raises:
            ProblemError: see `loaded`.
        """
        problem = loaded(self.name, self.arguments)
        assert isinstance(problem, Problem)
        return problem

    def build(self, seed: int = SEED) -> nn.Module:
        """A new network."""
        seed_all(seed)
        return self.problem.build_model(seed).to(self.device)

    def order(self, split: Split = "train", seed: int = SEED) -> DataOrder:
        """A new loader, to be gone through epoch after epoch."""
        seed_all(seed)
        return DataOrder(self.problem.loader(split, seed), self.device)

    def losses_of(self, model: nn.Module, batch: Any) -> Any:
        """The losses of a network on a batch, as the user's code returns them."""
        return losses_of(self.problem, model, batch, self.device)

    def at_most(self, steps: int) -> int:
        """So many steps, or those of a trial: a schedule that follows steps may end with it."""
        whole = self.steps * self.problem.epochs if self.steps else steps
        return min(steps, whole) if self.problem.schedule_per == "step" else steps

    def measure(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The metrics of a network."""
        model.eval()
        with as_found(), self.watched("evaluate"), torch.no_grad(), autocast(self.problem, self.device):
            return {task: float(value) for task, value in self.problem.evaluate(model, split).items()}

    def forget_graph(self) -> None:
        """Free the memory that the checks of the graph took, before a step's own is measured."""
        del self.model, self.losses, self.reached
