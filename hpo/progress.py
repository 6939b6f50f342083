"""The live view of a running study: one line a phase, trials done, running and failed, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from hpo.compare import kind_of
from hpo.plan import PHASES, Planned
from hpo.records import STOPPED, EpochReport, TrialResult
from hpo.schedule import Schedule

PLAIN_SECONDS = 10.0  # between two lines where the output is no terminal


class _Counts(ProgressColumn):
    """``12/24  2 running  1 failed``"""

    def render(self, task: Task) -> Text:
        text = Text(f"{task.fields['done']}/{task.total:g}".rjust(9))
        if task.fields["running"]:
            text.append(f"  {task.fields['running']} running", style="cyan")
        if task.fields["failed"]:
            text.append(f"  {task.fields['failed']} failed", style="bold red")
        return text


class View:
    """A `hpo.listener.Listener` that draws what it is told; on a pipe it prints a line every ten seconds.

    Args:
        schedule: whose counts to show.
        console: where to.
    """

    def __init__(self, schedule: Schedule, console: Console) -> None:
        self._schedule, self._console = schedule, console
        self._start = self._printed = time.monotonic()
        self._before = self._done()
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
            for name in (*PHASES, "all")
        }

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        self._draw()
        with self._bars:
            yield
            self._draw()

    def trial_started(self, planned: Planned) -> None:
        """See `Listener`."""
        if planned.config.identity in self._started:
            self._tell(f"worker died: {planned.name} goes on from its last checkpoint, if it has one", "yellow")
        self._started.add(planned.config.identity)
        self._changed()

    def trial_reported(self, planned: Planned, report: EpochReport) -> None:
        """See `Listener`."""
        del planned, report
        self._changed()

    def trial_paused(self, planned: Planned) -> None:
        """See `Listener`."""
        self._started.discard(planned.config.identity)
        self._changed()

    def trial_ended(self, planned: Planned, result: TrialResult) -> None:
        """See `Listener`."""
        if result.status not in ("finished", STOPPED):
            line = result.error.splitlines()[0] if result.error else ""
            self._tell(f"{result.status}: {planned.name}: {line}", "red" if result.status == "failed" else "yellow")
        for alarm in result.alarms:
            if kind_of(alarm) not in self._alarms:
                self._alarms.add(kind_of(alarm))
                self._tell(f"{planned.name}: {alarm} (told once; the end names all)", "yellow")
        self._changed()

    def noticed(self, text: str) -> None:
        """See `Listener`."""
        self._tell(text, "yellow")

    def _tell(self, line: str, style: str) -> None:
        self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def _changed(self) -> None:
        now = time.monotonic()
        if self._console.is_terminal:
            if now - self._printed > 0.25:
                self._printed = now
                self._draw()
        elif now - self._printed > PLAIN_SECONDS:
            self._printed = now
            counts = self._schedule.progress()
            phases = ", ".join(f"{phase} {count['done']}/{count['total']}" for phase, count in counts.items())
            self._console.print(f"{phases}; {self._left()}", highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        counts = self._schedule.progress()
        whole = {key: sum(count[key] for count in counts.values()) for key in ("total", "done", "running", "failed")}
        for name, count in {**counts, "all": whole}.items():
            note = self._left().rpartition(", about ")[2] if name == "all" else ""  # all fits in 80 columns
            total = max(count["total"], 1)
            ended, fields = (
                count["done"] + count["failed"],
                {key: value for key, value in count.items() if key != "total"},
            )
            self._bars.update(self._tasks[name], total=total, completed=ended, note=note)
            self._bars.tasks[self._tasks[name]].fields.update(fields)

    def _done(self) -> int:
        return sum(count["done"] + count["failed"] for count in self._schedule.progress().values())

    def _left(self) -> str:
        """Elapsed and left, by the mean pace of this launch."""
        elapsed = time.monotonic() - self._start
        total = sum(count["total"] for count in self._schedule.progress().values())
        done = self._done()
        new = done - self._before
        left = f", about {_clock(elapsed / new * (total - done))} left" if new else ""
        return f"{_clock(elapsed)} elapsed{left}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
