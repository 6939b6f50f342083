"""Several studies that deliver to one MLflow server, directly and through a proxy that fails now and then.

    python -m benchmarks.shared_server --trials 100        # a few minutes
    python -m benchmarks.shared_server --json benchmarks/figures/shared-server.json

Every study is a writer of `hpo.tracking.delivery` in this process, with made-up trials of five epochs, as a launch
has one. The server is that of mlflow/server-sqlite.sh. Afterwards the runs are read past the proxy and compared with
what was sent: *lost* are trials without a complete run, *doubled* those with several runs or with a point twice.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.entities import Run

from benchmarks.tracking import server
from benchmarks.unreliable_proxy import UnreliableProxy
from hpo.core.files import write_whole
from hpo.core.trial import AVERAGES, EpochReport, PlannedTrial, TrialConfig, TrialResult
from hpo.tracking.backend import machine
from hpo.tracking.delivery import MlflowWriter
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.outbox import Outbox

EPOCHS = 5
TASKS = ("a", "b", "c")
DELAY, SHARE = 0.02, 0.05  # of the proxy: seconds added to each request, and the share of them that fails
WAYS = {"one study": (1, False), "two studies": (2, False), "two studies behind the proxy": (2, True)}


@dataclass(frozen=True)
class Shared:
    """The figures of one way to deliver."""

    way: str
    trials: int  # of all studies together
    per_second: float
    driver_ms: float  # processor time of the studies' process, per trial
    failed_requests: int
    lost: int
    doubled: int


def planned(number: int) -> PlannedTrial:
    w = dict.fromkeys(TASKS, 1.0)
    config = TrialConfig("made-up", {}, "none", "static", {"weights": w}, number, EPOCHS)
    return PlannedTrial(config, "static", f"static/{number:02d}")


def report(epoch: int) -> EpochReport:
    values = dict.fromkeys(TASKS, 1.0 / epoch)
    return EpochReport(epoch, EPOCHS, 10 * epoch, 0.1, values, values, values, {}, {})


def result() -> TrialResult:
    values = dict.fromkeys(TASKS, 0.5)
    averages = {average: dict.fromkeys(TASKS, 1.0) for average in AVERAGES}
    return TrialResult("finished", 50, 0.5, validation=values, averages=averages, initial_losses=values)


def deliver(url: str, way: str, trials: int, folder: Path) -> Shared:
    """Deliver the trials of all studies of a way; return its figures."""
    count, unreliable = WAYS[way]
    names = [f"{way} {k}" for k in range(1, count + 1)]
    port = urlsplit(url).port
    assert port is not None
    with UnreliableProxy(port, 0.0, DELAY) if unreliable else nullcontext() as proxy:
        stores = [StudyExperiment(proxy.url if proxy else url, name, folder) for name in names]
        outboxes = [Outbox(folder / name) for name in names]
        writers = [
            MlflowWriter(store, store.start_launch("name: x"), outbox)
            for store, outbox in zip(stores, outboxes, strict=True)
        ]
        if proxy:
            proxy.share = SHARE
        begin, busy = time.perf_counter(), time.process_time()
        for number in range(trials):
            for writer in writers:
                _tell(writer, planned(number))
        while any(len(outbox) for outbox in outboxes):
            time.sleep(0.05)
        seconds, spent = time.perf_counter() - begin, time.process_time() - busy
        for writer in writers:
            if writer.close():
                raise RuntimeError(writer.last_fault)
        failed = proxy.counts.total() - proxy.counts["passed"] if proxy else 0
    every = trials * count
    found = [_audit(StudyExperiment(url, name, folder), trials) for name in names]
    lost, doubled = (sum(numbers) for numbers in zip(*found, strict=True))
    return Shared(way, every, every / seconds, 1000 * spent / every, failed, lost, doubled)


def _tell(writer: MlflowWriter, trial: PlannedTrial) -> None:
    writer.trial_started(trial)
    for epoch in range(1, EPOCHS + 1):
        writer.trial_reported(trial, report(epoch))
    writer.trial_ended(trial, result())


def _audit(store: StudyExperiment, trials: int) -> tuple[int, int]:
    """Return the numbers of trials without a complete run, and of those that are there more than once."""
    records = store.records()
    complete = {record.config.identity for record in records}
    lost = sum(planned(number).config.identity not in complete for number in range(trials))
    tags = [run.data.tags for run in _runs(store)]
    runs = Counter(one["gradsweep.identity"] for one in tags if "gradsweep.identity" in one)
    points = [store.client.get_metric_history(record.run_id, f"loss/{TASKS[0]}") for record in records]
    twice = sum(len(found) != EPOCHS for found in points)
    return lost, sum(count > 1 for count in runs.values()) + twice


def _runs(store: StudyExperiment) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = store.client.search_runs([store.experiment_id], max_results=1000, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def measure(trials: int) -> list[Shared]:
    """Measure every way on a new server."""
    found = []
    with tempfile.TemporaryDirectory(prefix="gradsweep-benchmark-") as name, server(Path(name)) as url:
        for way in WAYS:
            found.append(deliver(url, way, trials, Path(name)))
            print(f"{found[-1]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="of each study")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args()
    print(machine())
    found = measure(given.trials)
    if given.json:
        content = {
            "machine": machine(),
            "load": round(os.getloadavg()[1], 1),
            "shared": [asdict(one) for one in found],
        }
        write_whole(given.json, json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
