"""Successive halving of the static points: train all for a few epochs, continue the best. Pure: runs nothing."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping

from hpo.core.trial import TrialResult


class Halving:
    """Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.

    Every trial is trained to the first rung. Once all have reached it, the best ``1 / eta`` of them continue to the
    next rung, and so on; the rest are stopped. It is synchronous, so that the choice does not depend on the speed of
    workers. The number that continues at a rung depends only on the initial number of trials, so that a study that
    was killed between two decisions decides the same.

    Args:
        identities: of the trials.
        epochs: of a trial that goes to its end.
        eta: one in ``eta`` trials continues.
        keep: minimum number of trials that reach the end.

    Attributes:
        rungs: the epochs at which trials wait, ascending.
    """

    def __init__(self, identities: Iterable[str], epochs: int, eta: int, keep: int) -> None:
        self._rung = dict.fromkeys(identities, 0)
        self._epochs = epochs
        self.rungs = rungs_of(epochs, eta)
        self._places: list[int] = []  # trials that continue from each rung
        left = len(self._rung)
        for _ in self.rungs:
            left = min(left, max(keep, math.ceil(left / eta)))
            self._places.append(left)
        self._waiting: dict[str, TrialResult] = {}
        self._moving = list(self._rung)  # of which none is known to have ended or to be at its rung

    def until(self, identity: str) -> int:
        """Return the epoch at which a trial returns."""
        rung = self._rung.get(identity, len(self.rungs))
        return self.rungs[rung] if rung < len(self.rungs) else self._epochs

    def pause(self, identity: str, result: TrialResult) -> None:
        """Record that a trial has reached its rung."""
        self._waiting[identity] = result

    def waits(self, identity: str) -> bool:
        """Return whether a trial is at a rung that has not been decided."""
        return identity in self._waiting

    def at_rung(self, ended: Container[str]) -> dict[str, TrialResult]:
        """Return the trials at a rung, once all trials that have not ended are there; otherwise none."""
        while self._moving and (self._moving[-1] in ended or self.waits(self._moving[-1])):
            self._moving.pop()
        return {} if self._moving else dict(self._waiting)

    def decide(self, scores: Mapping[str, float]) -> tuple[list[str], list[str]]:
        """Return the trials that continue, best first, and those that are stopped.

        Args:
            scores: of all trials at the rung, lower is better; if none is finite, all continue.
        """
        rung = min(self._rung[identity] for identity in self._waiting)
        order = sorted(self._waiting, key=lambda identity: (not math.isfinite(scores[identity]), scores[identity]))
        known = any(math.isfinite(score) for score in scores.values())
        places = self._places[rung] if known else len(order)
        for identity in order:
            self._rung[identity] = rung + 1
        self._waiting.clear()
        self._moving = order[:places]
        return order[:places], order[places:]


def rungs_of(epochs: int, eta: int) -> list[int]:
    """Return ``epochs / eta``, ``epochs / eta**2``, ... down to 1, rounded up, ascending.

    >>> rungs_of(8, 3), rungs_of(9, 3), rungs_of(1, 2)
    ([1, 3], [1, 3], [])
    """
    rungs: list[int] = []
    at = epochs
    while at > 1 and at / eta >= 0.5:
        at = math.ceil(at / eta)
        rungs.append(at)
    return rungs[::-1]
