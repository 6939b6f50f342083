"""The command line: ``gradsweep``."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import tempfile
import traceback
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hpo import __version__
from hpo.core.console import Console, commands_in, printable
from hpo.core.uris import has_secret, public, redacted, shown

if TYPE_CHECKING:
    from hpo.compare import Comparison
    from hpo.study.plan import Plan  # pandas and torch take seconds to import

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130
DEFAULT_OUTPUT = Path("gradsweep-output")

app = typer.Typer(
    name="gradsweep",
    help="Which loss weights should I train my multitask network with, and was the grid search worth it?\n\n"
    "Describe a study in a YAML file, then: gradsweep plan, run, report, export, ui.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
console = Console()


def _no_password(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """``ps`` and Ray's list of jobs show command lines to everybody."""
    from hpo.core.files import OutputError

    source = context.get_parameter_source(str(parameter.name))
    if value and source and source.name == "COMMANDLINE" and has_secret(value):
        raise OutputError(
            f"{parameter.opts[0]}: found a password on the command line, which others can see; "
            f"allowed: set {parameter.envvar} in the environment"
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
        callback=_no_password,
        help="MLflow backend, such as http://host:5000; default: SQLite in the output folder.",
    ),
]


@app.command()
def run(
    study: StudyFile,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", envvar="RAY_ADDRESS", help="A running Ray cluster; default: this machine."),
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, help="Wait so long for a node that can hold a trial.")
    ] = 0.0,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URI",
            envvar="GRADSWEEP_STORAGE",
            callback=_no_password,
            help="Where checkpoints go: a folder that all nodes share, or s3://bucket/prefix; default: in the output "
            "folder.",
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Run a study, or what is left of it: the same command again resumes, whatever was killed.

    No finished trial runs twice, an interrupted one goes on from its last checkpoint. Ctrl-C stops cleanly. Ends with
    the verdict and with where report, weights file and MLflow UI are; exit code 1 if a trial failed or diverged.
    """
    from hpo.launch.output_lock import refuse_second_launch

    refuse_second_launch(study, output)
    finished = None
    with suppress(KeyboardInterrupt), _interruptible():
        console.print(f"gradsweep {__version__}: {study}", highlight=False, markup=False, soft_wrap=True)
        from hpo.launch.run import run_study
        from hpo.launch.workspace import place

        where = place(output, tracking_uri, storage)
        finished = run_study(study, where, address, console, wait)
    if finished is None or not finished.complete:
        console.print("\nStopped. What has finished is kept; the same command goes on from here.", style="bold")
        raise typer.Exit(STOPPED)
    if not finished.ran:
        console.print("Every trial of this study has finished; nothing was run.")
    _verdict(finished, output, tracking_uri)


def _epochs(plan: Plan) -> str:
    """The epochs of a whole study, in words; at most, where points are stopped early."""
    trials = [*plan.references(), *plan.static(), *plan.full()]
    search = sum(planned.config.epochs for planned in trials) + plan.size()["sweep"][1] * plan.search_epochs
    total = search + plan.size()["confirm"][1] * plan.epochs
    most = "at most " if plan.study.search.halving else ""
    each = f"{plan.epochs} a trial"
    if plan.search_epochs < plan.epochs:
        each = f"{plan.search_epochs} a trial of the search, {plan.epochs} of the others"
    return f"{most}{total} epochs, {each}"


@app.command()
def plan(study: StudyFile) -> None:
    """Show what a study would run: arms, trials, epochs, resources. Runs nothing."""
    from hpo.launch.restore import open_plan

    found = open_plan(study, prepare=False)
    spec, size = found.study, found.size()
    table = Table(title=f"{spec.name}: {spec.problem.name}, {len(found.tasks)} tasks", title_justify="left")
    for column in ("phase", "arms", "trials", "what"):
        table.add_column(column, justify="right" if column in ("arms", "trials") else "left")
    what = {
        "references": f"{', '.join(spec.references)}; seed {spec.seed}",
        "static": f"{'explicit points' if spec.static.explicit else spec.static.design}; seed {spec.seed}"
        + (f"; of {spec.search.halving} one goes on, rung by rung" if spec.search.halving else "")
        + (f"; {len(found.full())} of them to the end too" if found.full() else ""),
        "sweep": f"alpha {spec.gradnorm.alpha[0]:g} to {spec.gradnorm.alpha[1]:g}, {spec.gradnorm.trials} trials for "
        f"each of {', '.join(spec.gradnorm.recipes)}; seed {spec.seed}",
        "confirm": f"at most {size['confirm'][0]} arms on seeds {spec.confirm_seeds.start} to "
        f"{spec.confirm_seeds.stop - 1}; test split",
    }
    for phase, (arms, trials) in size.items():
        table.add_row(phase, str(arms), str(trials), what[phase])
    total = sum(trials for _, trials in size.values())
    table.add_section()
    table.add_row("all", "", str(total), _epochs(found))
    console.print(table)
    points = Table(title="static points", title_justify="left")
    for column in ("arm", *found.tasks):
        points.add_column(column, justify="left" if column == "arm" else "right")
    for planned in found.static():
        weights = planned.config.settings.get("weights", dict.fromkeys(found.tasks, 1.0))
        points.add_row(planned.arm, *(f"{weights[task]:.4g}" for task in found.tasks))
    console.print(points)
    needs = f"{spec.resources.cpu:g} CPU" + (f", {spec.resources.gpu:g} GPU" if spec.resources.gpu else "")
    console.print(f"Each trial takes {needs}. Equivalence margin: {spec.margin:g} % of score.")


@app.command()
def report(
    study: StudyFile,
    folder: Annotated[
        Path | None, typer.Option("-o", metavar="DIR", help="Where to; default: the study's output folder.")
    ] = None,
    figures: Annotated[
        ImageFormat | None,
        typer.Option(help="Write the figures as image files too, into report/figures; takes Chrome or Chromium."),
    ] = None,
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Write report and tables again, from what MLflow holds, finished or not."""
    from hpo.launch.conclude import conclude
    from hpo.launch.restore import read_study
    from hpo.launch.workspace import place

    where = place(output, tracking_uri)
    found, schedule, store = read_study(study, where, console)
    target = folder or where.folder(found.study.name)
    finished = conclude(found, schedule, store, where, target, None, figures)
    _verdict(finished, output, tracking_uri)


@app.command()
def export(
    study: StudyFile,
    arm: Annotated[
        str | None, typer.Option(metavar="ARM", help="An arm with fixed weights; default: the recommended one.")
    ] = None,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The weights file to write.")] = Path(
        "weights.json"
    ),
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Write the weights file for production training: `balancers.Static.load("weights.json")`."""
    from hpo.compare import compare
    from hpo.core.files import OutputError
    from hpo.launch.conclude import runs_of
    from hpo.launch.restore import read_study
    from hpo.launch.weights_export import weights_content, write_weights
    from hpo.launch.workspace import place

    found, schedule, store = read_study(study, place(output, tracking_uri), console)
    comparison = compare(schedule.table(), found.directions, found.study.margin)
    content = weights_content(found, comparison, arm, runs_of(schedule, store))
    try:
        write_weights(file, content)
    except OSError as error:
        raise OutputError(f"-o: {file} cannot be written: {error.strerror}") from None
    _exported(file, content, None if arm else comparison)


def _exported(file: Path, content: Mapping[str, Any], comparison: Comparison | None) -> None:
    """Describe an exported weights file; with a comparison also the better arm that cannot be exported."""
    weights = ", ".join(f"{task} {weight:g}" for task, weight in content["weights"].items())
    console.print(f"{file}: {content['arm']}: {weights}", highlight=False, soft_wrap=True)
    if comparison is not None:
        _winner(comparison)


def _winner(comparison: Comparison) -> None:
    """Who won, if no weights file can hold it, and in a line of its own, to copy, the code that trains with it."""
    from hpo.report import best

    if winner := best(comparison):
        console.print(winner.words, style="bold", markup=False, highlight=False)
        if winner.code:
            console.print(f"  {winner.code}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def problems() -> None:
    """List the problems a study can name, with their tasks and arguments."""
    from hpo.problems import available

    table = Table(title="problem: NAME, or {name: NAME, argument: value, ...}", title_justify="left")
    for column in ("name", "what", "tasks", "arguments"):
        table.add_column(column, overflow="fold")
    for info in available().values():
        tasks = ", ".join(f"{task.name} ({task.metric})" for task in info.tasks)
        arguments = ", ".join(f"{key}={value}" for key, value in info.arguments.items())
        table.add_row(info.name, info.error or info.summary, tasks, arguments)
    console.print(table)
    console.print("Your own: package.module:Class, a subclass of hpo.problems.Problem; examples/own_problem.py")


@app.command()
def check(
    problem: Annotated[
        str,
        typer.Argument(
            metavar="NAME|package.module:Class", help="Name of a problem that `gradsweep problems` lists, or a class."
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An argument of the problem, as a study file has it under `problem`; may be given several times.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="Where to train: cpu, cuda, cuda:1, ...; default: a GPU if torch sees one."
        ),
    ] = None,
) -> None:
    """Run one step of everything on a problem and say what is missing, before a study trains it many times.

    Exit code 2 if there is a fault, which a study would fail by; a warning may be meant. Nothing is written but what
    the problem itself prepares.
    """
    arguments = _arguments(settings or [])
    with _spinner() as tell:
        import torch

        from hpo.check.problem_check import check_problem

        torch.set_num_threads(1)  # as a trial has by default
        findings = check_problem(problem, arguments, _device(device), tell)
    styles = {"ok": "green", "warning": "yellow", "fault": "bold red"}
    table = Table(title=f"{problem}: one step of everything", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "what", "found, and what is allowed"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        found = f"{finding.found}\nallowed: {finding.allowed}" if finding.allowed else finding.found
        table.add_row(Text(finding.level, styles[finding.level]), finding.subject, found)
    console.print(table)
    count = {level: sum(finding.level == level for finding in findings) for level in styles}
    console.print(f"Faults: {count['fault']}, warnings: {count['warning']}.", style="bold", highlight=False)
    if count["fault"]:
        raise typer.Exit(BAD_INPUT)


def _arguments(settings: Sequence[str]) -> dict[str, Any]:
    """What ``--set`` says, read and checked as a study file is."""
    if not settings:
        return {}
    import yaml
    from pydantic import ValidationError

    from hpo.core.files import OutputError
    from hpo.study.spec import ProblemSpec, read_yaml

    arguments: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not key or not equals or key == "name":
            raise OutputError(f"--set: found {text!r}, allowed: KEY=VALUE, the key an argument of the problem")
        if key in arguments:
            raise OutputError(f"--set: found the key {key!r} twice, allowed: each once")
        try:
            arguments[key] = read_yaml(value)
            ProblemSpec.model_validate({"name": "any", key: arguments[key]})
        except ValidationError as error:
            told = error.errors()[0].get("ctx", {}).get("error", "allowed: text")
            raise OutputError(f"--set: {key!r}: found {value!r}, {told}") from None
        except (yaml.YAMLError, ValueError, RecursionError):
            raise OutputError(f"--set: {key!r}: found {value!r}, allowed: a value as YAML has it") from None
    return arguments


def _device(name: str | None) -> Any:
    import torch

    from hpo.core.files import OutputError

    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
    except RuntimeError:
        raise OutputError(f"--device: found {chosen!r}, allowed: cpu, cuda, cuda:1, ...") from None
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, ImportError, RuntimeError) as error:  # a build of torch without CUDA asserts
        line = str(error).partition("\n")[0]
        raise OutputError(f"--device: {chosen} cannot be used: {line}") from None
    return device


@contextmanager
def _spinner() -> Iterator[Callable[[str], object]]:
    """Something moves while a check takes its time; what it yields is told which."""
    if not console.is_terminal:
        yield str
        return
    with console.status("importing torch") as status:
        yield lambda subject: status.update(f"looking at: {subject}")


@app.command()
def ui(
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open MLflow's UI on the backend that the studies of this output folder use; Ctrl-C ends it."""
    from hpo.core.files import OutputError
    from hpo.tracking import backend

    if tracking_uri:
        backend.check_answers(tracking_uri)
    if tracking_uri and backend.is_server(tracking_uri):
        console.print(f"The UI is at {shown(tracking_uri)}", highlight=False, soft_wrap=True)
        if browser:
            webbrowser.open(tracking_uri if shown(tracking_uri) == tracking_uri else public(tracking_uri))
        return
    if tracking_uri is None:
        _check_holds_studies(output)
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OutputError(f"--port: {host}:{port} cannot be listened on: {error.strerror}") from None
    address = f"http://{host}:{port}"
    with suppress(KeyboardInterrupt), _interruptible(), tempfile.TemporaryFile() as log:
        uri = tracking_uri or backend.embedded_uri(output)
        server = backend.serve(uri, host, port, log)
        try:
            _show(server, f"{address}/#/experiments?{backend.UI_VIEW}", address, browser)
            if server.wait():
                log.seek(0)
                last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise OutputError(f"MLflow's server ended: {redacted(last, uri)}")
        finally:
            server.terminate()
            server.wait()


def _check_holds_studies(output: Path) -> None:
    import sqlite3

    from hpo.core.files import OutputError
    from hpo.tracking.backend import holds_no_study

    try:
        if not holds_no_study(output / "mlflow.db"):
            return
    except sqlite3.Error as error:
        raise OutputError(f"--output: {output / 'mlflow.db'} cannot be used: {error}") from None
    raise OutputError(f"--output: {output} holds no studies; run one first: gradsweep run STUDY.yaml")


def _show(server: Any, page: str, address: str, browser: bool) -> None:
    """Tell where the UI is, once it is there."""
    from hpo.tracking.backend import healthy

    if healthy(address, server):
        console.print(f"MLflow UI: {page}   (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        if browser:
            webbrowser.open(page)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a preempted machine or a closed terminal end a command as Ctrl-C does, not in the middle of things."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:  # else nohup, or a caller's own
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """See `app`."""
    if version:
        console.print(f"gradsweep {__version__}", highlight=False)
        raise typer.Exit


def _verdict(finished: Any, output: Path, tracking_uri: str | None) -> None:
    """The end of a study: two sentences, the arms, what to do, where things are; exit code 1 if anything failed."""
    from hpo.report import recommendation, sentences, terminal

    console.print()
    for sentence in sentences(finished.comparison):
        console.print(sentence, style="bold", markup=False, highlight=False)
    if len(finished.comparison.arms):
        console.print(terminal.arms(finished.comparison))
    for alarm in finished.comparison.alarms:
        console.print(f"Note: {alarm}", style="yellow", markup=False, highlight=False)
    _winner(finished.comparison)
    console.print(recommendation(finished.comparison), markup=False, highlight=False)
    console.print()
    _places(finished, output, tracking_uri)
    for text in finished.faults:
        console.print(f"\n{text}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    if finished.failed:
        plural = "s" if len(finished.failed) > 1 else ""
        console.print(
            f"\n{len(finished.failed)} trial{plural} failed; the same command tries again:", style="bold red"
        )
        for name, error in finished.failed.items():
            line = error.splitlines()[0] if error else "no reason given"
            console.print(f"  {name}: {line}", markup=False, highlight=False, soft_wrap=True)
    if finished.diverged:
        _diverged(finished.diverged)
    if finished.failed or finished.diverged or finished.faults:
        raise typer.Exit(FAILED)


def _diverged(diverged: Mapping[str, str]) -> None:
    plural = "s" if len(diverged) > 1 else ""
    console.print(
        f"\n{len(diverged)} trial{plural} diverged, which is a result: nothing runs again", style="bold yellow"
    )
    for name, error in diverged.items():
        console.print(f"  {name}: {error}", markup=False, highlight=False, soft_wrap=True)


def _places(finished: Any, output: Path, tracking_uri: str | None) -> None:
    """Where report and weights file are, and the command that opens the UI on the same backend."""
    options = "" if output == DEFAULT_OUTPUT else f" --output {shlex.quote(str(output))}"
    if tracking_uri:  # a secret is not for the command line, but may stay where this one came from
        whole = shown(tracking_uri) == tracking_uri
        options = f" --tracking-uri {shlex.quote(tracking_uri)}" if whole else ""
    where = [("Report", str(finished.report))]
    where += [("Weights", str(finished.weights))] if finished.weights else []
    for name, place in [*where, ("MLflow UI", f"gradsweep ui{options}")]:
        console.print(f"{name:<10} {place}", highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """Entry point: exit code 2 and a line for each thing that is wrong with the input, 130 after Ctrl-C."""
    if wrong := _fault_in(sys.argv):
        _say(f"error: {wrong}")
        sys.exit(BAD_INPUT)
    try:
        app(prog_name="gradsweep")  # also when run as a module
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:
        lost = type(error).__name__ == "LaunchLostError"
        if not lost and not _is_bad_input(error):
            _say(_without_secrets("".join(traceback.format_exception(error)).rstrip()))
            sys.exit(FAILED)
        for line in str(error).splitlines():
            _say(f"error: {_without_secrets(line)}")
        sys.exit(FAILED if lost else BAD_INPUT)


def _fault_in(arguments: Sequence[str]) -> str:
    """A fault of a command line whatever the command, without its text, which errors of options would echo."""
    for number, (before, argument) in enumerate(pairwise(arguments), 1):
        if found := commands_in(argument):
            return f"argument {number}: found the character {printable(found)}, allowed: printable characters"
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        elsewhere = option in ("--tracking-uri", "--storage", "--set")  # the first two have a message of their own
        if equals and "://" in value and not elsewhere and has_secret(value):
            return (
                f"argument {number}: found a password on the command line, which others can see; allowed: none here"
            )
    return ""


def _say(line: str) -> None:
    Console(stderr=True).print(line, soft_wrap=True)


def _without_secrets(text: str) -> str:
    """Text without the secrets of what the environment names; each error sees to its own, this is for all others."""
    for name in ("MLFLOW_TRACKING_URI", "GRADSWEEP_STORAGE", "RAY_ADDRESS"):
        text = redacted(text, uri) if (uri := os.environ.get(name)) else text
    return text


def _is_bad_input(error: Exception) -> bool:
    """The errors that are about what the user gave us, by name: the commands that raise them import their modules."""
    names = {
        "ClusterError",
        "ExportError",
        "ImageError",
        "OutputError",
        "ProblemError",
        "StorageError",
        "StudyError",
        "TrackingError",
    }
    return isinstance(error, FileNotFoundError) or not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)
