"""The parts of `benchmarks.on_gpu`: each yields rows of its table, and runs in a process of its own.

Without a GPU every part runs on the CPU at a small size, with gloo in place of NCCL, as a test of itself.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from balancers import GradNorm
from benchmarks import cohort_step, dense_step, step
from benchmarks.networks import MLP, Shape, segnet, tabular, toy
from hpo.problems import load_problem
from hpo.problems.nyuv2 import NYUv2
from hpo.tracking.backend import machine

ROOT = Path(__file__).parents[1]
WARM_UP, REPLAYS = 5, 20  # steps before a CUDA graph is captured, and of it before it is timed
Row = dict[str, object]


@dataclass(frozen=True)
class Size:
    """The size of the parts.

    Attributes:
        small: a test of the script rather than a measurement.
    """

    small: bool

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def of(self, whole: Any, small: Any) -> Any:
        """Return one of two values."""
        return small if self.small else whole


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], object], device: torch.device, rounds: int, steps: int = 1) -> float:
    """Return the median seconds of a call, each round timed as a whole."""
    taken = []
    for _ in range(rounds):
        wait(device)
        begin = time.perf_counter()
        for _ in range(steps):
            run()
        wait(device)
        taken.append((time.perf_counter() - begin) / steps)
    return statistics.median(taken)


class PeakMemory:
    """The most memory that a block has held on the device; 0 on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.megabytes = device, 0.0

    def __enter__(self) -> PeakMemory:
        """Begin."""
        if self._device.type == "cuda":
            wait(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        if self._device.type == "cuda":
            wait(self._device)
            self.megabytes = (torch.cuda.max_memory_allocated(self._device) - self._before) / 1e6


def hardware(size: Size) -> Iterator[Row]:
    """Name what everything runs on."""
    yield {"what": "machine", "value": machine()}
    yield {"what": "Python", "value": platform.python_version()}
    yield {"what": "torch", "value": torch.__version__}
    if size.device.type == "cpu":
        yield {"what": "GPU", "value": "none"}
        return
    properties = torch.cuda.get_device_properties(size.device)
    yield {"what": "GPU", "value": torch.cuda.get_device_name(size.device)}
    yield {"what": "its memory, GB", "value": round(properties.total_memory / 1e9, 1)}
    yield {"what": "compute capability", "value": f"{properties.major}.{properties.minor}"}
    yield {"what": "CUDA", "value": str(torch.version.cuda)}
    yield {"what": "cuDNN", "value": str(torch.backends.cudnn.version())}
    yield {"what": "NCCL", "value": ".".join(map(str, torch.cuda.nccl.version()))}


# ---- the tests marked gpu


def gpu_tests(size: Size) -> Iterator[Row]:
    """Run the tests marked gpu; without a GPU they are skipped, which is what is tested then."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    for path in files:
        name = str(path.relative_to(ROOT))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "gpu", "-rA", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        last = (done.stdout.strip() or "no output").splitlines()[-1]  # "1 passed, 2 skipped, 3 deselected in 4s"
        counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped)", last)}
        yield {"file": name, **{kind: counts.get(kind, 0) for kind in ("passed", "failed", "skipped")}}
        if done.returncode or not (counts.get("passed") or size.device.type == "cpu"):
            raise RuntimeError(f"{name}: pytest ended with {done.returncode}: {last}")


# ---- a step


def steps(size: Size) -> Iterator[Row]:
    """Time a step with fixed weights and with GradNorm: eager, compiled, and as a CUDA graph.

    Graphs come last, those of GradNorm at the very end: a capture that fails may leave CUDA unusable in this process.
    """
    shapes: dict[str, Callable[[], MLP]] = {"toy, 2 tasks": lambda: toy(2)}
    if not size.small:
        shapes |= {"toy, 10 tasks": lambda: toy(10), "tabular MLP, 40 tasks": tabular}
    base: dict[str, float] = {}
    for way, run in WAYS.items():
        for method, balance in (("static", step.static), ("GradNorm", step.ours())):
            for name, make in shapes.items():
                torch.manual_seed(0)
                row: Row = {"network": name, "way": way, "step": method}
                try:
                    took = run(step.Contender(balance, make().to(size.device)), size)
                except Unusable as reason:
                    yield row | {"ms": "", "over eager static": "", "note": str(reason)}
                    continue
                base.setdefault(name, took)
                yield row | {"ms": round(1e3 * took, 3), "over eager static": round(took / base[name], 3), "note": ""}


class Unusable(Exception):  # noqa: N818 - a finding, not an error
    """A way to run a step that this machine or this step does not allow."""


def eager(contender: step.Contender, size: Size) -> float:
    """Return the seconds of a step as it is."""
    contender.seconds(size.of(20, 2))
    return seconds_of(contender.step, size.device, *size.of((9, 20), (2, 2)))


def compiled(contender: step.Contender, size: Size) -> float:
    """Return the seconds of a step whose trunk is compiled below W; W and the heads stay eager, as one pass asks."""
    network = contender.network
    below = nn.Sequential(*list(network.trunk)[:-1])
    below.compile(backend="inductor" if size.device.type == "cuda" else "aot_eager")
    network.trunk = nn.Sequential(below, network.shared)
    return eager(contender, size)


def graphed(contender: step.Contender, size: Size) -> float:
    """Return the seconds of a step that is captured as one CUDA graph and replayed.

    Raises:
        Unusable: no GPU, the step cannot be captured, or its replays do not train as it does.
    """
    if size.device.type == "cpu":
        raise Unusable("needs CUDA")
    twin = step.Contender(contender.make, contender.network)  # trains eagerly beside it
    for one in (contender, twin):
        one.optimizer = torch.optim.Adam(one.network.parameters(), lr=1e-5, capturable=True)
    replay = captured(contender)
    for _ in range(REPLAYS):
        replay()
    for _ in range(WARM_UP + REPLAYS):
        twin.step()
    wait(size.device)
    if (apart := difference(contender, twin)) > 0.5e-5:  # half of what Adam moves a parameter by in one step
        raise Unusable(f"replays do not train as eager steps do: {apart:.1e} apart after {REPLAYS}")
    return seconds_of(replay, size.device, 9, 20)


def difference(one: step.Contender, other: step.Contender) -> float:
    """Return the largest difference between the parameters, and the balancers' weights, of two contenders."""
    pairs = list(zip(one.network.parameters(), other.network.parameters(), strict=True))
    balancers = [getattr(contender.backward, "__self__", None) for contender in (one, other)]
    if all(isinstance(balancer, GradNorm) for balancer in balancers):
        pairs.append(tuple(balancer.weights for balancer in balancers))
    return max(float((first.detach() - second.detach()).abs().max()) for first, second in pairs)


def captured(contender: step.Contender) -> Callable[[], None]:
    """Capture a step after some on a side stream, as torch asks for; return its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            contender.step()
    torch.cuda.current_stream().wait_stream(side)
    contender.optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            contender.step()
    except RuntimeError as error:
        raise Unusable(f"cannot be captured: {str(error).splitlines()[0]}") from error
    return graph.replay


WAYS: dict[str, Callable[[step.Contender, Size], float]] = {
    "eager": eager,
    "compiled below W": compiled,
    "CUDA graph": graphed,
}


# ---- cohorts


def cohorts(size: Size) -> Iterator[Row]:
    """Time a step of cohorts of growing size, with memory and the share of time in which the device works."""
    problems = size.of(["toy, 10 tasks", "qm9"], ["toy"])
    for name in problems:
        problem = load_problem(name.split(",")[0], cohort_step.PROBLEMS[name])
        problem.prepare()
        for method in ("static", "GradNorm"):
            for count in size.of([16, 32, 64, 128, 256], [2, 4]):
                trials = cohort_step.configs(problem, name, *((count, 0) if method == "static" else (0, count)))
                with PeakMemory(size.device) as memory:
                    run = cohort_step.step_of(problem, trials, size.device)
                    took = seconds_of(run, size.device, *size.of((5, 10), (2, 1)))
                yield {
                    "problem": name,
                    "step": method,
                    "trials": count,
                    "ms per step": round(1e3 * took, 3),
                    "us per step and trial": round(1e6 * took / count, 1),
                    "peak memory, MB": round(memory.megabytes, 1),
                    "busy, %": round(100 * busy_seconds(run, size) / took, 1),
                }
                del run


def busy_seconds(run: Callable[[], object], size: Size) -> float:
    """Return the seconds in which the device works during a call: its kernels, or this process on a CPU."""
    if size.device.type == "cpu":
        begin = time.process_time()
        run()
        return time.process_time() - begin
    calls = 5
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(calls):
            run()
        wait(size.device)
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / calls


def sweep(size: Size) -> Iterator[Row]:
    """Run a whole search through Ray in cohorts, and by a plain Tune script: `benchmarks.sweep`."""
    whole = ["--points", "257", "--plain-points", "4", "--alphas", "1", "--cohort", "64", "256", "--gpu", "1"]
    small = ["--points", "3", "--plain-points", "0", "--alphas", "1", "--cohort", "2", "--epochs", "1"]
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "sweep.json"
        command = [sys.executable, "-m", "benchmarks.sweep", "--problems", "toy", "--json", str(found)]
        done = subprocess.run([*command, *size.of(whole, small)], cwd=ROOT, check=False)
        if not found.exists():
            raise RuntimeError(f"benchmarks.sweep ended with {done.returncode}")
        content = json.loads(found.read_text("utf-8"))
    figures = content["problems"]["toy"]["contenders"]
    plain = next((one["pace"] for name, one in figures.items() if name.startswith("plain")), None)
    for name, one in figures.items():
        yield {
            "contender": name,
            "trials": one["trials"],
            "trials a minute": round(one["pace"], 1),
            "over plain": round(one["pace"] / plain, 1) if plain else "",
            "peak memory of all processes, MiB": round(one["memory"]),
            "GPU busy, %": "" if one["gpu"] is None else round(one["gpu"]),
        }
    if done.returncode:
        raise RuntimeError(
            f"benchmarks.sweep: the contenders' metrics differ: {content['problems']['toy']['differences']}"
        )


# ---- the paper's networks


def paper_networks(size: Size) -> Iterator[Row]:
    """Time the GradNorm paper's SegNet and FCN at its size, on pictures that are made up."""
    arguments = size.of({}, {"width": 0.125, "image_size": 32})
    for architecture in ("segnet", "fcn"):
        torch.manual_seed(0)
        batch = size.of(dense_step.PAPER_BATCH, 2)
        shape = dense_step.DenseShape(NYUv2(architecture=architecture, **arguments), batch).to(size.device)
        for name, cells in dense_step.measure(shape, size.of(10, 2)).items():
            head = ("seconds", "over static", "peak memory, GB", "GFLOP")
            yield {"network": architecture, "batch": batch, "step": name, **dict(zip(head, cells, strict=True))}


# ---- one rank


def one_rank(size: Size) -> Iterator[Row]:
    """Train under DistributedDataParallel with one rank, over NCCL, and compare with training without it."""
    backend = "nccl" if size.device.type == "cuda" else "gloo"
    count = size.of(30, 3)
    alone, _ = trained(size, count, wrap=False)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            together, took = trained(size, count, wrap=True)
        finally:
            dist.destroy_process_group()
    apart = float((alone - together).abs().max())
    yield {"backend": backend, "steps": count, "ms": round(1e3 * took, 3), "largest difference of w": f"{apart:.1e}"}
    if not apart < 1e-3:
        raise RuntimeError(f"w is {apart:.1e} apart from that without DistributedDataParallel")


def trained(size: Size, count: int, wrap: bool) -> tuple[torch.Tensor, float]:
    """Train a toy for some steps; return the balancer's weights and the seconds of a step."""
    torch.manual_seed(0)
    network: Shape = toy(4).to(size.device)
    ids = [0] if size.device.type == "cuda" else None
    model: nn.Module = DistributedDataParallel(network, device_ids=ids) if wrap else network
    balancer = GradNorm.robust(network.tasks, network.shared, step.ALPHA)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad()
        outputs = zip(network.tasks, model(network.x), strict=True)
        losses = {task: (out - network.get_buffer(f"y{i}")).square().mean() for i, (task, out) in enumerate(outputs)}
        balancer.backward(losses)
        optimizer.step()

    took = seconds_of(run, size.device, 1, count)
    return balancer.weights.detach().cpu(), took


# ---- mixed precision


PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16, GradScaler": torch.float16}


def mixed_precision(size: Size) -> Iterator[Row]:
    """Train in single precision, in bfloat16, and in float16 with a GradScaler."""
    base, reference = 0.0, torch.empty(0)
    for name, dtype in PRECISIONS.items():
        row, took, w = trained_in(dtype, size)
        if not torch.isfinite(w).all():
            raise RuntimeError(f"{name}: w is {w.tolist()}")
        reference, base = (reference, base) if base else (w, took)
        apart = f"{float((w - reference).abs().max()):.1e}"
        yield {"precision": name, **row, "over float32": round(took / base, 3), "largest difference of w": apart}


def trained_in(dtype: torch.dtype | None, size: Size) -> tuple[Row, float, torch.Tensor]:
    """Train some steps in a precision, ``None`` for single; return figures, seconds of a step, and w."""
    torch.manual_seed(0)
    count, kind = size.of(30, 3), size.device.type
    network: Shape = (toy(3) if size.small else segnet()).to(size.device)
    balancer = GradNorm.robust(network.tasks, network.shared, step.ALPHA)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
    scaler = torch.amp.GradScaler(kind, enabled=dtype is torch.float16)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            losses = network.losses()
        scaler.scale(balancer(losses)).backward()
        scaler.step(optimizer)
        scaler.update()

    with PeakMemory(size.device) as memory:
        run()
        took = seconds_of(run, size.device, 1, count)
    row: Row = {"steps": count + 1, "ms": round(1e3 * took, 3), "peak memory, MB": round(memory.megabytes, 1)}
    row |= {"scale at the end": scaler.get_scale() if scaler.is_enabled() else ""}
    return row, took, balancer.weights.detach().float().cpu()


@dataclass(frozen=True)
class Part:
    """A part of the script.

    Attributes:
        rows: yields the rows of its table.
        title: of the table.
        seconds: limit on a GPU; what is left of all eight minutes may be less.
    """

    rows: Callable[[Size], Iterator[Row]]
    title: str
    seconds: float


PARTS = {
    "hardware": Part(hardware, "Hardware", 40),
    "tests": Part(gpu_tests, "Tests marked gpu", 90),
    "steps": Part(steps, "A step: eager, compiled, as a CUDA graph", 90),
    "cohorts": Part(cohorts, "A step of cohorts", 80),
    "paper-networks": Part(paper_networks, "The paper's networks at their size", 60),
    "one-rank": Part(one_rank, "One rank under DistributedDataParallel", 40),
    "mixed-precision": Part(mixed_precision, "Mixed precision", 40),
    "sweep": Part(sweep, "A whole search of the toy through Ray", 240),
}
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells each start and stop
