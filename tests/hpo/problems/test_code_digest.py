"""The digest of a class that no module holds: the same code the same digest, in every process; an edit another."""

import subprocess
import sys

import pytest

from tests.helpers.scripts import ROOT

SCRIPT = """
import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hpo.problems import Problem, Task
from hpo.problems.code_digest import code_digest

WIDTH = 4
NAMES = {"near", "far", "tiny", "other"}
ROWS = np.arange(6.0)
DATA = torch.utils.data.TensorDataset(torch.arange(6.0))
lock = object()

@dataclass
class Options:
    rate: float = 0.1

OPTIONS = Options()

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(3, WIDTH)

@functools.cache
def data(split):
    return [ROWS, lock, len(split)]

def unused():
    return 1

class Mine(Problem):
    tasks = (Task("near", "MSE"), Task("far", "MSE"))
    rates = [0.1, 0.2]

    def build_model(self, seed):
        return Network()

    def loader(self, split, seed):
        return [row for row in data(split) if "near" in {"near", "far", split}] + [len(DATA), OPTIONS.rate]

    @property
    def names(self):
        return sorted(NAMES), self.rates, Mine

    @staticmethod
    def scale(x, by=2.0):
        return torch.nn.functional.relu(x) * by

print(code_digest(Mine))
"""


def digest(script: str, seed: str = "0") -> str:
    environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def before() -> str:
    return digest(SCRIPT)


def in_process(script: str) -> str:
    """The digest in this process, where the class is of a module that is not imported."""
    printed: list[str] = []
    exec(script, {"__name__": "__main__", "print": printed.append})  # noqa: S102 - the script above
    return printed[0]


def test_the_same_code_has_the_same_digest_in_another_process(before):
    commented = SCRIPT.replace("class Mine", "# a comment\n\nclass Mine").replace("def unused", "\n\ndef unused")
    assert digest(commented, seed="1") == before == in_process(SCRIPT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIDTH = 4", "WIDTH = 5"),
        ("nn.Linear(3, WIDTH)", "nn.Linear(2, WIDTH)"),
        ("len(split)]", "len(split) + 1]"),
        ('"tiny", ', ""),
        ("np.arange(6.0)", "np.arange(1.0, 7.0)"),
        ("TensorDataset(torch.arange(6.0))", "TensorDataset(torch.arange(7.0))"),
        ("rate: float = 0.1", "rate: float = 0.2"),
        ("[0.1, 0.2]", "[0.1, 0.3]"),
        ("by=2.0", "by=3.0"),
        ("relu(x)", "gelu(x)"),
        ('Task("far", "MSE")', 'Task("far", "MSE", "maximize")'),
    ],
)
def test_an_edit_gives_another_digest(before, old, new):
    assert old in SCRIPT
    assert in_process(SCRIPT.replace(old, new)) != before


def test_code_that_the_class_does_not_use_is_ignored(before):
    assert in_process(SCRIPT.replace("return 1", "return 2")) == before
