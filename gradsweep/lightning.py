"""Trials in Lightning: ``from gradsweep.lightning import TrialCallback``."""

from hpo.training.frameworks.lightning import TrialCallback

__all__ = ["TrialCallback"]
