"""The toy problem of the GradNorm paper, Section 4: regressions that differ in scale alone."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.problem import Problem, Split, Task, to_device
from hpo.problems.checks import check_batch_size, check_count, check_positive
from hpo.problems.data import ShuffledBatches, ordered_batches, short_hash
from hpo.problems.network import SharedTrunk

INPUTS = 250
OUTPUTS = 100
HIDDEN = (100, 100, 100, 100)
SHARED_VARIANCE = 10.0  # of B's elements
OWN_VARIANCE = 3.5  # of eps_i's elements
MOST_FUNCTIONS = 100  # whose default examples take 320 MB
GENERATOR_VERSION = 1  # raise it with every change of what `generate` returns

Examples = dict[Split, tuple[Tensor, Tensor]]


class Toy(Problem):
    """The GradNorm paper's toy: functions of one form whose scales run from 1 to ``sigma_max``.

    From "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks" (Chen,
    Badrinarayanan, Lee, Rabinovich, ICML 2018, https://arxiv.org/abs/1711.02257), Section 4. Task i regresses::

        f_i(x) = sigma_i tanh((B + eps_i) x)

    with x of dimension 250 and f_i(x) of dimension 100, the elements of B drawn from N(0, 10) and those of eps_i
    from N(0, 3.5) (variances), both constant. The network is a trunk of four ReLU layers of 100 neurons and an
    affine head for each task; each loss is the squared error, in the units of sigma_i^2. All tasks are equally hard,
    yet with equal weights the large sigma takes all. The paper trains T = 2 with sigma 1 and 100, and T = 10.

    Where this deviates, and why:

    - The paper leaves the distribution of x open. Here x is N(0, I / 250), of length about 1: the arguments of tanh
      then have a standard deviation of 3.7; with elements of variance 1 it would be 58, and the tanh a sign.
    - The examples are a fixed set, drawn from ``data_seed``, not a stream: every trial sees the same ones.
    - The metric is the test loss over sigma_i^2, where the paper divides by L_i(0). Both remove the scale; this one
      does not depend on the initial network, so that trials can be compared. Predicting 0 scores 0.79.
    - For T > 2 the sigma_i are spaced evenly in their logarithm.

    Args:
        functions: T, the number of tasks, ``"f1"`` to ``"fT"``, at most 100. Paper: 2 and 10.
        sigma_max: the largest scale; the smallest is 1. One function alone has sigma 1. Paper (T = 2): 100.
        data_seed: fixes B, eps_i and the examples.
        train: examples in the training split.
        val: examples in the validation split.
        test: examples in the test split.
        batch_size: examples in a training batch.
        epochs: passes over the training examples; 10 take 1 s on one core for T = 2, 2 s for T = 10.
        learning_rate: of Adam.

    Raises:
        ProblemError: an argument out of its range.

    >>> [task.name for task in Toy(functions=3).tasks]
    ['f1', 'f2', 'f3']
    """

    def __init__(
        self,
        functions: int = 2,
        *,
        sigma_max: float = 100.0,
        data_seed: int = 0,
        train: int = 5000,
        val: int = 1000,
        test: int = 2000,
        batch_size: int = 100,
        epochs: int = 10,
        learning_rate: float = 2e-3,
    ) -> None:
        count = check_count("functions", functions, maximum=MOST_FUNCTIONS)
        self.sigmas = _sigmas(count, check_positive("sigma_max", sigma_max))
        self.tasks = [Task(f"f{number}", "MSE / sigma^2") for number in range(1, functions + 1)]
        self.data_seed = check_count("data_seed", data_seed, minimum=0)
        self.sizes = (check_count("train", train), check_count("val", val), check_count("test", test))
        self.batch_size = check_batch_size(batch_size, train)
        self.epochs = check_count("epochs", epochs)
        self.learning_rate = check_positive("learning_rate", learning_rate)

    def data_hash(self) -> str:
        """Name the functions and the examples."""
        return short_hash("toy", GENERATOR_VERSION, self.sigmas, self.sizes, self.data_seed)

    def build_model(self, seed: int) -> SharedTrunk:
        """The paper's network: a trunk of four layers and an affine head of width 100 for each task."""
        return SharedTrunk(INPUTS, HIDDEN, {task.name: OUTPUTS for task in self.tasks}, seed)

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The fourth layer of the trunk."""
        return cast(SharedTrunk, model).shared_layer

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate)

    def loader(self, split: Split, seed: int) -> Iterable[tuple[Tensor, ...]]:
        """Batches of inputs (B, 250) and targets (B, T, 100), float32; val and test in stored order."""
        if split == "train":
            return ShuffledBatches(self._examples(split), self.batch_size, seed)
        return ordered_batches(self._examples(split))

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Squared error of each function, mean over examples and outputs, in units of sigma_i^2."""
        x, targets = batch
        outputs = model(x)
        return {task.name: F.mse_loss(outputs[task.name], targets[:, i]) for i, task in enumerate(self.tasks)}

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Mean squared error over sigma_i^2 of each function, over all examples of the split."""
        device = next(model.parameters()).device
        squares = torch.zeros(len(self.tasks), dtype=torch.float64)
        batches = ordered_batches(self._examples(split))
        for batch in batches:
            losses = self.losses(model, to_device(batch, device))
            squares += torch.stack(list(losses.values())).cpu() * len(batch[0])
        rows = sum(len(batch[0]) for batch in batches)
        means = (squares / rows).tolist()
        scaled = zip(self.tasks, means, self.sigmas, strict=True)
        return {task.name: mean / sigma**2 for task, mean, sigma in scaled}

    def _examples(self, split: Split) -> tuple[Tensor, Tensor]:
        return generate(self.sigmas, self.sizes, self.data_seed)[split]


def _sigmas(functions: int, sigma_max: float) -> tuple[float, ...]:
    """sigma_1 = 1 to sigma_T = ``sigma_max``, evenly spaced in their logarithm."""
    return tuple(sigma_max ** (i / max(functions - 1, 1)) for i in range(functions))


@lru_cache(maxsize=4)
def generate(sigmas: tuple[float, ...], sizes: tuple[int, int, int], seed: int) -> Examples:
    """Draw the functions and their examples; kept in this process for the trials that follow.

    Args:
        sigmas: sigma_i of each task.
        sizes: examples in train, val and test.
        seed: fixes every draw.

    Returns:
        For each split, x (N, 250) and f(x) (N, T, 100), float32.
    """
    random = torch.Generator().manual_seed(seed)
    shared = SHARED_VARIANCE**0.5 * torch.randn(OUTPUTS, INPUTS, generator=random)
    own = OWN_VARIANCE**0.5 * torch.randn(len(sigmas), OUTPUTS, INPUTS, generator=random)
    x = torch.randn(sum(sizes), INPUTS, generator=random) / INPUTS**0.5
    y = torch.tensor(sigmas)[:, None] * torch.einsum("nd,iod->nio", x, shared + own).tanh()
    train, val, test = zip(torch.split(x, [*sizes]), torch.split(y, [*sizes]), strict=True)
    return {"train": train, "val": val, "test": test}
