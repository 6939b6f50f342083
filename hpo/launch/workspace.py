"""Where a study's results go: output folder, MLflow backend and checkpoint storage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpo.core.storage import Storage, absolute, below
from hpo.core.uris import shown
from hpo.tracking.backend import embedded_uri
from hpo.tracking.outbox import Outbox


@dataclass(frozen=True)
class Workspace:
    """Where a study keeps what it makes.

    Attributes:
        output: folder of reports, weights files and undelivered trials.
        uri: MLflow's backend.
        storage: where checkpoints go; ``None`` keeps them in ``output``.
    """

    output: Path
    uri: str
    storage: str | None = None

    @property
    def shown(self) -> str:
        """The backend for a person's eyes."""
        return shown(self.uri)

    def folder(self, study: str) -> Path:
        """Of one study: report, weights file, what MLflow does not hold yet."""
        return self.output / study

    def outbox(self, study: str) -> Outbox:
        """Trials of a study that MLflow does not hold yet."""
        return Outbox(self.folder(study) / "undelivered")

    def checkpoints(self, study: str) -> Storage:
        """Where a study's checkpoints are.

        Raises:
            StorageError: it cannot be used.
        """
        return Storage(below(self.storage, study) if self.storage else str(self.folder(study) / "checkpoints"))


def place(output: Path, uri: str | None, storage: str | None = None) -> Workspace:
    """The output folder, the tracking backend (default: SQLite in that folder), and where checkpoints go."""
    return Workspace(output.resolve(), uri or embedded_uri(output), storage and absolute(storage))
