"""Fixtures of trials in frameworks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import hpo.training.checkpoints
import hpo.training.kept_folder
from hpo.core.storage import Storage
from hpo.core.trial import TrialConfig
from hpo.training.checkpoints import Checkpoints


@pytest.fixture
def checkpoints_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TrialConfig], Checkpoints]:
    """Return a function that keeps a trial's checkpoints, after each epoch, in a folder of the test."""
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 0)
    monkeypatch.setattr(hpo.training.kept_folder, "COST", 0)
    return lambda trial: Checkpoints(Storage(str(tmp_path / "checkpoints")), trial.identity, 0.0)
