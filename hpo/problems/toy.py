"""The toy problem of the GradNorm paper, Section 4: regressions that differ only in scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.core.errors import ProblemError
from hpo.core.text import complaint
from hpo.problems.arguments import check_batch_size, check_choice, check_count, check_positive, shown
from hpo.problems.base import Problem, Split, Task, to_device
from hpo.problems.data_cache import ShuffledBatches, ordered_batches, short_hash
from hpo.problems.tabular import SharedTrunk

INPUTS = 250
OUTPUTS = 100
HIDDEN = (100, 100, 100, 100)
SHARED_VARIANCE = 10.0  # of B's elements
OWN_VARIANCE = 3.5  # of eps_i's elements
MOST_FUNCTIONS = 100  # whose default examples take 320 MB
LARGEST_RATIO = 1e18  # of two sigmas; beyond it float32 has no weights as far apart as their squares
GENERATOR_VERSION = 1  # raise it with every change of what `generate` returns

Heads = Literal["plain", "scaled"]
Inputs = Literal["short", "normal"]
Source = Literal["fixed", "stream"]
Optimizer = Literal["adam", "sgd"]
Examples = dict[Split, tuple[Tensor, Tensor]]


class Toy(Problem):
    """The GradNorm paper's toy: functions of one form whose scales run from 1 to ``sigma_max``.

    From "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks" (Chen,
    Badrinarayanan, Lee, Rabinovich, ICML 2018, https://arxiv.org/abs/1711.02257), Section 4. Task i regresses::

        f_i(x) = sigma_i tanh((B + eps_i) x)

    with x of dimension 250 and f_i(x) of dimension 100, the elements of B drawn from N(0, 10) and those of eps_i
    from N(0, 3.5) (variances), both constant. The network is a trunk of four ReLU layers of 100 neurons and an
    affine head for each task; each loss is the squared error, in the units of sigma_i^2. All tasks are equally hard,
    but with equal weights the largest sigma dominates. The paper trains T = 2 with sigma 1 and 100, and T = 10.

    The tasks differ in nothing but their scale, and ``1 / sigma_i^2`` takes it out of the losses: these are the
    `known_weights`. They also take it out of the *gradients*, but only with heads that know their scale
    (``heads="scaled"``): the initial outputs of a plain head are about 1 for any sigma, so that the gradient of a
    task is at first proportional to sigma_i, not sigma_i^2, and reaches sigma_i^2 only as the head grows.
    docs/problems/toy.md describes the consequences.

    The paper leaves these choices open; they are made here as follows:

    - The distribution of x. ``inputs="short"`` is N(0, I / 250), of length about 1: the arguments of tanh then have a
      standard deviation of 3.7. ``"normal"`` is N(0, I): it is 58 then, and the tanh a sign.
    - Whether examples repeat. ``examples="fixed"`` is one set drawn from ``data_seed``; ``"stream"`` draws new ones
      for every batch, so that overfitting is impossible.
    - Optimizer, learning rate, batch size and length of the run.
    - The scales for T = 10. Here they are spaced evenly in their logarithm; ``sigmas`` gives others.
    - The metric is the test loss over sigma_i^2, where the paper divides by L_i(0). Both remove the scale; this one
      does not depend on the initial network. Predicting 0 scores 0.79. A study's score is relative to single-task
      networks, so a common factor of a task's metric does not change it.

    Args:
        functions: T, the number of tasks, ``"f1"`` to ``"fT"``, at most 100. Paper: 2 and 10.
        sigma_max: the largest scale; the smallest is 1. One function alone has sigma 1. Paper (T = 2): 100.
        sigmas: the scales themselves; ``functions`` and ``sigma_max`` are then not read.
        heads: ``"plain"`` is the paper's affine head, ``"scaled"`` multiplies the output of head i by sigma_i.
        inputs: ``"short"`` or ``"normal"``, the distribution of x.
        examples: ``"fixed"`` or ``"stream"``, in training; val and test are fixed.
        optimizer: ``"adam"``, or ``"sgd"`` (momentum 0.9).
        data_seed: fixes B, eps_i and the examples.
        train: examples in the training split, and in an epoch of a stream.
        val: examples in the validation split.
        test: examples in the test split.
        batch_size: examples in a training batch.
        epochs: passes over the training examples; 10 take 1 s on one core for T = 2, 2 s for T = 10.
        learning_rate: of the optimizer.

    Raises:
        ProblemError: an argument out of its range.

    >>> [task.name for task in Toy(functions=3).tasks]
    ['f1', 'f2', 'f3']
    >>> Toy(sigmas=[1, 10]).known_weights
    {'f1': 1.0, 'f2': 0.01}
    """

    def __init__(
        self,
        functions: int = 2,
        *,
        sigma_max: float = 100.0,
        sigmas: Sequence[float] | None = None,
        heads: Heads = "plain",
        inputs: Inputs = "short",
        examples: Source = "fixed",
        optimizer: Optimizer = "adam",
        data_seed: int = 0,
        train: int = 5000,
        val: int = 1000,
        test: int = 2000,
        batch_size: int = 100,
        epochs: int = 10,
        learning_rate: float = 2e-3,
    ) -> None:
        self.sigmas = _chosen_sigmas(functions, sigma_max, sigmas)
        self.tasks = [Task(f"f{number}", "MSE / sigma^2") for number in range(1, len(self.sigmas) + 1)]
        if max(self.sigmas) / min(self.sigmas) < LARGEST_RATIO:
            self.known_weights = {task.name: sigma**-2 for task, sigma in zip(self.tasks, self.sigmas, strict=True)}
        self.heads = check_choice("heads", heads, get_args(Heads))
        self.inputs = check_choice("inputs", inputs, get_args(Inputs))
        self.examples = check_choice("examples", examples, get_args(Source))
        self.optimizer = check_choice("optimizer", optimizer, get_args(Optimizer))
        self.data_seed = check_count("data_seed", data_seed, minimum=0)
        self.sizes = (check_count("train", train), check_count("val", val), check_count("test", test))
        self.batch_size = check_batch_size(batch_size, train)
        self.epochs = check_count("epochs", epochs)
        self.learning_rate = check_positive("learning_rate", learning_rate)

    def data_hash(self) -> str:
        """Name the functions and the examples."""
        return short_hash("toy", GENERATOR_VERSION, *self._data(), self.examples)

    def build_model(self, seed: int) -> SharedTrunk:
        """The paper's network: a trunk of four layers and an affine head of width 100 for each task."""
        return SharedTrunk(INPUTS, HIDDEN, {task.name: OUTPUTS for task in self.tasks}, seed)

    def predict(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Return the network's f_i(x), (B, 100), by task name."""
        factors = self.sigmas if self.heads == "scaled" else [1.0] * len(self.sigmas)
        outputs = model(x)
        return {task.name: factor * outputs[task.name] for task, factor in zip(self.tasks, factors, strict=True)}

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The fourth layer of the trunk."""
        return cast(SharedTrunk, model).shared_layer

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam, or stochastic gradient descent with momentum 0.9."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=0.9)
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate)

    def loader(self, split: Split, seed: int) -> Iterable[tuple[Tensor, ...]]:
        """Batches of inputs (B, 250) and targets (B, T, 100), float32; val and test in stored order."""
        if split == "train" and self.examples == "stream":
            return StreamedBatches(*self._data(), self.batch_size, seed)
        if split == "train":
            return ShuffledBatches(self._examples(split), self.batch_size, seed)
        return ordered_batches(self._examples(split))

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Squared error of each function, mean over examples and outputs, in units of sigma_i^2."""
        x, targets = batch
        outputs = self.predict(model, x)
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

    def _data(self) -> tuple[tuple[float, ...], tuple[int, int, int], int, str]:
        """The arguments of `generate`."""
        return self.sigmas, self.sizes, self.data_seed, self.inputs

    def _examples(self, split: Split) -> tuple[Tensor, Tensor]:
        return generate(*self._data())[split]


def _chosen_sigmas(functions: int, sigma_max: float, sigmas: Sequence[float] | None) -> tuple[float, ...]:
    """The scales as given, or from 1 to ``sigma_max``, evenly spaced in their logarithm."""
    if sigmas is None:
        count = check_count("functions", functions, maximum=MOST_FUNCTIONS)
        largest = check_positive("sigma_max", sigma_max)
        return tuple(largest ** (i / max(count - 1, 1)) for i in range(count))
    if not isinstance(sigmas, list | tuple) or not 0 < len(sigmas) <= MOST_FUNCTIONS:
        raise ProblemError(complaint("sigmas", f"a list of 1 to {MOST_FUNCTIONS} numbers", shown(sigmas)))
    return tuple(check_positive(f"sigmas[{place}]", sigma) for place, sigma in enumerate(sigmas))


def _draw_maps(random: torch.Generator, functions: int) -> Tensor:
    """B + eps_i of each task, (T, 100, 250)."""
    shared = torch.randn(OUTPUTS, INPUTS, generator=random).mul_(SHARED_VARIANCE**0.5)
    return torch.randn(functions, OUTPUTS, INPUTS, generator=random).mul_(OWN_VARIANCE**0.5).add_(shared)


def _draw_inputs(random: torch.Generator, count: int, inputs: str) -> Tensor:
    x = torch.randn(count, INPUTS, generator=random)
    return x / INPUTS**0.5 if inputs == "short" else x


def _functions(sigmas: tuple[float, ...], maps: Tensor, x: Tensor) -> Tensor:
    """f_i(x), (N, T, 100)."""
    return torch.tensor(sigmas)[:, None] * torch.einsum("nd,iod->nio", x, maps).tanh()


@lru_cache(maxsize=4)
def generate(sigmas: tuple[float, ...], sizes: tuple[int, int, int], seed: int, inputs: str = "short") -> Examples:
    """Draw the functions and their examples; kept in this process for the trials that follow.

    Args:
        sigmas: sigma_i of each task.
        sizes: examples in train, val and test.
        seed: fixes every draw.
        inputs: ``"short"`` or ``"normal"``.

    Returns:
        For each split, x (N, 250) and f(x) (N, T, 100), float32.
    """
    random = torch.Generator().manual_seed(seed)
    maps = _draw_maps(random, len(sigmas))
    x = _draw_inputs(random, sum(sizes), inputs)
    y = _functions(sigmas, maps, x)
    train, val, test = zip(torch.split(x, [*sizes]), torch.split(y, [*sizes]), strict=True)
    return {"train": train, "val": val, "test": test}


class StreamedBatches:
    """Batches of new examples of the same functions as `generate` draws; equal objects give the same stream.

    Args:
        sigmas: as for `generate`.
        sizes: the first says how many examples make an epoch.
        data_seed: of the functions.
        inputs: as for `generate`.
        size: examples in a batch.
        seed: fixes the stream.
    """

    def __init__(
        self,
        sigmas: tuple[float, ...],
        sizes: tuple[int, int, int],
        data_seed: int,
        inputs: str,
        size: int,
        seed: int,
    ) -> None:
        self._sigmas, self._inputs, self._size, self._batches = sigmas, inputs, size, sizes[0] // size
        self._maps = _draw_maps(torch.Generator().manual_seed(data_seed), len(sigmas))
        own = int(short_hash("stream", data_seed, seed), 16) % 2**63  # not the numbers that the functions are made of
        self._generator = torch.Generator().manual_seed(own)

    def __len__(self) -> int:
        """Batches in one epoch."""
        return self._batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The next batches of the stream."""
        for _ in range(self._batches):
            x = _draw_inputs(self._generator, self._size, self._inputs)
            yield x, _functions(self._sigmas, self._maps, x)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state from which the next ``iter()`` starts."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self._generator.set_state(state["generator"])
