"""gradsweep: which loss weights should a multitask network train with, and was the grid search worth it?"""

__version__ = "0.2.0"
