"""Weights in a few runs: a study of the shortlist alone, from Python and for ``gradsweep weights``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.api.problem_check import check
from hpo.api.problem_key import ProblemLike, named
from hpo.api.result import Result
from hpo.api.study import DEFAULT_OUTPUT, Study
from hpo.core.errors import OutputError, ProblemError
from hpo.core.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console


def find_weights(
    problem: ProblemLike,
    *,
    baseline: str | Mapping[str, float] | None = None,
    priorities: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
    refine: int = 0,
    seeds: int = 3,
    name: str | None = None,
    output: str | Path = DEFAULT_OUTPUT,
    console: Console | None = None,
    **places: Any,
) -> Result:
    """Find loss weights in a few runs: the shortlist, then its best arms on fresh seeds. No grid, no sweep.

    The study is written to ``<output>/<name>/study.yaml``; the same call again resumes it.

    Args:
        problem: see `Study`.
        baseline: the weights that you train with today: for each task its weight, or ``"equal"``.
        priorities: how much each task counts in the score; one that is left out counts 1.
        limits: for some tasks, by how many percent it may be behind its single-task network in weights that are
            recommended.
        refine: number of further points to try around the shortlist's best: 0, or 4 or more.
        seeds: number of confirm seeds, on which the best arms, equal weights and the baseline are compared.
        name: of the study; default: ``weights-`` and the problem's name.
        output: see `Study.run`.
        console: see `Study.run`.
        **places: ``address``, ``tracking_uri``, ``storage`` and ``wait`` of `Study.run`.

    Raises:
        InputError: something that was given cannot be used, or `check` finds a fault with the problem.
        KeyboardInterrupt: see `Study.run`.
    """
    study = weights_study(problem, seeds, name, refine, baseline, priorities, limits)
    refuse_faults(study, problem)
    keep_study(study, Path(output))
    return study.run(output=output, console=console, **places)


def weights_study(
    problem: ProblemLike,
    seeds: int,
    name: str | None,
    refine: int = 0,
    baseline: str | Mapping[str, float] | None = None,
    priorities: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
) -> Study:
    """Describe the study that `find_weights` runs."""
    key = named(problem)
    called = str(key["name"] if isinstance(key, Mapping) else key)
    short = re.sub(r"[^A-Za-z0-9_.-]+", "-", called.rpartition(":")[2].partition("@")[0]).strip("-.")
    settings: dict[str, Any] = {"seeds": seeds, "static": "off", "gradnorm": "off"}
    given = {"baseline": baseline, "priorities": priorities, "limits": limits}
    settings |= {key: value for key, value in given.items() if value is not None}
    if refine:
        settings["refine"] = {"trials": refine}
    return Study(name or f"weights-{short}"[:80], problem, **settings)


def refuse_faults(study: Study, problem: ProblemLike) -> None:
    """Raise what is wrong with the study, or what `check` calls a fault, in its words.

    Raises:
        StudyError, ProblemError: one line per fault.
    """
    study.plan()
    faults = check(problem).faults
    if faults:
        raise ProblemError(
            "\n".join(f"{f.subject}: {f.found}" + (f"; allowed: {f.allowed}" if f.allowed else "") for f in faults)
        )


def keep_study(study: Study, output: Path) -> Path:
    """Write the study file beside the results, unless it is there already, and return its path.

    Raises:
        OutputError: it cannot be written, or another one is there, which may have been edited.
    """
    path = output / study.name / "study.yaml"
    try:
        if path.exists():
            if path.read_bytes() == study.text.encode():
                return path
            raise OutputError(
                f"{path}: differs from these options ({'; '.join(study.changes_since(path))}); edit it and run "
                "gradsweep run with it, or choose another name"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(path, study.text)
    except OSError as error:
        raise OutputError(f"{error.filename or path} cannot be written: {error.strerror}") from None
