"""The live view of a running study: one line per phase, trials done, running and failed, time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from hpo.compare import kind_of
from hpo.core.text import printable
from hpo.core.trial import EpochReport, PlannedTrial, TrialResult, TrialStatus
from hpo.launch.notebook_cell import NotebookCell
from hpo.study.schedule import Schedule

PLAIN_SECONDS = 10.0  # between two lines where the output is no terminal
DRAWN_SECONDS = 0.25  # between two drawings on a terminal
CELL_SECONDS = 1.0  # and in a notebook, where each is a message


@contextmanager
def stage(console: Console, text: str) -> Iterator[None]:
    """Show what is being done while nothing trains: a spinner on a terminal, otherwise a line."""
    if console.is_terminal:
        with console.status(Text(printable(text))):
            yield
        return
    console.print(f"{text} ...", markup=False, highlight=False, soft_wrap=True)
    yield


class _Counts(ProgressColumn):
    """``12/24  2 running  1 failed``"""

    def render(self, task: Task) -> Text:
        text = Text(f"{task.fields['done']}/{task.total:g}".rjust(9))
        if task.fields["running"]:
            text.append(f"  {task.fields['running']} running", style="cyan")
        if task.fields["failed"]:
            text.append(f"  {task.fields['failed']} failed", style="bold red")
        return text


class ProgressView:
    """A `hpo.execution.events.Listener` that draws the progress; on a pipe it prints a line every ten seconds.

    In a notebook the drawing is one output of the cell.

    Args:
        schedule: provides the counts.
        console: the output.
    """

    def __init__(self, schedule: Schedule, console: Console) -> None:
        self._schedule, self._console = schedule, console
        self._cell = NotebookCell() if console.is_jupyter else None
        self._start = self._printed = time.monotonic()
        self._epochs = dict[str, EpochReport]()  # of the trials that run, the last that each has reported
        self._epochs_of = {phase.name: phase.epochs for phase in schedule.phases if phase.size()[1]}  # of a trial
        self._before = self._trained()
        self._alarms, self._started = set[str](), set[str]()
        self._bars = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=20),
            _Counts(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            refresh_per_second=4,
        )
        self._tasks = {
            name: self._bars.add_task(name, total=1, done=0, running=0, failed=0, note="")
            for name in (*self._epochs_of, "all")
        }

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw while the block runs."""
        if self._cell is not None:
            self._draw()
            yield
            self._draw()
            return
        if not self._console.is_terminal:
            yield
            self._print_line()
            return
        self._draw()
        with self._bars:
            yield
            self._draw()

    def trial_started(self, planned: PlannedTrial) -> None:
        """See `Listener`."""
        if planned.config.identity in self._started:
            self._tell(f"worker died: {planned.name} continues from its last checkpoint, if it has one", "yellow")
        self._started.add(planned.config.identity)
        self.time_passed()

    def trial_reported(self, planned: PlannedTrial, report: EpochReport) -> None:
        """See `Listener`."""
        self._epochs[planned.config.identity] = report
        self.time_passed()

    def trial_paused(self, planned: PlannedTrial) -> None:
        """See `Listener`."""
        self._started.discard(planned.config.identity)
        self.time_passed()

    def trial_ended(self, planned: PlannedTrial, result: TrialResult) -> None:
        """See `Listener`."""
        self._epochs.pop(planned.config.identity, None)
        if not result.status.has_score and result.status is not TrialStatus.REFUSED:  # an alarm says that
            line = result.error.splitlines()[0] if result.error else ""
            self._tell(
                f"{result.status}: {planned.name}: {line}", "red" if result.status is TrialStatus.FAILED else "yellow"
            )
        for alarm in result.alarms:
            if kind_of(alarm) not in self._alarms:
                self._alarms.add(kind_of(alarm))
                self._tell(f"{planned.name}: {alarm} (shown once; the end lists all)", "yellow")
        self.time_passed()

    def noticed(self, text: str) -> None:
        """See `Listener`."""
        self._tell(text, "yellow")

    def time_passed(self) -> None:
        """See `Listener`."""
        now = time.monotonic()
        if self._console.is_terminal or self._cell is not None:
            if now - self._printed > (DRAWN_SECONDS if self._cell is None else CELL_SECONDS):
                self._printed = now
                self._draw()
        elif now - self._printed > PLAIN_SECONDS:
            self._print_line()

    def _counts(self) -> dict[str, dict[str, int]]:
        """The progress of the phases that the study has."""
        counts = self._schedule.progress()
        return {name: counts[name] for name in self._epochs_of}

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        counts = self._counts()
        phases = ", ".join(f"{phase} {count['done']}/{count['total']}" for phase, count in counts.items())
        self._console.print(f"{phases}; {self._running()}{self._left()}", highlight=False, soft_wrap=True)

    def _tell(self, line: str, style: str) -> None:
        self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        counts, shares = self._counts(), self._shares()
        whole = {key: sum(count[key] for count in counts.values()) for key in ("total", "done", "running", "failed")}
        lines: list[tuple[str, dict[str, int]]] = [*counts.items(), ("all", whole)]
        for name, count in lines:
            note = self._left().rpartition(", about ")[2] if name == "all" else ""  # all fits in 80 columns
            total, fields = max(count["total"], 1), {key: value for key, value in count.items() if key != "total"}
            trained = shares[name] if name != "all" else shares.total()
            ended = count["done"] + count["failed"] + trained
            self._bars.update(self._tasks[name], total=total, completed=ended, note=note)
            self._bars.tasks[self._tasks[name]].fields.update(fields)
        if self._cell is not None:
            self._cell.draw(self._bars.get_renderable())

    def _shares(self) -> Counter[str]:
        """The trained shares of the running trials, added up by phase."""
        shares: Counter[str] = Counter()
        for planned in self._schedule.running():
            if report := self._epochs.get(planned.config.identity):
                shares[planned.phase] += report.epoch / report.epochs  # type: ignore[assignment]
        return shares

    def _running(self) -> str:
        """The trials that run and how far they are: "24 running, epoch 3 of 10; "."""
        running = sum(count["running"] for count in self._counts().values())
        if not running:
            return ""
        handed_out = {planned.config.identity for planned in self._schedule.running()}
        reports = [report for identity, report in self._epochs.items() if identity in handed_out]
        epochs = {(report.epoch, report.epochs) for report in reports}
        least, most = min(epochs, default=(0, 0)), max(epochs, default=(0, 0))
        span = f"{least[0]} to {most[0]}" if least[0] != most[0] else str(least[0])
        return f"{running} running{f', epoch {span} of {most[1]}' if epochs else ''}; "

    def _trained(self) -> float:
        """Epochs that have been trained, of trials that have ended and of those that run."""
        counts = self._counts()
        ended = sum((count["done"] + count["failed"]) * self._epochs_of[phase] for phase, count in counts.items())
        return ended + sum(report.epoch for report in self._epochs.values())

    def _left(self) -> str:
        """The elapsed time and an estimate of the remaining time, from the mean pace of this launch."""
        elapsed = time.monotonic() - self._start
        total = sum(count["total"] * self._epochs_of[phase] for phase, count in self._counts().items())
        trained = self._trained()
        new = trained - self._before
        left = f", about {_clock(elapsed / new * max(0.0, total - trained))} left" if new > 0 else ""
        return f"{_clock(elapsed)} elapsed{left}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
