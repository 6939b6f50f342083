"""Options, exit codes and the console that commands share."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hpo.core.errors import OptionError
from hpo.core.text import complaint
from hpo.core.uris import has_secret
from hpo.launch.console import Console

FAILED = 1
BAD_INPUT = 2
STOPPED = 130
DEFAULT_OUTPUT = Path("gradsweep-output")
console = Console()


def no_password(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Refuse a password on the command line, which ``ps`` and Ray's list of jobs show to everybody."""
    source = context.get_parameter_source(str(parameter.name))
    if value and source and source.name == "COMMANDLINE" and has_secret(value):
        raise OptionError(
            f"{parameter.opts[0]}: expected no password on the command line, where others can see it, got one; "
            f"set {parameter.envvar} in the environment"
        )
    return value


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file; studies/ has examples.")]
ProblemName = Annotated[
    str,
    typer.Argument(
        metavar="NAME|package.module:Class",
        help="Name of a problem that `gradsweep problems` lists, a class or a function.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="An argument of the problem, as a study file has it under `problem`; may be given several times.",
    ),
]
ImageFormat = Literal["svg", "png", "pdf"]
Output = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="Where MLflow's database, the report and the weights file go.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        envvar="MLFLOW_TRACKING_URI",
        callback=no_password,
        help="MLflow backend, such as http://host:5000; default: SQLite in the output folder.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="ADDR", envvar="RAY_ADDRESS", help="A running Ray cluster; default: this machine."
    ),
]
Wait = Annotated[
    float, typer.Option("--wait", metavar="MINUTES", min=0, help="Wait so long for a node that can hold a trial.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="DIR|URI",
        envvar="GRADSWEEP_STORAGE",
        callback=no_password,
        help="Where checkpoints go: a folder that all nodes share, or s3://bucket/prefix; default: in the output "
        "folder.",
    ),
]


Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="TASK=WEIGHT,...|equal",
        help="The weights that you train with today, to compare with.",
    ),
]


Priorities = Annotated[
    list[str] | None,
    typer.Option(
        "--priority",
        metavar="TASK=NUMBER",
        help="How much a task counts in the score; others count 1, an auxiliary one 0. May be given several times; "
        "takes the place of the study's `priorities`.",
    ),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="TASK=PERCENT",
        help="Recommend weights only if the task is at most so far behind its single-task network. May be given "
        "several times; takes the place of the study's `limits`.",
    ),
]


def study_keys(
    baseline: str | None, priorities: Sequence[str] | None, limits: Sequence[str] | None
) -> dict[str, Any]:
    """Read ``--baseline``, ``--priority`` and ``--limit`` as keys of a study, which checks the values."""
    given = {"priorities": ("--priority", priorities), "limits": ("--limit", limits)}
    scoring = {key: _by_task(option, texts) for key, (option, texts) in given.items() if texts}
    return _baseline_of(baseline) | scoring


def _by_task(option: str, texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        task, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            task = ""
        if not task or task in found:
            raise OptionError(complaint(option, "TASK=NUMBER, each task once", repr(text)))
        found[task] = value
    return found


def _baseline_of(text: str | None) -> dict[str, Any]:
    """Read ``--baseline`` as a key of a study: ``equal``, or ``depth=1,normals=10``; the study checks the values."""
    if text is None:
        return {}
    if text == "equal":
        return {"baseline": text}
    pairs = [pair.partition("=") for pair in text.split(",")]
    try:
        found = {task.strip(): float(value) for task, _, value in pairs}
    except ValueError:
        found = {}
    if len(found) != len(pairs):
        raise OptionError(complaint("--baseline", "equal, or TASK=WEIGHT,TASK=WEIGHT,...", repr(text)))
    return {"baseline": found}


def settings_of(settings: Sequence[str]) -> dict[str, Any]:
    """Read the values of ``--set``, checked as those of a study file."""
    if not settings:
        return {}
    import yaml
    from pydantic import ValidationError

    from hpo.study.spec import ProblemSpec
    from hpo.study.study_file import read_yaml

    arguments: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not key or not equals or key == "name":
            raise OptionError(f"--set: expected KEY=VALUE, the key an argument of the problem, got {text!r}")
        if key in arguments:
            raise OptionError(f"--set: expected each key once, got {key!r} twice")
        try:
            arguments[key] = read_yaml(value)
            ProblemSpec.model_validate({"name": "any", key: arguments[key]})
        except ValidationError as error:
            told = error.errors()[0].get("ctx", {}).get("error", "text")
            raise OptionError(complaint(f"--set: {key!r}", str(told), repr(value))) from None
        except (yaml.YAMLError, ValueError, RecursionError):
            raise OptionError(complaint(f"--set: {key!r}", "a value as YAML has it", repr(value))) from None
    return arguments


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM (a preempted machine) and SIGHUP (a closed terminal) end a command as cleanly as Ctrl-C does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:  # else nohup, or a caller's own
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
