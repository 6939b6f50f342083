"""The output at the end of `run` and `report`: verdict, arms, advice, and the places of the files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from hpo.cli.options import DEFAULT_OUTPUT, FAILED, console
from hpo.core.uris import shown

if TYPE_CHECKING:
    from hpo.compare import Comparison
    from hpo.report import Answer


def print_answers(comparison: Comparison) -> None:
    """Print the weights to train with, whether the search was worth it and its cost, with code to copy."""
    from hpo.report import Answer, answers, recommended_weights

    for place, answer in enumerate(answers(comparison)):
        code = answer.code if answer.short.endswith(":") else ""
        print_answer(Answer(answer.question, (answer.short,), code) if answer.short else answer)
        if place == 0 and (weights := recommended_weights(comparison)):
            told = ", ".join(f"{task} {value:.4g}" for task, value in weights.items())
            console.print(f"  {told}", markup=False, highlight=False)


def print_answer(answer: Answer) -> None:
    """Print a question and its answer, and the code to copy on a separate line."""
    console.print(Text.assemble((answer.question, "bold"), " ", " ".join(answer.sentences)))
    if answer.code:
        console.print(f"  {answer.code}", markup=False, highlight=False, soft_wrap=True)


def print_verdict(finished: Any, output: Path, tracking_uri: str | None, study: Path | None = None) -> None:
    """Print the end of a study: the answers, the arms, where things are; exit code 1 if anything failed.

    Args:
        finished: the result of the command.
        output: the output folder.
        tracking_uri: MLflow's backend.
        study: a study file that the command has written, to go on with.
    """
    from hpo.report import terminal

    console.print()
    print_answers(finished.comparison)
    if len(finished.comparison.arms):
        console.print(terminal.arms(finished.comparison))
    for alarm in finished.comparison.alarms:
        console.print(f"Note: {alarm}", style="yellow", markup=False, highlight=False)
    if not finished.complete:
        left = "Note: some trials of this study have not run: gradsweep run with the same options trains them"
        console.print(left, style="yellow", highlight=False)
    console.print()
    _places(finished, output, tracking_uri, study)
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


def _places(finished: Any, output: Path, tracking_uri: str | None, study: Path | None) -> None:
    """Print the places of report, weights and study file, and the command that opens the UI on the same backend."""
    options = "" if output == DEFAULT_OUTPUT else f" --output {shlex.quote(str(output))}"
    if tracking_uri:  # a secret is not for the command line, but may stay where this one came from
        whole = shown(tracking_uri) == tracking_uri
        options = f" --tracking-uri {shlex.quote(tracking_uri)}" if whole else ""
    where = [("Report", str(finished.report))]
    where += [("Weights", str(finished.weights))] if finished.weights else []
    where += [("MLflow UI", f"gradsweep ui{options}")]
    if study is not None:
        more = "for more certainty, the same command with more --seeds or with --refine 16 goes on from here"
        where += [("Study file", f"{study}; {more}")]
    for name, place in where:
        console.print(f"{name:<10} {place}", highlight=False, soft_wrap=True, markup=False)
