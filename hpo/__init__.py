"""gradsweep: which loss weights should a multitask network train with, and was the grid search worth it?"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gradsweep")
except PackageNotFoundError:  # on a node that was sent the code
    __version__ = "unknown"
