"""``gradsweep weights``: from a problem to weights, with an answer on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from balancers import Static
from hpo.api.weights import keep_study, weights_study
from hpo.core.errors import OutputError
from hpo.launch.provisional import is_provisional
from hpo.study.study_file import load_study
from tests.helpers.runs import Case, main, place_database

PROBLEM = "tests.helpers.problems:Steered"


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "GRADSWEEP_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    return Case(tmp_path, name="weights-Steered", database=False)


@pytest.mark.slow
def test_a_problem_is_enough(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    place_database(case.output)
    problem = (PROBLEM, "--set", f"folder={case.folder}")
    told = ("--baseline", "near=1,far off=3", "--seeds", "2", "-o", "kept/weights.json")
    code, out, err = main(capsys, "weights", *problem, *told)
    assert (code, err) == (0, ""), out
    before, _, after = out.partition("\nWhich weights should I train with?")
    assert re.search(r"^So far, train with .*: near \S+, far off \S+$", before, re.MULTILINE)
    assert "marked provisional" in before
    assert "the weights of today" in after
    assert "static search" not in after
    content = json.loads((case.folder / "kept" / "weights.json").read_text())
    assert "provisional" not in content
    assert Static.load(case.folder / "kept" / "weights.json").tasks == ["near", "far off"]
    study = load_study(case.results / "study.yaml")
    assert (study.static, study.gradnorm, study.seeds) == (None, None, 2)
    parent = MlflowClient(case.uri).get_run(case.runs("launch")[0].info.run_id)
    assert "the weights of today" in parent.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--baseline", "near"), "--baseline: expected equal, or TASK=WEIGHT,TASK=WEIGHT,..., got 'near'"),
        (("--baseline", "near=1,near=2"), "--baseline: expected equal, or TASK=WEIGHT,TASK=WEIGHT,..., got"),
        (("--baseline", "near=0,far off=1"), "baseline: expected equal, or a mapping from each task to a number > 0"),
        (("--baseline", "near=1"), "baseline: expected a number for each of the tasks near, far off, got"),
        (("--priority", "near"), "--priority: expected TASK=NUMBER, each task once, got 'near'"),
        (("--priority", "near=1", "--priority", "near=2"), "--priority: expected TASK=NUMBER, each task once, got"),
        (("--limit", "near=-1"), "limits: expected a mapping from tasks to finite numbers >= 0, got {'near': -1.0}"),
        (("--limit", "far=1"), "limits: expected tasks of the problem (near, far off), got 'far'"),
        (("--limit", "near=1", "--seeds", "1"), "seeds: expected a number >= 2, which limits need for confidence"),
        (("--refine", "3"), "refine.trials: expected a number >= 4, got 3"),
        (("-o", "/dev/null/weights.json"), "-o: /dev/null/weights.json cannot be written: Not a directory"),
        (("-o", "."), "-o: . cannot be written: Is a directory"),
        (("--name", "a/b"), "name: expected letters, digits"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], line: str, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = main(capsys, "weights", PROBLEM, "--set", f"folder={case.folder}", *arguments)
    assert code == 2
    assert err.startswith(f"error: {line}")
    assert len(err.splitlines()) == 1
    assert not case.output.exists()


def test_a_fault_that_check_finds_is_told_in_its_words(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = main(capsys, "weights", "tests.helpers.broken_problems:LossWithoutGraph")
    assert code == 2
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert not case.output.exists()


def test_a_study_file_that_was_edited_is_not_overwritten(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.results.mkdir(parents=True)
    (case.results / "study.yaml").write_text("seeds: 20  # mine")
    code, _, err = main(capsys, "weights", PROBLEM, "--set", f"folder={case.folder}")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "study.yaml: has been edited, or is of another problem; " in err
    assert (case.results / "study.yaml").read_text() == "seeds: 20  # mine"
    own = weights_study({"name": PROBLEM, "folder": str(case.folder)}).text
    edited = own.replace("gradnorm: 'off'\n", "")
    assert edited != own
    (case.results / "study.yaml").write_text(edited)
    code, _, err = main(capsys, "weights", PROBLEM, "--set", f"folder={case.folder}", "--refine", "4")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "study.yaml: has been edited, or is of another problem; " in err
    assert "run it with gradsweep run, or choose another name" in err
    assert (case.results / "study.yaml").read_text() == edited


def test_other_options_go_on_and_keep_those_that_are_left_out(tmp_path: Path) -> None:
    def call(problem: object = PROBLEM, **options: object) -> str:
        study = weights_study(problem, None, tmp_path, options)  # type: ignore[arg-type]
        return keep_study(study, tmp_path).read_text()

    first = call(seeds=2, baseline={"near": 1.0, "far off": 3.0})
    assert call() == first
    assert call(refine=8) == first + "refine:\n  trials: 8\n"
    assert call(seeds=5) == first.replace("seeds: 2", "seeds: 5") + "refine:\n  trials: 8\n"
    assert call(seeds=2, refine=0) == first
    with pytest.raises(OutputError, match="is of another problem"):  # of another problem
        call({"name": PROBLEM, "folder": "elsewhere"})
    assert call() == first


def test_a_provisional_answer_replaces_no_other(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    assert is_provisional(path)
    path.write_text(json.dumps({"provisional": True}))
    assert is_provisional(path)
    for content in ('{"weights": {}}', "no JSON", "[]"):
        path.write_text(content)
        assert not is_provisional(path)
