"""`gradsweep check`: what it finds in problems of which each has one thing wrong, and its exit codes."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch

from hpo.check import data_checks, training_checks
from hpo.check.batch_digests import digest, go_through, row_digests
from hpo.check.problem_check import CHECKS, Finding, check_problem
from hpo.check.user_tracebacks import place_of, told
from hpo.cli.app import main
from hpo.cli.options import console
from hpo.core.errors import ProblemError
from hpo.training.global_state import GlobalState
from tests.helpers import broken_problems as broken
from tests.helpers import hostile_problems as hostile

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_checks, "TRAINED_STEPS", 40)
    monkeypatch.setattr(training_checks, "TIMED_STEPS", 8)


def check(name: str, told: list[str] | None = None, **arguments: Any) -> list[Finding]:
    name = name if ":" in name else f"tests.helpers.broken_problems:{name}"
    return check_problem(name, arguments, CPU, (told if told is not None else []).append)


class TestSound:
    def test_all_is_well(self):
        told: list[str] = []
        findings = {finding.subject: finding for finding in check("Sound", told)}
        assert {finding.level for finding in findings.values()} == {"ok"}
        assert list(findings) == told == [subject for subject, _, _ in CHECKS]
        assert not any(finding.allowed for finding in findings.values())
        found = {subject: finding.found for subject, finding in findings.items()}
        assert found["tasks"] == "2: near (MSE, lower is better), far (R2, higher is better)"
        assert found["model"] == "138 parameters, fixed by the seed"
        assert found["batches"] == "train: 4 an epoch, in a new order each, fixed by the seed"
        assert found["splits"] == "no example is in two splits (compared: 64 of train, 32 of val, 32 of test)"
        assert re.fullmatch(
            r"of the first batch: near [\d.]+, far \d+ \(\d+ times apart\); 4 batches looked at", found["losses"]
        )
        assert found["shared layer"].startswith("last.weight, last.bias: norms of the gradients: near ")
        assert found["GradNorm"] == "one pass: the heads meet in NativeLayerNormBackward0"
        assert found["memory"].startswith("552 bytes of parameters, 2.25 kB with gradients")
        assert re.search(r"near MSE from [\d.]+ to [\d.]+ in 40 steps, far R2 from ", found["learning"])
        assert re.fullmatch(
            r"a step \S+ ms, \S+ ms with GradNorm, on 1 CPU thread; an epoch about .* ms, a trial of 50 about .*",
            found["time"],
        )

    def test_the_callers_generators_stay(self):
        torch.manual_seed(3)
        np.random.seed(3)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        check("Sound")
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()

    @pytest.mark.parametrize(
        ("name", "subject", "found"),
        [
            ("OneBatch", "batches", "train: 1 an epoch, fixed by the seed"),
            ("Streams", "batches", r"train: 4 an epoch \(it has no len\(\), which the recipe annealed needs\), in a"),
            ("Streams", "resuming", "an interrupted trial loads the batches of its finished epochs again"),
            ("Sound", "resuming", "an interrupted trial goes on at its place in the data"),
            ("Lazy", "model", "106 parameters"),
            ("Sound", "cohort", "trials can be trained at once: losses, gradients and steps are the same"),
            (
                "SharedIsLeftOut",
                "shared layer",
                "last, found as the last layer that every task reaches: norms of the gradients: near ",
            ),
            ("KeepsObjects", "data hash", "the same after use and in another process"),
            ("Scheduled", "optimizer", "Adam has every parameter; OneCycleLR steps once per step"),
            (
                "Scheduled",
                "epochs",
                "a trial has 30 epochs, 30 steps, at the end of which no loss of a task trained alone falls much",
            ),
            ("Sound", "epochs", "a trial has 50 epochs, 200 steps; 40 were tried, too few to say"),
            ("AbsentAtFirst", "losses", r"the first: near [\d.]+, far \d+ \(.*\); of 4 batches absent: far from 2"),
            ("Scheduled", "cohort", "trials are trained one at a time, since it has autocast on"),
            ("TaskByTask", "GradNorm", "task by task: a head reads the weights of the shared layer itself"),
        ],
    )
    def test_what_may_be_but_should_be_known(self, name, subject, found):
        findings = check(name)
        assert {finding.level for finding in findings} == {"ok"}
        assert re.match(found, next(finding.found for finding in findings if finding.subject == subject))


# A problem, the level, the subject, what is found, and what is allowed.
BROKEN = [
    ("OneTask", "warning", "tasks", "one: near", "two or more"),
    ("PrepareRaises", "fault", "data", r"{file}:\d+: FileNotFoundError: .*'/nowhere/images.npy'", ""),
    ("HashOfAnAddress", "fault", "data", "data_hash.. differs between two instances", "define your own"),
    (
        "HashOfOneProcess",
        "fault",
        "data hash",
        "differs between two processes, because of the attribute tags$",
        "define",
    ),
    ("HashIsNoText", "fault", "data", "data_hash.. gives int", "text"),
    ("HashThatChanges", "fault", "data hash", "data_hash.. has changed", "before and after"),
    ("ModelIsNone", "fault", "model", "build_model.. gives dict", r"torch\.nn\.Module"),
    ("ModelRaises", "fault", "model", r"{file}:\d+: TypeError: empty", ""),
    ("ModelByChance", "fault", "model", "differ in first.weight, .* and 4 more", "the same seed"),
    ("ModelOfOneSeed", "warning", "model", r"build_model\(0\) and build_model\(1\) give the same", "another seed"),
    ("NoTestBatch", "fault", "batches", r"loader\('test'\) gives no batch", "at least one"),
    ("Generates", "fault", "batches", "gives generator, which can be gone through once", "iter"),
    ("UsedUp", "fault", "batches", "gives Batches, which can be gone through once", "iter"),
    ("SameOrder", "warning", "batches", "in the same order in every epoch", "a new order each epoch"),
    ("OrderByChance", "fault", "batches", "differ between two loaders of one seed", "fixed by the seed"),
    ("OrderOfOneSeed", "warning", "batches", "in the same order for every seed", "fixed by the seed"),
    ("OtherValExamples", "warning", "batches", r"loader\('val'\) gives other batches", "the same"),
    ("BatchesOfText", "warning", "batches", "train: 2 an epoch, without tensors", "a new order"),
    ("BatchesOfText", "warning", "splits", "no tensors by which examples", "no example"),
    ("Overlaps", "warning", "splits", "two splits: 5 in train and val .compared: 64 of train, 37 of", "data repeat"),
    ("LossMissing", "fault", "losses", r"losses\(\) has near, fra", "only near, far"),
    ("LossesAreATuple", "fault", "losses", r"losses\(\) gives tuple", "a mapping from each task"),
    ("LossIsNoScalar", "fault", "losses", r"the loss of near has the shape \(3,\)", "a scalar tensor"),
    ("LossIsANumber", "fault", "losses", "the loss of near is a float", "a scalar tensor"),
    ("LossWithoutGraph", "fault", "losses", "the loss of far has no graph", "the model's parameters"),
    ("LossIsNegative", "warning", "losses", "the first loss of far is below 0. A study", "a constant added"),
    (
        "LossIsNan",
        "fault",
        "losses",
        "no loss of far in the first 4 batches: each is missing, None, 0 or NaN",
        "in some",
    ),
    ("LossIsInfiniteInTheThirdBatch", "fault", "losses", "the loss of near is inf in batch 3", "a finite number"),
    (
        "OutOfReach",
        "ok",
        "shared layer",
        r"far [\d.,e+]+ \([\d.,e+]+ times apart\); the static search lies around the weights that balance them",
        "",
    ),
    (
        "SharesATrunk",
        "fault",
        "model",
        "called twice gives networks that share first.weight, first.bias",
        "a new network",
    ),
    ("FewSteps", "warning", "epochs", "a trial has 2 epochs, 8 steps", "20 steps or more"),
    (
        "EndsEarly",
        "warning",
        "epochs",
        "a trial has 30 epochs, 30 steps, at the end of which the loss of .*near",
        "more epochs",
    ),
    ("LossRaises", "fault", "losses", r"{file}:\d+: ValueError: not enough values to unpack", ""),
    ("LossRaisesLate", "fault", "learning", r"{file}:\d+: IndexError: batch 60 has no label", ""),
    ("SharedOfAnotherModel", "fault", "shared layer", "no part of the model", "a layer of that model"),
    ("SharedIsFrozen", "fault", "shared layer", "at least one that requires grad", ""),
    ("SharedIsAHead", "fault", "shared layer", "near: the loss does not depend on far.weight", "through: last is"),
    (
        "SharedIsNotTheLast",
        "warning",
        "shared layer",
        "after first.weight, .* also reaches last.weight$",
        "all tasks share: last is the last layer that every task reaches$",
    ),
    (
        "SharedIsOneExpert",
        "warning",
        "shared layer",
        "beside first.weight, first.bias every task also reaches last.weight$",
        "all of them together: first, last are the last layers that every task reaches$",
    ),
    (
        "SharedIsOneOutputLayer",
        "warning",
        "shared layer",
        "last.weight: each task reads rows of its own, or a head",
        "share: first is",
    ),
    (
        "SharedIsNotFound",
        "fault",
        "shared layer",
        r"ValueError: shared_layer\(model\): is left out, .* none that both `near` and `far` reach",
        "",
    ),
    (
        "SharedIsEverything",
        "warning",
        "shared layer",
        "not every task reaches far.bias, far.weight",
        "all tasks share",
    ),
    (
        "SharedIsTheConcatenatedHeads",
        "warning",
        "shared layer",
        "not every task reaches far.bias, far.weight, near",
        "",
    ),
    ("SharedIsDead", "fault", "shared layer", "norm of the gradient: near 0$", "finite and > 0"),
    ("IdleParameters", "warning", "parameters", "no loss depends on unused.weight, unused.bias", "some task"),
    ("OptimizerOfHeads", "warning", "optimizer", "SGD does not have first.weight, .* and 2 more", "all parameters"),
    ("OptimizerOfAnotherModel", "fault", "optimizer", "Adam has no parameter of the model", "it was given"),
    (
        "LBFGS",
        "fault",
        "optimizer",
        r"build_optimizer: expected an optimizer whose step\(\) takes no .*LBFGS, which",
        "",
    ),
    (
        "NoOptimizer",
        "fault",
        "optimizer",
        r"build_optimizer: expected a torch\.optim\.Optimizer, .*, got NoneType",
        "",
    ),
    ("GradientIsNan", "fault", "GradNorm", "gradient of far.weight is not finite", "sqrt"),
    ("MetricMissing", "fault", "evaluate", r"evaluate\(model, 'val'\) gives near", "each of near, far"),
    ("MetricIsNan", "fault", "evaluate", r"evaluate\(model, 'val'\) gives far nan", "finite"),
    ("EvaluateRaises", "fault", "evaluate", r"{file}:\d+: IndexError: list index", ""),
    ("Exits", "fault", "evaluate", r"{file}:\d+: SystemExit: no licence", ""),
    ("EvaluateTrains", "fault", "evaluate", r"evaluate\(\) changes norm.bias of the model", "as it is"),
    ("EvaluateByChance", "warning", "evaluate", "called twice gives another metric of far$", "the same each time"),
    ("NoTrainMetrics", "warning", "evaluate", r"'train'\) raises: {file}:\d+: NotImplementedError$", "the gap"),
    ("Diverges", "warning", "learning", "near trained alone: the .* is not finite after", "learning rate"),
    ("WrongDirection", "warning", "learning", "near trained .* MSE went from 1.* to 0", "should it be minimize"),
    ("MetricStays", "warning", "learning", "near trained .* yet MSE stayed at 1$", "the model it is given"),
    ("LossRises", "warning", "learning", "near trained alone for 40 steps: its loss went from", "training lowers"),
]


@pytest.mark.parametrize(("name", "level", "subject", "found", "allowed"), BROKEN, ids=lambda value: str(value)[:30])
def test_what_is_wrong_is_found(name, level, subject, found, allowed):
    findings = check(name)
    assert any(finding.level == "fault" for finding in findings) == (level == "fault")
    findings = [finding for finding in findings if (finding.level, finding.subject) == (level, subject)]
    pattern = found.replace("{file}", r"\S*tests/helpers/broken_problems\.py")
    matching = [finding for finding in findings if re.search(pattern, finding.found)]
    assert len(matching) == 1, findings
    assert re.search(allowed, matching[0].allowed)
    assert "\n" not in matching[0].found


@pytest.mark.parametrize(("change", "is_told"), [("relative", True), ("absolute", False)])
def test_a_metric_near_0_is_told_unless_the_task_has_a_scale_of_its_own(change, is_told):
    learning = next(finding for finding in check("NearZero", change=change) if finding.subject == "learning")
    assert "to 0.01 in 40 steps" in learning.found
    assert ('set change="absolute"' in learning.found) is is_told


@pytest.mark.parametrize("absent", ["missing", "none", "nan", "zero", "number"])
def test_a_task_that_is_absent_from_the_first_batch_is_no_fault(absent):
    findings = check("AbsentAtFirst", absent=absent)
    assert not [finding for finding in findings if finding.level == "fault"]
    assert "far from 2" in next(finding.found for finding in findings if finding.subject == "losses")


def test_each_finding_is_told_as_soon_as_it_is_known():
    told: list[str] = []
    shown: list[Finding] = []
    at: list[tuple[int, int]] = []
    name = "tests.helpers.broken_problems:LossRaises"
    findings = check_problem(
        name, {}, CPU, told.append, lambda finding: (shown.append(finding), at.append((len(told), len(shown))))
    )
    assert shown == findings
    assert at[:3] == [(1, 1), (2, 2), (3, 3)]


def test_outputs_that_are_concatenated_raise_no_warning_for_the_right_layer():
    found = {(finding.level, finding.found) for finding in check("Concatenated") if finding.subject == "shared layer"}
    sound = {(finding.level, finding.found) for finding in check("Sound") if finding.subject == "shared layer"}
    assert found == sound
    assert {level for level, _ in found} == {"ok"}


def test_what_a_fault_leaves_out_is_named():
    findings = check("ModelRaises")
    assert findings[-1].subject == "not looked at"
    left_out = findings[-1].found.split(", ")
    assert {"losses", "shared layer", "GradNorm", "evaluate", "time", "cohort"} <= set(left_out)
    looked_at = {finding.subject for finding in findings[:-1]}
    assert looked_at == {"tasks", "data", "model", "batches", "splits", "resuming", "data hash", "global state"}
    assert looked_at.isdisjoint(left_out)


@pytest.mark.parametrize("deed", ["SystemExit", "GeneratorExit", "unspeakable", "long", "odd"])
@pytest.mark.parametrize("where", hostile.METHODS)
def test_whatever_the_users_code_raises_is_a_fault_in_one_line(where, deed, monkeypatch):
    monkeypatch.setattr(data_checks, "may_differ", lambda *_: False)  # another process for each takes minutes
    findings = check("tests.helpers.hostile_problems:EndsCheck", where=where, deed=deed)
    faults = [finding.found for finding in findings if finding.level == "fault"]
    assert faults
    kind = {"unspeakable": "UnspeakableError", "long": "ValueError", "odd": "ValueError"}.get(deed, deed)
    for fault in faults:
        assert re.match(rf".*hostile_problems\.py:\d+: {kind}", fault)
        assert "\n" not in fault
        assert len(fault) < 500
        assert fault.encode("utf-8")


class TestGlobalState:
    def test_what_a_problem_leaves_is_a_warning_and_spoils_no_other_check(self):
        before = GlobalState()
        findings = {finding.subject: finding for finding in check("tests.helpers.hostile_problems:LeavesAll")}
        assert before.changed() == []
        assert {subject for subject, finding in findings.items() if finding.level != "ok"} == {"global state"}
        found = findings["global state"].found
        assert found.startswith("the problem's code leaves changed: ")
        assert "default dtype (seen at: evaluate)" in found
        assert "inference mode (seen at: evaluate)" in found
        assert "warning filters" not in found

    def test_what_building_the_network_sets_is_there_in_the_other_checks(self):
        findings = {finding.subject: finding for finding in check("tests.helpers.hostile_problems:LeavesDtype")}
        assert {subject for subject, finding in findings.items() if finding.level != "ok"} == {"global state"}
        assert findings["global state"].found == "the problem's code leaves changed: default dtype (seen at: model)"
        assert torch.get_default_dtype() == torch.float32


def test_preparing_twice_may_cost_much(monkeypatch):
    monkeypatch.setattr(data_checks, "SLOW", 0.0)
    finding = next(finding for finding in check("Sound") if finding.subject == "data")
    assert finding.level == "warning"
    assert "when called again" in finding.found


class TestUserCode:
    def test_the_line_is_that_of_the_user(self):
        with pytest.raises(ProblemError) as caught:
            check("ConstructorRaises")
        lines, start = inspect.getsourcelines(broken.ConstructorRaises)
        line = start + next(number for number, text in enumerate(lines) if "raise" in text)
        assert f"tests/helpers/broken_problems.py:{line}: KeyError: 'depth'" in str(caught.value)

    def test_what_is_passed_through_a_library_is_of_the_line_that_called_it(self):
        with pytest.raises(RuntimeError) as caught:
            torch.zeros(2).reshape(3)
        assert place_of(caught.value) == f"tests/hpo/check/test_problem_check.py:{caught.traceback[0].lineno + 1}"

    def test_an_installed_package_of_the_users(self, tmp_path, monkeypatch):
        (tmp_path / "site-packages" / "theirs").mkdir(parents=True)
        file = tmp_path / "site-packages" / "theirs" / "code.py"
        file.write_text("\ndef fail():\n    raise ValueError('x')\n")
        namespace: dict[str, Any] = {}
        exec(compile(file.read_text(), str(file), "exec"), namespace)  # noqa: S102 - ours
        with pytest.raises(ValueError, match="x") as caught:
            namespace["fail"]()
        assert told(caught.value, [file.parent]) == f"{file}:3: ValueError: x"
        assert "code.py" not in told(caught.value)

    def test_arguments_are_checked_as_in_a_study_file(self):
        with pytest.raises(ProblemError, match="expected 'extra', got 'depth'"):
            check("Sound", depth=3)
        with pytest.raises(ProblemError, match="got 'tyo'"):
            check_problem("tyo", {}, CPU)


class TestExamples:
    def test_batches_of_any_make(self):
        x = torch.arange(6.0).reshape(2, 3)

        class Graph:
            def __init__(self) -> None:
                self.x = x

        assert digest([x]) == digest({"x": x}) == digest(Graph()) == digest(x.numpy()) != digest(x + 1)
        kinds = [x.bool(), x.bfloat16(), x.to(torch.complex64), x.t(), x.to_sparse(), x.int(), x[:0], x.sum()]
        assert len({digest(kind) for kind in kinds}) == len(kinds)
        assert digest(("text", None, 3)) == digest(())

    def test_rows_are_those_of_all_tensors(self):
        x, y = torch.tensor([[1, 2], [3, 4], [1, 2]]), torch.tensor([5, 5, 6])
        first, second, third = row_digests((x, y))
        assert len({first, second, third}) == 3
        assert row_digests({"x": x})[0] == row_digests({"x": x})[2]
        assert row_digests([x, y[:2]])[0] == row_digests([x])[0]
        assert row_digests(torch.tensor(3.0)) == row_digests("text") == row_digests(x[:0]) == []
        assert len(row_digests(torch.zeros(4, 0))) == 4

    def test_a_pass_ends_at_its_limit(self, monkeypatch):
        monkeypatch.setattr("hpo.check.batch_digests.MOST_EXAMPLES", 25)
        seen = go_through(torch.randn(10, 2, generator=torch.Generator().manual_seed(i)) for i in range(5))
        assert (seen.examples, seen.batches, seen.complete, len(seen.rows)) == (30, 3, False, 30)
        whole = go_through([torch.zeros(24, 2)])
        assert (whole.examples, whole.complete, len(whole.rows)) == (24, True, 1)

    def test_a_batch_that_takes_longer_than_the_limit_is_a_batch(self, monkeypatch):
        monkeypatch.setattr("hpo.check.batch_digests.MOST_SECONDS", -1.0)
        seen = go_through([torch.zeros(3, 2)] * 4)
        assert (seen.batches, seen.examples, seen.complete) == (1, 3, False)

    def test_a_pass_cut_short_is_no_other_order(self, monkeypatch):
        monkeypatch.setattr("hpo.check.batch_digests.MOST_EXAMPLES", 20)
        findings = {finding.subject: finding for finding in check("Sound")}
        assert findings["batches"].level == "ok"


class TestCommand:
    @pytest.fixture
    def command(self, capsys, monkeypatch):
        monkeypatch.setattr(console, "_width", 160)

        def run(*arguments: str) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", ["gradsweep", "check", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
            return (ended.value.code or 0, *capsys.readouterr())

        return run

    def test_no_fault(self, command):
        code, out, err = command("tests.helpers.broken_problems:Sound", "--set", "extra={a: [1, null]}")
        assert (code, err) == (0, "")
        assert out.count("\n ok ") == len(CHECKS)
        assert "Faults: 0, warnings: 0." in out

    def test_a_warning_is_no_fault(self, command):
        code, out, _ = command("tests.helpers.broken_problems:SameOrder", "--device", "cpu")
        assert code == 0
        assert re.search(r"\n warning +batches ", out)
        assert "allowed: a new order each epoch" in out
        assert "Faults: 0, warnings: 1." in out

    def test_a_fault_is_bad_input(self, command):
        code, out, err = command("tests.helpers.broken_problems:LossRaises")
        assert (code, err) == (2, "")
        assert "Traceback" not in out
        assert re.search(r"\n fault +losses +tests/helpers/broken_problems\.py:\d+: ValueError: not enough", out)
        assert "Faults: 2, warnings: 1." in out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["tyo"], "problem: expected 'census', "),
            (["toy", "--set", "funtions=3"], "problem: arguments of 'toy': expected 'functions', "),
            (
                ["toy", "--set", "functions=x"],
                "problem: 'toy' refused its arguments: functions: expected an integer >= 1, got 'x'",
            ),
            (
                ["toy", "--set", "functions=1e1"],
                "problem: 'toy' refused its arguments: functions: expected an integer >= 1, got 10.0",
            ),
            (
                ["toy", "--set", "functions"],
                "--set: expected KEY=VALUE, the key an argument of the problem, got 'f",
            ),
            (
                ["toy", "--set", "name=x"],
                "--set: expected KEY=VALUE, the key an argument of the problem, got 'n",
            ),
            (["toy", "--set", "a=1", "--set", "a=2"], "--set: expected each key once, got 'a' twice"),
            (["toy", "--set", "a=[1"], "--set: 'a': expected a value as YAML has it, got '[1'"),
            (["toy", "--set", "a=.inf"], "--set: 'a': expected text, finite numbers, "),
            (["toy", "--set", "a=!!bool foo"], "--set: 'a': expected a value as YAML has it, got '!!bool foo'"),
            (["toy", "--set", "a={b: 1, b: 2}"], "--set: 'a': expected a value as YAML has it, got '{b: 1, b: 2}'"),
            (["toy", "--device", "hpu"], "--device: hpu cannot be used: "),
            (["toy", "--device", "tpu"], "--device: expected cpu, cuda, cuda:1, ..., got 'tpu'"),
            (["toy", "--device", "meta"], "--device: meta cannot be used: "),
            (
                ["nowhere.at_all:Class"],
                "problem: 'nowhere.at_all:Class' names the module 'nowhere.at_all', but there",
            ),
        ],
    )
    def test_bad_input(self, command, arguments, message):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1

    def test_a_module_that_cannot_be_imported(self, command, tmp_path, monkeypatch):
        (tmp_path / "my_problem_0.py").write_text("import os\n\ndepth = os.environ['NO_SUCH_VARIABLE']\n")
        monkeypatch.chdir(tmp_path)
        code, _, err = command("my_problem_0:Mine")
        assert code == 2
        assert "KeyError: 'NO_SUCH_VARIABLE' (at my_problem_0.py:3)" in err
