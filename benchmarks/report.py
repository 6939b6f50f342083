"""Cost of `gradsweep report` on a large study: wall-clock time, peak memory, size of the page.

    python -m benchmarks.report                       # 1,000 trials by 200 epochs
    python -m benchmarks.report --trials 200 --epochs 20
    python -m benchmarks.report --output kept         # keeps study and report, and continues from existing ones
    python -m benchmarks.report --trials 10000 --epochs 3 --direct

The study is SIMULATED: no network is trained. Its numbers are a quadratic function of the weights' log-ratios with
noise, and say nothing about GradNorm. Everything that a report uses is real: a study file and its trials, MLflow on
SQLite, written by the project's own writer with the metrics that a trial of that many epochs logs, and the command,
in a separate process. Only GradNorm runs have trajectories (w, G, r, L in every step), because a report reads no
others. With ``--direct`` the same rows, without trajectories, go straight into the tables of SQLite, which is much
faster.

The report is made three times. The first is that of a study's end: the writer has written the scores of the search
with its trials, as in a real study, and the report writes those of the confirm trials. The second finds them all. The
third, with other priorities, writes every score again, as does the first report of a study of an earlier version.
Needs psutil (pip install -e '.[dev]' -c constraints.txt).
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import yaml
from numpy.typing import NDArray

from hpo.core.trial import EpochReport, PlannedTrial, TrialConfig, TrialResult
from hpo.launch.restore import open_plan
from hpo.launch.run_scores import scores_so_far
from hpo.launch.workspace import Workspace, place
from hpo.study.phases.gradnorm_sweeps import sweep_trial
from hpo.study.plan import Plan
from hpo.study.schedule import Schedule
from hpo.tracking.backend import machine
from hpo.tracking.delivery import MlflowWriter
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.outbox import Outbox
from hpo.tracking.run_format import end_tags, epoch_metrics, result_metrics, run_params, start_tags
from search_spaces import clr, clr_inverse

STEPS = 100  # of an epoch: 5,000 examples in batches of 50
FEWEST = 50  # trials: what does not shrink with the study, and some static points
LARGE = 10_000  # trials, from which the targets are higher
REPORTS: dict[str, Sequence[str]] = {
    "first, at the study's end": (),
    "again": (),
    "with other priorities, which writes every score": ("--priority", "f1=2"),
}
POLL = 0.02  # seconds between two looks at the memory

Vector = NDArray[np.float64]

BEST = np.array([0.6, 0.1, -0.7])  # log-ratios of the best weights
ALONE = np.array([0.20, 0.25, 0.30])  # metrics of the single-task networks
SCALES = np.array([1.0, 1e2, 1e4])  # of the losses


def write_study(trials: int, epochs: int, folder: Path) -> Path:
    """Write a study file of this number of trials, most of them static points."""
    path = folder / f"simulated-{trials}.yaml"
    content = {
        "name": f"simulated-{trials}",
        "problem": {"name": "toy", "functions": len(BEST), "batch_size": 50},
        "epochs": epochs,
        "seeds": 5 if trials >= 400 else 2,
        "shortlist": "off",
        "static": {"design": "dirichlet", "points": 10},
        "gradnorm": {"trials": max(2, trials // 25)},
        "confirm": {"top_static": max(1, trials // 125)},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    rest = Schedule(open_plan(path), runs=False).size - 10
    content["static"] = {"design": "dirichlet", "points": trials - rest}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def make(path: Path, where: Workspace) -> int:
    """Simulate every trial of the study that MLflow does not hold yet, phase by phase; return their number."""
    plan = open_plan(path)
    store = StudyExperiment(where.uri, plan.study.name, where.output)
    store.reconcile()
    records = store.records()
    results = {record.config.identity: record.result for record in records}
    schedule = Schedule(plan, results, sweep_configs(plan), runs=False)
    outbox = where.outbox(plan.study.name)
    made, run = 0, store.start_launch(path.read_text(encoding="utf-8"))
    for _ in ("what is known", "what the search has chosen"):
        for planned in list(schedule.planned()):
            if planned.config.identity not in schedule.results:
                write(planned, schedule, store, run, outbox)
                made += 1
    store.end_launch(run, "FINISHED")
    return made


def make_directly(path: Path, where: Workspace) -> int:
    """Simulate every trial of the study and insert what the writer would write; return their number."""
    plan = open_plan(path)
    store = StudyExperiment(where.uri, plan.study.name, where.output)
    run = store.start_launch(path.read_text(encoding="utf-8"))
    schedule = Schedule(plan, {}, sweep_configs(plan), runs=False)
    with closing(sqlite3.connect(where.output / "mlflow.db")) as database, database:
        database.row_factory = sqlite3.Row
        parent = dict(database.execute("SELECT * FROM runs WHERE run_uuid = ?", (run,)).fetchone())
        for _ in ("what is known", "what the search has chosen"):
            new = [p for p in schedule.planned() if p.config.identity not in schedule.results]
            for planned in new:
                result = replace(Simulated(planned, plan).result(), trajectory={})
                schedule.finished(planned.config.identity, result)
            scores = scores_so_far(schedule, new)
            for planned in {planned.config.identity: planned for planned in new}.values():
                insert(database, parent, planned, Simulated(planned, plan), scores.get(planned.config.identity, {}))
    store.end_launch(run, "FINISHED")
    return len(schedule.results)


def insert(
    database: sqlite3.Connection,
    parent: dict[str, Any],
    planned: PlannedTrial,
    trial: Simulated,
    scores: Mapping[str, float],
) -> None:
    """Insert a trial into MLflow's tables."""
    run, launch, started = uuid4().hex, parent["run_uuid"], parent["start_time"]
    result = trial.result()
    place = {"run_uuid": run, "artifact_uri": parent["artifact_uri"].replace(launch, run)}
    row = parent | place | {"name": planned.name, "status": "FINISHED", "end_time": started + 1000}
    tags = start_tags(planned, launch) | {tag.key: tag.value for tag in end_tags(result)}
    metrics = [metric for report in trial.reports() for metric in epoch_metrics(report, started)]
    metrics += result_metrics(result, started + 1000)
    points = [(m.key, m.value, m.timestamp, m.step, False, run) for m in metrics]
    points += [(key, value, started + 1000, 0, False, run) for key, value in scores.items()]
    many = {
        "tags": [(key, value, run) for key, value in tags.items()],
        "params": [(param.key, param.value, run) for param in run_params(planned.config)],
    }
    database.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
    for table, rows in many.items():
        database.executemany(f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)", rows)
    for table, rows in {"metrics": points, "latest_metrics": list({p[0]: p for p in points}.values())}.items():
        columns = "key, value, timestamp, step, is_nan, run_uuid"
        database.executemany(f"INSERT INTO {table} ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)


def sweep_configs(plan: Plan) -> list[TrialConfig]:
    """Return the trials of the alpha sweeps, evenly spaced."""
    return [
        sweep_trial(plan, recipe, {"alpha": float(alpha)}).config
        for recipe in plan.study.gradnorm.recipes
        for alpha in np.linspace(*plan.study.gradnorm.alpha, plan.study.gradnorm.trials)
    ]


def write(planned: PlannedTrial, schedule: Schedule, store: StudyExperiment, run: str, outbox: Outbox) -> None:
    """Write one trial from its start to its end with a new writer, so that the queue stays short."""
    writer = MlflowWriter(store, run, outbox, scores=partial(scores_so_far, schedule))
    writer.trial_started(planned)
    trial = Simulated(planned, schedule.plan)
    for report in trial.reports():
        writer.trial_reported(planned, report)
    result = trial.result()
    schedule.finished(planned.config.identity, result)
    writer.trial_ended(planned, result)
    if writer.close():
        raise RuntimeError(f"MLflow did not accept {planned.name}: {writer.last_fault}")


class Simulated:
    """The numbers of a trial that never ran, of the form that `hpo.training.trial.run_trial` gives them."""

    def __init__(self, planned: PlannedTrial, plan: Plan) -> None:
        self.config, self.tasks = planned.config, plan.tasks
        self.random = np.random.default_rng(int(self.config.identity, 16))
        self.steps = self.config.epochs * STEPS
        self.gradnorm = self.config.method == "gradnorm"
        decay = np.exp(-np.arange(self.config.epochs) / (self.config.epochs / 4))[:, None]
        self.loss = SCALES * (0.3 + 0.5 * decay + self._noise(0.01, self.config.epochs))
        self.path = self._path() if self.gradnorm else {}
        self.w = self._means("w") if self.gradnorm else np.tile(self._weights(), (self.config.epochs, 1))
        self.final = self._metrics()
        self.curve = self.final * (1 + decay + self._noise(0.01, self.config.epochs))
        self.curve[-1] = self.final

    def reports(self) -> list[EpochReport]:
        """One an epoch."""
        G, r = (self._means(name) if self.gradnorm else () for name in "Gr")
        return [
            EpochReport(
                epoch=k + 1,
                epochs=self.config.epochs,
                steps=(k + 1) * STEPS,
                seconds=0.1 * (k + 1),
                loss=self._named(self.loss[k]),
                validation=self._named(self.curve[k]),
                weights=self._named(self.w[k]),
                gradient_norms=self._named(G[k]) if self.gradnorm else {},
                rates=self._named(r[k]) if self.gradnorm else {},
            )
            for k in range(self.config.epochs)
        ]

    def result(self) -> TrialResult:
        """A trial that finished."""
        other = self.final * (1 + self._noise(0.002, 2))
        with np.errstate(divide="ignore"):  # a single-task network's other weights are 0
            geometric = np.exp(np.log(self.w).mean(axis=0))
        averages = {
            "arithmetic": self.w.mean(axis=0),
            "geometric": geometric * len(geometric) / geometric.sum(),
            "tail": self.w[len(self.w) // 2 :].mean(axis=0),
        }
        capped = self.gradnorm and self.config.settings["recipe"] == "paper" and self.config.settings["alpha"] > 2
        return TrialResult(
            "finished",
            steps=self.steps,
            seconds=0.1 * self.config.epochs * (1.1 if self.gradnorm else 1.0),
            validation=self._named(self.final),
            test=self._named(other[0]) if self.config.test else {},
            train=self._named(0.97 * other[1]) if self.config.test else {},
            averages={name: self._named(w) for name, w in averages.items()},
            initial_losses=self._named(0.8 * SCALES),
            alarms=["A weight reached its floor 0.001 (simulated)."] if capped else [],
            trajectory=self.path,
        )

    def _weights(self) -> Vector:
        """Return the weights of a method that does not depend on gradients, shape (T,)."""
        method, settings = self.config.method, self.config.settings
        if method == "single_task":
            return np.array([float(task == settings["task"]) for task in self.tasks])
        if method == "static":
            return clr_inverse(clr([settings["weights"][task] for task in self.tasks]))
        share = {"equal": 0.0, "uncertainty": 0.5, "frozen": 1.5 if settings.get("rule") == "gradient" else 2.5}
        return clr_inverse(share[method] * BEST)

    def _path(self) -> dict[str, NDArray[np.generic]]:
        """Simulate w, G, r and L in every step: from equal weights to a point near the best that depends on alpha."""
        alpha = self.config.settings["alpha"]
        end = BEST * (0.8 + 0.3 * alpha) + (0.2 if self.config.settings["recipe"] == "paper" else 0.0) * BEST[::-1]
        step = np.arange(self.steps)
        moved = 1 - np.exp(-step / (self.steps / 20))[:, None]
        logs = end * moved + 0.02 * np.sin(step / (self.steps / 40))[:, None] + self._noise(0.01, self.steps)
        numbers = {
            "w": clr_inverse(logs),
            "G": 0.02 * (1.5 - moved) + np.abs(self._noise(0.002, self.steps)),
            "r": 1 + self._noise(0.05, self.steps),
            "L": np.repeat(self.loss, STEPS, axis=0) * (1 + self._noise(0.05, self.steps)),
        }
        return {"step": step, **{name: values.astype(np.float32) for name, values in numbers.items()}}

    def _means(self, name: str) -> Vector:
        """Means over each epoch, shape (epochs, T)."""
        return np.asarray(self.path[name].reshape(-1, STEPS, len(BEST)).mean(axis=1, dtype=np.float64))

    def _metrics(self) -> Vector:
        """Simulate metrics: 2 % better than single-task at the best weights, worse with the distance from them."""
        own, ours = self._noise(0.002, 1)[0], np.random.default_rng(self.config.seed).normal(size=len(BEST))
        if self.config.method == "single_task":
            return ALONE * np.where(self._weights() > 0, 1 + own, 3.0)
        off = clr(self.w.mean(axis=0)) - BEST
        return np.asarray(ALONE * (0.98 + 0.01 * off @ off - 0.004 * off + own + 0.004 * ours))

    def _noise(self, size: float, rows: int) -> Vector:
        return size * self.random.normal(size=(rows, len(BEST)))

    def _named(self, values: Vector) -> dict[str, float]:
        return dict(zip(self.tasks, values.tolist(), strict=True))


@dataclass
class Taken:
    """The measurements of one `gradsweep report`."""

    seconds: float
    processor: float  # seconds of it, which other work on the machine does not stretch as much
    gigabytes: float  # most that the process and its children held at once
    megabytes: float  # of the page


def report(path: Path, where: Workspace, *options: str) -> Taken:
    """Run the command in a separate process."""
    gradsweep = str(Path(sys.executable).with_name("gradsweep"))
    command = [gradsweep, "report", str(path), "--output", str(where.output), *options]
    with tempfile.TemporaryFile() as log:
        begin, before, most = time.perf_counter(), os.times(), 0
        process = subprocess.Popen(command, stdout=log, stderr=log)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.Error):  # one of them has just ended
                most = max(most, sum(p.memory_info().rss for p in (watched, *watched.children(recursive=True))))
            time.sleep(POLL)
        seconds, after = time.perf_counter() - begin, os.times()
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"gradsweep report ended with {process.returncode}:\n{log.read().decode()}")
    page = where.folder(path.stem) / "report" / "report.html"
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(seconds, processor, most / 1e9, page.stat().st_size / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--direct", action="store_true", help="insert the trials into SQLite without the writer")
    parser.add_argument("--output", type=Path, help="folder to keep the study in; default: a temporary one")
    options = parser.parse_args()
    if options.trials < FEWEST or options.epochs < 2:
        parser.error(f"at least {FEWEST} trials and 2 epochs")
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.trials, options.epochs, options.output or Path(temporary), options.direct)


def measure(trials: int, epochs: int, output: Path, direct: bool) -> None:
    """Create the study, report on it as in `REPORTS`, and print the measurements."""
    output.mkdir(parents=True, exist_ok=True)
    where = place(output, None)
    path = write_study(trials, epochs, where.output)
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlflow", "pandas", "plotly"))
    print(f"{machine()}; Python {platform.python_version()}, {packages}")
    begin = time.perf_counter()
    made = make_directly(path, where) if direct else make(path, where)
    seconds, held = time.perf_counter() - begin, (where.output / "mlflow.db").stat().st_size / 1e6
    print(f"SIMULATED study {path.stem}, no network was trained: {trials:,} trials by {epochs:,} epochs, ", end="")
    print(f"{held:,.0f} MB of SQLite; making {made:,} of them took {seconds:.0f} s", flush=True)
    print("\n| report | seconds | processor seconds | peak memory, GB | page, MB |\n|---|---|---|---|---|")
    print(f"| target: less than | {' | '.join(['60', '', '2'] if trials >= LARGE else ['30', '', '1.5'])} | 15 |")
    for name, options in REPORTS.items():
        taken = report(path, where, *options)
        cells = f"{taken.seconds:.1f} | {taken.processor:.1f} | {taken.gigabytes:.2f} | {taken.megabytes:.1f}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
