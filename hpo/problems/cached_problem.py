"""The base class of built-in problems whose examples are read from the cache."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from hpo.problems.base import Problem, Split
from hpo.problems.data_cache import (
    EVALUATION_BATCH,
    Arrays,
    ShuffledBatches,
    cached_arrays,
    ordered_batches,
    short_hash,
)


class CachedProblem(Problem):
    """A problem whose arrays are prepared once per machine and mapped into memory from the cache.

    Attributes:
        parts: of an example: the array ``{split}_{part}`` has one row for each example of the split.
        batch_size: examples in a training batch.
        evaluation_batch: examples in a batch where no gradient is kept.
    """

    parts: tuple[str, ...]
    batch_size: int
    evaluation_batch: int = EVALUATION_BATCH

    @abstractmethod
    def _key(self) -> str:
        """Return the name of the arrays in the cache, which differs if anything differs that they are made from."""

    @abstractmethod
    def _build(self) -> Arrays:
        """Prepare the arrays.

        Raises:
            FileNotFoundError: a file that they are made of is missing; the message has the command that installs it.
            ProblemError: a file is not the expected one.
        """

    def prepare(self) -> None:
        """Check the source files and prepare the arrays, once per machine.

        Raises:
            FileNotFoundError: the files are not installed; the message has the command that installs them.
            ProblemError: a file is not the expected one.
        """
        self._arrays()

    def data_hash(self) -> str:
        """Return the hash of the examples and the tasks. Needs no file."""
        return short_hash(self._key(), [task.name for task in self.tasks])

    def loader(self, split: Split, seed: int) -> Iterable[tuple[Tensor, ...]]:
        """Iterate over batches of the parts; val and test in stored order."""
        if split == "train":
            return ShuffledBatches(self._rows(split), self.batch_size, seed)
        return ordered_batches(self._rows(split), self.evaluation_batch)

    def _arrays(self) -> Arrays:
        return cached_arrays(self._key(), self._build)

    def _rows(self, split: Split) -> tuple[Tensor, ...]:
        """Return the parts of all examples of a split, mapped from the cache."""
        arrays = self._arrays()
        return tuple(torch.from_numpy(arrays[f"{split}_{part}"]) for part in self.parts)
