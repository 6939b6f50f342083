"""The code that a cluster's nodes need: gradsweep and the user's modules, no data, outputs or installed packages."""

from __future__ import annotations

import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from hpo.core.errors import ShippingError

OURS = ("balancers", "gradsweep", "hpo", "search_spaces")
CODE = {".py", ".pyi", ".so", ".pyd"}
SETTINGS = {".json", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".txt"}  # files that a module may read
MOST_SETTINGS = 2**20  # bytes per such file; a larger one is data
MOST = 100 * 2**20  # bytes in total


def stage(folder: Path, modules: Mapping[str, ModuleType] | None = None) -> Path:
    """Copy to ``folder`` the code that workers need: whole packages, and for a single module everything beside it.

    It copies the top-level packages and modules that have been imported and are not installed (they are outside
    Python's own folders, or are gradsweep), so import the problem first.

    Args:
        folder: empty.
        modules: by name what has been imported; default: ``sys.modules``.

    Raises:
        ShippingError: more than 100 MiB.
    """
    size = 0
    for file, target in _files(dict(modules or sys.modules)):
        if (folder / target).exists():
            continue  # imported modules come first; single modules of one folder share the files beside them
        size += file.stat().st_size
        if size > MOST:
            raise ShippingError(
                f"--address: the code beside {file} is over {MOST >> 20} MiB, too much to send to the nodes; "
                "keep data and outputs out of the problem's package, or install it on every node"
            )
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / target)
    return folder


def _files(modules: Mapping[str, ModuleType]) -> Iterator[tuple[Path, Path]]:
    """Yield each file to send with its path in the upload."""
    lone = []
    for top, root in sorted(_roots(modules).items()):
        package, module = root / top, root / f"{top}.py"
        if module.is_file() and not (package / "__init__.py").is_file():  # a folder of its name may hold outputs
            yield module, Path(module.name)
            lone.append(root)
        else:
            for file in _walk(package):
                yield file, file.relative_to(root)
    for root in lone:
        for file in sorted(root.glob("[!.]*.py")):
            if file.is_file():
                yield file, Path(file.name)


def _roots(modules: Mapping[str, ModuleType]) -> dict[str, Path]:
    """Return the folder of each top-level name."""
    installed = [Path(path).resolve() for path in _installed()]
    roots: dict[str, Path] = {}
    for name, module in modules.items():
        root = _root(name, getattr(module, "__file__", None))
        top = name.partition(".")[0]
        if root is not None and (top in OURS or not any(root.is_relative_to(path) for path in installed)):
            roots.setdefault(top, root)
    return roots


def _root(name: str, file: str | None) -> Path | None:
    """Return the folder from which a module was imported; ``None`` if its file is not where its name implies."""
    if not file or name == "__main__":
        return None
    path, parts = Path(file).resolve(), name.split(".")
    if path.name.startswith("__init__."):
        parts.append("__init__")
    root = path.parents[len(parts) - 1] if len(parts) <= len(path.parents) else None
    return root if root is not None and path.with_suffix("") == root.joinpath(*parts) else None


def _installed() -> set[str]:
    paths = sysconfig.get_paths()
    found = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return found | set(site.getsitepackages()) | {site.getusersitepackages()}


def _walk(package: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(package):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__pycache__")) and not (here / name / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            file = here / name
            if name.startswith(".") or not file.is_file():  # an editor's lock file is a dangling link
                continue
            small = file.suffix in SETTINGS and file.stat().st_size <= MOST_SETTINGS
            if file.suffix in CODE or small:
                yield file
