"""The study file: defaults, the documented example, and one readable line for each fault."""

import sys
from pathlib import Path

import pytest

from balancers.torchjd_methods import NAMES as TORCHJD
from hpo.core.errors import StudyError
from hpo.study.spec import ConfirmSpec, GradNormSpec, ProblemSpec, Resources, StaticSpec, Study
from hpo.study.study_file import load_study, study_from
from hpo.training.methods import reference_names

EXAMPLE = """
name: census-quick
problem: {name: census, preset: small}          # or package.module:Class, with its arguments
seed: 0
seeds: 3                                        # paired seeds of the confirm phase
references: [single_task, equal, uncertainty]
static: {design: log_lattice, points: 24}       # log_lattice | dirichlet | sobol | uniform, or an explicit list
gradnorm: {recipes: [paper, robust], alpha: [0.0, 3.0], trials: 6}   # trials of the sweep, per recipe
confirm: {top_static: 2, averages: [arithmetic, geometric, tail]}
resources: {cpu: 1, gpu: 0}                     # per trial; gpu may be a fraction
margin: 1.0                                     # percent, what counts as equivalent
"""
BASE = "name: small\nproblem: toy\n"


def load(folder: Path, text: str) -> Study:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path)


def faults(folder: Path, text: str) -> list[str]:
    """The lines of the complaint, each without the file's name, which every line must begin with."""
    with pytest.raises(StudyError) as caught:
        load(folder, text)
    lines = str(caught.value).splitlines()
    prefix = f"{folder / 'study.yaml'}: "
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_the_documented_example(tmp_path: Path) -> None:
    study = load(tmp_path, EXAMPLE)
    assert study == Study(
        name="census-quick",
        problem=ProblemSpec(name="census", preset="small"),
        seed=0,
        seeds=3,
        references=("single_task", "equal", "uncertainty"),
        static=StaticSpec(design="log_lattice", points=24),
        gradnorm=GradNormSpec(recipes=("paper", "robust"), alpha=(0.0, 3.0), trials=6),
        confirm=ConfirmSpec(top_static=2, averages=("arithmetic", "geometric", "tail")),
        resources=Resources(cpu=1, gpu=0),
        margin=1.0,
    )
    assert study.problem.arguments == {"preset": "small"}


def test_every_study_in_the_repository_loads() -> None:
    files = sorted((Path(__file__).parents[3] / "studies").glob("*.yaml"))
    assert {load_study(file).name for file in files} >= {"census-quick", "toy"}


def test_defaults(tmp_path: Path) -> None:
    study = load(tmp_path, BASE)
    assert (study.seed, study.seeds, study.epochs, study.margin) == (0, 3, None, 1.0)
    assert study.references == ("single_task", "equal", "uncertainty")
    assert (study.static.design, study.static.points, study.static.explicit) == ("log_lattice", 24, ())
    assert study.static.options == {}
    assert study.gradnorm.recipes == ("paper", "direct")
    assert (study.gradnorm.alpha, study.gradnorm.learning_rate, study.gradnorm.trials) == ((0.0, 1.5), None, 6)
    assert (study.confirm.top_static, study.confirm.averages) == (2, ("arithmetic", "geometric", "tail"))
    assert (study.resources.cpu, study.resources.gpu) == (1.0, 0.0)
    assert study.problem.arguments == {}


def test_methods_of_torchjd_are_references_by_name(tmp_path: Path) -> None:
    names = ["single_task", *TORCHJD]
    assert load(tmp_path, f"{BASE}references: [{', '.join(names)}]\n").references == tuple(names)


def test_a_method_whose_library_is_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)  # as where it is not installed
    assert faults(tmp_path, f"{BASE}references: [single_task, mgda]\n") == [
        "references[1]: expected a method that is installed; this one is by: pip install 'gradsweep[torchjd]', "
        "got 'mgda'"
    ]


def test_a_problem_is_a_name_or_a_mapping(tmp_path: Path) -> None:
    by_name = load(tmp_path, "name: a\nproblem: mine.depth:Depth\n")
    by_mapping = load(tmp_path, "name: a\nproblem: {name: 'mine.depth:Depth'}\n")
    assert by_name == by_mapping


def test_static_points_by_order_or_by_task(tmp_path: Path) -> None:
    static = load(tmp_path, f"{BASE}static: [[1, 2.5], {{near: 1e-3, far: 1}}]\n").static
    assert static.explicit == ((1.0, 2.5), {"near": 0.001, "far": 1.0})


def test_options_of_a_design_are_numbers(tmp_path: Path) -> None:
    static = load(tmp_path, f"{BASE}static: {{design: sobol, points: 8, ratio: 1e2}}\n").static
    assert (static.design, static.points, static.options) == ("sobol", 8, {"ratio": 100.0})


NUMBERS = ["1e-3", "1E5", "-2e+3", "+.5e-3", "1.e2", "1.5e3", "1.0e-3", "12e03"]


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_with_an_exponent_is_a_number_wherever_it_stands(tmp_path: Path, text: str) -> None:
    study = load(
        tmp_path, f"name: a\nproblem: {{name: toy, lr: {text}, rates: [{text}], parts: {{depth: {text}}}}}\n"
    )
    number = float(text)
    assert study.problem.arguments == {"lr": number, "rates": [number], "parts": {"depth": number}}
    assert type(study.problem.arguments["lr"]) is float


@pytest.mark.parametrize("text", ["'1e-3'", "e3", "1e", "1e-", "v1e3", "1e3x", ".e3", "1e3.5", "0x1e3-"])
def test_text_that_only_resembles_a_number_stays_text(tmp_path: Path, text: str) -> None:
    study = load(tmp_path, f"name: a\nproblem: {{name: toy, revision: {text}}}\n")
    assert study.problem.arguments == {"revision": text.strip("'")}


def test_a_number_that_is_too_large_is_refused_by_name(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, "name: a\nproblem: {name: toy, lr: 1e999}\n")
    assert line.startswith("problem.lr: expected text, finite numbers")
    assert line.endswith("got inf")


def test_text_given_in_python_is_written_to_the_file_as_text(tmp_path: Path) -> None:
    arguments = {"name": "toy", "revision": "1e3", "lr": 1e-3, "more": ["2.5e3", 2.5e3, 1e22]}
    written = study_from({"name": "a", "problem": arguments})
    assert load(tmp_path, written.text) == written.study
    assert written.study.problem.arguments == {name: value for name, value in arguments.items() if name != "name"}


def test_the_space_of_the_sweep(tmp_path: Path) -> None:
    text = f"{BASE}gradnorm: {{alpha: [0.5, 2], learning_rate: [1e-3, 0.1]}}\n"
    spec = load(tmp_path, text).gradnorm
    space = spec.space("paper")
    assert (space.low, space.high, space.learning_rate) == (0.5, 2.0, (0.001, 0.1))
    assert spec.ranges("direct") == {"alpha": (0.5, 2.0)}  # whose weights have no learning rate
    assert spec.space("direct").learning_rate is None


def test_confirm_seeds_are_fresh() -> None:
    study = Study(name="a", problem=ProblemSpec(name="toy"), seed=7, seeds=4)
    assert list(study.confirm_seeds) == [8, 9, 10, 11]


def test_a_fraction_or_a_whole_number_of_gpus() -> None:
    assert [Resources(gpu=gpu).gpu for gpu in (0.25, 1, 2.0)] == [0.25, 1.0, 2.0]


POINT = "a list of numbers > 0, one for each task, or a mapping from each task to its number"
LOW_HIGH = "[lowest, highest] with 0 <= lowest <= highest"
TOP = (
    "name, problem, seed, seeds, epochs, select, baseline, references, shortlist, static, tune, search, refine, "
    "gradnorm, confirm, resources, cohort, checkpoint_seconds, priorities, limits, margin"
)
LIST = "a list of at least one, each once"
BY_TASK = "a mapping from tasks to finite numbers >= 0"
METHODS = ", ".join(reference_names())
BASELINE = "equal, or a mapping from each task to a number > 0"
STATIC = "a mapping of design, points and options, a list of at least one point, or off"
DESIGNS = "log_lattice, dirichlet, sobol, uniform, or a list of points of weights in place of the mapping"
FAULTS = {
    # unknown keys, at each level
    "colour: red": f"colour: unknown key, allowed here: {TOP}",
    "gradnorm: {alpah: [0, 1]}": "gradnorm.alpah: unknown key, allowed here: recipes, alpha, learning_rate, trials",
    "confirm: {top: 2}": "confirm.top: unknown key, allowed here: top_static, averages, shortlist",
    "resources: {memory: 3}": "resources.memory: unknown key, allowed here: workers, cpu, gpu, minutes",
    "static: {desing: sobol}": (
        "static: unknown key desing, allowed with log_lattice: design, points, ratio, center"
    ),
    "static: {design: uniform, ratio: 9}": "static: unknown key ratio, allowed with uniform: design, points",
    "static: {explicit: [[1, 2]]}": (
        "static: unknown key explicit, allowed with log_lattice: design, points, ratio, center"
    ),
    "3: 4": f"[3]: unknown key, allowed here: {TOP}",
    # a cheaper search
    "search: {halving: 1}": "search.halving: expected a number >= 2, got 1",
    "search: {epochs: 0}": "search.epochs: expected a number >= 1, got 0",
    "search: {short: 2}": "search.short: unknown key, allowed here: epochs, full, halving",
    # tuning
    "tune: {}": "tune: expected at least one argument of the problem with its range, got none",
    "tune: {trials: 4}": "tune: expected at least one argument of the problem with its range, got none",
    "tune: {lr: [0.1, 1], trials: 1}": "tune.trials: expected a number >= 2, got 1",
    "tune: {lr: [1, 0.1]}": (
        "tune.lr: expected a list [lowest, highest] of two numbers with lowest < highest, got [1, 0.1]"
    ),
    "tune: {lr: {log: [0, 1]}}": (
        "tune.lr: expected {log: [lowest, highest]} with 0 < lowest < highest, got {'log': [0, 1]}"
    ),
    "tune: {lr: {choice: [1]}}": (
        "tune.lr: expected {choice: [...]} with at least two different texts, numbers, true or false, "
        "got {'choice': [1]}"
    ),
    "tune: 3": "tune: expected a mapping, or off, got 3",
    "tune: {lr: [0.1, 1], trials: 30}": "static.points: expected a number >= tune.trials, which is 30, got 24",
    "tune: {lr: [0.1, 1], trials: 7}": "gradnorm.trials: expected a number >= tune.trials, which is 7, got 6",
    # cohorts
    "cohort: many": "cohort: expected auto, or a whole number from 1 (one at a time) to 1024, got 'many'",
    "cohort: 0": "cohort: expected auto, or a whole number from 1 (one at a time) to 1024, got 0",
    "cohort: true": "cohort: expected auto, or a whole number from 1 (one at a time) to 1024, got True",
    "cohort: 4.0": "cohort: expected auto, or a whole number from 1 (one at a time) to 1024, got 4.0",
    # names
    "references: [single_task, best]": (
        "references[1]: expected single_task, equal, uncertainty, " + ", ".join(TORCHJD) + ", got 'best'"
    ),
    "gradnorm: {recipes: [papr]}": "gradnorm.recipes[0]: expected paper, robust, annealed, direct, got 'papr'",
    "confirm: {averages: [mean]}": (
        "confirm.averages[0]: expected arithmetic, geometric, tail, geometric_tail, got 'mean'"
    ),
    "static: {design: grid}": f"static.design: expected {DESIGNS}, got 'grid'",
    "static: {design: [sobol]}": "static.design: expected text, got ['sobol']",
    # lists
    "references: []": f"references: expected {LIST}, got []",
    "references: single_task": f"references: expected {LIST}, got 'single_task'",
    "references: [single_task, single_task]": (f"references: expected {LIST}, got ['single_task', 'single_task']"),
    "references: [equal]": (
        "references: expected a list with single_task, to which every score is relative, got ['equal']"
    ),
    "gradnorm: {recipes: []}": f"gradnorm.recipes: expected {LIST}, got []",
    "confirm: {averages: []}": f"confirm.averages: expected {LIST}, got []",
    # numbers
    "seeds: 0": "seeds: expected a number >= 1, got 0",
    "seeds: 1001": "seeds: expected a number <= 1000, got 1001",
    "seeds: three": "seeds: expected a whole number, got 'three'",
    "seeds: true": "seeds: expected a whole number, got True",
    "seeds: 2.5": "seeds: expected a whole number, got 2.5",
    "seeds:": "seeds: expected a whole number, got nothing",
    "seed: -1": "seed: expected a number >= 0, got -1",
    "seed: 2147483648": "seed: expected a number < 2147483648, got 2147483648",
    "epochs: 0": "epochs: expected a number >= 1, got 0",
    "priorities: {a: -1}": f"priorities: expected {BY_TASK}, got {{'a': -1}}",
    "priorities: {a: true}": f"priorities: expected {BY_TASK}, got {{'a': True}}",
    "priorities: {1: 1}": f"priorities: expected {BY_TASK}, got {{1: 1}}",
    "priorities: [1, 2]": f"priorities: expected {BY_TASK}, got [1, 2]",
    "limits: {a: .nan}": f"limits: expected {BY_TASK}, got {{'a': nan}}",
    "limits: {a: -2}": f"limits: expected {BY_TASK}, got {{'a': -2}}",
    "limits: {a: two}": f"limits: expected {BY_TASK}, got {{'a': 'two'}}",
    "limits: {a: 2}\nseeds: 1": "seeds: expected a number >= 2, which limits need for confidence, got 1",
    "margin: 0": "margin: expected a number > 0, got 0",
    "margin: .nan": "margin: expected a finite number, got nan",
    "margin: wide": "margin: expected a number, got 'wide'",
    "margin: true": "margin: expected a number, got True",
    "resources: {gpu: 1.5}": "resources.gpu: expected a fraction below 1, or a whole number, got 1.5",
    "resources: {gpu: -1}": "resources.gpu: expected a number >= 0, got -1",
    "resources: {cpu: 0}": "resources.cpu: expected a number > 0, got 0",
    "resources: {workers: 0}": "resources.workers: expected a number >= 1, got 0",
    "resources: {workers: 1.5}": "resources.workers: expected a whole number, got 1.5",
    "resources: {workers: 2, gpu: 0.5}": "resources.gpu: expected a whole number, since processes of one trial "
    "cannot share a GPU, got 0.5",
    "confirm: {top_static: 0}": "confirm.top_static: expected a number >= 1, got 0",
    "gradnorm: {trials: 0}": "gradnorm.trials: expected a number >= 1, got 0",
    # ranges
    "gradnorm: {alpha: [3, 1]}": f"gradnorm.alpha: expected {LOW_HIGH}, got [3, 1]",
    "gradnorm: {alpha: [-1, 1]}": f"gradnorm.alpha: expected {LOW_HIGH}, got [-1, 1]",
    "gradnorm: {alpha: [.nan, 1]}": "gradnorm.alpha[0]: expected a finite number, got nan",
    "gradnorm: {alpha: 1}": "gradnorm.alpha: expected a list [lowest, highest], got 1",
    "gradnorm: {alpha: [1, 2, 3]}": "gradnorm.alpha: expected a list [lowest, highest], got [1, 2, 3]",
    "gradnorm: {learning_rate: [0, 1]}": (
        "gradnorm.learning_rate: expected [lowest, highest] with 0 < lowest <= highest, got [0, 1]"
    ),
    # mappings
    "gradnorm: [1]": "gradnorm: expected a mapping, or off, got [1]",
    "gradnorm:": "gradnorm: expected a mapping, or off, got nothing",
    "shortlist: 3": "shortlist: expected a mapping, or off, got 3",
    # what is off, and what needs it
    "static: off\nsearch: {halving: 3}\nconfirm: {top_static: 1}": (
        "static: expected a static search, which search.halving and confirm.top_static need, got off"
    ),
    "static: off\nsearch: {full: 3}": "static: expected a static search, which search.full needs, got off",
    "gradnorm: off\nconfirm: {averages: [tail]}": (
        "gradnorm: expected an alpha sweep, which confirm.averages needs, got off"
    ),
    "shortlist: off\nconfirm: {shortlist: all}": (
        "shortlist: expected a shortlist, which confirm.shortlist needs, got off"
    ),
    "static: off\nshortlist: off\nrefine: {trials: 4}": (
        "refine: expected a shortlist or a static search, around whose best weights it searches, got none"
    ),
    "static: off\ngradnorm: off\nshortlist: off": (
        "shortlist: expected a shortlist, a static search or an alpha sweep, got none"
    ),
    # the shortlist
    "shortlist: {alphas: [-1]}": "shortlist.alphas[0]: expected a number >= 0, got -1",
    "shortlist: {alphas: [1, 1]}": f"shortlist.alphas: expected {LIST}, got [1, 1]",
    "shortlist: {methods: famo}": "shortlist.methods: expected a list, each once, got 'famo'",
    "shortlist: {methods: [equal, equal]}": "shortlist.methods: expected a list, each once, got ['equal', 'equal']",
    "shortlist: {methods: [single_task]}": f"shortlist.methods[0]: expected {METHODS}, got 'single_task'",
    "shortlist: {seeds: 0}": "shortlist.seeds: expected a number >= 1, got 0",
    # the refinement
    "refine: {trials: 3}": "refine.trials: expected a number >= 4, got 3",
    "refine: {sampler: grid}": "refine.sampler: expected auto, gp, tpe, random or 'package.module:name', got 'grid'",
    "refine: {sampler: 'optuna.samplers:Missing'}": "refine.sampler: expected 'package.module:name' that can be "
    "imported (AttributeError: module 'optuna.samplers' has no attribute 'Missing'), got 'optuna.samplers:Missing'",
    "refine: {sampler: 'json:dumps'}": "refine.sampler: expected 'package.module:name' of a class or function that "
    "takes seed and returns a sampler (TypeError: dumps() missing 1 required positional argument: 'obj'), got "
    "'json:dumps'",
    "refine: {sampler: 3}": "refine.sampler: expected text, got 3",
    "refine: {span: 1}": "refine.span: expected a number > 1, got 1",
    # the baseline
    "baseline: [1, 2]": f"baseline: expected {BASELINE}, got [1, 2]",
    "baseline: {near: 1, far: 0}": f"baseline: expected {BASELINE}, got {{'near': 1, 'far': 0}}",
    "baseline: {near: 1, far: x}": f"baseline: expected {BASELINE}, got {{'near': 1, 'far': 'x'}}",
    "baseline: today": f"baseline: expected {BASELINE}, got 'today'",
    # static points
    "static: {points: 0}": "static.points: expected a number >= 1, got 0",
    "static: {center: middle}": "static.center: expected first_step, equal, got 'middle'",
    "static: {center: first_step, ratio: 10}": (
        "static: expected no ratio with center: first_step, which finds it too, got "
        "{'center': 'first_step', 'ratio': 10}"
    ),
    "static: {design: uniform, center: equal}": "static: unknown key center, allowed with uniform: design, points",
    "static: {ratio: big}": "static.ratio: expected a number, got 'big'",
    "static: 4": f"static: expected {STATIC}, got 4",
    "static: []": f"static: expected {STATIC}, got []",
    "static: [[]]": f"static[0]: expected {POINT}, got []",
    "static: [[1, 2], [1, x]]": f"static[1]: expected {POINT}, got [1, 'x']",
    "static: [[1, .nan]]": f"static[0]: expected {POINT}, got [1, nan]",
    "static: [[1, -2]]": f"static[0]: expected {POINT}, got [1, -2]",
    "static: [[1, true]]": f"static[0]: expected {POINT}, got [1, True]",
    "static: [{near: 1, far: 0}]": f"static[0]: expected {POINT}, got {{'near': 1, 'far': 0}}",
    "static: ['12']": f"static[0]: expected {POINT}, got '12'",
}


@pytest.mark.parametrize("text", FAULTS, ids=str)
def test_a_fault_is_one_line(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, f"{BASE}{text}\n") == [FAULTS[text]]


NAME = "letters, digits, '_', '-' and '.', the first a letter, a digit or '_'"
PROBLEM = "a name, or a mapping of name and the problem's arguments"
JSON = "text, finite numbers, true, false, null, and lists and mappings of them"
HEADS = {
    "name: a/b\nproblem: toy": f"name: expected {NAME}, got 'a/b'",
    "name: 3\nproblem: toy": "name: expected text, got 3",
    f"name: {'a' * 81}\nproblem: toy": f"name: expected at most 80 characters, got '{'a' * 81}'",
    "name: a": "problem: missing, required here: name, problem",
    "problem: toy": "name: missing, required here: name, problem",
    "name: a\nproblem:": f"problem: expected {PROBLEM}, got nothing",
    "name: a\nproblem: [toy]": f"problem: expected {PROBLEM}, got ['toy']",
    "name: a\nproblem: ''": "problem.name: expected a name, got ''",
    "name: a\nproblem: {preset: small}": "problem.name: missing, required here: name",
    "name: a\nproblem: {name: toy, since: 2024-01-01}": (
        f"problem.since: expected {JSON}, got datetime.date(2024, 1, 1)"
    ),
    "name: a\nproblem: {name: toy, sizes: {1: 2}}": f"problem.sizes: expected {JSON}, got {{1: 2}}",
    "name: a\nproblem: {name: toy, scale: .nan}": f"problem.scale: expected {JSON}, got nan",
    "": "expected a mapping with at least name and problem, got nothing",
    "- name\n- problem": "expected a mapping with at least name and problem, got ['name', 'problem']",
    "name: a: b": "is not YAML: line 1, column 8: mapping values are not allowed here",
}


@pytest.mark.parametrize("text", HEADS, ids=repr)
def test_a_fault_in_the_head_is_one_line(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, text) == [HEADS[text]]


def test_an_argument_that_the_problem_sets_cannot_be_tuned(tmp_path: Path) -> None:
    text = "name: x\nproblem: {name: small, lr: 0.5}\ntune: {lr: [0.1, 1]}\n"
    fault = "tune.lr: expected an argument that problem does not set, got one with the value 0.5 there"
    assert faults(tmp_path, text) == [fault]


def test_several_faults_are_as_many_lines(tmp_path: Path) -> None:
    found = faults(tmp_path, f"{BASE}seeds: 0\nmargin: -1\ngradnorm: {{trials: 0, recipes: [a, b]}}\n")
    assert [line.split(": ")[0] for line in found] == [
        "seeds",
        "gradnorm.recipes[0]",
        "gradnorm.recipes[1]",
        "gradnorm.trials",
        "margin",
    ]


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, f"{BASE}gradnorm: {list(range(1000))}\n")
    assert ", got [0, 1, 2, " in line
    assert len(line) < 200


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing, binary = tmp_path / "none.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match=r"none\.yaml: cannot be read: No such file or directory$"):
        load_study(missing)
    with pytest.raises(StudyError, match=r"binary\.yaml: is not YAML: 'utf-8' codec can't decode"):
        load_study(binary)
    with pytest.raises(StudyError, match=r"cannot be read: Is a directory$"):
        load_study(tmp_path)
