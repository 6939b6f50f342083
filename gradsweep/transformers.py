"""Trials in the Trainer of Hugging Face: ``from gradsweep.transformers import TrialCallback``."""

from hpo.training.frameworks.transformers import TrialCallback

__all__ = ["TrialCallback"]
