"""The default hash of a problem's data: by content, the same in every process, for plain values that of before."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from hpo.problems.base import Problem

ROOT = Path(__file__).resolve().parents[3]


class Kept(Problem):
    """Keeps something in an attribute."""

    tasks = ()
    build_model = shared_layer = loader = losses = evaluate = lambda *_: None  # type: ignore[assignment]

    def __init__(self, kept: Any) -> None:
        self.kept = kept


class Numbers(Dataset[int]):
    def __init__(self, most: int = 3, scale: Callable[[int], int] = abs) -> None:
        self.most, self.scale = most, scale

    def __len__(self) -> int:
        return self.most

    def __getitem__(self, index: int) -> int:
        return self.scale(index)


class Colour(Enum):
    RED = 1


@dataclass
class Settings:
    rate: float = 0.1
    names: list[str] = field(default_factory=lambda: ["a"])


class Plain:
    """Has the repr that Python gives."""

    def __init__(self, value: Any = 1) -> None:
        self.value = value


def twice(x: int) -> int:
    return 2 * x


def thrice(x: int) -> int:
    return 3 * x


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(2, 2)


def large(value: int = 0) -> torch.Tensor:
    numbers = torch.zeros(5000)
    numbers[2500] = value
    return numbers


# What a problem may keep, and other data of the same kind.
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "dataset": (Numbers, lambda: Numbers(4)),
    "dataset with a function": (lambda: Numbers(3, twice), lambda: Numbers(3, thrice)),
    "tensor dataset": (lambda: TensorDataset(large()), lambda: TensorDataset(large(1))),
    "subset": (lambda: Subset(Numbers(9), [1, 2]), lambda: Subset(Numbers(9), [1, 3])),
    "lambda": (lambda: lambda x: x, lambda: lambda x: x + 1),
    "partial": (lambda: functools.partial(twice, 1), lambda: functools.partial(twice, 2)),
    "bound method": (lambda: Numbers().__len__, lambda: Numbers().__getitem__),
    "set": (lambda: set("abcdefgh"), lambda: set("abcdefgi")),
    "set in a list": (lambda: [1, {"tasks": frozenset("abcdefgh")}], lambda: [1, {"tasks": frozenset("abcd")}]),
    "set of functions": (lambda: {twice, thrice}, lambda: {twice, abs}),
    "large tensor": (large, lambda: large(1)),
    "sparse tensor": (lambda: large(1).to_sparse(), lambda: large(2).to_sparse()),
    "large array": (lambda: np.zeros(5000), lambda: large(1).numpy()),
    "precise array": (lambda: np.array([0.1]), lambda: np.array([0.1 + 1e-12])),
    "array of objects": (lambda: np.array(["a", None]), lambda: np.array(["b", None])),
    "table": (
        lambda: pd.DataFrame({"a": range(500)}),
        lambda: pd.DataFrame({"a": [*range(250), 0, *range(251, 500)]}),
    ),
    "module": (network, lambda: network(1)),
    "object of the problem's module": (Plain, lambda: Plain(2)),
    "dataclass with a tensor": (lambda: Settings(large(1)), lambda: Settings(large(2))),  # type: ignore[arg-type]
}
UNKNOWN: dict[str, Callable[[], Any]] = {
    "generator": torch.Generator,
    "object": object,
    "list of objects": lambda: [object(), {"a": object()}],
}


def hashes() -> dict[str, str]:
    made = {name: one() for name, (one, _) in PAIRS.items()} | {name: make() for name, make in UNKNOWN.items()}
    return {name: Kept(value).data_hash() for name, value in made.items()}


def test_it_is_the_same_in_another_process() -> None:
    code = "import json; from tests.hpo.problems.test_data_digest import hashes; print(json.dumps(hashes()))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == hashes()


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_that_of_the_content(name: str) -> None:
    one, other = PAIRS[name]
    assert Kept(one()).data_hash() == Kept(one()).data_hash()
    assert Kept(one()).data_hash() != Kept(other()).data_hash()


def test_a_network_may_be_used() -> None:
    problem = Kept(network())
    before = problem.data_hash()
    problem.kept.eval()(torch.ones(1, 2)).sum().backward()
    assert problem.data_hash() == before


# As version 0.1 gave them: another hash would run every finished trial again.
KNOWN: list[tuple[Any, str]] = [
    (None, "eb8dc2bf6e42661b"),
    (3, "b63c1a3242e43b8c"),
    ("images at 0x1f", "21074eb8c8383093"),
    ([1, 2.5, ("a", b"b")], "915dbe0fd734dfaf"),
    ({"a": {"b": [None, True]}}, "45c9de00aa996f6c"),
    (torch.float16, "aa0bda7ee41e5980"),
    (Path("data"), "280838700eaa36b6"),
    (Colour.RED, "b6c8d9f466395bc8"),
    (Decimal("0.1"), "a6ef69b1a6730ad0"),
    (np.float64(0.1), "7ed3f4b2eb835c98"),
    (Settings(), "8fa59e1893876cb2"),
    (len, "2b6874b9de5df909"),
]


@pytest.mark.parametrize(("kept", "known"), KNOWN, ids=lambda value: str(value)[:20])
def test_it_is_that_of_earlier_versions_where_a_repr_says_all(kept: Any, known: str) -> None:
    assert Kept(kept).data_hash() == known
