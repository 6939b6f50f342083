"""Run the studies behind "Weights in a few runs" on the results page: python -m benchmarks.few_runs [PROBLEM ...]

For each of the seven problems of docs/results.md, four studies share one output folder, so that no trial runs twice:
the static search of 48 points; the shortlist, with every arm confirmed; and the shortlist refined by 16 points, once
by each sampler that is named. The trials of all four go to docs/results/few-runs/PROBLEM.csv, from which
`python docs/results.py` makes the tables. About ten minutes per problem on 2 cores. The same command again resumes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hpo.core.files import write_whole

ROOT = Path(__file__).parents[1]
PROBLEMS = ("toy", "toy-scaled", "toy-ten", "census", "qm9", "earth", "multi_fashion")
SAMPLERS = ("gp", "random")
REFINING = 16
COLUMNS = ["phase", "arm", "kind", "seed", "status", "score_val", "score_test", "steps", "seconds", "together"]


def ways(samplers: tuple[str, ...] | list[str]) -> dict[str, dict[str, Any]]:
    """Return the parts of the study file in which the studies of a problem differ, by name."""
    unsearched = {"static": "off", "confirm": {"shortlist": "chosen"}}
    refined = {f"refine {name}": unsearched | {"refine": {"trials": REFINING, "sampler": name}} for name in samplers}
    search = {"shortlist": "off", "confirm": {"top_static": 2}}
    return {"static search": search, "shortlist": {"static": "off", "confirm": {"shortlist": "all"}}} | refined


def given_study(problem: str) -> dict[str, Any]:
    """Return the study of a problem on the results page, as its file has it."""
    study: dict[str, Any] = yaml.safe_load((ROOT / "studies" / f"{problem}.yaml").read_text())
    return study


def study_file(problem: str, parts: dict[str, Any]) -> dict[str, Any]:
    """Return a study of a problem: its data, points and seeds are those of studies/PROBLEM.yaml."""
    given = given_study(problem)
    kept = {key: given[key] for key in ("problem", "seed", "seeds", "epochs", "static") if key in given}
    return {"name": f"few-runs-{problem}", "gradnorm": "off"} | kept | parts


def run_study(study: dict[str, Any], path: Path) -> pd.DataFrame:
    """Run a study, or the rest of it, with its file at a path and its results beside it; return its trials."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, yaml.safe_dump(study, sort_keys=False))
    print(f"==> {path.stem}", flush=True)
    command = [sys.executable, "-m", "gradsweep", "run", str(path), "--output", str(path.parent)]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status not in (0, 1):  # 1: a trial failed or diverged, which is a result
        raise SystemExit(f"{path.stem}: gradsweep ended with exit code {status}")
    return pd.read_csv(path.parent / study["name"] / "report" / "trials.csv")


def run(problem: str, way: str, parts: dict[str, Any], output: Path) -> pd.DataFrame:
    """Run the study of one way, or the rest of it; return its trials."""
    study = study_file(problem, parts)
    trials = run_study(study, output / f"{study['name']}-{way.replace(' ', '-')}.yaml")
    known = [column for column in trials if column in COLUMNS or column.startswith("geometric/")]
    return trials[known].assign(way=way)


def main() -> None:
    """Run the studies of each problem and keep their trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=PROBLEMS, metavar="PROBLEM", help=", ".join(PROBLEMS))
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, help="of the refinement")
    parser.add_argument("--output", type=Path, default=ROOT / "gradsweep-output", help="where the studies go")
    given = parser.parse_args()
    kept = ROOT / "docs" / "results" / "few-runs"
    kept.mkdir(parents=True, exist_ok=True)
    for problem in given.problems:
        found = [run(problem, way, parts, given.output) for way, parts in ways(given.samplers).items()]
        table = pd.concat(found, ignore_index=True)
        write_whole(kept / f"{problem}.csv", table.to_csv(index=False, float_format="%.6g"))


if __name__ == "__main__":
    main()
