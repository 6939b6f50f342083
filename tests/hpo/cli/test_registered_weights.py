"""From a finished study through MLflow's registry to production: ``export --register`` and ``weights-diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from balancers import Static
from hpo.tracking.backend import embedded_uri
from tests.helpers.earlier_output import NAME, unpack_output
from tests.helpers.runs import main
from tests.helpers.weights_files import write_weights_file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_production_loads_what_export_has_registered(folder, capsys, monkeypatch):
    unpack_output(folder)
    code, out, err = main(capsys, "export", "study.yaml", "--register", "toy-weights")
    assert (code, err) == (0, "")
    uri = embedded_uri(folder / "gradsweep-output")
    assert out.splitlines()[-2:] == [
        f"models:/toy-weights/1: registered in MLflow at {uri}",
        '  balancer = Static.load("models:/toy-weights/1")',
    ]
    code, out, err = main(capsys, "weights-diff", "weights.json", "models:/toy-weights/latest")
    assert (code, err) == (0, "")
    assert "Aitchison distance 0; no weight differs by more than a factor of 1." in out
    assert [line.split() for line in out.splitlines() if line.startswith("study")] == [["study", NAME, NAME]]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    loaded = Static.load("models:/toy-weights/1", tasks=["f2", "f1"])
    assert loaded.as_dict() == Static.load("weights.json", tasks=["f2", "f1"]).as_dict()


def test_a_name_that_cannot_be_registered_is_refused_before_anything_is_written(folder, capsys):
    code, out, err = main(capsys, "export", "study.yaml", "--register", "a/b")
    assert (code, out) == (2, "")
    assert err == "error: --register: expected a name of letters, digits and _ . -, got 'a/b'\n"
    assert list(folder.iterdir()) == []


def write(name: str, weights: dict[str, float], **more: Any) -> None:
    write_weights_file(Path(name), weights)
    Path(name).write_text(json.dumps(json.loads(Path(name).read_text()) | more))


def diff(capsys: pytest.CaptureFixture[str], *files: str) -> list[list[str]]:
    code, out, err = main(capsys, "weights-diff", *files)
    assert (code, err) == (0, "")
    return [line.split() for line in out.splitlines()]


def test_two_files_side_by_side(folder, capsys):
    score = {"validation": {"mean": -3.0, "seeds": 2}, "test": {"mean": -2.0, "low": -3.0, "high": -1.0}}
    write("a.json", {"near": 1, "far": 1}, study="first", method="equal", score=score, problem={"name": "x"})
    write("b.json", {"far": 3, "near": 1}, study="second", provisional=True, problem={"name": "y"})
    found = diff(capsys, "a.json", "b.json")
    assert found[0] == ["A", "B", "B", "/", "A"]
    assert found[1:3] == [["near", "1", "0.5", "0.5"], ["far", "1", "1.5", "1.5"]]
    assert found[4][:3] == ["Aitchison", "distance", "0.777;"]  # sqrt(2) * ln(3) / 2
    assert found[4][-3:] == ["factor", "of", "2."]
    assert ["study", "first", "second"] in found
    assert ["method", "equal"] in found
    assert ["score", "on", "validation", "-3.00%"] in found
    assert ["score", "on", "test", "-2.00%", "[-3.00,", "-1.00]"] in found
    assert found[-2][:7] == ["The", "files", "come", "from", "different", "problems", "or"]


def test_files_that_say_nothing_of_their_origin_have_their_weights_alone(folder, capsys):
    write("a.json", {"near": 1, "far": 1})
    write("b.json", {"near": 1, "far": 2}, study=["?"], score=3, problem="x")
    assert diff(capsys, "a.json", "b.json")[-1] == ["file", "a.json", "b.json"]


@pytest.mark.parametrize(
    ("b", "line"),
    [
        ("none.json", "B: none.json: no such file"),
        ("other.json", "B: expected the tasks of A, ['near', 'far'], got ['near', 'deep']"),
        ("bad.json", "B: bad.json: expected a weights file in JSON, got Expecting value: line 1 column 1 (char 0)"),
        ("models:/net/1", "--tracking-uri: sqlite:///{folder}/gradsweep-output/mlflow.db holds no study; run it"),
        ("memory://none.json", "B: memory://none.json: no such file"),
        ("https://ada:pass@example.com/w.json", "argument 3: expected no password on the command line"),
    ],
)
def test_a_file_that_cannot_be_compared_is_one_line(folder, capsys, b, line):
    write("a.json", {"near": 1, "far": 1})
    write("other.json", {"near": 1, "deep": 1})
    Path("bad.json").write_text("?")
    code, out, err = main(capsys, "weights-diff", "a.json", b)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {line.format(folder=folder)}")
    assert len(err.splitlines()) == 1
    assert not (folder / "gradsweep-output").exists()
