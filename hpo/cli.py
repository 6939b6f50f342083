"""The command line: ``gradsweep``."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hpo import __version__
from hpo.problem import ProblemError
from hpo.study import StudyError

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

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file; studies/ has examples.")]
Output = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="Where MLflow's database, the report and the weights file go.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        envvar="MLFLOW_TRACKING_URI",
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
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Run a study, or what is left of it: the same command again resumes; no finished trial runs twice.

    Ctrl-C stops cleanly. Ends with the verdict and with where report, weights file and MLflow UI are.
    """
    from hpo import launch

    where = launch.place(output, tracking_uri)
    finished = launch.run_study(study, where, address, console)
    if not finished.complete:
        console.print("\nStopped. What has finished is kept; the same command goes on from here.", style="bold")
        raise typer.Exit(STOPPED)
    if not finished.ran:
        console.print("Every trial of this study has finished; nothing was run.")
    _verdict(finished, output, tracking_uri)


@app.command()
def plan(study: StudyFile) -> None:
    """Show what a study would run: arms, trials, epochs, resources. Runs nothing."""
    from hpo.launch import open_plan

    found = open_plan(study, prepare=False)
    spec, size = found.study, found.size()
    table = Table(title=f"{spec.name}: {spec.problem.name}, {len(found.tasks)} tasks", title_justify="left")
    for column in ("phase", "arms", "trials", "what"):
        table.add_column(column, justify="right" if column in ("arms", "trials") else "left")
    what = {
        "references": f"{', '.join(spec.references)}; seed {spec.seed}",
        "static": f"{'explicit points' if spec.static.explicit else spec.static.design}; seed {spec.seed}",
        "sweep": f"alpha {spec.gradnorm.alpha[0]:g} to {spec.gradnorm.alpha[1]:g}, {spec.gradnorm.trials} trials for "
        f"each of {', '.join(spec.gradnorm.recipes)}; seed {spec.seed}",
        "confirm": f"at most {size['confirm'][0]} arms on seeds {spec.confirm_seeds.start} to "
        f"{spec.confirm_seeds.stop - 1}; test split",
    }
    for phase, (arms, trials) in size.items():
        table.add_row(phase, str(arms), str(trials), what[phase])
    total = sum(trials for _, trials in size.values())
    table.add_section()
    table.add_row("all", "", str(total), f"{total * found.epochs} epochs, {found.epochs} a trial")
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
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Write report and tables again, from what MLflow holds, finished or not."""
    from hpo import launch

    where = launch.place(output, tracking_uri)
    found, schedule, store = launch.read_study(study, where)
    target = folder or where.folder(found.study.name)
    finished = launch.conclude(found, schedule, store, where, study, target, None)
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
    from hpo import launch
    from hpo.compare import compare
    from hpo.export import weights_content, write_weights

    found, schedule, store = launch.read_study(study, launch.place(output, tracking_uri))
    comparison = compare(schedule.table(), found.directions, found.study.margin)
    runs = {identity: run for p in schedule.planned() if (run := store.run_of(identity := p.config.identity))}
    content = weights_content(found, comparison, arm, runs)
    try:
        write_weights(file, content)
    except OSError as error:
        raise launch.OutputError(f"-o: {file} cannot be written: {error.strerror}") from None
    weights = ", ".join(f"{task} {weight:g}" for task, weight in content["weights"].items())
    console.print(f"{file}: {content['arm']}: {weights}", highlight=False, soft_wrap=True)


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
    console.print("Your own: package.module:Class, a subclass of hpo.problem.Problem; examples/own_problem.py")


@app.command()
def ui(
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open MLflow's UI on the backend that the studies of this output folder use; Ctrl-C ends it."""
    from hpo import launch, tracking

    if tracking_uri and tracking_uri.startswith(("http://", "https://")):
        console.print(f"The UI is at {tracking_uri}", highlight=False, soft_wrap=True)
        if browser:
            webbrowser.open(tracking_uri)
        return
    uri = tracking_uri or tracking.embedded_uri(output)
    if tracking_uri is None and not (output / "mlflow.db").exists():
        raise launch.OutputError(f"--output: {output} holds no studies; run one first: gradsweep run STUDY.yaml")
    address = f"http://{host}:{port}"
    page = f"{address}/#/experiments?{tracking.UI_VIEW}"
    server = tracking.serve(uri, host, port)
    try:
        if _healthy(address, server):
            console.print(f"MLflow UI: {page}   (Ctrl-C ends it)", highlight=False, soft_wrap=True)
            if browser:
                webbrowser.open(page)
        if server.wait():
            raise launch.OutputError(f"--port: MLflow's server did not start on {address}; see its message above")
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait()


def _healthy(address: str, server: Any, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """See `app`."""
    if version:
        console.print(f"gradsweep {__version__}", highlight=False)
        raise typer.Exit


def _verdict(finished: Any, output: Path, tracking_uri: str | None) -> None:
    """The end of a study: two sentences, the arms, what to do, where things are; exit code 1 on failed trials."""
    from hpo import terminal
    from hpo.report import recommendation, sentences

    console.print()
    for sentence in sentences(finished.comparison):
        console.print(sentence, style="bold", markup=False, highlight=False)
    if len(finished.comparison.arms):
        console.print(terminal.arms(finished.comparison))
    for alarm in finished.comparison.alarms:
        console.print(f"Note: {alarm}", style="yellow", markup=False, highlight=False)
    console.print(recommendation(finished.comparison), markup=False, highlight=False)
    where = [("Report", str(finished.report))]
    where += [("Weights", str(finished.weights))] if finished.weights else []
    default = "" if output == DEFAULT_OUTPUT else f" --output {output}"
    where.append(("MLflow UI", f"gradsweep ui{f' --tracking-uri {tracking_uri}' if tracking_uri else default}"))
    console.print()
    for name, place in where:
        console.print(f"{name:<10} {place}", highlight=False, soft_wrap=True, markup=False)
    if finished.failed:
        console.print(f"\n{len(finished.failed)} trials failed:", style="bold red")
        for name, error in finished.failed.items():
            line = error.splitlines()[0] if error else "no reason given"
            console.print(f"  {name}: {line}", markup=False, highlight=False)
        raise typer.Exit(FAILED)


def main() -> None:
    """Entry point: one line and exit code 2 for bad input, 130 after Ctrl-C."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:
        if not _is_bad_input(error):
            raise
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(BAD_INPUT)


def _is_bad_input(error: Exception) -> bool:
    """The errors that are about what the user gave us; their modules are imported by the commands that raise them."""
    names = {"ClusterError", "ExportError", "OutputError", "TrackingError"}
    return isinstance(error, StudyError | ProblemError | FileNotFoundError) or type(error).__name__ in names
