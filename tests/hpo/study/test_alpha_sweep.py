"""The alpha sweep: what it asks, what it tells Optuna, and that neither order nor a killed driver changes it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from hpo.core.errors import OutputError
from hpo.study.alpha_sweep import AlphaSweep, Parameters, optuna_storage
from search_spaces import AlphaSpace
from tests.helpers.runs import no_file_beyond

SPACE = AlphaSpace(0.0, 3.0)
WITH_RATE = AlphaSpace(0.0, 3.0, learning_rate=(0.001, 0.1))
STARTS = [0.0, 0.5, 1.5]


def identify(parameters: Parameters) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in parameters.items())


def sweep(
    storage: BaseStorage | None = None,
    trials: int = 6,
    seed: int = 0,
    finished: Mapping[str, Parameters] | None = None,
    space: AlphaSpace = SPACE,
) -> AlphaSweep:
    return AlphaSweep(space, trials, seed, identify, storage, "sweep", finished)


def asked(found: AlphaSweep, count: int = 1000) -> list[float]:
    """Ask at most so many times, until there is nothing more to ask or a score is missing."""
    alphas: list[float] = []
    while len(alphas) < count and (parameters := found.ask()) is not None:
        alphas.append(parameters["alpha"])
    return alphas


def objective(alpha: float) -> float:
    return (alpha - 0.7) ** 2


def tell(found: AlphaSweep, *alphas: float) -> None:
    for alpha in alphas:
        found.tell(identify({"alpha": alpha}), objective(alpha))


def driven(found: AlphaSweep) -> list[float]:
    """Ask for all there is and tell each score before the next trial."""
    alphas: list[float] = []
    while found.remaining:
        (alpha,) = asked(found, 1)
        tell(found, alpha)
        alphas.append(alpha)
    return alphas


def optuna_trials(storage: BaseStorage) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="sweep", storage=storage).get_trials()


def states(storage: BaseStorage) -> Counter[TrialState]:
    return Counter(trial.state for trial in optuna_trials(storage))


@pytest.mark.parametrize("trials", [1, 2, 3, 8])
def test_asks_the_starting_points_first_and_exactly_its_trials(trials: int) -> None:
    found = sweep(trials=trials)
    assert found.remaining == trials
    alphas = driven(found)
    assert len(alphas) == trials
    assert alphas[:3] == STARTS[:trials]
    assert all(0 <= alpha <= 3 for alpha in alphas)
    assert (found.remaining, found.ask()) == (0, None)


def test_searches_the_learning_rate_too() -> None:
    found = sweep(space=AlphaSpace(0.0, 1.0, learning_rate=(0.01, 0.1)), trials=9)
    first = found.ask()
    assert first == {"alpha": 0.0, "learning_rate": 0.025}
    found.tell(identify(first), 1.0)
    rates = []
    while (parameters := found.ask()) is not None:
        rates.append(parameters["learning_rate"])
        found.tell(identify(parameters), parameters["learning_rate"])
    assert len(rates) == 8
    assert all(0.01 <= rate <= 0.1 for rate in rates)


def test_learns_from_scores() -> None:
    near = 0
    for seed in range(8):
        alphas = driven(sweep(trials=30, seed=100 * seed))
        near += sum(abs(alpha - 0.7) < 0.5 for alpha in alphas[15:])
    assert near > 60  # of 120, in a third of the range: blind search finds 40 +- 5


@pytest.mark.parametrize(("trials", "at_once"), [(3, 2), (8, 2), (9, 3), (14, 4)])
def test_asks_for_no_more_trials_at_once_than_can_learn_from_those_before(trials: int, at_once: int) -> None:
    found = sweep(trials=trials)
    assert found.lag == at_once
    alphas = asked(found)
    assert len(alphas) == max(3, at_once)  # a starting point has nothing to learn
    while found.remaining:
        asked_now = len(alphas)
        tell(found, *alphas[asked_now - at_once + 1 :])  # of all but the first of those that run
        assert found.ask() is None
        tell(found, *alphas)
        alphas += asked(found)
        assert len(alphas) - asked_now == min(at_once, trials - asked_now)


def test_tells_optuna_the_truth_when_its_turn_has_come() -> None:
    storage = InMemoryStorage()
    found = sweep(storage, trials=4)
    assert asked(found) == STARTS
    found.tell(identify({"alpha": 0.5}), None)
    assert found.ask() is None
    assert states(storage) == {TrialState.RUNNING: 3}
    found.tell(identify({"alpha": 0.0}), -3.5)
    found.tell(identify({"alpha": 0.0}), 99.0)  # told twice: the first stays
    found.tell(identify({"alpha": 1.5}), 2.0)
    (last,) = asked(found)
    trials = optuna_trials(storage)
    assert [trial.state for trial in trials[:2]] == [TrialState.COMPLETE, TrialState.FAIL]
    assert [trial.state for trial in trials[2:]] == [TrialState.RUNNING] * 2  # it asked without the third score
    assert (trials[0].value, trials[1].value) == (-3.5, None)
    assert [trial.user_attrs["identity"] for trial in trials[:2]] == ["alpha=0", "alpha=0.5"]
    tell(found, last)
    assert [trial.value for trial in optuna_trials(storage)[2:]] == [2.0, objective(last)]
    found.tell(identify({"alpha": 0.0}), 99.0)
    assert optuna_trials(storage)[0].value == -3.5


def test_what_can_be_known_is_told_at_once_when_nothing_remains_to_be_asked() -> None:
    storage = InMemoryStorage()
    found = sweep(storage, trials=3)
    asked(found)
    tell(found, 1.5)
    assert states(storage) == {TrialState.RUNNING: 2, TrialState.COMPLETE: 1}


def test_two_of_optuna_s_trials_with_one_identity_are_told_together() -> None:
    storage = InMemoryStorage()
    found = sweep(storage, trials=3, space=AlphaSpace(1.0, 1.0))
    assert asked(found) == [1.0, 1.0]
    found.tell("alpha=1", 2.0)
    assert asked(found) == [1.0]
    found.tell("alpha=1", 2.0)
    assert [(trial.state, trial.value) for trial in optuna_trials(storage)] == [(TrialState.COMPLETE, 2.0)] * 3


def finished(*alphas: float) -> dict[str, Parameters]:
    return {identify({"alpha": alpha}): {"alpha": alpha} for alpha in alphas}


def test_a_killed_driver_asks_its_running_trials_again(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    before = sweep(optuna_storage(file))
    alphas = asked(before)
    tell(before, *alphas[:2])
    alphas += asked(before, 1)
    del before

    after = sweep(optuna_storage(file), finished=finished(*alphas[:2]))
    assert after.remaining == 4
    tell(after, *alphas[:2])
    again = driven(after)
    assert again[:2] == alphas[2:]
    assert len(again) == 4
    assert not set(again[2:]) & set(alphas)
    assert states(optuna_storage(file)) == {TrialState.COMPLETE: 6}


def test_a_sweep_that_has_asked_all_only_asks_again_what_was_running(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    alphas = driven(sweep(optuna_storage(file), trials=4))
    after = sweep(optuna_storage(file), trials=4, finished=finished(*alphas[:3]))
    assert asked(after) == alphas[3:]
    assert asked(sweep(optuna_storage(file), trials=4, finished=finished(*alphas))) == []


def test_a_result_that_mlflow_lost_runs_again(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    driven(sweep(optuna_storage(file), trials=3))
    after = sweep(optuna_storage(file), trials=3, finished=finished(0.0, 1.5))
    assert asked(after) == [0.5]
    tell(after, 0.5)
    assert states(optuna_storage(file)) == {TrialState.COMPLETE: 3}


def test_results_that_the_journal_lost_are_added_and_not_asked_again() -> None:
    storage = InMemoryStorage()
    found = sweep(storage, trials=6, finished=finished(2.25, 0.5, 0.0))
    assert asked(found) == [1.5]  # the one starting point without a result; what follows needs the lost scores
    tell(found, 1.5, 0.5, 0.0)
    assert found.ask() is None
    found.tell("alpha=2.25", None)  # it has diverged
    rest = driven(found)
    assert len(rest) == 2
    assert not {0.0, 0.5, 1.5, 2.25} & set(rest)
    assert [(t.params["alpha"], t.state) for t in optuna_trials(storage)[1:4]] == [
        (0.0, TrialState.COMPLETE),
        (0.5, TrialState.COMPLETE),
        (2.25, TrialState.FAIL),
    ]


def test_results_that_the_journal_lost_are_added_once(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    for _ in range(2):
        found = sweep(optuna_storage(file), trials=3, finished=finished(*STARTS))
        tell(found, 1.5, 0.0)
        found.tell("alpha=0.5", None)
        assert found.ask() is None
    assert states(optuna_storage(file)) == {TrialState.COMPLETE: 2, TrialState.FAIL: 1}
    assert asked(sweep(optuna_storage(file), trials=3, finished=finished(0.0, 1.5))) == [
        0.5
    ]  # MLflow has lost it too


def test_a_trial_with_a_result_that_the_driver_could_not_tell(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    asked(sweep(optuna_storage(file), trials=3))
    after = sweep(optuna_storage(file), trials=3, finished=finished(*STARTS))
    assert asked(after) == []
    tell(after, *STARTS)
    assert [trial.value for trial in optuna_trials(optuna_storage(file))] == [objective(alpha) for alpha in STARTS]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_driver_killed_while_it_asked_loses_no_trial(tmp_path: Path, count: int) -> None:
    file = tmp_path / "journal"
    asked(sweep(optuna_storage(file), trials=5), count)
    lines = file.read_text().splitlines(keepends=True)
    kept = max(n for n, line in enumerate(lines) if "param_name" in line)
    file.write_text("".join(lines[:kept]))  # the last trial has been taken and has no parameters

    after = sweep(optuna_storage(file), trials=5)
    alphas = asked(after)
    assert alphas == STARTS
    tell(after, *alphas)
    assert len(driven(after)) == 2
    assert states(optuna_storage(file)) == {TrialState.FAIL: 1, TrialState.COMPLETE: 5}


def test_a_trial_that_failed_runs_again_and_its_score_counts(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    before = sweep(optuna_storage(file), trials=5)
    asked(before)
    tell(before, 0.0, 1.5)
    before.tell("alpha=0.5", None)  # its worker died
    (fourth,) = asked(before, 1)
    assert states(optuna_storage(file))[TrialState.FAIL] == 1

    after = sweep(optuna_storage(file), trials=5, finished=finished(0.0, 1.5))
    tell(after, 0.0, 1.5)
    assert asked(after) == [0.5, fourth]
    tell(after, fourth)
    assert after.ask() is None  # it waits for what runs again as it did for the first time
    tell(after, 0.5)
    again = [0.5, fourth, *driven(after)]
    assert len(again) == 3
    values = [
        (t.params["alpha"], t.value) for t in optuna_trials(optuna_storage(file)) if t.state == TrialState.COMPLETE
    ]
    assert sorted(values) == sorted((alpha, objective(alpha)) for alpha in (0.0, 1.5, *again))
    whole = sweep(optuna_storage(file), trials=5, finished=finished(0.0, 1.5, *again))
    tell(whole, 0.0, 1.5, *again)
    assert whole.remaining == 0
    assert states(optuna_storage(file)) == {TrialState.COMPLETE: 5, TrialState.FAIL: 1}
    assert asked(sweep(optuna_storage(file), trials=5, finished=finished(0.0, 1.5, *again[1:]))) == [0.5]  # once more


def test_a_score_that_only_a_later_launch_can_know_counts(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    before = sweep(optuna_storage(file), trials=3)
    for alpha in asked(before):
        before.tell(identify({"alpha": alpha}), None)  # a single-task reference has failed
    for _ in range(2):
        after = sweep(optuna_storage(file), trials=3, finished=finished(*STARTS))
        assert asked(after) == []
        tell(after, 1.5, 0.0)  # the reference has run again
        after.tell("alpha=0.5", None)
        known = [t.params["alpha"] for t in optuna_trials(optuna_storage(file)) if t.state == TrialState.COMPLETE]
        assert sorted(known) == [0.0, 1.5]
        assert states(optuna_storage(file))[TrialState.FAIL] == 3


def test_a_lock_that_a_killed_driver_left_does_not_block(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    asked(sweep(optuna_storage(file)), 1)
    Path(f"{file}.lock").touch()
    assert asked(sweep(optuna_storage(file)), 1) == [0.0]


def test_another_seed_makes_other_suggestions() -> None:
    one, same, other = (driven(sweep(trials=9, seed=seed)) for seed in (0, 0, 1))
    assert one == same
    assert len(set(one)) == 9
    assert one[:3] == other[:3]
    assert all(mine != its for mine, its in zip(one[3:], other[3:], strict=True))


def test_more_trials_than_in_the_launch_before(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    alphas = driven(sweep(optuna_storage(file), trials=2))
    after = sweep(optuna_storage(file), trials=5, finished=finished(*alphas))
    tell(after, *alphas)
    more = driven(after)
    assert len(more) == 3
    assert more[0] == 1.5
    assert states(optuna_storage(file)) == {TrialState.COMPLETE: 5}


TRIALS = 14  # the last of them by TPE's model, which wants five scores
Score = Callable[[Parameters], float | None]
Held = list[tuple[dict[str, float], TrialState, float | None]]


def near(best: float) -> Score:
    """Scores that are lowest there; a trial far off diverges."""

    def score(parameters: Parameters) -> float | None:
        off = parameters["alpha"] - best
        return off**2 + parameters.get("learning_rate", 0.0) if off < 1.6 else None

    return score


class Driver:
    """Drives a sweep as a launch does, each step by chance: ask, end a trial, tell a score, be killed.

    Args:
        file: Optuna's journal.
        space: what to search.
        score: of a trial.
        chance: decides.
        kills: how often at most.
        results: trials that an earlier launch has finished.
    """

    def __init__(
        self,
        file: Path,
        space: AlphaSpace,
        score: Score,
        chance: random.Random,
        kills: int = 0,
        results: Mapping[str, Parameters] | None = None,
    ) -> None:
        self.file, self.space, self.score, self.chance, self.kills = file, space, score, chance, kills
        self.results = dict(results or {})
        self.launch()

    def launch(self) -> None:
        known = list(self.results.items())
        self.chance.shuffle(known)
        self.found = sweep(optuna_storage(self.file), TRIALS, finished=dict(known), space=self.space)
        self.running: list[Parameters] = []
        self.untold = [identity for identity, _ in known]

    def run(self) -> Held:
        """Until all have ended and been told; what Optuna then holds."""
        while self.found.remaining or self.running or self.untold:
            before = len(self.lines())
            self.chance.choice([self.ask, self.end, self.tell])()
            if self.kills and self.chance.random() < 0.06:
                self.kills -= 1
                lines = self.lines()
                self.file.write_text("".join(lines[: self.chance.randint(before, len(lines))]))
                self.launch()
        return held(self.file)

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines(keepends=True)

    def ask(self) -> None:
        parameters = self.found.ask()
        if parameters is not None:
            self.running.append(parameters)
            assert len(self.running) <= max(self.found.lag, 3)
        else:
            assert self.running or self.untold or not self.found.remaining, "it waits for nothing"

    def end(self) -> None:
        if self.running:
            parameters = self.running.pop(self.chance.randrange(len(self.running)))
            short = {name: float(f"{value:.4g}") for name, value in parameters.items()}  # as MLflow knows it
            self.results[identify(parameters)] = short
            self.untold.append(identify(parameters))

    def tell(self) -> None:
        if self.untold:
            identity = self.untold.pop(self.chance.randrange(len(self.untold)))
            self.found.tell(identity, self.score(self.results[identity]))


def held(file: Path) -> Held:
    """Parameters and value of Optuna's trials by number, but for those whose driver was killed while it asked."""
    trials = optuna_trials(optuna_storage(file))
    whole = max(len(trial.params) for trial in trials)
    return [(trial.params, trial.state, trial.value) for trial in trials if len(trial.params) == whole]


def in_strict_order(file: Path, space: AlphaSpace, score: Score, trials: int = TRIALS) -> dict[str, Parameters]:
    """One trial after the other; the results by identity."""
    found = sweep(optuna_storage(file), TRIALS, space=space)
    results: dict[str, Parameters] = {}
    while len(results) < trials and (parameters := found.ask()) is not None:
        results[identify(parameters)] = {name: float(f"{value:.4g}") for name, value in parameters.items()}
        found.tell(identify(parameters), score(results[identify(parameters)]))
    return results


def test_what_optuna_proposes_depends_on_scores(tmp_path: Path) -> None:
    found = []
    for best in (0.7, 2.4):
        in_strict_order(tmp_path / f"{best}", SPACE, near(best))
        found.append([parameters["alpha"] for parameters, _, _ in held(tmp_path / f"{best}")])
    one, other = found
    assert len(one) == len(other) == TRIALS
    assert one[:5] == other[:5]
    assert sum(mine != its for mine, its in zip(one, other, strict=True)) >= 4


@dataclass
class Strict:
    """A sweep whose trials came one after the other: its results by identity, its journal, what Optuna then holds."""

    space: AlphaSpace
    results: dict[str, Parameters]
    journal: str
    held: Held


@pytest.fixture(scope="module", params=[SPACE, WITH_RATE], ids=["alpha", "with rate"])
def strict(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Strict:
    file = tmp_path_factory.mktemp("strict") / "journal"
    results = in_strict_order(file, request.param, near(0.7))
    return Strict(request.param, results, file.read_text(), held(file))


FEW = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FEW
@given(seed=st.integers(0, 10**6), kills=st.sampled_from([0, 3, 20]))
def test_neither_the_order_of_results_nor_kills_change_what_optuna_proposes(
    tmp_path_factory: pytest.TempPathFactory, strict: Strict, seed: int, kills: int
) -> None:
    assert len(strict.held) == TRIALS
    assert {state for _, state, _ in strict.held} == {TrialState.COMPLETE, TrialState.FAIL}
    file = tmp_path_factory.mktemp("sweep") / "disturbed"
    assert Driver(file, strict.space, near(0.7), random.Random(seed), kills).run() == strict.held


def test_a_driver_killed_between_any_two_writes_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, strict: Strict
) -> None:
    lines = strict.journal.splitlines(keepends=True)
    for kept in range(0, len(lines), 3):  # with another remainder in each sweep's trial
        file = tmp_path / f"{kept}"
        file.write_text("".join(lines[:kept]))
        begun = {identify(trial.params) for trial in optuna_trials(optuna_storage(file))} if kept > 1 else set()
        known = {identity: strict.results[identity] for identity in [*strict.results][: max(0, len(begun) - 1)]}
        Driver(file, strict.space, near(0.7), random.Random(kept), results=known).run()
        assert held(file) == strict.held


@dataclass
class Lost:
    """A sweep of which two trials failed, or the journal is gone: what is left, and how it ends undisturbed."""

    score: Score
    journal: str
    known: dict[str, Parameters]
    end: Held


@pytest.fixture(scope="module", params=["failed", "journal"])
def lost(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lost:
    score = near(1.4)  # best is a starting point that MLflow has lost
    file = tmp_path_factory.mktemp("lost") / "journal"
    first = in_strict_order(file, SPACE, score, trials=9)
    file.unlink()
    if request.param == "failed":  # two of the trials, which run again
        failed = {"alpha=0.5", [*first][6]}
        in_strict_order(file, SPACE, lambda p: None if identify(p) in failed else score(p), trials=9)
        known = {identity: parameters for identity, parameters in first.items() if identity not in failed}
    else:
        file.touch()
        known = {identity: parameters for identity, parameters in first.items() if identity != "alpha=1.5"}
    journal = file.read_text()
    return Lost(score, journal, known, Driver(file, SPACE, score, random.Random(0), results=known).run())


@FEW
@given(seed=st.integers(0, 10**6))
def test_after_failures_or_a_lost_journal_order_and_kills_change_nothing_either(
    tmp_path_factory: pytest.TempPathFactory, lost: Lost, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    for name, chance, kills in (("other", seed, 0), ("killed", seed, 10), ("again", seed + 1, 10)):
        (folder / name).write_text(lost.journal)
        found = Driver(folder / name, SPACE, lost.score, random.Random(chance), kills, lost.known).run()
        assert found == lost.end
    scored = {identify(parameters) for parameters, state, _ in lost.end if state == TrialState.COMPLETE}
    assert scored >= {"alpha=0", "alpha=0.5", "alpha=1.5"}


def test_half_a_line_in_the_journal_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    alphas = driven(sweep(optuna_storage(file), trials=4))
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[-1][:9])
    after = sweep(optuna_storage(file), trials=6, finished=finished(*alphas))
    tell(after, *alphas)
    assert len(asked(after, 1)) == 1
    assert len(optuna_trials(optuna_storage(file))) == 5  # what came after can be read


def test_a_journal_that_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    found = sweep(optuna_storage(file), trials=4)
    asked(found, 1)
    told = pytest.raises(OutputError, match=r"^--output: .* cannot be written: File too large$")
    with no_file_beyond(file.stat().st_size), told:
        found.ask()
