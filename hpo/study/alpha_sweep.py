"""The alpha sweep of one recipe: an Optuna study that survives its driver."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from hpo.core.errors import OutputError
from search_spaces import AlphaSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)

Parameters = Mapping[str, float]
RERUN = "again"  # marks a trial of Optuna's that repeats one that failed in an earlier launch
ADDED = "added"  # marks a trial of Optuna's that stands for a result that Optuna did not know
_ASKED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL)


def optuna_storage(path: Path) -> BaseStorage:
    """Optuna's storage in one file, which ``optuna-dashboard`` reads.

    The caller holds the study's lock, so that a lock on the journal that a killed driver left can be taken away.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n"):  # a kill or a full disk left half a line, to which Optuna would add
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


@contextmanager
def _writing() -> Iterator[None]:
    """Say in our words that Optuna's file cannot be written."""
    try:
        yield
    except OSError as error:
        where = error.filename or "the history of the alpha sweep"
        raise OutputError(f"--output: {where} cannot be written: {error.strerror}") from None


class AlphaSweep:
    """Asks Optuna for parameters and tells it the truth: COMPLETE with a score, FAIL without one.

    Optuna only advises: which trials have finished, MLflow knows. A trial that Optuna holds for running or complete
    and that has no result is asked again with the same parameters; a result that Optuna does not know is added.

    What the sampler proposes does not depend on which trial was faster, or on when a driver was killed: the k-th
    trial is asked for once the scores of all but the `lag` - 1 trials before it are there, and with just these told.

    Args:
        space: what to search.
        trials: how many runs.
        seed: of the sampler.
        identify: the identity of the trial that runs with these parameters.
        storage: Optuna's; ``None`` keeps it in memory.
        name: Optuna's study name, one a sweep: two sweeps of one name would share their history.
        finished: for each trial of the sweep that has a result its identity and parameters.
    """

    def __init__(
        self,
        space: AlphaSpace,
        trials: int,
        seed: int,
        identify: Callable[[Parameters], str],
        storage: BaseStorage | None = None,
        name: str = "sweep",
        finished: Mapping[str, Parameters] | None = None,
    ) -> None:
        self.space, self.trials, self.seed = space, trials, seed
        self._identify = identify
        self._parameters = dict(finished or {})
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)  # two of Optuna's trials may be one of ours
        self._again: deque[Parameters] = deque()
        self._asked = 0
        self.lag = max(2, trials // 3)  # trials at once; more would learn less from those before
        self._order: list[str] = []  # identities of what was asked, by Optuna's number
        self._added: list[str] = []  # identities of what Optuna did not know
        self._untold: set[str] = set()  # identities without a trial of Optuna's that can take a score
        self._scores: dict[str, float | None] = {}
        self._told: set[int] = set()  # Optuna's numbers
        self._study = optuna.create_study(
            study_name=name, storage=storage or InMemoryStorage(), sampler=space.sampler(seed), load_if_exists=True
        )
        self._distributions = _distributions(space)
        for trial in self._study.get_trials(deepcopy=False):
            self._take_up(trial)
        lost = [identity for identity in self._parameters if identity not in self._numbers]
        self._asked += len(lost)
        self._added += sorted(lost, key=lambda identity: sorted(self._parameters[identity].items()))
        self._untold.update(lost)

    @property
    def remaining(self) -> int:
        """How many times `ask` still has an answer."""
        return max(len(self._again), self.trials - self._asked)

    @_writing()
    def ask(self) -> Parameters | None:
        """Parameters to run with; ``None`` while scores are missing, or when all trials have been asked for.

        Raises:
            OutputError: Optuna's file cannot be written.
        """
        if self._again:
            self._asked += 1
            parameters = self._again.popleft()
            self._parameters[self._identify(parameters)] = parameters
            return parameters
        if not self.remaining:
            return None
        if (start := self._start()) is None:  # a starting point needs no scores
            due = self._added + self._order[: max(0, len(self._order) - self.lag + 1)]
            if not all(identity in self._scores for identity in due):
                return None
            self._pass_on(due)
        elif start not in self._waiting():
            self._study.enqueue_trial(start)  # not before its turn: what is asked again keeps its place
        self._asked += 1
        self._study.sampler = self.space.sampler(self.seed + self._asked)  # the same, resumed or not
        trial = self._study.ask()
        parameters = self.space.suggest(trial)
        identity = self._identify(parameters)
        trial.set_user_attr("identity", identity)
        self._numbers[identity].append(trial.number)
        self._order.append(identity)
        self._parameters[identity] = parameters
        return parameters

    @_writing()
    def tell(self, identity: str, score: float | None) -> None:
        """The score of a trial, lower is better; ``None`` if it has none. Optuna learns it when its turn has come.

        Raises:
            OutputError: Optuna's file cannot be written.
        """
        self._scores.setdefault(identity, score)
        if not self.remaining:  # nothing will be asked any more
            self._pass_on([known for known in self._added + self._order if known in self._scores])

    def _start(self) -> dict[str, float] | None:
        """The first starting point that has not been asked for."""
        for point in self.space.starting_points()[: self.trials]:
            identity = self._identify(point)
            if identity not in self._parameters and identity not in self._numbers:
                return point
        return None

    def _waiting(self) -> list[Mapping[str, float]]:
        """Points that Optuna will propose next: a driver was killed before it asked for them."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return [trial.system_attrs.get("fixed_params", {}) for trial in trials]

    def _pass_on(self, identities: Sequence[str]) -> None:
        """Tell Optuna scores that are there."""
        for identity in dict.fromkeys(identities):
            score, numbers = self._scores[identity], self._numbers[identity]
            state = TrialState.FAIL if score is None else TrialState.COMPLETE
            for number in numbers:
                if number not in self._told:
                    self._told.add(number)
                    self._study.tell(number, score, state=state, skip_if_finished=True)
            if identity in self._untold and (score is not None or not numbers):
                self._untold.discard(identity)
                self._study.add_trial(
                    optuna.trial.create_trial(
                        state=state,
                        value=score,
                        params=dict(self._parameters[identity]),
                        distributions=self._distributions,
                        user_attrs={"identity": identity, RERUN if numbers else ADDED: True},
                    )
                )

    def _take_up(self, trial: optuna.trial.FrozenTrial) -> None:
        """Sort a trial of an earlier launch: it has a result, or it runs again."""
        if trial.state not in _ASKED:
            return
        if set(trial.params) != set(self._distributions):  # its driver was killed while it asked
            if trial.state == TrialState.RUNNING:
                self._study.tell(trial.number, state=TrialState.FAIL)
            return
        identity = self._identify(trial.params)
        if RERUN in trial.user_attrs:
            if trial.state == TrialState.COMPLETE:
                self._untold.discard(identity)
            return
        if trial.state == TrialState.FAIL:  # Optuna's verdict is final: a score becomes another trial
            self._untold.add(identity)
        if identity in self._parameters:
            self._asked += 1
        else:
            self._again.append(trial.params)
        self._numbers[identity].append(trial.number)
        (self._added if ADDED in trial.user_attrs else self._order).append(identity)


def _distributions(space: AlphaSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    probe = optuna.create_study(storage=InMemoryStorage()).ask()
    space.suggest(probe)
    return dict(probe.distributions)
