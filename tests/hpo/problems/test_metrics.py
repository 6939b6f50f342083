from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpo.problems.metrics import area_under_roc

SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, width=32))
PAIRS = st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=40)


@given(PAIRS.filter(lambda pairs: len({label for _, label in pairs}) == 2))
def test_the_area_is_the_share_of_ordered_pairs(pairs: list[tuple[float, bool]]) -> None:
    positive = [score for score, label in pairs if label]
    negative = [score for score, label in pairs if not label]
    won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    scores = torch.tensor([score for score, _ in pairs])
    labels = torch.tensor([float(label) for _, label in pairs])
    assert area_under_roc(scores, labels) == pytest.approx(won / (len(positive) * len(negative)), abs=1e-6)


def test_a_large_sample_loses_no_precision() -> None:
    labels = torch.arange(200_000) % 2
    assert area_under_roc(labels.float(), labels) == 1.0
    assert area_under_roc(-labels.float(), labels) == 0.0
    assert area_under_roc(torch.zeros(200_000), labels) == 0.5


def test_large_logits_are_no_ties() -> None:
    scores = torch.tensor([60.0, 70.0, 80.0, 90.0])
    assert area_under_roc(scores, torch.tensor([0, 1, 0, 1])) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([0.0, float("nan")], [0, 1]), ([0.0, 1.0], [1, 1]), ([0.0, 1.0], [0, 0]), ([], [])],
    ids=["a NaN score", "no negative", "no positive", "nothing"],
)
def test_an_undefined_area_is_nan(scores: list[float], labels: list[int]) -> None:
    assert math.isnan(area_under_roc(torch.tensor(scores), torch.tensor(labels)))
