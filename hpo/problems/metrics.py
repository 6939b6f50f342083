"""Metrics of several problems."""

from __future__ import annotations

import torch
from torch import Tensor


def area_under_roc(scores: Tensor, labels: Tensor) -> float:
    """Compute the area under the ROC curve: the probability that a positive scores above a negative, ties one half.

    From every threshold, in single precision.

    Args:
        scores: (N,), larger for more likely positive; logits will do.
        labels: (N,), 1 for a positive, 0 for a negative.

    Returns:
        A number from 0 to 1; NaN where a score is NaN (a diverged network) or a class is missing, which torchmetrics
        calls 0.

    The scores go in as ranks: torchmetrics takes what lies outside [0, 1] for logits and their sigmoid, which makes
    large logits ties.

    >>> area_under_roc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    0.875
    """
    from torchmetrics.functional.classification import binary_auroc  # here, as importing it takes seconds

    positive = labels.bool()
    if not positive.any() or positive.all() or bool(scores.isnan().any()):
        return float("nan")
    distinct, ranks = torch.unique(scores, return_inverse=True)
    return float(binary_auroc(ranks.double() / len(distinct), positive.long()))
