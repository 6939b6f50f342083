"""The numbers of trials of each phase by their state, kept up to date as trials become known, start and end."""

from __future__ import annotations

from collections import Counter
from enum import Enum


class State(Enum):
    """The state of a trial, as the progress of a study counts it."""

    WAITING = "waiting"  # not handed out, paused, or handed out and not started
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Tally:
    """Counts trials without looking at them again, so that a count takes as long in a study of any size.

    A trial that several phases have counts for the first of them.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counter[State]] = {}  # by phase, in the study's order
        self._places: dict[str, int] = {}  # of the phases
        self._phases: dict[str, str] = {}  # identity -> the phase for which the trial counts
        self._states: dict[str, State] = {}  # identity -> state; others wait

    def add_phase(self, phase: str) -> None:
        """Add a phase after those that are known."""
        self._places[phase] = len(self._counts)
        self._counts[phase] = Counter()

    def add(self, phase: str, identity: str) -> None:
        """Add a trial of a phase."""
        before = self._phases.get(identity)
        if before is not None and self._places[before] <= self._places[phase]:
            return
        state = self._states.get(identity, State.WAITING)
        if before is not None:
            self._counts[before][state] -= 1
        self._phases[identity] = phase
        self._counts[phase][state] += 1

    def move(self, identity: str, state: State) -> None:
        """Change the state of a trial, which no phase needs to have yet."""
        before = self._states.get(identity, State.WAITING)
        self._states[identity] = state
        if identity in self._phases:
            counts = self._counts[self._phases[identity]]
            counts[before] -= 1
            counts[state] += 1

    def count(self, phase: str, *states: State) -> int:
        """Return the number of a phase's trials in these states; in all states if none is given."""
        return sum(self._counts[phase][state] for state in states or State)

    def left(self, phase: str) -> int:
        """Return the number of a phase's known trials that have not ended."""
        return self.count(phase, State.WAITING, State.RUNNING)
