"""Cost of a trial outside training: wall-clock time of a whole study of trivial trials, including MLflow.

    python -m benchmarks.overhead            # 40 and 400 trials; about a minute

The figure is the time from the first to the last trial divided by the number of trials, without the starts of Ray and
MLflow, which are listed separately. Goal: 0.15 s at 40 trials, 0.05 s at 400.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console

from hpo.execution import ray_tune
from hpo.launch.restore import open_plan
from hpo.launch.run import run_study
from hpo.launch.workspace import place
from hpo.study.schedule import Schedule
from hpo.tracking.backend import machine
from hpo.tracking.delivery import MlflowWriter
from hpo.tracking.outbox import EndedTrial

STUDY = {
    "problem": "benchmarks.trivial:Trivial",
    "seeds": 1,
    "shortlist": "off",
    "gradnorm": {"recipes": ["robust"], "trials": 1},
    "confirm": {"top_static": 1, "averages": ["tail"]},
}


def study_of(trials: int, folder: Path) -> Path:
    """Return a study of this number of trials, nearly all of them static points."""
    path = folder / f"overhead-{trials}.yaml"
    content = {"name": f"overhead-{trials}", **STUDY, "static": {"design": "dirichlet", "points": 10}}
    path.write_text(yaml.safe_dump(content))
    fixed = Schedule(open_plan(path), runs=False).size - 10
    content["static"] = {"design": "dirichlet", "points": trials - fixed}
    path.write_text(yaml.safe_dump(content))
    return path


def measure(trials: int) -> tuple[float, float]:
    """Return the seconds from start to end of all trials, delivered to MLflow, and those of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        path = study_of(trials, Path(folder))
        where = place(Path(folder) / "output", None)
        begin = time.perf_counter()
        with Stopwatch() as watch:
            finished = run_study(path, where, None, Console(file=io.StringIO()))
        whole = time.perf_counter() - begin
        assert finished.complete, finished.failed
        assert not finished.failed, finished.failed
        return watch.seconds, whole


class Stopwatch:
    """Times `ray_tune.run` and the delivery that follows it, from inside the command."""

    def __enter__(self) -> Stopwatch:
        self.seconds = 0.0
        self._run, self._end = ray_tune.run, MlflowWriter.close
        watch = self

        def run(*arguments: object) -> object:
            watch._begin = time.perf_counter()
            return self._run(*arguments)  # type: ignore[arg-type]

        def close(writer: MlflowWriter) -> list[EndedTrial]:
            lost = self._end(writer)
            watch.seconds = time.perf_counter() - watch._begin
            return lost

        ray_tune.run, MlflowWriter.close = run, close  # type: ignore[assignment, method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        ray_tune.run, MlflowWriter.close = self._run, self._end  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="*", type=int, default=[40, 400])
    print(f"{machine()}\n{'trials':>7} {'s a trial':>10} {'all trials s':>13} {'whole command s':>16}")
    for trials in parser.parse_args().trials:
        seconds, whole = measure(trials)
        print(f"{trials:>7} {seconds / trials:>10.3f} {seconds:>13.1f} {whole:>16.1f}")


if __name__ == "__main__":
    main()
