"""gradsweep: which loss weights should a multitask network train with, and was the grid search worth it?"""

from importlib.metadata import version

__version__ = version("gradsweep")
