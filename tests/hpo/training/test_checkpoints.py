"""Interrupted trials continue from their checkpoints bit for bit, whatever has happened to the files."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hpo.training.checkpoints
from balancers.torchjd_methods import installed
from hpo.core.storage import Storage
from hpo.core.trial import EpochReport, EventKind, TrialConfig, TrialResult, WorkerTask
from hpo.problems.base import Problem, Split, Task
from hpo.training.checkpoints import KEPT, MAGIC, MARKER, Checkpoints, mark_shared
from hpo.training.trial import run_trial
from hpo.training.worker import train_cohort
from tests.helpers.loaders import EPOCHS, LOADERS, STEPS, WITH_WORKERS, Noisy

ROOT = Path(__file__).resolve().parents[3]
TASKS = ("near", "far", "tiny")
SCALES = dict(zip(TASKS, (1.0, 10.0, 0.1), strict=True))
EVENTS = STEPS + EPOCHS + 2  # steps, evaluations on val, on test and on train


@pytest.fixture(autouse=True)
def _each_step_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 0)


class Interrupt(KeyboardInterrupt):
    """An exception that ends the process, as far as `run_trial` can tell."""


@dataclass
class Breaks:
    """Interrupts at the so-many-th event of one attempt: a batch, losses, an evaluation."""

    at: float = math.inf
    events: int = 0

    def __call__(self) -> None:
        self.events += 1
        if self.events == self.at:
            raise Interrupt


class Net(nn.Module):
    """Dropout draws from torch's global generator; the norm has buffers, one of which counts the steps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.heads = nn.ModuleDict({task: nn.Linear(width, 1) for task in TASKS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = nn.functional.dropout(self.norm(self.trunk(x)).relu(), 0.2, self.training)
        return {task: head(features).squeeze(1) for task, head in self.heads.items()}

    @property
    def steps(self) -> int:
        assert self.norm.num_batches_tracked is not None
        return int(self.norm.num_batches_tracked)


class Careful(torch.optim.Adam):
    """Leaves a step out whose gradient is not finite."""

    def step(self, closure: Any = None) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            super().step()


class Drawn(Problem):
    """Three regressions that draw from every generator; subclasses go wrong as a function of the network alone."""

    tasks = tuple(Task(name, "MSE") for name in TASKS)
    epochs = EPOCHS
    width = 8

    def __init__(self, loader: str = "own generator", breaks: Breaks | None = None) -> None:
        self.name, self.breaks, self.trained = loader, breaks or Breaks(), 0

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Net(self.width)

    def shared_layer(self, model: Any) -> nn.Module:
        return model.trunk

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return Careful(model.parameters(), lr=0.02)

    def loader(self, split: Split, seed: int) -> Iterable[Any]:
        return (LOADERS | WITH_WORKERS)[self.name]()

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        self.breaks()
        x, y = batch
        if x.dim() == 1:
            x, y = x.expand(2, -1), y.expand(2, -1)
        out = model(x)
        losses = {task: (SCALES[task] * (out[task] - y[:, i])).square().mean() for i, task in enumerate(TASKS)}
        self.trained += 1
        return losses

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        self.breaks()
        data = Noisy({"train": 24, "val": 9, "test": 10}[split])
        out = model(data.x)
        noise = 1e-3 * random.random()
        return {task: noise + float((out[task] - data.y[:, i]).square().mean()) for i, task in enumerate(TASKS)}


class Broken:
    """A loader that can be interrupted, too."""

    def __init__(self, loader: Iterable[Any], breaks: Breaks) -> None:
        self.loader, self.breaks = loader, breaks

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.breaks()
            yield batch


class BrokenLoader(Drawn):
    def loader(self, split: Split, seed: int) -> Iterable[Any]:
        return Broken(super().loader(split, seed), self.breaks)


class Odd(Drawn):
    """Some steps have a gradient that is NaN, of losses that are not."""

    nan = (5, 8, 9)

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        if model.steps in self.nan:
            losses["far"] = losses["far"] + (0 * model.trunk.weight.sum()).sqrt()
        return losses


class InfiniteLoss(Drawn):
    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        return losses | ({"far": losses["far"] * math.inf} if model.steps == 11 else {})


class NanMetric(Drawn):
    def evaluate(self, model: Any, split: Split) -> dict[str, float]:
        return super().evaluate(model, split) | ({"far": math.nan} if model.steps == 8 else {})


class Wider(Drawn):
    width = 9


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {"weights": {"near": 0.5, "far": 0.05, "tiny": 2.45}}),
    "equal": ("equal", {}),
    "single_task": ("single_task", {"task": "far"}),
    "uncertainty": ("uncertainty", {}),
    "frozen loss": ("frozen", {"rule": "loss"}),
    "frozen gradient": ("frozen", {"rule": "gradient"}),
    "paper": ("gradnorm", {"recipe": "paper", "alpha": 1.0}),
    "robust": ("gradnorm", {"recipe": "robust", "alpha": 0.5, "learning_rate": 0.05}),
    "floor": ("gradnorm", {"recipe": "paper", "alpha": 0.5, "learning_rate": 5.0}),
}
OTHERS = ("dwa", "famo", "gradvac", "imtl_l", "nash_mtl", "pcgrad", "random") if installed() else ()
METHODS |= {name: (name, {}) for name in OTHERS}


def config(method: str = "robust", seed: int = 3) -> TrialConfig:
    name, settings = METHODS[method]
    return TrialConfig("drawn", {}, "drawn", name, settings, seed, EPOCHS, test=True)


Make = Callable[[Breaks], Drawn]


@dataclass
class Run:
    """The end of a trial and the number of attempts before it."""

    result: TrialResult
    reports: list[EpochReport]
    interrupted: int = 0
    trained: int = 0
    resumed: list[int] = field(default_factory=list)

    def bits(self) -> tuple[Any, ...]:
        """All of the result but its seconds, and where it went on."""
        arrays = {name: (array.dtype, array.shape, array.tobytes()) for name, array in self.result.trajectory.items()}
        return repr(replace(self.result, seconds=0.0, resumed=[], trajectory={})), arrays

    def epochs(self) -> dict[int, set[str]]:
        """Return the reports of each epoch."""
        told: dict[int, set[str]] = {report.epoch: set() for report in self.reports}
        for report in self.reports:
            told[report.epoch].add(repr(replace(report, seconds=0.0)))
        return told


def attempt(trial: TrialConfig, problem: Problem, checkpoints: Checkpoints | None = None) -> Run:
    reports: list[EpochReport] = []
    return Run(run_trial(trial, problem, reports.append, torch.device("cpu"), checkpoints), reports)


@lru_cache
def undisturbed(kind: type[Drawn] = Drawn, loader: str = "own generator", method: str = "robust") -> Run:
    return attempt(config(method), kind(loader))


def in_pieces(trial: TrialConfig, make: Make, storage: Storage, seed: str, times: int = 5, most: int = 6) -> Run:
    """A trial that is interrupted some times, at random, each time soon enough for the next."""
    draw = random.Random(seed)
    reports: list[EpochReport] = []
    resumed: list[int] = []
    trained = interrupted = 0
    while True:
        problem = make(Breaks(draw.randint(1, most) if interrupted < times else math.inf))
        random.seed(draw.random())  # another process would be anywhere
        checkpoints = Checkpoints(storage, trial.identity, 0.0)
        try:
            result = run_trial(trial, problem, reports.append, torch.device("cpu"), checkpoints, resumed.append)
        except Interrupt:
            interrupted += 1
            continue
        finally:
            trained += problem.trained
        return Run(result, reports, interrupted, trained, resumed)


def interrupted_at(event: int, storage: Storage, trial: TrialConfig, kind: type[Drawn] = Drawn) -> None:
    with pytest.raises(Interrupt):
        attempt(trial, kind(breaks=Breaks(event)), Checkpoints(storage, trial.identity, 0.0))


def files(storage: Storage, trial: TrialConfig) -> list[Path]:
    """The checkpoints of a trial, the newest last."""
    return [Path(storage.address, trial.identity, name) for name in storage.names(trial.identity)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "checkpoints"))


# --- bit for bit


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_trial_ends_as_an_undisturbed_one(method: str, storage: Storage) -> None:
    whole = undisturbed(method=method)
    found = in_pieces(config(method), lambda breaks: Drawn(breaks=breaks), storage, method)
    assert (whole.result.status, whole.result.steps) == ("finished", STEPS)
    assert found.bits() == whole.bits()
    assert found.epochs() == whole.epochs()
    assert found.interrupted > 3
    assert found.trained == STEPS  # it went on each time, from where it was
    assert found.result.resumed[-1] == found.resumed[-1]
    assert set(found.result.resumed) <= set(found.resumed)  # of two from the same checkpoint the first left nothing


@pytest.mark.parametrize("loader", LOADERS)
def test_an_interrupted_trial_ends_as_an_undisturbed_one_whatever_its_loader(loader: str, storage: Storage) -> None:
    whole = undisturbed(loader=loader, method="equal")
    found = in_pieces(config("equal"), lambda breaks: Drawn(loader, breaks), storage, loader, times=4)
    assert whole.result.status == "finished"
    assert found.bits() == whole.bits()
    assert found.epochs() == whole.epochs()
    assert (found.interrupted > 2, found.trained) == (True, whole.result.steps)


@pytest.mark.parametrize("loader", WITH_WORKERS)
def test_an_interrupted_trial_with_worker_processes_ends_as_an_undisturbed_one(loader: str, storage: Storage) -> None:
    whole = undisturbed(loader=loader, method="paper")
    found = in_pieces(config("paper"), lambda breaks: Drawn(loader, breaks), storage, loader, times=3)
    assert (found.bits(), found.epochs()) == (whole.bits(), whole.epochs())
    assert (found.interrupted, found.trained) == (3, STEPS)


@pytest.mark.parametrize("seed", range(4))
def test_a_loader_may_be_interrupted_also_while_batches_are_skipped(seed: int, storage: Storage) -> None:
    whole = undisturbed(BrokenLoader)

    def make(breaks: Breaks) -> Drawn:
        return BrokenLoader(breaks=breaks)

    found = in_pieces(config(), make, storage, str(seed), times=9, most=3 * STEPS)
    assert (found.bits(), found.epochs()) == (whole.bits(), whole.epochs())
    assert found.trained <= STEPS + found.interrupted


@pytest.mark.parametrize("event", range(2, EVENTS + 1))
def test_a_trial_continues_from_every_step_and_every_evaluation(event: int, storage: Storage) -> None:
    interrupted_at(event, storage, config())
    problem = Drawn()
    found = attempt(config(), problem, Checkpoints(storage, config().identity, 0.0))
    assert found.bits() == undisturbed().bits()
    assert found.epochs() == undisturbed().epochs()
    assert problem.trained < STEPS


@pytest.mark.parametrize("kind", [InfiniteLoss, NanMetric])
def test_a_trial_that_diverges_does_so_after_interruptions_too(kind: type[Drawn], storage: Storage) -> None:
    whole = undisturbed(kind)
    assert whole.result.status == "diverged"
    assert whole.result.validation != {}  # of the epoch before
    found = in_pieces(config(), lambda breaks: kind(breaks=breaks), storage, kind.__name__, times=4)
    assert (found.bits(), found.epochs()) == (whole.bits(), whole.epochs())
    assert found.interrupted == 4


def test_seconds_add_up_over_interruptions(storage: Storage) -> None:
    interrupted_at(8, storage, config())
    state = Checkpoints(storage, config().identity, 0.0).latest()
    assert state is not None
    found = attempt(config(), Drawn(), Checkpoints(storage, config().identity, 0.0))
    assert 0 < state["seconds"] < found.result.seconds
    assert state["seconds"] >= found.reports[0].seconds > 0


# --- alarms


@pytest.mark.parametrize("method", ["floor", "paper", "robust"])
def test_alarms_are_the_same_when_checkpoints_were_written_in_between(method: str, storage: Storage) -> None:
    whole = undisturbed(Odd, method=method)
    assert any(alarm.startswith("3 steps had a loss or gradient that is not finite") for alarm in whole.result.alarms)
    assert any("reached its floor" in alarm for alarm in whole.result.alarms) == (method == "floor")
    written = attempt(config(method), Odd(), Checkpoints(storage, config(method).identity, 0.0))
    assert written.result.alarms == whole.result.alarms
    storage.remove("")
    found = in_pieces(config(method), lambda breaks: Odd(breaks=breaks), storage, method)
    assert found.bits() == whole.bits()
    assert (found.interrupted > 3, found.trained) == (True, STEPS)


def test_an_alarm_of_many_steps_appears_once_with_the_last_number(storage: Storage) -> None:
    found = attempt(config(), Odd(), Checkpoints(storage, config().identity, 0.0))
    assert len([alarm for alarm in found.result.alarms if "not finite" in alarm]) == 1


# --- files


@pytest.fixture
def stopped(storage: Storage) -> list[Path]:
    """The files of a trial that was interrupted in its second epoch."""
    interrupted_at(STEPS // 2 + 2, storage, config())
    found = files(storage, config())
    assert len(found) == KEPT
    return found


def resumed(storage: Storage) -> tuple[Run, Drawn]:
    problem = Drawn()
    return attempt(config(), problem, Checkpoints(storage, config().identity, 0.0)), problem


def without_alarms(run: Run) -> tuple[Any, ...]:
    return replace(run, result=replace(run.result, alarms=[])).bits()


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def test_a_whole_file_is_read_as_it_was_written(storage: Storage) -> None:
    checkpoints = Checkpoints(storage, "one", 0.0)
    state = {"tensor": torch.randn(3), "numbers": [1, 2.5, math.nan, None, "text", (1, 2)], "nested": {"a": {}}}
    checkpoints.save(7, state)
    found = Checkpoints(storage, "one", 0.0).latest()
    assert repr(found) == repr(state)
    assert checkpoints.warnings == []
    assert Checkpoints(storage, "two", 0.0).latest() is None


def test_a_file_truncated_anywhere_is_skipped(stopped: list[Path], storage: Storage) -> None:
    before, last = stopped
    content = last.read_bytes()
    expected = int(before.stem)
    places = [0, 1, len(MAGIC) - 1, len(MAGIC), len(MAGIC) + 31, len(MAGIC) + 32, *range(60, len(content), 997)]
    for place in [*places, len(content) - 1]:
        last.write_bytes(content[:place])
        checkpoints = Checkpoints(storage, config().identity, 0.0)
        state = checkpoints.latest()
        assert state is not None
        assert state["steps"] == expected
        (warning,) = checkpoints.warnings
        assert warning.startswith(f"checkpoint {last.name} is damaged and was skipped: ")
        assert "\n" not in warning


def test_a_file_with_one_bit_flipped_anywhere_is_skipped(stopped: list[Path], storage: Storage) -> None:
    before, last = stopped
    content = last.read_bytes()
    for place in [0, len(MAGIC), len(MAGIC) + 31, len(MAGIC) + 32, *range(1, len(content), 997), len(content) - 1]:
        last.write_bytes(flipped(content, place))
        checkpoints = Checkpoints(storage, config().identity, 0.0)
        state = checkpoints.latest()
        assert state is not None
        assert (state["steps"], len(checkpoints.warnings)) == (int(before.stem), 1)
    last.write_bytes(content)
    checkpoints = Checkpoints(storage, config().identity, 0.0)
    assert (checkpoints.latest() or {})["steps"] == int(last.stem)
    assert checkpoints.warnings == []


def sealed(content: bytes) -> bytes:
    """Content that looks like a checkpoint from without."""
    return MAGIC + hashlib.sha256(content).digest() + content


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "torn": lambda content: content[: len(content) // 2],
    "flipped": lambda content: flipped(content, len(content) // 2),
    "garbage": lambda content: random.Random(0).randbytes(5000),
    "sealed garbage": lambda content: sealed(random.Random(0).randbytes(5000)),
    "sealed nothing": lambda content: sealed(b""),
    "no mapping": lambda content: sealed(pickle.dumps([1, 2], protocol=2)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_costs_one_step_and_an_alarm(damage: str, stopped: list[Path], storage: Storage) -> None:
    before, last = stopped
    last.write_bytes(DAMAGE[damage](last.read_bytes()))
    found, problem = resumed(storage)
    assert without_alarms(found) == without_alarms(undisturbed())
    assert found.epochs() == undisturbed().epochs()
    (alarm,) = set(found.result.alarms) - set(undisturbed().result.alarms)
    assert alarm.startswith(f"checkpoint {last.name} is damaged and was skipped: ")
    assert problem.trained == STEPS - int(before.stem)


def test_a_trial_whose_files_are_all_damaged_begins_at_its_first_step(stopped: list[Path], storage: Storage) -> None:
    for file, damage in zip(stopped, ("torn", "garbage"), strict=True):
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    found, problem = resumed(storage)
    assert without_alarms(found) == without_alarms(undisturbed())
    told = [alarm for alarm in found.result.alarms if alarm not in undisturbed().result.alarms]
    assert [alarm.split()[1] for alarm in told] == [file.name for file in reversed(stopped)]
    assert problem.trained == STEPS


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.flag}",)


def zipped(state: Any, path: Path) -> bytes:
    torch.save(state, path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch legacy"])
def test_a_file_never_runs_code(kind: str, stopped: list[Path], storage: Storage, tmp_path: Path) -> None:
    before, last = stopped
    flag, scratch = tmp_path / "run", tmp_path / "evil"
    if kind == "pickle":
        content = pickle.dumps({"steps": Evil(flag)}, protocol=2)
    else:
        torch.save({"steps": Evil(flag)}, scratch, _use_new_zipfile_serialization=kind == "torch")
        content = scratch.read_bytes()
        with suppress(Exception):
            torch.load(scratch, weights_only=False)
        assert flag.exists()  # so it would
        flag.unlink()
    last.write_bytes(sealed(content))
    checkpoints = Checkpoints(storage, config().identity, 0.0)
    assert (checkpoints.latest() or {})["steps"] == int(before.stem)
    assert len(checkpoints.warnings) == 1
    found, _ = resumed(storage)
    assert without_alarms(found) == without_alarms(undisturbed())
    assert not flag.exists()


def test_a_checkpoint_of_another_network_is_an_alarm_and_a_right_result(storage: Storage) -> None:
    interrupted_at(STEPS // 2 + 2, storage, config(), Wider)
    found, problem = resumed(storage)
    (alarm,) = set(found.result.alarms) - set(undisturbed().result.alarms)
    assert alarm.startswith("began at the first step, since its checkpoint does not fit: RuntimeError: ")
    assert "\n" not in alarm
    assert without_alarms(found) == without_alarms(undisturbed())
    assert found.epochs() == undisturbed().epochs()
    assert problem.trained == STEPS


@pytest.mark.parametrize("damage", ["another network", "garbage"])
def test_unusable_checkpoints_do_not_prevent_new_ones(damage: str, storage: Storage) -> None:
    interrupted_at(STEPS // 2 + 4, storage, config(), Wider)
    if damage == "garbage":
        for file in files(storage, config()):
            file.write_bytes(DAMAGE["garbage"](b""))
    interrupted_at(4, storage, config())
    found, problem = resumed(storage)
    assert found.bits() == undisturbed().bits()
    assert problem.trained == STEPS - 3


def test_a_state_that_lacks_a_part_does_not_fit(stopped: list[Path], storage: Storage) -> None:
    for file in stopped:
        file.write_bytes(sealed(zipped({"steps": 3}, file)))
    found, _ = resumed(storage)
    assert without_alarms(found) == without_alarms(undisturbed())
    assert any("does not fit: KeyError: 'model'" in alarm for alarm in found.result.alarms)


def test_two_files_are_kept_and_none_is_written_before_it_is_due(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(config(), Drawn(), Checkpoints(storage, "often", 0.0))
    assert storage.names("often") == [f"{step:012d}.ckpt" for step in (STEPS - 1, STEPS)]
    attempt(config(), Drawn(), Checkpoints(storage, "seldom", 3600.0))
    assert storage.names("seldom") == []
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 10**9)
    attempt(config(), Drawn(), Checkpoints(storage, "dear", 0.0))
    assert storage.names("dear") == [f"{1:012d}.ckpt"]


# --- storage that fails


def test_a_storage_that_cannot_be_written_costs_an_alarm(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    storage = Storage(str(tmp_path / "file" / "folder"))
    mark_shared(storage)
    found = attempt(config(), Drawn(), Checkpoints(storage, config().identity, 0.0))
    assert without_alarms(found) == without_alarms(undisturbed())
    told = [alarm for alarm in found.result.alarms if alarm not in undisturbed().result.alarms]
    assert [alarm.partition(", since ")[0] for alarm in told] == ["began at the first step", "no more checkpoints"]
    assert all(str(storage) in alarm for alarm in told)


class Unwritable(Drawn):
    """Its optimizer holds what no pickle takes."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = super().build_optimizer(model)
        optimizer.param_groups[0]["schedule"] = lambda step: 1.0
        return optimizer


def test_a_state_that_torch_cannot_write_costs_an_alarm(storage: Storage) -> None:
    found = attempt(config(), Unwritable(), Checkpoints(storage, config().identity, 0.0))
    assert without_alarms(found) == without_alarms(undisturbed())
    (alarm,) = set(found.result.alarms) - set(undisturbed().result.alarms)
    assert alarm.startswith("no more checkpoints, since one could not be written to ")


# --- a worker

TARGET = "tests.helpers.problems:Steered"


def cohort(folder: Path, storage: Storage, *seeds: int, data_hash: str = "steered-4") -> list[dict[str, Any]]:
    """Return a worker's reports of these trials."""
    trials = [TrialConfig(TARGET, {"folder": str(folder)}, data_hash, "equal", {}, seed, 2) for seed in seeds]
    told: list[dict[str, Any]] = []
    task = WorkerTask(
        identities=[trial.identity for trial in trials],
        cohort=[asdict(trial) for trial in trials],
        until=[trial.epochs for trial in trials],
        target=TARGET,
        import_paths=[],
        cpu=1,
        gpu=0,
        checkpoint_seconds=0.0,
    )
    train_cohort(task, storage.address, told.append)
    events = [event for report in told for event in report["events"]]
    assert {event.identity for event in events if event.identity} == set(task.identities)
    return [event.content for event in events if event.kind is EventKind.RESULT]


def test_a_worker_reports_whether_its_node_shares_the_storage(tmp_path: Path, storage: Storage) -> None:
    (result,) = cohort(tmp_path, storage, 1)
    (alarm,) = result.alarms
    assert alarm.startswith(f"its node does not share {storage} with the driver, ")
    mark_shared(storage)
    assert storage.names("")[-1] == MARKER
    (result,) = cohort(tmp_path, storage, 2)
    assert (result.status, result.alarms) == ("finished", [])


def test_a_finished_trial_keeps_its_checkpoints_for_the_driver_and_a_failed_one_does_not(
    tmp_path: Path, storage: Storage
) -> None:
    (tmp_path / "steer.json").write_text('{"fail": [2]}')
    mark_shared(storage)
    first, second, third = cohort(tmp_path, storage, 1, 2, 3)
    assert [one.status for one in (first, second, third)] == ["finished", "failed", "finished"]
    assert len([name for name in storage.names("") if name != MARKER]) == 2
    hpo.training.checkpoints.remove(storage, "")
    assert storage.names("") == []
    hpo.training.checkpoints.remove(storage, "")


def test_a_trial_that_was_interrupted_after_its_last_step_is_only_evaluated_by_the_next_worker(
    tmp_path: Path, storage: Storage
) -> None:
    mark_shared(storage)
    (one,) = cohort(tmp_path, storage, 1)
    (again,) = cohort(tmp_path, storage, 1)
    assert len((tmp_path / "devices").read_text().split()) == 2 + 1  # evaluations
    for name in ("validation", "averages", "initial_losses", "steps", "alarms"):
        assert repr(getattr(again, name)) == repr(getattr(one, name))


def test_a_node_with_other_data_fails_the_trial(tmp_path: Path, storage: Storage) -> None:
    (result,) = cohort(tmp_path, storage, 1, data_hash="another")
    assert result.status == "failed"
    first, _, trace = result.error.partition("\n\n")
    assert first == "RuntimeError: the data of this node have hash steered-4, the study's have another"
    assert trace.startswith("Traceback")


PREPARE = """
import logging, sys, time
from pathlib import Path
from hpo.problems import Problem
from hpo.problems.data_cache import prepare_once

me, lines = sys.argv[1], Path(sys.argv[2])

def write(text):
    with lines.open("a") as file:
        file.write(f"{text} {me}\\n")

class Waiting(logging.Handler):
    def emit(self, record):
        if "waiting" in record.getMessage():
            write("waits")

class Slow(Problem):
    build_model = shared_layer = loader = losses = evaluate = None

    def __init__(self):
        pass

    def prepare(self):
        write("begin")
        deadline = time.monotonic() + 240
        while {line.split()[1] for line in lines.read_text().splitlines()} == {me} and time.monotonic() < deadline:
            time.sleep(0.01)  # until the other waits for us, or begins
        write("end")

logging.getLogger("filelock").setLevel(logging.DEBUG)
logging.getLogger("filelock").addHandler(Waiting())
prepare_once(Slow())
"""


def test_two_processes_prepare_a_problem_one_after_the_other(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PREPARE]
    both = [subprocess.Popen([*command, name, str(lines)], cwd=ROOT, env=environment) for name in ("one", "two")]
    assert [process.wait(600) for process in both] == [0, 0]
    told = [line.split() for line in lines.read_text().splitlines()]
    order = [what for what, _ in told if what != "waits"]
    assert order == ["begin", "end", "begin", "end"], told
    assert {name for _, name in told} == {"one", "two"}
    first, second = told[0][1], told[-1][1]
    assert ["waits", second] in told[1 : told.index(["end", first])], told
