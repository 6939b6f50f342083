from __future__ import annotations

from typing import Any

import pytest

from hpo.core.errors import ProblemError
from hpo.problems.census import Census
from hpo.problems.toy import Toy


@pytest.mark.parametrize(
    ("problem", "arguments", "message"),
    [
        (Toy, {"functions": 0}, "functions: expected an integer >= 1, got 0"),
        (Toy, {"functions": True}, "functions: expected an integer >= 1, got True"),
        (Toy, {"functions": 2.0}, "functions: expected an integer >= 1, got 2.0"),
        (Toy, {"data_seed": -1}, "data_seed: expected an integer >= 0, got -1"),
        (Toy, {"sigma_max": 0}, "sigma_max: expected a finite number > 0, got 0"),
        (Toy, {"sigma_max": float("inf")}, "sigma_max: expected a finite number > 0, got inf"),
        (Toy, {"learning_rate": "1e-3"}, "learning_rate: expected a finite number > 0, got '1e-3'"),
        (
            Toy,
            {"batch_size": 51, "train": 50},
            "batch_size: expected at most the 50 rows of the training split, got 51",
        ),
        (Census, {"preset": "tiny"}, "preset: expected 'small', 'full', got 'tiny'"),
        (Census, {"preset": ["small"]}, "preset: expected 'small', 'full', got ['small']"),
        (Census, {"leaky": "yes"}, "leaky: expected True, False, got 'yes'"),
        (Census, {"weeks_worked": 1}, "weeks_worked: expected True, False, got 1"),
        (Census, {"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        (Census, {"hidden": None}, "hidden: expected an integer >= 1, got None"),
        (
            Census,
            {"leaky": True, "weeks_worked": True},
            "weeks_worked: expected one of them (leaky has it as an input), got True together with leaky=True",
        ),
    ],
)
def test_a_bad_argument_is_named(problem: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        problem(**arguments)
    assert str(caught.value) == message
