"""Studies from Python: the same trials, errors and results as on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import pytest
import ray
import torch
import yaml

import gradsweep
from gradsweep import Result, Static, Study
from hpo.core.errors import ClusterError, ExportError, OptionError, OutputError, ProblemError, StudyError
from hpo.launch.console import Console
from hpo.problems.toy import Toy
from hpo.study.phases import PHASES
from hpo.study.study_file import load_study
from tests.helpers.problems import Steered
from tests.helpers.runs import TRIALS, Case, assert_complete, assert_quiet, wait_until

TASKS = ["near", "far off"]


def handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


class TestDescription:
    def test_python_and_yaml_describe_the_same_study(self, tmp_path):
        file = tmp_path / "study.yaml"
        text = "name: a\nproblem: {name: hpo.problems.toy:Toy, functions: 3}\nstatic: [[1, 2, 0.5]]\nseeds: 2\n"
        file.write_text(text + "gradnorm: {alpha: [0, 1.5]}\n")
        study = Study(
            name="a",
            problem={"name": Toy, "functions": np.int64(3)},
            static=np.array([[1, 2, 0.5]]),
            seeds=2,
            gradnorm={"alpha": (0, 1.5)},
        )
        (tmp_path / "python.yaml").write_text(study.text)
        assert load_study(tmp_path / "python.yaml") == load_study(file)
        assert repr(study) == f"Study of hpo.problems.toy:Toy:\n{study.text.rstrip()}"
        assert Study.load(file).text == file.read_text()
        assert repr(Study.load(file).plan()) == repr(study.plan())

    def test_faults_are_those_of_the_command_line_without_the_file(self, tmp_path):
        keys = {"name": "a/b", "problem": "toy", "seeds": -3, "gradnorm": {"trial": 3}}
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump(keys))
        with pytest.raises(StudyError) as from_file:
            Study.load(file)
        with pytest.raises(StudyError) as from_python:
            Study(**keys)
        assert str(from_python.value) == str(from_file.value).replace(f"{file}: ", "")
        assert "seeds: expected a number >= 1, got -3" in str(from_python.value).splitlines()

    @pytest.mark.parametrize(
        ("problem", "words"),
        [
            (Toy(), "problem: expected the class Toy, or {'name': Toy, argument: value}, got an object of Toy"),
            (3, "problem: expected a name, or a mapping of name and the problem's arguments, got 3"),
            ({"name": "toy", "functions": {1, 2}}, "problem.functions: expected text, finite numbers"),
        ],
    )
    def test_an_object_that_is_no_problem_is_named(self, problem, words):
        with pytest.raises(StudyError) as error:
            Study(name="a", problem=problem)
        assert str(error.value).startswith(words)

    def test_a_class_that_is_no_problem_is_named(self):
        with pytest.raises(ProblemError, match=r"'builtins:int': expected a subclass of"):
            Study(name="a", problem=int).plan()

    def test_a_name_in_the_script_of_another_process_is_refused(self):
        with pytest.raises(ProblemError, match="is a class of a notebook or script"):
            Study(name="a", problem="__main__:Mine").plan()

    def test_a_class_of_a_function_is_found_by_a_digest_of_its_code(self):
        def local(width: int) -> type[Steered]:
            class Local(Steered):
                def data_hash(self) -> str:
                    return f"local-{width}"

            return Local

        names = [Study(name="a", problem={"name": local(w), "folder": "x"}).plan().title for w in (1, 2, 1)]
        assert names[0] == names[2] != names[1]
        assert names[0].startswith(f"a: {__name__}:TestDescription.")

    def test_a_plan_can_be_read(self):
        plan = Study(
            name="a", problem="toy", seeds=2, static={"points": 3, "ratio": 10}, gradnorm={"trials": 2}
        ).plan()
        assert list(plan.phases["phase"]) == [
            name for name in PHASES if name not in ("refine", "tune")
        ]  # which are off
        assert plan.trials == plan.phases["trials"].sum() > 20
        assert list(plan.points) == ["arm", "f1", "f2"]
        assert plan.points.iloc[0].to_list() == ["equal", 1, 1]
        assert f"{plan.trials} trials" in repr(plan)


class TestCheck:
    def test_faults_found_by_check_are_returned_and_not_raised(self, tmp_path):
        class Wrong(Steered):
            def losses(self, model: Any, batch: Any) -> Any:
                return {"near": batch.sum()}

        threads = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            result = gradsweep.check({"name": Wrong, "folder": str(tmp_path)})
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(threads)
        assert result.faults
        assert {finding.level for finding in result.faults} == {"fault"}
        assert f"Faults: {len(result.faults)}, warnings: {len(result.warnings)}." in repr(result)
        assert all(finding.found in repr(result) for finding in result.findings)

    def test_bad_input_is_raised(self):
        with pytest.raises(OptionError, match=r"--device: expected .*got 'gpu'"):
            gradsweep.check("toy", device="gpu")
        with pytest.raises(ProblemError, match=r"'toi' .did you mean 'toy'"):
            gradsweep.check("toi")


class Ran(NamedTuple):
    """A study that was interrupted, read, and then run to its end, all in the Ray of the caller."""

    case: Case
    study: Study
    partial: Result
    starts: int
    result: Result
    printed: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    case = Case(tmp_path_factory.mktemp("api"), workers=1)
    keys = yaml.safe_load(case.study().read_text())
    study = Study(**keys | {"problem": {"name": Steered, "folder": str(case.folder)}})
    console = Console(file=StringIO(), width=200)
    ray.init(
        address="local", num_cpus=os.cpu_count(), include_dashboard=False, logging_level="ERROR", log_to_driver=False
    )
    before = handlers()
    try:
        case.steer(block=3)
        blocked = case.folder / "blocked"
        interrupt = threading.Thread(
            target=lambda: wait_until(blocked.exists) and os.kill(os.getpid(), signal.SIGINT)
        )
        interrupt.start()
        with pytest.raises(KeyboardInterrupt, match="Finished trials are kept; the same call continues the study"):
            study.run(output=case.output, console=console)
        interrupt.join()
        starts, partial = case.starts(), study.result(output=case.output, console=console)
        assert ray.is_initialized()
        assert handlers() == before
        case.steer()

        async def run() -> Result:
            return study.run(output=case.output, console=console)

        with ThreadPoolExecutor(1) as pool:  # no main thread, and a loop that runs, as in some notebooks
            result = pool.submit(asyncio.run, run()).result()
        assert ray.is_initialized()
        with pytest.raises(ClusterError, match="this process has initialised Ray already"):
            Study(**keys | {"seeds": 3}).run("127.0.0.1:1", output=case.output, console=console)
    finally:
        ray.shutdown()
    assert handlers() == before
    return Ran(case, study, partial, starts, result, console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.slow
class TestRun:
    def test_an_interrupted_study_is_read_and_resumed(self, ran):
        assert (ran.partial.complete, ran.partial.weights, ran.partial.recommended) == (False, {}, "")
        assert 0 < len(ran.partial.trials) < TRIALS
        assert "The study is not complete: run() continues it." in repr(ran.partial)
        assert_complete(ran.case.runs())
        assert len(ran.case.runs("launch")) == 2

    def test_a_ray_of_the_caller_is_used_and_left_running(self, ran):
        assert "the Ray of this process, which is left running: 1 node(s)" in ran.printed
        assert_quiet(ran.printed)

    def test_the_command_line_finds_the_same_trials(self, ran, monkeypatch):
        monkeypatch.chdir(ran.case.folder)
        done = ran.case.command("run", "study.yaml")
        assert done.returncode == 0, done.stderr
        assert "Every trial of this study has finished; nothing was run." in done.stdout
        assert ran.result.verdict.partition("\n")[0] in " ".join(done.stdout.split())

    def test_the_result_is_that_of_the_files(self, ran):
        content = json.loads((ran.case.results / "weights.json").read_text())
        assert (ran.result.weights, ran.result.recommended) == (content["weights"], content["arm"])
        assert list(ran.result.weights) == TASKS
        assert ran.result.complete
        assert {**ran.result.failed, **ran.result.diverged} == {}
        assert ran.result.faults == []
        assert repr(ran.result.verdict) == str(ran.result.verdict)
        assert repr(ran.result).startswith(ran.result.verdict)
        assert repr(ran.result).endswith(f"Report: {ran.case.results / 'report' / 'report.html'}")

    def test_tables_and_figures(self, ran):
        assert len(ran.result.trials) == TRIALS
        assert ran.result.recommended in set(ran.result.arms["arm"])
        assert {"trajectories", "static_points", "arms"} <= ran.result.figures.keys()
        for figure in ran.result.figures.values():
            assert figure.data
            assert figure.layout.paper_bgcolor == "white"

    def test_a_trajectory_of_each_arm_and_seed(self, ran):
        arm = next(arm for arm in ran.result.arms["arm"] if arm.startswith("gradnorm/"))
        table = ran.result.trajectory(arm, seed=2)
        assert list(table) == ["step", *(f"{name}/{task}" for name in "wGrL" for task in TASKS)]
        assert not table.equals(ran.result.trajectory(arm, seed=1))
        assert ran.result.trajectory("equal").equals(ran.result.trajectory("equal", seed=0))
        with pytest.raises(OptionError, match=r"arm: expected .*equal.*, got 'equals'"):
            ran.result.trajectory("equals")
        with pytest.raises(OptionError, match=r"seed: expected .*0, 1, 2.* for equal, got 7"):
            ran.result.trajectory("equal", seed=7)

    def test_report_and_weights_file_go_where_they_are_wanted(self, ran, tmp_path):
        page = ran.result.save_report(tmp_path / "page.html")
        folder = ran.result.save_report(tmp_path / "folder")
        assert page.read_text() == folder.read_text()
        assert {"arms.csv", "report.html"} <= {file.name for file in (tmp_path / "folder").iterdir()}
        balancer = Static.load(ran.result.export(tmp_path / "weights.json", arm="equal"), tasks=TASKS)
        assert balancer.weights.tolist() == [1, 1]
        with pytest.raises(ExportError, match=r"expected .*, got 'no-such'"):
            ran.result.export(tmp_path / "weights.json", arm="no-such")
        with pytest.raises(OutputError, match=r"page\.html/below cannot be written: "):
            ran.result.save_report(tmp_path / "page.html" / "below")
