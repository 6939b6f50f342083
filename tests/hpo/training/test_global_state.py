"""A trial that leaves global state changed affects no other: not in its process, its cohort or its worker."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpo.core.trial import EventKind, TrialConfig, TrialResult, WorkerTask
from hpo.problems.base import Problem, Split
from hpo.training import global_state
from hpo.training.cohort import run_cohort
from hpo.training.cohort_size import choose_size
from hpo.training.global_state import PIECES, GlobalState, as_found
from hpo.training.stacking_check import NotStackable, check_stackable
from hpo.training.trial import run_trial
from hpo.training.worker import train_cohort
from tests.helpers.cohorts import Heard
from tests.helpers.hostile_problems import KEPT, SPOILS, Spoilt, opened, spoil_all
from tests.helpers.small_problem import Small, config

CPU = torch.device("cpu")
METHODS: list[tuple[str, dict[str, Any]]] = [("equal", {}), ("gradnorm", {"recipe": "robust", "alpha": 0.5})]
NOT_HERE = {"number of interop threads", "current GPU", "default tensor type"}  # the first cannot be put back; no GPU


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """Nothing reaches the next test."""
    before = GlobalState()
    yield
    assert before.put_back() == []


class Spoiling(Small):
    """Does something in one of its methods, the first time that it is called."""

    def __init__(self, where: str, deed: Callable[[], object]) -> None:
        super().__init__()
        self.where, self.deed = where, deed

    def _spoil(self, where: str) -> None:
        if where == self.where:
            self.where = ""
            self.deed()

    def build_model(self, seed: int) -> nn.Module:
        model = super().build_model(seed)
        self._spoil("build_model")
        return model

    def losses(self, model: Any, batch: Any) -> Any:
        found = super().losses(model, batch)
        self._spoil("losses")
        return found

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        found = super().evaluate(model, split)
        self._spoil("evaluate")
        return found


def bits(result: TrialResult) -> Any:
    """Return all of a result that does not depend on the clock."""
    numbers = {name: value.tobytes() for name, value in result.trajectory.items()}
    found = vars(result) | {"seconds": 0.0, "trajectory": numbers}
    return repr(found)


def trial(problem: Problem | None = None, trained: TrialConfig | None = None) -> TrialResult:
    return run_trial(trained or config("gradnorm", **METHODS[1][1]), problem or Small(), lambda _: None, CPU)


def cohort(problem: Problem, together: bool = True) -> list[str]:
    configs = [config(method, **settings) for method, settings in METHODS]
    heard = Heard()
    run_cohort(configs, problem, CPU, heard, together=together)
    return [bits(heard.results[one.identity]) for one in configs]


# --- every piece


def test_a_change_of_every_piece_is_detected() -> None:
    assert {piece.name for piece in PIECES} - NOT_HERE == set(SPOILS)
    for name, spoil in SPOILS.items():
        before = GlobalState()
        with torch.inference_mode(False):
            spoil()
            assert name in before.changed()
        assert before.put_back() == []


@pytest.mark.parametrize("where", ["build_model", "losses", "evaluate"])
@pytest.mark.parametrize("name", SPOILS)
def test_a_trial_after_one_that_changes_global_state_is_unaffected(name: str, where: str) -> None:
    before, clean = GlobalState(), bits(trial())
    spoiling = Spoiling(where, SPOILS[name])
    trial(spoiling)
    assert spoiling.where == ""
    assert before.changed() == []
    assert bits(trial()) == clean


@pytest.mark.parametrize("where", ["build_model", "losses", "evaluate"])
def test_a_trial_after_one_that_changes_all_global_state_is_unaffected(where: str) -> None:
    before, clean = GlobalState(), bits(trial())
    trial(Spoiling(where, spoil_all))
    assert before.changed() == []
    assert bits(trial()) == clean


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("where", ["build_model", "losses", "evaluate"])
def test_a_cohort_after_a_trial_that_changes_global_state_is_unaffected(where: str, together: bool) -> None:
    clean = cohort(Small(), together)
    cohort(Spoiling(where, spoil_all), together)
    assert cohort(Small(), together) == clean


def test_of_a_cohort_trained_one_by_one_a_trial_that_spoils_leaves_the_next_alone() -> None:
    clean = cohort(Small(), together=False)
    found = cohort(Spoiling("losses", lambda: torch.set_flush_denormal(True) and torch.set_num_threads(3)), False)
    assert found == clean
    found = cohort(Spoiling("losses", lambda: torch.set_default_dtype(torch.float64)), together=False)
    assert found[1] == clean[1]
    found = cohort(Spoiling("losses", spoil_all), together=False)
    assert found[1] == clean[1]


def test_of_a_cohort_trained_at_once_a_trial_whose_evaluation_spoils_leaves_the_others_alone() -> None:
    assert cohort(Spoiling("evaluate", spoil_all)) == cohort(Small())


@pytest.mark.parametrize("where", ["build_model", "losses"])
def test_the_check_for_stacking_leaves_no_state_behind(where: str) -> None:
    before, clean = GlobalState(), bits(trial())
    configs = [config(method, **settings) for method, settings in METHODS]
    with pytest.raises(NotStackable):
        check_stackable(Spoiling(where, spoil_all), configs, CPU)
    assert before.changed() == []
    assert choose_size(Spoiling(where, spoil_all), configs, CPU, 4, 1).size == 1
    assert before.changed() == []
    assert bits(trial()) == clean


# --- the context


def test_a_trial_trains_whatever_state_it_is_called_in() -> None:
    clean = bits(trial())
    with torch.no_grad():
        assert bits(trial()) == clean
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert bits(trial()) == clean
        assert torch.is_inference_mode_enabled()


def test_what_was_set_before_stays() -> None:
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, inputs: None)
    torch.set_default_dtype(torch.float64)
    os.environ["GRADSWEEP_TEST"] = "1"
    mode = Spoilt()
    with mode, as_found():
        spoil_all()
        os.environ["GRADSWEEP_TEST"] = "2"
    assert torch.get_default_dtype() == torch.float64
    assert os.environ.pop("GRADSWEEP_TEST") == "1"
    assert list(nn.modules.module._global_forward_pre_hooks) == [hook.id]
    hook.remove()


def test_state_that_cannot_be_restored_is_an_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)

    def leave() -> None:
        os.chdir(tmp_path)
        gone.rmdir()

    result = trial(Spoiling("evaluate", leave))
    assert result.status == "finished"
    (alarm,) = result.alarms
    assert alarm.startswith("changed current folder of its process, which cannot be restored: ")
    gone.mkdir()
    os.chdir(gone)
    heard = Heard()
    configs = [config(method, **settings) for method, settings in METHODS]
    run_cohort(configs, Spoiling("evaluate", leave), CPU, heard)
    alarms = [alarm for one in configs for alarm in heard.results[one.identity].alarms]
    assert [alarm.partition(" of its process")[0] for alarm in alarms] == ["changed current folder"]
    os.chdir(tmp_path)


def test_each_piece_can_be_read() -> None:
    readable = {piece.name for piece in PIECES if global_state._read(piece) is not global_state._UNREADABLE}
    assert readable == {piece.name for piece in PIECES}


def test_flushing_of_denormal_numbers_is_detected() -> None:
    assert torch.set_flush_denormal(True)
    assert global_state._flushes_denormal()
    torch.set_flush_denormal(False)
    assert not global_state._flushes_denormal()


# --- a worker

MODULE = """
import numpy as np
import torch
from tests.helpers.problems import Steered

np.seterr(over="raise")
torch.set_num_threads(2)

class Setting(Steered):
    def evaluate(self, model, split):
        with open(f"{self.folder}/found", "a") as file:
            file.write(f"{np.geterr()['over']} {np.geterr()['under']} {torch.get_num_threads()}\\n")
        np.seterr(under="raise")
        torch.set_num_threads(3)
        return super().evaluate(model, split)
"""


def test_what_a_module_sets_when_imported_is_there_in_each_thread_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune trains each cohort in a thread of its own, while a problem's module is imported once."""
    (tmp_path / "setting_module.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.setattr(sys, "path", [*sys.path])
    told: list[Any] = []
    target = "setting_module:Setting"
    for seed in range(2):
        trained = TrialConfig(target, {"folder": str(tmp_path)}, "steered-4", "equal", {}, seed, 1)
        task = WorkerTask(
            identities=[trained.identity],
            cohort=[asdict(trained)],
            until=[1],
            target=target,
            import_paths=[str(tmp_path)],
            cpu=1,
            gpu=0,
            checkpoint_seconds=60.0,
        )
        storage = str(tmp_path / "checkpoints")
        thread = threading.Thread(target=train_cohort, args=(task, storage, told.append))
        thread.start()
        thread.join()
    events = [event for report in told for event in report["events"]]
    results = [event.content for event in events if event.kind is EventKind.RESULT]
    assert [result.status for result in results] == ["finished", "finished"]
    assert (tmp_path / "found").read_text().splitlines() == ["raise ignore 2"] * 2
    assert np.geterr()["over"] == "warn"


def test_contexts_that_are_left_open_may_be_closed_later() -> None:
    clean = bits(trial())
    trial(Spoiling("losses", lambda: opened(torch.inference_mode())))
    KEPT.pop()  # its destructor runs
    assert bits(trial()) == clean
