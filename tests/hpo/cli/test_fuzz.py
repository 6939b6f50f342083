"""Damaged and malicious files: for any bytes, a study file or weights file works or is refused in plain lines."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, event, given, seed, settings
from hypothesis import strategies as st

from balancers import Static
from balancers.weights_file import SCHEMA, VERSION, read_weights
from hpo.core.errors import ProblemError, StudyError
from hpo.launch.restore import open_plan
from hpo.launch.weights_export import write_weights
from hpo.launch.workspace import place
from hpo.study.phases.static_search import static_trials
from hpo.study.spec import TAKEN
from hpo.study.study_file import MOST_CHARACTERS, MOST_FAULTS, load_study
from hpo.tracking.experiment import StudyExperiment
from tests.helpers.plans import sizes
from tests.helpers.runs import main, no_file_beyond

STUDY: dict[str, Any] = {
    "name": "small",
    "problem": {"name": "toy", "functions": 3, "sigma_max": 10.0, "data_seed": 1, "epochs": 2},
    "seed": 0,
    "seeds": 2,
    "epochs": 2,
    "references": ["single_task", "equal", "uncertainty"],
    "static": {"design": "sobol", "points": 4, "ratio": 100.0},
    "gradnorm": {"recipes": ["paper", "robust"], "alpha": [0.0, 3.0], "learning_rate": [0.01, 0.1], "trials": 3},
    "confirm": {"top_static": 1, "averages": ["tail"]},
    "resources": {"cpu": 1, "gpu": 0.5},
    "priorities": {"f1": 2.0, "f3": 0},
    "limits": {"f2": 3.5},
    "margin": 1.0,
}
WEIGHTS: dict[str, Any] = {
    "schema": SCHEMA,
    "version": VERSION,
    "created": "2026-01-01T00:00:00+00:00",
    "tasks": ["depth", "normals", "ünïcode"],
    "weights": {"depth": 2.25, "normals": 0.7, "ünïcode": 0.05},
    "score": {"validation": {"mean": -0.5, "low": None, "high": None}},
}
LONGEST = 500  # characters of a line about a fault, beyond what it lists of our own names
SLOWEST = 20.0  # seconds of CPU for one file, which what else the machine does does not change
Refused = (StudyError, ProblemError, FileNotFoundError)


TIMES = int(os.environ.get("GRADSWEEP_FUZZ_TIMES", "1"))  # as many examples; `make fuzz` takes 9
SEED = os.environ.get("GRADSWEEP_FUZZ_SEED")  # of other examples than those of every run


def fuzz(examples: int) -> Callable[[Any], Any]:
    """So many examples, the same in every run unless the environment says otherwise."""
    chosen = settings(
        max_examples=examples * TIMES,
        deadline=None,
        derandomize=SEED is None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    return chosen if SEED is None else lambda test: seed(int(SEED or 0))(chosen(test))


# ---------------------------------------------------------------- what to write into the files

numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**300, 10**400, -(10**400), 1e308, 5e-324, 1e-60, -0.0]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(-5, 60),
    st.floats(),
)
texts = st.one_of(
    st.sampled_from(
        ["", " ", ".", "..", "../../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "<script>", "\x1b[31m", "a\nerror: b"]
    ),
    st.sampled_from(["\u2028", "\x85", "\ufeff", ":smile:", "[red]", "{x}", "%s", "toy", "1e999", "x" * 3000]),
    st.text(max_size=12),
)
keys = st.one_of(
    texts, st.sampled_from([*STUDY, "design", "points", "alpha", "name", "explicit", "minutes", "checkpoint_seconds"])
)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
moments = st.sampled_from([date(1, 1, 1), date(9999, 12, 31), datetime(2026, 1, 2, 3, 4, 5)])
likely = st.one_of(
    st.integers(1, 9),
    st.floats(0.1, 9.0),
    st.sampled_from([["single_task"], ["tail"], ["paper"], [0.5, 2], [[1, 2, 3], {"f1": 1, "f2": 2, "f3": 3}], {}]),
    st.sampled_from(["log_lattice", "dirichlet", "toy", "other-study", "1e1"]),
)
yaml_values = likely | json_values | moments | st.binary(max_size=9) | st.sets(st.integers(0, 9), max_size=3)


def nested(opening: str, closing: str, levels: int) -> str:
    return opening * levels + closing * levels


def laughs(first: str, level: str) -> str:
    """Nine anchors, each of nine times the one before: 9**9 values, were they written out."""
    lines = [f"  - &a0 {first}"]
    lines += [f"  - &a{k} " + level.format(", ".join([f"*a{k - 1}"] * 9)) for k in range(1, 10)]
    return "\n" + "\n".join(lines)


SNIPPETS = {
    "python": "!!python/object/apply:os.mkdir [owned]",
    "python module": "!!python/module:this",
    "unknown tag": "!mine {a: 1}",
    "tagged int": "!!int x",
    "empty int": "!!int ''",
    "tagged bool": "!!bool x",
    "tagged float": "!!float x",
    "tagged date": "!!timestamp x",
    "binary": "!!binary '*'",
    "set": "!!set {a, b}",
    "omap": "!!omap [a: 1]",
    "impossible date": "2024-13-45",
    "impossible zone": "2001-12-14t21:59:43.10+99:99",
    "empty binary int": "0b_",
    "sexagesimal": "1:59:59",
    "long int": "9" * 5000,
    "int beyond floats": "9" * 400,
    "long hex": "0x" + "f" * 5000,
    "infinity": ".inf",
    "nan": ".nan",
    "anchor": "&a 3",
    "no such anchor": "*nowhere",
    "list in itself": "&a [*a]",
    "mapping in itself": "&a {x: *a}",
    "merge with itself": "&a {<<: *a, x: 1}",
    "merge with a number": "{<<: 3}",
    "billion laughs": laughs("[x, x, x]", "[{}]"),
    "billion merges": laughs("{x: 1}", "{{<<: [{}]}}"),
    "long text often": "[&long '" + "x" * 20_000 + "'" + ", *long" * 2000 + "]",
    "deep list": nested("[", "]", 10_000),
    "deep mapping": "{a: " * 10_000 + "1" + "}" * 10_000,
    "list of 60 levels": nested("[", "]", 60),
    "list of 40 levels": nested("[", "]", 40),
    "deep block": "\n" + "\n".join(" " * k + "-" for k in range(1, 400)),
    "twice": "{a: 1, b: 2, a: 3}",
    "list as key": "{[1]: 2}",
    "number as key": "{3: 4}",
    "nothing as key": "{~: 4}",
    "date as key": "{2024-01-01: 4}",
    "escapes": '"\\e]0;x\\a\\r\\n\\0"',
    "escapes as key": '{"\\e[31m\\r\\nerror: ": 1}',
    "half a surrogate pair": '"\\ud800"',
    "half a surrogate pair as key": '{"\\udfff": 1}',
    "equals sign": "=",
    "block text": "|\n  a\n  b",
    "two documents": "1\n---\n2",
    "end of document": "1\n...\n%",
    "unbalanced": "[1, 2",
    "tab": "\t1",
    "large list": "[" + "0, 1, " * 3000 + "]",
    "large mapping": "{" + ", ".join(f"k{i}: 1" for i in range(3000)) + "}",
}

QUICK = [key for key in SNIPPETS if key not in ("deep list", "deep mapping", "long text often")]


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in nested mappings and lists."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [at for key, part in parts for at in ((*above, key), *places(part, (*above, key)))]


@st.composite
def mutated(draw: st.DrawFn, content: dict[str, Any], values: st.SearchStrategy[Any], strange: bool = True) -> Any:
    """A valid content with one to three of its values replaced, left out, or put beside it under another key."""
    changed = deepcopy(content)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        *above, key = draw(st.sampled_from(places(changed) or [("name",)]))
        parent = changed
        for part in above:
            parent = parent[part]
        what = draw(st.sampled_from(["replace", "replace", "drop", "add"]))
        if what == "drop":
            del parent[key]
        elif what == "add" and isinstance(parent, dict):
            parent[draw(keys | st.integers() | st.none()) if strange else draw(keys)] = deepcopy(draw(values))
        else:
            parent[key] = deepcopy(draw(values))
    return changed


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes of a valid file with a few changed, lost, doubled or cut off."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 9)))
        middle = draw(st.sampled_from([b"", raw[start:end] * 2]) | st.binary(max_size=4))
        raw = raw[:start] + middle + (b"" if draw(st.integers(0, 9)) == 0 else raw[end:])
    return raw


def dumped(content: Any) -> bytes:
    """YAML as the library writes it, halves of surrogate pairs and all."""
    return yaml.safe_dump(content, sort_keys=False).encode("utf-8", "surrogatepass")


def with_snippet(at: tuple[Any, ...], snippet: str) -> bytes:
    """The study file with a piece of YAML source where a value was."""
    changed, parent = deepcopy(STUDY), None
    parent = changed
    for part in at[:-1]:
        parent = parent[part]
    parent[at[-1]] = "HERE"
    text = yaml.safe_dump(changed, default_flow_style="\n" not in snippet, width=10**9, sort_keys=False)
    return text.replace("HERE", snippet).encode()


# ---------------------------------------------------------------- the study file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with something in it that must stay as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_plain(lines: list[str], prefixes: tuple[str, ...]) -> None:
    """Lines that a terminal shows as they are, each saying what it is about."""
    assert 1 <= len(lines) <= MOST_FAULTS + 1
    for line in lines:
        assert line.startswith(prefixes), line
        assert line.isprintable(), ascii(line)
        assert len(line) <= LONGEST, line


ABOUT = ("study.yaml: ", "problem: ", "static: ", "static.", "static[", "priorities: ", "limits: ")


def open_it(raw: bytes) -> bool:
    """Open a study file as `gradsweep run` does; whether it was accepted."""
    path, start = Path("study.yaml"), time.process_time()
    path.write_bytes(raw)
    try:
        plan = open_plan(path)
    except Refused as error:
        assert_plain(str(error).split("\n"), ABOUT)
        return False
    finally:
        assert time.process_time() - start < SLOWEST
    identities = [planned.config.identity for planned in static_trials(plan)]
    known = 1 if plan.is_centered else sizes(plan)["static"][1]  # the others lie around weights that a trial finds
    assert len(set(identities)) == len(identities) == known
    assert_inside(plan.study.name)
    return True


def plan_it(captured: pytest.CaptureFixture[str], folder: Path, raw: bytes) -> tuple[int, str, str]:
    """`gradsweep plan` on a study file: how it ended, having changed nothing on disk and thrown nothing."""
    (folder / "study.yaml").write_bytes(raw)
    before, start = contents(folder), time.process_time()
    code, out, err = main(captured, "plan", "study.yaml")
    assert time.process_time() - start < SLOWEST
    assert contents(folder) == before
    if code == 0:
        assert err == ""
        assert "Equivalence margin: " in out
    else:
        assert (code, out) == (2, "")
        lines = err.removesuffix("\n").split("\n")
        assert_plain(lines, tuple(f"error: {about}" for about in ABOUT))
    return code, out, err


def test_the_study_that_is_mutated_is_valid(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan_it(capsys, folder, dumped(STUDY))
    assert code == 0
    assert "small: toy, 3 tasks" in out


@fuzz(150)
@given(raw=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_study_file_of_any_bytes(folder: Path, raw: bytes) -> None:
    assert not open_it(raw)


@fuzz(200)
@given(value=yaml_values, as_json=st.booleans())
def test_a_study_file_of_any_value(folder: Path, value: Any, as_json: bool) -> None:
    assert not open_it(json.dumps(value, default=str).encode() if as_json else dumped(value))


@fuzz(300)
@given(content=mutated(STUDY, yaml_values))
def test_a_study_file_with_other_values(folder: Path, content: Any) -> None:
    event("accepted" if open_it(dumped(content)) else "refused")


@fuzz(300)
@given(raw=damaged(dumped(STUDY)))
def test_a_damaged_study_file(folder: Path, raw: bytes) -> None:
    event("accepted" if open_it(raw) else "refused")


@fuzz(150)
@given(at=st.sampled_from(places(STUDY)), snippet=st.sampled_from(QUICK))
def test_a_study_file_with_yaml_at_its_worst(folder: Path, at: tuple[Any, ...], snippet: str) -> None:
    before = set(contents(folder))
    event("accepted" if open_it(with_snippet(at, SNIPPETS[snippet])) else "refused")
    assert set(contents(folder)) - before <= {folder / "study.yaml"}


@fuzz(120)
@given(
    raw=mutated(STUDY, yaml_values).map(dumped)
    | damaged(dumped(STUDY))
    | st.builds(
        lambda at, key: with_snippet(at, SNIPPETS[key]), st.sampled_from(places(STUDY)), st.sampled_from(QUICK)
    )
)
def test_the_command_on_a_study_file_at_its_worst(
    folder: Path, capsys: pytest.CaptureFixture[str], raw: bytes
) -> None:
    code, _, _ = plan_it(capsys, folder, raw)
    event(f"exit code {code}")


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_each_snippet_as_a_seed(folder: Path, capsys: pytest.CaptureFixture[str], snippet: str) -> None:
    code, _, _ = plan_it(capsys, folder, with_snippet(("seed",), SNIPPETS[snippet]))
    assert code == (0 if snippet in ("anchor", "sexagesimal") else 2)


LEVELS = "expected at most 50 levels of lists and mappings, got more"
ALIASES = "expected at most 1000000 characters with aliases written out, got more"
INTEGER = "expected a whole number of at most 250 characters, got"
BASE = "name: a\nproblem: toy\n"
FAULTS = {
    "seed: 2024-13-45": "line 3, column 7: expected a date, or text in quotes, got '2024-13-45'",
    "seed: !!bool x": "line 3, column 7: expected true or false, got 'x'",
    "seed: !!int ''": f"line 3, column 7: {INTEGER} ''",
    "seed: 0b_": f"line 3, column 7: {INTEGER} '0b_'",
    "margin: !!float x": "line 3, column 9: expected a number of at most 250 characters, got 'x'",
    f"epochs: {'9' * 400}": f"line 3, column 9: {INTEGER} '{'9' * 116}...",
    f"epochs: 0x{'f' * 5000}": f"line 3, column 9: {INTEGER} '0x{'f' * 114}...",
    "seed: &a [*a]": f"line 3, column 7: {LEVELS}",
    f"seed: {nested('[', ']', 51)}": f"line 3, column 56: {LEVELS}",
    f"seed: {nested('[', ']', 10_000)}": LEVELS,
    f"seed: {SNIPPETS['billion laughs']}": f"line 1, column 1: {ALIASES}",
    f"seed: {SNIPPETS['billion merges']}": f"line 1, column 1: {ALIASES}",
    f"seed: {SNIPPETS['long text often']}": f"line 1, column 1: {ALIASES}",
    "seeds: 3\nseeds: 5": "line 4, column 1: expected each key once, got 'seeds' twice",
    "confirm: {top_static: 1, top_static: 2}": ("line 3, column 26: expected each key once, got 'top_static' twice"),
    '"\\ud800": 1': "line 3, column 1: expected text in Unicode, got '\\ud800'",
    '"\\e[31m\\nx": 1': r"\x1b[31m\nx: unknown key, allowed here: name, problem, seed, ",
    'static: {"a\\nb": 1}': r"static: unknown key a\nb, allowed with log_lattice: design, points, ratio, center",
    "seed: !!python/object/apply:os.mkdir [owned]": (
        "is not YAML: line 3, column 7: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.mkdir'"
    ),
    "epochs: 2147483648": "epochs: expected a number < 2147483648, got 2147483648",
    "static: {points: 10001}": "static.points: expected a number <= 10000, got 10001",
    "gradnorm: {trials: 1000000000}": "gradnorm.trials: expected a number <= 10000, got 1000000000",
    "confirm: {top_static: 1000000000}": "confirm.top_static: expected a number <= 10000, got 1000000000",
}


@pytest.mark.parametrize("text", FAULTS, ids=range(len(FAULTS)))
def test_what_fuzzing_found_is_one_line(folder: Path, text: str) -> None:
    Path("study.yaml").write_text(f"{BASE}{text}\n")
    with pytest.raises(StudyError) as caught:
        load_study(Path("study.yaml"))
    assert str(caught.value).startswith(f"study.yaml: {FAULTS[text]}")
    assert_plain([str(caught.value)], ABOUT)


def test_anchors_that_do_not_explode_are_accepted(folder: Path) -> None:
    text = f"{BASE}gradnorm: {{alpha: &range [0.5, 2], learning_rate: *range}}\nconfirm: &c {{top_static: 1}}\n"
    Path("study.yaml").write_text(f"{text}resources: {{cpu: 2}}\n")
    study = load_study(Path("study.yaml"))
    assert study.gradnorm.alpha == study.gradnorm.learning_rate == (0.5, 2.0)


def test_a_file_that_is_too_long_is_not_read_to_its_end(folder: Path) -> None:
    with pytest.raises(
        StudyError, match=rf"^/dev/zero: expected a study file of at most {MOST_CHARACTERS} bytes, got more"
    ):
        load_study(Path("/dev/zero"))
    Path("long.yaml").write_text(f"{BASE}# {'x' * MOST_CHARACTERS}\n")
    with pytest.raises(StudyError, match=r"^long.yaml: expected a study file of at most"):
        load_study(Path("long.yaml"))
    Path("long.yaml").write_text(f"{BASE}# {'x' * (MOST_CHARACTERS - 40)}\n")
    assert load_study(Path("long.yaml")).name == "a"


def test_a_thousand_faults_are_twenty_lines_and_their_number(folder: Path) -> None:
    Path("study.yaml").write_text(BASE + "".join(f"key{k}: 1\n" for k in range(1000)))
    with pytest.raises(StudyError) as caught:
        load_study(Path("study.yaml"))
    lines = str(caught.value).split("\n")
    assert len(lines) == MOST_FAULTS + 1
    assert lines[-1] == f"study.yaml: and {1000 - MOST_FAULTS} more faults"


def test_a_long_list_of_names_is_checked_quickly(folder: Path) -> None:
    Path("study.yaml").write_text(f"{BASE}references: {[f'r{k}' for k in range(30_000)]}\n")
    start = time.process_time()
    with pytest.raises(StudyError, match=r"more faults$"):
        load_study(Path("study.yaml"))
    assert time.process_time() - start < SLOWEST


PROBLEMS = {
    "sys:maxsize.real.nothing": "problem: 'sys:maxsize.real.nothing' names no attribute 'nothing' of sys, its ",
    "sys:modules": (
        "problem: 'sys:modules': expected a subclass of gradsweep.Problem or a function below "
        "@gradsweep.training(...), got {'sys': <module 'sys' (built-in)>, "
    ),
    "script:Net": "problem: importing 'script' for 'script:Net' failed: SystemExit: usage: script.py",
    "broken:Net": "problem: importing 'broken' for 'broken:Net' failed: SyntaxError: ",
    "../../x:Net": "problem: importing '../../x' for '../../x:Net' failed: ",
    "/etc/passwd:Net": "problem: '/etc/passwd:Net' names the module '/etc/passwd', but there is no module ",
    "a\0b:Net": "problem: 'a\\x00b:Net' names the module ",
    "<script>": "problem: expected 'census', 'earth', 'multi_fashion', ",
    ":smile:": "problem: expected 'package.module:Class', both parts given, got ':smile:'",
    "x" * 201: f"study.yaml: problem.name: expected at most 200 characters, got '{'x' * 116}...",
}


@pytest.mark.parametrize("name", PROBLEMS, ids=repr)
def test_a_problem_s_name_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "script.py").write_text("raise SystemExit('usage: script.py\\n  --data FOLDER')\n")
    (folder / "broken.py").write_text("def\n")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    code, _, err = plan_it(capsys, folder, dumped({"name": "a", "problem": name}))
    assert code == 2
    assert err.startswith(f"error: {PROBLEMS[name]}")


TOY = {
    "functions": 10**9,
    "sigma_max": 10**240,
    "data_seed": 2**63,
    "train": 2**63,
    "epochs": 10**240,
    "batch_size": 5001,
}


@pytest.mark.parametrize("argument", TOY)
def test_an_extreme_argument_of_the_toy_causes_no_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], argument: str
) -> None:
    raw = dumped({"name": "a", "problem": {"name": "toy", argument: TOY[argument]}})
    code, _, err = plan_it(capsys, folder, raw)
    assert code == (0 if argument == "sigma_max" else 2)
    assert code == 0 or err.startswith(f"error: problem: 'toy' refused its arguments: {argument}: expected ")


@pytest.mark.parametrize("static", [{"ratio": 1e300}, [[1e200, 1e-60]], {"design": "sobol", "ratio": 1e250}])
def test_weights_that_training_would_round_to_zero_are_refused(folder: Path, static: Any) -> None:
    Path("study.yaml").write_bytes(dumped({"name": "a", "problem": "toy", "static": static}))
    with pytest.raises(StudyError, match=r"^static: expected weights >= 1.2e-38, as float32 holds, got [\d.e-]+$"):
        open_plan(Path("study.yaml"))


@pytest.mark.parametrize(
    ("static", "arms"),
    [([[1, 2], [1, 2.0000001], [1, 3]], 3), ([[1, 1.0000001]], 1), ({"ratio": 1.0000005, "points": 12}, 1)],
)
def test_points_that_differ_in_the_seventh_digit_alone_are_one_trial(folder: Path, static: Any, arms: int) -> None:
    """Two arms of one identity would wait for two results where one comes."""
    Path("study.yaml").write_bytes(dumped({"name": "a", "problem": "toy", "static": static}))
    planned = static_trials(open_plan(Path("study.yaml")))
    assert len({trial.config.identity for trial in planned}) == len(planned) == arms


# ---------------------------------------------------------------- the study's name


def assert_inside(name: str) -> None:
    """Check that a study of this name keeps its files in a folder directly below the output folder."""
    where = place(Path("output"), None)
    assert where.folder(name).resolve().parent == where.output
    assert (where.output / "artifacts" / name).resolve().parent == where.output / "artifacts"
    assert where.folder(name).name.casefold() not in {"mlflow.db", "artifacts"}


@fuzz(300)
@given(
    name=texts
    | st.text("ab._-/\\~\0 \n%", max_size=6)
    | st.from_regex(r"[A-Za-z0-9_.~-]{1,85}", fullmatch=True)
    | st.builds(str.__add__, st.sampled_from(["a", "..", "-", "a/"]), st.sampled_from([".lock", "...", "\n", "/.."]))
)
def test_no_name_leads_out_of_the_output_folder(folder: Path, name: str) -> None:
    Path("study.yaml").write_bytes(dumped({"name": name, "problem": "toy"}))
    try:
        found = load_study(Path("study.yaml")).name
    except StudyError:
        event("refused")
        assert not name.isidentifier() or len(name) > 80 or not name.isascii() or name.casefold() in TAKEN
        return
    event("accepted")
    assert found == name
    assert_inside(name)
    made = Path("output") / name
    made.mkdir(parents=True, exist_ok=True)
    assert made in set(Path("output").iterdir())  # the very name, on a real file system
    assert {path.name for path in Path().iterdir()} == {"kept", "study.yaml", "output"}


@pytest.mark.parametrize("name", ["a.", "a...", "a..b", "a.lock", "_", "con", "0", "weights.json"])
def test_odd_names_are_accepted(folder: Path, name: str) -> None:
    assert open_it(dumped(STUDY | {"name": name}))


@pytest.mark.parametrize(
    "name", [".", "..", ".lock", "../a", "/a", "a/..", "~", "-a", "", "a\0", "a\n", *TAKEN, "Default"]
)
def test_names_that_are_other_files_or_folders_are_refused(folder: Path, name: str) -> None:
    assert not open_it(dumped(STUDY | {"name": name}))


@pytest.mark.slow
def test_mlflow_keeps_a_study_s_files_inside_the_output_folder(folder: Path) -> None:
    """Its own first experiment, `Default`, too, which MLflow by itself would put into the current folder."""
    where = place(Path("output"), None)
    where.output.mkdir()
    for name in ("a.", "a.lock", "mlruns", "a" * 80):
        store = StudyExperiment(where.uri, name, where.output)
        location = store.client.get_experiment(store.experiment_id).artifact_location
        assert location == (where.output / "artifacts" / name).as_uri()
    default = StudyExperiment(where.uri, "Default", where.output)
    location = default.client.get_experiment(default.experiment_id).artifact_location
    assert location == (where.output / "artifacts" / "0").as_uri()
    assert "default" in TAKEN


# ---------------------------------------------------------------- the weights file


def read_it(path: Path, raw: bytes) -> dict[str, float] | None:
    """Read a weights file as production does: its weights, or None if it was refused in one line that names it."""
    path.write_bytes(raw)
    found: dict[str, float] | None = None
    for read in (read_weights, Static.load):
        start = time.process_time()
        try:
            loaded = read(path)
        except ValueError as error:
            message = str(error)
            assert message.startswith(f"{path}: ")
            assert message.isprintable(), ascii(message)
            assert len(message) < len(str(path)) + 1000
            continue
        finally:
            assert time.process_time() - start < SLOWEST
        if isinstance(loaded, Static):
            assert found is not None
            assert loaded.tasks == list(found)
            assert bool(((loaded.weights > 0) & loaded.weights.isfinite()).all())
            assert loaded.weights.double().sum().item() == pytest.approx(len(found), rel=1e-5)
        else:
            found = loaded
            assert found
            assert all(type(task) is str and type(weight) is float for task, weight in found.items())
            assert all(0 < weight < math.inf for weight in found.values())
    return found


def as_json(content: Any) -> bytes:
    """JSON with whatever Python takes for it, NaN, Infinity and halves of surrogate pairs included."""
    return json.dumps(content, indent=2).encode()


@fuzz(300)
@given(raw=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_weights_file_of_any_bytes(tmp_path: Path, raw: bytes) -> None:
    assert read_it(tmp_path / "weights.json", raw) is None


@fuzz(300)
@given(value=json_values)
def test_a_weights_file_of_any_value(tmp_path: Path, value: Any) -> None:
    assert read_it(tmp_path / "weights.json", as_json(value)) is None


@fuzz(400)
@given(content=mutated(WEIGHTS, json_values, strange=False))
def test_a_weights_file_with_other_values(tmp_path: Path, content: Any) -> None:
    found = read_it(tmp_path / "weights.json", as_json(content))
    event("refused" if found is None else "accepted")
    if found is not None:
        assert list(found) == content["tasks"]
        assert found == {task: float(weight) for task, weight in content["weights"].items()}


@fuzz(400)
@given(raw=damaged(as_json(WEIGHTS)))
def test_a_damaged_weights_file(tmp_path: Path, raw: bytes) -> None:
    found = read_it(tmp_path / "weights.json", raw)
    event("refused" if found is None else "accepted")
    assert found is None or len(found) == len(json.loads(raw)["tasks"])


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@fuzz(200)
@given(weights=st.dictionaries(names, st.floats(1e-30, 1e30) | st.integers(1, 10**18), min_size=1, max_size=9))
def test_weights_that_do_not_sum_to_the_number_of_tasks_are_read_as_ratios(
    tmp_path: Path, weights: dict[str, float]
) -> None:
    order = sorted(weights)
    random.Random(len(order)).shuffle(order)
    raw = as_json({"schema": SCHEMA, "version": VERSION, "tasks": order, "weights": weights})
    found = read_it(tmp_path / "weights.json", raw)
    assert found is not None
    assert list(found.items()) == [(task, float(weights[task])) for task in order]
    if max(weights.values()) / min(weights.values()) < 1e30:
        loaded = Static.load(tmp_path / "weights.json").weights.double()
        exact = torch.tensor(list(found.values()), dtype=torch.float64)
        torch.testing.assert_close(loaded, exact * (len(exact) / exact.sum()), rtol=1e-6, atol=0)


def test_a_truncated_weights_file_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "whole.json", WEIGHTS)
    raw = (tmp_path / "whole.json").read_bytes()
    assert raw.endswith(b"}\n")
    assert [read_it(tmp_path / "weights.json", raw[:length]) for length in range(len(raw) - 1)] == [None] * (
        len(raw) - 1
    )
    assert read_it(tmp_path / "weights.json", raw[:-1]) == read_it(tmp_path / "weights.json", raw)
    assert read_it(tmp_path / "weights.json", raw) == WEIGHTS["weights"]


HEAD = f'"schema": "{SCHEMA}", "version": {VERSION}'
ONE = f'{{{HEAD}, "tasks": ["a"], "weights": {{"a": %s}}}}'
DEEP = {levels: f'{{{HEAD}, "tasks": ["a"], "weights": {nested("[", "]", levels)}}}' for levels in (10, 10_000)}
BAD_WEIGHTS = {
    "mark at the beginning": ("\ufeff" + ONE % 1, "Unexpected UTF-8 BOM"),
    "nan": (ONE % "NaN", "weights['a']: expected a finite number > 0, got nan"),
    "infinity": (ONE % "Infinity", "got inf"),
    "minus infinity": (ONE % "-Infinity", "got -inf"),
    "large float": (ONE % "1e400", "got inf"),
    "zero": (ONE % "1e-400", "got 0.0"),
    "minus zero": (ONE % "-0", "got 0"),
    "large integer": (ONE % ("1" + "0" * 400), f"got 1{'0' * 196}..."),
    "larger integer": (ONE % ("1" + "0" * 5000), "Exceeds the limit (4300 digits) for integer string conversion"),
    "larger integer elsewhere": (ONE.replace("a", "a") % 1 + " " + "9" * 5000, "got "),
    "flag": (ONE % "true", "got True"),
    "text": (ONE % '"1"', "got '1'"),
    "deep": (DEEP[10_000], "maximum recursion depth exceeded"),
    "not so deep": (DEEP[10], "weights: expected an object"),
    "weight twice": (ONE % '1, "a": 2', "the key 'a' twice"),
    "weights twice": ((ONE % 1)[:-1] + ', "weights": {"a": 2}}', "the key 'weights' twice"),
    "task twice": ((ONE % 1).replace('["a"]', '["a", "a"]'), "tasks: expected names, each once, got ['a', 'a']"),
    "task of no text": ((ONE % 1).replace('["a"]', "[1]"), "tasks: expected a list of at least one name, got [1]"),
    "another schema": ((ONE % 1).replace(SCHEMA, "x" * 9999), "schema, version: expected "),
    "lines in a name": ((ONE % 1).replace('["a"]', '["\\n\\u001b[31m"]'), r"got missing ['\n\x1b[31m'], unknown "),
    "half a surrogate pair": ((ONE % 1).replace('["a"]', '["\\ud800"]'), r"got missing ['\ud800'], unknown ['a']"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_a_bad_weights_file_says_so_in_one_line(tmp_path: Path, case: str) -> None:
    text, words = BAD_WEIGHTS[case]
    path = tmp_path / "weights.json"
    assert read_it(path, text.encode()) is None
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is what is tested
        read_weights(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("levels", range(900, 1000, 5))
def test_a_weights_file_nearly_too_deep(tmp_path: Path, levels: int) -> None:
    """Deep enough to be read and too deep to be written into a message, for one of these depths."""
    raw = f'{{{HEAD}, "tasks": {nested("[", "]", levels)}, "weights": {{}}}}'.encode()
    assert read_it(tmp_path / "weights.json", raw) is None


def test_weights_at_the_ends_of_float64(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    for weights, shares in (([1.7e308, 1.7e308], [1.0, 1.0]), ([5e-324, 1.5e-323], [0.5, 1.5])):
        content = {**WEIGHTS, "tasks": ["a", "b"], "weights": dict(zip("ab", weights, strict=True))}
        assert read_it(path, as_json(content)) == dict(zip("ab", weights, strict=True))
        assert Static.load(path).weights.tolist() == pytest.approx(shares)


def test_weights_that_float32_cannot_hold_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    content = {**WEIGHTS, "tasks": ["a", "b"], "weights": {"a": 1.0, "b": 1e-60}}
    assert read_it(path, as_json(content)) == {"a": 1.0, "b": 1e-60}
    with pytest.raises(ValueError, match=r"weights.json: weights: expected numbers near enough .* torch.float32"):
        Static.load(path)


def test_many_tasks_are_checked_quickly(tmp_path: Path) -> None:
    tasks = [f"t{k}" for k in range(30_000)]
    content = {**WEIGHTS, "tasks": tasks, "weights": dict.fromkeys(tasks, 2.0)}
    assert read_it(tmp_path / "weights.json", as_json(content)) == dict.fromkeys(tasks, 2.0)


def test_a_weights_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Static.load(tmp_path / "none.json")
    for path in (tmp_path, tmp_path / "file" / "weights.json"):
        with pytest.raises(ValueError, match=r"expected a weights file in JSON, got .*directory") as caught:
            Static.load(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_the_tasks_of_another_network_name_the_file(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.json", WEIGHTS)
    with pytest.raises(ValueError, match=r"^/.*weights\.json: .* missing \['colour'\], unknown \['depth', "):
        Static.load(tmp_path / "weights.json", tasks=["colour"])


@pytest.mark.parametrize("obstacle", ["folder", "full disk", "file above", "no such device"])
def test_weights_that_cannot_be_written_leave_nothing_behind(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "weights.json"
    if obstacle == "folder":
        (path / "kept").mkdir(parents=True)
    elif obstacle == "full disk":
        write_weights(path, WEIGHTS)
    elif obstacle == "file above":
        (tmp_path / "file").write_text("kept")
        path = tmp_path / "file" / "weights.json"
    else:
        path = Path("/proc/no-such-folder/weights.json")
    before = contents(tmp_path)
    length = 100_000 if obstacle == "full disk" else 1
    with no_file_beyond(50_000), pytest.raises(OSError, match=r"directory|exists|too large"):
        write_weights(path, WEIGHTS | {"more": "x" * length})
    assert contents(tmp_path) == before
