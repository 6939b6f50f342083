"""Somebody else's search, proposing weights: a sampler of Optuna, or a search algorithm of Ray Tune."""

from __future__ import annotations

import pkgutil
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import optuna

from search_spaces.checks import fail

PLACE = "package.module:name"
SCORE = "score"


class TuneSearch(Protocol):
    """The part of ``ray.tune.search.Searcher`` that proposes weights."""

    def set_search_properties(self, metric: str, mode: str, config: dict[str, Any]) -> bool:
        """Take the search space; see Ray Tune."""
        ...

    def add_evaluated_point(self, parameters: dict[str, float], value: float) -> None:
        """Take a score that is known; see Ray Tune."""
        ...

    def suggest(self, trial_id: str) -> Any:
        """Propose a point; see Ray Tune."""
        ...

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        """Take the score of a proposal; see Ray Tune."""
        ...


def fault_of(name: str) -> str | None:
    """Return what was expected of the place of a sampler, ``None`` if there is one, which is made once to see."""
    if ":" not in name:
        return f"'{PLACE}'"
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:  # the module is somebody's, and raises anything
        return f"'{PLACE}' that can be imported ({type(error).__name__}: {error})"
    rule = f"'{PLACE}' of a class or function that takes seed and returns a sampler"
    if not callable(found):
        return rule
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made(name, seed=0)
    except Exception as error:  # as above
        return f"{rule} ({type(error).__name__}: {error})"
    return None


def made(name: str, seed: int) -> optuna.samplers.BaseSampler | TuneSearch:
    """Import and call what makes a sampler.

    Args:
        name: its place, of which `fault_of` finds no fault; a class or function that takes ``seed``.
        seed: of its proposals.

    Raises:
        ValueError: it returns something else.

    >>> type(made("optuna.samplers:RandomSampler", seed=0)).__name__
    'RandomSampler'
    """
    sampler = pkgutil.resolve_name(name)(seed=seed)
    if isinstance(sampler, optuna.samplers.BaseSampler):
        return sampler
    if not all(hasattr(sampler, part) for part in ("suggest", "on_trial_complete", "set_search_properties")):
        fail("sampler", "a sampler of Optuna or a search algorithm of Ray Tune", sampler)
    return cast("TuneSearch", sampler)


class TuneProposals:
    """A search algorithm of Ray Tune that proposes points of a box.

    Args:
        search: as its constructor returns it, without a search space of its own.
        names: of the coordinates.
        reach: the highest value of each; the lowest is its negative.

    Raises:
        ValueError: the search has a space of its own.
    """

    def __init__(self, search: TuneSearch, names: Sequence[str], reach: float) -> None:
        from ray import tune

        self.names = names
        self._search, self._asked = search, 0
        space = {name: tune.uniform(-reach, reach) for name in names}
        if not search.set_search_properties(SCORE, "min", space):
            fail("sampler", "a search algorithm of Ray Tune without a search space and a metric of its own", search)

    def tell(self, point: Mapping[str, float], score: float) -> None:
        """Add a score that is known.

        Raises:
            ValueError: the algorithm takes none.
        """
        try:
            self._search.add_evaluated_point(dict(point), score)
        except NotImplementedError:
            rule = "a search algorithm of Ray Tune that takes known scores by add_evaluated_point, as OptunaSearch"
            raise ValueError(f"sampler: expected {rule}, got {type(self._search).__name__}") from None

    def ask(self, lie: float) -> dict[str, float]:
        """Propose a point, which counts as a run with the score ``lie`` from then on.

        Raises:
            ValueError: the algorithm proposes none.
        """
        name = f"proposal-{self._asked}"
        self._asked += 1
        point = self._search.suggest(name)
        if not isinstance(point, Mapping):
            fail("sampler", "a proposal of the search algorithm", point)
        self._search.on_trial_complete(name, {SCORE: lie})
        return {key: float(value) for key, value in point.items()}
