"""The tables of the results page are those of the studies."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("results", DOCS / "results.py")
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    return results


def test_every_table_is_made_from_the_numbers_beside_it(results):
    studies, text = results.load(), (DOCS / "results.md").read_text()
    assert list(studies) == list(results.STUDIES)
    assert results.filled(text, studies) == text
    worse = {
        name: study | {"verdict": study["verdict"] | {"kind": "worse than ever"}} for name, study in studies.items()
    }
    assert results.filled(text, worse).count("worse than ever") == len(studies)


@pytest.mark.parametrize(
    ("page", "command"),
    [("public-models", "public-models"), ("tuning", "tuned-winner"), ("weights", "stored-surfaces")],
)
def test_a_page_has_what_its_command_printed(results, page, command):
    text = (DOCS / f"{page}.md").read_text()
    assert f"{page}.md" in results.PRINTED
    assert results.printed(text) == text
    assert (DOCS / "results" / f"{command}.txt").read_text() in text


def test_seconds_of_trials_trained_one_at_a_time_are_marked_wherever_they_stand(results):
    studies = results.load()
    old = {name: study for name, study in studies.items() if results.one_at_a_time(study)}
    rows = [line for line in results.summary(studies).splitlines() if line.startswith("| ")][2:]
    for (name, study), row in zip(studies.items(), rows, strict=True):
        *_, ratios, training, _ = row.split("|")
        assert [results.MARK in ratios, results.MARK in training] == [name in old] * 2
        said = results.words(study)
        assert said.count(f"seconds {results.MARK}") == said.count("seconds") * (name in old)
        assert "seconds" in said
    assert (results.ONE_AT_A_TIME in results.summary(studies)) is bool(old)


def test_a_study_that_is_run_again_loses_the_marks(results):
    name, study = next(iter(results.load().items()))
    again = study | {"trials": study["trials"].assign(together=1)}
    assert results.MARK not in results.summary({name: again}) + results.words(again)


def test_what_is_collected_says_how_many_trials_were_trained_at_once(results, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DOCS", tmp_path / "docs")
    report = tmp_path / "output" / "census" / "report"
    report.mkdir(parents=True)
    (report / "comparison.json").write_text("{}")
    columns = [*results.TRIALS, "identity"]
    (report / "trials.csv").write_text(",".join(columns) + "\n" + ",".join("1" for _ in columns) + "\n")
    results.collect(tmp_path / "output")
    kept = (tmp_path / "docs" / "results" / "census" / "trials.csv").read_text().splitlines()[0]
    assert sorted(kept.split(",")) == sorted(results.TRIALS)
