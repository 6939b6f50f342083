"""Cost of GradNorm in a training step, compared with a static step in the same process.

    pip install -e '.[bench]' -c constraints.txt     # for gradnorm-pytorch; without it that column is left out
    python -m benchmarks.step                        # one thread, CPU; some minutes
    python -m benchmarks.step --device cuda
    python -m benchmarks.step --before ../main       # beside GradNorm of another checkout, in the same rounds
    python -m benchmarks.step --clock processor      # where others use the machine too
    python -m benchmarks.step --rounds 0             # memory and calls alone, which do not depend on the load

Every contender trains its own copy of one network: forward, losses, backward, Adam. In each round all run in turn, in
changing order, and a round's figure is the ratio of the contender's time to that of the static step next to it. The
*floor* is a static step plus T-1 weight-gradients of W, the minimum for any exact GradNorm.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from balancers import GradNorm
from benchmarks.networks import Shape
from benchmarks.shapes import SHAPES
from hpo.tracking.backend import machine

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells each start and stop
ALPHA = 0.5
Backward = Callable[[dict[str, Tensor]], None]


def static(network: Shape) -> Backward:
    """Return the usual fixed weighted sum."""
    w = torch.ones(len(network.tasks), device=network.x.device)
    return lambda losses: (w * torch.stack(list(losses.values()))).sum().backward()


def floor(network: Shape) -> Backward:
    """Return the static step plus T-1 weight-gradients of W, from inputs and gradients of the right shape."""
    layers = list(network.shared) if isinstance(network.shared, nn.ModuleList) else [network.shared]
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    hooks = [layer.register_forward_hook(lambda m, x, z: kept.update({m: (x[0].detach(), z)})) for layer in layers]
    network.losses()
    for hook in hooks:
        hook.remove()
    more = [_products(layer, *kept[layer], len(network.tasks) - 1) for layer in layers]
    step = static(network)

    def run(losses: dict[str, Tensor]) -> None:
        step(losses)
        for products in more:
            products()

    return run


def _products(layer: Any, x: Tensor, z: Tensor, others: int) -> Callable[[], None]:
    """Return a function that computes the weight-gradients of one layer for some tasks."""
    if isinstance(layer, nn.Linear):
        g = torch.randn(others, *z.shape, device=z.device).flatten(1, -2).transpose(1, 2)
        return lambda: [torch.matmul(g, x.flatten(0, -2))].clear()
    W, g = layer.weight.detach(), torch.randn_like(z)
    arguments = [z.shape[1:2], [1, 1], list(layer.padding), [1, 1], False, [0, 0], 1, [False, True, True]]

    def run() -> None:
        for _ in range(others):
            torch.ops.aten.convolution_backward(g, x, W, *arguments)

    return run


def ours(kind: Any = GradNorm, **settings: object) -> Callable[[Shape], Backward]:
    return lambda network: kind.robust(network.tasks, network.shared, ALPHA, **settings).backward


def gradnorm_of(checkout: str) -> Any:
    """Return GradNorm of another checkout of this repository; both work in one process."""
    own = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "balancers"}
    sys.path.insert(0, str(Path(checkout).resolve()))
    try:
        found = importlib.import_module("balancers").GradNorm
    finally:
        del sys.path[0]
        for name in [name for name in sys.modules if name.split(".")[0] == "balancers"]:
            del sys.modules[name]
        sys.modules.update(own)
    return found


def ours_called(network: Shape) -> Backward:
    balancer = GradNorm.robust(network.tasks, network.shared, ALPHA)
    return lambda losses: balancer(losses).backward()


def by_hand(double: bool) -> Callable[[Shape], Backward]:
    """Return Algorithm 1 as a careful user writes it: in closed form, or through L_grad (create_graph)."""

    def make(network: Shape) -> Backward:
        T, W = len(network.tasks), list(network.shared.parameters())
        w = torch.ones(T, device=network.x.device, requires_grad=True)
        optimizer, initial = torch.optim.Adam([w], lr=0.025), []

        def run(losses: dict[str, Tensor]) -> None:
            L = list(losses.values())
            values = torch.stack([loss.detach() for loss in L])
            initial[:] = initial or [values]
            terms = [w[i] * L[i] if double else L[i] for i in range(T)]
            grads = [torch.autograd.grad(term, W, retain_graph=True, create_graph=double) for term in terms]
            norms = torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in grads])
            G = norms if double else w.detach() * norms
            r = (values / initial[0]) / (values / initial[0]).mean()
            target = (G.mean() * r**ALPHA).detach()
            if double:
                (w.grad,) = torch.autograd.grad((G - target).abs().sum(), w, retain_graph=True)
            else:
                w.grad = (G - target).sign() * norms
            sum(w[i].detach() * L[i] for i in range(T)).backward()
            optimizer.step()
            with torch.no_grad():
                w.clamp_(min=1e-3).mul_(T / w.sum())

        return run

    return make


def known_to_gradnorm_pytorch(network: Shape) -> bool:
    """Return whether gradnorm-pytorch is installed and takes this W: a single parameter."""
    return find_spec("gradnorm_pytorch") is not None and not isinstance(network.shared, nn.ModuleList)


def gradnorm_pytorch(network: Shape) -> Backward:
    from gradnorm_pytorch import GradNormLossWeighter

    weighter = GradNormLossWeighter(
        num_losses=len(network.tasks),
        learning_rate=1e-4,
        restoring_force_alpha=ALPHA,
        grad_norm_parameters=network.shared.weight,
    ).to(network.x.device)
    return lambda losses: weighter.backward(list(losses.values()))


CONTENDERS: dict[str, Callable[[Shape], Backward]] = {
    "static": static,
    "floor": floor,
    "one pass": ours(),
    "called": ours_called,
    "update_every=4": ours(update_every=4),
    "task by task": ours(one_pass=False),
    "autograd.grad": by_hand(double=False),
    "double backward": by_hand(double=True),
    "gradnorm-pytorch": gradnorm_pytorch,
}


class Contender:
    """One kind of step, with its own network and optimizer.

    Attributes:
        clock: the time that `seconds` tells.
    """

    clock = staticmethod(time.perf_counter)

    def __init__(self, make: Callable[[Shape], Backward], network: Shape) -> None:
        self.make, self.network = make, copy.deepcopy(network)
        self.backward = make(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-5)
        self.cuda = network.x.device.type == "cuda"

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.backward(self.network.losses())
        self.optimizer.step()

    def seconds(self, steps: int) -> float:
        begin = self.clock()
        for _ in range(steps):
            self.step()
        if self.cuda:
            torch.cuda.synchronize()
        return (self.clock() - begin) / steps

    def profiled(self) -> tuple[int, int]:
        """Return the peak bytes of one step, including parameters and optimizer state, and its operator calls."""
        held = sum(p.numel() * p.element_size() for p in self.network.parameters()) * 3
        self.optimizer.zero_grad(set_to_none=True)
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        with profile(activities=kinds, profile_memory=True, acc_events=True) as result:
            self.step()
        changes = [e for e in result.profiler.kineto_results.events() if e.name() == "[memory]"]
        now = most = 0
        for event in sorted(changes, key=lambda event: event.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        if self.cuda:
            calls = sum("cudaLaunchKernel" in e.name for e in result.events())
        else:
            calls = sum(e.name.startswith("aten::") for e in result.events())
        return held + most, calls


def measure(network: Shape, names: Sequence[str], rounds: int) -> dict[str, list[str]]:
    """Return each contender's cells: time over static with quartiles, peak memory over static, operator calls."""
    contenders = {name: Contender(CONTENDERS[name], network) for name in names}
    for contender in contenders.values():
        contender.seconds(8)  # the first steps of each are not typical: caches, balanced start
    steps = max(4, int(0.06 / contenders["static"].seconds(4)) // 4 * 4)  # whole periods of update_every=4
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        order = [*names[k % len(names) :], *names[: k % len(names)]]
        seconds = {name: contenders[name].seconds(steps) for name in order}
        for name in names:
            ratios[name].append(seconds[name] / seconds["static"])
    profiles = {name: contender.profiled() for name, contender in contenders.items()}
    memory = profiles["static"][0]
    cells = {}
    for name in names:
        bytes_, calls = profiles[name]
        cells[name] = [_with_quartiles(ratios[name]), f"{bytes_ / memory:.2f}", str(calls)]
    cells["static"][0] = f"1 = {contenders['static'].seconds(steps) * 1e3:.2f} ms"
    return cells


def _with_quartiles(ratios: Sequence[float]) -> str:
    if len(ratios) < 2:
        return "not timed"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--before", help="a folder with another version of this repository, to compare with")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} thread(s)"
    print(f"{machine()}; torch {torch.__version__}; {hardware}; {options.rounds} rounds; {options.clock} time")
    if options.before:
        CONTENDERS["one pass, before"] = ours(gradnorm_of(options.before))
    if options.clock == "processor":
        Contender.clock = staticmethod(time.process_time)
    for shape, make in SHAPES.items():
        if options.only not in shape:
            continue
        torch.manual_seed(0)
        network = make().to(options.device)
        names = [name for name in CONTENDERS if name != "gradnorm-pytorch" or known_to_gradnorm_pytorch(network)]
        cells = measure(network, names, options.rounds)
        print(f"\n**{shape}**\n\n| step | time over static (quartiles) | peak memory over static | calls |")
        print("|---|---|---|---|")
        for name, row in cells.items():
            print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
