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
from hpo.core.errors import OutputError, ProblemError, StudyError
from hpo.core.files import write_whole
from hpo.launch.output_lock import locked
from hpo.study.study_file import read_study_file, read_yaml

if TYPE_CHECKING:
    from rich.console import Console

OPTIONS = ("seeds", "baseline", "priorities", "limits", "refine")  # keys of the study that a call may set
SEEDS = 3


def find_weights(
    problem: ProblemLike,
    *,
    baseline: str | Mapping[str, float] | None = None,
    priorities: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
    refine: int | None = None,
    seeds: int | None = None,
    name: str | None = None,
    output: str | Path = DEFAULT_OUTPUT,
    console: Console | None = None,
    **places: Any,
) -> Result:
    """Find loss weights in a few runs: the shortlist, then its best arms on fresh seeds. No grid, no sweep.

    The study is written to ``<output>/<name>/study.yaml``; the same call again resumes it. A call with other options
    goes on from what has run; options that it does not name stay as they were.

    Args:
        problem: see `Study`.
        baseline: the weights that you train with today: for each task its weight, or ``"equal"``.
        priorities: how much each task counts in the score; one that is left out counts 1. As all options, they
            replace those of an earlier call as a whole.
        limits: for some tasks, by how many percent it may be behind its single-task network in weights that are
            recommended.
        refine: number of further points to try around the shortlist's best: 0 (default), or 4 or more.
        seeds: number of confirm seeds (default: 3), on which the best arms, equal weights and the baseline are
            compared.
        name: of the study; default: ``weights-`` and the problem's name.
        output: see `Study.run`.
        console: see `Study.run`.
        **places: ``address``, ``tracking_uri``, ``storage`` and ``wait`` of `Study.run`.

    Raises:
        InputError: something that was given cannot be used, or `check` finds a fault with the problem.
        KeyboardInterrupt: see `Study.run`.
    """
    options = {"seeds": seeds, "baseline": baseline, "priorities": priorities, "limits": limits, "refine": refine}
    study = weights_study(problem, name, Path(output), options)
    refuse_faults(study, problem)
    keep_study(study, Path(output))
    return study.run(output=output, console=console, **places)


def weights_study(
    problem: ProblemLike,
    name: str | None = None,
    output: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Study:
    """Describe the study that `find_weights` runs.

    Args:
        problem: see `Study`.
        name: see `find_weights`.
        output: where an earlier call may have written its study: options that are ``None`` or not named are its.
        options: some of OPTIONS, as arguments of `find_weights`.
    """
    problem = {"name": problem} if isinstance(problem, str) else problem  # as the command writes it
    key = named(problem)
    called = str(key["name"] if isinstance(key, Mapping) else key)
    short = re.sub(r"[^A-Za-z0-9_.-]+", "-", called.rpartition(":")[2].partition("@")[0]).strip("-.")
    name = name or f"weights-{short}"[:80]
    given = {key: value for key, value in (options or {}).items() if value is not None}
    if "refine" in given:
        given["refine"] = {"trials": given["refine"]} if given["refine"] else None
    study = _study(problem, name, given)
    earlier = _written(problem, study.name, output / study.name / "study.yaml") if output else None
    return _study(problem, name, earlier | given) if earlier else study


def kept_options(study: Study, options: Mapping[str, Any]) -> str:
    """Return the options of a study of `weights_study` that an earlier call has set, as text; empty if none."""
    keys = read_yaml(study.text)
    kept = {key: keys[key] for key in OPTIONS if key in keys and options.get(key) is None}
    return ", ".join(f"{key} {_shown(value)}" for key, value in kept.items() if (key, value) != ("seeds", SEEDS))


def _shown(value: Any) -> str:
    return " ".join(f"{key}={one}" for key, one in value.items()) if isinstance(value, Mapping) else str(value)


def _study(problem: ProblemLike, name: str, options: Mapping[str, Any]) -> Study:
    settings: dict[str, Any] = {"seeds": SEEDS, "static": "off", "gradnorm": "off"}
    return Study(name, problem, **settings | {key: options[key] for key in OPTIONS if options.get(key) is not None})


def _written(problem: ProblemLike, name: str, path: Path) -> dict[str, Any] | None:
    """Return the options in a study file of this problem; ``None`` if it is not as `keep_study` has written it."""
    try:
        text = read_study_file(path).text
        keys = read_yaml(text)
        options = {key: keys[key] for key in OPTIONS if key in keys}
        return options if _study(problem, name, options).text == text else None
    except StudyError:
        return None


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
    """Write the study file beside the results and return its path. One with other options is replaced.

    Raises:
        OutputError: it cannot be written; it has been edited or is of another problem; it is being run.
    """
    path = output / study.name / "study.yaml"
    try:
        if path.exists():
            if path.read_bytes() == study.text.encode():
                return path
            if _written(read_yaml(study.text)["problem"], study.name, path) is None:
                raise OutputError(
                    f"{path}: has been edited, or is of another problem; run it with gradsweep run, or choose "
                    "another name"
                )
        with locked(path.parent):  # another launch may be at work
            return write_whole(path, study.text)
    except OSError as error:
        raise OutputError(f"{error.filename or path} cannot be written: {error.strerror}") from None
