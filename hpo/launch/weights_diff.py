"""Two weights files side by side: their weights, how far they are apart, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from balancers.weights_address import in_mlflow, shown
from balancers.weights_file import read_content
from hpo.compare import Distance, closed, distance
from hpo.core.errors import OptionError
from hpo.core.text import complaint, quoted, unquoted
from hpo.launch.workspace import Workspace

FIELDS = ("study", "arm", "method", "recipe", "alpha", "created")  # the origin of a file, in the order of the table


@dataclass(frozen=True)
class WeightsDiff:
    """Two weights files side by side.

    Attributes:
        files: their addresses for display.
        weights: for each task the two weights, each file's scaled to sum to T.
        distance: between them.
        origin: pairs of texts by field, for each field that one of the files has; empty where the other lacks it.
        same_data: whether both come from one problem with the same data; ``None`` if a file does not say.
    """

    files: tuple[str, str]
    weights: Mapping[str, tuple[float, float]]
    distance: Distance
    origin: Mapping[str, tuple[str, str]]
    same_data: bool | None


def weights_diff(a: str, b: str, where: Workspace) -> WeightsDiff:
    """Compare two weights files.

    Args:
        a: a path or an address, as `balancers.Static.load` takes it.
        b: the other.
        where: whose MLflow ``runs:/`` and ``models:/`` addresses mean.

    Raises:
        OptionError: a file cannot be read, or they are of different tasks.
        TrackingError: MLflow does not answer.
    """
    one, other = _both(a, b, where)
    tasks = list(one["weights"])
    if set(tasks) != set(other["weights"]):
        raise OptionError(complaint("B", f"the tasks of A, {quoted(tasks)}", quoted(list(other["weights"]))))
    w, v = (closed([content["weights"][task] for task in tasks]) for content in (one, other))
    return WeightsDiff(
        (shown(a), shown(b)),
        {task: (float(x), float(y)) for task, x, y in zip(tasks, w, v, strict=True)},
        distance(w, v),
        dict(_origin(one, other)),
        _same_data(one.get("problem"), other.get("problem")),
    )


def _both(a: str, b: str, where: Workspace) -> tuple[dict[str, Any], dict[str, Any]]:
    if not (in_mlflow(a) or in_mlflow(b)):
        return _read("A", a), _read("B", b)
    from hpo.tracking.registered_weights import mlflow_at  # takes seconds

    with mlflow_at(where.uri):
        return _read("A", a), _read("B", b)


def _read(field: str, address: str) -> dict[str, Any]:
    try:
        return read_content(address)
    except FileNotFoundError as error:
        raise OptionError(f"{field}: {f'{address}: no such file' if error.filename else error}") from None
    except (ImportError, ValueError) as error:
        raise OptionError(f"{field}: {error}") from None


def _origin(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the fields that say where the weights come from, and their scores. None of them has been checked."""
    for field in FIELDS:
        pair = (_text(one.get(field)), _text(other.get(field)))
        if any(pair):
            yield field, pair
    for split in ("validation", "test"):
        pair = (_score(one.get("score"), split), _score(other.get("score"), split))
        if any(pair):
            yield f"score on {split}", pair


def _text(value: object) -> str:
    return unquoted(value, 40) if isinstance(value, str | int | float) else ""


def _score(score: object, split: str) -> str:
    """Return a score with its interval, such as ``-3.20% [-4.10, -2.30]``; empty if the file has none."""
    found = score.get(split) if isinstance(score, dict) else None
    mean, low, high = (found.get(key) if isinstance(found, dict) else None for key in ("mean", "low", "high"))
    if not isinstance(mean, int | float):
        return ""
    known = isinstance(low, int | float) and isinstance(high, int | float)
    return f"{mean:+.2f}% [{low:+.2f}, {high:+.2f}]" if known else f"{mean:+.2f}%"


def _same_data(one: object, other: object) -> bool | None:
    return one == other if isinstance(one, dict) and isinstance(other, dict) else None
