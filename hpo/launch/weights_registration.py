"""An arm's weights file as a version in MLflow's model registry."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balancers.weights_address import FILE
from hpo.launch.conclude import Outcome
from hpo.launch.weights_export import write_weights
from hpo.tracking.registered_weights import register_weights


def register_arm(outcome: Outcome, name: str, arm: str | None = None) -> str:
    """Register an arm's weights file; the default is the recommended arm.

    Args:
        outcome: the study.
        name: of the registered model.
        arm: the arm's name.

    Returns:
        The address for `balancers.Static.load`: ``models:/<name>/<version>``.

    Raises:
        ExportError: the arm does not exist or a weights file cannot hold it; the name is not valid.
        TrackingError: MLflow does not accept the version.
    """
    content = outcome.weights_content(arm)
    tags = {f"gradsweep.{key}": str(content[key]) for key in ("study", "arm", "method")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        write_weights(file, content)
        return register_weights(outcome.store, file, name, tags, _note(content))


def _note(content: Mapping[str, Any]) -> str:
    """Describe a weights file in Markdown."""
    weights = ", ".join(f"{task} {weight:g}" for task, weight in content["weights"].items())
    score = content["score"]["test"]["mean"]
    measured = "" if score is None else f" Score on the test split: {score:.3g}% against single tasks."
    return f"{weights}: arm `{content['arm']}` of study `{content['study']}`.{measured}"
