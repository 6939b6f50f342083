"""``gradsweep init``"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from hpo.cli.options import console
from hpo.core.errors import OutputError

FILES = {"study.yaml": "study.yaml", "my_problem.py": "my_problem.py.txt"}  # what is written, and its template


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to write; it is created if it does not exist.")
    ] = Path(),
) -> None:
    """Write a commented study file and a problem to start from.

    Both work as they are: check the problem, run the study, then replace its parts by your own. Existing files are
    never overwritten.
    """
    if found := [folder / name for name in FILES if (folder / name).exists()]:
        raise OutputError(f"{', '.join(map(str, found))}: already exists; choose another folder, or move it away")
    templates = files("hpo.cli") / "templates"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, template in FILES.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write((templates / template).read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to: {error.strerror}") from None
    console.print(f"Wrote {', '.join(str(folder / name) for name in FILES)}. Next:", soft_wrap=True)
    if folder.resolve() != Path.cwd():
        console.print(f"  cd {folder}", soft_wrap=True)
    console.print("  gradsweep check my_problem:MyProblem")
    console.print("  gradsweep run study.yaml")
