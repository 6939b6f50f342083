"""Guards of the house rules that no other tool watches: the folder mlflow/, the wheel, the pins."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from gradsweep import __main__ as face
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


@pytest.mark.slow
def test_the_wheel_holds_our_packages_and_nothing_else(tmp_path):
    run_in_root(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), ".")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    metadata = f"gradsweep-{pyproject()['project']['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == PACKAGES | {metadata}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert f"{metadata}/licenses/LICENSE" in names


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
    """What nodes are sent, what must not be hidden by a user's package, and what the wheel holds."""
    assert set(code_upload.OURS) == PACKAGES
    assert {*face.PACKAGES, "gradsweep"} == PACKAGES
