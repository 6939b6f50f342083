"""CONTRIBUTING.md's recipes, one of each, in this one file: a class or a function, and one line in its registry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import ModuleType

import numpy as np
import plotly.graph_objects as go
import pytest

from balancers import Equal
from hpo.cli.app import app
from hpo.compare import Winner, compare
from hpo.core.errors import OptionError
from hpo.core.trial import PlannedTrial, TrialStatus
from hpo.launch.console import Console
from hpo.launch.progress import ProgressView
from hpo.launch.restore import open_plan
from hpo.report.arm_labels import arm_label
from hpo.report.figures import FIGURES
from hpo.report.html_page import page
from hpo.report.sections import sections
from hpo.report.training_code import line_of
from hpo.study.phases import PHASES, SoFar, StudyPhase
from hpo.study.phases.static_search import static_trials
from hpo.study.plan import EQUAL, Plan
from hpo.study.schedule import Next, Schedule
from hpo.study.spec import Study
from hpo.training.cohort import run_cohort
from hpo.training.methods import METHODS, Method
from search_spaces import DESIGNS, Design
from tests.helpers.cohorts import CPU, Heard, Precise, cohort_of, train
from tests.helpers.problems import Steered
from tests.helpers.report_builder import Builder
from tests.helpers.runs import Case, main
from tests.helpers.studies import small
from tests.helpers.studies import train as simulated

# --- a balancer


class Even(Equal):
    """Equal weights under another name."""


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> Method:
    method = Method("even", lambda tasks, _, __: Even(tasks), "even weights", call="own.Even(tasks)")
    monkeypatch.setitem(METHODS, method.name, method)
    return method


def test_a_balancer_is_a_reference_of_studies_with_its_label_and_its_advice(even: Method) -> None:
    study = Study.model_validate({"name": "own", "problem": "toy", "references": ["single_task", "even"]})
    assert study.references == ("single_task", "even")
    assert arm_label("even") == "even weights"
    advice = line_of(Winner(arm="even", kind="even"))
    assert advice is not None
    assert advice.text == "own.Even(tasks)"


def test_a_study_with_it_comes_to_its_end_and_it_alone_is_trained_outside_cohorts(
    even: Method, tmp_path: Path
) -> None:
    references = ["single_task", "even", "equal"]
    plan = open_plan(Case(tmp_path, database=False).study(seeds=1, references=references, static={"points": 4}))
    problem, schedule, sizes = Steered(str(tmp_path)), Schedule(plan), {True: set[int](), False: set[int]()}
    while isinstance(cohort := schedule.next_cohort(8, 1), list):
        heard, methods = Heard(), {planned.config.method for planned in cohort}
        run_cohort([planned.config for planned in cohort], problem, CPU, heard)
        assert {result.together for result in heard.results.values()} == {len(cohort)}
        sizes["even" in methods].add(len(cohort))
        for identity, result in heard.results.items():
            schedule.finished(identity, result)
    assert set(schedule.table()["status"]) == {TrialStatus.FINISHED}
    assert sizes[True] == {1}
    assert max(sizes[False]) > 3


def test_a_balancer_that_can_be_stacked_is_trained_in_a_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "even", Method("even", lambda tasks, _, __: Equal(tasks), "even", stackable=True))
    one, other = train(cohort_of(("even", {}), ("equal", {})), Precise()).results.values()
    assert one.validation == pytest.approx(other.validation)
    assert (one.together, other.together) == (2, 2)


# --- a search space


def corners(tasks: int, points: int, seed: int, *, ratio: float = 10.0) -> np.ndarray:
    """Points at which one task has most of the weight."""
    rng = np.random.default_rng(seed)
    rows = 1 + (ratio - 1) * np.eye(tasks)[np.arange(points) % tasks] * rng.uniform(0.5, 1.5, (points, 1))
    return tasks * rows / rows.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("random", [True, False])
def test_a_design_says_itself_whether_the_report_has_an_interval(
    random: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DESIGNS, "corners", Design(corners, random=random))
    study = Study.model_validate({"name": "own", "problem": "toy", "static": {"design": "corners", "points": 5}})
    plan = Plan(study, Steered("unused"))
    assert len(static_trials(plan)) == 5
    assert plan.random_points is random
    data = Builder().data()
    tables = sections(replace(data, comparison=replace(data.comparison, random_points=plan.random_points)))
    words = next(section.tables[0].caption for section in tables if section.figure == "budget")
    assert ("Clopper-Pearson" in words) is random


# --- a phase


class Repeats(StudyPhase):
    """Equal weights once more, for fewer epochs."""

    name = "repeats"
    pool = "repeats"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        self.add(self.plan.search_trial(self.name, EQUAL, epochs) for epochs in (1, 2))

    def size(self) -> tuple[int, int]:
        return 1, 2

    def describe(self) -> str:
        return "equal weights, cut short"


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PHASES, Repeats.name, Repeats)


@pytest.mark.usefixtures("repeats")
def test_a_phase_is_planned_handed_out_resumed_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "equal weights, cut short" in main(capsys, "plan", str(Case(tmp_path, database=False).study()))[1]
    plan = small(epochs=3)
    schedule = Schedule(plan)
    handed: list[PlannedTrial] = []
    while isinstance(planned := schedule.next(), PlannedTrial):
        handed.append(planned)
        view = ProgressView(schedule, Console(file=StringIO()))
        schedule.finished(planned.config.identity, simulated(planned.config))
        view.time_passed()
    assert [planned.config.epochs for planned in handed if planned.phase == "repeats"] == [1, 2]
    assert schedule.progress()["repeats"] == {"total": 2, "done": 2, "running": 0, "failed": 0}
    assert schedule.is_complete
    again = Schedule(plan, schedule.results, [planned.config for planned in handed])
    assert again.next() is Next.FINISHED
    comparison = compare(again.table(), plan.scoring, 1.0)
    assert sum(comparison.search["phase"] == "repeats") == 2


# --- a figure


@pytest.fixture
def hello(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("hello")
    module.__dict__.update(
        TITLE="Hello",
        MISSING="Nobody is there.",
        WIDE=False,
        caption=lambda data: "How to read it.",
        figure=lambda data: go.Figure(go.Scatter(x=[1, 2], y=[1, 2])),
    )
    monkeypatch.setitem(FIGURES, "hello", module)  # type: ignore[arg-type]


def test_a_figure_is_the_last_section_of_the_report(hello: None) -> None:
    data = Builder(tuned=True).data()
    assert [section.figure for section in sections(data)] == list(FIGURES)
    assert sections(data)[-1].title == "Hello"
    assert "How to read it." in page(data)


# --- a command


@pytest.fixture
def greet() -> Iterator[None]:
    def greet(name: str) -> None:
        """Greet somebody."""
        if name == "nobody":
            raise OptionError(f"name: expected somebody, got {name!r}")
        print(f"Hello {name}")

    app.command()(greet)
    yield
    app.registered_commands.pop()


def test_a_command_has_help_and_reports_bad_input(greet: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Greet somebody." in main(capsys, "--help")[1]
    assert main(capsys, "greet", "Ada") == (0, "Hello Ada\n", "")
    assert main(capsys, "greet", "nobody") == (2, "", "error: name: expected somebody, got 'nobody'\n")


# --- a problem


class Mine(Steered):
    """A problem of one's own, in any module that can be imported."""


def test_a_problem_is_named_by_its_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = main(capsys, "check", "tests.test_contributing:Mine", "--set", f"folder={tmp_path}")
    assert (code, err) == (0, ""), out
    assert "Faults: 0" in out
