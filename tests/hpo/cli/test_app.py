"""The command line: help, what needs no study to have run, and bad input."""

import os
import re
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import pytest

from hpo import __version__
from hpo.cli.export import _exported
from hpo.cli.verdict import print_answers, print_verdict
from hpo.launch.conclude import Finished, Outcome
from hpo.launch.console import Console
from hpo.report import moving_winner
from tests.helpers.report_builder import Builder
from tests.helpers.runs import COMMAND, Case, assert_only_stages, main

COMMANDS = ("init", "weights", "run", "plan", "report", "export", "weights-diff", "problems", "check", "ui")


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A study file in the current folder; no environment variable names a backend."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    case = Case(tmp_path, database=False)
    case.study()
    return case


@pytest.fixture
def refused(case: Case, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command: exit code 2, one line on stderr, which is returned, and nothing left behind."""

    def run(*arguments: str, leaves: Collection[str] = ()) -> str:
        before = set(case.folder.rglob("*"))
        code, out, err = main(capsys, *arguments)
        assert code == 2, err
        assert_only_stages(out)
        assert re.fullmatch(r"error: [^\n]+\n", err)
        assert {path.name for path in set(case.folder.rglob("*")) - before} <= set(leaves)
        return err.removeprefix("error: ").rstrip()

    return run


class TestHelp:
    def test_the_installed_command_knows_its_version(self, tmp_path):
        done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"gradsweep {__version__}\n", "")

    def test_help_lists_the_commands(self, capsys):
        code, out, err = main(capsys, "--help")
        assert (code, err) == (0, "")
        assert all(re.search(rf"│ {command} +[A-Z]", out) for command in COMMANDS)
        assert "\x1b" not in out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_and_option_is_explained(self, command, capsys):
        code, out, err = main(capsys, command, "--help")
        assert (code, err) == (0, "")
        assert f"Usage: gradsweep {command}" in out
        for line in out.splitlines():
            if re.match(r"│ +(\*|-)", line):
                assert re.search(r" [A-Z]\w*[a-z]\w*['. ]", line), line

    def test_the_shell_completes_commands(self, tmp_path):
        asked = {"_GRADSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "gradsweep re", "COMP_CWORD": "1"}
        done = subprocess.run([COMMAND], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **asked})
        assert (done.stdout.split(), done.stderr) == (["report"], "")

    def test_no_arguments_show_the_help(self, capsys):
        code, out, err = main(capsys)
        assert "Usage: gradsweep" in out + err
        assert code == 2


class TestBefore:
    def test_plan_shows_arms_trials_epochs_and_resources(self, case, capsys):
        case.study(resources={"cpu": 0.5, "gpu": 0.25})
        code, out, err = main(capsys, "plan", "study.yaml")
        assert (code, err) == (0, "")
        counts = dict(re.findall(r"│ (\w+) +│ +\d* │ +(\d+) │", out.partition("static points")[0]))
        assert counts == {"references": "2", "static": "3", "sweep": "2", "confirm": "16", "all": "23"}
        assert "46 epochs, 2 per trial" in out
        assert "Each trial takes 0.5 CPU, 0.25 GPU." in out
        assert re.search(r"│ static/02 │ +[\d.]+ │ +[\d.]+ │", out)
        assert not case.output.exists()
        assert case.starts() == 0

    def test_problems_lists_what_a_study_can_name(self, capsys):
        code, out, err = main(capsys, "problems")
        assert (code, err) == (0, "")
        for text in ("census", "toy", "income", "preset", "package.module:Class"):
            assert text in out


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sead": 3}, "study.yaml: sead: unknown key, allowed here: name, problem, "),
            ({"seeds": 0}, "study.yaml: seeds: expected a number >= 1, got 0"),
            (
                {"problem": {"name": "toy", "a*b": 1}},
                "study.yaml: problem: unusable argument 'a*b', allowed: at most 200 letters, digits, ",
            ),
            ({"problem": {"name": "toy", "\U0001f600": 1}}, "study.yaml: problem: unusable argument '\U0001f600', "),
            ({"problem": {"name": "toy", "a/../b": 1}}, "study.yaml: problem: unusable argument 'a/../b', allowed: "),
            ({"problem": {"name": "toy", "k" * 201: 1}}, "study.yaml: problem: unusable argument 'kkkk"),
            (
                {"problem": {"name": "tests.helpers.problems:Named", "task": "t" * 201}},
                "problem: 'tests.helpers.problems:Named' refused its arguments: tasks: expected at most 200 ",
            ),
            ({"problem": "cencus"}, "problem: expected 'census', "),
            ({"problem": "nowhere.at_all:Class"}, "problem: 'nowhere.at_all:Class' names the module "),
            (
                {"problem": "tests.helpers.problems:Lacking"},
                "problem: class 'tests.helpers.problems:Lacking' lacks the methods 'evaluate', 'loader'",
            ),
            (
                {"problem": {"name": "tests.helpers.problems:Named", "name_of": "x"}},
                "problem: arguments of 'tests.helpers.problems:Named': expected 'task', got 'name_of'",
            ),
            (
                {"problem": {"name": "tests.helpers.problems:Named", "task": "depth[0]"}},
                "problem: 'tests.helpers.problems:Named' refused its arguments: tasks: expected letters, ",
            ),
        ],
    )
    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_in_the_study_file(self, refused, case, command, changes, message):
        case.study(**changes)
        assert refused(command, "study.yaml").startswith(message)

    def test_two_faults_are_two_lines(self, case, capsys):
        case.study(seeds=0, margin=-1)
        code, _, err = main(capsys, "run", "study.yaml")
        assert code == 2
        assert [line.split(": ")[:3] for line in err.splitlines()] == [
            ["error", "study.yaml", "seeds"],
            ["error", "study.yaml", "margin"],
        ]

    @pytest.mark.parametrize("command", ["run", "plan", "report", "export"])
    def test_no_study_file(self, refused, command):
        assert refused(command, "nowhere.yaml") == "nowhere.yaml: cannot be read: No such file or directory"

    @pytest.mark.parametrize("command", ["run", "plan", "report", "export"])
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--baseline", "near=1"), "baseline: expected a number for each of the tasks near, far off, got"),
            (("--priority", "near=0", "--priority", "far off=0"), "priorities: expected a number > 0 for at least"),
            (("--limit", "x=1"), "limits: expected tasks of the problem (near, far off), got 'x'"),
            (("--limit", "near"), "--limit: expected TASK=NUMBER, each task once, got 'near'"),
        ],
    )
    def test_options_that_take_the_place_of_keys_of_the_study_file(self, refused, command, options, message):
        assert refused(command, "study.yaml", *options).startswith(message)

    @pytest.mark.parametrize("command", ["report", "export"])
    def test_no_run_yet(self, refused, case, command):
        message = refused(command, "study.yaml")
        assert message == f"--tracking-uri: {case.uri} holds no study; run it first: gradsweep run"

    def test_ui_of_no_study(self, refused):
        assert refused("ui", "--no-browser") == (
            "--output: gradsweep-output holds no studies; run one first: gradsweep run STUDY.yaml"
        )

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("http://127.0.0.1:9", "nothing answers at http://127.0.0.1:9: [Errno 111] Connection refused"),
            ("http://127.0.0.1:port", "expected a port up to 65535 after the host, got 'http://127.0.0.1:***'"),
            ("http://", "nothing answers at http://: it names no host"),
            ("ftp://127.0.0.1/x", "expected http://host:port, "),
            ("mlruns", "expected http://host:port, "),
            ("sqlite:////dev/null/mlflow.db", "sqlite:////dev/null/mlflow.db cannot be used: "),
            ("mysql://127.0.0.1:9/x", "mysql://127.0.0.1:9/x needs a package that is not installed: pip install "),
        ],
    )
    def test_a_tracking_uri_that_does_not_answer(self, refused, uri, message):
        leaves = {"gradsweep-output", "steered", ".lock"} if uri.startswith("sqlite") else ()
        found = refused("run", "study.yaml", "--tracking-uri", uri, leaves=leaves)
        assert found.startswith(f"--tracking-uri: {message}")

    @pytest.mark.parametrize("scheme", ["postgresql+psycopg", "http"])
    def test_a_server_that_does_not_answer_and_whose_password_is_in_the_environment(
        self, refused, scheme, monkeypatch
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://somebody:secret@127.0.0.1:9/mlflow")
        message = refused("run", "study.yaml")
        assert message.startswith(f"--tracking-uri: nothing answers at {scheme}://somebody:***@127.0.0.1:9/mlflow: ")
        assert "secret" not in message

    @pytest.mark.parametrize(
        ("option", "value", "variable"),
        [
            ("--tracking-uri", "https://somebody:secret@127.0.0.1:9", "MLFLOW_TRACKING_URI"),
            ("--storage", "s3://key:secret@bucket/prefix", "GRADSWEEP_STORAGE"),
        ],
    )
    def test_a_password_on_the_command_line(self, refused, option, value, variable):
        assert refused("run", "study.yaml", option, value) == (
            f"{option}: expected no password on the command line, where others can see it, got one; "
            f"set {variable} in the environment"
        )

    def test_a_mistyped_uri_does_not_become_a_folder(self, refused, monkeypatch):
        monkeypatch.setenv("GRADSWEEP_STORAGE", "s3:/key:s3cr3t@bucket")
        assert refused("run", "study.yaml") == (
            "--storage: expected a folder, or a URI as in s3://bucket/prefix, got 's3:/***@bucket'"
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("run", "\x1b[31mx"), r"argument 2: expected printable characters, got \x1b"),
            (("run", "study.yaml", "--wait", "\x9b31m"), r"argument 4: expected printable characters, got \x9b"),
            (("plan", "study\u202eyaml.exe"), r"argument 2: expected printable characters, got \u202e"),
            (("run", "study.yaml", "--output", "here\n"), r"argument 4: expected printable characters, got \n"),
            (("check", "toy", "--set", "preset=\udcff"), r"argument 4: expected printable characters, got \udcff"),
        ],
    )
    def test_a_character_that_a_terminal_obeys(self, refused, arguments, message):
        assert refused(*arguments).startswith(message)

    def test_what_the_environment_names_is_escaped(self, case, capsys, monkeypatch):
        monkeypatch.setenv("RAY_ADDRESS", "\x1b]0;owned\x07")
        code, out, err = main(capsys, "run", "study.yaml")
        assert code == 2
        assert_only_stages(out)
        assert r"got '\x1b]0;owned\x07'" in err

    def test_a_storage_of_an_unknown_kind(self, refused):
        message = refused("run", "study.yaml", "--storage", "nosuch://bucket/prefix")
        assert message.startswith("--storage: nosuch://bucket/prefix/steered cannot be used: ")

    @pytest.mark.parametrize("address", ["127.0.0.1:9", "head", "ray://127.0.0.1:10001"])
    def test_an_address_without_a_cluster(self, case, capsys, address):
        code, out, err = main(capsys, "run", "study.yaml", "--address", address)
        assert code == 2
        assert_only_stages(out)
        assert re.fullmatch(
            rf"error: --address: (no Ray cluster answers at|expected host:port .*, got) '?{address}'?[:;] .*\n", err
        )

    def test_an_output_folder_below_a_file(self, refused):
        message = refused("run", "study.yaml", "--output", "study.yaml/output")
        assert re.fullmatch(r"--output: \S+/study.yaml/output/steered cannot be written: Not a directory", message)

    def test_data_that_are_not_there(self, refused, case, monkeypatch):
        (case.folder / "data").mkdir()
        monkeypatch.setenv("GRADSWEEP_CENSUS", str(case.folder / "data"))
        monkeypatch.setenv("GRADSWEEP_CACHE", str(case.folder / "cache"))
        case.study(problem="census")
        message = refused("run", "study.yaml")
        assert message.startswith(f"no file {case.folder}/data/census_income_1994_1995_train.csv; correct ")
        assert "pip install 'gradsweep[data]'" in message

    def test_data_that_are_damaged(self, refused, case, monkeypatch):
        (case.folder / "data").mkdir()
        for split in ("train", "test"):
            (case.folder / "data" / f"census_income_1994_1995_{split}.csv").write_text("1,2,3\n")
        monkeypatch.setenv("GRADSWEEP_CENSUS", str(case.folder / "data"))
        monkeypatch.setenv("GRADSWEEP_CACHE", str(case.folder / "cache"))
        case.study(problem="census")
        message = refused("run", "study.yaml")
        assert message.startswith(f"data: {case.folder}/data/census_income_1994_1995_")
        assert "sha256" in message


class TestWinner:
    """The end of `run` and `report`, and that of `export`."""

    @pytest.mark.parametrize(("winner", "moves"), [("uncertainty", True), ("", False)])
    def test_the_end_of_a_study(self, winner: str, moves: bool, capsys):
        data = Builder(verdict="worse", winner=winner).data()
        outcome = Outcome(cast(Any, None), cast(Any, None), cast(Any, None), data, {}, {}, {}, True)
        print_verdict(Finished(outcome, Path("report.html"), Path("weights.json")), Path("out"), None)
        said = " ".join(capsys.readouterr().out.split())
        assert ("balancers.Uncertainty(tasks)" in said) is moves
        assert said.startswith("Which weights should I train with? Train with ")
        assert "Was the grid search worth it? Yes. " in said

    @pytest.mark.parametrize("complete", [True, False])
    def test_trials_that_have_not_run_are_told(self, complete: bool, capsys):
        data = Builder(verdict="better").data()
        outcome = Outcome(cast(Any, None), cast(Any, None), cast(Any, None), data, {}, {}, {}, complete)
        print_verdict(Finished(outcome, Path("report.html"), Path("weights.json")), Path("out"), None)
        said = " ".join(capsys.readouterr().out.split())
        assert ("gradsweep run with the same options trains them" in said) is not complete

    @pytest.mark.parametrize(
        ("winner", "most"), [("", 10), ("uncertainty", 13), ("gradnorm/annealed/alpha=1.339", 14)]
    )
    @pytest.mark.parametrize("verdict", ["better", "equivalent", "worse", "inconclusive"])
    def test_the_answers_are_a_few_lines(self, verdict, winner, most, capsys, monkeypatch):
        monkeypatch.setattr("hpo.cli.verdict.console", Console(width=80))
        print_answers(Builder(verdict=verdict, winner=winner).data().comparison)
        assert len(capsys.readouterr().out.splitlines()) <= most

    def test_export_says_that_a_better_arm_has_no_file_unless_an_arm_was_named(self, capsys):
        comparison = Builder(winner="gradnorm/annealed/alpha=1.339").data().comparison
        content = {"arm": comparison.recommended, "weights": {"income": 0.5, "age": 1.5}}
        line = f"weights.json: {comparison.recommended}: income 0.5, age 1.5\n"
        for given in (None, Builder(verdict="worse").data().comparison):
            _exported(Path("weights.json"), content, given)
            assert capsys.readouterr().out == line
        _exported(Path("weights.json"), content, comparison)
        first, *words, code = capsys.readouterr().out.splitlines()
        assert first + "\n" == line
        answer = moving_winner(comparison)
        assert " ".join(" ".join(words).split()) == " ".join([answer.question, *answer.sentences])
        assert code == f"  {answer.code}"  # in one line, however narrow the terminal
