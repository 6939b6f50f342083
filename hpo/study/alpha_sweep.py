"""The alpha sweep of one recipe: Optuna's suggestions, the same in every launch of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState, create_trial

from search_spaces import AlphaSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)

Parameters = Mapping[str, Any]  # numbers, and the label of a set of arguments

# Of a short sweep. Its three starting points form a cohort, and so do the three after them; a cohort of three takes
# little longer than one trial alone (`python -m benchmarks.cohort_step`).
MOST_AT_ONCE = 3


class Suggestion(NamedTuple):
    """A suggestion of Optuna."""

    number: int  # of Optuna's trial
    identity: str  # of ours; two of Optuna's trials may be one of ours
    parameters: Parameters


class AlphaSweep:
    """Asks Optuna for parameters and reports the scores to it: COMPLETE with a score, FAIL without one.

    The k-th suggestion depends only on the seed and on the scores of all but the `lag` - 1 suggestions before it, not
    on which trial was faster or on when a driver was killed. So Optuna's history is kept only in memory: a new launch
    repeats all suggestions from the first, and a trial that has a result is not run again.

    Results that this launch does not suggest (the study was edited, or a failed trial was run again) count as trials
    of the sweep; they are reported to Optuna before its first suggestion that no earlier launch could have made.

    Args:
        space: what to search.
        trials: number of runs.
        seed: of the sampler.
        identify: returns the identity of the trial with given parameters.
        finished: the parameters of each trial of the sweep that has a result, by identity.

    Attributes:
        lag: maximum number of trials at once; with more, each suggestion uses fewer results.
        history: Optuna's study.
        scores: reported so far, by identity.
    """

    def __init__(
        self,
        space: AlphaSpace,
        trials: int,
        seed: int,
        identify: Callable[[Parameters], str],
        finished: Mapping[str, Parameters] | None = None,
    ) -> None:
        self.space, self.trials, self.seed, self.lag = space, trials, seed, max(MOST_AT_ONCE, trials // 3)
        self.history = optuna.create_study(sampler=space.sampler(seed))
        self._identify = identify
        self._finished = dict(finished or {})
        self._unasked = set(self._finished)  # those that no suggestion has asked for
        self._suggested: list[Suggestion] = []  # as far as the scores allow
        self._asked = 0  # of the suggestions
        self._told = 0  # likewise
        self.scores: dict[str, float | None] = {}
        self._adds_results = bool(self._finished)

    @property
    def remaining(self) -> int:
        """The number of suggestions left."""
        return max(0, self.trials - self._asked - len(self._unasked))

    def peek(self) -> Parameters | None:
        """Return the next parameters without taking them; see `ask`."""
        if not self.remaining:
            return None
        self._suggest()
        return None if self._asked == len(self._suggested) else self._suggested[self._asked].parameters

    def ask(self) -> Parameters | None:
        """Return the next parameters; ``None`` while scores are missing or when no suggestion is left."""
        parameters = self.peek()
        if parameters is not None:
            self._unasked.discard(self._suggested[self._asked].identity)
            self._asked += 1
        return parameters

    def tell(self, identity: str, score: float | None) -> None:
        """Record the score of a trial, lower is better; ``None`` if it has none. Optuna receives scores in order."""
        self.scores.setdefault(identity, score)

    def _suggest(self) -> None:
        """Make every suggestion whose scores are known."""
        while len(self._suggested) < self.trials and self._suggest_next():
            pass
        if self._adds_results and self._finished.keys() <= self.scores.keys():
            self._adds_results = False
            self._add_results()
            self._suggest()

    def _suggest_next(self) -> bool:
        """Make the next suggestion, if the scores that it uses are known."""
        number, starts = len(self._suggested), self.space.starting_points()
        if number < len(starts):  # a starting point needs no scores
            self.history.enqueue_trial(starts[number])
        else:
            due = max(0, number - self.lag + 1)
            if not all(suggestion.identity in self.scores for suggestion in self._suggested[self._told : due]):
                return False
            self._tell_optuna(due)
        self.history.sampler = self.space.sampler(self.seed + number + 1)
        trial = self.history.ask()
        parameters = self.space.suggest(trial)
        identity = self._identify(parameters)
        trial.set_user_attr("identity", identity)
        self._suggested.append(Suggestion(trial.number, identity, parameters))
        return True

    def _tell_optuna(self, due: int) -> None:
        """Report the scores of the first ``count`` suggestions to Optuna."""
        for number, identity, _ in self._suggested[self._told : due]:
            score = self.scores[identity]
            self.history.tell(number, score, state=TrialState.FAIL if score is None else TrialState.COMPLETE)
        self._told = max(self._told, due)

    def _add_results(self) -> None:
        """Add results to Optuna's history that it did not suggest."""
        suggested = {suggestion.identity for suggestion in self._suggested}
        probe = optuna.create_study().ask()
        self.space.suggest(probe)
        for identity, parameters in sorted(self._finished.items(), key=lambda item: sorted(item[1].items())):
            score = self.scores[identity]
            if identity not in suggested and score is not None:
                attributes = {"identity": identity}
                self.history.add_trial(
                    create_trial(
                        value=score,
                        params=dict(parameters),
                        distributions=probe.distributions,
                        user_attrs=attributes,
                    )
                )
