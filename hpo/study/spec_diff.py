"""Changes in a study file since an earlier launch, and the trials that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpo.core.errors import StudyError
from hpo.study.spec import Study
from hpo.study.study_file import load_study

LISTED = 8  # changes named one by one


def changes(before: Path, now: Study) -> list[str]:
    """Return the fields that differ, each as ``field: old -> new``; empty if none does.

    Args:
        before: the earlier study file.
        now: the study.
    """
    try:
        earlier = load_study(before)
    except (StudyError, OSError):
        return ["the file of the launch before cannot be read by this version"]
    old, new = (dict(_flat(study.model_dump(warnings=False))) for study in (earlier, now))
    differing = [key for key in dict.fromkeys([*new, *old]) if old.get(key) != new.get(key)]
    return [f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}" for key in differing]


def describe_changed_data(before: str, now: str, count: int, what: str = "data") -> str:
    """Describe a change of the data, or of a function's code, and its effect on the trials so far."""
    return (
        f"The problem's {what} have changed since the last launch: hash {before} -> {now}. The {count} trials of the "
        f"earlier {what} are not part of this study any more but stay in MLflow, and every trial runs again."
    )


def describe_changes(differing: list[str], kept: int, missing: int, others: int) -> str:
    """Describe in a few sentences what has changed and what is kept.

    Args:
        differing: of `changes`.
        kept: trials of the study that have a result.
        missing: trials still to run, at most.
        others: trials in MLflow that are not planned now; later results may plan them again.
    """
    named = "; ".join(differing[:LISTED]) + (
        f" and {len(differing) - LISTED} more" if len(differing) > LISTED else ""
    )
    are = "1 earlier trial is" if others == 1 else f"{others} earlier trials are"
    rest = f" {are} not among these, but kept in MLflow." if others else ""
    return (
        f"The study file has changed since the last launch: {named}. {kept} trials are kept, {missing} to run.{rest}"
    )


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = text if value not in (None, ()) else "none"
    return text if len(text) <= 60 else f"{text[:57]}..."
