"""One training step of the problem nyuv2 at the GradNorm paper's size: time and memory, with GradNorm and without.

    python -m benchmarks.dense_step                          # the GPU if there is one, else the CPU in small batches
    python -m benchmarks.dense_step --device cpu --batch 1 2

A step is the forward pass, the three losses, the backward pass and Adam, on one batch of made-up pictures that stays
on the device; no data set is needed. The static step and GradNorm's run in turn: seconds are the median over the
rounds, and GradNorm's cost the median of its ratio to the static step next to it. Memory is the most that is held
within a step (parameters, Adam's state, gradients, activations): on a GPU by torch's allocator, with the scratch
space of its kernels, on a CPU by torch's profiler, without it. FLOPs are counted by torch.utils.flop_counter, a
multiplication with its addition as two.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import Backward, Contender, ours, static
from hpo.problems.nyuv2 import NYUv2
from hpo.problems.nyuv2_files import CLASSES
from hpo.tracking.backend import machine

PAPER_BATCH = 24
STEPS: dict[str, Callable[[DenseShape], Backward]] = {"static": static, "GradNorm": ours()}


class DenseShape(nn.Module):
    """A network of the problem with one made-up batch, in the form that `benchmarks.step` trains."""

    def __init__(self, problem: NYUv2, batch: int) -> None:
        super().__init__()
        self.problem, self.model = problem, problem.build_model(0)
        self.tasks = [task.name for task in problem.tasks]
        size, grid = problem.image_size, problem.image_size // problem.stride
        self.register_buffer("x", torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8))
        self.register_buffer("depths", torch.rand(batch, grid, grid) * 10)
        self.register_buffer("normals", torch.randn(batch, 3, grid, grid))
        self.register_buffer("labels", torch.randint(-1, CLASSES, (batch, grid, grid), dtype=torch.int8))

    @property
    def shared(self) -> nn.Module:
        return self.problem.shared_layer(self.model)

    def losses(self) -> dict[str, Tensor]:
        return self.problem.losses(self.model, (self.x, self.depths, self.normals, self.labels))


def memory(contender: Contender, before: int) -> int:
    """Return the peak bytes of a step; ``before`` is the memory allocated on the GPU before the contender existed."""
    contender.seconds(1)  # the first step makes Adam's state and settles GradNorm's weights
    if not contender.cuda:
        return contender.profiled()[0]
    torch.cuda.reset_peak_memory_stats()
    contender.seconds(1)
    return torch.cuda.max_memory_allocated() - before


def flops(contender: Contender) -> int:
    with FlopCounterMode(display=False) as counter:
        contender.step()
    return counter.get_total_flops()


def measure(shape: DenseShape, rounds: int) -> dict[str, list[str]]:
    """Return the cells of each kind of step: seconds per step, ratio to static, memory, FLOPs."""
    contenders: dict[str, Contender] = {}
    bytes_, counted = {}, {}
    for name, make in STEPS.items():
        before = torch.cuda.memory_allocated() if shape.x.is_cuda else 0
        contenders[name] = Contender(make, shape)
        bytes_[name], counted[name] = memory(contenders[name], before), flops(contenders[name])
    times = [{name: contender.seconds(1) for name, contender in contenders.items()} for _ in range(rounds)]
    return {
        name: [
            f"{statistics.median(seconds[name] for seconds in times):.3g}",
            f"{statistics.median(seconds[name] / seconds['static'] for seconds in times):.3f}",
            f"{bytes_[name] / 1e9:.2f}",
            f"{counted[name] / 1e9:.4g}",
        ]
        for name in STEPS
    }


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--batch", type=int, nargs="+", help=f"default: {PAPER_BATCH} on a GPU, else 1 and 2")
    parser.add_argument("--architecture", nargs="+", default=["segnet", "fcn"])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--rounds", type=int, help="default: 10 on a GPU, else 3")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cuda = torch.device(options.device).type == "cuda"
    hardware = torch.cuda.get_device_name() if cuda else f"{options.threads} thread(s)"
    rounds = options.rounds or (10 if cuda else 3)
    print(f"{machine()}; torch {torch.__version__}; {hardware}; {rounds} rounds; pictures made up")
    print("\n| network | parameters, M | batch | step | seconds | over static | peak memory, GB | GFLOP |")
    print("|---|---|---|---|---|---|---|---|")
    for architecture in options.architecture:
        problem = NYUv2(
            architecture=architecture, width=options.width, image_size=options.image_size, stride=options.stride
        )
        for batch in options.batch or ([PAPER_BATCH] if cuda else [1, 2]):
            torch.manual_seed(0)
            shape = DenseShape(problem, batch).to(options.device)
            parameters = sum(parameter.numel() for parameter in shape.parameters()) / 1e6
            for name, cells in measure(shape, rounds).items():
                row = [architecture, f"{parameters:.1f}", str(batch), name, *cells]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
