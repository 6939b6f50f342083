"""User code that ends in unusual ways fails its trial, by name; what our own callbacks raise goes through."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpo.core.text import message, one_line, with_traceback
from hpo.core.trial import TrialResult
from hpo.core.user_calls import Boundary
from hpo.problems.base import Split
from hpo.training.cohort import run_cohort
from hpo.training.cohort_size import choose_size
from hpo.training.stacked_network import NotStackable
from hpo.training.stacking_check import check_stackable
from hpo.training.trial import run_trial
from tests.helpers.cohorts import CPU, Heard, cohort_of
from tests.helpers.hostile_problems import DEEDS, UnspeakableError
from tests.helpers.runs import assert_only_stages, main
from tests.helpers.small_problem import Small, config

RAISING = ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration", "unspeakable", "long", "odd"]
WHERE = ["build_model", "shared_layer", "build_optimizer", "loader", "losses", "evaluate"]
UNSPEAKABLE = "UnspeakableError: its text cannot be read, since __str__ raised SystemExit"


class Ends(Small):
    """Does something in one of its methods, each time."""

    def __init__(self, where: str, deed: Callable[[], object]) -> None:
        super().__init__()
        self.where, self.deed = where, deed

    def __getattribute__(self, name: str) -> Any:
        if name in WHERE and name == self.where:
            self.deed()
        return super().__getattribute__(name)


class AtTest(Small):
    """Does something when the test split is evaluated, and again on the training split."""

    def __init__(self, split: Split, deed: Callable[[], object]) -> None:
        super().__init__()
        self.split, self.deed = split, deed

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        if split == self.split:
            self.deed()
        return super().evaluate(model, split)


def in_thread(call: Callable[[], Any]) -> Any:
    """Return the result of a call in a thread such as Tune's."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    assert found, "the thread has ended by an exception"
    return found[0]


def ended(where: str, deed: str, **settings: Any) -> TrialResult:
    return in_thread(lambda: run_trial(config(**settings), Ends(where, DEEDS[deed]), lambda _: None, CPU))


# --- a trial


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("deed", RAISING)
def test_a_trial_fails_by_name(deed: str, where: str) -> None:
    result = ended(where, deed)
    assert result.status == "failed"
    first, _, trace = result.error.partition("\n\n")
    if deed == "unspeakable":
        assert first == UNSPEAKABLE
        assert trace.startswith("Traceback that cannot be read")
    else:
        kind = "ValueError" if deed in ("long", "odd") else deed
        assert first.startswith(kind)
        assert trace.startswith("Traceback")
    assert len(first) <= 1000
    assert len(result.error) < 30_000


@pytest.mark.parametrize("deed", RAISING)
def test_a_result_can_be_sent_and_stored(deed: str) -> None:
    result = ended("losses", deed)
    assert pickle.loads(pickle.dumps(vars(result)))["error"] == result.error
    assert json.loads(json.dumps(result.error).encode()) == result.error
    assert result.error.encode("utf-8").count(b"\x00") == 0


@pytest.mark.parametrize("deed", RAISING)
def test_an_error_on_the_training_split_keeps_the_result(deed: str) -> None:
    problem = AtTest("train", DEEDS[deed])
    result = in_thread(lambda: run_trial(config(test=True), problem, lambda _: None, CPU))
    assert result.status == "finished"
    (alarm,) = result.alarms
    assert alarm.startswith("no gap of train and test, since evaluate(model, 'train') raised: ")
    assert len(alarm) < 400


@pytest.mark.parametrize("where", ["build_model", "losses", "evaluate"])
@pytest.mark.parametrize("deed", RAISING)
def test_each_trial_of_a_cohort_fails_by_name(deed: str, where: str) -> None:
    configs, heard = cohort_of(("equal", {}), ("uncertainty", {})), Heard()
    in_thread(lambda: (run_cohort(configs, Ends(where, DEEDS[deed]), CPU, heard), 1))
    assert {one.identity for one in configs} == set(heard.results)
    assert {result.status for result in heard.results.values()} == {"failed"}
    assert len(heard.whys) == 1


@pytest.mark.parametrize("deed", RAISING)
def test_an_error_while_testing_for_stacking_is_reported(deed: str) -> None:
    configs = cohort_of(("equal", {}), ("uncertainty", {}))

    def attempt() -> str:
        with pytest.raises(NotStackable) as told:
            check_stackable(Ends("losses", DEEDS[deed]), configs, CPU)
        return str(told.value)

    assert in_thread(attempt).startswith("its training step cannot be vectorised: ")
    found = in_thread(lambda: choose_size(Ends("losses", DEEDS[deed]), configs, CPU, 4, 1))
    assert (found.size, found.why[:21]) == (1, "one at a time, since ")


# --- what is not the user's code


def test_ctrl_c_in_the_main_thread_ends_all() -> None:
    configs = cohort_of(("equal", {}), ("uncertainty", {}))
    with pytest.raises(KeyboardInterrupt):
        run_cohort(configs, Ends("losses", DEEDS["KeyboardInterrupt"]), CPU, Heard())
    with pytest.raises(KeyboardInterrupt):
        check_stackable(Ends("losses", DEEDS["KeyboardInterrupt"]), configs, CPU)
    with pytest.raises(KeyboardInterrupt):
        run_trial(config(test=True), AtTest("train", DEEDS["KeyboardInterrupt"]), lambda _: None, CPU)


CALLBACK_RAISES = [SystemExit(0), KeyboardInterrupt(), StopIteration(), ValueError("of ours"), RuntimeError("of Ray")]


def test_ctrl_c_that_a_framework_has_answered_with_an_exit_ends_all() -> None:
    boundary = Boundary()
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    except SystemExit as error:
        with pytest.raises(KeyboardInterrupt):
            boundary.pass_on(error)
    boundary.pass_on(SystemExit(1))  # of the user's code


@pytest.mark.parametrize("error", CALLBACK_RAISES, ids=lambda error: type(error).__name__)
def test_what_a_callback_raises_goes_through(error: BaseException) -> None:
    """Tune ends a thread by SystemExit out of the callback."""

    def report(_: Any) -> None:
        raise error

    with pytest.raises(type(error)) as told:
        run_trial(config(), Small(), report, CPU)
    assert told.value is error


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("call", ["on_epochs", "on_ended"])
@pytest.mark.parametrize("error", CALLBACK_RAISES, ids=lambda error: type(error).__name__)
def test_what_a_callback_of_a_cohort_raises_goes_through(error: BaseException, call: str, together: bool) -> None:
    class Deaf(Heard):
        calls = 0

    def refuse(*_: Any) -> None:
        Deaf.calls += 1
        raise error

    setattr(Deaf, call, refuse)
    with pytest.raises(type(error)) as told:
        run_cohort(cohort_of(("equal", {}), ("uncertainty", {})), Small(), CPU, Deaf(), together=together)
    assert told.value is error
    assert Deaf.calls == 1


# --- text


def test_an_error_in_one_line_whatever_it_is() -> None:
    class Meta(type):
        @property
        def __name__(cls) -> str:
            raise KeyError

    class NamelessError(Exception, metaclass=Meta):
        pass

    assert one_line(UnspeakableError()) == UNSPEAKABLE
    assert one_line(NamelessError("text")) == "an exception without a name: text"
    assert one_line(ValueError("a\n  b\t c")) == "ValueError: a b c"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("x" * 999), 40) == f"ValueError: {'x' * 25}..."
    assert message(ValueError("\udc80 \x00")) == "\\udc80 \\x00"
    assert with_traceback(UnspeakableError()).startswith(UNSPEAKABLE)


# --- a fork that comes back

FORKS = """
import os, sys
import torch
from tests.helpers.hostile_problems import fork
from tests.helpers.cohorts import Heard, cohort_of
from tests.helpers.small_problem import Small, config
from hpo.core.storage import Storage
from hpo.training.checkpoints import Checkpoints
from hpo.training.cohort import run_cohort
from hpo.training.stacking_check import check_stackable
from hpo.training.trial import run_trial

where, how, storage, cpu = sys.argv[1], sys.argv[2], Storage(sys.argv[3]), torch.device("cpu")
torch.set_num_threads(1)

class Forks(Small):
    calls = 0

    def _fork(self, name):
        Forks.calls += name == where
        if name == where and Forks.calls == 2:
            fork()

    def build_model(self, seed):
        self._fork("again")
        model = super().build_model(seed)
        self._fork("build_model")
        return model

    def loader(self, split, seed):
        return Forking(self, super().loader(split, seed))

    def losses(self, model, batch):
        found = super().losses(model, batch)
        self._fork("losses")
        self._fork_and_raise("raises")
        return found

    def _fork_and_raise(self, name):
        Forks.calls += name == where
        if name == where and Forks.calls == 2:
            parent = os.getpid()
            fork()
            if os.getpid() != parent:
                raise SystemExit("of the child")

    def evaluate(self, model, split):
        found = super().evaluate(model, split)
        self._fork("evaluate")
        return found

class Forking:
    def __init__(self, problem, batches):
        self.problem, self.batches = problem, batches

    def __iter__(self):
        for batch in self.batches:
            self.problem._fork("loader")
            yield batch

class Voice(Heard):
    def on_epochs(self, reports):
        for config, report in reports:
            os.write(1, f"{config.method} {report.epoch}\\n".encode())

    def on_ended(self, config, result):
        os.write(1, f"{config.method} {result.status}\\n".encode())

configs = cohort_of(("equal", {}), ("uncertainty", {}), test=False)
problem = Forks()
checkpoints = [Checkpoints(storage, one.identity, 0.0) for one in configs]
if how == "probe":
    check_stackable(problem, configs, cpu)
else:
    run_cohort(configs, problem, cpu, Voice(), checkpoints, together=how == "together")
os.write(1, b"end\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("build_model", "alone"),
        ("losses", "together"),
        ("losses", "probe"),
        ("loader", "together"),
        ("evaluate", "alone"),
        ("raises", "alone"),
    ],
)
def test_a_forked_child_that_returns_reports_nothing_and_ends(where: str, how: str, tmp_path: Path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(textwrap.dedent(FORKS))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, str(script), where, how, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    expected = [f"{method} {n}" for method in ("equal", "uncertainty") for n in (1, 2, 3, "finished")]
    assert sorted(lines) == sorted(["end", *(expected if how != "probe" else [])])


def test_worker_processes_of_a_loader_are_not_ended() -> None:
    class Workers(Small):
        def loader(self, split: Split, seed: int) -> Any:
            batches = list(super().loader(split, seed))
            return torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1)  # type: ignore[arg-type]

    assert run_trial(config(), Workers(), lambda _: None, CPU).status == "finished"


# --- the command

PROBLEM = """
from tests.helpers.broken_problems import Sound
from tests.helpers.hostile_problems import DEEDS

class Ends(Sound):
    def __init__(self, where: str, deed: str):
        self.where, self.deed = where, deed
        self.end("constructor")

    def end(self, where):
        if where == self.where:
            DEEDS[self.deed]()

    def prepare(self):
        self.end("prepare")

    def data_hash(self):
        self.end("data_hash")
        return "ends"
"""


@pytest.mark.parametrize("where", ["constructor", "prepare", "data_hash"])
@pytest.mark.parametrize("deed", ["SystemExit", "GeneratorExit", "unspeakable", "long", "odd"])
def test_the_command_ends_with_one_line(
    deed: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ends_module.py").write_text(PROBLEM)
    (tmp_path / "study.yaml").write_text(
        f"name: ends\nproblem: {{name: 'ends_module:Ends', where: {where}, deed: {deed}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    code, out, err = main(capsys, "run", "study.yaml")
    assert code == 2
    assert_only_stages(out)
    assert err.startswith("error: problem: 'ends_module:Ends' ")
    assert err.count("\n") == 1
    assert len(err) < 1500
