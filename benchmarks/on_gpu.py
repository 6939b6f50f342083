"""Everything that has to be seen on a GPU, in one command of less than eight minutes.

    python -m benchmarks.on_gpu --output on-gpu              # on a machine with a GPU
    python -m benchmarks.on_gpu --output on-gpu --parts steps cohorts
    python -m benchmarks.on_gpu --output on-gpu --small      # a test of the script; the same without a GPU

Each part (`benchmarks.gpu_parts`) runs in a process of its own under its own time limit. A part that fails or takes
too long is named, with what it measured before, and the others go on. The output folder gets ``report.md`` with all
tables, ``figures.json``, and for each part ``PART.csv`` and the output of its process, ``PART.log``. The exit code is
1 if a part has failed. ``pip install nvidia-ml-py`` for the share of time in which the GPU is busy during a search.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import torch

from benchmarks.gpu_parts import PARTS, ROOT, Row, Size
from hpo.core.files import write_whole

WHOLE_SECONDS = 470.0  # of all parts together on a GPU
SMALL_SECONDS = 600.0  # of each part on a CPU, which other work may share
END_SECONDS = 5.0  # that a part has to end in once it is told to


@dataclass
class Outcome:
    """The outcome of a part.

    Attributes:
        part: its name.
        status: ``done``, or what went wrong.
        seconds: that it took.
        rows: of its table, as far as it got.
    """

    part: str
    status: str
    seconds: float
    rows: list[Row] = field(default_factory=list)


def run_part(name: str, small: bool, output: Path, limit: float) -> Outcome:
    """Run a part in a process of its own, with what it starts, and end all of it at the limit."""
    rows, log = output / f"{name}.rows", output / f"{name}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--part", name, "--output", str(output)]
    begin = time.monotonic()
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, *(["--small"] if small else [])],
            cwd=ROOT,
            stdout=said,
            stderr=said,
        )
        try:
            code = process.wait(limit)
            status = "done" if code == 0 else f"failed: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            status = f"stopped after its limit of {limit:.0f} s"
        finally:
            _end(process)
    lines = rows.read_text("utf-8").splitlines() if rows.exists() else []
    rows.unlink(missing_ok=True)
    return Outcome(name, status, time.monotonic() - begin, [json.loads(line) for line in lines])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it runs, and all that it has started, politely at first."""
    if process.poll() is not None:
        return
    left: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        left = [parent := psutil.Process(process.pid), *parent.children(recursive=True)]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for one in left:
            with suppress(psutil.NoSuchProcess):
                end(one)
        _, left = psutil.wait_procs(left, END_SECONDS)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no output"


def write_rows(name: str, small: bool, output: Path) -> None:
    """Run a part in this process; write each row as soon as it is known."""
    torch.set_num_threads(1)
    with (output / f"{name}.rows").open("w", encoding="utf-8") as file:
        for row in PARTS[name].rows(Size(small)):
            print(json.dumps(row), file=file, flush=True)


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table in Markdown."""
    if not rows:
        return "No row."
    head = list(dict.fromkeys(key for row in rows for key in row))
    lines = [head, ["---"] * len(head), *([str(row.get(key, "")) for key in head] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def report(outcomes: Sequence[Outcome], small: bool) -> str:
    """Return all tables as Markdown."""
    words = "a test of the script, whose figures mean nothing" if small else "on a GPU"
    overview: list[Row] = [{"part": one.part, "outcome": one.status, "s": round(one.seconds, 1)} for one in outcomes]
    parts = [f"# benchmarks.on_gpu, {words}", table(overview)]
    for one in outcomes:
        parts += [f"## {PARTS[one.part].title}", table(one.rows)]
    return "\n\n".join(parts) + "\n"


def write(outcomes: Sequence[Outcome], small: bool, output: Path) -> None:
    """Write the tables of the parts so far."""
    write_whole(output / "report.md", report(outcomes, small))
    write_whole(output / "figures.json", json.dumps([asdict(one) for one in outcomes], indent=1))
    for one in outcomes:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in one.rows for key in row)))
        writer.writeheader()
        writer.writerows(one.rows)
        write_whole(output / f"{one.part}.csv", text.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--small", action="store_true", help="test the script; implied without a GPU")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)  # in this process
    given = parser.parse_args(argv)
    small, output = given.small or not torch.cuda.is_available(), given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    if given.part:
        write_rows(given.part, small, output)
        return 0
    outcomes: list[Outcome] = []
    end = time.monotonic() + WHOLE_SECONDS
    for place, name in enumerate(given.parts, 1):
        limit = SMALL_SECONDS if small else min(PARTS[name].seconds, end - time.monotonic())
        print(f"{place}/{len(given.parts)} {PARTS[name].title} ...", flush=True)
        outcomes.append(run_part(name, small, output, max(limit, 1.0)))
        print(f"  {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s, {len(outcomes[-1].rows)} rows", flush=True)
        write(outcomes, small, output)
    print(f"written to {output / 'report.md'}")
    return int(any(one.status != "done" for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
