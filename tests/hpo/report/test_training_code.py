"""The line of code in the report makes the balancer that the study trained with: read from its text, then trained."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from balancers import Balancer
from hpo.compare import Winner
from hpo.core.arm import FIXED, REFERENCE
from hpo.report.training_code import Line, line_of
from hpo.training.methods import METHODS, OVER_THE_RUN, RECIPES, WITHOUT_RATE, build_balancer

TASKS = ["near", "far", "tiny"]
STEPS = 5

# Settings as a study has them, by the kind of arm.
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS if name not in (*FIXED, REFERENCE, "gradnorm")),
    *(("gradnorm", {"recipe": recipe, "alpha": alpha}) for recipe in RECIPES for alpha in (0.0, 1.339)),
    *(
        ("gradnorm", {"recipe": recipe, "alpha": 0.5, "learning_rate": 0.01234})
        for recipe in RECIPES
        if recipe not in WITHOUT_RATE
    ),
]


class Network(nn.Module):
    """A trunk and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(4, 8)
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in TASKS})

    def losses(self, step: int) -> dict[str, Tensor]:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        features = self.trunk(x).relu()
        scales = dict(zip(TASKS, (1.0, 10.0, 0.1), strict=True))
        return {
            task: (scales[task] * (head(features) - x[:, :1])).square().mean() for task, head in self.heads.items()
        }


def from_text(line: Line, names: Mapping[str, Any]) -> Balancer:
    """Evaluate the line: a dotted name below its module, called with our names and literals only."""
    call = ast.parse(line.text, mode="eval").body
    assert isinstance(call, ast.Call)
    made: Any = importlib.import_module(line.module)
    for part in ast.unparse(call.func).removeprefix(f"{line.module}.").split("."):
        made = getattr(made, part)

    def value(node: ast.expr) -> Any:
        return names[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)

    balancer = made(*map(value, call.args), **{str(word.arg): value(word.value) for word in call.keywords})
    assert isinstance(balancer, Balancer)
    return balancer


def trained(build: Callable[[nn.Module], Balancer]) -> list[Tensor]:
    """All weights of a run of a few steps, then the network's parameters."""
    network = Network()
    balancer, found = build(network.trunk), []
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(STEPS):
        balancer.backward(network.losses(step))
        optimizer.step()
        optimizer.zero_grad()
        found.append(balancer.weights)
    return [*found, *(parameter.detach() for parameter in network.parameters())]


def winner(kind: str, settings: Mapping[str, Any]) -> Winner:
    return Winner(arm=f"{kind}/mine", kind=kind, steps=STEPS, **settings)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
def test_the_line_trains_as_the_study_did(kind: str, settings: dict[str, Any]) -> None:
    line = line_of(winner(kind, settings))
    assert line is not None
    ours = trained(lambda shared: from_text(line, {"tasks": TASKS, "shared": shared}))
    theirs = trained(lambda shared: build_balancer(kind, settings, TASKS, shared, STEPS))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_words_that_a_reader_cannot_know_are_explained() -> None:
    for kind, settings in CASES:
        line = line_of(winner(kind, settings))
        assert line is not None
        explained = " ".join(line.where)
        for word in ("shared", "decay_steps"):
            assert (word in line.call.replace(".shared", "")) == (word in explained)


def test_every_method_that_a_file_cannot_hold_has_a_line_and_no_other() -> None:
    with_a_line = {
        name
        for name in METHODS
        if line_of(winner(name, {"recipe": "paper", "alpha": 0.5} if name == "gradnorm" else {}))
    }
    assert with_a_line == set(METHODS) - {*FIXED, REFERENCE}
    assert {settings["recipe"] for kind, settings in CASES if kind == "gradnorm"} == set(RECIPES)
    assert OVER_THE_RUN == ("annealed",)  # the recipes whose line must say how long a run is
    assert line_of(winner("mine", {})) is None
