"""Successive halving of the static points: train all a little, go on with the best. Pure: decides, runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from hpo.core.trial import TrialResult


class Halving:
    """Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.

    Every trial is trained to the first rung. Once all are there, the best share of ``1 / eta`` goes on to the next,
    and so on; the others are stopped. Synchronous, so that which trials go on does not hang on which worker was
    faster; how many go on at a rung hangs on how many there were at first, so that a study that was killed between
    decisions does not decide twice.

    Args:
        identities: of the trials.
        epochs: of a trial that goes to its end.
        eta: of so many one goes on.
        keep: how many reach the end at least.

    Attributes:
        rungs: the epochs at which trials wait, ascending.
    """

    def __init__(self, identities: Iterable[str], epochs: int, eta: int, keep: int) -> None:
        self._rung = dict.fromkeys(identities, 0)
        self._epochs = epochs
        self.rungs = rungs_of(epochs, eta)
        self._places: list[int] = []  # that go on from each rung
        left = len(self._rung)
        for _ in self.rungs:
            left = min(left, max(keep, math.ceil(left / eta)))
            self._places.append(left)
        self._waiting: dict[str, TrialResult] = {}

    def until(self, identity: str) -> int:
        """How many epochs a trial is to have when it comes back."""
        rung = self._rung.get(identity, len(self.rungs))
        return self.rungs[rung] if rung < len(self.rungs) else self._epochs

    def pause(self, identity: str, result: TrialResult) -> None:
        """A trial is at its rung."""
        self._waiting[identity] = result

    def waits(self, identity: str) -> bool:
        """Whether a trial is at a rung that has not been decided."""
        return identity in self._waiting

    def at_rung(self, ended: Iterable[str]) -> dict[str, TrialResult]:
        """The trials at a rung, once all that have not ended are there; else none."""
        left = set(self._rung).difference(ended)
        return dict(self._waiting) if left and left == set(self._waiting) else {}

    def decide(self, scores: Mapping[str, float]) -> tuple[list[str], list[str]]:
        """Who goes on, best first, and who is stopped.

        Args:
            scores: of all trials at the rung, lower is better; without any that is finite, all go on.
        """
        rung = min(self._rung[identity] for identity in self._waiting)
        order = sorted(self._waiting, key=lambda identity: (not math.isfinite(scores[identity]), scores[identity]))
        known = any(math.isfinite(score) for score in scores.values())
        places = self._places[rung] if known else len(order)
        for identity in order:
            self._rung[identity] = rung + 1
        self._waiting.clear()
        return order[:places], order[places:]


def rungs_of(epochs: int, eta: int) -> list[int]:
    """``epochs / eta``, ``epochs / eta**2``, ... down to 1, rounded up, ascending.

    >>> rungs_of(8, 3), rungs_of(9, 3), rungs_of(1, 2)
    ([1, 3], [1, 3], [])
    """
    rungs: list[int] = []
    at = epochs
    while at > 1 and at / eta >= 0.5:
        at = math.ceil(at / eta)
        rungs.append(at)
    return rungs[::-1]
