"""The interface that a user implements: how its batches are moved to a device. The meta device stands for a GPU."""

from __future__ import annotations

import json
from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from hpo.core.errors import ProblemError
from hpo.problems.base import Task, to_device
from hpo.problems.code_digest import ValueWalk
from hpo.problems.data_digest import attribute_texts

META = torch.device("meta")


@dataclass
class Graph:
    """As a batch of PyG."""

    x: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Graph:
        return Graph(self.x.to(device, non_blocking=non_blocking))


class Boxes(list[Tensor]):
    """A list with an attribute, which moves itself in place and returns nothing."""

    size = 3

    def to(self, device: torch.device) -> None:
        self[:] = [box.to(device) for box in self]


class Encoding(UserDict[str, Tensor]):
    """As a tokenizer's BatchEncoding: a mapping with attributes."""

    def __getattr__(self, key: str) -> Tensor:
        return self.data[key]

    def to(self, device: torch.device) -> Encoding:
        return Encoding({key: value.to(device) for key, value in self.data.items()})


class Edge(NamedTuple):
    """A tuple with a field of the name ``to``, which is no method."""

    source: Tensor
    to: Any


class TestABatchIsMovedToTheDevice:
    def test_by_its_own_method_wherever_it_stands(self):
        assert to_device(Graph(torch.ones(2)), META).x.device == META
        batch = {"graph": Graph(torch.ones(2)), "rest": [Graph(torch.ones(2)), "a"]}
        graph, (other, text) = to_device(batch, META).values()
        assert (graph.x.device, other.x.device, text) == (META, META, "a")

    def test_by_its_own_method_before_it_is_taken_for_a_mapping(self):
        moved = to_device(Encoding(input_ids=torch.ones(2)), META)
        assert type(moved) is Encoding
        assert moved.input_ids.device == META

    def test_by_its_own_method_before_it_is_taken_for_a_tuple(self):
        packed = pack_sequence([torch.ones(3), torch.ones(2)])
        moved: Any = to_device(packed, META)
        assert (moved.data.device, moved.batch_sizes.device) == (META, torch.device("cpu"))  # as torch wants them

    def test_by_a_method_that_returns_nothing(self):
        moved = to_device(Boxes([torch.ones(2)]), META)
        assert (type(moved), moved.size, moved[0].device) == (Boxes, 3, META)

    def test_part_by_part_without_such_a_method(self):
        edge = to_device(Edge(torch.ones(1), (torch.ones(2), 5)), META)
        assert (type(edge), edge.source.device, edge.to[0].device, edge.to[1]) == (Edge, META, META, 5)

    def test_not_at_all_where_there_is_nothing_to_move(self):
        text = object()
        assert to_device(text, META) is text


class TestHowATaskMeasuresItsChange:
    @pytest.mark.parametrize("change", ["percent", 0, -1.0, float("nan"), float("inf"), True, None, 10**400])
    def test_bad_values_are_refused_in_a_line(self, change):
        with pytest.raises(ProblemError, match=r"^tasks: change of 'a': expected 'relative', 'absolute' or a finite"):
            Task("a", "R2", change=change)

    def test_it_is_part_of_no_hash_of_data_or_code(self):
        """Not even its default, so that trials of earlier versions keep their identity."""
        owners = [Holder([Task("a", "R2", "maximize", change=change)]) for change in ("relative", "absolute", 3)]
        assert {attribute_texts(owner)["tasks"] for owner in owners} == {
            "[Task(name='a', metric='R2', direction='maximize')]"
        }
        walks = [ValueWalk(__name__).describe(owner.tasks) for owner in owners]
        assert walks[0] == walks[1] == walks[2]
        assert "change" not in json.dumps(walks[0])


class Holder:
    """A problem that keeps its tasks in an attribute of the instance."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = tasks
