"""Thousands of simulated studies at once: the verdict of `hpo.compare.verdicts` once more, in numpy alone.

The verdict on one table of trials takes about 40 ms, most of it pandas. So it is written here again, on arrays of
(studies, arms, seeds); the tests first hold it to be the same on some studies, then count on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from hpo.compare.verdicts import RESAMPLES

OURS = 8  # GradNorm arms
CORRELATION = 0.9  # of an arm's noise on validation and on test: they share the seed's network
# Of a resample's reading the standard deviation is below that of one seed, 1, so that the mean over the third of them
# that leave a seed out is known to 0.06 at most, where the intervals are 1 wide and wider.
FEWER_RESAMPLES = 1000
SEED_EFFECT = 3.0  # what a seed does to all arms alike; the noise of each arm is 1


@dataclass(frozen=True)
class Studies:
    """Attributes:
    val: scores on validation, shape (studies, arms, seeds), the GradNorm arms first; ``test`` likewise.
    truth: the arms' true scores, shape (studies, arms).
    resamples: of the bootstrap of the selection.
    """

    val: np.ndarray
    test: np.ndarray
    truth: np.ndarray
    resamples: int = RESAMPLES

    def confirm(self, study: int) -> pd.DataFrame:
        """One of them as a table of trials, as `hpo.compare.verdicts.verdict` reads it."""
        _, arms, seeds = self.val.shape
        names = [f"gradnorm/robust/alpha={a}" if a < OURS else f"static/{a:02d}" for a in range(arms)]
        arm = np.repeat(names, seeds)
        columns = {"arm": arm, "kind": [name.split("/")[0] for name in arm]}
        columns["seed"] = np.tile(np.arange(1, seeds + 1), arms)
        return pd.DataFrame(columns | {"score_val": self.val[study].ravel(), "score_test": self.test[study].ravel()})

    @cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """The GradNorm arm and the static arm with the lowest mean on validation, of each study."""
        mean = self.val.mean(axis=2)
        return mean[:, :OURS].argmin(axis=1), OURS + mean[:, OURS:].argmin(axis=1)

    @cached_property
    def differences(self) -> np.ndarray:
        """Test scores of the two best arms, one minus the other, shape (studies, seeds)."""
        every = np.arange(len(self.test))
        ours, static = self.best
        return self.test[every, ours] - self.test[every, static]

    @cached_property
    def chosen(self) -> np.ndarray:
        """The share of resamples without seed s in which arm a was chosen: shape (studies, arms, seeds)."""
        seeds = self.val.shape[2]
        draws = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=self.resamples)
        counts, times = np.unique(draws, axis=0, return_counts=True)
        left_out = (counts == 0) * times[:, None]
        left_out = (left_out / left_out.sum(axis=0)).astype(np.float32)
        sides = []
        for val in (self.val[:, :OURS], self.val[:, OURS:]):
            parts = []
            for part in np.array_split(val, max(1, len(counts) * val.shape[0] * val.shape[1] // 4_000_000)):
                best = (part @ counts.T.astype(float)).argmin(axis=1)
                parts.append((best[:, None] == np.arange(val.shape[1])[:, None]).astype(np.float32) @ left_out)
            sides.append(np.concatenate(parts))
        return np.concatenate(sides, axis=1)

    def _reading(self, scores: np.ndarray) -> np.ndarray:
        by_arm = (self.chosen * scores).mean(axis=2)
        return by_arm[:, :OURS].sum(axis=1) - by_arm[:, OURS:].sum(axis=1)

    @cached_property
    def regret(self) -> np.ndarray:
        """Return the regret corrected for selection bias: read on seeds left out of the choice."""
        return self._reading(self.test)

    @cached_property
    def true_regret(self) -> np.ndarray:
        """Return the value that `regret` estimates: the true difference of the chosen arms, mean over resamples."""
        return self._reading(np.repeat(self.truth[:, :, None], self.test.shape[2], axis=2))

    @cached_property
    def true_difference(self) -> np.ndarray:
        """The true difference of the two arms chosen on all seeds."""
        every = np.arange(len(self.truth))
        ours, static = self.best
        return self.truth[every, ours] - self.truth[every, static]

    def half_width(self, confidence: float = 0.95) -> np.ndarray:
        """Of the t interval of `differences`."""
        return half_width(self.differences, confidence)

    def words(self, margin: float) -> np.ndarray:
        """The verdicts."""
        wide, narrow = self.half_width(0.95), self.half_width(0.9)
        words = np.where(self.regret + wide < 0, "better", "inconclusive")
        words = np.where(self.regret - wide > 0, "worse", words)
        return np.where(np.abs(self.regret) + narrow < margin, "equivalent", words)


def half_width(values: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Of Student's t interval along the last axis."""
    n = values.shape[-1]
    return stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(axis=-1, ddof=1) / np.sqrt(n)


def studies(truth: np.ndarray, seeds: int, stream: int = 0, resamples: int = FEWER_RESAMPLES) -> Studies:
    """Studies of arms with these true scores, shape (studies, arms), and noise of 1 beside the seeds' own."""
    random = np.random.default_rng([stream, seeds, truth.shape[1]])
    shape = (*truth.shape, seeds)
    common = truth[:, :, None] + random.normal(0, SEED_EFFECT, (len(truth), 1, seeds))
    val = random.normal(size=shape)
    test = CORRELATION * val + np.sqrt(1 - CORRELATION**2) * random.normal(size=shape)
    return Studies(common + val, common + test, truth, resamples)


def truths(count: int, ours: float, static: float, statics: int, spread: float = 0.0, stream: int = 0) -> np.ndarray:
    """True scores of `OURS` GradNorm arms and some static ones, scattered normally around these two levels."""
    random = np.random.default_rng([stream, statics, 17])
    levels = np.repeat([ours, static], [OURS, statics])
    return levels + spread * random.normal(size=(count, OURS + statics))
