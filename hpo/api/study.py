"""A study from Python: described by the keys of a study file, planned, run and read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.api.problem_key import ProblemLike, named
from hpo.api.result import Result
from hpo.study.study_file import StudyFile, read_study_file, read_yaml, study_from

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from hpo.launch.workspace import Workspace

DEFAULT_OUTPUT = Path("gradsweep-output")


class Study:
    """A comparison of loss weights on one problem, described by the keys of a study file.

    Args:
        name: names the MLflow experiment and the folder of the results.
        problem: a subclass of `gradsweep.Problem`, a function below `gradsweep.training`, the name of a built-in
            problem, ``"package.module:Class"``, or a mapping whose ``name`` is any of these and whose other keys are
            arguments of the class or function. It may be defined in a notebook or a script: then its code is sent to
            the workers, and an edited one makes other trials.
        **settings: any other key of a study file: ``seeds``, ``epochs``, ``static``, ``gradnorm``, ...

    Raises:
        StudyError: a key or a value that is not allowed; one line for each fault, as on the command line.
        ProblemError: ``problem`` is no class that can be trained.

    >>> from gradsweep import Study
    >>> study = Study(name="demo", problem="toy", seeds=2, static={"points": 4, "ratio": 100})
    >>> study.plan().points["arm"].to_list()
    ['equal', 'static/01', 'static/02', 'static/03']
    >>> Study(name="demo", problem="toy", seeds=0)
    Traceback (most recent call last):
        ...
    hpo.core.errors.StudyError: seeds: expected a number >= 1, got 0
    """

    def __init__(self, name: str, problem: ProblemLike, **settings: Any) -> None:
        self._keys: dict[str, Any] | None = {"name": name, "problem": problem, **settings}
        self._file = self._described()

    @classmethod
    def load(cls, path: str | Path, **settings: Any) -> Study:
        """Read a study file.

        Args:
            path: of the file.
            **settings: keys that take the place of those in the file.

        Raises:
            StudyError: no such file, not YAML, or a field that is not allowed; one line for each fault.
        """
        study = cls.__new__(cls)
        study._keys, study._file = None, read_study_file(Path(path))
        if settings:
            study._file = study_from(read_yaml(study._file.text) | settings)
        return study

    @property
    def name(self) -> str:
        """The name of the study."""
        return self._file.study.name

    @property
    def text(self) -> str:
        """The study as a study file in YAML."""
        return self._described().text

    def __repr__(self) -> str:
        return f"Study of {self._file.study.problem.name}:\n{self._file.text.rstrip()}"

    def changes_since(self, file: Path) -> list[str]:
        """Return the fields in which a study file differs from this study, each as ``field: old -> new``."""
        from hpo.study.spec_diff import changes

        return changes(file, self._file.study) or ["its form alone"]

    def plan(self) -> StudyPlan:
        """Return the plan of the study. Runs nothing.

        Raises:
            StudyError, ProblemError: the study or its problem cannot be used.
        """
        from hpo.launch.restore import open_plan
        from hpo.study import plan_table
        from hpo.study.schedule import Schedule

        plan = open_plan(self._described(), prepare=False)
        schedule = Schedule(plan, runs=False)
        return StudyPlan(
            title=f"{plan.study.name}: {plan.study.problem.name}, {len(plan.tasks)} tasks",
            phases=plan_table.phases_table(schedule),
            points=plan_table.points_table(plan),
            arguments=plan_table.arguments_table(plan),
            epochs=plan_table.epochs_in_words(schedule),
            needs=plan_table.needs_in_words(plan),
        )

    def run(
        self,
        address: str | None = None,
        *,
        output: str | Path = DEFAULT_OUTPUT,
        tracking_uri: str | None = None,
        storage: str | None = None,
        wait: float = 0.0,
        console: Console | None = None,
    ) -> Result:
        """Run the study, or the rest of it: calling it again resumes an interrupted study.

        Report and weights file are written to the output folder. Trials that fail are part of the result.

        Args:
            address: of a running Ray cluster; default: ``RAY_ADDRESS``, or else this machine. If this process has
                called ``ray.init()``, leave it out: that Ray is used and left running. A Ray that is started here is
                shut down at the end.
            output: folder of MLflow's database, the report and the weights file.
            tracking_uri: MLflow's backend; default: ``MLFLOW_TRACKING_URI``, or else SQLite in the output folder.
            storage: where checkpoints go: a folder that all nodes share, or ``s3://bucket/prefix``; default:
                ``GRADSWEEP_STORAGE``, or else the output folder.
            wait: minutes to wait for a node that can hold a trial.
            console: where to show progress; default: this notebook or terminal. ``Console(quiet=True)`` of rich shows
                nothing.

        Raises:
            InputError: the study, its problem or an argument cannot be used.
            LaunchLostError: another launch has taken the study over.
            KeyboardInterrupt: the study was stopped. Finished trials are kept, and the same call resumes it.
        """
        from hpo.launch.run import run_study

        shown = console or _console()
        where = _place(output, tracking_uri, storage)
        try:
            finished = run_study(self._described(), where, address or _given("RAY_ADDRESS"), shown, wait)
        except KeyboardInterrupt:
            finished = None
        if finished is None or not finished.complete:
            raise KeyboardInterrupt("Stopped. Finished trials are kept; the same call continues the study.") from None
        if console is None:
            for fault in finished.faults:
                shown.print(fault, style="bold red", soft_wrap=True)
        return Result(finished.outcome, finished)

    def result(
        self,
        *,
        output: str | Path = DEFAULT_OUTPUT,
        tracking_uri: str | None = None,
        console: Console | None = None,
    ) -> Result:
        """Read the results so far, whether the study is finished or not. Runs nothing.

        Args:
            output: see `run`.
            tracking_uri: see `run`.
            console: see `run`.

        Raises:
            TrackingError: no launch of this study is found there.
        """
        from hpo.launch.conclude import assess
        from hpo.launch.restore import read_study

        where = _place(output, tracking_uri, None)
        plan, schedule, store = read_study(self._described(), where, console or _console())
        return Result(assess(plan, schedule, store, where))

    def _described(self) -> StudyFile:
        """Return the study with the present code of its class, which a notebook may have changed."""
        if self._keys is None:
            return self._file
        self._file = study_from(self._keys | {"problem": named(self._keys["problem"])})
        return self._file


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study.

    Attributes:
        title: the study, its problem and the number of tasks.
        phases: for each phase the maximum numbers of arms and trials, and a description.
        points: for each arm of the static search the weight of each task.
        arguments: the sets of arguments of the problem that every arm is trained with, its own first; empty unless
            the study tunes some.
        epochs: of all trials together, in words.
        needs: the resources of each trial, in words.
    """

    title: str
    phases: pd.DataFrame
    points: pd.DataFrame
    arguments: pd.DataFrame
    epochs: str
    needs: str

    @property
    def trials(self) -> int:
        """The maximum number of trials."""
        return int(self.phases["trials"].sum())

    def __repr__(self) -> str:
        phases = self.phases.to_string(index=False)
        points = self.points.to_string(index=False, float_format="{:.4g}".format)
        sets = f"\n\n{self.arguments.to_string(index=False)}" if len(self.arguments) else ""
        return f"{self.title}\n\n{phases}\n\n{self.trials} trials, {self.epochs}\n{self.needs}\n\n{points}{sets}"


def _place(output: str | Path, tracking_uri: str | None, storage: str | None) -> Workspace:
    from hpo.launch.workspace import place

    uri, checkpoints = tracking_uri or _given("MLFLOW_TRACKING_URI"), storage or _given("GRADSWEEP_STORAGE")
    return place(Path(output), uri, checkpoints)


def _given(variable: str) -> str | None:
    return os.environ.get(variable) or None


def _console() -> Console:
    from hpo.launch.console import Console

    return Console()
