"""The command line: ``gradsweep``."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from hpo import __version__
from hpo.cli.check import check
from hpo.cli.export import export
from hpo.cli.init import init
from hpo.cli.options import BAD_INPUT, FAILED, STOPPED, console
from hpo.cli.plan import plan
from hpo.cli.problems import problems
from hpo.cli.report import report
from hpo.cli.run import run
from hpo.cli.ui import ui
from hpo.cli.weights import weights
from hpo.cli.weights_diff import weights_diff
from hpo.core.errors import InputError, LaunchLostError
from hpo.core.text import commands_in, printable
from hpo.core.uris import has_secret, redacted
from hpo.launch.console import Console

app = typer.Typer(
    name="gradsweep",
    help="Which loss weights should I train my multitask network with, and was the grid search worth it?\n\n"
    "Describe a study in a YAML file, then: gradsweep plan, run, report, export, ui. "
    "To start, gradsweep init writes a study and a problem.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
COMMANDS = (init, weights, run, plan, report, export, weights_diff, problems, check, ui)  # in the order of --help
for _command in COMMANDS:
    app.command()(_command)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """See `app`."""
    if version:
        console.print(f"gradsweep {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Run the command line. Exit codes: 2, with one line per fault of the input; 130 after Ctrl-C."""
    if wrong := _fault_in(sys.argv):
        _say(f"error: {wrong}")
        sys.exit(BAD_INPUT)
    try:
        app(prog_name="gradsweep")  # also when run as a module
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except (InputError, FileNotFoundError, LaunchLostError) as error:
        for line in str(error).splitlines():
            _say(f"error: {_without_secrets(line)}")
        sys.exit(FAILED if isinstance(error, LaunchLostError) else BAD_INPUT)
    except Exception as error:
        _say(_without_secrets("".join(traceback.format_exception(error)).rstrip()))
        sys.exit(FAILED)


def _fault_in(arguments: Sequence[str]) -> str:
    """Return a fault of the arguments of any command, without their text, which may hold a secret."""
    for number, (before, argument) in enumerate(pairwise(arguments), 1):
        if found := commands_in(argument):
            return f"argument {number}: expected printable characters, got {printable(found)}"
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        elsewhere = option in ("--tracking-uri", "--storage", "--set")  # the first two have a message of their own
        if equals and "://" in value and not elsewhere and has_secret(value):
            return f"argument {number}: expected no password on the command line, where others can see it, got one"
    return ""


def _say(line: str) -> None:
    Console(stderr=True).print(line, soft_wrap=True)


def _without_secrets(text: str) -> str:
    """Remove the secrets of URIs in the environment from a text, for errors that do not mask them."""
    for name in ("MLFLOW_TRACKING_URI", "GRADSWEEP_STORAGE", "RAY_ADDRESS"):
        text = redacted(text, uri) if (uri := os.environ.get(name)) else text
    return text
