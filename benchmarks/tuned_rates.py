"""Run the studies behind "With the learning rate tuned" on the results page.

    python -m benchmarks.tuned_rates [PROBLEM ...]

Each of the seven problems of docs/results.md is studied with three learning rates: its own, and this times each of
FACTORS. Every arm and every single-task network is trained with all three on the search seed, and then with its own
and with its best one on the confirm seeds; so one study holds the comparison with the learning rate fixed and that
with it tuned. The trials go to docs/results/tuned-rates/PROBLEM.csv, from which `python docs/results.py` makes the
tables. About ten minutes per problem on 2 cores. The same command again resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.few_runs import COLUMNS, PROBLEMS, ROOT, given_study, run_study
from hpo.core.files import write_whole
from hpo.problems.registry import arguments_of

FACTORS = (0.25, 4.0)
PARTS: dict[str, Any] = {
    "seeds": 4,
    "references": ["single_task", "equal", "uncertainty"],
    "shortlist": "off",
    "gradnorm": {"recipes": ["paper", "direct"], "alpha": [0.0, 3.0], "trials": 6},
    "confirm": {"top_static": 3, "averages": ["geometric"]},
}


def study_file(problem: str) -> dict[str, Any]:
    """Return a study of a problem: its data, seed and range of weights are those of studies/PROBLEM.yaml."""
    given = given_study(problem)
    kept = {key: given[key] for key in ("problem", "seed", "epochs") if key in given}
    own = arguments_of(given["problem"]["name"])["learning_rate"]
    rates = [float(f"{factor * own:.6g}") for factor in FACTORS]
    tune = {"trials": 1 + len(rates), "learning_rate": {"choice": rates}}
    static = given["static"] | {"points": 24}
    return {"name": f"tuned-rates-{problem}"} | kept | PARTS | {"static": static, "tune": tune}


def main() -> None:
    """Run the study of each problem and keep its trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=PROBLEMS, metavar="PROBLEM", help=", ".join(PROBLEMS))
    parser.add_argument("--output", type=Path, default=ROOT / "gradsweep-output", help="where the studies go")
    given = parser.parse_args()
    kept = ROOT / "docs" / "results" / "tuned-rates"
    kept.mkdir(parents=True, exist_ok=True)
    for problem in given.problems:
        study = study_file(problem)
        trials = run_study(study, given.output / f"{study['name']}.yaml")
        table = trials[[column for column in COLUMNS if column in trials]]
        write_whole(kept / f"{problem}.csv", table.to_csv(index=False, float_format="%.6g"))


if __name__ == "__main__":
    main()
