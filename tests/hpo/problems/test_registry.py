"""Finding a problem by name: `hpo.problems.load_problem` and `hpo.problems.available`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo.core.errors import ProblemError
from hpo.problems import available, load_problem
from hpo.problems.census import Census
from hpo.problems.toy import Toy

COMPLETE = '''
from hpo.problems import Problem, ProblemError, Task

class Mine(Problem):
    """My own problem.

    More about it.
    """

    def __init__(self, size: int, depth: float = 0.5, tasks=(Task("a", "AUC"),), epochs=1):
        if size < 1:
            raise ValueError("size must be\\n   at least 1")
        self.size, self.depth, self.tasks, self.epochs = size, depth, tasks, epochs

    def build_model(self, seed): ...
    def shared_layer(self, model): ...
    def loader(self, split, seed): ...
    def losses(self, model, batch): ...
    def evaluate(self, model, split): ...

class Open(Mine):
    def __init__(self, **anything):
        super().__init__(1)
        self.anything = anything

class Bare(Mine):
    def __init__(self):
        pass

class Outer:
    Inner = Open

class Half(Problem):
    def build_model(self, seed): ...
    def losses(self, model, batch): ...
    def loader(self, split, seed): ...

class Other:
    pass
'''


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Writes a module into the current folder, under a name of its own; leaves no trace in this process."""
    path, modules = list(sys.path), set(sys.modules)
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("gradsweep_test_"):
            del sys.modules[name]


@pytest.fixture
def mine(write: Callable[[str, str], str]) -> str:
    return write("gradsweep_test_mine", COMPLETE)


def failure(name: str, arguments: dict[str, Any]) -> str:
    """The message, in one line."""
    with pytest.raises(ProblemError) as caught:
        load_problem(name, arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_built_in_problems_load_by_name() -> None:
    toy = load_problem("toy", {"functions": 3, "epochs": 2})
    assert isinstance(toy, Toy)
    assert (len(toy.tasks), toy.epochs) == (3, 2)
    assert isinstance(load_problem("census", {}), Census)


def test_a_class_in_the_current_folder_loads(mine: str, tmp_path: Path) -> None:
    problem = load_problem(f"{mine}:Mine", {"size": 3})
    assert vars(problem)["size"] == 3
    assert sys.path[-1] == str(tmp_path)
    load_problem(f"{mine}:Mine", {"size": 3})
    assert sys.path.count(str(tmp_path)) == 1


def test_the_current_folder_hides_nothing_installed(write: Callable[[str, str], str]) -> None:
    write("colorsys", "raise AssertionError('the one of the current folder')")
    sys.modules.pop("colorsys", None)
    assert "rgb_to_hsv" in failure("colorsys:rgb_to_hsv", {})


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("[1.0]", "known_weights of problem '{}': expected a number for each of 'a', got [1.0]"),
        ("{'b': 1.0}", "known_weights of problem '{}': expected a number for each of 'a', got {'b': 1.0}"),
        ("{'a': 0.0}", "known_weights of problem '{}', task 'a': expected a finite number > 0, got 0.0"),
    ],
)
def test_known_weights_are_a_positive_number_for_each_task(write: Any, weights: str, words: str) -> None:
    text = f"{COMPLETE}\nclass Known(Open):\n    known_weights = {weights}\n"
    name = write(f"gradsweep_test_known_{abs(hash(weights))}", text) + ":Known"
    assert failure(name, {}) == words.replace("{}", name, 1)


def test_a_nested_class_and_open_arguments_load(mine: str) -> None:
    problem = load_problem(f"{mine}:Outer.Inner", {"anything_at_all": 1})
    assert vars(problem)["anything"] == {"anything_at_all": 1}


def test_an_unknown_name_lists_the_known_ones() -> None:
    assert failure("cenus", {}) == (
        "problem: expected 'census', 'earth', 'multi_fashion', "
        "'nyuv2', 'qm9', 'toy' or 'package.module:Class', got 'cenus' (did you mean 'census'?)"
    )


@pytest.mark.parametrize("name", ["module:", ":Class", ":"])
def test_half_a_name_is_refused(name: str) -> None:
    assert failure(name, {}) == f"problem: expected 'package.module:Class', both parts given, got {name!r}"


@pytest.mark.usefixtures("write")
def test_a_missing_module_says_where_it_was_searched(tmp_path: Path) -> None:
    message = failure("gradsweep_test_absent.part:Class", {})
    assert "names the module 'gradsweep_test_absent.part', but there is no module 'gradsweep_test_absent'" in message
    assert message.endswith(f"the current folder {tmp_path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import a_missing_dependency", "ModuleNotFoundError: No module named 'a_missing_dependency'"),
        ("def (", "SyntaxError: "),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    ],
)
def test_a_module_that_fails_is_quoted(write: Callable[[str, str], str], text: str, message: str) -> None:
    module = write("gradsweep_test_failing", text)
    assert f"importing {module!r} for '{module}:Class' failed: {message}" in failure(f"{module}:Class", {})


def test_a_missing_class_lists_those_there(mine: str) -> None:
    assert failure(f"{mine}:Mime", {}) == (
        f"problem: '{mine}:Mime' names no attribute 'Mime' of {mine}, its problems are: "
        "'Bare', 'Half', 'Mine', 'Open'"
    )


@pytest.mark.parametrize("attribute", ["Other", "Task", "Problem.__doc__"])
def test_what_is_no_problem_is_refused(mine: str, attribute: str) -> None:
    assert failure(f"{mine}:{attribute}", {}).startswith(
        f"problem: '{mine}:{attribute}': expected a subclass of gradsweep.Problem or a function below "
        "@gradsweep.training(...), got "
    )


def test_missing_methods_are_named(mine: str) -> None:
    expected = f"problem: class '{mine}:Half' lacks the methods 'evaluate'"
    assert failure(f"{mine}:Half", {}) == expected


def test_unknown_arguments_are_named_with_the_allowed_ones(mine: str) -> None:
    assert failure(f"{mine}:Mine", {"size": 1, "widht": 2}) == (
        f"problem: arguments of '{mine}:Mine': expected 'size', 'depth', 'tasks', 'epochs', got 'widht'"
    )
    assert failure(f"{mine}:Bare", {"size": 1}).endswith("expected none, got 'size'")


def test_missing_arguments_are_named(mine: str) -> None:
    assert failure(f"{mine}:Mine", {}) == (
        f"problem: '{mine}:Mine' lacks the arguments 'size', which have no default"
    )


def test_refused_arguments_carry_the_reason(mine: str) -> None:
    where = f"problem: '{mine}:Mine' refused its arguments: "
    assert failure(f"{mine}:Mine", {"size": 0}) == f"{where}ValueError: size must be at least 1"
    assert failure(f"{mine}:Mine", {"size": None}).startswith(f"{where}TypeError: ")
    assert failure("toy", {"functions": 0}) == (
        "problem: 'toy' refused its arguments: functions: expected an integer >= 1, got 0"
    )


@pytest.mark.parametrize("tasks", [(), [], None, "income", {"income": 1}])
def test_tasks_must_be_a_filled_list(mine: str, tasks: Any) -> None:
    assert failure(f"{mine}:Mine", {"size": 1, "tasks": tasks}) == (
        f"tasks of problem '{mine}:Mine': expected a list of at least one Task, got {tasks!r}"
    )


def test_tasks_must_be_set(mine: str) -> None:
    assert failure(f"{mine}:Bare", {}).startswith(
        f"tasks of problem '{mine}:Bare': expected a list of at least one Task, got None"
    )


def test_a_task_must_be_a_task(mine: str) -> None:
    assert failure(f"{mine}:Mine", {"size": 1, "tasks": ["income"]}) == (
        f"tasks of problem '{mine}:Mine': expected hpo.problems.Task(name, metric, direction), got 'income'"
    )


def test_task_names_must_differ(mine: str) -> None:
    task = Toy().tasks[0]
    assert failure(f"{mine}:Mine", {"size": 1, "tasks": [task, task]}) == (
        f"tasks of problem '{mine}:Mine': expected each name once, got 'f1' more than once"
    )


@pytest.mark.parametrize("epochs", [0, -1, 1.0, "3", None, True])
def test_epochs_must_be_a_count(mine: str, epochs: Any) -> None:
    assert failure(f"{mine}:Mine", {"size": 1, "epochs": epochs}) == (
        f"epochs of problem '{mine}:Mine': expected an integer >= 1, got {epochs!r}"
    )


def test_built_in_problems_are_listed() -> None:
    listed = available()
    toy = listed["toy"]
    assert toy.summary.startswith("The GradNorm paper's toy")
    assert toy.arguments["functions"] == "2"
    assert [task.name for task in toy.tasks] == ["f1", "f2"]
    assert toy.error is None
    assert listed["census"].arguments["preset"] == "'small'"
    assert [task.name for task in listed["census"].tasks] == ["income", "never_married", "age"]


def install(folder: Path, package: str, points: str) -> None:
    """Put a package's metadata on the path, as pip would."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[gradsweep.problems]\n{points}\n")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def test_other_packages_problems_are_listed_and_loaded(mine: str, tmp_path: Path) -> None:
    install(tmp_path, "other", f"mine = {mine}:Mine\nopen = {mine}:Open")
    listed = available()
    assert listed["mine"].summary == "My own problem."
    assert listed["open"].summary == ""  # not the one of its base class
    assert listed["mine"].arguments["size"] == "required"
    assert listed["mine"].arguments["depth"] == "0.5"
    assert listed["mine"].tasks == ()
    assert [task.name for task in listed["open"].tasks] == ["a"]
    assert vars(load_problem("mine", {"size": 2}))["size"] == 2


def test_a_broken_registration_shows_its_error_beside_the_others(mine: str, tmp_path: Path) -> None:
    install(tmp_path, "broken", f"absent = gradsweep_test_gone:Class\nhalf = {mine}:Half\nbare = {mine}:Bare")
    listed = available()
    assert "there is no module 'gradsweep_test_gone'" in (listed["absent"].error or "")
    assert "lacks the methods" in (listed["half"].error or "")
    assert "got None" in (listed["bare"].error or "")
    assert listed["toy"].error is None


def test_a_name_registered_twice_is_refused(mine: str, tmp_path: Path) -> None:
    install(tmp_path, "first", f"twice = {mine}:Mine")
    install(tmp_path, "second", f"twice = {mine}:Open")
    message = failure("twice", {})
    assert f"registered more than once ({mine}:Mine by first, {mine}:Open by second)" in message
    assert "registered more than once" in (available()["twice"].error or "")


LATER = "training_function", "by_value", "registry"


def test_importing_the_registry_loads_no_problem() -> None:
    code = (
        "import sys, hpo.problems; print([m for m in sys.modules if m.startswith('hpo.problems.') or m == 'pandas'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = [f"hpo.problems.{name}" for name in ("code_digest", "base", "arguments", *LATER)]
    assert found.stdout.strip() == str(modules)


def test_a_problem_written_for_version_0_1_loads_and_says_what_to_import_now() -> None:
    code = "from hpo.problem import Problem, Task; import hpo.problems; assert Problem is hpo.problems.Problem"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "FutureWarning: hpo.problem is now hpo.problems: from hpo.problems import Problem, Task" in found.stderr
