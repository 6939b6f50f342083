"""A whole search on one machine, three ways in turn: a plain Ray Tune script, ours trial by trial, ours in cohorts.

    python -m benchmarks.sweep                           # census, qm9 and toy: a quarter of an hour on 2 cores
    python -m benchmarks.sweep --problems toy --json toy.json

The search is a static search and GradNorm's alpha sweep, on one seed. Each contender runs in its own processes, while
this process samples the machine twice a second:

- plain: `benchmarks.plain_tune`, written by hand, with MLflow on SQLite by Ray's own callback. It may run fewer
  points, since the cost of a trial does not depend on their number.
- ours: `hpo.launch.run.run_study`, that is ``gradsweep run``, without the parts that the plain script lacks:
  references, whose results are given, and the confirm phase.

The timed work must be the same, so validation metrics of the same trial are compared at the end, and a difference in
their median is an error. Single metrics may differ: sums in a cohort have another order, and the rounding of a step
grows over the epochs, most in a task of small weight.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
import yaml
from rich.console import Console

from hpo.core.environment import close_local_ray
from hpo.core.files import write_whole
from hpo.core.trial import TrialResult
from hpo.launch import conclude
from hpo.launch.restore import open_plan
from hpo.launch.run import run_study
from hpo.launch.workspace import Workspace, place
from hpo.problems import load_problem
from hpo.problems.base import Problem
from hpo.problems.data_cache import prepare_once
from hpo.study.phases import PHASES
from hpo.study.phases.references import reference_trials
from hpo.study.plan import EQUAL, Plan
from hpo.tracking.backend import machine
from hpo.tracking.delivery import MlflowWriter
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.experiment_base import now
from hpo.tracking.outbox import EndedTrial

LOOK_SECONDS = 0.5  # between two looks: of a process that ends, what it did since the last one is missed
MEMORY_EVERY = 4  # looks: reading it walks the page tables of every process
TOLERANCE = 0.05  # relative, of the median over trials and tasks
PLAIN = "plain Ray Tune"
RECIPE = "paper"


@dataclass(frozen=True)
class Search:
    """The search that every contender runs.

    Attributes:
        problem: a built-in one, or ``package.module:Class``.
        points: of the static search, equal weights among them.
        alphas: trials of the alpha sweep.
        epochs: of a trial; ``None`` takes the problem's own.
        gpu: of a trial.
    """

    problem: str
    points: int
    alphas: int
    epochs: int | None = None
    gpu: float = 0.0

    def study(self, folder: Path, cohort: str) -> Path:
        """A study file in a folder, ``cohort`` trials at once: a number, or ``auto``."""
        content: dict[str, Any] = {
            "name": "search",
            "problem": self.problem,
            "references": ["single_task", "equal"],
            "shortlist": "off",
            "static": {"points": self.points, "ratio": 1000.0},
            "gradnorm": {"recipes": [RECIPE], "trials": self.alphas},
            "resources": {"cpu": 1, "gpu": self.gpu},
            "cohort": cohort if cohort == "auto" else int(cohort),
        }
        if self.epochs is not None:
            content["epochs"] = self.epochs
        path = folder / "study.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path


def search_only() -> AbstractContextManager[object]:
    """Leave out the confirm phase while the block runs."""
    return patch.dict(PHASES, {name: phase for name, phase in PHASES.items() if phase.is_search}, clear=True)


@dataclass
class Run:
    """The run of a contender.

    Attributes:
        began: when the first trial could be handed out, in seconds since the epoch.
        ended: when the last was in MLflow.
        training: seconds in training steps, all trials together.
        metrics: by trial (see `trial_key`) the validation metric of each task.
        note: the launch's message about the size of cohorts.
    """

    began: float
    ended: float
    training: float
    metrics: dict[str, dict[str, float]]
    note: str = ""


def trial_key(settings: Mapping[str, Any], tasks: Sequence[str]) -> str:
    """Return a name of a trial that is the same for all contenders."""
    if "alpha" in settings:
        return f"alpha {settings['alpha']:g}"
    weights = settings.get("weights") or dict.fromkeys(tasks, 1.0)
    return " ".join(f"{weights[task]:g}" for task in tasks)


# ---- the contenders, each in a process of its own


def points_of(plan: Plan) -> list[dict[str, float]]:
    """The static points by task, equal weights first."""
    equal = dict.fromkeys(plan.tasks, 1.0)
    return [equal, *(candidate.settings["weights"] for candidate in plan.static_points())]


def run_plain(search: Search, plan: Plan, points: int, folder: Path) -> Run:
    """The script, on the first points of the plan."""
    (folder / "points.json").write_text(json.dumps(points_of(plan)[:points]), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.plain_tune", search.problem, "points.json"]
    command += ["--alphas", str(search.alphas), "--gpu", str(search.gpu), "--output", "."]
    command += [] if search.epochs is None else ["--epochs", str(search.epochs)]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with (folder / "log").open("wb") as log:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmarks.plain_tune:\n{(folder / 'log').read_text(errors='replace')[-4000:]}")
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    trials = content["trials"]
    metrics = {trial_key(t["config"], plan.tasks): {task: t[f"val/{task}"] for task in plan.tasks} for t in trials}
    return Run(content["began"], content["ended"], sum(t["train_seconds"] for t in trials), metrics)


def run_ours(search: Search, folder: Path, cohort: str) -> Run:
    """A launch of a study."""
    path, where = search.study(folder, cohort), place(folder / "output", None)
    no_report = patch.object(conclude, "write_report", lambda *_: {"html": path})  # it comes after what is timed
    with search_only(), no_report:
        plan = open_plan(path)
        give_references(plan, where)
        with watched() as times:
            finished = run_study(path, where, None, Console(file=(said := io.StringIO())))
    if finished.failed or finished.faults or finished.diverged or not finished.complete:
        raise RuntimeError(f"{finished.failed or finished.diverged or finished.faults or 'it was stopped'}")
    trials = finished.comparison.search
    trials = trials[trials["phase"] != "references"].set_index("arm")
    points = [EQUAL, *plan.static_points()]
    settings: dict[str, Mapping[str, Any]] = {point.arm.key: point.settings for point in points}
    settings |= {arm: {"alpha": alpha} for arm, alpha in trials["alpha"].dropna().items()}
    metrics = {
        trial_key(settings[arm], plan.tasks): {task: float(row[f"val/{task}"]) for task in plan.tasks}
        for arm, row in trials.iterrows()
    }
    note = "; ".join(line for line in said.getvalue().splitlines() if line.startswith("trials in each worker: "))
    return Run(*times, float(trials["seconds"].sum()), metrics, note)


def give_references(plan: Plan, where: Workspace) -> None:
    """Put results of references into the outbox, as if by an earlier launch, because alphas are scored against them.

    The plain script trains no single-task networks, so neither do we: the metrics are those of an untrained network.
    """
    where.output.mkdir(parents=True)
    store = StudyExperiment(where.uri, plan.study.name, where.output)
    problem = load_problem(plan.study.problem.name, plan.study.problem.arguments)
    prepare_once(problem)
    metrics = untrained(problem, plan.study.seed)
    earlier, outbox = store.start_launch("name: search"), where.outbox(plan.study.name)
    for planned in reference_trials(plan):
        result = TrialResult("finished", validation=metrics, initial_losses=dict.fromkeys(plan.tasks, 1.0))
        outbox.add(EndedTrial(planned, earlier, now(), now(), result))
    store.end_launch(earlier, "KILLED")


def untrained(problem: Problem, seed: int) -> dict[str, float]:
    """Return the validation metrics of a new network."""
    with torch.no_grad():
        return problem.evaluate(problem.build_model(seed).eval(), "val")


@contextmanager
def watched() -> Iterator[list[float]]:
    """Record from inside a launch when `ray_tune.run` began and when the writer had delivered everything."""
    from hpo.execution import ray_tune  # here: ray reads once, at its import, which token it listens to

    times: list[float] = []
    run, close = ray_tune.run, MlflowWriter.close

    def timed_run(*arguments: Any) -> list[str]:
        times.append(time.time())
        return run(*arguments)

    def timed_close(writer: MlflowWriter) -> list[EndedTrial]:
        left = close(writer)
        times.append(time.time())
        return left

    with patch.object(ray_tune, "run", timed_run), patch.object(MlflowWriter, "close", timed_close):
        yield times


# ---- the machine meanwhile


@dataclass(frozen=True)
class Look:
    """One sample of the machine.

    Attributes:
        time: seconds since the epoch.
        busy: core-seconds of the machine since it was booted.
        spent: of the processes below this one, those that have ended among them as far as a look has seen them.
        memory: MiB of these processes; what several share is counted once (PSS), where the system tells it. ``None``
            if it was not looked at.
        gpu: how busy it is, in percent.
    """

    time: float
    busy: float
    spent: float
    memory: float | None
    gpu: float | None


class Sampler:
    """Samples the machine and the child processes from a thread."""

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self._spent: dict[tuple[int, float], float] = {}  # by process
        self._gpu = _gpu_meter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            self.looks.append(self._look())
            self._stop.wait(LOOK_SECONDS)

    def _look(self) -> Look:
        processes = psutil.Process().children(recursive=True)
        for process in processes:
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._spent[process.pid, process.create_time()] = times.user + times.system
        memory = _memory(processes) if len(self.looks) % MEMORY_EVERY == 0 else None
        gpu = self._gpu() if self._gpu else None
        return Look(time.time(), _busy(), sum(self._spent.values()), memory, gpu)

    def between(self, began: float, ended: float) -> list[Look]:
        """Return the samples of a period, with one before and one after it."""
        before = [i for i, look in enumerate(self.looks) if look.time <= began]
        after = [i for i, look in enumerate(self.looks) if look.time >= ended]
        return self.looks[max(before, default=0) : min(after, default=len(self.looks)) + 1]


def _memory(processes: Sequence[psutil.Process]) -> float:
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            found = process.memory_full_info()
            total += getattr(found, "pss", found.uss)
    return total / 2**20


def _busy() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # counted twice


def _gpu_meter() -> Callable[[], float] | None:
    """Return a function that reads the utilisation of the first GPU in percent; needs nvidia-ml-py."""
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)


# ---- what is said of them


@dataclass
class Figures:
    """A contender's figures, described in `ROWS`."""

    trials: int
    seconds: float
    start: float
    pace: float
    pace_with_start: float
    training_share: float
    processor: float
    machine_share: float
    others_share: float
    memory: float
    gpu: float | None
    metrics: dict[str, dict[str, float]] = field(repr=False)
    note: str = ""


# attribute -> what the table calls it, its format, whether its ratio to the plain script says something
ROWS: dict[str, tuple[str, str, bool]] = {
    "trials": ("trials", ".0f", False),
    "seconds": ("seconds, first trial handed out to last one in MLflow", ".1f", False),
    "pace": ("trials a minute", ".1f", True),
    "start": ("start: Python, Ray, MLflow, and how large cohorts are to be, s", ".1f", False),
    "pace_with_start": ("trials a minute of the whole search, start included", ".1f", True),
    "training_share": ("cores busy in training steps, %", ".0f", True),
    "processor": ("processor seconds a trial, all its processes", ".2f", True),
    "machine_share": ("cores busy, whole machine, %", ".0f", False),
    "others_share": ("of these with other work, %", ".0f", False),
    "memory": ("peak memory of all its processes, MiB", ".0f", True),
    "gpu": ("GPU busy, %", ".0f", True),
}


def measure(run: Callable[[], Run], whole: int) -> Figures:
    """Run a contender.

    Args:
        run: what to run.
        whole: trials of the whole search, of which the plain script may run a part.
    """
    cores = os.cpu_count() or 1
    launched = time.time()
    with Sampler() as sampler:
        done = run()
    looks = sampler.between(done.began, done.ended)
    seconds, trials, start = done.ended - done.began, len(done.metrics), done.began - launched
    first, last = looks[0], looks[-1]
    gone = cores * max(last.time - first.time, 1e-9)
    own, machine_share = 100 * (last.spent - first.spent) / gone, 100 * (last.busy - first.busy) / gone
    gpu = [look.gpu for look in looks if look.gpu is not None]
    return Figures(
        trials=trials,
        seconds=seconds,
        start=start,
        pace=60 * trials / seconds,
        pace_with_start=60 * whole / (start + whole * seconds / trials),
        training_share=100 * done.training / (cores * seconds),
        processor=own / 100 * cores * seconds / trials,
        machine_share=machine_share,
        others_share=machine_share - own,
        memory=max(look.memory or 0.0 for look in sampler.between(launched, done.ended)),
        gpu=sum(gpu) / len(gpu) if gpu else None,
        metrics=done.metrics,
        note=done.note,
    )


def in_fresh_process(function: Callable[..., Run], *arguments: Any) -> Run:
    """Call a function in a new process, without earlier imports."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def contenders(search: Search, plain_points: int, cohorts: Sequence[str]) -> dict[str, Figures]:
    """Every contender's figures, by its name in the table."""
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="gradsweep-benchmark-") as name:
        folders = {contender: Path(name) / contender for contender in ("plain", *cohorts)}
        for folder in folders.values():
            folder.mkdir()
        plan = open_plan(search.study(folders["plain"], "1"))
        whole = len(points_of(plan)) + search.alphas
        if plain_points:
            figures[PLAIN] = measure(partial(run_plain, search, plan, plain_points, folders["plain"]), whole)
        for cohort in cohorts:
            run = partial(in_fresh_process, run_ours, search, folders[cohort], cohort)
            figures[f"ours, cohort: {cohort}"] = measure(run, whole)
    return figures


@dataclass(frozen=True)
class Difference:
    """The difference between the metrics of two contenders.

    Attributes:
        contenders: which.
        shared: trials that both ran.
        median: of the relative differences of their validation metrics, all tasks together.
        largest: of them.
        where: it is.
    """

    contenders: tuple[str, str]
    shared: int
    median: float
    largest: float
    where: str


def differences(figures: Mapping[str, Figures]) -> list[Difference]:
    """Return the difference of each pair of contenders."""
    found = []
    for pair in combinations(figures, 2):
        first, second = (figures[name].metrics for name in pair)
        shared = [key for key in first if key in second]
        apart = [
            (abs(x - second[key][task]) / max(abs(x), abs(second[key][task]), 1e-12), f"{task} of {key}")
            for key in shared
            for task, x in first[key].items()
        ]
        largest, where = max(apart, default=(0.0, "none"))
        median = statistics.median(size for size, _ in apart) if apart else 0.0
        found.append(Difference(pair, len(shared), median, largest, where))
    return found


def show(problem: str, figures: Mapping[str, Figures], found: Sequence[Difference]) -> None:
    """Print the table of a problem."""
    print(f"\n**{problem}**\n\n| | {' | '.join(figures)} |\n|---|{'---|' * len(figures)}")
    base = figures.get(PLAIN)
    for name, (label, form, compared) in ROWS.items():
        values = {contender: getattr(one, name) for contender, one in figures.items()}
        if any(value is None for value in values.values()):
            continue
        cells = []
        for contender, value in values.items():
            ratio = value / getattr(base, name) if base and compared and contender != PLAIN else None
            cells.append(f"{value:{form}}" + (f" ({ratio:.2f}x)" if ratio is not None else ""))
        print(f"| {label} | {' | '.join(cells)} |")
    print()
    for contender, figure in figures.items():
        if figure.note:
            print(f"{contender}: {figure.note}")
    for one in found:
        largest = f"{one.largest:.1e} at most" + (f" ({one.where})" if one.largest else "")
        apart = f"validation metrics {one.median:.1e} apart in the median, {largest}"
        print(f"{' and '.join(one.contenders)}: {one.shared} trials in common, {apart}")


def arguments_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["census", "qm9", "toy"])
    parser.add_argument("--points", type=int, default=100, help="of the static search")
    parser.add_argument("--plain-points", type=int, default=24, help="of it, for the plain script; 0 leaves it out")
    parser.add_argument("--alphas", type=int, default=8, help="trials of GradNorm's sweep")
    parser.add_argument("--epochs", type=int, help="of a trial; default: the problem's own")
    parser.add_argument("--cohort", nargs="*", default=["1", "auto"], help="of ours, one run each")
    parser.add_argument("--gpu", type=float, default=0.0, help="of a trial; may be a fraction")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args(argv)


def main() -> None:
    arguments = arguments_of()
    close_local_ray()  # every contender's Ray listens to one token, and none leaves one in the home folder
    os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["MLFLOW_DISABLE_TELEMETRY"] = "0", "true"
    plain_points = min(arguments.plain_points, arguments.points)
    part = f"; {PLAIN}: {plain_points} of these points" if 0 < plain_points < arguments.points else ""
    print(f"{machine()}; {arguments.points} static points and {arguments.alphas} alphas, one seed{part}")
    content: dict[str, Any] = {"machine": machine(), "problems": {}}
    apart = []
    for problem in arguments.problems:
        search = Search(problem, arguments.points, arguments.alphas, arguments.epochs, arguments.gpu)
        figures = contenders(search, plain_points, arguments.cohort)
        found = differences(figures)
        show(problem, figures, found)
        apart += [one for one in found if not one.median <= TOLERANCE]
        content["problems"][problem] = {
            "search": asdict(search),
            "contenders": {name: asdict(one) for name, one in figures.items()},
            "differences": [asdict(one) for one in found],
        }
        if arguments.json:
            write_whole(arguments.json, json.dumps(content, indent=1))
    if apart:
        raise SystemExit(f"not the same work: {apart}")


if __name__ == "__main__":
    main()
