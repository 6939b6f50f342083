"""The script for a GPU tests itself on the CPU, at a small size; the figures in its tables are nobody's to assert."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks import on_gpu
from benchmarks.gpu_parts import PARTS

# Not here: `tests` and `sweep`, which run what other tests run.
QUICK = ["hardware", "steps", "cohorts", "paper-networks", "one-rank", "mixed-precision"]


def rows_of(folder: Path, part: str) -> list[dict[str, str]]:
    with (folder / f"{part}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_part_writes_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert on_gpu.main(["--output", str(tmp_path), "--small", "--parts", *QUICK]) == 0
    assert "1/6 Hardware" in capsys.readouterr().out
    outcomes = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert [(one["part"], one["status"]) for one in outcomes] == [(part, "done") for part in QUICK]
    report = (tmp_path / "report.md").read_text("utf-8")
    for part in QUICK:
        assert f"## {PARTS[part].title}\n" in report
        assert rows_of(tmp_path, part)
    steps = rows_of(tmp_path, "steps")
    assert {(row["way"], row["step"]) for row in steps} == {
        (way, step) for way in ("eager", "compiled below W", "CUDA graph") for step in ("static", "GradNorm")
    }
    assert {row["note"] for row in steps if row["way"] == "CUDA graph"} <= {"needs CUDA", ""}
    assert [row["trials"] for row in rows_of(tmp_path, "cohorts")] == ["2", "4"] * 2
    assert next(row["precision"] for row in rows_of(tmp_path, "mixed-precision")) == "float32"
    assert float(rows_of(tmp_path, "one-rank")[0]["largest difference of w"]) < 1e-3


@pytest.mark.slow
def test_a_part_that_fails_or_takes_too_long_is_named(tmp_path: Path) -> None:
    late = on_gpu.run_part("steps", small=True, output=tmp_path, limit=0.2)
    assert (late.status, late.rows) == ("stopped after its limit of 0 s", [])
    failed = on_gpu.run_part("absent", small=True, output=tmp_path, limit=100)
    assert failed.status.startswith("failed: ")
    assert "invalid choice: 'absent'" in failed.status
    on_gpu.write([on_gpu.Outcome("steps", late.status, 0.2)], small=True, output=tmp_path)
    assert "| steps | stopped after its limit of 0 s | 0.2 |" in (tmp_path / "report.md").read_text("utf-8")


def test_all_parts_together_are_given_less_than_eight_minutes() -> None:
    assert on_gpu.WHOLE_SECONDS + on_gpu.END_SECONDS * 2 <= 480
    assert sum(part.seconds for name, part in PARTS.items() if name != "sweep") < on_gpu.WHOLE_SECONDS
