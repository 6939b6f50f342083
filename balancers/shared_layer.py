"""W: the parameters that all tasks share, asked for in every step, since they may be frozen, thawed or replaced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from balancers.losses import StepLosses
from balancers.sharded import graph_leaves, look_for_flattened
from balancers.weights import fail

Shared = nn.Module | Tensor | Iterable[nn.Module | Tensor]
"""A module (all its parameters), a parameter, or a list, tuple or generator of these."""

SharedOrAuto = Shared | Literal["auto"]
"""`Shared`, or ``"auto"``: the last layer that every task reaches."""


def is_auto(shared: object) -> bool:
    """Return whether W is to be found."""
    return isinstance(shared, str) and shared == "auto"


class SharedLayer:
    """The parameters that W consists of.

    Args:
        shared: see `Shared`. Modules are asked for their parameters in every step, so that one that was replaced
            counts; a parameter that was handed over itself stays what it is.

    Raises:
        ValueError: there are no parameters, or other things among them.

    Attributes:
        absence: the beginning of a sentence on steps in which W had no parameter.
    """

    absence = "No parameter of the shared layer required grad"

    def __init__(self, shared: Shared) -> None:
        if isinstance(shared, str) or not isinstance(shared, nn.Module | Tensor | Iterable):
            fail("shared", "a module, a parameter or a list of these", repr(shared))
        parts = [shared] if isinstance(shared, nn.Module | Tensor) else list(shared)
        wrong = [type(part).__name__ for part in parts if not isinstance(part, nn.Module | Tensor)]
        if wrong:
            fail("shared", "a module, a parameter or a list of these", f"a list with {', '.join(wrong)}")
        self._parts: list[nn.Module | Tensor] = parts
        if not self._all():
            look_for_flattened(part for part in parts if isinstance(part, nn.Module))
            found = type(shared).__name__ if isinstance(shared, nn.Module | Tensor) else f"{len(parts)} modules"
            fail("shared", "a module or parameters with at least one parameter", found)

    def _all(self) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for part in self._parts:
            for parameter in [part] if isinstance(part, Tensor) else part.parameters():
                found[id(parameter)] = parameter
        return list(found.values())

    def trained(self) -> list[Tensor]:
        """The parameters that require grad now, each once."""
        return [parameter for parameter in self._all() if parameter.requires_grad]

    def leaves(self) -> list[Tensor]:
        """The tensors that `trained` parameters are in the graph of the last forward pass.

        Raises:
            ValueError: see `balancers.sharded.graph_leaves`.
        """
        return graph_leaves(self.trained())

    def look_at(self, step: StepLosses) -> None:
        """See a step before its W is asked for."""
        del step

    def notes(self) -> list[str]:
        """Return how W was found, if it was not named; one line per cause."""
        return []


def parameters_of(shared: Shared) -> list[Tensor]:
    """The trainable parameters that W consists of.

    Raises:
        ValueError: there are none.
    """
    parameters = SharedLayer(shared).trained()
    if not parameters:
        fail("shared", "a module or parameters with at least one that requires grad", type(shared).__name__)
    return parameters
