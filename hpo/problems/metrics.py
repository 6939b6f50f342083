"""Metrics that more than one problem reports."""

from __future__ import annotations

import torch
from torch import Tensor


def area_under_roc(scores: Tensor, labels: Tensor) -> float:
    """The area under the ROC curve: the chance that a positive scores above a negative, ties counted as one half.

    Exact, from ranks (the Mann-Whitney U statistic; Hanley and McNeil, "The meaning and use of the area under a
    receiver operating characteristic (ROC) curve", Radiology 143, 1982):
    ``AUC = (R - p (p + 1) / 2) / (p n)`` with R the sum of the positives' ranks, ties given their mean rank, p and
    n the numbers of positives and negatives.

    Args:
        scores: (N,), larger for more likely positive; logits will do.
        labels: (N,), 1 for a positive, 0 for a negative.

    Returns:
        A number from 0 to 1; NaN where a score is NaN (a diverged network) or a class is missing.

    >>> area_under_roc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    0.875
    """
    positive = labels.bool()
    p = int(positive.sum())
    n = positive.numel() - p
    if p == 0 or n == 0 or bool(scores.isnan().any()):
        return float("nan")
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = counts.cumsum(0).double() - (counts.double() - 1) / 2
    rank_sum = mean_ranks[inverse[positive]].sum().item()
    return float((rank_sum - p * (p + 1) / 2) / (p * n))
