"""The steps of a loop that a framework owns, and those of a balancer in it: kept equal, or reported."""

from __future__ import annotations

import warnings

from balancers.adaptive import Adaptive
from balancers.base import Balancer, BalancerWarning
from balancers.gradnorm import GradNorm


class LoopSteps:
    """Makes one step of a balancer out of the backward passes that make one step of the framework's optimizer.

    Args:
        balancer: any; only `GradNorm` moves w once in all passes of a step.
        setting: the framework's name for the number of passes in a step, for messages.
    """

    def __init__(self, balancer: Balancer, setting: str) -> None:
        self.balancer, self._setting = balancer, setting
        self._given = balancer.accumulate
        self._step = balancer.step  # when the optimizer last stepped
        self._told = False

    def accumulate(self, passes: int) -> None:
        """Make so many passes one step of the balancer's."""
        self.balancer.accumulate = passes

    def follow(self, passes: int) -> None:
        """Make the framework's passes in a step the balancer's, and warn if it was built with another number."""
        given, self._given = self._given, 1
        if given not in (1, passes):
            self._tell(f"accumulate: expected {passes}, as `{self._setting}`, got {given}. {passes} is used.")
        self.accumulate(passes)

    def start(self) -> None:
        """Count from here: training begins or continues."""
        self._step = self.balancer.step

    def optimizer_stepped(self) -> None:
        """Warn if the balancer took several steps meanwhile, or is in the middle of one."""
        balancer = self.balancer
        steps, self._step = balancer.step - self._step, balancer.step
        if not isinstance(balancer, GradNorm):
            if steps > 1 and isinstance(balancer, Adaptive):
                name = balancer._kind()
                self._tell(
                    f"{name} moved its weights {steps} times in one step of the optimizer: it cannot accumulate."
                )
        elif steps > 1 or balancer.passes:
            done = f"{steps} steps" if steps > 1 else f"{balancer.passes} of {balancer.accumulate} passes of a step"
            self._tell(
                f"GradNorm took {done} in one step of the optimizer: `accumulate` should be the number of backward "
                f"passes that the loop makes in a step, got {balancer.accumulate}."
            )

    def _tell(self, text: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(text, BalancerWarning, stacklevel=3)
