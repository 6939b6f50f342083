"""Training functions where a study names problems: their arguments, their code, their faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradsweep import Task, try_training
from hpo.api.problem_key import named
from hpo.core.errors import ProblemError, StudyError
from hpo.core.trial import TrialStatus
from hpo.execution.problem_upload import packed, unpack
from hpo.problems import by_value, load_problem, training
from hpo.problems.data_cache import prepare_once
from hpo.problems.training_function import FunctionProblem, TrainingFunction
from tests.helpers import training_functions as functions
from tests.helpers.small_problem import TASKS

RIGHT = "tests.helpers.training_functions:right"


def failure(name: str, arguments: dict[str, Any]) -> str:
    with pytest.raises(ProblemError) as raised:
        load_problem(name, arguments)
    return str(raised.value)


def test_a_function_is_named_like_a_class():
    problem = load_problem(RIGHT, {"lr": 0.1})
    assert isinstance(problem, FunctionProblem)
    assert problem.training is functions.right
    assert (problem.arguments, problem.epochs, len(problem.tasks)) == ({"lr": 0.1}, 3, 3)
    assert named(functions.right) == RIGHT


def test_its_keyword_arguments_are_what_a_study_may_set():
    assert failure(RIGHT, {"rate": 1}) == (f"problem: arguments of {RIGHT!r}: expected 'lr', 'decay', got 'rate'")

    @training([Task("near", "MSE")])
    def train(trial, width, *, depth=2, **more): ...

    name = named(train)
    assert load_problem(name, {"width": 3, "anything": 1}).arguments == {"width": 3, "anything": 1}
    assert failure(name, {}) == f"problem: {name!r} lacks the arguments 'width', which have no default"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "expected a list of at least one Task, got []"),
        ({"tasks": ["near"]}, "expected hpo.problems.Task(name, metric, direction), got 'near'"),
        ({"tasks": [Task("near", "MSE")], "epochs": 0}, "expected an integer >= 1, got 0"),
    ],
)
def test_its_tasks_and_epochs_are_checked(options: dict[str, Any], message: str):
    @training(**options)
    def train(trial): ...

    assert failure(named(train), {}).endswith(message)


def test_what_takes_no_trial_is_refused():
    with pytest.raises(ProblemError, match=r"^training: expected a function whose first parameter is the trial"):
        training([])(lambda: None)
    with pytest.raises(
        ProblemError, match=r"^training: expected a function without yield and async, got <class 'int'>"
    ):
        training([])(int)


def test_what_only_begins_when_it_is_called_is_refused():
    def steps(trial):
        yield

    async def later(trial):
        """Do nothing."""

    for function in (steps, later):
        with pytest.raises(ProblemError, match=r"^training: expected a function without yield and async, got "):
            training([Task("a", "MSE")])(function)


def test_what_a_function_prepares_is_given_its_arguments():
    told: list[object] = []

    @training([Task("a", "MSE")], prepare=lambda **arguments: told.append(arguments))
    def train(trial, rate: float = 0.1, size: int = 2):
        """Do nothing."""

    prepare_once(FunctionProblem(train, {"size": 3}))
    assert told == [{"rate": 0.1, "size": 3}]


def test_a_function_without_the_decorator_is_told_of_it():
    assert "or a function below @gradsweep.training(...), got <function measure" in failure(
        "tests.helpers.training_functions:measure", {}
    )


def test_a_study_of_a_function_alone_is_refused():
    with pytest.raises(
        StudyError, match=r"^problem: expected measure below @gradsweep.training\(tasks=\[...\]\), got "
    ):
        named(functions.measure)


def edited(by: float, **options: Any) -> TrainingFunction:
    """Return a function whose code uses a number."""

    def helper(lr):
        return lr + by

    @training([Task("near", "MSE")], **options)
    def train(trial, lr=1):
        return helper(lr)

    return train


def hash_of(by: float, **options: Any) -> str:
    return FunctionProblem(edited(by, **options), {"lr": 2}).data_hash()


def test_other_code_has_another_hash_unless_the_hash_is_given():
    assert hash_of(1) == hash_of(1) != hash_of(2)
    assert hash_of(1, data_hash="2024-05") == hash_of(2, data_hash="2024-05") != hash_of(1)
    assert hash_of(1, data_hash=lambda lr: f"data of {lr}") == "data of 2"


def test_a_function_of_a_script_is_sent_with_all_that_it_uses(monkeypatch: pytest.MonkeyPatch):
    offset = 3.0

    @training(functions.TASKS, epochs=1)
    def train(trial):
        functions.one_step(trial)
        functions.reports(trial, near=offset)

    name = named(train)
    content = packed(name)
    before = load_problem(name, {}).data_hash()
    monkeypatch.setattr(by_value, "_kept", {})
    unpack(name, content)
    found = load_problem(name, {})
    assert found.data_hash() == before
    assert try_training(found.training).validation == {"near": 3.0, "far": 1.0, "tiny": 1.0}


def test_a_function_can_be_tried_without_a_study():
    found = try_training(functions.right, alpha=0.5, epochs=2, test=True, device="cpu", lr=0.01)
    assert found.status is TrialStatus.FINISHED
    assert (found.steps, found.test.keys()) == (16, set(TASKS))
    assert try_training(functions.by_numbers, weights={"near": 1, "far": 1, "tiny": 4}).averages["tail"]["tiny"] == 2


def test_its_own_errors_are_raised_where_it_is_tried():
    broken = TrainingFunction(functions.reads_the_test_split, functions.TASKS, 1, None)
    with pytest.raises(ValueError, match=r"^trial.report\(test=...\): expected a function"):
        try_training(broken)


def test_a_trial_can_be_handed_over_by_hand(tmp_path: Path):
    """The decorated function is still the function."""
    seen: list[Any] = []

    @training([Task("near", "MSE")])
    def train(trial, lr=1):
        """Say what it was given."""
        seen.append((trial, lr))

    train("a trial", lr=2)
    assert (seen, train.__doc__) == ([("a trial", 2)], "Say what it was given.")
