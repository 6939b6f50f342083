"""Loss balancing for any PyTorch training loop. Needs torch alone.

>>> from balancers import GradNorm, Static
"""

from balancers.base import Balancer, BalancerWarning, StepRecord
from balancers.found_layer import find_shared_layer
from balancers.frozen import Frozen
from balancers.gradnorm import GradNorm
from balancers.stack import Stack
from balancers.static import Equal, SingleTask, Static
from balancers.uncertainty import Uncertainty

__all__ = [
    "Balancer",
    "BalancerWarning",
    "Equal",
    "Frozen",
    "GradNorm",
    "SingleTask",
    "Stack",
    "Static",
    "StepRecord",
    "Uncertainty",
    "find_shared_layer",
]
