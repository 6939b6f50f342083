"""The alpha sweep of one recipe: an Optuna study that survives its driver."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from search_spaces import AlphaSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)

Parameters = Mapping[str, float]
RERUN = "again"  # marks a trial of Optuna's that repeats one that failed in an earlier launch
_ASKED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL)


def journal(path: Path) -> BaseStorage:
    """Optuna's storage in one file, which ``optuna-dashboard`` reads.

    The caller holds the study's lock, so that a lock on the journal that a killed driver left can be taken away.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


class Sweep:
    """Asks Optuna for parameters and tells it the truth: COMPLETE with a score, FAIL without one.

    Optuna only advises: which trials have finished, MLflow knows. A trial that Optuna holds for running or complete
    and that has no result is asked again with the same parameters; a result that Optuna does not know is added.

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
        self._failed: set[str] = set()  # what Optuna holds for failed and what runs again
        self._asked = 0
        self._study = optuna.create_study(
            study_name=name, storage=storage or InMemoryStorage(), sampler=space.sampler(seed), load_if_exists=True
        )
        self._distributions = _distributions(space)
        earlier = self._study.get_trials(deepcopy=False)
        for trial in earlier:
            self._take_up(trial)
        self._asked += sum(identity not in self._numbers for identity in self._parameters)
        waiting = [trial.system_attrs.get("fixed_params") for trial in earlier if trial.state == TrialState.WAITING]
        known = {*self._parameters, *self._numbers, *self._failed}
        for point in space.starting_points()[:trials]:
            if point not in waiting and identify(point) not in known:
                self._study.enqueue_trial(point)

    @property
    def remaining(self) -> int:
        """How many times `ask` still has an answer."""
        return max(len(self._again), self.trials - self._asked)

    def ask(self) -> Parameters | None:
        """Parameters to run with, or ``None`` when the sweep has asked for all its trials."""
        if not self.remaining:
            return None
        self._asked += 1
        if self._again:
            parameters = self._again.popleft()
            self._parameters[self._identify(parameters)] = parameters
            return parameters
        self._study.sampler = self.space.sampler(self.seed + self._asked)  # the same, resumed or not
        trial = self._study.ask()
        parameters = self.space.suggest(trial)
        identity = self._identify(parameters)
        trial.set_user_attr("identity", identity)
        self._numbers[identity].append(trial.number)
        self._parameters[identity] = parameters
        return parameters

    def tell(self, identity: str, score: float | None) -> None:
        """The score of a trial, lower is better; ``None`` if it has none."""
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        for number in self._numbers[identity]:
            self._study.tell(number, score, state=state, skip_if_finished=True)
        if not self._numbers[identity]:
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    value=score,
                    params=dict(self._parameters[identity]),
                    distributions=self._distributions,
                    user_attrs={"identity": identity} | ({RERUN: True} if identity in self._failed else {}),
                )
            )

    def _take_up(self, trial: optuna.trial.FrozenTrial) -> None:
        """Sort a trial of an earlier launch: it has a result, or it runs again."""
        if trial.state not in _ASKED or RERUN in trial.user_attrs:
            return
        if set(trial.params) != set(self._distributions):  # its driver was killed while it asked
            if trial.state == TrialState.RUNNING:
                self._study.tell(trial.number, state=TrialState.FAIL)
            return
        identity = self._identify(trial.params)
        if identity in self._parameters:
            self._asked += 1
        else:
            self._again.append(trial.params)
            if trial.state == TrialState.FAIL:  # Optuna's verdict is final: the new one becomes another trial
                self._failed.add(identity)
                return
        self._numbers[identity].append(trial.number)


def _distributions(space: AlphaSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    probe = optuna.create_study(storage=InMemoryStorage()).ask()
    space.suggest(probe)
    return dict(probe.distributions)
