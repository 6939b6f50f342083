"""The result of a study, finished or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.core.errors import OptionError, OutputError

if TYPE_CHECKING:
    import pandas as pd

    from hpo.compare import Comparison
    from hpo.launch.conclude import Finished, Outcome


class Verdict(str):
    """The verdict in sentences: a text that a notebook shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Result:
    """The result of a study.

    Args:
        outcome: the study with its comparison.
        finished: what the launch has written; ``None`` if the study was only read.
    """

    def __init__(self, outcome: Outcome, finished: Finished | None = None) -> None:
        self.outcome, self.finished = outcome, finished

    @property
    def verdict(self) -> Verdict:
        """The answers in sentences: the weights to train with, whether the search was worth it, and its cost."""
        from hpo.report import answers

        return Verdict("\n\n".join(f"{answer.question} {answer.text}" for answer in answers(self.comparison)))

    @property
    def recommended(self) -> str:
        """The arm with fixed weights to train with; empty while there is none."""
        return self.comparison.recommended

    @property
    def weights(self) -> dict[str, float]:
        """For each task the weight of the recommended arm; empty while there is none."""
        from hpo.report import recommended_weights

        return recommended_weights(self.comparison)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """The arms of the confirm phase, the best on validation first."""
        from hpo.report import arms_numbers

        return arms_numbers(self.comparison)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Every trial that has ended, with its scores and metrics."""
        from hpo.report import all_trials

        return all_trials(self.outcome.data)

    @cached_property
    def figures(self) -> Mapping[str, Any]:
        """The figures of the report by name, as Plotly figures, which a notebook shows inline."""
        from hpo.report import draw

        return draw(self.outcome.data)

    @property
    def comparison(self) -> Comparison:
        """Everything that the report shows, as numbers."""
        return self.outcome.comparison

    @property
    def complete(self) -> bool:
        """True if every trial of the study has ended."""
        return self.outcome.complete

    @property
    def failed(self) -> Mapping[str, str]:
        """The trials that failed, with their errors. Running the study again repeats them."""
        return self.outcome.failed

    @property
    def diverged(self) -> Mapping[str, str]:
        """The trials that diverged, with the value that was not finite. They do not run again."""
        return self.outcome.diverged

    @property
    def faults(self) -> list[str]:
        """Faults beside those of trials."""
        return list(self.finished.faults) if self.finished else []

    def trajectory(self, arm: str, seed: int | None = None) -> pd.DataFrame:
        """The steps of a trial: ``step``, and for each task ``w/``, ``G/``, ``r/`` and ``L/``.

        Args:
            arm: a value of the column ``arm`` of `trials`.
            seed: a seed of this arm; default: the first.

        Raises:
            OptionError: no such trial, or its trajectory cannot be read.
        """
        of_arm = self.trials[self.trials["arm"] == arm]
        if not len(of_arm):
            known = ", ".join(self.trials["arm"].unique()) or "a trial that has ended first"
            raise OptionError(f"arm: expected {known}, got {arm!r}")
        chosen = of_arm if seed is None else of_arm[of_arm["seed"] == seed]
        if not len(chosen):
            seeds = ", ".join(str(one) for one in sorted(of_arm["seed"].unique()))
            raise OptionError(f"seed: expected {seeds} for {arm}, got {seed}")
        trial = chosen.sort_values("seed", kind="stable").iloc[0]
        found = self.outcome.store.trajectory(trial["identity"])
        if found is None:
            raise OptionError(f"arm: the trajectory of {arm}, seed {trial['seed']}, cannot be read from MLflow")
        return found

    def write(self, folder: Path | None = None, figures: str | None = None) -> Finished:
        """Write report and weights file again and attach them to the study's run in MLflow: ``gradsweep report``.

        Args:
            folder: default: the study's output folder.
            figures: an image format, to write the figures as files too.

        Raises:
            OutputError: they cannot be written.
            ImageError: no renderer for image files is installed.
        """
        from hpo.launch.conclude import conclude

        place = self.outcome.where.folder(self.outcome.plan.study.name)
        return conclude(self.outcome, folder or place, None, figures)

    def save_report(self, path: str | Path) -> Path:
        """Write the report: one HTML file if ``path`` ends with ``.html``, else a folder with the tables too.

        Returns:
            The HTML file.

        Raises:
            OutputError: it cannot be written.
        """
        from hpo.core.files import write_whole
        from hpo.report import page, write_report

        place = Path(path)
        with _writing(place):
            if place.suffix == ".html":
                return write_whole(place, page(self.outcome.data))
            return write_report(self.outcome.data, place)["html"]

    def export(self, path: str | Path = "weights.json", arm: str | None = None) -> Path:
        """Write the weights file for production training: ``gradsweep.Static.load(path)``.

        Args:
            path: of the file.
            arm: an arm with fixed weights; default: the recommended one.

        Raises:
            ExportError: no such arm among those that a weights file can hold.
            OutputError: it cannot be written.
        """
        from hpo.launch.weights_export import write_weights

        place, content = Path(path), self.outcome.weights_content(arm)
        with _writing(place):
            write_weights(place, content)
        return place

    def register(self, name: str, arm: str | None = None) -> str:
        """Add the weights file to MLflow's model registry as the next version of ``name``: ``export --register``.

        Args:
            name: of the registered model, which is created if needed.
            arm: an arm with fixed weights; default: the recommended one.

        Returns:
            The address of the version, for ``gradsweep.Static.load``: ``models:/<name>/<version>``.

        Raises:
            ExportError: no such arm, or a name that cannot be used.
            TrackingError: MLflow does not accept the version.
        """
        from hpo.launch.weights_registration import register_arm

        return register_arm(self.outcome, name, arm)

    def __repr__(self) -> str:
        lines = [str(self.verdict)]
        if not self.complete:
            lines.append("The study is not complete: run() continues it.")
        lines += [f"{kind}: {name}: {error.partition(chr(10))[0]}" for kind, name, error in self._without_score()]
        lines += self.faults
        if self.finished:
            lines.append(f"Report: {self.finished.report}")
        return "\n\n".join(lines)

    def _without_score(self) -> Iterator[tuple[str, str, str]]:
        for kind, found in (("Failed", self.failed), ("Diverged", self.diverged)):
            for name, error in found.items():
                yield kind, name, error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None
