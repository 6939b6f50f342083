"""The places of a study's results: output folder, MLflow backend and checkpoint storage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpo.core.storage import Storage, absolute, below
from hpo.core.uris import shown
from hpo.tracking.backend import embedded_uri
from hpo.tracking.outbox import Outbox


@dataclass(frozen=True)
class Workspace:
    """The places of a study's results.

    Attributes:
        output: folder of reports, weights files and undelivered trials.
        uri: MLflow's backend.
        storage: address for checkpoints; ``None`` keeps them in ``output``.
    """

    output: Path
    uri: str
    storage: str | None = None

    @property
    def shown(self) -> str:
        """The backend's URI for display, without secrets."""
        return shown(self.uri)

    def folder(self, study: str) -> Path:
        """Return the folder of one study: report, weights file, outbox."""
        return self.output / study

    def outbox(self, study: str) -> Outbox:
        """Return the outbox of a study."""
        return Outbox(self.folder(study) / "undelivered")

    def checkpoints(self, study: str) -> Storage:
        """Return the storage of a study's checkpoints.

        Raises:
            StorageError: it cannot be used.
        """
        return Storage(below(self.storage, study) if self.storage else str(self.folder(study) / "checkpoints"))


def place(output: Path, uri: str | None, storage: str | None = None) -> Workspace:
    """Return the workspace with its defaults: MLflow in SQLite in the output folder."""
    return Workspace(output.resolve(), uri or embedded_uri(output), storage and absolute(storage))
