"""Balancers for other published methods, implemented by torchjd (https://torchjd.org), an optional extra.

There are two kinds. A *scalarizer* combines the losses into one: its weights are ``w_i = d(scalar)/dL_i``. An
*aggregator* combines the T gradients of parameters that several tasks share into one: its weights are those of
``sum_i w_i grad L_i``. Parameters of a single task follow that task's own gradient, as in the papers.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from balancers.adam import VectorAdam
from balancers.adaptive import Adaptive
from balancers.balance import not_finite
from balancers.base import Balancer, StepRecord
from balancers.cut import NoCut, leaves_of
from balancers.deferred import deferred
from balancers.losses import Losses, StepLosses, known, on_host
from balancers.ranks import mean_over_ranks, several_ranks, sum_over_ranks
from balancers.sharded import is_sharded
from balancers.shared_gradients import unnoticed_by_ddp
from balancers.torch_private import has_hooks
from balancers.troubles import below_zero
from balancers.weights import fail, refuse

# Class and arguments, by the name a study uses; T stands for the number of tasks. Where the library has no default,
# the paper's value.
SCALARIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dwa": ("DWA", {}),  # Liu, Johns, Davison, CVPR 2019
    "famo": ("FAMO", {"shape": "T"}),  # Liu, Feng, Stone, Liu, NeurIPS 2023
    "geometric_mean": ("GeometricMean", {}),  # Chennupati et al., CVPR workshops 2019
    "imtl_l": ("IMTLL", {"shape": "T"}),  # Liu et al., ICLR 2021
    "random": ("Random", {}),  # Lin, Ye, Zhang, Tsang, TMLR 2022
}
AGGREGATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "aligned_mtl": ("AlignedMTL", {}),  # Senushkin et al., CVPR 2023
    "cagrad": ("CAGrad", {"c": 0.4}),  # Liu et al., NeurIPS 2021; c of its NYUv2 runs
    "excess_mtl": ("ExcessMTL", {}),  # He et al., ICML 2024
    "fairgrad": ("FairGrad", {"alpha": 2.0}),  # Ban, Ji, ICML 2024; alpha of its NYUv2 runs
    "gradvac": ("GradVac", {}),  # Wang et al., ICLR 2021
    "imtl_g": ("IMTLG", {}),  # Liu et al., ICLR 2021
    "mgda": ("MGDA", {}),  # Sener, Koltun, NeurIPS 2018
    "nash_mtl": ("NashMTL", {"n_tasks": "T"}),  # Navon et al., ICML 2022
    "pcgrad": ("PCGrad", {}),  # Yu et al., NeurIPS 2020
    "upgrad": ("UPGrad", {}),  # Quinton, Rey, 2024
}
STATEFUL = ("excess_mtl", "gradvac", "nash_mtl")  # keep numbers for each task from step to step
POSITIVE = ("famo", "geometric_mean")  # take the logarithm of each loss
NAMES = (*SCALARIZERS, *AGGREGATORS)


def installed() -> bool:
    """Return whether torchjd is installed."""
    return find_spec("torchjd") is not None


def torchjd_balancer(name: str, tasks: Sequence[str], **settings: Any) -> Balancer:
    """Create the balancer of a torchjd method.

    Args:
        name: one of `NAMES`.
        tasks: names of the tasks.
        settings: arguments of torchjd's class; they override our defaults.

    Raises:
        ValueError: an unknown name; an argument that the method refuses.
        ImportError: torchjd, or another package that the method needs, is not installed.
    """
    if name not in NAMES:
        fail("name", f"one of {', '.join(NAMES)}", repr(name))
    return Scalarized(tasks, name, **settings) if name in SCALARIZERS else Aggregated(tasks, name, **settings)


class _Library(Adaptive):
    """The base class of both kinds: the library's object, its state and its random numbers."""

    sums_to_T = False

    def __init__(self, tasks: Sequence[str], module: str, entry: tuple[str, dict[str, Any]], **settings: Any) -> None:
        super().__init__(tasks)
        self._name = next(name for name, known in (SCALARIZERS | AGGREGATORS).items() if known is entry)
        self._adam = VectorAdam(len(self.tasks), lr=0.025)
        kind, ours = entry
        arguments = {key: len(self.tasks) if value == "T" else value for key, value in (ours | settings).items()}
        self._method: Any = getattr(import_module(module), kind)(**arguments)
        self._random = torch.Generator().manual_seed(0).get_state()

    def _kind(self) -> str:
        return f"{type(self).__name__} ({self._name})"

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Replace torch's global generators, which the library uses, by one that is equal on all ranks and saved."""
        devices = [self._w.device] if self._w.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self._random)
            if devices:
                torch.cuda.manual_seed(self._step)
            yield
            self._random = torch.get_rng_state()

    def state_dict(self) -> dict[str, Any]:
        """See `Balancer.state_dict`."""
        own = {"adam": self._adam.state_dict(), "method": _state(self._method), "random": self._random.clone()}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Balancer.load_state_dict`."""
        super().load_state_dict(state)
        self._adam.load_state_dict(state["adam"])
        _restore(self._method, state["method"])
        self._random = state["random"].clone()

    def _move(self, like: Tensor) -> None:
        super()._move(like)
        self._adam.to(like)
        self._method.to(like)


class Scalarized(_Library):
    """A scalarizer of torchjd. Its own parameters, if it learns any, have an Adam here (learning rate 0.025).

    FAMO needs the losses of the same batch after the step. A balancer sees each batch only once, so FAMO gets the
    losses of the next batch. For a task that is absent, the library gets its last loss; so does IMTL-L for one whose
    loss is below 0, where its scale has no minimum and the weight would grow without end.

    Args:
        tasks: names of the tasks.
        name: a key of `SCALARIZERS`.
        settings: arguments of the scalarizer.
    """

    def __init__(self, tasks: Sequence[str], name: str, **settings: Any) -> None:
        super().__init__(tasks, "torchjd.scalarization", SCALARIZERS[name], **settings)
        self._name, self._positive, self._scales = name, name in POSITIVE, name == "imtl_l"
        self._seen = torch.ones(len(self.tasks))  # what the library was shown last
        self._ended = 0  # the step after which `end_epoch` was called last

    def _weigh(self, step: StepLosses) -> Tensor:
        seen = mean_over_ranks(step.values)
        numbers, present = known(seen), None
        whole = numbers is not None and all(
            number > 0 or (abs(number) > 0 and not self._scales) for number in numbers
        )
        if not whole:  # NaN is not above 0
            present = seen > 0 if self._scales else seen.abs() > 0
        # Where it is refused w stays, and the library is shown the loss before once more.
        refused = not_finite(seen) if whole else not_finite(torch.where(seen.isnan(), 0, seen)) | seen.isnan().all()
        kept = refused if present is None else refused | ~present
        values = torch.where(kept, self._seen, seen).requires_grad_()
        self._refuse(values.detach())
        if hasattr(self._method, "update") and self._step:
            self._method.update(values.detach())
        with self._own_random(), torch.enable_grad():
            scalar = self._method(values)
        learned = list(self._method.parameters())
        w, *gradients = torch.autograd.grad(scalar, [values, *learned], allow_unused=True)
        self._not_finite += refused
        for parameter, gradient in zip(learned, gradients, strict=True):
            if gradient is not None:  # a number for each task
                before = parameter.data.clone()
                self._adam.move(parameter.data, gradient, refused.float(), present)
                parameter.data = parameter.data if present is None else torch.where(present, parameter.data, before)
        self._w, self._seen = torch.where(kept, self._w, w), values.detach()
        self._used(StepRecord(self._w, step.values))
        return step.weighted(self._w, step.L)

    def _refuse(self, values: Tensor) -> None:
        if not self._positive or (self._step & (self._step - 1) and not on_host(values)):
            return  # on a device only at some steps, since it waits for the device
        if bool((values < 0).any()):
            number = int(values.argmin())
            rule = f"a number >= 0, of which {self._name} takes the logarithm"
            refuse(f"losses[{self.tasks[number]!r}]", rule, float(values[number]))

    def _notes(self) -> Iterator[tuple[str, str]]:
        yield from super()._notes()
        if self._scales:
            yield from below_zero(self.tasks, self._troubles.read())

    def end_epoch(self) -> None:
        """See `Balancer.end_epoch`. DWA averages over it; a second call without a step in between does nothing."""
        if hasattr(self._method, "step") and self._step > self._ended:
            self._method.step()
        self._ended = self._step

    def state_dict(self) -> dict[str, Any]:
        """See `Balancer.state_dict`."""
        return super().state_dict() | {"seen": self._seen.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Balancer.load_state_dict`."""
        super().load_state_dict(state)
        self._seen = state["seen"].clone()

    def _move(self, like: Tensor) -> None:
        super()._move(like)
        self._seen = self._seen.to(like)


class Aggregated(_Library):
    """An aggregator of torchjd that has weights, over all parameters that several tasks share.

    It costs T passes through the trunk and memory for T gradients, and each step waits for the device, because most
    of these methods do.

    Args:
        tasks: names of the tasks.
        name: a key of `AGGREGATORS`.
        settings: arguments of the aggregator.

    Raises:
        ValueError: in a step: the losses share no parameter, or a parameter has a hook, which would run twice, or
            is sharded over ranks (FSDP).
    """

    positive = False

    def __init__(self, tasks: Sequence[str], name: str, **settings: Any) -> None:
        super().__init__(tasks, "torchjd.aggregation", AGGREGATORS[name], **settings)

    def __call__(self, losses: Losses) -> Tensor:
        """Return a scalar of value ``sum_i w_i(t-1) L_i``, whose ``backward()`` fills ``.grad`` and moves w."""
        return super().__call__(losses)

    def _weigh(self, step: StepLosses) -> Tensor:
        return deferred(step.weighted(self._w, step.L.detach()), lambda scale: self._run(step, scale))

    def _train(self, step: StepLosses) -> None:
        """Fill ``.grad``; parameters of a single task get that task's own gradient."""
        self._run(step, None if self.accumulate == 1 else step.values.new_tensor(1 / self.accumulate))

    def _join(self, empty: StepLosses) -> None:
        if several_ranks():
            self._present(empty)

    def _present(self, step: StepLosses) -> list[int]:
        """Return the positions in the step of the tasks that are present."""
        if several_ranks():
            there = (step.values.abs() > 0).float() + 1  # above 0, so that the mean is over all ranks
            if not torch.equal(mean_over_ranks(there), there):
                fail("losses", "the same tasks on all ranks", "some that are absent on one")
        values = step.values.tolist()
        if all(map(math.isnan, values)):
            return list(range(len(step.numbers)))  # diverged: the step is refused below
        return [k for k, number in enumerate(step.numbers) if abs(values[number]) > 0]

    def _run(self, step: StepLosses, scale: Tensor | None) -> None:
        places = self._present(step)
        numbers, ordered = [step.numbers[k] for k in places], [step.graphs[k] for k in places]
        if len(ordered) < 2 <= len(self.tasks):
            factors = torch.ones_like(step.L) if scale is None else scale.expand_as(step.L)
            step.backward(factors if step.clean else torch.where(step.L.detach().isnan(), 0, factors))
            self._used(StepRecord(self._w, step.values))
            return
        shared, own = _leaves(ordered)
        filled: list[tuple[Tensor, Tensor | None]] = []
        rows = []
        with unnoticed_by_ddp(ordered):
            for i, loss in enumerate(ordered):
                leaves, last = [*shared, *own[i]], i == len(ordered) - 1
                factor = None if scale is None else scale.to(loss).reshape(loss.shape)
                gradients = torch.autograd.grad(loss, leaves, factor, retain_graph=not last, allow_unused=True)
                pairs = zip(shared, gradients, strict=False)
                rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]))
                filled += zip(own[i], gradients[len(shared) :], strict=True)
        jacobian = torch.stack(rows)
        if several_ranks():
            jacobian = sum_over_ranks(jacobian)[0] / dist.get_world_size()
        w = self._settle(numbers, jacobian if scale is None else jacobian / scale)
        parts = torch.split(w.to(jacobian) @ jacobian, [p.numel() for p in shared])
        filled += [(p, part.view_as(p)) for p, part in zip(shared, parts, strict=True)]
        there = [(p, g) for p, g in filled if g is not None]
        torch.autograd.backward([p for p, _ in there], [g for _, g in there])
        self._used(StepRecord(self._w, step.values))

    def _settle(self, numbers: Sequence[int], jacobian: Tensor) -> Tensor:
        """Return the weights of the tasks that are present, (n,); w(t) has those of all.

        A method that keeps numbers for each task leaves w unchanged in a step in which a task is absent.
        """
        finite = bool(jacobian.isfinite().all())
        self._not_finite += not finite
        if finite and (len(numbers) == len(self.tasks) or self._name not in STATEFUL):
            moved = self._weights_of(jacobian).to(self._w)
            if len(numbers) == len(self.tasks):
                self._w = moved
            else:
                self._w = self._w.clone()
                self._w[numbers] = moved
        return self._w if len(numbers) == len(self.tasks) else self._w[numbers]

    def _weights_of(self, jacobian: Tensor) -> Tensor:
        with self._own_random(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # cvxpy's, on the form of NashMTL's problem
            w: Tensor = self._method.weighting(jacobian)
        return w.detach()


def _leaves(losses: Sequence[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return the leaves that several tasks reach, and those that each task alone reaches.

    Raises:
        ValueError: no leaf is shared, or a leaf has a hook or is sharded over ranks.
    """
    try:
        shared, own = leaves_of(losses)
    except NoCut as reason:
        raise ValueError(f"losses: expected results of operations, got a graph where {reason}") from None
    if not shared:
        fail("losses", "parameters that at least two losses depend on", "none")
    every = [*shared, *(p for leaves in own for p in leaves)]
    if is_sharded(every):
        fail("losses", "parameters that each rank holds whole, for a method that combines gradients", "sharded ones")
    if any(map(has_hooks, every)):
        fail("losses", "parameters without hooks (register_hook)", "one with a hook, which would run twice")
    return shared, own


def _state(method: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the state of a method of the library, much of which is in plain attributes."""
    return {name: _attributes(part) for name, part in method.named_modules()}


def _attributes(part: nn.Module) -> dict[str, Any]:
    plain = vars(nn.Module())
    everything = {k: v for k, v in vars(part).items() if k not in plain} | part._parameters | part._buffers
    kept: dict[str, Any] = {}
    for key, value in everything.items():
        if isinstance(value, torch.optim.Optimizer):
            kept[key] = {"optimizer": copy.deepcopy(value.state_dict())}
        elif type(value).__module__ == "numpy":
            kept[key] = {"numpy": torch.as_tensor(value).clone()}
        elif isinstance(value, Tensor):
            kept[key] = value.detach().clone()
        elif isinstance(value, list) and all(isinstance(one, Tensor) for one in value):
            kept[key] = [one.clone() for one in value]
        elif value is None or isinstance(value, bool | int | float | str | tuple):
            kept[key] = value
    return kept


def _restore(method: nn.Module, state: Mapping[str, Mapping[str, Any]]) -> None:
    for name, part in method.named_modules():
        for key, value in state[name].items():
            if isinstance(value, dict) and "optimizer" in value:
                optimizer = torch.optim.Adam(part.parameters(), lr=part.lr, weight_decay=part.weight_decay)  # FAMO's
                optimizer.load_state_dict(copy.deepcopy(value["optimizer"]))
                setattr(part, key, optimizer)
            elif isinstance(value, dict):
                setattr(part, key, value["numpy"].numpy().copy())
            elif key in part._parameters:
                part._parameters[key].data = value.clone()
            else:
                setattr(part, key, copy.deepcopy(value))
        rebuild: Callable[[], None] | None = getattr(part, "_init_optim_problem", None)
        if rebuild is not None and part.step:
            rebuild()  # NashMTL's, which it builds in its first step only
