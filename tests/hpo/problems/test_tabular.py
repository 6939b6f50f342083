from __future__ import annotations

import torch
from torch import nn

from hpo.problems.tabular import SharedTrunk


def test_the_shared_layer_is_the_last_affine_one_before_the_heads() -> None:
    network = SharedTrunk(inputs=5, hidden=[4, 3], outputs={"a": 1, "b": 2}, seed=0)
    shared = network.shared_layer
    assert isinstance(shared, nn.Linear)
    assert (shared.in_features, shared.out_features) == (4, 3)
    assert {name: head.in_features for name, head in network.heads.items()} == {"a": 3, "b": 3}


def test_each_head_has_its_width() -> None:
    network = SharedTrunk(inputs=5, hidden=[4], outputs={"a": 1, "b": 2}, seed=0)
    assert {name: y.shape for name, y in network(torch.zeros(7, 5)).items()} == {"a": (7, 1), "b": (7, 2)}
