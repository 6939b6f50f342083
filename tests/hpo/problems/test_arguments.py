from __future__ import annotations

from typing import Any

import pytest

from hpo.core.errors import ProblemError
from hpo.problems.census import Census
from hpo.problems.toy import Toy


@pytest.mark.parametrize(
    ("problem", "arguments", "message"),
    [
        (Toy, {"functions": 0}, "functions: found 0, allowed is an integer >= 1"),
        (Toy, {"functions": True}, "functions: found True, allowed is an integer >= 1"),
        (Toy, {"functions": 2.0}, "functions: found 2.0, allowed is an integer >= 1"),
        (Toy, {"data_seed": -1}, "data_seed: found -1, allowed is an integer >= 0"),
        (Toy, {"sigma_max": 0}, "sigma_max: found 0, allowed is a finite number > 0"),
        (Toy, {"sigma_max": float("inf")}, "sigma_max: found inf, allowed is a finite number > 0"),
        (Toy, {"learning_rate": "1e-3"}, "learning_rate: found '1e-3', allowed is a finite number > 0"),
        (
            Toy,
            {"batch_size": 51, "train": 50},
            "batch_size: found 51, allowed are at most the 50 rows of the training split",
        ),
        (Census, {"preset": "tiny"}, "preset: found 'tiny', allowed are 'small', 'full'"),
        (Census, {"preset": ["small"]}, "preset: found ['small'], allowed are 'small', 'full'"),
        (Census, {"leaky": "yes"}, "leaky: found 'yes', allowed are True, False"),
        (Census, {"weeks_worked": 1}, "weeks_worked: found 1, allowed are True, False"),
        (Census, {"epochs": 0}, "epochs: found 0, allowed is an integer >= 1"),
        (Census, {"hidden": None}, "hidden: found None, allowed is an integer >= 1"),
        (
            Census,
            {"leaky": True, "weeks_worked": True},
            "weeks_worked: found True together with leaky=True, allowed is one of them (leaky has it as an input)",
        ),
    ],
)
def test_a_bad_argument_is_named(problem: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        problem(**arguments)
    assert str(caught.value) == message
