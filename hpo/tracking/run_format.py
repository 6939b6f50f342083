"""The format of a trial as an MLflow run, in both directions."""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mlflow.entities import Metric, Param, Run, RunTag

from hpo import __version__
from hpo.core.text import storable
from hpo.core.trial import AVERAGES, EpochReport, PlannedTrial, TrialConfig, TrialResult

TAG_CHARACTERS = 8000  # MLflow cuts longer tags
ALARM_CHARACTERS = 500  # per alarm
MLFLOW_INFINITY = 1.7976931348623157e308  # MLflow's substitute for infinity
CONFIG, BEST_EPOCHS = "gradsweep.config", "gradsweep.best_epochs"  # tags, or the first of several
LAUNCH = "launch"
TRIAL = "trial"


@dataclass
class Record:
    """A trial read from MLflow."""

    run_id: str
    config: TrialConfig
    result: TrialResult


def source_tags() -> dict[str, str]:
    """Return the user, commit and versions of a launch as tags."""
    tags = {"mlflow.user": _user(), "mlflow.source.name": "gradsweep", "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no repository
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        tags["mlflow.source.git.commit"] = commit.stdout.strip()
    return tags | {"gradsweep.version": __version__, "gradsweep.torch": torch.__version__}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def start_tags(planned: PlannedTrial, launch: str) -> dict[str, str]:
    """Return the tags of a starting trial; `read_record` reads its config from them."""
    config = planned.config
    return {
        "mlflow.parentRunId": launch,
        "mlflow.user": _user(),
        "mlflow.source.name": "gradsweep",
        "gradsweep.kind": TRIAL,
        "gradsweep.identity": config.identity,
        **_parts(CONFIG, asdict(config)),
        "gradsweep.phase": planned.phase,
        "gradsweep.arm": planned.arm,
        "gradsweep.method": config.method,
        "gradsweep.seed": str(config.seed),
        "gradsweep.status": "running",
        "gradsweep.error": "",
        "gradsweep.version": __version__,
        "gradsweep.torch": torch.__version__,
    }


def _parts(name: str, content: object) -> dict[str, str]:
    """Split content as JSON into as many tags as needed."""
    text = json.dumps(content)
    starts = range(0, len(text), TAG_CHARACTERS)
    return {f"{name}{f'.{i}' if i else ''}": text[k : k + TAG_CHARACTERS] for i, k in enumerate(starts)}


def _whole(name: str, tags: Mapping[str, str]) -> Any:
    """Read content from its tags: the inverse of `_parts`; ``None`` if there are none.

    What follows the content is left over from an earlier, longer one: a trial may end twice.
    """
    text, i = tags.get(name, "null"), 1
    while part := tags.get(f"{name}.{i}"):
        text, i = text + part, i + 1
    return json.JSONDecoder().raw_decode(text)[0]


def end_tags(result: TrialResult) -> list[RunTag]:
    """Return the tags of an ended trial; with `result_metrics` they are the input of `read_record`."""
    tags = {"gradsweep.status": str(result.status), "gradsweep.error": storable(result.error)[:4000]}
    # Written even where empty: a trial that failed and ran again must not keep those of its failure.
    tags |= {"gradsweep.alarms": _json_within(result.alarms), "gradsweep.resumed": json.dumps(result.resumed[-500:])}
    tags |= {"gradsweep.tasks": json.dumps(list(result.initial_losses)), "gradsweep.together": str(result.together)}
    if result.best_epochs:
        tags |= _parts(BEST_EPOCHS, [asdict(epoch) for epoch in result.best_epochs])
    return [RunTag(key, value) for key, value in tags.items()]


def _json_within(texts: Sequence[str]) -> str:
    """Return texts as JSON, short enough that no backend cuts it; the last texts may be dropped."""
    kept = [text if len(text) <= ALARM_CHARACTERS else f"{text[: ALARM_CHARACTERS - 3]}..." for text in texts]
    while len(json.dumps(kept)) > TAG_CHARACTERS:
        kept.pop()
    return json.dumps(kept)


def run_params(config: TrialConfig) -> list[Param]:
    """Return the parameters that determine the trial, without names that a later launch may change."""
    flat: dict[str, Any] = {"method": config.method, "seed": config.seed, "epochs": config.epochs}
    for key, value in config.settings.items():
        flat |= {f"{key}/{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    flat |= {"problem": config.problem, "data_hash": config.data_hash, "test": config.test}
    flat |= {f"problem/{key}": value for key, value in config.arguments.items()}
    flat |= {"workers": config.workers} if config.workers > 1 else {}
    return [Param(key, storable(str(value))[:6000]) for key, value in flat.items()]


def epoch_metrics(report: EpochReport, started: int) -> Iterator[Metric]:
    """Yield epoch metrics, timed by run and epoch so that a restarted trial writes the same points."""
    groups = {
        "loss": report.loss,
        "val": report.validation,
        "w": report.weights,
        "G": report.gradient_norms,
        "r": report.rates,
    }
    for group, values in groups.items():
        for task, value in values.items():
            yield Metric(f"{group}/{task}", value, started + report.epoch, report.epoch)


def result_metrics(result: TrialResult, ended: int) -> Iterator[Metric]:
    """Yield final metrics with the time of the end, so that a rerun of a failed trial overrides earlier values."""
    yield Metric("steps", float(result.steps), ended, 0)
    yield Metric("seconds", result.seconds, ended, 0)
    groups = {"final_val": result.validation, "test": result.test, "train": result.train}
    groups |= {"initial_loss": result.initial_losses}
    groups |= {f"mean_w_{name}": result.averages.get(name, {}) for name in AVERAGES}
    for group, values in groups.items():
        for task, value in values.items():
            yield Metric(f"{group}/{task}", value, ended, 0)


def read_record(run: Run) -> Record:
    """Read a trial that has ended: the inverse of `start_tags`, `end_tags` and `result_metrics`."""
    tags, metrics = run.data.tags, run.data.metrics
    groups: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        name, _, task = key.partition("/")
        groups.setdefault(name, {})[task] = _finite_or_not(value)

    result = TrialResult(
        status=tags["gradsweep.status"],
        steps=int(metrics.get("steps", 0)),
        seconds=metrics.get("seconds", 0.0),
        together=int(tags.get("gradsweep.together", "1")),
        validation=groups.get("final_val", {}),
        test=groups.get("test", {}),
        train=groups.get("train", {}),
        best_epochs=_whole(BEST_EPOCHS, tags) or [],
        averages={name: groups.get(f"mean_w_{name}", {}) for name in AVERAGES},
        initial_losses=groups.get("initial_loss", {}),
        alarms=json.loads(tags.get("gradsweep.alarms", "[]")),
        resumed=json.loads(tags.get("gradsweep.resumed", "[]")),
        error=tags.get("gradsweep.error", ""),
    )
    return Record(run.info.run_id, TrialConfig(**_whole(CONFIG, tags)), result)


def _finite_or_not(value: float) -> float:
    """Return a number from its MLflow form: MLflow stores NaN as it is and infinity as the largest number."""
    return math.copysign(math.inf, value) if abs(value) >= MLFLOW_INFINITY else value
