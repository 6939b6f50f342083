"""Guards of the house rules that no other tool watches: the folder mlflow/, the wheel, the pins."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml

import hpo
from gradsweep import __main__ as face
from hpo.cli.init import FILES
from hpo.execution import code_upload

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"balancers", "search_spaces", "hpo", "gradsweep"}

RAY_WORKER = """
import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)


@ray.remote
def where():
    import mlflow

    return mlflow.__file__


print(ray.get(where.remote()))
"""


# A docstring begins with an imperative verb or a noun phrase (PEP 257), not with one of these.
QUESTIONS = re.compile(r"(What|Whether|How|That|If|Where|Who|Whoever|Why|When|Which)\b")


def run_in_root(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def normalized(name: str) -> str:
    """Return the name of a package in the one spelling that PEP 503 compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_folder_mlflow_holds_no_python():
    """With an `__init__.py` there, `import mlflow` from the root would find the folder."""
    assert [str(file) for file in (ROOT / "mlflow").rglob("*.py*")] == []


def test_import_mlflow_finds_the_library_from_the_root():
    found = run_in_root(sys.executable, "-c", "import mlflow; print(mlflow.__file__)")
    assert Path(found) == Path(distribution("mlflow").locate_file("mlflow/__init__.py"))


@pytest.mark.slow
def test_import_mlflow_finds_the_library_in_a_ray_worker():
    found = run_in_root(sys.executable, "-c", RAY_WORKER).splitlines()[-1]
    assert Path(found) == Path(distribution("mlflow").locate_file("mlflow/__init__.py"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the sdist, and the wheel from it, with the build tools that are installed."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"  # a build leaves files beside its sources
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "dist", "site", "*-output")
    )
    run_in_root(sys.executable, "-m", "build", "--quiet", "--outdir", str(folder), str(source))
    return folder


@pytest.mark.slow
def test_the_wheel_holds_our_packages_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    metadata = f"gradsweep-{hpo.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == PACKAGES | {metadata}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {f"hpo/cli/templates/{template}" for template in FILES.values()} <= set(names)
    assert f"{metadata}/licenses/LICENSE" in names


@pytest.mark.slow
def test_the_sdist_holds_what_its_wheel_is_built_from(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"} <= names
    assert "tests" not in {name.partition("/")[0] for name in names}


def test_every_dependency_is_pinned():
    project = pyproject()["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    needed = {normalized(re.match(r"[A-Za-z0-9._-]+", line).group()) for line in declared}
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)] == []
    assert needed - {normalized(pin.split("==")[0]) for pin in pins} == {"gradsweep"}  # an extra of its own


def test_test_files_share_code_by_helpers_alone():
    imports = re.compile(r"^(?:from|import) tests\.(?!helpers\b)", re.MULTILINE)
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 100
    assert [str(file.relative_to(ROOT)) for file in files if imports.search(file.read_text())] == []


def test_tests_mirror_the_packages():
    packages = {path.name for path in (ROOT / "hpo").iterdir() if (path / "__init__.py").exists()}
    mirrored = {path.name for path in (ROOT / "tests" / "hpo").iterdir() if any(path.glob("test_*.py"))}
    assert mirrored == packages


def test_lists_of_our_packages_agree():
    """The packages sent to nodes, those that a user's package must not hide, and those in the wheel are the same."""
    assert set(code_upload.OURS) == PACKAGES
    assert {*face.PACKAGES, "gradsweep"} == PACKAGES


def docstrings(file: Path) -> Iterator[str]:
    """Yield ``line: docstring`` of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{getattr(node, 'lineno', 1)}: {ast.get_docstring(node) or ''}"


def test_docstrings_begin_with_a_verb_or_a_noun():
    folders = (*PACKAGES, "tests", "benchmarks", "examples", "docs")
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 300
    found = [
        f"{name}:{text.splitlines()[0]}"
        for name, file in ((file.relative_to(ROOT).as_posix(), file) for file in files)
        for text in docstrings(file)
        if QUESTIONS.match(text.partition(": ")[2])
    ]
    assert found == []


def test_the_version_is_defined_once():
    """hpo/__init__.py says it; the built package, the citation and the changelog follow."""
    assert "version" in pyproject()["project"]["dynamic"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == hpo.__version__
    assert f"## [{hpo.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_hosted_ci_runs_our_targets_on_every_python_we_name():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    commands = {step.get("run") for job in jobs.values() for step in job["steps"]}
    assert {"make test", "make test-lowest"} <= commands
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"test", "test-lowest", "docs"} <= set(targets)
