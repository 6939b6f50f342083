"""Trials that go wrong in every way: each is named at the end, the study goes on, and the command says 1."""

import re

import pytest

from tests.helpers.runs import Case, main

pytestmark = pytest.mark.slow

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\ud800"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\ud800"
RAISES, HANGS, MEMORY, DISK, NAN, DIES = 2, 4, 6, 8, 10, 14  # numbers of starts; from the last on, every one dies


@pytest.fixture(scope="class")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("faults"))
    case.study(seeds=1, resources={"minutes": 1})
    return case


class TestFaults:
    def test_each_is_named_and_the_study_goes_on(self, case, capsys, monkeypatch):
        case.steer(
            fail=[RAISES], message=HOSTILE, hang=[HANGS], memory=[MEMORY], disk=[DISK], nan=[NAN], kill_from=DIES
        )
        monkeypatch.chdir(case.folder)
        code, out, err = main(capsys, "run", "study.yaml")
        assert (code, err) == (1, "")
        failed = named(out, r"(\d+) trials failed; the same command tries again:")
        assert failed.count(f"OSError: {ESCAPED}") == 1
        assert "\x1b" not in out
        assert "MLflow did not accept" not in out
        for path in case.results.glob("report/*"):
            assert b"\x1b" not in path.read_bytes(), path
        late = "it took more than 1 minutes, the limit that resources.minutes sets, and was stopped"
        assert failed.count(late) == 1
        assert len([line for line in failed if re.match(r"RuntimeError: .*(allocate|enough) memory", line)]) == 1
        assert failed.count("OSError: [Errno 28] No space left on device") == 1
        dead = [line for line in failed if line.startswith("the worker ended 3 times without progress: ")]
        assert dead
        assert len(failed) == 4 + len(dead)
        assert "SIGKILL" in dead[0]
        assert "out of memory" in dead[0]
        (nan,) = named(out, r"(\d+) trial diverged, which is a result: nothing runs again")
        assert nan == "the training loss is not finite after 4 steps: near = nan"
        assert (case.results / "report" / "report.html").exists()
        identities = [run.data.tags["gradsweep.identity"] for run in case.runs()]
        assert len(set(identities)) == len(identities) > DIES - 2  # arms that coincide are one trial
        assert [run.info.status for run in case.runs("launch")] == ["FAILED"]

    def test_mlflow_holds_the_errors_of_failed_trials(self, case):
        runs = case.runs()
        errors = [run.data.tags["gradsweep.error"] for run in runs if run.info.status == "FAILED"]
        assert len([error for error in errors if "resources.minutes" in error]) == 1
        assert len([error for error in errors if "No space left on device" in error]) == 1
        assert [run.data.tags["gradsweep.status"] for run in runs].count("diverged") == 1
        assert {run.info.status for run in runs} == {"FINISHED", "FAILED"}

    def test_the_same_command_runs_failed_trials_again_but_not_diverged_ones(self, case, capsys, monkeypatch):
        case.study(seeds=1, resources={"minutes": 60})  # now nothing hangs, and a busy machine may be slow
        case.steer()
        monkeypatch.chdir(case.folder)
        code, out, err = main(capsys, "run", "study.yaml")
        assert (code, err) == (1, "")
        assert "trials failed" not in out
        assert len(named(out, r"(\d+) trial diverged, which is a result: nothing runs again")) == 1
        assert {run.info.status for run in case.runs()} == {"FINISHED"}
        assert not (case.results / "checkpoints").exists()


def named(out: str, heading: str) -> list[str]:
    """Return the lines about each trial at the end, below a heading that counts them."""
    found = re.search(f"^{heading}\n((?:  .*\n)+)", out, re.MULTILINE)
    assert found, out
    lines = [re.sub(r"^  .*? seed \d: ", "", line) for line in found[2].splitlines()]
    assert len(lines) == int(found[1])
    return lines
