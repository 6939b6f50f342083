"""The benchmarks run and print their tables; the figures in them are not asserted."""

import sqlite3
from contextlib import closing

import pandas as pd
import pytest

from benchmarks import report
from hpo.launch.restore import open_plan, restored_schedule
from hpo.launch.workspace import place
from hpo.tracking.experiment import StudyExperiment
from tests.helpers.benchmark_tables import benchmark
from tests.helpers.runs import place_database


@pytest.mark.slow
def test_the_benchmark_of_a_step_prints_its_table():
    _, rows = benchmark("benchmarks.step", "--only", "toy, 2 tasks", "--rounds", "2", "--before", ".")
    assert all(len(row) == 4 for row in rows)
    names = [row[0].strip("| ") for row in rows]
    assert names[:5] == ["step", "static", "floor", "one pass", "called"]


@pytest.mark.slow
def test_the_benchmark_of_the_parts_of_a_step_finds_each_part():
    """It times functions of `balancers` by their names."""
    _, rows = benchmark("benchmarks.step_parts", "--only", "toy, 2 tasks", "--steps", "3")
    assert len(rows) == 8


@pytest.mark.slow
def test_the_benchmark_of_the_report_makes_a_study_that_the_command_knows(tmp_path):
    printed, rows = benchmark("benchmarks.report", "--trials", "60", "--epochs", "2", "--output", str(tmp_path))
    assert "SIMULATED study simulated-60, no network was trained: 60 trials by 2 epochs" in printed
    names = [row[0].strip("| ") for row in rows]
    assert names == ["report", "target: less than", *report.REPORTS]
    trials = pd.read_csv(tmp_path / "simulated-60" / "report" / "trials.csv")
    assert 50 < len(trials) <= 60  # with other priorities the study confirms other arms, some of which have not run
    assert set(trials["status"]) == {"finished"}
    assert set(trials["phase"]) == {"references", "static", "sweep", "confirm"}
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        written = database.execute(
            "SELECT count(*) FROM metrics WHERE key = 'score/val' GROUP BY run_uuid"
        ).fetchall()
    assert (2,) in written  # once with its trial or by the first report, and once with other priorities
    assert set(written) <= {(1,), (2,)}


@pytest.mark.slow
def test_trials_that_are_inserted_directly_are_read_like_those_of_the_writer(tmp_path):
    place_database(tmp_path)
    where = place(tmp_path, None)
    path = report.write_study(60, 2, tmp_path)
    count = report.make_directly(path, where)
    plan = open_plan(path)
    records = StudyExperiment(where.uri, plan.study.name, tmp_path).records()
    schedule = restored_schedule(plan, records, runs=False)
    assert len(records) == len(schedule.results) == count >= 60
    assert schedule.is_complete
    for record in records[:5]:
        planned = next(one for one in schedule.planned() if one.config.identity == record.config.identity)
        expected = report.Simulated(planned, plan).result()
        assert record.result.validation == expected.validation
        assert record.result.averages["tail"] == expected.averages["tail"]
