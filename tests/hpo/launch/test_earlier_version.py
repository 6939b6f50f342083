"""The output folder of version 0.1 before its modules became packages: read, reported and resumed as one's own.

``data/output-0.1.tar.xz`` was made by commit 815a61e with ``gradsweep run study.yaml``; its HTML pages, which are
large, were removed.
"""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from rich.console import Console

from balancers import Static
from hpo.compare.cost import ONE_FIXED, WHOLE
from hpo.launch.conclude import Finished
from hpo.launch.run import run_study
from hpo.launch.workspace import place
from tests.helpers.crowded import crowded
from tests.helpers.earlier_output import NAME, unpack_output
from tests.helpers.runs import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    unpack_output(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run() -> Finished:
    return run_study(Path("study.yaml"), place(Path("gradsweep-output"), None), None, Console(file=StringIO()))


def comparison(folder: Path) -> dict[str, Any]:
    """Read the numbers of a comparison, without wording and provenance; processors round differently."""
    content = json.loads(
        (folder / "report" / "comparison.json").read_text(), parse_float=lambda text: f"{float(text):.9g}"
    )
    del content["provenance"], content["verdict"]["sentences"], content["surface"]["reason"]
    for arm in content["arms"]:
        del arm["label"]
    content["cost"] = [row for row in content["cost"] if row["way"] not in (WHOLE, ONE_FIXED)]
    return content | {"alarms": len(content["alarms"])}


def known_to(before: Any, now: Any) -> Any:
    """The part of a comparison whose fields version 0.1 had too."""
    if isinstance(before, dict):
        return {key: known_to(value, now[key]) for key, value in before.items()}
    if isinstance(before, list) and len(before) == len(now):
        return [known_to(*pair) for pair in zip(before, now, strict=True)]
    return now


def test_it_is_complete_and_nothing_runs(folder):
    finished = run()
    assert (finished.complete, finished.ran, finished.failed, list(finished.faults)) == (True, 0, {}, [])
    assert crowded(finished.outcome.data) == []


def test_its_report_and_weights_are_the_same(folder, capsys):
    results = folder / "gradsweep-output" / NAME
    code, _, err = main(capsys, "report", "study.yaml", "-o", "again")
    assert (code, err) == (0, "")
    before = comparison(results)
    assert known_to(before, comparison(folder / "again")) == before
    trials = pd.read_csv(results / "report" / "trials.csv")
    pd.testing.assert_frame_equal(pd.read_csv(folder / "again" / "report" / "trials.csv")[trials.columns], trials)
    code, _, err = main(capsys, "export", "study.yaml", "-o", "again.json")
    assert (code, err) == (0, "")
    one, other = Static.load("again.json"), Static.load(results / "weights.json")
    assert (one.tasks, one.weights.tolist()) == (other.tasks, other.weights.tolist())


@pytest.mark.slow
def test_it_continues_with_one_more_seed(folder):
    before = comparison(folder / "gradsweep-output" / NAME)
    study = yaml.safe_load(Path("study.yaml").read_text())
    Path("study.yaml").write_text(yaml.safe_dump(study | {"seeds": study["seeds"] + 1}))
    finished = run()
    assert (finished.complete, finished.failed) == (True, {})
    arms = len(before["arms"])
    assert 0 < finished.ran <= arms  # the arms of the confirm phase on one seed, and no trial that there was
    assert len(finished.comparison.arms) == arms
