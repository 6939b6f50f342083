"""The interface a user implements: a model, its data, its tasks and its optimizer. Needs torch alone."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from balancers.shared_layer import SharedOrAuto
from hpo.core.change import ALLOWED, Change, is_change
from hpo.core.errors import ProblemError
from hpo.core.text import complaint, quoted
from hpo.problems.code_digest import NO_IDENTITY

Split = Literal["train", "val", "test"]
Optimizer = torch.optim.Optimizer
Optimizers = Optimizer | tuple[Optimizer, LRScheduler] | list[Optimizer | tuple[Optimizer, LRScheduler]]

LONGEST_NAME = 200  # MLflow takes 250 characters, "mean_w_geometric_tail/" and the like before it among them
# What MLflow takes in a metric's name and every file system takes in a file's name.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")
# What MLflow takes in a parameter's name.
_RECORDABLE = re.compile(r"\w[\w.\-: ]*(/\w[\w.\-: ]*)*")
RECORDABLE = (
    f"at most {LONGEST_NAME} letters, digits, '_', '-', '.', ':', spaces and '/', each part beginning with a letter, "
    "a digit or '_' (it names an MLflow parameter)"
)


def is_recordable(name: str) -> bool:
    """Return whether MLflow accepts the name of a problem's argument as the name of a parameter."""
    return len(name) <= LONGEST_NAME and _RECORDABLE.fullmatch(name) is not None


@dataclass(frozen=True)
class Task:
    """One named loss with its own metric.

    Args:
        name: at most 200 letters, digits, ``_``, ``-``, ``.`` and spaces; it names metrics and columns.
        metric: what `Problem.evaluate` measures for it, as a person reads it: ``"AUC"``, ``"RMSE (years)"``.
        direction: whether a smaller or a larger metric is better.
        change: how the score measures its change against the metric b of the single-task network: ``"relative"``,
            100 (m - b) / |b|; ``"absolute"``, 100 (m - b), which are percentage points of a metric from 0 to 1 such
            as R2 or accuracy; or a number s > 0, the difference that counts as 100%, 100 (m - b) / s. Trials do not
            depend on it.
    """

    name: str
    metric: str
    direction: Literal["minimize", "maximize"] = "minimize"
    change: Change = field(default="relative", repr=False, metadata=NO_IDENTITY)  # data hashes are made of the repr

    @property
    def sign(self) -> Literal[1, -1]:
        """+1 if a smaller metric is better, -1 if a larger one is."""
        return 1 if self.direction == "minimize" else -1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ProblemError(
                complaint(
                    "tasks",
                    "letters, digits, '_', '-', '.' and spaces, the first a letter, a digit or '_' (it names MLflow "
                    "metrics and files)",
                    f"the name {self.name!r}",
                )
            )
        if len(self.name) > LONGEST_NAME:
            raise ProblemError(
                complaint(
                    "tasks",
                    f"at most {LONGEST_NAME} (it names MLflow metrics)",
                    f"a name of {len(self.name)} characters, {self.name[:40]!r}...",
                )
            )
        if not isinstance(self.metric, str) or not self.metric.strip():
            raise ProblemError(f"tasks: task {self.name!r} has no metric, name what evaluate() measures for it")
        if self.direction not in ("minimize", "maximize"):
            raise ProblemError(
                complaint(f"tasks: direction of {self.name!r}", "'minimize' or 'maximize'", repr(self.direction))
            )
        if not is_change(self.change):
            raise ProblemError(complaint(f"tasks: change of {self.name!r}", ALLOWED, quoted(self.change)))


class Problem(ABC):
    """A multitask network with its data, as a study trains it many times over.

    Subclass it, name the class in a study file as ``package.module:Class`` or register it under the entry-point
    group ``gradsweep.problems``. Keyword arguments of ``__init__`` are what ``problem:`` in the study file may set.

    Attributes:
        tasks: one `Task` for each loss, in the order used everywhere.
        epochs: passes over the training data that one trial makes; a trial of a study whose file says another number
            finds that one here, so that a learning-rate schedule may rest on it.
        known_weights: for each task a weight > 0, where the problem was made so that these are known to be best, as
            in a toy; the report then says how far everything is from them. ``None`` for real data.
        schedule_per: when the schedules of `build_optimizer` step: after each ``"epoch"``, or after each ``"step"``.
        clip_norm: before each step, the gradient of the weighted sum is scaled down to this L2 norm over all
            parameters that are trained, if it is larger; in a cohort, that of each trial. ``None`` does not clip.
        autocast: ``torch.bfloat16`` calls `losses` and `evaluate` under ``torch.autocast``; ``None`` does not.
            float16 is refused, since it needs a loss scale. Trials are trained one at a time, since vmap leaves
            autocast out in some layers.
    """

    tasks: Sequence[Task]
    epochs: int = 10
    known_weights: Mapping[str, float] | None = None
    schedule_per: Literal["epoch", "step"] = "epoch"
    clip_norm: float | None = None
    autocast: torch.dtype | None = None

    def prepare(self) -> None:  # noqa: B027 - optional on purpose
        """Make what every trial on this machine shares (a cache on disk). Called once before any trial."""

    def data_hash(self) -> str:
        """Name the data: the same hash, the same examples, in every process.

        The default is made from the class's name and the attributes of the instance: plain values, tensors, arrays,
        sets, datasets and dataclasses by their content, functions by their code, any other object by its type. Define
        your own where data are in files that may change, or where reading all of them takes long.
        """
        from hpo.problems.data_digest import attribute_texts

        text = json.dumps([type(self).__qualname__, attribute_texts(self)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @abstractmethod
    def build_model(self, seed: int) -> nn.Module:
        """A new network; the same ``seed`` gives the same initial parameters."""

    def shared_layer(self, model: nn.Module) -> SharedOrAuto:
        """W of the GradNorm paper: the last layer whose weights all tasks share.

        A module, a parameter, or a list of these. Default: ``"auto"``, which finds the last layer that every task
        reaches (`balancers.find_shared_layer`) on the first batches of the trial's seed; ``gradsweep check`` says
        which.
        """
        del model
        return "auto"

    @abstractmethod
    def loader(self, split: Split, seed: int) -> Iterable[Any]:
        """Batches of a split: iterated once an epoch, for ``train`` in a new order each, fixed by ``seed``."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """One scalar loss with graph for each task, by name, on one batch."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The metric of each task on a whole split. Called in evaluation mode, without autograd.

        On ``val`` after each epoch; on ``test``, and for the report's gap on ``train``, at the end of confirm trials,
        or, with ``select: best`` in the study file, after each of their epochs that may be the best on ``val``.
        """

    def build_optimizer(self, model: nn.Module) -> Optimizers:
        """The network's optimizer, new for each trial. Default: Adam with learning rate 1e-3.

        With a learning-rate schedule, return ``(optimizer, schedule)``: any of `torch.optim.lr_scheduler` but
        ReduceLROnPlateau, or an object of yours with ``step()``, ``state_dict`` and ``load_state_dict``. Its state is
        part of the checkpoint. `schedule_per` says when it steps, `epochs` how long a trial is.

        Several optimizers are a list, each with or without a schedule; trials of such a problem are trained one at a
        time. An optimizer whose ``step`` needs a closure, such as L-BFGS, is refused.
        """
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def shard(self, batch: Any, rank: int, size: int) -> Any:
        """Return the share of a batch that one of several processes trains on (``resources.workers`` in a study).

        Override it for batches of other things than tensors and arrays that begin with the dimension of the examples.
        The shares of all ranks are the batch, and equally large, so that means over them are those of the batch.

        Args:
            batch: of ``loader("train")``.
            rank: of the process, from 0.
            size: number of processes.
        """
        return share_of(batch, rank, size)

    def batches(self, split: Split, device: torch.device, seed: int = 0) -> Iterator[Any]:
        """One pass over `loader`, each batch moved to ``device``: what `evaluate` usually loops over."""
        for batch in self.loader(split, seed):
            yield to_device(batch, device)


def share_of(batch: Any, rank: int, size: int) -> Any:
    """Return one of ``size`` equal shares of a batch of tensors and arrays, in tuples, lists and mappings.

    Raises:
        ProblemError: the examples cannot be divided equally, or a part of the batch has no examples.
    """
    if isinstance(batch, Mapping):
        return {key: share_of(value, rank, size) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [share_of(value, rank, size) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if batch is None:
        return None
    if not getattr(batch, "shape", ()):
        rule = "tensors whose first dimension is that of the examples, which processes share, or a shard() of yours"
        raise ProblemError(complaint("loader('train')", rule, f"{type(batch).__name__} in a batch"))
    count = batch.shape[0]
    if count % size:
        rule = "a number that divides every batch (drop_last=True leaves out a shorter last one)"
        raise ProblemError(complaint("resources.workers", rule, f"{size} for a batch of {count} examples"))
    return batch[rank * count // size : (rank + 1) * count // size]


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a batch to a device.

    An object whose class has a method ``to``, such as a batch of PyG, a tokenizer's ``BatchEncoding`` or a dataclass
    of yours, is moved by ``batch.to(device)``, whatever else it is. Tuples, lists and mappings are moved part by
    part; anything else passes through.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if callable(getattr(type(batch), "to", None)):
        moved = batch.to(device)
        return batch if moved is None else moved  # some move themselves and return nothing
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [to_device(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
