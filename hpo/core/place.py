"""The place of a process among those that train a trial together. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The place of a process among those of its trial.

    Attributes:
        rank: from 0; the process of rank 0 reports and writes checkpoints.
        size: the number of processes.
        local_rank: among those of its node, from 0.
        local_size: the number of processes on its node.
        node: the number of its node, from 0.
        host: address of the node of rank 0.
        port: on which rank 0 listens.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    host: str
    port: int

    def environment(self) -> dict[str, str]:
        """Return the variables that torch, Lightning and accelerate read."""
        return {
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "NODE_RANK": str(self.node),
        }


def places_of(nodes: Sequence[str], host: str, port: int) -> list[Place]:
    """Return the places of processes.

    Args:
        nodes: the node of each process, by its rank.
        host: address of the first one's node.
        port: on which the first one listens.

    >>> [(place.rank, place.local_rank, place.local_size, place.node) for place in places_of(["a", "a", "b"], "", 1)]
    [(0, 0, 2, 0), (1, 1, 2, 0), (2, 0, 1, 1)]
    """
    order = list(dict.fromkeys(nodes))
    places = []
    for rank, node in enumerate(nodes):
        near = [other for other, one in enumerate(nodes) if one == node]
        places.append(Place(rank, len(nodes), near.index(rank), len(near), order.index(node), host, port))
    return places
