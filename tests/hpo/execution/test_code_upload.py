"""The upload to a cluster's nodes: code and small settings, no data, outputs or installed packages."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpo.execution.code_upload
from hpo.core.errors import ShippingError
from hpo.execution.code_upload import MOST_SETTINGS, stage

ROOT = Path(__file__).resolve().parents[3]
OURS = {"balancers", "gradsweep", "hpo", "search_spaces"}

READS = "from pathlib import Path\nVALUE = Path(__file__).with_name('a.json').read_text()\n"
PROJECT = {
    "shipped_package/__init__.py": "from shipped_package.inner.deep import VALUE\n",
    "shipped_package/inner/__init__.py": "",
    "shipped_package/inner/deep.py": READS,
    "shipped_package/inner/a.json": '{"small": 1}',
    "shipped_package/never_imported.py": "VALUE = 3\n",
    "shipped_package/conf/model.yaml": "width: 3\n",
    "shipped_package/native.cpython-311-x86_64-linux-gnu.so": "not really",
    "shipped_space/part/one.py": "VALUE = 'one'\n",
    "shipped_space/part/two.py": "VALUE = 'two'\n",
    "shipped_lone.py": "import shipped_helper\nVALUE = shipped_helper.VALUE\n",
    "shipped_helper.py": "VALUE = 'helper'\n",
    "shipped_sibling.py": "VALUE = 'imported by nobody yet'\n",
}
LEFT = {
    "shipped_package/big.json": '"' + "x" * MOST_SETTINGS + '"',
    "shipped_package/data.parquet": "PAR1",
    "shipped_package/data/data.npz": "PK",
    "shipped_package/weights.pt": "PK",
    "shipped_package/.hidden/module.py": "VALUE = 1\n",
    "shipped_package/.secret.toml": "key = 1\n",
    "shipped_package/inner/.env": "KEY=1\n",
    "shipped_package/venv/pyvenv.cfg": "home = /usr/bin\n",
    "shipped_package/venv/lib/site.py": "VALUE = 1\n",
    "shipped_package/__pycache__/never_imported.cpython-311.py": "",
    "other_package/__init__.py": "VALUE = 'not imported'\n",
    "shipped_space/part/data.csv": "1,2\n",
    "outputs/report.json": "{}",
    "shipped_lone/report.json": "{}",  # outputs in a folder that is called as the module
    "notes.txt": "beside a lone module, code alone",
    ".shipped_hidden.py": "VALUE = 1\n",
}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def within(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def beside_ours(folder: Path) -> set[str]:
    return {name for name in within(folder) if name.partition("/")[0] not in OURS}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with packages, a lone module, data and outputs."""
    folder = tmp_path / "project"
    fill(folder, PROJECT | LEFT)
    for name in ("shipped_package/.#deep.py", "shipped_package/inner/gone.py", ".#shipped_lone.py"):
        (folder / name).symlink_to("somebody@host.1234")  # an editor's lock, and a link to what is no more
    return folder


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the modules that a test imports from a project after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in [name for name in sys.modules if name.startswith("shipped_")]:
        del sys.modules[name]


def imported(folder: Path, *names: str) -> dict[str, types.ModuleType]:
    """All modules there are when these have been imported from a folder."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    for name in names:
        importlib.import_module(name)
    return dict(sys.modules)


ALL = ("shipped_package", "shipped_space.part.one", "shipped_lone")


@pytest.mark.usefixtures("imports")
class TestProject:
    def test_code_and_small_settings_are_copied_and_nothing_else(self, project, tmp_path):
        modules = imported(project, *ALL)
        staged = stage(tmp_path / "staged", {name: module for name, module in modules.items() if "shipped" in name})
        assert within(staged) == set(PROJECT)
        for name in PROJECT:
            assert (staged / name).read_bytes() == (project / name).read_bytes()

    def test_our_packages_are_sent_and_installed_ones_are_not(self, project, tmp_path):
        modules = imported(project, *OURS, "numpy", "torch", "yaml", "pytest", "json", *ALL)
        staged = stage(tmp_path / "staged", modules)
        tops = {name.partition("/")[0] for name in within(staged)}
        assert tops >= OURS
        assert not tops & {"numpy", "torch", "yaml", "pytest", "_pytest", "json", "json.py", "os.py", "mlflow", "ray"}
        assert set(PROJECT) <= within(staged)
        assert within(staged) >= {
            f"{package}/{path.relative_to(ROOT / package).as_posix()}"
            for package in OURS
            for path in (ROOT / package).rglob("*.py")
        }

    def test_our_packages_are_sent_even_if_they_are_installed(self, project, tmp_path, monkeypatch):
        monkeypatch.setattr(hpo.execution.code_upload, "OURS", ("yaml",))  # which is installed here
        modules = imported(project, "yaml", "shipped_lone")
        staged = stage(tmp_path / "staged", {name: modules[name] for name in ("yaml", "yaml.nodes", "numpy")})
        assert {"yaml/__init__.py", "yaml/nodes.py"} <= within(staged)
        assert {name.partition("/")[0] for name in within(staged)} == {"yaml"}

    def test_a_package_is_sent_whole_whatever_parts_were_imported(self, project, tmp_path):
        modules = imported(project, "shipped_space.part.two")
        staged = stage(tmp_path / "staged", {"shipped_space.part.two": modules["shipped_space.part.two"]})
        assert within(staged) == {"shipped_space/part/one.py", "shipped_space/part/two.py"}

    def test_a_package_is_sent_without_the_files_beside_it(self, project, tmp_path):
        modules = imported(project, "shipped_package")
        staged = stage(tmp_path / "staged", {"shipped_package": modules["shipped_package"]})
        assert within(staged) == {name for name in PROJECT if name.startswith("shipped_package/")}

    def test_a_module_under_another_name_than_its_file_is_not_sent(self, project, tmp_path):
        script = types.ModuleType("__main__")
        fill(project, {"__main__.py": "import shipped_lone\n"})
        script.__file__ = str(project / "__main__.py")  # as `python -m` has it
        elsewhere = types.ModuleType("another.name")
        elsewhere.__file__ = str(project / "shipped_lone.py")
        bare = types.ModuleType("no_file")
        found = {"__main__": script, "another.name": elsewhere, "no_file": bare}
        assert beside_ours(stage(tmp_path / "staged", found)) == set()

    def test_too_much_is_refused_with_one_line(self, project, tmp_path, monkeypatch):
        modules = {"shipped_package": imported(project, "shipped_package")["shipped_package"]}
        size = sum((project / name).stat().st_size for name in PROJECT if name.startswith("shipped_package/"))
        monkeypatch.setattr(hpo.execution.code_upload, "MOST", size)
        stage(tmp_path / "enough", modules)
        monkeypatch.setattr(hpo.execution.code_upload, "MOST", size - 1)
        with pytest.raises(
            ShippingError, match=r"^--address: the code beside \S+shipped_package/\S+ is over [^\n]+$"
        ):
            stage(tmp_path / "too-much", modules)

    def test_of_single_modules_in_one_folder_each_file_counts_once(self, project, tmp_path, monkeypatch):
        modules = imported(project, "shipped_lone", "shipped_helper", "shipped_sibling")
        lone = {name: modules[name] for name in ("shipped_lone", "shipped_helper", "shipped_sibling")}
        monkeypatch.setattr(
            hpo.execution.code_upload, "MOST", sum((project / f"{name}.py").stat().st_size for name in lone)
        )
        assert within(stage(tmp_path / "staged", lone)) == {f"{name}.py" for name in lone}

    def test_of_two_files_of_one_name_the_imported_one_is_taken(self, project, tmp_path):
        fill(tmp_path / "a", {"shipped_a.py": "", "shipped_helper.py": "VALUE = 'of a'\n"})
        fill(tmp_path / "z", {"shipped_z.py": "", "shipped_helper.py": "VALUE = 'of z'\n"})
        imported(project, "shipped_helper")
        modules = imported(tmp_path / "a", "shipped_a") | imported(tmp_path / "z", "shipped_z")
        shipped = {name: modules[name] for name in ("shipped_a", "shipped_helper", "shipped_z")}
        staged = stage(tmp_path / "staged", shipped)
        assert (staged / "shipped_helper.py").read_text() == PROJECT["shipped_helper.py"]

    def test_a_package_wins_over_a_module_of_its_name_as_in_an_import(self, project, tmp_path):
        fill(project, {"shipped_package.py": "VALUE = 'the module'\n"})
        modules = imported(project, "shipped_package")
        staged = stage(tmp_path / "staged", {"shipped_package": modules["shipped_package"]})
        assert "shipped_package/inner/deep.py" in within(staged)

    def test_links_are_followed_to_where_the_code_is(self, project, tmp_path):
        (tmp_path / "link").symlink_to(project)
        modules = imported(tmp_path / "link", "shipped_package")
        staged = stage(tmp_path / "staged", {"shipped_package": modules["shipped_package"]})
        assert "shipped_package/inner/deep.py" in within(staged)


NODE = """
import sys
import hpo.training.worker, hpo.problems, hpo.training.trial, balancers
import shipped_package, shipped_space.part.two, shipped_lone, shipped_sibling

modules = hpo.training.worker, balancers, shipped_package, shipped_space.part.two, shipped_lone, shipped_sibling
for module in modules:
    print(module.__file__)
print(shipped_package.VALUE, shipped_space.part.two.VALUE, shipped_lone.VALUE)
print([name for name in ("ray", "mlflow", "optuna", "pandas") if name in sys.modules])
"""


@pytest.mark.usefixtures("imports")
def test_a_node_imports_what_was_sent(project: Path, tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged", imported(project, *OURS, *ALL))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-P", "-s", "-c", NODE],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(staged), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    *files, values, heavy = done.stdout.splitlines()
    assert len(files) == 6
    assert all(Path(file).is_relative_to(staged) for file in files), files
    assert (values, heavy) == ('{"small": 1} two helper', "[]")
