"""Options, exit codes and the console that commands share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from hpo.core.errors import OptionError
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
