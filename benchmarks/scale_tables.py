"""The tables of docs/benchmarks.md on thousands of trials, from what `benchmarks.scale` and others have measured.

    python -m benchmarks.scale --trials 1000 --raylets 2 --json benchmarks/figures/scale-1000.json
    python -m benchmarks.shared_server --json benchmarks/figures/shared-server.json
    python -m benchmarks.scale_tables

The last command reads every file of benchmarks/figures and writes the part of the page between two comments.

What bounds a study is computed. With c trials at once in a Tune trial, and the milliseconds of processor time per
trial that were measured, both threads of the driver, which share Python's lock, take
``tune / c + schedule + listeners + writer``; one of them works while the other waits for the disk. The driver's limit
is a thousand divided by that. W workers with trials of t seconds end ``W / t`` trials per second, so that the driver
holds them up if t is below ``W / limit``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.core.files import write_whole

ROOT = Path(__file__).parents[1]
FIGURES, PAGE = ROOT / "benchmarks" / "figures", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- written by python -m benchmarks.scale_tables -->", "<!-- end of benchmarks.scale_tables -->"
WORKERS = (1, 10, 100, 1000)
COHORTS = (1, 16)  # trials at once
LENGTHS = {"1 s": 1.0, "10 s": 10.0, "1 min": 60.0, "10 min": 600.0}  # of trials
Cell = Mapping[str, Any]

CELL_COLUMNS = {
    "trials": ("trials", "d"),
    "raylets": ("raylets", "d"),
    "cohort": ("cohort", "s"),
    "seconds": ("s a trial", ".3f"),
    "schedule_ms": ("schedule", ".1f"),
    "listeners_ms": ("listeners", ".1f"),
    "disk_ms": ("disk", ".1f"),
    "tune_ms": ("Tune", ".1f"),
    "writer_ms": ("writer", ".1f"),
    "memory_mib": ("driver grew, MiB", ".0f"),
}
SHARED_COLUMNS = {
    "way": ("studies", "s"),
    "trials": ("trials", "d"),
    "per_second": ("trials per second", ".1f"),
    "driver_ms": ("driver, ms a trial", ".0f"),
    "failed_requests": ("requests that failed", "d"),
    "lost": ("lost", "d"),
    "doubled": ("doubled", "d"),
}
ALONE_COLUMNS = {
    "trials": ("trials", "d"),
    "alphas": ("alphas", "d"),
    "next_ms": ("hand out, ms", ".3f"),
    "finished_ms": ("take a result, ms", ".3f"),
    "look_ms": ("a look at the progress, ms", ".3f"),
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(columns: Mapping[str, tuple[str, str]], rows: Iterable[Cell]) -> str:
    """Return measurements as a table."""
    head = [name for name, _ in columns.values()]
    return table(head, ([format(row[key], form) for key, (_, form) in columns.items()] for row in rows))


def limit(cell: Cell, together: int) -> float:
    """Return the trials per second that the driver can handle, with so many trials at once."""
    return 1000.0 / (cell["tune_ms"] / together + cell["schedule_ms"] + cell["listeners_ms"] + cell["writer_ms"])


def limits(cell: Cell) -> str:
    """Return the computed table: trials per second by number and length of trials, and what bounds them."""
    rows = []
    for together in COHORTS:
        most = limit(cell, together)
        for workers in WORKERS:
            rates = [(workers / seconds, workers / seconds <= most) for seconds in LENGTHS.values()]
            told = [f"{rate:.3g}, workers" if fits else f"{most:.3g}, driver" for rate, fits in rates]
            rows.append([str(workers), str(together), *told, f"{workers / most:.3g} s"])
    return table(
        ["workers", "cohort", *(f"trials of {name}" for name in LENGTHS), "shortest that keep all busy"], rows
    )


def text(contents: Sequence[Mapping[str, Any]]) -> str:
    """Return the part of the page."""
    cells = sorted(_rows(contents, "cells"), key=lambda cell: (cell["cohort"], cell["trials"]))
    alone = sorted(_rows(contents, "alone"), key=lambda row: row["trials"])
    base = max((cell for cell in cells if cell["cohort"] == "1"), key=lambda cell: cell["trials"])
    loads = [one["load"] for one in contents if "load" in one]
    busy = f"shared with other work while measured (load {min(loads):.0f} to {max(loads):.0f} where it was recorded)"
    parts = [
        f"{contents[0]['machine']}, {busy}: wall-clock times are longer than on an idle machine, and processor times "
        "somewhat.",
        measured(CELL_COLUMNS, cells),
        "The schedule by itself, without Ray:",
        measured(ALONE_COLUMNS, alone),
        "Trials delivered to one MLflow server, also through a proxy that adds 20 ms to each request and fails one "
        "in twenty, by an answer 503, by half an answer, or by none:",
        measured(SHARED_COLUMNS, _rows(contents, "shared")),
        *_bounds(base),
    ]
    return "\n\n".join(parts)


def _rows(contents: Sequence[Mapping[str, Any]], key: str) -> list[Cell]:
    return [row for one in contents for row in one.get(key, [])]


def _bounds(base: Cell) -> list[str]:
    """Return what bounds a study, computed from a measured launch."""
    one, sixteen = (limit(base, together) for together in COHORTS)
    ends = WORKERS[-1] / LENGTHS["10 min"]
    return [
        f"**What bounds trials per second** is computed from the row of {base['trials']:,} trials, with the formula "
        f"in [benchmarks/scale_tables.py](../benchmarks/scale_tables.py): the driver handles {one:.0f} trials per "
        f"second one at a time, and {sixteen:.0f} with 16 at once. Each cell has the rate and what bounds it.",
        limits(base),
        f"**For a cluster of 1,000 GPUs** this means that trials of ten minutes, one per GPU, end {ends:.1f} times "
        f"per second, {ends / one:.0%} of what the driver handles. The figure is computed; Ray's own limits at a "
        "thousand nodes were not tested.",
    ]


def page_with(page: str, part: str) -> str:
    """Return the page with a new part between the comments."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{rest.partition(END)[2]}"


def figures() -> list[Mapping[str, Any]]:
    """Read all that has been measured."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIGURES.glob("*.json"))]


def main() -> None:
    write_whole(PAGE, page_with(PAGE.read_text(encoding="utf-8"), text(figures())))


if __name__ == "__main__":
    main()
