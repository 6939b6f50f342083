"""A class that workers cannot import comes to them with all that it uses."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpo.core.errors import ProblemError
from hpo.execution.problem_upload import packed
from hpo.problems.by_value import name_of
from tests.helpers.problems import Steered
from tests.helpers.scripts import run

DRIVER = """
import functools, sys
from pathlib import Path
from hpo.execution.problem_upload import packed
from hpo.problems.by_value import name_of
from tests.helpers.problems import Steered

TEXT = "text of the script"

@functools.lru_cache(maxsize=7)
def cached(width):
    return f"{TEXT}, {width}"

class Mine(Steered):
    def data_hash(self):
        return cached(self.width)

Path("packed").write_bytes(packed(name_of(Mine)))
print(name_of(Mine))
"""
WORKER = """
import sys
from pathlib import Path
from hpo.execution.problem_upload import unpack
from hpo.problems import load_problem

name = sys.argv[1]
unpack(name, Path("packed").read_bytes())
print(load_problem(name, {"folder": ".", "width": 3}).data_hash())
"""


def test_cached_functions_and_values_of_a_script_are_sent_with_the_class(tmp_path: Path):
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "worker.py").write_text(WORKER)
    name = run("driver.py", folder=tmp_path).strip()
    assert name.startswith("__main__:Mine@")
    assert run("worker.py", name, folder=tmp_path) == "text of the script, 3\n"


def test_a_class_that_can_be_imported_is_not_sent():
    assert name_of(Steered) == "tests.helpers.problems:Steered"
    assert packed(name_of(Steered)) == b""


def test_a_value_that_cannot_be_sent_is_named():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:

        class Mine(Steered):
            def data_hash(self) -> str:
                return str(process)

        with pytest.raises(ProblemError, match=r"problem: the class .*Mine cannot be sent to workers: TypeError: "):
            packed(name_of(Mine))
